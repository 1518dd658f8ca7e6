//! Programs beside nginx (`NGINIT_SIDECAR_NAME`), as a pure state machine.
//!
//! It owns when each of them is started, started again and stopped. A sidecar that fails is nginx's
//! concern in no way: it is said, and tried again.

pub mod run;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::{Ended, Pid};
use crate::ordered::InOrder;
use crate::upstream::Name;

/// The first wait before a sidecar is started again.
const SHORTEST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest one: a minute of tries must not fill a log.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Who has run for so long is well, and its next end is a first one.
const WELL: Duration = Duration::from_secs(60);

/// Longest wait for a sidecar that was told to end. `docker stop` leaves ten seconds to all of us, and
/// nginx has had its share by then.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for the end of one that was killed: a process that hangs in the kernel is left behind.
const KILL_TIMEOUT: Duration = Duration::from_millis(500);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// nginx answers.
    NginxStarted,
    /// nginx has ended, and all of us are about to.
    NginxEnded,
    /// The sidecar was started as this process, or why not.
    Started(Name, Result<Pid, String>),
    /// The process of a sidecar ended.
    Ended(Pid, Ended),
    /// The deadline passed.
    Deadline,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start it with these words, in a process group of its own; answer with [`Event::Started`].
    Start(Name, Vec<String>),
    /// Ask its process group to end.
    Terminate(Pid),
    /// Kill all that is left of its process group.
    Kill(Pid),
    /// Say that it runs as this process.
    ReportStarted(Name, Pid),
    /// Say how it ended or why it could not be started, and how long it waits to be started again.
    ReportEnded(Name, String, Option<Duration>),
    /// Say that it does not end.
    ReportKilled(Name),
}

/// What one of them does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// nginx does not answer yet.
    Waiting,
    /// It is being started.
    Starting,
    Running {
        pid: Pid,
        since: Instant,
    },
    /// It is started again then.
    Ended {
        again: Instant,
    },
    /// It was told to end.
    Stopping {
        pid: Pid,
        deadline: Instant,
    },
    Killed {
        pid: Pid,
        deadline: Instant,
    },
    Over,
}

#[derive(Debug)]
struct Sidecar {
    words: Vec<String>,
    phase: Phase,
    backoff: Backoff,
}

/// All sidecars.
#[derive(Debug)]
pub struct Sidecars {
    all: BTreeMap<Name, Sidecar>,
    /// nginx has ended.
    ending: bool,
}

impl Sidecars {
    /// Those with these words each; chance comes from `seed`.
    pub fn new(commands: BTreeMap<Name, Vec<String>>, seed: u64) -> Self {
        let sidecar = |(number, (name, words)): (u64, (Name, Vec<String>))| {
            let backoff = Backoff::new(SHORTEST_BACKOFF, LONGEST_BACKOFF, seed.wrapping_add(number));
            (name, Sidecar { words, phase: Phase::Waiting, backoff })
        };
        Self { all: (0..).zip(commands).map(sidecar).into_map(), ending: false }
    }

    /// When [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.values().filter_map(|sidecar| sidecar.phase.deadline()).min()
    }

    /// Whether this is the process of one of them.
    pub fn has(&self, pid: Pid) -> bool {
        self.all.values().any(|sidecar| sidecar.phase.pid() == Some(pid))
    }

    /// Whether none runs and none will.
    pub fn are_over(&self) -> bool {
        self.all.values().all(|sidecar| sidecar.phase == Phase::Over)
    }

    /// What is to be done about `event`.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::NginxStarted => self.each(|name, sidecar| match sidecar.phase {
                Phase::Waiting => sidecar.start(name),
                _ => Vec::new(),
            }),
            Event::NginxEnded => {
                self.ending = true;
                self.each(|_, sidecar| sidecar.stop(now))
            }
            Event::Started(name, result) => {
                let ending = self.ending;
                self.all.get_mut(&name).map_or_else(Vec::new, |sidecar| sidecar.on_started(&name, result, ending, now))
            }
            Event::Ended(pid, ended) => self.each(|name, sidecar| match sidecar.phase.pid() {
                Some(own) if own == pid => sidecar.on_ended(name, pid, ended, now),
                _ => Vec::new(),
            }),
            Event::Deadline => self.each(|name, sidecar| match sidecar.phase.deadline() {
                Some(deadline) if now >= deadline => sidecar.on_deadline(name, now),
                _ => Vec::new(),
            }),
        }
    }

    fn each(&mut self, mut work: impl FnMut(&Name, &mut Sidecar) -> Vec<Action>) -> Vec<Action> {
        self.all.iter_mut().flat_map(|(name, sidecar)| work(name, sidecar)).collect()
    }
}

impl Phase {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Ended { again } => Some(again),
            Self::Stopping { deadline, .. } | Self::Killed { deadline, .. } => Some(deadline),
            Self::Waiting | Self::Starting | Self::Running { .. } | Self::Over => None,
        }
    }

    fn pid(self) -> Option<Pid> {
        match self {
            Self::Running { pid, .. } | Self::Stopping { pid, .. } | Self::Killed { pid, .. } => Some(pid),
            Self::Waiting | Self::Starting | Self::Ended { .. } | Self::Over => None,
        }
    }
}

impl Sidecar {
    fn start(&mut self, name: &Name) -> Vec<Action> {
        self.phase = Phase::Starting;
        vec![Action::Start(name.clone(), self.words.clone())]
    }

    fn on_started(&mut self, name: &Name, result: Result<Pid, String>, ending: bool, now: Instant) -> Vec<Action> {
        match (self.phase, result) {
            (Phase::Starting, Ok(pid)) => {
                self.phase = Phase::Running { pid, since: now };
                let stop = if ending { self.stop(now) } else { Vec::new() };
                [Action::ReportStarted(name.clone(), pid)].into_iter().chain(stop).collect()
            }
            (Phase::Starting, Err(reason)) => vec![self.again(name, reason, now)],
            (_, Ok(pid)) => vec![Action::Kill(pid)],
            (_, Err(_)) => Vec::new(),
        }
    }

    fn again(&mut self, name: &Name, reason: String, now: Instant) -> Action {
        let wait = self.backoff.wait();
        self.phase = Phase::Ended { again: now + wait };
        Action::ReportEnded(name.clone(), reason, Some(wait))
    }

    /// Whatever it has left in its group goes with it: it would be in the way of the next one.
    fn on_ended(&mut self, name: &Name, pid: Pid, ended: Ended, now: Instant) -> Vec<Action> {
        let how = match ended {
            Ended::Status(code) => format!("ended, status {code}"),
            Ended::Signal(number) => format!("was ended by signal {number}"),
        };
        let report = match self.phase {
            Phase::Running { since, .. } => {
                if now.saturating_duration_since(since) >= WELL {
                    self.backoff.reset();
                }
                self.again(name, how, now)
            }
            _ => {
                self.phase = Phase::Over;
                Action::ReportEnded(name.clone(), how, None)
            }
        };
        vec![Action::Kill(pid), report]
    }

    fn stop(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Running { pid, .. } => {
                self.phase = Phase::Stopping { pid, deadline: now + STOP_TIMEOUT };
                vec![Action::Terminate(pid)]
            }
            // Its process is not known yet: it is stopped once it is.
            Phase::Starting | Phase::Stopping { .. } | Phase::Killed { .. } => Vec::new(),
            Phase::Waiting | Phase::Ended { .. } | Phase::Over => {
                self.phase = Phase::Over;
                Vec::new()
            }
        }
    }

    fn on_deadline(&mut self, name: &Name, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Ended { .. } => self.start(name),
            Phase::Stopping { pid, .. } => {
                self.phase = Phase::Killed { pid, deadline: now + KILL_TIMEOUT };
                vec![Action::ReportKilled(name.clone()), Action::Kill(pid)]
            }
            Phase::Killed { .. } => {
                self.phase = Phase::Over;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        vec![text.to_lowercase(), "x".to_owned()]
    }

    fn sidecars(names: &[&str]) -> Sidecars {
        Sidecars::new(names.iter().map(|text| (name(text), words(text))).collect(), 7)
    }

    fn start(text: &str) -> Action {
        Action::Start(name(text), words(text))
    }

    /// One that runs as process 7.
    fn running() -> (Sidecars, Instant) {
        let (mut sidecars, t) = (sidecars(&["SERF"]), Instant::now());
        assert_eq!(sidecars.on(Event::NginxStarted, t), [start("SERF")]);
        let actions = sidecars.on(Event::Started(name("SERF"), Ok(7)), t);
        assert_eq!(actions, [Action::ReportStarted(name("SERF"), 7)]);
        (sidecars, t)
    }

    /// The wait that an action tells of.
    fn wait(action: Option<&Action>) -> Duration {
        match action {
            Some(Action::ReportEnded(_, _, Some(wait))) => *wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sidecars_start_once_nginx_answers_and_only_once() {
        let (mut sidecars, t) = (sidecars(&["LOGS", "SERF"]), Instant::now());
        assert_eq!(sidecars.deadline(), None);
        assert_eq!(sidecars.on(Event::Deadline, t), []);
        assert_eq!(sidecars.on(Event::NginxStarted, t), [start("LOGS"), start("SERF")]);
        assert_eq!(sidecars.on(Event::NginxStarted, t), []);
        sidecars.on(Event::Started(name("SERF"), Ok(7)), t);
        assert!(sidecars.has(7) && !sidecars.has(8));
        assert_eq!((sidecars.on(Event::NginxStarted, t), sidecars.deadline()), (vec![], None));
    }

    #[test]
    fn an_end_is_followed_by_a_start_and_takes_the_group_with_it() {
        let (mut sidecars, t) = running();
        assert_eq!(sidecars.on(Event::Ended(9, Ended::Status(0)), t), [], "somebody else's");
        let actions = sidecars.on(Event::Ended(7, Ended::Signal(9)), t);
        let again = wait(actions.last());
        let report = Action::ReportEnded(name("SERF"), "was ended by signal 9".to_owned(), Some(again));
        assert_eq!(actions, [Action::Kill(7), report]);
        assert_eq!(sidecars.deadline(), Some(t + again));
        assert!(!sidecars.has(7), "the number may be another's by now");
        assert_eq!(sidecars.on(Event::Deadline, t + again / 2), []);
        assert_eq!(sidecars.on(Event::Deadline, t + again), [start("SERF")]);
        assert_eq!(sidecars.on(Event::Deadline, t + again), []);
    }

    #[test]
    fn waits_grow_until_it_has_run_for_a_minute() {
        let (mut sidecars, mut t) = running();
        let mut waits = Vec::new();
        for up in [0, 1, 30, 59, 0, 0, 60, 0] {
            t += up * SECOND;
            waits.push(wait(sidecars.on(Event::Ended(7, Ended::Status(1)), t).last()).as_secs_f64());
            t = sidecars.deadline().unwrap();
            sidecars.on(Event::Deadline, t);
            sidecars.on(Event::Started(name("SERF"), Ok(7)), t);
        }
        for (wait, middle) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 1.0, 2.0]) {
            assert!((middle * 0.75..=middle * 1.25).contains(wait), "{waits:?}");
        }
    }

    #[test]
    fn one_that_cannot_be_started_is_said_and_tried_again() {
        let (mut sidecars, t) = (sidecars(&["SERF"]), Instant::now());
        sidecars.on(Event::NginxStarted, t);
        let actions = sidecars.on(Event::Started(name("SERF"), Err("no such file".to_owned())), t);
        let again = wait(actions.first());
        assert_eq!(actions, [Action::ReportEnded(name("SERF"), "no such file".to_owned(), Some(again))]);
        assert_eq!(sidecars.on(Event::Deadline, t + again), [start("SERF")]);
        let actions = sidecars.on(Event::Started(name("SERF"), Err("no such file".to_owned())), t);
        assert!(wait(actions.first()) >= 3 * SECOND / 2);
    }

    #[test]
    fn all_are_stopped_once_nginx_has_ended() {
        let (mut sidecars, t) = (sidecars(&["A", "B", "C"]), Instant::now());
        sidecars.on(Event::NginxStarted, t);
        sidecars.on(Event::Started(name("A"), Ok(7)), t);
        sidecars.on(Event::Started(name("B"), Err("no".to_owned())), t);
        assert_eq!(sidecars.on(Event::NginxEnded, t), [Action::Terminate(7)]);
        // It was being started just then.
        let actions = sidecars.on(Event::Started(name("C"), Ok(8)), t);
        assert_eq!(actions, [Action::ReportStarted(name("C"), 8), Action::Terminate(8)]);
        let ended = |text: &str| Action::ReportEnded(name(text), "ended, status 0".to_owned(), None);
        assert_eq!(sidecars.on(Event::Ended(7, Ended::Status(0)), t), [Action::Kill(7), ended("A")]);
        assert!(!sidecars.are_over());
        assert_eq!(sidecars.on(Event::Ended(8, Ended::Status(0)), t), [Action::Kill(8), ended("C")]);
        assert!(sidecars.are_over() && sidecars.deadline().is_none());
        assert_eq!(sidecars.on(Event::Deadline, t + 60 * SECOND), []);
        assert_eq!(sidecars.on(Event::NginxStarted, t), [], "a late word of nginx's starts nothing");
    }

    #[test]
    fn one_that_does_not_end_is_killed_and_not_waited_for_for_ever() {
        let (mut sidecars, t) = running();
        sidecars.on(Event::NginxEnded, t);
        assert_eq!(sidecars.deadline(), Some(t + STOP_TIMEOUT));
        let t = t + STOP_TIMEOUT;
        assert_eq!(sidecars.on(Event::Deadline, t), [Action::ReportKilled(name("SERF")), Action::Kill(7)]);
        assert!(!sidecars.are_over());
        assert_eq!(sidecars.on(Event::Deadline, t + KILL_TIMEOUT), []);
        assert!(sidecars.are_over(), "it hangs in the kernel");
    }

    #[test]
    fn without_nginx_or_sidecars_there_is_nothing_to_stop() {
        let t = Instant::now();
        let (mut none, mut unstarted) = (sidecars(&[]), sidecars(&["SERF"]));
        assert!(none.are_over() && !unstarted.are_over());
        assert_eq!((none.on(Event::NginxEnded, t), unstarted.on(Event::NginxEnded, t)), (vec![], vec![]));
        assert!(unstarted.are_over());
        assert_eq!(unstarted.on(Event::NginxStarted, t), []);
    }

    proptest! {
        /// Whatever comes, in whatever order: after nginx's end each process that was started has ended or
        /// was killed, and none is started any more.
        #[test]
        fn nothing_is_left_behind(events in prop::collection::vec((0..5u8, 0..2usize, 0..3000u64), 0..60)) {
            let (names, mut t) = ([name("A"), name("B")], Instant::now());
            let mut sidecars = sidecars(&["A", "B"]);
            let mut alive = std::collections::BTreeSet::new();
            let (mut pid, mut over) = (100, false);
            let mut do_all = |sidecars: &mut Sidecars, event: Event, t: Instant| {
                let over_before = over;
                over |= event == Event::NginxEnded;
                if let Event::Ended(pid, _) = event {
                    alive.remove(&pid);
                }
                let mut todo = std::collections::VecDeque::from(sidecars.on(event, t));
                while let Some(action) = todo.pop_front() {
                    match action {
                        Action::Start(name, _) => {
                            assert!(!over_before, "a start after the end");
                            pid += 1;
                            let result = if pid % 3 == 0 { Err("no".to_owned()) } else { Ok(pid) };
                            alive.extend(result.iter().copied());
                            todo.extend(sidecars.on(Event::Started(name, result), t));
                        }
                        Action::Kill(pid) => { alive.remove(&pid); }
                        _ => {}
                    }
                }
                alive.iter().copied().collect::<Vec<_>>()
            };
            let mut pids = Vec::new();
            for (what, which, ms) in events {
                t += Duration::from_millis(ms);
                let event = match what {
                    0 => Event::NginxStarted,
                    1 | 2 if pids.len() > which => Event::Ended(pids[which], Ended::Status(0)),
                    3 => Event::Started(names[which].clone(), Err("late".to_owned())),
                    _ => Event::Deadline,
                };
                pids = do_all(&mut sidecars, event, t);
            }
            do_all(&mut sidecars, Event::NginxEnded, t);
            for _ in 0..3 {
                t += STOP_TIMEOUT;
                pids = do_all(&mut sidecars, Event::Deadline, t);
            }
            prop_assert!(sidecars.are_over() && pids.is_empty(), "{:?} {:?}", sidecars, pids);
        }
    }
}
