//! Servers that come and go without a reload: nginx asks nginit who they are, by DNS on loopback, and is
//! answered when that changes (`docs/live.md`).
//!
//! This module decides which upstreams that is possible for, and at which of its names each server stands.
//! [`zone`] is what is answered, [`responder`] how, [`serve`] does it.

pub mod message;
pub mod responder;
pub mod serve;
pub mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use crate::nginx::facts::Version;
use crate::peers::{Peer, PeerAddress, Peers};
use crate::settings::LiveMode;
use crate::upstream::{Balance, Name, Params, Server, Upstream, Upstreams};
use zone::Served;

/// Most servers at one name. An answer holds 65,535 bytes, and an IPv6 server takes 69 of them.
pub const MOST_AT_A_NAME: usize = 900;

/// At how many names the servers of an upstream stand at least, most of which are free at first: nginx listens no more
/// for a second after each answer, but for each name by itself.
const LEAST_NAMES: usize = 8;

/// An upstream may grow to so many times its servers before nginx needs more names and memory, which takes a reload.
const ROOM: usize = 10;

/// The least number of servers that there is room for. Memory that is not used costs nothing.
const LEAST_ROOM: usize = 5000;

/// So many servers stand at a name at first: few enough to leave other names to those who come meanwhile, and enough
/// that it is not free again when one goes, of which nginx writes a line into its log.
const FIRST_AT_A_NAME: usize = 4;

/// A name with so many servers is crowded: newcomers go to free ones.
const CROWD: usize = 64;

/// Live upstreams, by name.
pub type Groups = BTreeMap<Name, Group>;

/// How nginx follows the servers of one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// At how many names they may stand; never 0.
    names: usize,
    /// What they have in common: `max_conns`, `max_fails`, `fail_timeout`.
    params: Params,
    /// For how many of them there is room.
    room: usize,
    /// At which name each server stands.
    places: BTreeMap<SocketAddr, usize>,
}

/// Why an upstream's servers cannot be followed without a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `NGINIT_LIVE` says so.
    Off,
    /// nginx cannot.
    OldNginx(Version),
    /// nginit does not listen on loopback: it could not at its start, or was not to.
    Deaf,
    /// nginx has not asked for its servers.
    Unasked,
    /// Positions count, and those of servers that are gone are kept.
    IpHash,
    /// Positions count, and nginx does not keep them in order.
    Hash,
    /// nginit computes what the cookie leads to.
    Cookie,
    /// Servers have parameters that the others have not.
    Params,
    /// None that could be followed takes requests.
    Nobody,
    /// Templates of the operator's name the servers themselves.
    Templates,
    /// There are more than nginx has room for, or too few for the names that it asks for.
    Shape,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("NGINIT_LIVE is off"),
            Self::OldNginx(version) => write!(f, "nginx {version} cannot; 1.27.3 can"),
            Self::Deaf => f.write_str("nginit has not listened on loopback since its start"),
            Self::Unasked => f.write_str("nginx has not asked for its servers"),
            Self::IpHash => f.write_str("ip_hash goes by positions, and nginit keeps those of servers that are gone"),
            Self::Hash => f.write_str("hash goes by positions; hash KEY consistent does not"),
            Self::Cookie => f.write_str("the cookie's servers are computed by nginit; nginx's own sticky cookie can"),
            Self::Params => f.write_str("its servers differ in max_conns, max_fails or fail_timeout"),
            Self::Templates => f.write_str("a template in NGINIT_TEMPLATES names the servers themselves"),
            Self::Shape => f.write_str("nginx needs more or less room for its servers"),
            Self::Nobody => f.write_str("no server with an IP address takes requests"),
        }
    }
}

/// What can be done with an nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ability {
    /// What `NGINIT_LIVE` says.
    pub mode: LiveMode,
    /// nginx's version.
    pub nginx: Version,
    /// Whether the kernel has IPv6. Without it, nginx asks for no such addresses.
    pub ipv6: bool,
    /// Why it cannot be done for now.
    pub fault: Option<Why>,
}

impl Ability {
    /// Why nothing can be followed, if nothing can.
    pub fn lack(&self) -> Option<Why> {
        match self.mode {
            LiveMode::Off => Some(Why::Off),
            _ if !self.nginx.has_resolve() => Some(Why::OldNginx(self.nginx)),
            _ => self.fault,
        }
    }

    /// Why an upstream cannot be followed, whatever its servers are.
    pub fn why_not(&self, upstream: &Upstream) -> Option<Why> {
        let insists = self.mode == LiveMode::On;
        let own_way = upstream.sticky.as_ref().is_some_and(|cookie| cookie.is_ours(self.nginx.has_sticky()));
        match upstream.balance {
            _ if self.lack().is_some() => self.lack(),
            _ if own_way => Some(Why::Cookie),
            Balance::IpHash if !insists => Some(Why::IpHash),
            Balance::Hash { consistent: false, .. } if !insists => Some(Why::Hash),
            _ => None,
        }
    }
}

/// The parameters that all servers at a name have in common.
fn common(params: Params) -> Params {
    let Params { max_conns, max_fails, fail_timeout_secs, .. } = params;
    Params { max_conns, max_fails, fail_timeout_secs, ..Params::default() }
}

/// Whether servers differ in what all at a name have in common.
pub fn differ(servers: &[Server]) -> bool {
    let mut all = servers.iter().map(|server| common(server.params));
    all.next().is_some_and(|first| all.any(|other| other != first))
}

/// The address of a peer that nginx may be told of at a name.
fn address(peer: &Peer, ipv6: bool) -> Option<SocketAddr> {
    match peer.address {
        PeerAddress::Ip(address) if peer.takes_requests() && (ipv6 || address.is_ipv4()) => Some(address),
        _ => None,
    }
}

impl Group {
    /// At how many names its servers stand.
    pub fn names(&self) -> usize {
        self.names
    }

    /// What they have in common.
    pub fn params(&self) -> Params {
        self.params
    }

    /// For how many of them there is room in nginx's memory.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Whether nginx has to read something else for this one than for the other.
    pub fn has_shape_of(&self, other: &Self) -> bool {
        (self.names, self.params, self.room) == (other.names, other.params, other.room)
    }

    /// The same, with everybody where they stand by now: others may have come while this one was made.
    #[must_use]
    pub fn with_places_of(self, live: &Self) -> Self {
        let mut places = self.places;
        places.extend(&live.places);
        Self { places, ..self }
    }

    /// Keeps no place for who is not among these: nginx may not listen there when they come back.
    pub fn forget_others(&mut self, peers: &[Peer]) {
        let there = peers.iter().filter_map(|peer| address(peer, true));
        // Mostly, there are no others.
        if there.clone().filter(|address| self.places.contains_key(address)).count() == self.places.len() {
            return;
        }
        let there: BTreeSet<SocketAddr> = there.collect();
        self.places.retain(|address, _| there.contains(address));
    }

    /// Where a peer stands and what nginx is told of it, if it is told anything.
    pub fn served(&self, peer: &Peer) -> Option<(usize, Served)> {
        let PeerAddress::Ip(address) = peer.address else { return None };
        let at = self.places.get(&address).filter(|_| peer.takes_requests())?;
        Some((*at, Served { address, weight: peer.weight(), backup: peer.params.backup }))
    }

    /// The same for these peers, if nginx need read nothing else for it.
    fn fit(&self, peers: &[(SocketAddr, bool)], params: Params, listens: &dyn Fn(usize) -> bool) -> Option<Self> {
        if params != self.params || peers.len() > self.room {
            return None;
        }
        // A free name is left so where another one listens that is not crowded.
        let fitted = self.place(peers, &|at, count| (!listens(at), count / CROWD, count == 0));
        fitted.is_sound(peers).then_some(fitted)
    }

    /// Enough names and room for these peers. Who stands at a name stays there as far as possible.
    fn new(before: Option<&Self>, peers: &[(SocketAddr, bool)], params: Params) -> Self {
        let room = (ROOM * peers.len()).max(LEAST_ROOM);
        let names = room.div_ceil(MOST_AT_A_NAME).max(LEAST_NAMES);
        let places = before.map(|group| group.places.clone()).unwrap_or_default();
        let group = Self { names, params, room, places };
        let firsts = peers.iter().filter(|(_, backup)| !backup).count();
        let used = (firsts / FIRST_AT_A_NAME).clamp(1, names);
        let even = |at: usize, count: usize| (at >= used, count, false);
        let kept = group.place(peers, &even);
        if kept.is_sound(peers) {
            return kept;
        }
        let fresh = Self { places: BTreeMap::new(), ..group };
        fresh.place(peers, &even)
    }

    /// Each of these peers where it stands, newcomers where it is least `unfit`, given how many there are. Backups stand
    /// with others, because nginx takes the lowest priority at a name for that of no backup.
    fn place(&self, peers: &[(SocketAddr, bool)], unfit: &dyn Fn(usize, usize) -> (bool, usize, bool)) -> Self {
        let mut counts = vec![(0_usize, 0_usize); self.names];
        let add = |counts: &mut [(usize, usize)], at: usize, backup: bool| {
            counts[at].0 += 1;
            counts[at].1 += usize::from(!backup);
        };
        let mut places = BTreeMap::new();
        let (firsts, backups): (Vec<_>, Vec<_>) = peers.iter().partition(|(_, backup)| !backup);
        for (address, backup) in firsts.iter().chain(&backups) {
            let stays = self.places.get(address).filter(|at| **at < self.names && (!backup || counts[**at].1 > 0));
            if let Some(at) = stays {
                add(&mut counts, *at, *backup);
                places.insert(*address, *at);
            }
        }
        let newcomers = firsts.iter().chain(&backups).filter(|(address, _)| !places.contains_key(address));
        let newcomers: Vec<&(SocketAddr, bool)> = newcomers.collect();
        for (address, backup) in newcomers {
            let open = (0..self.names).filter(|at| !backup || counts[*at].1 > 0);
            let at = open.min_by_key(|at| {
                let count = counts[*at].0;
                (count >= MOST_AT_A_NAME, unfit(*at, count), count, *at)
            });
            let at = at.unwrap_or_default();
            add(&mut counts, at, *backup);
            places.insert(*address, at);
        }
        Self { places, ..self.clone() }
    }

    /// Whether no name has too many servers, or backups alone, and one of them is no backup.
    fn is_sound(&self, peers: &[(SocketAddr, bool)]) -> bool {
        let mut counts = vec![(0_usize, 0_usize); self.names];
        for (address, backup) in peers {
            let Some((all, firsts)) = self.places.get(address).and_then(|at| counts.get_mut(*at)) else { return false };
            *all += 1;
            *firsts += usize::from(!backup);
        }
        counts.iter().all(|(all, firsts)| *all <= MOST_AT_A_NAME && (*all == 0 || *firsts > 0))
            && counts.iter().any(|(_, firsts)| *firsts > 0)
    }
}

/// How the servers of one upstream are followed, in nginx's present shape if they fit into it. It `listens` at some of its
/// names.
///
/// # Errors
/// Why they cannot be.
pub fn arrange(
    before: Option<&Group>,
    upstream: &Upstream,
    peers: &[Peer],
    ability: Ability,
    listens: &dyn Fn(usize) -> bool,
) -> Result<Group, Why> {
    if let Some(why) = ability.why_not(upstream) {
        return Err(why);
    }
    let takers = peers.iter().filter_map(|peer| Some((address(peer, ability.ipv6)?, peer)));
    let takers: Vec<(SocketAddr, &Peer)> = takers.collect();
    let Some((_, first)) = takers.first() else { return Err(Why::Nobody) };
    let params = common(first.params);
    if takers.iter().any(|(_, peer)| common(peer.params) != params) {
        return Err(Why::Params);
    }
    let takers: Vec<(SocketAddr, bool)> = takers.iter().map(|(at, peer)| (*at, peer.params.backup)).collect();
    if takers.iter().all(|(_, backup)| *backup) {
        return Err(Why::Nobody);
    }
    let fitted = before.and_then(|group| group.fit(&takers, params, listens));
    Ok(fitted.unwrap_or_else(|| Group::new(before, &takers, params)))
}

/// The same for all upstreams, and why those are not among them that cannot be followed.
pub fn arrange_all(
    before: &Groups,
    upstreams: &Upstreams,
    peers: &Peers,
    ability: impl Fn(&Name) -> Ability,
) -> (Groups, BTreeMap<Name, Why>) {
    let (mut groups, mut whys) = (Groups::new(), BTreeMap::new());
    for (name, upstream) in upstreams {
        let peers = peers.get(name).map_or(&[][..], Vec::as_slice);
        match arrange(before.get(name), upstream, peers, ability(name), &|_| true) {
            Ok(group) => drop(groups.insert(name.clone(), group)),
            Err(why) => drop(whys.insert(name.clone(), why)),
        }
    }
    (groups, whys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::sticky::Cookie;
    use proptest::prelude::*;
    use std::num::NonZeroU16;

    const NEW: Ability = Ability { mode: LiveMode::Auto, nginx: Version(1, 30, 0), ipv6: true, fault: None };

    fn peer(number: u32, params: Params) -> Peer {
        let address = SocketAddr::from(([10, 0, 0, 1], u16::try_from(number).unwrap()));
        Peer::of(PeerAddress::Ip(address), params)
    }

    fn peers(numbers: impl IntoIterator<Item = u32>) -> Vec<Peer> {
        numbers.into_iter().map(|number| peer(number, Params::default())).collect()
    }

    fn arranged(before: Option<&Group>, peers: &[Peer]) -> Group {
        arrange(before, &Upstream::sample(), peers, NEW, &|_| true).unwrap()
    }

    #[test]
    fn what_cannot_be_told_takes_a_reload() {
        let with = |params: Params| peer(1, params);
        let failing = with(Params { max_fails: Some(2), ..Params::default() });
        let unix = Peer::of(PeerAddress::Unix("/a".to_owned()), Params::default());
        let six = Peer::of(PeerAddress::Ip("[::1]:80".parse().unwrap()), Params::default());
        let down = with(Params { down: true, ..Params::default() });
        let backup = with(Params { backup: true, ..Params::default() });
        let upstream = |balance: Balance, cookie: Option<&str>| Upstream {
            balance,
            sticky: cookie.map(|text| Cookie {
                name: "c".to_owned(),
                hash: text == "hash",
                secure: false,
                same_site: None,
                path: "/".to_owned(),
                domain: None,
                expires: None,
            }),
            ..Upstream::sample()
        };
        let hash = |consistent| Balance::Hash { key: "$uri".to_owned(), consistent };
        let plain = || upstream(Balance::RoundRobin, None);
        let old = Ability { nginx: Version(1, 27, 2), ..NEW };
        let middle = Ability { nginx: Version(1, 28, 0), ..NEW };
        let one = || peers([1]);
        for (what, upstream, peers, ability, why) in [
            ("plain", plain(), one(), NEW, None),
            ("least_conn", upstream(Balance::LeastConn, None), one(), NEW, None),
            ("random", upstream(Balance::Random, None), one(), NEW, None),
            ("ring", upstream(hash(true), None), one(), NEW, None),
            ("hash", upstream(hash(false), None), one(), NEW, Some(Why::Hash)),
            ("ip_hash", upstream(Balance::IpHash, None), one(), NEW, Some(Why::IpHash)),
            ("insisting", upstream(Balance::IpHash, None), one(), Ability { mode: LiveMode::On, ..NEW }, None),
            ("off", plain(), one(), Ability { mode: LiveMode::Off, ..NEW }, Some(Why::Off)),
            ("old", plain(), one(), old, Some(Why::OldNginx(old.nginx))),
            ("nginx's cookie", upstream(Balance::RoundRobin, Some("")), one(), NEW, None),
            ("our cookie", upstream(Balance::RoundRobin, Some("hash")), one(), NEW, Some(Why::Cookie)),
            ("no cookie of nginx's", upstream(Balance::RoundRobin, Some("")), one(), middle, Some(Why::Cookie)),
            ("unasked", plain(), one(), Ability { fault: Some(Why::Unasked), ..NEW }, Some(Why::Unasked)),
            ("the same parameters", plain(), vec![failing.clone()], NEW, None),
            ("others", plain(), vec![failing, peer(2, Params::default())], NEW, Some(Why::Params)),
            ("a socket too", plain(), vec![unix.clone(), peer(2, Params::default())], NEW, None),
            ("a socket alone", plain(), vec![unix], NEW, Some(Why::Nobody)),
            ("down", plain(), vec![down], NEW, Some(Why::Nobody)),
            ("IPv6", plain(), vec![six.clone()], NEW, None),
            ("without it", plain(), vec![six], Ability { ipv6: false, ..NEW }, Some(Why::Nobody)),
            ("backups alone", plain(), vec![backup], NEW, Some(Why::Nobody)),
            ("nobody", plain(), Vec::new(), NEW, Some(Why::Nobody)),
        ] {
            assert_eq!(arrange(None, &upstream, &peers, ability, &|_| true).err(), why, "{what}");
        }
    }

    /// How many servers stand at each name.
    fn counts(group: &Group) -> Vec<usize> {
        let mut counts = vec![0; group.names];
        group.places.values().for_each(|at| counts[*at] += 1);
        counts
    }

    #[test]
    fn an_upstream_may_grow_tenfold_before_nginx_reads_anything() {
        for (count, names, room) in
            [(1, 8, 5000), (90, 8, 5000), (500, 8, 5000), (1000, 12, 10_000), (5000, 56, 50_000)]
        {
            let group = arranged(None, &peers(1..=count));
            assert_eq!((group.names(), group.room()), (names, room), "{count}");
            let most = (10 * count.min(6000)).max(5000);
            let grown = arranged(Some(&group), &peers(1..=most));
            assert!(grown.has_shape_of(&group), "{count}");
            let shrunk = arranged(Some(&grown), &peers(1..=count));
            assert!(shrunk.has_shape_of(&group) && shrunk.places == group.places, "{count}");
        }
        let group = arranged(None, &peers(1..=90));
        assert!(!arranged(Some(&group), &peers(1..=5001)).has_shape_of(&group), "more than there is room for");
    }

    #[test]
    fn newcomers_stand_where_nginx_listens() {
        for (count, want) in [(1, [1, 0, 0, 0, 0, 0, 0, 0]), (10, [5, 5, 0, 0, 0, 0, 0, 0]), (64, [8; 8])] {
            assert_eq!(counts(&arranged(None, &peers(1..=count))), want, "{count}");
        }
        let group = arranged(None, &peers(1..=10));
        let grown = |count: u32, deaf: &[usize]| {
            let listens = |at: usize| !deaf.contains(&at);
            counts(&arrange(Some(&group), &Upstream::sample(), &peers(1..=count), NEW, &listens).unwrap())
        };
        assert_eq!(grown(11, &[]), [6, 5, 0, 0, 0, 0, 0, 0], "not at a free name, which would be free again soon");
        assert_eq!(grown(11, &[0]), [5, 6, 0, 0, 0, 0, 0, 0]);
        assert_eq!(grown(11, &[0, 1]), [5, 5, 1, 0, 0, 0, 0, 0], "unless it is the only one");
        assert_eq!(grown(11, &[0, 1, 2, 3, 4, 5, 6, 7]), [6, 5, 0, 0, 0, 0, 0, 0], "where it is to hear first");
        assert_eq!(grown(800, &[]), [100; 8], "a crowd is spread");
    }

    #[test]
    fn who_came_while_nginx_was_reloaded_stays_where_nginx_was_told() {
        let group = arranged(None, &peers(1..=3));
        let away = |at: usize| at != 0;
        let told = arrange(Some(&group), &Upstream::sample(), &peers(1..=4), NEW, &away).unwrap();
        let made = arranged(Some(&group), &[peers(1..=3), peers(5..=5)].concat());
        let adopted = made.with_places_of(&told);
        let live = arranged(Some(&adopted), &peers(1..=5));
        let stands = |group: &Group, number: u16| group.places[&SocketAddr::from(([10, 0, 0, 1], number))];
        assert_eq!((stands(&live, 4), stands(&live, 5)), (stands(&told, 4), stands(&adopted, 5)));
        assert_ne!(stands(&live, 4), 0);
    }

    #[test]
    fn who_comes_back_stands_where_nginx_listens() {
        let mut group = arranged(None, &peers(1..=3));
        group.forget_others(&peers(1..=2));
        let away = |at: usize| at != 0;
        let back = arrange(Some(&group), &Upstream::sample(), &peers(1..=3), NEW, &away).unwrap();
        assert_eq!(counts(&back), [2, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn backups_stand_with_others() {
        let backup = |number: u32| peer(number, Params { backup: true, ..Params::default() });
        let list = [peers(1..=9), vec![backup(10)]].concat();
        let group = arranged(None, &list);
        let stands = |number: u16| group.places[&SocketAddr::from(([10, 0, 0, 1], number))];
        let at = stands(10);
        assert!((1..=9).any(|number| stands(number) == at));
        let alone: Vec<Peer> = list
            .into_iter()
            .filter(|peer| {
                let PeerAddress::Ip(address) = peer.address else { return false };
                peer.params.backup || stands(address.port()) != at
            })
            .collect();
        let moved = arranged(Some(&group), &alone);
        assert_ne!(moved.places[&SocketAddr::from(([10, 0, 0, 1], 10))], at, "nginx would take it for no backup");
    }

    #[test]
    fn a_zone_tells_what_has_changed() {
        let name = Name::new("DYNAMIC").unwrap();
        let tell = |before: &zone::Zone, groups: &Groups, peers: &[Peer]| {
            before.next(groups, &Peers::from([(name.clone(), peers.to_vec())]))
        };
        let first = peers(1..=100);
        let groups = Groups::from([(name.clone(), arranged(None, &first))]);
        let zone = tell(&zone::Zone::default(), &groups, &first);
        let versions =
            |zone: &zone::Zone| zone.iter().map(|(name, set)| (name.to_owned(), set.version)).collect::<Vec<_>>();
        let want = |versions: [u64; 8]| (0..8).map(|at| (format!("{at}.dynamic"), versions[at])).collect::<Vec<_>>();
        assert_eq!(versions(&zone), want([1, 2, 3, 4, 5, 6, 7, 8]));
        assert!(zone.has("dynamic") && !zone.has("static"));
        assert_eq!(tell(&zone, &groups, &first), zone, "nothing has");
        let mut second = first.clone();
        second[0].params.weight = NonZeroU16::new(7);
        second[1].params.drain = true;
        let groups = Groups::from([(name.clone(), arranged(groups.get(&name), &second))]);
        let zone = tell(&zone, &groups, &second);
        assert_eq!(versions(&zone), want([9, 10, 3, 4, 5, 6, 7, 8]));
        assert_eq!(zone.get("0.dynamic").unwrap().servers[0].weight.get(), 7);
        assert_eq!(zone.get("1.dynamic").unwrap().servers.len(), 12, "who is drained gets no new requests");
    }

    #[test]
    fn labels_of_dns_are_short_enough() {
        let name = Name::new(&"A".repeat(64)).unwrap();
        assert_eq!(zone::part(&name, 12), format!("12.{0}.{0}", "a".repeat(32)));
        assert_eq!(zone::whole(&zone::part(&Name::new("MY_API").unwrap(), 0)), "0.my_api.nginit");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whoever_comes_and_goes_each_stands_at_one_name(
            lists in proptest::collection::vec(proptest::collection::btree_map(1_u32..400, any::<bool>(), 1..300), 1..6)
        ) {
            let mut before: Option<Group> = None;
            for list in lists {
                let list: Vec<Peer> = list.into_iter().map(|(number, backup)| {
                    peer(number, Params { backup: backup && number % 3 == 0, ..Params::default() })
                }).collect();
                if list.iter().all(|peer| peer.params.backup) {
                    continue;
                }
                let group = arranged(before.as_ref(), &list);
                let places: Vec<(usize, Served)> = list.iter().map(|peer| group.served(peer).unwrap()).collect();
                for at in 0..group.names() {
                    let here = places.iter().filter(|(place, _)| *place == at);
                    prop_assert!(here.clone().count() == 0 || here.clone().any(|(_, served)| !served.backup));
                    prop_assert!(here.count() <= MOST_AT_A_NAME);
                }
                if let Some(before) = before.filter(|before| before.has_shape_of(&group)) {
                    let firsts = list.iter().filter(|peer| !peer.params.backup).filter_map(|peer| address(peer, true));
                    for address in firsts.collect::<Vec<_>>() {
                        let now = group.places[&address];
                        prop_assert!(before.places.get(&address).is_none_or(|at| *at == now), "who stays stands still");
                    }
                }
                before = Some(group);
            }
        }
    }
}
