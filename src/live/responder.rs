//! When which question is answered, and with what: a state machine of questions, zones and the time.
//!
//! nginx asks for the servers at a name, takes in what it is told, and asks again a second later
//! (`ngx_http_upstream_zone_resolve_handler`). So an answer is held back until it is another one than the last.
//! Meanwhile nginx sends its question again every five seconds (`ngx_resolver.c`), with the same number; a question
//! with another number is a new one.
//!
//! A list of nginx's becomes empty only where a name has lost its last server. Where nothing is known, there is no
//! answer.

mod pace;
mod poller;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::{Kind, LONGEST_OVER_TCP, LONGEST_OVER_UDP, Question, Subject, Sure};
use super::zone::{Set, Zone, label_of};
use pace::Pace;
use poller::{Key, Poller, State, held_until, is_newest, newcomers};

/// Longest time that a request waits for servers, once and then again: longer in all than it takes nginx to repeat a question
/// that got lost. nginx gives up after four seconds.
const GATE_HOLD: Duration = Duration::from_millis(3500);

/// Whoever has been silent for so long is forgotten. nginx is not for so long.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How often it is looked who counts, where several ask for the same name.
const LOOK: Duration = Duration::from_secs(1);

/// Most pollers that are known at a time, or so many for each name, where that is more.
const MOST_POLLERS: usize = 4096;
const MOST_FOR_A_NAME: usize = 8;

/// Most of them that ask for names that are not there, or not yet.
const MOST_EARLY: usize = 256;

/// Most gates that are held at a time. Each is a worker's question for an upstream, whose requests wait.
const MOST_GATES: usize = 1024;

/// So many newcomers make other lists wait, because nginx asks for the address of each at once.
const BURST: usize = 20;

/// Longest time that they make them wait.
const BURST_LASTS: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// The one at this address.
    Udp(SocketAddr),
    /// The one at the other end of this connection.
    Tcp(u64),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this answer.
    Answer(Asker, Vec<u8>),
    /// Send this list of servers.
    Tell(Asker, Vec<u8>),
    /// Send this refusal.
    Refuse(Asker, Vec<u8>),
    /// Nothing: it was no question.
    Ignore,
    /// Say what has become of what nginx was told.
    Report(News),
}

/// What nginx shows to have become of what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It uses this version of the servers at a name.
    Taken {
        /// Without the suffix: `0.dynamic`.
        name: String,
        /// See [`super::zone::Set::version`].
        version: u64,
    },
    /// A new worker may have been told at a name, or somebody else: until it asks again, it does not listen there, and nothing is
    /// known of what it uses.
    Told {
        /// As above.
        name: String,
    },
    /// It does, and asks again, so that it would hear of another one at once.
    Heard {
        /// As above.
        name: String,
        /// As above.
        version: u64,
    },
}

/// A question by which requests wait for servers.
#[derive(Debug)]
struct Gate {
    label: String,
    sure: Sure,
    question: Question,
    from: Asker,
    since: Instant,
}

/// Answers what is asked about a zone.
#[derive(Debug)]
pub struct Responder {
    zone: Arc<Zone>,
    pollers: BTreeMap<Key, Poller>,
    /// How many have come.
    came: u64,
    /// How many of those that are known ask for names that are not there.
    early: usize,
    /// Where the last poller of each name asks from that goes on asking: what nginx does is what that does. Others are of
    /// workers that have ended, or are about to, or somebody who asks once.
    newest: BTreeMap<String, SocketAddr>,
    /// The names at which somebody has asked again: whoever is new there may be no worker.
    asked_again: BTreeSet<String>,
    /// When it was last looked who that is.
    looked: Option<Instant>,
    gates: Vec<Gate>,
    pace: Pace,
    /// The poller that has been told of many newcomers, and until when others wait for it.
    burst: Option<(Key, Instant)>,
    actions: Vec<Action>,
}

impl Responder {
    /// One that knows nobody yet.
    pub fn new(zone: Arc<Zone>) -> Self {
        Self {
            zone,
            pollers: BTreeMap::new(),
            came: 0,
            early: 0,
            newest: BTreeMap::new(),
            asked_again: BTreeSet::new(),
            looked: None,
            gates: Vec::new(),
            pace: Pace::default(),
            burst: None,
            actions: Vec::new(),
        }
    }

    /// A message has come.
    pub fn on_question(&mut self, bytes: &[u8], from: Asker, now: Instant) -> Vec<Action> {
        match Question::read(bytes) {
            Some(question) => self.answer(question, from, now),
            None => self.actions.push(Action::Ignore),
        }
        std::mem::take(&mut self.actions)
    }

    /// The servers are others.
    pub fn on_zone(&mut self, zone: Arc<Zone>, now: Instant) -> Vec<Action> {
        self.zone = zone;
        self.early = self.pollers.keys().filter(|key| self.zone.get(&key.1).is_none()).count();
        self.tell_all(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let burst = self.burst.as_ref().map(|(_, until)| *until);
        let pollers = self.pollers.iter().filter_map(|(key, poller)| match &poller.state {
            State::Held { since, .. } => Some(held_until(&key.1, *since).max(burst.unwrap_or(*since))),
            State::Told { taken: false, .. } => poller.in_use_from(&self.pace, key.0),
            _ => None,
        });
        let gates = self.gates.iter().map(|gate| gate.since + GATE_HOLD);
        let look = self.looked.filter(|_| self.pollers.len() > self.newest.len()).map(|looked| looked + LOOK);
        pollers.chain(gates).chain(burst).chain(look).min()
    }

    /// Time has passed.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Action> {
        if self.looked.is_none_or(|looked| looked + LOOK <= now) {
            self.look(now);
        }
        self.end_burst(now);
        let pace = &self.pace;
        let is_used = |key: &Key, poller: &Poller| poller.in_use_from(pace, key.0).is_some_and(|at| at <= now);
        for (key, poller) in self.pollers.iter_mut().filter(|(key, poller)| is_used(key, poller)) {
            let news = poller.use_it(key, &self.newest, &self.asked_again);
            self.actions.extend(news.map(Action::Report));
        }
        self.tell_all(now);
        self.open_gates(now);
        std::mem::take(&mut self.actions)
    }

    /// Sees who is gone, and who counts instead.
    fn look(&mut self, now: Instant) {
        self.looked = Some(now);
        let mut next: BTreeMap<&str, (u8, u64, SocketAddr)> = BTreeMap::new();
        for ((source, part), poller) in &self.pollers {
            // nginx repeats no question while its clock is behind.
            let rank = match poller.state {
                _ if !poller.has_lapsed(now) => 2,
                State::Held { .. } => 1,
                _ => continue,
            };
            let best = next.entry(part).or_insert((rank, poller.came, *source));
            *best = (*best).max((rank, poller.came, *source));
        }
        let next = next.into_iter().filter(|(part, (_, _, source))| self.newest.get(*part) != Some(source));
        let next: Vec<Key> = next.map(|(part, (_, _, source))| (source, part.to_owned())).collect();
        for key in next {
            let news = self.pollers.get(&key).and_then(|poller| poller.news(&key.1));
            self.newest.insert(key.1, key.0);
            self.actions.extend(news.map(Action::Report));
        }
        let (zone, newest) = (&self.zone, &self.newest);
        let is_waited_for = |key: &Key, poller: &Poller| {
            matches!(poller.state, State::Held { .. }) && is_newest(key, newest) && zone.get(&key.1).is_some()
        };
        self.pollers.retain(|key, poller| poller.silent(now) < FORGOTTEN || is_waited_for(key, poller));
        self.early = self.pollers.keys().filter(|key| zone.get(&key.1).is_none()).count();
        self.newest.retain(|part, source| self.pollers.contains_key(&(*source, part.clone())));
    }

    /// How many pollers and requests are remembered.
    pub fn remembered(&self) -> usize {
        self.pollers.len() + self.gates.len()
    }

    fn answer(&mut self, question: Question, from: Asker, now: Instant) {
        let answer = match (question.subject(), question.kind(), from) {
            (Some(Subject::Servers(part)), Kind::Srv, Asker::Udp(source)) => {
                return self.ask((source, part), question, now);
            }
            (Some(Subject::Servers(part)), Kind::Srv, Asker::Tcp(_)) => {
                return self.tell_over_tcp(&part, &question, from, now);
            }
            (Some(Subject::Servers(part)), ..) if self.zone.get(&part).is_some() => question.empty(),
            (Some(Subject::Gate(label, sure)), Kind::A, _) if self.zone.has(&label) => {
                return self.hold_gate(Gate { label, sure, question, from, since: now });
            }
            (Some(Subject::Gate(label, _)), ..) if self.zone.has(&label) => question.empty(),
            (Some(Subject::Gate(..)), ..) => question.no_such_name(),
            (Some(Subject::Address(address)), kind, Asker::Udp(to)) => {
                self.is_taking_in(to, kind == Kind::A, now);
                let answer = self.pace.take(to, question, address.ip(), now);
                answer.into_iter().for_each(|bytes| self.actions.push(Action::Answer(from, bytes)));
                return;
            }
            (Some(Subject::Address(address)), ..) => {
                let more = self.pace.asked_over_tcp(&question);
                more.first().map(|(to, _)| *to).into_iter().for_each(|to| self.is_taking_in(to, false, now));
                self.actions.extend(more.into_iter().map(|(to, bytes)| Action::Answer(Asker::Udp(to), bytes)));
                self.end_burst(now);
                question.address(address.ip())
            }
            // Not that there is no such name: nginx would believe it.
            _ => return self.actions.push(Action::Refuse(from, question.refused())),
        };
        self.actions.push(Action::Answer(from, answer));
    }

    /// Whether one more poller is let in.
    fn admit(&mut self, key: &Key) -> bool {
        if self.zone.get(&key.1).is_none() && self.early >= MOST_EARLY {
            return false;
        }
        if self.pollers.len() >= MOST_POLLERS.max(MOST_FOR_A_NAME * self.zone.len()) {
            let oldest = self.pollers.iter().min_by_key(|(_, poller)| poller.asked).map(|(key, _)| key.clone());
            oldest.into_iter().for_each(|key| self.forget(&key));
        }
        true
    }

    fn forget(&mut self, key: &Key) {
        self.pollers.remove(key);
        self.early = self.early.saturating_sub(usize::from(self.zone.get(&key.1).is_none()));
        if self.newest.get(&key.1) == Some(&key.0) {
            self.newest.remove(&key.1);
        }
    }

    /// Takes in the question for the servers at a name.
    fn ask(&mut self, key: Key, question: Question, now: Instant) {
        let (mut since, mut told, mut heard, mut has_news) = (now, None, false, false);
        let came = match self.pollers.remove(&key) {
            None => {
                if self.zone.get(&key.1).is_none() && !is_part(&key.1) {
                    return self.actions.push(Action::Refuse(Asker::Udp(key.0), question.refused()));
                }
                if !self.admit(&key) {
                    // Refused, nginx would not ask again for a day.
                    return self.actions.push(Action::Ignore);
                }
                self.early += usize::from(self.zone.get(&key.1).is_none());
                self.newest.insert(key.1.clone(), key.0);
                self.looked.get_or_insert(now);
                self.came += 1;
                self.came
            }
            Some(mut poller) => {
                self.count_again(&key, &poller, now);
                match &poller.state {
                    State::Held { question: held, since: before } if held.id == question.id => since = *before,
                    // The answer has been lost.
                    State::Told { id, .. } if *id == question.id => poller.told = None,
                    State::Told { .. } => {
                        if poller.told.is_some() {
                            poller.heard = true;
                            self.asked_again.insert(key.1.clone());
                        }
                        let news = poller.use_it(&key, &self.newest, &self.asked_again);
                        self.actions.extend(news.map(Action::Report));
                        let told = poller.told.as_ref().filter(|_| is_newest(&key, &self.newest));
                        if let Some(version) = told.map(|set| set.version) {
                            self.actions.push(Action::Report(News::Heard { name: key.1.clone(), version }));
                        }
                    }
                    _ => {}
                }
                has_news = poller.told.is_some() && matches!(poller.state, State::Told { .. });
                (heard, told) = (poller.heard, poller.told);
                poller.came
            }
        };
        let state = State::Held { question, since };
        self.pollers.insert(key.clone(), Poller { came, asked: now, told, heard, state });
        if has_news {
            self.open_gates(now);
            self.tell_all(now);
        }
        self.tell(&key, now);
    }

    /// One asks again that may have been taken for gone.
    fn count_again(&mut self, key: &Key, poller: &Poller, now: Instant) {
        let counts = self.newest.get(&key.1).and_then(|source| self.pollers.get(&(*source, key.1.clone())));
        let is_newest = self.newest.get(&key.1) == Some(&key.0);
        if !is_newest && counts.is_none_or(|counts| counts.came < poller.came || counts.has_lapsed(now)) {
            self.newest.insert(key.1.clone(), key.0);
            // Of what it was told, it reports itself.
            let news = poller.news(&key.1).filter(|_| matches!(poller.state, State::Held { .. }));
            self.actions.extend(news.map(Action::Report));
        }
    }

    fn tell_all(&mut self, now: Instant) {
        let held = self.pollers.iter().filter(|(_, poller)| matches!(poller.state, State::Held { .. }));
        let held: Vec<Key> = held.map(|(key, _)| key.clone()).collect();
        held.iter().for_each(|key| self.tell(key, now));
    }

    /// Answers what a poller has asked, if it is time to.
    fn tell(&mut self, key: &Key, now: Instant) {
        let set = self.zone.get(&key.1).cloned();
        let empties = |set: &Set| {
            let told = self.pollers.get(key).and_then(|poller| poller.told.as_ref());
            set.servers.is_empty() && told.map_or(set.freed, |told| !told.servers.is_empty())
        };
        let is_too_early = set.as_deref().is_some_and(empties) && !self.has_others(&key.1);
        let Some(poller) = self.pollers.get_mut(key) else { return };
        let State::Held { question, since } = &mut poller.state else { return };
        let over = now >= held_until(&key.1, *since);
        let Some(set) = set else {
            // Nothing can be said of a name that is not there, or not yet.
            if over {
                *since = now;
            }
            return;
        };
        let told_of_nobody = poller.told.as_mut().filter(|told| told.servers.is_empty() && set.servers.is_empty());
        if let Some(told) = told_of_nobody.filter(|told| told.version != set.version) {
            // Who came and went while it did not listen need not be told.
            let (name, version) = (key.1.clone(), set.version);
            *told = Arc::clone(&set);
            self.actions.push(Action::Report(News::Heard { name, version }));
        }
        let news = match &poller.told {
            Some(told) => told.version != set.version,
            // Nobody knows what it has at a name that was not always free.
            None => !set.servers.is_empty() || set.freed,
        };
        if !(news || over) || is_too_early {
            return;
        }
        let newcomers = newcomers(poller.told.as_deref(), &set);
        if self.burst.is_some() && newcomers > BURST {
            return;
        }
        let to = Asker::Udp(key.0);
        let (id, over_udp) = (question.id, question.servers(&set.servers, LONGEST_OVER_UDP));
        let (action, state) = match over_udp {
            _ if set.servers.is_empty() => (Action::Tell(to, question.no_such_name()), State::told(id, 0, now)),
            Some(bytes) => (Action::Tell(to, bytes), State::told(id, newcomers, now)),
            None => (Action::Answer(to, question.truncated()), State::Truncated { id }),
        };
        if matches!(state, State::Told { .. }) {
            poller.told = Some(set);
        }
        poller.state = state;
        self.actions.push(action);
        self.begin_burst(key, newcomers, now);
    }

    /// Whether nginx uses servers of the same upstream at another name, if there are to be any: it is not left without.
    fn has_others(&self, part: &str) -> bool {
        let Some(label) = label_of(part) else { return true };
        let mut others =
            self.zone.iter().filter(|(part, set)| is_of(part, label) && !set.servers.is_empty()).peekable();
        let uses = |(part, set): (&str, &Arc<Set>)| {
            let is_used = |(key, poller): (&Key, &Poller)| {
                key.1 == part
                    && poller.told.as_ref().is_some_and(|told| told.version == set.version)
                    && !matches!(poller.state, State::Told { taken: false, .. })
            };
            self.pollers.iter().any(is_used)
        };
        others.peek().is_none() || others.any(uses)
    }

    /// Answers at once what was too long.
    fn tell_over_tcp(&mut self, part: &str, question: &Question, from: Asker, now: Instant) {
        let asks = |(key, poller): &(&Key, &mut Poller)| {
            key.1 == part && matches!(poller.state, State::Truncated { id } if id == question.id)
        };
        let answer = self.zone.get(part).cloned().and_then(|set| match set.servers[..] {
            // They are gone since the truncated answer.
            [] if set.freed => Some((question.no_such_name(), set)),
            [] => None,
            _ => Some((question.servers(&set.servers, LONGEST_OVER_TCP)?, set)),
        });
        // Whatever else it would be told, nginx would not ask again for a day.
        let Some((bytes, set)) = answer else { return self.actions.push(Action::Ignore) };
        self.actions.push(Action::Tell(from, bytes));
        let Some((key, poller)) = self.pollers.iter_mut().find(asks) else { return };
        let newcomers = newcomers(poller.told.as_deref(), &set);
        let state = State::told(question.id, newcomers, now);
        *poller = Poller { asked: now, told: Some(set), state, ..*poller };
        let key = key.clone();
        self.begin_burst(&key, newcomers, now);
    }

    fn begin_burst(&mut self, key: &Key, newcomers: usize, now: Instant) {
        if newcomers > BURST {
            self.burst = Some((key.clone(), now + BURST_LASTS));
        }
    }

    /// Nobody waits any longer than until all newcomers have been asked for and answered.
    fn end_burst(&mut self, now: Instant) {
        let Some((key, until)) = &self.burst else { return };
        let asks = self.pollers.get(key).is_some_and(|poller| poller.asks_for_newcomers());
        if now >= *until || (!asks && self.pace.is_empty(key.0)) {
            self.burst = None;
            self.tell_all(now);
        }
    }

    /// An address has been asked for from here, `is_newcomer` if it may be that of a newcomer: nginx has yet to use what it was
    /// told.
    fn is_taking_in(&mut self, source: SocketAddr, mut is_newcomer: bool, now: Instant) {
        let all = self.pollers.range_mut((source, String::new())..);
        for (_, poller) in all.take_while(|((from, _), _)| *from == source) {
            let State::Told { newcomers, last, taken, .. } = &mut poller.state else { continue };
            if !*taken {
                *last = now;
            }
            if is_newcomer && *newcomers > 0 {
                *newcomers -= 1;
                is_newcomer = false;
            }
        }
        self.end_burst(now);
    }

    /// Whether nginx has the servers of this upstream, at all names: while it adds some, requests may still meet none.
    fn is_warm(&self, label: &str, sure: Sure) -> bool {
        let used = |poller: &Poller| match (&poller.state, sure) {
            (_, Sure::Quite) => poller.heard,
            (State::Told { taken, .. }, Sure::Nearly) => *taken,
            (_, Sure::Nearly) => poller.told.is_some(),
        };
        let is_used = |part: &str| self.pollers.iter().any(|(key, poller)| key.1 == part && used(poller));
        let full = self.zone.iter().filter(|(part, set)| is_of(part, label) && !set.servers.is_empty());
        let mut full = full.map(|(part, _)| part).peekable();
        full.peek().is_some() && full.all(is_used)
    }

    fn hold_gate(&mut self, gate: Gate) {
        if self.gates.len() >= MOST_GATES || self.is_warm(&gate.label, gate.sure) {
            return self.actions.push(Action::Answer(gate.from, gate.question.no_such_name()));
        }
        self.gates.retain(|other| (other.from, other.question.id) != (gate.from, gate.question.id));
        self.gates.push(gate);
    }

    /// Lets requests go on that need not wait any longer.
    fn open_gates(&mut self, now: Instant) {
        let mut warm: Vec<(String, Sure, bool)> = Vec::new();
        for gate in std::mem::take(&mut self.gates) {
            // Most wait for the same upstream.
            let known = warm.iter().find(|(label, sure, _)| *label == gate.label && *sure == gate.sure);
            let is_warm = known.map(|(_, _, is_warm)| *is_warm).unwrap_or_else(|| {
                let is_warm = self.is_warm(&gate.label, gate.sure);
                warm.push((gate.label.clone(), gate.sure, is_warm));
                is_warm
            });
            if is_warm || now.saturating_duration_since(gate.since) >= GATE_HOLD {
                self.actions.push(Action::Answer(gate.from, gate.question.no_such_name()));
            } else {
                self.gates.push(gate);
            }
        }
    }
}

/// Whether this is a part of the upstream with this label.
fn is_of(part: &str, label: &str) -> bool {
    label_of(part) == Some(label)
}

/// Whether an upstream may come to have such a part.
fn is_part(part: &str) -> bool {
    part.split_once('.')
        .is_some_and(|(at, _)| at.len() <= 5 && at.bytes().all(|b| b.is_ascii_digit()) && !at.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domain::base::iana::Rcode;
    use domain::base::name::{ParsedName, ToLabelIter};
    use domain::base::{Message, Rtype};
    use domain::rdata::Srv;
    use proptest::prelude::*;

    use super::poller::HOLD;
    use super::*;
    use crate::live::message::tests::{A, AAAA, SRV, question};
    use crate::live::zone::Served;

    const NAME: &str = "_http._tcp.0.web.nginit";

    /// What an answer says.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Said {
        Servers(BTreeSet<Served>),
        Address,
        Empty,
        Truncated,
        NoSuchName,
        Refused,
    }

    fn text(name: &impl ToLabelIter) -> String {
        let labels = name.iter_labels().filter(|label| !label.is_root());
        labels.map(|label| String::from_utf8(label.as_slice().to_vec()).unwrap()).collect::<Vec<_>>().join(".")
    }

    fn said(bytes: &[u8]) -> Said {
        let message = Message::from_slice(bytes).unwrap();
        match message.header().rcode() {
            Rcode::REFUSED => return Said::Refused,
            Rcode::NXDOMAIN => return Said::NoSuchName,
            _ if message.header().tc() => return Said::Truncated,
            _ => {}
        }
        let mut servers = BTreeSet::new();
        for record in message.answer().unwrap() {
            let record = record.unwrap();
            match record.rtype() {
                Rtype::SRV => {
                    let srv = record.to_record::<Srv<ParsedName<&[u8]>>>().unwrap().unwrap();
                    let (weight, backup) = (srv.data().weight().try_into().unwrap(), srv.data().priority() > 0);
                    let address: SocketAddr = text(srv.data().target()).parse().unwrap();
                    assert_eq!(address.port(), srv.data().port());
                    servers.insert(Served { address, weight, backup });
                }
                _ => return Said::Address,
            }
        }
        if servers.is_empty() { Said::Empty } else { Said::Servers(servers) }
    }

    fn servers(count: u8) -> Vec<Served> {
        let served = |i| Served { address: ([10, 0, 0, i], 80).into(), weight: 1.try_into().unwrap(), backup: false };
        (0..count).map(served).collect()
    }

    fn zone(version: u64, servers: Vec<Served>) -> Arc<Zone> {
        let freed = servers.is_empty() && version > 1;
        Arc::new(Zone::of([("0.web".to_owned(), Set { version, servers, freed })]))
    }

    /// A responder and a clock that is made up.
    struct Bench {
        responder: Responder,
        start: Instant,
        news: Vec<News>,
    }

    /// Where the worker of nginx's asks from.
    const WORKER: u16 = 5000;

    impl Bench {
        fn new(version: u64, servers: Vec<Served>) -> Self {
            Self { responder: Responder::new(zone(version, servers)), start: Instant::now(), news: Vec::new() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// What is sent, and where to; the rest is noted.
        fn sent(&mut self, actions: Vec<Action>) -> Vec<(Asker, Said)> {
            let mut sent = Vec::new();
            for action in actions {
                match action {
                    Action::Answer(to, bytes) | Action::Tell(to, bytes) | Action::Refuse(to, bytes) => {
                        sent.push((to, said(&bytes)));
                    }
                    Action::Report(news) => self.news.push(news),
                    Action::Ignore => {}
                }
            }
            sent
        }

        fn says(&mut self, actions: Vec<Action>) -> Vec<Said> {
            self.sent(actions).into_iter().map(|(_, said)| said).collect()
        }

        fn ask(&mut self, ms: u64, from: Asker, id: u16, name: &str, rtype: u16) -> Vec<Said> {
            let (bytes, now) = (question(id, name, rtype), self.at(ms));
            let actions = self.responder.on_question(&bytes, from, now);
            self.says(actions)
        }

        /// A worker asks.
        fn asks(&mut self, ms: u64, id: u16, name: &str) -> Vec<Said> {
            self.ask(ms, udp(WORKER), id, name, SRV)
        }

        fn zone(&mut self, ms: u64, zone: Arc<Zone>) -> Vec<Said> {
            let actions = self.responder.on_zone(zone, self.at(ms));
            self.says(actions)
        }

        fn wait(&mut self, ms: u64) -> Vec<Said> {
            let actions = self.responder.on_deadline(self.at(ms));
            self.says(actions)
        }

        fn deadline(&self) -> Option<u128> {
            self.responder.deadline().map(|at| at.saturating_duration_since(self.start).as_millis())
        }
    }

    fn udp(port: u16) -> Asker {
        Asker::Udp(([127, 0, 0, 1], port).into())
    }

    fn taken(version: u64) -> News {
        News::Taken { name: "0.web".to_owned(), version }
    }

    fn heard(version: u64) -> News {
        News::Heard { name: "0.web".to_owned(), version }
    }

    fn told(servers: &[Served]) -> Vec<Said> {
        vec![Said::Servers(servers.iter().copied().collect())]
    }

    #[test]
    fn who_came_and_went_while_nginx_did_not_listen_counts_as_taken() {
        let mut bench = Bench::new(1, servers(1));
        assert_eq!(bench.asks(0, 1, NAME), told(&servers(1)));
        assert_eq!(bench.asks(1000, 2, NAME), []);
        assert_eq!(bench.zone(1100, zone(2, Vec::new())), [Said::NoSuchName]);
        assert_eq!(bench.zone(1200, zone(3, servers(1))), []);
        assert_eq!(bench.zone(1300, zone(4, Vec::new())), []);
        bench.news.clear();
        assert_eq!(bench.asks(12_100, 3, NAME), [], "it has none already");
        assert!(bench.news.contains(&heard(4)), "or it would be waited for in vain: {:?}", bench.news);
        bench.news.clear();
        assert_eq!(bench.asks(17_100, 3, NAME), []);
        assert_eq!(bench.news, [], "said once");
        assert_eq!(bench.zone(20_000, zone(5, servers(2))), told(&servers(2)));
    }

    #[test]
    fn nginx_is_not_refused_a_long_list_that_is_gone_when_it_asks_over_tcp() {
        let mut bench = Bench::new(1, servers(200));
        assert_eq!(bench.asks(0, 1, NAME), [Said::Truncated]);
        assert_eq!(bench.zone(1, zone(2, Vec::new())), []);
        assert_eq!(bench.ask(2, Asker::Tcp(1), 1, NAME, SRV), [Said::NoSuchName]);
        bench.wait(100);
        assert_eq!(bench.news, [taken(2)]);
    }

    #[test]
    fn an_answer_is_held_until_it_is_another_one() {
        let mut bench = Bench::new(1, servers(3));
        assert_eq!(bench.asks(0, 1, NAME), told(&servers(3)), "at first, what there is");
        assert_eq!(bench.news, []);
        assert_eq!(bench.asks(1_000, 2, NAME), []);
        assert_eq!(bench.news, [taken(1), heard(1)], "it asks anew, so it has taken that in");
        assert_eq!(bench.zone(2_000, zone(1, servers(3))), [], "the same");
        assert_eq!(bench.zone(2_001, zone(2, servers(4))), told(&servers(4)));
        assert_eq!(bench.zone(2_002, zone(3, servers(2))), [], "it does not listen");
        assert_eq!(bench.asks(3_002, 3, NAME), told(&servers(2)));
        assert_eq!(bench.asks(4_002, 4, NAME), []);
        assert_eq!(bench.news[2..], [taken(2), heard(2), taken(3), heard(3)]);
    }

    #[test]
    fn a_question_is_answered_before_nginx_gives_up() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        let hold = u64::try_from(HOLD.as_millis()).unwrap();
        assert_eq!(bench.deadline(), Some(u128::from(1_000 + hold)));
        for ms in (6_000..1_000 + hold).step_by(5_000) {
            assert_eq!(bench.asks(ms, 2, NAME), [], "sent again, as nginx does");
        }
        assert_eq!(bench.wait(1_000 + hold), told(&servers(3)));
    }

    #[test]
    fn what_is_asked_again_is_answered_once_more_or_held_on() {
        let mut bench = Bench::new(1, servers(3));
        assert_eq!(bench.asks(0, 1, NAME), told(&servers(3)));
        assert_eq!(bench.asks(5_000, 1, NAME), told(&servers(3)), "the answer was lost");
        assert_eq!(bench.news, []);
        assert_eq!(bench.asks(6_000, 2, NAME), []);
        assert_eq!(bench.asks(11_000, 2, NAME), [], "the same question");
        assert_eq!(bench.zone(12_000, zone(2, servers(1))), told(&servers(1)), "answered once");
    }

    #[test]
    fn what_nginx_uses_is_known_before_it_asks_anew() {
        for (what, asks, ms) in [("asked for all", 3, 20), ("knew some", 2, 30), ("knew all", 0, 20)] {
            let mut bench = Bench::new(1, servers(3));
            bench.asks(0, 1, NAME);
            for i in 0..asks {
                bench.ask(10, udp(WORKER), 2 + i, &format!("10.0.0.{i}:80"), A);
            }
            assert_eq!(bench.deadline(), Some(ms.into()), "{what}");
            bench.wait(ms - 1);
            assert_eq!(bench.news, []);
            bench.wait(ms);
            assert_eq!(bench.news, [taken(1)]);
            bench.asks(1_000, 9, NAME);
            assert_eq!(bench.news, [taken(1), heard(1)], "once");
        }
    }

    #[test]
    fn what_an_old_worker_takes_in_is_no_news() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        bench.news.clear();
        let new = udp(WORKER + 1);
        assert_eq!(bench.ask(2_000, new, 7, NAME, SRV), told(&servers(3)));
        bench.wait(2_100);
        assert_eq!(bench.news, [News::Told { name: "0.web".to_owned() }], "of the new one, if it is one");
        bench.news.clear();
        assert_eq!(bench.zone(2_200, zone(2, servers(2))), told(&servers(2)), "the old one listens");
        bench.wait(2_300);
        bench.asks(3_200, 3, NAME);
        assert_eq!(bench.news, []);
        assert_eq!(bench.ask(3_000, new, 8, NAME, SRV), told(&servers(2)));
        bench.wait(3_100);
        assert_eq!(bench.news, [heard(1), taken(2)]);
    }

    #[test]
    fn who_asks_once_is_not_taken_for_nginx() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        bench.news.clear();
        assert_eq!(bench.ask(2_000, udp(WORKER + 1), 7, NAME, SRV), told(&servers(3)), "whoever asks is answered");
        bench.wait(2_100);
        assert_eq!(bench.zone(2_200, zone(2, servers(2))), told(&servers(2)));
        bench.wait(2_300);
        bench.asks(3_200, 3, NAME);
        assert_eq!(bench.news, [News::Told { name: "0.web".to_owned() }], "it may have been a new worker");
        bench.news.clear();
        assert_eq!(bench.deadline(), Some(3_100));
        bench.wait(3_100);
        bench.wait(4_100);
        assert_eq!(bench.news, []);
        bench.wait(5_100);
        assert_eq!(bench.news, [heard(2)], "it was none");
        bench.news.clear();
        assert_eq!(bench.zone(6_000, zone(3, servers(1))), told(&servers(1)));
        bench.wait(6_100);
        bench.asks(7_000, 4, NAME);
        assert_eq!(bench.news, [taken(3), heard(3)]);
        bench.wait(70_000);
        assert_eq!(bench.responder.remembered(), 1, "it is forgotten");
    }

    #[test]
    fn who_asks_once_takes_nothing_in_for_nginx() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        bench.zone(1_100, zone(2, servers(2)));
        bench.wait(1_200);
        assert_eq!(bench.zone(1_300, zone(3, servers(1))), [], "it does not listen");
        bench.news.clear();
        assert_eq!(bench.ask(1_400, udp(WORKER + 1), 7, NAME, SRV), told(&servers(1)));
        bench.wait(1_500);
        assert!(!bench.news.contains(&taken(3)), "nginx has yet to hear of it: {:?}", bench.news);
        assert_eq!(bench.asks(2_100, 3, NAME), told(&servers(1)));
        bench.asks(3_100, 4, NAME);
        (3..6).for_each(|secs| drop(bench.wait(1_000 * secs)));
        assert_eq!(bench.news.last(), Some(&heard(3)));
    }

    #[test]
    fn nginx_is_waited_for_behind_whoever_asks_once_while_its_clock_is_behind() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        bench.ask(20_000, udp(WORKER + 1), 7, NAME, SRV);
        (20..100).for_each(|secs| drop(bench.wait(1_000 * secs)));
        assert_eq!(bench.responder.remembered(), 1);
        assert_eq!(bench.zone(100_000, zone(2, servers(2))), told(&servers(2)));
    }

    #[test]
    fn a_worker_that_was_silent_for_a_while_counts_again() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        let new = udp(WORKER + 1);
        bench.ask(2_000, new, 7, NAME, SRV);
        bench.wait(6_000);
        bench.news.clear();
        assert_eq!(bench.ask(8_000, new, 8, NAME, SRV), []);
        assert_eq!(bench.news, [heard(1)]);
        assert_eq!(bench.zone(9_000, zone(2, servers(2))), [told(&servers(2)), told(&servers(2))].concat());
        bench.wait(9_100);
        assert_eq!(bench.news, [heard(1), taken(2)], "said once");
    }

    #[test]
    fn nginx_is_waited_for_while_its_clock_is_behind() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        bench.wait(3_600_000);
        assert_eq!(bench.zone(3_600_001, zone(2, servers(2))), told(&servers(2)));
    }

    #[test]
    fn a_free_name_is_not_left_without_an_answer_for_a_day() {
        let names = |names: &[usize]| names.iter().map(|at| format!("_http._tcp.{at}.web.nginit")).collect::<Vec<_>>();
        let set = |version, servers| Set { version, servers, freed: false };
        let sets = (0..2).map(|at| (format!("{at}.web"), set(1 + at, Vec::new())));
        let mut bench = Bench::new(1, Vec::new());
        bench.responder = Responder::new(Arc::new(Zone::of(sets)));
        let hold = u64::try_from(HOLD.as_millis()).unwrap();
        for (id, name) in (1..).zip(names(&[0, 1])) {
            assert_eq!(bench.asks(0, id, &name), []);
        }
        assert_eq!(bench.deadline(), Some(hold.into()));
        assert_eq!(bench.wait(hold), [Said::NoSuchName]);
        bench.wait(hold + 10);
        assert_eq!(bench.news, [taken(1)], "it does not listen there");
        assert_eq!(bench.wait(hold + 29_999), [], "it still does at the other one");
        assert_eq!(bench.asks(hold + 11_000, 3, NAME), []);
        assert_eq!(bench.news.last(), Some(&heard(1)));
        assert_eq!(bench.wait(hold + 30_000), [Said::NoSuchName]);
    }

    #[test]
    fn nothing_is_used_while_addresses_are_asked_for() {
        let mut bench = Bench::new(1, servers(3));
        bench.asks(0, 1, NAME);
        bench.asks(1_000, 2, NAME);
        bench.news.clear();
        assert_eq!(bench.zone(2_000, zone(2, servers(2))), told(&servers(2)));
        for (id, kind) in [(3, A), (4, AAAA)] {
            bench.ask(2_008, udp(WORKER), id, "10.0.0.1:80", kind);
        }
        bench.wait(2_015);
        assert_eq!((&bench.news[..], bench.deadline()), (&[][..], Some(2_018)), "also for one that it once knew");
        bench.wait(2_018);
        assert_eq!(bench.news, [taken(2)]);
        assert_eq!(bench.asks(3_000, 5, NAME), []);
        assert_eq!(bench.zone(4_000, zone(3, servers(1))), told(&servers(1)));
        for id in 0..150 {
            bench.ask(4_005, udp(WORKER), 100 + id, "10.0.0.0:80", A);
        }
        bench.wait(4_100);
        assert_eq!(bench.news.last(), Some(&heard(2)), "answers wait until it has read those before");
        bench.ask(4_200, Asker::Tcp(1), 199, "10.0.0.0:80", A);
        bench.wait(4_210);
        assert_eq!(bench.news.last(), Some(&taken(3)));
    }

    #[test]
    fn a_name_is_emptied_where_it_lost_its_servers_and_there_alone() {
        let mut bench = Bench::new(1, Vec::new());
        assert_eq!(bench.asks(0, 1, NAME), [], "nothing is told of a name that is free");
        assert_eq!(bench.wait(5_000), []);
        assert_eq!(bench.zone(6_000, zone(2, servers(1))), told(&servers(1)));
        assert_eq!(bench.asks(7_000, 2, NAME), []);
        assert_eq!(bench.zone(8_000, zone(3, Vec::new())), [Said::NoSuchName]);
        assert_eq!(bench.asks(19_000, 3, NAME), [], "once");
        assert_eq!(bench.zone(20_000, zone(4, Vec::new())), [], "free as before");
        assert_eq!(bench.zone(21_000, zone(5, servers(2))), told(&servers(2)));
        assert_eq!(bench.news.last(), Some(&heard(4)));
    }

    #[test]
    fn a_name_is_emptied_once_nginx_has_servers_at_another_one() {
        let other = "_http._tcp.1.web.nginit";
        let set = |version, servers: Vec<Served>| Set { version, freed: servers.is_empty(), servers };
        let both =
            |first: Set, second: Set| Arc::new(Zone::of([("0.web".to_owned(), first), ("1.web".to_owned(), second)]));
        let mut bench = Bench::new(1, Vec::new());
        let never = Set { version: 2, servers: Vec::new(), freed: false };
        bench.responder = Responder::new(both(set(1, servers(1)), never));
        bench.asks(0, 1, NAME);
        bench.asks(0, 2, other);
        bench.asks(1_000, 3, NAME);
        assert_eq!(bench.zone(2_000, both(set(3, Vec::new()), set(4, servers(2)))), told(&servers(2)));
        assert_eq!(bench.wait(2_005), [], "it may not use them yet");
        assert_eq!(bench.wait(2_020), [Said::NoSuchName]);
    }

    #[test]
    fn a_responder_that_begins_anew_knows_nobody_and_tells_all() {
        for (set, answer) in [(servers(3), told(&servers(3))), (Vec::new(), vec![Said::NoSuchName])] {
            let mut bench = Bench::new(1, servers(1));
            bench.asks(0, 1, NAME);
            bench.asks(1_000, 2, NAME);
            let freed = Set { version: 7, freed: set.is_empty(), servers: set };
            bench.responder = Responder::new(Arc::new(Zone::of([("0.web".to_owned(), freed)])));
            assert_eq!(bench.asks(6_000, 2, NAME), answer);
            assert_eq!(bench.asks(7_000, 3, NAME), []);
        }
    }

    #[test]
    fn a_long_list_goes_over_tcp() {
        let mut bench = Bench::new(1, servers(250));
        assert_eq!(bench.asks(0, 2, NAME), [Said::Truncated]);
        assert_eq!(bench.ask(1, Asker::Tcp(9), 2, NAME, SRV), told(&servers(250)));
        assert_eq!(bench.asks(1_001, 3, NAME), []);
        assert_eq!(bench.news, [taken(1), heard(1)]);
        assert_eq!(bench.zone(2_000, zone(2, servers(251))), [Said::Truncated]);
        assert_eq!(bench.zone(2_000, zone(3, servers(252))), []);
        assert_eq!(bench.asks(2_001, 3, NAME), [Said::Truncated], "that was lost");
        assert_eq!(bench.ask(2_002, Asker::Tcp(9), 3, NAME, SRV), told(&servers(252)), "the newest");
        bench.asks(3_002, 4, NAME);
        assert_eq!(bench.news[2..], [taken(3), heard(3)]);
    }

    #[test]
    fn many_newcomers_at_one_name_are_asked_for_before_another_is_told() {
        let set = |servers| Set { version: 1, servers, freed: false };
        let sets = [("0.web".to_owned(), set(servers(30))), ("1.web".to_owned(), set(servers(30)))];
        let mut bench = Bench::new(1, servers(1));
        bench.responder = Responder::new(Arc::new(Zone::of(sets)));
        assert_eq!(bench.asks(0, 1, NAME), told(&servers(30)));
        assert_eq!(bench.asks(0, 2, "_http._tcp.1.web.nginit"), []);
        for i in 0..29 {
            assert_eq!(bench.ask(1, udp(WORKER), 100 + i, &format!("10.0.0.{i}:80"), A), [Said::Address]);
        }
        let last = bench.ask(2, udp(WORKER), 200, "10.0.0.29:80", A);
        assert_eq!(last, [told(&servers(30)), vec![Said::Address]].concat());
        let mut bench = Bench { responder: Responder::new(Arc::clone(&bench.responder.zone)), ..bench };
        bench.asks(0, 1, NAME);
        bench.asks(0, 2, "_http._tcp.1.web.nginit");
        assert_eq!(bench.wait(20), []);
        assert_eq!(bench.deadline(), Some(100));
        assert_eq!(bench.wait(100), told(&servers(30)), "nobody asks");
    }

    #[test]
    fn a_gate_is_open_once_nginx_has_servers() {
        let gate = "gate.web.nginit";
        let mut bench = Bench::new(1, servers(2));
        assert_eq!(bench.ask(0, udp(6000), 1, "gate.other.nginit", A), [Said::NoSuchName], "no such upstream");
        assert_eq!(bench.ask(0, udp(6000), 1, gate, AAAA), [Said::Empty]);
        assert_eq!(bench.ask(0, udp(6000), 2, gate, A), []);
        assert_eq!(bench.ask(0, udp(6000), 2, gate, A), [], "asked again");
        assert_eq!(bench.deadline(), Some(3_500));
        bench.asks(10, 1, NAME);
        for i in 0..2 {
            bench.ask(20, udp(WORKER), 3 + i, &format!("10.0.0.{i}:80"), A);
        }
        assert_eq!(bench.ask(25, udp(6000), 3, "gate1.web.nginit", A), []);
        assert_eq!(bench.deadline(), Some(30));
        assert_eq!(bench.wait(29), []);
        assert_eq!(bench.wait(30), [Said::NoSuchName]);
        assert_eq!(bench.ask(31, udp(6000), 4, gate, A), [Said::NoSuchName], "it is open");
        assert_eq!(bench.asks(1_010, 9, NAME), [Said::NoSuchName], "now it is certain");

        let mut bench = Bench::new(1, servers(2));
        bench.ask(0, udp(6000), 1, gate, A);
        assert_eq!(bench.wait(3_500), [Said::NoSuchName], "nobody waits longer");
    }

    #[test]
    fn a_name_that_is_not_there_or_goes_away_empties_nothing() {
        let mut bench = Bench::new(1, servers(2));
        assert_eq!(bench.asks(0, 1, "_http._tcp.1.web.nginit"), [], "it may come");
        bench.asks(0, 2, NAME);
        bench.asks(1_000, 3, NAME);
        assert_eq!(bench.zone(2_000, Arc::default()), []);
        assert_eq!(bench.wait(50_000), []);
        assert_eq!(bench.asks(50_001, 3, NAME), []);
        assert_eq!(bench.zone(51_000, zone(2, servers(2))), told(&servers(2)));
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        let mut bench = Bench::new(1, servers(2));
        for (name, rtype, says) in [
            ("_http._tcp.x.web.nginit", SRV, Said::Refused),
            ("_http._tcp.web.nginit", SRV, Said::Refused),
            ("1.web.nginit", SRV, Said::Refused),
            ("_http._tcp.0.web.test", SRV, Said::Refused),
            ("nginx.org", A, Said::Refused),
            (NAME, A, Said::Empty),
            (NAME, 255, Said::Empty),
            ("10.9.9.9:80", A, Said::Address),
            ("10.9.9.9:80", AAAA, Said::Empty),
            ("[fd00::1]:80", AAAA, Said::Address),
            ("[fd00::1]:80", A, Said::Empty),
        ] {
            assert_eq!(bench.ask(0, udp(WORKER), 1, name, rtype), [says], "{name} {rtype}");
        }
        assert_eq!(bench.responder.on_question(b"hello", udp(1), bench.start), [Action::Ignore]);
        assert_eq!(bench.responder.remembered(), 0);
    }

    #[test]
    fn nginx_is_never_silenced_by_a_refusal() {
        let mut bench = Bench::new(1, servers(2));
        for at in 0..2 * u16::try_from(MOST_EARLY).unwrap() {
            let name = format!("_http._tcp.{at}.later.nginit");
            assert_eq!(bench.ask(0, udp(WORKER), at, &name, SRV), [], "held or dropped: asked again");
        }
        assert_eq!(bench.responder.remembered(), MOST_EARLY);
        assert_eq!(bench.ask(0, Asker::Tcp(1), 1, "_http._tcp.0.later.nginit", SRV), []);
        let later = |at: usize| (format!("{at}.later"), Set { version: 1, servers: servers(1), freed: false });
        assert_eq!(bench.zone(1, Arc::new(Zone::of((0..1).map(later)))), told(&servers(1)));
        assert_eq!(bench.asks(2, 999, "_http._tcp.999.later.nginit"), [], "there is room for one more");
        assert_eq!(bench.responder.remembered(), MOST_EARLY + 1);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut bench = Bench::new(1, servers(2));
        for port in (0..=u16::MAX).step_by(8) {
            let from = udp(port);
            bench.ask(u64::from(port) / 100, from, port, NAME, SRV);
            bench.ask(u64::from(port) / 100, from, port, "gate.web.nginit", A);
            assert!(bench.responder.remembered() <= MOST_POLLERS + MOST_GATES);
        }
        bench.wait(70_000);
        assert_eq!(bench.responder.remembered(), 0);
    }

    /// What may happen besides.
    #[derive(Debug, Clone)]
    enum Event {
        Servers(BTreeSet<u8>),
        /// The next message does not arrive.
        Lose,
        BeginAnew,
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let event = prop_oneof![
            6 => prop::collection::btree_set(0_u8..8, 0..6).prop_map(Event::Servers),
            2 => Just(Event::Lose),
            1 => Just(Event::BeginAnew),
        ];
        prop::collection::vec((0_u64..3000, event), 1..25)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens, nginx ends up with exactly the servers there are, is left without any only where there
        /// were none, and asks no more than once a second.
        #[test]
        fn nginx_ends_up_with_the_servers_there_are(events in events()) {
            let all = servers(8);
            let (mut version, mut lose, mut emptied) = (1, false, false);
            let mut current = all[..2].to_vec();
            let mut bench = Bench::new(version, current.clone());
            // As ngx_resolver.c and ngx_http_upstream_zone_module.c have it: it sleeps, then asks until it is answered.
            let (mut has, mut id, mut asleep, mut resend, mut asked) = (BTreeSet::new(), 0_u16, Some(0), 0, 0_u64);
            let last: u64 = events.iter().map(|(gap, _)| gap).sum::<u64>() + 30_000;
            let mut events = events.into_iter().peekable();
            let mut next_event = events.peek().map(|(gap, _)| *gap);
            for ms in (0..last).step_by(5) {
                let mut answers: Vec<Said> = Vec::new();
                if next_event.is_some_and(|at| at <= ms) {
                    match events.next().unwrap().1 {
                        Event::Servers(chosen) => {
                            version += 1;
                            current = chosen.iter().map(|i| all[usize::from(*i)]).collect();
                            emptied |= current.is_empty();
                            answers.extend(bench.zone(ms, zone(version, current.clone())));
                        }
                        Event::Lose => lose = true,
                        Event::BeginAnew => bench.responder = Responder::new(Arc::clone(&bench.responder.zone)),
                    }
                    next_event = events.peek().map(|(gap, _)| ms + gap);
                }
                if bench.deadline().is_some_and(|at| at <= ms.into()) {
                    answers.extend(bench.wait(ms));
                }
                let wakes = asleep.is_some_and(|until| until <= ms);
                if wakes {
                    (asleep, id) = (None, id.wrapping_add(1));
                }
                if wakes || (asleep.is_none() && resend <= ms) {
                    (resend, asked) = (ms + 5000, asked + 1);
                    if !std::mem::take(&mut lose) {
                        answers.extend(bench.asks(ms, id, NAME));
                    }
                }
                for answer in answers {
                    if std::mem::take(&mut lose) {
                        continue;
                    }
                    prop_assert!(asleep.is_none(), "nobody asked");
                    (has, asleep) = match answer {
                        Said::Servers(servers) => (servers, Some(ms + 1000)),
                        Said::NoSuchName => (BTreeSet::new(), Some(ms + 11_000)),
                        other => panic!("{other:?}"),
                    };
                    prop_assert!(emptied || !has.is_empty());
                }
            }
            prop_assert_eq!(has, current.into_iter().collect::<BTreeSet<_>>());
            prop_assert!(asked <= 2 + last / 1000, "asked {} times in {} ms", asked, last);
        }
    }
}
