//! The life cycle of the supervised program, as a pure state machine: an [`Event`] and the time in,
//! [`Action`]s out.
//!
//! It owns what a signal means and how long a stop may take; [`reload`] owns the reloads. It never
//! sends a signal, reads a clock or waits: [`shell`] does, and tells what came of it. A stop wins
//! over a reload; HUPs that arrive during one are one further reload.

pub mod backoff;
pub mod child;
pub mod clients;
pub mod cluster;
pub mod confirm;
pub mod following;
pub mod generations;
pub mod reaper;
pub mod reload;
pub mod reloader;
pub mod resync;
pub mod servers;
pub mod shell;
pub mod sidecar;
pub mod signals;
pub mod watch;

use std::time::{Duration, Instant};

use crate::settings::StopMode;
use reload::{Change, Limits, Outcome, Reload, Standing, TEST_TIMEOUT, Unproven};

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
    /// A reload is asked for, but not by a signal.
    Reload,
    /// So many old generations still finish requests.
    Draining(usize),
    /// The candidate that was asked for with this ticket is rendered, or why not.
    Rendered(u64, Result<Change, String>),
    /// The test of the candidate, or of what is live after nginx's end, runs as this process.
    TestStarted(Pid),
    /// The test is over: accepted, or nginx's reason.
    Tested(Result<(), String>),
    /// The candidate's files are the live ones, or why not.
    Published(Result<(), String>),
    /// The generation of this number answers, or why it does not.
    Confirmed(u64, Result<(), Unproven>),
    /// nginx was started again with what was live last, or why it could not be.
    Restarted(Result<(), String>),
    /// The deadline passed.
    Deadline,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Count the old generations that still finish requests; answer with [`Event::Draining`].
    CountDraining,
    /// Make a candidate for the generation `number`; answer with [`Event::Rendered`] and this
    /// ticket. An answer that comes too late carries an old one.
    Render {
        /// Which run it is for.
        ticket: u64,
        /// The number it gets if it is published.
        number: u64,
    },
    /// Stage it and start its test; answer with [`Event::TestStarted`] or [`Event::Tested`].
    Test,
    /// Make the staged files live as the generation of this number, and keep those of before;
    /// answer with [`Event::Published`].
    Publish(u64),
    /// Watch for the answer of the generation of this number; answer with [`Event::Confirmed`].
    Confirm(u64),
    /// Watch no longer.
    StopConfirming,
    /// The live files are proven: those of before are not needed any more.
    Prove,
    /// Make the files of before the live ones again.
    RollBack,
    /// Forget the candidate and its test.
    Drop,
    /// Start a test of what is live; answer like [`Action::Test`].
    TestLive,
    /// Start nginx again, with the files of before, because of this reason; answer with
    /// [`Event::Restarted`].
    Restart(String),
    /// Send a signal to the supervised program.
    Signal(i32),
    /// Kill the supervised program and its process group.
    KillGroup,
    /// Kill a test.
    KillTest(Pid),
    /// Say that the generation that nginx was started with answers.
    ReportStarted,
    /// Say that it does not, and why.
    ReportSilent(String),
    /// Say that a reload waits until fewer than this many old generations finish requests.
    ReportHeld(usize),
    /// Say what became of the reload with this ticket, and tell all who wait for it.
    Report {
        /// Which run it was.
        ticket: u64,
        /// The generation that is live.
        live: u64,
        /// What became of it.
        outcome: Outcome,
    },
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

/// What the supervised program does, as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It serves, and a reload of it stands here.
    Serving(Standing),
    /// It finishes requests.
    Quitting,
    /// It ends.
    Stopping,
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
    phase: Phase,
    /// Nothing for a program that is not nginx.
    nginx: Option<Nginx>,
}

/// What there is to know of a supervised nginx.
#[derive(Debug)]
struct Nginx {
    policy: Policy,
    reload: Reload,
}

/// What the settings say of starts, reloads and stops.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// When nginx refuses the first configuration, what was live before is served.
    pub last_good: bool,
    /// Of reloads.
    pub reloads: Limits,
    /// What TERM means.
    pub stop: StopMode,
    /// Longest graceful stop; nothing waits for ever.
    pub stop_timeout: Option<Duration>,
}

impl Supervisor {
    /// nginx starts with generation 1; [`Action::Confirm`] of it is to be carried out at once.
    pub fn nginx(policy: Policy) -> Self {
        let reload = Reload::first(policy.reloads);
        Self { phase: Phase::Running, nginx: Some(Nginx { policy, reload }) }
    }

    /// A program runs that is not nginx: every signal is handed on, nothing else is done.
    pub fn plain() -> Self {
        Self { phase: Phase::Running, nginx: None }
    }

    /// The generation that is live, 0 where the program is not nginx.
    pub fn generation(&self) -> u64 {
        self.nginx.as_ref().map_or(0, |nginx| nginx.reload.live())
    }

    /// The ticket of the next reload to begin, which sees everything that has been changed by now.
    pub fn next_ticket(&self) -> u64 {
        self.nginx.as_ref().map_or(0, |nginx| nginx.reload.next_ticket())
    }

    /// What the program does.
    pub fn doing(&self) -> Doing {
        match self.phase {
            Phase::Running => {
                Doing::Serving(self.nginx.as_ref().map_or(Standing::Idle, |nginx| nginx.reload.standing()))
            }
            Phase::Quitting { .. } => Doing::Quitting,
            _ => Doing::Stopping,
        }
    }

    /// When [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => self.nginx.as_ref().and_then(|nginx| nginx.reload.deadline()),
            Phase::Quitting { deadline } => deadline,
            Phase::Stopping { deadline } | Phase::PostMortem { test: Some((_, deadline)), .. } => Some(deadline),
            _ => None,
        }
    }

    /// What is to be done about `event`.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let reload = self.nginx.as_mut().filter(|_| self.phase == Phase::Running).map(|nginx| &mut nginx.reload);
        match (event, reload) {
            (Event::Signal(signal), _) => self.on_signal(signal, now),
            (Event::ChildEnded(ended), _) => self.on_child_ended(ended),
            (Event::Restarted(result), _) => self.on_restarted(result),
            (Event::Reload, Some(reload)) => reload.want(now),
            (Event::Draining(generations), Some(reload)) => reload.on_draining(generations, now),
            (Event::Rendered(ticket, result), Some(reload)) => reload.on_rendered(ticket, result, now),
            (Event::TestStarted(pid), Some(reload)) => reload.on_test_started(pid, now),
            (Event::Tested(result), Some(reload)) => reload.on_tested(result, now),
            (Event::Published(result), Some(reload)) => reload.on_published(result, now),
            (Event::Confirmed(number, result), Some(reload)) => reload.on_confirmed(number, result, now),
            (Event::Deadline, Some(reload)) if reload.deadline().is_some_and(|deadline| now >= deadline) => {
                reload.on_deadline(now)
            }
            (Event::Deadline, _) => self.on_deadline(now),
            (Event::TestStarted(pid), None) => self.on_post_mortem_started(pid, now),
            (Event::Tested(result), None) => self.on_post_mortem(result),
            (
                Event::Reload | Event::Draining(_) | Event::Rendered(..) | Event::Published(_) | Event::Confirmed(..),
                None,
            ) => Vec::new(),
        }
    }

    fn on_signal(&mut self, signal: Received, now: Instant) -> Vec<Action> {
        let Some(nginx) = &mut self.nginx else {
            // The terminal has sent it to the program already, but for a hang-up, which is the session
            // leader's alone.
            return if signal.from_terminal && signal.number != number::HUP {
                Vec::new()
            } else {
                vec![Action::Signal(signal.number)]
            };
        };
        let policy = nginx.policy;
        match (signal.meaning, self.phase) {
            (Meaning::Quit | Meaning::Term | Meaning::FastStop, Phase::PostMortem { ended, test }) => {
                self.phase = Phase::Over;
                let kill = test.map(|(pid, _)| Action::KillTest(pid));
                kill.into_iter().chain([Action::End(End::Child(ended))]).collect()
            }
            (Meaning::Reload, Phase::PostMortem { .. }) => {
                nginx.reload.want_later();
                Vec::new()
            }
            (_, Phase::Over | Phase::Killed | Phase::PostMortem { .. }) => Vec::new(),
            (Meaning::Reload, Phase::Running) => nginx.reload.want(now),
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

    fn abandon_reload(&mut self) -> Vec<Action> {
        self.nginx.as_mut().map_or_else(Vec::new, |nginx| nginx.reload.abandon())
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
        match self.phase {
            Phase::Quitting { .. } => self.stop_fast("requests still run after NGINIT_STOP_TIMEOUT, fast stop", now),
            Phase::Stopping { .. } => {
                self.phase = Phase::Killed;
                vec![Action::ReportStop("nginx does not end, killing it"), Action::KillGroup]
            }
            Phase::PostMortem { test: Some((pid, _)), ended } => {
                self.phase = Phase::Over;
                vec![Action::KillTest(pid), Action::End(End::Child(ended))]
            }
            _ => Vec::new(),
        }
    }

    fn on_child_ended(&mut self, ended: Ended) -> Vec<Action> {
        let mut actions = self.abandon_reload();
        let unproven = self.nginx.as_ref().is_some_and(|nginx| !nginx.reload.is_proven());
        // nginx's status for it; a script in front of nginx may end with others.
        if self.phase == Phase::Running && unproven && ended == Ended::Status(1) {
            self.phase = Phase::PostMortem { ended, test: None };
            actions.push(Action::TestLive);
        } else {
            self.phase = Phase::Over;
            actions.push(Action::End(End::Child(ended)));
        }
        actions
    }

    fn on_post_mortem_started(&mut self, pid: Pid, now: Instant) -> Vec<Action> {
        let Phase::PostMortem { ended, test: None } = self.phase else { return vec![Action::KillTest(pid)] };
        self.phase = Phase::PostMortem { ended, test: Some((pid, now + TEST_TIMEOUT)) };
        Vec::new()
    }

    /// nginx ended before it had served anything: was it the configuration?
    fn on_post_mortem(&mut self, result: Result<(), String>) -> Vec<Action> {
        let Phase::PostMortem { ended, .. } = self.phase else { return Vec::new() };
        match result {
            Ok(()) => self.end(End::Child(ended)),
            Err(reason) => match &mut self.nginx {
                Some(nginx) if nginx.policy.last_good => {
                    nginx.policy.last_good = false;
                    self.phase = Phase::PostMortem { ended, test: None };
                    vec![Action::RollBack, Action::Restart(reason)]
                }
                _ => self.end(End::BadConfiguration(reason)),
            },
        }
    }

    fn on_restarted(&mut self, result: Result<(), String>) -> Vec<Action> {
        let (Phase::PostMortem { .. }, Some(nginx)) = (self.phase, &mut self.nginx) else { return Vec::new() };
        match result {
            Ok(()) => {
                self.phase = Phase::Running;
                nginx.reload.restart();
                vec![Action::Confirm(1)]
            }
            Err(reason) => self.end(End::BadConfiguration(reason)),
        }
    }

    fn end(&mut self, end: End) -> Vec<Action> {
        self.phase = Phase::Over;
        vec![Action::End(end)]
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

    fn policy(stop: StopMode) -> Policy {
        Policy { last_good: false, reloads: Limits::default(), stop, stop_timeout: Some(9 * SECOND) }
    }

    fn starting() -> (Supervisor, Instant) {
        let now = Instant::now();
        (Supervisor::nginx(policy(StopMode::Graceful)), now)
    }

    fn running(stop: StopMode) -> (Supervisor, Instant) {
        let now = Instant::now();
        let mut sup = Supervisor::nginx(policy(stop));
        assert_eq!(sup.on(Event::Confirmed(1, Ok(())), now), [Action::Prove, Action::ReportStarted]);
        (sup, now)
    }

    #[test]
    fn a_stop_wins_over_a_reload_in_every_state() {
        for steps in 0..5 {
            let (mut sup, t) = running(StopMode::Graceful);
            sup.on(signal(Meaning::Reload), t);
            sup.on(signal(Meaning::Reload), t);
            let events = [
                Event::Rendered(1, Ok(Change::New)),
                Event::TestStarted(7),
                Event::Tested(Ok(())),
                Event::Published(Ok(())),
            ];
            for event in events.into_iter().take(steps) {
                sup.on(event, t);
            }
            let actions = sup.on(signal(Meaning::Term), t);
            assert_eq!(actions.last(), Some(&Action::Signal(number::QUIT)));
            assert_eq!(actions.contains(&Action::KillTest(7)), steps == 2);
            assert_eq!(actions.contains(&Action::StopConfirming), steps == 4);
            let late = [
                Event::Rendered(1, Ok(Change::New)),
                Event::Tested(Ok(())),
                Event::Published(Ok(())),
                Event::Confirmed(2, Ok(())),
                Event::Draining(0),
                Event::Reload,
                signal(Meaning::Reload),
            ];
            for late in late {
                assert_eq!(sup.on(late, t), [], "step {steps}");
            }
            assert_eq!(sup.on(Event::TestStarted(8), t), [Action::KillTest(8)]);
            assert_eq!((sup.generation(), sup.doing()), (1, Doing::Quitting));
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
        let now = Instant::now();
        let mut sup = Supervisor::nginx(Policy { stop_timeout: None, ..policy(StopMode::Graceful) });
        sup.on(signal(Meaning::Term), now);
        assert_eq!(sup.deadline(), None);
    }

    #[test]
    fn an_early_failure_of_nginx_is_looked_into() {
        let (mut sup, t) = starting();
        assert_eq!(sup.on(Event::ChildEnded(Ended::Status(1)), t), [Action::StopConfirming, Action::TestLive]);
        assert_eq!(sup.on(Event::TestStarted(7), t), []);
        assert_eq!(sup.on(signal(Meaning::Reload), t), []);
        let answer = sup.on(Event::Tested(Err("bad".into())), t);
        assert_eq!(answer, [Action::End(End::BadConfiguration("bad".into()))]);

        let (mut sup, t) = starting();
        sup.on(Event::ChildEnded(Ended::Status(1)), t);
        sup.on(Event::TestStarted(7), t);
        let answer = sup.on(signal(Meaning::Term), t);
        assert_eq!(answer, [Action::KillTest(7), Action::End(End::Child(Ended::Status(1)))]);

        let (mut sup, t) = starting();
        sup.on(Event::ChildEnded(Ended::Status(1)), t);
        let answer = sup.on(Event::Tested(Ok(())), t);
        assert_eq!(answer, [Action::End(End::Child(Ended::Status(1)))], "a port in use, for example");

        let (mut sup, t) = running(StopMode::Graceful);
        let answer = sup.on(Event::ChildEnded(Ended::Status(1)), t);
        assert_eq!(answer, [Action::End(End::Child(Ended::Status(1)))], "it had served");
    }

    #[test]
    fn the_last_good_set_is_served_once_where_that_is_asked_for() {
        let now = Instant::now();
        let mut sup = Supervisor::nginx(Policy { last_good: true, ..policy(StopMode::Graceful) });
        let refuse = |sup: &mut Supervisor| {
            sup.on(Event::ChildEnded(Ended::Status(1)), now);
            sup.on(Event::TestStarted(7), now);
            sup.on(Event::Tested(Err("bad".into())), now)
        };
        assert_eq!(refuse(&mut sup), [Action::RollBack, Action::Restart("bad".into())]);
        assert_eq!(sup.on(Event::Restarted(Ok(())), now), [Action::Confirm(1)]);
        assert_eq!(sup.doing(), Doing::Serving(Standing::Running));
        assert_eq!(refuse(&mut sup), [Action::End(End::BadConfiguration("bad".into()))], "not for ever");
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
