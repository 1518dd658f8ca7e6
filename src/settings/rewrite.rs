//! The grammar of `NAME_REWRITE`: what becomes of a request's path.
//!
//! ```text
//! rewrite = "keep" | "strip" | "/path"
//! ```

use super::routes::check_segments;
use crate::upstream::{PathMatch, Rewrite, Route};

/// The longest path, in bytes; nginx takes no argument of 4,096.
const LONGEST: usize = 255;

/// What an operator asks for; for `strip`, the path that is taken off is each route's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The path stays.
    Keep,
    /// The route's own path is taken off.
    Strip,
    /// This path takes its place.
    Replace(String),
}

impl Choice {
    /// What a route with `path` does.
    pub fn of(&self, path: &PathMatch) -> Rewrite {
        match self {
            Self::Keep => Rewrite::Keep,
            Self::Strip => strip(path.as_str()),
            Self::Replace(path) => Rewrite::Replace(path.clone()),
        }
    }

    /// Gives every route its rewrite.
    pub fn apply(&self, routes: &mut [Route]) {
        for route in routes {
            route.rewrite = self.of(&route.path);
        }
    }
}

/// Taking `path` off; of `/`, nothing is left to be taken.
pub fn strip(path: &str) -> Rewrite {
    if path == "/" { Rewrite::Keep } else { Rewrite::Strip(path.to_owned()) }
}

/// What the text asks for.
///
/// # Errors
/// Reason and remedy.
pub fn parse_rewrite(text: &str) -> Result<Choice, (String, String)> {
    match text {
        "keep" => Ok(Choice::Keep),
        "strip" => Ok(Choice::Strip),
        _ => parse_path(text).map(Choice::Replace),
    }
}

/// A path that takes the place of another one: sent as it stands, so it may be encoded.
///
/// # Errors
/// Reason and remedy.
pub fn parse_path(path: &str) -> Result<String, (String, String)> {
    let refuse = |reason: &str, remedy: &str| Err((reason.to_owned(), remedy.to_owned()));
    if !path.starts_with('/') {
        return refuse("is no rewrite", "write keep, strip, or the /path that takes the place of every request's own");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._~!&()*+:@=-%".contains(&b);
    if !path.bytes().all(plain) {
        let reason = "the path may hold letters, digits and /._~!&()*+:@=-% alone";
        return refuse(reason, "encode other characters as %XX; the query of a request stays by itself");
    }
    let encoded = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !path.split('%').skip(1).all(encoded) {
        return refuse("two hexadecimal digits must follow \"%\"", "write a percent sign itself as %25");
    }
    if path.len() > LONGEST {
        return refuse("the path holds more than 255 bytes", "use a shorter one");
    }
    check_segments(path).map_err(|reason| (reason.to_owned(), "write the path without them".to_owned()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        assert_eq!(parse_rewrite("keep"), Ok(Choice::Keep));
        assert_eq!(parse_rewrite("strip"), Ok(Choice::Strip));
        assert_eq!(parse_rewrite("/a%20b/"), Ok(Choice::Replace("/a%20b/".into())));
        let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
        assert_eq!(Choice::Strip.of(&prefix("/api/")), Rewrite::Strip("/api/".into()));
        assert_eq!(Choice::Strip.of(&prefix("/")), Rewrite::Keep);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for (text, reason) in [
            ("", "is no rewrite"),
            ("Strip", "is no rewrite"),
            ("api", "is no rewrite"),
            ("/a b", "letters, digits"),
            ("/$uri", "letters, digits"),
            ("/a?b", "letters, digits"),
            ("/a;", "letters, digits"),
            ("/a\"", "letters, digits"),
            ("/%2", "hexadecimal"),
            ("/%zz", "hexadecimal"),
            ("/a/../b", "dot segments"),
            ("//a", "dot segments"),
        ] {
            let (got, _) = parse_rewrite(text).unwrap_err();
            assert!(got.contains(reason), "{text}: {got}");
        }
    }
}
