//! The client's address behind proxies, and who is believed, on real nginx.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use rustix::net::{AddressFamily, SocketType};
use support::{Backend, Nginit, Site, eventually};

/// What a server got: each header once, `-` for none. Its own loopback address is a proxy's, the
/// others are not.
fn told(site: &Site, from: &str, text: &str) -> Told {
    let answer = raw(site.port, from, text);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let header = |name: &str| {
        let found: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).collect();
        assert!(found.len() <= 1, "{name} twice: {body}");
        found.first().map_or("-", |value| value).to_owned()
    };
    Told {
        real_ip: header("X-Real-IP"),
        forwarded_for: header("X-Forwarded-For"),
        proto: header("X-Forwarded-Proto"),
        host: header("X-Forwarded-Host"),
        port: header("X-Forwarded-Port"),
        forwarded: header("Forwarded"),
        server: body.lines().next().unwrap_or_default().to_owned(),
    }
}

#[derive(Debug)]
struct Told {
    real_ip: String,
    forwarded_for: String,
    proto: String,
    host: String,
    port: String,
    forwarded: String,
    server: String,
}

impl Told {
    fn all(&self) -> [&str; 6] {
        [&self.real_ip, &self.forwarded_for, &self.proto, &self.host, &self.port, &self.forwarded]
    }
}

/// What comes back for `text`, sent from the loopback address `from`.
fn raw(port: u16, from: &str, text: &str) -> String {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((from.parse::<Ipv4Addr>().unwrap(), 0))).unwrap();
    rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n{headers}\r\n")
}

fn site(nginx: &Path, servers: &str, trusted: &str) -> Site {
    let mut site = Site::new(nginx);
    site.set("STATIC_BACKEND", servers);
    site.set("NGINIT_TRUSTED_PROXIES", trusted);
    site
}

const CLAIMS: &str = "X-Forwarded-For: 1.2.3.4, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: www.test\r\nX-Forwarded-Port: 443\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n";

#[test]
fn a_trusted_proxy_is_believed_and_nobody_else() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let mut site = site(&nginx, &backend.entry(), "127.0.0.1 10.0.0.0/8");
    site.set("NGINIT_ACCESS_LOG", "text");
    let nginit = site.start();

    let trusted = told(&site, "127.0.0.1", &get(CLAIMS));
    assert_eq!(
        trusted.all(),
        ["203.0.113.9", "1.2.3.4, 203.0.113.9, 127.0.0.1", "https", "www.test", "443", "for=1.2.3.4"],
        "{}",
        nginit.report()
    );
    let stranger = told(&site, "127.0.0.2", &get(CLAIMS));
    assert_eq!(stranger.all(), ["127.0.0.2", "127.0.0.2", "http", "shop.test", "-", "-"]);
    let chain = told(&site, "127.0.0.1", &get("X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.1.1\r\n"));
    assert_eq!(chain.all()[..2], ["203.0.113.9", "6.6.6.6, 203.0.113.9, 10.1.1.1, 127.0.0.1"], "past its own proxies");
    let silent = told(&site, "127.0.0.1", &get(""));
    assert_eq!(silent.all(), ["127.0.0.1", "127.0.0.1", "http", "shop.test", "-", "-"]);
    let odd = told(&site, "127.0.0.1", &get("X-Forwarded-Proto: javascript\r\nX-Forwarded-For: junk\r\n"));
    assert_eq!((odd.proto.as_str(), odd.real_ip.as_str()), ("http", "127.0.0.1"));

    let logged = |text: &str| eventually("the access log is written", || nginit.log().contains(text).then_some(()));
    logged("203.0.113.9 - - [");
    logged("127.0.0.2 - - [");
    assert!(!nginit.log().contains("1.2.3.4 - - ["));
}

#[test]
fn another_header_can_name_the_client() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let mut site = site(&nginx, &backend.entry(), "127.0.0.1");
    site.set("NGINIT_REAL_IP_HEADER", "CF-Connecting-IP");
    let _nginit = site.start();
    let claims = get("CF-Connecting-IP: 2001:db8::1\r\nX-Forwarded-For: 2001:db8::1\r\n");
    assert_eq!(told(&site, "127.0.0.1", &claims).all()[..2], ["2001:db8::1", "2001:db8::1, 127.0.0.1"]);
    assert_eq!(told(&site, "127.0.0.2", &claims).all()[..2], ["127.0.0.2", "127.0.0.2"]);
}

#[test]
fn without_trusted_proxies_headers_are_added_to() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let site = site(&nginx, &backend.entry(), "");
    let _nginit = site.start();
    let told = told(&site, "127.0.0.1", &get(CLAIMS));
    assert_eq!(told.all()[..4], ["127.0.0.1", "1.2.3.4, 203.0.113.9, 127.0.0.1", "http", "shop.test"]);
}

#[test]
fn the_proxy_protocol_counts_from_trusted_proxies_alone() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let mut site = site(&nginx, &backend.entry(), "127.0.0.1");
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{};proxy_protocol", site.port));
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.logs("generation 1 answers");
    let sent = |headers: &str| format!("PROXY TCP4 203.0.113.9 192.0.2.1 4000 80\r\n{}", get(headers));
    let want = ["203.0.113.9", "203.0.113.9", "http", "shop.test", "-", "-"];
    assert_eq!(told(&site, "127.0.0.1", &sent("")).all(), want, "{}", nginit.report());
    assert_eq!(told(&site, "127.0.0.1", &sent(CLAIMS)).all(), want, "headers are the client's, not the proxy's");
    let stranger = ["127.0.0.2", "127.0.0.2", "http", "shop.test", "-", "-"];
    assert_eq!(told(&site, "127.0.0.2", &sent(CLAIMS)).all(), stranger);
    assert_eq!(raw(site.port, "127.0.0.1", &get("")), "", "who does not speak it is sent away");
}

#[test]
fn ip_hash_goes_by_the_real_address() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = site(&nginx, &format!("{} {}", a.entry(), b.entry()), "127.0.0.1");
    let _nginit = site.start();
    let server =
        |client: usize| told(&site, "127.0.0.1", &get(&format!("X-Forwarded-For: 203.0.{client}.1\r\n"))).server;
    let homes: Vec<String> = (0..30).map(server).collect();
    assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 2, "{homes:?}");
    assert_eq!((0..30).map(server).collect::<Vec<_>>(), homes, "each keeps its own");
}
