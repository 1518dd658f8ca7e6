//! Listening, and stopping without losing a request: at TERM or INT no new connection is taken, idle ones are
//! closed, and what was asked is answered. A handler for the signals is what makes them count as PID 1, too.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::HeaderValue;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::announce::Heart;
use crate::api::{self, MAX_DELAY};
use crate::cli::Cli;

/// Longest wait for requests to finish after a signal: the longest request there is, and a little to send it.
const STOP_TIMEOUT: Duration = MAX_DELAY.saturating_add(Duration::from_secs(2));

/// How long we still take requests once a proxy knows that we go: its lists settle, and its reloads are spaced.
const LEAVING: Duration = Duration::from_millis(1500);

pub(crate) async fn serve(cli: Cli) -> anyhow::Result<()> {
    // Before the port is open, so that whoever saw the port open can rely on a graceful stop.
    let mut signals = Signals::hook()?;
    let listener = listen(cli.listen).await?;
    let address = listener.local_addr().context("asking for the port")?;
    let name = match cli.name.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => format!("{}:{}", host_name(), address.port()),
    };
    let header = HeaderValue::from_str(&name)
        .with_context(|| format!("\"SERVER_NAME\" {name:?} cannot be sent in a header; use visible characters"))?;
    note(format_args!("notice listening on {address}, X-Server is {name}"));

    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, api::router(header)).with_graceful_shutdown(async {
        let _ = stopped.await; // an error means that the sender is gone: stop as well
    });
    let server = async move { server.await };
    tokio::pin!(server);

    let heart = match cli.announce.to.clone() {
        Some(url) => Some(Heart::start(cli.announce, url, address.port()).context("starting a thread")?),
        None => None,
    };

    let first = tokio::select! {
        ended = &mut server => return ended.context("serving"),
        name = signals.next() => name,
    };
    if let Some(heart) = heart {
        note(format_args!("notice {first}: taking the announcement back"));
        let leaving = async {
            let _ = tokio::task::spawn_blocking(|| heart.stop()).await; // it tells by itself what fails
            tokio::time::sleep(LEAVING).await;
        };
        tokio::select! {
            ended = &mut server => return ended.context("serving"),
            _ = signals.next() => {}
            () = leaving => {}
        }
    }
    note(format_args!("notice {first}: finishing requests, then stopping"));
    let _ = stop.send(());
    tokio::select! {
        ended = &mut server => ended.context("finishing requests"),
        name = signals.next() => bail!("{name} while finishing requests: stopped at once"),
        () = tokio::time::sleep(STOP_TIMEOUT) => {
            bail!("requests unfinished after {} s: stopped", STOP_TIMEOUT.as_secs())
        }
    }
}

/// Binds `address`. `[::]` takes IPv4 as well, and where the kernel has no IPv6 becomes `0.0.0.0`.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(err) if err.kind() != io::ErrorKind::AddrInUse && address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
    .with_context(|| format!("listening on \"{address}\""))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// One line on stderr. A demo that lost its stderr still serves.
pub(crate) fn note(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "dynamic {line}");
}

/// The signals that ask for an end.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn hook() -> anyhow::Result<Self> {
        let hook = |kind| signal(kind).context("hooking signals");
        Ok(Self { term: hook(SignalKind::terminate())?, int: hook(SignalKind::interrupt())? })
    }

    /// Waits for the next one and gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
