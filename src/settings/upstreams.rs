//! The variables of upstreams, `NAME_…`, become [`Upstreams`].

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use serde::Deserialize;

use super::error::{Fault, SettingsError, fault};
use super::variables as table;
use super::{
    Findings, Vars, as_set, balance, from_vars, known_route, note, or_default, parse_switch, passing, protocol,
    resolve, rewrite, routes, serf, servers, sticky,
};
use crate::log::Level;
use crate::upstream::passing::Passing;
use crate::upstream::{HostName, Name, PathMatch, Rewrite, Upstream, Upstreams};

/// How the names of an upstream's variables end.
pub(super) const SUFFIXES: &[&str] = &[
    "_BACKEND",
    "_ROUTE",
    "_REWRITE",
    "_PORT",
    "_BALANCE",
    "_STICKY",
    "_RETRY",
    "_TIMEOUT",
    "_KEEPALIVE",
    "_MAX_BODY",
    "_BUFFERING",
    "_PROTOCOL",
    "_TLS_VERIFY",
    "_TLS_NAME",
    "_TLS_CA",
    "_RESOLVE",
    "_SERF_ROLE",
];

/// The texts of one upstream, as given.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct RawUpstream {
    backend: String,
    route: String,
    rewrite: String,
    port: String,
    balance: String,
    retry: String,
    timeout: String,
    keepalive: String,
    max_body: String,
    buffering: String,
    sticky: String,
    protocol: String,
    tls_verify: String,
    tls_name: String,
    tls_ca: String,
    resolve: String,
    serf_role: String,
}

/// Every upstream whose variables are good; faults are among the findings.
pub(super) fn parse(vars: &Vars, findings: &mut Findings) -> Upstreams {
    // A sidecar may have any name.
    let names = vars.keys().filter(|variable| !variable.starts_with("NGINIT_"));
    let names: Vec<Name> = names.filter_map(|v| v.strip_suffix("_BACKEND")).filter_map(Name::new).collect();
    let mut upstreams = Upstreams::new();
    for name in names {
        if let Some(upstream) = parse_upstream(&name, vars, findings) {
            upstreams.insert(name, upstream);
        }
    }
    cookies_of_two(&upstreams, vars, findings);
    let mut owners: BTreeMap<(Option<&HostName>, &PathMatch), &Name> = BTreeMap::new();
    for (name, upstream) in &upstreams {
        for route in &upstream.routes {
            if let Some(other) = owners.insert((route.host.as_ref(), &route.path), name) {
                let variable = as_set(vars, &format!("{}_ROUTE", name.as_str()));
                let reason = format!("{} has the same route", other.upstream());
                let remedy = format!("give {} and {} different routes", other.as_str(), name.as_str());
                findings.errors.push(SettingsError::new(variable, Some(&route.to_string()), reason, remedy));
            }
        }
    }
    if let Some((reason, remedy)) = routes::too_many(&upstreams) {
        let most = upstreams.iter().max_by_key(|(_, upstream)| upstream.routes.len());
        let variable = most.map_or_else(String::new, |(name, _)| as_set(vars, &format!("{}_ROUTE", name.as_str())));
        findings.errors.push(SettingsError::new(variable, None, reason, remedy));
    }
    upstreams
}

/// Two upstreams with one cookie would take each other's clients for new ones. nginx finds cookies
/// whatever the case of their names.
fn cookies_of_two(upstreams: &Upstreams, vars: &Vars, findings: &mut Findings) {
    let mut owners: BTreeMap<String, &Name> = BTreeMap::new();
    for (name, upstream) in upstreams {
        let Some(cookie) = &upstream.sticky else { continue };
        if let Some(other) = owners.insert(cookie.name.to_ascii_lowercase(), name) {
            let variable = as_set(vars, &format!("{}_STICKY", name.as_str()));
            let reason = format!("{} has the same cookie", other.upstream());
            let remedy = format!("give {} and {} cookies of different names", other.as_str(), name.as_str());
            findings.errors.push(SettingsError::new(variable, Some(&cookie.name), reason, remedy));
        }
    }
}

fn parse_upstream(name: &Name, vars: &Vars, findings: &mut Findings) -> Option<Upstream> {
    let var = |suffix: &str| format!("{}_{suffix}", name.as_str());
    let mut raw: RawUpstream = from_vars(&format!("{}_", name.as_str()), vars, findings);
    // Kubernetes and `docker run --link` set NAME_PORT=tcp://10.0.0.1:80 for a service called NAME.
    if raw.port.contains("://") {
        let text = format!("\"{}\" is left alone: it describes a service link, not a port", var("PORT"));
        note(&mut findings.notes, Level::Info, text);
        raw.port.clear();
    }
    let texts =
        protocol::Raw { protocol: &raw.protocol, verify: &raw.tls_verify, name: &raw.tls_name, ca: &raw.tls_ca };
    let protocol = protocol::parse(name, &texts, vars, findings);
    let has_tls = protocol.as_ref().is_some_and(|protocol| protocol.tls.is_some());
    let default_port = if has_tls { table::DEFAULT_TLS_PORT } else { table::DEFAULT_PORT };
    let port_text = or_default(&raw.port, default_port);
    let port = servers::parse_port(port_text).map_err(|(reason, _)| fault(reason, "correct it or unset the variable"));
    let port = findings.check(vars, &var("PORT"), port_text, port);

    let default_balance = if name.as_str() == "STATIC" { "ip_hash" } else { "round_robin" };
    let balance_text = or_default(&raw.balance, default_balance);
    let balance = findings.check(vars, &var("BALANCE"), balance_text, balance::parse_balance(balance_text));
    let sticky_text = or_default(&raw.sticky, table::DEFAULT_STICKY);
    let cookie_name = format!("nginit_{}", name.as_str().to_ascii_lowercase());
    let sticky = findings.check(vars, &var("STICKY"), sticky_text, sticky::parse_sticky(sticky_text, &cookie_name));
    let settled = match (sticky, balance) {
        (Some(sticky), Some(balance)) => {
            let settled = sticky::settle(sticky, balance, !raw.balance.trim().is_empty());
            let names_both = |(reason, remedy)| (format!("\"{}\" {reason}", as_set(vars, &var("BALANCE"))), remedy);
            findings.check(vars, &var("STICKY"), sticky_text, settled.map_err(names_both))
        }
        _ => None,
    };

    let passing = parse_passing(name, &raw, vars, findings);
    let mut read = Reader { name, vars, findings };
    let resolve = read.value("RESOLVE", &raw.resolve, None, |text| resolve::parse_resolve(text).map(Some));
    let own_role = name.as_str().to_ascii_lowercase();
    let serf_role = read.value("SERF_ROLE", &raw.serf_role, own_role, serf::parse_role);

    let route_text = or_default(&raw.route, known_route(name.as_str()).unwrap_or_default());
    let mut routes = routes::parse_routes(&as_set(vars, &var("ROUTE")), route_text)
        .map_err(|errors| findings.errors.extend(errors))
        .ok();

    for (level, text) in routes::doubts(route_text, routes.as_deref().unwrap_or_default()) {
        note(&mut findings.notes, level, format!("\"{}\": {text}", as_set(vars, &var("ROUTE"))));
    }

    let rewrite_text = raw.rewrite.trim();
    if !rewrite_text.is_empty() {
        let own = routes.iter().flatten().any(|route| route.rewrite != Rewrite::Keep);
        let clash = || ("the rule changes the path itself".to_owned(), format!("unset it, or change {}", var("ROUTE")));
        let rewrite = if own { Err(clash()) } else { rewrite::parse_rewrite(rewrite_text) };
        let rewrite = findings.check(vars, &var("REWRITE"), rewrite_text, rewrite);
        if let (Some(routes), Some(rewrite)) = (&mut routes, rewrite) {
            rewrite.apply(routes);
        }
    }

    let variable = as_set(vars, &var("BACKEND"));
    if let Some((old, new)) = table::ALIASES.iter().find(|(old, _)| variable.starts_with(old)) {
        let text = format!("\"{old}\" is an older spelling of \"{new}\"; use the latter");
        note(&mut findings.notes, Level::Warn, text);
    }
    let list = servers::parse_servers(&variable, &raw.backend, port.unwrap_or(NonZeroU16::MIN))
        .map_err(|errors| findings.errors.extend(errors))
        .ok();
    if let (Some(list), Some((balance, cookie))) = (&list, &settled) {
        let method = if cookie.as_ref().is_some_and(|cookie| cookie.hash) {
            Some(("a hash over the cookie", format!("remove \";hash\" from {}", var("STICKY"))))
        } else if balance.allows_backup() {
            None
        } else if sticky_text == table::DEFAULT_STICKY {
            Some((balance.word(), format!("set {}=round_robin", var("BALANCE"))))
        } else {
            Some((balance.word(), format!("set {}=cookie", var("STICKY"))))
        };
        findings.errors.extend(backups_that_nginx_refuses(&variable, list, method));
        for token in &list.repeated {
            let text = format!("\"{variable}\": {token} repeats an earlier entry and counts once");
            note(&mut findings.notes, Level::Warn, text);
        }
    }
    let (balance, sticky) = settled?;
    let (servers, routes) = (list?.servers, routes?);
    let protocol = protocol::named(name, protocol?, &servers, vars, findings);
    if protocol.grpc && routes.iter().any(|route| matches!(route.rewrite, Rewrite::Replace(_))) {
        let reason = "a gRPC server takes its method from the path, which must not be replaced";
        findings.errors.push(SettingsError::new(as_set(vars, &var("PROTOCOL")), None, reason, "use strip or keep"));
    }
    Some(Upstream {
        servers,
        routes,
        balance,
        sticky,
        passing: passing?,
        protocol,
        port: port?,
        resolve: resolve?,
        serf_role: serf_role?,
        variable,
    })
}

/// How requests are passed on; where a variable is not set, the default.
fn parse_passing(name: &Name, raw: &RawUpstream, vars: &Vars, findings: &mut Findings) -> Option<Passing> {
    let mut read = Reader { name, vars, findings };
    let default = Passing::default();
    let retry = read.value("RETRY", &raw.retry, default.retry, passing::parse_retry);
    let timeouts = read.value("TIMEOUT", &raw.timeout, default.timeouts, passing::parse_timeouts);
    let keepalive = read.value("KEEPALIVE", &raw.keepalive, default.keepalive, passing::parse_keepalive);
    let max_body = read.value("MAX_BODY", &raw.max_body, default.max_body, passing::parse_max_body);
    let buffering = read.value("BUFFERING", &raw.buffering, default.buffering, parse_switch);
    Some(Passing {
        retry: retry?,
        timeouts: timeouts?,
        keepalive: keepalive?,
        max_body: max_body?,
        buffering: buffering?,
    })
}

/// Reads values that stand alone in a variable of one upstream.
struct Reader<'a> {
    name: &'a Name,
    vars: &'a Vars,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// What `parse` makes of `text`, or `default` where that is empty.
    fn value<T>(
        &mut self,
        suffix: &str,
        text: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let text = text.trim();
        let parsed = if text.is_empty() { Ok(default) } else { parse(text) };
        self.findings.check(self.vars, &format!("{}_{suffix}", self.name.as_str()), text, parsed)
    }
}

/// `backup` needs a method that knows it, and a server that is none. Of a `method` that does not, its
/// name and how to get another one.
fn backups_that_nginx_refuses(
    variable: &str,
    list: &servers::ServerList,
    method: Option<(&str, String)>,
) -> Vec<SettingsError> {
    let all = !list.servers.is_empty() && list.servers.iter().all(|s| s.params.backup);
    let (reason, remedy) = if let Some((method, other)) = method {
        (format!("{method} knows no backup servers"), format!("{other} or remove \"backup\""))
    } else if all {
        ("an upstream needs a server that is no backup".to_owned(), "remove \"backup\"".to_owned())
    } else {
        return Vec::new();
    };
    let backups = list.servers.iter().zip(&list.entries).filter(|(server, _)| server.params.backup);
    backups
        .map(|(server, entry)| SettingsError {
            variable: variable.to_owned(),
            entry: Some(("server", *entry)),
            token: Some(format!("{};backup", server.address)),
            reason: reason.clone(),
            remedy: remedy.clone(),
        })
        .collect()
}
