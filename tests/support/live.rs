//! What tests share of servers that nginx follows without a reload.

#![allow(dead_code, reason = "no single test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use nginit::admin::{Order, Ordered, ReloadResult, Reply, Request, What, client};

use crate::support::{Nginit, PATIENCE, Site, eventually, get, within};

/// The nginx to test with, if it can follow servers.
pub fn nginx() -> Option<PathBuf> {
    let nginx = crate::support::nginx()?;
    nginit::nginx::find(nginx.to_str().unwrap()).unwrap().facts.version.has_resolve().then_some(nginx)
}

/// Evaluates to an nginx that can follow servers, or ends the test.
#[macro_export]
macro_rules! live_nginx_or_skip {
    () => {
        match $crate::live::nginx() {
            Some(nginx) => nginx,
            None => return,
        }
    };
}

/// Whether there is time for large numbers (`NGINIT_TEST_LONG=1`).
pub fn is_long() -> bool {
    std::env::var("NGINIT_TEST_LONG").as_deref() == Ok("1")
}

/// The first number usually, the second where there is time.
pub fn many<T>(usual: T, long: T) -> T {
    if is_long() { long } else { usual }
}

/// A site whose servers take turns and are followed, and whose files nginit can tell to be those that nginx reads.
pub fn site(nginx: &Path) -> Site {
    let site = young_site(nginx);
    site.age();
    site
}

/// The same, whose files may be too young for that.
pub fn young_site(nginx: &Path) -> Site {
    let mut site = Site::new(nginx);
    site.set("NGINIT_LIVE", "auto");
    site.set("NGINIT_LOG", "debug");
    site.set("STATIC_BALANCE", "round_robin");
    site
}

/// Gives an order about a static server.
#[track_caller]
pub fn order(site: &Site, what: What, server: &str, wait: bool) -> Ordered {
    let path = PathBuf::from(site.env.get(std::ffi::OsStr::new("NGINIT_CONTROL")).unwrap());
    let order = Order { what, upstream: "static".to_owned(), server: server.to_owned(), wait };
    match client::ask(&path, &Request::Order(order), Some(PATIENCE)) {
        Ok(Reply::Ordered(ordered)) => ordered,
        other => panic!("{what} {server}: {other:?}"),
    }
}

/// The same, waited for, which nginx follows.
#[track_caller]
pub fn follow(site: &Site, what: What, server: &str) {
    let ordered = order(site, what, server, true);
    let result = ordered.outcome.as_ref().map(|outcome| outcome.result);
    // Who is quick has taken it in before it is asked for.
    assert!(matches!(result, None | Some(ReloadResult::Followed)), "{what} {server}: {ordered:?}");
}

/// An order of a share.
pub fn weight(weight: u16) -> What {
    What::Weight(NonZeroU16::new(weight).unwrap())
}

/// How often each server answers, of so many requests.
#[track_caller]
pub fn who(site: &Site, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let answer = get(site.port, "/").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        *counts.entry(answer.header("X-Server").unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// Their names.
#[track_caller]
pub fn names(site: &Site, requests: usize) -> Vec<String> {
    who(site, requests).into_keys().collect()
}

/// Waits until these servers answer and no others.
#[track_caller]
pub fn answered_by(nginit: &Nginit, site: &Site, wanted: &[&str]) {
    let seen = within(PATIENCE, || (names(site, 4 * wanted.len() + 4) == wanted).then_some(()));
    assert!(seen.is_some(), "{wanted:?}: {:?}\n{}", who(site, 12), nginit.report());
}

/// Waits until nginx has taken in all that it was told.
#[track_caller]
pub fn taken(nginit: &Nginit) {
    let all = within(PATIENCE, || nginit.status().live.is_some_and(|live| live.taken).then_some(()));
    assert!(all.is_some(), "nginx does not take it in\n{}", nginit.report());
}

/// nginx as it is before changes that must leave it so.
pub struct Steady {
    workers: Vec<i32>,
    generation: u64,
    reloads: u64,
}

impl Steady {
    /// nginx as it is now.
    pub fn new(nginit: &Nginit) -> Self {
        let status = nginit.status();
        assert!(status.live.is_some_and(|live| live.upstreams > 0), "nothing is followed\n{}", nginit.report());
        Self { workers: nginit.workers(2), generation: status.generation, reloads: status.reloads.live }
    }

    /// It still has the same workers, which have read the same.
    #[track_caller]
    pub fn holds(&self, nginit: &Nginit) {
        let status = nginit.status();
        let now = (nginit.workers(2), status.generation, status.reloads.live);
        assert_eq!(now, (self.workers.clone(), self.generation, self.reloads), "{}", nginit.report());
    }
}

/// Numbers by chance, the same for the same seed.
pub struct Chance(u64);

impl Chance {
    /// Of a seed that is printed.
    #[allow(clippy::print_stderr, reason = "whoever reads a failure needs it")]
    pub fn new() -> Self {
        let given = std::env::var("NGINIT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        eprintln!("NGINIT_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

/// Has the control thread die.
pub fn send_crash(site: &Site) {
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(site.path("control.sock")).unwrap();
    socket.write_all(b"POST /v1/crash HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Whoever hangs up takes the request back.
    let _ = socket.read_to_end(&mut Vec::new());
}

/// The same, until another one lives.
pub fn crash(nginit: &Nginit, site: &Site) {
    let before = nginit.count("the control thread starts anew");
    send_crash(site);
    eventually("it starts anew", || (nginit.count("the control thread starts anew") > before).then_some(()));
}
