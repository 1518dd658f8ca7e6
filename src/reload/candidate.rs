//! Inputs read, names looked up, templates rendered: a candidate for the next configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::dns::{self, Answer};
use crate::exit::{Failure, Status};
use crate::inputs::{self, Env, Failing, Mode};
use crate::live::{self, Ability, Groups, Why, zone};
use crate::log::{self, Level};
use crate::membership::Members;
use crate::membership::names::Outcome;
use crate::nginx::facts::Version;
use crate::ordered::InOrder;
use crate::peers::Peers;
use crate::render;
use crate::settings::error::SettingsErrors;
use crate::settings::protocol::without_bundle;
use crate::settings::{self, Note, Settings};
use crate::slots::{self, Slots};
use crate::upstream::{Files, Lookup, Name, Resolved, Sources, Upstreams};

use super::followed::Seen;
pub use super::inputs::{Inputs, inputs, own_settings, seen};

/// How much of what a candidate is made from is read anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anew {
    /// Nothing: only the members are others.
    #[default]
    Nothing,
    /// Files with settings; templates and pages are those of the live configuration.
    Settings,
    /// All files, because some have changed: one that is bad counts as it was before.
    Changed,
    /// All files, because somebody asks for it: one that is bad is refused.
    Everything,
}

/// What a candidate is made from, besides its members.
#[derive(Debug)]
pub struct Read {
    /// The settings, and the texts that they come from.
    pub inputs: Inputs,
    /// Templates of the operator's.
    pub templates: Sources,
    /// The statuses that have pages of the operator's.
    pub error_pages: BTreeSet<u16>,
    /// The files of all that, and how they looked before they were read.
    pub seen: Seen,
}

/// How the nginx runs that a candidate is for.
#[derive(Debug, Clone)]
pub struct Runs {
    /// Its version.
    pub version: Version,
    /// Where nginit tells it of servers, if it can.
    pub resolver: Option<SocketAddr>,
    /// The upstreams of which it is not told for now, since it has not asked.
    pub unasked: BTreeSet<Name>,
    /// Where it tells of clients, if it can.
    pub clients: Option<PathBuf>,
    /// It has one worker process and no more, for sure.
    pub one_worker: bool,
}

/// What the live configuration has that the next one keeps where it can.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// Which place each server has.
    pub slots: &'a Slots,
    /// How nginx follows servers.
    pub groups: &'a Groups,
}

impl Runs {
    /// What can be followed of an upstream without a reload.
    pub fn ability(&self, settings: &Settings, ipv6: Ipv6, name: &Name) -> Ability {
        let unasked = self.unasked.contains(name).then_some(Why::Unasked);
        let fault = self.resolver.map_or(Some(Why::Deaf), |_| unasked);
        Ability { mode: settings.live, nginx: self.version, ipv6: ipv6 != Ipv6::None, fault }
    }
}

/// A configuration that was rendered and not yet tested.
#[derive(Debug)]
pub struct Candidate {
    /// What it was made from.
    pub read: Arc<Read>,
    /// Where the names in it lead; nowhere is known too.
    pub resolved: Resolved,
    /// How often each of them is to be looked up, where that is set.
    pub intervals: BTreeMap<Lookup, Option<Duration>>,
    /// The slots of the servers in it.
    pub slots: Slots,
    /// The upstreams whose servers nginx asks for, and why the others are not among them.
    pub groups: Groups,
    /// See [`Candidate::groups`].
    pub whys: BTreeMap<Name, Why>,
    /// Its servers.
    pub peers: Peers,
    /// Entries of lists that have no address.
    pub left_out: usize,
    /// Whether nginx tells of clients with it.
    pub tapped: bool,
    /// Its files.
    pub files: Files,
    /// What the operator should know.
    pub notes: Vec<Note>,
}

impl Candidate {
    /// How much it holds, for a line of the log: upstreams, addresses of servers, and entries that
    /// have none.
    pub fn counts(&self) -> String {
        let servers = self.peers.values().flatten().filter(|peer| !peer.gone).count();
        let left_out = if self.left_out > 0 { format!(" left_out={}", self.left_out) } else { String::new() };
        format!("upstreams={} servers={servers}{left_out}", self.peers.len())
    }

    /// The files whose changes ask for the next one, and how they looked before they were read.
    pub fn watched(&self) -> Seen {
        self.read.seen.clone()
    }
}

/// Writes notes to the log.
pub fn log_notes<'a>(notes: impl IntoIterator<Item = &'a Note>) {
    for note in notes {
        log::line(note.level, "settings", &note.text);
    }
}

/// Reads what `env` and the files that it names say now, as far as that is asked for; the rest, and what is bad
/// and need not be refused, is that of `last`.
///
/// # Errors
/// Faults of variables and of files that they name, directories that cannot be read.
pub fn read(env: &Env, anew: Anew, last: Option<&Arc<Read>>) -> Result<Arc<Read>, Failure> {
    match last {
        Some(last) if anew == Anew::Nothing => return Ok(Arc::clone(last)),
        _ => {}
    }
    let mode = match last {
        Some(last) if anew < Anew::Everything => Mode::Lenient { last: &last.inputs.texts },
        _ => Mode::Strict,
    };
    complete(inputs(env, mode)?, anew, last)
}

/// Reads templates and pages besides these settings.
///
/// # Errors
/// Directories that cannot be read.
pub fn complete(mut inputs: Inputs, anew: Anew, last: Option<&Arc<Read>>) -> Result<Arc<Read>, Failure> {
    let settings = &inputs.settings;
    let kept = last.filter(|_| anew == Anew::Settings);
    let seen = Seen { named_only: kept.is_some(), ..Seen::new(settings, &inputs.looks) };
    let (templates, error_pages) = match kept {
        Some(last) => (last.templates.clone(), last.error_pages.clone()),
        None => {
            let had = last.is_some_and(|last| !last.templates.is_empty());
            (templates(settings, had)?, error_pages(settings, &mut inputs.notes)?)
        }
    };
    let before = last.map_or(&[][..], |last| &last.inputs.failing);
    inputs.notes.extend(failing_notes(before, &inputs.failing));
    Ok(Arc::new(Read { inputs, templates, error_pages, seen }))
}

fn refuse(reason: String) -> Failure {
    Failure::new(Status::BadConfiguration, reason)
}

/// The operator's templates. Where there were some, the directory must not be gone.
fn templates(settings: &Settings, had: bool) -> Result<Sources, Failure> {
    if had && !settings.templates.exists() {
        let dir = settings.templates.display();
        return Err(refuse(format!("\"NGINIT_TEMPLATES\": \"{dir}\" is gone; mount it again, or restart without it")));
    }
    inputs::templates(&settings.templates).map_err(|err| refuse(format!("{err:#}")))
}

fn error_pages(settings: &Settings, notes: &mut Vec<Note>) -> Result<BTreeSet<u16>, Failure> {
    let error_pages = inputs::error_pages(&settings.error_pages).map_err(|err| refuse(format!("{err:#}")))?;
    for status in error_pages.iter().filter(|status| !render::can_have_page(**status)) {
        let dir = settings.error_pages.display();
        let text = format!("\"{dir}/{status}.html\" is not used: nginx answers no {status} of its own with a page");
        notes.push(Note { level: Level::Warn, text });
    }
    Ok(error_pages)
}

/// Makes a candidate from what was read and from these members, whose servers keep the places that they have.
/// Names that they do not know are looked up, and all where everything is `anew`; one that does not
/// resolve then keeps the addresses that are known.
///
/// # Errors
/// Settings that this nginx cannot follow; templates that cannot be rendered.
pub fn render(
    read: Arc<Read>,
    members: &Members,
    anew: Anew,
    nginx: &Runs,
    generation: u64,
    before: Before<'_>,
) -> Result<Candidate, Failure> {
    let settings = &read.inputs.settings;
    let mut notes = read.inputs.notes.clone();
    let ca_bundle = ca_bundle();
    let mut misfits = settings::misfits(settings, nginx.version);
    if ca_bundle.is_none() {
        misfits.extend(without_bundle(&settings.upstreams));
    }
    if !misfits.is_empty() {
        return Err(Failure::new(Status::BadEnvironment, SettingsErrors(misfits).to_string()));
    }
    notes.extend(settings::advice(settings, nginx.version));
    if settings.upstreams.is_empty() {
        let text = "no upstream is declared: set STATIC_BACKEND, DYNAMIC_BACKEND, or NAME_BACKEND and NAME_ROUTE; \"# none\" is a list whose servers come from elsewhere";
        notes.push(Note { level: Level::Warn, text: text.to_owned() });
    }
    let ipv6 = Ipv6::of_kernel();
    let upstreams = members.merge(&settings.upstreams);
    let (resolved, left_out) = look_up(&upstreams, members, anew, ipv6, &mut notes);
    let (peers, said) = members.peers(&upstreams, &resolved);
    notes.extend(said);
    let (peers, slots) = slots::place_all(before.slots, &upstreams, peers);
    let (mut groups, mut whys) =
        live::arrange_all(before.groups, &upstreams, &peers, |name| nginx.ability(settings, ipv6, name));
    let input = render::Input {
        settings,
        peers: &peers,
        sources: &read.templates,
        env: &read.inputs.env,
        nginx: nginx.version,
        ipv6: ipv6 != Ipv6::None,
        ca_bundle,
        generation,
        error_pages: &read.error_pages,
        clients: nginx.clients.as_deref().and_then(Path::to_str),
        one_worker: nginx.one_worker,
        groups: &groups,
        resolver: nginx.resolver,
    };
    let tapped = input.is_tapped();
    let files = render::render(input).map_err(|err| refuse(err.to_string()))?;
    // Where templates of the operator's name the servers themselves, nginx does not ask for them.
    let is_asked_for = |name: &Name| files.values().any(|text| text.contains(&zone::whole(&zone::part(name, 0))));
    groups.retain(|name, _| {
        let is_asked_for = is_asked_for(name);
        if !is_asked_for {
            whys.insert(name.clone(), Why::Templates);
        }
        is_asked_for
    });
    let mut intervals: BTreeMap<Lookup, Option<Duration>> = BTreeMap::new();
    for upstream in upstreams.values() {
        for lookup in upstream.servers.iter().filter_map(|server| Lookup::of(&server.address)) {
            let interval = intervals.entry(lookup).or_insert(upstream.resolve);
            *interval = interval.iter().chain(&upstream.resolve).min().copied();
        }
    }
    Ok(Candidate { read, resolved, intervals, slots, groups, whys, peers, left_out, tapped, files, notes })
}

/// Most names that are warned of one by one: a DNS server that is down fails all of them.
const MOST_NAMES_SAID: usize = 10;

/// Where the names in these upstreams lead, and how many servers have no address.
fn look_up(
    upstreams: &Upstreams,
    members: &Members,
    anew: Anew,
    ipv6: Ipv6,
    notes: &mut Vec<Note>,
) -> (Resolved, usize) {
    let servers = upstreams.values().flat_map(|upstream| &upstream.servers);
    let all = servers.filter_map(|server| Lookup::of(&server.address)).into_set();
    let is_known = |lookup: &Lookup| anew < Anew::Everything && members.resolved.contains_key(lookup);
    let unknown = all.iter().filter(|lookup| !is_known(lookup)).cloned().into_set();
    let (mut resolved, mut failed) = (Resolved::new(), BTreeMap::new());
    for (lookup, Answer { outcome, .. }) in dns::look_up_all(unknown, ipv6 == Ipv6::Routed) {
        match outcome {
            Outcome::Found(targets) => drop(resolved.insert(lookup, targets)),
            Outcome::NoSuchName => drop(failed.insert(lookup, "no such name".to_owned())),
            Outcome::Failed(reason) => drop(failed.insert(lookup, reason)),
        }
    }
    for lookup in all {
        let known = || members.resolved.get(&lookup).cloned().unwrap_or_default();
        resolved.entry(lookup.clone()).or_insert_with(known);
    }
    let (mut left_out, mut said) = (0, 0);
    for (name, upstream) in upstreams {
        for server in &upstream.servers {
            let Some(lookup) = Lookup::of(&server.address) else { continue };
            let found = resolved.get(&lookup).is_some_and(|targets| !targets.is_empty());
            left_out += usize::from(!found);
            if let Some(reason) = failed.get(&lookup) {
                let (upstream, variable) = (name.upstream(), &upstream.variable);
                let what = if found { "keeps its last addresses in" } else { "is left out of" };
                let text = format!("\"{variable}\": \"{}\" {what} {upstream}: {reason}", server.address);
                said += 1;
                if said <= MOST_NAMES_SAID {
                    notes.push(Note { level: Level::Warn, text });
                }
            }
        }
    }
    if said > MOST_NAMES_SAID {
        let text = format!(
            "{} more names have no addresses or keep their last ones; nginit list shows all",
            said - MOST_NAMES_SAID
        );
        notes.push(Note { level: Level::Warn, text });
    }
    (resolved, left_out)
}

/// What is new about files that fail: each is told of once, and when it counts again.
fn failing_notes(before: &[Failing], now: &[Failing]) -> Vec<Note> {
    let new = now.iter().filter(|failing| !before.contains(failing));
    let again = before.iter().filter(|failing| now.iter().all(|now| now.path != failing.path));
    let again = again.map(|Failing { variable, path, .. }| {
        let text = format!("\"{variable}\": \"{}\" is good again", path.display());
        Note { level: Level::Notice, text }
    });
    new.map(|failing| Note { level: Level::Error, text: failing.to_string() }).chain(again).collect()
}

/// The system's authorities: Debian and Alpine, Fedora and its kin, others.
const CA_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The first one that is there.
fn ca_bundle() -> Option<&'static str> {
    CA_BUNDLES.into_iter().find(|path| Path::new(path).is_file())
}

/// What the kernel can do with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// No sockets.
    None,
    /// Sockets, but no address besides the loopback's.
    Loopback,
    /// An address.
    Routed,
}

impl Ipv6 {
    /// Asks `/proc/net/if_inet6`, which lists every IPv6 address (proc_net(5)).
    pub fn of_kernel() -> Self {
        let Ok(list) = fs::read_to_string("/proc/net/if_inet6") else { return Self::None };
        let loopback = format!("{:032x}", u128::from(Ipv6Addr::LOCALHOST));
        // Columns: address, index, prefix length, scope, flags, device. Scope 20 is a link's own.
        let own = list.lines().any(|line| {
            let mut columns = line.split_ascii_whitespace();
            let (address, scope) = (columns.next(), columns.nth(2));
            address.is_some_and(|address| address != loopback) && scope != Some("20")
        });
        if own { Self::Routed } else { Self::Loopback }
    }
}
