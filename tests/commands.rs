//! `nginit reload` and `nginit status`, with the real program on both ends of the control socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nginit::admin::{ReloadResult, State, Status};
use rustix::process::Signal;
use support::{Backend, Site, eventually, get};

/// Status, stdout and stderr of a command of ours on this site.
fn ask(site: &Site, args: &[&str]) -> (Option<i32>, String, String) {
    let output = site.command(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn status(site: &Site) -> Status {
    let (code, json, err) = ask(site, &["status", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&json).unwrap()
}

#[test]
fn a_reload_tells_how_it_ended() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set("NGINIT_RELOAD_INTERVAL", "0");
    site.set_list(&a.entry());
    site.age();
    let nginit = site.start();

    let (code, out, err) = ask(&site, &["reload", "--wait"]);
    let want = (Some(0), "nothing has changed, generation 1 stays live\n".to_owned(), String::new());
    assert_eq!((code, out, err), want, "{}", nginit.report());

    site.write("list", &b.entry());
    let (code, out, err) = ask(&site, &["reload", "--wait"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{}", nginit.report());
    assert!(out.starts_with("generation 2 is live, ") && out.ends_with(" ms\n"), "{out}");
    // Proven means that it answers now, without any further wait.
    assert_eq!(get(site.port, "/").unwrap().header("X-Server"), Some("b"));

    site.write("templates/x.conf.j2", "nonsense;");
    let (code, out, err) = ask(&site, &["reload", "--wait"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{}", nginit.report());
    assert!(err.starts_with("nginit: refused, generation 2 stays live: "), "{err}");
    assert!(err.contains("unknown directive \"nonsense\" in "), "{err}");

    let now = status(&site);
    assert_eq!((now.generation, now.state), (2, State::Running));
    assert_eq!((now.reloads.live, now.reloads.unchanged, now.reloads.refused), (1, 1, 1));
    assert_eq!(now.last.map(|last| last.result), Some(ReloadResult::Refused));
    assert_eq!((now.nginit.pid, now.nginx.pid), (nginit.pid, nginit.master()));
    let upstreams: Vec<_> = now.upstreams.iter().map(|u| (u.name.as_str(), u.servers, u.gone)).collect();
    assert!(upstreams.contains(&("static_backend", 1, 0)), "{upstreams:?}");
}

#[test]
fn a_reload_that_is_not_waited_for_is_taken() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let nginit = site.start();
    site.write("list", &b.entry());
    let (code, out, err) = ask(&site, &["reload"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{}", nginit.report());
    assert_eq!(out, "taken; nginit status tells what came of it\n");
    eventually("generation 2 is live", || (status(&site).generation == 2).then_some(()));
}

#[test]
fn a_status_is_columns() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", web.entry());
    let nginit = site.start();
    let (code, out, err) = ask(&site, &["status"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{}", nginit.report());
    assert!(out.starts_with(&format!("nginit      {}, pid {}\nnginx       1.", env!("CARGO_PKG_VERSION"), nginit.pid)));
    assert!(out.contains("\nstate       running\ngeneration  1, live for "), "{out}");
    assert!(out.contains("\nreloads     0 live, 0 unchanged, 0 refused\n"), "{out}");
    assert!(out.lines().any(|line| line.split_whitespace().eq(["static_backend", "1", "0"])), "{out}");
}

#[test]
fn the_socket_is_for_the_own_user_and_goes_at_the_end() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", web.entry());
    let socket = site.path("control.sock");
    let nginit = site.start();
    eventually("the socket is there", || socket.exists().then_some(()));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
    assert!(!socket.exists());
    assert_eq!(ask(&site, &["status"]).0, Some(1));
}

#[test]
fn settings_that_are_bad_by_now_do_not_keep_it_from_being_asked() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", web.entry());
    let nginit = site.start();
    let mut spoilt = site.command(&["status"]);
    spoilt.env("STATIC_BACKEND", "not;a;list").env("NGINIT_LISTEN", "x");
    assert!(spoilt.output().unwrap().status.success(), "{}", nginit.report());
}

#[test]
fn no_socket_is_no_reason_not_to_serve() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", web.entry());
    site.set("NGINIT_CONTROL", "off");
    drop(site.start());
    site.write("precious", "a file");
    site.set("NGINIT_CONTROL", site.path("precious"));
    let nginit = site.start();
    nginit.logs("nginit warn control: ");
    assert_eq!(fs::read_to_string(site.path("precious")).unwrap(), "a file");
}

#[test]
fn hostile_clients_change_nothing_for_nginx() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", web.entry());
    let socket = site.path("control.sock");
    let nginit = site.start();
    let master = nginit.master();
    let _silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for bytes in
        [&[0_u8; 1 << 16] as &[u8], b"GET /v1/status HTTP/1.1\r\n", b"POST /v1/reload HTTP/1.1\r\nX: \0\r\n\r\n"]
    {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(get(site.port, "/").unwrap().status, 200);
    assert_eq!(status(&site).reloads.live, 0);
    assert_eq!(nginit.master(), master);
}
