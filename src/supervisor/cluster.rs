//! The Serf cluster, as the loop knows it: what agents tell, the list that is asked for, and the servers that
//! come of them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::resync::{self, run::Asker};
use super::{Ended, Pid};
use crate::log::{self, Level};
use crate::serf::{Event, Kind, Roster};
use crate::upstream::{Name, Server, Upstreams};

/// Who is there, and who asks for it.
#[derive(Debug)]
pub struct Cluster {
    roster: Roster,
    asker: Asker,
    /// An agent is among the sidecars.
    agent: bool,
    /// It is known which upstreams there are, and whether an agent is to be asked for them.
    started: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new(&BTreeMap::new())
    }
}

impl Cluster {
    /// Nobody is there, and nobody is asked yet. `sidecars` are all, of which one may be the agent.
    pub fn new(sidecars: &BTreeMap<Name, Vec<String>>) -> Self {
        let agent = sidecars.values().any(|words| resync::is_agent(words));
        Self { roster: Roster::default(), asker: Asker::new(sidecars), agent, started: false }
    }

    /// nginx answers, and these are its upstreams: an agent that runs elsewhere is asked if one of them means it, once. One of
    /// our own is asked once it is started ([`Cluster::agent_started`]).
    pub fn start(&mut self, upstreams: &Upstreams) {
        let before = std::mem::replace(&mut self.started, true);
        if !before && !self.agent && resync::is_wanted(upstreams, &BTreeMap::new()) {
            self.asker.want();
        }
    }

    /// Our own agent was started just now, perhaps not for the first time.
    pub fn agent_started(&mut self) {
        self.asker.want();
    }

    /// Events may not have reached us.
    pub fn missed(&mut self) {
        if self.agent || !self.roster.is_empty() {
            self.asker.want();
        }
    }

    /// Takes in what an agent tells.
    pub fn on(&mut self, event: Event) {
        let how = match event.kind {
            Kind::Join => "there",
            Kind::Leave => "leaving",
            Kind::Failed => "failing",
            Kind::Update => "changed",
            Kind::Reap => "given up",
        };
        let names: Vec<&str> = event.members.iter().take(SAID).map(|member| member.name.as_str()).collect();
        let more = event.members.len().saturating_sub(SAID);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        log::line(Level::Info, "serf", &format!("{how}: {}{more}", names.join(" ")));
        self.roster.on(event);
        self.asker.heard();
    }

    /// When [`Cluster::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.asker.deadline()
    }

    /// Does what is due, if anything is.
    pub fn on_deadline(&mut self) {
        if self.asker.on_deadline() {
            self.roster.asked();
        }
    }

    /// Takes in the end of a process; false if it was none of ours.
    pub fn ended(&mut self, pid: Pid, ended: Ended) -> bool {
        let ours = self.asker.has(pid);
        if let Some(members) = self.asker.ended(pid, ended, !self.roster.is_empty()) {
            self.roster.reset(members);
        }
        ours
    }

    /// The servers of each upstream that has any; says what is to be said of members that are none.
    pub fn snapshot(&mut self, upstreams: &Upstreams) -> BTreeMap<Name, Vec<Server>> {
        for note in self.roster.take_notes(upstreams) {
            log::line(Level::Warn, "serf", &note);
        }
        self.roster.snapshot(upstreams)
    }

    /// All ends: nobody is asked any more.
    pub fn stop(&mut self) {
        self.asker.stop();
    }
}

/// So many members of an event are named in the log.
const SAID: usize = 5;
