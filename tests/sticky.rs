//! A cookie keeps each client on its server, in nginx's own way and in ours, over servers that die, are
//! drained, removed and added, over reloads and a restart.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;

use rustix::process::Signal;
use support::{Answer, Backend, PATIENCE, Site, eventually, get, request};

/// Enough for every server to have a hundred.
const CLIENTS: usize = 1_000;

/// Requests on one connection, so that both workers get some.
const A_CONNECTION: usize = 50;

/// A client, as a browser is one.
#[derive(Debug, Clone, Default)]
struct Client {
    /// What it sends in `Cookie`.
    cookie: Option<String>,
    /// The server that answered last.
    server: String,
}

/// What came of one request by each client.
#[derive(Debug, Default)]
struct Round {
    /// Clients that had another server before: that one and the new one.
    moved: Vec<(String, String)>,
    /// Every `Set-Cookie`.
    set: Vec<String>,
}

impl Round {
    /// The servers that lost clients.
    fn left(&self) -> BTreeSet<&str> {
        self.moved.iter().map(|(from, _)| from.as_str()).collect()
    }

    /// The servers that gained clients.
    fn entered(&self) -> BTreeSet<&str> {
        self.moved.iter().map(|(_, to)| to.as_str()).collect()
    }
}

/// One request on an open connection, answered.
fn ask(stream: &mut BufReader<TcpStream>, cookie: Option<&str>) -> Answer {
    let cookie = cookie.map_or_else(String::new, |cookie| format!("Cookie: theme=dark; {cookie}; lang=en\r\n"));
    let text = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n");
    stream.get_mut().write_all(text.as_bytes()).unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the connection ends: {head}");
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    let mut answer = Answer { status, head, body: String::new() };
    let length: usize = answer.header("Content-Length").unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer
}

/// Lets every client ask once, and keep the cookie that it gets. Nobody may see an error.
fn round(site: &Site, clients: &mut [Client]) -> Round {
    let mut round = Round::default();
    for clients in clients.chunks_mut(A_CONNECTION) {
        let stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        for client in clients {
            let answer = ask(&mut stream, client.cookie.as_deref());
            assert_eq!(answer.status, 200, "{client:?} {answer:?}");
            let server = answer.header("X-Server").unwrap().to_owned();
            if !client.server.is_empty() && client.server != server {
                round.moved.push((client.server.clone(), server.clone()));
            }
            client.server = server;
            if let Some(set) = answer.header("Set-Cookie") {
                client.cookie = Some(set.split(';').next().unwrap().to_owned());
                round.set.push(set.to_owned());
            }
        }
    }
    round
}

fn list<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    backends.into_iter().map(|backend| backend.entry() + ";fail_timeout=1s\n").collect()
}

fn count(clients: &[Client]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    clients.iter().for_each(|client| *counts.entry(client.server.as_str()).or_default() += 1);
    counts
}

/// Ends a server, and waits until nobody listens there.
fn kill(backend: Backend) -> SocketAddr {
    let address = backend.address;
    drop(backend);
    eventually("the port is closed", || TcpStream::connect(address).is_err().then_some(()));
    address
}

/// One round in which only the clients of `server` move, to others, and one in which all stay.
#[track_caller]
fn moves_only_those_of(server: &str, site: &Site, clients: &mut [Client], sets_once: bool, report: &str) {
    let its_own = count(clients)[server];
    let first = round(site, clients);
    assert_eq!((first.left(), first.moved.len()), (BTreeSet::from([server]), its_own), "{report}");
    if sets_once {
        assert!(first.entered().len() > 2, "they are spread: {:?}\n{report}", first.entered());
        assert_eq!(first.set.len(), its_own, "each has a new home\n{report}");
    }
    stays(site, clients, sets_once, report);
}

#[track_caller]
fn stays(site: &Site, clients: &mut [Client], sets_once: bool, report: &str) {
    let round = round(site, clients);
    assert_eq!(round.moved, [], "all stay\n{report}");
    assert!(!sets_once || round.set.is_empty(), "{:?}\n{report}", round.set);
}

/// A thousand clients through everything that happens to servers.
fn a_thousand_clients(sticky: &str) {
    let nginx = nginx_or_skip!();
    let mut backends: Vec<Backend> = (0..8).map(|n| Backend::start(&format!("server-{n}"))).collect();
    let mut site = Site::new(&nginx);
    site.set_list(&list(&backends));
    site.set("STATIC_STICKY", sticky);
    let nginit = site.start();
    let native = site.conf_d()["default.conf"].contains("    sticky cookie home ");
    assert!(!native || !sticky.ends_with(";hash"), "{}", nginit.report());

    let mut clients = vec![Client::default(); CLIENTS];
    let first = round(&site, &mut clients);
    assert_eq!(first.set.len(), CLIENTS);
    for set in &first.set {
        let mut attributes: Vec<String> = set.split("; ").skip(1).map(str::to_ascii_lowercase).collect();
        attributes.retain(|attribute| !attribute.starts_with("expires="));
        let wanted = ["max-age=3600", "domain=example.org", "httponly", "secure", "samesite=lax", "path=/"];
        assert_eq!(attributes, wanted, "{set}");
        let value = set.strip_prefix("home=").unwrap().split(';').next().unwrap();
        assert!(native || is_of_ours(value), "no address in it, nor made of one: {set}");
    }
    assert_eq!(count(&clients).len(), backends.len());
    assert!(count(&clients).values().all(|count| *count > CLIENTS / 16), "{:?}", count(&clients));
    stays(&site, &mut clients, !native, &nginit.report());

    // Killed.
    let late = clients.iter().find(|client| client.server == "server-3").unwrap().clone();
    let address = kill(backends.remove(3));
    moves_only_those_of("server-3", &site, &mut clients, !native, &nginit.report());
    for _ in 0..20 {
        let cookie = late.cookie.as_ref().unwrap();
        let post = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: {cookie}\r\nContent-Length: 2\r\n\r\nhi"
        );
        let answer = request(site.port, &post).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}\n{}", nginit.report());
        assert!(answer.header("Set-Cookie").is_some_and(|set| !set.starts_with(&format!("{cookie};"))), "{answer:?}");
    }
    backends.insert(3, Backend::start_at("server-3", address));
    eventually("it gets new clients", || (site.server()? == "server-3").then_some(()));
    stays(&site, &mut clients, !native, &nginit.report());

    // Drained, then removed, then both are back.
    let drained = list(&backends).replacen(";fail", ";drain;fail", 1);
    nginit.reload_list(&drained);
    moves_only_those_of("server-0", &site, &mut clients, !native, &nginit.report());
    nginit.reload_list(&list(&backends[..7]));
    assert_eq!(count(&clients).get("server-0"), None);
    moves_only_those_of("server-7", &site, &mut clients, !native, &nginit.report());
    nginit.reload_list(&list(&backends));
    stays(&site, &mut clients, !native, &nginit.report());

    // Added, first in the list, and others in another order.
    backends.push(Backend::start("newcomer"));
    nginit.reload_list(&list(backends.iter().rev()));
    stays(&site, &mut clients, !native, &nginit.report());
    let mut more = vec![Client::default(); CLIENTS / 10];
    round(&site, &mut more);
    assert!(count(&more)["newcomer"] > 2, "{:?}", count(&more));
    clients.extend(more);

    // Several at once go, of which one is replaced.
    let replaced = kill(backends.remove(1));
    let gone = backends.split_off(4);
    backends.push(Backend::start("successor"));
    nginit.reload_list(&list(&backends));
    let names: BTreeSet<&str> = gone.iter().map(|backend| backend.name.as_str()).chain(["server-1"]).collect();
    let second = round(&site, &mut clients);
    assert!(second.left().is_subset(&names), "{:?} {:?}\n{}", second.left(), names, nginit.report());
    assert!(second.entered().contains("successor"));
    stays(&site, &mut clients, !native, &nginit.report());
    assert!(TcpStream::connect(replaced).is_err());

    // Restarted.
    nginit.signal(Signal::QUIT);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
    site.write("list", &list(backends.iter().rev()));
    let nginit = site.start();
    stays(&site, &mut clients, !native, &nginit.report());
    assert_eq!(nginit.count("[warn]") + nginit.count("[emerg]") + nginit.count("[alert]"), 0, "{}", nginit.log());
}

/// A cookie of the way that is not nginx's: slot and share.
fn is_of_ours(value: &str) -> bool {
    let (slot, share) = value.split_at(value.len() - 1);
    (1..4).contains(&slot.len())
        && slot.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && matches!(share, "g" | "h" | "i" | "j" | "k" | "l" | "m" | "n")
}

#[test]
fn a_cookie_keeps_a_thousand_clients_on_their_servers() {
    a_thousand_clients("cookie=home;secure;samesite=lax;domain=example.org;expires=1h");
}

#[test]
fn a_cookie_of_our_way_keeps_a_thousand_clients_on_their_servers() {
    a_thousand_clients("cookie=home;secure;samesite=lax;domain=example.org;expires=1h;hash");
}

/// Answers every connection once, with a name.
fn answer_with<S: Read + Write + Send + 'static>(name: &str, connections: impl Iterator<Item = S> + Send + 'static) {
    let name = name.to_owned();
    thread::spawn(move || {
        for connection in connections {
            let mut connection = BufReader::new(connection);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && connection.read_line(&mut head).is_ok_and(|count| count > 0) {}
            let answer =
                format!("HTTP/1.1 200 OK\r\nX-Server: {name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = connection.get_mut().write_all(answer.as_bytes());
        }
    });
}

#[test]
fn servers_of_every_kind_are_homes() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut entries = vec![v4.local_addr().unwrap().to_string()];
    answer_with("v4", (0..).map_while(move |_| v4.accept().ok().map(|(stream, _)| stream)));
    let mut names = BTreeSet::from(["v4", "unix", "UNIX"]);
    // A kernel without IPv6 has no such server.
    if let Ok(v6) = TcpListener::bind("[::1]:0") {
        entries.push(v6.local_addr().unwrap().to_string());
        answer_with("v6", (0..).map_while(move |_| v6.accept().ok().map(|(stream, _)| stream)));
        names.insert("v6");
    }
    // nginx's maps do not tell the two apart unless they are told to.
    for (name, file) in [("unix", "a.+sock"), ("UNIX", "A.+sock")] {
        let listener = UnixListener::bind(site.path(file)).unwrap();
        entries.push(format!("unix:{}", site.path(file).display()));
        answer_with(name, (0..).map_while(move |_| listener.accept().ok().map(|(stream, _)| stream)));
    }
    // Nobody listens there.
    entries.push(format!("unix:{}", site.path("dead.sock").display()));
    site.set_list(&entries.join(" "));
    site.set("STATIC_STICKY", "cookie;hash");
    let nginit = site.start();
    let mut clients = vec![Client::default(); 60];
    assert_eq!(round(&site, &mut clients).set.len(), 60, "{}", nginit.report());
    assert_eq!(count(&clients).into_keys().collect::<BTreeSet<_>>(), names, "{}", nginit.report());
    stays(&site, &mut clients, true, &nginit.report());
    stays(&site, &mut clients, true, &nginit.report());
}

#[test]
fn no_cookie_of_a_client_comes_back_or_does_harm() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&list([&a, &b]));
    site.set("STATIC_STICKY", "cookie=home;hash");
    let nginit = site.start();
    let long = "a".repeat(4096);
    for junk in [
        "",
        "g",
        "0",
        "00g",
        "2g",
        "ffffffffg",
        "0gg",
        "0G",
        ":",
        "0:0g",
        "$host",
        "\"0g\"",
        "\\1g",
        "0g\"",
        "default",
        "\u{1}\u{7f}",
        "ü\u{ff}",
        "0g\t",
        "%30g",
        "0g%0d%0aX-Evil:1",
        &long,
    ] {
        let text =
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: x=y; home={junk}\r\n\r\n");
        let answer = request(site.port, &text).unwrap();
        // nginx refuses some bytes by itself.
        if answer.status == 400 {
            continue;
        }
        assert_eq!(answer.status, 200, "{junk:?}: {answer:?}\n{}", nginit.report());
        let cookies: Vec<&str> = answer.head.lines().filter_map(|line| line.strip_prefix("Set-Cookie: ")).collect();
        assert_eq!(cookies.len(), 1, "{junk:?}: {answer:?}");
        for cookie in cookies {
            let value = cookie.strip_prefix("home=").and_then(|rest| rest.strip_suffix("; HttpOnly; Path=/"));
            assert!(value.is_some_and(is_of_ours), "{junk:?}: {cookie:?}");
        }
    }
    let answer = get(site.port, "/nginit/ping").unwrap();
    assert_eq!((answer.status, answer.header("Set-Cookie")), (200, None), "only the upstream's own answers");
    let text = "EXTEND / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = request(site.port, text).unwrap();
    assert!(answer.header("Set-Cookie").is_some(), "a method that nginx does not know: {answer:?}");
}

#[test]
fn backup_servers_need_a_cookie_of_nginx_itself() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", "127.0.0.1:1 127.0.0.1:2;backup");
    site.set("STATIC_STICKY", "cookie");
    let (status, printed) = site.run(&["render"]);
    if printed.contains("    sticky cookie nginit_static ") {
        assert_eq!(status, Some(0), "{printed}");
        // Where nginx follows servers, it is told of them.
        let follows = printed.contains("    server 0.static.nginit service=http resolve;");
        assert!(follows || printed.contains("    server 127.0.0.1:2 backup;"), "{printed}");
    } else {
        assert_eq!(status, Some(64), "{printed}");
        assert!(printed.contains(" knows no backup servers with STATIC_STICKY=cookie; "), "{printed}");
    }
}

#[test]
fn one_server_nobody_and_a_thousand() {
    let nginx = nginx_or_skip!();
    let only = Backend::start("only");
    let mut site = Site::new(&nginx);
    site.set_list(&list([&only]));
    site.set("STATIC_STICKY", "cookie;hash");
    let nginit = site.start();
    let mut clients = vec![Client::default(); 3];
    assert_eq!(round(&site, &mut clients).set.len(), 3);
    stays(&site, &mut clients, true, &nginit.report());

    nginit.reload_list("");
    let answer = get(site.port, "/").unwrap();
    assert_eq!((answer.status, answer.header("Set-Cookie")), (503, None), "{}", nginit.report());

    let many: String = (0..1_000).map(|n| format!("127.1.{}.{}:1;down\n", n >> 8, n & 255)).collect();
    nginit.reload_list(&format!("{many}{}", list([&only])));
    stays(&site, &mut clients, true, &nginit.report());
    nginit.reload_list(&(many.replace(";down", ";weight=100") + &list([&only])));
    stays(&site, &mut clients, true, &nginit.report());
}
