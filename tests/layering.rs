//! Who may import whom: the pure files reach for no file, clock, process, thread or socket, and for
//! no module that does. Checked in the sources, because an import that should not be there compiles
//! as well as any other. Also how long a file may be, and that each says what it is for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files, and directories with all that is below them, that decide and do not act.
const PURE: [&str; 42] = [
    "admin.rs",
    "admin/diff.rs",
    "admin/listing.rs",
    "admin/orders.rs",
    "admin/route.rs",
    "admin/status.rs",
    "admin/text.rs",
    "admin/why.rs",
    "dns/config.rs",
    "dns/hosts.rs",
    "dns/message.rs",
    "dns/rhythm.rs",
    "live.rs",
    "live/message.rs",
    "live/responder.rs",
    "live/responder",
    "live/zone.rs",
    "membership.rs",
    "membership",
    "ordered.rs",
    "upstream.rs",
    "upstream",
    "peers.rs",
    "serf.rs",
    "serf",
    "slots.rs",
    "settings.rs",
    "settings",
    "render.rs",
    "render",
    "nginx/clash.rs",
    "nginx/command.rs",
    "nginx/conf.rs",
    "nginx/facts.rs",
    "nginx/verdict.rs",
    "supervisor.rs",
    "supervisor/backoff.rs",
    "supervisor/clients/dominant.rs",
    "supervisor/generations.rs",
    "supervisor/reload.rs",
    "supervisor/resync.rs",
    "supervisor/sidecar.rs",
];

/// What they must not name, nor anything below it.
const FORBIDDEN: [&str; 50] = [
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "std::os",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::sync::mpsc",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "anyhow",
    "clap",
    "hyper",
    "hyper_util",
    "rustix",
    "signal_hook",
    "tokio",
    "which",
    "crate::admin::client",
    "crate::admin::desk",
    "crate::admin::socket",
    "crate::admin::tcp",
    "crate::ask",
    "crate::cli",
    "crate::commands",
    "crate::dns::ask",
    "crate::dns::follow",
    "crate::dns::look_up_all",
    "crate::dns::lookup",
    "crate::dns::system",
    "crate::inputs",
    "crate::live::serve",
    "crate::nginx::Nginx",
    "crate::nginx::find",
    "crate::reload",
    "crate::supervisor::child",
    "crate::supervisor::cluster",
    "crate::supervisor::confirm",
    "crate::supervisor::reaper",
    "crate::supervisor::reloader",
    "crate::supervisor::resync::run",
    "crate::supervisor::shell",
    "crate::supervisor::sidecar::run",
    "crate::supervisor::signals",
];

/// Longest file without its tests, in lines that are not empty.
const LONGEST: usize = 500;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file below `dir`, as a path from `src` and its text.
fn sources(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned();
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// `text` without the test module at its end.
fn without_tests(text: &str) -> &str {
    let heads = ["\n#[cfg(test)]\nmod tests", "\n#[cfg(test)]\npub(super) mod tests"];
    heads.iter().filter_map(|head| text.find(head)).min().map_or(text, |at| &text[..at + 1])
}

/// `text` without comments and without what stands in quotes.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |at| at + 5)
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |at| at + 2)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") || rest.starts_with("'\\''") || rest.starts_with("'\\\\'") {
            4
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[skipped..];
    }
    out
}

/// The paths of a `use`, each whole, with the name that it is known by here.
fn expand(prefix: &str, tree: &str, found: &mut Vec<(String, String)>) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let group = group.strip_suffix('}').unwrap();
        let mut depth = 0;
        let items = group.split(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        items.filter(|item| !item.trim().is_empty()).for_each(|item| expand(&format!("{prefix}{head}"), item, found));
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path = format!("{prefix}{}", path.trim());
    let path = path.strip_suffix("::self").unwrap_or(&path).to_owned();
    let alias = if alias.is_empty() { path.rsplit("::").next().unwrap() } else { alias.trim() };
    found.push((alias.to_owned(), path));
}

/// Every path that `text` names, from `crate` or a crate's name on. `module` is its own.
fn paths(module: &str, text: &str) -> Vec<String> {
    let code = code(without_tests(text));
    let mut imports = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let at =
            statement.find("use ").filter(|at| !statement[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        match at {
            Some(at) => {
                expand("", statement[at + 4..].trim_end_matches(';'), &mut imports);
                rest.push_str(&statement[..at]);
            }
            None => rest.push_str(statement),
        }
    }
    let absolute = |path: &str| {
        let mut start = module;
        let mut rest = path;
        let mut relative = false;
        while let Some((first @ ("self" | "super"), tail)) = rest.split_once("::") {
            if first == "super" {
                start = start.rsplit_once("::").map_or(start, |(parent, _)| parent);
            }
            (rest, relative) = (tail, true);
        }
        if relative { format!("{start}::{rest}") } else { path.to_owned() }
    };
    for (_, path) in &mut imports {
        *path = absolute(path);
    }
    let mut found: Vec<String> = imports.iter().map(|(_, path)| path.clone()).collect();
    let words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    for word in words.map(|word| word.trim_matches(':')).filter(|word| word.contains("::")) {
        let (first, tail) = word.split_once("::").unwrap();
        found.push(absolute(word));
        found.push(format!("{module}::{word}"));
        let known = imports.iter().filter(|(alias, _)| alias == first);
        found.extend(known.map(|(_, path)| format!("{path}::{tail}")));
    }
    found
}

/// What a pure file names and must not.
fn violations(file: &str, text: &str) -> Vec<String> {
    let module = format!("crate::{}", file.trim_end_matches(".rs").replace('/', "::"));
    let is_below =
        |path: &str, top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let bad = |path: &String| {
        let log = is_below(path, "crate::log")
            && !["crate::log::Level", "crate::log::Format"].iter().any(|fine| is_below(path, fine));
        // Data types of one's own module are listed one by one; a glob of another hides what it brings.
        let glob = path.ends_with("::*");
        log || glob || FORBIDDEN.iter().any(|top| is_below(path, top))
    };
    let mut found: Vec<String> =
        paths(&module, text).into_iter().filter(bad).map(|path| format!("{file}: {path}")).collect();
    let code = code(without_tests(text));
    let macros = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
    found.extend(macros.iter().filter(|name| code.contains(*name)).map(|name| format!("{file}: {name}")));
    found.sort();
    found.dedup();
    found
}

#[test]
fn pure_files_import_nothing_that_acts() {
    let sources = sources(&src());
    let mut found = Vec::new();
    for pure in PURE {
        let below = format!("{pure}/");
        let files: Vec<_> = sources.iter().filter(|(name, _)| *name == pure || name.starts_with(&below)).collect();
        assert!(!files.is_empty(), "src/{pure} is gone: correct the list above");
        found.extend(files.into_iter().flat_map(|(name, text)| violations(name, text)));
    }
    assert!(found.is_empty(), "pure files name what acts:\n{}", found.join("\n"));
}

#[test]
fn the_check_finds_what_it_looks_for() {
    for bad in [
        "use std::fs;",
        "use std::{collections::BTreeMap, fs as files};",
        "use std::{net::{IpAddr, TcpStream}, fmt};",
        "pub(crate) use std::env;",
        "fn f() { let x = std::process::id(); }",
        "use std::net;\nfn f() { net::UdpSocket::bind(x) }",
        "use std::time::{Duration, Instant};\nfn f() { Instant::now() }",
        "use std::time;\nfn f() { time::SystemTime::now() }",
        "use crate::log;",
        "use crate::log::{self, Level};",
        "fn f() { crate::log::line(x) }",
        "use crate::inputs::Env;",
        "use super::shell;",
        "use super::super::reload::disk;",
        "use crate::reload::disk::Disk;",
        "use crate::nginx::{facts::Version, find};",
        "use crate::supervisor::*;",
        "fn f() { rustix::process::kill(x) }",
        "fn f() { println!(\"x\") }",
        "// use std::env;\nuse std::fs; // std::env",
        "use std::fmt;\n\nuse std::thread;\n#[cfg(test)]\nmod tests { use super::*; }",
    ] {
        assert!(!violations("supervisor/x.rs", bad).is_empty(), "not found: {bad}");
    }
    assert!(!violations("supervisor.rs", "pub mod child;\nfn f() { child::spawn(x) }").is_empty());
    for fine in [
        "//! std::fs is not for us.\npub mod child;\n/// std::env neither.\nuse std::time::{Duration, Instant};",
        "use std::net::{IpAddr, SocketAddr};\nfn f() { let s = \"std::fs\"; let c = '\"'; }",
        "use crate::log::{Format, Level};\nfn f() { Level::from_word(x); \"use std::env;\" }",
        "use super::error::SettingsError;\nuse crate::nginx::facts::Version;",
        "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n    use std::fs;\n}\n",
        "// use std::thread;\n/* use std::fs; */\nfn because() { cause std::fmt::Display; }",
    ] {
        assert_eq!(violations("supervisor/x.rs", fine), [""; 0], "{fine}");
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let length = |text: &str| without_tests(text).lines().filter(|line| !line.trim().is_empty()).count();
    let long = sources(&src()).into_iter().filter(|(_, text)| length(text) > LONGEST);
    let long: Vec<String> = long.map(|(name, text)| format!("src/{name}: {} lines", length(&text))).collect();
    assert!(long.is_empty(), "more than {LONGEST} lines without tests; look for the second subject inside: {long:?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> =
        sources(&src()).into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "no \"//!\" at the top: {silent:?}");
}
