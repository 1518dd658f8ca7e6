//! The access log holds what clients send, and stays what it says it is: a line a request, JSON where that was asked for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use support::scripted::Scripted;
use support::{Nginit, PATIENCE, Site, eventually, get, within};

/// A site that logs every request at once, in this form.
fn site(nginx: &Path, form: &str, servers: &str) -> Site {
    let mut site = Site::new(nginx);
    site.set("NGINIT_ACCESS_LOG", form);
    site.set("NGINIT_ACCESS_LOG_FLUSH", "0");
    site.set("NGINIT_REQUEST_ID", "on");
    site.set("NGINIT_WORKERS", "1");
    site.set("STATIC_BACKEND", servers);
    site
}

/// Sends the bytes, and reads until the end of the answer. Where nothing more comes for a moment, nginx waits for the rest of
/// a request or for the next one, and is told that there is none.
fn raw(site: &Site, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    // It may close before it has read all.
    let _ = stream.write_all(bytes);
    let (mut answer, mut part) = (Vec::new(), [0; 65536]);
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    while let Ok(n @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..n]);
    }
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Sends the bytes and goes away at once.
fn aborted(site: &Site, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// The lines of the access log in nginit's output, up to that of a request for `/end`.
fn access_lines(nginit: &Nginit<'_>, site: &Site) -> Vec<Vec<u8>> {
    raw(site, b"GET /end HTTP/1.0\r\n\r\n");
    let lines = || -> Option<Vec<Vec<u8>>> {
        let bytes = nginit.raw_log();
        let is_end = |line: &[u8]| line.windows(6).any(|w| w == b" /end ") || line.windows(6).any(|w| w == b"\"/end\"");
        bytes.split(|b| *b == b'\n').any(is_end).then(|| bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect())
    };
    let all = within(PATIENCE, lines).unwrap_or_else(|| panic!("no line of the end\n{}", nginit.report()));
    // Of nginit, of nginx's error log, and the empty one after the last line's end.
    let other = |line: &[u8]| {
        let date = line.len() > 20 && line[4] == b'/' && line[7] == b'/' && line[..4].iter().all(u8::is_ascii_digit);
        line.starts_with(b"nginit ") || date || line.is_empty()
    };
    all.into_iter().filter(|line| !other(line)).collect()
}

/// Bytes that a client may come up with, above all those that mean something somewhere.
fn nasty() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        2 => any::<u8>().prop_map(|b| vec![b]),
        2 => prop::sample::select(b"\"\\{}\x00\x01\x08\x1b\x1f\x7f\x80\xa0\xbf\xc0\xc1\xc2\xe0\xed\xef\xf0\xf4\xf5\xfe\xff\t ".to_vec())
            .prop_map(|b| vec![b]),
        2 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        2 => "[a-z/%?&=.]{1,8}".prop_map(String::into_bytes),
        1 => prop::sample::select(vec![
            b"\xed\xa0\x80".to_vec(), b"\xf4\x90\x80\x80".to_vec(), b"\xc0\xaf".to_vec(), b"\xe2\x80\xa8".to_vec(),
            b"\xef\xbf\xbe".to_vec(), b"\xc3".to_vec(), b"\xf0\x9f\x98".to_vec(), b"\\u0000".to_vec(), b"\",\"x\":\"".to_vec(),
            b"\r".to_vec(), b"\n".to_vec(), b"\r\n".to_vec(), b"%0a%22".to_vec(), b"\\x0a".to_vec(),
        ]),
    ];
    prop_oneof![
        8 => vec(piece.clone(), 0..12).prop_map(|pieces| pieces.concat()),
        1 => (piece, 1..3000usize).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let line = |name: &str, value: &[u8]| [name.as_bytes(), b": ", value, b"\r\n"].concat();
    let header = prop_oneof![
        3 => (prop::sample::select(vec!["Host", "Referer", "User-Agent", "X-Request-ID", "Authorization", "Connection"]), nasty())
            .prop_map(move |(name, value)| line(name, &value)),
        1 => nasty().prop_map(|bytes| [&bytes[..], b"\r\n"].concat()),
        1 => prop::sample::select(vec!["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n",
            "Upgrade: websocket\r\n", "Range: bytes=0-\r\n", "Authorization: Basic w7/Dv4A6eA==\r\n"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let method = prop_oneof![
        8 => prop::sample::select(vec!["GET", "POST", "HEAD", "BREW", "OPTIONS", "TRACE", "CONNECT", "get", "A-B_C"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => nasty(),
    ];
    let protocol = prop::sample::select(vec![
        " HTTP/1.1",
        " HTTP/1.1",
        " HTTP/1.1",
        " HTTP/1.0",
        " HTTP/0.9",
        " HTTP/2.0",
        " HTTP/9.99",
        "",
        " HTTP",
        " http/1.1",
    ]);
    let well_formed = (method, nasty(), protocol, vec(header, 0..5), any::<bool>()).prop_map(
        |(method, path, protocol, headers, host)| {
            let host = if host { &b"Host: a\r\n"[..] } else { b"" };
            let start = [&method[..], b" /", &path, protocol.as_bytes(), b"\r\n", host].concat();
            [start, headers.concat(), b"\r\n".to_vec()].concat()
        },
    );
    prop_oneof![8 => well_formed, 1 => nasty(), 1 => nasty().prop_map(|bytes| [&bytes[..], b"\r\n\r\n"].concat())]
}

/// The requests of nobody's good will that found holes, or could.
fn known() -> Vec<Vec<u8>> {
    let mut known: Vec<Vec<u8>> = Vec::new();
    let fields: [(&[u8], &[u8]); 6] = [
        (b"GET /", b" HTTP/1.0\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: ", b"\r\nConnection: close\r\n\r\n"),
        (b"GET / HTTP/1.0\r\nReferer: ", b"\r\n\r\n"),
        (b"GET / HTTP/1.0\r\nUser-Agent: ", b"\r\n\r\n"),
        (b"GET / HTTP/1.0\r\nX-Request-ID: ", b"\r\n\r\n"),
        (b"GET http://", b"/ HTTP/1.0\r\n\r\n"),
    ];
    let long = [&b"\xc3\xa9".repeat(2000)[..], &b"\xff".repeat(4000), &b"a\xc3\xa9".repeat(2600)];
    let cut = [b"a\xc3\xa9".repeat(2600), b"\xff".to_vec()].concat();
    for (start, end) in fields {
        for byte in 0..=255u8 {
            known.push([start, &[byte], end].concat());
        }
        for value in [&b"\xed\xa0\x80"[..], b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x80\xa8", b"\xef\xbf\xbf"]
            .iter()
            .chain(&long)
        {
            known.push([start, value, end].concat());
        }
        known.push([start, &cut, end].concat());
    }
    for text in [
        "GET /\r\n",
        "GET /\r\n\r\n",
        "\r\n\r\n",
        "\n",
        "\0",
        "\x16\x03\x01\x02\x00",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        known.push(text.into());
    }
    known.push(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40_000)).into());
    known.push(format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\n\r\n", "\u{1}".repeat(40_000)).into());
    known.push(
        format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\nConnection: close\r\n\r\n", "\u{1}".repeat(7_000))
            .into(),
    );
    known
}

/// Some of [`requests`], the same each time.
fn made(count: usize) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let strategy = requests();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn check_json(line: &[u8]) -> Value {
    let text = std::str::from_utf8(line).unwrap_or_else(|err| panic!("{err}: {:?}", String::from_utf8_lossy(line)));
    let value: Value = serde_json::from_str(text).unwrap_or_else(|err| panic!("{err}: {text:?}"));
    assert!(value["status"].is_u64() && value["seconds"].is_number() && value["bytes"].is_u64(), "{text}");
    let id = value["request_id"].as_str().unwrap();
    assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{text}");
    value
}

/// The lines of a log in this form, after all that is known to be nasty, and more.
fn lines_of_nasty_requests(nginx: &Path, form: &str) -> Vec<Vec<u8>> {
    let good = Scripted::fixed("200 OK", "", "x");
    let site = site(nginx, form, &good.entry());
    let nginit = site.start();
    let mut answered = 0;
    for bytes in known().iter().chain(&made(1500)) {
        answered += usize::from(!raw(&site, bytes).is_empty());
    }
    for bytes in made(200) {
        aborted(&site, &bytes);
    }
    let lines = access_lines(&nginit, &site);
    assert!(lines.len() > answered, "{} lines of {answered} requests", lines.len());
    assert_eq!(nginit.count("regex"), 0, "{}", nginit.log());
    lines
}

#[test]
fn every_line_is_json_whatever_clients_send() {
    let nginx = nginx_or_skip!();
    let lines = lines_of_nasty_requests(&nginx, "json");
    let values: Vec<Value> = lines.iter().map(|line| check_json(line)).collect();
    // Or nothing was tested.
    for (field, part) in [("uri", "\u{fffd}"), ("referer", "\u{fffd}"), ("user_agent", "\u{fffd}"), ("uri", "\u{e9}")] {
        assert!(values.iter().any(|v| v[field].as_str().unwrap().contains(part)), "no {field} with {part:?}");
    }
    assert!(values.iter().any(|v| v["status"] == 400) && values.iter().any(|v| v["status"] == 200));
}

#[test]
fn what_is_utf_8_is_logged_as_it_is_and_what_is_not_up_to_there() {
    let nginx = nginx_or_skip!();
    let good = Scripted::fixed("200 OK", "", "x");
    let site = site(&nginx, "json", &good.entry());
    let nginit = site.start();
    let long = "\u{1f600}".repeat(1900);
    let sent: [(&[u8], &str); 8] = [
        (b"plain", "plain"),
        (
            "\u{e9}t\u{e9} \u{1f600}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}".as_bytes(),
            "\u{e9}t\u{e9} \u{1f600}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
        ),
        (b"\xc3\xa9\xff\xc3\xa9", "\u{e9}\u{fffd}"),
        (b"\xff", "\u{fffd}"),
        (b"a\xed\xa0\x80", "a\u{fffd}"),
        (b"a\xf4\x90\x80\x80", "a\u{fffd}"),
        (b"\"\\\x01", "\"\\\u{1}"),
        (long.as_bytes(), &long),
    ];
    for (value, _) in sent {
        raw(&site, &[b"GET / HTTP/1.0\r\nUser-Agent: ", value, b"\r\n\r\n"].concat());
    }
    let logged: Vec<Value> = access_lines(&nginit, &site).iter().map(|line| check_json(line)).collect();
    for ((_, expected), line) in sent.iter().zip(&logged) {
        assert_eq!(line["user_agent"], **expected);
    }
}

#[test]
fn a_status_of_nonsense_is_a_number_all_the_same() {
    let nginx = nginx_or_skip!();
    for answer in
        ["HTTP/1.1 042 What\r\n\r\n", "HTTP/1.1 000 \r\n\r\n", "HTTP/1.1 999 Much\r\n\r\n", "nonsense", "", "\0"]
    {
        let server = Scripted::start(move |_, _, stream| {
            let _ = stream.write_all(answer.as_bytes());
            false
        });
        let site = site(&nginx, "json", &server.entry());
        let nginit = site.start();
        for request in ["GET / HTTP/1.0\r\n\r\n", "GET /\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]
        {
            raw(&site, request.as_bytes());
        }
        for line in access_lines(&nginit, &site) {
            check_json(&line);
        }
    }
}

/// A line of the text log: fields in their quotes, in their order, and nothing that a terminal acts on.
fn check_text(line: &[u8]) {
    let shown = String::from_utf8_lossy(line).into_owned();
    assert!(line.iter().all(|b| (32..127).contains(b)), "{shown:?}");
    let quoted = |text: &str| -> Option<usize> {
        let inner = text.strip_prefix('"')?;
        Some(inner.find('"')? + 2)
    };
    let mut rest = shown.as_str();
    let (address, tail) = rest.split_once(" - ").unwrap();
    assert_eq!(address, "127.0.0.1", "{shown}");
    rest = &tail[tail.find(" [").unwrap() + 2..];
    assert!(rest.find("] \"") == Some(26), "{shown}");
    rest = &rest[28..];
    rest = &rest[quoted(rest).unwrap()..];
    let numbers: Vec<&str> = rest[1..].splitn(3, ' ').collect();
    assert!(numbers[0].len() == 3 && numbers[..2].iter().all(|n| n.parse::<u64>().is_ok()), "{shown}");
    rest = numbers[2];
    rest = &rest[quoted(rest).unwrap() + 1..];
    rest = &rest[quoted(rest).unwrap() + 1..];
    let names: Vec<&str> = rest.split(' ').filter_map(|word| word.split_once('=').map(|(name, _)| name)).collect();
    assert_eq!(names, ["server", "seconds", "server_seconds", "request_id"], "{shown}");
}

#[test]
fn nobody_forges_a_line_of_the_text_log() {
    let nginx = nginx_or_skip!();
    let lines = lines_of_nasty_requests(&nginx, "text");
    lines.iter().for_each(|line| check_text(line));
}

#[test]
fn lines_are_kept_back_no_longer_than_was_said() {
    let nginx = nginx_or_skip!();
    let good = Scripted::fixed("200 OK", "", "x");
    for (flush, at_once) in [("0", true), ("1h", false), ("100ms", true)] {
        let mut site = site(&nginx, "text", &good.entry());
        site.set("NGINIT_ACCESS_LOG_FLUSH", flush);
        let nginit = site.start();
        assert_eq!(get(site.port, "/one").unwrap().status, 200);
        if at_once {
            nginit.logs("\"GET /one HTTP/1.1\" 200");
        } else {
            // What is kept back is written when nginx ends.
            assert_eq!(nginit.count("/one"), 0);
            nginit.signal(rustix::process::Signal::TERM);
            assert_eq!(nginit.code(), 0);
            eventually("the line", || (nginit.count("\"GET /one HTTP/1.1\" 200") == 1).then_some(()));
        }
    }
}

#[test]
fn a_line_names_the_upstream_whatever_it_speaks_and_whoever_answers() {
    let nginx = nginx_or_skip!();
    let dead = format!("127.0.0.1:{}", support::free_port());
    let mut site = site(&nginx, "json", &dead);
    site.set("NGINIT_LISTEN", format!("127.0.0.1:{} 127.0.0.1:{};http2", site.port, support::free_port()));
    site.set("DYNAMIC_BACKEND", &dead);
    site.set("DYNAMIC_PROTOCOL", "grpc");
    let nginit = site.start();
    for method in ["GET / ", "BREW / ", "GET /api/student "] {
        raw(&site, format!("{method}HTTP/1.0\r\n\r\n").as_bytes());
    }
    let upstreams: Vec<Value> = access_lines(&nginit, &site)
        .iter()
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["upstream"].clone())
        .collect();
    let (web, grpc) = ("static_backend", "dynamic_backend");
    assert_eq!(upstreams, [web, web, grpc, web], "{}", nginit.report());
}
