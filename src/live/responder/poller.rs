//! One who follows the servers at a name: what it was told, and what comes next between it and us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::News;
use super::pace::Pace;
use crate::live::message::Question;
use crate::live::zone::{Served, Set};

/// Longest time that a question is held, also if it is held for a second time. nginx would give up after a day
/// (`resolver_timeout`), and ask no other for a day.
pub const HOLD: Duration = Duration::from_secs(11 * 3600);

/// So much longer at each further name of an upstream: nginx does not listen for eleven seconds where it is told that there is
/// nobody, and is not to be deaf at all names at once.
const STAGGER: Duration = Duration::from_secs(30);

/// At the names from here on no longer: there are hardly as many, and the day must not be over.
const LAST_STAGGERED: u32 = 100;

/// nginx asks anew a second after it was told of servers, eleven seconds after it was told that there are none, and repeats a
/// question every five. Whoever has been silent for longer does not count where somebody else goes on.
const LAPSE: Duration = Duration::from_secs(3);
const LAPSE_OF_FREED: Duration = Duration::from_secs(13);
const LAPSE_OF_ASKED: Duration = Duration::from_secs(11);

/// From the last answer until nginx uses the servers, unless the machine is very busy.
const USE: Duration = Duration::from_millis(10);

/// The same where it may still ask for the addresses of newcomers.
const USE_OF_NEWCOMERS: Duration = Duration::from_millis(20);

/// The same where answers for addresses wait until it has read those before.
const USE_OF_MANY: Duration = Duration::from_secs(1);

/// A worker of nginx's that follows the servers at one name: where it asks from, and what for.
pub type Key = (SocketAddr, String);

/// What is known of one.
#[derive(Debug)]
pub struct Poller {
    /// Its place in the order in which they came.
    pub came: u64,
    /// When it last asked.
    pub asked: Instant,
    /// What it has, as far as is known.
    pub told: Option<Arc<Set>>,
    /// It has taken in something, for sure.
    pub heard: bool,
    pub state: State,
}

/// What comes next between a poller and us.
#[derive(Debug)]
pub enum State {
    /// The answer.
    Held { question: Question, since: Instant },
    /// The same question over TCP, with this number, because the answer is long.
    Truncated { id: u16 },
    /// A new question.
    Told {
        /// Of the question that was answered.
        id: u16,
        /// When it was last told something: the servers, or an address. It also asks for those of some servers that it has known
        /// for long (`ngx_resolver_expire`), and uses nothing before it has all.
        last: Instant,
        /// How many newcomers it has not asked for.
        newcomers: usize,
        /// It is known to use what it was told.
        taken: bool,
    },
}

impl State {
    pub fn told(id: u16, newcomers: usize, now: Instant) -> Self {
        Self::Told { id, last: now, newcomers, taken: false }
    }
}

impl Poller {
    pub fn asks_for_newcomers(&self) -> bool {
        matches!(self.state, State::Told { newcomers: 1.., .. })
    }

    /// From when on nginx uses what it was told last, unless that is known already. It asks `from` here.
    pub fn in_use_from(&self, pace: &Pace, from: SocketAddr) -> Option<Instant> {
        let State::Told { last, newcomers, taken: false, .. } = self.state else { return None };
        let lasts = match newcomers {
            _ if !pace.is_empty(from) => USE_OF_MANY,
            0 => USE,
            _ => USE_OF_NEWCOMERS,
        };
        Some(last + lasts)
    }

    /// How long it has been its turn.
    pub fn silent(&self, now: Instant) -> Duration {
        let since = if let State::Told { last, .. } = self.state { last } else { self.asked };
        now.saturating_duration_since(since)
    }

    /// Whether it has been silent for longer than nginx is.
    pub fn has_lapsed(&self, now: Instant) -> bool {
        let longest = match (&self.state, &self.told) {
            (State::Told { .. }, Some(told)) if told.servers.is_empty() => LAPSE_OF_FREED,
            (State::Told { .. }, _) => LAPSE,
            _ => LAPSE_OF_ASKED,
        };
        self.silent(now) >= longest
    }

    /// What it shows to have become of what it was told.
    pub fn news(&self, part: &str) -> Option<News> {
        let (name, version) = (part.to_owned(), self.told.as_ref()?.version);
        match self.state {
            State::Held { .. } => Some(News::Heard { name, version }),
            State::Told { taken: true, .. } if self.heard => Some(News::Taken { name, version }),
            _ => None,
        }
    }

    /// It uses what it was told, and that is news of nginx if it counts. Where others have `asked_again`, one that has not may be
    /// anybody.
    pub fn use_it(
        &mut self,
        key: &Key,
        newest: &BTreeMap<String, SocketAddr>,
        asked_again: &BTreeSet<String>,
    ) -> Option<News> {
        let State::Told { taken, .. } = &mut self.state else { return None };
        let told = self.told.as_ref().filter(|_| !std::mem::replace(taken, true));
        let version = told.filter(|_| is_newest(key, newest))?.version;
        let name = key.1.clone();
        let is_sure = self.heard || !asked_again.contains(&name);
        Some(if is_sure { News::Taken { name, version } } else { News::Told { name } })
    }
}

/// Until when a question is held at most.
pub fn held_until(part: &str, since: Instant) -> Instant {
    let at = part.split_once('.').and_then(|(at, _)| at.parse::<u32>().ok()).unwrap_or_default();
    since + HOLD + STAGGER * at.min(LAST_STAGGERED)
}

/// How many servers of this set whoever was told that one does not know.
pub fn newcomers(told: Option<&Set>, set: &Set) -> usize {
    let Some(told) = told else { return set.servers.len() };
    let knows = |served: &&Served| told.servers.binary_search_by_key(&served.address, |known| known.address).is_ok();
    set.servers.len() - set.servers.iter().filter(knows).count()
}

/// Whether no other poller of the name has come later.
pub fn is_newest((source, part): &Key, newest: &BTreeMap<String, SocketAddr>) -> bool {
    newest.get(part).is_none_or(|last| last == source)
}
