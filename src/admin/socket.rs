//! The answering end of the control socket: a unix socket of nginit's own user, HTTP on it, and
//! one thread that hands what is asked to the loop. It decides nothing, and nothing that comes in
//! here holds up the loop: connections are few, short and limited in all that they may take.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::umask;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};

use super::{Refusal, Reply, Request, Sorry};
use crate::log::{self, Level};

/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;

/// Of these, those that may wait for the end of a reload, so that others still get through.
const MOST_WAITS: usize = 48;

/// The longest head of a request, in bytes: many times what any client of ours sends. A body is
/// never read.
const LONGEST_HEAD: usize = 16 << 10;

/// Longest time to send a request, and to take its answer. Both are a matter of microseconds on one
/// machine.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time for last answers when nginit ends.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(100);

/// Pause after a failure that could come again at once: a crash, no descriptor left.
const PAUSE: Duration = Duration::from_secs(1);

/// A socket that is bound, and that nobody serves yet.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: SocketFile,
}

/// Our file of the socket, which is removed with the value.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another nginit may have taken the path meanwhile.
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()))
}

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

impl Listener {
    /// Binds `path`, for its owner alone, and makes the directory that it is in. What a dead nginit
    /// left there is replaced.
    ///
    /// For a moment this sets the process's umask, so no other thread should create files.
    ///
    /// # Errors
    /// `AddrInUse` when somebody answers there, `AlreadyExists` when what stands there is no socket,
    /// and what else keeps it from being bound.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let socket = match bind(path) {
            Err(err) if err.kind() == ErrorKind::AddrInUse => {
                make_room(path)?;
                bind(path)?
            }
            bound => bound?,
        };
        socket.set_nonblocking(true)?;
        Ok(Self { socket, file: SocketFile { path: path.to_owned(), id: file_id(path)? } })
    }

    /// Answers in a thread of its own, until the value is dropped. `ask` gets what is asked, in that
    /// thread, and says whether anybody is there to answer; it must not block.
    ///
    /// # Errors
    /// What keeps the thread from being started.
    pub fn serve(self, ask: impl Fn(Asked) -> bool + Send + Sync + 'static) -> io::Result<Serving> {
        let Self { socket, file } = self;
        let (stop, stopping) = watch::channel(false);
        let (ended_tx, ended) = mpsc::channel();
        let desk = Desk { ask: Box::new(ask), waits: Semaphore::new(MOST_WAITS), stopping };
        let work = move || {
            serve_on(&socket, &Arc::new(desk));
            drop(ended_tx);
        };
        thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Serving { stop, ended, _file: file })
    }
}

/// Binds `path` with mode 0600 from its first moment on: the kernel takes it from the umask.
fn bind(path: &Path) -> io::Result<UnixListener> {
    /// The umask is the process's: two at a time would restore each other's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// Removes a socket that nobody answers on.
fn make_room(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "what stands there is no socket, and is left alone"));
    }
    // Not std's connect, which blocks while the other end's queue is full.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Err(io::Error::new(ErrorKind::AddrInUse, "another program answers there")),
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        Err(err) => Err(err.into()),
    }
}

/// A control thread that runs. Dropped, it answers what still waits, ends, and removes the socket.
#[derive(Debug)]
pub struct Serving {
    stop: watch::Sender<bool>,
    /// Closed at the thread's end.
    ended: mpsc::Receiver<()>,
    _file: SocketFile,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // The thread's own limit comes first, unless `ask` blocks.
        let _ = self.ended.recv_timeout(2 * FAREWELL_TIMEOUT);
    }
}

/// What all connections share.
struct Desk {
    ask: Box<dyn Fn(Asked) -> bool + Send + Sync>,
    waits: Semaphore,
    stopping: watch::Receiver<bool>,
}

impl Desk {
    /// Waits until nginit ends.
    async fn stopping(&self) {
        // An error means that the sender is gone, which is the same.
        let _ = self.stopping.clone().wait_for(|stop| *stop).await;
    }
}

/// Serves until the stop, whatever happens: a crash is reported, and the work begins anew.
fn serve_on(socket: &UnixListener, desk: &Arc<Desk>) {
    keep_up(desk, || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let socket = tokio::net::UnixListener::from_std(socket.try_clone()?)?;
            accept(&socket, desk).await;
            Ok(())
        })
    });
}

/// Does `work` until it succeeds or the stop comes.
fn keep_up(desk: &Desk, mut work: impl FnMut() -> io::Result<()>) {
    loop {
        let failed = match catch_unwind(AssertUnwindSafe(&mut work)) {
            Ok(Ok(())) => return,
            Ok(Err(err)) => err.to_string(),
            Err(_) => "it crashed; report this as a bug".to_owned(),
        };
        log::line(Level::Error, "control", &format!("the control socket starts anew: {failed}"));
        let stopped = Builder::new_current_thread()
            .enable_time()
            .build()
            .is_ok_and(|runtime: Runtime| runtime.block_on(async { timeout(PAUSE, desk.stopping()).await.is_ok() }));
        if stopped {
            return;
        }
    }
}

/// Takes connections until the stop, then lets the last answers through.
async fn accept(socket: &tokio::net::UnixListener, desk: &Arc<Desk>) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, socket.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = desk.stopping() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let desk = Arc::clone(desk);
                // A crash in a task ends that connection alone.
                tokio::spawn(async move {
                    converse(stream, &desk).await;
                    drop(slot);
                });
            }
            Err(err) => {
                log::line(Level::Warn, "control", &format!("no connection can be taken: {err}"));
                sleep(PAUSE).await;
            }
        }
    }
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = timeout(FAREWELL_TIMEOUT, slots.acquire_many(all)).await;
}

/// One connection: one request, one answer.
async fn converse(stream: tokio::net::UnixStream, desk: &Desk) {
    let answered = Notify::new();
    let service = service_fn(async |request| {
        let answer = answer(&request, desk).await;
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

async fn answer(request: &hyper::Request<Incoming>, desk: &Desk) -> Result<Response, hyper::http::Error> {
    let (uri, json) = (request.uri(), HeaderValue::from_static("application/json"));
    let head = hyper::Response::builder().header(CONTENT_TYPE, json);
    let (head, text) = match Request::parse(request.method().as_str(), uri.path(), uri.query()) {
        Ok(request) => {
            let (code, text) = reply(request, desk).await;
            (head.status(code), text)
        }
        Err(Refusal { code, why, allow }) => {
            let head = head.status(code);
            (allow.into_iter().fold(head, |head, methods| head.header(ALLOW, methods)), Sorry::to_json(why))
        }
    };
    head.body(Full::from(text + "\n"))
}

/// HTTP status and JSON text of the loop's reply.
async fn reply(request: Request, desk: &Desk) -> (u16, String) {
    let waits = request == Request::Reload { wait: true };
    let Ok(_place) = (if waits { desk.waits.try_acquire().map(Some) } else { Ok(None) }) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_crashes_begins_anew() {
        let (_stop, stopping) = watch::channel(false);
        let desk = Desk { ask: Box::new(|_| true), waits: Semaphore::new(1), stopping };
        let mut times = 0;
        keep_up(&desk, || {
            times += 1;
            match times {
                1 => panic!("a crash, on purpose"),
                2 => Err(ErrorKind::OutOfMemory.into()),
                _ => Ok(()),
            }
        });
        assert_eq!(times, 3);
    }

    #[test]
    fn a_stop_ends_the_wait_after_a_crash() {
        let (_, stopping) = watch::channel(false);
        let desk = Desk { ask: Box::new(|_| true), waits: Semaphore::new(1), stopping };
        keep_up(&desk, || Err(ErrorKind::OutOfMemory.into()));
    }
}
