//! Who is a server of which upstream, and who says so.
//!
//! Lists in the settings are one source of servers; commands, servers that announce themselves and Serf are
//! others, and DNS says where names lead. Each source tells all that it knows at one moment, a
//! snapshot; what is equal to the one before is no event. A source that fails says nothing, and so keeps
//! its last snapshot: nothing becomes empty by accident.
//!
//! [`Members`] is what a candidate is made from besides the settings, [`Membership`] follows it
//! as time goes on: it says when a change has settled, and remembers since when each server is there.
//! Nothing here reads a clock, a file or a socket.

pub mod announced;
pub mod kept;
pub mod listing;
pub mod names;
pub mod orders;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log::Level;
use crate::ordered::InOrder;
use crate::peers::{self, Peer, PeerAddress, Peers, spare_backups};
use crate::settings::Note;
use crate::upstream::{Address, Lookup, Name, Resolved, Server, Upstream, Upstreams};
use announced::Announced;
use names::{Names, Outcome};
use orders::{Order, Orders};

/// How long nothing may change before a change counts as settled: a burst is one reload.
const QUIET: Duration = Duration::from_millis(100);

/// Longest wait for that.
const LONGEST_UNREST: Duration = Duration::from_secs(1);

/// The first and the longest wait before members that were refused are tried again: a disk may have been full,
/// and nobody tells of a server a second time.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// All servers that one source knows, by upstream, in order.
pub type Snapshot = BTreeMap<Name, Vec<Server>>;

/// What makes up the servers of all upstreams besides the lists of the settings. Equal ones lead to
/// equal configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Added by commands, in the order in which they were.
    pub added: Snapshot,
    /// Those that announce themselves, by address.
    pub announced: Snapshot,
    /// Members of Serf, by address.
    pub serf: Snapshot,
    /// What commands say of servers, wherever those come from.
    pub orders: Orders,
    /// Where names lead; nowhere is known too.
    pub resolved: Resolved,
}

impl Members {
    /// The upstreams of the settings with the servers of all sources: those of the list first. What a
    /// command says of a server counts more than the list, and that more than what the server says.
    pub fn merge(&self, upstreams: &Upstreams) -> Upstreams {
        let mut merged = upstreams.clone();
        for (name, upstream) in &mut merged {
            let others = [&self.announced, &self.serf].map(|source| source.get(name));
            let added = self.added.get(name).map_or(&[][..], Vec::as_slice);
            if !added.is_empty() || others.iter().flatten().any(|servers| !servers.is_empty()) {
                add_servers(upstream, added, others.into_iter().flatten().flatten());
            }
            if let Some(orders) = self.orders.get(name) {
                upstream.servers.retain_mut(|server| match orders.get(&server.address) {
                    Some(order) if order.removed => false,
                    Some(order) => {
                        order.apply(&mut server.params);
                        true
                    }
                    None => true,
                });
            }
        }
        merged
    }

    /// Carries out what is ordered about single addresses of names, which [`Self::merge`] does not know, and
    /// keeps the last server of an upstream that takes requests from being drained. Gives the upstreams where
    /// that was so.
    pub fn order_peers(&self, peers: &mut Peers) -> Vec<&Name> {
        let mut kept = Vec::new();
        for (name, orders) in &self.orders {
            let Some(peers) = peers.get_mut(name) else { continue };
            let order = |peer: &Peer| match &peer.address {
                PeerAddress::Ip(address) => orders.get(&Address::Ip(*address)),
                PeerAddress::Unix(_) => None,
            };
            peers.retain(|peer| order(peer).is_none_or(|order| !order.removed));
            for peer in peers.iter_mut() {
                if let Some(order) = order(peer) {
                    order.apply(&mut peer.params);
                }
            }
            spare_backups(peers);
            if peers.iter().any(Peer::takes_requests) {
                continue;
            }
            // Those that are drained by the list stay so.
            let drained = |peer: &Peer| {
                let own = Address::from(&peer.address);
                let port = if let Address::Ip(address) = own { NonZeroU16::new(address.port()) } else { None };
                let host = peer.name.clone().zip(port).map(|(name, port)| Address::Host(name, port));
                let by = [Some(own), host, peer.name.clone().map(Address::Srv)];
                by.iter().flatten().any(|by| orders.get(by).is_some_and(|order| order.drain == Some(true)))
            };
            let lifted = peers.iter_mut().filter(|peer| peer.params.drain && drained(peer));
            if lifted.map(|peer| peer.params.drain = false).count() > 0 {
                kept.push(name);
            }
        }
        kept
    }

    /// The peers of these upstreams, whose names lead to what is `resolved`, and what the operator should know of them.
    pub fn peers(&self, upstreams: &Upstreams, resolved: &Resolved) -> (Peers, Vec<Note>) {
        let mut peers = peers::peers(upstreams, resolved);
        let warn = |text: String| Note { level: Level::Warn, text };
        let drained = self.order_peers(&mut peers).into_iter().map(|name| {
            warn(format!("all servers of {} are drained: they get requests until another one does", name.upstream()))
        });
        let mut notes: Vec<Note> = drained.collect();
        for name in peers::lighten_rings(upstreams, &mut peers) {
            let text = format!("{}: its servers weigh too much for a ring, and all weigh less there", name.upstream());
            notes.push(warn(text));
        }
        (peers, notes)
    }

    /// What is ordered about a server.
    pub fn order(&self, name: &Name, address: &Address) -> Option<&Order> {
        self.orders.get(name)?.get(address)
    }

    /// The servers of this upstream that each of the sources besides the list has, and its name.
    pub fn sources(&self, name: &Name) -> [(&'static str, &[Server]); 3] {
        let all = [("add", &self.added), ("announce", &self.announced), ("serf", &self.serf)];
        all.map(|(word, source)| (word, source.get(name).map_or(&[][..], Vec::as_slice)))
    }
}

/// Adds the servers of other sources behind those of the list. Of one that stands there already, what was
/// added by a command has other parameters.
fn add_servers<'a>(upstream: &mut Upstream, added: &[Server], others: impl Iterator<Item = &'a Server>) {
    let knows_backups = upstream.knows_backups();
    let mut places: BTreeMap<Address, usize> =
        upstream.servers.iter().enumerate().map(|(at, server)| (server.address.clone(), at)).into_map();
    let wins = added.iter().map(|server| (server, true));
    for (server, wins) in wins.chain(others.map(|server| (server, false))) {
        let mut server = server.clone();
        server.params.backup &= knows_backups;
        match places.get(&server.address) {
            Some(at) if wins => upstream.servers[*at].params = server.params,
            Some(_) => {}
            None => {
                places.insert(server.address.clone(), upstream.servers.len());
                upstream.servers.push(server);
            }
        }
    }
}

/// What is known of the members as time goes on.
#[derive(Debug, Default)]
pub struct Membership {
    /// As they are now.
    members: Members,
    /// What the last candidate was made from.
    taken: Arc<Members>,
    /// What the live configuration was made from.
    live: Arc<Members>,
    announced: Announced,
    names: Names,
    /// When the first and the last of the changes came that have not settled.
    unrest: Option<(Instant, Instant)>,
    /// What was refused is tried again then, and how long it waits.
    again: Option<(Instant, Duration)>,
    /// Since when each peer of the live configuration is in it.
    since: BTreeMap<Name, BTreeMap<PeerAddress, Instant>>,
    /// When each of the other sources last changed.
    changed: BTreeMap<&'static str, Instant>,
    /// How often anything has changed.
    changes: u64,
}

impl Membership {
    /// Since when this peer is in the live configuration.
    pub fn since(&self, name: &Name, address: &PeerAddress) -> Option<Instant> {
        self.since.get(name)?.get(address).copied()
    }

    /// When the source of this name last changed, if it ever did.
    pub fn changed(&self, source: &str) -> Option<Instant> {
        self.changed.get(source).copied()
    }

    /// All that Serf knows.
    pub fn on_serf(&mut self, snapshot: Snapshot, now: Instant) {
        if self.members.serf != snapshot {
            self.members.serf = snapshot;
            self.touch("serf", now);
        }
    }

    /// Something has changed.
    fn touch(&mut self, source: &'static str, now: Instant) {
        self.changed.insert(source, now);
        self.changes += 1;
        self.unrest = Some((self.unrest.map_or(now, |(first, _)| first), now));
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let settled = self.unrest.map(|(first, last)| (last + QUIET).min(first + LONGEST_UNREST));
        let again = self.again.map(|(at, _)| at);
        settled.into_iter().chain(self.announced.deadline()).chain(again).min()
    }

    /// What is due: forgets servers whose announcements have run out. Says whether there is something new for
    /// a candidate, which then is to be made.
    pub fn on_deadline(&mut self, now: Instant) -> bool {
        if self.announced.expire(now) {
            self.members.announced = self.announced.snapshot();
            self.touch("announce", now);
        }
        let again = match self.again {
            Some((at, wait)) if at <= now => {
                let wait = (2 * wait).min(AGAIN.1);
                self.again = self.is_ahead().then_some((now + wait, wait));
                self.again.is_some()
            }
            _ => false,
        };
        match self.unrest {
            Some((first, last)) if now >= (last + QUIET).min(first + LONGEST_UNREST) => self.settle() || again,
            _ => again,
        }
    }

    /// A candidate was refused. If there are others than the live ones, they are tried again later, even if
    /// nothing changes until then.
    pub fn on_refusal(&mut self, now: Instant) {
        if self.is_ahead() && self.again.is_none() {
            self.again = Some((now + AGAIN.0, AGAIN.0));
        }
    }

    /// Waits no longer. Says whether there is something new for a candidate.
    pub fn settle(&mut self) -> bool {
        self.unrest = None;
        self.members != *self.taken
    }

    /// Whether the live configuration was made from others than there are now.
    pub fn is_ahead(&self) -> bool {
        self.members != *self.live
    }

    /// The members for a candidate that is to be made now.
    pub fn take(&mut self) -> Arc<Members> {
        self.unrest = None;
        if *self.taken != self.members {
            self.taken = Arc::new(self.members.clone());
        }
        Arc::clone(&self.taken)
    }

    /// What DNS says of a name that is followed; what changes by it, for the log.
    pub fn on_answer(&mut self, lookup: &Lookup, outcome: Outcome, now: Instant) -> Option<String> {
        let before = self.members.resolved.get(lookup)?;
        let heard = self.names.hear(lookup, before, outcome, now);
        if let Some(targets) = heard.targets {
            self.members.resolved.insert(lookup.clone(), targets);
            self.touch("dns", now);
        }
        heard.news
    }

    /// As they are now.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// How often anything has changed so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// nginx has been told of all that there is by now, and these are its peers.
    pub fn told(&mut self, peers: &Peers, now: Instant) {
        (self.unrest, self.again) = (None, None);
        self.live = Arc::new(self.members.clone());
        self.taken = Arc::clone(&self.live);
        self.remember(peers, now);
    }

    /// The members for a look at what a candidate would be.
    pub fn peek(&self) -> Arc<Members> {
        Arc::new(self.members.clone())
    }

    /// A candidate with these peers has become the live configuration. It was made from the members that were
    /// taken last, and names led to what is `resolved`.
    pub fn adopt(&mut self, peers: &Peers, resolved: Resolved, now: Instant) {
        self.again = None;
        self.names.retain(&resolved);
        self.members.resolved.retain(|lookup, _| resolved.contains_key(lookup));
        for (lookup, targets) in &resolved {
            let known = self.members.resolved.get(lookup);
            // Another one has come since, which is newer.
            if known.is_none() || known == self.taken.resolved.get(lookup) {
                self.names.know(lookup, !targets.is_empty(), now);
                self.members.resolved.insert(lookup.clone(), targets.clone());
            }
        }
        self.live = Arc::new(Members { resolved, ..Members::clone(&self.taken) });
        self.taken = Arc::clone(&self.live);
        self.remember(peers, now);
    }

    /// Keeps since when each peer of an upstream is there.
    pub fn remember_one(&mut self, name: &Name, peers: &[Peer], now: Instant) {
        let mut old = self.since.remove(name).unwrap_or_default();
        let there = peers.iter().filter(|peer| !peer.gone).map(|peer| &peer.address);
        let since = there.map(|address| (address.clone(), old.remove(address).unwrap_or(now))).into_map();
        self.since.insert(name.clone(), since);
    }

    /// The same of all.
    fn remember(&mut self, peers: &Peers, now: Instant) {
        self.since.retain(|name, _| peers.contains_key(name));
        for (name, peers) in peers {
            self.remember_one(name, peers, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::orders::{Live, Refused};
    use super::*;
    use std::net::IpAddr;

    use crate::admin::{Announcement, Order as Asked, Ordered, ServerState, What};
    use crate::peers;
    use crate::settings::{self, Given};
    use crate::upstream::{HostName, Params, Target};

    /// A membership with settings that are live, as the loop has it.
    struct World {
        membership: Membership,
        upstreams: Upstreams,
        peers: Peers,
        /// What DNS would say to a candidate.
        dns: Resolved,
        now: Instant,
    }

    impl World {
        fn new(vars: &[(&str, &str)]) -> Self {
            let mut world = Self {
                membership: Membership::default(),
                upstreams: Upstreams::new(),
                peers: Peers::new(),
                dns: Resolved::new(),
                now: Instant::now(),
            };
            world.set(vars);
            world
        }

        /// Other settings become live.
        fn set(&mut self, vars: &[(&str, &str)]) {
            let given = |(name, value): &(&str, &str)| {
                ((*name).to_owned(), Given { variable: (*name).to_owned(), value: (*value).to_owned() })
            };
            self.upstreams = settings::parse(&vars.iter().map(given).collect()).unwrap().0.upstreams;
            self.membership.forget_orders(&self.upstreams, &self.dns);
            self.render();
        }

        /// A candidate is made and becomes live.
        fn render(&mut self) {
            let members = self.membership.take();
            let merged = members.merge(&self.upstreams);
            let mut resolved = Resolved::new();
            for lookup in merged.values().flat_map(|u| &u.servers).filter_map(|server| Lookup::of(&server.address)) {
                let known = members.resolved.get(&lookup).or_else(|| self.dns.get(&lookup));
                resolved.insert(lookup.clone(), known.cloned().unwrap_or_default());
            }
            self.peers = peers::peers(&merged, &resolved);
            members.order_peers(&mut self.peers);
            self.membership.adopt(&self.peers, resolved, self.now);
        }

        /// Time goes on; what settles becomes live. How often something did.
        fn wait(&mut self, ms: u64) -> usize {
            let (end, mut live) = (self.now + Duration::from_millis(ms), 0);
            while let Some(deadline) = self.membership.deadline().filter(|deadline| *deadline <= end) {
                self.now = deadline.max(self.now);
                if self.membership.on_deadline(self.now) {
                    self.render();
                    live += 1;
                }
            }
            self.now = end;
            live
        }

        fn order(&mut self, what: What, server: &str) -> Result<Ordered, Refused> {
            let live = Live { upstreams: &self.upstreams, peers: &self.peers };
            let order = Asked { what, upstream: "dynamic".to_owned(), server: server.to_owned(), wait: false };
            self.membership.order(live, &order, self.now)
        }

        /// The same, and what the operator is told.
        fn told(&mut self, what: What, server: &str) -> String {
            let ordered = self.order(what, server).unwrap();
            self.wait(1000);
            format!("{}: {}", ordered.changed, ordered.notes.join("; "))
        }

        fn announce(&mut self, server: Option<&str>, ttl: u64, peer: Option<&str>) -> Result<Ordered, Refused> {
            let live = Live { upstreams: &self.upstreams, peers: &self.peers };
            let announcement = Announcement {
                upstream: "DYNAMIC".to_owned(),
                server: server.map(str::to_owned),
                port: None,
                ttl: Duration::from_secs(ttl),
                weight: None,
                peer: peer.map(|ip| ip.parse().unwrap()),
            };
            self.membership.announce(live, &announcement, self.now)
        }

        /// The servers of the live configuration, as in a list.
        fn live(&self) -> String {
            let peers = self.peers.values().flatten().map(|peer| {
                let params = peer.params.to_list();
                if params.is_empty() { peer.address.to_string() } else { format!("{};{params}", peer.address) }
            });
            peers.collect::<Vec<_>>().join(" ")
        }

        fn answer(&mut self, name: &str, outcome: Outcome) -> Option<String> {
            self.membership.on_answer(&host(name), outcome, self.now)
        }

        /// What `nginit list` says of a server.
        fn listed(&self, address: &str) -> Option<(ServerState, String, String)> {
            let live = Live { upstreams: &self.upstreams, peers: &self.peers };
            let listing = self.membership.listing(live, None, self.now, &[], self.now);
            let server =
                listing.upstreams.into_iter().flat_map(|u| u.servers).find(|server| server.address == address)?;
            Some((server.state, server.sources.join(","), server.orders.join(",")))
        }
    }

    fn host(name: &str) -> Lookup {
        Lookup::Host(HostName::new(name).unwrap())
    }

    fn targets(ips: &[&str]) -> Vec<Target> {
        ips.iter().map(|ip| Target::from(ip.parse::<IpAddr>().unwrap())).collect()
    }

    fn found(ips: &[&str]) -> Outcome {
        Outcome::Found(targets(ips))
    }

    fn serf(servers: &[&str]) -> Snapshot {
        let server = |text: &&str| Server { address: Address::Ip(text.parse().unwrap()), params: Params::default() };
        [(Name::new("DYNAMIC").unwrap(), servers.iter().map(server).collect())].into()
    }

    #[test]
    fn sources_merge_in_one_order_and_the_list_comes_first() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.9:80 10.0.0.1:80;weight=2")]);
        world.membership.on_serf(serf(&["10.0.0.3:80", "10.0.0.9:80"]), world.now);
        world.announce(Some("10.0.0.2:80"), 60, None).unwrap();
        world.announce(Some("10.0.0.1:80;weight=9"), 60, None).unwrap();
        world.order(What::Add, "10.0.0.8:80").unwrap();
        world.order(What::Add, "10.0.0.7:80;weight=3").unwrap();
        assert_eq!(world.wait(1000), 1, "a burst is one change");
        assert_eq!(
            world.live(),
            "10.0.0.9:80 10.0.0.1:80;weight=2 10.0.0.8:80 10.0.0.7:80;weight=3 10.0.0.2:80 10.0.0.3:80"
        );
        let sources = |address: &str| world.listed(address).unwrap().1;
        assert_eq!(sources("10.0.0.9:80"), "DYNAMIC_BACKEND,serf");
        assert_eq!(sources("10.0.0.1:80"), "DYNAMIC_BACKEND,announce");
        assert_eq!(sources("10.0.0.8:80"), "add");
    }

    #[test]
    fn a_burst_settles_when_it_is_quiet_or_after_a_second() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "")]);
        let change = |world: &mut World, n: u8| {
            world.membership.on_serf(serf(&[&format!("10.0.0.{n}:80")]), world.now);
        };
        change(&mut world, 1);
        assert_eq!(world.wait(99), 0);
        assert_eq!(world.wait(1), 1);
        let mut live = 0;
        for n in 0..44 {
            change(&mut world, n + 2);
            live += world.wait(50);
        }
        assert_eq!((live, world.wait(100)), (2, 1), "without a pause, once a second");
    }

    #[test]
    fn what_is_equal_is_no_event() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "web")]);
        world.membership.on_serf(Snapshot::new(), world.now);
        assert_eq!(world.membership.deadline(), None, "nothing before, nothing now");
        world.order(What::Add, "10.0.0.1:80").unwrap();
        world.order(What::Remove, "10.0.0.1:80").unwrap();
        assert_eq!(world.wait(1000), 0, "there and away again");
        world.announce(Some("10.0.0.1:80"), 5, None).unwrap();
        assert_eq!(world.wait(1000), 1);
        for _ in 0..10 {
            assert_eq!(world.announce(Some("10.0.0.1:80"), 5, None), Ok(Ordered::default()));
            assert_eq!(world.wait(1000), 0, "a heartbeat");
        }
    }

    #[test]
    fn what_is_refused_is_tried_again_until_it_is_live() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80")]);
        world.membership.on_refusal(world.now);
        assert_eq!(world.membership.deadline(), None, "of files, not of members");
        world.membership.on_serf(serf(&["10.0.0.2:80"]), world.now);
        let mut tries = Vec::new();
        for _ in 0..9 {
            let start = world.now;
            loop {
                world.now = world.membership.deadline().unwrap();
                if world.membership.on_deadline(world.now) {
                    break;
                }
            }
            tries.push((world.now - start).as_millis());
            world.membership.take();
            world.membership.on_refusal(world.now);
        }
        assert_eq!(tries, [100, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
        assert_eq!((world.wait(60_000), world.live().as_str()), (1, "10.0.0.1:80 10.0.0.2:80"));
        assert_eq!(world.membership.deadline(), None);
    }

    #[test]
    fn an_announcement_holds_for_its_time() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", ""), ("DYNAMIC_PORT", "8080")]);
        world.announce(None, 5, Some("10.0.0.7")).unwrap();
        world.announce(Some("[::1]:81"), 60, None).unwrap();
        world.wait(200);
        assert_eq!(world.live(), "10.0.0.7:8080 [::1]:81");
        assert_eq!(world.wait(4700), 0);
        assert_eq!((world.wait(300), world.live().as_str()), (1, "[::1]:81"), "it stopped");
        assert!(world.announce(Some("[::1]:81"), 0, None).unwrap().changed);
        assert_eq!((world.wait(200), world.live().as_str()), (1, ""), "it withdrew");
        assert!(!world.announce(Some("[::1]:81"), 0, None).unwrap().changed);
    }

    #[test]
    fn a_heartbeat_changes_as_much_as_it_says() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "")]);
        let mut chance = 7_u32;
        for _ in 0..600 {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (host, weight) = (chance >> 28, chance >> 26 & 3);
            let ttl = u64::from(chance >> 23 & 7);
            let server = format!("10.0.0.{host};weight={}", weight + 1);
            let before = world.membership.members.announced.clone();
            let changed = world.announce(Some(&server), ttl, None).unwrap().changed;
            assert_eq!(changed, world.membership.members.announced != before, "{server} {ttl}");
            world.wait(u64::from(chance >> 20 & 3) * 400);
            let membership = &world.membership;
            assert_eq!(membership.members.announced, membership.announced.snapshot(), "{server} {ttl}");
            let ends = membership.announced.iter().map(|(_, _, announcement)| announcement.expires).min();
            assert_eq!(membership.announced.deadline(), ends);
        }
    }

    #[test]
    fn nobody_vanishes_because_nginit_itself_slept() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "")]);
        world.announce(Some("10.0.0.1:80"), 5, None).unwrap();
        world.wait(200);
        world.now += Duration::from_secs(3600);
        assert_eq!(world.wait(0), 0);
        assert_eq!(world.live(), "10.0.0.1:80");
        assert_eq!(world.wait(60_000), 1, "unless it is silent now too");
    }

    #[test]
    fn nobody_from_elsewhere_announces_what_is_nginits_own() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "")]);
        for own in [
            "127.0.0.1:80",
            "[::1]:80",
            "0.0.0.0:80",
            "unix:/run/docker.sock",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:0.0.0.0]:80",
            "localhost",
            "x.LocalHost:81",
        ] {
            let refused = world.announce(Some(own), 5, Some("10.0.0.7"));
            assert!(
                matches!(&refused, Err(Refused::Bad(reason)) if reason.contains("own machine")),
                "{own}: {refused:?}"
            );
            assert!(world.announce(Some(own), 5, None).is_ok());
        }
        assert!(world.announce(Some("10.0.0.1:80;backup"), 5, None).is_ok());
        assert!(matches!(world.announce(Some("no address"), 5, None), Err(Refused::Bad(_))));
    }

    #[test]
    fn orders_change_what_lists_say_and_tell_so() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.2:80;weight=2 10.0.0.3:80;drain")]);
        let weight = |n| What::Weight(NonZeroU16::new(n).unwrap());
        for (what, server, told, live) in [
            (What::Drain, "10.0.0.1", "true: ", "10.0.0.1:80;drain 10.0.0.2:80;weight=2 10.0.0.3:80;drain"),
            (What::Drain, "10.0.0.1:80", "false: ", "10.0.0.1:80;drain 10.0.0.2:80;weight=2 10.0.0.3:80;drain"),
            (What::Undrain, "10.0.0.1:80", "true: ", "10.0.0.1:80 10.0.0.2:80;weight=2 10.0.0.3:80;drain"),
            (
                What::Undrain,
                "10.0.0.3:80",
                "true: \"DYNAMIC_BACKEND\" has 10.0.0.3:80 with drain; the order counts more",
                "10.0.0.1:80 10.0.0.2:80;weight=2 10.0.0.3:80",
            ),
            (
                weight(5),
                "10.0.0.2:80",
                "true: \"DYNAMIC_BACKEND\" has 10.0.0.2:80 with weight=2; the order counts more",
                "10.0.0.1:80 10.0.0.2:80;weight=5 10.0.0.3:80",
            ),
            (weight(2), "10.0.0.2:80", "true: ", "10.0.0.1:80 10.0.0.2:80;weight=2 10.0.0.3:80"),
            (
                What::Remove,
                "10.0.0.2:80",
                "true: \"DYNAMIC_BACKEND\" still has it: it is taken out until nginit add puts it back",
                "10.0.0.1:80 10.0.0.3:80",
            ),
            (
                What::Add,
                "10.0.0.2:80",
                "true: 10.0.0.2:80 was taken out by a command before; \"DYNAMIC_BACKEND\" has 10.0.0.2:80: it stands there already",
                "10.0.0.1:80 10.0.0.2:80;weight=2 10.0.0.3:80",
            ),
            (
                What::Add,
                "10.0.0.2:80;weight=7",
                "true: \"DYNAMIC_BACKEND\" has 10.0.0.2:80: with weight=2",
                "10.0.0.1:80 10.0.0.2:80;weight=7 10.0.0.3:80",
            ),
            (What::Add, "10.0.0.9:81", "true: ", "10.0.0.1:80 10.0.0.2:80;weight=7 10.0.0.3:80 10.0.0.9:81"),
            (What::Remove, "10.0.0.9:81", "true: ", "10.0.0.1:80 10.0.0.2:80;weight=7 10.0.0.3:80"),
        ] {
            assert_eq!(world.told(what, server), told, "{what} {server}");
            assert_eq!(world.live(), live, "{what} {server}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80"), ("DYNAMIC_BALANCE", "random")]);
        for what in [What::Remove, What::Drain, What::Undrain, What::Weight(NonZeroU16::MIN)] {
            assert!(matches!(world.order(what, "10.0.0.2:80"), Err(Refused::Unknown(_))), "{what}");
            assert!(matches!(world.order(what, "10.0.0.1:80;weight=3"), Err(Refused::Bad(_))), "{what}");
        }
        assert!(matches!(world.order(What::Add, "10.0.0.2:80;backup"), Err(Refused::Bad(_))));
        assert!(matches!(world.order(What::Add, "a;b}"), Err(Refused::Bad(_))));
        assert_eq!(world.membership.deadline(), None);
        let live = Live { upstreams: &world.upstreams, peers: &world.peers };
        assert_eq!(live.find("dynamic_backend").unwrap().0.as_str(), "DYNAMIC");
        let refused = live.find("dynamo").unwrap_err();
        assert_eq!(refused, Refused::Unknown("no upstream is called \"dynamo\"; there are dynamic_backend".to_owned()));
    }

    #[test]
    fn the_last_server_is_not_drained() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.2:80")]);
        assert_eq!(world.told(What::Drain, "10.0.0.1:80"), "true: ");
        let told = world.told(What::Drain, "10.0.0.2:80");
        assert!(told.ends_with("no other server takes requests: it still gets them until one does"), "{told}");
        assert_eq!(world.live(), "10.0.0.1:80 10.0.0.2:80");
        world.told(What::Add, "10.0.0.3:80");
        assert_eq!(world.live(), "10.0.0.1:80;drain 10.0.0.2:80;drain 10.0.0.3:80");
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.2:80;drain")]);
        world.told(What::Drain, "10.0.0.1:80");
        assert_eq!(world.live(), "10.0.0.1:80 10.0.0.2:80;drain", "that of the list is meant");
    }

    #[test]
    fn orders_about_an_address_of_a_name_hold() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80")]);
        world.dns = [(host("web"), targets(&["10.0.0.5", "10.0.0.6"]))].into();
        world.set(&[("DYNAMIC_BACKEND", "web:81")]);
        assert_eq!(world.live(), "10.0.0.5:81 10.0.0.6:81");
        world.told(What::Drain, "10.0.0.5:81");
        assert_eq!(world.live(), "10.0.0.5:81;drain 10.0.0.6:81");
        assert!(world.told(What::Remove, "10.0.0.6:81").contains("the name \"web\" still has it"));
        assert_eq!(world.live(), "10.0.0.5:81", "nobody else is left");
        assert_eq!(world.listed("10.0.0.6:81").unwrap().0, ServerState::Removed);
        world.told(What::Add, "10.0.0.6:81");
        world.told(What::Remove, "web:81");
        assert_eq!(world.live(), "10.0.0.6:81", "added by itself now");
    }

    #[test]
    fn an_order_goes_with_its_server() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.2:80")]);
        world.told(What::Drain, "10.0.0.1:80");
        world.set(&[("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.3:80")]);
        assert_eq!(world.live(), "10.0.0.1:80;drain 10.0.0.3:80");
        world.set(&[("DYNAMIC_BACKEND", "10.0.0.3:80")]);
        world.set(&[("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.3:80")]);
        assert_eq!(world.live(), "10.0.0.1:80 10.0.0.3:80", "it is another one now");
    }

    #[test]
    fn a_backup_is_none_where_the_method_knows_none() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80")]);
        world.told(What::Add, "10.0.0.2:80;backup");
        assert_eq!(world.live(), "10.0.0.1:80 10.0.0.2:80;backup");
        world.set(&[("DYNAMIC_BACKEND", "10.0.0.1:80"), ("DYNAMIC_BALANCE", "random")]);
        assert_eq!(world.live(), "10.0.0.1:80 10.0.0.2:80");
        world.set(&[("DYNAMIC_BACKEND", "")]);
        assert_eq!(world.live(), "10.0.0.2:80", "the only one");
    }

    #[test]
    fn a_name_is_followed_and_empties_after_two_answers_that_there_is_none() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "")]);
        world.dns = [(host("web"), targets(&["10.0.0.5"]))].into();
        world.set(&[("DYNAMIC_BACKEND", "web")]);
        assert_eq!(world.answer("other", found(&["10.0.0.1"])), None, "it is not followed");
        assert_eq!(world.answer("web", found(&["10.0.0.5"])), None);
        assert_eq!(world.wait(1000), 0);
        assert_eq!(
            world.answer("web", found(&["10.0.0.6", "10.0.0.7"])).unwrap(),
            "\"web\" leads to 10.0.0.6 10.0.0.7"
        );
        assert_eq!((world.wait(200), world.live().as_str()), (1, "10.0.0.6:80 10.0.0.7:80"));
        let silent = || Outcome::Failed("no answer".to_owned());
        assert!(world.answer("web", silent()).unwrap().contains("keeps its last addresses: no answer"));
        assert_eq!(world.answer("web", silent()), None, "it is said once");
        assert_eq!(world.answer("web", Outcome::NoSuchName), None);
        assert_eq!(world.answer("web", silent()), None);
        assert_eq!(world.answer("web", Outcome::NoSuchName), None, "not two in a row");
        assert_eq!(world.wait(1000), 0);
        assert!(world.answer("web", Outcome::NoSuchName).unwrap().contains("leads nowhere any more"));
        assert_eq!((world.wait(1000), world.live().as_str()), (1, ""));
        assert_eq!(world.listed("web:80").unwrap().0, ServerState::Unresolved);
        assert_eq!(world.answer("web", Outcome::NoSuchName), None);
        assert!(world.answer("web", found(&["10.0.0.6"])).is_some());
        assert_eq!((world.wait(1000), world.live().as_str()), (1, "10.0.0.6:80"));
    }

    #[test]
    fn an_answer_that_comes_while_a_candidate_is_made_is_not_lost() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "")]);
        world.dns = [(host("web"), targets(&["10.0.0.5"]))].into();
        world.set(&[("DYNAMIC_BACKEND", "web")]);
        let taken = world.membership.take();
        world.answer("web", found(&["10.0.0.6"]));
        let merged = taken.merge(&world.upstreams);
        let peers = peers::peers(&merged, &taken.resolved);
        world.membership.adopt(&peers, taken.resolved.clone(), world.now);
        assert!(world.membership.is_ahead());
        assert_eq!((world.wait(1000), world.live().as_str()), (1, "10.0.0.6:80"));
        assert!(!world.membership.is_ahead());
    }

    #[test]
    fn each_server_is_known_since_it_went_live() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80")]);
        let began = world.now;
        world.wait(5000);
        world.told(What::Add, "10.0.0.2:80");
        let since = |world: &World, address: &str| {
            let address = PeerAddress::Ip(address.parse().unwrap());
            world.membership.since(&Name::new("DYNAMIC").unwrap(), &address)
        };
        assert_eq!(since(&world, "10.0.0.1:80"), Some(began));
        assert_eq!(since(&world, "10.0.0.2:80"), Some(began + Duration::from_millis(5100)));
        assert_eq!(since(&world, "10.0.0.3:80"), None);
    }

    #[test]
    fn what_is_kept_says_all_that_was_said() {
        let list = [("DYNAMIC_BACKEND", "10.0.0.1:80 10.0.0.2:80")];
        let mut world = World::new(&list);
        assert_eq!(world.membership.to_text(), "{}\n");
        world.told(What::Drain, "10.0.0.1:80");
        world.told(What::Weight(NonZeroU16::new(3).unwrap()), "10.0.0.2:80");
        world.told(What::Add, "web:81;weight=2;max_fails=0");
        world.told(What::Add, "unix:/run/a.sock");
        world.announce(Some("[::1]:81;weight=5"), 60, None).unwrap();
        world.wait(1000);
        let text = world.membership.to_text();
        let mut other = World::new(&list);
        other.membership.restore(text.as_bytes(), other.now).unwrap();
        other.render();
        assert_eq!((other.live(), other.membership.to_text()), (world.live(), text));
        assert_eq!(other.wait(59_000), 0);
        assert_eq!(other.wait(2_000), 1, "an announcement runs out all the same");
    }

    #[test]
    fn what_nobody_would_have_kept_does_not_count() {
        let mut world = World::new(&[("DYNAMIC_BACKEND", "10.0.0.1:80")]);
        world.told(What::Add, "10.0.0.2:80");
        let before = world.membership.to_text();
        for bad in [
            "",
            r#"{"added":{"DYNAMIC":["10.0.0.3:80;}"]}}"#,
            r#"{"added":{"dynamic":["10.0.0.3:80"]}}"#,
            r#"{"announced":{"DYNAMIC":{"10.0.0.3:80":-1}}}"#,
            r#"{"orders":{"DYNAMIC":{"10.0.0.1:80":{"weight":0}}}}"#,
            r#"{"orders":{"DYNAMIC":{"10.0.0.1:80":{"kill":true}}}}"#,
            r#"{"other":{}}"#,
        ] {
            assert!(world.membership.restore(bad.as_bytes(), world.now).is_err(), "{bad}");
            assert_eq!(world.membership.to_text(), before, "{bad}");
        }
    }
}
