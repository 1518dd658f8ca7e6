//! Servers become peers: what an operator wrote, and the addresses that names have, to one address
//! each.
//!
//! It owns what nginx is told of one address. Which of them stands where is [`crate::slots`]'.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::upstream::{Address, HostName, Name, Params, Resolved, Upstream, Upstreams};

/// The peers of every upstream, in the order in which nginx gets them.
pub type Peers = BTreeMap<Name, Vec<Peer>>;

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// The path of a unix socket, as in [`Address::Unix`].
    Unix(String),
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub address: PeerAddress,
    /// The host name it came from.
    pub name: Option<HostName>,
    /// How it takes part.
    pub params: Params,
    /// It is in no list any more and only keeps its slot; `down` among the parameters too.
    pub gone: bool,
    /// The number of its slot where a cookie names it.
    pub slot: Option<usize>,
}

impl Peer {
    /// Its weight, nginx's default where none is given.
    pub fn weight(&self) -> NonZeroU16 {
        self.params.weight.unwrap_or(NonZeroU16::MIN)
    }
}

/// The peers of every upstream, in the order of the lists.
pub fn peers(upstreams: &Upstreams, resolved: &Resolved) -> Peers {
    upstreams.iter().map(|(name, upstream)| (name.clone(), peers_of(upstream, resolved))).collect()
}

/// Every address of every server, once: a name may have an address that is listed too. Where only
/// backups are left, because the names of the others do not resolve, they are no backups: nginx
/// refuses a group of backups alone.
fn peers_of(upstream: &Upstream, resolved: &Resolved) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(upstream.servers.len());
    let listed = upstream.servers.iter().filter_map(|s| if let Address::Ip(ip) = s.address { Some(ip) } else { None });
    let mut seen: BTreeSet<SocketAddr> = if resolved.is_empty() { BTreeSet::new() } else { listed.collect() };
    for server in &upstream.servers {
        let mut add = |address: PeerAddress, name: Option<HostName>| {
            peers.push(Peer { address, name, params: server.params, gone: false, slot: None });
        };
        match &server.address {
            Address::Host(name, port) => {
                for ip in resolved.get(name).into_iter().flatten() {
                    let address = SocketAddr::new(*ip, port.get());
                    if seen.insert(address) {
                        add(PeerAddress::Ip(address), Some(name.clone()));
                    }
                }
            }
            Address::Srv(_) => {}
            Address::Ip(address) => add(PeerAddress::Ip(*address), None),
            Address::Unix(path) => add(PeerAddress::Unix(path.clone()), None),
        }
    }
    if peers.iter().all(|p| p.params.backup) {
        peers.iter_mut().for_each(|p| p.params.backup = false);
    }
    peers
}
