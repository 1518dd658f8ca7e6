//! Requests for which nginx has no server, because it has just started, or because the list of servers changes
//! while they are under way (nginx/nginx#1656): with real nginx, the rendered configuration, and a DNS server
//! of the test's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nginit::inputs::{Env, Mode};
use nginit::live::{self, Ability, Groups};
use nginit::nginx::{self, facts::Version};
use nginit::peers;
use nginit::reload::candidate;
use nginit::render::{self, Input};
use nginit::settings::LiveMode;
use nginit::upstream::{Resolved, Sources};

use support::dns::{Data, Query, Record, service};
use support::scripted::Scripted;
use support::{Answer, Nginit, Site, eventually, free_port, request};

/// The name at which nginx finds the servers of `STATIC_BACKEND`.
const NAME: &str = "_http._tcp.0.static.nginit";

/// The name that says when it should have found them, and the one that says when it has.
const GATE: &str = "gate.static.nginit";
const GATE1: &str = "gate1.static.nginit";

const SRV: u16 = 33;

/// Most bytes that nginx takes over UDP.
const UDP: usize = 4096;

#[derive(Default)]
struct State {
    servers: Vec<SocketAddr>,
    /// Nothing is said of servers yet.
    is_silent: bool,
    held: Vec<(Query, SocketAddr)>,
    /// How often it was asked for each name.
    asked: BTreeMap<String, usize>,
}

/// A DNS server that knows one list of servers and answers at once.
#[derive(Clone)]
struct Lists {
    state: Arc<Mutex<State>>,
    udp: Arc<UdpSocket>,
}

impl Lists {
    fn start(servers: &[SocketAddr]) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = Arc::new(UdpSocket::bind(tcp.local_addr().unwrap()).unwrap());
        let state = State { servers: servers.to_vec(), is_silent: servers.is_empty(), ..State::default() };
        let lists = Self { state: Arc::new(state.into()), udp };
        let over_udp = lists.clone();
        thread::spawn(move || over_udp.serve_udp());
        let over_tcp = lists.clone();
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let lists = over_tcp.clone();
                thread::spawn(move || lists.serve_tcp(stream));
            }
        });
        lists
    }

    fn serve_udp(&self) {
        let mut buffer = [0; UDP];
        while let Ok((length, client)) = self.udp.recv_from(&mut buffer) {
            let query = Query::read(&buffer[..length], false, client.port()).unwrap();
            let mut state = self.state.lock().unwrap();
            *state.asked.entry(query.name.clone()).or_default() += 1;
            if query.kind == SRV && query.name != NAME {
                // The other names are free.
                continue;
            }
            if state.is_silent && [NAME, GATE, GATE1].contains(&query.name.as_str()) {
                state.held.push((query, client));
                continue;
            }
            self.udp.send_to(&answer(&query, &state.servers), client).unwrap();
        }
    }

    fn serve_tcp(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut bytes).ok()?;
            let query = Query::read(&bytes, true, 0)?;
            let message = answer(&query, &self.state.lock().unwrap().servers);
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &message].concat()).ok()?;
        }
    }

    fn asked(&self, name: &str) -> usize {
        self.state.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }

    /// Lets requests go on although nothing is said of servers yet.
    fn open_gate(&self) {
        let held = std::mem::take(&mut self.state.lock().unwrap().held);
        let (gates, lists): (Vec<_>, Vec<_>) = held.into_iter().partition(|(query, _)| query.name == GATE);
        self.state.lock().unwrap().held.extend(lists);
        for (query, client) in gates {
            self.udp.send_to(&answer(&query, &[]), client).unwrap();
        }
    }

    /// Says who the servers are after a silence, and opens the gates once nginx knows.
    fn begin(&self, servers: &[SocketAddr]) {
        let held = {
            let mut state = self.state.lock().unwrap();
            state.is_silent = false;
            state.servers = servers.to_vec();
            std::mem::take(&mut state.held)
        };
        let (lists, gates): (Vec<_>, Vec<_>) = held.into_iter().partition(|(query, _)| query.name == NAME);
        for (query, client) in lists {
            self.udp.send_to(&answer(&query, servers), client).unwrap();
        }
        eventually("all addresses are asked for", || {
            servers.iter().all(|server| self.asked(&target(*server)) > 0).then_some(())
        });
        thread::sleep(Duration::from_millis(50));
        for (query, client) in gates {
            self.udp.send_to(&answer(&query, servers), client).unwrap();
        }
    }

    /// Says who the servers are from now on, and waits until nginx has taken it in: it asks anew a while later.
    fn change(&self, servers: &[SocketAddr]) {
        self.state.lock().unwrap().servers = servers.to_vec();
        self.is_heard();
    }

    fn is_heard(&self) {
        let before = self.asked(NAME);
        eventually("nginx asks twice", || (self.asked(NAME) >= before + 2).then_some(()));
    }
}

/// The name of a server, which is its address.
fn target(server: SocketAddr) -> String {
    server.to_string()
}

fn answer(query: &Query, servers: &[SocketAddr]) -> Vec<u8> {
    if query.kind != SRV {
        let address = query.name.parse::<SocketAddr>().ok();
        let record =
            |address: SocketAddr| Record { owner: query.name.clone(), ttl: 3600, data: Data::Address(address.ip()) };
        let records: Vec<Record> = address.into_iter().map(record).collect();
        return query.answer(if records.is_empty() { 3 } else { 0 }, &records, &[]);
    }
    let mut message = query.answer(0, &[], &[]);
    message[6..8].copy_from_slice(&u16::try_from(servers.len()).unwrap().to_be_bytes());
    for server in servers {
        // The name of the question, which stands at 12, instead of this record's own.
        let record = service("", 0, (0, 1, server.port(), &target(*server))).bytes();
        message.extend([0xc0, 12].iter().chain(&record[1..]));
    }
    if message.len() <= UDP || query.tcp {
        return message;
    }
    message = query.answer(0, &[], &[]);
    message[2] |= 2;
    message
}

/// nginx, if it can follow servers.
fn able_nginx() -> Option<(std::path::PathBuf, Version)> {
    let path = support::nginx()?;
    let version = nginx::find(path.to_str().unwrap()).unwrap().facts.version;
    if !version.has_resolve() {
        eprintln!("skipped: nginx {version} follows no servers");
        return None;
    }
    Some((path, version))
}

/// A site whose upstream has some servers, whom nginx does not learn of here.
fn site(nginx: &Path, servers: usize) -> Site {
    let mut site = Site::new(nginx);
    let list: Vec<String> = (1..=servers).map(|n| format!("10.0.0.{n}")).collect();
    site.set("STATIC_BACKEND", list.join(" "));
    site.set("STATIC_BALANCE", "round_robin");
    site
}

/// nginx on this site, which asks `lists`; `has_chain` false leaves out what a request does that found no server.
fn run<'a>(site: &'a Site, version: Version, lists: &Lists, pages: &[u16], has_chain: bool) -> Nginit<'a> {
    let read = candidate::inputs(&Env::new(site.env.clone()), Mode::Strict).map_err(|failure| failure.reason).unwrap();
    let upstreams = &read.settings.upstreams;
    let peers = peers::peers(upstreams, &Resolved::new());
    let ability = Ability { mode: LiveMode::Auto, nginx: version, ipv6: true, fault: None };
    let (groups, whys) = live::arrange_all(&Groups::new(), upstreams, &peers, |_| ability);
    assert!(groups.len() == 1 && whys.is_empty(), "{whys:?}");
    let input = Input {
        settings: &read.settings,
        peers: &peers,
        sources: &Sources::new(),
        env: &BTreeMap::new(),
        nginx: version,
        ipv6: true,
        ca_bundle: None,
        generation: 1,
        error_pages: &pages.iter().copied().collect::<BTreeSet<u16>>(),
        clients: None,
        one_worker: true,
        groups: &groups,
        resolver: Some(lists.udp.local_addr().unwrap()),
    };
    let mut text = render::render(input).unwrap()["default.conf"].clone();
    let (chain, plain) = ("error_page 502 = @nginit_$nginit_next;", "error_page 502 @nginit_502;");
    assert!(text.contains(chain), "{text}");
    if !has_chain {
        text = text.replace(chain, plain);
    }
    site.write("conf.d/default.conf", &text);
    let mut command = Command::new(&site.nginx);
    command.arg("-p").arg(site.dir.path()).arg("-c").arg(site.path("nginx.conf")).args(["-g", "daemon off;"]);
    command.stdin(Stdio::null());
    let running = Nginit::spawn(site, command);
    running.answers();
    running
}

fn send(port: u16, method: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("{method} /a?b=c HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}");
    request(port, &format!("{head}\r\n{body}")).unwrap()
}

const CLOSE: &str = "Connection: close\r\n";

const WEBSOCKET: &str = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";

/// A server that answers with what it was asked.
fn good() -> Scripted {
    Scripted::start(|head, body, stream| {
        if head.contains("\r\nUpgrade: websocket\r\n") {
            let _ = stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi");
            return false;
        }
        let line = head.lines().next().unwrap();
        let text = format!("{line}|{}", String::from_utf8_lossy(body));
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes()).is_ok()
    })
}

#[test]
fn a_request_that_comes_before_nginx_knows_any_server_waits_for_them() {
    let Some((nginx, version)) = able_nginx() else { return };
    for has_chain in [false, true] {
        let (server, lists) = (good(), Lists::start(&[]));
        let site = site(&nginx, 2);
        let running = run(&site, version, &lists, &[], has_chain);
        let large = "x".repeat(100_000);
        let requests = [
            ("GET", CLOSE, ""),
            ("POST", CLOSE, "small"),
            ("PUT", CLOSE, large.as_str()),
            ("BREW", CLOSE, "tea"),
            ("GET", WEBSOCKET, ""),
        ];
        let began = Instant::now();
        thread::scope(|scope| {
            let port = site.port;
            let sent = requests.map(|(method, headers, body)| scope.spawn(move || send(port, method, headers, body)));
            eventually("all found none", || (running.log().matches("no live upstreams").count() == 5).then_some(()));
            thread::sleep(Duration::from_millis(100));
            assert_eq!(sent.iter().all(|one| !one.is_finished()), has_chain);
            lists.begin(&[server.address]);
            for (sent, (method, headers, body)) in sent.into_iter().zip(requests) {
                let answer = sent.join().unwrap();
                let expected =
                    if headers == WEBSOCKET { "hi".into() } else { format!("{method} /a?b=c HTTP/1.1|{body}") };
                let status = if headers == WEBSOCKET { 101 } else { 200 };
                let expected = if has_chain { (status, expected) } else { (502, answer.body.clone()) };
                assert_eq!((answer.status, answer.body), expected, "{method}\n{}", running.report());
            }
        });
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(server.asked(), if has_chain { 5 } else { 0 }, "each of them once");
        assert_eq!(lists.asked(GATE), usize::from(has_chain), "one question for all");
        assert!(!running.log().contains("gate.static.nginit could not"), "{}", running.report());
    }
}

#[test]
fn a_request_that_goes_on_too_early_waits_a_second_time() {
    let Some((nginx, version)) = able_nginx() else { return };
    let (server, lists) = (good(), Lists::start(&[]));
    let site = site(&nginx, 2);
    let running = run(&site, version, &lists, &[], true);
    thread::scope(|scope| {
        let port = site.port;
        let sent = ["GET", "POST"].map(|method| scope.spawn(move || send(port, method, CLOSE, "body")));
        eventually("both wait", || (running.log().matches("no live upstreams").count() == 2).then_some(()));
        eventually("at the gate", || (lists.asked(GATE) == 1).then_some(()));
        lists.open_gate();
        eventually("and again", || (lists.asked(GATE1) == 1).then_some(()));
        lists.begin(&[server.address]);
        for (sent, method) in sent.into_iter().zip(["GET", "POST"]) {
            let answer = sent.join().unwrap();
            let expected = (200, format!("{method} /a?b=c HTTP/1.1|body"));
            assert_eq!((answer.status, answer.body), expected, "{}", running.report());
        }
    });
    assert_eq!((server.asked(), lists.asked(GATE)), (2, 1), "{}", running.report());
}

#[test]
fn a_server_that_has_answered_is_not_asked_again() {
    let Some((nginx, version)) = able_nginx() else { return };
    let server = Scripted::start(|_, _, stream| {
        let head = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(100_000));
        stream.write_all(head.as_bytes()).is_ok()
    });
    let lists = Lists::start(&[server.address]);
    let site = site(&nginx, 2);
    let running = run(&site, version, &lists, &[], true);
    lists.is_heard();
    for (number, method) in (1..).zip(["PUT", "DELETE", "GET"]) {
        let answer = send(site.port, method, CLOSE, "");
        assert_eq!((answer.status, server.asked()), (502, number), "{method}\n{}", running.report());
    }
}

#[test]
fn who_waited_is_passed_on_with_path_and_body_over_http_2_too_and_is_logged_as_one_request() {
    let Some((nginx, version)) = able_nginx() else { return };
    let (server, lists, h2c) = (good(), Lists::start(&[]), free_port());
    let mut site = site(&nginx, 2);
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{} 127.0.0.1:{h2c};http2", site.port));
    site.set("NGINIT_ACCESS_LOG", "json");
    site.set("NGINIT_ACCESS_LOG_FLUSH", "0");
    site.set("STATIC_ROUTE", "/api/");
    site.set("STATIC_REWRITE", "strip");
    let running = run(&site, version, &lists, &[], true);
    let body = "x".repeat(50_000);
    let args = ["--http2-prior-knowledge", "-d", &body];
    let answer = thread::scope(|scope| {
        let sent = scope.spawn(|| support::tls::http(h2c, "/api/a?b=c", &args));
        eventually("it found none", || running.log().contains("no live upstreams").then_some(()));
        lists.begin(&[server.address]);
        sent.join().unwrap()
    });
    assert!(answer.head.starts_with("HTTP/2 200"), "{answer:?}\n{}", running.report());
    assert_eq!(answer.body, format!("POST /a?b=c HTTP/1.1|{body}"));
    let name = "\"upstream\":\"static_backend\",\"upstream_addr\":\"static_backend : , ";
    eventually("it is logged", || running.log().contains(name).then_some(()));
    assert_eq!(running.log().matches("\"uri\":\"/api/a?b=c\",\"protocol\":\"HTTP/2.0\",\"status\":200").count(), 1);
}

/// What a server does with a request while the list changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    /// It does not take the connection.
    Nothing,
    /// It takes the request, and closes the connection without an answer.
    Closes,
}

#[test]
fn a_request_whose_server_fails_while_the_list_changes_goes_to_one_of_the_new_list_unless_it_was_sent_and_must_not_be_twice()
 {
    let Some((nginx, version)) = able_nginx() else { return };
    // Whether it is one server alone that is left: then nginx does not take a next one at all.
    let cases = [
        ("GET", Does::Closes, false, false, 502),
        ("GET", Does::Closes, false, true, 200),
        ("PUT", Does::Closes, false, true, 200),
        ("POST", Does::Closes, false, true, 502),
        ("BREW", Does::Closes, false, true, 502),
        ("GET", Does::Nothing, false, false, 502),
        ("GET", Does::Nothing, false, true, 200),
        ("POST", Does::Nothing, false, false, 502),
        ("POST", Does::Nothing, false, true, 200),
        ("GET", Does::Closes, true, false, 502),
        ("GET", Does::Closes, true, true, 200),
        ("POST", Does::Closes, true, true, 502),
        ("BREW", Does::Closes, true, true, 502),
    ];
    support::side_by_side(cases, |(method, does, alone, has_chain, expected)| {
        let told = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&told);
        let bad = Scripted::start(move |_, _, _| {
            eventually("the list has changed", || waits.load(Ordering::SeqCst).then_some(()));
            false
        });
        let deaf = Deaf::new();
        let bad_address = if does == Does::Closes { bad.address } else { deaf.address };
        let (old, new) = (good(), good());
        let servers = [new.address, old.address];
        let lists = Lists::start(&[bad_address, old.address]);
        let mut site = site(&nginx, 2);
        site.set("STATIC_TIMEOUT", "connect=5s");
        let running = run(&site, version, &lists, &[], has_chain);
        lists.is_heard();
        // One to each server.
        let mut answers: Vec<Answer> = thread::scope(|scope| {
            let port = site.port;
            let sent = [(), ()].map(|()| scope.spawn(move || send(port, method, CLOSE, "body")));
            eventually("one is answered", || (old.asked() == 1).then_some(()));
            if does == Does::Closes {
                eventually("one is not", || (bad.asked() == 1).then_some(()));
            }
            lists.change(if alone { &servers[1..] } else { &servers });
            told.store(true, Ordering::SeqCst);
            sent.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        answers.sort_by_key(|answer| answer.status);
        let what = format!("{method} {does:?} {alone} {has_chain}\n{}", running.report());
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, expected], "{what}");
        assert_eq!(old.asked() + new.asked(), if expected == 200 { 2 } else { 1 }, "{what}");
        let body = format!("{method} /a?b=c HTTP/1.1|body");
        assert!(answers.iter().filter(|answer| answer.status == 200).all(|answer| answer.body == body), "{what}");
    });
}

/// A place where connections are neither taken nor refused: as many wait as may.
struct Deaf {
    address: SocketAddr,
    _waiting: Vec<TcpStream>,
    _listener: TcpListener,
}

impl Deaf {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let waiting = (0..3).map_while(connect).collect();
        Self { address, _waiting: waiting, _listener: listener }
    }
}

#[test]
fn where_no_server_of_any_list_answers_the_page_is_that_of_a_502_and_comes_at_once() {
    let Some((nginx, version)) = able_nginx() else { return };
    for with_page in [false, true] {
        let dead = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let lists = Lists::start(&dead);
        let mut site = site(&nginx, 2);
        std::fs::create_dir(site.path("pages")).unwrap();
        site.write("pages/502.html", "the operator's");
        site.set("NGINIT_ERROR_PAGES", site.path("pages"));
        let running = run(&site, version, &lists, if with_page { &[502] } else { &[] }, true);
        lists.is_heard();
        for round in 0..5 {
            for method in ["GET", "POST", "BREW"] {
                let began = Instant::now();
                let answer = send(site.port, method, CLOSE, "x");
                let page = if with_page { "the operator's" } else { "No server answered this request" };
                assert_eq!(answer.status, 502, "{round}\n{}", running.report());
                assert!(answer.body.contains(page), "{round}: {}", answer.body);
                assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            }
        }
        // Once nginx has given both up, it asks whether there are others.
        assert!(lists.asked(GATE) > 5, "{}", running.report());
        std::fs::remove_file(site.path("pages/502.html")).unwrap();
        let answer = send(site.port, "GET", CLOSE, "");
        assert!(answer.status == 502 && answer.body.contains("No server answered"), "{answer:?}");
    }
}

#[test]
fn as_many_servers_as_there_is_room_for_fit_into_nginx_s_memory() {
    let Some((nginx, version)) = able_nginx() else { return };
    let room = live::MOST_AT_A_NAME;
    // The longest addresses there are.
    let address = |n: usize| {
        let ip =
            Ipv6Addr::new(0x2001, 0xdb8, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, u16::try_from(n + 0x1000).unwrap());
        SocketAddr::new(IpAddr::V6(ip), 65535)
    };
    let all: Vec<SocketAddr> = (0..room).map(address).collect();
    let lists = Lists::start(&all[..1]);
    let site = site(&nginx, 2);
    let running = run(&site, version, &lists, &[], true);
    // One question for each newcomer at once, and a socket holds not many more.
    for count in (100..=room).step_by(100) {
        lists.change(&all[..count]);
    }
    let known = || all.iter().filter(|server| lists.asked(&target(**server)) > 0).count();
    assert_eq!(known(), room, "{}", running.report());
    assert!(!running.log().contains("memory exhausted"), "{}", running.report());
}
