//! HUP: what was good stays until something better is proven.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use support::{Backend, Site, eventually, get};

fn server_of(site: &Site) -> Option<String> {
    get(site.port, "/").ok()?.header("X-Server").map(str::to_owned)
}

#[test]
fn hup_reads_lists_and_templates_anew() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let nginit = site.start_as_pid_1();
    let master = nginit.master();
    assert_eq!(server_of(&site).as_deref(), Some("a"));
    site.write("list", &b.entry());
    nginit.reload();
    eventually("b answers", || (server_of(&site).as_deref() == Some("b")).then_some(()));
    assert!(
        nginit.log().contains("nginit notice reload: generation 2 live, upstreams=1 servers=1 took_ms="),
        "{}",
        nginit.log()
    );
    let extra = format!("server {{ listen 127.0.0.1:{}; return 200 extra; }}\n", support::free_port());
    site.write("templates/extra.conf.j2", &extra);
    nginit.reload();
    assert!(site.conf_d()["extra.conf"].ends_with(&extra));
    fs::remove_file(site.path("templates/extra.conf.j2")).unwrap();
    nginit.reload();
    assert_eq!(site.conf_d().into_keys().collect::<Vec<_>>(), ["default.conf", "nginit-generation.conf"]);
    assert_eq!(nginit.master(), master, "nginx was never restarted");
}

/// Everything that can be wrong with a reload: what to break, and what the log then says.
type Fault = (&'static str, fn(&Site), &'static str);

const FAULTS: &[Fault] = &[
    (
        "a bad list",
        |site| site.write("list", "127.0.0.1:1 web:99999"),
        "\"STATIC_BACKEND_FILE\": server 2 \"web:99999\": port must be 1-65535; correct it or remove the entry",
    ),
    ("no list", |site| fs::remove_file(site.path("list")).unwrap(), "cannot be read: No such file or directory"),
    (
        "a template that does not parse",
        |site| site.write("templates/_upstream.j2", "{% if %}"),
        "template _upstream.j2:1: ",
    ),
    (
        "a template that does not render",
        |site| site.write("templates/x.conf.j2", "\n{{ settings.nothing }}"),
        "template x.conf.j2:2: undefined value in \"{{ settings.nothing }}\"",
    ),
    (
        "a configuration that nginx refuses",
        |site| site.write("templates/x.conf.j2", "nonsense;"),
        "unknown directive \"nonsense\" in ",
    ),
    (
        "a main file that nginx refuses",
        |site| site.write("nginx.conf", &site.main_conf("nonsense;")),
        "unknown directive \"nonsense\" in ",
    ),
    ("a main file without us", |site| site.write("nginx.conf", "events {} http {}"), "\"NGINIT_CONF_DIR\": "),
    (
        "a file in the way of the stage",
        |site| {
            fs::remove_dir_all(site.path("conf.d/.nginit")).unwrap();
            site.write("conf.d/.nginit", "x");
            // Something to stage.
            site.write("list", "127.0.0.1:1");
        },
        "\"NGINIT_CONF_DIR\": ",
    ),
];

#[test]
fn what_is_bad_leaves_nginx_and_the_files_as_they_were() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    for (name, spoil, said) in FAULTS {
        let mut site = Site::new(&nginx);
        site.set_list(&a.entry());
        let nginit = site.start();
        let master = nginit.master();
        let workers = eventually("two workers", || Some(support::children(master)).filter(|w| w.len() == 2));
        let mut before = site.conf_d();
        spoil(&site);
        nginit.reload();
        assert!(
            nginit.log().contains("nginit error reload: refused, generation 1 stays live: "),
            "{name}\n{}",
            nginit.log()
        );
        assert!(nginit.log().contains(said), "{name}\n{}", nginit.log());
        assert!(!nginit.log().contains(".nginit/"), "{name}: messages show live paths\n{}", nginit.log());
        let mut after = site.conf_d();
        before.remove(".nginit");
        after.remove(".nginit");
        assert_eq!(before, after, "{name}");
        assert_eq!(server_of(&site).as_deref(), Some("a"), "{name}");
        assert_eq!(support::children(nginit.master()), workers, "{name}: no reload reached nginx");
    }
}

#[test]
fn a_good_input_after_a_bad_one_goes_live() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let nginit = site.start();
    site.write("list", "x;y");
    nginit.reload();
    site.write("list", &b.entry());
    nginit.reload();
    assert!(nginit.log().contains("generation 2 live"), "{}", nginit.log());
    eventually("b answers", || (server_of(&site).as_deref() == Some("b")).then_some(()));
}

#[test]
fn many_hups_become_few_reloads_and_the_last_list_wins() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let nginit = site.start();
    for _ in 0..200 {
        nginit.signal(Signal::HUP);
    }
    site.write("list", &b.entry());
    nginit.signal(Signal::HUP);
    eventually("b answers", || (server_of(&site).as_deref() == Some("b")).then_some(()));
    assert!(nginit.count(" live, ") < 150, "{}", nginit.count(" live, "));
}

#[test]
fn changing_lists_under_load_lose_no_request() {
    let nginx = nginx_or_skip!();
    let backends: Vec<Backend> = ["a", "b", "c"].map(Backend::start).into();
    let mut site = Site::new(&nginx);
    site.set_list(&backends[0].entry());
    site.set("STATIC_BALANCE", "round_robin");
    let nginit = site.start();
    let (stop, failed, served) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, failed, served, port) = (Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&served), site.port);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let good = get(port, "/").is_ok_and(|answer| answer.status == 200);
                    if good { &served } else { &failed }.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        let list: Vec<String> = backends.iter().skip(round % 3).map(Backend::entry).collect();
        site.write("list", if round % 7 == 6 { "broken;" } else { "" });
        if round % 7 != 6 {
            site.write("list", &list.join("\n"));
        }
        nginit.reload();
        let before = served.load(Ordering::Relaxed);
        eventually("requests go on", || (served.load(Ordering::Relaxed) > before + 20).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(failed.load(Ordering::Relaxed), 0, "{}", nginit.report());
    assert_eq!((nginit.count(" live, "), nginit.count("reload: refused")), (18, 2), "{}", nginit.log());
}

#[test]
fn a_stop_during_a_reload_wins() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    for _ in 0..5 {
        let mut site = Site::new(&nginx);
        site.set_list(&a.entry());
        let nginit = site.start();
        nginit.signal(Signal::HUP);
        nginit.signal(Signal::TERM);
        nginit.signal(Signal::HUP);
        assert_eq!(nginit.code(), 0, "{}", nginit.report());
        assert!(!site.conf_d().contains_key(".nginit"), "{:?}", site.conf_d().keys());
    }
}

#[test]
fn a_name_that_stops_resolving_keeps_its_addresses() {
    let nginx = nginx_or_skip!();
    let web = Backend::start("web");
    let mut site = Site::new(&nginx);
    site.write("hosts", "127.0.0.1 web.test\n");
    site.set("HOSTS", site.path("hosts"));
    site.set("STATIC_BACKEND", format!("web.test:{}", web.address.port()));
    // nginit is PID 1 of a namespace in which /etc/hosts is a file of ours.
    let script = "mount --bind \"$HOSTS\" /etc/hosts && exec \"$@\"";
    let inner = site.command(&site.nginx_argv());
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args()).env_clear().envs(&site.env);
    let nginit = support::Nginit::spawn(&site, support::as_pid_1(&command));
    nginit.answers();
    assert_eq!(server_of(&site).as_deref(), Some("web"), "{}", nginit.report());
    site.write("hosts", "\n");
    for _ in 0..2 {
        nginit.reload();
        assert_eq!(server_of(&site).as_deref(), Some("web"), "{}", nginit.report());
    }
    let said = format!("\"web.test:{}\" keeps its last addresses in static_backend", web.address.port());
    assert_eq!((nginit.count(&said), nginit.count("refused")), (2, 0), "{}", nginit.log());
}

#[test]
fn a_hup_waits_for_an_nginx_that_waits_for_its_port() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let taken = std::net::TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let nginit = support::Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.logs("try again to bind()");
    site.write("list", &b.entry());
    nginit.signal(Signal::HUP);
    // Half a second each, five times: longer than other signals are held.
    eventually("nginx tries for long", || (nginit.count("try again to bind()") >= 4).then_some(()));
    drop(taken);
    nginit.answers();
    nginit.logs("generation 2 live");
    assert_eq!(server_of(&site).as_deref(), Some("b"));
}
