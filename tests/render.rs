//! From the environment to the files of a configuration: every `tests/inputs/*.env` against its
//! snapshot in `tests/snapshots/`, and every snapshot that is no fault against real nginx.
//!
//! An input is a list of variables, in the order in which they are handed over:
//!
//! ```text
//! # a comment
//! #! nginx 1.22.1            the version to render for; 1.30.6 unless said
//! #! ipv6 no                 the kernel has no IPv6
//! #! pages 404 503           there are pages of the operator's for these statuses
//! #! live 127.0.0.1:10053   nginx follows servers, and asks here
//! #! clients /dev/null       nginit runs, and nginx tells of clients in this file
//! NAME=VALUE                 to the end of the line, as it stands
//! NAME<<END                  the lines up to one that is END alone
//! first line
//! second line
//! END
//! ```
//!
//! Relative paths of `NAME_FILE` variables start at the repository's top. Templates of the
//! operator's stand in a directory `NAME.templates` beside `NAME.env`. Host names are those of
//! [`ADDRESSES`], and no others. Inputs whose names start with `err_` are refused, and their
//! snapshot is every fault.
//!
//! After a change that is meant: `INSTA_UPDATE=always cargo test --test render`, and read the
//! difference. With `CI=true` a difference only fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod oracle;
mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use nginit::inputs::{self, Env, Mode};
use nginit::live::{self, Ability, Groups};
use nginit::nginx::facts::Version;
use nginit::peers;
use nginit::reload::candidate::{self, Inputs};
use nginit::render::{self, Input};
use nginit::settings::LiveMode;
use nginit::slots::{self, Slots};
use nginit::upstream::{Files, HostName, Lookup, Resolved, Target};

use oracle::Oracle;
use support::tls::Certificate;

/// The host names that have addresses.
const ADDRESSES: [(&str, &[&str]); 4] = [
    ("web", &["10.0.0.2"]),
    ("many", &["10.0.0.3", "10.0.0.4", "2001:db8::3"]),
    ("six", &["2001:db8::6"]),
    ("api.example", &["10.1.0.1"]),
];

/// An input as its file says it.
struct Case {
    name: String,
    vars: Vec<(OsString, OsString)>,
    nginx: Version,
    ipv6: bool,
    pages: BTreeSet<u16>,
    clients: Option<String>,
    live: Option<SocketAddr>,
    templates: PathBuf,
}

impl Case {
    fn read(path: &Path) -> Self {
        let mut case = Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            vars: Vec::new(),
            nginx: Version(1, 30, 6),
            ipv6: true,
            pages: BTreeSet::new(),
            clients: None,
            live: None,
            templates: path.with_extension("templates"),
        };
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(header) = line.strip_prefix("#! ") {
                match header.split_once(' ').unwrap() {
                    ("nginx", version) => {
                        let mut numbers = version.split('.').map(|n| n.parse().unwrap());
                        let mut next = || numbers.next().unwrap();
                        case.nginx = Version(next(), next(), next());
                    }
                    ("ipv6", "no") => case.ipv6 = false,
                    ("pages", list) => case.pages = list.split(' ').map(|n| n.parse().unwrap()).collect(),
                    ("live", at) => case.live = Some(at.parse().unwrap()),
                    ("clients", path) => case.clients = Some(path.to_owned()),
                    other => panic!("{}: {other:?} is no header", case.name),
                }
            } else if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                case.vars.push((name.into(), value.into()));
            } else if let Some((name, end)) = line.split_once("<<").filter(|_| !line.starts_with('#')) {
                let value: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
                case.vars.push((name.into(), value.join("\n").into()));
            } else {
                assert!(line.is_empty() || line.starts_with('#'), "{}: {line:?} is no variable", case.name);
            }
        }
        case
    }

    /// Its files for nginx `version`, and its notes; or its faults.
    fn render(&self, version: Version) -> Result<(Files, Vec<String>), String> {
        let read = candidate::inputs(&Env::new(self.vars.clone()), Mode::Strict);
        let Inputs { settings, notes, env, .. } = read.map_err(|failure| failure.reason)?;
        let sources = inputs::templates(&self.templates).unwrap();
        let listed = peers::peers(&settings.upstreams, &resolved());
        let (peers, _) = slots::place_all(&Slots::new(), &settings.upstreams, listed);
        let mode = if self.live.is_some() { LiveMode::Auto } else { LiveMode::Off };
        let ability = Ability { mode, nginx: version, ipv6: self.ipv6, fault: None };
        let (groups, _) = live::arrange_all(&Groups::new(), &settings.upstreams, &peers, |_| ability);
        let input = Input {
            settings: &settings,
            peers: &peers,
            sources: &sources,
            env: &env,
            nginx: version,
            ipv6: self.ipv6,
            ca_bundle: Some("/etc/ssl/certs/ca-certificates.crt"),
            generation: 1,
            error_pages: &self.pages,
            clients: self.clients.as_deref(),
            one_worker: false,
            groups: &groups,
            resolver: self.live,
        };
        let files = render::render(input).map_err(|err| err.to_string())?;
        Ok((files, notes.into_iter().map(|note| format!("{:?}: {}", note.level, note.text)).collect()))
    }

    fn is_refused(&self) -> bool {
        self.name.starts_with("err_")
    }
}

fn resolved() -> Resolved {
    let targets = |list: &[&str]| list.iter().map(|a| Target::from(a.parse::<IpAddr>().unwrap())).collect();
    ADDRESSES.iter().map(|(name, list)| (Lookup::Host(HostName::new(name).unwrap()), targets(list))).collect()
}

/// The files of a directory of the tests' that have this ending.
fn files_of(dir: &str, ending: &str) -> BTreeSet<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir);
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
}

fn cases() -> Vec<Case> {
    files_of("inputs", "env").iter().map(|path| Case::read(path)).collect()
}

#[test]
fn every_input_renders_as_its_snapshot() {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut names = BTreeSet::new();
    settings.bind(|| {
        for case in cases() {
            let result = case.render(case.nginx);
            assert_eq!(result.is_err(), case.is_refused(), "{}: {result:#?}", case.name);
            let shown = result.map_or_else(
                |faults| format!("{faults}\n"),
                |(files, notes)| {
                    let mut shown: String = notes.iter().map(|note| format!("---- {note}\n")).collect();
                    shown.extend(files.iter().map(|(name, text)| format!("---- {name}\n{text}")));
                    shown
                },
            );
            insta::assert_snapshot!(case.name.clone(), shown);
            names.insert(case.name);
        }
    });
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let snapshots: BTreeSet<String> = files_of("snapshots", "snap").iter().map(stem).collect();
    assert_eq!(snapshots, names, "no snapshot without an input");
}

#[test]
fn nginx_accepts_every_good_input() {
    let oracle = Oracle::new(nginx_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let pair = Certificate::new(dir.path(), "cert", "localhost");
    // The files that inputs name, and the authorities, need not be on this machine.
    let stand_ins = [
        ("/run/secrets/cert.pem", &pair.cert),
        ("/run/secrets/key.pem", &pair.key),
        ("/etc/ssl/certs/ca-certificates.crt", &pair.cert),
    ];
    for case in cases().iter().filter(|case| !case.is_refused()) {
        // A directive that came later than this nginx is in the snapshot, and not in what it reads.
        let (mut files, _) = case.render(case.nginx.min(oracle.version)).unwrap();
        for text in files.values_mut() {
            *text =
                stand_ins.iter().fold(text.clone(), |text, (named, real)| text.replace(named, real.to_str().unwrap()));
        }
        oracle.test(&files).unwrap_or_else(|printed| panic!("{}: {printed}{files:#?}", case.name));
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_in_any_order_of_variables() {
    for mut case in cases() {
        let first = case.render(case.nginx);
        assert_eq!(case.render(case.nginx), first, "{}: twice", case.name);
        case.vars.reverse();
        assert_eq!(case.render(case.nginx), first, "{}: in reverse", case.name);
        let half = case.vars.len() / 2;
        case.vars.rotate_left(half);
        assert_eq!(case.render(case.nginx), first, "{}: rotated", case.name);
    }
}

/// nginx counts its shared memory in pages, so that only a test with so many tells whether the zone
/// is large enough.
#[test]
fn ten_thousand_servers_fit_into_their_zone() {
    let oracle = Oracle::new(nginx_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let longest =
        |n: u32| format!("[2001:db8:1111:2222:3333:4444:{:x}:{:x}]:65535;max_conns=9;down\n", n >> 8, n & 255);
    for balance in ["least_conn", "ip_hash", "random", "hash $request_uri consistent"] {
        fs::write(&list, (0..10_000).map(longest).collect::<String>()).unwrap();
        let var = |name: &str, value: &Path| (OsString::from(name), value.as_os_str().to_owned());
        let vars = vec![var("STATIC_BACKEND_FILE", &list), var("STATIC_BALANCE", Path::new(balance))];
        let (name, templates) = (balance.to_owned(), dir.path().join("none"));
        let (pages, clients, live) = (BTreeSet::new(), None, None);
        let case = Case { name, vars, nginx: oracle.version, ipv6: true, pages, clients, live, templates };
        let (files, _) = case.render(case.nginx).unwrap();
        assert_eq!(files["default.conf"].matches("\n    server ").count(), 10_000);
        oracle.test(&files).unwrap_or_else(|printed| panic!("{balance}: {printed}"));
    }
}
