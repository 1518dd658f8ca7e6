//! The one loop: wait for a message, ask the state machine, carry out its actions.
//!
//! It owns all state; threads only send messages. Whatever fails here is an event too, so that the
//! machine decides what becomes of it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::child;
use super::signals::{self, Hooked, Told};
use super::{Action, End, Ended, Event, Meaning, Pid, Supervisor, reaper};
use crate::exit::{Failure, Status};
use crate::inputs::Env;
use crate::log::{self, Level};
use crate::nginx::{Nginx, command::Options, verdict};
use crate::reload::candidate::Candidate;
use crate::reload::disk::Disk;
use crate::reload::{self, candidate};
use crate::upstream::Resolved;

/// How often a program that does not catch a signal yet is looked at.
const HELD_INTERVAL: Duration = Duration::from_millis(2);

/// The same, once it has been held for long.
const LONG_HELD_INTERVAL: Duration = Duration::from_millis(100);

/// Longest time that a signal is held: a second is more than nginx takes to start, and what does
/// not catch it by then, such as a script in front of nginx, is not going to.
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// What threads send to the loop.
#[derive(Debug)]
pub enum Message {
    /// A signal arrived.
    Told(Told),
    /// A candidate was rendered, or why not, for this ticket.
    Rendered(u64, Box<Result<Candidate, Failure>>),
}

/// How messages come in. Opened before the first child is started, so that no signal is lost; they
/// wait until the loop runs.
pub struct Inbox {
    tx: Sender<Message>,
    rx: Receiver<Message>,
    signals: Hooked,
}

impl Inbox {
    /// Hooks every signal.
    ///
    /// # Errors
    /// A failure that says what could not be set up.
    pub fn open() -> Result<Self, Failure> {
        let (tx, rx) = mpsc::channel();
        let refuse = |err| Failure::new(Status::Failure, format!("signals cannot be caught: {err}"));
        Ok(Self { tx, rx, signals: signals::hook().map_err(refuse)? })
    }
}

/// What a reload of nginx needs.
#[derive(Debug)]
pub struct Reloader {
    /// The environment.
    pub env: Env,
    /// The binary.
    pub nginx: Nginx,
    /// The options that nginx was started with.
    pub options: Options,
    /// The directives that we gave it in addition.
    pub globals: String,
    /// The main configuration file.
    pub main: PathBuf,
    /// The configuration directory.
    pub disk: Disk,
    /// The addresses of host names in what is live; they stay while a name does not resolve.
    pub resolved: Resolved,
}

/// Supervises the child `pid` until the end, and returns the status to end with.
pub fn run(supervisor: Supervisor, pid: Pid, inbox: Inbox, reloader: Option<Reloader>) -> Status {
    let Inbox { tx, rx, signals } = inbox;
    let teller = tx.clone();
    if let Err(err) = signals.forward(move |told| teller.send(Message::Told(told)).is_ok()) {
        child::kill_group(pid);
        log::line(Level::Emerg, "signals", &format!("a thread cannot be started: {err}"));
        return Status::Failure;
    }
    let mut shell = Shell {
        supervisor,
        pid,
        tx,
        rx,
        reloader,
        ticket: 0,
        candidate: None,
        tester: None,
        asked: Instant::now(),
        todo: VecDeque::new(),
        held: Vec::new(),
    };
    loop {
        if let Some(end) = shell.step() {
            return shell.end(end);
        }
    }
}

struct Shell {
    supervisor: Supervisor,
    pid: Pid,
    tx: Sender<Message>,
    rx: Receiver<Message>,
    reloader: Option<Reloader>,
    /// The candidate that is waited for.
    ticket: u64,
    candidate: Option<Candidate>,
    tester: Option<Tester>,
    /// When the reload that is under way was asked for.
    asked: Instant,
    todo: VecDeque<Event>,
    /// Signals for a program that does not catch them yet, and until when they are held.
    held: Vec<(Signal, Instant)>,
}

/// A test that runs.
struct Tester {
    pid: Pid,
    output: PathBuf,
    /// Paths in its messages, and what they stand for.
    shown: Vec<(String, String)>,
}

impl Shell {
    /// Waits for one message or the deadline and does what follows from it.
    fn step(&mut self) -> Option<End> {
        match self.receive() {
            Some(Message::Told(Told::Child)) => self.reap(),
            Some(Message::Told(Told::Program(name, sender, received))) => {
                let from = sender.map_or_else(String::new, |pid| format!(" from pid {pid}"));
                let asks = match received.meaning {
                    _ if self.reloader.is_none() => "for the program",
                    Meaning::Reload => "asks for a reload",
                    Meaning::Quit | Meaning::Term | Meaning::FastStop => "asks for a stop",
                    Meaning::Forward => "for nginx",
                };
                // A terminal tells every change of its size; that is not worth a line.
                let level = if received.from_terminal { Level::Debug } else { Level::Info };
                log::line(level, "signals", &format!("{name}{from}, {asks}"));
                self.todo.push_back(Event::Signal(received));
            }
            Some(Message::Rendered(ticket, candidate)) if ticket == self.ticket => {
                let result = candidate.map(|candidate| {
                    candidate::log_notes(&candidate.notes);
                    self.candidate = Some(candidate);
                });
                self.todo.push_back(Event::Rendered(ticket, result.map_err(|failure| failure.reason)));
            }
            Some(Message::Rendered(..)) => {}
            None => self.todo.push_back(Event::Deadline),
        }
        while let Some(event) = self.todo.pop_front() {
            for action in self.supervisor.on(event, Instant::now()) {
                if let Some(end) = self.carry_out(action) {
                    return Some(end);
                }
            }
        }
        None
    }

    fn receive(&mut self) -> Option<Message> {
        self.deliver_held();
        let now = Instant::now();
        let interval = |until: &Instant| if now < *until { HELD_INTERVAL } else { LONG_HELD_INTERVAL };
        let again = self.held.iter().map(|(_, until)| now + interval(until)).min();
        let message = match self.supervisor.deadline().into_iter().chain(again).min() {
            Some(deadline) => self.rx.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => self.rx.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // Our own sender keeps the channel open, so the only error is the deadline.
        message.ok()
    }

    fn reap(&mut self) {
        let mut program = None;
        for (pid, ended) in reaper::reap_all() {
            if pid == self.pid {
                self.held.clear();
                program = Some(Event::ChildEnded(ended));
            } else if self.tester.as_ref().is_some_and(|tester| tester.pid == pid) {
                let result = self.judge(ended);
                self.todo.push_back(Event::Tested(result));
            } else {
                log::line(Level::Debug, "reaper", &format!("orphan {pid} ended with status {}", ended.code()));
            }
        }
        // Last: after it, the end of a candidate's test would be taken for that of what is live.
        self.todo.extend(program);
    }

    /// What the test that ended says.
    fn judge(&mut self, ended: Ended) -> Result<(), String> {
        let Some(tester) = self.tester.take() else { return Ok(()) };
        let output = std::fs::read(&tester.output).unwrap_or_default();
        let _ = std::fs::remove_file(&tester.output);
        if ended == Ended::Status(0) {
            return Ok(());
        }
        Err(verdict::reason(&String::from_utf8_lossy(&output), &tester.shown))
    }

    fn carry_out(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Render(ticket) => self.render(ticket),
            Action::Test => {
                let event = self.test().map_or_else(|reason| Event::Tested(Err(reason)), Event::TestStarted);
                self.todo.push_front(event);
            }
            Action::TestLive => {
                let event = self.test_live().map_or_else(|_| Event::Tested(Ok(())), Event::TestStarted);
                self.todo.push_front(event);
            }
            Action::Publish => {
                let event = Event::Published(self.publish());
                self.todo.push_front(event);
            }
            Action::Drop => {
                self.candidate = None;
                self.tester = None;
                self.drop_staged();
            }
            Action::Signal(number) => {
                if let Some(signal) = signals::from_number(number) {
                    self.held.retain(|(held, _)| *held != signal);
                    self.held.push((signal, Instant::now() + LONGEST_HOLD));
                    self.deliver_held();
                }
            }
            Action::KillGroup => child::kill_group(self.pid),
            Action::KillTest(pid) => child::kill_group(pid),
            Action::ReportLive(generation) => {
                self.drop_staged();
                self.report_live(generation);
            }
            Action::ReportRefused(generation, reason) => {
                let reason = reason.trim_end();
                log::line(Level::Error, "reload", &format!("refused, generation {generation} stays live: {reason}"));
            }
            Action::ReportStop(what) => log::line(Level::Notice, "supervisor", what),
            Action::End(end) => return Some(end),
        }
        None
    }

    fn drop_staged(&self) {
        if let Some(reloader) = &self.reloader {
            let _ = reloader.disk.drop_staged();
        }
    }

    /// Sends the signals that the program can take. nginx needs some milliseconds before it
    /// catches any, and one that comes earlier would kill it. What is still not caught when its
    /// time is over is dropped, but for a stop, which then is the plain one, and a reload, which
    /// waits: nginx may have read the old files already.
    fn deliver_held(&mut self) {
        let (pid, nginx, now) = (self.pid, self.reloader.is_some(), Instant::now());
        self.held.retain(|(signal, until)| {
            if !nginx || child::catches(pid, *signal) != Some(false) {
                child::signal(pid, *signal);
                return false;
            }
            if now >= *until && [Signal::QUIT, Signal::TERM].contains(signal) {
                child::signal(pid, Signal::TERM);
            }
            *signal == Signal::HUP || now < *until
        });
    }

    /// Makes a candidate in a thread of its own: files and names can take their time.
    fn render(&mut self, ticket: u64) {
        let Some(reloader) = &self.reloader else { return };
        self.ticket = ticket;
        self.asked = Instant::now();
        let (env, version) = (reloader.env.clone(), reloader.nginx.facts.version);
        let known = reloader.resolved.clone();
        let (tx, generation) = (self.tx.clone(), self.supervisor.generation() + 1);
        let work = move || {
            let made = std::panic::catch_unwind(|| candidate::make(&env, version, generation, &known));
            let crash = |_| Err(Failure::new(Status::BadConfiguration, "rendering crashed; report this as a bug"));
            let _ = tx.send(Message::Rendered(ticket, Box::new(made.unwrap_or_else(crash))));
        };
        if let Err(err) = thread::Builder::new().name("render".into()).spawn(work) {
            let failed = Err(Failure::new(Status::BadConfiguration, format!("a thread cannot be started: {err}")));
            let _ = self.tx.send(Message::Rendered(ticket, Box::new(failed)));
        }
    }

    fn test(&mut self) -> Result<Pid, String> {
        let (Some(reloader), Some(candidate)) = (&self.reloader, &self.candidate) else {
            return Err("there is no candidate".to_owned());
        };
        let disk = &reloader.disk;
        let staged = disk.stage(&candidate.files).and_then(|()| disk.stage_main(&candidate.files, &reloader.main));
        let staged = staged.map_err(|err| disk.explain(&err))?;
        let args = reloader.options.test_args(&staged.main, &reloader.globals);
        let output = disk.test_output();
        let pid = child::spawn_test(&reloader.nginx.path, &args, &output).map_err(|err| format!("nginx -t: {err}"))?;
        self.tester = Some(Tester { pid, output, shown: staged.shown });
        Ok(pid)
    }

    /// Tests what nginx has just ended with.
    fn test_live(&mut self) -> Result<Pid, String> {
        let Some(reloader) = &self.reloader else { return Err(String::new()) };
        let args = reloader.options.test_args(&reloader.main, &reloader.globals);
        let output = reloader.disk.live().join(".nginit-test");
        let pid = child::spawn_test(&reloader.nginx.path, &args, &output).map_err(|err| err.to_string())?;
        self.tester = Some(Tester { pid, output, shown: Vec::new() });
        Ok(pid)
    }

    fn publish(&mut self) -> Result<(), String> {
        let (Some(reloader), Some(candidate)) = (&self.reloader, &self.candidate) else {
            return Err("there is no candidate".to_owned());
        };
        reload::publish(&reloader.disk, candidate).map_err(|err| reloader.disk.explain(&err))
    }

    fn report_live(&mut self, generation: u64) {
        let Some(candidate) = self.candidate.take() else { return };
        let took = self.asked.elapsed().as_millis();
        log::line(
            Level::Notice,
            "reload",
            &format!("generation {generation} published, nginx reloads, {} took_ms={took}", candidate.counts()),
        );
        if let Some(reloader) = &mut self.reloader {
            reloader.resolved = candidate.resolved;
        }
    }

    fn end(&self, end: End) -> Status {
        // As PID 1 the kernel does this for us; elsewhere workers of a killed master would stay.
        if self.reloader.is_some() {
            child::kill_group(self.pid);
        }
        if let Some(tester) = &self.tester {
            let _ = std::fs::remove_file(&tester.output);
        }
        match end {
            End::Child(ended) => {
                let (level, text) = match ended {
                    Ended::Signal(number) => (Level::Error, format!("nginx was ended by signal {number}")),
                    Ended::Status(0) => (Level::Info, "nginx ended, status 0".to_owned()),
                    Ended::Status(code) => (Level::Error, format!("nginx ended, status {code}")),
                };
                // Whoever runs another program, such as a shell, sees its end.
                if self.reloader.is_some() {
                    log::line(level, "supervisor", &text);
                }
                Status::Child(ended.code())
            }
            End::BadConfiguration(reason) => {
                log::line(Level::Emerg, "nginx", &format!("the first configuration is refused: {reason}"));
                Status::BadConfiguration
            }
        }
    }
}
