//! Rules of Traefik 1.
//!
//! ```text
//! rule = part *( ";" part )                         all of them
//! part = name ":" value *( "," value )              one of them; blanks around are left out
//! name = Host | Path | PathPrefix | PathStrip | PathPrefixStrip | ReplacePath
//! ```

use super::super::rewrite::{self, parse_path};
use super::{Fault, Term, Terms, and, fault, or, unsupported};
use crate::upstream::{PathMatch, Rewrite};

/// Every matcher and modifier of Traefik 1, in lower case.
const NAMES: [&str; 15] = [
    "addprefix",
    "headers",
    "headersregexp",
    "host",
    "hostregexp",
    "method",
    "path",
    "pathprefix",
    "pathprefixstrip",
    "pathprefixstripregex",
    "pathstrip",
    "pathstripregex",
    "query",
    "replacepath",
    "replacepathregex",
];

/// Whether a part of a rule can start with `name`.
pub(super) fn is_matcher(name: &str) -> bool {
    NAMES.contains(&name.to_ascii_lowercase().as_str())
}

/// The terms of a rule.
pub(super) fn parse(text: &str) -> Result<Terms, Fault> {
    let mut terms = Terms::from([Term::ANY]);
    let mut modifier: Option<&str> = None;
    for part in text.split(';').map(str::trim) {
        let Some((name, values)) = part.split_once(':').map(|(name, values)| (name.trim(), values)) else {
            return fault(part, "a part of a rule is NAME:VALUE", "write for example Host:a.example;PathPrefix:/api");
        };
        let lower = name.to_ascii_lowercase();
        if matches!(lower.as_str(), "pathstrip" | "pathprefixstrip" | "replacepath")
            && let Some(other) = modifier.replace(name)
        {
            return fault(part, format!("\"{other}\" and \"{name}\" both change the path"), "keep one of the two");
        }
        let strip = |value: &str, kind| Term::path(value, kind, rewrite::strip(value));
        let mut some = Terms::new();
        for value in values.split(',').map(str::trim) {
            if value.split_once(':').is_some_and(|(name, _)| is_matcher(name.trim())) {
                return fault(value, "parts of a rule are separated by \";\"", format!("write ;{value}"));
            }
            some.insert(match lower.as_str() {
                "host" => Term::host(value)?,
                "path" => Term::path(value, PathMatch::Exact, Rewrite::Keep)?,
                "pathprefix" => Term::path(value, PathMatch::Prefix, Rewrite::Keep)?,
                "pathstrip" => strip(value, PathMatch::Exact)?,
                "pathprefixstrip" => strip(value, PathMatch::Prefix)?,
                "replacepath" => {
                    let path = parse_path(value).or_else(|(reason, remedy)| fault(value, reason, remedy))?;
                    Term { rewrite: Rewrite::Replace(path), ..Term::ANY }
                }
                _ => return unsupported(name),
            });
        }
        if lower == "replacepath" && some.len() > 1 {
            return fault(part, "a path is replaced by one path", "keep one of them");
        }
        terms = and(&terms, &or(Terms::new(), some)?, text)?;
    }
    Ok(terms)
}
