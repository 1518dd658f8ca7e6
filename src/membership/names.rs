//! What is known of names that are followed: when DNS last gave an answer, and what is wrong since.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::upstream::{Lookup, Resolved, Target};

/// So many answers in a row that there is no such name empty it. One alone comes while a DNS server starts
/// anew, and from Docker's while a container does.
const MISSES: u8 = 2;

/// How a look-up ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With these targets: in order, without repeats, at least one.
    Found(Vec<Target>),
    /// A server says that there is no such name, or that nothing of the kind belongs to it.
    NoSuchName,
    /// Nobody says anything that can be used, for this reason, one line.
    Failed(String),
}

/// What is known of every name.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<Lookup, Known>);

/// What is known of one name.
#[derive(Debug, Default)]
pub struct Known {
    /// When DNS last said where it leads.
    pub good: Option<Instant>,
    /// What is wrong with the last answer, and since when something is.
    pub error: Option<(String, Instant)>,
    misses: u8,
}

impl Known {
    /// Something is wrong, be it still or from now on.
    fn fails(&mut self, reason: String, now: Instant) {
        let since = self.error.as_ref().map_or(now, |(_, since)| *since);
        self.error = Some((reason, since));
    }
}

/// What an answer means.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Where the name leads from now on, if that is new.
    pub targets: Option<Vec<Target>>,
    /// What is worth a line of the log.
    pub news: Option<String>,
}

impl Names {
    /// What is known of one.
    pub fn get(&self, lookup: &Lookup) -> Option<&Known> {
        self.0.get(lookup)
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, resolved: &Resolved) {
        self.0.retain(|lookup, _| resolved.contains_key(lookup));
    }

    /// A candidate knows the name, and whether it leads anywhere.
    pub(super) fn know(&mut self, lookup: &Lookup, found: bool, now: Instant) {
        let known = self.0.entry(lookup.clone()).or_default();
        if found {
            // What it kept of an earlier answer may stand here too, so what is wrong stays.
            known.good.get_or_insert(now);
        } else {
            known.error.get_or_insert_with(|| ("it leads nowhere".to_owned(), now));
        }
    }

    /// Takes in an answer for a name that led to `before`.
    pub(super) fn hear(&mut self, lookup: &Lookup, before: &[Target], outcome: Outcome, now: Instant) -> Heard {
        let known = self.0.entry(lookup.clone()).or_default();
        match outcome {
            Outcome::Found(targets) => {
                known.misses = 0;
                known.good = Some(now);
                let recovered = known.error.take().is_some();
                if targets != before {
                    let news = format!("\"{lookup}\" leads to {}", shown(&targets));
                    return Heard { targets: Some(targets), news: Some(news) };
                }
                let news = recovered.then(|| format!("\"{lookup}\" leads to the same addresses as before"));
                Heard { targets: None, news }
            }
            Outcome::NoSuchName => {
                known.misses = known.misses.saturating_add(1);
                known.fails("there is no such name".to_owned(), now);
                if known.misses < MISSES || before.is_empty() {
                    return Heard::default();
                }
                let news = format!("\"{lookup}\" leads nowhere any more: there is no such name");
                Heard { targets: Some(Vec::new()), news: Some(news) }
            }
            Outcome::Failed(reason) => {
                known.misses = 0;
                let first = known.error.is_none();
                let news =
                    (first && !before.is_empty()).then(|| format!("\"{lookup}\" keeps its last addresses: {reason}"));
                known.fails(reason, now);
                Heard { targets: None, news }
            }
        }
    }
}

/// Most addresses that a line of the log names.
const MOST_SHOWN: usize = 8;

fn shown(targets: &[Target]) -> String {
    let one = |target: &Target| {
        target.srv.map_or_else(
            || target.ip.to_string(),
            |srv| std::net::SocketAddr::new(target.ip, srv.port.get()).to_string(),
        )
    };
    let mut all: Vec<String> = targets.iter().take(MOST_SHOWN).map(one).collect();
    if targets.len() > MOST_SHOWN {
        all.push(format!("and {} more", targets.len() - MOST_SHOWN));
    }
    all.join(" ")
}
