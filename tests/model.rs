//! Random events against the state machine of the supervisor, with a made-up clock and a made-up
//! world: a program that dies or hangs, tests that end or hang, files that render late. After each
//! event the promises are checked.
//!
//! The world keeps the contract of `supervisor::shell`: what is asked for is answered at most once,
//! a test answers with its start and then its end, and where the ends of a test and of the program
//! are known at the same time, because both were reaped in one go, the test's comes first: after
//! the program's it would be taken for that of the test which looks into it.
//!
//! A failure prints its seed; `NGINIT_MODEL_SEED=SEED cargo test --test model` runs that one alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails and says why"
)]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nginit::settings::StopMode;
use nginit::supervisor::{Action, End, Ended, Event, Meaning, Pid, Policy, Received, Supervisor, number};

/// Sequences of one run.
const SEQUENCES: u64 = 30_000;

/// Most events of a sequence, before everything is told to end.
const EVENTS: usize = 60;

/// The longest fast stop, and a second for what is rounded.
const FAST: Duration = Duration::from_millis(750 + 1000);

/// Numbers from a seed: Knuth's MMIX generator, of which the upper half is used.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn verdict(&mut self) -> Result<(), String> {
        if self.chance(60) { Ok(()) } else { Err("no".to_owned()) }
    }
}

/// The world around the state machine, and what has been seen of it.
struct World {
    random: Random,
    supervisor: Supervisor,
    is_nginx: bool,
    now: Instant,
    /// The program runs.
    alive: bool,
    /// It was told to end, one way or another.
    told_to_end: bool,
    killed: bool,
    /// It ends when it is told to.
    obeys: bool,
    next_pid: Pid,
    /// The test that runs, and whether it was killed.
    test: Option<(Pid, bool)>,
    /// Tests that nobody waits for and nobody killed.
    stray: Vec<Pid>,
    /// The tickets of candidates that are to be answered, each once and maybe late.
    tickets: Vec<u64>,
    /// Where the reload stands: asked for, tested, accepted.
    staged: bool,
    accepted: bool,
    /// A HUP that no candidate was begun after.
    hup_waits: bool,
    /// When an end was asked for, and by when all must be over.
    stopping: bool,
    latest_end: Option<Instant>,
    policy: Policy,
    end: Option<End>,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        random.below(2);
        let is_nginx = random.chance(90);
        let stop = random.pick(&[StopMode::Graceful, StopMode::Forward]);
        let stop_timeout = random.pick(&[None, Some(Duration::from_secs(9)), Some(Duration::from_millis(1))]);
        let policy = Policy { stop, stop_timeout };
        Self {
            supervisor: if is_nginx { Supervisor::nginx(policy) } else { Supervisor::plain() },
            is_nginx,
            now: Instant::now(),
            alive: true,
            told_to_end: false,
            killed: false,
            obeys: random.chance(70),
            next_pid: 100,
            test: None,
            stray: Vec::new(),
            tickets: Vec::new(),
            staged: false,
            accepted: false,
            hup_waits: false,
            stopping: false,
            latest_end: None,
            policy,
            end: None,
            log: Vec::new(),
            random,
        }
    }

    /// What may happen next.
    fn events(&mut self) -> Vec<Event> {
        let ended = self.random.pick(&[Ended::Status(0), Ended::Status(1), Ended::Signal(9)]);
        match self.random.below(12) {
            0..=2 => {
                vec![self.signal(Meaning::Reload)]
            }
            3 if self.random.chance(30) => {
                let all = [Meaning::Quit, Meaning::Term, Meaning::FastStop, Meaning::Forward];
                let meaning = self.random.pick(&all);
                vec![self.signal(meaning)]
            }
            4 if self.alive && self.random.chance(if self.told_to_end { 50 } else { 10 }) => {
                // Both may be reaped in one go.
                let test = if self.random.chance(30) { self.test_ends() } else { None };
                test.into_iter().chain([Event::ChildEnded(ended)]).collect()
            }
            5 | 6 if !self.tickets.is_empty() => {
                let index = usize::try_from(self.random.below(self.tickets.len() as u64)).unwrap();
                let ticket = self.tickets.remove(index);
                vec![Event::Rendered(ticket, self.random.verdict())]
            }
            7 | 8 => self.test_ends().into_iter().collect(),
            9 => {
                // The shell sleeps until the deadline and no longer.
                let later = self.now + Duration::from_millis(self.random.below(40_000));
                self.now = self.supervisor.deadline().map_or(later, |deadline| later.min(deadline.max(self.now)));
                Vec::new()
            }
            10 => vec![Event::Deadline],
            _ => {
                if let Some(deadline) = self.supervisor.deadline() {
                    self.now = self.now.max(deadline);
                }
                vec![Event::Deadline]
            }
        }
    }

    fn signal(&mut self, meaning: Meaning) -> Event {
        let from_terminal = meaning != Meaning::Reload && self.random.chance(20);
        Event::Signal(Received { number: 10, meaning, from_terminal })
    }

    /// The end of the test that runs, if one does.
    fn test_ends(&mut self) -> Option<Event> {
        let (_, killed) = self.test.take()?;
        Some(Event::Tested(if killed { Err("killed".to_owned()) } else { self.random.verdict() }))
    }

    /// Hands the events over, answers what is asked for, and checks what is promised.
    fn feed(&mut self, events: Vec<Event>) {
        let mut todo: VecDeque<Event> = events.into();
        while let Some(event) = todo.pop_front() {
            self.before(&event);
            let generation = self.supervisor.generation();
            let published = matches!(event, Event::Published(Ok(())));
            let actions = self.supervisor.on(event.clone(), self.now);
            self.log.push(format!("{event:?} -> {actions:?}"));
            if self.supervisor.generation() != generation {
                assert!(published, "the generation changes when files are live, and not before");
                assert_eq!(self.supervisor.generation(), generation + 1);
            }
            for action in actions {
                assert_eq!(self.end, None, "something is done after the end: {action:?}");
                if let Some(answer) = self.carry_out(action) {
                    todo.push_front(answer);
                }
            }
        }
        self.after();
    }

    fn before(&mut self, event: &Event) {
        if matches!(event, Event::ChildEnded(_)) {
            self.alive = false;
        }
        let Event::Signal(signal) = event else { return };
        if !self.is_nginx || !self.alive || self.end.is_some() {
            return;
        }
        match signal.meaning {
            Meaning::Reload if !self.stopping => self.hup_waits = true,
            Meaning::Quit | Meaning::Term | Meaning::FastStop if !self.stopping => {
                self.stopping = true;
                let forward = self.policy.stop == StopMode::Forward && signal.meaning == Meaning::Term;
                let fast = forward || signal.meaning == Meaning::FastStop;
                let graceful = if fast { Some(Duration::ZERO) } else { self.policy.stop_timeout };
                self.latest_end = graceful.map(|graceful| self.now + graceful + FAST);
            }
            Meaning::Term | Meaning::FastStop => {
                let sooner = self.now + FAST;
                self.latest_end = Some(self.latest_end.map_or(sooner, |end| end.min(sooner)));
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Render(ticket) => {
                assert!(self.is_nginx && !self.stopping && self.alive, "a candidate is of no use now");
                self.hup_waits = false;
                self.staged = false;
                self.accepted = false;
                self.tickets.push(ticket);
            }
            Action::Test => {
                assert!(!self.stopping && self.test.is_none(), "one test at a time");
                self.staged = true;
                return Some(self.start_test());
            }
            Action::TestLive => {
                assert!(!self.alive, "nginx is asked only when it is gone");
                return Some(self.start_test());
            }
            Action::Publish => {
                assert!(self.staged && !self.stopping, "only what was tested is published, and not during a stop");
                self.accepted = true;
                return Some(Event::Published(self.random.verdict()));
            }
            Action::Drop => self.forget_test(),
            Action::Signal(number) => {
                assert!(number != number::HUP || (self.accepted && !self.stopping), "a reload of what is not live");
                if [number::QUIT, number::TERM].contains(&number) && self.is_nginx {
                    assert!(self.stopping, "an end that nobody asked for");
                    self.told_to_end = true;
                }
            }
            Action::KillGroup => self.killed = true,
            Action::KillTest(pid) => {
                if let Some((running, killed)) = &mut self.test
                    && *running == pid
                {
                    *killed = true;
                }
                self.stray.retain(|stray| *stray != pid);
            }
            Action::ReportLive(generation) => assert_eq!(generation, self.supervisor.generation()),
            Action::ReportRefused(generation, _) => assert_eq!(generation, self.supervisor.generation()),
            Action::ReportStop(_) => assert!(self.stopping),
            Action::End(end) => {
                assert!(!self.alive, "the end before the program's");
                assert!(self.test.is_none_or(|(_, killed)| killed), "a test outlives the end");
                self.end = Some(end);
            }
        }
        None
    }

    fn start_test(&mut self) -> Event {
        if self.random.chance(10) {
            return Event::Tested(Err("cannot be started".to_owned()));
        }
        self.forget_test();
        self.next_pid += 1;
        self.test = Some((self.next_pid, false));
        Event::TestStarted(self.next_pid)
    }

    /// Nobody waits for the test any more, so it had better be killed.
    fn forget_test(&mut self) {
        self.stray.extend(self.test.take().filter(|(_, killed)| !killed).map(|(pid, _)| pid));
    }

    fn after(&mut self) {
        assert_eq!(self.stray, [], "a test that runs and that nobody waits for");
        if self.end.is_some() {
            assert_eq!(self.supervisor.deadline(), None, "nothing is due after the end");
            return;
        }
        let reloading = !self.tickets.is_empty() || self.test.is_some();
        let idle = self.is_nginx && self.alive && !self.stopping && !reloading;
        assert!(!(idle && self.hup_waits), "a HUP is lost");
        if let Some(latest) = self.latest_end.filter(|_| self.alive && !self.killed) {
            let deadline = self.supervisor.deadline().expect("a stop has a deadline");
            assert!(deadline <= latest, "a stop takes too long");
        }
    }

    /// Everything ends as it should: what was killed or obeys is reaped, what is due comes.
    fn finish(&mut self) {
        if self.alive {
            let event = self.signal(Meaning::FastStop);
            self.feed(vec![event]);
            if !self.is_nginx {
                self.feed(vec![Event::ChildEnded(Ended::Signal(15))]);
            }
        }
        let began = self.now;
        for _ in 0..10 {
            if self.end.is_some() {
                break;
            }
            if self.alive && (self.killed || (self.obeys && self.told_to_end)) {
                self.feed(vec![Event::ChildEnded(Ended::Signal(9))]);
            } else if self.test.is_some_and(|(_, killed)| killed) {
                let event = self.test_ends();
                self.feed(event.into_iter().collect());
            } else if let Some(deadline) = self.supervisor.deadline() {
                self.now = self.now.max(deadline);
                self.feed(vec![Event::Deadline]);
            }
        }
        assert!(self.end.is_some(), "it never ends");
        let test_of_what_was_live = Duration::from_secs(30);
        assert!(self.now - began <= test_of_what_was_live + FAST, "it takes {:?} to end", self.now - began);
        // Whatever comes late changes nothing. The shell of a plain program is gone by then.
        if !self.is_nginx {
            return;
        }
        let late = self.tickets.drain(..).map(|ticket| Event::Rendered(ticket, Ok(()))).collect();
        self.feed(late);
        let late = vec![self.signal(Meaning::Reload), self.signal(Meaning::Term), Event::Deadline];
        self.feed(late);
    }
}

/// Prints the seed and the events of a sequence that fails.
struct OnFailure<'a>(u64, &'a mut World);

impl Drop for OnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("NGINIT_MODEL_SEED={}\n{}", self.0, self.1.log.join("\n"));
        }
    }
}

fn sequence(seed: u64) {
    let mut world = World::new(seed);
    let failure = OnFailure(seed, &mut world);
    for _ in 0..EVENTS {
        if failure.1.end.is_some() {
            break;
        }
        let events = failure.1.events();
        failure.1.feed(events);
    }
    failure.1.finish();
}

#[test]
fn every_sequence_of_events_keeps_the_promises() {
    if let Ok(seed) = std::env::var("NGINIT_MODEL_SEED") {
        return sequence(seed.parse().unwrap());
    }
    // New ones at each run; the clock is a good enough seed.
    let start = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for index in 0..SEQUENCES {
        sequence(start.wrapping_add(index));
    }
}
