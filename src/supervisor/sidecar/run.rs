//! The hands of [`super::Sidecars`]: starts programs, hands on what they write, signals them.
//!
//! What one writes, to either of its streams, goes through one pipe to a thread, which puts its name in
//! front of each line. A sidecar that writes faster than nginit's own stderr is read waits, as it would if
//! it wrote there itself; nginx and the loop do not.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::{Action, Event, Sidecars};
use crate::log::{self, Level};
use crate::supervisor::{Ended, Pid, child, resync};
use crate::upstream::Name;

/// The longest piece of a line that is written at once, in bytes; each gets the name in front of it.
const LONGEST_PIECE: usize = 8 << 10;

/// Whole lines are written together up to so many bytes: no other process's text gets in between
/// (`PIPE_BUF`, pipe(7)).
const BATCH: usize = 4096;

/// How long the last words of sidecars that have ended may take. A process that got away from its group
/// may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The sidecars of a running nginit.
#[derive(Debug)]
pub struct Runner {
    sidecars: Sidecars,
    /// A Serf agent was started.
    agent: bool,
    /// A clone is with each thread that reads what one of them writes.
    reading: Sender<()>,
    read: Receiver<()>,
}

impl Default for Runner {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl Runner {
    /// Those with these words each.
    pub fn new(commands: BTreeMap<Name, Vec<String>>) -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let (reading, read) = mpsc::channel();
        let sidecars = Sidecars::new(commands, RandomState::new().build_hasher().finish());
        Self { sidecars, agent: false, reading, read }
    }

    /// When [`Runner::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.sidecars.deadline()
    }

    /// Starts all of them: nginx answers.
    pub fn start(&mut self) {
        self.on(Event::NginxStarted);
    }

    /// Does what is due, if anything is.
    pub fn on_deadline(&mut self) {
        self.on(Event::Deadline);
    }

    /// Takes in the end of a process; false if it was none of them.
    pub fn ended(&mut self, pid: Pid, ended: Ended) -> bool {
        let ours = self.sidecars.has(pid);
        if ours {
            self.on(Event::Ended(pid, ended));
        }
        ours
    }

    /// Whether a Serf agent was started since this was asked last: it has to be asked for its members.
    pub fn agent_started(&mut self) -> bool {
        std::mem::take(&mut self.agent)
    }

    /// Tells all of them to end: nginx has ended.
    pub fn stop(&mut self) {
        self.on(Event::NginxEnded);
    }

    /// Whether none runs and none will.
    pub fn are_over(&self) -> bool {
        self.sidecars.are_over()
    }

    /// Waits until what they wrote last is handed on.
    pub fn finish(self) {
        drop(self.reading);
        // Nothing is ever sent: it is over when the last thread is.
        let _ = self.read.recv_timeout(LAST_WORDS);
    }

    fn on(&mut self, event: Event) {
        let mut todo = VecDeque::from(self.sidecars.on(event, Instant::now()));
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Start(name, words) => {
                    let result = spawn(&name, &words, self.reading.clone()).map_err(|err| {
                        let program = words.first().map(String::as_str).unwrap_or_default();
                        format!("\"{program}\" cannot be started: {err}")
                    });
                    self.agent |= result.is_ok() && resync::is_agent(&words);
                    todo.extend(self.sidecars.on(Event::Started(name, result), Instant::now()));
                }
                Action::Terminate(pid) => child::terminate_group(pid),
                Action::Kill(pid) => child::kill_group(pid),
                Action::ReportStarted(name, pid) => say(Level::Notice, &name, &format!("starts, pid={pid}")),
                Action::ReportEnded(name, how, Some(wait)) => {
                    say(Level::Warn, &name, &format!("{how}; it is started again in {:.1} s", wait.as_secs_f64()));
                }
                Action::ReportEnded(name, how, None) => say(Level::Info, &name, &how),
                Action::ReportKilled(name) => say(Level::Warn, &name, "does not end, killing it"),
            }
        }
    }
}

fn say(level: Level, name: &Name, what: &str) {
    log::line(level, "sidecar", &format!("{} {what}", name.as_str().to_ascii_lowercase()));
}

fn spawn(name: &Name, words: &[String], reading: Sender<()>) -> io::Result<Pid> {
    let (output, input) = io::pipe()?;
    let prefix = format!("{}: ", name.as_str().to_ascii_lowercase());
    let hand_on = move || {
        let _reading = reading;
        copy(output, &prefix, |lines| {
            // A stderr that takes nothing any more must not end the sidecar.
            let _ = io::stderr().write_all(lines);
        });
    };
    // Before the program: a thread that cannot be started leaves nothing behind.
    thread::Builder::new().name("sidecar".into()).spawn(hand_on)?;
    child::spawn_piped(words, input)
}

/// Hands on what is read, whole lines with `prefix` in front of each, until its end.
fn copy(mut from: impl Read, prefix: &str, mut to: impl FnMut(&[u8])) {
    let (mut held, mut buffer) = (Vec::new(), vec![0; 2 * LONGEST_PIECE]);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        held.extend_from_slice(&buffer[..count]);
        let mut lines = Lines { prefix, batch: Vec::new(), to: &mut to };
        let mut rest = held.as_slice();
        while let Some(end) = piece(rest) {
            let (line, after) = rest.split_at(end);
            lines.put(line);
            rest = after;
        }
        lines.flush();
        held = rest.to_vec();
    }
    if !held.is_empty() {
        let mut lines = Lines { prefix, batch: Vec::new(), to: &mut to };
        lines.put(&held);
        lines.flush();
    }
}

/// Where the first line of `text` ends, or the longest piece of it; nothing where the rest of it is to come.
fn piece(text: &[u8]) -> Option<usize> {
    let near = &text[..text.len().min(LONGEST_PIECE)];
    match near.iter().position(|b| *b == b'\n') {
        Some(at) => Some(at + 1),
        // The line break right behind a full piece belongs to it.
        None if text.len() > LONGEST_PIECE => Some(LONGEST_PIECE + usize::from(text[LONGEST_PIECE] == b'\n')),
        None => None,
    }
}

/// Lines that are written together.
struct Lines<'a, T> {
    prefix: &'a str,
    batch: Vec<u8>,
    to: &'a mut T,
}

impl<T: FnMut(&[u8])> Lines<'_, T> {
    fn put(&mut self, line: &[u8]) {
        if self.batch.len() + self.prefix.len() + line.len() + 1 > BATCH {
            self.flush();
        }
        self.batch.extend_from_slice(self.prefix.as_bytes());
        self.batch.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            self.batch.push(b'\n');
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            (self.to)(&self.batch);
            self.batch.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written of these reads, each write apart.
    fn copied(reads: &[&[u8]]) -> Vec<String> {
        struct Reads<'a>(VecDeque<&'a [u8]>);
        impl Read for Reads<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let Some(mut next) = self.0.pop_front() else { return Ok(0) };
                let count = next.read(buffer)?;
                if !next.is_empty() {
                    self.0.push_front(next);
                }
                Ok(count)
            }
        }
        let mut written = Vec::new();
        let reads = Reads(reads.iter().copied().filter(|read| !read.is_empty()).collect());
        copy(reads, "x: ", |lines| written.push(String::from_utf8_lossy(lines).into_owned()));
        written
    }

    #[test]
    fn every_line_has_its_name_in_front() {
        assert_eq!(copied(&[b"a\nb\n"]), ["x: a\nx: b\n"]);
        assert_eq!(copied(&[b"a", b"b", b"c\nd"]), ["x: abc\n", "x: d\n"]);
        assert_eq!(copied(&[b"\n\n"]), ["x: \nx: \n"]);
        assert_eq!(copied(&[b"a\xff\r\n"]), ["x: a\u{fffd}\r\n"]);
        assert_eq!(copied(&[]), [""; 0]);
    }

    #[test]
    fn long_lines_are_cut_and_nothing_is_lost() {
        for length in [LONGEST_PIECE - 1, LONGEST_PIECE, LONGEST_PIECE + 1, 3 * LONGEST_PIECE, 1 << 20] {
            for end in ["", "\n", "\nnext\n"] {
                let text = format!("{}{end}", "y".repeat(length));
                for size in [1000, LONGEST_PIECE, 1 << 20] {
                    let reads: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                    let all = copied(&reads).concat();
                    let lines: Vec<&str> = all.lines().map(|line| line.strip_prefix("x: ").unwrap()).collect();
                    assert_eq!(lines.concat(), text.replace('\n', ""), "{length} {size}");
                    let pieces = length.div_ceil(LONGEST_PIECE);
                    assert_eq!(lines.len(), pieces + usize::from(end.len() > 1), "{length} {end:?} {size}");
                    assert!(lines.iter().all(|line| line.len() <= LONGEST_PIECE));
                }
            }
        }
    }

    #[test]
    fn short_lines_are_written_together_but_none_is_torn() {
        let text = "some words\n".repeat(5000);
        let written = copied(&[text.as_bytes()]);
        assert!(written.len() < 30 && written.iter().all(|lines| lines.len() <= BATCH && lines.ends_with('\n')));
        assert_eq!(written.concat(), "x: some words\n".repeat(5000));
    }
}
