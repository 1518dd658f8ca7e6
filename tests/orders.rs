//! The commands that ask the running nginit of its servers, with a made-up loop behind the socket:
//! what they ask for, what they print, and with which status they end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::io::Write;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nginit::admin::{
    Announcement, Diff, FileDiff, Listing, Order, Ordered, Outcome, ReloadResult, Reply, Request, ServerState,
    ServerView, SourceKind, SourceView, UpstreamView, What,
};
use nginit::control::Control;
use rustix::process::Signal;
use support::{eventually, status};

/// A socket that answers everything, and what it was asked.
struct Nginit {
    path: PathBuf,
    heard: Arc<Mutex<Vec<Request>>>,
    _control: Control,
    _dir: tempfile::TempDir,
}

impl Nginit {
    fn answering(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let heard: Arc<Mutex<Vec<Request>>> = Arc::default();
        let kept = Arc::clone(&heard);
        let control = support::control(&path, move |asked| {
            kept.lock().unwrap().push(asked.request.clone());
            let reply = reply(&asked.request);
            asked.answer(reply);
            true
        });
        Self { path, heard, _control: control, _dir: dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(support::NGINIT);
        command.args(args).env_clear().env("NGINIT_CONTROL", &self.path).stdin(Stdio::null());
        command
    }

    /// Status, stdout, stderr.
    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// What was asked since the last time.
    fn heard(&self) -> Vec<Request> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

fn server(address: &str) -> ServerView {
    ServerView {
        address: address.to_owned(),
        name: None,
        state: ServerState::Up,
        weight: 1,
        sources: vec!["DYNAMIC_BACKEND".to_owned()],
        since_secs: 75,
        expires_secs: None,
        orders: Vec::new(),
        note: None,
    }
}

fn listing() -> Listing {
    let servers = vec![server("10.0.0.1:80"), ServerView { state: ServerState::Drain, ..server("10.0.0.2:80") }];
    let name = "DYNAMIC_BACKEND".to_owned();
    Listing {
        upstreams: vec![UpstreamView {
            reload: None,
            name: "dynamic_backend".to_owned(),
            balance: "round_robin".to_owned(),
            servers,
        }],
        sources: vec![SourceView {
            kind: SourceKind::Environment,
            name,
            servers: 2,
            age_secs: Some(75),
            error: None,
            error_secs: None,
        }],
    }
}

fn outcome(result: ReloadResult) -> Outcome {
    let reason = (result == ReloadResult::Refused).then(|| "no".to_owned());
    Outcome { result, generation: 8, reason, took_ms: 41 }
}

/// Answers as a loop with two servers would.
fn well(request: &Request) -> Reply {
    match request {
        Request::Status => Reply::Status(status()),
        Request::List { upstream: Some(name) } if name != "dynamic" => {
            Reply::Refused { code: 404, reason: format!("\"{name}\" is no upstream; there is dynamic_backend") }
        }
        Request::List { .. } => Reply::Listing(listing()),
        Request::Diff => {
            let file = FileDiff { name: "default.conf".to_owned(), diff: "@@ -1,1 +1,1 @@\n-a\n+b\n".to_owned() };
            Reply::Diff(Diff { files: vec![file], servers: Vec::new(), reload: true })
        }
        Request::Order(Order { wait: true, .. }) => {
            let outcome = Some(outcome(ReloadResult::Live));
            Reply::Ordered(Ordered { changed: true, notes: Vec::new(), outcome })
        }
        Request::Order(_) | Request::Announce(_) => {
            let notes = vec!["DYNAMIC_BACKEND still names it".to_owned()];
            Reply::Ordered(Ordered { changed: true, notes, outcome: None })
        }
        Request::Reload { .. } | Request::Serf(_) => Reply::Accepted,
    }
}

#[test]
fn servers_are_listed_in_columns_as_json_and_as_csv() {
    let nginit = Nginit::answering(well);
    let table = "\
UPSTREAM         SERVER       STATE  WEIGHT  SINCE  FROM
dynamic_backend  10.0.0.1:80  up          1  1m15s  DYNAMIC_BACKEND
dynamic_backend  10.0.0.2:80  drain       1  1m15s  DYNAMIC_BACKEND

UPSTREAM         CHANGES OF ITS SERVERS
dynamic_backend  nginx follows without a reload

SOURCE       NAME             SERVERS       READ
environment  DYNAMIC_BACKEND        2  1m15s ago
";
    assert_eq!(nginit.run(&["list"]), (Some(0), table.to_owned(), String::new()));
    assert_eq!(nginit.run(&["list", "dynamic"]).1, table);
    let asked = [None, Some("dynamic")].map(|name| Request::List { upstream: name.map(str::to_owned) });
    assert_eq!(nginit.heard(), asked);
    let (code, json, _) = nginit.run(&["list", "--json"]);
    assert_eq!((code, serde_json::from_str(&json).ok()), (Some(0), Some(listing())), "{json}");
    let (code, csv, _) = nginit.run(&["status", "--csv"]);
    let head = "upstream,balance,address,name,state,weight,sources,orders,since_secs,expires_secs,note\n";
    let first = "dynamic_backend,round_robin,10.0.0.1:80,,up,1,DYNAMIC_BACKEND,,75,,\n";
    assert!(code == Some(0) && csv.starts_with(&format!("{head}{first}")) && csv.lines().count() == 3, "{csv}");
    let (code, out, err) = nginit.run(&["list", "other"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.starts_with("nginit: \"") && err.contains("\"other\" is no upstream; there is dynamic_backend"),
        "{err}"
    );
    assert_eq!(nginit.run(&["list", "a b"]).0, Some(2), "no name of any upstream");
}

#[test]
fn orders_are_given_as_they_are_typed() {
    let nginit = Nginit::answering(well);
    let three = NonZeroU16::new(3).unwrap();
    for (word, what) in [
        ("add", What::Add),
        ("remove", What::Remove),
        ("drain", What::Drain),
        ("undrain", What::Undrain),
        ("weight", What::Weight(three)),
    ] {
        let mut args = vec![word, "DYNAMIC", "10.0.0.1:80;backup"];
        args.extend((word == "weight").then_some("3"));
        let said = "taken; nginit list tells what came of it\nnote: DYNAMIC_BACKEND still names it\n";
        assert_eq!(nginit.run(&args), (Some(0), said.to_owned(), String::new()), "{word}");
        args.push("--wait");
        assert_eq!(nginit.run(&args), (Some(0), "generation 8 is live, 41 ms\n".to_owned(), String::new()), "{word}");
        args.push("--json");
        let json = "{\"changed\":true,\"outcome\":{\"result\":\"live\",\"generation\":8,\"took_ms\":41}}\n";
        assert_eq!(nginit.run(&args).1, json, "{word}");
        let (upstream, server) = ("DYNAMIC".to_owned(), "10.0.0.1:80;backup".to_owned());
        let order = |wait| Request::Order(Order { what, upstream: upstream.clone(), server: server.clone(), wait });
        assert_eq!(nginit.heard(), [order(false), order(true), order(true)]);
    }
    assert_eq!(nginit.run(&["weight", "dynamic", "10.0.0.1", "0"]).0, Some(2));
    assert_eq!(nginit.run(&["add", "dynamic"]).0, Some(2));
    assert!(nginit.heard().is_empty());
}

#[test]
fn an_order_that_is_refused_is_a_failure() {
    let refusing = Nginit::answering(|_| Reply::Refused { code: 409, reason: "no such server".to_owned() });
    let (code, out, err) = refusing.run(&["drain", "dynamic", "10.0.0.1", "--wait"]);
    assert!(code == Some(1) && out.is_empty() && err == "nginit: no such server\n", "{out}{err}");
    let nginx = Nginit::answering(|_| {
        let outcome = Some(outcome(ReloadResult::Refused));
        Reply::Ordered(Ordered { changed: true, notes: vec!["a note".to_owned()], outcome })
    });
    let (code, out, err) = nginx.run(&["add", "dynamic", "10.0.0.1", "--wait"]);
    let said = "nginit: refused, generation 8 stays live: no\nnginit: note: a note\n";
    assert_eq!((code, out.as_str(), err.as_str()), (Some(1), "", said));
    let (code, out, err) = nginx.run(&["add", "dynamic", "10.0.0.1", "--wait", "--json"]);
    assert!(code == Some(1) && out.starts_with("{\"changed\":true,") && err.is_empty(), "{out}{err}");
}

#[test]
fn why_says_where_a_server_stands() {
    let nginit = Nginit::answering(well);
    let (code, out, _) = nginit.run(&["why", "10.0.0.2"]);
    let want = "10.0.0.2:80 in dynamic_backend: drain for 1m15s\n  named by DYNAMIC_BACKEND\n  weight   1\n";
    assert_eq!((code, out.as_str()), (Some(0), want));
    let (code, out, _) = nginit.run(&["why", "10.0.0.3"]);
    assert_eq!((code, out.as_str()), (Some(1), "\"10.0.0.3\" is in no upstream, and was in none lately\n"));
    let (code, out, _) = nginit.run(&["why", "10.0.0.3", "--json"]);
    assert_eq!((code, out.as_str()), (Some(1), "{\"server\":\"10.0.0.3\",\"found\":[],\"failing\":[]}\n"));
}

#[test]
fn diff_shows_what_a_reload_would_change() {
    let nginit = Nginit::answering(well);
    let want =
        "--- default.conf, live\n+++ default.conf, after a reload\n@@ -1,1 +1,1 @@\n-a\n+b\nnginx would reload\n";
    assert_eq!(nginit.run(&["diff"]), (Some(0), want.to_owned(), String::new()));
    assert!(nginit.run(&["diff", "--json"]).1.starts_with("{\"files\":[{\"name\":\"default.conf\""));
}

#[test]
fn top_is_printed_once_where_no_terminal_is() {
    let nginit = Nginit::answering(well);
    let (code, out, _) = nginit.run(&["top"]);
    assert!(code == Some(0) && out.starts_with("nginit      1.2.3") && out.contains("10.0.0.2:80"), "{out}");
    assert!(!out.contains('\x1b'), "{out}");
    assert_eq!(nginit.heard(), [Request::Status, Request::List { upstream: None }]);
}

#[test]
fn an_announcement_is_repeated_until_the_end_and_then_taken_back() {
    let nginit = Nginit::answering(well);
    let announcement = |ttl| {
        let (upstream, server) = ("dynamic".to_owned(), Some("10.0.0.9:80".to_owned()));
        Request::Announce(Announcement { upstream, server, port: None, ttl, weight: None, peer: None })
    };
    let ttl = Duration::from_secs(2);
    let args = ["announce", "dynamic", "10.0.0.9:80", "--ttl", "2s"];
    assert_eq!(nginit.run(&args).0, Some(0));
    assert_eq!(nginit.heard(), [announcement(ttl)]);
    let mut child = nginit.command(&[&args[..], &["--every", "10ms"]].concat()).stdout(Stdio::null()).spawn().unwrap();
    eventually("it comes again", || (nginit.heard.lock().unwrap().len() > 3).then_some(()));
    support::signal_pid(i32::try_from(child.id()).unwrap(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let heard = nginit.heard();
    let (last, before) = heard.split_last().unwrap();
    assert_eq!(*last, announcement(Duration::ZERO));
    assert!(before.iter().all(|request| *request == announcement(ttl)));
    assert_eq!(nginit.run(&[&args[..], &["--every", "2s"]].concat()).0, Some(2), "it would be over each time");
    assert_eq!(nginit.run(&["announce", "dynamic", "x", "--ttl", "1ms"]).0, Some(2));
}

#[test]
fn a_serf_agent_is_told_that_its_events_were_taken() {
    let nginit = Nginit::answering(well);
    let tell = |event: Option<&str>, input: &str| {
        let mut command = nginit.command(&["serf"]);
        event.map(|event| command.env("SERF_EVENT", event));
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that is not read is no fault of ours.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let member = "web-1\t10.0.0.7\tbackend\trole=backend,port=8080\n";
    assert_eq!(tell(Some("member-join"), member), (Some(0), String::new()));
    let [Request::Serf(event)] = &nginit.heard()[..] else { panic!("it is told") };
    assert!(event.members.len() == 1 && event.members[0].name == "web-1", "{event:?}");
    assert_eq!(tell(Some("user"), "payload"), (Some(0), String::new()));
    for (event, input) in [(None, ""), (Some("member-join"), "nonsense\n")] {
        let (code, err) = tell(event, input);
        assert!(code == Some(1) && err.lines().count() == 1, "{err}");
    }
    assert!(nginit.heard().is_empty());
}

#[test]
fn completions_and_the_manual_are_printed() {
    let nginit = Nginit::answering(well);
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = nginit.run(&["completions", shell]);
        assert!(code == Some(0) && out.contains("undrain"), "{out}");
    }
    assert_eq!(nginit.run(&["completions", "tcsh"]).0, Some(2));
    let (code, out, _) = nginit.run(&["man"]);
    assert!(code == Some(0) && out.starts_with(".TH NGINIT 1 "), "{out}");
}

#[test]
fn bash_completes_commands_and_options() {
    let nginit = Nginit::answering(well);
    let script = nginit.run(&["completions", "bash"]).1;
    let complete = |words: &[&str]| {
        let ask = format!(
            "COMP_WORDS=({}); COMP_CWORD={}; _nginit; echo ${{COMPREPLY[*]}}",
            words.join(" "),
            words.len() - 1
        );
        let output = Command::new("bash").args(["-c", &format!("{script}\n{ask}")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["nginit", "un"]), "undrain");
    assert_eq!(complete(&["nginit", "reload", "--w"]), "--wait");
    assert_eq!(complete(&["nginit", "completions", "z"]), "zsh");
    assert_eq!(complete(&["nginit", "help", "en"]), "env");
}
