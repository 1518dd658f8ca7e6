//! The hands of [`super::Resync`]: runs `serf members` and reads what it prints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::time::Instant;

use super::{Action, Event, Resync, Unstarted};
use crate::log::{self, Level};
use crate::serf::{self, Member};
use crate::supervisor::{Ended, Pid, child};
use crate::upstream::Name;

/// The longest list, in bytes: ten times what 10,000 members need.
const LONGEST: u64 = 32 << 20;

/// The longest reason that is handed on, in bytes of what the program printed.
const LONGEST_REASON: u64 = 1000;

/// Asks a Serf agent who is there.
#[derive(Debug)]
pub struct Asker {
    resync: Resync,
    words: Vec<String>,
    /// What the question prints: its list, and its complaints.
    printed: Option<(File, File)>,
}

impl Asker {
    /// For the agent among these sidecars, or whom `serf` finds. Nobody is asked yet.
    pub fn new(sidecars: &BTreeMap<Name, Vec<String>>) -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let resync = Resync::new(RandomState::new().build_hasher().finish());
        Self { resync, words: super::command(sidecars), printed: None }
    }

    /// Has it asked: nginit or the agent has just been started.
    pub fn want(&mut self) {
        self.on(Event::Wanted);
    }

    /// Has it asked if it never was answered: an agent has told something.
    pub fn heard(&mut self) {
        self.on(Event::Heard);
    }

    /// When [`Asker::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.resync.deadline()
    }

    /// Does what is due, if anything is; true if a question was asked just now, which
    /// [`serf::Roster::asked`] has to know.
    pub fn on_deadline(&mut self) -> bool {
        self.on(Event::Deadline)
    }

    /// Whether this is the process that asks; then its end is for [`Asker::ended`].
    pub fn has(&self, pid: Pid) -> bool {
        self.resync.pid() == Some(pid)
    }

    /// The members by what the process printed that has ended just now, if that is of use. `known`: others
    /// are known so far. An agent that has just been started knows nobody but itself, until it has joined
    /// its cluster; that is no reason to forget everybody, and it is asked again.
    pub fn ended(&mut self, pid: Pid, ended: Ended, known: bool) -> Option<Vec<Member>> {
        let mut printed = self.printed.take_if(|_| self.resync.pid() == Some(pid))?;
        let answer = read(&mut printed, ended).and_then(|members| match members.len() {
            0 | 1 if known => Err("the agent knows nobody but itself, what is known of others is kept".to_owned()),
            _ => Ok(members),
        });
        self.on(Event::Answered(pid, answer.as_ref().map(|_| ()).map_err(Clone::clone)));
        match answer {
            Ok(members) => {
                log::line(Level::Info, "serf", &format!("the agent knows {} members", members.len()));
                Some(members)
            }
            Err(reason) => {
                log::line(Level::Debug, "serf", &format!("no list of members: {reason}"));
                None
            }
        }
    }

    /// Kills a question that runs.
    pub fn stop(&mut self) {
        if let Some(pid) = self.resync.pid() {
            child::kill_group(pid);
        }
    }

    fn on(&mut self, event: Event) -> bool {
        let mut asked = false;
        for action in self.resync.on(event, Instant::now()) {
            match action {
                Action::Ask => {
                    let result = self.ask();
                    asked = result.is_ok();
                    // Nothing is asked or killed because of it.
                    let actions = self.resync.on(Event::Started(result), Instant::now());
                    actions.into_iter().for_each(report);
                }
                Action::Kill(pid) => child::kill_group(pid),
                action => report(action),
            }
        }
        asked
    }

    fn ask(&mut self) -> Result<Pid, Unstarted> {
        let program = self.words.first().map(String::as_str).unwrap_or_default();
        let refuse = |err: std::io::Error| {
            let reason = format!("\"{program}\" cannot be started: {err}");
            if err.kind() == ErrorKind::NotFound { Unstarted::Missing(reason) } else { Unstarted::Failed(reason) }
        };
        let (pid, output, errors) = child::spawn_captured(&self.words).map_err(refuse)?;
        self.printed = Some((output, errors));
        Ok(pid)
    }
}

fn report(action: Action) {
    if let Action::ReportSilent { reason, again } = action {
        let next = if again { "it is asked again" } else { "servers are known by events alone" };
        log::line(Level::Warn, "serf", &format!("an agent does not tell its members: {reason}; {next}"));
    }
}

fn read((output, errors): &mut (File, File), ended: Ended) -> Result<Vec<Member>, String> {
    let text = |file: &mut File, longest| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.take(longest).read_to_end(&mut bytes)).map(|_| bytes)
    };
    if ended != Ended::Status(0) {
        let said = [text(errors, LONGEST_REASON), text(output, LONGEST_REASON)];
        let said = said.into_iter().flatten().find(|bytes| !bytes.trim_ascii().is_empty()).unwrap_or_default();
        let first = String::from_utf8_lossy(&said).trim().lines().next().unwrap_or("it says nothing").to_owned();
        return Err(format!("serf members ended with status {}: {first}", ended.code()));
    }
    let json = text(output, LONGEST + 1).map_err(|err| format!("the list cannot be read: {err}"))?;
    if json.len() as u64 > LONGEST {
        return Err(format!("the list is longer than {LONGEST} bytes"));
    }
    serf::parse_members(&json)
}
