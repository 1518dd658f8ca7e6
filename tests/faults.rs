//! What goes wrong around nginit: bad first sets, crashes, stops in the middle of a reload, disks and
//! files that fail, processes that die. What was good stays, and nginit ends as it should.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails, and says why")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use nginit::admin::State;
use rustix::process::Signal;
use support::{Answer, Backend, Nginit, Site, eventually, files_in, get, side_by_side, signal_pid, within};

fn site_with(nginx: &Path, backend: &Backend) -> Site {
    let mut site = Site::new(nginx);
    site.set_list(&backend.entry());
    site
}

fn stop(nginit: &Nginit) {
    nginit.signal(Signal::INT);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
}

/// What makes a start bad: its name, how, and the status where nothing good is left.
type Spoiling = (&'static str, fn(&mut Site), i32);

const SPOILINGS: [Spoiling; 5] = [
    ("a variable", |site| site.set("STATIC_BALANCE", "nonsense"), 64),
    ("a list", |site| site.write("list", "web:99999"), 64),
    ("no list", |site| fs::remove_file(site.path("list")).unwrap(), 64),
    ("a template", |site| site.write("templates/x.conf.j2", "{% if %}"), 78),
    ("a directive", |site| site.write("templates/x.conf.j2", "nonsense;"), 78),
];

/// Undoes what a file has spoiled. Variables are read once.
fn heal(site: &Site, list: &str) {
    let _ = fs::remove_file(site.path("templates/x.conf.j2"));
    site.write("list", list);
}

const SERVES: &str = "NGINIT_START=last-good serves what was live last";

#[test]
fn a_bad_start_fails_and_leaves_the_last_good_files() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let mut site = site_with(&nginx, &a);
    site.write("conf.d/default.conf", "server { listen 127.0.0.1:1; } # stock\n");
    site.write("conf.d/own.conf", "# own\n");
    let stock = site.conf_d();
    for (name, spoil, code) in SPOILINGS {
        spoil(&mut site);
        for start in ["fail", "last-good"] {
            site.set("NGINIT_START", start);
            let (status, log) = site.run(&site.nginx_argv());
            assert_eq!(status, Some(code), "{name}, {start}\n{log}");
            assert_eq!(site.conf_d(), stock, "{name}, {start}: nothing of ours was good\n{log}");
        }
        heal(&site, &a.entry());
        site.env.remove(OsStr::new("STATIC_BALANCE"));
    }
    fs::remove_file(site.path("conf.d/own.conf")).unwrap();
    stop(&site.start());
    let good = site.conf_d();
    assert_eq!(good.len(), 2, "{good:?}");
    site.set("NGINIT_START", "fail");
    for (name, spoil, code) in SPOILINGS {
        spoil(&mut site);
        let (status, log) = site.run(&site.nginx_argv());
        assert_eq!(status, Some(code), "{name}\n{log}");
        assert_eq!(site.conf_d(), good, "{name}\n{log}");
        heal(&site, &a.entry());
        site.env.remove(OsStr::new("STATIC_BALANCE"));
    }
    let nginit = site.start();
    assert_eq!(site.server().as_deref(), Some("a"), "{}", nginit.report());
}

#[test]
fn a_refused_first_set_leaves_an_empty_directory_empty() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    for (name, spoil, code) in SPOILINGS {
        let mut site = site_with(&nginx, &a);
        spoil(&mut site);
        assert_eq!(site.run(&site.nginx_argv()).0, Some(code), "{name}");
        assert_eq!(site.conf_d(), BTreeMap::new(), "{name}");
    }
}

#[test]
fn a_bad_start_can_serve_what_was_live_last_until_a_good_reload() {
    let nginx = nginx_or_skip!();
    side_by_side(SPOILINGS, |(name, spoil, _)| {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let mut site = site_with(&nginx, &a);
        stop(&site.start());
        let good = site.conf_d();
        site.write("list", &b.entry());
        spoil(&mut site);
        site.set("NGINIT_START", "last-good");
        let nginit = site.start();
        assert_eq!(site.server().as_deref(), Some("a"), "{name}\n{}", nginit.report());
        let loud = nginit.log().lines().any(|line| line.starts_with("nginit error") && line.contains(SERVES));
        assert!(loud, "{name}\n{}", nginit.log());
        assert_eq!(site.conf_d(), good, "{name}");
        nginit.reload();
        assert!(nginit.log().contains("refused, generation 1 stays live"), "{name}\n{}", nginit.log());
        assert_eq!((site.conf_d(), site.server().as_deref()), (good, Some("a")), "{name}");
        heal(&site, &b.entry());
        nginit.reload();
        // The environment of a running nginit cannot be healed.
        if name != "a variable" {
            assert!(nginit.log().contains("generation 2 live"), "{name}\n{}", nginit.report());
            eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
        }
        stop(&nginit);
    });
}

#[test]
fn a_reload_that_is_asked_for_before_the_last_good_set_serves_is_not_lost() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = site_with(&nginx, &a);
    site.wrap_nginx();
    stop(&site.start());
    site.set("NGINIT_START", "last-good");
    site.write("templates/x.conf.j2", "nonsense;");
    site.write("hang", "");
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    eventually("nginx has ended and is asked why", || fs::exists(site.path("hangs")).unwrap().then_some(()));
    heal(&site, &b.entry());
    nginit.signal(Signal::HUP);
    nginit.logs("asks for a reload");
    fs::remove_file(site.path("hang")).unwrap();
    nginit.logs("generation 2 live");
    assert_eq!(site.server().as_deref(), Some("b"), "{}", nginit.report());
}

/// Numbers that differ from run to run; a failure prints the seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
        println!("seed {seed}");
        Self(u64::from(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_crash_at_any_moment_leaves_one_whole_set() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let mut site = site_with(&nginx, &a);
    site.set("STATIC_BALANCE", "round_robin");
    site.set("NGINIT_START", "last-good");
    let text =
        "{% for u in upstreams %}{% for s in u.servers %}# {{ s.address }}{{ s.params }}\n{% endfor %}{% endfor %}";
    let names = ["a.conf", "b.conf", "z.conf"];
    for name in names {
        site.write(&format!("templates/{name}.j2"), text);
    }
    stop(&site.start());
    let mut dice = Dice::new();
    let mut weight = 1;
    for round in 0..30 {
        let nginit = Nginit::spawn(&site, support::as_pid_1(&site.command(&site.nginx_argv())));
        if round % 3 != 0 {
            nginit.answers();
        }
        for _ in 0..dice.below(30) {
            weight = weight % 60_000 + 1;
            site.write("list.new", &format!("{};weight={weight}", a.entry()));
            fs::rename(site.path("list.new"), site.path("list")).unwrap();
            nginit.signal(Signal::HUP);
            thread::sleep(Duration::from_micros(dice.below(8000)));
        }
        nginit.signal(Signal::KILL);
        nginit.wait();
        if round % 3 != 1 {
            continue;
        }
        // What the crash has left is all that this start has.
        site.write("list", "x;y");
        let nginit = site.start_as_pid_1();
        assert!(nginit.log().contains(SERVES), "round {round}: {}", nginit.log());
        let leftovers = || {
            let entries = fs::read_dir(site.path("conf.d/.nginit")).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| !["lock", "generation.sock", "servers"].contains(&name.as_str())).collect::<Vec<_>>()
        };
        let clean = within(support::PATIENCE, || leftovers().is_empty().then_some(()));
        assert!(clean.is_some(), "round {round}: {:?}\n{}", leftovers(), nginit.report());
        let files = site.conf_d();
        let expected = ["a.conf", "b.conf", "default.conf", "nginit-generation.conf", "z.conf"];
        assert_eq!(files.keys().collect::<Vec<_>>(), expected, "round {round}");
        assert_eq!(site.server().as_deref(), Some("a"), "{}", nginit.report());
        nginit.signal(Signal::KILL);
        nginit.wait();
        site.write("list", &a.entry());
        let made: Vec<&str> = names.iter().map(|name| files[*name].split_once('\n').unwrap().1).collect();
        assert!(made.iter().all(|text| *text == made[0]), "round {round}: {made:?}");
    }
}

/// A request that takes `ms`, under way when this returns.
fn slow(site: &Site, web: &Backend, ms: u32) -> thread::JoinHandle<std::io::Result<Answer>> {
    let (port, before) = (site.port, web.asked.load(Ordering::SeqCst));
    let request = thread::spawn(move || get(port, &format!("/slow?{ms}")));
    eventually("the request reaches its server", || (web.asked.load(Ordering::SeqCst) > before).then_some(()));
    request
}

/// Brings a reload to a step and holds it there.
type Step = (&'static str, fn(&mut Site), fn(&Site, &Nginit) -> Option<TcpListener>);

const STEPS: [Step; 3] = [
    (
        "rendering",
        |_| {},
        |site, nginit| {
            let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
            site.write("templates/endless.conf.j2", endless);
            nginit.signal(Signal::HUP);
            nginit.is_in(State::Reloading);
            None
        },
    ),
    ("testing", Site::wrap_nginx, |site, nginit| {
        site.write("hang", "");
        site.write("templates/more.conf.j2", "# more\n");
        nginit.signal(Signal::HUP);
        eventually("the test hangs", || fs::exists(site.path("hangs")).unwrap().then_some(()));
        None
    }),
    (
        "confirming",
        |_| {},
        |site, nginit| {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let server = format!("server {{ listen {}; }}\n", taken.local_addr().unwrap());
            site.write("templates/more.conf.j2", &server);
            nginit.signal(Signal::HUP);
            // nginx tries five times, and hears no signal meanwhile.
            nginit.logs("try again to bind()");
            Some(taken)
        },
    ),
];

/// How it ends: its name, the deed, the status.
type Ending = (&'static str, fn(&Nginit), i32);

const ENDINGS: [Ending; 4] = [
    ("TERM", |nginit| nginit.signal(Signal::TERM), 0),
    (
        "TERM, TERM",
        |nginit| {
            nginit.signal(Signal::TERM);
            nginit.logs("graceful stop");
            nginit.signal(Signal::TERM);
        },
        0,
    ),
    ("INT", |nginit| nginit.signal(Signal::INT), 0),
    ("the master's death", |nginit| signal_pid(nginit.master(), Signal::KILL), 137),
];

#[test]
fn an_end_in_the_middle_of_a_reload_leaves_the_proven_set() {
    let nginx = nginx_or_skip!();
    side_by_side(STEPS, |(step, prepare, reach)| {
        let a = Backend::start("a");
        for (ending, end, code) in ENDINGS {
            let mut site = site_with(&nginx, &a);
            prepare(&mut site);
            let nginit = site.start_as_pid_1();
            let files = site.conf_d();
            let _taken = reach(&site, &nginit);
            end(&nginit);
            // A master that tries for its port ends neither by TERM nor in time.
            let codes = if step == "confirming" { vec![code, 137] } else { vec![code] };
            assert!(codes.contains(&nginit.code()), "{step}, {ending}\n{}", nginit.report());
            assert_eq!(site.conf_d(), files, "{step}, {ending}\n{}", nginit.report());
            let left: Vec<_> = ["new", "main", "output", "last"]
                .iter()
                .filter(|name| site.path("conf.d/.nginit").join(name).exists())
                .collect();
            assert!(left.is_empty(), "{step}, {ending}: {left:?}");
            let _ = fs::remove_file(site.path("hang"));
        }
    });
}

#[test]
fn a_reload_that_is_asked_for_during_a_stop_does_nothing() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = site_with(&nginx, &a);
    let nginit = site.start();
    let files = site.conf_d();
    let request = slow(&site, &a, 1500);
    nginit.signal(Signal::TERM);
    nginit.is_in(State::Quitting);
    site.write("list", &b.entry());
    nginit.signal(Signal::HUP);
    nginit.logs("asks for a reload");
    let (status, said) = site.run(&["reload", "--wait"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("nginit is stopping"), "{said}");
    assert_eq!(request.join().unwrap().unwrap().header("X-Server"), Some("a"), "{}", nginit.report());
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
    assert_eq!((site.conf_d(), nginit.count("reload: ")), (files, 0), "{}", nginit.log());
}

#[test]
fn a_master_that_dies_during_a_stop_ends_it() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let site = site_with(&nginx, &a);
    let nginit = site.start_as_pid_1();
    let request = slow(&site, &a, 15_000);
    nginit.signal(Signal::TERM);
    nginit.logs("graceful stop");
    signal_pid(nginit.master(), Signal::KILL);
    assert_eq!(nginit.code(), 137, "{}", nginit.report());
    assert!(request.join().unwrap().is_err());
}

#[test]
fn a_worker_that_dies_is_replaced_and_the_next_reload_goes_live() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = site_with(&nginx, &a);
    let nginit = site.start();
    for worker in nginit.workers(2) {
        signal_pid(worker, Signal::KILL);
    }
    site.write("list", &b.entry());
    nginit.signal(Signal::HUP);
    for worker in support::children(nginit.master()) {
        signal_pid(worker, Signal::KILL);
    }
    nginit.logs("generation 2 live");
    eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
    nginit.workers(2);
    eventually("nothing drains", || nginit.status().draining.is_empty().then_some(()));
}

/// A path as nginit sees it, which has mounts of its own.
fn inside(nginit: &Nginit, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", nginit.pid, path.display()))
}

#[test]
fn a_full_disk_refuses_a_reload_until_there_is_space() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = site_with(&nginx, &a);
    let nginit = site.start_after("mount -t tmpfs -o size=128k none \"$NGINIT_CONF_DIR\"");
    let dir = inside(&nginit, &site.path("conf.d"));
    let files = files_in(&dir);
    fs::write(dir.join("filler"), "x".repeat(1 << 17)).unwrap_err();
    site.write("list", &b.entry());
    nginit.reload();
    let said = "refused, generation 1 stays live: \"NGINIT_CONF_DIR\": \"";
    assert!(nginit.log().contains(said), "{}", nginit.log());
    assert!(nginit.log().contains("No space left on device"), "{}", nginit.log());
    assert!(nginit.log().contains("free space or inodes there, or enlarge the mount"), "{}", nginit.log());
    fs::remove_file(dir.join("filler")).unwrap();
    assert_eq!((files_in(&dir), site.server().as_deref()), (files.clone(), Some("a")));
    // Any number of free pages: some operation is the first that finds none.
    for pages in 1..12 {
        let filler = dir.join("filler");
        fs::write(&filler, "x".repeat(1 << 17)).unwrap_err();
        let length = fs::metadata(&filler).unwrap().len();
        // The kernel counts pages per processor, and may find none where there are some.
        fs::File::options().write(true).open(&filler).unwrap().set_len(length.saturating_sub(pages * 4096)).unwrap();
        site.write("list", &format!("{};weight={pages}", b.entry()));
        let (status, said) = site.run(&["reload", "--wait"]);
        fs::remove_file(filler).unwrap();
        if status == Some(0) {
            break;
        }
        assert!(said.contains("No space left"), "{pages} pages: {said}\n{}", nginit.log());
        assert_eq!((files_in(&dir), site.server().as_deref()), (files.clone(), Some("a")), "{pages} pages");
    }
    site.write("list", &b.entry());
    eventually("there is space again", || (site.run(&["reload", "--wait"]).0 == Some(0)).then_some(()));
    eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
    assert_eq!(nginit.count("alert"), 0, "{}", nginit.log());
}

#[test]
fn a_directory_that_becomes_read_only_refuses_reloads_until_it_is_not() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = site_with(&nginx, &a);
    let nginit = site.start_after("mount -t tmpfs none \"$NGINIT_CONF_DIR\"");
    let dir = site.path("conf.d");
    let nsenter = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-p", "-t", &nginit.pid.to_string()]).args(words).arg(&dir);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    // A mount above, because nginx holds a file of the first that it may write to.
    nsenter(&["mount", "--bind", dir.to_str().unwrap()]);
    nsenter(&["mount", "-o", "remount,bind,ro"]);
    site.write("list", &b.entry());
    nginit.reload();
    assert!(nginit.log().contains("refused, generation 1 stays live: \"NGINIT_CONF_DIR\""), "{}", nginit.log());
    assert!(nginit.log().contains("Read-only file system"), "{}", nginit.log());
    assert_eq!(site.server().as_deref(), Some("a"));
    nsenter(&["umount"]);
    nginit.reload();
    assert!(nginit.log().contains("generation 2 live"), "{}", nginit.log());
    assert_eq!(nginit.count("alert"), 0, "{}", nginit.log());
}

/// What vanishes or breaks while nginx runs, by its name in the site, and what the refusal says.
const MISSING: [(&str, Option<&str>, &str); 5] = [
    ("nginx", None, "nginx -t: No such file or directory"),
    ("nginx", Some("garbage"), "nginx -t: Exec format error"),
    ("nginx", Some("#!/bin/sh\nkill -9 $$\n"), "nginx gave no reason"),
    ("nginx.conf", None, "nginx.conf cannot be read: No such file or directory"),
    ("nginx.conf", Some(""), "does not include"),
];

#[test]
fn what_vanishes_or_breaks_refuses_reloads_until_it_is_back() {
    let nginx = nginx_or_skip!();
    let backends = ["a", "b"].map(Backend::start);
    let mut site = site_with(&nginx, &backends[0]);
    site.wrap_nginx();
    let nginit = site.start();
    for (round, (name, text, said)) in MISSING.iter().enumerate() {
        let (old, new) = (&backends[round % 2], &backends[(round + 1) % 2]);
        let (path, aside) = (site.path(name), site.path("aside"));
        let files = site.conf_d();
        fs::rename(&path, &aside).unwrap();
        if let Some(text) = text {
            site.write_program(name, text);
        }
        site.write("list", &new.entry());
        nginit.reload();
        assert_eq!(nginit.count("refused"), round + 1, "{name}\n{}", nginit.log());
        assert!(nginit.log().contains(said), "{name}\n{}", nginit.log());
        assert_eq!((site.conf_d(), site.server().as_deref()), (files, Some(old.name.as_str())), "{name}");
        fs::rename(&aside, &path).unwrap();
        nginit.reload();
        eventually("the new one answers", || (site.server().as_ref() == Some(&new.name)).then_some(()));
    }
}

#[test]
fn templates_that_vanish_while_they_are_read_do_no_harm() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let mut site = site_with(&nginx, &a);
    site.set("STATIC_BALANCE", "round_robin");
    let nginit = site.start();
    for round in 1..20 {
        for file in 0..20 {
            site.write(&format!("templates/{file}.conf.j2"), "# one of many\n");
        }
        site.write("list", &format!("{};weight={round}", a.entry()));
        nginit.signal(Signal::HUP);
        for file in 0..20 {
            fs::remove_file(site.path(&format!("templates/{file}.conf.j2"))).unwrap();
        }
    }
    nginit.reload();
    eventually("none of them is left", || {
        nginit.reload();
        (site.conf_d().len() == 2).then_some(())
    });
    assert_eq!(site.server().as_deref(), Some("a"), "{}", nginit.report());
}

#[test]
fn hundreds_of_orphans_are_reaped_during_reloads() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let site = site_with(&nginx, &a);
    let storm = "(i=0; while [ $i -lt 600 ]; do (sleep 0.0$((i % 7)) &); i=$((i + 1)); done; exit 7) & true";
    let nginit = site.start_after(storm);
    let mut round = 0;
    eventually("the storm is over", || {
        round += 1;
        site.write("list", &if round % 2 == 0 { a.entry() } else { b.entry() });
        nginit.reload();
        (nginit.count(" ended with status 7") == 1).then_some(())
    });
    let zombies = || {
        let all = support::children(nginit.pid).into_iter();
        all.filter(|pid| support::status_line(*pid, "State").starts_with('Z')).count()
    };
    // The shell may have reaped some before nginit took its place.
    eventually("orphans were reaped", || (nginit.count("reaper: orphan ") > 500).then_some(()));
    eventually("no zombie is left", || (zombies() == 0).then_some(()));
    assert_eq!((nginit.count(" live, "), nginit.count("refused")), (round, 0), "{}", nginit.log());
}

#[test]
fn a_suspension_in_the_middle_of_reloads_loses_none() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = site_with(&nginx, &a);
    site.set("STATIC_BALANCE", "round_robin");
    let nginit = site.start();
    let mut dice = Dice::new();
    // In one step: half of it, read by a reload, would be a list of nobody.
    let write = |text: &str| {
        site.write("list.new", text);
        fs::rename(site.path("list.new"), site.path("list")).unwrap();
    };
    for round in 1..=4 {
        write(&format!("{};weight={round}", a.entry()));
        nginit.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(dice.below(60)));
        nginit.signal(Signal::STOP);
        write(&format!("{};weight={}", a.entry(), round + 10));
        nginit.signal(Signal::HUP);
        // The time is what is tested: nginx goes on for long without nginit.
        thread::sleep(Duration::from_millis(700));
        let answer = get(site.port, "/");
        assert!(answer.as_ref().is_ok_and(|a| a.header("X-Server") == Some("a")), "{answer:?}\n{}", nginit.report());
        nginit.signal(Signal::CONT);
    }
    write(&b.entry());
    nginit.signal(Signal::HUP);
    eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
    nginit.is_in(State::Running);
    assert_eq!(nginit.count("refused"), 0, "{}", nginit.log());
    nginit.workers(2);
}
