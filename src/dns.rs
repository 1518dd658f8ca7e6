//! Host names and services to addresses, as the system finds them: `/etc/hosts`, then the servers of
//! `/etc/resolv.conf`, both read anew when they change.
//!
//! nginx never looks a name up itself: one name that does not resolve would stop the whole proxy.
//! Once, and under a deadline, before a configuration is made; then again and again, as often as the
//! answers say. That an answer is missing and that it says "there is nobody" are two things here, which
//! the system's own call does not tell apart; nor does it tell how long an answer is good for.
//!
//! What an answer means for the servers of an upstream is decided elsewhere.

mod ask;
mod config;
mod follow;
mod hosts;
mod lookup;
pub mod message;
mod rhythm;
mod system;

pub use follow::{Followed, follow};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use crate::membership::names::Outcome;
use crate::upstream::Lookup;
use lookup::{Last, Resolver};
use rhythm::Rhythm;
use system::System;

/// Longest wait for all names together. A silent server has five seconds; one round of that is enough
/// to tell.
const DEADLINE: Duration = Duration::from_secs(6);

/// Most look-ups at a time before a configuration is made: each takes some kilobytes.
const SIDE_BY_SIDE: usize = 100;

/// What became of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// When to ask next, from now.
    pub again: Duration,
}

/// Looks all of them up, side by side, in six seconds at most. It has a runtime of its own, so it must
/// not be called within one.
pub fn look_up_all(lookups: BTreeSet<Lookup>, ipv6: bool) -> BTreeMap<Lookup, Answer> {
    let failed = |reason: String| {
        let outcome = Outcome::Failed(reason);
        let again = Rhythm::default().again(&outcome, Duration::ZERO, None, ask::random());
        Answer { outcome, again }
    };
    let mut answers: BTreeMap<Lookup, Answer> = BTreeMap::new();
    let mut why = "no answer in time".to_owned();
    if !lookups.is_empty() {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(look_up_until(&lookups, ipv6, &mut answers)),
            Err(err) => why = format!("looking names up: {err}"),
        }
    }
    for lookup in lookups {
        answers.entry(lookup).or_insert_with(|| failed(why.clone()));
    }
    answers
}

async fn look_up_until(lookups: &BTreeSet<Lookup>, ipv6: bool, answers: &mut BTreeMap<Lookup, Answer>) {
    let deadline = Instant::now() + DEADLINE;
    let resolver = Arc::new(Resolver::new(System::default(), ipv6, Duration::ZERO));
    let mut waiting = lookups.iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < SIDE_BY_SIDE
            && let Some(lookup) = waiting.next()
        {
            let (resolver, lookup) = (Arc::clone(&resolver), lookup.clone());
            running.spawn(async move {
                let (outcome, life) = resolver.look_up(&lookup, &mut Last::default()).await;
                let again = Rhythm::default().again(&outcome, life, None, ask::random());
                (lookup, Answer { outcome, again })
            });
        }
        let Ok(Some(done)) = timeout_at(deadline, running.join_next()).await else { return };
        answers.extend(done.ok());
    }
}
