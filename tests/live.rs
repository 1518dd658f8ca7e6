//! nginx follows its servers without a reload: what it keeps of those that stay, what is told how, and what
//! happens around it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

#[path = "support/live.rs"]
mod live;
#[path = "support/load.rs"]
mod load;
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live::{Steady, answered_by, crash, follow, names, order, send_crash, taken, weight, who};
use load::{Connection, Reply, Server};
use nginit::admin::{Listing, What};
use rustix::process::Signal;
use support::dns::{Dns, write_etc};
use support::{Answer, Backend, PATIENCE, Site, children, eventually, get, signal_pid};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Status, stdout, stderr of a command of this site's.
fn run(site: &Site, args: &[&str]) -> (Option<i32>, String, String) {
    let output = site.command(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Why the static servers take a reload, if they do.
fn why_reload(site: &Site) -> Option<String> {
    let (code, json, err) = run(site, &["list", "static", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let listing: Listing = serde_json::from_str(&json).unwrap();
    listing.upstreams.into_iter().next().unwrap().reload
}

/// Requests that are under way until they are let go.
#[derive(Default)]
struct Slow {
    threads: Vec<thread::JoinHandle<std::io::Result<Answer>>>,
}

impl Slow {
    /// One more, which takes `ms`.
    fn send(&mut self, site: &Site, ms: u64) {
        let port = site.port;
        self.threads.push(thread::spawn(move || get(port, &format!("/slow?{ms}"))));
    }

    /// Whether all of them are yet to be answered.
    fn are_under_way(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    #[track_caller]
    fn end_well(self) {
        for thread in self.threads {
            let answer = thread.join().unwrap().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

fn asked(backend: &Backend) -> usize {
    backend.asked.load(Ordering::SeqCst)
}

#[test]
fn what_is_ordered_is_told_and_takes_no_reload() {
    let nginx = live_nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    assert_eq!(names(&site, 4), ["a"]);
    // Whoever waits for an order meets its effect with the next request.
    follow(&site, What::Add, &b.entry());
    assert_eq!(names(&site, 4), ["a", "b"]);
    follow(&site, What::Remove, &a.entry());
    assert_eq!(names(&site, 4), ["b"]);
    follow(&site, What::Add, &a.entry());
    follow(&site, weight(3), &b.entry());
    let counts = who(&site, 40);
    assert_eq!((counts["a"], counts["b"]), (10, 30));
    let (code, out, err) = run(&site, &["drain", "static", &b.entry(), "--wait"]);
    assert!(code == Some(0) && out.contains("nginx has followed without a reload"), "{out}{err}");
    assert_eq!(names(&site, 4), ["a"]);
    let (code, out, err) = run(&site, &["diff"]);
    assert_eq!((code, out.as_str()), (Some(0), "nothing would change\n"), "{err}");
    assert_eq!(why_reload(&site), None);
    steady.holds(&nginit);
}

#[test]
fn a_server_that_failed_is_left_alone_whatever_comes_and_goes() {
    let nginx = live_nginx_or_skip!();
    let bad = Server::start(|_| Reply::HangUp);
    let good = [(); 4].map(|()| Server::start(load::all));
    let params = ";max_fails=1;fail_timeout=30s";
    let entry = |server: &Server| format!("{}{params}", server.entry());
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", format!("{} {}", entry(&bad), entry(&good[0])));
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let requests = || (0..20).for_each(|_| assert_eq!(get(site.port, "/").unwrap().status, 200));
    requests();
    let tries = |server: &Server| server.seen().values().sum::<usize>();
    assert_eq!(tries(&bad), 1, "{}", nginit.report());
    for server in &good[1..] {
        follow(&site, What::Add, &entry(server));
        requests();
        assert!(tries(server) > 0, "{}", nginit.report());
    }
    follow(&site, weight(3), &good[1].entry());
    follow(&site, What::Remove, &good[0].entry());
    follow(&site, What::Drain, &good[2].entry());
    requests();
    assert_eq!(tries(&bad), 1, "{}", nginit.report());
    steady.holds(&nginit);
}

#[test]
fn requests_under_way_count_for_who_has_the_fewest_whatever_comes_and_goes() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("STATIC_BALANCE", "least_conn");
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let mut slow = Slow::default();
    let mut send = |count: usize, to: &Backend| {
        for _ in 0..count {
            let before = asked(to);
            slow.send(&site, 8000);
            eventually("the idle one gets it", || (asked(to) == before + 1).then_some(()));
        }
    };
    send(4, &a);
    follow(&site, What::Add, &b.entry());
    send(3, &b);
    follow(&site, What::Add, &c.entry());
    send(3, &c);
    follow(&site, What::Remove, &b.entry());
    follow(&site, What::Add, &d.entry());
    send(3, &d);
    assert_eq!([&a, &b, &c, &d].map(asked), [4, 3, 3, 3], "{}", nginit.report());
    assert!(slow.are_under_way(), "this machine is too slow\n{}", nginit.report());
    slow.end_well();
    steady.holds(&nginit);
}

#[test]
fn a_drained_server_finishes_what_it_has_and_gets_nothing_new() {
    let nginx = live_nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let mut slow = Slow::default();
    slow.send(&site, 3000);
    eventually("it is under way", || (asked(&a) == 1).then_some(()));
    follow(&site, What::Add, &b.entry());
    follow(&site, What::Drain, &a.entry());
    assert_eq!(names(&site, 20), ["b"]);
    assert!(slow.are_under_way() && asked(&a) == 1, "{}", nginit.report());
    slow.end_well();
    assert_eq!(a.answered.load(Ordering::SeqCst), 1);
    follow(&site, What::Undrain, &a.entry());
    assert_eq!(names(&site, 4), ["a", "b"]);
    steady.holds(&nginit);
}

/// A backend on a unix socket.
fn on_unix_socket(path: &Path, name: &'static str) {
    use std::io::{Read, Write};
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let text = format!("HTTP/1.1 200 OK\r\nX-Server: {name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

#[test]
fn sockets_of_this_machine_take_a_reload_and_addresses_beside_them_none() {
    let nginx = live_nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let six = Backend::start_at("six", "[::1]:0".parse().unwrap());
    let mut site = live::site(&nginx);
    let [u, v] = ["u", "v"].map(|name| {
        on_unix_socket(&site.path(name), name);
        // nginx's workers are somebody else.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(site.path(name), all).unwrap();
        format!("unix:{}", site.path(name).display())
    });
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(site.dir.path(), open).unwrap();
    site.set("STATIC_BACKEND", format!("{} {u}", a.entry()));
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    answered_by(&nginit, &site, &["a", "u"]);
    follow(&site, What::Add, &b.entry());
    assert_eq!(names(&site, 9), ["a", "b", "u"]);
    follow(&site, What::Add, &six.entry());
    assert_eq!(names(&site, 12), ["a", "b", "six", "u"]);
    follow(&site, What::Remove, &a.entry());
    follow(&site, weight(2), &six.entry());
    assert_eq!(who(&site, 40), [("b", 10), ("six", 20), ("u", 10)].map(|(n, c)| (n.to_owned(), c)).into());
    steady.holds(&nginit);
    let added = order(&site, What::Add, &v, true);
    assert_eq!(added.outcome.map(|outcome| outcome.generation), Some(2), "{}", nginit.report());
    assert_eq!(names(&site, 20), ["b", "six", "u", "v"]);
    let removed = order(&site, What::Remove, &u, true);
    assert_eq!(removed.outcome.map(|outcome| outcome.generation), Some(3), "{}", nginit.report());
    assert_eq!(names(&site, 20), ["b", "six", "v"]);
    let steady = Steady::new(&nginit);
    follow(&site, What::Add, &a.entry());
    assert_eq!(names(&site, 20), ["a", "b", "six", "v"], "{}", nginit.report());
    steady.holds(&nginit);
}

#[test]
fn backups_come_in_when_the_others_go() {
    let nginx = live_nginx_or_skip!();
    let [a, b, spare, other] = ["a", "b", "spare", "spare 2"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", format!("{} {};backup", a.entry(), spare.entry()));
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    assert_eq!(names(&site, 8), ["a"]);
    follow(&site, What::Add, &b.entry());
    follow(&site, What::Add, &format!("{};backup", other.entry()));
    assert_eq!(names(&site, 8), ["a", "b"]);
    let (a_is, b_is) = (a.entry(), b.entry());
    // Who is dead is still a server, so nothing is told.
    drop((a, b));
    answered_by(&nginit, &site, &["spare", "spare 2"]);
    follow(&site, What::Remove, &spare.entry());
    answered_by(&nginit, &site, &["spare 2"]);
    let b = Backend::start_at("b", b_is.parse().unwrap());
    eventually("it is tried again", || (names(&site, 4) == ["b"]).then_some(()));
    follow(&site, What::Remove, &a_is);
    assert_eq!(names(&site, 8), ["b"]);
    steady.holds(&nginit);
    // One alone cannot stand where only backups would be left.
    order(&site, What::Remove, &b.entry(), true);
    answered_by(&nginit, &site, &["spare 2"]);
}

#[test]
fn where_a_name_leads_is_followed() {
    own_network!();
    let nginx = live_nginx_or_skip!();
    let dns = Dns::start("127.0.0.53");
    write_etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n");
    let port = support::free_port();
    let backend = |n: u8| Backend::start_at(&n.to_string(), SocketAddr::from(([127, 0, 1, n], port)));
    let _all = [1, 2, 3].map(backend);
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", format!("web.test:{port}"));
    dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    for (ips, wanted) in [
        (&["127.0.1.1", "127.0.1.2", "127.0.1.3"][..], &["1", "2", "3"][..]),
        (&["127.0.1.2"], &["2"]),
        (&["127.0.1.3", "127.0.1.1"], &["1", "3"]),
    ] {
        dns.set_addresses("web.test", 1, ips);
        answered_by(&nginit, &site, wanted);
    }
    steady.holds(&nginit);
}

#[test]
fn a_list_in_a_file_is_followed() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("NGINIT_WATCH", "true");
    site.set_list(&a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    for (list, wanted) in [
        (format!("{} {}", a.entry(), b.entry()), &["a", "b"][..]),
        (format!("{};weight=2", c.entry()), &["c"]),
        (format!("{} {} {};down", a.entry(), b.entry(), c.entry()), &["a", "b"]),
    ] {
        site.write("list", &list);
        answered_by(&nginit, &site, wanted);
        steady.holds(&nginit);
    }
}

#[test]
fn a_list_that_is_another_one_each_time_loses_nothing() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("NGINIT_WATCH", "true");
    site.set_list(&a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let load = any_load(&site);
    for servers in [[&b, &b], [&c, &c], [&a, &b], [&c, &c], [&b, &a], [&a, &a]].iter().cycle().take(18) {
        site.write("list", &servers.map(Backend::entry).join("\n"));
        thread::sleep(MS(250));
    }
    answered_by(&nginit, &site, &["a"]);
    loses_nothing(load, &nginit);
    steady.holds(&nginit);
}

#[test]
fn who_comes_by_a_list_is_told_before_the_others_go() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("NGINIT_WATCH", "true");
    site.set_list(&a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let load = any_load(&site);
    site.write("list", &b.entry());
    answered_by(&nginit, &site, &["b"]);
    // nginx does not listen at the first name just now, so it stands at another.
    order(&site, What::Add, &c.entry(), false);
    site.write("list", "# none");
    answered_by(&nginit, &site, &["c"]);
    taken(&nginit);
    thread::sleep(MS(1500));
    // Nor does it for ten seconds now, and the one server that there is goes.
    site.write("list", &a.entry());
    eventually("there are two", || (nginit.status().upstreams[0].servers == 2).then_some(()));
    order(&site, What::Remove, &c.entry(), true);
    answered_by(&nginit, &site, &["a"]);
    loses_nothing(load, &nginit);
    steady.holds(&nginit);
}

/// A client that asks all the time.
fn any_load(site: &Site) -> load::Load {
    let (port, mut load) = (site.port, load::Load::default());
    load.add("any", move || {
        thread::sleep(MS(2));
        match get(port, "/") {
            Ok(answer) if answer.status == 200 => load::Outcome::Fine,
            other => load::Outcome::Lost(format!("{other:?}")),
        }
    });
    load
}

#[track_caller]
fn loses_nothing(load: load::Load, nginit: &support::Nginit) {
    for (name, tally) in load.stop() {
        let lost = tally.lost.lock().unwrap();
        assert!(lost.is_empty(), "{name}: {tally}: {:?}\n{}", lost.first(), nginit.report());
    }
}

#[test]
fn the_control_thread_dies_and_changes_come_all_the_same() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("NGINIT_WATCH", "true");
    site.set_list(&a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let load = any_load(&site);
    order(&site, What::Add, &b.entry(), false);
    crash(&nginit, &site);
    answered_by(&nginit, &site, &["a", "b"]);
    // What changes while nobody answers.
    let before = nginit.count("the control thread starts anew");
    send_crash(&site);
    site.write("list", &format!("{} {}", a.entry(), c.entry()));
    eventually("it starts anew", || (nginit.count("the control thread starts anew") > before).then_some(()));
    answered_by(&nginit, &site, &["a", "b", "c"]);
    eventually("commands reach it", || (run(&site, &["status"]).0 == Some(0)).then_some(()));
    follow(&site, What::Add, &d.entry());
    answered_by(&nginit, &site, &["a", "b", "c", "d"]);
    loses_nothing(load, &nginit);
    steady.holds(&nginit);
}

#[test]
fn a_worker_that_is_killed_is_followed_by_one_that_asks() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    follow(&site, What::Add, &b.entry());
    for (killed, server, wanted) in
        [(0, What::Remove, &["b"][..]), (0, What::Add, &["a", "b"]), (1, What::Remove, &["b"])]
    {
        let workers = nginit.workers(2);
        signal_pid(workers[killed], Signal::KILL);
        let master = nginit.master();
        eventually("another one takes its place", || {
            let now = children(master);
            (now.len() == 2 && !now.contains(&workers[killed])).then_some(())
        });
        follow(&site, server, &a.entry());
        assert_eq!(names(&site, 8), wanted, "{}", nginit.report());
    }
    // Both at once, and a change meanwhile.
    nginit.workers(2).into_iter().for_each(|pid| signal_pid(pid, Signal::KILL));
    order(&site, What::Add, &c.entry(), false);
    eventually("they serve again", || get(site.port, "/").ok().filter(|answer| answer.status == 200));
    answered_by(&nginit, &site, &["b", "c"]);
    assert_eq!(nginit.status().generation, 1);
}

#[test]
fn a_standstill_of_nginit_changes_nothing_until_it_goes_on() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("NGINIT_WATCH", "true");
    site.set_list(&a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    follow(&site, What::Add, &b.entry());
    nginit.signal(Signal::STOP);
    let start = Instant::now();
    site.write("list", &c.entry());
    let mut served = 0;
    while start.elapsed() < live::many(MS(3000), MS(20_000)) {
        let answer = get(site.port, "/").unwrap();
        assert_eq!(answer.status, 200);
        assert!(["a", "b"].contains(&answer.header("X-Server").unwrap()), "{answer:?}");
        served += 1;
    }
    assert!(served > 100);
    nginit.signal(Signal::CONT);
    answered_by(&nginit, &site, &["b", "c"]);
    follow(&site, What::Remove, &b.entry());
    assert_eq!(names(&site, 4), ["c"]);
    steady.holds(&nginit);
}

/// The library that makes programs believe in another time, if it is there.
fn faketime() -> Option<std::path::PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = dirs.map(|dir| dir.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    let required = std::env::var("REQUIRE_FAKETIME").as_deref() == Ok("1");
    assert!(found.is_some() || !required, "REQUIRE_FAKETIME=1, and there is no libfaketime");
    found
}

#[test]
fn the_clock_may_jump() {
    let nginx = live_nginx_or_skip!();
    let Some(library) = faketime() else { return };
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::young_site(&nginx);
    let names_of = ["FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC"];
    // nginx's workers forget what is not named.
    site.write("nginx.conf", &site.main_conf(&names_of.map(|name| format!("env {name};")).join("\n")));
    let values = [site.path("clock").display().to_string(), "1".to_owned(), "1".to_owned()];
    let pairs: Vec<String> = names_of.iter().zip(&values).map(|(name, value)| format!("{name}='{value}'")).collect();
    let (pairs, library, nginx) = (pairs.join(" "), library.display(), nginx.display());
    site.write("clock", "+0s");
    site.write_program("nginx", &format!("#!/bin/sh\n{pairs} LD_PRELOAD='{library}' exec '{nginx}' \"$@\"\n"));
    site.set("NGINIT_NGINX", site.path("nginx"));
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let date = || get(site.port, "/").unwrap().header("Date").unwrap().to_owned();
    follow(&site, What::Add, &b.entry());
    let hour = || date().split(' ').nth(4).unwrap()[..2].to_owned();
    let jump = |to: &str| {
        let before = hour();
        site.write("clock", to);
        eventually("its clock has jumped", || (hour() != before).then_some(()));
    };
    for to in ["+3600s", "-3600s", "+7200s", "+0s"] {
        // nginx asks again a second after each answer.
        thread::sleep(MS(1500));
        jump(to);
        let start = Instant::now();
        follow(&site, What::Add, &c.entry());
        assert_eq!(names(&site, 8), ["a", "b", "c"], "{to}\n{}", nginit.report());
        follow(&site, What::Remove, &b.entry());
        follow(&site, What::Remove, &c.entry());
        assert_eq!(names(&site, 8), ["a"], "{to}\n{}", nginit.report());
        follow(&site, What::Add, &b.entry());
        assert_eq!(names(&site, 8), ["a", "b"], "{to}\n{}", nginit.report());
        assert!(start.elapsed() < MS(8000), "{to}: {:?}\n{}", start.elapsed(), nginit.report());
    }
    steady.holds(&nginit);
    // Back within that second, nginx would not ask for an hour: it reloads.
    follow(&site, What::Add, &c.entry());
    jump("-3600s");
    follow_or_reload(&site, What::Remove, &c.entry());
    follow_or_reload(&site, What::Remove, &a.entry());
    assert_eq!(names(&site, 8), ["b"], "{}", nginit.report());
}

/// Gives an order, however nginx comes to know it.
#[track_caller]
fn follow_or_reload(site: &Site, what: What, server: &str) {
    let ordered = order(site, what, server, true);
    let refused = |outcome: nginit::admin::Outcome| outcome.result == nginit::admin::ReloadResult::Refused;
    assert!(!ordered.outcome.clone().is_some_and(refused), "{what} {server}: {ordered:?}");
}

/// What cannot be followed: what is set for that, what two servers are called, and why.
type Case = (&'static str, fn(&mut Site), [&'static str; 2], &'static str);

const CASES: [Case; 5] = [
    (
        "ip_hash",
        |site| site.set("STATIC_BALANCE", "ip_hash"),
        ["", ""],
        "ip_hash goes by positions, and nginit keeps those of servers that are gone",
    ),
    (
        "hash",
        |site| site.set("STATIC_BALANCE", "hash $uri"),
        ["", ""],
        "hash goes by positions; hash KEY consistent does not",
    ),
    (
        "different limits",
        |_| {},
        [";max_conns=2", ";max_conns=3"],
        "its servers differ in max_conns, max_fails or fail_timeout",
    ),
    (
        "a cookie of ours",
        |site| site.set("STATIC_STICKY", "cookie;hash"),
        ["", ""],
        "the cookie's servers are computed by nginit; nginx's own sticky cookie can",
    ),
    ("switched off", |site| site.set("NGINIT_LIVE", "off"), ["", ""], "NGINIT_LIVE is off"),
];

#[test]
fn what_cannot_be_followed_reloads_by_itself() {
    let nginx = live_nginx_or_skip!();
    support::side_by_side(CASES, |(name, set, [first, second], why)| {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let mut site = live::site(&nginx);
        site.set_list(&format!("{}{first}", a.entry()));
        set(&mut site);
        let nginit = site.start();
        site.age();
        site.write("list", &format!("{}{first} {}{second}", a.entry(), b.entry()));
        let (code, out, err) = run(&site, &["diff"]);
        let said = format!("static_backend, by a reload: {why}\n");
        assert!(code == Some(0) && out.contains(&said), "{name}: {out}{err}");
        assert!(out.ends_with("nginx would reload\n"), "{name}: {out}");
        nginit.reload();
        assert_eq!(why_reload(&site).as_deref(), Some(why), "{name}");
        assert_eq!(nginit.status().generation, 2, "{name}\n{}", nginit.report());
        // Each URI may have its own server.
        let seen = |path: usize| get(site.port, &format!("/{path}")).unwrap().header("X-Server").unwrap().to_owned();
        let all: std::collections::BTreeSet<String> = (0..40).map(seen).collect();
        assert!(all.contains("b") || name == "ip_hash", "{name}: {all:?}\n{}", nginit.report());
        let removed = order(&site, What::Remove, &b.entry(), true);
        assert!(removed.outcome.is_some(), "{name}: {removed:?}");
        assert_eq!(names(&site, 4), ["a"], "{name}\n{}", nginit.report());
    });
}

#[test]
fn templates_that_name_the_servers_reload() {
    let nginx = live_nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    site.write(
        "templates/mine.conf.j2",
        "{% for upstream in upstreams %}\n{% for server in upstream.servers %}\n# mine {{ server.address }}\n{% endfor %}\n{% endfor %}\n",
    );
    let nginit = site.start();
    order(&site, What::Add, &b.entry(), true);
    answered_by(&nginit, &site, &["a", "b"]);
    assert!(site.conf_d()["mine.conf"].contains(&format!("# mine {}", b.entry())), "{}", nginit.report());
    order(&site, What::Remove, &a.entry(), true);
    answered_by(&nginit, &site, &["b"]);
    assert!(!site.conf_d()["mine.conf"].contains(&a.entry()), "{}", nginit.report());
}

#[test]
fn who_insists_is_refused_what_cannot_be_followed() {
    let nginx = live_nginx_or_skip!();
    for (name, set, params, why) in CASES {
        if ["ip_hash", "hash", "switched off"].contains(&name) {
            continue;
        }
        let mut site = live::young_site(&nginx);
        site.set("STATIC_BACKEND", format!("127.0.0.1:1{} 127.0.0.1:2{}", params[0], params[1]));
        set(&mut site);
        site.set("NGINIT_LIVE", "on");
        let (code, log) = site.run(&site.nginx_argv());
        assert_eq!(code, Some(64), "{name}\n{log}");
        assert!(log.contains("\"NGINIT_LIVE\"") && log.contains(why), "{name}\n{log}");
    }
    let old = which::which("nginx")
        .ok()
        .filter(|old| !nginit::nginx::find(old.to_str().unwrap()).is_ok_and(|found| found.facts.version.has_resolve()));
    if let Some(old) = old {
        let mut site = live::young_site(&old);
        site.set("STATIC_BACKEND", "127.0.0.1:1");
        site.set("NGINIT_LIVE", "on");
        let (code, log) = site.run(&site.nginx_argv());
        assert!(code == Some(64) && log.contains("1.27.3 can"), "{log}");
    }
}

#[test]
fn who_insists_has_positions_followed_that_others_have_kept() {
    let nginx = live_nginx_or_skip!();
    for balance in ["ip_hash", "hash $uri"] {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let mut site = live::site(&nginx);
        site.set("STATIC_BACKEND", a.entry());
        site.set("STATIC_BALANCE", balance);
        site.set("NGINIT_LIVE", "on");
        let nginit = site.start();
        let steady = Steady::new(&nginit);
        follow(&site, What::Add, &b.entry());
        follow(&site, What::Remove, &a.entry());
        assert_eq!(names(&site, 4), ["b"], "{balance}\n{}", nginit.report());
        steady.holds(&nginit);
    }
}

#[test]
fn somebody_else_may_ask_who_the_servers_are_and_changes_nothing_by_it() {
    let nginx = live_nginx_or_skip!();
    let [a, b] = ["a", "b"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    follow(&site, What::Add, &b.entry());
    let steady = Steady::new(&nginit);
    let conf = &site.conf_d()["default.conf"];
    let resolver = conf.split("resolver ").nth(1).unwrap().split([' ', ';']).next().unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    for at in 0..8 {
        stranger.send_to(&dns_question(at, &format!("_http._tcp.{at}.static.nginit")), resolver).unwrap();
    }
    let length = stranger.recv(&mut [0; 512]).unwrap();
    assert!(length > 60, "it is told");
    for (server, other) in [(&a, "b"), (&b, "a"), (&a, "b")] {
        order(&site, What::Remove, &server.entry(), false);
        taken(&nginit);
        assert_eq!(names(&site, 8), [other], "{}", nginit.report());
        follow(&site, What::Add, &server.entry());
    }
    steady.holds(&nginit);
}

/// A question for the servers at a name.
fn dns_question(id: u8, name: &str) -> Vec<u8> {
    let mut bytes = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 33, 0, 1]);
    bytes
}

#[test]
fn an_nginx_that_cannot_ask_is_reloaded() {
    own_network!();
    let nginx = live_nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    // Whatever it sends is refused by the kernel.
    let script = "ip rule add pref 100 lookup local && ip rule del pref 0 && \
                  ip rule add pref 5 to 127.0.0.1 ipproto udp prohibit";
    let rules = Command::new("sh").args(["-c", script]).output().unwrap();
    assert!(rules.status.success(), "{rules:?}");
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    let nginit = site.start();
    let start = Instant::now();
    eventually("it serves", || get(site.port, "/").ok().filter(|answer| answer.status == 200));
    assert!(start.elapsed() < MS(12_000), "{:?}\n{}", start.elapsed(), nginit.report());
    nginit.logs("it reloads for each change of servers");
    assert_eq!(why_reload(&site).as_deref(), Some("nginx has not asked for its servers"));
    let added = order(&site, What::Add, &b.entry(), true);
    assert!(added.outcome.is_some(), "{added:?}\n{}", nginit.report());
    assert_eq!(names(&site, 8), ["a", "b"]);
    // Somebody has repaired it.
    let rule = Command::new("ip").args(["rule", "del", "pref", "5"]).output().unwrap();
    assert!(rule.status.success(), "{rule:?}");
    nginit.reload();
    assert_eq!(why_reload(&site), None, "{}", nginit.report());
    follow(&site, What::Remove, &a.entry());
    assert_eq!(names(&site, 4), ["b"]);
}

#[test]
fn a_bad_start_serves_who_was_told_of_last() {
    own_network!();
    let nginx = live_nginx_or_skip!();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.set("NGINIT_START", "last-good");
    site.set("NGINIT_STATE", site.path("state.json"));
    site.set_list(&format!("{} {}", a.entry(), b.entry()));
    // Somebody has the usual port, and not later.
    let other = UdpSocket::bind(("127.0.0.1", nginit::live::serve::PORT)).unwrap();
    {
        let nginit = site.start();
        follow(&site, What::Add, &c.entry());
        follow(&site, What::Remove, &a.entry());
        assert_eq!(names(&site, 8), ["b", "c"]);
        nginit.signal(Signal::TERM);
        assert_eq!(nginit.code(), 0, "{}", nginit.report());
    }
    drop(other);
    let refused_by_nginx = (d.entry(), "nonsense;");
    for (list, template) in [("not;a;list".to_owned(), ""), ("not;a;list".to_owned(), ""), refused_by_nginx] {
        site.write("list", &list);
        site.write("templates/own.conf.j2", template);
        let nginit = site.start();
        assert_eq!(names(&site, 20), ["b", "c"], "{}", nginit.report());
        // Still bad: what is known of servers stays, for this nginx and for another start.
        nginit.reload();
        thread::sleep(MS(1500));
        nginit.signal(Signal::TERM);
        assert_eq!(nginit.code(), 0, "{}", nginit.report());
    }
    site.write("list", "not;a;list");
    std::fs::remove_file(site.path("templates/own.conf.j2")).unwrap();
    {
        let nginit = site.start();
        assert_eq!(names(&site, 20), ["b", "c"], "{}", nginit.report());
        assert!(nginit.log().contains("NGINIT_START=last-good serves what was live last"), "{}", nginit.report());
        // Good again, and with what was ordered.
        site.write("list", &format!("{} {}", a.entry(), b.entry()));
        nginit.reload();
        answered_by(&nginit, &site, &["b", "c"]);
        follow(&site, What::Add, &a.entry());
        assert_eq!(names(&site, 9), ["a", "b", "c"]);
    }
}

#[test]
fn a_reload_brings_an_upstream_that_is_followed_and_loses_nothing() {
    let nginx = live_nginx_or_skip!();
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let mut site = live::site(&nginx);
    site.env.remove(std::ffi::OsStr::new("STATIC_BACKEND"));
    let variables = |more: &str| format!("STATIC_BACKEND={}\n{more}\n", a.entry());
    site.write("variables", &variables(""));
    site.set("NGINIT_ENV_FILE", site.path("variables"));
    let nginit = site.start();
    let seen = Arc::new(AtomicBool::new(false));
    let mut load = load::Load::default();
    for method in ["GET", "POST"] {
        for path in ["/x", "/api/x"] {
            let (port, seen) = (site.port, Arc::clone(&seen));
            load.add(path, move || {
                let answer = Connection::open(port).map_err(|error| error.to_string()).and_then(|mut connection| {
                    connection.ask(method, path, b"").map_err(|failure| failure.error.to_string())
                });
                let is_b = |answer: &load::Answer| answer.head.contains("X-Server: b");
                match answer {
                    Ok(answer) if answer.status == 200 => {
                        seen.fetch_or(is_b(&answer), Ordering::SeqCst);
                        load::Outcome::Fine
                    }
                    other => load::Outcome::Lost(format!("{method} {path}: {other:?}")),
                }
            });
        }
    }
    eventually("some load", || (load.fine() > 50).then_some(()));
    site.write("variables", &variables(&format!("API_BACKEND={}\nAPI_ROUTE=/api", b.entry())));
    // Whatever is told of others meanwhile, who is about to come stays.
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever fails, nobody orders for ever.
            let end = Instant::now() + PATIENCE;
            for share in (1..=3).cycle().take_while(|_| !done.load(Ordering::SeqCst) && Instant::now() < end) {
                order(&site, weight(share), &a.entry(), false);
                thread::sleep(MS(5));
            }
        });
        nginit.reload();
        done.store(true, Ordering::SeqCst);
    });
    eventually("the new upstream serves", || seen.load(Ordering::SeqCst).then_some(()));
    // Another shape: nginx has to ask at all names anew.
    site.write(
        "variables",
        &variables(&format!("API_BACKEND={0};max_fails=2 {1};max_fails=2\nAPI_ROUTE=/api", b.entry(), c.entry())),
    );
    nginit.reload();
    eventually("all serve", || (asked(&c) > 10).then_some(()));
    taken(&nginit);
    for (name, tally) in load.stop() {
        let lost = tally.lost.lock().unwrap();
        assert!(lost.is_empty(), "{name}: {tally}: {:?}\n{}", lost.first(), nginit.report());
    }
}
