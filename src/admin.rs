//! What can be asked of the running nginit, and what it answers: the types of both ends of the
//! control socket, as JSON, as HTTP and as text for people.
//!
//! The protocol is HTTP/1.1: `GET /v1/status` and `POST /v1/reload[?wait=true]`. [`socket`] is its
//! server, [`client`] asks it.

pub mod client;
pub mod socket;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::supervisor::Pid;

const STATUS: &str = "/v1/status";
const RELOAD: &str = "/v1/reload";

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How things are.
    Status,
    /// A reload.
    Reload {
        /// Whether the answer is its outcome, and not only that it was taken.
        wait: bool,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// How things are.
    Status(Status),
    /// How the reload that was waited for ended.
    Outcome(Outcome),
    /// The reload will be done.
    Accepted,
}

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

/// The three ends of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// A new generation is live: nginx has answered its number.
    Live,
    /// The configuration would be the same, byte by byte.
    Unchanged,
    /// The old generation stays.
    Refused,
}

/// Why a request in HTTP asks for nothing that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub(crate) code: u16,
    /// What to say.
    pub(crate) why: &'static str,
    /// The methods that there are, where it is the method that there is not.
    pub(crate) allow: Option<&'static str>,
}

impl Request {
    /// The request's method and target in HTTP.
    pub(crate) fn line(&self) -> (&'static str, &'static str) {
        match self {
            Self::Status => ("GET", STATUS),
            Self::Reload { wait: false } => ("POST", RELOAD),
            Self::Reload { wait: true } => ("POST", "/v1/reload?wait=true"),
        }
    }

    /// What such a request asks for.
    pub(crate) fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        let refuse = |code, why, allow| Err(Refusal { code, why, allow });
        match (path, method) {
            (STATUS, "GET" | "HEAD") => Ok(Self::Status),
            (STATUS, _) => refuse(405, "a status is asked for with GET", Some("GET, HEAD")),
            (RELOAD, "POST") => match query {
                None | Some("" | "wait=false") => Ok(Self::Reload { wait: false }),
                Some("wait=true") => Ok(Self::Reload { wait: true }),
                Some(_) => refuse(400, "only wait=true and wait=false are known here", None),
            },
            (RELOAD, _) => refuse(405, "a reload is asked for with POST", Some("POST")),
            _ => refuse(404, "there are GET /v1/status and POST /v1/reload[?wait=true]", None),
        }
    }
}

impl Reply {
    /// The HTTP status: such that `curl --fail` fails on a reload that was refused.
    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::Accepted => 202,
            Self::Outcome(outcome) if outcome.result == ReloadResult::Refused => 409,
            Self::Outcome(_) | Self::Status(_) => 200,
        }
    }

    /// The JSON text.
    ///
    /// # Errors
    /// None for these types; serde's signature.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        match self {
            Self::Status(status) => serde_json::to_string(status),
            Self::Outcome(outcome) => serde_json::to_string(outcome),
            Self::Accepted => Ok(r#"{"result":"accepted"}"#.to_owned()),
        }
    }
}

/// The JSON of an answer that gives only a reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sorry {
    pub(crate) error: String,
}

impl Sorry {
    pub(crate) fn to_json(error: &str) -> String {
        serde_json::to_string(&Self { error: error.to_owned() }).unwrap_or_default()
    }
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

/// Seconds, as a time in nginx's syntax of at most two units.
struct Ago(u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mins, hours, days) = (self.0 / 60, self.0 / 3600, self.0 / 86_400);
        let (large, unit, small, next) = match self.0 {
            0..60 => return write!(f, "{}s", self.0),
            60..3600 => (mins, "m", self.0 % 60, "s"),
            3600..86_400 => (hours, "h", mins % 60, "m"),
            _ => (days, "d", hours % 24, "h"),
        };
        if small == 0 { write!(f, "{large}{unit}") } else { write!(f, "{large}{unit}{small}{next}") }
    }
}

/// `text` in one line that no terminal takes for a command.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str(" | "),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: ReloadResult, reason: Option<&str>) -> Outcome {
        Outcome { result, generation: 7, reason: reason.map(str::to_owned), took_ms: 41 }
    }

    fn status() -> Status {
        let upstream = |name: &str, servers, gone| UpstreamCount { name: name.to_owned(), servers, gone };
        Status {
            nginit: Program { version: "0.1.0".to_owned(), pid: 1 },
            nginx: Program { version: "1.30.6".to_owned(), pid: 7 },
            state: State::Running,
            generation: 7,
            live_secs: 192,
            upstreams: vec![upstream("dynamic_backend", 12, 0), upstream("x", 10_000, 1)],
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
        assert_eq!(Reply::Status(status()).to_json().unwrap(), want);
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

    #[test]
    fn what_is_not_known_is_refused() {
        let code = |method, path, query| Request::parse(method, path, query).unwrap_err().code;
        assert_eq!(code("GET", "/", None), 404);
        assert_eq!(code("GET", "/v1/status/", None), 404);
        assert_eq!(code("POST", "/v1/status", None), 405);
        assert_eq!(code("GET", "/v1/reload", None), 405);
        assert_eq!(code("POST", "/v1/reload", Some("wait=maybe")), 400);
    }

    #[test]
    fn what_one_end_writes_the_other_reads() {
        let outcomes = [ReloadResult::Live, ReloadResult::Unchanged, ReloadResult::Refused]
            .map(|result| (Request::Reload { wait: true }, Reply::Outcome(outcome(result, None))));
        let states = [State::Running, State::Reloading, State::Waiting, State::Held, State::Quitting, State::Stopping];
        let states = states.map(|state| (Request::Status, Reply::Status(Status { state, ..status() })));
        let taken = (Request::Reload { wait: false }, Reply::Accepted);
        for (request, reply) in outcomes.into_iter().chain(states).chain([taken]) {
            let (method, target) = request.line();
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            assert_eq!(Request::parse(method, path, query), Ok(request.clone()));
            let json = reply.to_json().unwrap();
            assert_eq!(client::read(&request, reply.code(), json.as_bytes()).unwrap(), reply, "{json}");
        }
    }

    #[test]
    fn what_no_nginit_would_answer_is_an_error() {
        let error = |request, code, text: &str| client::read(&request, code, text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(Request::Status, 503, "{\"error\":\"busy\"}"), "busy");
        assert_eq!(error(Request::Status, 502, "<html>"), "status 502");
        assert_eq!(error(Request::Reload { wait: true }, 202, ""), "status 202");
        assert!(error(Request::Status, 200, "{}").starts_with("it is no answer of nginit's: missing field"));
    }

    #[test]
    fn times_have_at_most_two_units() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m59s"),
            (3600, "1h"),
            (86_399, "23h59m"),
            (90_000, "1d1h"),
            (u64::MAX, "213503982334601d7h"),
        ] {
            assert_eq!(Ago(secs).to_string(), text);
        }
    }
}
