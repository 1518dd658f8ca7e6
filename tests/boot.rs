//! From the environment to the first answer, with real nginx, and everything that keeps it away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use support::{Backend, Nginit, Site, eventually, get, request, status_line};

#[test]
fn lists_in_the_environment_are_served() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let (web, api1, api2) = (Backend::start("web"), Backend::start("api1"), Backend::start("api2"));
    site.set("STATIC_BACKEND", web.entry());
    site.set("DYNAMIC_BACKEND", format!("{}, {}", api1.entry(), api2.entry()));
    let nginit = site.start();
    assert_eq!(get(site.port, "/any/page").unwrap().header("X-Server"), Some("web"), "{}", nginit.report());
    let mut seen: Vec<String> =
        (0..4).map(|_| get(site.port, "/api/student").unwrap().header("X-Server").unwrap().to_owned()).collect();
    assert_ne!(seen[0], seen[1], "round robin alternates, with two workers too: {seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["api1", "api2"]);
}

#[test]
fn static_is_sticky_by_client_address() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let webs = [Backend::start("a"), Backend::start("b"), Backend::start("c")];
    site.set("STATIC_BACKEND", webs.iter().map(Backend::entry).collect::<Vec<_>>().join(" "));
    let _nginit = site.start();
    let mut seen: Vec<String> =
        (0..12).map(|_| get(site.port, "/").unwrap().header("X-Server").unwrap().to_owned()).collect();
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn servers_get_the_clients_host_and_address() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("STATIC_BACKEND", web.entry());
    let _nginit = site.start();
    let body = get(site.port, "/p?q=1").unwrap().body;
    let host = format!("localhost:{}", site.port);
    for line in [
        "GET /p?q=1 HTTP/1.1".to_owned(),
        format!("Host: {host}"),
        "X-Real-IP: 127.0.0.1".to_owned(),
        "X-Forwarded-For: 127.0.0.1".to_owned(),
        "X-Forwarded-Proto: http".to_owned(),
        format!("X-Forwarded-Host: {host}"),
    ] {
        assert!(body.contains(&line), "{line} is missing in\n{body}");
    }
    assert!(!body.contains("Connection: close"), "connections to servers are kept\n{body}");
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    std::io::Write::write_all(&mut stream, upgrade.as_bytes()).unwrap();
    let mut answer = [0; 512];
    let length = std::io::Read::read(&mut stream, &mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("Upgrade: websocket") && answer.contains("Connection: upgrade"), "{answer}");
    let old = request(site.port, "GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.status, 200, "HTTP/1.0 without Host is served");
}

#[test]
fn an_upstream_without_servers_answers_503_and_names_its_variable() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", "");
    site.set("DYNAMIC_BACKEND", "no-such-host.invalid srv:_http._tcp.x");
    let nginit = site.start();
    let answer = get(site.port, "/").unwrap();
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("5")));
    assert!(answer.body.contains("STATIC_BACKEND is empty"), "{}", answer.body);
    let answer = get(site.port, "/api/student").unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("no name in DYNAMIC_BACKEND resolves"), "{}", answer.body);
    for said in ["\"no-such-host.invalid:80\" is left out of dynamic_backend", "\"srv:_http._tcp.x\" is left out"] {
        assert!(nginit.log().contains(said), "{}", nginit.log());
    }
}

#[test]
fn nothing_set_answers_503_and_says_what_to_set() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let nginit = site.start();
    let answer = get(site.port, "/").unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("STATIC_BACKEND and DYNAMIC_BACKEND are unset"), "{}", answer.body);
    assert!(nginit.log().contains("nginit warn settings: no upstream is declared"), "{}", nginit.log());
}

#[test]
fn a_name_that_resolves_is_served_and_a_dead_one_is_left_out() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("STATIC_BACKEND", format!("localhost:{} no-such-host.invalid", web.address.port()));
    let nginit = site.start();
    assert_eq!(get(site.port, "/").unwrap().header("X-Server"), Some("web"), "{}", nginit.report());
}

#[test]
fn a_dead_server_costs_no_request() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("DYNAMIC_BACKEND", format!("127.0.0.1:{} {}", support::free_port(), web.entry()));
    let _nginit = site.start();
    for _ in 0..6 {
        assert_eq!(get(site.port, "/api/student").unwrap().status, 200);
    }
    drop(web);
    let answer = eventually("both are dead", || get(site.port, "/api/student").ok().filter(|a| a.status == 502));
    assert!(answer.body.contains("No server answered this request"), "{}", answer.body);
}

#[test]
fn variables_of_others_are_no_surprise() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("STATIC_APP", web.entry());
    site.set("CELERY_BACKEND", "redis://x");
    site.set("NGINIT_LISTN", "90");
    site.set("EMPTY", "");
    site.env.insert("ODD".into(), OsString::from_vec(b"\xff\xfe".to_vec()));
    site.env.insert(OsString::from_vec(b"\xffNAME".to_vec()), "x".into());
    let nginit = site.start();
    assert_eq!(get(site.port, "/").unwrap().header("X-Server"), Some("web"));
    for said in [
        "nginit warn settings: \"STATIC_APP\" is an older spelling of \"STATIC_BACKEND\"",
        "nginit info settings: \"CELERY_BACKEND\" is left alone",
        "nginit warn settings: \"NGINIT_LISTN\" is not a variable of nginit; did you mean \"NGINIT_LISTEN\"?",
    ] {
        assert!(nginit.log().contains(said), "{said}\n{}", nginit.log());
    }
    assert!(!nginit.log().contains("redis://x"), "values of others are not logged");
}

#[test]
fn a_list_fills_all_of_a_variable_and_longer_ones_come_from_a_file() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    let many = |n: u32| -> String {
        (0..n).map(|i| format!("10.{}.{}.{}:80;down\n", i / 62_500, i / 250 % 250, i % 250 + 1)).collect()
    };
    // Linux takes 128 KiB with name, equals sign and NUL.
    let mut text = many(6000);
    text.push_str(&web.entry());
    let room = 128 * 1024 - "DYNAMIC_BACKEND=".len() - 1;
    text.push_str(&" ".repeat(room - text.len()));
    site.set("DYNAMIC_BACKEND", &text);
    site.set_list(&(many(10_000) + &web.entry()));
    let nginit = site.start();
    assert_eq!(get(site.port, "/api/student").unwrap().header("X-Server"), Some("web"), "{}", nginit.log());
    assert!(nginit.log().contains("upstreams=2 servers=16002"), "{}", nginit.log());
}

#[test]
fn bad_variables_end_with_64_and_a_line_per_fault() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", "web web:99999 x;weight=0");
    site.set("DYNAMIC_BACKEND_FILE", "/no/such/file");
    site.set("NGINIT_STOP", "soon");
    let (code, log) = site.run(&site.nginx_argv());
    assert_eq!(code, Some(64), "{log}");
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        [
            "nginit: \"DYNAMIC_BACKEND_FILE\": \"/no/such/file\": cannot be read: No such file or directory (os error 2); mount the file or correct the path",
            "nginit: \"STATIC_BACKEND\": server 2 \"web:99999\": port must be 1-65535; correct it or remove the entry",
            "nginit: \"STATIC_BACKEND\": server 3 \"x;weight=0\": weight must be 1-65535; correct it, or use \"down\" for no requests",
            "nginit: \"NGINIT_STOP\": \"soon\": is not graceful or forward; correct it or unset the variable",
        ]
    );
    assert!(site.conf_d().is_empty(), "nothing is written");
}

#[test]
fn no_nginx_ends_with_127_and_the_way_to_install_it() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_NGINX", "no-such-nginx");
    let (code, log) = site.run(&["nginx"]);
    assert_eq!(code, Some(127));
    assert!(log.contains("\"no-such-nginx\" is not found; install it"), "{log}");
    let file = site.path("file");
    fs::write(&file, "").unwrap();
    site.set("NGINIT_NGINX", &file);
    let (code, log) = site.run(&["nginx"]);
    assert_eq!(code, Some(126), "{log}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, log) = site.run(&["nginx"]);
    assert_eq!(code, Some(126), "an executable that is no nginx\n{log}");
    assert!(site.conf_d().is_empty());
}

#[test]
fn a_first_configuration_that_nginx_refuses_ends_with_78_and_its_message() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    site.write("templates/extra.conf.j2", "nonsense on;\n");
    let (code, log) = site.run(&site.nginx_argv());
    assert_eq!(code, Some(78), "{log}");
    let said = "nginit emerg nginx: the first configuration is refused: unknown directive \"nonsense\" in ";
    assert!(log.contains(said) && log.contains("/conf.d/extra.conf:2"), "{log}");
    assert!(
        log.contains("[emerg]") && log.matches("unknown directive").count() == 2,
        "nginx's own message stands there too\n{log}"
    );
    assert!(!site.conf_d().keys().any(|name| name.starts_with('.')), "{:?}", site.conf_d().keys());
}

#[test]
fn a_first_template_that_fails_ends_with_78_and_its_line() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    site.write("templates/_upstream.j2", "a\n{{ upstream.nmae }}\n");
    let mut site = site;
    site.set("STATIC_BACKEND", "127.0.0.1");
    let (code, log) = site.run(&site.nginx_argv());
    assert_eq!(code, Some(78));
    assert_eq!(log, "nginit: template _upstream.j2:2: undefined value in \"{{ upstream.nmae }}\"\n");
    assert!(site.conf_d().is_empty(), "nothing is written");
}

#[test]
fn a_port_in_use_ends_with_nginxs_message_and_status() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    site.set("NGINIT_LISTEN", taken.local_addr().unwrap().to_string());
    let (code, log) = site.run(&site.nginx_argv());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("Address already in use"), "{log}");
    assert!(!log.contains("refused"), "{log}");
}

#[test]
fn a_directory_that_cannot_be_written_gives_one_line_that_names_it() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", "127.0.0.1:9");
    // /proc refuses root too.
    site.set("NGINIT_CONF_DIR", "/proc/nginit");
    site.write("nginx.conf", &site.main_conf("").replace("conf.d/*", "/proc/nginit/*"));
    let (code, log) = site.run(&site.nginx_argv());
    assert_eq!(code, Some(78));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("nginit: \"NGINIT_CONF_DIR\": \"/proc/nginit\" cannot be written:"), "{log}");
    site.set("NGINIT_CONF_DIR", site.path("nginx.conf"));
    let (code, log) = site.run(&site.nginx_argv());
    assert_eq!(code, Some(78));
    assert!(log.contains("\"NGINIT_CONF_DIR\": ") && log.contains("cannot be written"), "{log}");
}

#[test]
fn files_of_others_are_kept_and_old_ones_of_ours_are_removed() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    site.write("conf.d/users.conf", "# the user's own\n");
    site.write("conf.d/default.conf", "# came with the image\n");
    site.write("conf.d/gone.conf", "# Rendered by nginit from gone.conf.j2; changes are overwritten.\nnonsense;\n");
    let nginit = site.start();
    let names: Vec<String> = site.conf_d().into_keys().collect();
    assert_eq!(names, ["default.conf", "nginit-generation.conf", "users.conf"], "{}", nginit.report());
    let dir = site.path("conf.d");
    let said = format!(
        "{0}/default.conf of somebody else's is replaced, because nginit's has that name; it is kept as {0}/.nginit/kept/default.conf:",
        dir.display()
    );
    assert!(nginit.log().contains(&said), "{}", nginit.log());
    drop(nginit);
    let kept = |name: &str| fs::read_to_string(dir.join(".nginit/kept").join(name)).unwrap();
    assert_eq!(kept("default.conf"), "# came with the image\n");
    for text in ["# another\n", "# came with the image\n", "# another\n"] {
        site.write("conf.d/default.conf", text);
        drop(site.start());
        assert_eq!(
            (kept("default.conf").as_str(), kept("default.conf.2").as_str()),
            ("# came with the image\n", "# another\n")
        );
    }
    assert_eq!(fs::read_dir(dir.join(".nginit/kept")).unwrap().count(), 2);
}

#[test]
fn a_main_file_that_includes_nothing_of_ours_is_warned_of() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let listen = format!("server {{ listen 127.0.0.1:{}; location / {{ return 200; }} }}", site.port);
    site.write("nginx.conf", &site.main_conf("").replace("include conf.d/*.conf;", &listen));
    let nginit = site.start();
    assert!(nginit.log().contains("nothing of it takes effect; add \"include "), "{}", nginit.log());
}

#[test]
fn globals_are_added_only_where_they_are_missing() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let nginit = site.start();
    let title = fs::read_to_string(format!("/proc/{}/cmdline", nginit.master())).unwrap();
    assert!(title.contains("daemon off; worker_processes 2; worker_shutdown_timeout 30000ms;"), "{title}");
    let workers = || (support::children(nginit.master()).len() == 2).then_some(());
    eventually("two workers", workers);
    drop(nginit);
    site.set("NGINIT_WORKERS", "3");
    site.write("nginx.conf", &site.main_conf("daemon off; worker_processes 1; worker_shutdown_timeout 1s;"));
    let nginit = site.start();
    assert!(nginit.log().contains("\"NGINIT_WORKERS\" has no effect"), "{}", nginit.log());
    let workers = || (support::children(nginit.master()).len() == 1).then_some(());
    eventually("one worker", workers);
}

#[test]
fn nginx_starts_with_clean_signals_in_a_group_of_its_own() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    // The shell leaves HUP, TERM and USR1 ignored, as nohup and some CI systems do.
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP TERM USR1; exec \"$@\"", "sh", support::NGINIT]);
    command.args(site.nginx_argv()).env_clear().envs(&site.env);
    let nginit = Nginit::spawn(&site, command);
    nginit.answers();
    let master = nginit.master();
    let bits = |pid, name| u64::from_str_radix(&status_line(pid, name), 16).unwrap();
    // A newer C library blocks all for the moment of a fork.
    eventually("no signal is blocked", || (bits(master, "SigBlk") == 0).then_some(()));
    // nginx itself ignores PIPE and SYS; from 32 on, libraries use signals for themselves.
    let own = 1 << (13 - 1) | 1 << (31 - 1);
    assert_eq!(bits(master, "SigIgn") & 0x7fff_ffff & !own, 0, "{}", status_line(master, "SigIgn"));
    let stat = fs::read_to_string(format!("/proc/{master}/stat")).unwrap();
    let group = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap().to_owned();
    assert_eq!(group, master.to_string());
}

#[test]
fn a_command_that_ends_as_nginx_is_configured() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("STATIC_BACKEND", web.entry());
    site.set("SEEN", site.path("seen"));
    let script = format!("#!/bin/sh\necho \"$1\" > \"$SEEN\"\nshift\nexec {} \"$@\"\n", nginx.display());
    site.write("docker-entrypoint.sh", &script);
    fs::set_permissions(site.path("docker-entrypoint.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut argv: Vec<OsString> = vec![site.path("docker-entrypoint.sh").into()];
    argv.extend(site.nginx_argv());
    argv.extend(["-g".into(), "daemon off;".into()]);
    let nginit = Nginit::spawn(&site, site.command(&argv));
    nginit.answers();
    assert_eq!(fs::read_to_string(site.path("seen")).unwrap(), "nginx\n");
    assert_eq!(get(site.port, "/").unwrap().header("X-Server"), Some("web"));
    // A change, without which a reload may find that there is nothing to do.
    site.write("nginx.conf", &format!("{}# changed\n", site.main_conf("")));
    nginit.reload();
    assert!(nginit.log().contains("generation 2 live"), "{}", nginit.log());
    nginit.signal(rustix::process::Signal::TERM);
    assert_eq!(nginit.code(), 0);
}

#[test]
fn the_access_log_shows_which_server_answered() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("STATIC_BACKEND", web.entry());
    site.set("NGINIT_ACCESS_LOG", "text");
    let nginit = site.start();
    get(site.port, "/page").unwrap();
    nginit.logs(&format!(" server={} seconds=", web.address));
    assert!(!nginit.log().contains("/nginit/ping"), "health checks are not logged");
    drop(nginit);
    site.set("NGINIT_ACCESS_LOG", "json");
    let nginit = site.start();
    let odd = "GET /\"\\\x01 HTTP/1.1\r\nHost: x\r\nUser-Agent: \"\\\t\r\nConnection: close\r\n\r\n";
    assert_eq!(request(site.port, odd).unwrap().status, 400);
    get(site.port, "/page").unwrap();
    nginit.logs("\"uri\":\"/page\"");
    for line in nginit.log().lines().filter(|line| line.starts_with('{')) {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|err| panic!("{err}: {line}"));
    }
}

#[test]
fn logs_can_be_json_and_quiet() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_LOG_FORMAT", "json");
    site.set("STATIC_BACKEND", "127.0.0.1:9");
    let nginit = site.start();
    assert!(
        nginit.log().starts_with("{\"program\":\"nginit\",\"level\":\"notice\",\"module\":\"nginx\""),
        "{}",
        nginit.log()
    );
    drop(nginit);
    site.set("NGINIT_LOG", "error");
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.answers();
    assert!(!nginit.log().contains("nginit"), "{}", nginit.log());
}

#[test]
fn a_route_with_a_slash_does_not_redirect_its_neighbour() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let (web, api) = (Backend::start("web"), Backend::start("api"));
    site.set("STATIC_BACKEND", web.entry());
    site.set("API_BACKEND", api.entry());
    site.set("API_ROUTE", "/api/ =/exact");
    let _nginit = site.start();
    for (path, server) in [
        ("/api/x", "api"),
        ("/api/", "api"),
        ("/api", "web"),
        ("/apifoo", "web"),
        ("/exact", "api"),
        ("/exact/", "web"),
    ] {
        let answer = get(site.port, path).unwrap();
        assert_eq!((answer.status, answer.header("X-Server")), (200, Some(server)), "{path}");
    }
}

#[test]
fn the_nginx_of_the_command_runs_and_no_other() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.env.remove(std::ffi::OsStr::new("NGINIT_NGINX"));
    site.set("PATH", "/nowhere");
    // A wrapper, which says nothing of its version without being run.
    let own = site.path("nginx");
    site.set("SEEN", site.path("seen"));
    site.write(
        "nginx",
        &format!("#!/bin/sh\n[ \"$1\" = -V ] || echo \"$1\" > \"$SEEN\"\nexec {} \"$@\"\n", nginx.display()),
    );
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    let argv: Vec<OsString> = vec![own.into(), "-c".into(), site.path("nginx.conf").into()];
    let nginit = Nginit::spawn(&site, site.command(&argv));
    nginit.answers();
    assert_eq!(fs::read_to_string(site.path("seen")).unwrap(), "-c\n");
    drop(nginit);
    let (code, log) = site.run(&["nginx"]);
    assert_eq!(code, Some(127), "{log}");
    site.write("which", nginx.to_str().unwrap());
    site.set("NGINIT_NGINX_FILE", site.path("which"));
    site.start();
}

#[test]
fn a_main_file_in_any_encoding_is_read() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let write = |comment: &str| {
        let text = site.main_conf(&format!("daemon off; worker_processes 1; # {comment}"));
        let bytes: Vec<u8> = text.bytes().map(|b| if b == b'?' { 0xe9 } else { b }).collect();
        fs::write(site.path("nginx.conf"), bytes).unwrap();
    };
    write("caf?");
    let nginit = site.start();
    // A change, as otherwise there may be nothing to reload.
    write("caf? caf?");
    nginit.reload();
    assert!(nginit.log().contains("generation 2 live"), "{}", nginit.log());
}

#[test]
fn a_timeout_without_measure_is_refused() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("NGINIT_STOP_TIMEOUT", "18446744073709551615");
    let (code, log) = site.run(&site.nginx_argv());
    assert!(code == Some(64) && log.contains("\"NGINIT_STOP_TIMEOUT\""), "{log}");
}

#[test]
fn two_of_us_do_not_share_a_directory() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let nginit = site.start();
    let files = site.conf_d();
    let (code, log) = site.run(&[&site.nginx_argv()[..], &["-t".into()]].concat());
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("another nginit runs on ") && log.contains("nginit check"), "{log}");
    assert_eq!(site.conf_d(), files);
    assert!(site.path("conf.d/.nginit/generation.sock").exists());
    drop(nginit);
    site.start();
}

#[test]
fn a_script_that_fails_in_front_of_nginx_keeps_its_status() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    site.write("nginx.conf", &site.main_conf("include made-by-the-script;"));
    site.write("docker-entrypoint.sh", "#!/bin/sh\necho the database is not there >&2\nexit 3\n");
    fs::set_permissions(site.path("docker-entrypoint.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let argv = [vec![site.path("docker-entrypoint.sh").into()], site.nginx_argv()].concat();
    let (code, log) = site.run(&argv);
    assert_eq!(code, Some(3), "{log}");
    assert!(!log.contains("the first configuration is refused"), "{log}");
}
