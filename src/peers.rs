//! Servers become peers: what an operator wrote, and the addresses that names have, to one address
//! each.
//!
//! It owns what nginx is told of one address. Which of them stands where is [`crate::slots`]'.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::ordered::InOrder;
use crate::upstream::{Address, Balance, HostName, Lookup, Name, Params, Resolved, Upstream, Upstreams};

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

impl From<&PeerAddress> for Address {
    fn from(address: &PeerAddress) -> Self {
        match address {
            PeerAddress::Ip(address) => Self::Ip(*address),
            PeerAddress::Unix(path) => Self::Unix(path.clone()),
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
    /// A server that is there, by its own address.
    pub fn of(address: PeerAddress, params: Params) -> Self {
        Self { address, name: None, params, gone: false, slot: None }
    }

    /// Whether nginx would send it requests.
    pub fn takes_requests(&self) -> bool {
        !(self.gone || self.params.down || self.params.drain)
    }

    /// Its weight, nginx's default where none is given.
    pub fn weight(&self) -> NonZeroU16 {
        self.params.weight.unwrap_or(NonZeroU16::MIN)
    }
}

/// The peers of every upstream, in the order of the lists.
pub fn peers(upstreams: &Upstreams, resolved: &Resolved) -> Peers {
    upstreams.iter().map(|(name, upstream)| (name.clone(), peers_of(upstream, resolved))).into_map()
}

/// Every address of every server, once: a name may have an address that is listed too, which then is that
/// of the list.
fn peers_of(upstream: &Upstream, resolved: &Resolved) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(upstream.servers.len());
    let listed =
        upstream.servers.iter().filter_map(|s| if let Address::Ip(addr) = s.address { Some(addr) } else { None });
    let mut seen: BTreeSet<SocketAddr> = if resolved.is_empty() { BTreeSet::new() } else { listed.into_set() };
    let knows_backups = upstream.knows_backups();
    for server in &upstream.servers {
        let (own_port, lookup) = match &server.address {
            Address::Ip(address) => {
                peers.push(Peer::of(PeerAddress::Ip(*address), server.params));
                continue;
            }
            Address::Unix(path) => {
                peers.push(Peer::of(PeerAddress::Unix(path.clone()), server.params));
                continue;
            }
            Address::Host(name, port) => (port.get(), Lookup::Host(name.clone())),
            Address::Srv(name) => (upstream.port.get(), Lookup::Srv(name.clone())),
        };
        for target in resolved.get(&lookup).into_iter().flatten() {
            let mut params = server.params;
            if let Some(srv) = target.srv {
                if srv.backup && !knows_backups {
                    continue;
                }
                params.weight = params.weight.or(Some(srv.weight).filter(|weight| *weight > NonZeroU16::MIN));
                params.backup |= srv.backup;
            }
            let address = SocketAddr::new(target.ip, target.srv.map_or(own_port, |srv| srv.port.get()));
            if seen.insert(address) {
                let name = Some(lookup.name().clone());
                peers.push(Peer { name, ..Peer::of(PeerAddress::Ip(address), params) });
            }
        }
    }
    spare_backups(&mut peers);
    peers
}

/// Where only backups are left, they are none: nginx refuses a group of backups alone.
pub fn spare_backups(peers: &mut [Peer]) {
    if peers.iter().all(|p| p.params.backup) {
        peers.iter_mut().for_each(|p| p.params.backup = false);
    }
}

/// Most that the servers of a ring weigh together. nginx keeps 160 points of 16 bytes for each unit, in every
/// worker: 50 MB.
const HEAVIEST_RING: u64 = 20_000;

/// Has the servers of rings (`hash KEY consistent`) weigh less, in the same proportions, where they weigh too much:
/// a single SRV record with the weight 65535 would be 160 MB a worker. Gives the upstreams where they did.
pub fn lighten_rings(upstreams: &Upstreams, peers: &mut Peers) -> Vec<Name> {
    let is_ring = |upstream: &Upstream| matches!(upstream.balance, Balance::Hash { consistent: true, .. });
    let mut lightened = Vec::new();
    for name in upstreams.iter().filter(|(_, upstream)| is_ring(upstream)).map(|(name, _)| name) {
        let Some(peers) = peers.get_mut(name) else { continue };
        let total: u64 = peers.iter().map(|peer| u64::from(peer.weight().get())).sum();
        if total <= HEAVIEST_RING {
            continue;
        }
        for peer in peers.iter_mut() {
            let lighter = u64::from(peer.weight().get()) * HEAVIEST_RING / total;
            // It never grows, so it fits.
            peer.params.weight = u16::try_from(lighter).ok().and_then(NonZeroU16::new).filter(|w| w.get() > 1);
        }
        lightened.push(name.clone());
    }
    lightened
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{HostName, SrvTarget, Target};

    fn shown(text: &str, balance: &str, targets: &[(&str, u16, u16, bool)]) -> String {
        let given = |name: &str, value: &str| {
            (name.to_owned(), crate::settings::Given { variable: name.to_owned(), value: value.to_owned() })
        };
        let vars = [given("DYNAMIC_BACKEND", text), given("DYNAMIC_BALANCE", balance)].into();
        let (settings, _) = crate::settings::parse(&vars).unwrap();
        let number = |n: u16| NonZeroU16::new(n).unwrap();
        let target = |(ip, port, weight, backup): &(&str, u16, u16, bool)| Target {
            ip: ip.parse().unwrap(),
            srv: Some(SrvTarget { port: number(*port), weight: number(*weight), backup: *backup }),
        };
        let lookup = Lookup::Srv(HostName::new("web").unwrap());
        let resolved = Resolved::from([(lookup, targets.iter().map(target).collect())]);
        let peers = peers(&settings.upstreams, &resolved).into_values().flatten();
        peers.map(|peer| format!("{}{}", peer.address, peer.params.to_nginx())).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_ring_weighs_no_more_than_a_worker_can_hold() {
        let list = "10.0.0.1;weight=65535 10.0.0.2;weight=32768 10.0.0.3";
        for (balance, expected) in [
            ("hash $uri consistent", "65535, 32768, 1 -> 13333, 6666, 1"),
            ("hash $uri", "65535, 32768, 1 -> 65535, 32768, 1"),
        ] {
            let given = |name: &str, value: &str| {
                (name.to_owned(), crate::settings::Given { variable: name.to_owned(), value: value.to_owned() })
            };
            let vars = [given("DYNAMIC_BACKEND", list), given("DYNAMIC_BALANCE", balance)].into();
            let upstreams = crate::settings::parse(&vars).unwrap().0.upstreams;
            let mut peers = peers(&upstreams, &Resolved::new());
            let weights = |peers: &Peers| {
                peers.values().flatten().map(|peer| peer.weight().to_string()).collect::<Vec<_>>().join(", ")
            };
            let before = weights(&peers);
            lighten_rings(&upstreams, &mut peers);
            assert_eq!(format!("{before} -> {}", weights(&peers)), expected);
            assert_eq!(lighten_rings(&upstreams, &mut peers), [], "{balance}: once is enough");
        }
    }

    #[test]
    fn srv_records_carry_ports_weights_and_priorities() {
        let targets = [("10.0.0.1", 81, 1, false), ("10.0.0.2", 82, 5, false), ("::1", 83, 2, true)];
        let all = "10.0.0.1:81, 10.0.0.2:82 weight=5, [::1]:83 weight=2 backup";
        assert_eq!(shown("srv:web", "round_robin", &targets), all);
        assert_eq!(shown("srv:web", "random", &targets), "10.0.0.1:81, 10.0.0.2:82 weight=5");
        assert_eq!(
            shown("srv:web;weight=3;max_fails=2 10.0.0.2:82", "least_conn", &targets),
            "10.0.0.1:81 weight=3 max_fails=2, [::1]:83 weight=3 max_fails=2 backup, 10.0.0.2:82"
        );
        assert_eq!(shown("srv:web", "round_robin", &targets[2..]), "[::1]:83 weight=2", "nobody else is there");
    }
}
