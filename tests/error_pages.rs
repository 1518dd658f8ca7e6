//! Pages of the operator's for what nginx itself answers, and nothing else.

#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};

use support::scripted::Scripted;
use support::{Answer, Nginit, PATIENCE, Site, eventually, free_port, request};

/// A site with servers on `/api/`, dead ones on `/dead/`, none on `/none/`, and slow ones on `/slow/`.
fn site(nginx: &std::path::Path, api: &Scripted) -> Site {
    let mut site = Site::new(nginx);
    fs::create_dir(site.path("errors")).unwrap();
    site.set("NGINIT_ERROR_PAGES", site.path("errors"));
    let slow = Scripted::start(|_, _, stream| {
        // Until nginx gives up.
        let _ = stream.read(&mut [0]);
        false
    });
    let dead = format!("127.0.0.1:{}", free_port());
    for (name, servers, route) in [
        ("API", api.entry(), "/api/"),
        ("DEAD", dead, "/dead/"),
        ("NONE", String::new(), "/none/"),
        ("SLOW", slow.entry(), "/slow/"),
    ] {
        site.set(&format!("{name}_BACKEND"), servers);
        site.set(&format!("{name}_ROUTE"), route);
    }
    site.set("SLOW_TIMEOUT", "read=50ms");
    site.set("API_MAX_BODY", "10");
    site
}

fn write_pages(site: &Site, statuses: &[u16]) {
    for status in statuses {
        site.write(&format!("errors/{status}.html"), &page(*status));
    }
}

fn page(status: u16) -> String {
    format!("<h1>{status} our own</h1> $host {{}};\n")
}

fn send(site: &Site, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let text = format!("{method} {path} HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n{headers}\r\n{body}");
    request(site.port, &text).unwrap()
}

/// Every error that nginx can meet here, with the request that leads to it.
const ERRORS: [(u16, &str, &str, &str); 6] = [
    (404, "/nowhere", "", ""),
    (502, "/dead/x?a=b", "", ""),
    (503, "/none/x", "", ""),
    (504, "/slow/x", "", ""),
    (413, "/api/x", "Content-Length: 11\r\n", "12345678901"),
    (413, "/api/x", "Transfer-Encoding: chunked\r\n", "b\r\n12345678901\r\n0\r\n\r\n"),
];

#[test]
fn every_error_of_nginx_has_its_page_whatever_the_method() {
    let nginx = nginx_or_skip!();
    let api = Scripted::fixed("200 OK", "", "fine");
    let mut site = site(&nginx, &api);
    site.set("NGINIT_ACCESS_LOG", "json");
    site.set("NGINIT_ACCESS_LOG_FLUSH", "0");
    write_pages(&site, &[404, 413, 502, 503, 504]);
    let nginit = site.start();
    for (status, path, headers, body) in ERRORS {
        // The last one is no method that nginx knows.
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let answer = send(&site, method, path, headers, body);
            let what = format!("{method} {path}: {answer:?}\n{}", nginit.report());
            assert_eq!((answer.status, answer.body), (status, page(status)), "{what}");
            assert_eq!(answer.head.matches("Content-Type: text/html").count(), 1, "{what}");
            assert_eq!(answer.head.contains("Retry-After: 5"), status == 503, "{what}");
            nginit.logs(&format!(
                "\"method\":\"{method}\",\"uri\":\"{path}\",\"protocol\":\"HTTP/1.1\",\"status\":{status},"
            ));
        }
        if !headers.contains("Transfer") {
            let answer = send(&site, "HEAD", path, headers, body);
            assert_eq!((answer.status, answer.body.as_str()), (status, ""), "HEAD {path}");
            let length = answer.header("Content-Length").map(|length| length.parse().unwrap());
            assert_eq!(length, Some(page(status).len()), "HEAD {path}");
        }
    }
    assert_eq!(send(&site, "GET", "/api/", "", "").body, "fine");
    for path in ["/nginit/errors/404.html", "/nginit/errors/", "/nginit/errors/502.html?x"] {
        let answer = send(&site, "GET", path, "", "");
        assert_eq!((answer.status, answer.body), (404, page(404)), "nobody fetches {path} itself");
    }
}

#[test]
fn what_a_server_answers_is_left_alone() {
    let nginx = nginx_or_skip!();
    for status in [400, 404, 413, 418, 429, 500, 502, 503, 504] {
        let api = Scripted::fixed(&format!("{status} Its own"), "", format!("its {status}"));
        let site = site(&nginx, &api);
        write_pages(&site, &[400, 404, 413, 429, 500, 502, 503, 504]);
        let _nginit = site.start();
        for method in ["GET", "POST", "BREW"] {
            let answer = send(&site, method, "/api/", "", "");
            assert_eq!((answer.status, answer.body), (status, format!("its {status}")), "{method}");
        }
    }
}

#[test]
fn a_request_that_is_none_has_its_page_too() {
    let nginx = nginx_or_skip!();
    let api = Scripted::fixed("200 OK", "", "fine");
    let mut site = site(&nginx, &api);
    site.set("NGINIT_ACCESS_LOG", "json");
    site.set("NGINIT_ACCESS_LOG_FLUSH", "0");
    write_pages(&site, &[400, 405, 414]);
    let nginit = site.start();
    let long = "x".repeat(40_000);
    for (status, text) in [
        (400, "nonsense\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (400, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")),
        (405, "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned()),
        (414, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", site.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may answer, and close, before it has read everything.
        let _ = stream.write_all(text.as_bytes());
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = stream.read(&mut part) {
            bytes.extend_from_slice(&part[..n]);
        }
        let answer = String::from_utf8_lossy(&bytes);
        let start = &text[..text.len().min(30)];
        assert!(answer.contains(&page(status)), "{start}: {answer}\n{}", nginit.report());
        assert!(!answer.starts_with("HTTP/") || answer.contains(&format!(" {status} ")), "{start}: {answer}");
    }
    eventually("six lines", || (nginit.count("\n{\"time\"") >= 6).then_some(()));
    for line in nginit.log().lines().filter(|line| line.starts_with('{')) {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn without_a_page_our_own_short_ones_answer() {
    let nginx = nginx_or_skip!();
    let api = Scripted::fixed("200 OK", "", "fine");
    let mut site = site(&nginx, &api);
    for pages in [site.path("errors"), site.path("nowhere")] {
        site.set("NGINIT_ERROR_PAGES", pages);
        let _nginit = site.start();
        for (status, path, headers, body) in ERRORS {
            let answer = send(&site, "POST", path, headers, body);
            assert_eq!(answer.status, status, "{path}");
            assert!(answer.body.contains(&format!("{status}")) && !answer.body.contains("nginx"), "{}", answer.body);
        }
    }
}

#[test]
fn a_page_that_comes_changes_or_goes_counts_from_the_next_hup_at_the_latest() {
    let nginx = nginx_or_skip!();
    let api = Scripted::fixed("200 OK", "", "fine");
    let site = site(&nginx, &api);
    write_pages(&site, &[404, 503]);
    let nginit = site.start();
    // As Kubernetes mounts files.
    fs::write(site.path("elsewhere"), page(502)).unwrap();
    symlink("../elsewhere", site.path("errors/502.html")).unwrap();
    site.write("errors/99.html", "x");
    site.write("errors/0404.html", "x");
    site.write("errors/4.4.html", "x");
    fs::create_dir(site.path("errors/504.html")).unwrap();
    assert!(send(&site, "GET", "/dead/", "", "").body.contains("No server answered this request."));
    nginit.reload();
    assert_eq!(nginit.status().generation, 2, "{}", nginit.report());
    assert_eq!(send(&site, "GET", "/dead/", "", "").body, page(502));
    assert!(send(&site, "GET", "/slow/", "", "").body.contains("The server took too long"));
    // nginx reads a page when it sends it.
    site.write("errors/404.html", "changed");
    assert_eq!(send(&site, "GET", "/nowhere", "", "").body, "changed");
    // One that is gone does not take its status with it.
    for name in ["404", "502", "503"] {
        fs::remove_file(site.path(&format!("errors/{name}.html"))).unwrap();
    }
    for method in ["GET", "POST"] {
        for (status, path) in [(404, "/nowhere"), (502, "/dead/"), (503, "/none/")] {
            let answer = send(&site, method, path, "", "");
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
            assert!(answer.body.contains(&status.to_string()), "{method} {path}: {answer:?}");
        }
    }
    nginit.reload();
    assert_eq!(nginit.status().generation, 3, "{}", nginit.report());
    assert_eq!(send(&site, "GET", "/nowhere", "", "").body, "404: no route takes this path\n");
}

#[test]
fn a_page_that_workers_may_not_read_keeps_its_status() {
    let nginx = nginx_or_skip!();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let api = Scripted::fixed("200 OK", "", "fine");
    let site = site(&nginx, &api);
    site.write("nginx.conf", &site.main_conf("").replace("user root;", "user daemon;"));
    let mode = |name: &str, mode| fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("", 0o755);
    write_pages(&site, &[404, 502, 503]);
    mode("errors/502.html", 0o600);
    let _nginit = site.start();
    assert_eq!(send(&site, "POST", "/nowhere", "", "").body, page(404));
    for (directory, method) in [(0o755, "GET"), (0o755, "POST"), (0o700, "GET"), (0o700, "POST")] {
        mode("errors", directory);
        let answer = send(&site, method, "/dead/", "", "");
        assert_eq!(answer.status, 502, "{directory:o} {answer:?}");
        assert!(answer.body.contains("No server answered this request."), "{directory:o} {answer:?}");
    }
    assert_eq!(send(&site, "POST", "/nowhere", "", "").body, "404\n");
}

#[test]
fn a_page_that_nginx_never_sends_is_named() {
    let nginx = nginx_or_skip!();
    let api = Scripted::fixed("200 OK", "", "fine");
    let site = site(&nginx, &api);
    write_pages(&site, &[418, 499, 500]);
    let nginit = site.start();
    for status in [418, 499] {
        nginit.logs(&format!("errors/{status}.html\" is not used: nginx answers no {status} of its own with a page"));
    }
    assert_eq!(nginit.count("is not used"), 2, "{}", nginit.log());
}

#[test]
fn a_directory_that_cannot_be_read_is_said() {
    let nginx = nginx_or_skip!();
    let api = Scripted::fixed("200 OK", "", "fine");
    let mut site = site(&nginx, &api);
    site.write("file", "x");
    site.set("NGINIT_ERROR_PAGES", site.path("file"));
    let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
    assert_eq!(nginit.code(), 78, "{}", nginit.report());
    assert!(nginit.log().contains("\"NGINIT_ERROR_PAGES\": reading \""), "{}", nginit.log());
}
