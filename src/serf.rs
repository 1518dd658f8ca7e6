//! Members of a Serf cluster, as an agent tells of them, and which upstreams they belong to.
//!
//! An agent tells in two ways: it runs an event handler, with what has changed on its standard input,
//! and it answers `serf members`. Events come late, by the agent's coalescing, and nobody repeats one
//! that is lost; a list is whole, but it may be older than an event that came meanwhile. So the
//! [`Roster`] takes lists as they are, and on top of them the events since they were asked for.

mod reading;
mod roster;

pub use reading::{LONGEST_INPUT, command_body, parse_event, parse_members};
pub use roster::Roster;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What an agent tells: some members have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// How.
    pub kind: Kind,
    /// Who; the last one of a name counts.
    pub members: Vec<Member>,
}

/// How members have changed (`SERF_EVENT`, without its `member-`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// They are there.
    Join,
    /// They went.
    Leave,
    /// They do not answer any more.
    Failed,
    /// Their tags are others.
    Update,
    /// They were given up.
    Reap,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the cluster, which nobody else has.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its tag `role`, or nothing.
    #[serde(default)]
    pub role: String,
    /// All of its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}
