//! nginx's configuration language, as far as nginit must read a file it did not write.
//!
//! What a file sets outside of any block, what it names, and where it includes our directory, so that a
//! test can read the candidate instead. Pure.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// A simple statement or the head of a block: its words, each with its place in the text.
struct Statement {
    words: Vec<Range<usize>>,
    /// Where its `;` or `{` is.
    end: usize,
    /// The head of the block that it stands in, as an index.
    block: Option<usize>,
}

/// A statement and where it stands.
#[derive(Debug)]
pub struct Placed<'a> {
    /// Its words, without their quotes.
    pub words: Vec<&'a str>,
    /// The line of its `;` or `{`, counted from 1: the one that nginx names.
    pub line: usize,
    /// The head of the block that it stands in, as an index into the same list; none is outside of any.
    pub block: Option<usize>,
    /// Whether it is the head of a block.
    pub opens: bool,
}

/// Whether `text` has the statement `directive` outside of any block.
pub fn sets(text: &str, directive: &str) -> bool {
    statements(text)
        .iter()
        .any(|s| s.block.is_none() && s.words.first().is_some_and(|word| unquote(&text[word.clone()]) == directive))
}

/// The first argument of the first statement `directive` outside of any block.
pub fn setting<'a>(text: &'a str, directive: &str) -> Option<&'a str> {
    statements(text).into_iter().filter(|s| s.block.is_none()).find_map(|s| match &s.words[..] {
        [word, argument, ..] if unquote(&text[word.clone()]) == directive => Some(unquote(&text[argument.clone()])),
        _ => None,
    })
}

/// The first argument of every statement `directive`, wherever it stands.
pub fn arguments<'a>(text: &'a str, directive: &str) -> Vec<&'a str> {
    let found = statements(text).into_iter().filter_map(|s| match &s.words[..] {
        [word, argument, ..] if unquote(&text[word.clone()]) == directive => Some(unquote(&text[argument.clone()])),
        _ => None,
    });
    found.collect()
}

/// Every statement, wherever it stands, as its words without their quotes.
pub fn words(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let unquoted = |words: Vec<Range<usize>>| words.into_iter().map(|word| unquote(&text[word])).collect();
    statements(text).into_iter().map(move |statement| unquoted(statement.words))
}

/// Every statement with its place, in the order of the text.
pub fn placed(text: &str) -> Vec<Placed<'_>> {
    let (mut line, mut counted) = (1, 0);
    let place = |statement: Statement| {
        let Statement { words, end, block } = statement;
        line += text.as_bytes()[counted..end].iter().filter(|b| **b == b'\n').count();
        counted = end;
        let words = words.into_iter().map(|word| unquote(&text[word])).collect();
        Placed { words, line, block, opens: text.as_bytes()[end] == b'{' }
    };
    statements(text).into_iter().map(place).collect()
}

/// `path` as one word, whatever it holds.
pub fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// `text` with each argument that `change` gives a path for replaced by that. It is asked with all
/// words of the statement, and the argument. Also says how many were replaced.
pub fn replaced(text: &str, change: impl Fn(&[&str], &str) -> Option<PathBuf>) -> (String, usize) {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut count = 0;
    for statement in statements(text) {
        let words: Vec<&str> = statement.words.iter().map(|word| unquote(&text[word.clone()])).collect();
        for (range, argument) in statement.words.iter().zip(&words).skip(1) {
            let Some(path) = change(&words, argument) else { continue };
            out.push_str(&text[done..range.start]);
            out.push_str(&quoted(&path));
            done = range.end;
            count += 1;
        }
    }
    out.push_str(&text[done..]);
    (out, count)
}

/// `text` with the relative paths that lead out of `base`, its file's directory, made absolute. Those
/// that start at nginx's prefix instead mean the same wherever the file stands.
pub fn anchored(text: &str, base: &Path) -> String {
    let of_prefix = |directive: &str| {
        ["_log", "_path"].iter().any(|end| directive.ends_with(end))
            || ["pid", "lock_file", "load_module", "root", "alias"].contains(&directive)
    };
    let climbs = |argument: &str| {
        let mut components = Path::new(argument).components();
        components.find(|component| *component != Component::CurDir) == Some(Component::ParentDir)
    };
    replaced(text, |words, argument| (climbs(argument) && !of_prefix(words[0])).then(|| base.join(argument))).0
}

/// `text` with every `include` of a path under `from` made one under `to`. Relative paths start at
/// `base`, the directory of the main configuration file.
/// Also says how many includes were changed.
pub fn redirect_includes(text: &str, base: &Path, from: &Path, to: &Path) -> (String, usize) {
    let from = normal(from);
    replaced(text, |words, path| {
        let ["include", _] = words else { return None };
        Some(to.join(normal(&base.join(path)).strip_prefix(&from).ok()?))
    })
}

/// Whether an `include` of `text` reads the file `name` of the directory `dir`.
pub fn includes(text: &str, base: &Path, dir: &Path, name: &str) -> bool {
    words(text).any(|words| match words[..] {
        ["include", path] => {
            let path = normal(&base.join(path));
            let pattern = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            path.parent() == Some(&normal(dir)) && matches(pattern.as_bytes(), name.as_bytes())
        }
        _ => false,
    })
}

/// Whether a pattern with `*` and `?` stands for `name` (glob(7); sets are taken for no match).
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        ([b'?', rest @ ..], [_, tail @ ..]) => matches(rest, tail),
        ([a, rest @ ..], [b, tail @ ..]) => a == b && matches(rest, tail),
        _ => false,
    }
}

/// The path without `.` and `..`, as text alone tells.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

fn unquote(word: &str) -> &str {
    let inner = |quote: char| word.strip_prefix(quote).and_then(|w| w.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

/// The statements of `text` as `ngx_conf_read_token` in nginx's src/core/ngx_conf_file.c splits
/// it: words end at blanks, `;` and `{`; quotes and backslashes protect; `#` starts a comment
/// where a word could start.
fn statements(text: &str) -> Vec<Statement> {
    let bytes = text.as_bytes();
    let mut statements = Vec::new();
    let mut words = Vec::new();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'#' => at += bytes[at..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - at),
            b';' | b'{' => {
                statements.push(Statement {
                    words: std::mem::take(&mut words),
                    end: at,
                    block: blocks.last().copied(),
                });
                if bytes[at] == b'{' {
                    blocks.push(statements.len() - 1);
                }
                at += 1;
            }
            b'}' => {
                blocks.pop();
                at += 1;
            }
            b if b.is_ascii_whitespace() => at += 1,
            _ => {
                let end = word_end(bytes, at);
                words.push(at..end);
                at = end;
            }
        }
    }
    statements
}

/// Where the word that starts at `start` ends.
fn word_end(bytes: &[u8], start: usize) -> usize {
    let quote = Some(bytes[start]).filter(|b| *b == b'"' || *b == b'\'');
    let mut at = start + usize::from(quote.is_some());
    while at < bytes.len() {
        match (bytes[at], quote) {
            (b'\\', _) => at += 1,
            (b, Some(quote)) if b == quote => return at + 1,
            // "${" opens a variable's name, not a block.
            (b'$', None) if bytes.get(at + 1) == Some(&b'{') => at += 1,
            (b, None) if b.is_ascii_whitespace() || b == b';' || b == b'{' => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "user nginx; # daemon off;\nworker_processes auto;\nevents { worker_connections 1; }\n\
        http {\n  include /etc/nginx/mime.types;\n  log_format main '$a \"; daemon off; {';\n  include conf.d/*.conf;\n  \
        include \"/etc/nginx/./conf.d/a.conf\";\n  daemon on;\n}\n";

    #[test]
    fn a_directive_counts_outside_of_blocks_and_comments() {
        assert!(sets(MAIN, "worker_processes") && sets(MAIN, "user") && sets(MAIN, "http"));
        assert!(!sets(MAIN, "daemon") && !sets(MAIN, "worker_connections"));
        assert_eq!(arguments(MAIN, "include").len(), 3);
        assert_eq!(arguments("http { server { listen 80 x; listen '[::]:80'; } }", "listen"), ["80", "[::]:80"]);
        assert_eq!((setting(MAIN, "worker_processes"), setting(MAIN, "daemon")), (Some("auto"), None));
        assert_eq!(setting("daemon \"on\"; daemon off;", "daemon"), Some("on"));
        assert!(sets("daemon off;", "daemon") && !sets("", "daemon") && !sets("x${daemon", "daemon"));
    }

    #[test]
    fn includes_of_one_directory_are_redirected() {
        let (text, changed) =
            redirect_includes(MAIN, Path::new("/etc/nginx"), Path::new("/etc/nginx/conf.d"), Path::new("/stage"));
        assert_eq!(changed, 2);
        assert!(text.contains("include \"/stage/*.conf\";\n") && text.contains("include \"/stage/a.conf\";"), "{text}");
        assert!(text.contains("include /etc/nginx/mime.types;"));
        let back = text.replace("\"/stage/*.conf\"", "conf.d/*.conf");
        assert_eq!(back.replace("\"/stage/a.conf\"", "\"/etc/nginx/./conf.d/a.conf\""), MAIN, "nothing else changes");
    }

    #[test]
    fn paths_that_climb_are_made_absolute_unless_they_start_at_the_prefix() {
        let kept = "include a/../b; x ..a; root ../html; access_log ../log main; proxy_cache_path ../cache;\n";
        let text = format!("{kept}ssl_certificate ./../\"certs/a.pem; include '../shared/*.conf';");
        let anchored = anchored(&text, Path::new("/etc/nginx"));
        let rest = anchored.strip_prefix(kept).unwrap();
        assert_eq!(
            rest,
            "ssl_certificate \"/etc/nginx/./../\\\"certs/a.pem\"; include \"/etc/nginx/../shared/*.conf\";"
        );
    }

    #[test]
    fn statements_have_the_place_that_nginx_names() {
        let text = "a;\n# b {\nhttp\n{ server {\n  listen\n    80;\n} map 'x;' y { }\n}\nz;";
        let placed: Vec<_> = placed(text).into_iter().map(|p| (p.words.join(" "), p.line, p.block, p.opens)).collect();
        let expected = [
            ("a", 1, None, false),
            ("http", 4, None, true),
            ("server", 4, Some(1), true),
            ("listen 80", 6, Some(2), false),
            ("map x; y", 7, Some(1), true),
            ("z", 9, None, false),
        ];
        assert_eq!(placed, expected.map(|(words, line, block, opens)| (words.to_owned(), line, block, opens)));
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["\\", "\"", "'", "#", "a\\", "$", "${", "}", "{", "\"\\\"", "é;ü{"] {
            assert!(!sets(text, "x"));
            let _ = redirect_includes(text, Path::new("/"), Path::new("/a"), Path::new("/b"));
            let _ = (anchored(text, Path::new("/")), setting(text, "x"), placed(text));
        }
    }

    #[test]
    fn a_pattern_includes_what_it_stands_for() {
        let includes = |path: &str| {
            super::includes(&format!("http {{ include {path}; }}"), Path::new("/e"), Path::new("/e/conf.d"), "a-b.conf")
        };
        for yes in ["conf.d/*.conf", "/e/conf.d/*", "/e/./conf.d/a*", "\"conf.d/a?b.conf\"", "conf.d/a-b.conf"] {
            assert!(includes(yes), "{yes}");
        }
        for no in ["conf.d/default.conf", "*.conf", "/conf.d/*.conf", "conf.d/*/*.conf", "conf.d/b*"] {
            assert!(!includes(no), "{no}");
        }
    }
}
