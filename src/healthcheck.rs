//! Asks the nginx of this container whether it answers, over the address that it listens on.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::upstream::Listen;

/// Longest wait for each step. Docker's own limit is thirty seconds; a proxy that needs two for a
/// constant answer is not well.
const TIMEOUT: Duration = Duration::from_secs(2);

const REQUEST: &[u8] = b"GET /nginit/ping HTTP/1.0\r\nHost: localhost\r\n\r\n";

/// Asks once.
///
/// # Errors
/// That nobody listens, or answers in time, or with status 200.
pub fn ask(listen: &Listen) -> io::Result<()> {
    let address = reachable(listen);
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if head.starts_with(b"HTTP/1.") && head.ends_with(b" 200") {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(&head).into_owned();
    Err(io::Error::other(format!("{address} answers \"{}\"", answer.escape_default())))
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
            let mut request = [0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(text).unwrap();
        });
        let result = ask(&Listen { address: None, port });
        server.join().unwrap();
        result
    }

    #[test]
    fn only_status_200_is_healthy() {
        assert!(answer_with(b"HTTP/1.1 200 OK\r\n\r\nok\n").is_ok());
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
