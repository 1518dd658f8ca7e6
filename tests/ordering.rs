//! Orders and announcements with a real nginx: what is ordered is what requests meet.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use nginit::admin::{Listing, ServerState};
use support::{Backend, PATIENCE, Site, eventually, free_port, get};

const TOKEN: &str = "0123456789abcdef";

/// Status, stdout, stderr of a command of this site's.
fn run(site: &Site, args: &[&str]) -> (Option<i32>, String, String) {
    let output = site.command(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The state of each server, by address.
fn states(site: &Site) -> Vec<(String, ServerState)> {
    let (code, json, err) = run(site, &["list", "static", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let listing: Listing = serde_json::from_str(&json).unwrap();
    let servers = listing.upstreams.into_iter().flat_map(|upstream| upstream.servers);
    servers.map(|server| (server.address, server.state)).collect()
}

/// Who answers, of so many requests that everybody does who can.
fn who(site: &Site) -> BTreeSet<String> {
    (0..12).map(|_| get(site.port, "/").unwrap().header("X-Server").unwrap().to_owned()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn what_is_ordered_is_what_requests_meet() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    site.set("STATIC_BALANCE", "round_robin");
    let nginit = site.start();
    let order = |args: &[&str]| {
        let (code, out, err) = run(&site, &[args, &["--wait"]].concat());
        assert_eq!(code, Some(0), "{args:?}: {out}{err}");
        out
    };
    assert_eq!(who(&site), names(&["a"]));
    let out = order(&["add", "static", &b.entry()]);
    assert!(out.contains(" is live, ") || out.contains("nginx has followed"), "{out}");
    assert_eq!(who(&site), names(&["a", "b"]));
    order(&["drain", "STATIC", &a.entry()]);
    assert_eq!(who(&site), names(&["b"]));
    assert!(states(&site).contains(&(a.entry(), ServerState::Drain)), "{:?}", states(&site));
    order(&["undrain", "static_backend", &a.entry()]);
    assert_eq!(who(&site), names(&["a", "b"]));
    // It stands in the list, which is said, and goes all the same.
    assert!(order(&["remove", "static", &a.entry()]).contains("note: \"STATIC_BACKEND\" still has it"));
    assert_eq!(who(&site), names(&["b"]));
    let (code, why, _) = run(&site, &["why", &a.entry()]);
    assert!(code == Some(0) && why.contains(" in static_backend: removed "), "{why}");
    // What everything is read anew for does not undo it.
    assert_eq!(run(&site, &["reload", "--wait"]).0, Some(0));
    assert_eq!(who(&site), names(&["b"]));
    order(&["add", "static", &a.entry()]);
    order(&["remove", "static", &b.entry()]);
    assert_eq!(who(&site), names(&["a"]));
    order(&["weight", "static", &a.entry(), "7"]);
    assert_eq!(nginit.servers(), [format!("{} weight=7", a.entry())]);
    let (code, out, _) = run(&site, &["drain", "static", "10.9.9.9", "--wait"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "there is none");
    assert_eq!(run(&site, &["list", "nobody"]).0, Some(1));
}

#[test]
fn who_repeats_an_order_waits_for_it() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    site.wrap_nginx();
    let _nginit = site.start();
    site.write("hang", "");
    assert_eq!(run(&site, &["add", "static", &b.entry()]).0, Some(0));
    eventually("its test hangs", || site.path("hangs").exists().then_some(()));
    let (code, out, err) = std::thread::scope(|scope| {
        let again = scope.spawn(|| run(&site, &["add", "static", &b.entry(), "--wait"]));
        std::fs::remove_file(site.path("hang")).unwrap();
        again.join().unwrap()
    });
    assert!(code == Some(0) && out.contains("generation 2 "), "{out}{err}");
    assert!(site.conf_d()["default.conf"].contains(&b.entry()), "{out}");
    let (code, out, _) = run(&site, &["add", "static", &b.entry(), "--wait"]);
    assert_eq!((code, out.as_str()), (Some(0), "nothing has changed\n"), "it is live");
}

#[test]
fn diff_tells_what_a_reload_does_then() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_WATCH", "false");
    site.set_list("127.0.0.1:1");
    let _nginit = site.start();
    site.age();
    let (code, out, err) = run(&site, &["diff"]);
    assert_eq!((code, out.as_str()), (Some(0), "nothing would change\n"), "{err}");
    site.write("list", "127.0.0.1:2");
    let (code, out, err) = run(&site, &["diff"]);
    assert!(
        code == Some(0) && out.contains("\n-    server 127.0.0.1:1") && out.contains("\n+    server 127.0.0.1:2"),
        "{out}{err}"
    );
    assert!(out.contains("  + 127.0.0.1:2\n") && out.ends_with("nginx would reload\n"), "{out}");
    assert!(site.conf_d()["default.conf"].contains("127.0.0.1:1"), "nothing is touched");
    site.write("list", "not;a;list");
    let (code, out, err) = run(&site, &["diff"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("STATIC_BACKEND_FILE"), "{out}{err}");
}

#[test]
fn a_server_that_announces_itself_is_there_until_its_time_is_over() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    let port = free_port();
    site.set("STATIC_BACKEND", a.entry());
    site.set("STATIC_BALANCE", "round_robin");
    site.set("NGINIT_ADMIN", format!("127.0.0.1:{port}"));
    site.set("NGINIT_ADMIN_TOKEN", TOKEN);
    let nginit = site.start();
    let b_port = b.entry().rsplit_once(':').unwrap().1.to_owned();
    let announce = |token: &str, ttl: &str| {
        let body = format!(r#"{{"upstream":"static","port":{b_port},"ttl":"{ttl}"}}"#);
        let head = "POST /v1/announce HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ";
        let text = format!("{head}{token}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut stream = eventually("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for _ in 0..3 {
        assert!(announce("0123456789abcdeF", "15s").starts_with("HTTP/1.1 401 "));
    }
    assert_eq!(nginit.count("warn control: a request from 127.0.0.1 without the right token"), 1, "{}", nginit.log());
    assert!(announce(TOKEN, "1h").starts_with("HTTP/1.1 200 "));
    eventually("it gets requests", || (who(&site) == names(&["a", "b"])).then_some(()));
    assert!(announce(TOKEN, "0").starts_with("HTTP/1.1 200 "));
    eventually("it gets none any more", || (who(&site) == names(&["a"])).then_some(()));
    // One that does not come again.
    assert!(announce(TOKEN, "1s").starts_with("HTTP/1.1 200 "));
    eventually("it gets requests", || (who(&site) == names(&["a", "b"])).then_some(()));
    eventually("its time is over", || (who(&site) == names(&["a"])).then_some(()));
    assert!(!nginit.log().to_lowercase().contains(TOKEN), "{}", nginit.log());
    // The same from the control socket.
    let args = ["announce", "static", &b.entry(), "--ttl", "1h"];
    assert_eq!(run(&site, &args).0, Some(0));
    eventually("it gets requests", || (who(&site) == names(&["a", "b"])).then_some(()));
}

#[test]
fn what_was_said_outlives_a_restart_in_a_file() {
    let nginx = nginx_or_skip!();
    let (a, b, c) = (Backend::start("a"), Backend::start("b"), Backend::start("c"));
    let mut site = Site::new(&nginx);
    let state = site.path("state.json");
    site.set("STATIC_BACKEND", format!("{} {}", a.entry(), b.entry()));
    site.set("STATIC_BALANCE", "round_robin");
    site.set("NGINIT_STATE", &state);
    let said = |args: &[&str]| assert_eq!(run(&site, args).0, Some(0), "{args:?}");
    {
        let _nginit = site.start();
        said(&["add", "static", &c.entry(), "--wait"]);
        said(&["drain", "static", &a.entry(), "--wait"]);
        said(&["announce", "static", "127.0.0.1:1;backup", "--ttl", "1h"]);
    }
    let text = std::fs::read_to_string(&state).unwrap();
    assert!(
        text.contains(&c.entry()) && text.contains("\"drain\":true") && text.contains("127.0.0.1:1;backup"),
        "{text}"
    );
    {
        let _nginit = site.start();
        assert_eq!(who(&site), names(&["b", "c"]), "from the first request on");
        said(&["remove", "static", &c.entry(), "--wait"]);
        said(&["undrain", "static", &a.entry(), "--wait"]);
    }
    site.write("state.json", "{\"added\":");
    let nginit = site.start();
    nginit.logs("\"NGINIT_STATE\"");
    assert_eq!(who(&site), names(&["a", "b"]));
}

#[test]
fn the_control_thread_dies_and_nginx_never_notices() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    site.set("STATIC_BALANCE", "round_robin");
    site.set("NGINIT_WORKERS", "1");
    let nginit = site.start();
    let workers = nginit.workers(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also if something fails, or the load would go on for ever.
        let stopped = OnDrop(&stop);
        let load = scope.spawn(|| {
            let mut served = 0;
            while !stop.load(Relaxed) {
                assert_eq!(get(site.port, "/").unwrap().status, 200);
                served += 1;
            }
            served
        });
        for times in 1..=2 {
            let mut socket = UnixStream::connect(site.path("control.sock")).unwrap();
            socket.write_all(b"POST /v1/crash HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            eventually("it starts anew", || (nginit.count("the control thread starts anew") == times).then_some(()));
            eventually("it answers again", || (run(&site, &["status"]).0 == Some(0)).then_some(()));
        }
        assert_eq!(nginit.workers(1), workers);
        assert_eq!(run(&site, &["add", "static", &b.entry(), "--wait"]).0, Some(0));
        drop(stopped);
        assert!(load.join().unwrap() > 0);
    });
    assert_eq!(who(&site), names(&["a", "b"]));
}

/// Says so when it goes.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
