//! The one loop: wait for a message, ask the state machine, carry out its actions.
//!
//! It owns all state; threads only send messages. Whatever fails here is an event too, so that the
//! machine decides what becomes of it.

mod answers;
mod ways;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cluster::Cluster;
use super::reload::Standing;
use super::reloader::{self, Reloader};
use super::sidecar::run::Runner;
use super::signals::{self, Hooked, Told};
use super::watch::Watcher;
use super::{Action, Doing, End, Ended, Event, Meaning, Pid, Supervisor, child, number, reaper};
use crate::admin::{self, ReloadResult};
use crate::control::{self, Control};
use crate::exit::{Failure, Status};
use crate::live::serve::Sockets;
use crate::log::{self, Level};
use crate::reload::candidate::Anew;
use crate::settings::Admin;
use answers::Waiter;

/// How often a program that does not catch a signal yet is looked at.
const HELD_INTERVAL: Duration = Duration::from_millis(2);

/// The same, once it has been held for long.
const LONG_HELD_INTERVAL: Duration = Duration::from_millis(100);

/// Longest time that a signal is held: a second is more than nginx takes to start, and what does
/// not catch it by then, such as a script in front of nginx, is not going to.
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// How long the first generation is left alone before it is asked: nginx takes some milliseconds
/// to start, and on a container's only core each question would take them from it.
const START_PATIENCE: Duration = Duration::from_millis(20);

/// What threads send to the loop.
#[derive(Debug)]
pub enum Message {
    /// A signal arrived.
    Signal(Told),
    /// Something of a reload is done.
    Reload(reloader::Told),
    /// The control thread tells something.
    Control(control::Told),
    /// Files have changed, which this line of the log names.
    Changed(String),
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

    /// Starts the thread that answers nginx, before nginx is started.
    ///
    /// # Errors
    /// That there can be none.
    pub fn start_control(&self, sockets: Arc<Sockets>) -> std::io::Result<Control> {
        ways::start_control(&self.tx, Some(sockets))
    }
}

/// nginx, as the loop knows it.
pub struct Nginx {
    /// Its reloads.
    pub reloader: Reloader,
    /// Where others are let in.
    pub ways_in: WaysIn,
    /// Follows files.
    pub watcher: Watcher,
    /// Programs beside it.
    pub sidecars: Runner,
    /// Who is in the Serf cluster.
    pub cluster: Cluster,
    /// Where nginx asks for its servers, if it can.
    pub sockets: Option<Arc<Sockets>>,
    /// Answers there from before nginx starts, where it asks.
    pub control: Option<Control>,
}

/// Where others are let in, as the settings have it.
#[derive(Debug, Default)]
pub struct WaysIn {
    /// The socket on which commands come in.
    pub control: Option<PathBuf>,
    /// Where servers announce themselves.
    pub admin: Option<Admin>,
}

/// Supervises the child `pid` until the end, and returns the status to end with.
pub fn run(supervisor: Supervisor, pid: Pid, inbox: Inbox, nginx: Option<Nginx>) -> Status {
    let Inbox { tx, rx, signals } = inbox;
    let teller = tx.clone();
    if let Err(err) = signals.forward(move |told| teller.send(Message::Signal(told)).is_ok()) {
        child::kill_group(pid);
        log::line(Level::Emerg, "signals", &format!("a thread cannot be started: {err}"));
        return Status::Failure;
    }
    let mut shell = Shell {
        supervisor,
        pid,
        tx,
        rx,
        reloader: None,
        ways_in: WaysIn::default(),
        watcher: Watcher::default(),
        sidecars: Runner::default(),
        cluster: Cluster::default(),
        sockets: None,
        control: None,
        waiters: Vec::new(),
        todo: VecDeque::new(),
        held: Vec::new(),
        first_look: None,
    };
    if let Some(nginx) = nginx {
        let Nginx { reloader, ways_in, watcher, sidecars, cluster, sockets, control } = nginx;
        shell = Shell { reloader: Some(reloader), ways_in, watcher, sidecars, cluster, sockets, control, ..shell };
    }
    shell.first_look = shell.reloader.is_some().then(|| Instant::now() + START_PATIENCE);
    shell.start_watcher();
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
    /// Where the control thread lets others in once nginx has started.
    ways_in: WaysIn,
    watcher: Watcher,
    sidecars: Runner,
    cluster: Cluster,
    sockets: Option<Arc<Sockets>>,
    control: Option<Control>,
    /// Commands that wait for the outcome of a reload.
    waiters: Vec<Waiter>,
    todo: VecDeque<Event>,
    /// Signals for a program that does not catch them yet, and until when they are held.
    held: Vec<(Signal, Instant)>,
    /// When the first generation is asked for the first time.
    first_look: Option<Instant>,
}

impl Shell {
    /// Waits for one message or the deadline and does what follows from it.
    fn step(&mut self) -> Option<End> {
        match self.receive() {
            Some(Message::Signal(Told::Child)) => self.reap(),
            Some(Message::Signal(Told::Program(name, sender, received))) => {
                let from = sender.map_or_else(String::new, |pid| format!(" from pid {pid}"));
                let asks = match received.meaning {
                    _ if self.reloader.is_none() => "for the program",
                    Meaning::Reload => "asks for a reload",
                    Meaning::Quit | Meaning::Term | Meaning::FastStop => "asks for a stop",
                    Meaning::Forward => "for nginx",
                };
                if let Some(reloader) = self.reloader.as_mut().filter(|_| received.meaning == Meaning::Reload) {
                    reloader.servers.read_anew(Anew::Everything);
                }
                // A terminal tells every change of its size; that is not worth a line.
                let level = if received.from_terminal { Level::Debug } else { Level::Info };
                log::line(level, "signals", &format!("{name}{from}, {asks}"));
                self.todo.push_back(Event::Signal(received));
            }
            Some(Message::Reload(told)) => self.hear(told),
            Some(Message::Control(control::Told::Asked(asked))) => self.answer(asked),
            Some(Message::Control(control::Told::Back)) => self.cluster.missed(),
            Some(Message::Control(control::Told::Followed(news))) => self.followed(&news),
            Some(Message::Control(control::Told::Heard(lookup, outcome))) => {
                if let Some(reloader) = &mut self.reloader {
                    reloader.servers.heard(&lookup, outcome);
                }
            }
            Some(Message::Changed(what)) => {
                log::line(Level::Notice, "watch", &format!("{what}, reloading"));
                self.reload_with(Anew::Changed);
            }
            None => self.todo.push_back(Event::Deadline),
        }
        self.settle();
        while let Some(event) = self.todo.pop_front() {
            for action in self.supervisor.on(event, Instant::now()) {
                if let Some(end) = self.carry_out(action) {
                    return Some(end);
                }
            }
        }
        None
    }

    /// Asks for a reload.
    fn reload_with(&mut self, anew: Anew) {
        if let Some(reloader) = &mut self.reloader {
            reloader.servers.read_anew(anew);
            self.todo.push_back(Event::Reload);
        }
    }

    /// Takes in what a thread tells of a reload.
    fn hear(&mut self, told: reloader::Told) {
        let Some(reloader) = &mut self.reloader else { return };
        match told {
            // One that nobody waits for must not take the place of a later one.
            reloader::Told::Rendered(ticket, _) if ticket + 1 != self.supervisor.next_ticket() => {}
            reloader::Told::Rendered(ticket, result) => {
                self.todo.push_back(Event::Rendered(ticket, reloader.rendered(*result)));
            }
            reloader::Told::Looked(1, others) => reloader.looked_first(others),
            reloader::Told::Looked(number, others) => reloader.looked(number, others),
            reloader::Told::Confirmed(number, result) => self.todo.push_back(Event::Confirmed(number, result)),
        }
    }

    fn receive(&mut self) -> Option<Message> {
        self.deliver_held();
        self.sidecars.on_deadline();
        self.ask_agent();
        let now = Instant::now();
        if self.first_look.take_if(|at| *at <= now).is_some() {
            self.carry_out(Action::Confirm(1));
        }
        let interval = |until: &Instant| if now < *until { HELD_INTERVAL } else { LONG_HELD_INTERVAL };
        let again = self.held.iter().map(|(_, until)| now + interval(until)).min();
        let members = self.reloader.as_ref().and_then(|reloader| reloader.servers.deadline());
        let others = again.into_iter().chain(self.first_look).chain(self.sidecars.deadline()).chain(members);
        let others = others.chain(self.cluster.deadline());
        let deadlines = self.supervisor.deadline().into_iter().chain(others);
        let message = match deadlines.min() {
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
            } else if let Some(event) = self.reloader.as_mut().and_then(|reloader| reloader.tested(pid, ended)) {
                self.todo.push_back(event);
            } else if self.sidecars.ended(pid, ended) {
                // They go on without the state machine.
            } else if self.cluster.ended(pid, ended) {
                self.gather();
            } else {
                log::line(Level::Debug, "reaper", &format!("orphan {pid} ended with status {}", ended.code()));
            }
        }
        // Last: after it, the end of a candidate's test would be taken for that of what is live.
        self.todo.extend(program);
    }

    fn carry_out(&mut self, action: Action) -> Option<End> {
        match action {
            Action::Signal(number) => {
                if let Some(signal) = signals::from_number(number) {
                    self.held.retain(|(held, _)| *held != signal);
                    self.held.push((signal, Instant::now() + LONGEST_HOLD));
                    self.deliver_held();
                }
            }
            Action::KillGroup => child::kill_group(self.pid),
            Action::KillTest(pid) => child::kill_group(pid),
            Action::ReportStop(what) => {
                log::line(Level::Notice, "supervisor", what);
                // What they wait for does not come any more.
                self.waiters.clear();
            }
            Action::End(end) => return Some(end),
            action => self.reload(action),
        }
        None
    }

    /// Carries out what belongs to a reload; what follows at once goes first.
    fn reload(&mut self, action: Action) {
        let Some(reloader) = &mut self.reloader else { return };
        let (tx, live) = (self.tx.clone(), self.supervisor.generation());
        let tell = move |told| tx.send(Message::Reload(told)).is_ok();
        let event = match action {
            Action::CountDraining => Some(Event::Draining(reloader.draining(live, self.pid).len())),
            Action::Render { ticket, number } => {
                reloader.render(ticket, number, tell);
                None
            }
            Action::Test => {
                let restored = reloader.restore_again();
                let event = reloader.test();
                if restored {
                    self.carry_out(Action::Signal(number::HUP));
                }
                Some(event)
            }
            Action::TestLive => Some(reloader.test_live()),
            Action::Publish(_) => {
                let event = reloader.publish();
                self.hand_on_zone();
                Some(event)
            }
            Action::Confirm(number) => reloader.confirm(number, live, self.pid, tell),
            Action::StopConfirming => {
                self.first_look = None;
                reloader.stop_confirming();
                None
            }
            Action::Prove => {
                reloader.prove();
                None
            }
            Action::RollBack => {
                reloader.roll_back();
                None
            }
            Action::Drop => {
                reloader.drop_candidate();
                None
            }
            Action::Restart(reason) => {
                reloader.servers.recall();
                self.held.clear();
                self.hand_on_zone();
                let restart = |reloader: &mut Reloader| reloader.restart(&reason).map(|pid| self.pid = pid);
                self.reloader.as_mut().map(restart).map(Event::Restarted)
            }
            Action::ReportStarted => {
                log::line(Level::Info, "nginx", &format!("generation {live} answers"));
                reloader.started(tell);
                self.open_doors();
                self.start_others();
                None
            }
            Action::ReportSilent(reason) => {
                log::line(Level::Warn, "nginx", &format!("generation {live} cannot be confirmed: {reason}"));
                reloader.silent();
                self.open_doors();
                self.start_others();
                None
            }
            Action::ReportHeld(generations) => {
                let text =
                    format!("waits: {generations} old generations still finish requests (NGINIT_RELOAD_BACKLOG)");
                log::line(Level::Notice, "reload", &text);
                None
            }
            Action::Report { ticket, live, outcome } => {
                let outcome = reloader.report(live, outcome);
                self.hand_on_zone();
                let Some(reloader) = &mut self.reloader else { return };
                let again = outcome.result == ReloadResult::Refused && reloader.servers.after_refusal();
                self.follow_names();
                self.gather();
                let Some(reloader) = &mut self.reloader else { return };
                if let Some(seen) = reloader.servers.take_files() {
                    self.watcher.follow(seen);
                    self.start_watcher();
                }
                if again {
                    self.postpone_orders(ticket);
                }
                self.answer_waiters(ticket, &outcome);
                // What nginx had not taken in may be gone with an upstream.
                self.answer_followers_if_taken();
                again.then_some(Event::Reload)
            }
            Action::Signal(_) | Action::KillGroup | Action::KillTest(_) | Action::ReportStop(_) | Action::End(_) => {
                None
            }
        };
        if let Some(event) = event {
            self.todo.push_front(event);
        }
    }

    /// Has files looked at, if there are any.
    fn start_watcher(&mut self) {
        let tx = self.tx.clone();
        if let Err(err) = self.watcher.start(move |what| tx.send(Message::Changed(what)).is_ok()) {
            let text = format!("changed files wait for a HUP: a thread cannot be started: {err}");
            log::line(Level::Warn, "watch", &text);
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

    /// Stops the sidecars and waits for their ends, which are the only messages that count any more.
    fn end_sidecars(&mut self) {
        self.sidecars.stop();
        self.cluster.stop();
        while !self.sidecars.are_over() {
            let until = self.sidecars.deadline().unwrap_or_else(Instant::now);
            let message = self.rx.recv_timeout(until.saturating_duration_since(Instant::now()));
            if matches!(message, Ok(Message::Signal(Told::Child))) {
                self.reap();
            }
            self.sidecars.on_deadline();
        }
        std::mem::take(&mut self.sidecars).finish();
    }

    fn end(&mut self, end: End) -> Status {
        if let Some(reloader) = &mut self.reloader {
            // As PID 1 the kernel does this for us; elsewhere workers of a killed master would stay.
            child::kill_group(self.pid);
            reloader.servers.write_last_answers();
            reloader.end();
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
                self.end_sidecars();
                Status::Child(ended.code())
            }
            End::BadConfiguration(reason) => {
                log::line(Level::Emerg, "nginx", &format!("the first configuration is refused: {reason}"));
                self.end_sidecars();
                Status::BadConfiguration
            }
        }
    }
}

/// What an operator calls it.
fn state(doing: Doing) -> admin::State {
    match doing {
        Doing::Serving(Standing::Idle) => admin::State::Running,
        Doing::Serving(Standing::Running) => admin::State::Reloading,
        Doing::Serving(Standing::Waiting) => admin::State::Waiting,
        Doing::Serving(Standing::Held) => admin::State::Held,
        Doing::Quitting => admin::State::Quitting,
        Doing::Stopping => admin::State::Stopping,
    }
}
