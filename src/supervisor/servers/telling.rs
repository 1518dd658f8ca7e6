//! Servers that come and go without a reload: what nginx follows is told at once, and only the rest waits for
//! one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Servers;
use crate::live::responder::News;
use crate::live::zone::Zone;
use crate::live::{self, Why};
use crate::log::{self, Level};
use crate::ordered::InOrder;
use crate::peers::{Peer, PeerAddress};
use crate::reload::candidate::{Candidate, Ipv6, log_notes};
use crate::reload::state::Answers;
use crate::slots;
use crate::upstream::{Lookup, Name};

/// Least time between two tellings, and how much longer than the last one took: a storm of changes must not be
/// all that nginit does.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_FACTOR: u32 = 2;

impl Servers {
    /// Tells nginx what has changed, unless that was done just now. A reload may be under way or not.
    pub fn tell_if_due(&mut self, now: Instant, idle: bool) {
        if self.told != self.membership.changes() && self.tell_at.is_none_or(|at| at <= now) {
            self.tell(now, idle);
        }
    }

    /// Tells nginx of all servers that it follows.
    pub fn tell(&mut self, now: Instant, idle: bool) {
        self.told = self.membership.changes();
        // Of what was live before, nothing is known but what nginx was told then: that stays.
        if self.live.is_none() {
            return;
        }
        let everything = self.arrange(now);
        // A candidate that is under way was made from what was known before.
        if everything && idle && self.membership.is_ahead() {
            self.membership.told(&self.peers, now);
            self.keep();
        }
        self.following.tell(&self.peers, now);
        self.tell_at = Some(now + PAUSE.max(PAUSE_FACTOR * now.elapsed()));
    }

    /// Has servers come and go where nginx follows them. Says whether that is all that has changed.
    fn arrange(&mut self, now: Instant) -> bool {
        let Some(live) = self.live.clone() else { return true };
        // What templates of the operator's make of servers is seen only when they are rendered.
        if !live.templates.is_empty() || self.following.groups().is_empty() {
            return false;
        }
        let settings = &live.inputs.settings;
        let members = self.membership.members();
        let upstreams = members.merge(&settings.upstreams);
        let (peers, notes) = members.peers(&upstreams, &members.resolved);
        let (mut peers, _) = slots::place_all(&self.slots, &upstreams, peers);
        let lookups = upstreams.values().flat_map(|upstream| &upstream.servers);
        let lookups = lookups.filter_map(|server| Lookup::of(&server.address)).into_set();
        // New names are looked up for a candidate, and old ones are given up with one.
        let mut everything = lookups.iter().eq(members.resolved.keys());
        let ipv6 = Ipv6::of_kernel();
        let mut changed = Vec::new();
        for (name, upstream) in &upstreams {
            let Some(new) = peers.remove(name) else { continue };
            let old = self.peers.get(name).map_or(&[][..], Vec::as_slice);
            if new == old {
                continue;
            }
            let before = self.following.groups().get(name);
            let mut lookups = upstream.servers.iter().filter_map(|server| Lookup::of(&server.address));
            let is_known =
                lookups.all(|lookup| members.resolved.contains_key(&lookup)) && statics(old) == statics(&new);
            let listens = |at: usize| self.following.listens(name, at);
            let ability = self.runs.ability(settings, ipv6, name);
            let group = live::arrange(before, upstream, &new, ability, &listens).ok().filter(|_| is_known);
            match group.filter(|group| before.is_some_and(|before| group.has_shape_of(before))) {
                Some(group) => changed.push((name.clone(), group, new)),
                None => everything = false,
            }
        }
        for (name, group, new) in changed {
            say(&name, self.peers.get(&name).map_or(&[][..], Vec::as_slice), &new);
            self.following.arrange(&name, group);
            self.membership.remember_one(&name, &new, now);
            self.peers.insert(name, new);
            self.tellings += 1;
        }
        log_notes(notes.iter().filter(|note| !self.said.contains(note)));
        self.said.extend(notes.into_iter().filter(|note| !self.said.contains(note)).collect::<Vec<_>>());
        everything
    }

    /// Has newcomers of a candidate stand where nginx listens now, which was not known when it was made.
    pub fn place_newcomers(&self, candidate: &mut Candidate) {
        let settings = &candidate.read.inputs.settings;
        let ipv6 = Ipv6::of_kernel();
        for (name, group) in &mut candidate.groups {
            let before = self.following.groups().get(name).filter(|before| before.has_shape_of(group));
            let Some((before, upstream)) = before.zip(settings.upstreams.get(name)) else { continue };
            let peers = candidate.peers.get(name).map_or(&[][..], Vec::as_slice);
            let (ability, listens) = (self.runs.ability(settings, ipv6, name), |at| self.following.listens(name, at));
            let placed = live::arrange(Some(before), upstream, peers, ability, &listens);
            if let Some(placed) = placed.ok().filter(|placed| placed.has_shape_of(group)) {
                *group = placed;
            }
        }
    }

    /// nginx is about to read this candidate.
    pub fn prepare(&mut self, candidate: &Candidate) {
        self.following.prepare(&candidate.groups, &candidate.peers, &self.peers, Instant::now());
    }

    /// nginx reads nothing else after all.
    pub fn dismiss(&mut self) {
        self.following.dismiss(Instant::now());
    }

    /// Keeps what nginx is told for a start with the last good set, once it has answered.
    pub fn keep_answers(&mut self, answers: Answers) {
        self.answers = Some(answers);
    }

    /// nginx starts with what was live before: all that is known of it is what nginx was told then, where that is kept.
    pub fn recall(&mut self) {
        let zone = self.answers.as_ref().and_then(Answers::read).unwrap_or_default();
        self.following.recall(zone, Instant::now());
        (self.live, self.has_answered) = (None, false);
        self.peers.clear();
    }

    /// nginx has answered, so what it is told is good for another start.
    pub fn has_answered(&mut self) {
        self.has_answered = true;
    }

    /// What is to be told, if it has become something else.
    pub fn take_zone(&mut self) -> Option<Arc<Zone>> {
        let zone = self.following.take_zone();
        self.unkept |= zone.is_some();
        zone
    }

    /// Keeps what nginx is told, if that is to be kept and has changed.
    pub fn write_answers(&mut self, now: Instant) {
        if let Some(answers) = self.answers.as_mut().filter(|_| self.unkept && self.has_answered) {
            if self.following.is_between() {
                return;
            }
            self.unkept = !answers.write(self.following.zone(), now);
        }
    }

    /// The same, for a start that comes.
    pub fn write_last_answers(&mut self) {
        let due = self.answers.as_ref().and_then(Answers::deadline);
        self.write_answers(due.unwrap_or_else(Instant::now));
    }

    /// nginx has something to tell of what it was told.
    pub fn on_news(&mut self, news: &News) {
        self.following.on_news(news, Instant::now());
    }

    /// Whether nginx has taken in all that it was told.
    pub fn is_taken(&self) -> bool {
        self.following.is_taken()
    }

    /// nginx does not ask: from now on, it reloads. Says whether that was so. Until it has read what it is to read, it cannot
    /// ask.
    pub fn give_up_if_late(&mut self, now: Instant, has_read: bool) -> bool {
        if !has_read {
            self.following.excuse(now);
        }
        let late = self.following.late(now);
        if late.is_empty() {
            return false;
        }
        let names: Vec<String> = late.iter().map(Name::upstream).collect();
        let text = format!(
            "nginx has not taken in the servers of {}, as if it could not ask nginit: until somebody asks for a reload, \
             it reloads for each change of servers there",
            names.join(", ")
        );
        log::line(Level::Error, "live", &text);
        self.runs.unasked.extend(late);
        true
    }

    /// Why changes of an upstream's servers reload nginx, if they do.
    pub fn why_reload(&self, name: &Name) -> Option<Why> {
        self.following.why_not(name)
    }

    /// How many upstreams nginx follows, and how often it was told of changes.
    pub fn followed(&self) -> (usize, u64) {
        (self.following.groups().len(), self.tellings)
    }
}

/// The peers that nginx has to read of: what is not told at a name, with all that there is to it.
fn statics(peers: &[Peer]) -> Vec<&Peer> {
    peers.iter().filter(|peer| matches!(peer.address, PeerAddress::Unix(_))).collect()
}

/// Says what comes and goes.
fn say(name: &Name, old: &[Peer], new: &[Peer]) {
    let takers = |peers: &[Peer]| {
        let takers = peers.iter().filter(|peer| peer.takes_requests());
        takers.map(|peer| (peer.address.clone(), peer.params.to_list())).into_map()
    };
    let (old, new) = (takers(old), takers(new));
    let added = new.keys().filter(|address| !old.contains_key(*address)).count();
    let removed = old.keys().filter(|address| !new.contains_key(*address)).count();
    let text = format!("{} follows: servers={} added={added} removed={removed}", name.upstream(), new.len());
    log::line(Level::Info, "live", &text);
}
