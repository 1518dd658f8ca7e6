//! The duties of PID 1 towards processes that nobody else waits for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;

use rustix::process::Signal;
use support::{Nginit, Site, children, eventually, get, status_line};

/// Leaves orphans: each subshell starts a child and ends before it.
const ORPHANS: &str = "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.1 & echo $i); done; echo left; sleep 1000";

fn zombies(pid: i32) -> usize {
    children(pid).iter().filter(|child| status_line(**child, "State").starts_with('Z')).count()
}

#[test]
fn pid_1_reaps_the_orphans_of_its_namespace() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let nginit = Nginit::spawn(&site, support::as_pid_1(&site.command(&["sh", "-c", ORPHANS])));
    nginit.logs("left");
    eventually("only the shell is left", || (children(nginit.pid).len() == 1).then_some(()));
    assert_eq!(zombies(nginit.pid), 0);
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 143);
}

#[test]
fn elsewhere_it_is_the_subreaper() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let nginit = Nginit::spawn(&site, site.command(&["sh", "-c", &ORPHANS.replace("0.1", "0.5")]));
    nginit.logs("left");
    assert!(children(nginit.pid).len() > 1, "orphans came to nginit: {:?}", children(nginit.pid));
    eventually("only the shell is left", || (children(nginit.pid).len() == 1).then_some(()));
}

#[test]
fn orphans_beside_nginx_are_reaped_while_it_serves() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_LOG", "debug");
    let nginit = site.start_as_pid_1();
    // A process of the namespace whose parent ends: what `docker exec` leaves behind.
    let pid = nginit.pid.to_string();
    let mut enter = std::process::Command::new("nsenter");
    enter.args(["--target", &pid, "--pid", "--mount", "sh", "-c", "(sleep 0.2 &) ; (sleep 0.3 &)"]);
    assert!(enter.status().unwrap().success());
    nginit.logs("nginit debug reaper: orphan");
    eventually("both are reaped", || (nginit.count("reaper: orphan") >= 2).then_some(()));
    assert_eq!(zombies(nginit.pid), 0);
    assert_eq!(get(site.port, "/nginit/ping").unwrap().status, 200);
    nginit.signal(Signal::QUIT);
    assert_eq!(nginit.code(), 0);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap() || zombies(nginit.pid) == 0);
}
