//! How requests are passed on to the servers of an upstream: tries, times, sizes, buffers.

use std::time::Duration;

/// What an operator can turn of how requests are passed on; the default is nginx's good sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passing {
    /// When another server is asked.
    pub retry: Retry,
    /// How long nginx waits for a server.
    pub timeouts: Timeouts,
    /// Idle connections to servers; nothing is one connection a request.
    pub keepalive: Option<Keepalive>,
    /// The largest request body.
    pub max_body: MaxBody,
    /// Whether nginx takes in an answer as fast as the server gives it, whatever the client's pace is.
    pub buffering: bool,
}

impl Default for Passing {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            keepalive: Some(Keepalive::default()),
            max_body: MaxBody::default(),
            buffering: true,
        }
    }
}

/// When another server is asked (`proxy_next_upstream` and its `_tries` and `_timeout`). A request
/// that was sent and may change something twice never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    /// Never.
    Off,
    /// After one of these.
    On {
        /// How many servers are asked at most after the first one; nothing is all.
        more: Option<u16>,
        /// For how long; nothing has no end.
        timeout: Option<Duration>,
        /// What has to happen; never empty, none twice.
        on: Vec<Condition>,
    },
}

impl Default for Retry {
    fn default() -> Self {
        Self::On { more: None, timeout: None, on: DEFAULT_CONDITIONS.to_vec() }
    }
}

/// What another server is asked after, unless something else is said: nginx's own default.
pub const DEFAULT_CONDITIONS: [Condition; 2] = [Condition::Error, Condition::Timeout];

/// Why another server is asked
/// (<https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_next_upstream>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The connection cannot be made, or breaks.
    Error,
    /// One of the times is over.
    Timeout,
    /// The answer is empty or no HTTP.
    InvalidHeader,
    /// The answer has this status.
    Status(u16),
}

impl Condition {
    /// Every status that nginx knows here, and gRPC too.
    pub const STATUSES: [u16; 7] = [403, 404, 429, 500, 502, 503, 504];

    /// The condition that `word` names, in nginx's spelling.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "error" => Some(Self::Error),
            "timeout" => Some(Self::Timeout),
            "invalid_header" => Some(Self::InvalidHeader),
            _ => {
                let known = |status: &u16| word.strip_prefix("http_") == Some(status.to_string().as_str());
                Self::STATUSES.into_iter().find(known).map(Self::Status)
            }
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error => f.write_str("error"),
            Self::Timeout => f.write_str("timeout"),
            Self::InvalidHeader => f.write_str("invalid_header"),
            Self::Status(status) => write!(f, "http_{status}"),
        }
    }
}

/// How long nginx waits for a server; nothing is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Option<Duration>,
    /// Between two reads of the answer.
    pub read: Option<Duration>,
    /// Between two writes of the request.
    pub send: Option<Duration>,
}

/// Idle connections that each worker keeps for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// At most so many; never 0.
    pub connections: u16,
    /// And not longer.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// A second is shorter than any usual server keeps an idle connection (2 s in gunicorn, 5 s in
    /// Node, uvicorn and Apache): whoever closes first loses no request.
    fn default() -> Self {
        Self { connections: 64, timeout: Duration::from_secs(1) }
    }
}

/// The largest request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxBody {
    /// What holds anyway: nginx's 1 MiB, or what nginx.conf says.
    #[default]
    Inherited,
    /// So many bytes.
    Bytes(u64),
    /// Any.
    Unlimited,
}
