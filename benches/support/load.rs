//! Clients that ask all the time, and the server behind the proxy that answers them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{DEADLINE, Outcome};

/// Clients of each kind. With their pause they leave the machine time for what is measured.
const CLIENTS: usize = 8;

/// Between an answer and the client's next request.
const PAUSE: Duration = Duration::from_millis(4);

/// Length of the server's answers, in bytes.
const BODY: usize = 1024;

/// What clients met with.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of each request with a whole answer, connecting included.
    pub milliseconds: Vec<f64>,
    /// Requests without one: refused, reset, cut, or not 200.
    pub lost: usize,
    /// Those of them whose kept connection was closed already when they were sent.
    pub stale: usize,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.milliseconds.extend(other.milliseconds);
        self.lost += other.lost;
        self.stale += other.stale;
    }
}

/// Who asks, where, and how.
pub struct Clients<'a> {
    pub address: SocketAddr,
    pub count: usize,
    /// Whether all keep their connection; otherwise every other one makes one for each request.
    pub all_keep: bool,
    /// Between an answer and the next request.
    pub pause: Duration,
    /// Hears the body of each answer.
    pub hear: &'a (dyn Fn(&[u8]) + Sync),
}

/// Has clients ask at `address` while `work` runs: half of them keep their connection, the others
/// make one for each request.
pub fn during<T>(address: SocketAddr, work: impl FnOnce() -> Outcome<T>) -> Outcome<(Tally, T)> {
    Clients { address, count: 2 * CLIENTS, all_keep: false, pause: PAUSE, hear: &|_| () }.during(work)
}

impl Clients<'_> {
    /// Has them ask while `work` runs.
    pub fn during<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<(Tally, T)> {
        let over = &AtomicBool::new(false);
        thread::scope(|scope| {
            let ask = |kept| self.ask_until(over, kept);
            let clients: Vec<_> =
                (0..self.count).map(|n| scope.spawn(move || ask(self.all_keep || n % 2 == 0))).collect();
            let done = work();
            over.store(true, Ordering::Relaxed);
            let mut all = Tally::default();
            for client in clients {
                all.add(client.join().map_err(|_| "a client panicked")?);
            }
            Ok((all, done?))
        })
    }

    /// One of them.
    fn ask_until(&self, over: &AtomicBool, kept: bool) -> Tally {
        let mut tally = Tally::default();
        let mut connection = None;
        while !over.load(Ordering::Relaxed) {
            // Looked at for the tally alone: the request is sent all the same, as by a client whose
            // request crosses with the end of the connection.
            let stale = connection.as_ref().is_some_and(is_closed);
            let begin = Instant::now();
            match ask(&mut connection, self.address, kept) {
                Ok(body) => {
                    tally.milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
                    (self.hear)(&body);
                }
                Err(_) => {
                    connection = None;
                    tally.lost += 1;
                    tally.stale += usize::from(stale);
                }
            }
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
        tally
    }
}

fn is_closed(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let _ = stream.set_nonblocking(false);
    !peeked.is_err_and(|err| err.kind() == ErrorKind::WouldBlock)
}

/// Asks once, on the connection that is there or a new one, and leaves it only where both ends keep
/// it. The body of the answer.
fn ask(connection: &mut Option<TcpStream>, address: SocketAddr, kept: bool) -> io::Result<Vec<u8>> {
    let mut stream = connection.take().map_or_else(|| connect(address), Ok)?;
    let wish = if kept { "keep-alive" } else { "close" };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: bench\r\nConnection: {wish}\r\n\r\n").as_bytes())?;
    let (head, mut body) = head(&mut stream)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let Some(length) = length.filter(|_| head.starts_with("http/1.1 200 ")) else {
        return Err(io::Error::other(head));
    };
    let read = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[read.min(length)..])?;
    *connection = Some(stream).filter(|_| kept && !head.contains("\r\nconnection: close\r\n"));
    Ok(body)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads to the end of a head, and says what came after it. In small letters, as names of fields
/// may have any.
fn head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(2 * BODY);
    let mut piece = [0; 2 * BODY];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..read]);
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).to_ascii_lowercase(), rest));
        }
    }
}

/// The answers at `address` to `count` requests at the same time, each on a connection of its own,
/// their heads included. Those that fail are none.
pub fn answers(address: SocketAddr, count: usize) -> Vec<String> {
    let send = || -> io::Result<TcpStream> {
        let mut stream = connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    };
    let sent: Vec<TcpStream> = (0..count).filter_map(|_| send().ok()).collect();
    sent.into_iter().filter_map(|stream| io::read_to_string(stream).ok()).collect()
}

/// A server for everything that is proxied, on every address of the loopback at its port. It lives
/// as long as the benchmark.
pub fn serve() -> Outcome<(u16, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, super::free_port()?.port()))?;
    let port = listener.local_addr()?.port();
    let serve = move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve_one(stream));
        }
    };
    Ok((port, thread::spawn(serve)))
}

fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n{}", ".".repeat(BODY));
    loop {
        head(&mut stream)?;
        stream.write_all(answer.as_bytes())?;
    }
}
