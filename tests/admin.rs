//! Bodies on the control socket, and the door over TCP, with a made-up loop behind them: who is let
//! in, what is read, and that nobody who talks to it keeps others from being answered.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nginit::admin::desk::{Asked, Desk};
use nginit::admin::{Announcement, Ordered, Reply, Request, tcp};
use support::PATIENCE;
use tokio::sync::watch;

const TOKEN: &str = "0123456789abcdef";
const ANNOUNCEMENT: &str = r#"{"upstream":"dynamic","ttl":"15s"}"#;

/// What was asked, in its order.
type Heard = Arc<Mutex<Vec<Request>>>;

fn ordered() -> Reply {
    Reply::Ordered(Ordered { changed: true, ..Ordered::default() })
}

/// The door over TCP, in a thread.
struct Tcp {
    address: SocketAddr,
    heard: Heard,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Tcp {
    fn start(token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, token) = (listener.local_addr().unwrap(), token.map(str::to_owned));
        let heard = Heard::default();
        let (stop, stopping) = watch::channel(false);
        let kept = Arc::clone(&heard);
        let ask = move |asked: Asked| {
            kept.lock().unwrap().push(asked.request.clone());
            asked.answer(ordered());
            true
        };
        let desk = Arc::new(Desk::new(ask, stopping));
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(tcp::serve(&listener, token, &desk)).unwrap();
        };
        Self { address, heard, stop, thread: Some(thread::spawn(work)) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn heard(&self) -> Vec<Request> {
        self.heard.lock().unwrap().clone()
    }

    /// Asks with these headers and this body.
    fn post(&self, line: &str, headers: &str, body: &str) -> (u16, String) {
        exchange(self.connect(), &head(line, headers, body.len(), body))
    }

    /// As an announcer does.
    fn announce(&self, token: &str, body: &str) -> (u16, String) {
        self.post("POST /v1/announce", &format!("Authorization: Bearer {token}\r\n"), body)
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn head(line: &str, headers: &str, length: usize, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// Status and body of what is answered to `text`, of which the other end need not read all.
fn exchange(mut stream: impl Read + Write, text: &str) -> (u16, String) {
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    if let Err(err) = stream.read_to_end(&mut answer) {
        assert_eq!(err.kind(), ErrorKind::ConnectionReset, "{err}");
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The control socket, in its own thread.
struct Control {
    path: PathBuf,
    heard: Heard,
    _serving: nginit::control::Control,
    _dir: tempfile::TempDir,
}

impl Control {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let heard = Heard::default();
        let kept = Arc::clone(&heard);
        let serving = support::control(&path, move |asked| {
            kept.lock().unwrap().push(asked.request.clone());
            asked.answer(ordered());
            true
        });
        Self { path, heard, _serving: serving, _dir: dir }
    }

    fn ask(&self, text: &str) -> (u16, String) {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, text)
    }

    fn heard(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

#[test]
fn an_order_comes_as_a_body() {
    let control = Control::start();
    let body = r#"{"upstream":"dynamic","server":"10.0.0.1:8080"}"#;
    let (code, answer) = control.ask(&head("POST /v1/drain", "", body.len(), body));
    assert_eq!((code, answer.as_str()), (200, "{\"changed\":true}\n"));
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunked = format!("POST /v1/add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    assert_eq!(control.ask(&chunked).0, 200);
    assert_eq!(control.heard(), 2);
}

#[test]
fn a_body_that_is_too_long_or_too_slow_is_refused() {
    let control = Control::start();
    let (code, answer) = control.ask(&head("POST /v1/add", "", 70_000, "{"));
    assert!(code == 413 && answer.contains("longer than 65536 bytes"), "{code} {answer}");
    assert_eq!(control.ask(&head("POST /v1/serf", "", (4 << 20) + 1, "{")).0, 413);
    let chunks = "POST /v1/add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("{chunks}{}", format!("1000\r\n{}\r\n", "x".repeat(0x1000)).repeat(20));
    assert_eq!(control.ask(&chunks).0, 413);
    // The rest of it never comes.
    assert_eq!(control.ask(&head("POST /v1/add", "", 100, "{")).0, 408);
    assert_eq!(control.heard(), 0);
}

#[test]
fn a_server_announces_itself_with_the_token() {
    let tcp = Tcp::start(Some(TOKEN));
    let (code, answer) = tcp.announce(TOKEN, ANNOUNCEMENT);
    assert_eq!((code, answer.as_str()), (200, "{\"changed\":true}\n"));
    let peer = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    let [Request::Announce(Announcement { upstream, server: None, peer: heard, .. })] = &tcp.heard()[..] else {
        panic!("{:?}", tcp.heard());
    };
    assert_eq!((upstream.as_str(), *heard), ("dynamic", peer));
    // An address of its own choice is no less welcome.
    let body = r#"{"upstream":"dynamic","ttl":"0","server":"10.0.0.1:80"}"#;
    assert_eq!(tcp.announce(TOKEN, body).0, 200);
    assert_eq!(tcp.heard().len(), 2);
}

#[test]
fn without_the_token_nobody_is_let_in() {
    let tcp = Tcp::start(Some(TOKEN));
    for headers in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer 0123456789abcde\r\n",
        "Authorization: Bearer 0123456789abcdef0\r\n",
        "Authorization: Bearer 0123456789ABCDEF\r\n",
        "Authorization: Basic 0123456789abcdef\r\n",
        "X-Token: 0123456789abcdef\r\n",
    ] {
        for line in ["POST /v1/announce", "GET /v1/status", "POST /v1/add"] {
            let (code, answer) = tcp.post(line, headers, ANNOUNCEMENT);
            assert!(code == 401 && !answer.contains(TOKEN), "{line} {headers}: {code} {answer}");
        }
    }
    let open = Tcp::start(None);
    for line in ["POST /v1/announce", "GET /v1/status"] {
        assert_eq!(open.post(line, &format!("Authorization: Bearer {TOKEN}\r\n"), ANNOUNCEMENT).0, 403);
    }
    assert!(tcp.heard().is_empty() && open.heard().is_empty());
}

#[test]
fn over_tcp_there_are_announcements_and_nothing_else() {
    let tcp = Tcp::start(Some(TOKEN));
    let headers = format!("Authorization: Bearer {TOKEN}\r\n");
    for line in
        ["GET /v1/status", "POST /v1/reload", "POST /v1/add", "POST /v1/remove", "GET /v1/servers", "POST /v1/serf"]
    {
        assert_eq!(tcp.post(line, &headers, r#"{"upstream":"x","server":"y"}"#).0, 404, "{line}");
    }
    assert_eq!(tcp.post("GET /v1/announce", &headers, "").0, 405);
    assert_eq!(tcp.announce(TOKEN, "nonsense").0, 400);
    assert!(tcp.heard().is_empty());
}

#[test]
fn slow_clients_over_tcp_do_not_keep_others_from_being_answered() {
    let tcp = Tcp::start(Some(TOKEN));
    // More than are served at a time, at different places of a request.
    let slow: Vec<TcpStream> = (0..80).map(|_| tcp.connect()).collect();
    for (index, mut stream) in slow.iter().enumerate() {
        let headers = format!("Authorization: Bearer {TOKEN}\r\n");
        let text = head("POST /v1/announce", &headers, 100, "{");
        stream.write_all(&text.as_bytes()[..text.len().min(index * 4)]).unwrap();
    }
    assert_eq!(tcp.announce(TOKEN, ANNOUNCEMENT).0, 200);
    assert_eq!(tcp.heard().len(), 1, "none of the others was taken for a request");
}
