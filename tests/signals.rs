//! What signals do to a running nginx, and how it all ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Answer, Backend, Nginit, Site, eventually, get, signal_pid};

/// A request that takes `ms`, under way when this returns.
fn slow(site: &Site, web: &Backend, ms: u32) -> thread::JoinHandle<std::io::Result<Answer>> {
    let (port, before) = (site.port, web.asked.load(Ordering::SeqCst));
    let request = thread::spawn(move || get(port, &format!("/slow?{ms}")));
    eventually("the request reaches its server", || (web.asked.load(Ordering::SeqCst) > before).then_some(()));
    request
}

fn site_with(web: &Backend, nginx: &std::path::Path) -> Site {
    let mut site = Site::new(nginx);
    site.set("STATIC_BACKEND", web.entry());
    site
}

#[test]
fn term_and_quit_finish_running_requests() {
    let nginx = nginx_or_skip!();
    for signal in [Signal::TERM, Signal::QUIT] {
        let web = Backend::start("web");
        let site = site_with(&web, &nginx);
        let nginit = site.start_as_pid_1();
        let request = slow(&site, &web, 1000);
        nginit.signal(signal);
        assert_eq!(request.join().unwrap().unwrap().status, 200, "{}", nginit.report());
        assert_eq!(nginit.code(), 0, "{}", nginit.report());
    }
}

#[test]
fn int_and_a_second_term_stop_at_once() {
    let nginx = nginx_or_skip!();
    for signals in [&[Signal::INT][..], &[Signal::TERM, Signal::TERM], &[Signal::QUIT, Signal::INT]] {
        let web = Backend::start("web");
        let site = site_with(&web, &nginx);
        let nginit = site.start();
        let request = slow(&site, &web, 15_000);
        let asked = Instant::now();
        for (index, signal) in signals.iter().enumerate() {
            if index > 0 {
                nginit.logs("graceful stop");
            }
            nginit.signal(*signal);
        }
        assert_eq!(nginit.code(), 0, "{}", nginit.report());
        assert!(asked.elapsed() < Duration::from_secs(9), "it did not wait for the request");
        assert!(request.join().unwrap().is_err());
    }
}

#[test]
fn a_graceful_stop_ends_after_its_timeout() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = site_with(&web, &nginx);
    site.set("NGINIT_STOP_TIMEOUT", "300ms");
    let nginit = site.start();
    let request = slow(&site, &web, 15_000);
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
    assert!(nginit.log().contains("requests still run after NGINIT_STOP_TIMEOUT, fast stop"), "{}", nginit.log());
    assert!(request.join().unwrap().is_err());
}

#[test]
fn a_master_that_hangs_is_killed_with_its_workers() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let site = site_with(&web, &nginx);
    let nginit = site.start();
    let master = nginit.master();
    let workers = eventually("workers", || Some(support::children(master)).filter(|w| w.len() == 2));
    signal_pid(master, Signal::STOP);
    nginit.signal(Signal::INT);
    assert_eq!(nginit.code(), 137, "{}", nginit.report());
    let gone = |pid: &i32| {
        !fs::exists(format!("/proc/{pid}")).unwrap() || support::status_line(*pid, "State").starts_with('Z')
    };
    eventually("the workers are gone", || workers.iter().all(gone).then_some(()));
}

#[test]
fn forward_hands_term_to_nginx_as_it_is() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = site_with(&web, &nginx);
    site.set("NGINIT_STOP", "forward");
    let nginit = site.start();
    let request = slow(&site, &web, 15_000);
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0);
    assert!(nginit.log().contains("signal 15 (SIGTERM) received"), "{}", nginit.log());
    assert!(request.join().unwrap().is_err());
}

#[test]
fn usr1_reopens_nginxs_logs() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let site = site_with(&web, &nginx);
    let log = site.path("error.log");
    site.write("nginx.conf", &site.main_conf("").replace("error_log stderr", &format!("error_log {}", log.display())));
    let nginit = site.start();
    fs::rename(&log, site.path("error.log.1")).unwrap();
    nginit.signal(Signal::USR1);
    eventually("the new file is there", || fs::exists(&log).unwrap().then_some(()));
    assert_eq!(get(site.port, "/").unwrap().status, 200);
}

#[test]
fn winch_from_a_process_is_handed_on_and_stops_nothing() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let site = site_with(&web, &nginx);
    let nginit = site.start();
    nginit.signal(Signal::WINCH);
    nginit.logs("signal 28 (SIGWINCH) received");
    assert_eq!(get(site.port, "/").unwrap().status, 200, "nginx ignores it in the foreground");
}

#[test]
fn nginx_ending_by_itself_ends_nginit_with_its_status() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    for (signal, code) in [(Signal::QUIT, 0), (Signal::TERM, 0), (Signal::KILL, 137)] {
        let site = site_with(&web, &nginx);
        let nginit = site.start();
        signal_pid(nginit.master(), signal);
        assert_eq!(nginit.code(), code, "{}", nginit.report());
    }
}

#[test]
fn a_command_that_is_not_nginx_runs_as_it_is() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", "not;a;list");
    let (code, log) = site.run(&["sh", "-c", "echo \"$1\"; exit 7", "sh", "-x"]);
    let said = "nginit notice nginx: \"sh\" is not nginx: it runs as it is, nothing is configured\n-x\n";
    assert_eq!((code, log.as_str()), (Some(7), said), "settings of nginx do not matter");
    site.env.remove(std::ffi::OsStr::new("STATIC_BACKEND"));
    assert_eq!(site.run(&["sh", "-c", "echo hello"]), (Some(0), "hello\n".to_owned()));
    assert!(site.conf_d().is_empty());
    assert_eq!(site.run(&["--", "sh", "-c", "kill -9 $$"]).0, Some(137));
    assert_eq!(site.run(&["no-such-program"]).0, Some(127));
    site.write("file", "");
    assert_eq!(site.run(&[site.path("file")]).0, Some(126));
}

#[test]
fn a_plain_command_gets_every_signal_itself() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let script = "for s in HUP USR1 USR2 WINCH INT QUIT CONT; do trap \"echo got $s\" $s; done\n\
                  trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let nginit = Nginit::spawn(&site, support::as_pid_1(&site.command(&["sh", "-c", script])));
    nginit.logs("ready");
    let signals = [
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::CONT, "CONT"),
    ];
    for (signal, name) in signals {
        nginit.signal(signal);
        nginit.logs(&format!("got {name}"));
    }
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 3, "{}", nginit.report());
}

#[test]
fn signals_that_come_while_nginx_starts_are_not_its_end() {
    let nginx = nginx_or_skip!();
    for _ in 0..20 {
        let web = Backend::start("web");
        let site = site_with(&web, &nginx);
        let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
        nginit.logs("generation 1 starts nginx");
        nginit.signal(Signal::USR1);
        nginit.signal(Signal::HUP);
        nginit.answers();
        // Its files may be old enough by then to know that nothing has changed.
        let outcomes = || nginit.count("generation 2 live") + nginit.count("reload: unchanged, ");
        eventually("the reload has an outcome", || (outcomes() > 0).then_some(()));
        let site = site_with(&web, &nginx);
        let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
        nginit.logs("generation 1 starts nginx");
        nginit.signal(Signal::TERM);
        assert_eq!(nginit.code(), 0, "{}", nginit.report());
    }
}

#[test]
fn a_stop_of_an_nginx_that_never_comes_up_is_a_stop() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let site = site_with(&web, &nginx);
    // nginx tries for more than two seconds to get its port, and catches no signal meanwhile.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.logs("try again to bind()");
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 143, "{}", nginit.report());
}

#[test]
fn log_files_are_reopened_by_workers_of_another_user() {
    let nginx = nginx_or_skip!();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let web = Backend::start("web");
    let site = site_with(&web, &nginx);
    std::fs::set_permissions(site.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    site.write("nginx.conf", &site.main_conf("").replace("user root;", "user nobody nogroup;"));
    let nginit = site.start();
    nginit.signal(Signal::USR1);
    nginit.logs("reopening logs");
    nginit.reload();
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
    assert!(!nginit.log().contains("[emerg]"), "{}", nginit.log());
}
