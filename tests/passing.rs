//! How requests are passed on: tries, times, sizes, buffers, compression, the request's id.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use support::scripted::Scripted;
use support::{Answer, PATIENCE, Site, free_port, request};

/// A site with these servers, one after the other.
fn site(nginx: &std::path::Path, servers: &[&str]) -> Site {
    let mut site = Site::new(nginx);
    site.set("STATIC_BACKEND", servers.join(" "));
    site.set("STATIC_BALANCE", "round_robin");
    site
}

/// A request with these headers and this body.
fn send(site: &Site, method: &str, headers: &str, body: &str) -> Answer {
    let text = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}");
    request(site.port, &text).unwrap()
}

fn with_length(site: &Site, method: &str, length: usize) -> Answer {
    send(site, method, &format!("Content-Length: {length}\r\n"), &"x".repeat(length))
}

/// A body in chunks of 1,000 bytes.
fn in_chunks(site: &Site, method: &str, length: usize) -> Answer {
    let mut body = format!("3e8\r\n{}\r\n", "x".repeat(1000)).repeat(length / 1000);
    body.push_str("0\r\n\r\n");
    send(site, method, "Transfer-Encoding: chunked\r\n", &body)
}

#[test]
fn another_server_is_asked_after_what_was_said_but_never_with_what_may_change_something() {
    let nginx = nginx_or_skip!();
    let (busy, good) = (Scripted::fixed("503 Busy", "", "busy"), Scripted::fixed("200 OK", "", "good"));
    let mut site = site(&nginx, &[&busy.entry(), &good.entry()]);
    site.set("STATIC_RETRY", "1;on=error,timeout,http_503;timeout=10s");
    // Or nginx would not ask it again for ten seconds.
    site.set("STATIC_BACKEND", format!("{};max_fails=0 {}", busy.entry(), good.entry()));
    let nginit = site.start();
    for _ in 0..10 {
        assert_eq!(send(&site, "GET", "", "").body, "good", "{}", nginit.report());
    }
    assert!(busy.asked() >= 4);
    let before = busy.asked() + good.asked();
    for method in ["POST", "PATCH", "BREW"] {
        for _ in 0..4 {
            with_length(&site, method, 1);
        }
    }
    assert_eq!(busy.asked() + good.asked(), before + 12, "each of them once");
}

#[test]
fn no_more_servers_are_asked_than_was_said() {
    let nginx = nginx_or_skip!();
    let servers: Vec<Scripted> = (0..4).map(|_| Scripted::fixed("500 Oh", "", "oh")).collect();
    let list: Vec<String> = servers.iter().map(|s| format!("{};max_fails=0", s.entry())).collect();
    for (retry, asked) in [("2;on=http_500", 3), ("1000;on=http_500", 4), ("off", 1), ("3", 1)] {
        let mut site = site(&nginx, &list.iter().map(String::as_str).collect::<Vec<_>>());
        site.set("STATIC_RETRY", retry);
        let _nginit = site.start();
        let count = || servers.iter().map(Scripted::asked).sum::<usize>();
        let before = count();
        let answer = send(&site, "GET", "", "");
        assert_eq!((answer.status, answer.body.as_str(), count() - before), (500, "oh", asked), "{retry}");
    }
}

#[test]
fn without_retries_a_dead_server_is_a_502() {
    let nginx = nginx_or_skip!();
    let good = Scripted::fixed("200 OK", "", "good");
    let dead = format!("127.0.0.1:{};max_fails=0", free_port());
    for (retry, expected) in [("off", vec![200, 502]), ("1", vec![200, 200])] {
        let mut site = site(&nginx, &[&dead, &good.entry()]);
        site.set("STATIC_RETRY", retry);
        site.set("NGINIT_WORKERS", "1");
        let _nginit = site.start();
        let mut statuses = [send(&site, "GET", "", "").status, send(&site, "GET", "", "").status];
        statuses.sort_unstable();
        assert_eq!(statuses[..], expected, "{retry}");
    }
}

#[test]
fn a_server_that_takes_too_long_is_a_504() {
    let nginx = nginx_or_skip!();
    let slow = Scripted::start(|_, _, stream| {
        // Until nginx gives up.
        let _ = stream.read(&mut [0]);
        false
    });
    let mut site = site(&nginx, &[&slow.entry()]);
    site.set("STATIC_TIMEOUT", "read=100ms");
    let _nginit = site.start();
    for method in ["GET", "BREW"] {
        let answer = with_length(&site, method, 1);
        assert_eq!(answer.status, 504);
        assert!(answer.body.contains("The server took too long"), "{}", answer.body);
    }
}

#[test]
fn connections_to_servers_are_kept_unless_told_otherwise() {
    let nginx = nginx_or_skip!();
    for (keepalive, kept) in [("", true), ("8;timeout=1m", true), ("off", false)] {
        let server = Scripted::fixed("200 OK", "", "x");
        let mut site = site(&nginx, &[&server.entry()]);
        site.set("STATIC_KEEPALIVE", keepalive);
        site.set("NGINIT_WORKERS", "1");
        let nginit = site.start();
        for _ in 0..20 {
            assert_eq!(send(&site, "GET", "", "").status, 200, "{}", nginit.report());
        }
        let connections = server.connections.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(connections < 20, kept, "{keepalive:?}: {connections} connections");
        assert!(kept || connections == 20, "{connections}");
    }
}

#[test]
fn too_large_a_body_is_a_413_however_it_comes() {
    let nginx = nginx_or_skip!();
    let server = Scripted::fixed("200 OK", "", "x");
    for (limit, good, bad) in [("", 1_000_000, 1_100_000), ("10k", 10_000, 11_000), ("3m", 3_000_000, 3_200_000)] {
        let mut site = site(&nginx, &[&server.entry()]);
        site.set("STATIC_MAX_BODY", limit);
        let nginit = site.start();
        // BREW is no method that nginx knows, so it goes the way of requests that are sent once.
        for method in ["POST", "PUT", "BREW"] {
            assert_eq!(with_length(&site, method, good).status, 200, "{limit} {method}\n{}", nginit.report());
            assert_eq!(in_chunks(&site, method, good).status, 200, "{limit} {method}");
            let taken = server.requests.lock().unwrap().last().unwrap().1.len();
            assert_eq!(taken, good, "{limit} {method}");
            let before = server.asked();
            for answer in [too_large(&site, method, bad), in_chunks(&site, method, bad)] {
                assert_eq!(answer.status, 413, "{limit} {method}");
                assert!(answer.body.contains("<h1>413 Content Too Large</h1>"), "{limit} {method}: {}", answer.body);
            }
            assert_eq!(server.asked(), before, "no server sees it");
        }
    }
    let mut site = site(&nginx, &[&server.entry()]);
    site.set("STATIC_MAX_BODY", "off");
    let _nginit = site.start();
    for method in ["POST", "BREW"] {
        assert_eq!(with_length(&site, method, 5_000_000).status, 200, "{method}");
        assert_eq!(in_chunks(&site, method, 5_000_000).status, 200, "{method}");
    }
}

/// A request that names its length and waits for the answer. nginx then waits for the body, so the end of the answer is not
/// that of the connection.
fn too_large(site: &Site, method: &str, length: usize) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while !has(&bytes, b"</html>") {
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&part[..n]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
}

/// Whether the first part of an answer comes before the server has sent the second one.
fn comes_at_once(setting: &str, headers: &'static str, encoding: &str) -> bool {
    let Some(nginx) = support::nginx() else { return true };
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (tell, told) = mpsc::channel::<()>();
    let tell = Mutex::new(tell);
    let server = Scripted::start(move |_, _, stream| {
        // Until its end: nginx takes in chunks as they come, anyway.
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\ndata: first\n\n").unwrap();
        tell.lock().unwrap().send(()).unwrap();
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        let _ = stream.write_all(b"data: second\n\n");
        false
    });
    let mut site = site(&nginx, &[&server.entry()]);
    site.set("STATIC_BUFFERING", setting);
    let _nginit = site.start();
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    let encoding = if encoding.is_empty() { String::new() } else { format!("Accept-Encoding: {encoding}\r\n") };
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{encoding}\r\n").unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    // Half a second for what should take none; where it does not come, that is the failure.
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    while let Ok(n) = stream.read(&mut part) {
        if n == 0 {
            break;
        }
        seen.extend_from_slice(&part[..n]);
        if has(&seen, b"first") || (encoding.contains("gzip") && text_in_gzip(&seen).contains("data: first\n\n")) {
            break;
        }
    }
    let first = has(&seen, b"first") || text_in_gzip(&seen).contains("data: first");
    assert!(!has(&seen, b"second"));
    go.send(()).unwrap();
    first
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What the gzip stream in an answer of one chunk holds so far.
fn text_in_gzip(answer: &[u8]) -> String {
    let Some(start) = answer.windows(3).position(|window| window == [0x1f, 0x8b, 8]) else { return String::new() };
    let mut gzip = Command::new("gzip");
    gzip.args(["-dc"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = gzip.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&answer[start..]).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn answers_come_as_they_are_sent_where_that_is_asked_for() {
    let _nginx = nginx_or_skip!();
    let events = "Content-Type: text/event-stream\r\n";
    assert!(comes_at_once("off", events, ""));
    assert!(comes_at_once("off", events, "gzip"), "events are not compressed");
    assert!(comes_at_once("off", "Content-Type: text/plain\r\n", "gzip"), "what is compressed comes as well");
    assert!(comes_at_once("", "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n", "gzip"));
    assert!(!comes_at_once("", "Content-Type: text/plain\r\n", ""), "or this test could not fail");
}

#[test]
fn texts_are_compressed_unless_the_server_did_or_nobody_wants_it() {
    let nginx = nginx_or_skip!();
    let text = "text ".repeat(1000);
    let zipped = |kind: &str, more: &str, body: &str, switch: &str, accept: &str| {
        let server = Scripted::fixed("200 OK", &format!("Content-Type: {kind}\r\nETag: \"1\"\r\n{more}"), body);
        let mut site = site(&nginx, &[&server.entry()]);
        site.set("NGINIT_GZIP", switch);
        let _nginit = site.start();
        let answer = send(&site, "GET", accept, "");
        let vary = answer.header("Vary") == Some("Accept-Encoding");
        (answer.header("Content-Encoding").map(str::to_owned), vary, answer.header("ETag").unwrap().to_owned())
    };
    let gzip = "Accept-Encoding: gzip\r\n";
    let yes = (Some("gzip".to_owned()), true, "W/\"1\"".to_owned());
    for kind in ["text/html", "application/json", "text/css; charset=utf-8", "image/svg+xml", "text/javascript"] {
        assert_eq!(zipped(kind, "", &text, "", gzip), yes, "{kind}");
    }
    assert_eq!(zipped("text/html", "", &text, "", &format!("{gzip}Via: 1.1 other\r\n")), yes);
    let no = |vary: bool| (None, vary, "\"1\"".to_owned());
    assert_eq!(zipped("text/html", "", &text, "", ""), no(true), "a cache must know");
    assert_eq!(zipped("text/html", "", "short", "", gzip), no(false));
    assert_eq!(zipped("image/png", "", &text, "", gzip), no(false));
    assert_eq!(zipped("text/event-stream", "", &text, "", gzip), no(false));
    assert_eq!(zipped("text/html", "", &text, "off", gzip), no(false));
    let own = zipped("text/html", "Content-Encoding: br\r\n", &text, "", gzip);
    assert_eq!((own.0.as_deref(), own.2.as_str()), (Some("br"), "\"1\""), "passed through");
}

#[test]
fn a_part_of_an_answer_stays_that_part() {
    let nginx = nginx_or_skip!();
    let headers = "Content-Type: text/plain\r\nContent-Range: bytes 0-1999/5000\r\nETag: \"1\"\r\n";
    let server = Scripted::fixed("206 Partial Content", headers, "x".repeat(2000));
    let site = site(&nginx, &[&server.entry()]);
    let _nginit = site.start();
    let answer = send(&site, "GET", "Accept-Encoding: gzip\r\nRange: bytes=0-1999\r\n", "");
    assert_eq!((answer.status, answer.body.len(), answer.header("Content-Encoding")), (206, 2000, None));
    assert_eq!((answer.header("ETag"), answer.header("Content-Range")), (Some("\"1\""), Some("bytes 0-1999/5000")));
    assert!(server.last().contains("Range: bytes=0-1999\r\n"), "{}", server.last());
}

#[test]
fn a_request_has_one_id_here_and_on_the_server() {
    let nginx = nginx_or_skip!();
    let server = Scripted::fixed("200 OK", "", "x");
    let mut site = site(&nginx, &[&server.entry()]);
    site.set("NGINIT_ACCESS_LOG", "text");
    site.set("NGINIT_ACCESS_LOG_FLUSH", "0");
    {
        let nginit = site.start();
        send(&site, "GET", "", "");
        assert!(!server.last().contains("X-Request-ID"), "{}", server.last());
        send(&site, "GET", "X-Request-ID: a b\r\n", "");
        assert!(server.last().contains("X-Request-ID: a b"), "{}", server.last());
        assert!(!nginit.log().contains("request_id="), "{}", nginit.log());
    }
    site.set("NGINIT_REQUEST_ID", "on");
    let nginit = site.start();
    let sent_on = |headers: &str| {
        send(&site, "GET", headers, "");
        let ids: Vec<String> =
            server.last().lines().filter_map(|line| line.strip_prefix("X-Request-ID: ").map(str::to_owned)).collect();
        assert_eq!(ids.len(), 1, "{}", server.last());
        ids[0].clone()
    };
    let is_ours = |id: &str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let own = sent_on("");
    assert!(is_ours(&own), "{own}");
    assert_ne!(sent_on(""), own);
    nginit.logs(&format!(" request_id={own}\n"));
    let longest = "a".repeat(128);
    for sane in ["1", "req-7.Z_9", "01890a5d-ac96-774b-bcce-b302099a8057", &longest] {
        assert_eq!(sent_on(&format!("x-request-id: {sane}\r\n")), sane);
        nginit.logs(&format!(" request_id={sane}\n"));
    }
    let longer = "a".repeat(129);
    for bad in ["", "a b", "a\"b", "a,b", "\u{e9}", "a\tb", "${x}", &longer] {
        let id = sent_on(&format!("X-Request-ID: {bad}\r\n"));
        assert!(is_ours(&id), "{bad:?}: {id}");
    }
    let id = sent_on("X-Request-ID: a\r\nX-Request-ID: b\r\n");
    assert!(is_ours(&id) || id == "a", "two are none, or the first one: {id}");
}
