//! gRPC with a real client and real servers, on real nginx. `NGINIT_TEST_PYTHON` names a Python that has
//! `tests/grpc/requirements.txt`; `tests/all.sh` makes one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::tls::{Certificate, http};
use support::{Site, free_port, get};

/// The Python to test with. Nothing, with a word about it, where there is none, unless `CI=true`
/// forbids that.
fn python() -> Option<OsString> {
    let found = std::env::var_os("NGINIT_TEST_PYTHON").filter(|path| !path.is_empty());
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI=true, and NGINIT_TEST_PYTHON is unset");
        eprintln!("skipped: NGINIT_TEST_PYTHON names no Python with grpcio");
    }
    found
}

macro_rules! python_or_skip {
    () => {
        match python() {
            Some(python) => python,
            None => return,
        }
    };
}

fn check(python: &OsStr) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc/check.py"));
    command
}

/// A gRPC server that signs its answers.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(python: &OsStr, name: &str, tls: Option<&Certificate>) -> Self {
        let mut command = check(python);
        command.args(["serve", name]);
        if let Some(tls) = tls {
            command.arg("--cert").arg(&tls.cert).arg("--key").arg(&tls.key);
        }
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("{command:?} prints no port: {line:?}"));
        Self { process, port }
    }

    fn entry(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines that a client prints.
fn call(python: &OsStr, port: u16, args: &[&str]) -> Vec<String> {
    let mut command = check(python);
    command.arg("call").arg(format!("127.0.0.1:{port}")).args(args);
    let output = command.env_remove("http_proxy").env_remove("https_proxy").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A site that gives `/` to gRPC servers, with an address for HTTP/2 without TLS, which is the plain one
/// where nginx can speak both there, and one with TLS.
fn site(nginx: &Path, protocol: &str, servers: &str) -> (Site, Certificate, u16, u16) {
    let mut site = Site::new(nginx);
    let cert = Certificate::new(site.dir.path(), "own", "localhost");
    let (tls, extra) = (free_port(), free_port());
    let both = nginit::nginx::find(nginx.to_str().unwrap()).unwrap().facts.version.has_http2_directive();
    let h2c = if both { site.port } else { extra };
    let more = if both { String::new() } else { format!(" 127.0.0.1:{h2c};http2") };
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{} 127.0.0.1:{tls};tls{more}", site.port));
    site.set("NGINIT_TLS_CERT", &cert.cert);
    site.set("NGINIT_TLS_KEY", &cert.key);
    site.set("NGINIT_TLS_REDIRECT", "off");
    site.set("GREETER_BACKEND", servers);
    site.set("GREETER_PROTOCOL", protocol);
    site.set("GREETER_ROUTE", "/test.Echo/");
    site.set("GONE_BACKEND", "");
    site.set("GONE_PROTOCOL", "grpc");
    site.set("GONE_ROUTE", "/test.Echo/Nothing");
    (site, cert, h2c, tls)
}

fn speaks(python: &OsStr, port: u16, tls: &[&str]) {
    let call = |args: &[&str]| call(python, port, &[args, tls].concat());
    assert_eq!(call(&["Unary"]), ["a:hello"]);
    assert_eq!(call(&["Stream"]), ["a:hello:0", "a:hello:1", "a:hello:2", "a:hello:3", "a:hello:4"]);
    assert_eq!(call(&["Chat", "--count", "3"]), ["a:0", "a:1", "a:2"]);
    let long = call(&["Chat", "--count", "3", "--size", "1000000"]);
    assert_eq!(long, ["a:0", "a:1", "a:2"], "a stream may be longer than any other request");
    assert_eq!(call(&["Fail"]), ["NOT_FOUND: no such thing"], "a server's own status is left alone");
    assert_eq!(call(&["Nothing"]), ["UNAVAILABLE: no server answered"], "an upstream without servers");
}

#[test]
fn a_grpc_client_reaches_grpc_servers_with_and_without_tls() {
    let (nginx, python) = (nginx_or_skip!(), python_or_skip!());
    let server = Server::start(&python, "a", None);
    let (site, cert, h2c, tls) = site(&nginx, "grpc", &server.entry());
    let nginit = site.start();
    speaks(&python, h2c, &[]);
    let ca = ["--ca", cert.cert.to_str().unwrap()];
    speaks(&python, tls, &ca);
    let meta = call(&python, h2c, &["Meta"]).join("\n");
    for pair in
        ["x-real-ip=127.0.0.1", "x-forwarded-for=127.0.0.1", "x-forwarded-proto=http", "x-forwarded-host=127.0.0.1:"]
    {
        assert!(meta.contains(pair), "{pair}: {meta}");
    }
    assert!(call(&python, tls, &[&["Meta"], &ca[..]].concat()).contains(&"x-forwarded-proto=https".to_owned()));
    assert_eq!(get(site.port, "/nginit/ping").unwrap().status, 200, "HTTP/1.1 still works");

    // The trailers are the whole answer, as gRPC has it.
    drop(server);
    assert_eq!(call(&python, h2c, &["Unary"]), ["UNAVAILABLE: no server answered"], "{}", nginit.report());
    assert_eq!(call(&python, h2c, &["Stream"]), ["UNAVAILABLE: no server answered"]);
    let args = ["--http2-prior-knowledge", "-X", "POST", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
    let answer = http(h2c, "/test.Echo/Unary", &args);
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")), "{answer:?}");
    assert_eq!((answer.header("content-type"), answer.body.as_str()), (Some("application/grpc"), ""));
}

#[test]
fn a_dead_server_is_passed_over() {
    let (nginx, python) = (nginx_or_skip!(), python_or_skip!());
    let (a, b) = (Server::start(&python, "a", None), Server::start(&python, "b", None));
    let (site, _, h2c, _) = site(&nginx, "grpc", &format!("{} {}", a.entry(), b.entry()));
    let nginit = site.start();
    let both = call(&python, h2c, &["Unary", "--count", "4"]);
    assert!(both.contains(&"a:hello".to_owned()) && both.contains(&"b:hello".to_owned()), "{both:?}");
    drop(a);
    let rest = call(&python, h2c, &["Unary", "--count", "10"]);
    assert_eq!(rest, vec!["b:hello"; 10], "{}", nginit.report());
}

#[test]
fn grpcs_servers_are_verified() {
    let (nginx, python) = (nginx_or_skip!(), python_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let cert = Certificate::new(dir.path(), "theirs", "greeter.test");
    let server = Server::start(&python, "a", Some(&cert));
    let (mut site, _, h2c, _) = site(&nginx, "grpcs", &server.entry());
    site.set("GREETER_TLS_CA", &cert.cert);
    site.set("GREETER_TLS_NAME", "greeter.test");
    let nginit = site.start();
    speaks(&python, h2c, &[]);
    drop(nginit);
    site.set("GREETER_TLS_NAME", "other.test");
    let _nginit = site.start();
    assert_eq!(call(&python, h2c, &["Unary"]), ["UNAVAILABLE: no server answered"]);
}

#[test]
fn where_clients_cannot_speak_http2_grpc_is_refused_with_the_remedy() {
    let nginx = nginx_or_skip!();
    let (mut site, ..) = site(&nginx, "grpc", "127.0.0.1:1");
    let plain = format!("127.0.0.1:{}", site.port);
    site.env.remove(OsStr::new("NGINIT_TLS_CERT"));
    site.env.remove(OsStr::new("NGINIT_TLS_KEY"));
    site.env.remove(OsStr::new("NGINIT_TLS_REDIRECT"));
    site.set("NGINIT_LISTEN", &plain);
    let check =
        |site: &Site| site.run(&[OsString::from("check")].into_iter().chain(site.nginx_argv()).collect::<Vec<_>>());
    let (code, printed) = check(&site);
    if nginit::nginx::find(nginx.to_str().unwrap()).unwrap().facts.version.has_http2_directive() {
        assert_eq!(code, Some(0), "{printed}");
    } else {
        assert_eq!(code, Some(64), "{printed}");
        assert!(printed.contains("append \";http2\" or \";tls\" to an address of NGINIT_LISTEN"), "{printed}");
    }
    site.set("NGINIT_LISTEN", format!("{plain};http2"));
    assert_eq!(check(&site).0, Some(0));
}
