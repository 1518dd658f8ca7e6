//! The asking end of the control socket: one request on a connection of its own.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Reply, Request, Sorry};

/// How often to come again where the queue is full.
const QUEUE_INTERVAL: Duration = Duration::from_millis(20);

/// Why there is no reply.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens, or not to us.
    Unreachable(io::Error),
    /// The time is over.
    Timeout,
    /// nginit says why it does not answer this.
    Refused(String),
    /// The connection broke, or what answers is no nginit.
    Protocol(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(err) => err.fmt(f),
            Self::Timeout => f.write_str("the time is over"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Protocol(what) => write!(f, "it is no answer of nginit's: {what}"),
        }
    }
}

impl std::error::Error for AskError {}

/// Asks the nginit that listens on `path`, and waits for its answer for at most `timeout`, or for
/// as long as it takes.
///
/// # Errors
/// Why there is no reply.
pub fn ask(path: &Path, request: &Request, timeout: Option<Duration>) -> Result<Reply, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(AskError::Unreachable)?.block_on(async {
        let reply = exchange(path, request);
        match timeout {
            Some(time) => tokio::time::timeout(time, reply).await.unwrap_or(Err(AskError::Timeout)),
            None => reply.await,
        }
    })
}

async fn exchange(path: &Path, request: &Request) -> Result<Reply, AskError> {
    let broken = |err: hyper::Error| AskError::Protocol(err.to_string());
    let stream = connect(path).await.map_err(AskError::Unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let (method, target) = request.line();
    let asked = hyper::Request::builder().method(method).uri(&*target).header(HOST, "nginit");
    let body = request.body().map_err(|err| AskError::Protocol(err.to_string()))?;
    let asked = asked.body(Full::<Bytes>::from(body)).map_err(|err| AskError::Protocol(err.to_string()))?;
    let answer = sender.send_request(asked).await.map_err(broken)?;
    let code = answer.status().as_u16();
    let text = answer.into_body().collect().await.map_err(broken)?.to_bytes();
    read(request, code, &text)
}

/// Connects, and comes again where the queue of those who wait is full.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_INTERVAL).await,
            connected => return connected,
        }
    }
}

/// What an answer with this HTTP status and text says to `request`.
pub(super) fn read(request: &Request, code: u16, text: &[u8]) -> Result<Reply, AskError> {
    let reply = match (request, code) {
        (Request::Status, 200) => serde_json::from_slice(text).map(Reply::Status),
        (Request::Reload { wait: true }, 200 | 409) => serde_json::from_slice(text).map(Reply::Outcome),
        (Request::Reload { wait: false } | Request::Serf(_), 202) => Ok(Reply::Accepted),
        (Request::List { .. }, 200) => serde_json::from_slice(text).map(Reply::Listing),
        (Request::Diff, 200) => serde_json::from_slice(text).map(Reply::Diff),
        (Request::Announce(_), 200) => serde_json::from_slice(text).map(Reply::Ordered),
        // A conflict may also be a reason alone.
        (Request::Order(_), 200 | 409) if !is_sorry(text) => serde_json::from_slice(text).map(Reply::Ordered),
        _ => {
            let said = serde_json::from_slice(text).map(|Sorry { error }| error);
            return Err(AskError::Refused(said.unwrap_or_else(|_| format!("status {code}"))));
        }
    };
    reply.map_err(|err| AskError::Protocol(err.to_string()))
}

/// Whether the answer gives only a reason why there is none.
fn is_sorry(text: &[u8]) -> bool {
    serde_json::from_slice::<Sorry>(text).is_ok()
}
