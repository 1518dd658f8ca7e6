//! Files that change by themselves: lists, the file of variables, templates, on real nginx. Nobody types a
//! signal, and a file that fails changes nothing but that it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nginit::admin::ReloadResult;
use rustix::process::Signal;
use support::{Backend, Nginit, PATIENCE, Site, eventually, get, within};

/// Two backends and a site that follows its files; nothing is listed yet.
fn site(nginx: &Path) -> (Backend, Backend, Site) {
    let mut site = Site::new(nginx);
    site.set("NGINIT_WATCH", "on");
    (Backend::start("a"), Backend::start("b"), site)
}

/// Waits until this server answers, or none.
fn serves(nginit: &Nginit, site: &Site, name: Option<&str>) {
    let serves = || (get(site.port, "/").ok()?.header("X-Server") == name).then_some(());
    let seen = support::within(support::PATIENCE, serves);
    assert!(seen.is_some(), "it never serves {name:?}\n{}", nginit.report());
}

/// Waits until who asked last is told that it is refused.
fn is_refused(nginit: &Nginit) {
    let refused = || (nginit.status().last?.result == ReloadResult::Refused).then_some(());
    assert!(support::within(support::PATIENCE, refused).is_some(), "it is not refused\n{}", nginit.report());
}

/// Replaces a file as editors and `mv` do.
fn rename_over(site: &Site, name: &str, text: &str) {
    site.write("new", text);
    fs::rename(site.path("new"), site.path(name)).unwrap();
}

#[test]
fn a_list_is_followed_however_it_is_written() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set_list(&a.entry());
    let nginit = site.start();
    serves(&nginit, &site, Some("a"));
    site.write("list", &b.entry());
    serves(&nginit, &site, Some("b"));
    rename_over(&site, "list", &a.entry());
    serves(&nginit, &site, Some("a"));
    fs::remove_file(site.path("list")).unwrap();
    nginit.logs("counts as it was before");
    site.write("list", &b.entry());
    serves(&nginit, &site, Some("b"));
    assert!(nginit.log().contains(&format!("\"{}\" changed, reloading", site.path("list").display())));
}

#[test]
fn swapped_links_are_followed() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    let volume = site.path("volume");
    fs::create_dir(&volume).unwrap();
    // As Kubernetes mounts a ConfigMap.
    let publish = |version: &str, text: &str| {
        fs::create_dir(volume.join(version)).unwrap();
        fs::write(volume.join(version).join("list"), text).unwrap();
        symlink(version, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    publish("..1", &a.entry());
    symlink("..data/list", volume.join("list")).unwrap();
    site.set("STATIC_BACKEND_FILE", volume.join("list"));
    let nginit = site.start();
    publish("..2", &b.entry());
    fs::remove_dir_all(volume.join("..1")).unwrap();
    serves(&nginit, &site, Some("b"));
    publish("..3", &a.entry());
    serves(&nginit, &site, Some("a"));
    // Back to what is older.
    symlink("..2", volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    serves(&nginit, &site, Some("b"));
    assert_eq!(nginit.count("counts as it was before"), 0, "{}", nginit.report());
}

#[test]
fn a_bad_file_is_told_once_and_the_others_go_live() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set_list(&a.entry());
    site.write("other", &a.entry());
    site.set("OTHER_BACKEND_FILE", site.path("other"));
    site.set("OTHER_ROUTE", "/other/");
    let nginit = site.start();
    let other = |name: &str| {
        eventually("the other list is served", || {
            (get(site.port, "/other/").ok()?.header("X-Server") == Some(name)).then_some(())
        });
    };
    let kept = "until then, ";
    for (n, bad) in ["web:99999", "", "\u{0}"].into_iter().enumerate() {
        site.write("list", bad);
        eventually("it is told", || (nginit.count(kept) == n + 1).then_some(()));
    }
    for server in [&b, &a, &b] {
        site.write("other", &server.entry());
        other(&server.name);
    }
    assert_eq!((nginit.count(kept), site.server().as_deref()), (3, Some("a")), "{}", nginit.report());
    let log = nginit.log();
    assert!(
        log.contains("nginit error settings: \"STATIC_BACKEND_FILE\": server 1 \"web:99999\": port must be"),
        "{log}"
    );
    assert!(log.contains("is empty and was not before; write # into it if that is meant; until then, \""), "{log}");

    // Who asks is told and refused, with all of it.
    site.write("other", &a.entry());
    nginit.reload();
    is_refused(&nginit);
    other("a");

    site.write("list", &b.entry());
    serves(&nginit, &site, Some("b"));
    nginit.logs(&format!("\"STATIC_BACKEND_FILE\": \"{}\" is good again", site.path("list").display()));
    site.write("list", "# none\n");
    serves(&nginit, &site, None);
    assert_eq!(get(site.port, "/").unwrap().status, 503);
}

#[test]
fn a_change_is_not_lost_to_a_signal_that_is_refused_for_another_file() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set_list(&a.entry());
    site.wrap_nginx();
    let nginit = site.start();
    site.write("templates/own.conf.j2", "{{");
    is_refused(&nginit);
    site.write("hang", "");
    site.write("list", &format!("{} {}", a.entry(), b.entry()));
    eventually("a test hangs", || site.path("hangs").exists().then_some(()));
    let changes = nginit.count("list\" changed, reloading");
    site.write("list", &b.entry());
    eventually("it is told", || (nginit.count("list\" changed, reloading") > changes).then_some(()));
    nginit.signal(Signal::HUP);
    nginit.logs("SIGHUP");
    fs::remove_file(site.path("hang")).unwrap();
    serves(&nginit, &site, Some("b"));
    eventually("all of them", || (0..8).all(|_| site.server().as_deref() == Some("b")).then_some(()));
}

#[test]
fn an_order_is_not_refused_for_a_file_that_is_bad() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set_list(&a.entry());
    site.wrap_nginx();
    let nginit = site.start();
    site.write("hang", "");
    site.write("list", &format!("{} # changes no server, but asks", a.entry()));
    site.write("templates/own.conf.j2", "# first\n");
    eventually("a test hangs", || site.path("hangs").exists().then_some(()));
    site.write("templates/own.conf.j2", "{{");
    nginit.signal(Signal::HUP);
    nginit.logs("SIGHUP");
    let output = std::thread::scope(|scope| {
        let entry = b.entry();
        let mut command = site.command(&["add", "static", &entry, "--wait"]);
        let add = scope.spawn(move || command.output().unwrap());
        nginit.logs("a command says: add");
        fs::remove_file(site.path("hang")).unwrap();
        add.join().unwrap()
    });
    assert!(output.status.success(), "{output:?}\n{}", nginit.report());
    nginit.logs("refused, generation");
    assert!(site.conf_d()["default.conf"].contains(&b.entry()), "{output:?}");
}

#[test]
fn variables_come_from_their_file_and_change_with_it() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set("NGINIT_ENV_FILE", site.path("env"));
    site.set("STATIC_BACKEND", b.entry());
    let (status, log) = site.run(&site.nginx_argv());
    assert_eq!(status, Some(64), "{log}");
    assert!(log.contains("\"NGINIT_ENV_FILE\": \""), "{log}");
    site.write("env", "nonsense");
    let (status, log) = site.run(&["render"]);
    assert!(status == Some(64) && log.contains("line 1 has no \"=\""), "{log}");

    // Also what commands and the start itself read.
    let socket = site.path("other.sock");
    let env = |more: &str| format!("NGINIT_CONTROL='{}'\n{more}\n", socket.display());
    site.write("env", &env(&format!("export STATIC_BACKEND={} # first", a.entry())));
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.logs("generation 1 answers");
    assert_eq!(site.server().as_deref(), Some("a"), "{}", nginit.report());
    eventually("commands find it", || (site.run(&["status"]).0 == Some(0)).then_some(()));
    assert!(socket.exists() && !site.path("control.sock").exists());

    // A list that is named only now, and followed from then on.
    site.write("list", &b.entry());
    rename_over(&site, "env", &env(&format!("STATIC_BACKEND_FILE={}", site.path("list").display())));
    serves(&nginit, &site, Some("b"));
    site.write("list", &a.entry());
    serves(&nginit, &site, Some("a"));
    site.write("env", &env("half"));
    nginit.logs("line 2 has no \"=\"");
    site.write("list", &b.entry());
    serves(&nginit, &site, Some("b"));
    // Nothing of it any more: the environment counts again.
    site.write("env", &env(""));
    nginit.logs("is good again");
    serves(&nginit, &site, Some("b"));
}

#[test]
fn templates_and_error_pages_are_followed_too() {
    let nginx = nginx_or_skip!();
    let (_, _, mut site) = site(&nginx);
    site.set("STATIC_BACKEND", "");
    site.set("NGINIT_ERROR_PAGES", site.path("pages"));
    fs::remove_dir(site.path("templates")).unwrap();
    let nginit = site.start();
    // A directory that was not there.
    fs::create_dir(site.path("templates")).unwrap();
    site.write("templates/own.conf.j2", "# first\n");
    eventually("it is rendered", || site.conf_d().get("own.conf")?.contains("# first").then_some(()));
    rename_over(&site, "templates/own.conf.j2", "# second\n");
    eventually("it is rendered anew", || site.conf_d().get("own.conf")?.contains("# second").then_some(()));
    let page = || get(site.port, "/").unwrap();
    fs::create_dir(site.path("pages")).unwrap();
    site.write("pages/503.html", "gone fishing");
    eventually("the page is served", || page().body.contains("gone fishing").then_some(()));
    assert_eq!(nginit.status().reloads.refused, 0);
}

#[test]
fn bad_templates_hold_up_nothing_else() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set_list(&a.entry());
    site.write("templates/own.conf.j2", "# first\n");
    let nginit = site.start();
    // Refused by us, and by nginx.
    for bad in ["{% if %}", "nonsense;"] {
        site.write("templates/own.conf.j2", bad);
        site.write("list", &b.entry());
        serves(&nginit, &site, Some("b"));
        site.write("list", &a.entry());
        serves(&nginit, &site, Some("a"));
        assert!(nginit.log().contains("refused, generation "), "{}", nginit.report());
        assert!(site.conf_d()["own.conf"].contains("# first"), "{}", nginit.report());
    }
    nginit.reload();
    is_refused(&nginit);
    site.write("templates/own.conf.j2", "# second\n");
    let anew = within(PATIENCE, || site.conf_d().get("own.conf")?.contains("# second").then_some(()));
    assert!(anew.is_some(), "it is not rendered anew\n{}", nginit.report());
    fs::remove_dir_all(site.path("templates")).unwrap();
    nginit.logs("is gone; mount it again");
    site.write("list", &b.entry());
    serves(&nginit, &site, Some("b"));
    assert!(site.conf_d().contains_key("own.conf"), "{}", nginit.report());
}

#[test]
fn what_is_not_followed_waits_for_a_hup() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set("NGINIT_WATCH", "off");
    site.set_list(&a.entry());
    let nginit = site.start();
    let threads = || fs::read_dir(format!("/proc/{}/task", nginit.pid)).unwrap().flatten();
    let named = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    assert!(threads().all(|task| named(task).trim() != "watch"));
    site.write("list", &b.entry());
    nginit.reload();
    serves(&nginit, &site, Some("b"));
    assert_eq!(nginit.count("changed, reloading"), 0);
}

#[test]
fn a_start_with_what_was_good_last_follows_what_was_bad() {
    let nginx = nginx_or_skip!();
    let (a, b, mut site) = site(&nginx);
    site.set_list(&a.entry());
    site.set("NGINIT_START", "last-good");
    let first = site.start();
    first.signal(rustix::process::Signal::TERM);
    first.wait();
    site.write("list", "web:99999");
    let nginit = site.start();
    assert_eq!(site.server().as_deref(), Some("a"), "{}", nginit.report());
    site.write("list", &b.entry());
    serves(&nginit, &site, Some("b"));
}
