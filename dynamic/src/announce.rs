//! Announcing this server to nginit by a heartbeat, so that nobody has to list it: for as long as it beats, the proxy
//! sends requests. A thread of its own, because it waits for another machine; nothing that it meets stops the server.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use crate::server::note;

/// Longest wait for each step of a heartbeat.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 4096;

/// Where and as what to announce ourselves.
#[derive(Debug, Clone, clap::Args)]
pub struct Announce {
    /// Where nginit takes announcements (its NGINIT_ADMIN): http://HOST:PORT; without it, nothing is announced.
    #[arg(long = "announce-url", env = "ANNOUNCE_URL", value_name = "URL", value_parser = parse_url)]
    pub to: Option<Url>,

    /// The token that nginit wants to see (its NGINIT_ADMIN_TOKEN).
    #[arg(long = "announce-token", env = "ANNOUNCE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// File with that token; read for each heartbeat, so that it may change.
    #[arg(long = "announce-token-file", env = "ANNOUNCE_TOKEN_FILE", value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// The upstream to be a server of.
    #[arg(long = "announce-upstream", env = "ANNOUNCE_UPSTREAM", value_name = "NAME", default_value = "dynamic")]
    pub upstream: String,

    /// Seconds that an announcement counts; it comes again after a third of them.
    #[arg(long = "announce-ttl", env = "ANNOUNCE_TTL", value_name = "SECONDS", default_value = "15",
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub ttl: u32,
}

/// An address to connect to, and the path to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    address: String,
    path: String,
}

fn parse_url(text: &str) -> Result<Url, &'static str> {
    let rest = text.strip_prefix("http://").ok_or("is not http://HOST:PORT")?;
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    if !visible || port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
        return Err("is not http://HOST:PORT");
    }
    let path = if path.len() > 1 { path } else { "/v1/announce" };
    Ok(Url { address: address.to_owned(), path: path.to_owned() })
}

/// A heart that beats until it is stopped.
pub(crate) struct Heart {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Heart {
    /// Announces us, on `port` of whatever address we connect from, now and again.
    pub(crate) fn start(announce: Announce, url: Url, port: u16) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            let mut well = None;
            loop {
                let beat = announce.beat(&url, port, announce.ttl);
                match &beat {
                    Ok(()) if well != Some(true) => note(format_args!("notice announced to {}", url.address)),
                    Err(err) if well != Some(false) => {
                        note(format_args!("warn announcing to {}: {err:#}", url.address))
                    }
                    _ => {}
                }
                well = Some(beat.is_ok());
                let pause = Duration::from_secs(announce.ttl.into()) / 3;
                if !matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                    break;
                }
            }
            if let Err(err) = announce.beat(&url, port, 0) {
                note(format_args!("warn taking it back at {}: {err:#}", url.address));
            }
        };
        let thread = thread::Builder::new().name("announce".into()).spawn(work)?;
        Ok(Self { stop, thread })
    }

    /// Takes the announcement back; returns once the proxy knows, or cannot be told.
    pub(crate) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join(); // a crash has been told by the panic's own message
    }
}

impl Announce {
    fn token(&self) -> anyhow::Result<String> {
        match &self.token_file {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                Ok(text.trim().to_owned())
            }
            None => Ok(self.token.clone().unwrap_or_default()),
        }
    }

    fn beat(&self, url: &Url, port: u16, ttl: u32) -> anyhow::Result<()> {
        let body = serde_json::json!({ "upstream": self.upstream, "port": port, "ttl": format!("{ttl}s") }).to_string();
        let Url { address, path } = url;
        let (token, length) = (self.token()?, body.len());
        anyhow::ensure!(token.bytes().all(|b| b.is_ascii_graphic()), "the token has characters that no token has");
        let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
        let head =
            format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let answer = exchange(address, &format!("{head}{body}"))?;
        let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let said = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
        anyhow::ensure!(code == Some("200"), "status {}: {}", code.unwrap_or("?"), said.escape_debug());
        Ok(())
    }
}

fn exchange(address: &str, request: &str) -> anyhow::Result<String> {
    let mut failed = anyhow::anyhow!("it has no address");
    for one in address.to_socket_addrs().context("looking it up")? {
        let mut stream = match TcpStream::connect_timeout(&one, TIMEOUT) {
            Ok(stream) => stream,
            Err(err) => {
                failed = anyhow::Error::new(err).context("connecting");
                continue;
            }
        };
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes()).context("asking")?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).context("reading the answer")?;
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_perhaps_a_path() {
        let url = |address: &str, path: &str| Ok(Url { address: address.to_owned(), path: path.to_owned() });
        assert_eq!(parse_url("http://proxy:1936"), url("proxy:1936", "/v1/announce"));
        assert_eq!(parse_url("http://proxy:1936/"), url("proxy:1936", "/v1/announce"));
        assert_eq!(parse_url("http://[fd00::1]:1936/x/announce"), url("[fd00::1]:1936", "/x/announce"));
        for bad in
            ["", "proxy:1936", "https://proxy:1936", "http://proxy", "http://:1936", "http://proxy:0", "http://a b:1"]
        {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
