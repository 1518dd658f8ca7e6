//! What the live configuration was made from, and what the next one is to be made from: settings, servers, and who
//! says so.

mod telling;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::admin::desk::Asked;
use crate::admin::diff::unified;
use crate::admin::{self, Diff, FileDiff, Listing, Ordered, Reply, ServersDiff};
use crate::exit::Failure;
use crate::inputs::{self, Env};
use crate::live::{Groups, Why};
use crate::log::{self, Level};
use crate::membership::listing::Failing;
use crate::membership::names::Outcome;
use crate::membership::orders::{Live, Refused};
use crate::membership::{Members, Membership, Snapshot};
use crate::ordered::InOrder;
use crate::peers::{Peer, Peers};
use crate::reload::candidate::{self, Anew, Before, Candidate, Read, Runs};
use crate::reload::disk::Disk;
use crate::reload::followed::Seen;
use crate::reload::state::{Answers, Kept};
use crate::render::generation;
use crate::settings::Note;
use crate::slots::Slots;
use crate::upstream::{Files, Lookup, Name, Upstreams};

use super::following::Following;

/// Names that are to be followed, and how often where that is set.
pub type Names = BTreeMap<Lookup, Option<Duration>>;

/// Settings and servers, those that are live and those that come.
#[derive(Debug)]
pub struct Servers {
    env: Env,
    runs: Runs,
    membership: Membership,
    /// Where orders and announcements are kept over a restart.
    kept: Option<Kept>,
    /// What the live configuration was made from; nothing is known of one that was live before.
    live: Option<Arc<Read>>,
    /// Its servers, and the slots that they have.
    peers: Peers,
    slots: Slots,
    /// What nginx has been told of its servers without a reload.
    following: Following,
    /// Where that is kept for a start with the last good set, and whether it has changed since.
    answers: Option<Answers>,
    unkept: bool,
    /// nginx has answered since its start.
    has_answered: bool,
    /// Up to which of the members' changes it was told, when that is to go on, and how often it has been done.
    told: u64,
    tell_at: Option<Instant>,
    tellings: u64,
    /// When its lists were read, and which of them count as they were before.
    read_at: Instant,
    failing: Vec<Failing>,
    /// What was said of the last candidate.
    said: Vec<Note>,
    /// How much is to be read anew for the next candidate, and was for the one that is under way.
    anew: Anew,
    taken: Anew,
    /// Files have changed by themselves since the last candidate, and had before the one that is under way.
    is_told: bool,
    was_told: bool,
    /// What is to be followed from now on, where that is new: names, and files.
    names: Option<Names>,
    files: Option<Seen>,
}

impl Servers {
    /// What a start has found, before anything is live.
    pub fn new(env: Env, runs: Runs, membership: Membership, kept: Option<Kept>, slots: Slots) -> Self {
        Self {
            env,
            runs,
            membership,
            kept,
            live: None,
            peers: Peers::new(),
            slots,
            following: Following::default(),
            answers: None,
            unkept: false,
            has_answered: false,
            told: 0,
            tell_at: None,
            tellings: 0,
            read_at: Instant::now(),
            failing: Vec::new(),
            said: Vec::new(),
            anew: Anew::default(),
            taken: Anew::default(),
            is_told: false,
            was_told: false,
            names: None,
            files: None,
        }
    }

    /// So much is to be read anew for the next candidate, at least.
    pub fn read_anew(&mut self, anew: Anew) {
        self.is_told |= anew == Anew::Changed;
        self.anew = self.anew.max(anew);
    }

    /// Makes the next candidate, wherever it is called.
    pub fn take(&mut self) -> impl Fn(u64) -> Result<Candidate, Failure> + Send + use<> {
        self.taken = std::mem::take(&mut self.anew);
        self.was_told = std::mem::take(&mut self.is_told);
        if self.taken == Anew::Everything {
            self.runs.unasked.clear();
        }
        let members = self.membership.take();
        self.maker(self.taken, members)
    }

    fn maker(&self, anew: Anew, members: Arc<Members>) -> impl Fn(u64) -> Result<Candidate, Failure> + Send + use<> {
        let (env, runs) = (self.env.clone(), self.runs.clone());
        let (live, slots, groups) = (self.live.clone(), self.slots.clone(), self.following.groups().clone());
        move |number| {
            let read = candidate::read(&env, anew, live.as_ref())?;
            candidate::render(read, &members, anew, &runs, number, Before { slots: &slots, groups: &groups })
        }
    }

    /// Says what is to be said of a candidate, but for what was said of the same settings before.
    pub fn say(&mut self, candidate: &Candidate) {
        let same = self.live.as_ref().is_some_and(|live| Arc::ptr_eq(live, &candidate.read));
        let said = if same { self.said.as_slice() } else { &[] };
        candidate::log_notes(candidate.notes.iter().filter(|note| !said.contains(note)));
        self.said.clone_from(&candidate.notes);
    }

    /// The candidate whose making `began` then is live now.
    pub fn adopt(&mut self, mut candidate: Candidate, began: Instant) {
        self.place_newcomers(&mut candidate);
        self.files = Some(candidate.watched());
        if self.live.as_ref().is_none_or(|live| !Arc::ptr_eq(live, &candidate.read)) {
            self.read_at = began;
            let before = |path: &PathBuf| self.failing.iter().find(|before| before.path == *path);
            let failing = candidate.read.inputs.failing.iter();
            let failing = failing.map(|inputs::Failing { variable, path, reason }| Failing {
                variable: variable.clone(),
                path: path.clone(),
                reason: reason.clone(),
                since: before(path).map_or(began, |before| before.since),
            });
            self.failing = failing.collect();
            self.membership.forget_orders(&candidate.read.inputs.settings.upstreams, &candidate.resolved);
        }
        self.membership.adopt(&candidate.peers, candidate.resolved, Instant::now());
        self.names = Some(candidate.intervals);
        self.peers = candidate.peers;
        self.slots = candidate.slots;
        self.following.adopt(candidate.groups, candidate.whys);
        // Others may have come and gone meanwhile.
        self.told = u64::MAX;
        self.said = candidate.notes;
        self.live = Some(candidate.read);
    }

    /// What is to be tried after a refusal: one that a bad file is to blame for must not keep the rest from
    /// going live. Nothing is tried twice.
    pub fn after_refusal(&mut self) -> bool {
        let less = match self.taken {
            Anew::Changed => Anew::Settings,
            // Nobody tells of them a second time, and the fault may be another file's.
            Anew::Everything if self.was_told => Anew::Changed,
            Anew::Settings | Anew::Everything if self.membership.is_ahead() => Anew::Nothing,
            _ => {
                self.membership.on_refusal(Instant::now());
                return false;
            }
        };
        self.read_anew(less);
        self.live.is_some()
    }

    /// The names to follow, if they have become others.
    pub fn take_names(&mut self) -> Option<Names> {
        self.names.take()
    }

    /// The files to follow, if they have become others.
    pub fn take_files(&mut self) -> Option<Seen> {
        self.files.take()
    }

    /// The slots of the live configuration.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The upstreams of the live configuration, as the settings have them; nothing is known of one that was
    /// live before.
    pub fn upstreams(&self) -> Option<&Upstreams> {
        Some(&self.live.as_ref()?.inputs.settings.upstreams)
    }

    /// When [`Self::settle`], [`Self::tell_if_due`] or [`Self::give_up_if_late`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let tell = self.tell_at.filter(|_| self.told != self.membership.changes());
        let answers = self.answers.as_ref().filter(|_| self.unkept && self.has_answered).and_then(Answers::deadline);
        [self.membership.deadline(), tell, self.following.deadline(), answers].into_iter().flatten().min()
    }

    /// Whether what has changed has settled by now, so that a candidate is to be made.
    pub fn settle(&mut self, now: Instant) -> bool {
        if self.membership.deadline().is_none_or(|deadline| deadline > now) {
            return false;
        }
        let settled = self.membership.on_deadline(now);
        self.keep();
        settled
    }

    /// The same at once. What is asked for a second time may be taken already, and not live yet.
    pub fn settle_now(&mut self) -> bool {
        self.membership.settle() || self.membership.is_ahead()
    }

    /// Keeps orders and announcements over a restart.
    fn keep(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.write(self.membership.to_text());
        }
    }

    /// What the live configuration has, for orders.
    ///
    /// # Errors
    /// That nothing is known of it: the settings are bad, and what was live last is served.
    fn known<'a>(live: Option<&'a Arc<Read>>, peers: &'a Peers) -> Result<Live<'a>, Refused> {
        let read =
            live.ok_or_else(|| Refused::Full("the settings are bad: what was live last is served".to_owned()))?;
        Ok(Live { upstreams: &read.inputs.settings.upstreams, peers })
    }

    /// Takes an order.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn order(&mut self, order: &admin::Order) -> Result<Ordered, Refused> {
        let live = Self::known(self.live.as_ref(), &self.peers)?;
        let ordered = self.membership.order(live, order, Instant::now())?;
        if ordered.changed {
            self.keep();
        }
        Ok(ordered)
    }

    /// Takes an announcement.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn announce(&mut self, announcement: &admin::Announcement) -> Result<Ordered, Refused> {
        let live = Self::known(self.live.as_ref(), &self.peers)?;
        let ordered = self.membership.announce(live, announcement, Instant::now())?;
        if ordered.changed {
            self.keep();
        }
        Ok(ordered)
    }

    /// Takes in where a name leads.
    pub fn heard(&mut self, lookup: &Lookup, outcome: Outcome) {
        if let Some(news) = self.membership.on_answer(lookup, outcome, Instant::now()) {
            log::line(Level::Notice, "dns", &news);
        }
    }

    /// Takes in who is in the Serf cluster.
    pub fn gathered(&mut self, snapshot: Snapshot) {
        self.membership.on_serf(snapshot, Instant::now());
    }

    /// The servers of one upstream, or of all.
    ///
    /// # Errors
    /// That there is no such upstream, or that nothing is known of any.
    pub fn listing(&self, only: Option<&str>) -> Result<Listing, Refused> {
        let live = Self::known(self.live.as_ref(), &self.peers)?;
        let only = only.map(|text| live.find(text).map(|(name, _)| name)).transpose()?;
        let mut listing = self.membership.listing(live, only, self.read_at, &self.failing, Instant::now());
        for view in &mut listing.upstreams {
            let of = |name: &&Name| name.upstream() == view.name;
            view.reload =
                live.upstreams.keys().find(of).and_then(|name| self.why_reload(name)).map(|why| why.to_string());
        }
        Ok(listing)
    }

    /// How many servers each upstream has.
    pub fn counts(&self) -> Vec<admin::UpstreamCount> {
        let count = |(name, peers): (&Name, &Vec<Peer>)| {
            let gone = peers.iter().filter(|peer| peer.gone).count();
            admin::UpstreamCount { name: name.upstream(), servers: peers.len() - gone, gone }
        };
        self.peers.iter().map(count).collect()
    }

    /// Answers what a reload would change, in a thread of its own.
    pub fn diff(&self, asked: Asked, disk: Disk) {
        let make = self.maker(Anew::Everything, self.membership.peek());
        let (peers, groups) = (self.peers.clone(), self.following.groups().clone());
        let work = move || {
            let compare = || {
                let candidate = make(0).map_err(|failure| (409, failure.reason))?;
                let mut ours = disk.ours().map_err(|err| (503, disk.explain(&err)))?;
                ours.remove(generation::NAME);
                let mut diff = difference(&ours, &candidate.files, &peers, &candidate.peers);
                for servers in &mut diff.servers {
                    let name = candidate.peers.keys().find(|name| name.upstream() == servers.upstream);
                    // Nobody is a server of an upstream that is no more.
                    let why = name.map_or(Some(Why::Nobody), |name| why_reload(name, &groups, &candidate));
                    servers.reload = why.map(|why| why.to_string());
                }
                Ok(diff)
            };
            asked.answer(match compare() {
                Ok(diff) => Reply::Diff(diff),
                Err((code, reason)) => Reply::Refused { code, reason },
            });
        };
        // Unanswered, it is told that nginit ends, which is not far from the truth.
        let _ = thread::Builder::new().name("diff".into()).spawn(work);
    }
}

/// Why other servers of an upstream take a reload, if they do.
fn why_reload(name: &Name, groups: &Groups, candidate: &Candidate) -> Option<Why> {
    match (groups.get(name), candidate.groups.get(name)) {
        (_, None) => candidate.whys.get(name).copied(),
        (Some(before), Some(group)) if group.has_shape_of(before) => None,
        (_, Some(_)) => Some(Why::Shape),
    }
}

/// What would change.
fn difference(before: &Files, after: &Files, peers_before: &Peers, peers_after: &Peers) -> Diff {
    let names = before.keys().chain(after.keys()).into_set();
    let text = |files: &Files, name: &String| files.get(name).cloned().unwrap_or_default();
    let files = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let files =
        files.map(|name| FileDiff { name: name.clone(), diff: unified(&text(before, name), &text(after, name)) });
    let files: Vec<FileDiff> = files.collect();
    let upstreams = peers_before.keys().chain(peers_after.keys()).into_set();
    let there = |peers: &Peers, name: &Name| -> BTreeMap<String, String> {
        let peers = peers.get(name).into_iter().flatten().filter(|peer| !peer.gone);
        peers.map(|peer| (peer.address.to_string(), peer.params.to_list())).into_map()
    };
    let servers = upstreams.into_iter().filter_map(|name| {
        let (before, after) = (there(peers_before, name), there(peers_after, name));
        let words = |params: &str| if params.is_empty() { "no parameters".to_owned() } else { params.to_owned() };
        let changed = before.iter().filter_map(|(address, old)| {
            let new = after.get(address).filter(|new| *new != old)?;
            Some(format!("{address} {} -> {}", words(old), words(new)))
        });
        let servers = ServersDiff {
            upstream: name.upstream(),
            added: after.keys().filter(|address| !before.contains_key(*address)).cloned().collect(),
            removed: before.keys().filter(|address| !after.contains_key(*address)).cloned().collect(),
            changed: changed.collect(),
            reload: None,
        };
        let is_same = servers.added.is_empty() && servers.removed.is_empty() && servers.changed.is_empty();
        (!is_same).then_some(servers)
    });
    let reload = !files.is_empty();
    Diff { servers: servers.collect(), files, reload }
}
