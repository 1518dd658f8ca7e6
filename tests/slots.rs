//! ip_hash keeps a client on its server while other servers come and go, over reloads and restarts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket};
use rustix::process::Signal;
use support::{Backend, Nginit, PATIENCE, Site, eventually};

/// What ip_hash looks at of an IPv4 address is its first three octets.
const CLIENTS: u16 = 300;

/// The server that each client gets.
type Mapping = BTreeMap<Ipv4Addr, String>;

/// The server that answers a client with this address.
fn server_of(client: Ipv4Addr, port: u16) -> String {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
    bind(&socket, &SocketAddr::V4(SocketAddrV4::new(client, 0))).unwrap();
    connect(&socket, &SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let server = answer.lines().find_map(|line| line.strip_prefix("X-Server: "));
    server.unwrap_or_else(|| panic!("no server answered {client}: {answer}")).to_owned()
}

fn mapping(site: &Site) -> Mapping {
    let clients = (0..CLIENTS).map(|n| Ipv4Addr::new(127, u8::try_from(n / 20 + 1).unwrap(), (n % 20) as u8, 1));
    clients.map(|client| (client, server_of(client, site.port))).collect()
}

/// The clients that have another server than `before`, and the servers that these had.
fn moved(before: &Mapping, after: &Mapping) -> (usize, BTreeSet<String>) {
    let moved: Vec<&String> = before.iter().filter(|(c, s)| after[*c] != **s).map(|(_, server)| server).collect();
    (moved.len(), moved.into_iter().cloned().collect())
}

fn list<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    backends.into_iter().map(|backend| backend.entry() + "\n").collect()
}

fn stop(nginit: &Nginit<'_>) {
    nginit.signal(Signal::QUIT);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
}

fn ten() -> Vec<Backend> {
    (0..10).map(|n| Backend::start(&format!("server-{n}"))).collect()
}

#[test]
fn removing_one_of_ten_moves_its_own_clients_alone_and_it_comes_back_to_its_slot() {
    let nginx = nginx_or_skip!();
    let (ten, newcomer) = (ten(), Backend::start("newcomer"));
    let mut site = Site::new(&nginx);
    site.set_list(&list(&ten));
    let nginit = site.start();
    let first = mapping(&site);
    let of = |server: &str| first.values().filter(|s| *s == server).count();
    assert!(ten.iter().all(|backend| of(&backend.name) > 10), "every server has clients: {first:?}");

    let without = |gone: usize| ten.iter().enumerate().filter(move |(n, _)| *n != gone).map(|(_, backend)| backend);
    nginit.reload_list(&list(without(3)));
    let line = format!("    server {} down; # gone, keeps its slot\n", ten[3].entry());
    assert!(site.conf_d()["default.conf"].contains(&line), "{}", nginit.report());
    assert!(nginit.log().contains("upstreams=1 servers=9 "), "who is gone does not count\n{}", nginit.log());
    let removed = mapping(&site);
    assert_eq!(moved(&first, &removed), (of("server-3"), BTreeSet::from(["server-3".to_owned()])));

    nginit.reload_list(&list(ten.iter().rev()));
    assert_eq!(mapping(&site), first, "it is back, at the other end of the list\n{}", nginit.report());

    nginit.reload_list(&list([&newcomer].into_iter().chain(without(7))));
    let replaced: Mapping =
        first.iter().map(|(c, s)| (*c, if s == "server-7" { "newcomer".to_owned() } else { s.clone() })).collect();
    assert_eq!(mapping(&site), replaced, "a newcomer takes over\n{}", nginit.report());
}

#[test]
fn half_of_the_servers_may_go_and_each_client_still_has_one_server() {
    let nginx = nginx_or_skip!();
    let ten = ten();
    let mut site = Site::new(&nginx);
    site.set_list(&list(&ten));
    let nginit = site.start();
    let first = mapping(&site);
    nginit.reload_list(&list(ten.iter().step_by(2)));
    let half = mapping(&site);
    let gone: BTreeSet<String> = ten.iter().skip(1).step_by(2).map(|backend| backend.name.clone()).collect();
    assert_eq!(moved(&first, &half).1, gone, "{}", nginit.report());
    assert_eq!(mapping(&site), half, "nginx found a server for each, and took no turns");
}

#[test]
fn a_restart_keeps_the_slots() {
    let nginx = nginx_or_skip!();
    let ten = ten();
    let mut site = Site::new(&nginx);
    site.set_list(&list(&ten));
    let nginit = site.start();
    let first = mapping(&site);
    nginit.reload_list(&list(&ten[1..]));
    let removed = mapping(&site);
    stop(&nginit);

    site.write("list", &list(ten[1..].iter().rev()));
    let nginit = site.start();
    assert_eq!(mapping(&site), removed, "{}", nginit.report());
    let (status, printed) = site.run(&["render"]);
    assert_eq!(status, Some(0));
    let upstream = |text: &str| text[text.find("\nupstream ").unwrap()..].split("\n}\n").next().unwrap().to_owned();
    assert_eq!(upstream(&printed), upstream(&site.conf_d()["default.conf"]), "render prints what a start writes");
    stop(&nginit);

    site.write("list", &list(ten.iter().rev()));
    let nginit = site.start();
    assert_eq!(mapping(&site), first, "{}", nginit.report());
}

/// The file with the slots, wherever it is.
fn state(site: &Site) -> Vec<std::path::PathBuf> {
    let dirs = [site.path("conf.d"), site.path("conf.d/.nginit")];
    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect()
}

#[test]
fn a_broken_state_file_costs_a_warning_and_no_more() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&list([&a, &b]));
    let nginit = site.start();
    let file = eventually("the file is there", || state(&site).pop());
    let written = fs::read_to_string(&file).unwrap();
    stop(&nginit);
    let evil = written.replacen(&a.entry(), "127.0.0.1:1; } server { listen 1", 1);
    assert_ne!(evil, written);
    for bad in [evil.as_str(), "", "{"] {
        fs::write(&file, bad).unwrap();
        let nginit = site.start();
        assert_eq!(nginit.count("nginit warn "), 1, "{}", nginit.log());
        assert!(nginit.log().contains(" is ignored, servers may get other slots: "), "{}", nginit.log());
        eventually("it is written anew", || (fs::read_to_string(&file).ok()? == written).then_some(()));
        stop(&nginit);
    }
}

#[test]
fn without_ip_hash_there_is_no_state_file() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&list([&a, &b]));
    site.set("STATIC_BALANCE", "round_robin");
    let nginit = site.start();
    nginit.reload_list(&list([&a]));
    stop(&nginit);
    assert!(state(&site).is_empty(), "{:?}", state(&site));
    assert!(!site.conf_d()["default.conf"].contains("# gone,"), "{}", nginit.report());
}
