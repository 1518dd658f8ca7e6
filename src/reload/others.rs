//! What nginx reads besides the files that nginit renders: the main file, what it includes, and
//! certificates and other files that any of them names.
//!
//! A HUP that finds equal bytes does nothing, and must not do so when somebody renewed a
//! certificate or edited a file of theirs. So each file that a configuration names is looked at,
//! and in doubt nginx reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::nginx::conf;
use crate::upstream::Files;

/// Most files that are looked at; more are taken for a change at each look.
const MOST: usize = 10_000;

/// The longest file that is read, in bytes. Longer ones are looked at from outside.
const LONGEST: u64 = 4 << 20;

/// How exact the clock of a file system is: a tick of the kernel, generously.
const CLOCK_TICK: Duration = Duration::from_millis(50);

/// Every file of others, and how it looked at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Others(BTreeMap<PathBuf, Look>);

/// What changes when a file is replaced or written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970 of the last change of the content, and of the file's own record.
    modified: i128,
    changed: i128,
}

impl Look {
    /// Looks at a regular file, also through links; nothing is none.
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| Self::of(&meta))
    }

    /// How a file looks that has this record.
    pub fn of(meta: &fs::Metadata) -> Self {
        let nanos = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether its content has changed within `time` before `now`. What is of the future, by a clock of
    /// others, is not new.
    pub fn is_new(&self, time: Duration, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().cast_signed();
        (0..time.as_nanos().cast_signed()).contains(&(now - self.modified))
    }
}

impl Others {
    /// Looks at all files that the main file `main` and `globals`, the text of `-g`, lead to. `ours`
    /// stands for the files that nginit renders into `conf_dir`. Nothing, where there are too many, or
    /// where nginx reads more than files: names that it looks up, scripts that import others.
    pub fn look(main: &Path, globals: &str, prefix: &Path, conf_dir: &Path, ours: &Files) -> Option<Self> {
        let bases = [main.parent().unwrap_or(Path::new("/")), prefix];
        let mut walk = Walk {
            bases,
            conf_dir,
            ours,
            seen: BTreeMap::new(),
            queue: vec![main.to_owned()],
            hosts: BTreeSet::new(),
            upstreams: BTreeSet::new(),
            scripts: false,
        };
        for text in ours.values().map(String::as_str).chain([globals]) {
            walk.read(text);
        }
        let mut done = BTreeSet::new();
        while let Some(path) = walk.queue.pop() {
            if walk.seen.len() > MOST {
                return None;
            }
            if !done.insert(path.clone()) {
                continue;
            }
            walk.add(&path);
            if walk.seen.get(&path).is_some_and(|look| look.size <= LONGEST) {
                let bytes = fs::read(&path).unwrap_or_default();
                walk.read(&String::from_utf8_lossy(&bytes));
            }
        }
        (!walk.scripts && walk.hosts.is_subset(&walk.upstreams)).then_some(Self(walk.seen))
    }

    /// Whether all were as they are now at `time`, too.
    pub fn are_older_than(&self, time: SystemTime) -> bool {
        let Some(time) = time.checked_sub(CLOCK_TICK).and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok())
        else {
            return false;
        };
        let time = time.as_nanos().cast_signed();
        self.0.values().all(|look| look.modified < time && look.changed < time)
    }
}

struct Walk<'a> {
    /// Where relative paths may start.
    bases: [&'a Path; 2],
    conf_dir: &'a Path,
    ours: &'a Files,
    seen: BTreeMap<PathBuf, Look>,
    /// Files that are included.
    queue: Vec<PathBuf>,
    /// Hosts that are named, and names that are upstreams.
    hosts: BTreeSet<String>,
    upstreams: BTreeSet<String>,
    /// Whether there are modules of scripts.
    scripts: bool,
}

impl Walk<'_> {
    /// Goes through the statements of a file.
    fn read(&mut self, text: &str) {
        for words in conf::words(text) {
            let Some((directive, arguments)) = words.split_first() else { continue };
            self.scripts |= is_script(directive);
            match (*directive, arguments) {
                // Looked up as nginx runs.
                ("server", all) if all.contains(&"resolve") => {}
                ("upstream", [name, ..]) => drop(self.upstreams.insert((*name).to_owned())),
                // nginx asks by itself, again and again.
                ("server", all) if all.contains(&"resolve") => {}
                ("server" | "listen" | "set_real_ip_from" | "auth_http", [to, ..]) => self.hosts.extend(host(to)),
                ("resolver", all) => {
                    self.hosts.extend(all.iter().filter(|to| !to.contains('=')).filter_map(|to| host(to)))
                }
                (name, [to, ..]) if name.ends_with("_pass") => self.hosts.extend(host(to)),
                (name, [to, ..]) if name.ends_with("_log") => {
                    let to = to.strip_prefix("syslog:server=").and_then(|to| to.split(',').next());
                    self.hosts.extend(to.and_then(host));
                }
                _ => {}
            }
            // Written by nginx, or no files at all and many.
            if directive.ends_with("_log") || ["pid", "lock_file", "server", "location"].contains(directive) {
                continue;
            }
            for argument in arguments {
                // `name:path` and `name=path` occur, as in data: and engine: of certificates, which are none.
                for base in self.bases {
                    let path = base.join(argument);
                    if *directive == "include" {
                        self.include(&path);
                    } else {
                        self.add(&path);
                    }
                }
            }
        }
    }

    /// Adds a regular file, unless it is ours.
    fn add(&mut self, path: &Path) {
        if self.is_ours(path) || self.seen.contains_key(path) {
            return;
        }
        if let Some(look) = Look::at(path) {
            self.seen.insert(path.to_owned(), look);
        }
    }

    /// Whether it is one of our files, also where a link leads to their directory.
    fn is_ours(&self, path: &Path) -> bool {
        let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| self.ours.contains_key(name));
        let dir = path.parent().unwrap_or(Path::new("/"));
        let same = || dir.canonicalize().ok().zip(self.conf_dir.canonicalize().ok()).is_some_and(|(a, b)| a == b);
        named && (dir == self.conf_dir || same())
    }

    /// Queues the file or, for a pattern, everything that could match.
    fn include(&mut self, path: &Path) {
        let parts: Vec<&OsStr> = path.iter().collect();
        self.list(PathBuf::new(), &parts);
    }

    /// Queues what `pattern` could stand for below `dir`. As in glob(7), a name with a dot in front is
    /// meant only by a pattern with one.
    fn list(&mut self, dir: PathBuf, pattern: &[&OsStr]) {
        let Some((part, rest)) = pattern.split_first() else {
            self.queue.push(dir);
            return;
        };
        let part = part.as_encoded_bytes();
        if !part.iter().any(|b| b"*?[".contains(b)) {
            return self.list(dir.join(pattern[0]), rest);
        }
        let Ok(entries) = fs::read_dir(&dir) else { return };
        for entry in entries.filter_map(Result::ok).take(MOST) {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden || part.starts_with(b".") {
                self.list(entry.path(), rest);
            }
        }
    }
}

/// Whether a directive's files are in a language of their own and can name further ones.
fn is_script(directive: &str) -> bool {
    let starts = ["js_", "perl_", "lua_", "modsecurity", "xslt_", "xml_entities"];
    starts.iter().any(|start| directive.starts_with(start)) || directive.contains("_by_lua")
}

/// The name, if any, that stands for the host in the address of a server or of `proxy_pass` and the like.
/// nginx looks it up when it reads the file, unless there is a variable in it.
fn host(address: &str) -> Option<String> {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = address.split('/').next().unwrap_or_default();
    let host = authority.split(':').next().unwrap_or_default();
    let named = host.contains(|c: char| c.is_ascii_alphabetic()) && !["unix", "localhost"].contains(&host);
    let number = host.starts_with('[') || [authority, host].iter().any(|text| text.parse::<IpAddr>().is_ok());
    (named && !number && !address.contains('$')).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_names_is_looked_at() {
        let began = SystemTime::now();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |name: &str, text: &str| {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        };
        let (key, extra) = (root.join("secrets/key.pem"), root.join("sites/a/own.conf"));
        write(
            "nginx.conf",
            "pid nginx.pid;\nhttp { include mime.types; include conf.d/*.conf; access_log access.txt; }",
        );
        write("nginx.pid", "1");
        write("mime.types", "types {}");
        write("access.txt", "");
        write("conf.d/default.conf", "ours");
        write("conf.d/users.conf", &format!("include {}/sites/*/*.conf;", root.display()));
        write("sites/a/own.conf", "server { ssl_certificate certs/cert.pem; }");
        write("certs/cert.pem", "1");
        write("secrets/key.pem", "1");
        write("unrelated", "1");
        let ours = Files::from([("default.conf".to_owned(), format!("ssl_certificate_key \"{}\";", key.display()))]);
        let (main, globals) = (root.join("nginx.conf"), "include global;");
        write("global", "");
        let look = || Others::look(&main, globals, Path::new("/nonexistent"), &root.join("conf.d"), &ours).unwrap();
        let first = look();
        let names: Vec<PathBuf> = first.0.keys().map(|p| p.strip_prefix(root).unwrap().to_owned()).collect();
        let expected = [
            "certs/cert.pem",
            "conf.d/users.conf",
            "global",
            "mime.types",
            "nginx.conf",
            "secrets/key.pem",
            "sites/a/own.conf",
        ];
        assert_eq!(names, expected.map(PathBuf::from));
        assert_eq!(look(), first);
        for name in ["unrelated", "access.txt", "conf.d/default.conf", "nginx.pid"] {
            write(name, "other");
            assert_eq!(look(), first, "{name}");
        }
        for name in expected {
            let before = look();
            let text = fs::read_to_string(root.join(name)).unwrap();
            fs::remove_file(root.join(name)).unwrap();
            write(name, &text);
            assert_ne!(look(), before, "{name}");
        }
        assert!(!first.are_older_than(began) && extra.exists());
        assert!(first.are_older_than(SystemTime::now() + Duration::from_secs(60)));
    }

    #[test]
    fn patterns_lead_to_what_nginx_would_find() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["real/a/x.conf", "real/b/.x.conf", "real/.c/x.conf", "real/ours.conf"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let ours = Files::from([("ours.conf".to_owned(), String::new())]);
        let found = |pattern: &str| {
            fs::write(root.join("main"), format!("include {pattern};")).unwrap();
            let others = Others::look(&root.join("main"), "", Path::new("/none"), &root.join("real"), &ours).unwrap();
            let names = others.0.into_keys().filter_map(|p| Some(p.strip_prefix(root.join("link")).ok()?.to_owned()));
            names.map(|p| p.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found("link/*/*.conf"), "a/x.conf");
        assert_eq!(found("link/*/.*.conf"), "a/x.conf b/.x.conf", "more than nginx finds does no harm");
        assert_eq!(found("link/.*/x.conf"), ".c/x.conf a/x.conf");
        assert_eq!(found("link/?/.x.conf"), "b/.x.conf");
        assert_eq!(found("link/*/../b/.x.conf"), "a/../b/.x.conf b/../b/.x.conf");
        assert_eq!(found("link/*"), "", "ours by another name");
    }

    #[test]
    fn where_nginx_looks_up_names_or_runs_scripts_nothing_is_known() {
        let look = |text: &str| {
            let ours = Files::from([("default.conf".to_owned(), text.to_owned())]);
            Others::look(Path::new("/none"), "", Path::new("/none"), Path::new("/none"), &ours).is_some()
        };
        for text in [
            "upstream web { server 10.0.0.1:80 weight=2; server unix:/a.sock; server [::1]:80; }",
            "upstream web { resolver 127.0.0.1:10053; server 0.web.nginit service=http resolve max_fails=2; }",
            "server { server_name web.test; location / { proxy_pass http://web/path; } } upstream web {}",
            "proxy_pass http://$host:80/a; fastcgi_pass unix:/run/php.sock; proxy_pass http://localhost:80;",
            "proxy_pass http://unix:/a.sock:/uri; grpc_pass 127.0.0.1:1;",
            "listen 80; listen *:80; listen [fe80::1]:80; listen 127.0.0.1:8080; listen localhost:80 ssl;",
            "upstream a { zone a 1m; server 0.a.nginit service=http resolve max_fails=2; }",
            "set_real_ip_from fd00::/8; set_real_ip_from 10.0.0.0/8; resolver 10.0.0.1 [fd00::1]:53 valid=30s;",
            "access_log syslog:server=10.0.0.1:514,tag=x main; error_log syslog:server=unix:/dev/log;",
        ] {
            assert!(look(text), "{text}");
        }
        for text in [
            "proxy_pass https://web.test;",
            "upstream a { server web.test:80; }",
            "fastcgi_pass php:9000;",
            "js_import main from http.js;",
            "modsecurity_rules_file /etc/modsecurity/main.conf;",
            "access_by_lua_block { require 'auth' }",
            "content_by_lua_file a.lua;",
            "xslt_stylesheet a.xslt;",
            "listen web.test:80;",
            "set_real_ip_from lb.test;",
            "resolver 10.0.0.1 dns.test:53 valid=30s;",
            "access_log syslog:server=logs.test:514,tag=x main;",
        ] {
            assert!(!look(text), "{text}");
        }
    }
}
