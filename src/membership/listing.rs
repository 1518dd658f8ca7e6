//! The servers of every upstream and where they come from, as `nginit list` shows them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use super::orders::{Live, Order};
use super::{Members, Membership};
use crate::admin::{Listing, ServerState, ServerView, SourceKind, SourceView, UpstreamView};
use crate::ordered::InOrder;
use crate::peers::{self, Peer, PeerAddress};
use crate::upstream::{Address, Lookup, Name, Params, Resolved, Server, Upstream};

/// A file that cannot be read at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// The variable that names it, or is set in it.
    pub variable: String,
    /// Its path.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Instant,
}

impl Membership {
    /// All servers of the live configuration, of one upstream or of all. The lists were `read` then, those
    /// that are `failing` before.
    pub fn listing(
        &self,
        live: Live<'_>,
        only: Option<&Name>,
        read: Instant,
        failing: &[Failing],
        now: Instant,
    ) -> Listing {
        let unordered = Members { orders: BTreeMap::new(), ..self.live.as_ref().clone() };
        let merged = unordered.merge(live.upstreams);
        let all = peers::peers(&merged, &unordered.resolved);
        let chosen = merged.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
        let view = |(name, upstream): (&Name, &Upstream)| {
            let none = Vec::new();
            let (before, after) = (all.get(name).unwrap_or(&none), live.peers.get(name).unwrap_or(&none));
            let listed = live.upstreams.get(name).map_or(&[][..], |upstream| &upstream.servers);
            let others = self.live.sources(name).map(|(word, servers)| (word, addresses(servers)));
            let look = Look { members: self, name, upstream, listed: addresses(listed), others, now };
            UpstreamView {
                name: name.upstream(),
                balance: upstream.balance.word().to_owned(),
                reload: None,
                servers: look.servers(before, after, &unordered.resolved),
            }
        };
        Listing { upstreams: chosen.map(view).collect(), sources: self.sources(live, read, failing, now) }
    }

    fn sources(&self, live: Live<'_>, read: Instant, failing: &[Failing], now: Instant) -> Vec<SourceView> {
        let secs = |since: Instant| now.saturating_duration_since(since).as_secs();
        let mut sources = Vec::new();
        for upstream in live.upstreams.values() {
            let failing = failing.iter().find(|failing| failing.variable == upstream.variable);
            let in_file = upstream.variable.ends_with("_FILE");
            sources.push(SourceView {
                kind: if in_file { SourceKind::File } else { SourceKind::Environment },
                name: upstream.variable.clone(),
                servers: upstream.servers.len(),
                age_secs: Some(secs(failing.map_or(read, |failing| failing.since))),
                error: failing.map(|failing| failing.reason.clone()),
                error_secs: failing.map(|failing| secs(failing.since)),
            });
        }
        // Other files name no server, and are worth a line while they fail.
        let of_lists: HashSet<&str> = live.upstreams.values().map(|upstream| upstream.variable.as_str()).collect();
        for failing in failing.iter().filter(|failing| !of_lists.contains(failing.variable.as_str())) {
            sources.push(SourceView {
                kind: SourceKind::File,
                name: failing.variable.clone(),
                servers: 0,
                age_secs: Some(secs(failing.since)),
                error: Some(failing.reason.clone()),
                error_secs: Some(secs(failing.since)),
            });
        }
        for (lookup, targets) in &self.members.resolved {
            let known = self.names.get(lookup);
            let error = known.and_then(|known| known.error.as_ref());
            sources.push(SourceView {
                kind: SourceKind::Dns,
                name: lookup.to_string(),
                servers: targets.len(),
                age_secs: known.and_then(|known| known.good).map(secs),
                error: error.map(|(reason, _)| reason.clone()),
                error_secs: error.map(|(_, since)| secs(*since)),
            });
        }
        let members = &self.members;
        for (kind, snapshot) in [
            (SourceKind::Add, &members.added),
            (SourceKind::Announce, &members.announced),
            (SourceKind::Serf, &members.serf),
        ] {
            let Some(changed) = self.changed(kind.word()) else { continue };
            sources.push(SourceView {
                kind,
                name: kind.word().to_owned(),
                servers: snapshot.values().map(Vec::len).sum(),
                age_secs: Some(secs(changed)),
                error: None,
                error_secs: None,
            });
        }
        sources
    }
}

fn addresses(servers: &[Server]) -> HashSet<&Address> {
    servers.iter().map(|server| &server.address).collect()
}

/// One upstream, looked at.
struct Look<'a> {
    members: &'a Membership,
    name: &'a Name,
    upstream: &'a Upstream,
    listed: HashSet<&'a Address>,
    /// The servers of each other source.
    others: [(&'static str, HashSet<&'a Address>); 3],
    now: Instant,
}

impl Look<'_> {
    /// The peers that there would be without orders, what became of them, those that are gone, and names without
    /// any.
    fn servers(&self, before: &[Peer], after: &[Peer], resolved: &Resolved) -> Vec<ServerView> {
        let live = after.iter().map(|peer| (&peer.address, peer)).into_map();
        let mut by_name: HashMap<(SocketAddr, &str), Vec<&Address>> = HashMap::new();
        let mut nowhere = Vec::new();
        for server in &self.upstream.servers {
            let Some(lookup) = Lookup::of(&server.address) else { continue };
            let targets = resolved.get(&lookup).map_or(&[][..], Vec::as_slice);
            if targets.is_empty() {
                nowhere.push(server);
            }
            for target in targets {
                let port = match (&server.address, target.srv) {
                    (_, Some(srv)) => srv.port,
                    (Address::Host(_, port), None) => *port,
                    _ => self.upstream.port,
                };
                let name = match &server.address {
                    Address::Host(name, _) | Address::Srv(name) => name.as_str(),
                    Address::Ip(_) | Address::Unix(_) => continue,
                };
                by_name.entry((SocketAddr::new(target.ip, port.get()), name)).or_default().push(&server.address);
            }
        }
        let mut views = Vec::with_capacity(before.len());
        for peer in before {
            let address = Address::from(&peer.address);
            let mut sources = self.sources_of(&address);
            let mut orders = vec![self.order(&address)];
            if let (PeerAddress::Ip(address), Some(name)) = (&peer.address, &peer.name) {
                for server in by_name.get(&(*address, name.as_str())).into_iter().flatten() {
                    sources.extend(self.sources_of(server));
                    orders.push(self.order(server));
                }
                sources.push("dns".to_owned());
            }
            sources.dedup();
            let now_live = live.get(&peer.address).copied().filter(|peer| !peer.gone);
            let removed = orders.iter().flatten().any(|order| order.removed);
            let state = match now_live {
                Some(peer) => state(peer.params),
                None => ServerState::Removed,
            };
            let mut words: Vec<String> = orders.iter().flatten().flat_map(|order| order.words()).collect();
            words.dedup();
            let fails_open = orders.iter().flatten().any(|order| order.drain == Some(true))
                && now_live.is_some_and(Peer::takes_requests);
            let note = fails_open.then(|| "no other server takes requests".to_owned());
            let note = note.or_else(|| (now_live.is_none() && !removed).then(|| "not live yet".to_owned()));
            let shown = now_live.unwrap_or(peer);
            views.push(ServerView {
                name: peer.name.as_ref().map(ToString::to_string),
                weight: shown.weight().get(),
                sources,
                since_secs: self.since(&peer.address),
                expires_secs: self.expires(&address),
                orders: words,
                note,
                ..self.view(peer.address.to_string(), state)
            });
        }
        for server in nowhere {
            // The name of one that is taken out is not looked up.
            let order = self.order(&server.address);
            let is_removed = order.is_some_and(|order| order.removed);
            let state = if is_removed { ServerState::Removed } else { ServerState::Unresolved };
            let lookup = Lookup::of(&server.address);
            let known = lookup.and_then(|lookup| self.members.names.get(&lookup)?.error.as_ref());
            views.push(ServerView {
                weight: server.params.weight.map_or(1, |weight| weight.get()),
                sources: self.sources_of(&server.address),
                since_secs: known.map_or(0, |(_, since)| self.secs(*since)),
                expires_secs: self.expires(&server.address),
                orders: order.map(Order::words).unwrap_or_default(),
                note: known.map(|(reason, _)| reason.clone()),
                ..self.view(server.address.to_string(), state)
            });
        }
        // A place may be kept for one that stands here already, as removed.
        let shown = before.iter().map(|peer| &peer.address).into_set();
        for peer in after.iter().filter(|peer| peer.gone && !shown.contains(&peer.address)) {
            views.push(self.view(peer.address.to_string(), ServerState::Gone));
        }
        views
    }

    fn view(&self, address: String, state: ServerState) -> ServerView {
        ServerView {
            address,
            name: None,
            state,
            weight: 1,
            sources: Vec::new(),
            since_secs: 0,
            expires_secs: None,
            orders: Vec::new(),
            note: None,
        }
    }

    fn order(&self, address: &Address) -> Option<&Order> {
        self.members.live.order(self.name, address)
    }

    /// Who names this server.
    fn sources_of(&self, address: &Address) -> Vec<String> {
        let listed = self.listed.contains(address).then(|| self.upstream.variable.clone());
        let others = self.others.iter().filter(|(_, servers)| servers.contains(address));
        listed.into_iter().chain(others.map(|(word, _)| (*word).to_owned())).collect()
    }

    fn secs(&self, since: Instant) -> u64 {
        self.now.saturating_duration_since(since).as_secs()
    }

    fn since(&self, address: &PeerAddress) -> u64 {
        self.members.since(self.name, address).map_or(0, |since| self.secs(since))
    }

    fn expires(&self, address: &Address) -> Option<u64> {
        let announcement = self.members.announced.get(self.name, address)?;
        Some(announcement.expires.saturating_duration_since(self.now).as_secs())
    }
}

fn state(params: Params) -> ServerState {
    match params {
        Params { down: true, .. } => ServerState::Down,
        Params { drain: true, .. } => ServerState::Drain,
        Params { backup: true, .. } => ServerState::Backup,
        _ => ServerState::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Order as Asked, What};
    use crate::peers::Peers;
    use crate::settings::{self, Given};
    use crate::upstream::Upstreams;

    /// An upstream with these servers, and their peers.
    fn upstreams(list: &str) -> (Upstreams, Peers) {
        let name = "STATIC_BACKEND".to_owned();
        let given = Given { variable: name.clone(), value: list.to_owned() };
        let (settings, _) = settings::parse(&[(name, given)].into()).unwrap();
        let peers = peers::peers(&settings.upstreams, &Resolved::new());
        (settings.upstreams, peers)
    }

    #[test]
    fn a_file_without_servers_is_a_source_while_it_fails() {
        let (upstreams, peers) = upstreams("10.0.0.1 10.0.0.2");
        let now = Instant::now();
        let list = |failing: &[Failing]| {
            let live = Live { upstreams: &upstreams, peers: &peers };
            Membership::default().listing(live, None, now, failing, now).sources
        };
        assert_eq!(list(&[]).len(), 1);
        let failing = Failing {
            variable: "NGINIT_ENV_FILE".to_owned(),
            path: PathBuf::from("/vars"),
            reason: "line 1 is bad".to_owned(),
            since: now,
        };
        let sources = list(&[failing]);
        let [list, file] = &sources[..] else { panic!("{sources:?}") };
        assert_eq!((list.name.as_str(), &list.error), ("STATIC_BACKEND", &None));
        assert_eq!((file.kind, file.name.as_str()), (SourceKind::File, "NGINIT_ENV_FILE"));
        assert_eq!(file.error.as_deref(), Some("line 1 is bad"));
    }

    #[test]
    fn a_removed_server_whose_place_is_kept_is_listed_once() {
        let (upstreams, mut peers) = upstreams("10.0.0.1 10.0.0.2");
        let kept = peers.values_mut().flatten().last().unwrap();
        kept.gone = true;
        let (address, now) = (kept.address.to_string(), Instant::now());
        let live = Live { upstreams: &upstreams, peers: &peers };
        let listing = Membership::default().listing(live, None, now, &[], now);
        let servers = listing.upstreams.into_iter().flat_map(|upstream| upstream.servers);
        let states: Vec<_> = servers.filter(|server| server.address == address).map(|server| server.state).collect();
        assert_eq!(states, [ServerState::Removed]);
    }

    #[test]
    fn a_name_that_is_taken_out_is_listed_as_removed_and_not_as_unresolved() {
        let (upstreams, peers) = upstreams("web");
        let (mut membership, now) = (Membership::default(), Instant::now());
        let live = Live { upstreams: &upstreams, peers: &peers };
        let remove = Asked { what: What::Remove, upstream: "static".into(), server: "web".into(), wait: false };
        membership.order(live, &remove, now).unwrap();
        membership.take();
        membership.adopt(&Peers::new(), Resolved::new(), now);
        let peers = Peers::new();
        let listing = membership.listing(Live { upstreams: &upstreams, peers: &peers }, None, now, &[], now);
        let [upstream] = &listing.upstreams[..] else { panic!("{listing:?}") };
        let [server] = &upstream.servers[..] else { panic!("{upstream:?}") };
        assert_eq!((server.state, server.orders.join(" ").as_str()), (ServerState::Removed, "removed"));
    }
}
