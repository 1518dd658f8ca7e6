//! A reload, as a pure state machine: when one may begin, its steps, and what becomes of it.
//!
//! What is asked for waits until nginx may be troubled again, becomes a candidate, is compared with
//! what is live, tested, published, and counts only once nginx itself has answered the number of
//! the new generation; until then the files of the old one are kept. Whatever is asked for
//! meanwhile is one further run. The shell carries out the steps.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::{Action, Pid, number};

/// Longest wait for a candidate to be rendered: names have a deadline of six seconds, and what is
/// left is the reading of files, which a dead network file system can hold up for ever.
pub const RENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for `nginx -t`, which looks up names that a user's own files hold.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the new generation to answer. The master looks up the same names again before
/// it starts workers.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// How often old generations are counted while a reload is held back.
const HOLD_INTERVAL: Duration = Duration::from_millis(250);

/// What the settings say of reloads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Least time between two of them.
    pub interval: Duration,
    /// Most old generations that may still finish requests when one begins; nothing is no limit.
    pub backlog: Option<NonZeroU16>,
}

/// A candidate beside what is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// nginx would read something else.
    New,
    /// Equal bytes.
    Same,
}

/// Why a published generation is not proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unproven {
    /// nginx's master refused it, for this reason, and goes on with the old one.
    Refused(String),
    /// It does not answer; what nginx runs is not known.
    Silent(String),
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The new generation answers.
    Live,
    /// Nothing had changed.
    Unchanged,
    /// What was live still is, for this reason.
    Refused(String),
}

/// Where a reload stands, as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// None is asked for.
    Idle,
    /// One waits for its time.
    Waiting,
    /// One waits for old generations.
    Held,
    /// One is under way.
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Spacing {
        until: Instant,
    },
    Counting {
        held: bool,
    },
    Held {
        until: Instant,
    },
    Rendering {
        deadline: Instant,
    },
    Starting,
    Testing {
        pid: Pid,
        deadline: Instant,
        late: bool,
    },
    Publishing,
    /// The watch itself ends that of a start, which has no deadline here.
    Confirming {
        number: u64,
        deadline: Option<Instant>,
    },
}

/// The reloads of one nginx.
#[derive(Debug)]
pub struct Reload {
    limits: Limits,
    state: State,
    /// Asked for, and no run has begun since.
    wanted: bool,
    /// The run that began last. An answer that comes too late carries an old ticket.
    ticket: u64,
    /// The generation that is live.
    live: u64,
    /// Whether any generation has answered, which the first may still have to.
    proven: bool,
    /// The highest number that was ever published. None is used twice, so that an answer of a
    /// refused generation is never taken for that of a later one.
    highest: u64,
    /// When nginx was last troubled, by a reload or at least a test.
    troubled: Option<Instant>,
    /// A generation did not answer, or was not published whole, and none has answered since: nginx may run it, or
    /// refuse what is not the next one.
    unsure: bool,
}

impl Reload {
    /// nginx starts with generation 1, which is confirmed like every other; what is asked for
    /// before waits for it.
    pub fn first(limits: Limits) -> Self {
        let state = State::Confirming { number: 1, deadline: None };
        Self {
            limits,
            state,
            wanted: false,
            ticket: 0,
            live: 1,
            proven: false,
            highest: 1,
            troubled: None,
            unsure: false,
        }
    }

    /// nginx starts anew with generation 1. What is asked for stays so, and tickets go on.
    pub fn restart(&mut self) {
        *self = Self { wanted: self.wanted, ticket: self.ticket, ..Self::first(self.limits) };
    }

    /// A reload is asked for while nginx does not run.
    pub fn want_later(&mut self) {
        self.wanted = true;
    }

    /// The generation that is live.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Whether any generation has answered.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match self.state {
            State::Idle => Standing::Idle,
            State::Spacing { .. } => Standing::Waiting,
            State::Counting { .. } | State::Held { .. } => Standing::Held,
            _ => Standing::Running,
        }
    }

    /// The ticket of the next run to begin, which sees everything that has been changed by now.
    pub fn next_ticket(&self) -> u64 {
        self.ticket + 1
    }

    /// When [`Reload::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Spacing { until } | State::Held { until } => Some(until),
            State::Rendering { deadline } | State::Testing { deadline, late: false, .. } => Some(deadline),
            State::Confirming { deadline, .. } => deadline,
            _ => None,
        }
    }

    /// A reload is asked for.
    pub fn want(&mut self, now: Instant) -> Vec<Action> {
        self.wanted = true;
        if self.state == State::Idle { self.approach(now) } else { Vec::new() }
    }

    /// Begins a run that is wanted, unless it is too early or too many generations drain.
    fn approach(&mut self, now: Instant) -> Vec<Action> {
        let until = self.troubled.and_then(|last| last.checked_add(self.limits.interval));
        match until {
            Some(until) if now < until => {
                self.state = State::Spacing { until };
                Vec::new()
            }
            _ => self.count(false, now),
        }
    }

    fn count(&mut self, held: bool, now: Instant) -> Vec<Action> {
        if self.limits.backlog.is_none() {
            return self.begin(now);
        }
        self.state = State::Counting { held };
        vec![Action::CountDraining]
    }

    fn begin(&mut self, now: Instant) -> Vec<Action> {
        self.wanted = false;
        self.ticket += 1;
        self.state = State::Rendering { deadline: now + RENDER_TIMEOUT };
        vec![Action::Render { ticket: self.ticket, number: self.highest + 1 }]
    }

    /// So many old generations still finish requests.
    pub fn on_draining(&mut self, generations: usize, now: Instant) -> Vec<Action> {
        let State::Counting { held } = self.state else { return Vec::new() };
        if self.limits.backlog.is_none_or(|most| generations <= usize::from(most.get())) {
            return self.begin(now);
        }
        self.state = State::Held { until: now + HOLD_INTERVAL };
        if held { Vec::new() } else { vec![Action::ReportHeld(generations)] }
    }

    /// The candidate of a ticket is there.
    pub fn on_rendered(&mut self, ticket: u64, result: Result<Change, String>, now: Instant) -> Vec<Action> {
        if !matches!(self.state, State::Rendering { .. }) || ticket != self.ticket {
            return Vec::new();
        }
        match result {
            Ok(Change::New) => {
                self.state = State::Starting;
                self.troubled = Some(now);
                vec![Action::Test]
            }
            // The report takes the candidate: what it was made from counts from now on.
            Ok(Change::Same) => self.finish(Vec::new(), Outcome::Unchanged, now),
            Err(reason) => self.finish(Vec::new(), Outcome::Refused(reason), now),
        }
    }

    /// The test runs; one that nobody waits for is killed.
    pub fn on_test_started(&mut self, pid: Pid, now: Instant) -> Vec<Action> {
        if self.state != State::Starting {
            return vec![Action::KillTest(pid)];
        }
        self.state = State::Testing { pid, deadline: now + TEST_TIMEOUT, late: false };
        Vec::new()
    }

    /// The test is over.
    pub fn on_tested(&mut self, result: Result<(), String>, now: Instant) -> Vec<Action> {
        let late = match self.state {
            State::Starting => false,
            State::Testing { late, .. } => late,
            _ => return Vec::new(),
        };
        let timeout = || format!("nginx -t took longer than {} s", TEST_TIMEOUT.as_secs());
        match if late { Err(timeout()) } else { result } {
            Ok(()) => {
                self.state = State::Publishing;
                self.highest += 1;
                vec![Action::Publish(self.highest)]
            }
            Err(reason) => self.finish(vec![Action::Drop], Outcome::Refused(reason), now),
        }
    }

    /// The files are the live ones, or still those of before. nginx is told, and what it does
    /// about it is watched from before that on.
    pub fn on_published(&mut self, result: Result<(), String>, now: Instant) -> Vec<Action> {
        if self.state != State::Publishing {
            return Vec::new();
        }
        match result {
            Ok(()) => {
                let number = self.highest;
                self.troubled = Some(now);
                self.state = State::Confirming { number, deadline: Some(now + CONFIRM_TIMEOUT) };
                vec![Action::Confirm(number), Action::Signal(number::HUP)]
            }
            Err(reason) => {
                // Half of the files may be there, and nginx is told again once they are put back: what it then
                // refuses need not be the next generation.
                self.unsure = true;
                self.finish(vec![Action::Drop], Outcome::Refused(reason), now)
            }
        }
    }

    /// The generation `number` answers, or why it is known that it will not.
    pub fn on_confirmed(&mut self, number: u64, result: Result<(), Unproven>, now: Instant) -> Vec<Action> {
        if !matches!(self.state, State::Confirming { number: awaited, .. } if awaited == number) {
            return Vec::new();
        }
        let started = number == self.live;
        match result {
            Ok(()) => {
                self.live = number;
                self.proven = true;
                self.unsure = false;
                let mut actions = vec![Action::Prove];
                if started {
                    actions.push(Action::ReportStarted);
                    return self.rest(actions, now);
                }
                self.finish(actions, Outcome::Live, now)
            }
            // There is nothing to go back to. If nginx has refused it, it ends by itself.
            Err(Unproven::Refused(reason) | Unproven::Silent(reason)) if started => {
                self.rest(vec![Action::ReportSilent(reason)], now)
            }
            Err(Unproven::Refused(reason)) if !self.unsure => {
                self.finish(vec![Action::RollBack, Action::Drop], Outcome::Refused(reason), now)
            }
            Err(Unproven::Refused(reason) | Unproven::Silent(reason)) => {
                self.unsure = true;
                let actions = vec![Action::RollBack, Action::Signal(number::HUP), Action::Drop];
                self.finish(actions, Outcome::Refused(reason), now)
            }
        }
    }

    /// The deadline is over.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Action> {
        match self.state {
            State::Spacing { .. } => self.count(false, now),
            State::Held { .. } => self.count(true, now),
            State::Rendering { .. } => {
                let reason = format!("files could not be read within {} s", RENDER_TIMEOUT.as_secs());
                self.finish(Vec::new(), Outcome::Refused(reason), now)
            }
            State::Testing { pid, deadline, late: false } => {
                // Its end, by our signal, is the event that finishes the reload.
                self.state = State::Testing { pid, deadline, late: true };
                vec![Action::KillTest(pid)]
            }
            State::Confirming { number, .. } => {
                let secs = CONFIRM_TIMEOUT.as_secs();
                let reason = format!("generation {number} does not answer within {secs} s; see nginx's error log");
                let mut actions = vec![Action::StopConfirming];
                actions.extend(self.on_confirmed(number, Err(Unproven::Silent(reason)), now));
                actions
            }
            _ => Vec::new(),
        }
    }

    /// Ends what is under way, whatever its state: nginx ends. A generation that is not proven by
    /// then is rolled back at the end.
    pub fn abandon(&mut self) -> Vec<Action> {
        // If nginx is started again, whoever asked is owed a run.
        self.wanted |=
            self.state != State::Idle && !matches!(self.state, State::Confirming { number, .. } if number == self.live);
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Testing { pid, .. } => vec![Action::KillTest(pid), Action::Drop],
            State::Starting => vec![Action::Drop],
            State::Confirming { .. } => vec![Action::StopConfirming],
            _ => Vec::new(),
        }
    }

    /// Ends a run with `actions` and its outcome.
    fn finish(&mut self, mut actions: Vec<Action>, outcome: Outcome, now: Instant) -> Vec<Action> {
        actions.push(Action::Report { ticket: self.ticket, live: self.live, outcome });
        self.rest(actions, now)
    }

    /// Does `actions`, then begins what was asked for meanwhile.
    fn rest(&mut self, mut actions: Vec<Action>, now: Instant) -> Vec<Action> {
        self.state = State::Idle;
        if self.wanted {
            actions.extend(self.approach(now));
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn running(interval: Duration, backlog: u16) -> (Reload, Instant) {
        let now = Instant::now();
        let mut reload = Reload::first(Limits { interval, backlog: NonZeroU16::new(backlog) });
        assert_eq!(reload.on_confirmed(1, Ok(()), now), [Action::Prove, Action::ReportStarted]);
        (reload, now)
    }

    fn render(ticket: u64, number: u64) -> Action {
        Action::Render { ticket, number }
    }

    fn report(ticket: u64, live: u64, outcome: Outcome) -> Action {
        Action::Report { ticket, live, outcome }
    }

    fn refused(ticket: u64, reason: &str) -> Action {
        report(ticket, 1, Outcome::Refused(reason.to_owned()))
    }

    /// Up to the moment when nginx is told.
    fn publish(reload: &mut Reload, now: Instant) -> u64 {
        let ticket = reload.next_ticket();
        reload.want(now);
        reload.on_rendered(ticket, Ok(Change::New), now);
        reload.on_test_started(7, now);
        let Some(Action::Publish(number)) = reload.on_tested(Ok(()), now).pop() else {
            unreachable!("it is published")
        };
        assert_eq!(reload.on_published(Ok(()), now), [Action::Confirm(number), Action::Signal(number::HUP)]);
        number
    }

    #[test]
    fn a_refusal_after_half_a_publication_may_be_of_something_else() {
        let (mut reload, t) = running(Duration::ZERO, 0);
        reload.want(t);
        reload.on_rendered(1, Ok(Change::New), t);
        reload.on_tested(Ok(()), t);
        assert_eq!(reload.on_published(Err("full".into()), t), [Action::Drop, refused(1, "full")]);
        let number = publish(&mut reload, t);
        let answer = reload.on_confirmed(number, Err(Unproven::Refused("x".into())), t);
        assert_eq!(answer, [Action::RollBack, Action::Signal(number::HUP), Action::Drop, refused(2, "x")]);
    }

    #[test]
    fn every_step_of_a_reload_follows_from_the_one_before() {
        let (mut reload, t) = running(Duration::ZERO, 0);
        assert_eq!(reload.want(t), [render(1, 2)]);
        assert_eq!(reload.on_rendered(1, Ok(Change::New), t), [Action::Test]);
        assert_eq!(reload.on_test_started(7, t), []);
        assert_eq!(reload.on_tested(Ok(()), t), [Action::Publish(2)]);
        assert_eq!(reload.on_published(Ok(()), t), [Action::Confirm(2), Action::Signal(number::HUP)]);
        assert_eq!((reload.live(), reload.standing()), (1, Standing::Running), "nothing is proven yet");
        assert_eq!(reload.on_confirmed(2, Ok(()), t), [Action::Prove, report(1, 2, Outcome::Live)]);
        assert_eq!((reload.live(), reload.standing(), reload.deadline()), (2, Standing::Idle, None));
    }

    #[test]
    fn equal_bytes_do_not_trouble_nginx() {
        let (mut reload, t) = running(SECOND, 0);
        for ticket in 1..4 {
            assert_eq!(reload.want(t), [render(ticket, 2)], "what did nothing spaces nothing");
            let answer = reload.on_rendered(ticket, Ok(Change::Same), t);
            assert_eq!(answer, [report(ticket, 1, Outcome::Unchanged)]);
        }
    }

    #[test]
    fn what_is_refused_before_it_is_published_changes_nothing() {
        for step in 0..3 {
            let (mut reload, t) = running(Duration::ZERO, 0);
            let bad = || "bad".to_owned();
            reload.want(t);
            let answer = if step == 0 {
                reload.on_rendered(1, Err(bad()), t)
            } else {
                reload.on_rendered(1, Ok(Change::New), t);
                reload.on_test_started(7, t);
                if step == 1 {
                    reload.on_tested(Err(bad()), t)
                } else {
                    reload.on_tested(Ok(()), t);
                    reload.on_published(Err(bad()), t)
                }
            };
            assert_eq!(answer.last(), Some(&refused(1, "bad")), "step {step}");
            assert!(!answer.contains(&Action::RollBack));
            assert_eq!((reload.live(), reload.standing()), (1, Standing::Idle));
        }
    }

    #[test]
    fn what_nginx_does_not_serve_is_rolled_back() {
        let (mut reload, t) = running(Duration::ZERO, 0);
        publish(&mut reload, t);
        let answer = reload.on_confirmed(2, Err(Unproven::Refused("port".into())), t);
        assert_eq!(answer, [Action::RollBack, Action::Drop, refused(1, "port")], "nginx runs the old one still");

        assert_eq!(publish(&mut reload, t), 3, "a number is used once");
        assert_eq!(reload.on_confirmed(2, Ok(()), t), [], "an answer that comes too late");
        assert_eq!(reload.on_deadline(t + CONFIRM_TIMEOUT), {
            let reason = "generation 3 does not answer within 30 s; see nginx's error log";
            let told = [Action::RollBack, Action::Signal(number::HUP), Action::Drop, refused(2, reason)];
            [&[Action::StopConfirming], &told[..]].concat()
        });
        assert_eq!(reload.live(), 1);
    }

    #[test]
    fn what_is_wanted_during_a_reload_is_one_more() {
        let (mut reload, t) = running(Duration::ZERO, 0);
        reload.want(t);
        for _ in 0..5 {
            assert_eq!((reload.want(t), reload.next_ticket()), (Vec::new(), 2));
        }
        assert_eq!(reload.on_rendered(1, Err("x".into()), t), [refused(1, "x"), render(2, 2)]);
        assert_eq!(reload.on_rendered(1, Ok(Change::New), t), [], "an answer to an old ticket counts for nothing");
        assert_eq!(reload.on_rendered(2, Err("y".into()), t), [refused(2, "y")]);
    }

    #[test]
    fn what_is_wanted_before_nginx_answers_waits_for_that() {
        let now = Instant::now();
        let mut reload = Reload::first(Limits::default());
        assert!(!reload.is_proven() && reload.want(now).is_empty());
        let answer = reload.on_confirmed(1, Ok(()), now);
        assert_eq!(answer, [Action::Prove, Action::ReportStarted, render(1, 2)]);

        let mut reload = Reload::first(Limits::default());
        reload.want(now);
        assert_eq!(reload.deadline(), None, "a script in front of nginx may take its time");
        let answer = reload.on_confirmed(1, Err(Unproven::Silent("x".into())), now);
        assert!(matches!(&answer[..], [Action::ReportSilent(_), Action::Render { .. }]));
        assert!(!reload.is_proven());
    }

    #[test]
    fn reloads_are_spaced_and_the_first_is_not() {
        let (mut reload, t) = running(SECOND, 0);
        publish(&mut reload, t);
        reload.on_confirmed(2, Ok(()), t);
        assert_eq!(reload.want(t + SECOND / 4), []);
        assert_eq!((reload.standing(), reload.deadline()), (Standing::Waiting, Some(t + SECOND)));
        assert_eq!(reload.want(t + SECOND / 2), [], "it waits already");
        assert_eq!(reload.on_deadline(t + SECOND), [render(2, 3)]);
        let (mut reload, t) = running(Duration::MAX, 0);
        publish(&mut reload, t);
        reload.on_confirmed(2, Ok(()), t);
        assert_eq!(reload.want(t), [render(2, 3)], "a time that no clock holds spaces nothing");
    }

    #[test]
    fn too_many_old_generations_hold_a_reload_back() {
        let (mut reload, t) = running(Duration::ZERO, 4);
        assert_eq!(reload.want(t), [Action::CountDraining]);
        assert_eq!(reload.on_draining(5, t), [Action::ReportHeld(5)]);
        assert_eq!((reload.standing(), reload.deadline()), (Standing::Held, Some(t + HOLD_INTERVAL)));
        assert_eq!(reload.on_deadline(t + HOLD_INTERVAL), [Action::CountDraining]);
        assert_eq!(reload.on_draining(6, t), [], "said once");
        reload.on_deadline(t + HOLD_INTERVAL);
        assert_eq!(reload.on_draining(4, t), [render(1, 2)]);
        assert_eq!(reload.on_draining(9, t), []);
    }

    #[test]
    fn a_step_that_hangs_is_given_up() {
        let (mut reload, t) = running(Duration::ZERO, 0);
        reload.want(t);
        let late = t + RENDER_TIMEOUT;
        assert_eq!(reload.on_deadline(late), [refused(1, "files could not be read within 30 s")]);
        reload.want(t);
        reload.on_rendered(2, Ok(Change::New), t);
        reload.on_test_started(7, t);
        assert_eq!(reload.on_deadline(t + TEST_TIMEOUT), [Action::KillTest(7)]);
        assert_eq!(reload.deadline(), None);
        let answer = reload.on_tested(Ok(()), t + TEST_TIMEOUT);
        assert_eq!(answer, [Action::Drop, refused(2, "nginx -t took longer than 30 s")]);
    }
}
