//! Rules in Traefik's grammar as the value of `NAME_ROUTE`, so that a label's value can be pasted.
//!
//! ```text
//! or      = and *( "||" and )
//! and     = one *( "&&" one )
//! one     = "(" or ")" | matcher "(" value *( "," value ) ")"
//! matcher = Host | HostHeader | Path | PathPrefix           in any case; several values are "or"
//! value   = "`" text "`" | """ text """                     in double quotes, "\" escapes " and \
//! ```
//!
//! That is the grammar of Traefik 2 and 3; `v1` is the one before. A rule becomes what it matches
//! as a list of routes: a conjunction is what both sides match, and one that matches nothing is
//! refused. What nginx's `server_name` and `location` cannot express is refused by its name. Depth
//! and number of routes are bounded, so no rule costs more than its text promises.
//!
//! As in Traefik, the priority of a rule is the length of its text.

mod v1;

use std::collections::{BTreeMap, BTreeSet};

use super::routes::{check_path, parse_host};
use crate::ordered::InOrder;
use crate::upstream::{HostName, PathMatch, Rewrite, Route};

/// Most routes of one rule, and most pairs that a conjunction compares.
const MOST: usize = 1000;

/// Most parentheses within one another.
const DEEPEST: usize = 32;

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The text at fault; empty for the whole.
    pub token: String,
    /// Why it is refused.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

fn fault<T>(token: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { token: token.into(), reason: reason.into(), remedy: remedy.into() })
}

/// One conjunction: what a request must have, and what becomes of its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    host: Option<HostName>,
    path: Option<PathMatch>,
    rewrite: Rewrite,
}

impl Term {
    const ANY: Self = Self { host: None, path: None, rewrite: Rewrite::Keep };

    fn host(value: &str) -> Result<Self, Fault> {
        let host = parse_host(value).or_else(|(reason, remedy)| fault(value, reason, remedy))?;
        Ok(Self { host: Some(host), ..Self::ANY })
    }

    fn path(value: &str, kind: fn(String) -> PathMatch, rewrite: Rewrite) -> Result<Self, Fault> {
        check_path(value).or_else(|(reason, remedy)| fault(value, reason, remedy))?;
        Ok(Self { path: Some(kind(value.to_owned())), rewrite, ..Self::ANY })
    }

    /// What both match, if there is anything. At most one of them rewrites.
    fn both(&self, other: &Self) -> Option<Self> {
        let host = match (&self.host, &other.host) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.as_ref().or(b.as_ref()).cloned(),
        };
        let path = match (&self.path, &other.path) {
            (Some(a), Some(b)) => Some(overlap(a, b)?),
            (a, b) => a.as_ref().or(b.as_ref()).cloned(),
        };
        let rewrite = if self.rewrite == Rewrite::Keep { &other.rewrite } else { &self.rewrite };
        Some(Self { host, path, rewrite: rewrite.clone() })
    }
}

/// The paths that both match.
fn overlap(a: &PathMatch, b: &PathMatch) -> Option<PathMatch> {
    use PathMatch::{Exact, Prefix};
    let (narrow, wide) = match (a, b) {
        (Exact(_), Prefix(_)) => (a, b),
        (Prefix(_), Exact(_)) => (b, a),
        _ if a.as_str().len() >= b.as_str().len() => (a, b),
        _ => (b, a),
    };
    let fits = match wide {
        Exact(_) => narrow == wide,
        Prefix(prefix) => narrow.as_str().starts_with(prefix),
    };
    fits.then(|| narrow.clone())
}

/// A disjunction.
type Terms = BTreeSet<Term>;

/// What both match.
fn and(left: &Terms, right: &Terms, text: &str) -> Result<Terms, Fault> {
    if left.len().saturating_mul(right.len()) > MOST {
        return fault("", format!("the rule stands for more than {MOST} routes"), "split it among several upstreams");
    }
    let both = left.iter().flat_map(|a| right.iter().filter_map(|b| a.both(b))).into_set();
    if both.is_empty() {
        return fault(text, "the rule can never match: no request has both", "use || for one or the other");
    }
    Ok(both)
}

/// What either matches.
fn or(mut left: Terms, right: Terms) -> Result<Terms, Fault> {
    left.extend(right);
    if left.len() > MOST {
        return fault("", format!("the rule stands for more than {MOST} routes"), "split it among several upstreams");
    }
    Ok(left)
}

/// The routes of a rule; nothing where the text is no rule but a list.
pub fn parse(text: &str) -> Option<Result<Vec<Route>, Fault>> {
    let (text, label) = match cut_label(unquoted(text)) {
        Ok(cut) => cut,
        Err(fault) => return Some(Err(fault)),
    };
    let word = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, rest) = text.split_at(word);
    let terms = if rest.trim_start().starts_with('(') && !text.starts_with('/') || text.starts_with('!') {
        expression(text)
    } else if rest.trim_start().starts_with(':') && v1::is_matcher(name) {
        v1::parse(text)
    } else if label {
        fault(text, "the label holds no rule", "paste a rule, such as Host(`a.example`)")
    } else {
        return None;
    };
    Some(terms.map(|terms| routes(terms, text.len())))
}

/// A text without the quotes around it.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).map_or(text, str::trim)
}

/// What stands behind the name of a rule's label, if the whole label was pasted, and whether it was.
fn cut_label(text: &str) -> Result<(&str, bool), Fault> {
    if !text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("traefik.")) {
        return Ok((text, false));
    }
    let Some((label, value)) = text.split_once(['=', ':']).filter(|(label, _)| !label.contains('/')) else {
        return Ok((text, false));
    };
    if label.trim_end().to_ascii_lowercase().ends_with(".rule") {
        return Ok((unquoted(value), true));
    }
    fault(label, "only the label of a rule is read", "paste the value of traefik.http.routers.NAME.rule")
}

/// Each host and path once. The longest prefix is taken off, as Traefik 1 does.
fn routes(terms: Terms, priority: usize) -> Vec<Route> {
    let mut routes: BTreeMap<(Option<HostName>, PathMatch), Rewrite> = BTreeMap::new();
    let length = |rewrite: &Rewrite| match rewrite {
        Rewrite::Keep => 0,
        Rewrite::Strip(path) | Rewrite::Replace(path) => path.len(),
    };
    for Term { host, path, rewrite } in terms {
        let path = path.unwrap_or_else(|| PathMatch::Prefix("/".to_owned()));
        let known = routes.entry((host, path)).or_insert(Rewrite::Keep);
        if length(&rewrite) > length(known) {
            *known = rewrite;
        }
    }
    routes.into_iter().map(|((host, path), rewrite)| Route { host, path, rewrite, priority }).collect()
}

/// What a matcher of this name that is not known is refused with.
fn unsupported<T>(name: &str) -> Result<T, Fault> {
    let reason = format!("\"{name}\" is not supported");
    let (reason, remedy) = match name.to_ascii_lowercase().as_str() {
        "hostregexp" => (reason, "write each host out: Host(`a.example`) || Host(`b.example`)"),
        "pathregexp" | "pathstripregex" | "pathprefixstripregex" => (reason, "write each prefix out with PathPrefix"),
        "addprefix" | "replacepathregex" => {
            (reason, "set NAME_REWRITE=strip or a /path, or use a template of your own")
        }
        "replacepath" | "stripprefix" => (reason, "set NAME_REWRITE to the /path, or to strip"),
        "pathstrip" | "pathprefixstrip" => (reason, "write PathPrefix, and set NAME_REWRITE=strip"),
        "hostsni" | "hostsniregexp" | "alpn" => {
            (format!("\"{name}\" is for TCP and is not supported"), "use Host, or a template of your own")
        }
        "header" | "headers" | "headerregexp" | "headersregexp" | "method" | "query" | "queryregexp" | "clientip" => {
            (reason, "route by Host, Path and PathPrefix alone, or use a template of your own")
        }
        _ => (format!("\"{name}\" is no matcher of Traefik's"), "use Host, Path or PathPrefix"),
    };
    fault(name, reason, remedy)
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Value(String),
    Open,
    Close,
    Comma,
    And,
    Or,
    Not,
}

/// The tokens, each with where it starts.
fn lex(text: &str) -> Result<Vec<(usize, Token<'_>)>, Fault> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let at = text.len() - rest.len();
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '!' => (Token::Not, 1),
            '&' if rest.starts_with("&&") => (Token::And, 2),
            '|' if rest.starts_with("||") => (Token::Or, 2),
            '`' => match rest[1..].find('`') {
                Some(end) => (Token::Value(rest[1..=end].to_owned()), end + 2),
                None => return fault(rest, "a value is not closed", "add the closing `"),
            },
            '"' => quoted(rest)?,
            _ if word > 0 => (Token::Word(&rest[..word]), word),
            _ => {
                if let Some(value) = value_before(&found, at) {
                    return fault(&text[value..], "a value stands in ` or \"", "write for example Host(`a.example`)");
                }
                let remedy = "join matchers such as Host(`a.example`) with && or ||; values stand in ` or \"";
                return fault(rest, "this is no part of a rule", remedy);
            }
        };
        found.push((at, token));
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

/// Where the value without quotes starts that goes on at `at`, if that stands where a value does.
fn value_before(found: &[(usize, Token<'_>)], at: usize) -> Option<usize> {
    let words = found.iter().rev().take_while(|(_, token)| matches!(token, Token::Word(_)));
    let start = words.last().map_or(at, |(start, _)| *start);
    let before = found.iter().rev().find(|(_, token)| !matches!(token, Token::Word(_)));
    before.is_some_and(|(_, token)| matches!(token, Token::Open | Token::Comma)).then_some(start)
}

/// The value in double quotes that `text` starts with, and its length there.
fn quoted(text: &str) -> Result<(Token<'_>, usize), Fault> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Value(value), at + 1)),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                _ => return fault(&text[at..], "an unknown escape", "put the value into backticks"),
            },
            c => value.push(c),
        }
    }
    fault(text, "a value is not closed", "add the closing \"")
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token<'a>)>,
    next: usize,
    depth: usize,
}

/// A rule of Traefik 2 or 3.
fn expression(text: &str) -> Result<Terms, Fault> {
    let mut parser = Parser { text, tokens: lex(text)?, next: 0, depth: 0 };
    let terms = parser.or()?;
    if parser.next < parser.tokens.len() {
        return fault(parser.rest(), "nothing is expected here", "join matchers with && or ||");
    }
    Ok(terms)
}

impl<'a> Parser<'a> {
    /// What is not read yet.
    fn rest(&self) -> &'a str {
        self.tokens.get(self.next).map_or("", |(at, _)| &self.text[*at..])
    }

    fn eat(&mut self, token: &Token<'_>) -> bool {
        let is = self.tokens.get(self.next).is_some_and(|(_, next)| next == token);
        self.next += usize::from(is);
        is
    }

    fn or(&mut self) -> Result<Terms, Fault> {
        let mut terms = self.and()?;
        while self.eat(&Token::Or) {
            terms = or(terms, self.and()?)?;
        }
        Ok(terms)
    }

    fn and(&mut self) -> Result<Terms, Fault> {
        let start = self.next;
        let mut terms = self.one()?;
        while self.eat(&Token::And) {
            let right = self.one()?;
            let from = self.tokens[start].0;
            let to = self.tokens.get(self.next).map_or(self.text.len(), |(at, _)| *at);
            terms = and(&terms, &right, self.text[from..to].trim_end())?;
        }
        Ok(terms)
    }

    fn one(&mut self) -> Result<Terms, Fault> {
        let (rest, remedy) = (self.rest(), "write a matcher such as Host(`a.example`)");
        let Some((_, token)) = self.tokens.get(self.next) else {
            return fault("", "the rule ends too early", remedy);
        };
        match token {
            Token::Not => {
                let remedy = "give what should not match to another upstream: its longer rule wins";
                fault(rest, "\"!\" is not supported", remedy)
            }
            Token::Open => {
                self.next += 1;
                self.depth += 1;
                if self.depth > DEEPEST {
                    return fault(rest, format!("more than {DEEPEST} parentheses within one another"), "use fewer");
                }
                let terms = self.or()?;
                self.depth -= 1;
                if !self.eat(&Token::Close) {
                    return fault(rest, "a parenthesis is not closed", "add \")\"");
                }
                Ok(terms)
            }
            Token::Word(name) => {
                let name = *name;
                self.next += 1;
                matcher(name, &self.values(rest)?)
            }
            _ => fault(rest, "a matcher is expected here", remedy),
        }
    }

    /// The values of the matcher that `rest` starts with.
    fn values(&mut self, rest: &'a str) -> Result<Vec<String>, Fault> {
        let remedy = "write for example Host(`a.example`), in a shell within single quotes";
        let mut values = Vec::new();
        let mut open = self.eat(&Token::Open);
        while open {
            let Some((_, Token::Value(value))) = self.tokens.get(self.next) else { break };
            values.push(value.clone());
            self.next += 1;
            if self.eat(&Token::Close) {
                return Ok(values);
            }
            open = self.eat(&Token::Comma);
        }
        fault(rest, "a matcher needs values in parentheses", remedy)
    }
}

/// What one of the values matches.
fn matcher(name: &str, values: &[String]) -> Result<Terms, Fault> {
    let values = values.iter().map(String::as_str);
    let terms: Result<Vec<Term>, Fault> = match name.to_ascii_lowercase().as_str() {
        "host" | "hostheader" => values.map(Term::host).collect(),
        "path" => values.map(|v| Term::path(v, PathMatch::Exact, Rewrite::Keep)).collect(),
        "pathprefix" => values.map(|v| Term::path(v, PathMatch::Prefix, Rewrite::Keep)).collect(),
        _ => unsupported(name),
    };
    or(Terms::new(), terms?.into_iter().into_set())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes_of(text: &str) -> Result<Vec<String>, String> {
        let shown = |route: Route| {
            assert_eq!(
                route.priority,
                unquoted(text).trim_end_matches('"').rsplit(".rule=").next().unwrap_or(text).len()
            );
            match &route.rewrite {
                Rewrite::Keep => route.to_string(),
                Rewrite::Strip(path) => format!("{route} -{path}"),
                Rewrite::Replace(path) => format!("{route} >{path}"),
            }
        };
        let fault = |f: Fault| format!("{}: {}; {}", f.token, f.reason, f.remedy);
        let parsed = parse(text).unwrap_or_else(|| panic!("{text} is taken for a list"));
        parsed.map(|routes| routes.into_iter().map(shown).collect()).map_err(fault)
    }

    #[test]
    fn a_rule_stands_for_routes() {
        for (text, want) in [
            ("Host(`a`)", &["a/"][..]),
            ("host(`A.Example.`)", &["a.example/"]),
            ("HostHeader(\"a\")", &["a/"]),
            ("Host(`b`, \"a\")", &["a/", "b/"]),
            ("Path(`/x`)", &["=/x"]),
            ("PathPrefix(`/x`)", &["/x"]),
            ("Host(`flats.docker.localhost`) && Path(`/api/flats`)", &["flats.docker.localhost=/api/flats"]),
            ("Host(`a`) || Host(`b`) && PathPrefix(`/x`)", &["a/", "b/x"]),
            ("(Host(`a`)||Host(`b`))&&PathPrefix(`/x`)", &["a/x", "b/x"]),
            ("( ( Host(`a`) ) )", &["a/"]),
            ("Host(`a`)\n  && (Path(`/x`)\n  || PathPrefix(`/y/`))", &["a=/x", "a/y/"]),
            ("PathPrefix(`/x`) && PathPrefix(`/x/y`)", &["/x/y"]),
            ("PathPrefix(`/x/y`) && PathPrefix(`/x`)", &["/x/y"]),
            ("PathPrefix(`/x`) && Path(`/x/y`)", &["=/x/y"]),
            ("Path(`/x`) && Path(`/x`)", &["=/x"]),
            ("Host(`a`) && Host(`A`)", &["a/"]),
            ("(Host(`a`) || Host(`b`)) && Host(`b`)", &["b/"]),
            ("Host(`a`) || PathPrefix(`/`) && Host(`a`)", &["a/"]),
            ("traefik.http.routers.x.rule=Host(`a`)", &["a/"]),
            ("\"traefik.http.routers.x.rule=Host(`a`)\"", &["a/"]),
            ("traefik.frontend.rule=Host:a", &["a/"]),
            // Traefik 1.
            (
                "Host:jokes.docker.localhost;PathPrefixStrip:/api/jokes/",
                &["jokes.docker.localhost/api/jokes/ -/api/jokes/"],
            ),
            ("Host:a", &["a/"]),
            ("Host: a , b ; PathPrefix: /x , /y", &["a/x", "a/y", "b/x", "b/y"]),
            ("Path:/x,/y", &["=/x", "=/y"]),
            ("PathStrip:/x", &["=/x -/x"]),
            ("PathPrefixStrip:/", &["/"]),
            ("PathPrefixStrip:/a,/a/b", &["/a -/a", "/a/b -/a/b"]),
            ("PathPrefix:/a/b/c;PathPrefixStrip:/a,/a/b", &["/a/b/c -/a/b"]),
            ("PathPrefix:/a/b;PathPrefixStrip:/a", &["/a/b -/a"]),
            ("Path:/api/flats;ReplacePath:/api", &["=/api/flats >/api"]),
            ("Host:a;ReplacePath:/x%20y", &["a/ >/x%20y"]),
        ] {
            assert_eq!(routes_of(text).unwrap_or_else(|e| panic!("{text}: {e}")), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_its_name() {
        for name in [
            "Headers",
            "HeadersRegexp",
            "Header",
            "HeaderRegexp",
            "Method",
            "Query",
            "QueryRegexp",
            "ClientIP",
            "HostRegexp",
            "HostSNI",
            "HostSNIRegexp",
            "ALPN",
            "PathRegexp",
            "Nonsense",
        ] {
            let refused = routes_of(&format!("Host(`a`) && {name}(`x`, `y`)")).unwrap_err();
            assert!(refused.starts_with(&format!("{name}: \"{name}\" is ")), "{refused}");
        }
        for name in [
            "HostRegexp",
            "AddPrefix",
            "ReplacePathRegex",
            "Method",
            "Headers",
            "HeadersRegexp",
            "Query",
            "PathStripRegex",
            "PathPrefixStripRegex",
        ] {
            for text in [format!("{name}:/x"), format!("Host:a;{name}:/x")] {
                let refused = routes_of(&text).unwrap_err();
                assert!(refused.starts_with(&format!("{name}: \"{name}\" is not supported")), "{refused}");
            }
        }
        for (text, refusal) in [
            ("!Host(`a`)", "!Host(`a`): \"!\" is not supported"),
            ("Host(`a`) && !Path(`/x`)", "!Path(`/x`): \"!\" is not supported"),
            ("Host(`a`) && Host(`b`)", "Host(`a`) && Host(`b`): the rule can never match"),
            ("Path(`/x`) && Path(`/y`) || Host(`a`)", "Path(`/x`) && Path(`/y`): the rule can never match"),
            ("PathPrefix(`/x`) && PathPrefix(`/y`)", "the rule can never match"),
            ("Path(`/x`) && PathPrefix(`/x/`)", "the rule can never match"),
            ("Path:/x;PathPrefix:/y", "the rule can never match"),
            ("Host(`{sub:[a-z]+}.a`)", "{sub:[a-z]+}.a: placeholders"),
            ("Path(`/{id}`)", "/{id}: placeholders"),
            ("PathPrefix:/{id:[0-9]+}", "/{id:[0-9]+}: placeholders"),
            ("Host(`a:80`)", "a:80: the host of a route has no port"),
            ("Host(`*.a`)", "wildcard"),
            ("Host(`10.0.0.1`)", "not by an IP address"),
            ("Host(``)", "not a DNS name"),
            ("Path(`x`)", "starts with \"/\""),
            ("Path(`/a;b`)", "letters, digits"),
            ("Path(`/nginit/ping`)", "nginit's own"),
            ("Host()", "needs values"),
            ("Host(a)", "Host(a): a matcher needs values"),
            ("Host(`a`,)", "needs values"),
            ("Host(`a`", "needs values"),
            ("Host(`a", "`a: a value is not closed"),
            ("Host(\"a", "a value is not closed"),
            ("Host(\"a\\x\")", "an unknown escape"),
            ("(Host(`a`)", "a parenthesis is not closed"),
            ("Host(`a`))", "): nothing is expected here"),
            ("Host(`a`) Path(`/x`)", "Path(`/x`): nothing is expected here"),
            ("Host(`a`) && ", "the rule ends too early"),
            ("Host(`a`) && && Host(`b`)", "a matcher is expected here"),
            ("Host(`a`) & Host(`b`)", "& Host(`b`): this is no part of a rule"),
            ("Host(`a`); include x;", "; include x;: this is no part of a rule"),
            ("Host(`a`) /x", "/x: this is no part of a rule"),
            ("()", "a matcher is expected here"),
            ("(", "the rule ends too early"),
            ("Host:a;", ": a part of a rule is NAME:VALUE"),
            ("Host:a;/x", "/x: a part of a rule is NAME:VALUE"),
            ("Host:a;Nonsense:b", "\"Nonsense\" is no matcher"),
            ("PathStrip:/a;ReplacePath:/b", "\"PathStrip\" and \"ReplacePath\" both change the path"),
            ("ReplacePath:/a,/b", "replaced by one path"),
            ("PathPrefixStrip:/a;PathPrefixStrip:/a", "both change the path"),
            ("traefik.http.routers.x.rule=/x", "the label holds no rule"),
            ("traefik.http.services.x.loadbalancer.server.port=80", "only the label of a rule is read"),
        ] {
            let refused = routes_of(text).unwrap_err();
            assert!(refused.contains(refusal), "{text}: {refused}");
        }
    }

    #[test]
    fn a_list_is_no_rule() {
        for text in ["", "/", "/a(b)", "=/a", "a.example/x", "a.example", "a:80/", "example:80/", "traefik.example/x=1"]
        {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn no_rule_costs_more_than_its_text() {
        let hosts = |n: usize| (0..n).map(|i| format!("Host(`h{i}`)")).collect::<Vec<_>>().join("||");
        assert_eq!(routes_of(&hosts(MOST)).unwrap().len(), MOST);
        assert!(routes_of(&hosts(MOST + 1)).unwrap_err().contains("more than 1000 routes"));
        let many = |n: usize| format!("Path({})", (0..n).map(|i| format!("`/{i}`")).collect::<Vec<_>>().join(","));
        assert_eq!(routes_of(&format!("({}) && {}", hosts(30), many(30))).unwrap().len(), 900);
        assert!(routes_of(&format!("({}) && {}", hosts(40), many(40))).unwrap_err().contains("more than 1000 routes"));
        let v1 = |n: usize| format!("Host:{};Path:/x", (0..n).map(|i| format!("h{i}")).collect::<Vec<_>>().join(","));
        assert_eq!(routes_of(&v1(MOST)).unwrap().len(), MOST);
        assert!(routes_of(&v1(MOST + 1)).unwrap_err().contains("more than 1000 routes"));
        let deep = |n: usize| format!("{}Host(`a`){}", "(".repeat(n), ")".repeat(n));
        assert!(routes_of(&deep(DEEPEST)).is_ok());
        assert!(routes_of(&deep(DEEPEST + 1)).unwrap_err().contains("parentheses"));
        assert!(routes_of(&"(".repeat(100_000)).is_err() && routes_of(&"(Host(`a`)&&".repeat(10_000)).is_err());
        assert_eq!(routes_of(&vec!["Host(`a`)"; 10_000].join(" && ")).unwrap(), ["a/"]);
    }
}
