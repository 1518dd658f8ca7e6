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

/// Starts a connection of a proxy that has no client (the PROXY protocol, version 1).
const PROXY_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// Whether nginx answers where it listens for HTTP/1.
///
/// # Errors
/// That nobody listens, or answers in time, or with status 200.
pub fn ping(listen: &Listen) -> io::Result<()> {
    let (stream, address) = connect(listen)?;
    exchange(stream, "/nginit/ping").map(drop).map_err(|err| match err.kind() {
        io::ErrorKind::Other => io::Error::other(format!("{address} {err}")),
        _ => err,
    })
}

/// Whether nginx answers at all where it listens for something else: it tells a client of plain
/// HTTP/1 that this is not what is spoken.
///
/// # Errors
/// That nobody listens, or says a word in time.
pub fn knock(listen: &Listen) -> io::Result<()> {
    let (mut stream, _) = connect(listen)?;
    stream.write_all(&request("/nginit/ping"))?;
    stream.read_exact(&mut [0])
}

/// A connection to the listener, ready for a request.
fn connect(listen: &Listen) -> io::Result<(TcpStream, SocketAddr)> {
    let address = reachable(listen);
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    if listen.proxy_protocol {
        stream.write_all(PROXY_UNKNOWN)?;
    }
    Ok((stream, address))
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

/// A GET in HTTP/1.0, whose answer ends with the connection, of the server that is the default of its
/// address: nobody else's has this name (RFC 2606), but a user's own may well be called localhost.
fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.0\r\nHost: nginit.invalid\r\n\r\n").into_bytes()
}

/// The body of the answer to a GET of `path`.
fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    stream.write_all(&request(path))?;
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
        let result = ping(&Listen::plain(None, port));
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
    fn a_listener_for_proxies_hears_of_no_client_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut first = [0; 19];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"PROXY UNKNOWN\r\nGET ");
            stream.write_all(b"\x15").unwrap();
        });
        assert!(knock(&Listen { proxy_protocol: true, tls: true, ..Listen::plain(None, port) }).is_ok());
        server.join().unwrap();
        assert!(knock(&Listen::plain(None, port)).is_err(), "nobody is left");
    }

    #[test]
    fn wildcards_are_asked_on_loopback() {
        let port = NonZeroU16::MIN;
        let at = |ip: &str| reachable(&Listen::plain(ip.parse().ok(), port)).to_string();
        assert_eq!(
            [at("0.0.0.0"), at("::"), at("10.1.2.3"), at("")],
            ["127.0.0.1:1", "[::1]:1", "10.1.2.3:1", "127.0.0.1:1"]
        );
    }
}
