//! What nginx needs in order to follow the servers of an upstream without a reload: the names to ask for,
//! whom to ask, and memory for those who come.

use std::net::SocketAddr;

use minijinja::{Value, context};

use crate::live::zone::{SUFFIX, label, part};
use crate::live::{Group, Groups};
use crate::peers::{Peer, PeerAddress};
use crate::render::quote::Written;
use crate::upstream::{Name, Protocol};

/// Who is followed, and where nginx asks.
#[derive(Debug, Clone, Copy)]
pub struct Following<'a> {
    /// The upstreams whose servers nginx follows.
    pub groups: &'a Groups,
    /// Where nginit answers; without it, none is followed.
    pub resolver: Option<SocketAddr>,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
}

impl<'a> Following<'a> {
    /// How an upstream is followed, if it is.
    pub fn group(&self, name: &Name) -> Option<&'a Group> {
        self.groups.get(name).filter(|_| self.resolver.is_some())
    }

    /// What templates get of it, or none.
    pub fn value(&self, name: &Name, peers: &[Peer]) -> Value {
        let Some((group, resolver)) = self.group(name).zip(self.resolver) else { return Value::from(()) };
        // Where there is no IPv6 at all, half of the questions would be in vain.
        let ipv6 = if self.ipv6 { "" } else { " ipv6=off" };
        let at_names = |peer: &&Peer| matches!(peer.address, PeerAddress::Ip(_));
        context! {
            names => (0..group.names()).map(|at| format!("{}.{SUFFIX}", part(name, at))).collect::<Vec<_>>(),
            params => Written::directive(group.params().to_nginx()),
            resolver => Written::directive(format!("{resolver}{ipv6}")),
            // Its questions are for no address of another family.
            gate_resolver => Written::directive(format!("{resolver} ipv6=off")),
            gate => format!("{}.{SUFFIX}", label(name)),
            servers => peers.iter().filter(|p| !at_names(p)).cloned().map(Value::from_object).collect::<Vec<_>>(),
        }
    }
}

/// Shared memory for an upstream, in KiB. nginx needs at least 8 pages, and some 0.9 KiB a peer: 512 bytes for
/// it, twice 128 for its address, and its name and cookie. For one of TLS, it keeps a session besides, of up to
/// a page. Pages that are never touched cost nothing, so there is room to spare; twice as much as the peers
/// need, because those that are gone stay until their last request ends.
pub fn zone_kb(peers: usize, group: Option<&Group>, protocol: &Protocol) -> usize {
    let room = group.map_or(0, Group::room).max(peers);
    let session = if group.is_some() && protocol.tls.is_some() { 4 } else { 0 };
    256 + (2 + session) * room
}
