//! Asks the nginx of this container: whether it answers, and which generation it serves.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::upstream::Listen;

/// Longest wait for each step. Docker's own limit is thirty seconds; a proxy that needs two for a
/// constant answer is not well.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes: a head and a line.
const LONGEST_ANSWER: u64 = 4096;

/// Whether nginx answers where it listens.
///
/// # Errors
/// That nobody listens, or answers in time, or with status 200.
pub fn ping(listen: &Listen) -> io::Result<()> {
    let address = reachable(listen);
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(stream, "/nginit/ping").map(drop).map_err(|err| match err.kind() {
        io::ErrorKind::Other => io::Error::other(format!("{address} {err}")),
        _ => err,
    })
}

/// The generation that a worker of nginx serves, by its answer on the private `socket`.
///
/// # Errors
/// As above, or that the answer is no number.
pub fn generation(socket: &Path) -> io::Result<u64> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let body = exchange(stream, "/")?;
    body.trim().parse().map_err(|_| io::Error::other(format!("answers \"{}\"", body.escape_default())))
}

/// The body of the answer to a GET of `path`.
fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    // HTTP/1.0: the answer ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") && head.get(8..12) == Some(" 200") => Ok(body.to_owned()),
        _ => {
            let start: String = answer.chars().take(12).collect();
            Err(io::Error::other(format!("answers \"{}\"", start.escape_default())))
        }
    }
}

/// An address that reaches the listener from inside of the container.
fn reachable(listen: &Listen) -> SocketAddr {
    let ip = match listen.address {
        None => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        Some(ip) => ip,
    };
    SocketAddr::new(ip, listen.port.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::num::NonZeroU16;
    use std::thread;

    fn answer_with(text: &'static [u8]) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(text).unwrap();
        });
        let result = ping(&Listen { address: None, port });
        server.join().unwrap();
        result
    }

    #[test]
    fn only_status_200_is_healthy() {
        assert!(answer_with(b"HTTP/1.1 200 OK\r\n\r\nok\n").is_ok());
        assert!(answer_with(b"HTTP/1.1 200\r\n\r\n").is_ok());
        for bad in [b"HTTP/1.1 503 no" as &[u8], b"HTTP", b"SSH-2.0-OpenSSH", b""] {
            assert!(answer_with(bad).is_err());
        }
    }

    #[test]
    fn wildcards_are_asked_on_loopback() {
        let port = NonZeroU16::MIN;
        let at = |ip: &str| reachable(&Listen { address: ip.parse().ok(), port }).to_string();
        assert_eq!(
            [at("0.0.0.0"), at("::"), at("10.1.2.3"), at("")],
            ["127.0.0.1:1", "[::1]:1", "10.1.2.3:1", "127.0.0.1:1"]
        );
    }
}
