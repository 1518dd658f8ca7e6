//! Asking a Serf agent who is there (`serf members`), as a pure state machine.
//!
//! Events tell only of changes, and nobody repeats those that nginit has missed. So the whole list is
//! asked for once after each start, nginit's and the agent's, and again until there is an answer.

pub mod run;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Pid;
use super::backoff::Backoff;
use crate::upstream::{Name, Upstreams};

/// The first wait before an agent is asked again: it takes some tenths of a second to start.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(500);

/// The longest one, with its quarter by chance at most half a minute.
const LONGEST_BACKOFF: Duration = Duration::from_secs(24);

/// Longest wait for an answer, which takes some milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// So many questions may fail before that is said: an agent that has just been started is not there yet.
const PATIENCE: u32 = 4;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The list is wanted, whatever was answered before: nginit or the agent has just been started.
    Wanted,
    /// An agent has told something; the list is wanted unless it was answered once.
    Heard,
    /// The question runs as this process, or why not.
    Started(Result<Pid, Unstarted>),
    /// The process ended: whether there was an answer that could be used, or why not.
    Answered(Pid, Result<(), String>),
    /// The deadline passed.
    Deadline,
}

/// Why nobody could be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unstarted {
    /// There is no such program, and there will be none.
    Missing(String),
    /// Something else.
    Failed(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask; answer with [`Event::Started`].
    Ask,
    /// Kill the question, which takes too long.
    Kill(Pid),
    /// Say that there is no answer, and why; `again`: it is asked for further on.
    ReportSilent {
        /// Why.
        reason: String,
        /// Whether it goes on.
        again: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Due(Instant),
    Starting,
    Asking {
        pid: Pid,
        deadline: Instant,
    },
    /// Killed; it was too late.
    Late {
        pid: Pid,
    },
}

/// The state of the question.
#[derive(Debug)]
pub struct Resync {
    phase: Phase,
    backoff: Backoff,
    failures: u32,
    /// It was wanted anew while a question ran.
    again: bool,
    answered: bool,
}

impl Resync {
    /// Nobody asks yet; chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let backoff = Backoff::new(SHORTEST_BACKOFF, LONGEST_BACKOFF, seed);
        Self { phase: Phase::Idle, backoff, failures: 0, again: false, answered: false }
    }

    /// When [`Event::Deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Due(at) => Some(at),
            Phase::Asking { deadline, .. } => Some(deadline),
            Phase::Idle | Phase::Starting | Phase::Late { .. } => None,
        }
    }

    /// The process that asks.
    pub fn pid(&self) -> Option<Pid> {
        match self.phase {
            Phase::Asking { pid, .. } | Phase::Late { pid } => Some(pid),
            Phase::Idle | Phase::Due(_) | Phase::Starting => None,
        }
    }

    /// What is to be done about `event`.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Wanted => self.want(now),
            Event::Heard if !self.answered && self.phase == Phase::Idle => self.want(now),
            Event::Heard => {}
            Event::Started(result) => return self.on_started(result, now),
            Event::Answered(pid, result) if self.pid() == Some(pid) => return self.on_answered(result, now),
            Event::Answered(..) => {}
            Event::Deadline => match self.phase {
                Phase::Due(at) if now >= at => {
                    self.phase = Phase::Starting;
                    return vec![Action::Ask];
                }
                Phase::Asking { pid, deadline } if now >= deadline => {
                    self.phase = Phase::Late { pid };
                    return vec![Action::Kill(pid)];
                }
                _ => {}
            },
        }
        Vec::new()
    }

    fn want(&mut self, now: Instant) {
        self.failures = 0;
        self.backoff.reset();
        match self.phase {
            Phase::Idle | Phase::Due(_) => self.phase = Phase::Due(now),
            Phase::Starting | Phase::Asking { .. } | Phase::Late { .. } => self.again = true,
        }
    }

    fn on_started(&mut self, result: Result<Pid, Unstarted>, now: Instant) -> Vec<Action> {
        match (self.phase, result) {
            (Phase::Starting, Ok(pid)) => {
                self.phase = Phase::Asking { pid, deadline: now + TIMEOUT };
                Vec::new()
            }
            (Phase::Starting, Err(Unstarted::Failed(reason))) => self.fail(reason, now),
            (Phase::Starting, Err(Unstarted::Missing(reason))) => {
                self.phase = Phase::Idle;
                // Events would only say the same again.
                self.answered = true;
                vec![Action::ReportSilent { reason, again: false }]
            }
            (_, Ok(pid)) => vec![Action::Kill(pid)],
            (_, Err(_)) => Vec::new(),
        }
    }

    fn on_answered(&mut self, result: Result<(), String>, now: Instant) -> Vec<Action> {
        match (self.phase, result) {
            (Phase::Late { .. }, _) => self.fail(format!("no answer within {} s", TIMEOUT.as_secs()), now),
            (_, Err(reason)) => self.fail(reason, now),
            (_, Ok(())) => {
                self.answered = true;
                self.failures = 0;
                self.backoff.reset();
                self.phase = if std::mem::take(&mut self.again) { Phase::Due(now) } else { Phase::Idle };
                Vec::new()
            }
        }
    }

    fn fail(&mut self, reason: String, now: Instant) -> Vec<Action> {
        self.failures = self.failures.saturating_add(1);
        self.again = false;
        self.phase = Phase::Due(now + self.backoff.wait());
        if self.failures == PATIENCE { vec![Action::ReportSilent { reason, again: true }] } else { Vec::new() }
    }
}

/// Whether an agent is to be asked from the start on: one runs as a sidecar, or an upstream has a role
/// that is not just its name. Otherwise, the first event is soon enough.
pub fn is_wanted(upstreams: &Upstreams, sidecars: &BTreeMap<Name, Vec<String>>) -> bool {
    sidecars.values().any(|words| is_agent(words))
        || upstreams.iter().any(|(name, upstream)| upstream.serf_role != name.as_str().to_ascii_lowercase())
}

/// Whether a sidecar with these words is Serf.
pub fn is_agent(words: &[String]) -> bool {
    words.first().is_some_and(|program| program.rsplit('/').next() == Some("serf"))
}

/// How to ask: the agent that runs as a sidecar, with its own program, where it listens to commands and what
/// it wants to know of who asks; otherwise whom `serf` itself finds, which `SERF_RPC_ADDR` may say.
pub fn command(sidecars: &BTreeMap<Name, Vec<String>>) -> Vec<String> {
    let agent = sidecars.values().find(|words| is_agent(words)).map(Vec::as_slice).unwrap_or_default();
    let program = agent.first().map_or("serf", String::as_str);
    let mut command: Vec<String> = [program, "members", "-format=json"].map(str::to_owned).to_vec();
    for option in ["rpc-addr", "rpc-auth"] {
        if let Some(value) = value_of(agent, option) {
            command.push(format!("-{option}={value}"));
        }
    }
    command
}

/// The last value of an option in Go's forms: `-o=v`, `--o=v`, `-o v`, `--o v`.
fn value_of<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
    let value = |(at, word): (usize, &'a String)| {
        let rest = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?.strip_prefix(option)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => words.get(at + 1).map(String::as_str),
            None => None,
        }
    };
    words.iter().enumerate().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    fn silent(reason: &str, again: bool) -> Action {
        Action::ReportSilent { reason: reason.to_owned(), again }
    }

    /// One that asks as process 7.
    fn asking() -> (Resync, Instant) {
        let (mut resync, t) = (Resync::new(1), Instant::now());
        assert_eq!(resync.deadline(), None);
        assert_eq!(resync.on(Event::Wanted, t), []);
        assert_eq!(resync.deadline(), Some(t));
        assert_eq!(resync.on(Event::Deadline, t), [Action::Ask]);
        assert_eq!(resync.on(Event::Started(Ok(7)), t), []);
        (resync, t)
    }

    fn fails(resync: &mut Resync, t: &mut Instant) -> Vec<Action> {
        *t = resync.deadline().unwrap();
        assert_eq!(resync.on(Event::Deadline, *t), [Action::Ask]);
        resync.on(Event::Started(Ok(7)), *t);
        resync.on(Event::Answered(7, Err("refused".to_owned())), *t)
    }

    #[test]
    fn the_list_is_asked_for_until_there_is_an_answer() {
        let (mut resync, mut t) = (Resync::new(1), Instant::now());
        let began = t;
        resync.on(Event::Wanted, t);
        for turn in 1..30 {
            let before = t;
            let want = if turn == 4 { vec![silent("refused", true)] } else { Vec::new() };
            assert_eq!(fails(&mut resync, &mut t), want, "{turn}");
            assert!(t - before <= Duration::from_secs(30));
            if turn == 4 {
                assert!(t - began < Duration::from_secs(5), "an agent that is started late is found soon");
            }
        }
        resync.on(Event::Deadline, resync.deadline().unwrap());
        resync.on(Event::Started(Ok(7)), t);
        assert_eq!(resync.on(Event::Answered(8, Ok(())), t), [], "another process");
        assert_eq!(resync.pid(), Some(7));
        assert_eq!(resync.on(Event::Answered(7, Ok(())), t), []);
        assert_eq!((resync.deadline(), resync.pid()), (None, None));
    }

    #[test]
    fn a_question_that_hangs_is_killed_and_asked_again() {
        let (mut resync, t) = asking();
        assert_eq!(resync.deadline(), Some(t + TIMEOUT));
        assert_eq!(resync.on(Event::Deadline, t + TIMEOUT), [Action::Kill(7)]);
        assert_eq!((resync.deadline(), resync.pid()), (None, Some(7)));
        assert_eq!(resync.on(Event::Answered(7, Ok(())), t + TIMEOUT), [], "whatever it wrote was not whole");
        assert!(resync.deadline().is_some_and(|at| at > t + TIMEOUT));
    }

    #[test]
    fn the_first_event_of_a_run_asks_and_no_other_one_does() {
        let (mut resync, t) = (Resync::new(1), Instant::now());
        resync.on(Event::Heard, t);
        assert_eq!(resync.deadline(), Some(t));
        fails(&mut resync, &mut t.clone());
        let later = resync.deadline();
        resync.on(Event::Heard, t);
        assert_eq!(resync.deadline(), later, "it is being asked for");
        resync.on(Event::Deadline, later.unwrap());
        resync.on(Event::Started(Ok(7)), t);
        resync.on(Event::Answered(7, Ok(())), t);
        resync.on(Event::Heard, t);
        assert_eq!(resync.deadline(), None);
    }

    #[test]
    fn an_agent_that_is_started_anew_is_asked_anew() {
        let (mut resync, t) = asking();
        resync.on(Event::Wanted, t);
        resync.on(Event::Answered(7, Ok(())), t);
        assert_eq!(resync.deadline(), Some(t), "the answer was that of the one before");
        resync.on(Event::Deadline, t);
        resync.on(Event::Started(Ok(8)), t);
        resync.on(Event::Answered(8, Ok(())), t);
        assert_eq!(resync.deadline(), None);
        resync.on(Event::Wanted, t);
        assert_eq!(resync.deadline(), Some(t));
    }

    #[test]
    fn where_there_is_no_serf_it_is_said_once() {
        let (mut resync, t) = (Resync::new(1), Instant::now());
        resync.on(Event::Heard, t);
        resync.on(Event::Deadline, t);
        let missing = Unstarted::Missing("none".to_owned());
        assert_eq!(resync.on(Event::Started(Err(missing)), t), [silent("none", false)]);
        assert_eq!((resync.on(Event::Heard, t), resync.deadline()), (vec![], None));
        resync.on(Event::Wanted, t);
        resync.on(Event::Deadline, t);
        assert_eq!(resync.on(Event::Started(Err(Unstarted::Failed("EAGAIN".to_owned()))), t), []);
        assert!(resync.deadline().is_some());
    }

    fn sidecars(commands: &[(&str, &str)]) -> BTreeMap<Name, Vec<String>> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        commands.iter().map(|(name, text)| (Name::new(name).unwrap(), words(text))).collect()
    }

    #[test]
    fn the_agent_that_runs_as_a_sidecar_is_asked_where_it_listens() {
        let command = |text: &str| command(&sidecars(&[("A", "logs -rpc-addr=x"), ("S", text)])).join(" ");
        assert_eq!(command("other -rpc-addr=1"), "serf members -format=json");
        assert_eq!(command("serf agent -node=x"), "serf members -format=json");
        for own in ["-rpc-addr=h:1", "--rpc-addr=h:1", "-rpc-addr h:1", "--rpc-addr h:1", "-rpc-addr=z -rpc-addr=h:1"] {
            let want = "/opt/serf members -format=json -rpc-addr=h:1 -rpc-auth=s=1";
            assert_eq!(command(&format!("/opt/serf agent {own} -rpc-auth=s=1 -rpc-address=no")), want);
        }
        assert_eq!(command("serf agent -rpc-addr"), "serf members -format=json");
    }

    #[test]
    fn it_is_wanted_where_serf_is_meant() {
        let upstreams = |role: &str| {
            let upstream = Upstream { serf_role: role.to_owned(), ..Upstream::sample() };
            [(Name::new("DYNAMIC").unwrap(), upstream)].into()
        };
        assert!(is_wanted(&upstreams("api"), &sidecars(&[])));
        assert!(!is_wanted(&upstreams("dynamic"), &sidecars(&[("LOGS", "tail -f x")])));
        assert!(is_wanted(&upstreams("dynamic"), &sidecars(&[("X", "/usr/bin/serf agent")])));
    }
}
