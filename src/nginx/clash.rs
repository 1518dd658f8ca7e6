//! Two files that claim the same thing: which, where, and what to do about it.
//!
//! nginx names one place of a clash, often the one that is nginit's, and a user's own file is the other.
//! So the files are read once more, in nginx's order, for whatever nginx complained of. Also tells
//! of servers that clash without a word in an error: whose names or whose port another one has taken.
//! Pure: whoever reads the files hands their texts in.

use std::collections::BTreeMap;
use std::fmt;

use super::conf;
use crate::render::MARK;

/// Deepest nesting of includes that is followed; nginx itself ends when it has no descriptors left.
const DEEPEST: usize = 16;

/// Options of `listen` that an address takes from one server alone (`lsopt.set` in nginx's
/// src/http/ngx_http_core_module.c).
const SOCKET_OPTIONS: [&str; 11] = [
    "setfib=",
    "fastopen=",
    "backlog=",
    "rcvbuf=",
    "sndbuf=",
    "accept_filter=",
    "deferred",
    "ipv6only=",
    "reuseport",
    "so_keepalive=",
    "bind",
];

/// A file of the configuration.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path, as an operator knows it.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// What was kept of the statements of a configuration, in the order in which nginx reads them.
#[derive(Debug, Default)]
pub struct Reading(Vec<Statement>);

#[derive(Debug)]
struct Statement {
    words: Vec<String>,
    file: String,
    line: usize,
    /// Whether nginit wrote the file.
    ours: bool,
    /// The block that it stands in, as an index, through all files.
    block: Option<usize>,
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Reading {
    /// Goes through `main` and what it includes; `load` gives the files that an argument of `include`
    /// stands for. All heads of blocks are kept, and of other statements those that `keep` wants.
    pub fn new(main: Source, load: impl FnMut(&str) -> Vec<Source>, keep: impl Fn(&[&str]) -> bool) -> Self {
        let mut walk = Walk { load, keep, kept: Vec::new() };
        walk.file(&main, None, 0);
        Self(walk.kept)
    }

    /// Servers that no request reaches, or not all that they name, because nginit's has taken what
    /// they claim, or the other way round: a sentence each. Needs `listen` and `server_name` kept.
    pub fn unreached(&self) -> Vec<String> {
        let servers: Vec<Server<'_>> = (0..self.0.len()).filter_map(|at| self.server(at)).collect();
        let mut taken: BTreeMap<(&str, &str), &Server<'_>> = BTreeMap::new();
        let mut told = Vec::new();
        for server in &servers {
            let mut clashes: BTreeMap<usize, (&Server<'_>, Vec<&str>)> = BTreeMap::new();
            for (address, name) in server.addresses.iter().flat_map(|a| server.names.iter().map(move |n| (a, n))) {
                let first = *taken.entry((address, name)).or_insert(server);
                if first.at != server.at && first.head.ours != server.head.ours {
                    let names = &mut clashes.entry(first.at).or_insert((first, Vec::new())).1;
                    names.extend((!names.contains(name)).then_some(*name));
                }
            }
            told.extend(clashes.into_values().map(|(first, names)| shared_names(first, server, &names)));
        }
        let own: Vec<&String> = servers.iter().filter(|server| server.head.ours).flat_map(|s| &s.defaults).collect();
        let nameless = servers.iter().filter(|server| !server.head.ours && !server.is_named());
        for server in nameless.filter(|server| server.addresses.iter().all(|address| own.contains(&address))) {
            told.push(format!(
                "the server at {} gets no request that names a host: it has no name, and nginit's is the default of {}; \
                 give it a server_name, or set NGINIT_LISTEN to another port",
                server.head,
                server.addresses.join(" and ")
            ));
        }
        told
    }

    /// The statement at `at`, if it is a server of HTTP.
    fn server(&self, at: usize) -> Option<Server<'_>> {
        let head = &self.0[at];
        let is_http = || head.block.is_some_and(|block| self.0[block].words == ["http"]);
        if head.words != ["server"] || !is_http() {
            return None;
        }
        let inside = |directive: &'static str| {
            let own = self.0[at..].iter().filter(move |s| s.block == Some(at));
            own.filter(move |s| s.words.first().is_some_and(|word| word == directive))
        };
        let addresses = |is_wanted: fn(&[String]) -> bool| -> Vec<String> {
            let listens = inside("listen").filter(|s| is_wanted(&s.words));
            listens.filter_map(|s| Some(address(s.words.get(1)?))).collect()
        };
        let defaults = addresses(|words| words.iter().any(|word| word == "default_server"));
        let mut addresses = addresses(|_| true);
        if addresses.is_empty() {
            addresses.push(address("80"));
        }
        let names = inside("server_name").flat_map(|s| s.words[1..].iter().map(String::as_str)).collect();
        Some(Server { at, head, addresses, defaults, names })
    }
}

/// A server and what it claims.
struct Server<'a> {
    at: usize,
    head: &'a Statement,
    addresses: Vec<String>,
    /// Those that it is the default of.
    defaults: Vec<String>,
    names: Vec<&'a str>,
}

impl Server<'_> {
    /// Whether a request can ask for it by name.
    fn is_named(&self) -> bool {
        self.names.iter().any(|name| !["", "_"].contains(name))
    }
}

fn shared_names(first: &Server<'_>, second: &Server<'_>, names: &[&str]) -> String {
    let names = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" ");
    let (first, second) = (first.head, second.head);
    if second.ours {
        format!(
            "requests for {names} go to the server at {first}, not to nginit's, which comes later: take the name out \
             there if nginit is to have them"
        )
    } else {
        format!(
            "requests for {names} go to nginit's server at {first}, never to the one at {second}: give that one a name \
             or a port of its own"
        )
    }
}

struct Walk<L, K> {
    load: L,
    keep: K,
    kept: Vec<Statement>,
}

impl<L: FnMut(&str) -> Vec<Source>, K: Fn(&[&str]) -> bool> Walk<L, K> {
    fn file(&mut self, source: &Source, within: Option<usize>, depth: usize) {
        let ours = source.text.starts_with(MARK);
        let placed = conf::placed(&source.text);
        // Where the statement of that index was kept; only heads of blocks are asked for.
        let mut places = vec![None; placed.len()];
        for (index, statement) in placed.into_iter().enumerate() {
            let block = statement.block.map_or(within, |head| places[head]);
            if let ["include", pattern] = statement.words[..] {
                if depth < DEEPEST {
                    for included in (self.load)(pattern) {
                        self.file(&included, block, depth + 1);
                    }
                }
            } else if statement.opens || (self.keep)(&statement.words) {
                places[index] = Some(self.kept.len());
                let words = statement.words.into_iter().map(str::to_owned).collect();
                self.kept.push(Statement { words, file: source.path.clone(), line: statement.line, ours, block });
            }
        }
    }
}

/// What nginx says is there twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    what: What,
    /// The file and the line that nginx names.
    place: (String, usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Two servers want to be the default of an address.
    Default(String),
    /// Two servers set options of an address.
    Options(String),
    /// A block or statement with this directive and this name.
    Named(&'static str, String),
    /// Shared memory of this name.
    Zone(String),
    /// A directive in one block.
    Directive(String),
}

impl Clash {
    /// Which clash a message of nginx tells of, if any.
    pub fn of(message: &str) -> Option<Self> {
        let (said, place) = message.rsplit_once(" in ")?;
        let (file, line) = place.rsplit_once(':')?;
        let place = (file.to_owned(), line.parse().ok()?);
        let quoted = || said.split('"').nth(1).map(str::to_owned);
        let what = if let Some(address) = said.strip_prefix("a duplicate default server for ") {
            What::Default(address.to_owned())
        } else if let Some(address) = said.strip_prefix("duplicate listen options for ") {
            What::Options(address.to_owned())
        } else if said.starts_with("duplicate upstream ") {
            What::Named("upstream", quoted()?)
        } else if let Some(rest) = said.strip_prefix("duplicate \"log_format\" name ") {
            What::Named("log_format", rest.trim_matches('"').to_owned())
        } else if said.ends_with("directive is duplicate") {
            What::Directive(quoted()?)
        } else if said.contains("shared memory zone ")
            || said.contains("is already bound")
            || said.contains("duplicate zone ")
        {
            What::Zone(quoted()?)
        } else {
            return None;
        };
        Some(Self { what, place })
    }

    /// Whether it needs this statement to be told.
    pub fn wants(&self, words: &[&str]) -> bool {
        match (&self.what, words) {
            (What::Default(wanted), ["listen", to, options @ ..]) => {
                options.iter().any(|option| ["default_server", "default"].contains(option)) && address(to) == *wanted
            }
            (What::Options(wanted), ["listen", to, options @ ..]) => {
                let is_one = |option: &&str| SOCKET_OPTIONS.iter().any(|start| option.starts_with(start));
                options.iter().any(is_one) && address(to) == *wanted
            }
            (What::Named(directive, name), [word, given, ..]) => word == directive && given == name,
            (What::Directive(directive), [word, ..]) => word == directive,
            (What::Zone(name), [_, arguments @ ..]) => arguments.iter().any(|argument| {
                let argument = argument.rsplit_once("zone=").map_or(*argument, |(_, zone)| zone);
                let argument = argument.strip_prefix("shared:").unwrap_or(argument);
                argument.split(':').next() == Some(name)
            }),
            _ => false,
        }
    }

    /// Where the other one is and what to do about it, or nothing, if there is no other one in what
    /// was read.
    pub fn sentence(&self, reading: &Reading) -> Option<String> {
        let wanted = |statement: &&Statement| {
            let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
            self.wants(&words)
        };
        let is_here = |statement: &Statement| statement.file == self.place.0 && statement.line == self.place.1;
        let here = reading.0.iter().filter(wanted).find(|statement| is_here(statement))?;
        let beside = |statement: &&Statement| !matches!(self.what, What::Directive(_)) || statement.block == here.block;
        let others = reading.0.iter().filter(wanted).filter(beside).filter(|statement| !is_here(statement));
        // Of several the one that is not whose this one is says more.
        let other = others.min_by_key(|other| other.ours == here.ours)?;
        let where_to = match (here.ours, other.ours) {
            (true, false) => format!("the other one is at {other}"),
            (false, true) => format!("nginit's own is at {other}"),
            (true, true) => format!("the other one is at {other}, and templates of NGINIT_TEMPLATES made both"),
            (false, false) => format!("the other one is at {other}, and neither is nginit's"),
        };
        let place = match (here.ours, other.ours) {
            (true, false) => other.to_string(),
            (false, true) => here.to_string(),
            _ => "one of the two places".to_owned(),
        };
        let one_is_ours = here.ours != other.ours;
        let remedy = match &self.what {
            What::Default(_) if one_is_ours => {
                format!("remove default_server at {place}, or set NGINIT_LISTEN to another port")
            }
            What::Default(_) => format!("remove default_server at {place}"),
            What::Options(_) => {
                format!("remove the options of listen at {place}: they are the address's, not the server's")
            }
            What::Named(..) | What::Zone(_) => format!("give it another name at {place}"),
            What::Directive(_) => format!("remove it at {place}, or set it in a server of its own there"),
        };
        Some(format!("{where_to}: {remedy}"))
    }
}

/// The address that `listen TO` means, as nginx writes it in its messages.
fn address(to: &str) -> String {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = match to.rsplit_once(':') {
        _ if to.starts_with("unix:") => return to.to_owned(),
        None if is_port(to) => ("*", to),
        Some((host, port)) if is_port(port) => (host, port),
        _ => (to, "80"),
    };
    let host = match host {
        "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        host => host,
    };
    format!("{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reading of files, of which "main" is the first one; "ours" are those that start with MARK.
    fn reading(files: &[(&str, &str)], keep: impl Fn(&[&str]) -> bool) -> Reading {
        let source = |(path, text): &(&str, &str)| Source { path: (*path).to_owned(), text: (*text).to_owned() };
        let load = |pattern: &str| {
            let dir = pattern.trim_end_matches("*.conf");
            files[1..].iter().filter(|(path, _)| path.starts_with(dir)).map(source).collect()
        };
        Reading::new(source(&files[0]), load, keep)
    }

    fn sentence(files: &[(&str, &str)], message: &str) -> String {
        let clash = Clash::of(message).unwrap();
        clash.sentence(&reading(files, |words| clash.wants(words))).unwrap_or_default()
    }

    const MAIN: (&str, &str) = ("main", "log_format x;\nhttp {\n gzip on;\n include /c/*.conf;\n}");

    #[test]
    fn of_two_default_servers_the_other_file_is_named() {
        let own = format!("{MARK}x\nserver {{\nlisten 80 default_server;\nlisten [::]:80 default_server; }}");
        let (own, all) = (own.as_str(), "server {\n  listen *:80 reuseport default_server;\n}");
        let remedy = "remove default_server at /c/app.conf:2, or set NGINIT_LISTEN to another port";
        let said = sentence(
            &[MAIN, ("/c/app.conf", all), ("/c/default.conf", own)],
            "a duplicate default server for 0.0.0.0:80 in /c/default.conf:3",
        );
        assert_eq!(said, format!("the other one is at /c/app.conf:2: {remedy}"));
        let said = sentence(
            &[MAIN, ("/c/default.conf", own), ("/c/x.conf", all), ("/c/app.conf", all)],
            "a duplicate default server for 0.0.0.0:80 in /c/app.conf:2",
        );
        assert_eq!(said, format!("nginit's own is at /c/default.conf:3: {remedy}"));
        let theirs = [MAIN, ("/c/a.conf", all), ("/c/b.conf", "server { listen 80 default; }")];
        let said = sentence(&theirs, "a duplicate default server for 0.0.0.0:80 in /c/b.conf:1");
        assert!(said.starts_with("the other one is at /c/a.conf:2, and neither is nginit's: "), "{said}");
        let alone = "a duplicate default server for [::1]:80 in /c/b.conf:1";
        assert_eq!(sentence(&theirs, alone), "", "what is not found is not made up");
    }

    #[test]
    fn each_kind_of_clash_is_found() {
        let own = format!(
            "{MARK}x\nlog_format nginit a;\nupstream b {{ zone b 64k; }}\ngzip on;\nserver {{ gzip on; listen 80 backlog=1; }}"
        );
        let app = "limit_req_zone $x zone=b:1m rate=1r/s;\nlog_format  nginit 'a\nb';\n\
                   upstream\nb {\n}\nserver { listen 80 bind; gzip off;\ngzip on; }\nproxy_cache_path /x keys_zone=b:1m;";
        let files = [MAIN, ("/c/app.conf", app), ("/c/default.conf", own.as_str())];
        let cases = [
            ("duplicate \"log_format\" name \"nginit\" in /c/default.conf:2", "other one is at /c/app.conf:3: give it"),
            ("duplicate upstream \"b\" in /c/default.conf:3", "other one is at /c/app.conf:5: give it another name"),
            ("\"gzip\" directive is duplicate in /c/default.conf:4", "other one is at main:3: remove it at main:3, or"),
            ("\"gzip\" directive is duplicate in /c/app.conf:8", "at /c/app.conf:7, and neither is nginit's"),
            ("duplicate listen options for 0.0.0.0:80 in /c/default.conf:5", "at /c/app.conf:7: remove the options"),
            (
                "the shared memory zone \"b\" is already declared for a different use in /c/default.conf:3",
                "other one is at /c/app.conf:1: give it another name at /c/app.conf:1",
            ),
            (
                "limit_req_zone \"b\" is already bound to key \"$x\" in /c/app.conf:1",
                "nginit's own is at /c/default.conf:3",
            ),
        ];
        for (message, part) in cases {
            let said = sentence(&files, message);
            assert!(said.contains(part), "{message}: {said}");
        }
        for other in ["unknown directive \"x\" in /c:1", "bind() failed", "", "duplicate upstream \"b\" in /c:x"] {
            assert_eq!(Clash::of(other), None);
        }
    }

    #[test]
    fn servers_that_no_request_reaches_are_told() {
        let keep = |words: &[&str]| ["listen", "server_name"].contains(&words[0]);
        let own = format!(
            "{MARK}x\nserver {{ listen 80 default_server; listen [::]:80 default_server; server_name localhost; }}"
        );
        let told = |app: &str, name: &str| {
            let mut files = vec![MAIN, (name, app), ("/c/default.conf", own.as_str())];
            files[1..].sort_unstable();
            reading(&files, keep).unreached().join("\n")
        };
        let both = "server {\nserver_name a localhost; location / { listen 81; } }";
        assert!(
            told(both, "/c/app.conf").starts_with("requests for \"localhost\" go to the server at /c/app.conf:1, not")
        );
        let later = told(both, "/c/z.conf");
        let expected =
            "requests for \"localhost\" go to nginit's server at /c/default.conf:2, never to the one at /c/z.conf:1: ";
        assert!(later.starts_with(expected), "{later}");
        let nameless = told("server { listen 80; server_name _; }", "/c/app.conf");
        assert!(nameless.starts_with("the server at /c/app.conf:1 gets no request that names a host"), "{nameless}");
        for fine in [
            "server { listen 80; server_name a.test; }",
            "server { listen 81; }",
            "server { listen 80; listen 81; }",
            "server { listen 127.0.0.1:80; }",
            "upstream x { server localhost; }",
        ] {
            assert_eq!(told(fine, "/c/app.conf"), "", "{fine}");
        }
    }

    #[test]
    fn files_that_include_themselves_come_to_an_end() {
        let loops = [("main", "http { include main; }"), ("main", "include main; a;")];
        assert!(
            Reading::new(
                Source { path: "main".into(), text: loops[0].1.into() },
                |_| vec![Source { path: "main".into(), text: loops[1].1.into() }],
                |_| true
            )
            .0
            .len()
                < 100
        );
        let _ = sentence(&[("main", "} } a {")], "\"a\" directive is duplicate in main:1");
    }

    #[test]
    fn addresses_are_written_as_nginx_does() {
        let cases = [
            ("80", "0.0.0.0:80"),
            ("*:8080", "0.0.0.0:8080"),
            ("[::]:80", "[::]:80"),
            ("[::1]", "[::1]:80"),
            ("localhost:81", "127.0.0.1:81"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("unix:/a:80", "unix:/a:80"),
            ("", ":80"),
        ];
        for (to, expected) in cases {
            assert_eq!(address(to), expected, "{to}");
        }
    }
}
