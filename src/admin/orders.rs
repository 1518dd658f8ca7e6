//! What an operator orders and what a server announces, and what became of it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::route::is_name;
use super::text::one_line;
use crate::settings::parse_duration;

/// Longest text that names a server, in bytes: more than any entry of a list needs.
const LONGEST_SERVER: usize = 1024;

/// Shortest and longest time that an announcement counts. Below, a lost packet would be an end;
/// above, it is no announcement but an `add`.
pub(crate) const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// An operator's order. It stands until another one takes it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What shall become of the server.
    pub what: What,
    /// The upstream as it was typed: `dynamic`, `DYNAMIC` or `dynamic_backend`.
    pub upstream: String,
    /// An entry of a server list, not checked.
    pub server: String,
    /// Whether the answer waits for the reload.
    pub wait: bool,
}

/// What shall become of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is a server of the upstream.
    Add,
    /// It is none, whatever the sources say.
    Remove,
    /// It gets no new requests.
    Drain,
    /// It gets them again.
    Undrain,
    /// It gets this share of the requests.
    Weight(NonZeroU16),
}

/// The kinds of orders, which are words of the protocol and of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Add,
    Remove,
    Drain,
    Undrain,
    Weight,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Add, Self::Remove, Self::Drain, Self::Undrain, Self::Weight];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Weight => "weight",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    pub(crate) fn of(what: What) -> Self {
        match what {
            What::Add => Self::Add,
            What::Remove => Self::Remove,
            What::Drain => Self::Drain,
            What::Undrain => Self::Undrain,
            What::Weight(_) => Self::Weight,
        }
    }
}

/// As it is logged: `drain`, `weight=3`.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(weight) => write!(f, "weight={weight}"),
            what => f.write_str(Kind::of(*what).word()),
        }
    }
}

/// The JSON of an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderBody {
    upstream: String,
    server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<NonZeroU16>,
    #[serde(default)]
    wait: bool,
}

impl Order {
    /// The order that a body gives; a text for whoever sent it if it gives none.
    pub(crate) fn new(kind: Kind, body: OrderBody) -> Result<Self, String> {
        let OrderBody { upstream, server, weight, wait } = body;
        let what = match (kind, weight) {
            (Kind::Weight, Some(weight)) => What::Weight(weight),
            (Kind::Weight, None) => return Err("\"weight\" is missing".to_owned()),
            (_, Some(_)) => return Err("\"weight\" belongs to /v1/weight".to_owned()),
            (Kind::Add, None) => What::Add,
            (Kind::Remove, None) => What::Remove,
            (Kind::Drain, None) => What::Drain,
            (Kind::Undrain, None) => What::Undrain,
        };
        check_upstream(&upstream)?;
        check_server(&server)?;
        Ok(Self { what, upstream, server, wait })
    }

    pub(super) fn body(&self) -> OrderBody {
        let weight = match self.what {
            What::Weight(weight) => Some(weight),
            What::Add | What::Remove | What::Drain | What::Undrain => None,
        };
        OrderBody { upstream: self.upstream.clone(), server: self.server.clone(), weight, wait: self.wait }
    }
}

/// What a server says of itself, which counts until its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The upstream, as in an order.
    pub upstream: String,
    /// An entry of a server list, not checked; nothing means the sender's address.
    pub server: Option<String>,
    /// The sender's port, where it names no server; the upstream's own if there is none.
    pub port: Option<NonZeroU16>,
    /// How long it counts from now on; zero takes it back.
    pub ttl: Duration,
    /// Its share of the requests.
    pub weight: Option<NonZeroU16>,
    /// Who sent it; set where requests come in over TCP.
    pub peer: Option<IpAddr>,
}

/// The JSON of an announcement.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnnouncementBody {
    upstream: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<NonZeroU16>,
    ttl: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<NonZeroU16>,
}

impl Announcement {
    /// The announcement that a body gives; a text for whoever sent it if it gives none.
    pub(crate) fn new(body: AnnouncementBody, peer: Option<IpAddr>) -> Result<Self, String> {
        let AnnouncementBody { upstream, server, port, ttl, weight } = body;
        check_upstream(&upstream)?;
        match &server {
            Some(_) if port.is_some() => return Err("\"port\" belongs into \"server\"".to_owned()),
            Some(server) => check_server(server)?,
            None if peer.is_none() => return Err("\"server\" is missing: who asks here has no address".to_owned()),
            None => {}
        }
        let ttl = parse_ttl(&ttl).ok_or("\"ttl\" is not 0 or a time of 1s to 24h")?;
        Ok(Self { upstream, server, port, ttl, weight, peer })
    }

    /// Whether it takes back an earlier one.
    pub fn withdraws(&self) -> bool {
        self.ttl.is_zero()
    }

    pub(super) fn body(&self) -> AnnouncementBody {
        AnnouncementBody {
            upstream: self.upstream.clone(),
            server: self.server.clone(),
            port: self.port,
            ttl: format!("{}ms", self.ttl.as_millis()),
            weight: self.weight,
        }
    }
}

/// How long an announcement counts; zero takes it back.
pub(crate) fn parse_ttl(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|ttl| ttl.is_zero() || TTL.contains(ttl))
}

fn check_upstream(text: &str) -> Result<(), String> {
    if is_name(text) { Ok(()) } else { Err("\"upstream\" is not a name of letters, digits and _".to_owned()) }
}

fn check_server(text: &str) -> Result<(), String> {
    let fits = (1..=LONGEST_SERVER).contains(&text.len()) && !text.contains(char::is_control);
    if fits { Ok(()) } else { Err(format!("\"server\" is not a text of 1 to {LONGEST_SERVER} visible bytes")) }
}

/// What became of an order or an announcement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Whether anything is other than before.
    pub changed: bool,
    /// What to know of it, a line each: what it contradicts, what it does not reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How the reload ended, where it was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A line each of what became of it and of the notes.
impl fmt::Display for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.outcome, self.changed) {
            (Some(outcome), _) => writeln!(f, "{outcome}")?,
            (None, true) => writeln!(f, "taken; nginit list tells what came of it")?,
            (None, false) => writeln!(f, "nothing has changed")?,
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {}", one_line(note)))
    }
}
