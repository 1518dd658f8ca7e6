//! What rendered files are checked against: real nginx, and a reader of nginx's language that
//! shares nothing with the program's own.

#![allow(dead_code, reason = "no single test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use nginit::nginx::facts::Version;
use nginit::upstream::Files;

/// Real nginx, and a directory to test files in.
pub struct Oracle {
    nginx: PathBuf,
    /// Its version.
    pub version: Version,
    dir: tempfile::TempDir,
}

impl Oracle {
    pub fn new(nginx: PathBuf) -> Self {
        let found = nginit::nginx::find(nginx.to_str().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        let own = dir.path().display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("    {name}_temp_path {own}/{name};\n"))
            .collect();
        let main = format!(
            "pid {own}/nginx.pid;\nerror_log stderr notice;\nevents {{}}\n\
             http {{\n{temp}    access_log off;\n    include conf.d/*.conf;\n}}\n"
        );
        fs::write(dir.path().join("nginx.conf"), main).unwrap();
        Self { nginx, version: found.facts.version, dir }
    }

    /// Whether nginx accepts `files` as its conf.d.
    ///
    /// # Errors
    /// What nginx printed.
    pub fn test(&self, files: &Files) -> Result<(), String> {
        for (name, text) in files {
            fs::write(self.dir.path().join("conf.d").join(name), text).unwrap();
        }
        let output = Command::new(&self.nginx)
            .arg("-t")
            .arg("-p")
            .arg(self.dir.path())
            .arg("-c")
            .arg(self.dir.path().join("nginx.conf"))
            .output()
            .unwrap();
        for name in files.keys() {
            fs::remove_file(self.dir.path().join("conf.d").join(name)).unwrap();
        }
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || only_the_machine_refuses(&printed) { Ok(()) } else { Err(printed) }
    }

    /// The same for one file.
    ///
    /// # Errors
    /// What nginx printed.
    pub fn test_text(&self, text: &str) -> Result<(), String> {
        self.test(&Files::from([("default.conf".to_owned(), text.to_owned())]))
    }
}

/// `nginx -t` also binds its ports, once everything is read and accepted. An address that this
/// machine lacks, or a low port without root, says nothing about the files.
fn only_the_machine_refuses(printed: &str) -> bool {
    let mut refusals = printed.lines().filter(|line| line.contains("[emerg]")).peekable();
    refusals.peek().is_some()
        && refusals.all(|line| line.contains("[emerg] bind() to ") || line.contains("[emerg] socket() "))
}

/// A statement of nginx's language: its words without quotes and escapes, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub words: Vec<String>,
    /// The blocks that it is in, by their first word.
    pub inside: Vec<String>,
    /// It opens a block.
    pub opens: bool,
}

impl Statement {
    pub fn name(&self) -> &str {
        &self.words[0]
    }
}

/// The statements of `text`, as the state machine of `ngx_conf_read_token` in nginx's
/// src/core/ngx_conf_file.c reads them; nothing where nginx finds a syntax error.
pub fn statements(text: &str) -> Option<Vec<Statement>> {
    let mut found = Vec::new();
    let mut inside: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let (mut escaped, mut comment, mut variable, mut after_quote, mut between) = (false, false, false, false, true);
    let mut quote: Option<char> = None;
    for c in text.chars() {
        let blank = matches!(c, ' ' | '\t' | '\r' | '\n');
        let mut ends = None;
        if comment {
            comment = c != '\n';
            continue;
        }
        if escaped {
            escaped = false;
            match c {
                '"' | '\'' | '\\' => word.push(c),
                't' => word.push('\t'),
                'r' => word.push('\r'),
                'n' => word.push('\n'),
                _ => word.extend(['\\', c]),
            }
            continue;
        }
        if after_quote {
            match c {
                _ if blank => {
                    (between, after_quote) = (true, false);
                    continue;
                }
                ';' | '{' => ends = Some(c),
                ')' => (between, after_quote) = (true, false),
                _ => return None,
            }
        }
        if ends.is_some() {
        } else if between {
            match c {
                _ if blank => continue,
                ';' | '{' if words.is_empty() => return None,
                ';' | '{' => ends = Some(c),
                '}' => {
                    if !words.is_empty() || inside.pop().is_none() {
                        return None;
                    }
                    continue;
                }
                '#' => comment = true,
                '\\' => (escaped, between) = (true, false),
                '"' | '\'' => (quote, between) = (Some(c), false),
                _ => {
                    (variable, between) = (c == '$', false);
                    word.push(c);
                }
            }
        } else if c == '{' && variable {
            word.push(c);
        } else {
            variable = c == '$';
            match quote {
                _ if c == '\\' => escaped = true,
                Some(open) if c == open => {
                    (quote, after_quote) = (None, true);
                    words.push(std::mem::take(&mut word));
                }
                None if blank || c == ';' || c == '{' => {
                    between = true;
                    words.push(std::mem::take(&mut word));
                    ends = Some(c).filter(|_| !blank);
                }
                _ => word.push(c),
            }
        }
        if let Some(end) = ends {
            (between, after_quote) = (true, false);
            let statement = Statement { words: std::mem::take(&mut words), inside: inside.clone(), opens: end == '{' };
            if statement.opens {
                inside.push(statement.name().to_owned());
            }
            found.push(statement);
        }
    }
    let done = words.is_empty() && word.is_empty() && inside.is_empty() && between && !escaped && quote.is_none();
    done.then_some(found)
}

/// What nginx is told of one server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub address: Place,
    /// Parameters with their values; flags have none.
    pub params: BTreeMap<String, Option<u64>>,
}

/// Where a peer is, as a value, so that two spellings of one address are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Socket(SocketAddr),
    Unix(String),
}

/// The peers of each `upstream` block, in the order in which they stand.
pub fn upstreams(statements: &[Statement]) -> BTreeMap<String, Vec<Peer>> {
    let mut found: BTreeMap<String, Vec<Peer>> = BTreeMap::new();
    let mut current = String::new();
    for statement in statements {
        if statement.name() == "upstream" {
            current = statement.words[1].clone();
            assert!(found.insert(current.clone(), Vec::new()).is_none(), "upstream {current} stands there twice");
        }
        if statement.name() == "server" && statement.inside == ["upstream"] {
            found.get_mut(&current).unwrap().push(peer(&statement.words[1..]));
        }
    }
    found
}

fn peer(words: &[String]) -> Peer {
    let (address, params) = words.split_first().unwrap();
    let address = match address.strip_prefix("unix:") {
        Some(path) => Place::Unix(path.to_owned()),
        None => Place::Socket(address.parse().unwrap_or_else(|_| panic!("{address:?} is no address"))),
    };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    let params = params.iter().map(|param| match param.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(number(value))),
        None => (param.clone(), None),
    });
    Peer { address, params: params.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_takes_what_nginx_takes() {
        let text = "a 'b;{' \"c\\\"\\n\" ${d}e\\;f; # g;\nh { i j\\\\; \"k\"; }\nif (\"a\") { b; }";
        let shown: Vec<String> = statements(text)
            .unwrap()
            .iter()
            .map(|s| format!("{}{}{}", s.inside.join("/"), if s.opens { ">" } else { "=" }, s.words.join("|")))
            .collect();
        assert_eq!(shown, ["=a|b;{|c\"\n|${d}e\\;f", ">h", "h=i|j\\", "h=k", ">if|(\"a\")", "if=b"]);
        for bad in ["a", "a;}", "{", ";", "a {", "\"a\"b;", "'a;", "a }", "a; \\", "a; b"] {
            assert_eq!(statements(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_reader_and_nginx_refuse_the_same() {
        let Some(nginx) = crate::support::nginx() else { return };
        let oracle = Oracle::new(nginx);
        for (text, fine) in [
            ("map $uri $b { default \"x;{\"; 'y' z; }", true),
            ("map $uri $b { default x;; }", false),
            ("map $uri $b { \"x\"y z; }", false),
            ("map $uri $b { x 'y; }", false),
            ("map $uri $b { x y; } # }", true),
            ("map $uri $b { x y }", false),
        ] {
            assert_eq!((statements(text).is_some(), oracle.test_text(text).is_ok()), (fine, fine), "{text}");
        }
    }
}
