//! Names of servers that lead elsewhere while nginx serves: the whole program against a DNS server that
//! does as it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;

use support::dns::{Dns, Says, addresses, alias, service, write_etc};
use support::{Backend, Nginit, Site, eventually, get};

/// A site whose static servers are those of `web.test`, on the same port of several addresses.
struct Web {
    site: Site,
    dns: Dns,
    port: u16,
}

impl Web {
    fn new(nginx: &std::path::Path) -> Self {
        let dns = Dns::start("127.0.0.53");
        write_etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n");
        let (mut site, port) = (Site::new(nginx), support::free_port());
        site.set("STATIC_BACKEND", format!("web.test:{port}"));
        site.set("STATIC_BALANCE", "round_robin");
        Self { site, dns, port }
    }

    /// A server at one address of loopback, by whose last number it is called.
    fn backend(&self, number: u8) -> Backend {
        Backend::start_at(&number.to_string(), SocketAddr::from(([127, 0, 1, number], self.port)))
    }

    /// Waits until this server answers, and no request before that is lost.
    fn moves_to(&self, nginit: &Nginit, name: &str) {
        let answered = support::within(support::PATIENCE, || {
            let answer = get(self.site.port, "/").unwrap();
            assert_eq!(answer.status, 200, "{}", nginit.report());
            (answer.header("X-Server") == Some(name)).then_some(())
        });
        assert!(answered.is_some(), "{name} does not answer\n{}", nginit.report());
    }

    /// Waits until the name was asked for a few times more.
    fn asks_on(&self) {
        let before = self.dns.asked("web.test");
        eventually("the name is asked for again", || (self.dns.asked("web.test") >= before + 4).then_some(()));
    }

    /// Waits until these are its servers.
    fn has(nginit: &Nginit, servers: &[&str]) {
        let wanted: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
        let seen = support::within(support::PATIENCE, || (nginit.servers() == wanted).then_some(()));
        assert!(seen.is_some(), "{:?} {}", nginit.servers(), nginit.report());
    }
}

#[test]
fn a_name_is_looked_up_at_the_start_and_at_a_reload() {
    own_network!();
    let nginx = nginx_or_skip!();
    let mut web = Web::new(&nginx);
    let (_one, _two) = (web.backend(1), web.backend(2));
    web.site.set("STATIC_RESOLVE", "interval=1h");
    web.dns.set("web.test", Says::Lies(addresses("web.test", 60, &["127.0.1.1"])));
    let nginit = web.site.start();
    assert_eq!(web.site.server().as_deref(), Some("1"));
    web.dns.set_addresses("web.test", 60, &["127.0.1.2"]);
    nginit.reload();
    web.moves_to(&nginit, "2");
    for says in [Says::Code(2), Says::Silence] {
        web.dns.set("web.test", says);
        nginit.reload();
        assert_eq!(web.site.server().as_deref(), Some("2"), "{}", nginit.report());
    }
    let said = "keeps its last addresses in static_backend: the DNS server 127.0.0.53 ";
    for why in ["says SERVFAIL", "does not answer"] {
        assert!(nginit.log().contains(&format!("{said}{why}")), "{}", nginit.report());
    }
}

#[test]
fn a_name_that_moves_is_followed_within_its_time_to_live() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let (_one, _two, _three) = (web.backend(1), web.backend(2), web.backend(3));
    web.dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    let nginit = web.site.start();
    web.dns.set_addresses("web.test", 1, &["127.0.1.2"]);
    web.moves_to(&nginit, "2");
    web.dns.set_addresses("web.test", 1, &["127.0.1.2", "127.0.1.3"]);
    web.moves_to(&nginit, "3");
    let mut records = vec![alias("web.test", 1, "other.test")];
    records.extend(addresses("other.test", 1, &["127.0.1.1"]));
    web.dns.set("web.test", Says::Records(records));
    web.moves_to(&nginit, "1");
}

#[test]
fn what_docker_says_is_followed_whatever_it_says_of_its_age() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let docker = Dns::start("127.0.0.11");
    write_etc("resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n");
    let (_one, _two) = (web.backend(1), web.backend(2));
    docker.set_addresses("web.test", 600, &["127.0.1.1"]);
    let nginit = web.site.start();
    docker.set_addresses("web.test", 600, &["127.0.1.2"]);
    web.moves_to(&nginit, "2");
}

#[test]
fn a_name_that_is_gone_twice_has_no_server_until_it_is_back() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let _one = web.backend(1);
    web.dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    let nginit = web.site.start();
    web.dns.set("web.test", Says::NoSuchName);
    eventually("nobody is left", || (get(web.site.port, "/").unwrap().status == 503).then_some(()));
    assert!(web.dns.asked("web.test") >= 3, "once is not enough\n{}", nginit.report());
    web.dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    eventually("it is back", || (web.site.server().as_deref() == Some("1")).then_some(()));
}

#[test]
fn a_name_that_was_never_there_comes_up() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let _one = web.backend(1);
    let _nginit = web.site.start();
    assert_eq!(get(web.site.port, "/").unwrap().status, 503);
    web.dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    eventually("it is there", || (web.site.server().as_deref() == Some("1")).then_some(()));
}

#[test]
fn a_server_that_fails_or_is_silent_changes_nothing() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let (_one, _two) = (web.backend(1), web.backend(2));
    web.dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    let nginit = web.site.start();
    for says in [Says::Code(2), Says::Code(5), Says::Silence, Says::LiesAlone, Says::HangsOverTcp] {
        web.dns.set("web.test", says.clone());
        web.asks_on();
        assert_eq!(web.site.server().as_deref(), Some("1"), "{says:?}\n{}", nginit.report());
        // Back to the pace of one who is answered.
        web.dns.set_addresses("web.test", 1, &["127.0.1.1"]);
        web.asks_on();
    }
    web.dns.set("web.test", Says::Lies(addresses("web.test", 1, &["127.0.1.2"])));
    web.moves_to(&nginit, "2");
    assert!(!nginit.log().contains("10.66.66.66"), "{}", nginit.report());
}

#[test]
fn a_thousand_addresses_come_and_go() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let _all = Backend::start_at("all", SocketAddr::from(([0, 0, 0, 0], web.port)));
    let ips: Vec<String> = (0..1000).map(|n| format!("127.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    web.dns.set_addresses("web.test", 1, &ips);
    let nginit = web.site.start();
    assert_eq!(nginit.servers().len(), 1000);
    web.dns.set_addresses("web.test", 1, &ips[..2]);
    Web::has(&nginit, &[&format!("127.1.0.1:{}", web.port), &format!("127.1.0.2:{}", web.port)]);
    web.dns.set_addresses("web.test", 1, &ips);
    eventually("all are back", || (nginit.servers().len() == 1000).then_some(()));
    web.moves_to(&nginit, "all");
}

#[test]
fn the_records_of_a_service_are_followed() {
    own_network!();
    let nginx = nginx_or_skip!();
    let mut web = Web::new(&nginx);
    let (one, two) = (web.backend(1), web.backend(2));
    let (name, port) = ("_http._tcp.web.test", web.port);
    let records = |all: &[(u16, u16, u16, &str)]| all.iter().map(|data| service(name, 1, *data)).collect::<Vec<_>>();
    web.site.set("STATIC_BACKEND", format!("srv:{name}"));
    web.dns.set_addresses("b.test", 1, &["127.0.1.2"]);
    let along = addresses("a.test", 1, &["127.0.1.1"]);
    web.dns.set(name, Says::Along(records(&[(10, 5, port, "a.test"), (20, 0, port, "b.test")]), along.clone()));
    let nginit = web.site.start();
    Web::has(&nginit, &[&format!("{} weight=5", one.entry()), &format!("{} backup", two.entry())]);
    web.moves_to(&nginit, "1");
    web.dns.set(name, Says::Along(records(&[(10, 1, port, "a.test"), (10, 3, port, "b.test")]), along));
    Web::has(&nginit, &[&one.entry(), &format!("{} weight=3", two.entry())]);
    web.moves_to(&nginit, "2");
    web.dns.set_addresses("b.test", 1, &["127.0.1.3"]);
    web.dns.set(name, Says::Records(records(&[(10, 1, port, "b.test")])));
    Web::has(&nginit, &[&format!("127.0.1.3:{port}")]);
    web.dns.set(name, Says::Records(records(&[(0, 0, 0, ".")])));
    eventually("there is no such service", || (get(web.site.port, "/").unwrap().status == 503).then_some(()));
}

#[test]
fn a_line_of_the_file_of_hosts_is_followed() {
    own_network!();
    let nginx = nginx_or_skip!();
    let web = Web::new(&nginx);
    let (_one, _two) = (web.backend(1), web.backend(2));
    write_etc("hosts", "127.0.1.1 web.test\n");
    let nginit = web.site.start();
    assert_eq!(web.site.server().as_deref(), Some("1"));
    write_etc("hosts", "127.0.1.2 web.test\n");
    web.moves_to(&nginit, "2");
}
