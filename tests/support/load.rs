//! What load is made of: servers that do to nginx what servers do, among them things that they
//! should not, and clients that notice whatever a reload does to them.
//!
//! A client tells two kinds of failure apart. A request on a connection that was used before, and
//! that ends before a byte of its answer, may be sent again without harm as any HTTP library does
//! (RFC 9112, 9.3.1): [`Outcome::Again`]. Everything else is lost: [`Outcome::Lost`].

#![allow(dead_code, reason = "no single test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// `len` bytes that a seed makes, and that no other seed makes.
pub fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let byte = |at: usize| (at ^ (at >> 8) ^ seed.wrapping_mul(31)).to_le_bytes()[0];
    (0..len).map(byte).collect()
}

/// The number at the end of `/upload/17`.
pub fn seed_of(target: &str) -> usize {
    target.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// A request as a server got it.
pub struct Request {
    pub method: String,
    pub target: String,
    pub body: Vec<u8>,
    /// How many came before it on its connection.
    pub nth: usize,
}

/// What a server does about a request.
pub enum Reply {
    Answer(u16, Vec<u8>),
    /// Answers with these bytes, slowly: a pause before each of many pieces.
    Drip(Vec<u8>, Duration),
    /// Goes on as a WebSocket that sends every frame back.
    Echo,
    /// Closes the connection without an answer.
    HangUp,
    /// Closes it so that the other side sees a reset.
    Reset,
}

/// Pieces of an answer that comes slowly.
pub const DROPS: usize = 64;

/// Answers `/big/N` and `/upload/N` with and about the pattern of N, `/ws` as a WebSocket, and
/// everything else with its own target.
pub fn all(request: &Request) -> Reply {
    let seed = seed_of(&request.target);
    if request.target == "/ws" {
        Reply::Echo
    } else if request.target.starts_with("/big/") {
        Reply::Answer(200, pattern(seed, BIG))
    } else if request.target.starts_with("/upload/") {
        let whole = request.body == pattern(seed, UPLOAD);
        Reply::Answer(if whole { 200 } else { 400 }, request.target.clone().into_bytes())
    } else {
        Reply::Answer(200, request.target.clone().into_bytes())
    }
}

/// A download: more than all buffers on its way hold, so that nginx is at it until its end.
const BIG: usize = 6 << 20;

/// An upload, below nginx's limit of one megabyte.
const UPLOAD: usize = 200_000;

/// A server that does what it is told about every request, and counts them. It ends with the value.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    stop: Arc<AtomicBool>,
    /// Weak: a connection is closed when the thread that serves it lets it go.
    streams: Arc<Mutex<Vec<Weak<TcpStream>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), reply)
    }

    /// At an address, so that a server can come back to where it was.
    pub fn start_at(address: SocketAddr, reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let mut server =
            Self { address, seen: Arc::default(), stop: Arc::default(), streams: Arc::default(), thread: None };
        let (seen, stop) = (Arc::clone(&server.seen), Arc::clone(&server.stop));
        let (streams, reply) = (Arc::clone(&server.streams), Arc::new(reply));
        server.thread = Some(thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let stream = Arc::new(stream);
                streams.lock().unwrap().push(Arc::downgrade(&stream));
                let (reply, seen) = (Arc::clone(&reply), Arc::clone(&seen));
                thread::spawn(move || serve(&stream, &*reply, &seen));
            }
        }));
        server
    }

    pub fn entry(&self) -> String {
        self.address.to_string()
    }

    /// Connections that neither side has closed.
    pub fn open_connections(&self) -> usize {
        self.streams.lock().unwrap().iter().filter(|stream| stream.strong_count() > 0).count()
    }

    /// How often each request came in, as `POST /upload/17`.
    pub fn seen(&self) -> BTreeMap<String, usize> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
        for stream in self.streams.lock().unwrap().drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(
    mut stream: &TcpStream,
    reply: &dyn Fn(&Request) -> Reply,
    seen: &Mutex<BTreeMap<String, usize>>,
) -> io::Result<()> {
    for nth in 0.. {
        // Looked at, not read: a connection closed with a byte unread is reset, one without is not.
        let mut head = [0; 4096];
        let len = loop {
            let n = stream.peek(&mut head)?;
            if n == 0 {
                return Ok(());
            }
            if let Some(at) = head[..n].windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            thread::sleep(Duration::from_millis(1));
        };
        let text = String::from_utf8_lossy(&head[..len]).into_owned();
        let mut words = text.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap_or_default());
        let mut bytes = vec![0; len + content_length(&text)];
        let last = bytes.len() - 1;
        stream.read_exact(&mut bytes[..last])?;
        *seen.lock().unwrap().entry(format!("{method} {target}")).or_default() += 1;
        stream.peek(&mut bytes[last..])?;
        let request = Request { method, target, body: bytes.split_off(len), nth };
        let reply = reply(&request);
        if !matches!(reply, Reply::Reset) {
            stream.read_exact(&mut [0])?;
        }
        match reply {
            Reply::Answer(status, body) => {
                let mut answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
                if request.method != "HEAD" {
                    answer.extend(body);
                }
                stream.write_all(&answer)?;
            }
            Reply::Drip(body, pause) => {
                stream.write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())?;
                for piece in body.chunks(body.len().div_ceil(DROPS).max(1)) {
                    thread::sleep(pause);
                    stream.write_all(piece)?;
                }
            }
            Reply::Echo => return echo(stream),
            Reply::HangUp | Reply::Reset => return Ok(()),
        }
    }
    Ok(())
}

fn content_length(head: &str) -> usize {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
}

/// A WebSocket of short frames: each goes back as it came, unmasked, until one closes it.
fn echo(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")?;
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut payload)?;
        payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= head[2 + at % 4]);
        let mut frame = vec![head[0], head[1] & 0x7f];
        frame.extend(payload);
        stream.write_all(&frame)?;
        if head[0] == CLOSE {
            return Ok(());
        }
    }
}

/// First byte of a WebSocket's whole binary frame, and of the one that closes it.
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;

/// What became of a client's request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// It met a closed connection, had no answer, and went well on a new one.
    Again,
    Lost(String),
}

/// An answer of nginx.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug)]
pub struct Failure {
    pub error: io::Error,
    /// Whether a byte of the answer had come.
    pub begun: bool,
}

/// A client's connection to nginx.
pub struct Connection {
    stream: TcpStream,
    /// Requests that were answered.
    pub answered: usize,
    /// Whether nginx said that the last answer was the last one.
    pub said_close: bool,
    /// When it was used last.
    used: Instant,
    /// Wait between two pieces of what is read or written.
    pub pace: Duration,
}

/// Pieces that an upload is sent in, and a download is read in.
const PIECES: usize = 16;

impl Connection {
    pub fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answered: 0, said_close: false, used: Instant::now(), pace: Duration::ZERO })
    }

    /// Whether nginx has closed it, as far as this side knows.
    pub fn is_closed(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let alive = self.stream.peek(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).unwrap();
        !alive
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// There is none, or not all of it.
    pub fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Answer, Failure> {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n");
        let not_begun = |error| Failure { error, begun: false };
        self.stream.write_all(head.as_bytes()).map_err(not_begun)?;
        for piece in body.chunks((body.len() / PIECES).max(1)) {
            self.stream.write_all(piece).map_err(not_begun)?;
            thread::sleep(self.pace);
        }
        let mut bytes = Vec::new();
        self.read_answer(method, &mut bytes).map_err(|error| Failure { error, begun: !bytes.is_empty() })
    }

    fn read_answer(&mut self, method: &str, bytes: &mut Vec<u8>) -> io::Result<Answer> {
        let mut piece = vec![0; BIG / PIECES];
        let mut whole = None;
        while whole.is_none_or(|whole| bytes.len() < whole) {
            match self.stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => bytes.extend_from_slice(&piece[..n]),
            }
            if let (None, Some(at)) = (whole, bytes.windows(4).position(|w| w == b"\r\n\r\n")) {
                let body =
                    if method == "HEAD" { 0 } else { content_length(&String::from_utf8_lossy(&bytes[..at + 4])) };
                whole = Some(at + 4 + body);
            }
            thread::sleep(self.pace);
        }
        self.answered += 1;
        self.used = Instant::now();
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        self.said_close = head.to_ascii_lowercase().contains("\r\nconnection: close");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
        Ok(Answer { status, head, body: bytes[at + 4..].to_vec() })
    }
}

/// Requests that a client made, by what became of them.
#[derive(Default)]
pub struct Tally {
    pub fine: AtomicUsize,
    pub again: AtomicUsize,
    pub lost: Mutex<Vec<String>>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let lost = self.lost.lock().unwrap().len();
        write!(f, "{} fine, {} again, {lost} lost", number(&self.fine), number(&self.again))
    }
}

/// Clients of several kinds, each in a thread of its own until [`Load::stop`] or the value's end.
#[derive(Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    tallies: BTreeMap<&'static str, Arc<Tally>>,
}

impl Load {
    /// A client: `step` is a request of it, again and again.
    pub fn add(&mut self, kind: &'static str, mut step: impl FnMut() -> Outcome + Send + 'static) {
        let (stop, tally) = (Arc::clone(&self.stop), Arc::clone(self.tallies.entry(kind).or_default()));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match step() {
                    Outcome::Fine => _ = tally.fine.fetch_add(1, Ordering::Relaxed),
                    Outcome::Again => _ = tally.again.fetch_add(1, Ordering::Relaxed),
                    Outcome::Lost(why) => tally.lost.lock().unwrap().push(why),
                }
            }
        }));
    }

    /// What went well so far, of all kinds.
    pub fn fine(&self) -> usize {
        self.tallies.values().map(|tally| tally.fine.load(Ordering::Relaxed)).sum()
    }

    /// Lets every client finish its request, and gives what became of them.
    pub fn stop(mut self) -> BTreeMap<&'static str, Arc<Tally>> {
        self.end();
        std::mem::take(&mut self.tallies)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.threads.drain(..) {
            assert!(client.join().is_ok() || thread::panicking(), "a client panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// Numbers that no two requests of a test share.
pub fn unique() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Asks on a connection, and says what is wrong with the answer.
fn check(connection: &mut Connection, method: &str, target: &str, body: &[u8], expected: &[u8]) -> Outcome {
    let name = format!("{method} {target}");
    match connection.ask(method, target, body) {
        Ok(answer) if answer.status != 200 => Outcome::Lost(format!("{name}: {}", answer.head)),
        Ok(answer) if answer.body != expected => Outcome::Lost(format!("{name}: another body than the server's")),
        Ok(_) => Outcome::Fine,
        Err(Failure { begun: false, .. }) if connection.answered > 0 => Outcome::Again,
        Err(Failure { error, begun: true }) => Outcome::Lost(format!("{name}: cut: {error}")),
        Err(Failure { error, begun: false }) => Outcome::Lost(format!("{name}: no answer: {error}")),
    }
}

/// Asks on a connection of its own.
fn once(port: u16, pace: Duration, method: &str, target: &str, body: &[u8], expected: &[u8]) -> Outcome {
    match Connection::open(port) {
        Ok(mut connection) => {
            connection.pace = pace;
            check(&mut connection, method, target, body, expected)
        }
        Err(error) => Outcome::Lost(format!("connect: {error}")),
    }
}

/// A client with a new connection for each GET.
pub fn closing(port: u16, pause: Duration) -> impl FnMut() -> Outcome {
    move || {
        thread::sleep(pause);
        let target = format!("/n/{}", unique());
        once(port, Duration::ZERO, "GET", &target, &[], target.as_bytes())
    }
}

/// Half of the time that a reload leaves to idle connections (`keepalive_min_timeout`).
const IDLE: Duration = Duration::from_secs(1);

/// A client that keeps its connection for as long as it is let, unless it was idle for a second: on a
/// machine that stands still for longer, nginx may close it. With `looks` it uses none that it knows to
/// be closed, as HTTP libraries do.
pub fn keeping(port: u16, pause: Duration, looks: bool) -> impl FnMut() -> Outcome {
    let mut kept: Option<Connection> = None;
    move || {
        thread::sleep(pause);
        let target = format!("/n/{}", unique());
        let mut connection = match kept.take().filter(|kept| kept.used.elapsed() < IDLE && !(looks && kept.is_closed()))
        {
            Some(connection) => connection,
            None => match Connection::open(port) {
                Ok(connection) => connection,
                Err(error) => return Outcome::Lost(format!("connect: {error}")),
            },
        };
        match check(&mut connection, "GET", &target, &[], target.as_bytes()) {
            Outcome::Fine => kept = Some(connection).filter(|kept| !kept.said_close),
            Outcome::Again => match once(port, Duration::ZERO, "GET", &target, &[], target.as_bytes()) {
                Outcome::Fine => return Outcome::Again,
                lost => return lost,
            },
            lost => return lost,
        }
        Outcome::Fine
    }
}

/// A client that sends short bodies on a connection that it keeps, in a way that must not be sent twice.
pub fn posting(port: u16, pause: Duration) -> impl FnMut() -> Outcome {
    let mut kept: Option<Connection> = None;
    move || {
        thread::sleep(pause);
        let target = format!("/post/{}", unique());
        let mut connection = match kept.take().map_or_else(|| Connection::open(port), Ok) {
            Ok(connection) => connection,
            Err(error) => return Outcome::Lost(format!("connect: {error}")),
        };
        let outcome = check(&mut connection, "POST", &target, b"a body", target.as_bytes());
        kept = Some(connection).filter(|kept| outcome == Outcome::Fine && !kept.said_close);
        outcome
    }
}

/// A client that sends long bodies slowly, `pace` times sixteen.
pub fn uploading(port: u16, pace: Duration) -> impl FnMut() -> Outcome {
    move || {
        let seed = unique();
        let target = format!("/upload/{seed}");
        once(port, pace, "POST", &target, &pattern(seed, UPLOAD), target.as_bytes())
    }
}

/// A client that reads long answers slowly, `pace` times sixteen at least.
pub fn downloading(port: u16, pace: Duration) -> impl FnMut() -> Outcome {
    move || {
        let seed = unique();
        once(port, pace, "GET", &format!("/big/{seed}"), &[], &pattern(seed, BIG))
    }
}

/// A client with a WebSocket for `frames` frames, one after each `pause`; then it takes another.
pub fn talking(port: u16, pause: Duration, frames: usize) -> impl FnMut() -> Outcome {
    let mut open: Option<(TcpStream, usize)> = None;
    move || {
        let step = |open: &mut Option<(TcpStream, usize)>| -> io::Result<()> {
            let (mut stream, said) = match open.take() {
                Some(open) => open,
                None => (upgrade(port)?, 0),
            };
            thread::sleep(pause);
            exchange(&mut stream, BINARY, &pattern(unique(), 100))?;
            if said == frames {
                return exchange(&mut stream, CLOSE, &[]);
            }
            *open = Some((stream, said + 1));
            Ok(())
        };
        step(&mut open).map_or_else(|error| Outcome::Lost(format!("WebSocket: {error}")), |()| Outcome::Fine)
    }
}

/// A WebSocket, open.
///
/// # Errors
/// It is not taken.
pub fn upgrade(port: u16) -> io::Result<TcpStream> {
    let mut stream = Connection::open(port)?.stream;
    stream.write_all(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.1 101 ") { Ok(stream) } else { Err(io::Error::other(head)) }
}

/// Sends a frame over a WebSocket and reads it back.
///
/// # Errors
/// It does not come back as it was.
pub fn exchange(stream: &mut TcpStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let len = u8::try_from(payload.len()).unwrap();
    let mask = [1, 2, 3, 4];
    let mut frame = vec![kind, 0x80 | len];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    stream.write_all(&frame)?;
    let mut back = vec![0; 2 + payload.len()];
    stream.read_exact(&mut back)?;
    let same = back[..2] == [kind, len] && back[2..] == *payload;
    if same { Ok(()) } else { Err(io::Error::other("another frame came back")) }
}
