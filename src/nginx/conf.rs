//! nginx's configuration language, as far as nginit must read a file it did not write.
//!
//! Two questions only: does a file set a directive outside of any block, and where does it include
//! our directory, so that a test can read the candidate instead. Pure.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// A simple statement or the head of a block: its words, each with its place in the text.
struct Statement {
    words: Vec<Range<usize>>,
    depth: usize,
}

/// Whether `text` has the statement `directive` outside of any block.
pub fn sets(text: &str, directive: &str) -> bool {
    statements(text)
        .iter()
        .any(|s| s.depth == 0 && s.words.first().is_some_and(|word| unquote(&text[word.clone()]) == directive))
}

/// The first argument of every statement `directive`, wherever it stands.
pub fn arguments<'a>(text: &'a str, directive: &str) -> Vec<&'a str> {
    let found = statements(text).into_iter().filter_map(|s| match &s.words[..] {
        [word, argument, ..] if unquote(&text[word.clone()]) == directive => Some(unquote(&text[argument.clone()])),
        _ => None,
    });
    found.collect()
}

/// `text` with every `include` of a path under `from` made one under `to`. Relative paths start at
/// `base`, the directory of the main configuration file.
/// Also says how many includes were changed.
pub fn redirect_includes(text: &str, base: &Path, from: &Path, to: &Path) -> (String, usize) {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut changed = 0;
    for statement in statements(text) {
        let [directive, path] = &statement.words[..] else { continue };
        if unquote(&text[directive.clone()]) != "include" {
            continue;
        }
        let included = normal(&base.join(unquote(&text[path.clone()])));
        let Ok(rest) = included.strip_prefix(normal(from)) else { continue };
        out.push_str(&text[done..path.start]);
        let path_to = to.join(rest).display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        out.push_str(&format!("\"{path_to}\""));
        done = path.end;
        changed += 1;
    }
    out.push_str(&text[done..]);
    (out, changed)
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
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'#' => at += bytes[at..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - at),
            b';' | b'{' => {
                statements.push(Statement { words: std::mem::take(&mut words), depth });
                depth += usize::from(bytes[at] == b'{');
                at += 1;
            }
            b'}' => {
                depth = depth.saturating_sub(1);
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
    fn no_text_makes_it_panic() {
        for text in ["\\", "\"", "'", "#", "a\\", "$", "${", "}", "{", "\"\\\"", "é;ü{"] {
            assert!(!sets(text, "x"));
            let _ = redirect_includes(text, Path::new("/"), Path::new("/a"), Path::new("/b"));
        }
    }
}
