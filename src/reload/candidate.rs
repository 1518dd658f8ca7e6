//! Inputs read, names looked up, templates rendered: a candidate for the next configuration.

use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use crate::admin::UpstreamCount;
use crate::exit::{Failure, Status};
use crate::inputs::{self, Env, Reading};
use crate::log::{self, Level};
use crate::nginx::facts::Version;
use crate::peers;
use crate::render;
use crate::resolve;
use crate::settings::error::SettingsErrors;
use crate::settings::protocol::without_bundle;
use crate::settings::{self, Note, Settings};
use crate::slots::{self, Slots};
use crate::upstream::{Address, Files, Resolved};

/// What the next candidate has to know of the one that is live.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The addresses of host names; they stay while a name does not resolve.
    pub resolved: Resolved,
    /// The slots of servers.
    pub slots: Slots,
    /// Whether there are templates of the operator's.
    pub templates: bool,
}

/// How the nginx runs that a candidate is for.
#[derive(Debug, Clone)]
pub struct Runs {
    /// Its version.
    pub version: Version,
    /// Where it tells of clients, if it can.
    pub clients: Option<PathBuf>,
    /// It has one worker process and no more, for sure.
    pub one_worker: bool,
}

/// A configuration that was rendered and not yet tested.
#[derive(Debug)]
pub struct Candidate {
    /// What it was made from.
    pub settings: Settings,
    /// The addresses of the host names in it.
    pub resolved: Resolved,
    /// The slots of the servers in it.
    pub slots: Slots,
    /// Its servers, counted.
    pub upstreams: Vec<UpstreamCount>,
    /// Whether templates of the operator's went into it.
    pub templates: bool,
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
        let upstreams = &self.settings.upstreams;
        let (mut servers, mut left_out) = (0, 0);
        for server in upstreams.values().flat_map(|upstream| &upstream.servers) {
            let addresses = match &server.address {
                Address::Host(name, _) => self.resolved.get(name).map_or(0, Vec::len),
                Address::Srv(_) => 0,
                Address::Ip(_) | Address::Unix(_) => 1,
            };
            servers += addresses;
            left_out += usize::from(addresses == 0);
        }
        let left_out = if left_out > 0 { format!(" left_out={left_out}") } else { String::new() };
        format!("upstreams={} servers={servers}{left_out}", upstreams.len())
    }

    /// The files of certificates and keys that are to be followed.
    pub fn watched(&self) -> Vec<PathBuf> {
        self.settings.watched().into_iter().map(PathBuf::from).collect()
    }

    /// What the next candidate has to know of it, if it becomes live.
    pub fn into_known(self) -> Known {
        Known { resolved: self.resolved, slots: self.slots, templates: self.templates }
    }
}

/// Reads the settings alone.
///
/// # Errors
/// Every fault of every variable. Warnings are logged then, as they may be the reason of a fault.
pub fn settings(env: &Env) -> Result<(Settings, Vec<Note>), Failure> {
    let Reading { vars, mut notes, mut errors, missing } = env.read();
    match settings::parse(&vars) {
        Ok((settings, more)) if errors.is_empty() => {
            notes.extend(more);
            return Ok((settings, notes));
        }
        Ok(_) => {}
        // What could not be read is not reported a second time as being empty.
        Err(SettingsErrors(more)) => errors.extend(more.into_iter().filter(|e| !missing.contains(&e.variable))),
    }
    notes.retain(|note| note.level <= Level::Warn);
    log_notes(&notes);
    Err(Failure::new(Status::BadEnvironment, SettingsErrors(errors).to_string()))
}

/// The settings of nginit itself, without those that are bad and without any upstream: for serving
/// what was live last while the variables cannot be used.
pub fn own_settings(env: &Env) -> Settings {
    let mut vars = env.read().vars;
    vars.retain(|name, _| name.starts_with("NGINIT_"));
    // One that is left out may be what another one needs.
    while let Err(SettingsErrors(errors)) = settings::parse(&vars) {
        let before = vars.len();
        vars.retain(|_, given| errors.iter().all(|error| error.variable != given.variable));
        if vars.len() == before {
            break;
        }
    }
    settings::parse(&vars).unwrap_or_else(|_| settings::defaults()).0
}

/// Writes notes to the log.
pub fn log_notes(notes: &[Note]) {
    for note in notes {
        log::line(note.level, "settings", &note.text);
    }
}

/// Makes a candidate from what `env` and the files that it names say now; a name that does not
/// resolve keeps the addresses that are `known` of it, and a server its slot.
///
/// # Errors
/// Faults of variables, of files that they name, or of a template.
pub fn make(env: &Env, nginx: &Runs, generation: u64, known: &Known) -> Result<Candidate, Failure> {
    let (settings, notes) = settings(env)?;
    render(env, settings, notes, nginx, generation, known)
}

/// Makes a candidate from settings that were read.
///
/// # Errors
/// Settings that this nginx cannot follow; templates that cannot be read or rendered, a directory of
/// error pages that cannot be read.
pub fn render(
    env: &Env,
    settings: Settings,
    mut notes: Vec<Note>,
    nginx: &Runs,
    generation: u64,
    known: &Known,
) -> Result<Candidate, Failure> {
    let refuse = |reason: String| Failure::new(Status::BadConfiguration, reason);
    let ca_bundle = ca_bundle();
    let mut misfits = settings::misfits(&settings, nginx.version);
    if ca_bundle.is_none() {
        misfits.extend(without_bundle(&settings.upstreams));
    }
    if !misfits.is_empty() {
        return Err(Failure::new(Status::BadEnvironment, SettingsErrors(misfits).to_string()));
    }
    notes.extend(settings::advice(&settings, nginx.version));
    let sources = inputs::templates(&settings.templates).map_err(|err| refuse(format!("{err:#}")))?;
    if known.templates && !settings.templates.exists() {
        let dir = settings.templates.display();
        return Err(refuse(format!("\"NGINIT_TEMPLATES\": \"{dir}\" is gone; mount it again, or restart without it")));
    }
    if settings.upstreams.is_empty() {
        let text = "no upstream is declared: set STATIC_BACKEND, DYNAMIC_BACKEND, or NAME_BACKEND and NAME_ROUTE";
        notes.push(Note { level: Level::Warn, text: text.to_owned() });
    }
    let ipv6 = Ipv6::of_kernel();
    let names = resolve::names(&settings.upstreams);
    let (mut resolved, failed) =
        if names.is_empty() { Default::default() } else { resolve::resolve(names, ipv6 == Ipv6::Routed) };
    let kept = failed.keys().filter_map(|name| Some((name.clone(), known.resolved.get(name)?.clone())));
    resolved.extend(kept);
    for (name, upstream) in &settings.upstreams {
        for server in &upstream.servers {
            let reason = match &server.address {
                Address::Host(host, _) => failed.get(host).map(String::as_str),
                Address::Srv(_) => Some("SRV records are not looked up by this version"),
                Address::Ip(_) | Address::Unix(_) => None,
            };
            if let Some(reason) = reason {
                let (upstream, variable) = (name.upstream(), &upstream.variable);
                let kept = matches!(&server.address, Address::Host(host, _) if resolved.contains_key(host));
                let what = if kept { "keeps its last addresses in" } else { "is left out of" };
                let text = format!("\"{variable}\": \"{}\" {what} {upstream}: {reason}", server.address);
                notes.push(Note { level: Level::Warn, text });
            }
        }
    }
    let peers = peers::peers(&settings.upstreams, &resolved);
    let (peers, slots) = slots::place_all(&known.slots, &settings.upstreams, peers);
    let counts = peers.iter().map(|(name, peers)| {
        let gone = peers.iter().filter(|peer| peer.gone).count();
        UpstreamCount { name: name.upstream(), servers: peers.len() - gone, gone }
    });
    let upstreams = counts.collect();
    let error_pages = inputs::error_pages(&settings.error_pages).map_err(|err| refuse(format!("{err:#}")))?;
    for status in error_pages.iter().filter(|status| !render::can_have_page(**status)) {
        let dir = settings.error_pages.display();
        let text = format!("\"{dir}/{status}.html\" is not used: nginx answers no {status} of its own with a page");
        notes.push(Note { level: Level::Warn, text });
    }
    let env = env.to_map();
    let input = render::Input {
        settings: &settings,
        peers: &peers,
        sources: &sources,
        env: &env,
        nginx: nginx.version,
        ipv6: ipv6 != Ipv6::None,
        ca_bundle,
        generation,
        error_pages: &error_pages,
        clients: nginx.clients.as_deref().and_then(Path::to_str),
        one_worker: nginx.one_worker,
    };
    let tapped = input.is_tapped();
    let files = render::render(input).map_err(|err| refuse(err.to_string()))?;
    let templates = !sources.is_empty();
    Ok(Candidate { settings, resolved, slots, upstreams, templates, tapped, files, notes })
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
