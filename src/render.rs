//! Settings, peers and template sources become the files of a configuration.
//!
//! Strict: an undefined value fails, and so does a value that nginx would read as syntax
//! ([`quote`]). Deterministic: everything is ordered, and nothing but the input goes in, so equal
//! input gives equal bytes. It never reads or writes a file.

pub mod generation;
pub mod locations;
pub mod quote;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};

use crate::nginx::facts::Version;
use crate::peers::{Peer, Peers};
use crate::render::quote::Written;
use crate::settings::Settings;
use crate::upstream::{Files, HostName, Listen, Name, Route, Sources, Upstream};

/// The built-in templates by file name.
const BUILT_IN: [(&str, &str); 4] = [
    ("default.conf.j2", include_str!("../templates/default.conf.j2")),
    ("_log.j2", include_str!("../templates/_log.j2")),
    ("_upstream.j2", include_str!("../templates/_upstream.j2")),
    ("_location.j2", include_str!("../templates/_location.j2")),
];

/// How every file that we wrote starts. It marks the file as ours, so that a later run may remove
/// it when no template makes it any more.
pub const MARK: &str = "# Rendered by nginit from ";

/// Ending of a template's name.
pub const ENDING: &str = ".j2";

/// Everything that a configuration is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What the operator asked for.
    pub settings: &'a Settings,
    /// The peers of its upstreams; one that is missing has none.
    pub peers: &'a Peers,
    /// Templates of the operator's by file name; they replace built-in ones of the same name.
    pub sources: &'a Sources,
    /// The environment, for templates of the operator's.
    pub env: &'a BTreeMap<String, String>,
    /// The version of the nginx that reads it.
    pub nginx: Version,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
    /// The number of the set that is rendered; the built-in templates do not print it.
    pub generation: u64,
}

/// A template that could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderError {
    template: String,
    line: Option<usize>,
    reason: String,
    source_line: Option<String>,
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template {}", self.template)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.reason)?;
        match &self.source_line {
            Some(text) => write!(f, " in \"{text}\""),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RenderError {}

/// The files of a configuration: `default.conf`, and one for each further template.
///
/// # Errors
/// The first template that does not parse or render, with its line.
pub fn render(input: Input<'_>) -> Result<Files, RenderError> {
    let mut sources: BTreeMap<&str, &str> = BUILT_IN.into_iter().collect();
    sources.extend(input.sources.iter().map(|(name, text)| (name.as_str(), text.as_str())));

    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    env.set_syntax(syntax.expect("the delimiters are the default ones"));
    env.set_formatter(quote::write);
    env.add_filter("quote", quote::quote);
    // They promise what the formatter does not keep.
    for filter in ["safe", "escape", "e"] {
        env.remove_filter(filter);
    }
    for (name, source) in &sources {
        env.add_template(name, source).map_err(|err| explain(&err, &sources))?;
    }
    let context = context_of(input);
    let mut files = Files::new();
    for name in sources.keys() {
        let Some(file) = output_name(name) else { continue };
        let text = env
            .get_template(name)
            .and_then(|template| template.render(context.clone()))
            .map_err(|err| explain(&err, &sources))?;
        let text = quote::finish(text).map_err(|reason| RenderError {
            template: (*name).to_owned(),
            line: None,
            reason,
            source_line: None,
        })?;
        files.insert(file.to_owned(), format!("{MARK}{name}; changes are overwritten.\n{text}"));
    }
    Ok(files)
}

/// The file that a template makes; names that start with `_` or `.` are parts of others.
fn output_name(template: &str) -> Option<&str> {
    let name = template.strip_suffix(ENDING)?;
    (!name.is_empty() && !name.starts_with(['_', '.'])).then_some(name)
}

fn explain(err: &minijinja::Error, sources: &BTreeMap<&str, &str>) -> RenderError {
    // An error inside an include is the source of one that names the line of the include.
    let mut innermost = err;
    while let Some(inner) = std::error::Error::source(innermost).and_then(|e| e.downcast_ref::<minijinja::Error>()) {
        innermost = inner;
    }
    let at = if innermost.line().is_some() { innermost } else { err };
    let template = at.name().unwrap_or("?").to_owned();
    let source = sources.get(template.as_str());
    let source_line = at.line().and_then(|n| source?.lines().nth(n.checked_sub(1)?)).map(|l| l.trim().to_owned());
    let reason = match (innermost.kind(), innermost.detail()) {
        (ErrorKind::UndefinedError, _) => "undefined value".to_owned(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    RenderError { template, line: at.line(), reason, source_line }
}

fn context_of(input: Input<'_>) -> Value {
    let settings = input.settings;
    let upstreams: BTreeMap<&Name, Value> = settings
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let peers = input.peers.get(name).map_or(&[][..], Vec::as_slice);
            (name, upstream_value(name, upstream, peers))
        })
        .collect();
    let locations: Vec<Value> = locations::locations(&settings.upstreams)
        .into_iter()
        .map(|location| {
            let (exact, path) = match location.route {
                Route::Exact(path) => (true, path),
                Route::Prefix(path) => (false, path),
            };
            let upstream = location.upstream.and_then(|name| upstreams.get(name)).cloned();
            context! { exact, path, upstream }
        })
        .collect();
    let listen: Vec<String> = listen(settings, input.ipv6).map(ToString::to_string).collect();
    context! {
        upstreams => upstreams.values().cloned().collect::<Vec<_>>(),
        locations,
        settings => context! { listen, access_log => Value::from(Serde(settings.access_log)) },
        env => Value::from(Serde(input.env)),
        nginx => context! {
            version => input.nginx.to_string(),
            features => context! { keepalive_min_timeout => input.nginx.has_keepalive_min_timeout() },
        },
        generation => input.generation,
    }
}

/// Where nginx listens: the default shrinks to what the kernel has, what was asked for does not.
fn listen(settings: &Settings, ipv6: bool) -> impl Iterator<Item = &Listen> {
    let all = ipv6 || !settings.listen_is_default;
    settings.listen.iter().filter(move |l| all || l.address.is_none_or(|a| a.is_ipv4()))
}

/// The fields of a server in templates. A peer is an object rather than a map, because there can be
/// ten thousand and a template asks for three of them.
const PEER_FIELDS: [&str; 11] = [
    "address",
    "name",
    "params",
    "weight",
    "max_conns",
    "max_fails",
    "fail_timeout",
    "backup",
    "down",
    "drain",
    "gone",
];

impl Object for Peer {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let number = |value: Option<u32>, default: u32| Value::from(value.unwrap_or(default));
        Some(match key {
            "address" => Value::from(self.address.to_string()),
            "name" => Value::from(self.name.as_ref().map_or("", HostName::as_str)),
            "params" => Written::directive(self.params.to_nginx()),
            "weight" => Value::from(self.weight().get()),
            // nginx's own defaults.
            "max_conns" => number(self.params.max_conns, 0),
            "max_fails" => number(self.params.max_fails, 1),
            "fail_timeout" => number(self.params.fail_timeout_secs, 10),
            "backup" => Value::from(self.params.backup),
            "down" => Value::from(self.params.down),
            "drain" => Value::from(self.params.drain),
            "gone" => Value::from(self.gone),
            _ => return None,
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&PEER_FIELDS)
    }
}

fn upstream_value(name: &Name, upstream: &Upstream, peers: &[Peer]) -> Value {
    let zone_kb = zone_kb(peers.len());
    let routes: Vec<String> = upstream.routes.iter().map(ToString::to_string).collect();
    context! {
        name => name.upstream(),
        variable => upstream.variable.as_str(),
        balance => upstream.balance.word(),
        balance_directive => Written::directive(upstream.balance.to_nginx().unwrap_or_default()),
        listed => upstream.servers.len(),
        zone => format!("{zone_kb}k"),
        routes,
        servers => peers.iter().cloned().map(Value::from_object).collect::<Vec<_>>(),
    }
}

/// Shared memory for a group of `peers`, in KiB. nginx needs at least 8 pages, and some 0.7 KiB a
/// peer; pages that are never touched cost nothing, so there is room to spare.
fn zone_kb(peers: usize) -> usize {
    256 + 2 * peers
}
