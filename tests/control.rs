//! The control socket, with a made-up loop behind it: whose it is, what it answers, and that
//! nobody who talks to it keeps others from being answered.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nginit::admin::client::{self, AskError};
use nginit::admin::desk::Asked;
use nginit::admin::socket::Listener;
use nginit::admin::{Outcome, Program, ReloadResult, Reply, Request, Status};
use nginit::control::Control as Serving;
use support::{PATIENCE, eventually, status};

fn outcome(result: ReloadResult, reason: Option<&str>) -> Reply {
    Reply::Outcome(Outcome { result, generation: 7, reason: reason.map(str::to_owned), took_ms: 41 })
}

/// A socket in a directory of its own, and a loop that answers as it is told to.
struct Control {
    path: PathBuf,
    /// `None` once it has stopped.
    serving: Mutex<Option<Serving>>,
    /// Requests that were left waiting.
    waiting: Arc<Mutex<Vec<Asked>>>,
    _dir: tempfile::TempDir,
}

impl Control {
    /// Answers a status and a reload at once; whoever waits for a reload waits for the test.
    fn start() -> Self {
        let waiting: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (tx, rx) = mpsc::channel::<Asked>();
        let kept = Arc::clone(&waiting);
        thread::spawn(move || {
            for asked in rx {
                match asked.request {
                    Request::Status => asked.answer(Reply::Status(status())),
                    Request::Reload { wait: false } => asked.answer(Reply::Accepted),
                    Request::Reload { wait: true } => kept.lock().unwrap().push(asked),
                    _ => asked.answer(Reply::Refused { code: 503, reason: "not here".to_owned() }),
                }
            }
        });
        Self { waiting, ..Self::serve(move |asked| tx.send(asked).is_ok()) }
    }

    fn serve(ask: impl Fn(Asked) -> bool + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let serving = support::control(&path, ask);
        Self { path, serving: Mutex::new(Some(serving)), waiting: Arc::default(), _dir: dir }
    }

    fn ask(&self, request: &Request) -> Result<Reply, AskError> {
        client::ask(&self.path, request, Some(PATIENCE))
    }

    /// It answers a status.
    fn is_well(&self) {
        assert_eq!(self.ask(&Request::Status).unwrap(), Reply::Status(status()));
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What is answered to `bytes`, until the other end closes. It may do so before it has read all.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        if let Err(err) = stream.read_to_end(&mut answer) {
            assert_eq!(err.kind(), ErrorKind::ConnectionReset, "{err}");
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Status and body of the answer to a request.
    fn http(&self, line: &str) -> (u16, String) {
        let answer = self.exchange(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn stop(&self) {
        *self.serving.lock().unwrap() = None;
    }

    /// Waits until so many wait for a reload.
    fn eventually_wait(&self, count: usize) {
        let waiting = || self.waiting.lock().unwrap().iter().filter(|asked| asked.is_awaited()).count();
        eventually(&format!("{count} wait"), || (waiting() == count).then_some(()));
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/nginit/control.sock");
    let listener = Listener::open(&path).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(mode(&path), 0o600);
    for made in ["run", "run/nginit"] {
        assert_eq!(mode(&dir.path().join(made)), 0o755);
    }
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(mode(&file) & 0o444, 0o444, "the umask is what it was");
    drop(listener);
    assert!(!path.exists());
    // The same while it is served.
    drop(support::control(&path, |_| false));
    assert!(!path.exists());
}

#[test]
fn a_socket_that_is_removed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/control.sock");
    let control = support::control(&path, |_| false);
    for _ in 0..2 {
        eventually("it is served", || UnixStream::connect(&path).is_ok().then_some(()));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        eventually("it is back", || (path.exists() && mode(&path) == 0o600).then_some(()));
    }
    // What another one put there is left alone.
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    drop(control);
    assert!(path.exists() && UnixStream::connect(&path).is_ok());
    drop(theirs);
}

#[test]
fn what_a_dead_nginit_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = Listener::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_socket_that_somebody_answers_on_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let theirs = Listener::open(&path).unwrap();
    assert_eq!(Listener::open(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(UnixStream::connect(&path).is_ok());
    // One whose path was taken over meanwhile removes nothing.
    fs::remove_file(&path).unwrap();
    let _ours = Listener::open(&path).unwrap();
    drop(theirs);
    assert!(UnixStream::connect(&path).is_ok());
    // Another kind of socket is no nginit's.
    let other = dir.path().join("other.sock");
    let _datagrams = UnixDatagram::bind(&other).unwrap();
    assert!(Listener::open(&other).is_err() && other.exists());
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for path in [&file, &link, &dir.path().to_owned()] {
        assert_eq!(Listener::open(path).unwrap_err().kind(), ErrorKind::AlreadyExists, "{path:?}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(fs::symlink_metadata(&link).is_ok());
    assert!(Listener::open(&file.join("below")).is_err());
    assert!(Listener::open(&dir.path().join("x".repeat(200))).is_err());
}

#[test]
fn requests_get_their_answers() {
    let control = Control::start();
    control.is_well();
    assert_eq!(control.ask(&Request::Reload { wait: false }).unwrap(), Reply::Accepted);
    for reply in [
        outcome(ReloadResult::Live, None),
        outcome(ReloadResult::Unchanged, None),
        outcome(ReloadResult::Refused, Some("unknown directive \"x\"\nin y:1")),
    ] {
        thread::scope(|scope| {
            let asked = scope.spawn(|| control.ask(&Request::Reload { wait: true }));
            let asker = eventually("it is asked", || control.waiting.lock().unwrap().pop());
            asker.answer(reply.clone());
            assert_eq!(asked.join().unwrap().unwrap(), reply);
        });
    }
}

#[test]
fn the_protocol_is_plain_http() {
    let control = Control::start();
    let (code, body) = control.http("GET /v1/status");
    assert!(code == 200 && body.starts_with("{\"nginit\":{") && body.ends_with("}\n"), "{code} {body}");
    assert_eq!(control.http("HEAD /v1/status"), (200, String::new()));
    assert_eq!(control.http("POST /v1/reload"), (202, "{\"result\":\"accepted\"}\n".to_owned()));
    assert_eq!(control.http("POST /v1/reload?wait=false").0, 202);
    for (line, want) in [
        ("GET /", 404),
        ("GET /v1/status/x", 404),
        ("GET /v1/../v1/status", 404),
        ("POST /v1/status", 405),
        ("GET /v1/reload", 405),
        ("DELETE /v1/reload", 405),
        ("POST /v1/reload?wait=maybe", 400),
    ] {
        let (code, body) = control.http(line);
        assert!(code == want && body.starts_with("{\"error\":\"") && body.ends_with("\"}\n"), "{line}: {code} {body}");
    }
    let refused = control.exchange(b"PUT /v1/reload HTTP/1.1\r\nHost: x\r\n\r\n").to_ascii_lowercase();
    assert!(refused.contains("\r\nallow: post\r\n"), "{refused}");
    assert!(refused.contains("\r\ncontent-type: application/json\r\n"), "{refused}");
    // What was refused is a failure to `curl --fail`.
    thread::scope(|scope| {
        let asked = scope.spawn(|| control.http("POST /v1/reload?wait=true"));
        eventually("it is asked", || control.waiting.lock().unwrap().pop())
            .answer(outcome(ReloadResult::Refused, Some("no")));
        let body = "{\"result\":\"refused\",\"generation\":7,\"reason\":\"no\",\"took_ms\":41}\n";
        assert_eq!(asked.join().unwrap(), (409, body.to_owned()));
    });
}

#[test]
fn who_waits_at_a_stop_is_told() {
    let control = Control::start();
    let path = control.path.clone();
    let asked = thread::spawn(move || client::ask(&path, &Request::Reload { wait: true }, Some(PATIENCE)));
    control.eventually_wait(1);
    control.stop();
    let err = asked.join().unwrap().unwrap_err();
    assert!(matches!(&err, AskError::Refused(why) if why == "nginit is stopping"), "{err:?}");
    assert!(matches!(control.ask(&Request::Status), Err(AskError::Unreachable(_))));
}

#[test]
fn who_gets_no_answer_is_told_that_nginit_stops() {
    let dropping = Control::serve(|asked| {
        drop(asked);
        true
    });
    let gone = Control::serve(|asked| {
        asked.answer(Reply::Accepted);
        false
    });
    for control in [dropping, gone] {
        assert_eq!(control.http("GET /v1/status"), (503, "{\"error\":\"nginit is stopping\"}\n".to_owned()));
    }
}

#[test]
fn a_stop_waits_for_nobody() {
    let control = Control::start();
    let _silent: Vec<UnixStream> = (0..10).map(|_| control.connect()).collect();
    let mut half = control.connect();
    half.write_all(b"GET /v1/st").unwrap();
    control.is_well();
    // Its end is bounded by itself; a test that hangs here fails by the runner's own limit.
    control.stop();
    assert!(!control.path.exists());
}

#[test]
fn a_client_waits_no_longer_than_it_says() {
    let control = Control::start();
    let wait = Request::Reload { wait: true };
    let err = client::ask(&control.path, &wait, Some(Duration::from_millis(50))).unwrap_err();
    assert!(matches!(err, AskError::Timeout), "{err:?}");
    // And the other end learns that nobody waits any more.
    control.eventually_wait(0);
    let nobody = client::ask(&control.path.with_extension("x"), &wait, None).unwrap_err();
    assert!(matches!(&nobody, AskError::Unreachable(err) if err.kind() == ErrorKind::NotFound), "{nobody:?}");
}

#[test]
fn what_is_no_nginit_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let listener = UnixListener::bind(&path).unwrap();
    for (answer, want) in [
        ("SSH-2.0-OpenSSH\r\n", "it is no answer of nginit's: "),
        ("", "it is no answer of nginit's: "),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "it is no answer of nginit's: "),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "it is no answer of nginit's: missing field"),
        ("HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n", "status 502"),
    ] {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let err = client::ask(&path, &Request::Status, Some(PATIENCE)).unwrap_err().to_string();
            assert!(err.starts_with(want), "{answer:?}: {err}");
        });
    }
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let control = Control::start();
    let huge = format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [
        b"\0\0\0\0\r\n\r\n" as &[u8],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        huge.as_bytes(),
        long.as_bytes(),
        many.as_bytes(),
        &noise,
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let answer = control.exchange(bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    control.is_well();
    assert!(control.waiting.lock().unwrap().is_empty());
}

#[test]
fn a_body_is_not_read() {
    let control = Control::start();
    let head = "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n";
    let answer = control.exchange(format!("{head}{}", "x".repeat(4 << 20)).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let chunks = "POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\nx";
    assert!(control.exchange(chunks.as_bytes()).starts_with("HTTP/1.1 202 "));
    let small = "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    assert!(control.exchange(small.as_bytes()).starts_with("HTTP/1.1 202 "));
    control.is_well();
}

#[test]
fn slow_clients_do_not_keep_others_from_being_answered() {
    let control = Control::start();
    // More than are served at a time. Each sends a part of a request, and then no more.
    let mut slow: Vec<UnixStream> = (0..100).map(|_| control.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /v1/reload?wait=true HTTP/1.1\r\nX: ").unwrap();
    }
    control.is_well();
    // They are cut off, and none of them was taken for a request.
    for mut stream in slow {
        let mut answer = Vec::new();
        if let Err(err) = stream.read_to_end(&mut answer) {
            assert_eq!(err.kind(), ErrorKind::ConnectionReset, "{err}");
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(control.waiting.lock().unwrap().is_empty());
}

#[test]
fn who_does_not_take_its_answer_is_cut_off() {
    let long =
        Status { upstreams: vec![], last: None, nginit: Program { version: "x".repeat(1 << 20), pid: 1 }, ..status() };
    let control = Control::serve(move |asked| {
        asked.answer(Reply::Status(long.clone()));
        true
    });
    let mut lazy: Vec<UnixStream> = (0..64).map(|_| control.connect()).collect();
    for stream in &mut lazy {
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    assert!(matches!(control.ask(&Request::Status).unwrap(), Reply::Status(_)));
}

#[test]
fn many_connections_at_once_are_all_answered() {
    let control = Control::start();
    thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| control.is_well());
        }
    });
}

#[test]
fn those_who_wait_leave_room_for_others() {
    let control = Control::start();
    let waits = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| match control.ask(&Request::Reload { wait: true }) {
                Ok(reply) => assert_eq!(reply, outcome(ReloadResult::Live, None)),
                Err(AskError::Refused(why)) => {
                    assert!(why.starts_with("too many wait"), "{why}");
                    waits.fetch_add(1, Ordering::Relaxed);
                }
                Err(err) => panic!("{err:?}"),
            });
        }
        eventually("all are served", || {
            let kept = control.waiting.lock().unwrap().len();
            (kept + waits.load(Ordering::Relaxed) == 100).then_some(())
        });
        assert!(waits.load(Ordering::Relaxed) > 0, "their number is limited");
        control.is_well();
        for asked in control.waiting.lock().unwrap().drain(..) {
            asked.answer(outcome(ReloadResult::Live, None));
        }
    });
}

#[test]
fn a_crash_ends_one_connection_and_no_more() {
    let crashes = AtomicUsize::new(0);
    let control = Control::serve(move |asked| {
        assert!(crashes.fetch_add(1, Ordering::Relaxed) >= 3, "a crash, on purpose");
        asked.answer(Reply::Status(status()));
        true
    });
    for _ in 0..3 {
        assert!(matches!(control.ask(&Request::Status), Err(AskError::Protocol(_))));
    }
    control.is_well();
}
