//! What holds for any input at all: a value is refused with its variable's name, or nginx accepts
//! what is rendered and the servers that come back out of it are those that went in. No value
//! becomes a directive, and nothing panics.
//!
//! A failure prints the smallest input that fails, and its seed is kept in
//! `tests/properties.regressions`, which is committed. `PROPTEST_CASES=25600` tries a hundred times
//! as much as usual.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod oracle;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use nginit::inputs::{self, Env, Mode};
use nginit::live::zone::Zone;
use nginit::live::{self, Ability, Groups};
use nginit::nginx::conf;
use nginit::nginx::facts::Version;
use nginit::peers::{self, PeerAddress, Peers};
use nginit::render::{self, Input};
use nginit::settings::error::SettingsErrors;
use nginit::settings::rules;
use nginit::settings::{self, Given, LiveMode, Settings, Vars};
use nginit::slots::{self, Slots};
use nginit::upstream::{Address, Files, HostName, Lookup, PathMatch, Resolved, Route, Server, Sources, Target};

use oracle::{Oracle, Peer, Place, Statement};

/// Runs `test` on `cases` values, more or fewer if PROPTEST_CASES is not its default of 256.
fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: (cases * Config::default().cases).div_ceil(256),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/properties.regressions"))),
        max_shrink_iters: 4000,
        ..Config::default()
    };
    if let Err(err) = TestRunner::new(config).run(&strategy, test) {
        panic!("{err}");
    }
}

// ---- from variables to what nginx reads -----------------------------------------------------------------------------

fn parse<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Settings, SettingsErrors> {
    let given = |name: &String, value: &String| Given { variable: name.clone(), value: value.clone() };
    let vars: Vars = pairs.into_iter().map(|(name, value)| (name.clone(), given(name, value))).collect();
    settings::parse(&vars).map(|(settings, _)| settings)
}

/// Addresses of a name, made from it: none, one, or one of each family.
fn addresses(name: &str) -> Vec<IpAddr> {
    let length = u8::try_from(name.len()).unwrap();
    let v4 = Ipv4Addr::new(10, 0, 0, length).into();
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, length.into()).into();
    [&[][..], &[v4], &[v4, v6]][usize::from(length % 3)].to_vec()
}

fn servers(settings: &Settings) -> impl Iterator<Item = &Server> {
    settings.upstreams.values().flat_map(|upstream| &upstream.servers)
}

/// The peers of settings, once names have led to [`addresses`].
fn found(settings: &Settings) -> Peers {
    let names =
        servers(settings).filter_map(|s| if let Address::Host(name, _) = &s.address { Some(name) } else { None });
    let targets = |name: &HostName| addresses(name.as_str()).into_iter().map(Target::from).collect();
    let found = names.map(|name: &HostName| (Lookup::Host(name.clone()), targets(name)));
    let resolved: Resolved = found.filter(|(_, targets): &(Lookup, Vec<Target>)| !targets.is_empty()).collect();
    peers::peers(&settings.upstreams, &resolved)
}

fn render(settings: &Settings, nginx: Version) -> Files {
    render_following(settings, nginx, &found(settings), &Groups::new())
}

/// The same where nginx follows the servers of `groups`.
fn render_following(settings: &Settings, nginx: Version, peers: &Peers, groups: &Groups) -> Files {
    render::render(Input {
        settings,
        peers,
        sources: &Sources::new(),
        env: &BTreeMap::new(),
        nginx,
        ipv6: true,
        ca_bundle: None,
        generation: 1,
        error_pages: &BTreeSet::new(),
        clients: None,
        one_worker: false,
        groups,
        resolver: (!groups.is_empty()).then(|| SocketAddr::from(([127, 0, 0, 1], 10_053))),
    })
    .unwrap()
}

/// The peers that a parsed upstream stands for.
fn peers(servers: &[Server]) -> Vec<Peer> {
    let mut peers = Vec::new();
    for server in servers {
        let p = server.params;
        let numbers = [
            ("weight", p.weight.map(|w| u64::from(w.get()))),
            ("max_conns", p.max_conns.map(u64::from)),
            ("max_fails", p.max_fails.map(u64::from)),
            ("fail_timeout", p.fail_timeout_secs.map(u64::from)),
        ];
        let numbers = numbers.into_iter().filter(|(_, value)| value.is_some());
        let flags = [("backup", p.backup), ("down", p.down || p.drain)].into_iter().filter(|(_, set)| *set);
        let params = numbers.chain(flags.map(|(name, _)| (name, None)));
        let params: BTreeMap<String, Option<u64>> = params.map(|(name, value)| (name.to_owned(), value)).collect();
        let places = match &server.address {
            Address::Ip(address) => vec![Place::Socket(*address)],
            Address::Host(name, port) => sockets(name.as_str(), port.get()),
            Address::Unix(path) => vec![Place::Unix(path.clone())],
            Address::Srv(_) => Vec::new(),
        };
        let named = matches!(server.address, Address::Host(..));
        peers.extend(places.into_iter().map(|address| (named, Peer { address, params: params.clone() })));
    }
    group(peers)
}

fn sockets(name: &str, port: u16) -> Vec<Place> {
    addresses(name).into_iter().map(|ip| Place::Socket(SocketAddr::new(ip, port))).collect()
}

/// What nginx gets of peers, each of them with whether a name led to it: an address of a name that is listed itself, or that
/// another name had before, is left out, and where only backups are left, they are none.
fn group(peers: Vec<(bool, Peer)>) -> Vec<Peer> {
    let mut seen: BTreeSet<Place> = peers.iter().filter(|(named, _)| !named).map(|(_, p)| p.address.clone()).collect();
    let distinct = peers.into_iter().filter(|(named, peer)| !named || seen.insert(peer.address.clone()));
    let mut peers: Vec<Peer> = distinct.map(|(_, peer)| peer).collect();
    if peers.iter().all(|peer| peer.params.contains_key("backup")) {
        for peer in &mut peers {
            peer.params.remove("backup");
        }
    }
    peers
}

/// Every fault is a line that starts with a variable that was set, and fit for a terminal.
fn check_refusal(errors: &SettingsErrors, variables: &[&str]) -> Result<(), TestCaseError> {
    let text = errors.to_string();
    prop_assert!(!errors.0.is_empty());
    prop_assert_eq!(text.lines().count(), errors.0.len(), "a line per fault: {:?}", text);
    for line in text.lines() {
        prop_assert!(variables.iter().any(|name| line.starts_with(&format!("\"{name}\": "))), "no variable: {line:?}");
        prop_assert!(!line.chars().any(char::is_control), "a control character: {line:?}");
        prop_assert!(line.chars().count() <= 400, "{} characters: {line:?}", line.chars().count());
    }
    Ok(())
}

// ---- lists that are right, and what is to come of them --------------------------------------------------------------

#[derive(Debug, Clone)]
enum Where {
    V4(Ipv4Addr, Option<u16>),
    V6(Ipv6Addr, Option<u16>, bool),
    Host(String, Option<u16>),
    Srv(String),
    Unix(String),
}

/// An entry of a list; parameters are name, spelling and value.
#[derive(Debug, Clone)]
struct Entry {
    address: Where,
    params: Vec<(&'static str, String, Option<u64>)>,
}

impl Entry {
    fn text(&self) -> String {
        let with = |host: String, port: Option<u16>| port.map_or(host.clone(), |port| format!("{host}:{port}"));
        let mut text = match &self.address {
            Where::V4(ip, port) => with(ip.to_string(), *port),
            Where::V6(ip, port, false) => with(format!("[{ip}]"), *port),
            Where::V6(ip, port, true) => {
                let groups: Vec<String> = ip.segments().iter().map(|s| format!("{s:04X}")).collect();
                with(format!("[{}]", groups.join(":")), *port)
            }
            Where::Host(name, port) => with(name.clone(), *port),
            Where::Srv(name) => format!("srv:{name}"),
            Where::Unix(path) => format!("unix:{path}"),
        };
        for (name, spelling, _) in &self.params {
            text.push_str(&format!(";{name}{spelling}"));
        }
        text
    }

    /// Two entries with the same key are the same server.
    fn key(&self, default_port: u16) -> String {
        let host = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        match &self.address {
            Where::V4(ip, port) => format!("{ip}:{}", port.unwrap_or(default_port)),
            Where::V6(ip, port, _) => format!("[{ip}]:{}", port.unwrap_or(default_port)),
            Where::Host(name, port) => format!("{}:{}", host(name), port.unwrap_or(default_port)),
            Where::Srv(name) => format!("srv:{}", host(name)),
            Where::Unix(path) => format!("unix:{path}"),
        }
    }

    fn peers(&self, default_port: u16) -> Vec<(bool, Peer)> {
        let place = |ip: IpAddr, port: Option<u16>| Place::Socket(SocketAddr::new(ip, port.unwrap_or(default_port)));
        let places = match &self.address {
            Where::V4(ip, port) => vec![place((*ip).into(), *port)],
            Where::V6(ip, port, _) => vec![place((*ip).into(), *port)],
            Where::Host(name, port) => sockets(name.trim_end_matches('.'), port.unwrap_or(default_port)),
            Where::Srv(_) => Vec::new(),
            Where::Unix(path) => vec![Place::Unix(path.clone())],
        };
        let name = |name: &str| if name == "drain" { "down".to_owned() } else { name.to_owned() };
        let params: BTreeMap<String, Option<u64>> = self.params.iter().map(|(n, _, value)| (name(n), *value)).collect();
        let named = matches!(self.address, Where::Host(..));
        places.into_iter().map(|address| (named, Peer { address, params: params.clone() })).collect()
    }
}

/// A list with the variables beside it.
#[derive(Debug, Clone)]
struct List {
    entries: Vec<Entry>,
    separators: Vec<&'static str>,
    port: u16,
    balance: &'static str,
}

impl List {
    fn text(&self) -> String {
        let separators = self.separators.iter().cycle();
        self.entries.iter().zip(separators).map(|(entry, separator)| entry.text() + separator).collect()
    }

    fn peers(&self) -> Vec<Peer> {
        group(self.entries.iter().flat_map(|entry| entry.peers(self.port)).collect())
    }

    /// Without what the grammar or nginx would refuse.
    fn tidy(mut self) -> Self {
        let mut seen = BTreeSet::new();
        let port = self.port;
        self.entries.retain(|entry| seen.insert(entry.key(port)));
        let knows_backup = matches!(self.balance, "round_robin" | "least_conn");
        let is_backup = |entry: &Entry| entry.params.iter().any(|(name, ..)| *name == "backup");
        let all_backup = self.entries.iter().all(is_backup);
        for (index, entry) in self.entries.iter_mut().enumerate() {
            entry.params.retain(|(name, ..)| *name != "backup" || (knows_backup && !(all_backup && index == 0)));
            // nginx makes 160 points of 16 bytes of each unit of weight in a ring.
            entry.params.retain(|(name, ..)| *name != "weight" || !self.balance.ends_with("consistent"));
        }
        self
    }
}

const BALANCES: [&str; 6] =
    ["round_robin", "least_conn", "random", "ip_hash", "hash $uri$arg_x/", "hash $request_uri consistent"];

fn host_name() -> impl Strategy<Value = String> {
    "([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,8}[a-zA-Z0-9_])?\\.){0,3}[a-z_]([a-z0-9-]{0,60}[a-z0-9])?\\.?"
}

fn time() -> impl Strategy<Value = (String, Option<u64>)> {
    let spell = |secs: u32, form: u8| match form {
        0 => secs.to_string(),
        1 => format!("{secs}s"),
        2 => format!("{}m{}s", secs / 60, secs % 60),
        3 => format!("{}d{}h{}m{}s", secs / 86400, secs / 3600 % 24, secs / 60 % 60, secs % 60),
        _ => format!("{}000ms", secs),
    };
    (0..=0x7fff_ffff_u32, 0..5_u8).prop_map(move |(secs, form)| (format!("={}", spell(secs, form)), Some(secs.into())))
}

fn params() -> impl Strategy<Value = Vec<(&'static str, String, Option<u64>)>> {
    let number = |name: &'static str, least: u64, most: u64| {
        prop_oneof![least..=most, Just(least), Just(most)].prop_map(move |n| (name, format!("={n}"), Some(n)))
    };
    let flag = |name: &'static str| Just((name, String::new(), None));
    let largest = i32::MAX.try_into().unwrap();
    let all = (
        option::of(number("weight", 1, 65535)),
        option::of(number("max_conns", 0, largest)),
        option::of(number("max_fails", 0, largest)),
        option::of(time().prop_map(|(spelling, value)| ("fail_timeout", spelling, value))),
        option::weighted(0.2, flag("backup")),
        option::weighted(0.2, flag("down")),
        option::weighted(0.2, flag("drain")),
    );
    let present = all.prop_map(|(a, b, c, d, e, f, g)| [a, b, c, d, e, f, g].into_iter().flatten().collect::<Vec<_>>());
    prop_oneof![Just(Vec::new()), present.prop_shuffle()]
}

fn entry() -> impl Strategy<Value = Entry> {
    let port = || option::of(prop_oneof![1..=65535_u16, Just(80), Just(65535)]);
    let address = prop_oneof![
        3 => (any::<Ipv4Addr>(), port()).prop_map(|(ip, port)| Where::V4(ip, port)),
        2 => (any::<Ipv6Addr>(), port(), any::<bool>()).prop_map(|(ip, port, full)| Where::V6(ip, port, full)),
        1 => (select(vec!["::", "::1", "::ffff:1.2.3.4", "::1.2.3.4", "fe80::1"]), port(), any::<bool>())
            .prop_map(|(ip, port, full)| Where::V6(ip.parse().unwrap(), port, full)),
        3 => (host_name(), port()).prop_map(|(name, port)| Where::Host(name, port)),
        1 => host_name().prop_map(Where::Srv),
        2 => "/[a-zA-Z0-9/._+@~%:=-]{1,106}".prop_map(Where::Unix),
    ];
    (address, params()).prop_map(|(address, params)| Entry { address, params })
}

const SEPARATORS: [&str; 8] = [" ", ",", "\n", "\r\n", "\t, ", " # server evil; } {\n", "#\n", ",,\n\n"];

fn list() -> impl Strategy<Value = List> {
    (vec(entry(), 0..12), vec(select(&SEPARATORS[..]), 1..4), 1..=65535_u16, select(&BALANCES[..]))
        .prop_map(|(entries, separators, port, balance)| List { entries, separators, port, balance }.tidy())
}

// ---- and texts that are wrong ---------------------------------------------------------------------------------------

/// What nginx, a shell, a terminal or a careless parser might act on.
const NASTY: &[&str] = &[
    ";",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "$host",
    "${",
    "$",
    "#",
    "\n",
    "\r",
    "\t",
    "\0",
    "\u{b}",
    "\u{c}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{1b}[31m",
    "\u{2028}",
    "\u{feff}",
    "\u{202e}",
    "é",
    "𝟙",
    "١",
    " ",
    ",",
    ":",
    "::",
    "[",
    "]",
    "(",
    ")",
    "=",
    "==",
    "-",
    "-1",
    "+1",
    "0x50",
    "99999999999999999999",
    "65536",
    "0",
    ".",
    "..",
    "/",
    "//",
    "/./",
    "%",
    "%00",
    "*",
    "@",
    "~",
    "weight=",
    ";weight=1",
    ";down",
    ";backup",
    ";resolve",
    ";service=http",
    "unix:",
    "srv:",
    "http://",
    " server ",
    "};",
    "include /etc/passwd;",
    "/nginit/",
    "Host(`a`)",
    " && ",
    " || ",
    "Host:",
    "!",
    "`",
    "\\1",
    "(?",
    "hash ",
    "consistent",
    "$cookie_",
    "$arg_é",
    "ip_hash",
    "80",
    "[::]:80",
    "0.0.0.0:80",
    "*:80",
    "127.0.0.1",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// `text` with nasty pieces in it.
fn spliced(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let long = select(vec![64_usize, 256, 4096, 70_000]).prop_map(|n| "a".repeat(n));
    let piece = prop_oneof![60 => select(NASTY).prop_map(str::to_owned), 3 => long];
    (text, vec((any::<Index>(), piece), 1..4)).prop_map(|(mut text, pieces)| {
        for (place, piece) in pieces {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            text.insert_str(*place.get(&places), &piece);
        }
        text
    })
}

fn wild() -> impl Strategy<Value = String> {
    let pieces = vec(select(NASTY), 0..8).prop_map(|pieces| pieces.concat());
    prop_oneof![any::<String>(), "\\PC{0,30}", "[;{}\"'\\\\$# \n\0a-z0-9.:=/]{0,30}", pieces]
}

/// A host that nobody else of a batch is likely to have, of any length that a name can have.
fn route_host() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_]{0,3}([a-z]{1,63}\\.){0,3}[a-z]{1,63}\\.?"
}

fn route_path() -> impl Strategy<Value = String> {
    "/[a-z]{0,3}(/[a-z0-9_~!&()*+:@=-]{1,5}[.]?){0,2}/?"
}

/// A conjunction of Traefik's, mostly one that can match.
fn conjunction() -> impl Strategy<Value = String> {
    let values = |name: &'static str, value: BoxedStrategy<String>| {
        let quoted = (value, any::<bool>()).prop_map(|(v, q)| if q { format!("`{v}`") } else { format!("\"{v}\"") });
        vec(quoted, 1..3).prop_map(move |values| format!("{name}({})", values.join(", ")))
    };
    let host = values("Host", route_host().boxed());
    let path = prop_oneof![values("PathPrefix", route_path().boxed()), values("path", route_path().boxed())];
    (option::of(host), path, any::<bool>()).prop_map(|(host, path, deep)| match host {
        Some(host) if deep => format!("(({host})&&{path})"),
        Some(host) => format!("{host} && {path}"),
        None => path,
    })
}

fn route() -> impl Strategy<Value = String> {
    let one = (option::of(route_host()), any::<bool>(), route_path());
    let one = one
        .prop_map(|(host, exact, path)| format!("{}{}{path}", host.unwrap_or_default(), ["", "="][usize::from(exact)]));
    let list = vec(one, 1..4).prop_map(|routes| routes.join(" "));
    let expression = vec(conjunction(), 1..4).prop_map(|all| all.join(" || "));
    let name = select(vec!["Path", "PathPrefix", "PathStrip", "PathPrefixStrip"]);
    let v1 = (vec(route_host(), 1..3), name, vec(route_path(), 1..3))
        .prop_map(|(hosts, name, paths)| format!("Host:{};{name}:{}", hosts.join(","), paths.join(" , ")));
    prop_oneof![list, expression, v1]
}

fn rewrite() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("strip".to_owned()), "/[a-z0-9._~!&()*+:@=-]{0,5}(%[0-9a-f]{2})?/?"]
}

/// The five variables of an upstream as texts, and what must come of them if that is known.
#[derive(Debug, Clone)]
struct Texts {
    backend: String,
    route: Option<String>,
    rewrite: String,
    port: String,
    balance: String,
    expected: Option<Vec<Peer>>,
}

fn texts() -> impl Strategy<Value = Texts> {
    let good = list().prop_map(|list| Texts {
        backend: list.text(),
        route: None,
        rewrite: String::new(),
        port: list.port.to_string(),
        balance: list.balance.to_owned(),
        expected: Some(list.peers()),
    });
    let plain = |list: List| (list.text(), list.port.to_string(), list.balance.to_owned());
    let texts = |backend, route, port, balance| {
        let rewrite = String::new();
        Texts { backend, route, rewrite, port, balance, expected: None }
    };
    let bad_list = (spliced(list().prop_map(move |l| l.text())), select(&BALANCES[..]))
        .prop_map(move |(backend, balance)| texts(backend, None, String::new(), balance.to_owned()));
    let bad_route =
        (list().prop_map(plain), prop_oneof![route(), spliced(route())], prop_oneof![rewrite(), spliced(rewrite())])
            .prop_map(move |((backend, port, balance), route, rewrite)| Texts {
                rewrite,
                ..texts(backend, Some(route), port, balance)
            });
    let balance = spliced(select(&BALANCES[..]).prop_map(str::to_owned));
    let bad_balance = (list().prop_map(plain), balance)
        .prop_map(move |((backend, port, _), balance)| texts(backend, None, port, balance));
    let bad_port = (list().prop_map(plain), spliced(Just("80".to_owned())))
        .prop_map(move |((backend, _, balance), port)| texts(backend, None, port, balance));
    let all_wild = (wild(), option::of(wild()), wild(), wild())
        .prop_map(move |(backend, route, port, balance)| texts(backend, route, port, balance));
    let wild_list = wild().prop_map(move |backend| texts(backend, None, String::new(), String::new()));
    prop_oneof![3 => good, 4 => bad_list, 4 => bad_route, 2 => bad_balance, 1 => bad_port, 1 => all_wild, 2 => wild_list]
}

impl Texts {
    /// The variables of the upstream that is number `index` of a batch.
    fn vars(&self, index: usize) -> BTreeMap<String, String> {
        let name = upstream(index);
        let route = self.route.clone().unwrap_or_else(|| format!("/p{index}/"));
        [
            ("BACKEND", &self.backend),
            ("ROUTE", &route),
            ("REWRITE", &self.rewrite),
            ("PORT", &self.port),
            ("BALANCE", &self.balance),
        ]
        .map(|(suffix, value)| (format!("{name}_{suffix}"), value.clone()))
        .into()
    }
}

/// The NAME of an upstream of a batch.
fn upstream(index: usize) -> String {
    ["STATIC", "DYNAMIC"].get(index).map_or_else(|| format!("P{index}"), ToString::to_string)
}

// ---- the properties -------------------------------------------------------------------------------------------------

/// Many upstreams go into one run of `nginx -t`; what fails is shrunk to the one at fault.
#[test]
fn servers_are_refused_or_come_back_out_as_they_went_in() {
    let oracle = support::nginx().map(Oracle::new);
    let version = oracle.as_ref().map_or(Version(1, 30, 6), |oracle| oracle.version);
    check(120, vec(texts(), 1..24), |batch| {
        let mut accepted = BTreeMap::new();
        let mut alone = Vec::new();
        for (index, texts) in batch.iter().enumerate() {
            let vars = texts.vars(index);
            match parse(&vars) {
                Err(errors) => {
                    prop_assert!(texts.expected.is_none(), "a good list is refused: {errors}");
                    check_refusal(&errors, &vars.keys().map(String::as_str).collect::<Vec<_>>())?;
                }
                // Two may want the same route, which no two upstreams of one proxy can have.
                Ok(settings) if parse(accepted.iter().chain(&vars)).is_err() => alone.push(settings),
                Ok(_) => accepted.extend(vars),
            }
        }
        let together = parse(&accepted).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        for settings in alone.iter().chain([&together]) {
            let files = render(settings, version);
            check_rendered(settings, &files, &batch)?;
            if let Some(Err(printed)) = oracle.as_ref().map(|oracle| oracle.test(&files)) {
                return Err(TestCaseError::fail(format!("{printed}{}", files["default.conf"])));
            }
        }
        Ok(())
    });
}

fn check_rendered(settings: &Settings, files: &Files, batch: &[Texts]) -> Result<(), TestCaseError> {
    let text = &files["default.conf"];
    let Some(statements) = oracle::statements(text) else {
        return Err(TestCaseError::fail(format!("nginx's lexer refuses {text}")));
    };
    let found = oracle::upstreams(&statements);
    let modelled = settings.upstreams.iter().map(|(name, upstream)| (name.upstream(), peers(&upstream.servers)));
    prop_assert_eq!(&found, &modelled.filter(|(_, peers)| !peers.is_empty()).collect(), "not what was parsed");
    for (index, texts) in batch.iter().enumerate() {
        let name = format!("{}_backend", upstream(index).to_ascii_lowercase());
        let peers = found.get(&name).cloned().unwrap_or_default();
        // One of them may be in another environment, because of its route.
        let is_here = settings.upstreams.keys().any(|here| here.upstream() == name);
        if let Some(expected) = texts.expected.as_ref().filter(|_| is_here) {
            prop_assert_eq!(&peers, expected, "not what was written: {:?}", texts.backend);
        }
    }
    check_locations(settings, &statements)
}

/// Two lists of one upstream, one after the other: their servers differ, but not in what all at a name have in common, nor
/// in their unix sockets.
fn succession() -> impl Strategy<Value = [List; 2]> {
    let common = select(&["", ";max_fails=3", ";max_conns=9;fail_timeout=1m"][..]);
    let entries = || vec(entry(), 1..40);
    let balance = select(&["round_robin", "least_conn", "random", "hash $request_uri consistent"][..]);
    (entries(), entries(), any::<bool>(), common, 1..=65535_u16, balance).prop_map(
        |(first, second, is_like, common, port, balance)| {
            let is_socket = |entry: &Entry| matches!(entry.address, Where::Unix(_));
            let sockets: Vec<Entry> = first.iter().filter(|entry| is_socket(entry)).cloned().collect();
            let mut named: Vec<Entry> = second.into_iter().filter(|entry| !is_socket(entry)).collect();
            if is_like {
                named.extend(first.iter().filter(|entry| !is_socket(entry)).step_by(2).cloned());
            }
            [first, [sockets, named].concat()].map(|mut entries| {
                for entry in entries.iter_mut().filter(|entry| !is_socket(entry)) {
                    entry.params.retain(|(name, ..)| !matches!(*name, "max_conns" | "max_fails" | "fail_timeout"));
                    entry
                        .params
                        .extend((!common.is_empty()).then(|| (common.trim_start_matches(';'), String::new(), None)));
                }
                List { entries, separators: vec![" "], port, balance }.tidy()
            })
        },
    )
}

/// What nginx reads of servers that it follows is the same whichever these are, as long as they have room, and what it is
/// told is who takes requests.
#[test]
fn servers_that_nginx_follows_are_told_and_not_rendered() {
    let oracle = support::nginx().map(Oracle::new).filter(|oracle| oracle.version.has_resolve());
    let nginx = oracle.as_ref().map_or(Version(1, 30, 6), |oracle| oracle.version);
    let ability = Ability { mode: LiveMode::Auto, nginx, ipv6: true, fault: None };
    check(300, succession(), |lists| {
        let [first, second] = lists.map(|list| {
            let texts =
                [("BACKEND", list.text()), ("PORT", list.port.to_string()), ("BALANCE", list.balance.to_owned())];
            parse(
                &texts
                    .map(|(suffix, value)| (format!("DYNAMIC_{suffix}"), value))
                    .into_iter()
                    .collect::<BTreeMap<_, _>>(),
            )
        });
        let settings = [first, second].map(|settings| settings.map_err(|err| TestCaseError::fail(err.to_string())));
        let [first, second] = settings;
        let settings = [first?, second?];
        let (mut groups, mut zone) = (Groups::new(), Zone::default());
        let mut rendered: Vec<(Groups, Peers, String)> = Vec::new();
        for settings in &settings {
            let peers = found(settings);
            (groups, _) = live::arrange_all(&groups, &settings.upstreams, &peers, |_| ability);
            let before = std::mem::take(&mut zone);
            zone = before.next(&groups, &peers);
            check_zone(&before, &zone, &groups, &peers)?;
            let files = render_following(settings, nginx, &peers, &groups);
            if let Some(Err(printed)) = oracle.as_ref().map(|oracle| oracle.test(&files)) {
                return Err(TestCaseError::fail(format!("{printed}{}", files["default.conf"])));
            }
            let text = files["default.conf"].clone();
            let servers = oracle::statements(&text).unwrap().into_iter().filter(|s| s.name() == "server" && !s.opens);
            for server in servers.filter(|_| !groups.is_empty()) {
                let is_ours = server.words[1].ends_with(".nginit") || server.words[1].starts_with("unix:");
                prop_assert!(is_ours, "an address is rendered: {server:?}");
            }
            rendered.push((groups.clone(), peers, text));
        }
        let (before, after) = (&rendered[0], &rendered[1]);
        let shape =
            |groups: &Groups, other: &Groups| groups.iter().zip(other).all(|((_, a), (_, b))| a.has_shape_of(b));
        let sockets = |peers: &Peers| -> Vec<_> {
            let all = peers.values().flatten();
            all.filter(|peer| matches!(peer.address, PeerAddress::Unix(_))).cloned().collect()
        };
        let alike = before.0.len() == 1 && after.0.len() == 1 && shape(&before.0, &after.0);
        if alike && sockets(&before.1) == sockets(&after.1) {
            prop_assert_eq!(&before.2, &after.2);
        }
        Ok(())
    });
}

/// The zone after `before` tells who takes requests, each once, and what stays as it was has the version that it had.
fn check_zone(before: &Zone, zone: &Zone, groups: &Groups, peers: &Peers) -> Result<(), TestCaseError> {
    let takers = peers.iter().filter(|(name, _)| groups.contains_key(*name)).flat_map(|(_, peers)| peers);
    let takers = takers.filter(|peer| peer.takes_requests()).filter_map(|peer| match peer.address {
        PeerAddress::Ip(address) => Some((address, peer.weight(), peer.params.backup)),
        PeerAddress::Unix(_) => None,
    });
    let mut takers: Vec<_> = takers.collect();
    takers.sort_unstable();
    let told = zone.iter().flat_map(|(_, set)| &set.servers);
    let mut told: Vec<_> = told.map(|served| (served.address, served.weight, served.backup)).collect();
    told.sort_unstable();
    prop_assert_eq!(told, takers);
    for (name, set) in zone.iter() {
        let all_backup = set.servers.iter().all(|served| served.backup);
        prop_assert!(set.servers.is_empty() || !all_backup, "backups alone at {name}");
        if let Some(before) = before.get(name) {
            prop_assert_eq!(before.version == set.version, before.servers == set.servers);
            prop_assert!(before.version <= set.version);
        }
    }
    let read = Zone::parse(&zone.to_text()).unwrap();
    let full = zone.iter().filter(|(_, set)| !set.servers.is_empty()).map(|(name, set)| (name, &set.servers));
    prop_assert!(full.eq(read.iter().map(|(name, set)| (name, &set.servers))));
    Ok(())
}

/// The `server` blocks are those of the hosts, and each route whose requests nobody else takes is a
/// location of its host's, or changes nothing there.
fn check_locations(settings: &Settings, statements: &[Statement]) -> Result<(), TestCaseError> {
    let routes = || settings.upstreams.values().flat_map(|upstream| &upstream.routes);
    let hosts: BTreeSet<&str> = routes().filter_map(|route| route.host.as_ref()).map(HostName::as_str).collect();
    let names: Vec<String> =
        statements.iter().filter(|s| s.name() == "server_name").map(|s| s.words[1..].join(" ")).collect();
    let plain = |name: &String| match name.strip_prefix("~^") {
        Some(regex) => regex.trim_end_matches('$').replace("[.]", "."),
        None => name.clone(),
    };
    let mut named: Vec<String> = names.iter().map(plain).collect();
    let other = named.remove(0);
    prop_assert!(!hosts.contains(other.as_str()), "{other} is the name of all other hosts");
    prop_assert_eq!(named, hosts.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let written: BTreeSet<&str> = statements
        .iter()
        .filter(|s| s.name() == "location")
        .filter_map(|s| s.words.last().map(String::as_str))
        .collect();
    let known: BTreeSet<&str> = routes().map(|route| route.path.as_str()).collect();
    for path in written {
        let fits = path.starts_with('@') || path == "/" || path == "/nginit/ping" || known.contains(path);
        prop_assert!(fits || known.contains(format!("{path}/").as_str()), "{path} is nobody's");
    }
    Ok(())
}

/// A rule as a tree, so that what it means needs no parser.
#[derive(Debug, Clone)]
enum Tree {
    Host(Vec<&'static str>),
    Path(Vec<&'static str>),
    PathPrefix(Vec<&'static str>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        let joined = |trees: &[Self], by: &str| trees.iter().map(Self::text).collect::<Vec<_>>().join(by);
        let values = |values: &[&str]| values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(",");
        match self {
            Self::Host(all) => format!("Host({})", values(all)),
            Self::Path(all) => format!("Path({})", values(all)),
            Self::PathPrefix(all) => format!("PathPrefix({})", values(all)),
            Self::And(all) => joined(all, "&&"),
            Self::Or(all) => format!("({})", joined(all, " || ")),
        }
    }

    fn matches(&self, host: &str, path: &str) -> bool {
        match self {
            Self::Host(all) => all.contains(&host),
            Self::Path(all) => all.contains(&path),
            Self::PathPrefix(all) => all.iter().any(|prefix| path.starts_with(prefix)),
            Self::And(all) => all.iter().all(|tree| tree.matches(host, path)),
            Self::Or(all) => all.iter().any(|tree| tree.matches(host, path)),
        }
    }
}

const RULE_HOSTS: [&str; 3] = ["a", "b", "c"];
const RULE_PATHS: [&str; 6] = ["/", "/x", "/x/", "/x/y", "/xy", "/z"];

fn tree() -> impl Strategy<Value = Tree> {
    let paths = || vec(select(&RULE_PATHS[..]), 1..3);
    let leaf = prop_oneof![
        vec(select(&RULE_HOSTS[..2]), 1..3).prop_map(Tree::Host),
        paths().prop_map(Tree::Path),
        paths().prop_map(Tree::PathPrefix),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![vec(inner.clone(), 1..4).prop_map(Tree::And), vec(inner, 1..4).prop_map(Tree::Or)]
    })
}

#[test]
fn a_rule_takes_what_it_means() {
    check(3000, tree(), |tree| {
        let text = tree.text();
        let all = || RULE_HOSTS.iter().flat_map(|host| RULE_PATHS.iter().map(move |path| (*host, *path)));
        let routes = match rules::parse(&text).unwrap() {
            Ok(routes) => routes,
            Err(fault) => {
                prop_assert!(fault.reason.contains("can never match"), "{text}: {fault:?}");
                // The part at fault is no rule that anything matches.
                return Ok(());
            }
        };
        for (host, path) in all() {
            let takes = |route: &Route| {
                let host = route.host.as_ref().is_none_or(|own| own.as_str() == host);
                host && match &route.path {
                    PathMatch::Exact(own) => own == path,
                    PathMatch::Prefix(own) => path.starts_with(own),
                }
            };
            prop_assert_eq!(routes.iter().any(takes), tree.matches(host, path), "{} for {}{}", text, host, path);
        }
        Ok(())
    });
}

/// An address to listen on as a text, and as what it means.
fn listen_entry() -> impl Strategy<Value = (String, SocketAddr)> {
    let v4 = Ipv4Addr::UNSPECIFIED;
    let place = select(vec![
        ("", IpAddr::from(v4)),
        ("*:", v4.into()),
        ("0.0.0.0:", v4.into()),
        ("127.0.0.1:", Ipv4Addr::LOCALHOST.into()),
        ("127.1.2.3:", Ipv4Addr::new(127, 1, 2, 3).into()),
        ("[::]:", Ipv6Addr::UNSPECIFIED.into()),
        ("[::1]:", Ipv6Addr::LOCALHOST.into()),
        ("[0:0::1]:", Ipv6Addr::LOCALHOST.into()),
    ]);
    let port = prop_oneof![1 => 1..=65535_u16, 1 => Just(80_u16), 2 => Just(8080)];
    (place, port).prop_map(|((text, ip), port)| (format!("{text}{port}"), SocketAddr::new(ip, port)))
}

#[test]
fn addresses_to_listen_on_are_refused_or_come_back_out_as_they_went_in() {
    let oracle = support::nginx().map(Oracle::new);
    let good = vec((listen_entry(), select(&SEPARATORS[..])), 1..5);
    check(200, (good, option::of(spliced(Just(String::new())))), |(entries, nasty)| {
        let mut text: String = entries.iter().map(|((text, _), separator)| format!("{text}{separator}")).collect();
        let addresses: Vec<SocketAddr> = entries.iter().map(|((_, address), _)| *address).collect();
        text.extend(nasty.clone());
        let vars = BTreeMap::from([("NGINIT_LISTEN".to_owned(), text)]);
        let settings = match parse(&vars) {
            Ok(settings) => settings,
            Err(errors) => {
                let unique: BTreeSet<&SocketAddr> = addresses.iter().collect();
                prop_assert!(nasty.is_some() || unique.len() < addresses.len(), "good ones are refused: {errors}");
                return check_refusal(&errors, &["NGINIT_LISTEN"]);
            }
        };
        let files = render(&settings, Version(1, 22, 1));
        let statements = oracle::statements(&files["default.conf"]).unwrap();
        let found: Vec<SocketAddr> = statements
            .iter()
            .filter(|s| s.name() == "listen")
            .map(|s| {
                let any = |port: u16| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                s.words[1].parse().unwrap_or_else(|_| any(s.words[1].parse().unwrap()))
            })
            .collect();
        prop_assert!(nasty.is_some() || found == addresses, "{:?} became {:?}", addresses, found);
        match oracle.as_ref().map(|oracle| oracle.test(&files)) {
            Some(Err(printed)) => Err(TestCaseError::fail(printed)),
            _ => Ok(()),
        }
    });
}

/// What NAME_STICKY may say.
fn sticky() -> impl Strategy<Value = String> {
    let attributes = vec![
        "secure",
        "httponly",
        "samesite=lax",
        "samesite=none",
        "path=/",
        "path=/a%20~b",
        "domain=.Example.org",
        "expires=1h30m",
        "expires=max",
        "hash",
        "",
        "secure=1",
    ];
    let cookie = ("cookie(=[a-zA-Z0-9_]{1,70})?", vec(select(attributes), 0..4), select(vec![";", "; ", " ;"]));
    let cookie = cookie.prop_map(|(name, attributes, separator)| [vec![&*name], attributes].concat().join(separator));
    prop_oneof![6 => cookie, 1 => select(vec!["off", "ip", "ip consistent"]).prop_map(str::to_owned)]
}

#[test]
fn stickiness_is_refused_or_as_harmless_to_nginx_as_any() {
    let oracle = support::nginx().map(Oracle::new);
    let version = oracle.as_ref().map_or(Version(1, 22, 1), |oracle| oracle.version);
    let vars = |sticky: &str| {
        let list = "10.0.0.1 10.0.0.2;weight=3 [2001:db8::1]:80 unix:/run/a.b+c".to_owned();
        BTreeMap::from([("STATIC_BACKEND".to_owned(), list), ("STATIC_STICKY".to_owned(), sticky.to_owned())])
    };
    let files = |settings: &Settings, version: Version| {
        let listed = peers::peers(&settings.upstreams, &Resolved::new());
        let (peers, _) = slots::place_all(&Slots::new(), &settings.upstreams, listed);
        let (sources, env) = (Sources::new(), BTreeMap::new());
        let input = Input {
            settings,
            peers: &peers,
            sources: &sources,
            env: &env,
            nginx: version,
            ipv6: true,
            ca_bundle: None,
            generation: 1,
            clients: None,
            one_worker: false,
            groups: &Groups::new(),
            resolver: None,
            error_pages: &BTreeSet::new(),
        };
        render::render(input).unwrap()
    };
    let shape_of = |settings: &Settings, version| {
        oracle::statements(&files(settings, version)["default.conf"]).map(|statements| shape(&statements))
    };
    let known = |version| {
        let known = ["off", "ip", "ip consistent", "cookie", "cookie;hash"];
        known.map(|text| shape_of(&parse(&vars(text)).unwrap(), version)).to_vec()
    };
    let shapes = [Version(1, 22, 1), Version(1, 30, 6)].map(|version| (version, known(version)));
    check(200, prop_oneof![sticky(), spliced(sticky())], |text| {
        let settings = match parse(&vars(&text)) {
            Err(errors) => return check_refusal(&errors, &["STATIC_STICKY"]),
            Ok(settings) => settings,
        };
        for (version, known) in &shapes {
            prop_assert!(known.contains(&shape_of(&settings, *version)), "{text:?} is something else to nginx");
        }
        match oracle.as_ref().map(|oracle| oracle.test(&files(&settings, version))) {
            Some(Err(printed)) => Err(TestCaseError::fail(printed)),
            _ => Ok(()),
        }
    });
}

/// Variables of protocols, certificates and proxies with good values, for which the upstream `A` has TLS.
const PROTOCOLS: [(&str, &[&str]); 10] = [
    ("A_PROTOCOL", &["https", "grpcs"]),
    ("A_TLS_VERIFY", &["on", "off"]),
    ("A_TLS_NAME", &["a.test", "A.Test."]),
    ("A_TLS_CA", &["/c/ca.pem", "/c/..data/ca-1.pem"]),
    ("NGINIT_LISTEN", &["80 443;tls", "[::1]:443;http2;tls", "81;http2 443;tls"]),
    ("NGINIT_TLS_CERT", &["/c/cert.pem"]),
    ("NGINIT_TLS_KEY", &["/c/key=1.pem"]),
    ("NGINIT_TLS_REDIRECT", &["443", "8443", "off"]),
    ("NGINIT_TRUSTED_PROXIES", &["10.0.0.0/8, 192.0.2.7/9 fd00::1/8", "::1"]),
    ("NGINIT_REAL_IP_HEADER", &["X-Forwarded-For", "CF-Connecting-IP"]),
];

#[test]
fn what_is_said_of_protocols_is_refused_or_stays_an_argument() {
    let good: Vec<_> = PROTOCOLS.iter().map(|(_, values)| select(*values).prop_map(str::to_owned)).collect();
    let nasty = prop_oneof![1 => Just(None), 4 => (0..PROTOCOLS.len(), wild()).prop_map(Some)];
    let spliced = (any::<Index>(), select(NASTY));
    check(200, (good, nasty, spliced, any::<bool>()), |(good, nasty, (place, piece), splice)| {
        let names = PROTOCOLS.iter().map(|(name, _)| (*name).to_owned());
        let mut vars: BTreeMap<String, String> = names.zip(good).collect();
        vars.extend([("A_BACKEND", "web"), ("A_ROUTE", "/")].map(|(n, v)| (n.to_owned(), v.to_owned())));
        let shape = |vars: &BTreeMap<String, String>, nginx| {
            let files = parse(vars).map(|settings| render(&settings, nginx));
            files.map(|files| oracle::statements(&files["default.conf"]).unwrap())
        };
        let clean = shape(&vars, Version(1, 30, 6)).map_err(|err| TestCaseError::fail(err.to_string()))?;
        for paths in [("ssl_certificate", "/c/cert.pem"), ("ssl_certificate_key", "/c/key=1.pem")] {
            prop_assert!(clean.iter().any(|s| s.name() == paths.0 && s.words[1] == paths.1), "{:?}", paths);
        }
        let Some((which, wild)) = nasty else { return Ok(()) };
        let value = vars.get_mut(PROTOCOLS[which].0).unwrap();
        if splice {
            let places: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
            value.insert_str(*place.get(&places), piece);
        } else {
            *value = wild;
        }
        for nginx in [Version(1, 22, 1), Version(1, 30, 6)] {
            let Ok(statements) = shape(&vars, nginx) else { continue };
            let known = |name: &str| clean.iter().any(|s| s.name() == name) || KNOWN_WITHOUT.contains(&name);
            // Whatever was accepted makes no statement that the same variables do not make.
            for statement in &statements {
                prop_assert!(
                    known(statement.name()) || is_network(statement.name()),
                    "{:?} from {:?}",
                    statement,
                    vars
                );
            }
        }
        Ok(())
    });
}

/// Statements that other good values make.
const KNOWN_WITHOUT: [&str; 14] = [
    "return",
    "if",
    "http2",
    "proxy_ssl_verify",
    "grpc_ssl_verify",
    "proxy_ssl_trusted_certificate",
    "grpc_ssl_trusted_certificate",
    "proxy_ssl_name",
    "proxy_ssl_server_name",
    "grpc_ssl_name",
    "grpc_ssl_server_name",
    "1:http",
    "1",
    "default",
];

/// Whether a statement of `geo` or `map` starts with this.
fn is_network(name: &str) -> bool {
    name.split_once('/').is_some_and(|(ip, bits)| ip.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok())
}

/// Statements of a template of the operator's that print a value, rightly and wrongly.
const PRINTED: &[&str] = &[
    "set $x {{ env.X }};",
    "set $x \"{{ env.X }}\";",
    "set $x '{{ env.X }}';",
    "set $x \"a {{ env.X }} b\";",
    "set $x a{{ env.X }}b;",
    "set $x $arg_{{ env.X }};",
    "set $x \"${scheme}{{ env.X }}\";",
    "if ($arg_x = {{ env.X }}) { return 204; }",
    "map $uri $x { default {{ env.X }}; }",
    "# {{ env.X }}",
    "set $x {{ env.X | quote }};",
    "set $x \"{{ env.X | quote }}\";",
    "set $x '{{ env.X | quote }}';",
    "set $x \"a {{ env.X | quote }} b\";",
    "set $x 'a {{ env.X | quote }} b';",
    "set $x a{{ env.X | quote }};",
    "set $x {{ env.X | quote }}b;",
    "set $x {{ env.X | quote }}{{ env.X | quote }};",
    "set $x {{ env.X | quote | quote }};",
    "if ($arg_x = {{ env.X | quote }}) { return 204; }",
    "# {{ env.X | quote }}",
    "set $x {{ env.X | escape }};",
    "set $x {{ env.X | e }};",
    "set $x {{ env.X | escape | quote }};",
    "set $x {{ env.X | upper }};",
    "set $x {{ env.X | quote | upper }};",
    "set $x {{ env.X | quote | trim('\"') }};",
    "set $x {{ env.X | quote | replace('\"', '') }};",
    "set $x {{ env.X | quote | first }};",
    "set $x {{ env.X | quote | split(' ') | join }};",
    "set $x {{ [env.X, env.X] | join(';') }};",
    "set $x {{ [env.X | quote, env.X] | join(' ') }};",
    "set $x {{ env.X | quote ~ env.X }};",
    "set $x {{ env.X ~ ';' }};",
    "set $x {{ env.X | indent }};",
    "set $x {{ env.X | default('a') }};",
    "set $x {{ env.X | string }};",
    "set $x {{ '%s' | format(env.X) }};",
    "set $x {{ ('%s' | quote) | format(env.X) }};",
    "set $x {{ [env.X] }};",
    "set $x {% autoescape true %}{{ env.X }}{% endautoescape %};",
    "set $x {% autoescape 'html' %}{{ env.X }}{% endautoescape %};",
    "set $x {% set y %}{{ env.X | quote }}{% endset %}{{ y }};",
    "set $x {% set y %}{{ env.X }}{% endset %}{{ y }};",
    "{% macro m(v) %}{{ v }}{% endmacro %}set $x {{ m(env.X) }};",
    "{% autoescape true %}{% macro m(v) %}{{ v }}{% endmacro %}set $x {{ m(env.X) }};{% endautoescape %}",
    "set $x {% filter upper %}{{ env.X }}{% endfilter %};",
    "{% for c in env.X %}set $x {{ c }};{% endfor %}",
    "set $x {{ upstreams[0].servers[0].params ~ env.X }};",
    "set $x {{ upstreams[0].balance_directive | replace('ip_hash', env.X) }};",
];

/// Values that try to leave the argument they stand in.
fn attack() -> impl Strategy<Value = String> {
    let evil = "[a ]{0,2}[\"'\\\\]{0,2}[ ;{}\n]{1,2}tcp_nodelay on;[ #{}\"'\\\\]{0,3}";
    prop_oneof![3 => evil, 1 => wild(), 1 => spliced("[a-z ]{0,4}tcp_nodelay on;[#\"' ]{0,2}")]
}

/// What nginx would do, whatever the arguments are.
fn shape(statements: &[Statement]) -> Vec<(String, String, bool)> {
    statements.iter().map(|s| (s.inside.join("/"), s.name().to_owned(), s.opens)).collect()
}

/// The structure of what a template makes with this value: nothing where it is refused, by us or by
/// nginx's lexer.
fn printed(settings: &Settings, statement: &str, value: &str) -> Option<Vec<(String, String, bool)>> {
    let template = format!("set $before 1;\n{statement}\nset $after 1;\n# \"'\n");
    let files = render::render(Input {
        settings,
        peers: &peers::peers(&settings.upstreams, &Resolved::new()),
        sources: &Sources::from([("x.conf.j2".to_owned(), template)]),
        env: &BTreeMap::from([("X".to_owned(), value.to_owned())]),
        nginx: Version(1, 30, 6),
        ipv6: true,
        ca_bundle: None,
        generation: 1,
        error_pages: &BTreeSet::new(),
        clients: None,
        one_worker: false,
        groups: &Groups::new(),
        resolver: None,
    });
    Some(shape(&oracle::statements(&files.ok()?["x.conf"])?))
}

#[test]
fn no_value_becomes_a_directive() {
    let vars = BTreeMap::from([("STATIC_BACKEND".to_owned(), "10.0.0.1".to_owned())]);
    let settings = parse(&vars).unwrap();
    let plain: BTreeMap<&str, _> =
        PRINTED.iter().filter_map(|statement| Some((*statement, printed(&settings, statement, "a")?))).collect();
    assert!(plain.contains_key("set $x {{ env.X }};") && plain.contains_key("set $x {{ env.X | quote }};"));
    check(6000, (select(PRINTED), attack()), |(statement, value)| {
        let made = printed(&settings, statement, &value);
        let Some(made) = made else { return Ok(()) };
        // One that loops over the characters makes as many statements as there are.
        let fine = plain.get(statement).is_some_and(|plain| *plain == made) || statement.starts_with("{% for c");
        prop_assert!(fine, "{statement} with {value:?} makes {made:?}");
        Ok(())
    });
}

/// What is quoted means to nginx what it was.
#[test]
fn a_quoted_value_is_one_argument_that_reads_as_it_was() {
    let oracle = support::nginx().map(Oracle::new);
    let settings = parse(&BTreeMap::new()).unwrap();
    check(200, vec(prop_oneof![wild(), attack()], 1..30), |values| {
        let mut text = String::from("map $uri $x {\n");
        for (index, value) in values.iter().enumerate() {
            let template = format!("k{index} {{{{ env.X | quote }}}};\n");
            let files = render::render(Input {
                settings: &settings,
                peers: &Peers::new(),
                sources: &Sources::from([("x.conf.j2".to_owned(), template)]),
                env: &BTreeMap::from([("X".to_owned(), value.clone())]),
                nginx: Version(1, 30, 6),
                ipv6: true,
                ca_bundle: None,
                generation: 1,
                error_pages: &BTreeSet::new(),
                clients: None,
                one_worker: false,
                groups: &Groups::new(),
                resolver: None,
            });
            // nginx takes no argument of more than its buffer of 4096 bytes, and says so.
            let Some(files) = files.ok().filter(|_| value.len() < 2000) else { continue };
            let statements = oracle::statements(&files["x.conf"]).unwrap();
            prop_assert_eq!(statements.len(), 1);
            prop_assert_eq!(&statements[0].words, &vec![format!("k{index}"), value.clone()]);
            text.push_str(&files["x.conf"]);
        }
        text.push_str("}\n");
        match oracle.as_ref().map(|oracle| oracle.test_text(&text)) {
            Some(Err(printed)) => Err(TestCaseError::fail(format!("{printed}{text}"))),
            _ => Ok(()),
        }
    });
}

/// Bytes, mostly text.
fn bytes() -> impl Strategy<Value = OsString> {
    let raw = vec(any::<u8>(), 0..20).prop_map(OsString::from_vec);
    prop_oneof![raw, wild().prop_map(OsString::from), list().prop_map(|l| l.text().into())]
}

#[test]
fn no_environment_makes_reading_it_panic() {
    let names: Vec<String> = settings::variables::all()
        .flat_map(|v| ["STATIC", "DYNAMIC", "API", "A_BACKEND", "NGINIT"].map(|name| v.name.replacen("NAME", name, 1)))
        .chain(settings::variables::ALIASES.iter().map(|(old, _)| (*old).to_owned()))
        .flat_map(|name| [format!("{name}_FILE"), format!("{name}X"), format!("{name}_BACKEND"), name])
        .collect();
    let name = prop_oneof![6 => select(names).prop_map(OsString::from), 1 => bytes()];
    check(2000, vec((name, bytes()), 0..12), |vars| {
        let env = Env::new(vars.clone());
        let read = env.read(&mut inputs::Files::new(Mode::Strict));
        let parsed = settings::parse(&read.vars);
        let all: BTreeSet<&str> = vars.iter().filter_map(|(name, _)| name.to_str()).collect();
        let ours: Vec<&str> = all.iter().copied().collect();
        if let Err(errors) = &parsed {
            let mut ours = ours.clone();
            // A route that is missing, or set by a file that is not named, is told by its own name.
            let missing: Vec<String> =
                all.iter().filter_map(|name| Some(name.strip_suffix("_FILE")?.to_owned())).collect();
            ours.extend(missing.iter().map(String::as_str));
            check_refusal(errors, &ours)?;
        }
        for error in &read.errors {
            prop_assert!(all.contains(error.variable.as_str()));
            let text = error.to_string();
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }
        for name in &all {
            let _ = (settings::classify(name, &all), env.text(name));
        }
        prop_assert!(read.env.len() <= all.len());
        Ok(())
    });
}

/// Texts that look like nginx.conf.
fn conf_text() -> impl Strategy<Value = String> {
    let pieces = [
        "daemon",
        "include",
        " ",
        "\n",
        ";",
        "{",
        "}",
        "\"",
        "'",
        "\\",
        "#",
        "${",
        "$a",
        "conf.d/*.conf",
        "/etc/nginx/conf.d/a",
        "/etc/nginx/conf.d",
        "mime.types",
        "http",
        "é",
        ")",
        "\t",
        "\\\"",
        "include conf.d/*.conf;",
        "daemon off;",
        "http {",
        "}\n",
    ];
    let shaped = vec(select(pieces.to_vec()), 0..20).prop_map(|pieces| pieces.concat());
    prop_oneof![4 => shaped, 1 => any::<String>(), 1 => wild()]
}

#[test]
fn a_foreign_file_is_read_as_nginx_reads_it() {
    let (base, ours, stage) = (Path::new("/etc/nginx"), Path::new("/etc/nginx/conf.d"), Path::new("/stage"));
    check(6000, conf_text(), |text| {
        let sets = ["daemon", "include", "http"].map(|directive| conf::sets(&text, directive));
        let (changed, includes) = conf::redirect_includes(&text, base, ours, stage);
        if includes == 0 {
            prop_assert_eq!(&changed, &text);
        }
        // What nginx would refuse as a whole may be read in any way, and escapes in names need not be known.
        let Some(statements) =
            oracle::statements(&text).filter(|_| !text.contains(['\\', '\u{c}']) && !text.contains("${{"))
        else {
            return Ok(());
        };
        let top = |name: &str| statements.iter().any(|s| s.inside.is_empty() && s.name() == name);
        prop_assert_eq!(sets, ["daemon", "include", "http"].map(top));
        let ours = |s: &&Statement| {
            let path = s.words.get(1).map(|path| base.join(path)).unwrap_or_default();
            s.name() == "include" && s.words.len() == 2 && path.starts_with(ours)
        };
        prop_assert_eq!(includes, statements.iter().filter(ours).count());
        if includes > 0 {
            let again = oracle::statements(&changed).map(|s| s.len());
            prop_assert_eq!(again, Some(statements.len()), "{}", changed);
        }
        Ok(())
    });
}

// ---- how requests are passed on, and what nginit is told of nginx ---------------------------------------------------

/// The variables, each with good values.
const KNOBS: [(&str, &[&str]); 8] = [
    ("STATIC_RETRY", &["off", "1", "1000;timeout=24h", "3;on=error,timeout,invalid_header,http_429;timeout=1ms"]),
    ("STATIC_TIMEOUT", &["1ms", "24h", "connect=75s", "send=1m30s;read=1h;connect=1"]),
    ("STATIC_KEEPALIVE", &["off", "1", "10000;timeout=24h", "8;timeout=1ms"]),
    ("STATIC_MAX_BODY", &["off", "1", "512k", "10M", "1024g"]),
    ("STATIC_BUFFERING", &["on", "off"]),
    ("NGINIT_GZIP", &["on", "off"]),
    ("NGINIT_ACCESS_LOG_FLUSH", &["0", "1ms", "1h"]),
    ("NGINIT_ERROR_PAGES", &["/etc/nginit/errors", "/a-b_c.d/e+f@g/", "/../x"]),
];

/// A value for each, good or not; the second says that it is.
fn knobs() -> impl Strategy<Value = Vec<(String, bool)>> {
    let value = |(_, good): (&str, &'static [&'static str])| {
        let good = select(good).prop_map(str::to_owned);
        let bad = prop_oneof![3 => spliced(good.clone()), 1 => wild()].prop_map(|text| (text, false));
        prop_oneof![6 => good.prop_map(|text| (text, true)), 1 => bad]
    };
    KNOBS.map(value).into_iter().collect::<Vec<_>>()
}

#[test]
fn knobs_are_refused_by_name_or_taken_by_nginx() {
    let oracle = support::nginx().map(Oracle::new);
    let version = oracle.as_ref().map_or(Version(1, 30, 6), |oracle| oracle.version);
    let pages = BTreeSet::from([400, 404, 413, 500, 502, 503]);
    check(200, (knobs(), any::<bool>()), |(values, json)| {
        let names = KNOBS.map(|(name, _)| name);
        let mut vars: BTreeMap<String, String> =
            names.iter().zip(&values).map(|(name, (text, _))| ((*name).to_owned(), text.clone())).collect();
        vars.insert("STATIC_BACKEND".to_owned(), "10.0.0.1 10.0.0.2".to_owned());
        vars.insert("NGINIT_ACCESS_LOG".to_owned(), if json { "json" } else { "text" }.to_owned());
        let settings = match parse(&vars) {
            Ok(settings) => settings,
            Err(errors) => {
                prop_assert!(values.iter().any(|(_, good)| !good), "good values are refused: {errors}");
                return check_refusal(&errors, &names);
            }
        };
        let files = render::render(Input {
            settings: &settings,
            peers: &peers::peers(&settings.upstreams, &Resolved::new()),
            sources: &Sources::new(),
            env: &BTreeMap::new(),
            nginx: version,
            ipv6: true,
            ca_bundle: None,
            generation: 1,
            error_pages: &pages,
            clients: Some("/dev/null"),
            one_worker: false,
            groups: &Groups::new(),
            resolver: None,
        });
        let files = files.map_err(|err| TestCaseError::fail(err.to_string()))?;
        if let Some(Err(printed)) = oracle.as_ref().map(|oracle| oracle.test(&files)) {
            return Err(TestCaseError::fail(format!("{printed}{}", files["default.conf"])));
        }
        Ok(())
    });
}
