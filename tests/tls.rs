//! TLS with clients and with servers, on real nginx.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nginit::admin::ReloadResult;
use rustix::process::Signal;
use support::tls::{Certificate, http, https, presented};
use support::{Backend, Nginit, PATIENCE, Site, eventually, free_port, get, request};

/// A site with a certificate for localhost, a plain address and one with TLS.
fn site(nginx: &Path) -> (Site, Certificate, u16) {
    let mut site = Site::new(nginx);
    let cert = Certificate::new(site.dir.path(), "first", "localhost");
    let port = free_port();
    site.set("NGINIT_TLS_CERT", &cert.cert);
    site.set("NGINIT_TLS_KEY", &cert.key);
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{} 127.0.0.1:{port};tls", site.port));
    site.set("NGINIT_TLS_REDIRECT", port.to_string());
    (site, cert, port)
}

/// Starts nginx where the site's plain port need not answer.
fn start(site: &Site) -> Nginit<'_> {
    let nginit = Nginit::spawn(site, site.command(&site.nginx_argv()));
    nginit.logs("generation 1 answers");
    nginit
}

fn is_healthy(site: &Site) -> (Option<i32>, String) {
    site.run(&["healthcheck"])
}

#[test]
fn plain_http_is_redirected_and_https_served() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let (mut site, cert, port) = site(&nginx);
    site.set("STATIC_BACKEND", backend.entry());
    let nginit = site.start();

    for (version, args) in [("HTTP/2 200", &["--http2"][..]), ("HTTP/1.1 200", &["--http1.1"])] {
        let answer = https(&cert.cert, port, "/a?b=c", args);
        assert!(answer.head.starts_with(version), "{answer:?}\n{}", nginit.report());
        assert!(answer.body.contains("GET /a?b=c HTTP/1.1\r\n"), "{answer:?}");
        assert!(answer.body.contains("X-Forwarded-Proto: https\r\n"), "{answer:?}");
        assert!(answer.body.contains(&format!("Host: localhost:{port}\r\n")), "{answer:?}");
    }
    for old in ["--tls-max 1.1", "--tls-max 1.0"] {
        let args: Vec<&str> = old.split(' ').collect();
        assert_eq!(https(&cert.cert, port, "/", &args).status, 0, "{old}");
    }

    for method in ["GET", "POST", "DELETE"] {
        let text = format!(
            "{method} /a%20b?c=d HTTP/1.1\r\nHost: shop.test:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            site.port
        );
        let answer = request(site.port, &text).unwrap();
        assert_eq!((answer.status, answer.header("X-Server")), (308, None), "{answer:?}");
        assert_eq!(answer.header("Location"), Some(format!("https://shop.test:{port}/a%20b?c=d").as_str()));
    }
    let v6 = request(site.port, "GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(v6.header("Location"), Some(format!("https://[::1]:{port}/").as_str()));
    let nameless = request(site.port, "GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((nameless.status, nameless.header("Location")), (400, None), "{nameless:?}");
    for ping in ["GET /nginit/ping HTTP/1.0\r\n\r\n", "GET /nginit/ping HTTP/1.0\r\nHost: x\r\n\r\n"] {
        assert_eq!(request(site.port, ping).unwrap().status, 200);
    }
    assert_eq!(backend.asked.load(std::sync::atomic::Ordering::SeqCst), 2, "only https reached it");
    assert_eq!(is_healthy(&site).0, Some(0));
}

#[test]
fn without_the_redirect_both_are_served() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let (mut site, cert, port) = site(&nginx);
    let h2c = free_port();
    site.set("STATIC_BACKEND", backend.entry());
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{} 127.0.0.1:{port};tls 127.0.0.1:{h2c};http2", site.port));
    site.set("NGINIT_TLS_REDIRECT", "off");
    let nginit = site.start();
    let plain = get(site.port, "/").unwrap();
    assert!(plain.body.contains("X-Forwarded-Proto: http\r\n"), "{plain:?}\n{}", nginit.report());
    assert_eq!(https(&cert.cert, port, "/", &[]).status, 200);
    let answer = http(h2c, "/", &["--http2-prior-knowledge"]);
    assert!(answer.head.starts_with("HTTP/2 200"), "{answer:?}");
    assert_eq!(is_healthy(&site).0, Some(0));
}

#[test]
fn with_tls_alone_the_health_check_still_asks() {
    let nginx = nginx_or_skip!();
    let (mut site, cert, port) = site(&nginx);
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{port};tls"));
    site.set("STATIC_BACKEND", "");
    assert_eq!(is_healthy(&site).0, Some(1), "nobody is there");
    let nginit = start(&site);
    assert_eq!(https(&cert.cert, port, "/nginit/ping", &[]).status, 200, "{}", nginit.report());
    assert!(!fs::read_to_string(site.path("conf.d/default.conf")).unwrap().contains("308"));
    assert_eq!(is_healthy(&site), (Some(0), String::new()));
    // Where nginx has no private socket, the address itself is asked.
    fs::remove_file(site.path("conf.d/.nginit/generation.sock")).unwrap();
    assert_eq!(is_healthy(&site), (Some(0), String::new()));
    nginit.signal(Signal::TERM);
    nginit.wait();
    assert_eq!(is_healthy(&site).0, Some(1));
}

#[test]
fn the_health_check_speaks_the_proxy_protocol() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{};proxy_protocol", site.port));
    site.set("NGINIT_TRUSTED_PROXIES", "127.0.0.1");
    site.set("STATIC_BACKEND", "");
    let nginit = start(&site);
    assert_eq!(is_healthy(&site), (Some(0), String::new()), "{}", nginit.report());
}

#[test]
fn a_renewed_certificate_is_used_by_itself() {
    let nginx = nginx_or_skip!();
    let (mut site, cert, port) = site(&nginx);
    site.set("STATIC_BACKEND", "");
    site.set("NGINIT_WATCH", "on");
    let renewed = Certificate::new(site.dir.path(), "renewed", "localhost");
    let nginit = site.start();
    assert_eq!(presented(port), "first", "{}", nginit.report());

    // A pair that does not fit is refused, and the old one stays.
    renewed.replaces_cert(&cert);
    nginit.logs(&format!("\"{}\" changed, reloading", cert.cert.display()));
    nginit.logs("NGINIT_TLS_KEY must be the key of the first certificate in NGINIT_TLS_CERT");
    assert_eq!(presented(port), "first");
    renewed.replaces_key(&cert);
    nginit.logs(&format!("\"{}\" changed, reloading", cert.key.display()));
    eventually("the renewed certificate is presented", || (presented(port) == "renewed").then_some(()));
    assert_eq!(nginit.status().generation, 2, "{}", nginit.report());
}

#[test]
fn a_hup_reads_certificates_anew_and_only_then() {
    let nginx = nginx_or_skip!();
    let (mut site, cert, port) = site(&nginx);
    site.set("STATIC_BACKEND", "");
    let renewed = Certificate::new(site.dir.path(), "renewed", "localhost");
    site.age();
    let key_is_older = || fs::metadata(&renewed.key).unwrap().modified().unwrap().elapsed().unwrap();
    eventually("the key is older than a clock's tick", || (key_is_older().as_millis() > 200).then_some(()));
    let nginit = site.start();
    // Not the first one, maybe: files are looked at once nginx answers.
    eventually("nothing has changed", || {
        nginit.reload();
        let last = eventually("a reload has an outcome", || nginit.status().last);
        (last.result == ReloadResult::Unchanged).then_some(())
    });
    renewed.replaces(&cert);
    nginit.reload();
    eventually("the renewed certificate is presented", || (presented(port) == "renewed").then_some(()));
    assert_eq!(nginit.count("changed, reloading"), 0);
}

#[test]
fn a_bad_pair_at_the_start_is_refused_with_the_remedy() {
    let nginx = nginx_or_skip!();
    let (mut site, cert, _) = site(&nginx);
    site.set("STATIC_BACKEND", "");
    let other = Certificate::new(site.dir.path(), "other", "localhost");
    let refused = |site: &Site, remedy: &str| {
        let nginit = Nginit::spawn(site, site.command(&site.nginx_argv()));
        assert_eq!(nginit.code(), 78, "{}", nginit.report());
        assert!(nginit.log().contains(remedy), "{}", nginit.report());
    };
    site.set("NGINIT_TLS_KEY", &other.key);
    refused(&site, "NGINIT_TLS_KEY must be the key of the first certificate in NGINIT_TLS_CERT");
    site.set("NGINIT_TLS_KEY", site.path("none.key"));
    refused(&site, "the key of nginit's own addresses is NGINIT_TLS_KEY, a PEM file");
    site.set("NGINIT_TLS_KEY", &cert.key);
    site.set("NGINIT_TLS_CERT", &cert.key);
    refused(&site, "the certificate of nginit's own addresses is NGINIT_TLS_CERT, a PEM file");
}

/// Servers that speak TLS: another nginit, in front of `backend`.
fn tls_servers(nginx: &Path, backend: &str) -> (Site, Certificate, u16) {
    let (mut servers, cert, port) = site(nginx);
    servers.set("NGINIT_LISTEN", format!("127.0.0.1:{port};tls"));
    servers.set("STATIC_BACKEND", backend);
    (servers, cert, port)
}

#[test]
fn https_servers_are_verified() {
    let nginx = nginx_or_skip!();
    let backend = Backend::start("a");
    let (servers, cert, port) = tls_servers(&nginx, &backend.entry());
    let _servers = start(&servers);
    let stranger = Certificate::new(servers.dir.path(), "stranger", "localhost");

    let asked = |set: &[(&str, &str)]| {
        let mut site = Site::new(&nginx);
        site.set("STATIC_BACKEND", format!("127.0.0.1:{port}"));
        site.set("STATIC_PROTOCOL", "https");
        for (name, value) in set {
            site.set(name, value);
        }
        let nginit = site.start();
        let answer = get(site.port, "/path").unwrap();
        // A method that is sent once goes another way.
        let once = request(site.port, "BREW /path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!((once.status == 200), (answer.status == 200), "{once:?}\n{}", nginit.report());
        answer
    };
    let (own, other) = (cert.cert.to_str().unwrap(), stranger.cert.to_str().unwrap());
    let good = asked(&[("STATIC_TLS_NAME", "localhost"), ("STATIC_TLS_CA", own)]);
    assert_eq!((good.status, good.header("X-Server")), (200, Some("a")), "{good:?}");
    assert_eq!(asked(&[("STATIC_TLS_NAME", "other.test"), ("STATIC_TLS_CA", own)]).status, 502);
    assert_eq!(asked(&[("STATIC_TLS_NAME", "localhost"), ("STATIC_TLS_CA", other)]).status, 502);
    assert_eq!(asked(&[("STATIC_TLS_VERIFY", "off")]).status, 200);
    let host = format!("localhost:{port}");
    assert_eq!(asked(&[("STATIC_BACKEND", &host), ("STATIC_TLS_CA", own)]).status, 200, "the name of the servers");
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        assert_eq!(asked(&[("STATIC_TLS_NAME", "localhost")]).status, 502, "not one of the system's authorities");
    }
}

/// A server that answers upgrades with an echo, and everything else with two events, the second one
/// only when it is told to.
fn live_server() -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go_on, told) = mpsc::channel::<()>();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if lines.read_line(&mut head).unwrap_or(0) == 0 {
                    break;
                }
            }
            if head.contains("Upgrade: websocket") {
                stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
                    .unwrap();
                let mut bytes = [0; 5];
                lines.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            } else if !head.is_empty() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\ndata: 1\n\n").unwrap();
                let _ = told.recv_timeout(PATIENCE);
                let _ = stream.write_all(b"data: 2\n\n");
            }
        }
    });
    (address, go_on)
}

/// A connection through TLS, and everything that comes in on it.
struct Connection {
    client: Child,
    received: mpsc::Receiver<u8>,
    text: String,
}

impl Connection {
    fn open(port: u16, cert: &Path) -> Self {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-no_ign_eof", "-CAfile"])
            .arg(cert);
        openssl.args(["-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"]);
        let mut client = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (tx, received) = mpsc::channel();
        let stdout = BufReader::new(client.stdout.take().unwrap());
        thread::spawn(move || stdout.bytes().map_while(Result::ok).try_for_each(|byte| tx.send(byte)));
        Self { client, received, text: String::new() }
    }

    fn send(&mut self, text: &str) {
        let stdin = self.client.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    fn receives(&mut self, text: &str) {
        while !self.text.contains(text) {
            let byte = self.received.recv_timeout(PATIENCE);
            self.text.push(byte.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.text)).into());
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[test]
fn websockets_go_through_tls_on_both_sides() {
    let nginx = nginx_or_skip!();
    let (address, _go_on) = live_server();
    let (servers, their_cert, their_port) = tls_servers(&nginx, &address.to_string());
    let _servers = start(&servers);
    let (mut site, cert, port) = site(&nginx);
    site.set("STATIC_BACKEND", format!("localhost:{their_port}"));
    site.set("STATIC_PROTOCOL", "https");
    site.set("STATIC_TLS_CA", &their_cert.cert);
    let _nginit = site.start();

    let mut socket = Connection::open(port, &cert.cert);
    socket.send("GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    socket.receives("101 Switching Protocols");
    socket.receives("\r\n\r\n");
    socket.send("hello");
    socket.receives("hello");
}

#[test]
fn events_come_as_they_happen() {
    let nginx = nginx_or_skip!();
    let (address, go_on) = live_server();
    let (mut site, cert, port) = site(&nginx);
    site.set("STATIC_BACKEND", address.to_string());
    let _nginit = site.start();
    let mut events = Connection::open(port, &cert.cert);
    events.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    events.receives("data: 1");
    assert!(!events.text.contains("data: 2"));
    go_on.send(()).unwrap();
    events.receives("data: 2");
}
