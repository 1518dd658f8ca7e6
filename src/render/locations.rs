//! Routes of all upstreams become nginx servers, one a host, with locations.
//!
//! nginx first chooses the server by the host, then the location by the path: an exact one, else
//! the longest prefix (ngx_http_core_module, `location`). Routes are ranked by their priority, which
//! need not agree with that. So each location gets the target that ranks highest among all routes
//! that take whatever nginx sends there, which for one location are always the same.
//!
//! nginx answers a request for `/api` with a redirect when there is a proxied location `/api/`
//! but none for `/api`. A route `/api/` does not mean `/api`, so that path gets a location of its
//! own, with the target that it has without the redirect. Locations that change nothing are left
//! out, so that a route without a host costs little in a server where a host's routes outrank it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ordered::InOrder;
use crate::upstream::{HostName, Name, PathMatch, Rewrite, Route, Upstreams};

/// What nginx answers to requests for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site<'a> {
    /// The host; nothing is all that have no site of their own.
    pub host: Option<&'a HostName>,
    /// In a fixed order, with one for the prefix `/`.
    pub locations: Vec<Location<'a>>,
}

impl<'a> Site<'a> {
    /// Where its requests go.
    pub fn targets(&self) -> impl Iterator<Item = &Target<'a>> {
        self.locations.iter().filter_map(|location| location.target.as_ref())
    }
}

/// A location and who answers in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location<'a> {
    /// What it matches.
    pub path: PathMatch,
    /// Whose requests these are; nobody's are a 404.
    pub target: Option<Target<'a>>,
}

/// Where the requests of a location go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Whose requests these are.
    pub upstream: &'a Name,
    /// What becomes of their path.
    pub rewrite: &'a Rewrite,
}

/// Every site that the routes need, first the one without a host, which is always there.
pub fn sites(upstreams: &Upstreams) -> Vec<Site<'_>> {
    let routes: Vec<(&Name, &Route)> =
        upstreams.iter().flat_map(|(name, upstream)| upstream.routes.iter().map(move |route| (name, route))).collect();
    let mut of_host: BTreeMap<Option<&HostName>, Vec<(&Name, &Route)>> = BTreeMap::new();
    of_host.insert(None, Vec::new());
    for (name, route) in routes {
        of_host.entry(route.host.as_ref()).or_default().push((name, route));
    }
    let everywhere = of_host.get(&None).cloned().unwrap_or_default();
    let mut sites = Vec::new();
    for (host, mut routes) in of_host {
        if host.is_some() {
            routes.extend(&everywhere);
        }
        sites.push(Site { host, locations: locations(&routes) });
    }
    sites
}

fn locations<'a>(routes: &[(&'a Name, &'a Route)]) -> Vec<Location<'a>> {
    let ranked = Ranked::new(routes);
    let mut paths = routes.iter().map(|(_, route)| route.path.clone()).into_set();
    // The location of an exact path redirects too.
    let slashed = routes.iter().filter_map(|(_, r)| r.path.as_str().strip_suffix('/')).filter(|path| !path.is_empty());
    paths.extend(slashed.map(|path| PathMatch::Exact(path.to_owned())));
    paths.insert(PathMatch::Prefix("/".to_owned()));
    without_idle(paths.into_iter().map(|path| Location { target: ranked.target(&path), path }).collect())
}

/// Without the locations that answer as nginx would without them.
fn without_idle(locations: Vec<Location<'_>>) -> Vec<Location<'_>> {
    let mut prefixes: BTreeMap<String, Option<Target<'_>>> = BTreeMap::new();
    let mut exact: BTreeMap<String, Option<Target<'_>>> = BTreeMap::new();
    // Exact paths come before prefixes, and each prefix before those that start with it.
    for Location { path, target } in locations {
        match path {
            PathMatch::Prefix(path) if longest(&prefixes, &path) == Some(&target) => {}
            PathMatch::Prefix(path) => drop(prefixes.insert(path, target)),
            PathMatch::Exact(path) => drop(exact.insert(path, target)),
        }
    }
    let mut kept: Vec<Location<'_>> = Vec::new();
    let mut slashed: BTreeSet<String> = BTreeSet::new();
    // The longest first: whether there is a location with one more slash is known then.
    for (path, target) in exact.into_iter().rev() {
        let with_slash = format!("{path}/");
        let redirects = slashed.contains(&with_slash) || prefixes.contains_key(&with_slash);
        if redirects || longest(&prefixes, &path) != Some(&target) {
            slashed.insert(path.clone());
            kept.push(Location { path: PathMatch::Exact(path), target });
        }
    }
    kept.reverse();
    kept.extend(prefixes.into_iter().map(|(path, target)| Location { path: PathMatch::Prefix(path), target }));
    kept
}

/// The value of the longest key that `path` starts with.
fn longest<'a, T>(prefixes: &'a BTreeMap<String, T>, path: &str) -> Option<&'a T> {
    starts(path).find_map(|start| prefixes.get(start))
}

/// Everything that `path` starts with, the longest first.
fn starts(path: &str) -> impl Iterator<Item = &str> {
    (1..=path.len()).rev().filter_map(|end| path.get(..end))
}

/// A route and whose it is, ordered by who gets a request that several take: by priority, then by
/// the host, the exact path, the longer one, and the first upstream's name.
type Rank<'a> = (usize, bool, bool, usize, Reverse<&'a Name>);

/// The highest route of each path.
struct Ranked<'a> {
    exact: BTreeMap<&'a str, (Rank<'a>, Target<'a>)>,
    prefixes: BTreeMap<&'a str, (Rank<'a>, Target<'a>)>,
}

impl<'a> Ranked<'a> {
    fn new(routes: &[(&'a Name, &'a Route)]) -> Self {
        let mut ranked = Self { exact: BTreeMap::new(), prefixes: BTreeMap::new() };
        for (upstream, route) in routes {
            let exact = matches!(route.path, PathMatch::Exact(_));
            let rank = (route.priority, route.host.is_some(), exact, route.path.as_str().len(), Reverse(*upstream));
            let target = Target { upstream, rewrite: &route.rewrite };
            let known = if exact { &mut ranked.exact } else { &mut ranked.prefixes };
            let highest = known.entry(route.path.as_str()).or_insert((rank, target));
            if rank > highest.0 {
                *highest = (rank, target);
            }
        }
        ranked
    }

    /// Who gets what nginx sends to the location of `path`.
    fn target(&self, path: &PathMatch) -> Option<Target<'a>> {
        let exact = if matches!(path, PathMatch::Exact(_)) { self.exact.get(path.as_str()) } else { None };
        let prefixes = starts(path.as_str()).filter_map(|start| self.prefixes.get(start));
        exact.into_iter().chain(prefixes).max_by_key(|(rank, _)| rank).map(|(_, target)| *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::routes::parse_routes;
    use crate::upstream::Upstream;

    fn upstreams(routes: &[(&str, &str)]) -> Upstreams {
        let upstream =
            |routes: &str| Upstream { routes: parse_routes("X_ROUTE", routes).unwrap(), ..Upstream::sample() };
        routes.iter().map(|(n, r)| (Name::new(n).unwrap(), upstream(r))).collect()
    }

    fn written(upstreams: &Upstreams) -> Vec<String> {
        let mut written = Vec::new();
        for site in sites(upstreams) {
            let host = site.host.map_or("", HostName::as_str);
            for location in site.locations {
                let owner = location.target.map_or("-", |target| target.upstream.as_str());
                written.push(format!("{host}{} {owner}", location.path));
            }
        }
        written
    }

    #[test]
    fn a_prefix_with_a_slash_does_not_redirect() {
        let all = upstreams(&[("A", "/"), ("B", "/api/ /x/"), ("C", "=/x")]);
        assert_eq!(written(&all), ["=/api A", "=/x C", "/ A", "/api/ B", "/x/ B"]);
        assert_eq!(written(&upstreams(&[("B", "/api/")])), ["=/api -", "/ -", "/api/ B"]);
        assert_eq!(written(&upstreams(&[("A", "/"), ("B", "=/x/")])), ["=/x A", "=/x/ B", "/ A"]);
        assert_eq!(written(&upstreams(&[])), ["/ -"]);
    }

    /// A request's upstream by the rules alone: all routes that take it, the highest of them.
    fn modelled<'a>(all: &'a Upstreams, host: &str, path: &str) -> Option<(&'a str, &'a Rewrite)> {
        let takes = |route: &Route| {
            let host = route.host.as_ref().is_none_or(|own| own.as_str() == host);
            host && match &route.path {
                PathMatch::Exact(own) => own == path,
                PathMatch::Prefix(own) => path.starts_with(own),
            }
        };
        let mut best: Option<(&str, &Route)> = None;
        for (name, upstream) in all {
            for route in upstream.routes.iter().filter(|route| takes(route)) {
                let key = |r: &Route| {
                    let exact = matches!(r.path, PathMatch::Exact(_));
                    (r.priority, r.host.is_some(), exact, r.path.as_str().len())
                };
                if best.is_none_or(|(_, other)| key(route) > key(other)) {
                    best = Some((name.as_str(), route));
                }
            }
        }
        best.map(|(name, route)| (name, &route.rewrite))
    }

    /// A request's upstream by what nginx does with the locations; nothing inside where it redirects.
    fn answered<'a>(sites: &'a [Site<'a>], host: &str, path: &str) -> Option<Option<(&'a str, &'a Rewrite)>> {
        let named = |site: &&Site<'_>| site.host.is_some_and(|own| own.as_str() == host);
        let site = sites.iter().find(named).unwrap_or(&sites[0]);
        let find = |wanted: PathMatch| site.locations.iter().find(|location| location.path == wanted);
        let redirects = || {
            let slashed = format!("{path}/");
            let both = [PathMatch::Exact(slashed.clone()), PathMatch::Prefix(slashed)];
            both.into_iter().any(|path| find(path).is_some_and(|location| location.target.is_some()))
        };
        let location = match find(PathMatch::Exact(path.to_owned())) {
            Some(location) => location,
            None if redirects() => return None,
            None => starts(path).find_map(|start| find(PathMatch::Prefix(start.to_owned()))).unwrap(),
        };
        Some(location.target.map(|target| (target.upstream.as_str(), target.rewrite)))
    }

    const PATHS: [&str; 10] = ["/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/b/c", "/b", "/b/", "/abc"];

    fn check(all: &Upstreams) {
        let sites = sites(all);
        for host in ["x", "y", "other"] {
            for path in PATHS {
                let (wanted, got) = (modelled(all, host, path), answered(&sites, host, path));
                assert_eq!(got, Some(wanted), "{host}{path} of {all:#?}");
            }
        }
        for site in &sites {
            let paths: BTreeSet<&PathMatch> = site.locations.iter().map(|location| &location.path).collect();
            assert_eq!(paths.len(), site.locations.len(), "a location stands there twice");
        }
    }

    fn route(host: Option<&str>, path: PathMatch, priority: Option<usize>, rewrite: Rewrite) -> Route {
        let host = host.map(|host| HostName::new(host).unwrap());
        let mut route = Route { host, path, rewrite, priority: 0 };
        route.priority = priority.unwrap_or(route.to_string().len());
        route
    }

    fn group(owned: &[(usize, Route)]) -> Upstreams {
        let upstream = |index: usize| Upstream {
            routes: owned.iter().filter(|(owner, _)| *owner == index).map(|(_, route)| route.clone()).collect(),
            ..Upstream::sample()
        };
        ["A", "B"].iter().enumerate().map(|(index, name)| (Name::new(name).unwrap(), upstream(index))).collect()
    }

    /// Every set of routes that can be made of one host and none, the paths `/`, `/a` and `/a/` and
    /// both kinds, each of which no upstream has, one, or the other.
    #[test]
    fn every_set_of_a_few_routes_answers_as_the_model() {
        let kinds = [PathMatch::Exact, PathMatch::Prefix];
        let universe: Vec<Route> = [None, Some("x")]
            .iter()
            .flat_map(|host| ["/", "/a", "/a/"].map(|path| (host, path)))
            .flat_map(|(host, path)| kinds.map(|kind| route(*host, kind(path.to_owned()), None, Rewrite::Keep)))
            .filter(|route| route.to_string() != "x=/")
            .collect();
        assert_eq!(universe.len(), 11);
        for set in 0..3_u32.pow(11) {
            let mut rest = set;
            let mut owned = Vec::new();
            for route in &universe {
                let owner = usize::try_from(rest % 3).unwrap();
                rest /= 3;
                if owner < 2 {
                    owned.push((owner, route.clone()));
                }
            }
            check(&group(&owned));
        }
    }

    /// Every three routes of a larger universe, with every order of priorities among them, and with
    /// rewrites.
    #[test]
    fn every_three_routes_with_any_priorities_answer_as_the_model() {
        let kinds = [PathMatch::Exact, PathMatch::Prefix];
        let places: Vec<(Option<&str>, PathMatch)> = [None, Some("x"), Some("y")]
            .iter()
            .flat_map(|host| ["/", "/a", "/a/", "/a/b", "/ab"].map(|path| (*host, path)))
            .flat_map(|(host, path)| kinds.map(|kind| (host, kind(path.to_owned()))))
            .collect();
        let priorities =
            [[1, 1, 1], [1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1], [1, 1, 2], [2, 2, 1]];
        for (i, first) in places.iter().enumerate() {
            for (j, second) in places.iter().enumerate().skip(i + 1) {
                for third in &places[j + 1..] {
                    for [p, q, r] in priorities {
                        let made = |(host, path): &(Option<&str>, PathMatch), priority, strip: bool| {
                            let rewrite = if strip { Rewrite::Strip("/a".to_owned()) } else { Rewrite::Keep };
                            route(*host, path.clone(), Some(priority), rewrite)
                        };
                        check(&group(&[
                            (0, made(first, p, false)),
                            (1, made(second, q, false)),
                            (0, made(third, r, true)),
                        ]));
                    }
                }
            }
        }
    }

    #[test]
    fn what_changes_nothing_is_left_out() {
        let all = upstreams(&[("A", "/ /a /a/b"), ("B", "/a/b/c x.example/"), ("C", "/averylongpath")]);
        let want = ["/ A", "/a/b/c B", "/averylongpath C", "x.example/ B", "x.example/averylongpath C"];
        assert_eq!(written(&all), want);
    }
}
