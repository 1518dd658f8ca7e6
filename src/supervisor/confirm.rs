//! Watches whether nginx serves a generation, in a thread of its own.
//!
//! `nginx -t` can accept what the reload then refuses, for example a port that is in use, and the
//! master tells nobody but its error log. So the new workers are asked: a server of ours answers
//! the number of its generation on a private unix socket.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::reload::Unproven;
use super::{Pid, child};
use crate::ask;
use crate::nginx::verdict;

/// The first look, and the least time between two: a reload of a small configuration takes a few
/// milliseconds.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(2);

/// The longest time between two looks.
const LONGEST_INTERVAL: Duration = Duration::from_millis(50);

/// Longest wait for the workers of before to take no more connections, once the new generation has
/// answered. The master lets them go after a tenth of a second (`ngx_master_process_cycle` in
/// nginx's src/os/unix/ngx_process_cycle.c); one that hangs must not count against what is new.
const HANDOVER: Duration = Duration::from_millis(500);

/// How long a line of the master's that looks like a refusal is doubted: some emerg lines are none,
/// and new workers come within milliseconds of the last one.
const DOUBT: Duration = Duration::from_millis(300);

/// How long nginx may run without an answer of its first generation.
const SILENCE: Duration = Duration::from_secs(30);

/// What is to be watched.
#[derive(Debug)]
pub struct Watched {
    /// The generation.
    pub number: u64,
    /// The socket on which it answers its number. Where there is none, or somebody removed it, new
    /// workers prove it.
    pub socket: Option<PathBuf>,
    /// The workers of before; none are those of the start.
    pub before: Vec<Pid>,
    /// nginx's master process.
    pub master: Pid,
    /// Where its emerg lines go, if that is known.
    pub errors: Option<PathBuf>,
}

/// A watch that runs; it ends with the value.
#[derive(Debug)]
pub struct Watch(#[expect(dead_code, reason = "its end is the message")] Sender<()>);

/// Watches until the generation is proven or refused, and tells which. Somebody else must limit the
/// time, but for that of a start, which is counted from the first worker on: what stands in front of
/// nginx, such as a script, may take its time.
///
/// # Errors
/// That no thread can be started.
pub fn watch(watched: Watched, tell: impl FnOnce(u64, Result<(), Unproven>) + Send + 'static) -> io::Result<Watch> {
    let (alive, over) = mpsc::channel();
    let work = move || {
        let began = Instant::now();
        let mut seen = Seen::default();
        let mut interval = SHORTEST_INTERVAL;
        while over.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            if let Some(result) = seen.look(&watched) {
                return tell(watched.number, result);
            }
            interval = (began.elapsed() / 10).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        }
    };
    thread::Builder::new().name("confirm".into()).spawn(work)?;
    Ok(Watch(alive))
}

/// Since when something is seen.
#[derive(Default)]
struct Seen {
    answer: Option<Instant>,
    refusal: Option<Instant>,
    workers: Option<Instant>,
}

impl Seen {
    /// Looks once, and says what is certain by now.
    fn look(&mut self, watched: &Watched) -> Option<Result<(), Unproven>> {
        let since = |seen: &mut Option<Instant>| seen.get_or_insert_with(Instant::now).elapsed();
        let is_handed_over = || !watched.before.iter().any(|pid| child::is_accepting(*pid));
        match watched.socket.as_ref().filter(|socket| socket.exists()) {
            Some(socket) => {
                let answers = || ask::generation(socket).is_ok_and(|number| number == watched.number);
                if self.answer.is_some() || answers() {
                    let proven = since(&mut self.answer) > HANDOVER || is_handed_over();
                    return proven.then_some(Ok(()));
                }
            }
            // A worker that died and was replaced is a new one too, but its neighbours go on.
            None if is_handed_over() && new_workers(watched) => return Some(Ok(())),
            None => {}
        }
        if let Some(reason) = refusal(watched) {
            return (since(&mut self.refusal) > DOUBT).then_some(Err(Unproven::Refused(reason)));
        }
        let silent = watched.before.is_empty() && new_workers(watched) && since(&mut self.workers) > SILENCE;
        let reason = || format!("nginx runs, but does not answer within {} s", SILENCE.as_secs());
        silent.then(|| Err(Unproven::Silent(reason())))
    }
}

/// Whether there are workers besides those of before.
fn new_workers(watched: &Watched) -> bool {
    child::workers(watched.master).iter().any(|pid| !watched.before.contains(pid))
}

/// Why the master refused it, if it did.
fn refusal(watched: &Watched) -> Option<String> {
    let log = fs::read(watched.errors.as_ref()?).ok()?;
    verdict::refusal(&String::from_utf8_lossy(&log), watched.master)
}
