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
