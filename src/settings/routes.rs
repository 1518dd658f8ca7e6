//! The grammar of `NAME_ROUTE`: which requests an upstream gets. A list, a [rule](super::rules), or `none`: those that a
//! template of the operator's sends there.
//!
//! ```text
//! list  = route *( 1*( blank | "," ) route )
//! route = [ host ] "/prefix" | [ host ] "=/exact"
//! ```
//!
//! nginx compares routes with the decoded, normalised path of a request, so a route that could
//! never match (encoded, with `//` or dot segments) is refused rather than left to be silent. A
//! host is compared without regard to case and port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::SettingsError;
use super::{rules, tokens};
use crate::log::Level;
use crate::ordered::InOrder;
use crate::upstream::{HostName, PathMatch, Rewrite, Route, Upstreams};

/// The longest path, in bytes. nginx 1.22 holds the length of a location in one byte
/// (`ngx_http_location_tree_node_t`), so that a longer one takes requests that are not its own.
const LONGEST: usize = 255;

/// Most entries of one list that are reported one by one.
const MOST_REPORTED: usize = 100;

/// Most locations of all servers. Each costs nginx some ten kilobytes, and routes without a host
/// are locations of every host.
const MOST_LOCATIONS: usize = 50_000;

/// Why a text is refused, and what to do.
type Fault = (&'static str, &'static str);

/// The routes of a list, in its order, or of a rule; `none` are none.
///
/// # Errors
/// Every refused entry of a list, counted from 1; a list without entries; the first fault of a rule.
pub fn parse_routes(variable: &str, text: &str) -> Result<Vec<Route>, Vec<SettingsError>> {
    if text.trim() == "none" {
        return Ok(Vec::new());
    }
    match rules::parse(text) {
        Some(Ok(routes)) => Ok(routes),
        Some(Err(fault)) => {
            let token = (!fault.token.is_empty()).then_some(fault.token.as_str());
            Err(vec![SettingsError::new(variable, token, fault.reason, fault.remedy)])
        }
        None => parse_list(variable, text),
    }
}

fn parse_list(variable: &str, text: &str) -> Result<Vec<Route>, Vec<SettingsError>> {
    let mut routes: Vec<Route> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    let mut more = 0;
    for (index, token) in tokens(text).enumerate() {
        let parsed = parse_route(token).and_then(|route| {
            let new = seen.insert((route.host.clone(), route.path.clone()));
            if new { Ok(route) } else { Err(("the route stands in the list twice", "remove one of them")) }
        });
        match parsed {
            Ok(route) => routes.push(route),
            Err(_) if errors.len() >= MOST_REPORTED => more += 1,
            Err((reason, remedy)) => errors.push(SettingsError {
                variable: variable.to_owned(),
                entry: Some(("route", index + 1)),
                token: Some(token.to_owned()),
                reason: reason.to_owned(),
                remedy: remedy.to_owned(),
            }),
        }
    }
    if more > 0 {
        let reason = format!("{more} more entries are refused");
        errors.push(SettingsError::new(variable, None, reason, "correct those above first"));
    }
    if routes.is_empty() && errors.is_empty() {
        let remedy = "write /prefix, =/exact, HOST/prefix or HOST=/exact, or unset the variable";
        errors.push(SettingsError::new(variable, None, "holds no route", remedy));
    }
    if errors.is_empty() { Ok(routes) } else { Err(errors) }
}

/// What routes of a list may not mean.
pub fn doubts(text: &str, routes: &[Route]) -> Vec<(Level, String)> {
    let doubt = |route: &Route| {
        let path = route.path.as_str();
        if let Some(before) = path.strip_suffix('*') {
            return Some((
                Level::Warn,
                format!(
                    "\"{route}\" takes that \"*\" alone; a route without \"=\" takes all that starts with it: \"{before}\""
                ),
            ));
        }
        let host = route.host.as_ref()?.as_str();
        let is_path = !host.contains('.') && host != "localhost";
        is_path.then(|| {
            (Level::Info, format!("\"{route}\" is for the host \"{host}\"; a path starts with \"/\": \"/{route}\""))
        })
    };
    if rules::parse(text).is_some() { Vec::new() } else { routes.iter().filter_map(doubt).collect() }
}

fn parse_route(token: &str) -> Result<Route, Fault> {
    if token.contains("://") {
        return Err(("a URL is no route", "write HOST/prefix or HOST=/exact, without a scheme"));
    }
    if token.split('/').next().is_some_and(|host| host.contains(['(', '`', '"'])) {
        return Err(("a list does not mix with rules", "write a list alone, or one rule that joins all with ||"));
    }
    let Some((host, path)) = token.find('/').map(|at| token.split_at(at)) else {
        return Err((
            "a route has a path that starts with \"/\"",
            "write /prefix, =/exact, HOST/prefix or HOST=/exact",
        ));
    };
    let (host, exact) = host.strip_suffix('=').map_or((host, false), |host| (host, true));
    let host = if host.is_empty() { None } else { Some(parse_host(host)?) };
    check_path(path)?;
    let path = if exact { PathMatch::Exact(path.to_owned()) } else { PathMatch::Prefix(path.to_owned()) };
    Ok(Route { host, path, rewrite: Rewrite::Keep, priority: token.len() })
}

/// A host as a client names it.
///
/// # Errors
/// Reason and remedy.
pub fn parse_host(text: &str) -> Result<HostName, Fault> {
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(("a route goes by a host name, not by an IP address", "write it without the host"));
    }
    if text.contains(['{', '}']) {
        return Err(PLACEHOLDER);
    }
    if text.contains('*') {
        return Err(("a host with a wildcard is not supported", "write each host, or leave the host out"));
    }
    if text.contains(':') {
        return Err(("the host of a route has no port: every port of NGINIT_LISTEN takes it", "remove the port"));
    }
    HostName::new(text).ok_or(("the host is not a DNS name", "correct it, or leave the host out"))
}

/// What of Traefik's values cannot be had from `location` and `server_name`.
const PLACEHOLDER: Fault = ("placeholders such as {name:regexp} are not supported", "write each host or prefix out");

/// Whether a location can be made of the path.
///
/// # Errors
/// Reason and remedy.
pub fn check_path(path: &str) -> Result<(), Fault> {
    if !path.starts_with('/') {
        return Err(("a path starts with \"/\"", "put \"/\" in front of it"));
    }
    if path.contains(['{', '}']) {
        return Err(PLACEHOLDER);
    }
    if path.contains('%') {
        return Err(("a route is compared with the decoded path", "write it without percent encoding"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._~!&()*+:@=-".contains(&b);
    if !path.bytes().all(plain) {
        return Err(("a route may hold letters, digits and /._~!&()*+:@=- alone", "route on a plainer prefix"));
    }
    if path.len() > LONGEST {
        return Err(("a route holds at most 255 bytes", "route on a shorter prefix"));
    }
    check_segments(path)
        .map_err(|_| ("nginx removes \"//\" and dot segments before it compares", "write the path without them"))?;
    if path.starts_with("/nginit/") {
        return Err(("paths under /nginit/ are nginit's own", "choose another path"));
    }
    Ok(())
}

/// Whether a path is the shortest spelling of itself.
///
/// # Errors
/// The reason.
pub fn check_segments(path: &str) -> Result<(), &'static str> {
    let dots = path.split('/').any(|segment| segment == "." || segment == "..");
    if dots || path.contains("//") { Err("the path holds \"//\" or dot segments") } else { Ok(()) }
}

/// More routes than nginx has memory for, if there are: reason and remedy.
pub fn too_many(upstreams: &Upstreams) -> Option<(String, &'static str)> {
    let routes = || upstreams.values().flat_map(|upstream| &upstream.routes);
    let hosts = routes().filter_map(|route| route.host.as_ref()).into_set();
    let everywhere = routes().filter(|route| route.host.is_none()).count();
    // A path that ends with a slash has a second location, for itself without the slash.
    let most = 2 * (everywhere * (hosts.len() + 1) + routes().count());
    let reason = || {
        let (hosts, all) = (hosts.len(), routes().count());
        format!("{all} routes, {everywhere} of them for each of {hosts} hosts, are too many for nginx's memory")
    };
    (most > MOST_LOCATIONS).then(|| (reason(), "use fewer, shorter prefixes, or several proxies"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_exact_paths_and_hosts_are_read_in_order() {
        let routes = parse_routes("X_ROUTE", "/b, =/a/ # c\n/ A.example/x a.example.=/").unwrap();
        let shown: Vec<String> = routes.iter().map(|r| format!("{r} {}", r.priority)).collect();
        assert_eq!(shown, ["/b 2", "=/a/ 4", "/ 1", "a.example/x 11", "a.example=/ 12"]);
        let routes = parse_routes("X_ROUTE", "/x(y) =/x(y) a.example/x(y)").unwrap();
        assert_eq!(routes.last().map(ToString::to_string).as_deref(), Some("a.example/x(y)"));
    }

    #[test]
    fn none_is_no_route_and_stands_alone() {
        assert_eq!(parse_routes("X_ROUTE", " none\n").unwrap(), []);
        assert!(parse_routes("X_ROUTE", "none /a").is_err());
    }

    #[test]
    fn what_could_not_match_is_refused() {
        for (text, reason) in [
            ("api", "has a path"),
            ("example.com", "has a path"),
            ("example.com:80/", "has no port"),
            ("host:80/", "\"80/\": the host is not a DNS name"),
            ("*.example.com/", "wildcard"),
            ("10.0.0.1/", "not by an IP address"),
            ("[::1]/", "not by an IP address"),
            ("10.0.0/", "not a DNS name"),
            ("a_b!/", "not a DNS name"),
            ("a==/", "not a DNS name"),
            ("=a/", "not a DNS name"),
            ("{sub}.a/", "placeholders"),
            ("http://a/x", "a URL is no route"),
            ("/a Host(`b`)", "route 2 \"Host(`b`)\": a list does not mix with rules"),
            ("a/ \"b\"", "a list does not mix with rules"),
            ("/a%20b", "decoded"),
            ("/a;b", "letters, digits"),
            ("/a{", "placeholders"),
            ("/a$b", "letters, digits"),
            ("/a//b", "before it compares"),
            ("a//b", "before it compares"),
            ("/a/../b", "before it compares"),
            ("=/nginit/ping", "nginit's own"),
            ("/a /a", "route 2 \"/a\": the route stands in the list twice"),
            ("a.b/ /a A.b./", "route 3 \"A.b./\": the route stands in the list twice"),
            ("", "holds no route"),
        ] {
            let got = parse_routes("X_ROUTE", text).unwrap_err();
            assert!(got[0].to_string().contains(reason), "{text}: {}", got[0]);
        }
        assert_eq!(parse_routes("X", &"% ".repeat(1000)).unwrap_err().len(), MOST_REPORTED + 1);
    }
}
