//! Asks DNS servers, each question with an id and a source port that nobody can guess.
//!
//! The ways of glibc: one server after the other, all of them several times; what is too long for UDP
//! is asked for over TCP. Only who was asked can answer, because every socket is connected.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::config::Config;
use super::message::{self, Question, Records, Reply};

/// Room for an answer over UDP. Without EDNS none is longer than 512 bytes, by the rules.
const DATAGRAM: usize = 4096;

/// What all servers together said.
#[derive(Debug)]
pub enum Said {
    /// That there are such records; by whom.
    Records(Records, IpAddr),
    /// That there are none.
    None,
    /// Nothing of use.
    Failed {
        /// Why, in a line.
        reason: String,
        /// Nobody said anything: another question would end the same.
        silent: bool,
    },
}

/// A number that nobody can guess: the keyed hash of nothing, with the key from the kernel.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Asks the servers of `config`, beginning at the one with this number.
pub async fn ask(config: &Config, first: usize, question: &Question) -> Said {
    let mut left = config.servers.clone();
    let count = left.len().max(1);
    left.rotate_left(first % count);
    let (mut refusal, mut silence) = (None, None);
    for _ in 0..config.attempts {
        let mut again = Vec::new();
        for server in left {
            let said = ask_one(config, server, question).await;
            let ip = server.ip();
            match said {
                Ok(Reply::Records(records)) => return Said::Records(records, ip),
                Ok(Reply::None) => return Said::None,
                Ok(Reply::Refused(word)) => refusal = Some(format!("the DNS server {ip} says {word}")),
                Ok(Reply::NotOurs | Reply::Truncated) => {
                    refusal = Some(format!("the DNS server {ip} says nothing that makes sense"));
                }
                Err(err) => {
                    silence = Some(match err.kind() {
                        io::ErrorKind::TimedOut => format!("the DNS server {ip} does not answer"),
                        _ => format!("the DNS server {ip} cannot be asked: {err}"),
                    });
                    again.push(server);
                }
            }
        }
        left = again;
    }
    let silent = refusal.is_none();
    let reason = refusal.or(silence).unwrap_or_else(|| "there is no DNS server".to_owned());
    Said::Failed { reason, silent }
}

async fn ask_one(config: &Config, server: SocketAddr, question: &Question) -> io::Result<Reply> {
    if !config.tcp {
        let reply = within(config.timeout, over_udp(server, question)).await?;
        if reply != Reply::Truncated {
            return Ok(reply);
        }
    }
    within(config.timeout, over_tcp(server, question)).await
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(time, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn over_udp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The kernel chooses the port, another one for every socket.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = random() as u16;
    socket.send(&question.bytes(id)).await?;
    loop {
        // Nobody listens there: this is an error of the socket, and makes nothing readable.
        if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error()
            && let Ok(err) = socket.try_io(Interest::ERROR, || error_of(&socket))
        {
            return Err(err);
        }
        match receive(&socket, id, question) {
            // The true answer may still come.
            Ok(Reply::NotOurs) => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// The error that the socket has, or that there is none to wait for any more.
fn error_of(socket: &UdpSocket) -> io::Result<io::Error> {
    socket.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
}

/// Apart, so that no question that waits has the room for its answer.
fn receive(socket: &UdpSocket, id: u16, question: &Question) -> io::Result<Reply> {
    let mut buffer = [0; DATAGRAM];
    let len = socket.try_recv(&mut buffer)?;
    let reply = message::read(&buffer[..len], id, question);
    Ok(if len == DATAGRAM && reply != Reply::NotOurs { Reply::Truncated } else { reply })
}

async fn over_tcp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let stream = TcpStream::connect(server).await?;
    let id = random() as u16;
    let query = question.bytes(id);
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut rest = &[&len.to_be_bytes()[..], &query].concat()[..];
    while !rest.is_empty() {
        stream.writable().await?;
        let sent = unless_it_would_block(stream.try_write(rest))?;
        rest = &rest[sent.unwrap_or(0)..];
    }
    let mut len = [0; 2];
    fill(&stream, &mut len).await?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    fill(&stream, &mut answer).await?;
    Ok(message::read(&answer, id, question))
}

async fn fill(stream: &TcpStream, mut rest: &mut [u8]) -> io::Result<()> {
    while !rest.is_empty() {
        stream.readable().await?;
        match unless_it_would_block(stream.try_read(rest))? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => rest = &mut rest[read.unwrap_or(0)..],
        }
    }
    Ok(())
}

fn unless_it_would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}
