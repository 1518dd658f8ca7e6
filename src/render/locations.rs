//! Routes of all upstreams become nginx locations.
//!
//! nginx answers a request for `/api` with a redirect when there is a proxied location `/api/`
//! but none for `/api` (ngx_http_core_module, `location`). A route `/api/` does not mean `/api`,
//! so that path gets a location of its own, with the upstream that it belongs to without the
//! redirect.

use std::collections::BTreeMap;

use crate::upstream::{Name, Route, Upstreams};

/// A location and who answers in it; nobody is a 404.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location<'a> {
    /// What it matches.
    pub route: Route,
    /// Whose requests these are.
    pub upstream: Option<&'a Name>,
}

/// Every location that the routes need, in a fixed order; a last one for `/` where no route has it.
pub fn locations(upstreams: &Upstreams) -> Vec<Location<'_>> {
    let mut owners: BTreeMap<Route, Option<&Name>> = BTreeMap::new();
    for (name, upstream) in upstreams {
        for route in &upstream.routes {
            owners.insert(route.clone(), Some(name));
        }
    }
    let prefixes: Vec<(String, Option<&Name>)> = owners
        .iter()
        .filter_map(|(route, name)| match route {
            Route::Prefix(path) => Some((path.clone(), *name)),
            Route::Exact(_) => None,
        })
        .collect();
    let longest = |path: &str| {
        let fits = prefixes.iter().filter(|(prefix, _)| path.starts_with(prefix.as_str()));
        fits.max_by_key(|(prefix, _)| prefix.len()).and_then(|(_, name)| *name)
    };
    // That of an exact path redirects too.
    let paths: Vec<String> = owners.keys().map(|(Route::Exact(path) | Route::Prefix(path))| path.clone()).collect();
    for path in paths.iter().filter_map(|path| path.strip_suffix('/')).filter(|path| !path.is_empty()) {
        let owner = longest(path);
        owners.entry(Route::Exact(path.to_owned())).or_insert(owner);
    }
    owners.entry(Route::Prefix("/".to_owned())).or_insert(None);
    owners.into_iter().map(|(route, upstream)| Location { route, upstream }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Balance, Upstream};

    fn upstreams(routes: &[(&str, &[Route])]) -> Upstreams {
        let upstream = |routes: &[Route]| Upstream {
            servers: Vec::new(),
            routes: routes.to_vec(),
            balance: Balance::RoundRobin,
            variable: String::new(),
        };
        routes.iter().map(|(n, r)| (Name::new(n).unwrap(), upstream(r))).collect()
    }

    fn written(upstreams: &Upstreams) -> Vec<String> {
        let owner = |name: Option<&Name>| name.map_or("-", Name::as_str).to_owned();
        locations(upstreams).iter().map(|l| format!("{} {}", l.route, owner(l.upstream))).collect()
    }

    #[test]
    fn a_prefix_with_a_slash_does_not_redirect() {
        let exact = |p: &str| Route::Exact(p.to_owned());
        let prefix = |p: &str| Route::Prefix(p.to_owned());
        let all = upstreams(&[("A", &[prefix("/")]), ("B", &[prefix("/api/"), prefix("/x/")]), ("C", &[exact("/x")])]);
        assert_eq!(written(&all), ["=/api A", "=/x C", "/ A", "/api/ B", "/x/ B"]);
        assert_eq!(written(&upstreams(&[("B", &[prefix("/api/")])])), ["=/api -", "/ -", "/api/ B"]);
        assert_eq!(written(&upstreams(&[("A", &[prefix("/")]), ("B", &[exact("/x/")])])), ["=/x A", "=/x/ B", "/ A"]);
        assert_eq!(written(&upstreams(&[])), ["/ -"]);
    }
}
