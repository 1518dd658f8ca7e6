//! The kernel's word that something happened in a directory (inotify(7)), and a bell to ring.
//!
//! By rustix, which is here anyway, and not by a library for this: what happened is of no interest, only
//! that something did, and files are looked at then. That leaves three calls of the kernel's, where
//! `notify` brings 100 kB of queues, other systems and a thread of its own.
//!
//! None of it need work: where the kernel's limits are reached (`fs.inotify.max_user_instances`,
//! `max_user_watches`), files are still polled.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::log::{self, Level};
use crate::ordered::InOrder;
use crate::reload::followed::directories;

/// What follows a write, a rename, a removal or a change of rights.
const WHAT: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Notices of the kernel's, if it gives any.
#[derive(Debug, Default)]
pub(super) struct Notices {
    inotify: Option<OwnedFd>,
    /// What they are of, by the kernel's numbers.
    watched: RefCell<BTreeSet<i32>>,
}

impl Notices {
    pub(super) fn open() -> Self {
        let opened = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let inotify = opened.inspect_err(|err| polls(&io::Error::from(*err))).ok();
        Self { inotify, watched: RefCell::default() }
    }

    /// Is told of these files from now on, and of no others: of their directories and, because one that
    /// is mounted alone is written elsewhere, of themselves.
    pub(super) fn follow<'a>(&self, files: impl Iterator<Item = &'a PathBuf>) {
        let Some(inotify) = &self.inotify else { return };
        let places = files.flat_map(|path| directories(path).into_iter().chain([path.clone()])).into_set();
        // What is watched already keeps its number, what is there anew gets another one.
        let add = |place: PathBuf| match inotify::add_watch(inotify, &place, WHAT) {
            Ok(number) => Some(number),
            Err(rustix::io::Errno::NOENT) => None,
            Err(err) => {
                polls(&io::Error::from(err));
                None
            }
        };
        let now = places.into_iter().filter_map(add).into_set();
        for gone in self.watched.replace(now.clone()).difference(&now) {
            let _ = inotify::remove_watch(inotify, *gone);
        }
    }
}

fn polls(err: &io::Error) {
    log::line(Level::Debug, "watch", &format!("files are polled alone: inotify: {err}"));
}

/// Wakes a thread that waits.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn ring(&self) {
        // It can fail only where it rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Waits until it rings, something is noticed, or `time` is over, which never is without one. Says
    /// whether it was one of the former two.
    pub(super) fn wait(&self, time: Option<Duration>, notices: Option<&Notices>) -> bool {
        let fds = [Some(&self.0), notices.and_then(|notices| notices.inotify.as_ref())];
        let mut polled: Vec<PollFd> = fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let is_stirred = poll(&mut polled, time.as_ref()).is_ok_and(|ready| ready > 0);
        for fd in fds.iter().flatten() {
            let mut what = [0; 4096];
            while rustix::io::read(fd.as_fd(), &mut what).is_ok_and(|length| length > 0) {}
        }
        is_stirred
    }
}
