//! The life cycle of the supervised program, as a pure state machine: an [`Event`] and the time in,
//! [`Action`]s out.
//!
//! It owns what a signal means, when a reload may go on, and how long a stop may take. It never
//! sends a signal, reads a clock or waits: [`shell`] does, and tells what came of it. A stop wins
//! over a reload; HUPs that arrive during one are one further reload.

pub mod child;
pub mod reaper;
pub mod shell;
pub mod signals;

use std::time::{Duration, Instant};

use crate::settings::StopMode;

/// Longest wait for a candidate to be rendered: names have a deadline of six seconds, and what is
/// left is the reading of files, which a dead network file system can hold up for ever.
const RENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for `nginx -t`, which looks up names that a user's own files hold.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the fast stop, which takes milliseconds unless a worker hangs. With the default
/// of NGINIT_STOP_TIMEOUT it ends before the ten seconds of `docker stop` do.
const FAST_STOP_TIMEOUT: Duration = Duration::from_millis(750);

/// A process.
pub type Pid = i32;

/// What a signal means to a supervised nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Read everything anew.
    Reload,
    /// Let running requests finish: QUIT, and TERM too unless NGINIT_STOP says otherwise.
    Quit,
    /// End; how, NGINIT_STOP says.
    Term,
    /// End at once.
    FastStop,
    /// Hand it on.
    Forward,
}

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// What it means to nginx.
    pub meaning: Meaning,
    /// The kernel sent it to every process in the terminal's foreground.
    pub from_terminal: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a status.
    Status(u8),
    /// By a signal.
    Signal(i32),
}

impl Ended {
    /// The status to end with in its stead.
    pub fn code(self) -> u8 {
        match self {
            Self::Status(code) => code,
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A signal arrived that is not CHLD.
    Signal(Received),
    /// The supervised program ended.
    ChildEnded(Ended),
    /// The candidate that was asked for with this ticket is rendered, or why not.
    Rendered(u64, Result<(), String>),
    /// The test of the candidate, or of what is live after nginx's end, runs as this process.
    TestStarted(Pid),
    /// The test is over: accepted, or nginx's reason.
    Tested(Result<(), String>),
    /// The candidate's files are the live ones, or why not.
    Published(Result<(), String>),
    /// The deadline passed.
    Deadline,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a candidate; answer with [`Event::Rendered`] and this ticket. An answer that comes too
    /// late carries an old one.
    Render(u64),
    /// Stage it and start its test; answer with [`Event::TestStarted`] or [`Event::Tested`].
    Test,
    /// Make the staged files live; answer with [`Event::Published`].
    Publish,
    /// Forget the candidate and its test.
    Drop,
    /// Start a test of what is live; answer like [`Action::Test`].
    TestLive,
    /// Send a signal to the supervised program.
    Signal(i32),
    /// Kill the supervised program and its process group.
    KillGroup,
    /// Kill a test.
    KillTest(Pid),
    /// Say that a generation is live.
    ReportLive(u64),
    /// Say that a candidate is refused, what stays live, and why.
    ReportRefused(u64, String),
    /// Say what becomes of a stop.
    ReportStop(&'static str),
    /// End.
    End(End),
}

/// How nginit ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As the supervised program did.
    Child(Ended),
    /// nginx refused the first configuration, for this reason.
    BadConfiguration(String),
}

/// Where a reload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reload {
    Idle,
    Rendering { ticket: u64, deadline: Instant },
    Starting,
    Testing { pid: Pid, deadline: Instant, late: bool },
    Publishing,
}

/// Where the program stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Requests are finished; nothing waits for ever.
    Quitting {
        deadline: Option<Instant>,
    },
    /// Told to end at once.
    Stopping {
        deadline: Instant,
    },
    /// Killed.
    Killed,
    /// nginx ended by itself before any reload; its configuration is tested to learn why.
    PostMortem {
        ended: Ended,
        test: Option<(Pid, Instant)>,
    },
    Over,
}

/// Signals by number, as Linux has them on every architecture that Rust supports but MIPS and
/// SPARC (signal(7)); the constants of the edge are compared with these in a test of its own.
pub mod number {
    /// Hang up: reload.
    pub const HUP: i32 = 1;
    /// Graceful stop of nginx.
    pub const QUIT: i32 = 3;
    /// Fast stop of nginx.
    pub const TERM: i32 = 15;
}

/// The state of a supervised nginx, or of another program under plain init duties.
#[derive(Debug)]
pub struct Supervisor {
    /// Nothing for a program that is not nginx.
    nginx: Option<Policy>,
    phase: Phase,
    reload: Reload,
    /// A HUP came in while a reload was under way.
    again: bool,
    generation: u64,
    /// The last candidate that was asked for.
    ticket: u64,
}

/// What the settings say of stops.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What TERM means.
    pub stop: StopMode,
    /// Longest graceful stop; nothing waits for ever.
    pub stop_timeout: Option<Duration>,
}

impl Supervisor {
    /// nginx runs with generation 1.
    pub fn nginx(policy: Policy) -> Self {
        Self { nginx: Some(policy), generation: 1, ..Self::plain() }
    }

    /// A program runs that is not nginx: every signal is handed on, nothing else is done.
    pub fn plain() -> Self {
        Self { nginx: None, phase: Phase::Running, reload: Reload::Idle, again: false, generation: 0, ticket: 0 }
    }

    /// The generation that is live.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.phase, self.reload) {
            (Phase::Quitting { deadline }, _) => deadline,
            (Phase::Stopping { deadline } | Phase::PostMortem { test: Some((_, deadline)), .. }, _) => Some(deadline),
            (Phase::Running, Reload::Rendering { deadline, .. } | Reload::Testing { deadline, late: false, .. }) => {
                Some(deadline)
            }
            _ => None,
        }
    }

    /// What is to be done about `event`.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Signal(signal) => self.on_signal(signal, now),
            Event::ChildEnded(ended) => self.on_child_ended(ended),
            Event::Deadline => self.on_deadline(now),
            Event::Rendered(ticket, result) => self.on_rendered(ticket, result, now),
            Event::TestStarted(pid) => self.on_test_started(pid, now),
            Event::Tested(result) => self.on_tested(result, now),
            Event::Published(result) => self.on_published(result, now),
        }
    }

    fn on_signal(&mut self, signal: Received, now: Instant) -> Vec<Action> {
        let Some(policy) = self.nginx else {
            // The terminal has sent it to the program already, but for a hang-up, which is the session
            // leader's alone.
            return if signal.from_terminal && signal.number != number::HUP {
                Vec::new()
            } else {
                vec![Action::Signal(signal.number)]
            };
        };
        match (signal.meaning, self.phase) {
            (Meaning::Quit | Meaning::Term | Meaning::FastStop, Phase::PostMortem { ended, test }) => {
                self.phase = Phase::Over;
                let kill = test.map(|(pid, _)| Action::KillTest(pid));
                kill.into_iter().chain([Action::End(End::Child(ended))]).collect()
            }
            (_, Phase::Over | Phase::Killed | Phase::PostMortem { .. }) => Vec::new(),
            (Meaning::Reload, Phase::Running) => self.start_reload(now),
            (Meaning::Reload, _) => Vec::new(),
            (Meaning::Quit, Phase::Running) => self.quit(policy, now),
            (Meaning::Term, Phase::Running) if policy.stop == StopMode::Graceful => self.quit(policy, now),
            (Meaning::Term | Meaning::FastStop, Phase::Running) => self.stop_fast("fast stop", now),
            (Meaning::Term | Meaning::FastStop, Phase::Quitting { .. }) => {
                self.stop_fast("second signal, fast stop", now)
            }
            (Meaning::Quit, Phase::Quitting { .. }) => Vec::new(),
            (Meaning::Quit | Meaning::Term | Meaning::FastStop, Phase::Stopping { .. }) => Vec::new(),
            (Meaning::Forward, _) if signal.from_terminal => Vec::new(),
            (Meaning::Forward, _) => vec![Action::Signal(signal.number)],
        }
    }

    fn start_reload(&mut self, now: Instant) -> Vec<Action> {
        if self.reload == Reload::Idle {
            self.ticket += 1;
            self.reload = Reload::Rendering { ticket: self.ticket, deadline: now + RENDER_TIMEOUT };
            vec![Action::Render(self.ticket)]
        } else {
            self.again = true;
            Vec::new()
        }
    }

    /// Ends the reload that is under way, whatever its state.
    fn abandon_reload(&mut self) -> Vec<Action> {
        self.again = false;
        match std::mem::replace(&mut self.reload, Reload::Idle) {
            Reload::Testing { pid, .. } => vec![Action::KillTest(pid), Action::Drop],
            Reload::Starting => vec![Action::Drop],
            Reload::Idle | Reload::Rendering { .. } | Reload::Publishing => Vec::new(),
        }
    }

    fn quit(&mut self, policy: Policy, now: Instant) -> Vec<Action> {
        let mut actions = self.abandon_reload();
        self.phase = Phase::Quitting { deadline: policy.stop_timeout.and_then(|timeout| now.checked_add(timeout)) };
        actions.extend([
            Action::ReportStop("graceful stop, requests that run are finished"),
            Action::Signal(number::QUIT),
        ]);
        actions
    }

    fn stop_fast(&mut self, why: &'static str, now: Instant) -> Vec<Action> {
        let mut actions = self.abandon_reload();
        self.phase = Phase::Stopping { deadline: now + FAST_STOP_TIMEOUT };
        actions.extend([Action::ReportStop(why), Action::Signal(number::TERM)]);
        actions
    }

    fn on_deadline(&mut self, now: Instant) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match (self.phase, self.reload) {
            (Phase::Quitting { .. }, _) => {
                self.stop_fast("requests still run after NGINIT_STOP_TIMEOUT, fast stop", now)
            }
            (Phase::Stopping { .. }, _) => {
                self.phase = Phase::Killed;
                vec![Action::ReportStop("nginx does not end, killing it"), Action::KillGroup]
            }
            (Phase::PostMortem { test: Some((pid, _)), ended }, _) => {
                self.phase = Phase::Over;
                vec![Action::KillTest(pid), Action::End(End::Child(ended))]
            }
            (_, Reload::Rendering { .. }) => {
                let reason = format!("files could not be read within {} s", RENDER_TIMEOUT.as_secs());
                self.finish(vec![Action::ReportRefused(self.generation, reason)], now)
            }
            (_, Reload::Testing { pid, deadline, .. }) => {
                // Its end, by our signal, is the event that finishes the reload.
                self.reload = Reload::Testing { pid, deadline, late: true };
                vec![Action::KillTest(pid)]
            }
            _ => Vec::new(),
        }
    }

    fn on_rendered(&mut self, ticket: u64, result: Result<(), String>, now: Instant) -> Vec<Action> {
        if !matches!(self.reload, Reload::Rendering { ticket: wanted, .. } if wanted == ticket) {
            return Vec::new();
        }
        match result {
            Ok(()) => {
                self.reload = Reload::Starting;
                vec![Action::Test]
            }
            Err(reason) => self.finish(vec![Action::ReportRefused(self.generation, reason)], now),
        }
    }

    fn on_test_started(&mut self, pid: Pid, now: Instant) -> Vec<Action> {
        let deadline = now + TEST_TIMEOUT;
        match (self.phase, self.reload) {
            (Phase::Running, Reload::Starting) => {
                self.reload = Reload::Testing { pid, deadline, late: false };
                Vec::new()
            }
            (Phase::PostMortem { ended, test: None }, _) => {
                self.phase = Phase::PostMortem { ended, test: Some((pid, deadline)) };
                Vec::new()
            }
            _ => vec![Action::KillTest(pid)],
        }
    }

    fn on_tested(&mut self, result: Result<(), String>, now: Instant) -> Vec<Action> {
        match (self.phase, self.reload) {
            (Phase::PostMortem { ended, .. }, _) => {
                self.phase = Phase::Over;
                vec![Action::End(result.err().map_or(End::Child(ended), End::BadConfiguration))]
            }
            (Phase::Running, Reload::Starting | Reload::Testing { .. }) => {
                let late = matches!(self.reload, Reload::Testing { late: true, .. });
                let timeout = || format!("nginx -t took longer than {} s", TEST_TIMEOUT.as_secs());
                match if late { Err(timeout()) } else { result } {
                    Ok(()) => {
                        self.reload = Reload::Publishing;
                        vec![Action::Publish]
                    }
                    Err(reason) => self.finish(vec![Action::Drop, Action::ReportRefused(self.generation, reason)], now),
                }
            }
            _ => Vec::new(),
        }
    }

    fn on_published(&mut self, result: Result<(), String>, now: Instant) -> Vec<Action> {
        if !matches!((self.phase, self.reload), (Phase::Running, Reload::Publishing)) {
            return Vec::new();
        }
        let actions = match result {
            Ok(()) => {
                self.generation += 1;
                vec![Action::Signal(number::HUP), Action::ReportLive(self.generation)]
            }
            Err(reason) => vec![Action::ReportRefused(self.generation, reason)],
        };
        self.finish(actions, now)
    }

    /// Ends a reload with `actions`, and starts the next one if a HUP came in meanwhile.
    fn finish(&mut self, mut actions: Vec<Action>, now: Instant) -> Vec<Action> {
        self.reload = Reload::Idle;
        if std::mem::take(&mut self.again) {
            actions.extend(self.start_reload(now));
        }
        actions
    }

    fn on_child_ended(&mut self, ended: Ended) -> Vec<Action> {
        let mut actions = self.abandon_reload();
        let refused = self.nginx.is_some()
            && self.phase == Phase::Running
            && self.generation == 1
            && matches!(ended, Ended::Status(1..));
        if refused {
            self.phase = Phase::PostMortem { ended, test: None };
            actions.push(Action::TestLive);
        } else {
            self.phase = Phase::Over;
            actions.push(Action::End(End::Child(ended)));
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn signal(meaning: Meaning) -> Event {
        Event::Signal(Received { number: 10, meaning, from_terminal: false })
    }

    fn terminal(meaning: Meaning) -> Event {
        Event::Signal(Received { number: 28, meaning, from_terminal: true })
    }

    fn running(stop: StopMode) -> (Supervisor, Instant) {
        (Supervisor::nginx(Policy { stop, stop_timeout: Some(9 * SECOND) }), Instant::now())
    }

    fn refused(generation: u64, reason: &str) -> Action {
        Action::ReportRefused(generation, reason.to_owned())
    }

    #[test]
    fn hup_renders_tests_publishes_and_signals() {
        let (mut sup, t) = running(StopMode::Graceful);
        assert_eq!(sup.on(signal(Meaning::Reload), t), [Action::Render(1)]);
        assert_eq!(sup.on(Event::Rendered(1, Ok(())), t), [Action::Test]);
        assert_eq!(sup.on(Event::TestStarted(7), t), []);
        assert_eq!(sup.on(Event::Tested(Ok(())), t), [Action::Publish]);
        assert_eq!(sup.on(Event::Published(Ok(())), t), [Action::Signal(number::HUP), Action::ReportLive(2)]);
        assert_eq!((sup.generation(), sup.deadline()), (2, None));
    }

    #[test]
    fn what_is_refused_keeps_the_generation() {
        for step in 0..3 {
            let (mut sup, t) = running(StopMode::Graceful);
            let bad = Err("bad".to_owned());
            sup.on(signal(Meaning::Reload), t);
            let answer = match step {
                0 => sup.on(Event::Rendered(1, bad), t),
                1 => {
                    sup.on(Event::Rendered(1, Ok(())), t);
                    sup.on(Event::Tested(bad), t)
                }
                _ => {
                    sup.on(Event::Rendered(1, Ok(())), t);
                    sup.on(Event::TestStarted(7), t);
                    sup.on(Event::Tested(Ok(())), t);
                    sup.on(Event::Published(bad), t)
                }
            };
            assert_eq!(answer.last(), Some(&refused(1, "bad")), "step {step}");
            assert_eq!((sup.generation(), sup.reload), (1, Reload::Idle));
        }
    }

    #[test]
    fn hups_during_a_reload_are_one_more_reload() {
        let (mut sup, t) = running(StopMode::Graceful);
        sup.on(signal(Meaning::Reload), t);
        for _ in 0..5 {
            assert_eq!(sup.on(signal(Meaning::Reload), t), []);
        }
        assert_eq!(sup.on(Event::Rendered(1, Err("x".into())), t), [refused(1, "x"), Action::Render(2)]);
        assert_eq!(sup.on(Event::Rendered(1, Ok(())), t), [], "an answer to an old ticket counts for nothing");
        assert_eq!(sup.on(Event::Rendered(2, Err("y".into())), t), [refused(1, "y")]);
    }

    #[test]
    fn a_reload_that_hangs_is_given_up() {
        let (mut sup, t) = running(StopMode::Graceful);
        sup.on(signal(Meaning::Reload), t);
        assert_eq!(sup.on(Event::Deadline, t + SECOND), []);
        assert_eq!(sup.on(Event::Deadline, t + RENDER_TIMEOUT), [refused(1, "files could not be read within 30 s")]);
        sup.on(signal(Meaning::Reload), t);
        sup.on(Event::Rendered(2, Ok(())), t);
        sup.on(Event::TestStarted(7), t);
        assert_eq!(sup.on(Event::Deadline, t + TEST_TIMEOUT), [Action::KillTest(7)]);
        assert_eq!(sup.deadline(), None);
        let answer = sup.on(Event::Tested(Ok(())), t + TEST_TIMEOUT);
        assert_eq!(answer, [Action::Drop, refused(1, "nginx -t took longer than 30 s")]);
    }

    #[test]
    fn a_stop_wins_over_a_reload_in_every_state() {
        for steps in 0..3 {
            let (mut sup, t) = running(StopMode::Graceful);
            sup.on(signal(Meaning::Reload), t);
            sup.on(signal(Meaning::Reload), t);
            if steps > 0 {
                sup.on(Event::Rendered(1, Ok(())), t);
            }
            if steps > 1 {
                sup.on(Event::TestStarted(7), t);
            }
            let actions = sup.on(signal(Meaning::Term), t);
            assert_eq!(actions.last(), Some(&Action::Signal(number::QUIT)));
            assert_eq!(actions.contains(&Action::KillTest(7)), steps == 2);
            for late in [Event::Rendered(1, Ok(())), Event::Tested(Ok(())), signal(Meaning::Reload)] {
                assert_eq!(sup.on(late, t), [], "step {steps}");
            }
            assert_eq!(sup.on(Event::TestStarted(8), t), [Action::KillTest(8)]);
        }
    }

    #[test]
    fn a_graceful_stop_grows_impatient() {
        let (mut sup, t) = running(StopMode::Graceful);
        sup.on(signal(Meaning::Term), t);
        assert_eq!(sup.deadline(), Some(t + 9 * SECOND));
        assert_eq!(sup.on(signal(Meaning::Quit), t), []);
        assert_eq!(sup.on(Event::Deadline, t + 9 * SECOND).last(), Some(&Action::Signal(number::TERM)));
        assert_eq!(sup.on(signal(Meaning::FastStop), t), [], "the fast stop runs already");
        let end = t + 9 * SECOND + FAST_STOP_TIMEOUT;
        assert_eq!(sup.on(Event::Deadline, end).last(), Some(&Action::KillGroup));
        assert_eq!(sup.on(Event::ChildEnded(Ended::Signal(9)), end), [Action::End(End::Child(Ended::Signal(9)))]);
    }

    #[test]
    fn a_second_signal_is_the_fast_stop() {
        for second in [Meaning::Term, Meaning::FastStop] {
            let (mut sup, t) = running(StopMode::Graceful);
            sup.on(signal(Meaning::Term), t);
            assert_eq!(sup.on(signal(second), t).last(), Some(&Action::Signal(number::TERM)));
        }
        let (mut sup, t) = running(StopMode::Forward);
        assert_eq!(sup.on(signal(Meaning::Term), t).last(), Some(&Action::Signal(number::TERM)));
        let (mut sup, t) = running(StopMode::Forward);
        assert_eq!(sup.on(signal(Meaning::Quit), t).last(), Some(&Action::Signal(number::QUIT)));
    }

    #[test]
    fn no_timeout_waits_for_ever() {
        let mut sup = Supervisor::nginx(Policy { stop: StopMode::Graceful, stop_timeout: None });
        sup.on(signal(Meaning::Term), Instant::now());
        assert_eq!(sup.deadline(), None);
    }

    #[test]
    fn an_early_failure_of_nginx_is_looked_into() {
        let (mut sup, t) = running(StopMode::Graceful);
        assert_eq!(sup.on(Event::ChildEnded(Ended::Status(1)), t), [Action::TestLive]);
        assert_eq!(sup.on(Event::TestStarted(7), t), []);
        assert_eq!(sup.on(signal(Meaning::Reload), t), []);
        let answer = sup.on(Event::Tested(Err("bad".into())), t);
        assert_eq!(answer, [Action::End(End::BadConfiguration("bad".into()))]);

        let (mut sup, t) = running(StopMode::Graceful);
        sup.on(Event::ChildEnded(Ended::Status(1)), t);
        sup.on(Event::TestStarted(7), t);
        let answer = sup.on(signal(Meaning::Term), t);
        assert_eq!(answer, [Action::KillTest(7), Action::End(End::Child(Ended::Status(1)))]);

        let (mut sup, t) = running(StopMode::Graceful);
        sup.on(Event::ChildEnded(Ended::Status(1)), t);
        let answer = sup.on(Event::Tested(Ok(())), t);
        assert_eq!(answer, [Action::End(End::Child(Ended::Status(1)))], "a port in use, for example");
    }

    #[test]
    fn nginx_ending_by_itself_ends_all_with_its_status() {
        for ended in [Ended::Status(0), Ended::Signal(9)] {
            let (mut sup, t) = running(StopMode::Graceful);
            assert_eq!(sup.on(Event::ChildEnded(ended), t), [Action::End(End::Child(ended))]);
        }
        assert_eq!((Ended::Status(3).code(), Ended::Signal(9).code()), (3, 137));
    }

    #[test]
    fn what_the_terminal_sent_to_all_is_not_sent_again() {
        let (mut sup, t) = running(StopMode::Graceful);
        assert_eq!(sup.on(terminal(Meaning::Forward), t), []);
        assert_eq!(sup.on(signal(Meaning::Forward), t), [Action::Signal(10)]);
        assert_eq!(sup.on(terminal(Meaning::FastStop), t).last(), Some(&Action::Signal(number::TERM)));
        let mut plain = Supervisor::plain();
        assert_eq!(plain.on(terminal(Meaning::FastStop), t), []);
        for meaning in [Meaning::Reload, Meaning::Quit, Meaning::Term, Meaning::FastStop, Meaning::Forward] {
            assert_eq!(plain.on(signal(meaning), t), [Action::Signal(10)]);
        }
        let answer = plain.on(Event::ChildEnded(Ended::Status(1)), t);
        assert_eq!(answer, [Action::End(End::Child(Ended::Status(1)))]);
    }
}
