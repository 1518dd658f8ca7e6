//! Inputs read, names looked up, templates rendered: a candidate for the next configuration.

use std::fs;
use std::net::Ipv6Addr;

use crate::exit::{Failure, Status};
use crate::inputs::{self, Env, Reading};
use crate::log::{self, Level};
use crate::nginx::facts::Version;
use crate::render;
use crate::resolve;
use crate::settings::error::SettingsErrors;
use crate::settings::{self, Note, Settings};
use crate::upstream::{Address, Files, Resolved};

/// A configuration that was rendered and not yet tested.
#[derive(Debug)]
pub struct Candidate {
    /// What it was made from.
    pub settings: Settings,
    /// The addresses of the host names in it.
    pub resolved: Resolved,
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

/// Writes notes to the log.
pub fn log_notes(notes: &[Note]) {
    for note in notes {
        log::line(note.level, "settings", &note.text);
    }
}

/// Makes a candidate from what `env` and the files that it names say now; a name that does not
/// resolve keeps the addresses that are `known` of it.
///
/// # Errors
/// Faults of variables, of files that they name, or of a template.
pub fn make(env: &Env, nginx: Version, generation: u64, known: &Resolved) -> Result<Candidate, Failure> {
    let (settings, notes) = settings(env)?;
    render(env, settings, notes, nginx, generation, known)
}

/// Makes a candidate from settings that were read.
///
/// # Errors
/// Templates that cannot be read or rendered.
pub fn render(
    env: &Env,
    settings: Settings,
    mut notes: Vec<Note>,
    nginx: Version,
    generation: u64,
    known: &Resolved,
) -> Result<Candidate, Failure> {
    let refuse = |reason: String| Failure::new(Status::BadConfiguration, reason);
    let sources = inputs::templates(&settings.templates).map_err(|err| refuse(format!("{err:#}")))?;
    if settings.upstreams.is_empty() {
        let text = "no upstream is declared: set STATIC_BACKEND, DYNAMIC_BACKEND, or NAME_BACKEND and NAME_ROUTE";
        notes.push(Note { level: Level::Warn, text: text.to_owned() });
    }
    let ipv6 = Ipv6::of_kernel();
    let names = resolve::names(&settings.upstreams);
    let (mut resolved, failed) =
        if names.is_empty() { Default::default() } else { resolve::resolve(names, ipv6 == Ipv6::Routed) };
    let kept = failed.keys().filter_map(|name| Some((name.clone(), known.get(name)?.clone())));
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
    let env = env.to_map();
    let input = render::Input {
        settings: &settings,
        resolved: &resolved,
        sources: &sources,
        env: &env,
        nginx,
        ipv6: ipv6 != Ipv6::None,
        generation,
    };
    let files = render::render(input).map_err(|err| refuse(err.to_string()))?;
    Ok(Candidate { settings, resolved, files, notes })
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
