//! Where requests are answered, whichever way they came in: HTTP, one request a connection, handed
//! to the loop. It decides nothing, and nothing that comes in here holds up the loop: connections
//! are few, short and limited in all that they may take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::route::{Refusal, Route};
use super::stream::{Listening, Stream};
use super::{Reply, Request, Sorry};
use crate::log::{self, Level};

/// Of all connections, those that may wait for the end of a reload, so that others still get
/// through.
const MOST_WAITS: usize = 48;

/// The longest head of a request, in bytes: many times what any client of ours sends.
const LONGEST_HEAD: usize = 16 << 10;

/// Longest time to send a head, a body, and to take the answer. Each is a matter of microseconds on
/// one machine.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time for last answers when nginit ends.
pub(crate) const FAREWELL_TIMEOUT: Duration = Duration::from_millis(100);

/// Pause after a failure that could come again at once: a crash, no descriptor left.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Something that was asked. Dropped without an answer, it tells that nginit is stopping.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    reply: oneshot::Sender<Reply>,
}

impl Asked {
    /// Answers. Whoever asked may be gone, which is no fault.
    pub fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }

    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        !self.reply.is_closed()
    }
}

/// What all connections share.
pub struct Desk {
    ask: Box<dyn Fn(Asked) -> bool + Send + Sync>,
    waits: Semaphore,
    stopping: watch::Receiver<bool>,
    /// Of builds for tests: the thread is to die.
    #[cfg(debug_assertions)]
    crash: Notify,
}

impl Desk {
    /// A desk until `stopping` says true. `ask` gets what is asked and says whether anybody is there
    /// to answer; it must not block.
    pub fn new(ask: impl Fn(Asked) -> bool + Send + Sync + 'static, stopping: watch::Receiver<bool>) -> Self {
        Self {
            ask: Box::new(ask),
            waits: Semaphore::new(MOST_WAITS),
            stopping,
            #[cfg(debug_assertions)]
            crash: Notify::new(),
        }
    }

    /// Dies when a test asks for it (`POST /v1/crash`), in builds for tests.
    #[cfg(debug_assertions)]
    #[expect(clippy::panic, reason = "that is what it is for")]
    pub async fn crashing(&self) -> std::io::Result<()> {
        self.crash.notified().await;
        panic!("a test asks for it");
    }

    /// Never.
    #[cfg(not(debug_assertions))]
    pub async fn crashing(&self) -> std::io::Result<()> {
        self.stopping().await;
        Ok(())
    }

    /// Waits until nginit ends.
    pub async fn stopping(&self) {
        // An error means that the sender is gone, which is the same.
        let _ = self.stopping.clone().wait_for(|stop| *stop).await;
    }
}

/// Which way requests come in, and so which of them are let through.
pub(super) trait Door: Send + Sync + 'static {
    /// What such a request asks for, whoever sent it.
    fn find(&self, request: &hyper::Request<Incoming>, peer: Option<IpAddr>) -> Result<Route, Refusal>;
}

/// Takes connections until the stop, `most` at a time, then lets the last answers through. More of
/// them wait in the kernel's queue.
pub(super) async fn accept(listening: Listening, most: u32, door: Arc<dyn Door>, desk: &Arc<Desk>) {
    let slots = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX)));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listening.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = desk.stopping() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (desk, door) = (Arc::clone(desk), Arc::clone(&door));
                // A crash in a task ends that connection alone.
                tokio::spawn(async move {
                    converse(stream, peer, &*door, &desk).await;
                    drop(slot);
                });
            }
            Err(err) => {
                log::line(Level::Warn, "control", &format!("no connection can be taken: {err}"));
                sleep(PAUSE).await;
            }
        }
    }
    let _ = timeout(FAREWELL_TIMEOUT, slots.acquire_many(most)).await;
}

/// One connection: one request, one answer.
async fn converse(stream: Stream, peer: Option<IpAddr>, door: &dyn Door, desk: &Desk) {
    let answered = Notify::new();
    let service = service_fn(async |request| {
        let answer = answer(request, peer, door, desk).await;
        answered.notify_one();
        answer
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TRANSFER_TIMEOUT)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        () = async { answered.notified().await; sleep(TRANSFER_TIMEOUT).await } => {}
    }
}

type Response = hyper::Response<Full<Bytes>>;

async fn answer(
    request: hyper::Request<Incoming>,
    peer: Option<IpAddr>,
    door: &dyn Door,
    desk: &Desk,
) -> Result<Response, hyper::http::Error> {
    #[cfg(debug_assertions)]
    if peer.is_none() && request.uri().path() == "/v1/crash" {
        desk.crash.notify_one();
    }
    let head = hyper::Response::builder().header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let asked = match door.find(&request, peer) {
        Ok(route) => match body(request.into_body(), route.longest_body()).await {
            Ok(body) => route.request(&body, peer),
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    let (head, text) = match asked {
        Ok(request) => {
            let (code, text) = reply(request, desk).await;
            (head.status(code), text)
        }
        Err(Refusal { code, why, allow }) => {
            let head = allow.into_iter().fold(head.status(code), |head, methods| head.header(ALLOW, methods));
            let head = if code == 401 { head.header(WWW_AUTHENTICATE, "Bearer") } else { head };
            (head, Sorry::to_json(&why))
        }
    };
    head.body(Full::from(text + "\n"))
}

/// The body, where one is wanted, of at most `longest` bytes.
async fn body(body: Incoming, longest: Option<usize>) -> Result<Bytes, Refusal> {
    let Some(longest) = longest else { return Ok(Bytes::new()) };
    let too_long = || Refusal::new(413, format!("the body is longer than {longest} bytes"));
    // What is announced as too long is not read at all.
    if body.size_hint().lower() > u64::try_from(longest).unwrap_or(u64::MAX) {
        return Err(too_long());
    }
    match timeout(TRANSFER_TIMEOUT, Limited::new(body, longest).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(err)) => Err(Refusal::new(400, format!("the body: {err}"))),
        Err(_) => Err(Refusal::new(408, "the body takes too long")),
    }
}

/// HTTP status and JSON text of the loop's reply.
async fn reply(request: Request, desk: &Desk) -> (u16, String) {
    let Ok(_place) = (if request.waits() { desk.waits.try_acquire().map(Some) } else { Ok(None) }) else {
        return (503, Sorry::to_json("too many wait for a reload already; ask without waiting"));
    };
    let (tx, rx) = oneshot::channel();
    let taken = (desk.ask)(Asked { request, reply: tx });
    let reply = tokio::select! {
        biased;
        reply = rx => reply.ok().filter(|_| taken),
        () = desk.stopping() => None,
    };
    let json = reply.and_then(|reply| Some((reply.code(), reply.to_json().ok()?)));
    json.unwrap_or_else(|| (503, Sorry::to_json("nginit is stopping")))
}
