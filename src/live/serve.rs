//! The sockets on which nginx asks who its servers are, and the loop that answers.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task;
use tokio::time;

use super::message::{LONGEST_OVER_TCP, LONGEST_QUESTION};
use super::responder::{Action, Asker, News, Responder};
use super::zone::Zone;

/// The port, if it is free: a fixed one, so that replicas render the same bytes. No service is registered for it.
pub const PORT: u16 = 10_053;

/// How often another port is tried.
const TRIES: usize = 10;

/// So many bytes of questions may wait, if the kernel lets them. nginx asks for all new servers at once.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Messages that are read before something else has its turn.
const AT_ONCE: usize = 64;

/// Most connections at a time. nginx has one for each upstream and worker, and closes it after five seconds without a question.
const MOST_CONNECTIONS: usize = 256;

/// A connection over which nothing comes for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// So much waits to be sent over a connection at most; nothing more is read meanwhile.
const MOST_UNSENT: usize = 2 + LONGEST_OVER_TCP;

/// Open from before nginx starts until nginit ends, whatever becomes of the thread that answers.
#[derive(Debug)]
pub struct Sockets {
    /// For most questions.
    pub udp: UdpSocket,
    /// For long answers.
    pub tcp: TcpListener,
    /// Where both listen.
    pub address: SocketAddr,
    /// What has come and gone.
    pub tally: Tally,
}

/// How much has been asked and answered, since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Messages that came.
    pub asked: AtomicU64,
    /// Lists of servers that were sent.
    pub told: AtomicU64,
    /// Messages that were refused or no questions.
    pub refused: AtomicU64,
}

impl Sockets {
    /// Listens on loopback: on the port of `before`, on [`PORT`], or on one that the kernel chooses.
    ///
    /// # Errors
    /// That there is no loopback to listen on.
    pub fn bind(before: Option<u16>) -> io::Result<Self> {
        let first = Self::bind_at(before.unwrap_or(PORT));
        // A port that is free for TCP may be somebody's for UDP.
        let any = |_| (1..TRIES).find_map(|_| Self::bind_at(0).ok()).map_or_else(|| Self::bind_at(0), Ok);
        first.or_else(|_| Self::bind_at(PORT)).or_else(any)
    }

    fn bind_at(port: u16) -> io::Result<Self> {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        // What is lost, nginx asks for again.
        let _ = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER));
        Ok(Self { udp, tcp, address, tally: Tally::default() })
    }
}

/// Answers until the future is dropped. It may be begun anew with the same sockets: nginx asks again.
///
/// # Errors
/// What sockets cannot do.
pub async fn serve(sockets: &Sockets, mut zone: watch::Receiver<Arc<Zone>>, tell: &impl Fn(News)) -> io::Result<()> {
    let udp = tokio::net::UdpSocket::from_std(sockets.udp.try_clone()?)?;
    let tcp = tokio::net::TcpListener::from_std(sockets.tcp.try_clone()?)?;
    let mut responder = Responder::new(Arc::clone(&zone.borrow_and_update()));
    let mut connections = Connections::default();
    loop {
        let deadline = responder.deadline().into_iter().chain(connections.deadline()).min();
        let actions = tokio::select! {
            ready = udp.readable() => {
                ready?;
                let mut actions = Vec::new();
                let mut buffer = [0; LONGEST_QUESTION + 1];
                for _ in 0..AT_ONCE {
                    // An error is about a datagram that was sent before, to somebody who is gone.
                    let Ok((length, from)) = udp.try_recv_from(&mut buffer) else { break };
                    sockets.tally.asked.fetch_add(1, Ordering::Relaxed);
                    let ours = if from.ip().is_loopback() { &buffer[..length] } else { &[] };
                    actions.extend(responder.on_question(ours, Asker::Udp(from), Instant::now()));
                }
                actions
            }
            stream = tcp.accept() => {
                // Without a file for it, nothing can be accepted: not again and again in no time.
                match stream {
                    Ok((stream, _)) => connections.open(stream),
                    Err(_) => time::sleep(Duration::from_millis(10)).await,
                }
                Vec::new()
            }
            message = poll_fn(|context| connections.poll(context)) => match message {
                Some((from, bytes)) => {
                    sockets.tally.asked.fetch_add(1, Ordering::Relaxed);
                    responder.on_question(&bytes, Asker::Tcp(from), Instant::now())
                }
                None => Vec::new(),
            },
            changed = zone.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let zone = Arc::clone(&zone.borrow_and_update());
                responder.on_zone(zone, Instant::now())
            }
            () = sleep_until(deadline) => {
                connections.close_idle(Instant::now());
                responder.on_deadline(Instant::now())
            }
        };
        for action in actions {
            carry_out(action, &sockets.tally, &udp, &mut connections, tell);
        }
        task::yield_now().await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn carry_out(
    action: Action,
    tally: &Tally,
    udp: &tokio::net::UdpSocket,
    connections: &mut Connections,
    tell: &impl Fn(News),
) {
    let (to, bytes) = match action {
        Action::Report(news) => return tell(news),
        Action::Ignore => {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Action::Tell(to, bytes) => {
            tally.told.fetch_add(1, Ordering::Relaxed);
            (to, bytes)
        }
        Action::Refuse(to, bytes) => {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            (to, bytes)
        }
        Action::Answer(to, bytes) => (to, bytes),
    };
    match to {
        // What cannot be sent now is dropped, and asked for again.
        Asker::Udp(to) => drop(udp.try_send_to(&bytes, to)),
        Asker::Tcp(to) => connections.send(to, &bytes),
    }
}

/// The connections.
#[derive(Debug, Default)]
struct Connections {
    open: Vec<Connection>,
    /// The number of the last one.
    last: u64,
}

/// One of them.
#[derive(Debug)]
struct Connection {
    number: u64,
    stream: TcpStream,
    /// What has come and is no whole message yet.
    read: Vec<u8>,
    /// What has not been sent yet.
    unsent: Vec<u8>,
    /// When it is idle, unless a message comes.
    until: Instant,
}

impl Connections {
    /// Takes one more; where there are too many, the one that has been silent for longest goes.
    fn open(&mut self, stream: TcpStream) {
        if self.open.len() >= MOST_CONNECTIONS {
            let silent = self.open.iter().enumerate().min_by_key(|(_, connection)| connection.until);
            let silent = silent.map(|(at, _)| at);
            silent.into_iter().for_each(|at| drop(self.open.swap_remove(at)));
        }
        self.last += 1;
        let (read, unsent, until) = (Vec::new(), Vec::new(), Instant::now() + IDLE);
        self.open.push(Connection { number: self.last, stream, read, unsent, until });
    }

    /// When [`Self::close_idle`] has something to do.
    fn deadline(&self) -> Option<Instant> {
        self.open.iter().map(|connection| connection.until).min()
    }

    fn close_idle(&mut self, now: Instant) {
        self.open.retain(|connection| connection.until > now);
    }

    /// What has come over one of them. Nothing, if one has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(u64, Vec<u8>)>> {
        for at in 0..self.open.len() {
            let Poll::Ready(message) = self.open[at].poll(context) else { continue };
            let number = self.open[at].number;
            // The others come first the next time.
            self.open.rotate_left(at + 1);
            // Whatever ends it, the other end may connect again.
            if message.is_err() {
                self.open.pop();
            }
            return Poll::Ready(message.ok().map(|bytes| (number, bytes)));
        }
        Poll::Pending
    }

    /// Hands in an answer, unless too much waits already.
    fn send(&mut self, to: u64, bytes: &[u8]) {
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        let Some(connection) = self.open.iter_mut().find(|connection| connection.number == to) else { return };
        if connection.unsent.len() + 2 + bytes.len() <= MOST_UNSENT {
            connection.unsent.extend_from_slice(&length.to_be_bytes());
            connection.unsent.extend_from_slice(bytes);
        }
    }
}

impl Connection {
    /// Sends what waits, as far as that goes, and takes in a message once one has come. An error at its end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        while !self.unsent.is_empty() && self.stream.poll_write_ready(context)?.is_ready() {
            match self.stream.try_write(&self.unsent) {
                Ok(written) if written == self.unsent.len() => self.unsent = Vec::new(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
        if !self.unsent.is_empty() {
            return Poll::Pending;
        }
        loop {
            if let Some(message) = first_message(&mut self.read)? {
                self.until = Instant::now() + IDLE;
                return Poll::Ready(Ok(message));
            }
            ready!(self.stream.poll_read_ready(context)?);
            let mut buffer = [0; LONGEST_QUESTION + 2];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.read.extend_from_slice(&buffer[..length]),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Poll::Ready(Err(err)),
            }
        }
    }
}

/// Takes the first message out of what has been read, if all of it has.
fn first_message(read: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some((head, rest)) = read.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*head));
    if length > LONGEST_QUESTION {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
    read.drain(..2 + length);
    Ok(Some(message))
}
