//! How people lay out their files: what nginx starts with, a reload can test too, and what cannot
//! work is said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use support::{Backend, Nginit, Site, eventually, side_by_side};

/// A layout: how a site comes to it, and what nginx's options are then. nginit runs in the site's directory.
type Layout = (&'static str, fn(&mut Site) -> Vec<String>);

const LAYOUTS: [Layout; 6] = [
    ("files beside the main file's directory", |site| {
        fs::create_dir(site.path("etc")).unwrap();
        let more = "map $host $own { include ../shared/map; } include ./../shared/*.conf; include ../conf.d";
        let main = site.main_conf("").replace("include conf.d", more);
        site.write("etc/nginx.conf", &main);
        vec!["-c".into(), site.path("etc/nginx.conf").display().to_string()]
    }),
    ("a prefix that is relative", |_| ["-p", ".", "-c", "nginx.conf"].map(Into::into).into()),
    ("a relative path to a directory below", |site| {
        fs::create_dir(site.path("etc")).unwrap();
        fs::rename(site.path("nginx.conf"), site.path("etc/nginx.conf")).unwrap();
        symlink("../conf.d", site.path("etc/conf.d")).unwrap();
        ["-p", "./shared/..", "-c", "etc/nginx.conf"].map(Into::into).into()
    }),
    ("a link to NGINIT_CONF_DIR", |site| {
        fs::rename(site.path("conf.d"), site.path("real")).unwrap();
        symlink("real", site.path("conf.d")).unwrap();
        site.set("NGINIT_CONF_DIR", site.path("real"));
        vec!["-c".into(), site.path("nginx.conf").display().to_string()]
    }),
    ("NGINIT_CONF_DIR is a link", |site| {
        symlink("conf.d", site.path("link")).unwrap();
        site.set("NGINIT_CONF_DIR", site.path("link"));
        vec!["-c".into(), site.path("nginx.conf").display().to_string()]
    }),
    ("NGINIT_CONF_DIR has another spelling", |site| {
        site.set("NGINIT_CONF_DIR", site.path("shared/../conf.d/"));
        vec!["-c".into(), site.path("nginx.conf").display().to_string()]
    }),
];

#[test]
fn what_nginx_starts_with_can_be_reloaded() {
    let nginx = nginx_or_skip!();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    side_by_side(LAYOUTS, |(name, lay_out)| {
        let mut site = Site::new(&nginx);
        site.set_list(&a.entry());
        fs::create_dir(site.path("shared")).unwrap();
        site.write("shared/map", "default 1;");
        site.write("shared/x.conf", "server_tokens off;");
        site.write("conf.d/users.conf", "# the user's own\n");
        let options = lay_out(&mut site);
        let mut command = site.command(&["nginx"]);
        command.args(options).current_dir(site.dir.path());
        let nginit = Nginit::spawn(&site, command);
        nginit.is_up();
        site.write("list", &b.entry());
        nginit.reload();
        assert_eq!(nginit.status().generation, 2, "{name}\n{}", nginit.report());
        eventually("b answers", || (site.server().as_deref() == Some("b")).then_some(()));
        assert_eq!(nginit.count("nginit warn nginx: "), 0, "{name}\n{}", nginit.log());
    });
}

#[test]
fn an_include_in_another_file_starts_with_a_warning_that_is_true() {
    let nginx = nginx_or_skip!();
    let a = Backend::start("a");
    let mut site = Site::new(&nginx);
    site.set_list(&a.entry());
    site.write("nginx.conf", &site.main_conf("").replace("conf.d/*.conf", "more.conf"));
    site.write("more.conf", "include conf.d/*.conf;");
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    nginit.answers();
    assert_eq!(site.server().as_deref(), Some("a"));
    let dir = site.path("conf.d");
    let (said, remedy) = (
        format!("itself does not include {}/*.conf", dir.display()),
        format!("add \"include {}/*.conf;\" to its http block (in place of what else includes it)", dir.display()),
    );
    let has =
        |start: &str| nginit.log().lines().any(|l| l.starts_with(start) && l.contains(&said) && l.contains(&remedy));
    assert!(has("nginit warn nginx: "), "{}", nginit.log());
    site.write("list", "127.0.0.1:1");
    nginit.reload();
    assert!(has("nginit error reload: refused, "), "{}", nginit.log());
    site.write("nginx.conf", &site.main_conf(""));
    nginit.reload();
    assert!(nginit.log().contains("generation 2 live, "), "{}", nginit.log());
}

#[test]
fn an_nginx_that_would_leave_the_foreground_is_refused() {
    let nginx = nginx_or_skip!();
    let site = Site::new(&nginx);
    let main = site.path("nginx.conf");
    let mut by_option = site.nginx_argv();
    by_option.extend(["-g".into(), "worker_priority 0; daemon on;".into()]);
    site.write("nginx.conf", &site.main_conf("daemon \"ON\";"));
    for (argv, place) in [(site.nginx_argv(), main.display().to_string()), (by_option, "the command's -g".to_owned())] {
        let (code, log) = site.run(&argv);
        assert_eq!(code, Some(78), "{log}");
        let said = "sets \"daemon on\", but nginx has to stay in the foreground: remove it";
        assert_eq!(log, format!("nginit: {place} {said}\n"));
        assert!(site.conf_d().is_empty(), "nothing is written");
        site.write("nginx.conf", &site.main_conf(""));
    }
}

/// A user's own file and what nginit says of it, in which OWN stands for the file and PORT for nginit's port.
type Clash = (&'static str, &'static str, &'static str, &'static str);

const CLASHES: [Clash; 7] = [
    (
        "app.conf",
        "server {\n    listen 127.0.0.1:PORT default_server;\n}\n",
        "a duplicate default server for 127.0.0.1:PORT in DIR/default.conf:",
        "; the other one is at OWN:2: remove default_server at OWN:2, or set NGINIT_LISTEN to another port",
    ),
    (
        "zoo.conf",
        "server { listen 127.0.0.1:PORT default_server; }\n",
        "a duplicate default server for 127.0.0.1:PORT in OWN:1; nginit's own is at DIR/default.conf:",
        ": remove default_server at OWN:1, or set NGINIT_LISTEN to another port",
    ),
    (
        "app.conf",
        "# mine\nupstream static_backend {\n    server 127.0.0.1;\n}\n",
        "duplicate upstream \"static_backend\" in DIR/default.conf:",
        "; the other one is at OWN:2: give it another name at OWN:2",
    ),
    (
        "zoo.conf",
        "log_format nginit '$uri';\n",
        "duplicate \"log_format\" name \"nginit\" in OWN:1; nginit's own is at DIR/default.conf:",
        ": give it another name at OWN:1",
    ),
    (
        "app.conf",
        "limit_req_zone $uri zone=static_backend:1m rate=1r/s;\n",
        "shared memory zone \"static_backend\"",
        "; the other one is at OWN:1: give it another name at OWN:1",
    ),
    (
        "app.conf",
        "access_log off;\ngzip on;\n\ngzip off;\n",
        "\"gzip\" directive is duplicate in OWN:4",
        "; the other one is at OWN:2, and neither is nginit's: remove it at one of the two places",
    ),
    (
        "zoo.conf",
        "worker_shutdown_timeout 1s;\n",
        "\"worker_shutdown_timeout\" directive is not allowed here in OWN:1",
        " belong inside of http { }: include them there, and put directives of other places",
    ),
];

#[test]
fn a_clash_with_a_users_own_file_is_explained_at_start_check_and_reload() {
    let nginx = nginx_or_skip!();
    side_by_side(CLASHES, |(name, text, complaint, remedy)| {
        let mut site = Site::new(&nginx);
        site.set_list("127.0.0.1:9");
        site.write("nginx.conf", &site.main_conf("").replace("access_log off;", ""));
        let (own, dir) = (format!("conf.d/{name}"), site.path("conf.d").display().to_string());
        let text = text.replace("PORT", &site.port.to_string());
        let explains = |line: &str| {
            let fill = |part: &str| {
                let part = part.replace("OWN", &format!("{dir}/{name}")).replace("DIR", &dir);
                part.replace("PORT", &site.port.to_string())
            };
            let said = line.find(&fill(complaint)).is_some_and(|at| line[at..].contains(&fill(remedy)));
            said && !line.contains("/.nginit/")
        };
        let explained = |log: &str, start: &str| {
            let found = log.lines().any(|line| line.starts_with(start) && explains(line));
            assert!(found, "{name}: {text}\nno line that starts with {start:?} explains it in\n{log}");
        };

        let nginit = site.start();
        site.write(&own, &text);
        nginit.reload();
        explained(&nginit.log(), "nginit error reload: refused, generation 1 stays live: ");
        drop(nginit);

        let mut check = vec!["check".into()];
        check.extend(site.nginx_argv());
        let (code, log) = site.run(&check);
        assert_eq!(code, Some(78), "{log}");
        explained(&log, "nginit: ");

        let (code, log) = site.run(&site.nginx_argv());
        assert_eq!(code, Some(78), "{log}");
        explained(&log, "nginit emerg nginx: the first configuration is refused: ");
        assert_eq!(fs::read_to_string(site.path(&own)).unwrap(), text, "it stays as it is");
    });
}

#[test]
fn a_server_that_gets_no_request_is_warned_of_at_start_check_and_reload() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set_list("127.0.0.1:9");
    let dir = site.path("conf.d").display().to_string();
    let server = |name: &str| format!("server {{\n listen 127.0.0.1:{}; server_name {name};\n}}\n", site.port);
    site.write("conf.d/a.conf", &server("a.test localhost"));
    site.write("conf.d/b.conf", &server("_"));
    let names = format!(
        "requests for \"localhost\" go to the server at {dir}/a.conf:1, not to nginit's, which comes later: take the name \
         out there if nginit is to have them"
    );
    let nameless = format!(
        "the server at {dir}/b.conf:1 gets no request that names a host: it has no name, and nginit's is the default of \
         127.0.0.1:{}; give it a server_name, or set NGINIT_LISTEN to another port",
        site.port
    );
    let mut check = vec!["check".into()];
    check.extend(site.nginx_argv());
    let (code, log) = site.run(&check);
    assert_eq!(code, Some(0), "{log}");
    for told in [&names, &nameless] {
        assert!(log.contains(&format!("nginit warn nginx: {told}\n")), "{log}");
    }
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    for told in [&names, &nameless] {
        eventually("it is told", || nginit.log().contains(&format!("nginit warn nginx: {told}\n")).then_some(()));
    }
    let healthy = site.command(&["healthcheck"]).status().unwrap();
    assert!(healthy.success(), "a user's own server called localhost is not asked");
    fs::rename(site.path("conf.d/a.conf"), site.path("conf.d/z.conf")).unwrap();
    nginit.reload();
    let later = format!("go to nginit's server at {dir}/default.conf:");
    let never = format!("never to the one at {dir}/z.conf:1: give that one a name or a port of its own");
    let told = |line: &str| line.starts_with("nginit warn ") && line.contains(&later) && line.contains(&never);
    assert!(nginit.log().lines().any(told), "{}", nginit.log());
}

#[test]
fn a_script_that_overwrites_a_file_of_nginits_is_told_of() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let a = Backend::start("a");
    site.set_list(&a.entry());
    let own = site.path("conf.d/default.conf");
    let server = format!("server {{ listen 127.0.0.1:{}; location / {{ return 200 own; }} }}", site.port);
    let script = format!("#!/bin/sh\necho '{server}' >{}\nshift\nexec \"$NGINIT_NGINX\" \"$@\"\n", own.display());
    site.write_program("docker-entrypoint.sh", &script);
    let mut argv = vec![site.path("docker-entrypoint.sh").into()];
    argv.extend(site.nginx_argv());
    let nginit = Nginit::spawn(&site, site.command(&argv));
    nginit.answers();
    let start =
        format!("nginit error reload: {} is not nginit's any more, so nothing of it is served: ", own.display());
    eventually("it is told", || nginit.log().lines().any(|line| line.starts_with(&start)).then_some(()));
    nginit.reload();
    assert_eq!(site.server().as_deref(), Some("a"), "{}", nginit.report());
    let kept = fs::read_to_string(site.path("conf.d/.nginit/kept/default.conf")).unwrap();
    assert_eq!(kept, format!("{server}\n"), "what it wrote is not lost");
}
