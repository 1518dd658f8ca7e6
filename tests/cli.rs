//! The commands that end by themselves, and the words: help, README.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;

use support::{Backend, Site};

/// Runs nginit without any site: status, stdout, stderr.
fn nginit(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(support::NGINIT);
    let output = command.args(args).env_clear().envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_command_explains_itself() {
    let (code, help, _) = nginit(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for command in [
        "run",
        "reload",
        "status",
        "list",
        "why",
        "diff",
        "add",
        "remove",
        "drain",
        "undrain",
        "weight",
        "announce",
        "top",
        "serf",
        "render",
        "check",
        "healthcheck",
        "completions",
        "man",
        "help",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
        let (code, own, _) = nginit(&[command, "--help"], &[]);
        assert_eq!(code, Some(0), "{command}");
        assert!(own.contains("Usage: nginit"), "{own}");
        let (code, same, _) = nginit(&["help", command], &[]);
        assert_eq!(code, Some(0), "{command}");
        assert!(same.contains("Usage:"), "{same}");
    }
    assert_eq!(nginit(&["help"], &[]).0, Some(0));
    assert_eq!(nginit(&["help", "nonsense"], &[]).0, Some(2));
    assert_eq!(nginit(&["--nonsense"], &[]).0, Some(2));
    assert_eq!(nginit(&["--version"], &[]).1, format!("nginit {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_env_lists_every_variable_with_its_default() {
    let (code, text, _) = nginit(&["help", "env"], &[]);
    assert_eq!(code, Some(0));
    for variable in nginit::settings::variables::all() {
        assert!(text.contains(&format!("{}  (", variable.name)), "{}\n{text}", variable.name);
    }
}

#[test]
fn the_readme_holds_the_table_of_variables() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let table = nginit::settings::variables::markdown();
    assert!(readme.contains(&table), "README.md must hold this table:\n\n{table}");
}

#[test]
fn render_prints_or_writes_and_touches_nothing_live() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", "10.0.0.1;weight=3");
    let output = site.command(&["render"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("    server 10.0.0.1:80 weight=3;\n"), "{text}");
    let out = site.path("out/deep");
    let out = out.to_str().unwrap();
    assert_eq!(site.run(&["render", "--out", out]).0, Some(0));
    assert!(text.ends_with(&fs::read_to_string(format!("{out}/default.conf")).unwrap()));
    assert!(site.conf_d().is_empty());
    // Also where no nginx is installed.
    let (code, text, _) = nginit(&["render"], &[("STATIC_BACKEND", "10.0.0.1"), ("PATH", "/nowhere")]);
    assert!(code == Some(0) && text.contains("server 10.0.0.1:80;"), "{text}");
}

#[test]
fn check_asks_nginx_and_touches_nothing_live() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("TMPDIR", site.path(""));
    site.set("STATIC_BACKEND", "10.0.0.1");
    site.write("conf.d/users.conf", "# the user's own\n");
    let conf = site.path("nginx.conf");
    let args = ["check", "nginx", "-c", conf.to_str().unwrap()];
    let before = site.conf_d();
    let (code, log) = site.run(&args);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains(" accepts the configuration: upstreams=1 servers=1"), "{log}");
    site.write("templates/x.conf.j2", "nonsense;");
    let (code, log) = site.run(&args);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("unknown directive \"nonsense\" in ") && log.contains("/conf.d/x.conf:2"), "{log}");
    site.set("STATIC_BACKEND", "a:0");
    assert_eq!(site.run(&args).0, Some(64));
    assert_eq!(site.conf_d(), before);
    let left = fs::read_dir(site.dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("nginit-check"));
    assert_eq!(left.count(), 0, "nothing is left in the temporary directory");
}

#[test]
fn check_also_reads_what_others_put_into_conf_d() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    site.set("TMPDIR", site.path(""));
    let port = site.port;
    site.write("conf.d/users.conf", &format!("server {{ listen 127.0.0.1:{port} default_server; }}\n"));
    let conf = site.path("nginx.conf");
    let (code, log) = site.run(&["check", "nginx", "-c", conf.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("a duplicate default server") && log.contains("remove default_server at "), "{log}");
}

#[test]
fn healthcheck_tells_whether_nginx_answers() {
    let nginx = nginx_or_skip!();
    let mut site = Site::new(&nginx);
    let web = Backend::start("web");
    site.set("STATIC_BACKEND", web.entry());
    let (code, log) = site.run(&["healthcheck"]);
    assert_eq!(code, Some(1));
    assert!(log.contains(&format!("nginit: nginx does not answer on 127.0.0.1:{}: ", site.port)), "{log}");
    let _nginit = site.start();
    assert_eq!(site.run(&["healthcheck"]), (Some(0), String::new()));
    let mut spoilt = site.command(&["healthcheck"]);
    spoilt.env("STATIC_BACKEND", "not;a;list").env("NGINIT_LISTEN", "127.0.0.1:1");
    assert!(spoilt.status().unwrap().success(), "it asks what is live");
}

#[test]
fn commands_say_where_they_looked_for_nginit() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (path, shown) = (socket.to_str().unwrap(), format!("{socket:?}"));
    for args in [&["reload"] as &[&str], &["reload", "--wait"], &["status"], &["status", "--json"]] {
        let (code, out, err) = nginit(args, &[("NGINIT_CONTROL", path), ("STATIC_BACKEND", "not;a;list")]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.starts_with(&format!("nginit: no nginit answers on {shown}: ")), "{err}");
        assert!(err.contains("docker exec") && err.contains("NGINIT_CONTROL"), "{err}");
        let (code, _, err) = nginit(args, &[("NGINIT_CONTROL", "off")]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.starts_with("nginit: NGINIT_CONTROL is off"), "{err}");
    }
    assert_eq!(nginit(&["reload", "--timeout", "soon"], &[]).0, Some(2));
}

#[test]
fn a_command_waits_no_longer_than_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    // Somebody listens and never answers.
    let _deaf = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let env = [("NGINIT_CONTROL", socket.to_str().unwrap())];
    let (code, out, err) = nginit(&["reload", "--wait", "--timeout", "50ms"], &env);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("within 50ms"), "{err}");
}

#[test]
fn commands_tell_what_was_answered() {
    use nginit::admin::{Outcome, ReloadResult, Reply, Request};

    let outcome = |result, reason: Option<&str>| {
        Reply::Outcome(Outcome { result, generation: 8, reason: reason.map(str::to_owned), took_ms: 41 })
    };
    let text = |text: &str| text.to_owned();
    for (reply, want) in [
        (outcome(ReloadResult::Live, None), (Some(0), text("generation 8 is live, 41 ms\n"), text(""))),
        (
            outcome(ReloadResult::Unchanged, None),
            (Some(0), text("nothing has changed, generation 8 stays live\n"), text("")),
        ),
        (
            outcome(ReloadResult::Refused, Some("a\nb")),
            (Some(1), text(""), text("nginit: refused, generation 8 stays live: a\nnginit: b\n")),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let answer = move |asked: nginit::admin::desk::Asked| {
            let waits = asked.request == Request::Reload { wait: true };
            asked.answer(if waits { reply.clone() } else { Reply::Accepted });
            true
        };
        let _serving = support::control(&socket, answer);
        let env = [("NGINIT_CONTROL", socket.to_str().unwrap())];
        assert_eq!(nginit(&["reload", "--wait"], &env), want);
        let taken = "taken; nginit status tells what came of it\n";
        assert_eq!(nginit(&["reload"], &env), (Some(0), text(taken), text("")));
    }
}
