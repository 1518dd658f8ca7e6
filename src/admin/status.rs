//! How things are, and how a reload ended: as JSON and as text for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::{Ago, one_line};
use crate::supervisor::Pid;

/// How things are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// nginit itself.
    pub nginit: Program,
    /// The nginx that it runs.
    pub nginx: Program,
    /// What goes on.
    pub state: State,
    /// The generation that is live.
    pub generation: u64,
    /// Seconds since it is live.
    pub live_secs: u64,
    /// Its upstreams.
    pub upstreams: Vec<UpstreamCount>,
    /// What nginx follows without a reload, where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveCounts>,
    /// Old generations whose workers still finish requests.
    pub draining: Vec<Draining>,
    /// Reloads since the start.
    pub reloads: Reloads,
    /// How the last of them ended, if there was one.
    pub last: Option<Outcome>,
    /// Seconds since then.
    pub last_secs: Option<u64>,
}

/// A program that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version, such as `1.30.6`.
    pub version: String,
    /// Its process, as it is known in the container.
    pub pid: Pid,
}

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// nginx serves, and nothing else is under way.
    Running,
    /// A new generation is made, tested or waited for.
    Reloading,
    /// A reload waits for its time (`NGINIT_RELOAD_INTERVAL`).
    Waiting,
    /// A reload waits for old generations to finish requests (`NGINIT_RELOAD_BACKLOG`).
    Held,
    /// nginx finishes requests and ends.
    Quitting,
    /// nginx ends at once.
    Stopping,
}

/// The servers of an upstream, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamCount {
    /// nginx's name of it.
    pub name: String,
    /// Those that are in its list.
    pub servers: usize,
    /// Those that left the list and whose slots are kept.
    pub gone: usize,
}

/// What nginx follows without a reload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCounts {
    /// Upstreams whose servers it follows.
    pub upstreams: usize,
    /// Changes of their servers that it was told of, since the start.
    pub changes: u64,
    /// Whether it has taken in all of them.
    pub taken: bool,
    /// Messages of DNS that came.
    pub asked: u64,
    /// Lists of servers that were sent.
    pub told: u64,
    /// Messages that were refused or no questions.
    pub refused: u64,
}

/// A generation that is live no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Its number.
    pub generation: u64,
    /// Its workers that still finish requests.
    pub workers: usize,
}

/// Reloads since the start, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// A new generation went live.
    pub live: u64,
    /// There was nothing new.
    pub unchanged: u64,
    /// What was new was refused.
    pub refused: u64,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub result: ReloadResult,
    /// The generation that is live after it.
    pub generation: u64,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds from its start to its end.
    pub took_ms: u64,
}

/// The ends of a reload, and of a change that needs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// A new generation is live: nginx has answered its number.
    Live,
    /// The configuration would be the same, byte by byte.
    Unchanged,
    /// nginx has taken in other servers, without a reload.
    Followed,
    /// The old generation stays.
    Refused,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Reloading => "reloading",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Quitting => "quitting",
            Self::Stopping => "stopping",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation;
        match self.result {
            ReloadResult::Live => write!(f, "generation {generation} is live, {} ms", self.took_ms),
            ReloadResult::Followed => write!(f, "nginx has followed without a reload, {} ms", self.took_ms),
            ReloadResult::Unchanged => write!(f, "nothing has changed, generation {generation} stays live"),
            ReloadResult::Refused => {
                let reason = self.reason.as_deref().unwrap_or("no reason is known").trim_end();
                write!(f, "refused, generation {generation} stays live: {reason}")
            }
        }
    }
}

/// Lines of a name and a value each, and a table of the upstreams.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reloads { live, unchanged, refused } = self.reloads;
        writeln!(f, "nginit      {}, pid {}", self.nginit.version, self.nginit.pid)?;
        writeln!(f, "nginx       {}, pid {}", self.nginx.version, self.nginx.pid)?;
        writeln!(f, "state       {}", self.state)?;
        writeln!(f, "generation  {}, live for {}", self.generation, Ago(self.live_secs))?;
        writeln!(f, "reloads     {live} live, {unchanged} unchanged, {refused} refused")?;
        if let Some(live) = self.live.filter(|live| live.upstreams > 0) {
            let LiveCounts { upstreams, changes, taken, .. } = live;
            let (s, late) = (if upstreams == 1 { "" } else { "s" }, if taken { "" } else { ", not yet all taken in" });
            writeln!(f, "live        {upstreams} upstream{s} without reloads, {changes} changes{late}")?;
        }
        if let Some(last) = &self.last {
            let ago = self.last_secs.map_or_else(String::new, |secs| format!("{} ago: ", Ago(secs)));
            writeln!(f, "last        {ago}{}", one_line(&last.to_string()))?;
        }
        for (index, Draining { generation, workers }) in self.draining.iter().enumerate() {
            let name = if index == 0 { "draining" } else { "" };
            let s = if *workers == 1 { "" } else { "s" };
            writeln!(f, "{name:<12}generation {generation}, {workers} worker{s}")?;
        }
        if self.upstreams.is_empty() {
            return Ok(());
        }
        let width = self.upstreams.iter().map(|u| u.name.len()).max().unwrap_or(0).max("UPSTREAM".len());
        writeln!(f, "\n{:<width$}  SERVERS  GONE", "UPSTREAM")?;
        for UpstreamCount { name, servers, gone } in &self.upstreams {
            writeln!(f, "{name:<width$}  {servers:>7}  {gone:>4}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn outcome(result: ReloadResult, reason: Option<&str>) -> Outcome {
        Outcome { result, generation: 7, reason: reason.map(str::to_owned), took_ms: 41 }
    }

    pub(crate) fn status() -> Status {
        let upstream = |name: &str, servers, gone| UpstreamCount { name: name.to_owned(), servers, gone };
        Status {
            nginit: Program { version: "0.1.0".to_owned(), pid: 1 },
            nginx: Program { version: "1.30.6".to_owned(), pid: 7 },
            state: State::Running,
            generation: 7,
            live_secs: 192,
            upstreams: vec![upstream("dynamic_backend", 12, 0), upstream("x", 10_000, 1)],
            live: None,
            draining: vec![Draining { generation: 5, workers: 1 }, Draining { generation: 6, workers: 2 }],
            reloads: Reloads { live: 6, unchanged: 2, refused: 1 },
            last: Some(outcome(ReloadResult::Refused, Some("unknown directive \"x\"\nin\u{1b} y:1\n"))),
            last_secs: Some(3600),
        }
    }

    #[test]
    fn a_status_is_columns_for_people() {
        let want = "\
nginit      0.1.0, pid 1
nginx       1.30.6, pid 7
state       running
generation  7, live for 3m12s
reloads     6 live, 2 unchanged, 1 refused
last        1h ago: refused, generation 7 stays live: unknown directive \"x\" | in\\u{1b} y:1
draining    generation 5, 1 worker
            generation 6, 2 workers

UPSTREAM         SERVERS  GONE
dynamic_backend       12     0
x                  10000     1
";
        assert_eq!(status().to_string(), want);
        let bare = Status { upstreams: Vec::new(), draining: Vec::new(), last: None, last_secs: None, ..status() };
        assert_eq!(bare.to_string(), want.lines().take(5).map(|line| format!("{line}\n")).collect::<String>());
    }

    #[test]
    fn a_status_is_json_for_programs() {
        let want = concat!(
            r#"{"nginit":{"version":"0.1.0","pid":1},"nginx":{"version":"1.30.6","pid":7},"state":"running","#,
            r#""generation":7,"live_secs":192,"upstreams":[{"name":"dynamic_backend","servers":12,"gone":0},"#,
            r#"{"name":"x","servers":10000,"gone":1}],"draining":[{"generation":5,"workers":1},"#,
            r#"{"generation":6,"workers":2}],"reloads":{"live":6,"unchanged":2,"refused":1},"last":{"result":"refused","#,
            r#""generation":7,"reason":"unknown directive \"x\"\nin\u001b y:1\n","took_ms":41},"last_secs":3600}"#
        );
        assert_eq!(serde_json::to_string(&status()).unwrap(), want);
    }

    #[test]
    fn an_outcome_is_one_line() {
        let text = |result, reason| outcome(result, reason).to_string();
        assert_eq!(text(ReloadResult::Live, None), "generation 7 is live, 41 ms");
        assert_eq!(text(ReloadResult::Unchanged, None), "nothing has changed, generation 7 stays live");
        assert_eq!(text(ReloadResult::Refused, Some("no\n")), "refused, generation 7 stays live: no");
    }

    #[test]
    fn a_state_reads_the_same_everywhere() {
        for state in [State::Running, State::Reloading, State::Waiting, State::Held, State::Quitting, State::Stopping] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }
}
