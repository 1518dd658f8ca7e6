//! Programs beside nginx: started once it answers, kept running, stopped after it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use support::{Backend, NGINIT, Nginit, Site, children, eventually, get, status_line};

/// A site with this script of a shell's as the sidecar `logs`.
fn site(nginx: &Path, script: &str) -> Site {
    let mut site = Site::new(nginx);
    site.write_program("sidecar", &format!("#!/bin/sh\n{script}\n"));
    site.set("NGINIT_SIDECAR_LOGS", site.path("sidecar"));
    site
}

/// The lines of the sidecar's, without its name.
fn lines(nginit: &Nginit) -> Vec<String> {
    nginit.log().lines().filter_map(|line| line.strip_prefix("logs: ")).map(str::to_owned).collect()
}

/// The process of the sidecar that was started as the `nth` one, counted from 0.
fn pid(nginit: &Nginit, nth: usize) -> i32 {
    let started = |log: String| log.lines().filter_map(|l| l.split("logs starts, pid=").nth(1)?.parse().ok()).nth(nth);
    eventually("the sidecar is started", || started(nginit.log()))
}

/// Whether a process is there and more than a zombie.
fn is_alive(pid: i32) -> bool {
    let state = status_line(pid, "State");
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

#[test]
fn sidecars_start_once_nginx_answers() {
    let nginx = nginx_or_skip!();
    let mut site = site(&nginx, &format!("'{NGINIT}' healthcheck && echo it answers\nexec sleep 1000"));
    // A start that takes its time.
    let (dir, real) = (site.dir.path().display().to_string(), nginx.display());
    let script = format!("case \" $* \" in *' -V '*) ;; *) until [ -e '{dir}/go' ]; do sleep 0.02; done;; esac");
    site.write_program("nginx", &format!("#!/bin/sh\n{script}\nexec '{real}' \"$@\"\n"));
    site.set("NGINIT_NGINX", site.path("nginx"));
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.logs("generation 1 starts nginx");
    site.write("go", "");
    nginit.logs("logs: it answers");
    let log = nginit.log();
    assert!(log.find("generation 1 answers") < log.find("sidecar: logs starts"), "{log}");
}

#[test]
fn every_line_has_the_sidecars_name_in_front() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "echo one\necho two >&2\nprintf 'no end'\nexec sleep 1000");
    let nginit = site.start();
    nginit.logs("logs: two\n");
    assert_eq!(lines(&nginit), ["one", "two"]);
    // The rest of it comes with its end.
    support::signal_pid(pid(&nginit, 0), Signal::KILL);
    nginit.logs("logs: no end\n");
    nginit.logs("sidecar: logs was ended by signal 9; it is started again in ");
}

#[test]
fn megabytes_are_handed_on_and_long_lines_are_cut() {
    let nginx = nginx_or_skip!();
    let script = "i=0; while [ $i -lt 50000 ]; do echo $i is a line of some length as others are; i=$((i+1)); done\n\
                  head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done; exec sleep 1000";
    let site = site(&nginx, script);
    let nginit = site.start();
    nginit.logs("logs: done\n");
    let lines = lines(&nginit);
    let (short, long) = (&lines[..50_000], &lines[50_000..lines.len() - 1]);
    assert!(short.iter().enumerate().all(|(i, line)| *line == format!("{i} is a line of some length as others are")));
    assert!(long.iter().all(|line| line.len() <= 8192 && line.bytes().all(|b| b == b'x')));
    assert_eq!(long.iter().map(String::len).sum::<usize>(), 3_000_000);
    assert_eq!(get(site.port, "/nginit/ping").unwrap().status, 200);
}

#[test]
fn one_that_ends_is_started_again_each_time_later() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "echo run\nexit 3");
    let nginit = site.start();
    eventually("it has run three times", || (lines(&nginit).len() >= 3).then_some(()));
    let log = nginit.log();
    let waits = log.lines().filter_map(|line| line.split("logs ended, status 3; it is started again in ").nth(1));
    let waits: Vec<f64> = waits.map(|wait| wait.strip_suffix(" s").unwrap().parse().unwrap()).collect();
    assert!((0.7..1.3).contains(&waits[0]) && (1.5..=2.5).contains(&waits[1]), "{waits:?}");
    assert_eq!(get(site.port, "/nginit/ping").unwrap().status, 200);
}

#[test]
fn one_that_cannot_be_started_is_said_and_tried_again() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_SIDECAR_LOGS", "/no/such/program 'x y'");
    site.write("text", "");
    site.set("NGINIT_SIDECAR_OTHER", site.path("text"));
    let nginit = site.start();
    let said = "warn sidecar: logs \"/no/such/program\" cannot be started: No such file";
    eventually("it was tried twice", || (nginit.count(said) >= 2).then_some(()));
    nginit.logs("cannot be started: Permission denied");
    assert_eq!(get(site.port, "/nginit/ping").unwrap().status, 200);
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0);
}

#[test]
fn sidecars_are_told_to_end_after_nginx_has_and_their_last_words_are_heard() {
    let nginx = nginx_or_skip!();
    // As much as a pipe holds, so that its end is read after its process is gone.
    let script = "words=$(yes word | head -n 12000)\n\
                  trap 'echo told to end; printf \"%s\\nbye\" \"$words\"; exit 7' TERM\n\
                  echo ready\nwhile :; do sleep 0.05; done";
    let mut site = site(&nginx, script);
    let backend = Backend::start("a");
    site.set("STATIC_BACKEND", backend.entry());
    let nginit = site.start();
    nginit.logs("logs: ready");
    let port = site.port;
    let slow = std::thread::spawn(move || get(port, "/slow?700").unwrap().status);
    eventually("the request runs", || (backend.asked.load(std::sync::atomic::Ordering::SeqCst) > 0).then_some(()));
    nginit.signal(Signal::TERM);
    assert_eq!(slow.join().unwrap(), 200, "a sidecar is no reason to hurry");
    assert_eq!(nginit.code(), 0, "its status is nginx's");
    let log = nginit.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is missing: {log}"));
    assert!(at("graceful stop") < at("nginx ended, status 0"));
    assert!(at("nginx ended, status 0") < at("logs: told to end\n"));
    assert!(at("logs: told to end\n") < at("logs: bye\n"), "{log}");
    at("info sidecar: logs ended, status 7");
}

#[test]
fn one_that_ignores_term_is_killed() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "trap '' TERM\necho ready\nwhile :; do sleep 0.05; done");
    let nginit = site.start();
    nginit.logs("logs: ready");
    let pid = pid(&nginit, 0);
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0);
    assert!(!is_alive(pid));
    let log = nginit.log();
    assert!(log.contains("warn sidecar: logs does not end, killing it"), "{log}");
}

#[test]
fn what_a_sidecar_forks_goes_with_it() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "sleep 1000 &\necho child $!\nsh -c 'sleep 1000 & echo child $!; wait' &\nwait");
    let nginit = site.start();
    let forked = |count: usize| {
        eventually("it has forked", || {
            let pids = lines(&nginit).iter().filter_map(|line| line.strip_prefix("child ")?.parse().ok()).collect();
            Some(pids).filter(|pids: &Vec<i32>| pids.len() == count)
        })
    };
    let first = forked(2);
    assert!(first.iter().all(|pid| is_alive(*pid)));
    support::signal_pid(pid(&nginit, 0), Signal::KILL);
    let all = forked(4);
    assert!(!first.iter().any(|pid| is_alive(*pid)), "they would be in the way of the next one");
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0);
    eventually("all are gone", || (!all.iter().any(|pid| is_alive(*pid))).then_some(()));
}

#[test]
fn who_got_away_and_holds_the_pipe_keeps_nobody_from_ending() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "setsid sleep 1000 &\necho ready\nexec sleep 1000");
    let nginit = site.start_as_pid_1();
    nginit.logs("logs: ready");
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0);
}

#[test]
fn a_sidecar_has_a_group_of_its_own_clean_signals_and_no_input() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "exec sleep 1000");
    let nginit = site.start();
    let pid = pid(&nginit, 0);
    eventually("it sleeps", || (status_line(pid, "Name") == "sleep").then_some(()));
    let bits = |mask| u64::from_str_radix(&status_line(pid, mask), 16).unwrap();
    // From 32 on, libraries use signals for themselves.
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(bits(mask) & 0x7fff_ffff, 0, "{mask}");
    }
    let group = rustix::process::getpgid(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_eq!(group.as_raw_nonzero().get(), pid);
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap(), Path::new("/dev/null"));
    let open = |pid: i32| -> Vec<String> {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        files.filter_map(|file| Some(fs::read_link(file.ok()?.path()).ok()?.display().to_string())).collect()
    };
    // What the test's own caller leaves open is in all of them.
    let (own, nginit) = (open(rustix::process::getpid().as_raw_nonzero().get()), open(nginit.pid));
    let pipe = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap().display().to_string();
    let fine = |file: &String| own.contains(file) || *file == pipe || file == "/dev/null";
    let strange: Vec<String> = open(pid).into_iter().filter(|file| !fine(file)).collect();
    assert!(strange.is_empty(), "{strange:?} of nginit's {nginit:?}");
    assert!(pipe.starts_with("pipe:") && !own.contains(&pipe), "{pipe}");
}

#[test]
fn a_reload_leaves_sidecars_alone() {
    let nginx = nginx_or_skip!();
    let mut site = site(&nginx, "exec sleep 1000");
    site.set_list("127.0.0.1:1");
    let nginit = site.start();
    let pid = pid(&nginit, 0);
    nginit.reload_list("127.0.0.1:2");
    assert!(is_alive(pid));
    assert_eq!(nginit.count("sidecar: logs starts"), 1);
}

#[test]
fn sidecars_wait_for_no_nginx_that_is_refused() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "echo started\nexec sleep 1000");
    site.write("templates/bad.conf.j2", "nonsense;\n");
    let (status, log) = site.run(&site.nginx_argv());
    assert_eq!(status, Some(78), "{log}");
    assert!(!log.contains("logs: ") && !log.contains("sidecar: "), "{log}");
}

#[test]
fn as_pid_1_nobody_is_left_of_a_sidecar() {
    let nginx = nginx_or_skip!();
    let site = site(&nginx, "(sleep 0.1 &)\n(sleep 0.2 &)\nsleep 0.05\necho ready\nexec sleep 1000");
    let nginit = site.start_as_pid_1();
    nginit.logs("logs: ready");
    eventually("orphans are reaped", || (nginit.count("reaper: orphan") >= 2).then_some(()));
    let zombies = children(nginit.pid).into_iter().filter(|pid| status_line(*pid, "State").starts_with('Z')).count();
    assert_eq!(zombies, 0);
    nginit.signal(Signal::QUIT);
    assert_eq!(nginit.code(), 0);
}
