//! Names looked up again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::ask::random;
use super::lookup::{Last, Resolver};
use super::rhythm::{self, Rhythm};
use super::system::System;
use super::{Answer, Outcome};
use crate::ordered::InOrder;
use crate::upstream::Lookup;

/// Whoever wants a name followed has looked it up just now.
const FIRST: Duration = Duration::from_secs(1);

/// From one look-up to the next, of whatever name: fifty a second. A thousand names of Docker, each
/// of which is good for a second, then take turns of twenty seconds.
const GAP: Duration = Duration::from_millis(20);

/// Most look-ups at a time.
const AT_A_TIME: usize = 100;

/// A name to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// What is looked up.
    pub lookup: Lookup,
    /// How often; nothing goes by what DNS says.
    pub interval: Option<Duration>,
}

/// A look-up that is over.
struct Done {
    lookup: Lookup,
    run: u64,
    outcome: Outcome,
    life: Duration,
    last: Last,
}

/// A name that is followed.
struct State {
    interval: Option<Duration>,
    rhythm: Rhythm,
    next: Next,
}

enum Next {
    /// It is looked up then.
    At(Instant, Last),
    /// It is looked up now, in the run with this number.
    Running(u64, AbortHandle),
}

/// Follows names until its future is dropped, or `tell` says false, which must not block. `names` is
/// the present set, whole; whatever changes in it counts at once. Every answer is told, also one that
/// is like the one before.
pub async fn follow(names: Receiver<Arc<[Followed]>>, ipv6: bool, tell: impl Fn(Lookup, Answer) -> bool) {
    follow_on(System::default(), names, ipv6, tell).await;
}

pub(super) async fn follow_on(
    system: System,
    mut names: Receiver<Arc<[Followed]>>,
    ipv6: bool,
    tell: impl Fn(Lookup, Answer) -> bool,
) {
    let mut follower = Follower {
        resolver: Arc::new(Resolver::new(system, ipv6, GAP)),
        states: BTreeMap::new(),
        queue: BTreeSet::new(),
        running: JoinSet::new(),
        runs: 0,
    };
    let set = Arc::clone(&names.borrow_and_update());
    follower.set(&set);
    let mut is_open = true;
    loop {
        let due = follower.due();
        tokio::select! {
            changed = names.changed(), if is_open => {
                // Nobody is left who could change the set: it stays.
                is_open = changed.is_ok();
                let set = Arc::clone(&names.borrow_and_update());
                follower.set(&set);
            }
            Some(done) = follower.running.join_next() => {
                let done = match done {
                    Ok(done) => done,
                    Err(err) if err.is_panic() => std::panic::resume_unwind(err.into_panic()),
                    Err(_) => continue,
                };
                if let Some((lookup, answer)) = follower.done(done)
                    && !tell(lookup, answer)
                {
                    return;
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => follower.start(),
        }
    }
}

/// A name of two upstreams is looked up as often as the more eager one wants. What DNS says is never
/// longer than half a minute.
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other).filter(|time| *time < rhythm::LONGEST),
    }
}

struct Follower {
    resolver: Arc<Resolver>,
    states: BTreeMap<Lookup, State>,
    /// Those that wait.
    queue: BTreeSet<(Instant, Lookup)>,
    running: JoinSet<Done>,
    runs: u64,
}

impl Follower {
    /// Takes the present set.
    fn set(&mut self, names: &[Followed]) {
        let now = Instant::now();
        let mut wanted: BTreeMap<&Lookup, Option<Duration>> = BTreeMap::new();
        for name in names {
            wanted
                .entry(&name.lookup)
                .and_modify(|known| *known = shorter(*known, name.interval))
                .or_insert(name.interval);
        }
        self.states.retain(|lookup, state| {
            let is_wanted = wanted.contains_key(lookup);
            if !is_wanted && let Next::Running(_, abort) = &state.next {
                abort.abort();
            }
            is_wanted
        });
        for (lookup, interval) in wanted {
            let fresh = || State { interval, rhythm: Rhythm::default(), next: Next::At(now + FIRST, Last::default()) };
            let state = self.states.entry(lookup.clone()).or_insert_with(fresh);
            state.interval = interval;
            if let (Next::At(at, _), Some(interval)) = (&mut state.next, interval) {
                *at = (*at).min(now + interval);
            }
        }
        let waits = |(lookup, state): (&Lookup, &State)| match state.next {
            Next::At(at, _) => Some((at, lookup.clone())),
            Next::Running(..) => None,
        };
        self.queue = self.states.iter().filter_map(waits).into_set();
    }

    /// When the next one is to be started, if one can be.
    fn due(&self) -> Option<Instant> {
        let (at, _) = self.queue.first()?;
        (self.running.len() < AT_A_TIME).then_some(*at)
    }

    /// Starts the first one that waits.
    fn start(&mut self) {
        let Some((_, lookup)) = self.queue.pop_first() else { return };
        let Some(state) = self.states.get_mut(&lookup) else { return };
        let Next::At(_, last) = &mut state.next else { return };
        let mut last = std::mem::take(last);
        self.runs += 1;
        let (run, resolver) = (self.runs, Arc::clone(&self.resolver));
        let abort = self.running.spawn(async move {
            let (outcome, life) = resolver.look_up(&lookup, &mut last).await;
            Done { lookup, run, outcome, life, last }
        });
        state.next = Next::Running(run, abort);
    }

    /// Takes what came of a look-up, if anybody still wants it.
    fn done(&mut self, done: Done) -> Option<(Lookup, Answer)> {
        let state = self.states.get_mut(&done.lookup)?;
        let Next::Running(run, _) = state.next else { return None };
        if run != done.run {
            return None;
        }
        let again = state.rhythm.again(&done.outcome, done.life, state.interval, random());
        let at = Instant::now() + again;
        state.next = Next::At(at, done.last);
        self.queue.insert((at, done.lookup.clone()));
        Some((done.lookup, Answer { outcome: done.outcome, again }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_two_upstreams_is_looked_up_for_the_more_eager_one() {
        let secs = |n| Some(Duration::from_secs(n));
        assert_eq!(shorter(secs(9), secs(5)), secs(5));
        assert_eq!((shorter(None, secs(5)), shorter(secs(5), None)), (secs(5), secs(5)));
        assert_eq!((shorter(None, secs(60)), shorter(None, None)), (None, None));
    }
}
