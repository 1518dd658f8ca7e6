//! The door of the control socket: a unix socket of nginit's own user.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::time::sleep;

use super::desk::{self, Desk, Door};
use super::route::{Refusal, Route};
use super::stream::Listening;
use crate::log::{self, Level};

/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: u32 = 64;

/// Time between two looks at whether the socket's file is still there: whoever cleans up a directory does it
/// rarely, and it costs nothing.
const INTERVAL: Duration = Duration::from_secs(2);

/// A socket that is bound; its file goes with the value.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    bound: Mutex<Bound>,
}

#[derive(Debug)]
struct Bound {
    socket: UnixListener,
    _file: SocketFile,
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

impl Listener {
    /// Binds `path`, for its owner alone, and makes the directory that it is in. What a dead nginit
    /// left there is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when somebody answers there, `AlreadyExists` when what stands there is no socket,
    /// and what else keeps it from being bound.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), bound: Mutex::new(Bound::at(path)?) })
    }

    /// Answers until the desk's end. A file that somebody removes is made anew, and `back` is told: what was
    /// asked in between has reached nobody.
    ///
    /// # Errors
    /// What keeps it from being served.
    pub async fn serve(&self, desk: &Arc<Desk>, back: impl Fn()) -> io::Result<()> {
        loop {
            let socket = self.bound.lock().unwrap_or_else(PoisonError::into_inner).socket.try_clone()?;
            let socket = Listening::Unix(tokio::net::UnixListener::from_std(socket)?);
            tokio::select! {
                () = desk::accept(socket, MOST_CONNECTIONS, Arc::new(Open), desk) => return Ok(()),
                () = self.bind_when_gone() => back(),
            }
        }
    }

    /// Waits until the file is gone, and makes another one.
    async fn bind_when_gone(&self) {
        let mut said = None;
        loop {
            sleep(INTERVAL).await;
            if file_id(&self.path).err().is_none_or(|err| err.kind() != ErrorKind::NotFound) {
                continue;
            }
            match Bound::at(&self.path) {
                Ok(bound) => {
                    // The old one goes afterwards: until then, no other file has its number.
                    *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = bound;
                    let text = format!("\"{}\" was removed, and is back", self.path.display());
                    log::line(Level::Warn, "control", &text);
                    return;
                }
                Err(err) => {
                    let text = format!("\"{}\" was removed; commands reach nobody: {err}", self.path.display());
                    if said.as_ref() != Some(&text) {
                        log::line(Level::Error, "control", &text);
                        said = Some(text);
                    }
                }
            }
        }
    }
}

impl Bound {
    fn at(path: &Path) -> io::Result<Self> {
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
        Ok(Self { socket, _file: SocketFile { path: path.to_owned(), id: file_id(path)? } })
    }
}

/// Binds `path` with mode 0600 from its first moment on: the file takes it from the socket (`unix_bind_bsd` in
/// Linux's net/unix/af_unix.c). The umask would be that of all threads, and of children that are started meanwhile.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = unix_socket()?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // As std does: as long a queue as the kernel allows.
    rustix::net::listen(&socket, -1)?;
    Ok(socket.into())
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Removes a socket that nobody answers on.
fn make_room(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "what stands there is no socket, and is left alone"));
    }
    // Not std's connect, which blocks while the other end's queue is full.
    let socket = unix_socket()?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Err(io::Error::new(ErrorKind::AddrInUse, "another program answers there")),
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        Err(err) => Err(err.into()),
    }
}

/// Lets everything through: whoever may open the socket is trusted.
struct Open;

impl Door for Open {
    fn find(&self, request: &hyper::Request<Incoming>, _: Option<IpAddr>) -> Result<Route, Refusal> {
        Route::find(request.method().as_str(), request.uri().path(), request.uri().query())
    }
}
