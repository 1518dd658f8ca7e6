//! What nginx has been told of its servers without a reload, and whether it has taken that in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::live::responder::News;
use crate::live::zone::{Zone, label, label_of, part};
use crate::live::{Groups, Why};
use crate::peers::Peers;
use crate::upstream::Name;

/// Longest wait for nginx to take in what it has never been told before: it asks within milliseconds, and again after five
/// to six seconds if that got lost.
const FIRST_PATIENCE: Duration = Duration::from_secs(7);

/// The same later: one for a name that has just become free is asked after eleven seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whoever looks so much later whether nginx is late has been stopped itself, and has yet to hear of it.
const STANDSTILL: Duration = Duration::from_secs(1);

/// The live upstreams whose servers nginx follows.
#[derive(Debug, Default)]
pub struct Following {
    groups: Groups,
    /// Why the others are not among them.
    whys: BTreeMap<Name, Why>,
    /// Those that nginx is about to follow, or to follow in another shape, and their servers.
    coming: Groups,
    arrivals: Peers,
    /// What nginx was told of what it has read, where no more is known of that.
    recalled: Option<Zone>,
    zone: Arc<Zone>,
    /// It is to be handed on.
    is_new: bool,
    /// What nginx has made of what it was told, by name.
    names: BTreeMap<String, Told>,
}

/// What nginx has made of what it was told at a name.
#[derive(Debug, Default)]
struct Told {
    /// It has not taken in the last version: which one, and since when it is waited for.
    untaken: Option<(u64, Instant)>,
    /// It was told something and has not asked since: it does not listen there.
    deaf: bool,
    /// It has taken in any version, here or at another name of the upstream.
    taken: bool,
}

impl Told {
    /// When it is late.
    fn deadline(&self) -> Option<Instant> {
        let patience = if self.taken { PATIENCE } else { FIRST_PATIENCE };
        self.untaken.map(|(_, since)| since + patience)
    }
}

impl Following {
    /// The live upstreams.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Why an upstream is not among them.
    pub fn why_not(&self, name: &Name) -> Option<Why> {
        self.whys.get(name).copied()
    }

    /// nginx reads a configuration with these. Who came meanwhile stays where nginx was told.
    pub fn adopt(&mut self, groups: Groups, whys: BTreeMap<Name, Why>) {
        let before = std::mem::replace(&mut self.groups, groups);
        for (name, group) in &mut self.groups {
            if let Some(live) = before.get(name).filter(|live| live.has_shape_of(group)) {
                *group = group.clone().with_places_of(live);
            }
        }
        self.whys = whys;
        self.expect_nothing();
        self.recalled = None;
    }

    /// nginx reads nothing else after all.
    pub fn dismiss(&mut self, now: Instant) {
        self.expect_nothing();
        if let Some(recalled) = self.recalled.clone() {
            self.recall(recalled, now);
        }
    }

    fn expect_nothing(&mut self) {
        self.coming.clear();
        self.arrivals.clear();
    }

    /// Whether nginx is about to read something else, and what it is told may be for that.
    pub fn is_between(&self) -> bool {
        !self.coming.is_empty()
    }

    /// Servers come and go within what nginx reads.
    pub fn arrange(&mut self, name: &Name, group: crate::live::Group) {
        self.groups.insert(name.clone(), group);
    }

    /// Tells nginx of these servers.
    pub fn tell(&mut self, peers: &Peers, now: Instant) {
        for (name, group) in &mut self.groups {
            group.forget_others(peers.get(name).map_or(&[], Vec::as_slice));
        }
        let zone = if self.coming.is_empty() {
            self.zone.next(&self.groups, peers)
        } else {
            let (mut groups, mut peers) = (self.groups.clone(), peers.clone());
            groups.extend(self.coming.clone());
            peers.extend(self.arrivals.clone());
            self.zone.next(&groups, &peers)
        };
        let zone = match &self.recalled {
            Some(recalled) => zone.with_others_of(recalled),
            None => zone,
        };
        self.replace(zone, now);
    }

    /// nginx is to be told what it was told before, and reads what was live then.
    pub fn recall(&mut self, zone: Zone, now: Instant) {
        // Who asks is another nginx, and may do so from where one asked before.
        let zone = zone.after(&self.zone);
        *self = Self { zone: Arc::clone(&self.zone), recalled: Some(zone.clone()), ..Self::default() };
        self.replace(zone, now);
    }

    /// What nginx is told.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// nginx is about to read a configuration with these, and asks as soon as it has. What stays as it is counts as it
    /// is by now; what is left is told to workers of before.
    pub fn prepare(&mut self, groups: &Groups, peers: &Peers, live: &Peers, now: Instant) {
        self.expect_nothing();
        for (name, group) in groups {
            if self.groups.get(name).is_none_or(|before| !before.has_shape_of(group)) {
                self.coming.insert(name.clone(), group.clone());
                self.arrivals.insert(name.clone(), peers.get(name).cloned().unwrap_or_default());
            }
        }
        self.tell(live, now);
    }

    fn replace(&mut self, zone: Zone, now: Instant) {
        if zone == *self.zone {
            return;
        }
        for (name, set) in zone.iter() {
            let before = self.zone.get(name);
            // Of a name that is free from the beginning, nginx is told nothing.
            let is_news = match before {
                Some(before) => before.version != set.version,
                None => !set.servers.is_empty(),
            };
            if is_news {
                // Who asks for another name of the upstream asks for this one, too.
                let asks = self.names.iter().any(|(other, told)| told.taken && label_of(other) == label_of(name));
                let told = self.names.entry(name.to_owned()).or_default();
                told.taken |= asks;
                told.untaken.get_or_insert((set.version, now)).0 = set.version;
                told.deaf = true;
            }
        }
        self.names.retain(|name, _| zone.get(name).is_some());
        self.zone = Arc::new(zone);
        self.is_new = true;
    }

    /// Whether nginx listens at a name of an upstream, so that it would hear at once.
    pub fn listens(&self, name: &Name, at: usize) -> bool {
        self.names.get(&part(name, at)).is_none_or(|told| !told.deaf)
    }

    /// nginx has taken something in, or asks again.
    pub fn on_news(&mut self, news: &News, now: Instant) {
        match news {
            News::Told { name } => self.names.entry(name.clone()).or_default().deaf = true,
            // Also a new worker that is told what others know.
            News::Taken { name, version } => self.takes_in(name, *version, now).deaf = true,
            News::Heard { name, version } => {
                let told = self.takes_in(name, *version, now);
                told.deaf &= told.untaken.is_some();
            }
        }
    }

    /// nginx uses this version of what is told at a name.
    fn takes_in(&mut self, name: &str, version: u64, now: Instant) -> &mut Told {
        let asks = self.names.iter_mut().filter(|(other, _)| label_of(other) == label_of(name));
        asks.for_each(|(_, told)| told.taken = true);
        let told = self.names.entry(name.to_owned()).or_default();
        told.taken = true;
        told.untaken = told.untaken.filter(|(last, _)| version < *last).map(|(last, _)| (last, now));
        told
    }

    /// What is to be told, if it has become something else.
    pub fn take_zone(&mut self) -> Option<Arc<Zone>> {
        std::mem::take(&mut self.is_new).then(|| Arc::clone(&self.zone))
    }

    /// Whether nginx has taken in all that it was told.
    pub fn is_taken(&self) -> bool {
        self.names.values().all(|told| told.untaken.is_none())
    }

    /// nginx is about to read something, and asks when it has.
    pub fn excuse(&mut self, now: Instant) {
        for told in self.names.values_mut() {
            told.untaken = told.untaken.map(|(version, _)| (version, now));
        }
    }

    /// When it is late.
    pub fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(Told::deadline).min()
    }

    /// The upstreams that nginx has not taken in for too long. They are not waited for any more.
    pub fn late(&mut self, now: Instant) -> Vec<Name> {
        if self.deadline().is_some_and(|deadline| deadline + STANDSTILL < now) {
            self.excuse(now);
        }
        let late = self.names.iter().filter(|(_, told)| told.deadline().is_some_and(|deadline| deadline <= now));
        let labels: BTreeSet<&str> = late.filter_map(|(part, _)| label_of(part)).collect();
        let groups = self.groups.keys().chain(self.coming.keys());
        let names: Vec<Name> = groups.filter(|name| labels.contains(label(name).as_str())).cloned().collect();
        for told in self.names.values_mut().filter(|told| told.deadline().is_some_and(|deadline| deadline <= now)) {
            told.untaken = None;
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::zone::{Served, Set};
    use crate::live::{self, Ability};
    use crate::nginx::facts::Version;
    use crate::peers::{Peer, PeerAddress};
    use crate::settings::LiveMode;
    use crate::upstream::{Params, Upstream};

    fn zone(sets: &[(&str, u64)]) -> Zone {
        let served = |port: u64| Served {
            address: ([10, 0, 0, 1], u16::try_from(port).unwrap()).into(),
            weight: std::num::NonZeroU16::MIN,
            backup: false,
        };
        let set = |version: u64| Set { version, servers: vec![served(version)], freed: false };
        Zone::of(sets.iter().map(|(name, version)| ((*name).to_owned(), set(*version))))
    }

    fn taken(name: &str, version: u64) -> News {
        News::Taken { name: name.to_owned(), version }
    }

    fn heard(name: &str, version: u64) -> News {
        News::Heard { name: name.to_owned(), version }
    }

    #[test]
    fn what_nginx_does_not_take_in_is_noticed() {
        let (start, secs) = (Instant::now(), Duration::from_secs);
        let mut following = following(&["A", "B"]);
        assert_eq!((following.take_zone(), following.deadline(), following.is_taken()), (None, None, true));
        following.replace(zone(&[("0.a", 1), ("0.b", 2)]), start);
        assert!(following.take_zone().is_some() && following.take_zone().is_none() && !following.is_taken());
        assert_eq!(following.deadline(), Some(start + FIRST_PATIENCE));
        following.on_news(&taken("0.a", 1), start);
        following.replace(zone(&[("0.a", 3), ("0.b", 2)]), start + secs(1));
        following.on_news(&heard("0.b", 2), start + secs(1));
        assert_eq!(following.deadline(), Some(start + secs(1) + PATIENCE), "who has taken something in is given time");
        following.replace(zone(&[("0.a", 4), ("0.b", 2)]), start + secs(2));
        assert_eq!(following.deadline(), Some(start + secs(1) + PATIENCE), "more news is no excuse");
        following.on_news(&taken("0.a", 3), start + secs(3));
        assert_eq!(following.deadline(), Some(start + secs(3) + PATIENCE), "taking in what was before is one");
        assert_eq!(following.late(start + secs(4)), []);
        assert_eq!(following.late(start + secs(18)), [Name::new("A").unwrap()]);
        assert!(following.is_taken() && following.late(start + secs(99)).is_empty(), "said once");
        following.replace(zone(&[("0.b", 5)]), start);
        following.replace(zone(&[]), start);
        assert!(following.is_taken(), "nobody is asked about what is gone");
    }

    #[test]
    fn nginx_is_given_time_once_it_has_read_what_has_it_ask() {
        let (start, late) = (Instant::now(), Instant::now() + 10 * FIRST_PATIENCE);
        let mut following = Following::default();
        following.replace(zone(&[("0.a", 1)]), start);
        following.excuse(late);
        assert_eq!((following.late(late), following.deadline()), (Vec::new(), Some(late + FIRST_PATIENCE)));
    }

    #[test]
    fn nginx_is_not_late_where_nginit_was_stopped() {
        let (start, secs) = (Instant::now(), Duration::from_secs);
        let mut following = following(&["A"]);
        following.replace(zone(&[("0.a", 1)]), start);
        let again = start + secs(60);
        assert_eq!((following.late(again), following.deadline()), (Vec::new(), Some(again + FIRST_PATIENCE)));
        assert_eq!(following.late(again + FIRST_PATIENCE), [Name::new("A").unwrap()]);
    }

    #[test]
    fn one_upstream_is_late_and_no_other() {
        let (start, names) = (Instant::now(), ["A", "B"].map(|name| Name::new(name).unwrap()));
        let mut following = following(&["A", "B"]);
        following.replace(zone(&[("0.a", 1), ("0.b", 2)]), start);
        following.on_news(&taken("0.a", 1), start);
        assert_eq!(following.late(start + FIRST_PATIENCE), names[1..]);
        assert!(following.is_taken());
    }

    /// Upstreams that are followed, each with a server.
    fn groups(names: &[&str]) -> (Groups, Peers) {
        let ability = Ability { mode: LiveMode::Auto, nginx: Version(1, 30, 0), ipv6: true, fault: None };
        let (mut groups, mut peers) = (Groups::new(), Peers::new());
        for name in names {
            let served = vec![Peer::of(PeerAddress::Ip("10.0.0.1:80".parse().unwrap()), Params::default())];
            let group = live::arrange(None, &Upstream::sample(), &served, ability, &|_| true).unwrap();
            groups.insert(Name::new(name).unwrap(), group);
            peers.insert(Name::new(name).unwrap(), served);
        }
        (groups, peers)
    }

    fn following(names: &[&str]) -> Following {
        let mut following = Following::default();
        following.adopt(groups(names).0, BTreeMap::new());
        following
    }

    #[test]
    fn what_comes_with_a_reload_is_told_until_it_is_there_or_refused() {
        let now = Instant::now();
        let ((one, peers_of_one), (both, peers_of_both)) = (groups(&["A"]), groups(&["A", "B"]));
        let told = |following: &Following| ["0.a", "0.b"].map(|part| following.zone().get(part).is_some());
        let mut following = following(&["A"]);
        following.tell(&peers_of_one, now);
        assert_eq!(told(&following), [true, false]);
        following.prepare(&both, &peers_of_both, &peers_of_one, now);
        assert_eq!(told(&following), [true, true]);
        following.tell(&peers_of_one, now);
        assert_eq!(told(&following), [true, true], "a change meanwhile");
        following.dismiss(now);
        following.tell(&peers_of_one, now);
        assert_eq!(told(&following), [true, false], "refused");
        following.prepare(&both, &peers_of_both, &peers_of_one, now);
        following.adopt(both, BTreeMap::new());
        following.tell(&peers_of_both, now);
        assert_eq!(told(&following), [true, true]);
        following.prepare(&one, &peers_of_one, &peers_of_both, now);
        assert_eq!(told(&following), [true, true], "old workers ask");
        following.adopt(one, BTreeMap::new());
        following.tell(&peers_of_one, now);
        assert_eq!(told(&following), [true, false]);
    }

    #[test]
    fn what_was_live_last_is_told_until_something_else_is() {
        let now = Instant::now();
        let ((b, peers_of_b), last) = (groups(&["B"]), zone(&[("0.a", 1), ("0.b", 2)]));
        let told = |following: &Following, part: &str| following.zone().get(part).map(|set| set.servers.clone());
        let mut following = Following::default();
        following.recall(last.clone(), now);
        let last = |part: &str| last.get(part).map(|set| set.servers.clone());
        assert_eq!((told(&following, "0.a"), told(&following, "0.b")), (last("0.a"), last("0.b")));
        following.prepare(&b, &peers_of_b, &Peers::new(), now);
        assert_eq!(told(&following, "0.a"), last("0.a"), "it may be refused");
        assert_ne!(told(&following, "0.b"), last("0.b"));
        assert!(following.is_between());
        let version = following.zone().get("0.b").unwrap().version;
        following.dismiss(now);
        assert_eq!((told(&following, "0.a"), told(&following, "0.b")), (last("0.a"), last("0.b")));
        assert!(following.zone().get("0.b").unwrap().version > version && !following.is_between());
        following.prepare(&b, &peers_of_b, &Peers::new(), now);
        following.adopt(b, BTreeMap::new());
        following.tell(&peers_of_b, now);
        assert_eq!(told(&following, "0.a"), None);
    }

    #[test]
    fn nginx_listens_until_it_is_told_something_and_once_it_asks_again() {
        let now = Instant::now();
        let name = Name::new("A").unwrap();
        let mut following = Following::default();
        following.replace(zone(&[("0.a", 1)]), now);
        assert!(!following.listens(&name, 0) && following.listens(&name, 1));
        following.on_news(&taken("0.a", 1), now);
        assert!(!following.listens(&name, 0), "it has taken that in, and does not ask for a second");
        following.on_news(&heard("0.a", 1), now);
        assert!(following.listens(&name, 0));
        following.replace(zone(&[("0.a", 2)]), now);
        following.on_news(&heard("0.a", 1), now);
        assert!(!following.listens(&name, 0), "it asks, and is told at once");
        let empty = Zone::of([("1.a".to_owned(), Set { version: 7, servers: Vec::new(), freed: false })]);
        following.replace(empty, now);
        assert!(following.listens(&name, 1) && following.is_taken(), "there is nothing to be told of a free name");
        following.on_news(&taken("1.a", 7), now);
        assert!(!following.listens(&name, 1), "a new worker has been told what others know");
        following.on_news(&heard("1.a", 7), now);
        assert!(following.listens(&name, 1));
    }
}
