//! Who is there, by the lists and events of an agent, and which upstreams they are servers of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;

use super::{Event, Kind, Member};
use crate::ordered::InOrder;
use crate::upstream::{Address, Name, Params, Server, Upstream, Upstreams};

/// The tag that holds a member's port.
const PORT: &str = "port";

/// The tag that holds a member's weight.
const WEIGHT: &str = "weight";

/// The members of the cluster that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    members: BTreeMap<String, Member>,
    /// What came since a list was asked for.
    since: Option<Vec<Event>>,
    /// What was said of members.
    said: BTreeSet<String>,
}

impl Roster {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes in what an agent tells. Whoever left, failed or was given up is gone, also one that nobody
    /// knew; all else is there as it is now. Says whether that changed anything.
    pub fn on(&mut self, event: Event) -> bool {
        self.since.iter_mut().for_each(|since| since.push(event.clone()));
        self.take(event)
    }

    fn take(&mut self, event: Event) -> bool {
        let mut changed = false;
        for member in event.members {
            changed |= match event.kind {
                Kind::Join | Kind::Update => {
                    let new = self.members.get(&member.name) != Some(&member);
                    self.members.insert(member.name.clone(), member);
                    new
                }
                Kind::Leave | Kind::Failed | Kind::Reap => self.members.remove(&member.name).is_some(),
            };
        }
        changed
    }

    /// A list is asked for just now: what events tell from here on may be newer than it.
    pub fn asked(&mut self) {
        self.since = Some(Vec::new());
    }

    /// Takes in a list, and the events that came since it was asked for once more. Says whether that
    /// changed anything.
    pub fn reset(&mut self, members: Vec<Member>) -> bool {
        let before = std::mem::take(&mut self.members);
        self.members = members.into_iter().map(|member| (member.name.clone(), member)).into_map();
        for event in self.since.take().unwrap_or_default() {
            self.take(event);
        }
        self.members != before
    }

    /// The servers of each upstream that has any: the members of its role, each address once, in order.
    pub fn snapshot(&self, upstreams: &Upstreams) -> BTreeMap<Name, Vec<Server>> {
        let servers = |upstream: &Upstream| {
            let mut found = BTreeMap::new();
            for (address, weight) in self.of(upstream).filter_map(|seat| seat.server) {
                found.entry(address).or_insert(weight);
            }
            let params = |weight| Params { weight, ..Params::default() };
            found.into_iter().map(|(ip, weight)| Server { address: Address::Ip(ip), params: params(weight) }).collect()
        };
        let all = upstreams.iter().map(|(name, upstream)| (name.clone(), servers(upstream)));
        all.filter(|(_, servers): &(Name, Vec<Server>)| !servers.is_empty()).into_map()
    }

    /// What is to be said of members that are servers only in part or not at all, each time that it
    /// becomes so.
    pub fn take_notes(&mut self, upstreams: &Upstreams) -> Vec<String> {
        let of = |(name, upstream): (&Name, &Upstream)| -> Vec<String> {
            let notes = self.of(upstream).filter_map(|seat| seat.note);
            notes.map(|note| format!("{}: {note}", name.upstream())).collect()
        };
        let notes = upstreams.iter().flat_map(of).into_set();
        let new = notes.difference(&self.said).cloned().collect();
        self.said = notes;
        new
    }

    fn of(&self, upstream: &Upstream) -> impl Iterator<Item = Seat> {
        let members = self.members.values().filter(|member| member.role == upstream.serf_role);
        members.map(|member| Seat::of(member, upstream.port))
    }
}

/// What a member is in an upstream.
struct Seat {
    server: Option<(SocketAddr, Option<NonZeroU16>)>,
    note: Option<String>,
}

impl Seat {
    /// `port` is that of members that name none.
    fn of(member: &Member, port: NonZeroU16) -> Self {
        let tag = |name: &str| member.tags.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
        let note = |name: &str, text: &str, what: &str| {
            Some(format!("Serf's member {:?} has the tag {name}={text:?}, {what}", member.name))
        };
        // Nobody can be reached there, and nginx would ask itself.
        if member.address.is_unspecified() || member.address.is_multicast() {
            let what = format!("Serf's member {:?} has the address {}, it is left out", member.name, member.address);
            return Self { server: None, note: Some(what) };
        }
        let port = match tag(PORT).map(|text| (text, number(text))) {
            None => port,
            Some((_, Some(port))) => port,
            Some((text, None)) => {
                return Self { server: None, note: note(PORT, text, "which is no port: it is left out") };
            }
        };
        let at = SocketAddr::new(member.address, port.get());
        match tag(WEIGHT).map(|text| (text, number(text))) {
            None => Self { server: Some((at, None)), note: None },
            Some((_, Some(weight))) => Self { server: Some((at, Some(weight))), note: None },
            Some((text, None)) => {
                Self { server: Some((at, None)), note: note(WEIGHT, text, "which is no weight: it has that of all") }
            }
        }
    }
}

/// A number from 1 to 65535 in digits alone.
fn number(text: &str) -> Option<NonZeroU16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, address: &str, role: &str, tags: &[(&str, &str)]) -> Member {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Member { name: name.to_owned(), address: address.parse().unwrap(), role: role.to_owned(), tags }
    }

    fn event(kind: Kind, members: &[Member]) -> Event {
        Event { kind, members: members.to_vec() }
    }

    fn upstreams() -> Upstreams {
        let of = |role: &str, port| {
            let port = NonZeroU16::new(port).unwrap();
            Upstream { serf_role: role.to_owned(), port, ..Upstream::sample() }
        };
        let named = [("DYNAMIC", of("dynamic", 8080)), ("STATIC", of("static", 80)), ("SHOP", of("dynamic", 81))];
        named.map(|(name, upstream)| (Name::new(name).unwrap(), upstream)).into()
    }

    /// The servers of an upstream, as nginx is told of them.
    fn servers(roster: &Roster, name: &str) -> Vec<String> {
        let snapshot = roster.snapshot(&upstreams());
        let servers = snapshot.get(&Name::new(name).unwrap()).map(Vec::as_slice).unwrap_or_default();
        servers.iter().map(|server| format!("{}{}", server.address, server.params.to_nginx())).collect()
    }

    #[test]
    fn members_are_servers_by_role_and_port() {
        let mut roster = Roster::default();
        assert!(roster.on(event(
            Kind::Join,
            &[
                member("b", "10.0.0.2", "dynamic", &[]),
                member("a", "10.0.0.3", "dynamic", &[("port", "9090"), ("weight", "3")]),
                member("six", "fd00::1", "static", &[("port", "")]),
                member("proxy", "10.0.0.9", "lb", &[("port", "80")]),
                member("none", "10.0.0.8", "", &[]),
            ]
        )));
        assert_eq!(servers(&roster, "DYNAMIC"), ["10.0.0.2:8080", "10.0.0.3:9090 weight=3"]);
        assert_eq!(servers(&roster, "SHOP"), ["10.0.0.2:81", "10.0.0.3:9090 weight=3"]);
        assert_eq!(servers(&roster, "STATIC"), ["[fd00::1]:80"]);
        assert_eq!(roster.take_notes(&upstreams()), [""; 0]);
        assert_eq!(roster.len(), 5);
    }

    #[test]
    fn who_leaves_fails_or_is_given_up_is_gone() {
        for kind in [Kind::Leave, Kind::Failed, Kind::Reap] {
            let mut roster = Roster::default();
            let (a, b) = (member("a", "10.0.0.1", "dynamic", &[]), member("b", "10.0.0.2", "dynamic", &[]));
            assert!(roster.on(event(Kind::Join, &[a.clone(), b])));
            assert!(roster.on(event(kind, &[member("a", "10.9.9.9", "", &[])])), "its name counts");
            assert_eq!(servers(&roster, "DYNAMIC"), ["10.0.0.2:8080"]);
            assert!(!roster.on(event(kind, &[a])), "nobody knows it any more");
        }
    }

    #[test]
    fn the_last_one_of_a_name_counts() {
        let mut roster = Roster::default();
        let tagged = |port| member("a", "10.0.0.1", "dynamic", &[("port", port)]);
        roster.on(event(Kind::Join, &[tagged("1"), tagged("2")]));
        assert_eq!(servers(&roster, "DYNAMIC"), ["10.0.0.1:2"]);
        // Serf tells of an update twice.
        assert!(roster.on(event(Kind::Update, &[tagged("3")])));
        assert!(!roster.on(event(Kind::Update, &[tagged("3")])));
        assert_eq!(servers(&roster, "DYNAMIC"), ["10.0.0.1:3"]);
        assert!(roster.on(event(Kind::Join, &[member("a", "10.0.0.7", "static", &[])])), "back elsewhere");
        assert_eq!((servers(&roster, "DYNAMIC"), servers(&roster, "STATIC")), (vec![], vec!["10.0.0.7:80".into()]));
        assert!(roster.on(event(Kind::Update, &[member("new", "10.0.0.8", "static", &[])])), "an update is enough");
        assert_eq!(roster.len(), 2);
    }

    #[test]
    fn two_members_at_one_address_are_one_server() {
        let mut roster = Roster::default();
        let at = |name, weight| member(name, "10.0.0.1", "dynamic", &[("weight", weight)]);
        roster.on(event(Kind::Join, &[at("b", "2"), at("a", "1")]));
        assert_eq!(servers(&roster, "DYNAMIC"), ["10.0.0.1:8080 weight=1"]);
        roster.on(event(Kind::Leave, &[at("a", "1")]));
        assert_eq!(servers(&roster, "DYNAMIC"), ["10.0.0.1:8080 weight=2"]);
    }

    #[test]
    fn bad_tags_are_said_once_and_a_bad_port_is_no_server() {
        let mut roster = Roster::default();
        for (port, good) in [("0", false), ("65536", false), ("+1", false), ("8080;}", false), (" 65535 ", true)] {
            roster.on(event(Kind::Join, &[member("a", "10.0.0.1", "static", &[("port", port)])]));
            assert_eq!(!servers(&roster, "STATIC").is_empty(), good, "{port}");
            assert_eq!(roster.take_notes(&upstreams()).is_empty(), good, "{port}");
            assert_eq!(roster.take_notes(&upstreams()), [""; 0], "{port}");
        }
        roster.on(event(Kind::Join, &[member("a\n", "10.0.0.1", "static", &[("weight", "0")])]));
        assert_eq!(servers(&roster, "STATIC"), ["10.0.0.1:80", "10.0.0.1:65535"]);
        let note = "static_backend: Serf's member \"a\\n\" has the tag weight=\"0\", which is no weight: \
                    it has that of all";
        assert_eq!(roster.take_notes(&upstreams()), [note]);
        let gone = event(Kind::Leave, &[member("a\n", "10.0.0.1", "", &[])]);
        roster.on(gone);
        assert_eq!(roster.take_notes(&upstreams()), [""; 0]);
        roster.on(event(Kind::Join, &[member("a\n", "0.0.0.0", "static", &[])]));
        assert_eq!(servers(&roster, "STATIC"), ["10.0.0.1:65535"]);
        assert_eq!(roster.take_notes(&upstreams()).len(), 1, "it is back, and is said again");
    }

    #[test]
    fn a_list_takes_the_place_of_all() {
        let mut roster = Roster::default();
        let (a, b) = (member("a", "10.0.0.1", "static", &[]), member("b", "10.0.0.2", "static", &[]));
        roster.on(event(Kind::Join, &[a]));
        roster.asked();
        assert!(roster.reset(vec![b.clone()]));
        assert_eq!(servers(&roster, "STATIC"), ["10.0.0.2:80"]);
        assert!(!roster.reset(vec![b]), "the same again");
        assert!(roster.reset(Vec::new()) && roster.is_empty());
    }

    #[test]
    fn events_that_came_while_a_list_was_made_are_newer_than_it() {
        let mut roster = Roster::default();
        let one = |name: &str| member(name, "10.0.0.1", "static", &[]);
        let names = |roster: &Roster| roster.members.keys().cloned().collect::<Vec<_>>();
        roster.on(event(Kind::Join, &[one("old")]));
        roster.asked();
        roster.on(event(Kind::Join, &[one("came")]));
        roster.on(event(Kind::Failed, &[one("went")]));
        roster.reset(vec![one("old"), one("went")]);
        assert_eq!(names(&roster), ["came", "old"]);
        // What came before the question is in the list.
        roster.asked();
        roster.reset(vec![one("old")]);
        assert_eq!(names(&roster), ["old"]);
        roster.asked();
        roster.on(event(Kind::Join, &[one("lost")]));
        roster.asked();
        roster.reset(vec![one("old")]);
        assert_eq!(names(&roster), ["old"], "the first question was never answered");
    }
}
