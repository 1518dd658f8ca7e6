//! Names looked up, once and again and again, against a DNS server that does as it is told, each in a
//! network of its own with the system's files to match.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nginit::dns::{Answer, Followed, Outcome, follow, look_up_all};
use nginit::upstream::{HostName, Lookup, Target};
use support::dns::{A, AAAA, Dns, SRV, Says, addresses, alias, service, write_etc};
use support::{PATIENCE, eventually, within};
use tokio::sync::watch;

fn host(name: &str) -> Lookup {
    Lookup::Host(HostName::new(name).unwrap())
}

fn srv(name: &str) -> Lookup {
    Lookup::Srv(HostName::new(name).unwrap())
}

fn ask(lookup: Lookup, ipv6: bool) -> Answer {
    look_up_all(BTreeSet::from([lookup.clone()]), ipv6).remove(&lookup).unwrap()
}

/// A target as a list would have it: address, and port, weight, and whether it is a backup.
fn shown(target: &Target) -> String {
    let srv = target.srv.map(|srv| format!(" {} {}{}", srv.port, srv.weight, if srv.backup { " backup" } else { "" }));
    format!("{}{}", target.ip, srv.unwrap_or_default())
}

fn found(answer: &Answer) -> Vec<String> {
    match &answer.outcome {
        Outcome::Found(targets) => targets.iter().map(shown).collect(),
        other => panic!("{other:?}"),
    }
}

fn failure(answer: &Answer) -> &str {
    match &answer.outcome {
        Outcome::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_file_of_hosts_comes_before_dns_and_localhost_needs_neither() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    write_etc("hosts", "10.0.0.1 web.test alias\nfd00::9 web.test six.test\n");
    dns.set_addresses("web.test", 60, &["10.0.0.9"]);
    dns.set_addresses("six.test", 60, &["10.0.0.6"]);
    assert_eq!(found(&ask(host("web.test"), false)), ["10.0.0.1"]);
    assert_eq!(found(&ask(host("Web.test"), true)), ["10.0.0.1", "fd00::9"]);
    assert_eq!(found(&ask(host("localhost"), false)), ["127.0.0.1"]);
    assert_eq!(found(&ask(host("a.localhost"), true)), ["127.0.0.1", "::1"]);
    assert_eq!(dns.queries(), []);
    assert_eq!(found(&ask(host("six.test"), false)), ["10.0.0.6"], "no use of an address that cannot be reached");
}

#[test]
fn both_families_are_asked_for_if_both_are_of_use() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    dns.set_addresses("web.test", 7, &["10.0.0.2", "fd00::2", "10.0.0.1", "10.0.0.2"]);
    let answer = ask(host("web.test"), true);
    assert_eq!(
        (found(&answer), answer.again.as_secs()),
        (vec!["10.0.0.1".into(), "10.0.0.2".into(), "fd00::2".into()], 7)
    );
    let kinds: BTreeSet<u16> = dns.queries().iter().map(|query| query.kind).collect();
    assert_eq!(kinds, [A, AAAA].into());
    dns.set_addresses("four.test", 7, &["10.0.0.2", "fd00::2"]);
    assert_eq!(found(&ask(host("four.test"), false)), ["10.0.0.2"]);
    assert_eq!(dns.asked("four.test"), 1);
    dns.set("slow.test", Says::SilenceTo(AAAA, addresses("slow.test", 60, &["10.0.0.3"])));
    assert_eq!(found(&ask(host("slow.test"), true)), ["10.0.0.3"], "one family does not hold up the other");
}

#[test]
fn search_domains_are_tried_as_the_dots_of_a_name_say() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    write_etc("resolv.conf", "nameserver 127.0.0.53\nsearch a.test b.test\noptions ndots:2\n");
    dns.set_addresses("web.b.test", 60, &["10.0.0.1"]);
    assert_eq!(found(&ask(host("web"), false)), ["10.0.0.1"]);
    dns.set_addresses("x.y", 60, &["10.0.0.2"]);
    assert_eq!(found(&ask(host("x.y"), false)), ["10.0.0.2"]);
    dns.set_addresses("x.y.z", 60, &["10.0.0.3"]);
    assert_eq!(found(&ask(host("x.y.z"), false)), ["10.0.0.3"]);
    let order: Vec<String> = dns.queries().into_iter().map(|query| query.name).collect();
    assert_eq!(order, ["web.a.test", "web.b.test", "x.y.a.test", "x.y.b.test", "x.y", "x.y.z"]);
    assert_eq!(ask(host("no.such.name"), false).outcome, Outcome::NoSuchName);
    // A domain that nobody can tell of hides no name of the next one, and no such name is then not certain.
    dns.set("web.a.test", Says::Code(2));
    assert_eq!(found(&ask(host("web"), false)), ["10.0.0.1"]);
    dns.set("web.b.test", Says::NoSuchName);
    assert_eq!(failure(&ask(host("web"), false)), "the DNS server 127.0.0.53 says SERVFAIL");
}

#[test]
fn servers_are_asked_in_turn_until_one_can_tell() {
    own_network!();
    let (first, second, third) = (Dns::start("127.0.0.53"), Dns::start("127.0.0.54"), Dns::start("::1"));
    let servers = "nameserver 127.0.0.52\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 127.0.0.54\n";
    write_etc("resolv.conf", &format!("{servers}options timeout:1\n"));
    first.set("web.test", Says::Code(5));
    third.set_addresses("web.test", 60, &["10.0.0.1"]);
    assert_eq!(found(&ask(host("web.test"), false)), ["10.0.0.1"]);
    first.set("web.test", Says::Silence);
    assert_eq!(found(&ask(host("web.test"), false)), ["10.0.0.1"]);
    third.set("web.test", Says::NoSuchName);
    assert_eq!(ask(host("web.test"), false).outcome, Outcome::NoSuchName);
    assert_eq!(second.queries(), [], "a fourth server is none");
}

#[test]
fn a_server_may_be_of_ipv6_and_good_for_one_link_alone() {
    own_network!();
    let address = std::net::SocketAddrV6::new("fe80::53".parse().unwrap(), 53, 0, 1);
    let dns = eventually("the address is there", || {
        std::net::UdpSocket::bind(address).ok().map(drop).map(|()| Dns::start_at(address.into()))
    });
    write_etc("resolv.conf", "nameserver fe80::53%lo\n");
    dns.set_addresses("web.test", 60, &["10.0.0.1"]);
    assert_eq!(found(&ask(host("web.test"), false)), ["10.0.0.1"]);
}

#[test]
fn nobody_and_no_answer_are_two_things() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let names = ["gone.test", "empty.test", "sick.test", "silent.test", "web.test", "hangs.test"];
    dns.set_addresses("web.test", 60, &["10.0.0.1"]);
    dns.set("empty.test", Says::Records(Vec::new()));
    dns.set("sick.test", Says::Code(2));
    dns.set("silent.test", Says::Silence);
    dns.set("hangs.test", Says::HangsOverTcp);
    write_etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n");
    let mut answers = look_up_all(names.into_iter().map(host).collect(), true);
    let mut outcome = |name: &str| answers.remove(&host(name)).unwrap();
    assert_eq!(
        (outcome("gone.test").outcome, outcome("empty.test").outcome),
        (Outcome::NoSuchName, Outcome::NoSuchName)
    );
    assert_eq!(failure(&outcome("sick.test")), "the DNS server 127.0.0.53 says SERVFAIL");
    assert_eq!(failure(&outcome("silent.test")), "the DNS server 127.0.0.53 does not answer");
    assert_eq!(failure(&outcome("hangs.test")), "the DNS server 127.0.0.53 does not answer");
    assert_eq!(found(&outcome("web.test")), ["10.0.0.1"]);
    write_etc("resolv.conf", "nameserver 127.0.0.1\n");
    let answer = ask(host("web.test"), false);
    assert!(failure(&answer).starts_with("the DNS server 127.0.0.1 cannot be asked: "), "{answer:?}");
}

#[test]
fn all_of_them_take_no_longer_than_their_deadline() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    write_etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:30\n");
    let names: Vec<String> = (0..300).map(|n| format!("n{n}.test")).collect();
    names.iter().for_each(|name| dns.set(name, Says::Silence));
    let answers = look_up_all(names.iter().map(|name| host(name)).collect(), false);
    assert_eq!(answers.len(), 300);
    assert!(answers.values().all(|answer| failure(answer) == "no answer in time"));
}

#[test]
fn a_thousand_addresses_come_over_tcp() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let ips: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
    dns.set_addresses("web.test", 60, &ips.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(found(&ask(host("web.test"), false)).into_iter().collect::<BTreeSet<_>>(), ips.into_iter().collect());
    assert_eq!(dns.queries().iter().map(|query| query.tcp).collect::<Vec<_>>(), [false, true]);
    write_etc("resolv.conf", "nameserver 127.0.0.53\noptions use-vc\n");
    dns.set_addresses("vc.test", 60, &["10.0.0.1"]);
    assert_eq!(found(&ask(host("vc.test"), false)), ["10.0.0.1"]);
    assert!(dns.queries()[2].tcp);
}

#[test]
fn lies_are_not_believed_and_the_truth_after_them_is() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    dns.set("web.test", Says::Lies(addresses("web.test", 60, &["10.0.0.1"])));
    assert_eq!(found(&ask(host("web.test"), true)), ["10.0.0.1"]);
    dns.set("web.test", Says::LiesAlone);
    write_etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n");
    assert_eq!(failure(&ask(host("web.test"), true)), "the DNS server 127.0.0.53 does not answer");
}

#[test]
fn nobody_can_guess_the_next_question() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let names = (0..200).map(|n| host(&format!("n{n}.test"))).collect();
    look_up_all(names, false);
    let queries = dns.queries();
    let distinct = |of: fn(&support::dns::Query) -> u16| queries.iter().map(of).collect::<BTreeSet<_>>().len();
    let steps: BTreeSet<u16> = queries.windows(2).map(|pair| pair[1].id.wrapping_sub(pair[0].id)).collect();
    assert_eq!(queries.len(), 200);
    assert!(distinct(|q| q.id) > 190 && steps.len() > 190, "ids: {} steps: {}", distinct(|q| q.id), steps.len());
    assert!(distinct(|q| q.port) > 150, "ports: {}", distinct(|q| q.port));
}

#[test]
fn aliases_lead_on() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let mut records = vec![alias("web.test", 9, "b.test"), alias("b.test", 8, "c.test")];
    records.extend(addresses("c.test", 60, &["10.0.0.1"]));
    records.extend(addresses("d.test", 60, &["10.66.66.66"]));
    dns.set("web.test", Says::Records(records));
    let answer = ask(host("web.test"), true);
    assert_eq!((found(&answer), answer.again.as_secs()), (vec!["10.0.0.1".to_owned()], 8));
}

#[test]
fn services_have_ports_weights_and_priorities() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let name = "_http._tcp.web.test";
    let records = [(10, 5, 81, "a.test"), (10, 0, 82, "b.test"), (20, 1, 83, "a.test"), (10, 1, 84, "none.test")]
        .map(|data| service(name, 60, data));
    dns.set(name, Says::Along(records.into(), addresses("a.test", 60, &["10.0.0.1", "fd00::1"])));
    dns.set_addresses("b.test", 4, &["10.0.0.2", "10.0.0.3"]);
    let answer = ask(srv(name), true);
    let all = [
        "10.0.0.1 81 5",
        "10.0.0.1 83 1 backup",
        "10.0.0.2 82 1",
        "10.0.0.3 82 1",
        "fd00::1 81 5",
        "fd00::1 83 1 backup",
    ];
    assert_eq!((found(&answer), answer.again.as_secs()), (all.map(str::to_owned).into(), 4));
    assert_eq!(dns.asked("a.test"), 0, "its addresses were sent along");
    dns.set(name, Says::Records(vec![service(name, 60, (0, 0, 0, "."))]));
    assert_eq!(ask(srv(name), true).outcome, Outcome::NoSuchName);
    assert_eq!(ask(srv("_no._tcp.web.test"), true).outcome, Outcome::NoSuchName);
    dns.set("sick.test", Says::Code(2));
    dns.set(name, Says::Records(vec![service(name, 60, (0, 0, 80, "sick.test"))]));
    assert_eq!(failure(&ask(srv(name), false)), "sick.test: the DNS server 127.0.0.53 says SERVFAIL");
    assert!(dns.queries().iter().any(|query| query.kind == SRV));
}

/// Names that are followed, and what was told of them.
struct Follow {
    names: watch::Sender<Arc<[Followed]>>,
    told: Arc<Mutex<Vec<(Lookup, Answer)>>>,
}

impl Follow {
    fn start(names: &[(&str, Option<u64>)], ipv6: bool) -> Self {
        let (tx, rx) = watch::channel(Arc::from([]));
        let told: Arc<Mutex<Vec<(Lookup, Answer)>>> = Arc::default();
        let tell = {
            let told = Arc::clone(&told);
            move |lookup, answer| {
                told.lock().unwrap().push((lookup, answer));
                true
            }
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(follow(rx, ipv6, tell));
        });
        let follow = Self { names: tx, told };
        follow.set(names);
        follow
    }

    fn set(&self, names: &[(&str, Option<u64>)]) {
        let one = |(name, interval): &(&str, Option<u64>)| {
            let lookup = name.strip_prefix("srv:").map_or_else(|| host(name), srv);
            Followed { lookup, interval: interval.map(Duration::from_secs) }
        };
        self.names.send(names.iter().map(one).collect()).unwrap();
    }

    /// What was told of a name.
    fn all(&self, name: &str) -> Vec<Answer> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(lookup, _)| lookup.name().as_str() == name).map(|(_, answer)| answer.clone()).collect()
    }

    /// Waits until this is what was told last of a name.
    fn says(&self, name: &str, what: impl Fn(&Outcome) -> bool) -> Answer {
        let last = || self.all(name).pop().filter(|answer| what(&answer.outcome));
        within(PATIENCE, last).unwrap_or_else(|| panic!("{name}: {:?}", self.all(name)))
    }

    fn finds(&self, name: &str, ips: &[&str]) -> Answer {
        let wanted: Vec<String> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        self.says(
            name,
            |outcome| matches!(outcome, Outcome::Found(t) if t.iter().map(shown).eq(wanted.iter().cloned())),
        )
    }
}

#[test]
fn a_name_that_moves_is_followed() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    dns.set_addresses("web.test", 1, &["10.0.0.1"]);
    let follow = Follow::start(&[("web.test", None)], false);
    assert_eq!(follow.finds("web.test", &["10.0.0.1"]).again, Duration::from_secs(1));
    dns.set_addresses("web.test", 0, &["10.0.0.2", "10.0.0.3"]);
    assert_eq!(follow.finds("web.test", &["10.0.0.2", "10.0.0.3"]).again, Duration::from_secs(1));
    dns.set_addresses("web.test", 86400, &["10.0.0.4"]);
    assert_eq!(follow.finds("web.test", &["10.0.0.4"]).again, Duration::from_secs(30));
    write_etc("hosts", "10.0.0.5 other.test\n");
    follow.set(&[("other.test", None)]);
    follow.finds("other.test", &["10.0.0.5"]);
    write_etc("hosts", "10.0.0.6 other.test\n");
    follow.finds("other.test", &["10.0.0.6"]);
}

#[test]
fn what_docker_says_is_good_for_a_second_and_the_operator_knows_better() {
    own_network!();
    let dns = Dns::start("127.0.0.11");
    write_etc("resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n");
    dns.set_addresses("web", 600, &["10.0.0.1"]);
    dns.set_addresses("rare", 600, &["10.0.0.2"]);
    let follow = Follow::start(&[("web", None), ("rare", Some(900))], false);
    assert_eq!(follow.finds("web", &["10.0.0.1"]).again, Duration::from_secs(1));
    assert_eq!(follow.finds("rare", &["10.0.0.2"]).again, Duration::from_secs(900));
    dns.set_addresses("rare", 600, &["10.0.0.3"]);
    follow.set(&[("rare", Some(1))]);
    assert_eq!(follow.finds("rare", &["10.0.0.3"]).again, Duration::from_secs(1), "it counts at once");
}

#[test]
fn a_name_that_is_gone_is_asked_for_again_soon() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let follow = Follow::start(&[("web.test", None)], false);
    eventually("three answers", || (follow.all("web.test").len() >= 3).then_some(()));
    let all = follow.all("web.test");
    assert_eq!(all[..3].iter().map(|answer| answer.again.as_secs()).collect::<Vec<_>>(), [1, 2, 4]);
    assert!(all.iter().all(|answer| answer.outcome == Outcome::NoSuchName));
    dns.set_addresses("web.test", 1, &["10.0.0.1"]);
    follow.finds("web.test", &["10.0.0.1"]);
}

#[test]
fn a_family_that_fails_keeps_its_addresses_and_one_that_is_gone_does_not() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    dns.set_addresses("web.test", 1, &["10.0.0.1", "fd00::1"]);
    let follow = Follow::start(&[("web.test", None)], true);
    follow.finds("web.test", &["10.0.0.1", "fd00::1"]);
    dns.set("web.test", Says::FailsFor(AAAA, addresses("web.test", 1, &["10.0.0.2"])));
    follow.finds("web.test", &["10.0.0.2", "fd00::1"]);
    dns.set("web.test", Says::SilenceTo(AAAA, addresses("web.test", 1, &["10.0.0.3"])));
    follow.finds("web.test", &["10.0.0.3", "fd00::1"]);
    dns.set_addresses("web.test", 1, &["10.0.0.4"]);
    follow.finds("web.test", &["10.0.0.4"]);
    dns.set("web.test", Says::FailsFor(AAAA, addresses("web.test", 1, &["10.0.0.5"])));
    follow.finds("web.test", &["10.0.0.5"]);
    dns.set("web.test", Says::Code(2));
    follow.says("web.test", |outcome| matches!(outcome, Outcome::Failed(_)));
}

#[test]
fn a_target_that_fails_keeps_its_addresses() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let name = "_http._tcp.web.test";
    let records = [(0, 1, 81, "a.test"), (0, 1, 82, "b.test")].map(|data| service(name, 1, data));
    dns.set(name, Says::Records(records.to_vec()));
    dns.set_addresses("a.test", 1, &["10.0.0.1"]);
    dns.set_addresses("b.test", 1, &["10.0.0.2"]);
    let follow = Follow::start(&[(&format!("srv:{name}"), None)], false);
    follow.finds(name, &["10.0.0.1 81 1", "10.0.0.2 82 1"]);
    dns.set("a.test", Says::Code(2));
    dns.set_addresses("b.test", 1, &["10.0.0.3"]);
    follow.finds(name, &["10.0.0.1 81 1", "10.0.0.3 82 1"]);
    dns.set("a.test", Says::NoSuchName);
    follow.finds(name, &["10.0.0.3 82 1"]);
    dns.set(name, Says::Along(records.to_vec(), addresses("a.test", 1, &["10.0.0.4"])));
    follow.finds(name, &["10.0.0.3 82 1", "10.0.0.4 81 1"]);
}

#[test]
fn the_set_of_names_may_change_at_any_time() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    dns.set_addresses("a.test", 1, &["10.0.0.1"]);
    dns.set("b.test", Says::Silence);
    dns.set_addresses("c.test", 1, &["10.0.0.3"]);
    let follow = Follow::start(&[("a.test", None), ("b.test", None)], false);
    follow.finds("a.test", &["10.0.0.1"]);
    eventually("the silent one is asked for", || (dns.asked("b.test") > 0).then_some(()));
    follow.set(&[("c.test", None)]);
    follow.finds("c.test", &["10.0.0.3"]);
    let (a, b) = (dns.asked("a.test"), dns.asked("b.test"));
    let c = follow.all("c.test").len();
    eventually("the third is followed on", || (follow.all("c.test").len() > c + 2).then_some(()));
    assert_eq!((dns.asked("a.test"), dns.asked("b.test")), (a, b), "nobody wants them any more");
    dns.set_addresses("b.test", 1, &["10.0.0.2"]);
    follow.set(&[("b.test", None), ("c.test", None)]);
    follow.finds("b.test", &["10.0.0.2"]);
}

#[test]
fn other_servers_are_asked_when_the_file_says_so() {
    own_network!();
    let (one, other) = (Dns::start("127.0.0.53"), Dns::start("127.0.0.54"));
    one.set_addresses("web.test", 1, &["10.0.0.1"]);
    other.set_addresses("web.test", 1, &["10.0.0.2"]);
    let follow = Follow::start(&[("web.test", None)], false);
    follow.finds("web.test", &["10.0.0.1"]);
    write_etc("resolv.conf", "nameserver 127.0.0.54\n");
    follow.finds("web.test", &["10.0.0.2"]);
}

#[test]
fn many_names_take_turns() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    let names: Vec<String> = (0..150).map(|n| format!("n{n}.test")).collect();
    names.iter().for_each(|name| dns.set_addresses(name, 1, &["10.0.0.1"]));
    let all: Vec<(&str, Option<u64>)> = names.iter().map(|name| (name.as_str(), None)).collect();
    let follow = Follow::start(&all, false);
    eventually("each was asked for twice", || names.iter().all(|name| follow.all(name).len() >= 2).then_some(()));
    let queries = dns.queries();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    queries.iter().for_each(|query| *counts.entry(&query.name).or_default() += 1);
    assert!(counts.values().all(|count| *count <= 4), "nobody is left behind: {counts:?}");
    // Fifty a second, and half of that time for a machine that counts late.
    let (first, last) = (queries[0].at, queries[299].at);
    assert!(last - first > Duration::from_secs(3), "{:?} for 300 questions", last - first);
}

#[test]
fn it_ends_when_nobody_listens() {
    own_network!();
    let dns = Dns::start("127.0.0.53");
    dns.set_addresses("web.test", 1, &["10.0.0.1"]);
    let (names, rx) = watch::channel(Arc::from([Followed { lookup: host("web.test"), interval: None }]));
    drop(names);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = Mutex::new(0);
    runtime.block_on(follow(rx, false, |_, _| {
        *told.lock().unwrap() += 1;
        *told.lock().unwrap() < 2
    }));
    assert_eq!(*told.lock().unwrap(), 2, "also where the set can change no more");
}
