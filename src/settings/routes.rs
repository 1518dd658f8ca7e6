//! The grammar of `NAME_ROUTE`: which paths an upstream gets.
//!
//! ```text
//! list  = route *( 1*( blank | "," ) route )
//! route = "/prefix" | "=/exact"
//! ```
//!
//! nginx compares routes with the decoded, normalised path of a request, so a route that could
//! never match (encoded, with `//` or dot segments) is refused rather than left to be silent.

use super::error::SettingsError;
use super::tokens;
use crate::upstream::Route;

/// The longest path, in bytes. nginx 1.22 holds the length of a location in one byte
/// (`ngx_http_location_tree_node_t`), so that a longer one takes requests that are not its own.
const LONGEST: usize = 255;

/// The routes of a list, in its order.
///
/// # Errors
/// Every refused entry, counted from 1; a list without entries.
pub fn parse_routes(variable: &str, text: &str) -> Result<Vec<Route>, Vec<SettingsError>> {
    let mut routes = Vec::new();
    let mut errors = Vec::new();
    for (index, token) in tokens(text).enumerate() {
        let parsed = parse_route(token).and_then(|route| {
            let twice = routes.contains(&route);
            if twice { Err(("the route stands in the list twice", "remove one of them")) } else { Ok(route) }
        });
        match parsed {
            Ok(route) => routes.push(route),
            Err((reason, remedy)) => errors.push(SettingsError {
                variable: variable.to_owned(),
                entry: Some(("route", index + 1)),
                token: Some(token.to_owned()),
                reason: reason.to_owned(),
                remedy: remedy.to_owned(),
            }),
        }
    }
    if routes.is_empty() && errors.is_empty() {
        let remedy = "write /prefix or =/exact, or unset the variable";
        errors.push(SettingsError::new(variable, None, "holds no route", remedy));
    }
    if errors.is_empty() { Ok(routes) } else { Err(errors) }
}

fn parse_route(token: &str) -> Result<Route, (&'static str, &'static str)> {
    let (exact, path) = token.strip_prefix('=').map_or((false, token), |path| (true, path));
    if !path.starts_with('/') {
        return Err(("a route starts with \"/\"", "write /prefix or =/exact; routes by host are not supported"));
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
    let dots = path.split('/').any(|segment| segment == "." || segment == "..");
    if dots || path.contains("//") {
        return Err(("nginx removes \"//\" and dot segments before it compares", "write the path without them"));
    }
    if path.starts_with("/nginit/") {
        return Err(("paths under /nginit/ are nginit's own", "choose another path"));
    }
    let path = path.to_owned();
    Ok(if exact { Route::Exact(path) } else { Route::Prefix(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_exact_paths_are_read_in_order() {
        let routes = parse_routes("X_ROUTE", "/b, =/a/ # c\n/").unwrap();
        assert_eq!(routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/b", "=/a/", "/"]);
    }

    #[test]
    fn what_could_not_match_is_refused() {
        for (text, reason) in [
            ("api", "starts with"),
            ("example.com/", "by host are not supported"),
            ("/a%20b", "decoded"),
            ("/a;b", "letters, digits"),
            ("/a{", "letters, digits"),
            ("/a$b", "letters, digits"),
            ("/a//b", "before it compares"),
            ("/a/../b", "before it compares"),
            ("=/nginit/ping", "nginit's own"),
            ("/a /a", "route 2 \"/a\": the route stands in the list twice"),
            ("", "holds no route"),
        ] {
            let got = parse_routes("X_ROUTE", text).unwrap_err();
            assert!(got[0].to_string().contains(reason), "{text}: {}", got[0]);
        }
    }
}
