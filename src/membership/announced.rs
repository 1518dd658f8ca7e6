//! Servers that announce themselves, each for as long as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Snapshot;
use crate::ordered::InOrder;
use crate::upstream::{Address, Name, Params, Server};

/// Most servers that may announce themselves: whoever may do so could otherwise fill the memory.
pub const MOST: usize = 10_000;

/// Later than this, nginit itself did not run meanwhile (a suspended machine, a container that was paused), so
/// that nobody could announce anything.
const LATE: Duration = Duration::from_secs(2);

/// All of them.
#[derive(Debug, Default)]
pub struct Announced {
    all: BTreeMap<(Name, Address), Announcement>,
    /// When each of them runs out: the loop asks for the first one after every message.
    ends: BTreeSet<(Instant, Name, Address)>,
}

/// One that announced itself.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// How it takes part.
    pub params: Params,
    /// How long each of its announcements holds.
    pub ttl: Duration,
    /// When the last one has run out.
    pub expires: Instant,
}

impl Announced {
    /// The announcement of this server.
    pub fn get(&self, name: &Name, address: &Address) -> Option<&Announcement> {
        self.all.get(&(name.clone(), address.clone()))
    }

    /// All, by upstream and address.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Address, &Announcement)> {
        self.all.iter().map(|((name, address), announcement)| (name, address, announcement))
    }

    /// Takes one in; says whether it is another one than before, or nothing where there are too many others.
    pub(super) fn announce(&mut self, name: &Name, server: &Server, ttl: Duration, now: Instant) -> Option<bool> {
        let key = (name.clone(), server.address.clone());
        if self.all.len() >= MOST && !self.all.contains_key(&key) {
            return None;
        }
        let expires = now + ttl;
        self.ends.insert((expires, key.0.clone(), key.1.clone()));
        let before = self.all.insert(key.clone(), Announcement { params: server.params, ttl, expires });
        if let Some(before) = before.as_ref().filter(|before| before.expires != expires) {
            self.ends.remove(&(before.expires, key.0, key.1));
        }
        Some(before.is_none_or(|before| before.params != server.params))
    }

    /// Forgets one; false where there is none.
    pub(super) fn withdraw(&mut self, name: &Name, address: &Address) -> bool {
        let key = (name.clone(), address.clone());
        let Some(gone) = self.all.remove(&key) else { return false };
        self.ends.remove(&(gone.expires, key.0, key.1))
    }

    /// When the next one runs out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ends.first().map(|(expires, ..)| *expires)
    }

    /// Forgets what has run out; says whether there was any. If that comes to light much too late, all get the
    /// time that was lost.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let Some(late) = self.deadline().and_then(|deadline| now.checked_duration_since(deadline)) else {
            return false;
        };
        if late >= LATE {
            self.all.values_mut().for_each(|announcement| announcement.expires += late + LATE);
            let ends = std::mem::take(&mut self.ends).into_iter();
            self.ends = ends.map(|(expires, name, address)| (expires + late + LATE, name, address)).into_set();
            return false;
        }
        let before = self.all.len();
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            if let Some((_, name, address)) = self.ends.pop_first() {
                self.all.remove(&(name, address));
            }
        }
        self.all.len() != before
    }

    /// The servers, by address.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for (name, address, announcement) in self.iter() {
            let server = Server { address: address.clone(), params: announcement.params };
            snapshot.entry(name.clone()).or_default().push(server);
        }
        snapshot
    }
}
