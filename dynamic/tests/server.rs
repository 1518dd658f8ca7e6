//! The built binary, asked over real sockets: answers, headers, refusals, and a stop that loses nothing.

#![expect(clippy::disallowed_methods, reason = "the bans are for programs, not for their tests")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

/// A running server, killed when the test ends.
struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    address: SocketAddr,
    name: String,
}

impl Server {
    /// Starts on a free port of loopback and waits until it says where it listens.
    fn start(args: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", args)
    }

    fn start_on(listen: &str, args: &[&str]) -> Self {
        let mut child = command(args).env("LISTEN", listen).spawn().expect("the binary starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line of stderr");
        let said = line.trim_end().strip_prefix("dynamic notice listening on ");
        let (address, name) = said.and_then(|rest| rest.split_once(", X-Server is ")).expect(&line);
        let port = address.parse::<SocketAddr>().expect(&line).port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let name = name.to_owned();
        Self { child, stderr, address, name }
    }

    fn get(&self, target: &str) -> Answer {
        ask(self.address, "GET", target).answer()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server takes signals");
    }

    /// Waits for the end and gives the status and the rest of what was said.
    fn end(mut self) -> (ExitStatus, String) {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                break status;
            }
            assert!(since.elapsed() < DEADLINE, "still running {DEADLINE:?} after the signal");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("the rest of stderr");
        (status, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamic"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A request that was sent and not yet answered.
struct Asked(TcpStream);

fn ask(address: SocketAddr, method: &str, target: &str) -> Asked {
    let mut stream = TcpStream::connect(address).expect("the server takes connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("the request is sent");
    Asked(stream)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Asked {
    fn answer(mut self) -> Answer {
        let mut text = String::new();
        self.0.read_to_string(&mut text).expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").expect(&text);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect(head);
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }
}

#[test]
fn students_come_as_a_json_array_on_all_three_paths() {
    let server = Server::start(&[]);
    for path in ["/", "/api/student", "/api/student/", "/api/student?delay_ms=1"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let json = answer.json();
        let students = json.as_array().expect(path);
        assert!((1..=8).contains(&students.len()), "{path}: {json}");
        for student in students {
            assert!(student["id"].is_u64() && student["birth_year"].is_u64(), "{student}");
            for text in ["first_name", "last_name", "gender", "subject"] {
                assert!(student[text].as_str().is_some_and(|text| !text.is_empty()), "{student}");
            }
        }
    }
}

#[test]
fn events_come_one_by_one_while_the_answer_goes_on() {
    let server = Server::start(&[]);
    let Asked(stream) = ask(server.address, "GET", "/api/student/events");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line in time"));
    assert!(lines.any(|line| line == "content-type: text/event-stream"), "the head names the type");
    let events: Vec<_> = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).take(3).collect();
    for event in &events {
        let students: Value = serde_json::from_str(event).expect(event);
        assert!(students.as_array().is_some_and(|students| !students.is_empty()), "{event}");
    }
    assert_eq!(events.len(), 3);
}

#[test]
fn answers_vary() {
    let server = Server::start(&[]);
    let answers: BTreeSet<String> = (0..20).map(|_| server.get("/api/student").body).collect();
    assert!(answers.len() > 10, "{answers:?}");
    let counts: BTreeSet<usize> =
        answers.iter().filter_map(|body| Some(serde_json::from_str::<Value>(body).ok()?.as_array()?.len())).collect();
    assert!(counts.len() > 1, "always {counts:?} students");
}

#[test]
fn x_server_is_host_and_port_unless_named() {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    let server = Server::start(&["--name", ""]);
    let expected = format!("{}:{}", host.trim_end(), server.address.port());
    assert_eq!(server.name, expected);
    for path in ["/", "/health", "/nowhere", "/?delay_ms=x"] {
        assert_eq!(server.get(path).header("x-server"), Some(expected.to_ascii_lowercase().as_str()), "{path}");
    }

    let named = Server::start(&["--name", "blue-1"]);
    assert_eq!(named.get("/").header("x-server"), Some("blue-1"));
}

#[test]
fn health_is_ok_and_head_has_no_body() {
    let server = Server::start(&[]);
    let health = server.get("/health");
    assert_eq!((health.status, health.body.as_str()), (200, "ok"));
    let head = ask(server.address, "HEAD", "/api/student").answer();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn what_is_not_understood_is_refused_in_json() {
    let server = Server::start(&[]);
    let paths = ["/api", "/api/student/1", "/api/students", "//", "/%00", "/favicon.ico", "/health/"];
    let queries = ["/?delay_ms=10001", "/?delay_ms=-1", "/api/student?delay_ms=", "/?delay_ms=1&delay_ms=2"];
    for (status, targets) in [(404, &paths[..]), (400, &queries[..])] {
        for target in targets {
            let answer = server.get(target);
            assert_eq!(answer.status, status, "{target}");
            assert!(answer.json()["error"].is_string(), "{target}: {}", answer.body);
        }
    }
    let post = ask(server.address, "POST", "/api/student").answer();
    assert_eq!(post.status, 405);
    assert!(post.json()["error"].is_string());
    assert_eq!(server.get("/health").status, 200, "still there");
}

#[test]
fn default_address_serves_ipv4_too() {
    // The default with another port: [::] where there is IPv6, 0.0.0.0 where not.
    let server = Server::start_on("[::]:0", &[]);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn term_and_int_finish_the_running_request_then_end_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&[]);
        let name = server.name.to_ascii_lowercase();
        let address = server.address;
        // Idle, and silent from its first byte on: neither may hold the stop up.
        let silent = TcpStream::connect(address).expect("a connection");
        let mut idle = TcpStream::connect(address).expect("a connection");
        idle.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
        let mut start = [0; 12];
        idle.read_exact(&mut start).expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 200");

        let since = Instant::now();
        let slow = ask(address, "GET", "/api/student?delay_ms=1500");
        server.get("/health"); // by its answer the earlier request has been read too: one thread, in order
        server.signal(signal);
        let mut line = String::new();
        server.stderr.read_line(&mut line).expect("a line of stderr");
        assert!(line.contains("finishing requests"), "{line}");

        let answer = slow.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-server"), Some(name.as_str()));
        assert!(answer.json().is_array());
        assert!(since.elapsed() >= Duration::from_millis(1500), "answered early");
        let (status, said) = server.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(TcpStream::connect(address).is_err(), "the port is still open");
        drop(silent);
    }
}

#[test]
fn second_signal_stops_at_once() {
    let mut server = Server::start(&[]);
    let _slow = ask(server.address, "GET", "/?delay_ms=10000");
    server.get("/health");
    server.signal(Signal::TERM);
    let mut line = String::new();
    server.stderr.read_line(&mut line).expect("a line of stderr");
    let since = Instant::now();
    server.signal(Signal::INT);
    let (status, said) = server.end();
    assert!(since.elapsed() < Duration::from_secs(5), "{said}");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("SIGINT while finishing requests"), "{said}");
}

#[test]
fn port_in_use_is_one_clear_line_and_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = command(&["--listen", &address]).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("dynamic: listening on \"{address}\": ")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn name_that_is_no_header_is_refused() {
    let output = command(&["--listen", "127.0.0.1:0", "--name", "a\nb"]).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("\"SERVER_NAME\" \"a\\nb\""), "{said}");
}

/// One heartbeat as it comes in: head and body. Answered with `status`.
fn heartbeat(proxy: &TcpListener, status: &str) -> (String, Value) {
    let (mut stream, _) = proxy.accept().expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let mut text = Vec::new();
    let (head, length) = loop {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).expect("a request");
        assert!(count > 0, "it ended early");
        text.extend_from_slice(&bytes[..count]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
            if body.len() == length.parse::<usize>().expect("a number") {
                break (head.to_owned(), body.len());
            }
        }
    };
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes());
    (head, serde_json::from_slice(&text[text.len() - length..]).expect("JSON"))
}

#[test]
fn it_announces_itself_until_it_ends_and_serves_until_the_proxy_knows() {
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", proxy.local_addr().expect("an address"));
    let token = std::env::temp_dir().join(format!("dynamic-token-{}", std::process::id()));
    std::fs::write(&token, "0123456789abcdef\n").expect("a file");
    let file = token.to_str().expect("a path");
    let args = ["--announce-url", &url, "--announce-token-file", file, "--announce-ttl", "1"];
    let server = Server::start(&args);
    let beat = |ttl: &str| serde_json::json!({ "upstream": "dynamic", "port": server.address.port(), "ttl": ttl });
    // One that fails is not the last.
    let (head, body) = heartbeat(&proxy, "503 no");
    assert!(head.starts_with("POST /v1/announce HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nAuthorization: Bearer 0123456789abcdef\r\n"), "{head}");
    assert_eq!(body, beat("1s"));
    assert_eq!(heartbeat(&proxy, "200 OK").1, beat("1s"));
    server.signal(Signal::TERM);
    let last = loop {
        let (_, body) = heartbeat(&proxy, "200 OK");
        // Still there for whoever was sent before the proxy knew.
        assert_eq!(server.get("/api/student").status, 200);
        if body != beat("1s") {
            break body;
        }
    };
    assert_eq!(last, beat("0s"));
    let (status, said) = server.end();
    assert!(status.success() && said.contains("warn announcing to ") && said.contains("status 503"), "{said}");
    assert!(!said.contains("0123456789abcdef"), "{said}");
    let _ = std::fs::remove_file(&token);
}
