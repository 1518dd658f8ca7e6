//! A reload proves itself or is taken back, says what came of it, and never comes too often.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails, and says why")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nginit::admin::{Draining, State};
use rustix::process::Signal;
use support::{Backend, Nginit, Site, eventually, side_by_side};

const WAIT: [&str; 2] = ["reload", "--wait"];

/// What keeps nginit from asking nginx for its generation, on a site that has not started yet, and
/// what does on one that runs.
type Blindness = (&'static str, fn(&mut Site), fn(&Site));

const BLINDNESSES: [Blindness; 4] = [
    ("none", |_| {}, |_| {}),
    (
        "the main file includes one file alone",
        |site| {
            let main = site.main_conf("").replace("conf.d/*.conf", "conf.d/default.conf");
            site.write("nginx.conf", &main);
        },
        |_| {},
    ),
    (
        "the private directory is gone",
        |_| {},
        |site| {
            // nginit may still write into it.
            eventually("it is gone", || fs::remove_dir_all(site.path("conf.d/.nginit")).ok());
        },
    ),
    (
        "the path is too long for a socket",
        |site| {
            let dir = site.path(&"long".repeat(30));
            fs::create_dir(&dir).unwrap();
            let main = site.main_conf("").replace("conf.d/*.conf", &format!("{}/*.conf", dir.display()));
            site.write("nginx.conf", &main);
            fs::remove_dir(site.path("conf.d")).unwrap();
            std::os::unix::fs::symlink(&dir, site.path("conf.d")).unwrap();
            site.set("NGINIT_CONF_DIR", dir);
        },
        |_| {},
    ),
];

#[test]
fn a_port_that_is_taken_rolls_back_and_the_next_reload_goes_live() {
    let nginx = nginx_or_skip!();
    side_by_side(BLINDNESSES, |(name, before, while_running)| {
        let (a, b) = (Backend::start("a"), Backend::start("b"));
        let mut site = Site::new(&nginx);
        site.set_list(&a.entry());
        let ours = format!("127.0.0.1:{}", site.port);
        site.env.remove(std::ffi::OsStr::new("NGINIT_LISTEN"));
        site.set("NGINIT_LISTEN_FILE", site.path("listen"));
        site.write("listen", &ours);
        before(&mut site);
        let nginit = site.start();
        let files = site.conf_d();
        while_running(&site);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = taken.local_addr().unwrap();
        site.write("listen", &format!("{ours} {theirs}"));
        site.write("list", &b.entry());
        let (status, said) = site.run(&WAIT);
        assert_eq!(status, Some(1), "{name}: {said}\n{}", nginit.report());
        let reason = format!("bind() to {theirs} failed (98: Address already in use)");
        assert!(said.contains(&reason), "{name}: {said}\n{}", nginit.report());
        assert!(nginit.log().contains(&format!("refused, generation 1 stays live: {reason}")), "{}", nginit.log());
        assert_eq!(site.conf_d(), files, "{name}");
        assert_eq!(site.server().as_deref(), Some("a"), "{name}");
        assert_eq!(nginit.status().generation, 1, "{name}");
        drop(taken);
        let (status, said) = site.run(&WAIT);
        assert_eq!(status, Some(0), "{name}: {said}\n{}", nginit.report());
        assert!(nginit.log().contains("generation 3 live"), "{name}: a number is used once\n{}", nginit.log());
        eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
        assert!(TcpStream::connect(theirs).is_ok(), "{name}");
    });
}

#[test]
fn a_command_that_waits_learns_the_outcome() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.wrap_nginx();
    site.set_list(&a.entry());
    let nginit = site.start();
    site.write("list", &b.entry());
    let (status, said) = site.run(&WAIT);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("generation 2"), "{said}");
    assert_eq!(site.server().as_deref(), Some("b"), "what was waited for is live");
    eventually("nothing has changed", || {
        let (status, said) = site.run(&WAIT);
        assert_eq!(status, Some(0), "{said}");
        said.contains("nothing has changed").then_some(())
    });
    let generation = nginit.status().generation;
    site.write("list", "web:99999");
    let (status, said) = site.run(&WAIT);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("server 1 \"web:99999\": port must be 1-65535"), "{said}");
    site.write("list", &a.entry());
    site.write("hang", "");
    let (status, said) = site.run(&["reload", "--wait", "--timeout", "300ms"]);
    assert_eq!(status, Some(2), "{said}");
    fs::remove_file(site.path("hang")).unwrap();
    nginit.logs(&format!("generation {} live", generation + 1));
}

#[test]
fn a_test_that_hangs_keeps_nobody_from_being_answered() {
    let nginx = nginx_or_skip!();
    let (a, b, c) = (Backend::start("a"), Backend::start("b"), Backend::start("c"));
    let mut site = Site::new(&nginx);
    site.wrap_nginx();
    site.set_list(&a.entry());
    let nginit = site.start();
    site.write("hang", "");
    site.write("list", &b.entry());
    nginit.signal(Signal::HUP);
    eventually("the test hangs", || fs::exists(site.path("hangs")).unwrap().then_some(()));
    site.write("list", &c.entry());
    nginit.signal(Signal::HUP);
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..5).map(|_| scope.spawn(|| site.run(&WAIT))).collect();
        eventually("all ask", || (nginit.count("a command asks for a reload") == 5).then_some(()));
        assert_eq!(nginit.status().state, State::Reloading);
        assert_eq!(site.server().as_deref(), Some("a"));
        fs::remove_file(site.path("hang")).unwrap();
        for waiter in waiters {
            let (status, said) = waiter.join().unwrap();
            assert_eq!(status, Some(0), "{said}\n{}", nginit.report());
            assert!(said.contains("generation 3"), "the run that began after they asked: {said}");
        }
    });
    assert_eq!(site.server().as_deref(), Some("c"));
    assert_eq!(nginit.count(" live, "), 2, "all that was asked for meanwhile is one reload\n{}", nginit.log());
}

#[test]
fn a_command_that_waits_hears_of_a_stop() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.wrap_nginx();
    site.set_list(&a.entry());
    let nginit = site.start();
    site.write("hang", "");
    site.write("list", &b.entry());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| site.run(&WAIT));
        eventually("the test hangs", || fs::exists(site.path("hangs")).unwrap().then_some(()));
        nginit.signal(Signal::TERM);
        let (status, said) = waiter.join().unwrap();
        assert_eq!(status, Some(1), "{said}\n{}", nginit.report());
        assert!(said.contains("nginit is stopping"), "{said}");
    });
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
}

/// A change of what nginx reads besides our files.
type Touch = (&'static str, fn(&Site));

const TOUCHES: [Touch; 9] = [
    ("a certificate", |site| certificate(site)),
    ("a file of the user's", |site| site.write("conf.d/users.conf", &users(site, "two"))),
    ("a new file of the user's", |site| site.write("conf.d/more.conf", "# more\n")),
    ("that file is gone", |site| fs::remove_file(site.path("conf.d/more.conf")).unwrap()),
    ("the main file", |site| site.write("nginx.conf", &main_conf(site, "worker_priority 0;"))),
    ("an included file", |site| site.write("snippets/one", "add_header X-One two;")),
    ("a map in a file", |site| site.write("map", "a c;")),
    ("a file that -g includes", |site| site.write("global", "worker_rlimit_nofile 1025;")),
    ("a link that is set anew", |site| {
        fs::remove_file(site.path("snippets/link")).unwrap();
        std::os::unix::fs::symlink(site.path("map"), site.path("snippets/link")).unwrap();
    }),
];

fn certificate(site: &Site) {
    let subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes", "-newkey", "ec", "-pkeyopt"];
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509"]).args(subject).arg("ec_paramgen_curve:prime256v1");
    openssl.arg("-keyout").arg(site.path("key.new")).arg("-out").arg(site.path("cert.new"));
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for name in ["key", "cert"] {
        fs::rename(site.path(&format!("{name}.new")), site.path(&format!("{name}.pem"))).unwrap();
    }
}

fn users(site: &Site, word: &str) -> String {
    let dir = site.dir.path().display();
    format!(
        "map $arg_x $mapped {{ include {dir}/map; }}\nserver {{ listen unix:{dir}/user.sock ssl; # {word}\n    \
         ssl_certificate cert.pem; ssl_certificate_key {dir}/key.pem;\n    \
         include \"snippets/on[e]\"; location / {{ include snippets/one; return 204; }} }}\n"
    )
}

fn main_conf(site: &Site, more: &str) -> String {
    site.main_conf(more).replace("include conf.d", "map $arg_y $linked { include snippets/link; }\n    include conf.d")
}

#[test]
fn equal_bytes_leave_nginx_alone_and_every_other_change_does_not() {
    let nginx = nginx_or_skip!();
    if which::which("openssl").is_err() {
        println!("skipped: there is no openssl to make a certificate");
        return;
    }
    let a = Backend::start("a");
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    fs::create_dir(site.path("snippets")).unwrap();
    certificate(&site);
    site.write("snippets/one", "add_header X-One one;");
    site.write("map", "a b;");
    site.write("map2", "a b;");
    std::os::unix::fs::symlink(site.path("map2"), site.path("snippets/link")).unwrap();
    site.write("global", "worker_rlimit_nofile 1024;");
    site.write("conf.d/users.conf", &users(&site, "one"));
    site.write("nginx.conf", &main_conf(&site, ""));
    let mut argv = site.nginx_argv();
    argv.extend(["-g".into(), format!("include {};", site.path("global").display()).into()]);
    site.age();
    let nginit = Nginit::spawn(&site, site.command(&argv));
    nginit.is_up();
    // nginit takes a look at what nginx has read; until then a reload is one in doubt.
    eventually("nothing is in doubt", || {
        nginit.reload();
        (nginit.status().reloads.unchanged == 1).then_some(())
    });
    let mut generation = nginit.status().generation;
    let mut workers = nginit.workers(2);
    let unchanged = |generation: u64, workers: &[i32], name: &str| {
        nginit.reload();
        assert_eq!(nginit.status().generation, generation, "{name}\n{}", nginit.log());
        assert_eq!(nginit.workers(2), workers, "{name}");
    };
    for (name, touch) in TOUCHES {
        touch(&site);
        nginit.reload();
        generation += 1;
        assert_eq!(nginit.status().generation, generation, "{name}\n{}", nginit.log());
        workers = eventually("all workers are new", || {
            Some(nginit.workers(2)).filter(|now| !now.iter().any(|pid| workers.contains(pid)))
        });
        unchanged(generation, &workers, name);
    }
    assert_eq!(nginit.count("refused"), 0, "{}", nginit.log());
}

#[test]
fn a_name_that_nginx_looks_up_itself_is_looked_up_at_each_reload() {
    let nginx = nginx_or_skip!();
    let (a, web) = (Backend::start("a"), Backend::start("web"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let port = support::free_port();
    let proxied = format!("http://web.test:{}", web.address.port());
    site.write(
        "conf.d/users.conf",
        &format!("server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {proxied}; }} }}\n"),
    );
    // An address of loopback on which nobody listens.
    site.write("hosts", "127.0.0.9 web.test\n");
    site.set("HOSTS", site.path("hosts"));
    let nginit = site.start_after("mount --bind \"$HOSTS\" /etc/hosts");
    assert_eq!(support::get(port, "/").unwrap().status, 502);
    nginit.reload();
    site.write("hosts", "127.0.0.1 web.test\n");
    nginit.reload();
    let answered = support::get(port, "/").unwrap();
    assert_eq!(answered.header("X-Server"), Some("web"), "{}", nginit.report());
}

#[test]
fn the_first_reload_is_immediate_and_the_next_one_waits_for_its_time() {
    let nginx = nginx_or_skip!();
    let backends = ["a", "b", "c"].map(Backend::start);
    let mut site = Site::new(&nginx);
    site.set("NGINIT_RELOAD_INTERVAL", "1h");
    site.set_list(&backends[0].entry());
    let nginit = site.start();
    site.write("list", &backends[1].entry());
    nginit.reload();
    assert_eq!(site.server().as_deref(), Some("b"));
    site.write("list", &backends[2].entry());
    for _ in 0..20 {
        nginit.signal(Signal::HUP);
    }
    nginit.is_in(State::Waiting);
    let (status, said) = site.run(&["reload", "--wait", "--timeout", "100ms"]);
    assert_eq!(status, Some(2), "{said}");
    assert_eq!((nginit.status().generation, site.server().as_deref()), (2, Some("b")));
    nginit.signal(Signal::TERM);
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
}

#[test]
fn a_storm_of_hups_is_a_handful_of_reloads_and_the_last_list_wins() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set("NGINIT_RELOAD_INTERVAL", "1s");
    site.set("STATIC_BALANCE", "round_robin");
    site.set_list(&a.entry());
    let nginit = site.start();
    let began = Instant::now();
    for number in 0..300 {
        site.write("list.new", &format!("{};weight={}", a.entry(), number + 2));
        fs::rename(site.path("list.new"), site.path("list")).unwrap();
        nginit.signal(Signal::HUP);
        thread::sleep(Duration::from_millis(3));
    }
    site.write("list", &b.entry());
    nginit.signal(Signal::HUP);
    eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
    nginit.is_in(State::Running);
    let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    let live = nginit.count(" live, ");
    assert!((2..=most).contains(&live), "{live} reloads\n{}", nginit.log());
    assert_eq!(nginit.count("refused"), 0, "{}", nginit.log());
}

/// An upload that has begun and ends when the caller wants.
fn upload(site: &Site) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

fn finish(mut upload: TcpStream) -> String {
    upload.write_all(b"body").unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).unwrap();
    answer
}

/// A site with three old generations that each finish an upload, and one reload that waits for them.
fn with_backlog(site: &mut Site, backend: &Backend) {
    site.set("NGINIT_RELOAD_BACKLOG", "2");
    site.set("STATIC_BALANCE", "round_robin");
    site.set_list(&backend.entry());
}

fn fill_backlog(site: &Site, nginit: &Nginit, backend: &Backend) -> Vec<TcpStream> {
    let uploads = (2..=4).map(|weight| {
        let running = upload(site);
        site.write("list", &format!("{};weight={weight}", backend.entry()));
        nginit.reload();
        running
    });
    let uploads = uploads.collect();
    assert_eq!(nginit.status().generation, 4, "{}", nginit.log());
    site.write("list", &format!("{};weight=5", backend.entry()));
    nginit.signal(Signal::HUP);
    nginit.is_in(State::Held);
    uploads
}

#[test]
fn a_reload_waits_while_too_many_old_generations_finish_requests() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let mut site = Site::new(&nginx);
    with_backlog(&mut site, &a);
    let nginit = site.start();
    let mut uploads = fill_backlog(&site, &nginit, &a);
    let draining: Vec<Draining> = (1..=3).map(|generation| Draining { generation, workers: 1 }).collect();
    eventually("idle workers are gone", || (nginit.status().draining == draining).then_some(()));
    let (status, said) = site.run(&["status"]);
    assert_eq!(status, Some(0), "{said}");
    for line in ["state       held", "draining    generation 1, 1 worker\n", "            generation 3, 1 worker\n"] {
        assert!(said.contains(line), "{said}");
    }
    let (status, said) = site.run(&["reload", "--wait", "--timeout", "600ms"]);
    assert_eq!(status, Some(2), "{said}");
    let waits = "reload: waits: 3 old generations still finish requests (NGINIT_RELOAD_BACKLOG";
    assert_eq!(nginit.count(waits), 1, "said once\n{}", nginit.log());
    assert!(finish(uploads.remove(1)).starts_with("HTTP/1.1 200"));
    nginit.logs("generation 5 live");
    for upload in uploads {
        assert!(finish(upload).starts_with("HTTP/1.1 200"), "{}", nginit.report());
    }
    eventually("nothing drains", || nginit.status().draining.is_empty().then_some(()));
    nginit.workers(2);
}

#[test]
fn a_stop_does_not_wait_for_a_reload_that_is_held_back() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let mut site = Site::new(&nginx);
    with_backlog(&mut site, &a);
    let nginit = site.start();
    let uploads = fill_backlog(&site, &nginit, &a);
    let files = site.conf_d();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| site.run(&WAIT));
        nginit.logs("a command asks for a reload");
        nginit.signal(Signal::TERM);
        assert_eq!(waiter.join().unwrap().0, Some(1));
    });
    for upload in uploads {
        assert!(finish(upload).starts_with("HTTP/1.1 200"), "{}", nginit.report());
    }
    assert_eq!(nginit.code(), 0, "{}", nginit.report());
    assert_eq!((site.conf_d(), nginit.count("generation 5")), (files, 0));
}

#[test]
fn a_removed_socket_of_an_old_listener_is_no_refusal() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    let socket = site.path("app.sock");
    site.write("conf.d/app.conf", &format!("server {{ listen unix:{}; return 200; }}\n", socket.display()));
    let nginit = site.start();
    fs::remove_file(&socket).unwrap();
    fs::remove_file(site.path("conf.d/app.conf")).unwrap();
    site.write("list", &b.entry());
    nginit.reload();
    assert!(nginit.log().contains("unlink() ") && nginit.log().contains("generation 2 live"), "{}", nginit.report());
    assert_eq!(site.server().as_deref(), Some("b"));
}
