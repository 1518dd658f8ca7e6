//! Settings, peers and template sources become the files of a configuration.
//!
//! Strict: an undefined value fails, and so does a value that nginx would read as syntax
//! ([`quote`]). Deterministic: everything is ordered, and nothing but the input goes in, so equal
//! input gives equal bytes. It never reads or writes a file.

pub mod generation;
pub mod listeners;
pub mod live;
pub mod locations;
pub mod passing;
pub mod quote;
pub mod sticky;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter::once;
use std::net::SocketAddr;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};

use crate::live::Groups;
use crate::nginx::facts::Version;
use crate::ordered::InOrder;
use crate::peers::{Peer, Peers};
use crate::render::live::Following;
use crate::render::locations::Location;
use crate::render::quote::Written;
use crate::settings::Settings;
use crate::upstream::sticky::Cookie;
use crate::upstream::{Balance, Files, HostName, Name, PathMatch, Rewrite, Sources, Upstream, Upstreams};

/// The built-in templates by file name.
const BUILT_IN: &[(&str, &str)] = &[
    ("default.conf.j2", include_str!("../templates/default.conf.j2")),
    ("_access_log.j2", include_str!("../templates/_access_log.j2")),
    ("_error_pages.j2", include_str!("../templates/_error_pages.j2")),
    ("_errors.j2", include_str!("../templates/_errors.j2")),
    ("_again.j2", include_str!("../templates/_again.j2")),
    ("_gzip.j2", include_str!("../templates/_gzip.j2")),
    ("_log.j2", include_str!("../templates/_log.j2")),
    ("_next.j2", include_str!("../templates/_next.j2")),
    ("_passing.j2", include_str!("../templates/_passing.j2")),
    ("_retry.j2", include_str!("../templates/_retry.j2")),
    ("_pass.j2", include_str!("../templates/_pass.j2")),
    ("_rewrite.j2", include_str!("../templates/_rewrite.j2")),
    ("_server.j2", include_str!("../templates/_server.j2")),
    ("_sticky.j2", include_str!("../templates/_sticky.j2")),
    ("_upstream.j2", include_str!("../templates/_upstream.j2")),
    ("_location.j2", include_str!("../templates/_location.j2")),
    ("_forwarded.j2", include_str!("../templates/_forwarded.j2")),
    ("_grpc.j2", include_str!("../templates/_grpc.j2")),
    ("_grpc_unavailable.j2", include_str!("../templates/_grpc_unavailable.j2")),
    ("_pass_tls.j2", include_str!("../templates/_pass_tls.j2")),
    ("_real_ip.j2", include_str!("../templates/_real_ip.j2")),
    ("_redirect.j2", include_str!("../templates/_redirect.j2")),
    ("_tls.j2", include_str!("../templates/_tls.j2")),
];

/// How every file that we wrote starts. It marks the file as ours, so that a later run may remove
/// it when no template makes it any more.
pub const MARK: &str = "# Rendered by nginit from ";

/// The longest server name that fits into a bucket of nginx's default size, 64 bytes: besides the
/// name, there are two pointers and its length, and all is aligned (`ngx_hash_init` in
/// src/core/ngx_hash.c).
const LONGEST_HASHED_NAME: usize = 46;

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
    /// The system's file of authorities that certificates come from, if it has one.
    pub ca_bundle: Option<&'a str>,
    /// The number of the set that is rendered; the built-in templates do not print it.
    pub generation: u64,
    /// The statuses that have a page of the operator's; those without a [use](can_have_page) count not.
    pub error_pages: &'a BTreeSet<u16>,
    /// The file that nginx tells of clients, where nginit runs and reads it: plain characters alone.
    pub clients: Option<&'a str>,
    /// nginx has one worker process and no more, for sure.
    pub one_worker: bool,
    /// The upstreams whose servers nginx follows without a reload.
    pub groups: &'a Groups,
    /// Where nginx asks nginit for them; without it, none is followed.
    pub resolver: Option<SocketAddr>,
}

impl Input<'_> {
    /// Whether nginx is to tell of the clients of any upstream.
    pub fn is_tapped(&self) -> bool {
        let peers = |name| self.peers.get(name).map_or(&[][..], Vec::as_slice);
        self.settings.upstreams.iter().any(|(name, upstream)| !tap(upstream, peers(name), self.clients).is_empty())
    }
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
    let mut sources = BUILT_IN.iter().copied().into_map();
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
        .enumerate()
        .map(|(number, (name, upstream))| {
            let peers = input.peers.get(name).map_or(&[][..], Vec::as_slice);
            (name, upstream_value(number, name, upstream, peers, input))
        })
        .into_map();
    let servers: Vec<Value> = locations::sites(&settings.upstreams)
        .into_iter()
        .map(|site| {
            let locations = site.locations.iter().map(|location| location_value(location, &upstreams));
            let host = site.host.map_or("", HostName::as_str);
            let targeted = site.targets().map(|target| target.upstream).into_set();
            let does = |is: fn(&Rewrite) -> bool| site.targets().any(|target| is(target.rewrite));
            context! {
                host,
                rewrites => does(|rewrite| *rewrite != Rewrite::Keep),
                name => server_name(site.host, &settings.upstreams),
                strips => does(|rewrite| matches!(rewrite, Rewrite::Strip(_))),
                replaces => does(|rewrite| matches!(rewrite, Rewrite::Replace(_))),
                locations => locations.collect::<Vec<_>>(),
                upstreams => targeted.iter().filter_map(|name| upstreams.get(name)).cloned().collect::<Vec<_>>(),
            }
        })
        .collect();
    let error_pages: Vec<u16> = input.error_pages.iter().copied().filter(|status| can_have_page(*status)).collect();
    context! {
        upstreams => upstreams.values().cloned().collect::<Vec<_>>(),
        servers,
        settings => context! {
            access_log => Value::from(Serde(settings.access_log)),
            access_log_flush => passing::time(settings.access_log_flush),
            // What a pipe takes in one piece, unless nobody else writes to it.
            access_log_buffer => if input.one_worker { "64k" } else { "4k" },
            gzip => settings.gzip,
            request_id => settings.request_id,
            error_pages => settings.error_pages.to_string_lossy(),
            ..listeners::context(settings, input.nginx, input.ipv6)
        },
        protocols => listeners::protocols(settings, input.ca_bundle),
        error_pages,
        tapped => input.is_tapped(),
        env => Value::from(Serde(input.env)),
        nginx => context! {
            version => input.nginx.to_string(),
            features => context! {
                keepalive_min_timeout => input.nginx.has_keepalive_min_timeout(),
                keepalive_by_default => input.nginx.has_keepalive_by_default(),
                sticky => input.nginx.has_sticky(),
            },
        },
        generation => input.generation,
    }
}

/// Whether nginx can answer `status` by itself and lets somebody choose the page: not 418, by which our
/// own locations go elsewhere, 444, which is no answer, and 499, which a client does not wait for.
pub fn can_have_page(status: u16) -> bool {
    (400..600).contains(&status) && ![418, 444, 499].contains(&status)
}

/// Where nginx tells of the clients of an upstream, whose addresses choose among its servers; empty
/// where they do not.
fn tap<'a>(upstream: &Upstream, peers: &[Peer], clients: Option<&'a str>) -> &'a str {
    let chooses = upstream.balance == Balance::IpHash && peers.iter().filter(|peer| !peer.gone).count() > 1;
    clients.filter(|_| chooses).unwrap_or_default()
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

fn location_value(location: &Location<'_>, upstreams: &BTreeMap<&Name, Value>) -> Value {
    let (exact, path) = (matches!(location.path, PathMatch::Exact(_)), location.path.as_str());
    let upstream = location.target.and_then(|target| upstreams.get(target.upstream)).cloned();
    let (strip, replace) = match location.target.map(|target| target.rewrite) {
        Some(Rewrite::Strip(path)) => (path.as_str(), ""),
        Some(Rewrite::Replace(path)) => ("", path.as_str()),
        Some(Rewrite::Keep) | None => ("", ""),
    };
    let rewrites = !strip.is_empty() || !replace.is_empty();
    context! { exact, path, upstream, rewrites, strip, strip_regex => regex(strip), replace }
}

/// A regular expression for `text` itself, without a backslash, which a template could not print.
fn regex(text: &str) -> String {
    let special = |c: char| ".()*+?|".contains(c);
    text.chars().map(|c| if special(c) { format!("[{c}]") } else { c.into() }).collect()
}

/// What to write as `server_name`. A name that does not fit into a bucket of nginx's hash of names
/// makes it refuse the configuration, and the directive for larger ones, which is allowed once, may
/// stand in the operator's nginx.conf already; so a long one is a regular expression, which needs no
/// hash. For all other hosts, it is a name that nobody routes: HTTP/1.0 clients that name none get
/// it as their host.
fn server_name(host: Option<&HostName>, upstreams: &Upstreams) -> Value {
    let routed = |name: &String| {
        let mut routes = upstreams.values().flat_map(|upstream| &upstream.routes);
        routes.any(|route| route.host.as_ref().is_some_and(|host| host.as_str() == name))
    };
    let unrouted = || once("localhost".to_owned()).chain((1..).map(|n| "_".repeat(n))).find(|name| !routed(name));
    Written::directive(match host.map(HostName::as_str) {
        None => unrouted().unwrap_or_default(),
        Some(host) if host.len() > LONGEST_HASHED_NAME => format!("\"~^{}$\"", regex(host)),
        Some(host) => host.to_owned(),
    })
}

fn upstream_value(number: usize, name: &Name, upstream: &Upstream, peers: &[Peer], input: Input<'_>) -> Value {
    let tap = tap(upstream, peers, input.clients);
    let own_way = upstream.sticky.as_ref().is_some_and(|cookie| cookie.is_ours(input.nginx.has_sticky()));
    let peers = if own_way { sticky::fit(peers) } else { peers.into() };
    let balance = match upstream.balance.to_nginx() {
        _ if own_way => format!("hash $nginit_key_{number}"),
        balance => balance.unwrap_or_default(),
    };
    let sticky = upstream.sticky.as_ref().map(|cookie| sticky_value(number, cookie, own_way, &peers));
    let following = Following { groups: input.groups, resolver: input.resolver, ipv6: input.ipv6 };
    let zone_kb = live::zone_kb(peers.len(), following.group(name), &upstream.protocol);
    let routes: Vec<String> = upstream.routes.iter().map(ToString::to_string).collect();
    context! {
        name => name.upstream(),
        variable => upstream.variable.as_str(),
        balance => upstream.balance.word(),
        balance_directive => Written::directive(balance),
        sticky => Value::from(sticky),
        passing => passing::value(&upstream.passing),
        tap,
        listed => upstream.servers.len(),
        zone => format!("{zone_kb}k"),
        routes,
        protocol => upstream.protocol.word(),
        grpc => upstream.protocol.grpc,
        module => upstream.protocol.module(),
        tls => listeners::peer_tls(&upstream.protocol),
        live => following.value(name, &peers),
        servers => peers.iter().cloned().map(Value::from_object).collect::<Vec<_>>(),
    }
}

/// A cookie with nginx's own directive for it, or with what our way takes. Its variables are told apart by
/// the upstream's number, because nginx has a limit for their names.
fn sticky_value(number: usize, cookie: &Cookie, own_way: bool, peers: &[Peer]) -> Value {
    if !own_way {
        return context! { cookie => cookie.name.as_str(), directive => Written::directive(cookie.to_nginx()) };
    }
    let value = format!("\"{}=$nginit_slot_{number}$nginit_share{}\"", cookie.name, cookie.attributes());
    let homes =
        sticky::homes(peers).into_iter().map(|(cookie, key)| Value::from(vec![Value::from(cookie), Value::from(key)]));
    let places = sticky::places(peers).into_iter();
    let places = places.map(|(address, slot)| Value::from(vec![Written::directive(address), Value::from(slot)]));
    context! {
        number,
        cookie => cookie.name.as_str(),
        directive => "",
        value => Written::directive(value),
        homes => homes.collect::<Vec<_>>(),
        places => places.collect::<Vec<_>>(),
    }
}
