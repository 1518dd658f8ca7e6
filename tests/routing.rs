//! Which server a request reaches and with which path, in real nginx: hosts, overlapping routes,
//! rewritten paths, and what clients do to spell them in another way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod oracle;
mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

use oracle::Oracle;
use support::scripted::Scripted;
use support::{Answer, Backend, Site, request};

/// A site with a backend for each upstream, which answers with its name and the request it got.
fn site_of(nginx: &Path, vars: &[(&str, &str)]) -> (Site, Vec<Backend>) {
    let upstreams: Vec<&str> = vars.iter().filter_map(|(name, _)| name.strip_suffix("_ROUTE")).collect();
    let backends: Vec<Backend> = upstreams.iter().map(|name| Backend::start(&name.to_ascii_lowercase())).collect();
    // After them, so that none of them gets its port.
    let mut site = Site::new(nginx);
    for (name, value) in vars {
        site.set(name, value);
    }
    for (name, backend) in upstreams.iter().zip(&backends) {
        site.set(&format!("{name}_BACKEND"), backend.entry());
    }
    (site, backends)
}

/// A request as it stands on the wire, with a host if there is one.
fn ask(site: &Site, method: &str, target: &str, host: Option<&str>, headers: &str) -> Answer {
    let version = if host.is_some() { "1.1" } else { "1.0" };
    let host = host.map_or(String::new(), |host| format!("Host: {host}\r\n"));
    let text = format!("{method} {target} HTTP/{version}\r\n{host}{headers}Connection: close\r\n\r\n");
    request(site.port, &text).unwrap_or_else(|err| panic!("{text}: {err}"))
}

/// Who answered: the server's name, or the status of nginx's own answer.
fn who(answer: &Answer) -> String {
    answer.header("X-Server").map_or_else(|| answer.status.to_string(), str::to_owned)
}

/// What the server got as the request's target.
fn target(answer: &Answer) -> &str {
    answer.body.lines().nth(1).and_then(|line| line.split(' ').nth(1)).unwrap_or_default()
}

/// A header that the server got.
fn got<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let lines = answer.body.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

#[test]
fn hosts_and_paths_reach_the_upstream_of_the_longest_route() {
    let nginx = nginx_or_skip!();
    let long = format!("{}.{}.example", "a".repeat(60), "b".repeat(60));
    let (site, _backends) = site_of(
        &nginx,
        &[
            ("ROOT_ROUTE", "/"),
            ("API_ROUTE", "/api/ =/exact"),
            ("SHOP_ROUTE", &format!("shop.example/ localhost/ {long}/")),
            ("LONG_ROUTE", "/a/path/longer/than/the/host/ other.example=/api/"),
            ("RULE_ROUTE", "Host(`rule.example`) && (PathPrefix(`/r`) || Path(`/api/x`))"),
            ("OLD_ROUTE", "Host:old.example,older.example;PathPrefix:/old"),
        ],
    );
    let nginit = site.start();
    for (host, path, want) in [
        ("other", "/", "root"),
        ("other", "/api", "root"),
        ("other", "/api/", "api"),
        ("other", "/api/x", "api"),
        ("other", "/%61pi/x", "api"),
        ("other", "//api/x", "api"),
        ("other", "/x/../api/x", "api"),
        ("other", "/api/../x", "root"),
        ("other", "/api%2Fx", "api"),
        ("other", "/api%2fx", "api"),
        ("other", "/API/x", "root"),
        ("other", "/exact", "api"),
        ("other", "/exact?x=/y", "api"),
        ("other", "/exact/", "root"),
        ("other", "/exactly", "root"),
        ("shop.example", "/", "shop"),
        ("shop.example", "/api/x", "shop"),
        ("shop.example:8080", "/", "shop"),
        ("SHOP.Example", "/", "shop"),
        ("shop.example.", "/", "shop"),
        ("shop.example.:80", "/", "shop"),
        ("a.shop.example", "/", "root"),
        ("shop.example", "/a/path/longer/than/the/host/x", "long"),
        ("localhost", "/", "shop"),
        (&long, "/", "shop"),
        (&long.to_uppercase(), "/api/", "shop"),
        (&format!("x{long}"), "/", "root"),
        (&long.replace('.', "x"), "/", "root"),
        ("other.example", "/api/", "long"),
        ("other.example", "/api/x", "api"),
        ("other.example", "/api", "root"),
        ("rule.example", "/", "root"),
        ("rule.example", "/rx", "rule"),
        ("rule.example", "/api/x", "rule"),
        ("rule.example", "/api/y", "api"),
        ("old.example", "/old", "old"),
        ("older.example", "/older", "old"),
        ("oldest.example", "/older", "root"),
    ] {
        let answer = ask(&site, "GET", path, Some(host), "");
        assert_eq!(who(&answer), want, "{host}{path}\n{}", nginit.report());
        assert_eq!(target(&answer), path, "the path stays");
        assert_eq!(got(&answer, "Host"), Some(host));
        // The line may name the host, too, and then counts.
        let answer = ask(&site, "GET", &format!("http://{host}{path}"), Some(host), "");
        assert_eq!((who(&answer).as_str(), target(&answer)), (want, path), "http://{host}{path}");
    }
    assert_eq!(who(&ask(&site, "GET", "/", None, "")), "root", "no host at all");
    for (line, header, want, host) in [
        ("http://shop.example/", "other", "shop", "shop.example"),
        ("http://other/", "shop.example", "root", "other"),
        ("http://Shop.Example:81/", "shop.example:80", "shop", "shop.example:80"),
        ("http://shop.example/", "shop.example.evil:80", "shop", "shop.example"),
        ("/", "[::1]:80", "root", "[::1]:80"),
        ("/", "10.0.0.1", "root", "10.0.0.1"),
    ] {
        let answer = ask(&site, "GET", line, Some(header), "");
        assert_eq!((who(&answer).as_str(), got(&answer, "Host")), (want, Some(host)), "{line} with {header}");
    }
    assert_eq!(who(&ask(&site, "GET", "/api/x", None, "")), "api");
    let warned = |line: &&str| line.contains("[warn]") || line.contains("conflicting");
    assert_eq!(nginit.log().lines().find(warned), None, "{}", nginit.log());
}

/// Without a route of nobody's, what no route takes is a 404 and not a redirect.
#[test]
fn what_no_route_takes_is_not_redirected() {
    let nginx = nginx_or_skip!();
    let (site, _backends) = site_of(&nginx, &[("API_ROUTE", "/api/ a.example=/x/")]);
    let _nginit = site.start();
    for (host, path, want) in [
        ("b", "/api", "404"),
        ("b", "/api/", "api"),
        ("b", "/", "404"),
        ("a.example", "/x", "404"),
        ("a.example", "/x/", "api"),
    ] {
        assert_eq!(who(&ask(&site, "GET", path, Some(host), "")), want, "{host}{path}");
    }
}

/// Queries and encoded paths survive byte for byte; nothing that is decoded gets back into a
/// request as it is.
#[test]
fn a_rewritten_path_keeps_every_byte_that_is_left() {
    let nginx = nginx_or_skip!();
    let (site, _backends) = site_of(
        &nginx,
        &[
            ("KEEP_ROUTE", "/"),
            ("STRIP_ROUTE", "/api /slash/ =/one host.example/h/ /a.(b)*+/"),
            ("STRIP_REWRITE", "strip"),
            ("PUT_ROUTE", "=/flats /all"),
            ("PUT_REWRITE", "/new%20place"),
            ("JOKES_ROUTE", "Host:jokes.docker.localhost;PathPrefixStrip:/api/jokes/"),
        ],
    );
    let nginit = site.start();
    let jokes = Some("jokes.docker.localhost");
    for (host, path, want, prefix) in [
        (None, "/api", "/", "/api"),
        (None, "/api/", "/", "/api"),
        (None, "/api/x", "/x", "/api"),
        (None, "/apifoo", "/foo", "/api"),
        (None, "/api?x=1&y=%2F+%20", "/?x=1&y=%2F+%20", "/api"),
        (None, "/api/?", "/?", "/api"),
        (None, "/api/x?a=../b/..&c=//d", "/x?a=../b/..&c=//d", "/api"),
        (None, "/api/a%2Fb%20c%3Fd%25e%C3%A9%23", "/a%2Fb%20c%3Fd%25e%C3%A9%23", "/api"),
        (None, "/api/%2f%2F", "/%2f%2F", "/api"),
        (None, "/api/x%0d%0aX-Evil:%20y", "/x%0d%0aX-Evil:%20y", "/api"),
        (None, "/api/x%00", "400", ""),
        (None, "/api/a;b=c,d/!$&'()*+,;=:@~|", "/a;b=c,d/!$&'()*+,;=:@~|", "/api"),
        (None, "/api/$uri${uri}$1", "/$uri${uri}$1", "/api"),
        (None, "/api//evil.example", "/evil.example", "/api"),
        (None, "/api///", "/", "/api"),
        (None, "/api/x//y", "/x//y", "/api"),
        (None, "/api/...", "/...", "/api"),
        (None, "/api/.x/..y/z.", "/.x/..y/z.", "/api"),
        (None, "/api/x.%2ey", "/x.%2ey", "/api"),
        // What nginx resolves leads nowhere else behind it.
        (None, "/api/../api/x", "/x", "/api"),
        (None, "/api/x/../y", "/y", "/api"),
        (None, "/api/./y", "/y", "/api"),
        (None, "/api/x/..", "/", "/api"),
        (None, "/api/x/%2e%2E/y", "/y", "/api"),
        (None, "/api/x%2F..%2Fy", "/y", "/api"),
        (None, "/api/x#/../../y", "/x", "/api"),
        // Another spelling of the prefix.
        (None, "/%61pi/x%20y%3Fz%25?q=%20", "/x%20y%3Fz%25?q=%20", "/api"),
        (None, "/%61pi/x%0d%0aX-Evil:%20y", "/x%0D%0AX-Evil:%20y", "/api"),
        (None, "//api/x", "/x", "/api"),
        (None, "/x/../api/y?z", "/y?z", "/api"),
        (None, "/slash/x%2F", "/x%2F", "/slash/"),
        (None, "/slash%2Fx", "/x", "/slash/"),
        (None, "/slash/", "/", "/slash/"),
        (None, "/one", "/", "/one"),
        (None, "/one?x", "/?x", "/one"),
        (None, "/a.(b)*+/x%2F", "/x%2F", "/a.(b)*+/"),
        (None, "/%61.(b)*+/x", "/x", "/a.(b)*+/"),
        (Some("host.example"), "/h/x%2F", "/x%2F", "/h/"),
        (jokes, "/api/jokes/", "/", "/api/jokes/"),
        (jokes, "/api/jokes/42?x", "/42?x", "/api/jokes/"),
    ] {
        let host = host.unwrap_or("other");
        // A method that nginx does not know goes another way, and a line may name the host.
        for (method, line) in
            [("GET", path.to_owned()), ("FROB", path.to_owned()), ("GET", format!("http://{host}{path}"))]
        {
            let answer =
                ask(&site, method, &line, Some(host), "X-Forwarded-Prefix: /evil\r\nX-Replaced-Path: /evil\r\n");
            let seen = if answer.status == 200 { target(&answer).to_owned() } else { answer.status.to_string() };
            assert_eq!(seen, want, "{method} {line}\n{}\n{}", answer.body, nginit.report());
            assert_eq!(got(&answer, "X-Forwarded-Prefix").unwrap_or_default(), prefix, "{line}");
            assert_eq!(got(&answer, "X-Evil"), None);
            if answer.status == 200 {
                assert_eq!(answer.body.lines().nth(1), Some(format!("{method} {want} HTTP/1.1").as_str()));
            }
        }
    }
    for (path, want, replaced) in [
        ("/flats", "/new%20place", "/flats"),
        ("/flats?a=%2F&b", "/new%20place?a=%2F&b", "/flats"),
        ("/flats?", "/new%20place", "/flats"),
        ("/fl%61ts?x", "/new%20place?x", "/fl%61ts"),
        ("/all/x%2Fy%0d%0aX-Evil:%20z?q", "/new%20place?q", "/all/x%2Fy%0d%0aX-Evil:%20z"),
    ] {
        for method in ["GET", "FROB"] {
            let answer =
                ask(&site, method, path, Some("other"), "X-Replaced-Path: /evil\r\nX-Forwarded-Prefix: /evil\r\n");
            assert_eq!((who(&answer).as_str(), target(&answer)), ("put", want), "{method} {path}\n{}", nginit.report());
            assert_eq!(got(&answer, "X-Replaced-Path"), Some(replaced));
            assert_eq!((got(&answer, "X-Forwarded-Prefix"), got(&answer, "X-Evil")), (None, None));
        }
    }
    for (method, path) in [("GET", "/x%2F/../y?q"), ("FROB", "/x%2F/../y?q")] {
        let answer = ask(&site, method, path, Some("other"), "X-Replaced-Path: /evil\r\nX-Forwarded-Prefix: /evil\r\n");
        assert_eq!((who(&answer).as_str(), target(&answer)), ("keep", path));
        assert_eq!((got(&answer, "X-Replaced-Path"), got(&answer, "X-Forwarded-Prefix")), (None, None));
    }
    let answer = ask(&site, "GET", "/api/a b", Some("other"), "");
    assert_eq!(answer.status, 400, "{}", answer.body);
    let complains = |line: &&str| line.contains("uninitialized") || line.contains("[warn]");
    assert_eq!(nginit.log().lines().find(complains), None, "{}", nginit.log());
}

/// What a server sends on to another path (`X-Accel-Redirect`) goes there, not where the client's own path led.
#[test]
fn a_server_sends_a_request_on() {
    let nginx = nginx_or_skip!();
    let sends = |request: &str, _: &[u8], stream: &mut TcpStream| {
        let on = [("/one ", "/a/other"), ("/away ", "/b/two%20x?q=1"), ("/kept ", "/k/three"), ("/a/back ", "/a/four")];
        let line = request.lines().next().unwrap_or_default();
        let on = on.iter().find(|(path, _)| line.contains(&format!(" {path}")));
        let on = on.map_or(String::new(), |(_, to)| format!("X-Accel-Redirect: {to}\r\n"));
        let prefix = request.lines().find(|line| line.starts_with("X-Forwarded-Prefix")).unwrap_or_default();
        let body = format!("{line}\n{prefix}");
        let head = format!("HTTP/1.1 200 OK\r\n{on}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
    };
    let backend = Scripted::start(sends);
    let mut site = Site::new(&nginx);
    for (name, route, rewrite) in [("A", "/a", "strip"), ("B", "/b", "strip"), ("K", "/k =/a/back", "keep")] {
        site.set(&format!("{name}_BACKEND"), backend.entry());
        site.set(&format!("{name}_ROUTE"), route);
        site.set(&format!("{name}_REWRITE"), rewrite);
    }
    let nginit = site.start();
    for method in ["GET", "FROB"] {
        for (path, want, prefix) in [
            ("/a/one", "/other", "X-Forwarded-Prefix: /a"),
            ("/a/away", "/two%20x?q=1", "X-Forwarded-Prefix: /b"),
            ("/a/kept", "/k/three", ""),
            ("/a/back", "/four", "X-Forwarded-Prefix: /a"),
        ] {
            let answer = ask(&site, method, path, Some("other"), "");
            assert_eq!(answer.body, format!("GET {want} HTTP/1.1\n{prefix}"), "{method} {path}\n{}", nginit.report());
        }
    }
}

/// A server's own 418 is its answer, whatever an operator's nginx.conf says, and not nginit's word for sending a request once.
#[test]
fn an_answer_never_sends_a_request_anew() {
    let nginx = nginx_or_skip!();
    let backend = Scripted::fixed("418 Teapot", "", "tea");
    let mut site = Site::new(&nginx);
    site.set("STATIC_BACKEND", backend.entry());
    let conf = site.main_conf("").replace("http {", "http {\n    proxy_intercept_errors on;");
    site.write("nginx.conf", &conf);
    let nginit = site.start();
    for (asked, method) in [(1, "GET"), (2, "FROB")] {
        let answer = ask(&site, method, "/", Some("other"), "");
        assert_eq!((answer.status, answer.body.as_str()), (418, "tea"), "{method}\n{}", nginit.report());
        assert_eq!(backend.asked(), asked, "{method}");
    }
}

/// A server that spoke HTTP/2 on a client's word would answer for paths that no route gives it.
#[test]
fn no_upgrade_leads_past_routes() {
    let nginx = nginx_or_skip!();
    let (site, _backends) = site_of(&nginx, &[("API_ROUTE", "/api")]);
    let _nginit = site.start();
    for (upgrade, want) in
        [("h2c", None), ("H2C", None), ("websocket, h2c", None), ("websocket", Some("websocket")), ("x/1", Some("x/1"))]
    {
        let headers = format!("Upgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n");
        let answer = ask(&site, "GET", "/api", Some("other"), &headers);
        assert_eq!(got(&answer, "Upgrade"), want, "{}", answer.body);
        assert_eq!(got(&answer, "Connection"), want.map(|_| "upgrade"));
    }
}

/// A list of `count` routes and who owns them, drawn from hosts, paths and kinds; each once.
fn drawn(seed: &mut u64, count: usize) -> Vec<(usize, &'static str, bool, &'static str)> {
    let mut next = |bound: usize| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*seed >> 33).unwrap() % bound
    };
    let mut routes: Vec<(usize, &str, bool, &str)> = Vec::new();
    while routes.len() < count {
        let host = ["", "", "x.example", "y"][next(4)];
        let path = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c/d/e/f"][next(6)];
        let exact = next(2) == 0;
        if !routes.iter().any(|(_, h, e, p)| (*h, *e, *p) == (host, exact, path)) {
            routes.push((next(2), host, exact, path));
        }
    }
    routes
}

/// Sets of routes that were drawn by lot, and a simple model: the longest text that fits.
#[test]
fn any_set_of_routes_answers_as_the_model() {
    let nginx = nginx_or_skip!();
    let backends = [Backend::start("a"), Backend::start("b")];
    let mut site = Site::new(&nginx);
    for (name, backend) in ["A", "B"].iter().zip(&backends) {
        site.set(&format!("{name}_BACKEND"), backend.entry());
        site.set(&format!("{name}_ROUTE_FILE"), site.path(name));
        site.write(name, &format!("/start/{name}"));
    }
    let nginit = site.start();
    let mut seed = 1;
    for round in 0..12 {
        let routes = drawn(&mut seed, 3 + round);
        let text = |(_, host, exact, path): &(usize, &str, bool, &str)| {
            format!("{host}{}{path}", if *exact { "=" } else { "" })
        };
        for (owner, name) in ["A", "B"].iter().enumerate() {
            let own: Vec<String> = routes.iter().filter(|route| route.0 == owner).map(text).collect();
            site.write(name, &format!("/start/{name} {}", own.join(" ")));
        }
        nginit.reload();
        let live = format!("generation {} live", round + 2);
        nginit.logs(&live);
        for host in ["x.example", "y", "z"] {
            for path in ["/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/abc", "/a/b/c/d/e/f", "/a/b/c/d/e/f/g", "/b"] {
                let fits = |(_, own, exact, start): &&(usize, &str, bool, &str)| {
                    (own.is_empty() || *own == host) && if *exact { *start == path } else { path.starts_with(start) }
                };
                let rank = |route: &&(usize, &str, bool, &str)| (text(route).len(), !route.1.is_empty(), route.2);
                let best = routes.iter().filter(fits).max_by_key(rank);
                let want = best.map_or("404", |(owner, ..)| ["a", "b"][*owner]);
                let answer = ask(&site, "GET", path, Some(host), "");
                assert_eq!(who(&answer), want, "{host}{path} of {routes:?}\n{}", nginit.report());
            }
        }
    }
}

/// The label sets of compose files, as values.
#[test]
fn a_pasted_label_routes_as_it_did() {
    let nginx = nginx_or_skip!();
    let (site, _backends) = site_of(
        &nginx,
        &[
            ("JOKES_ROUTE", "traefik.frontend.rule=Host:jokes.docker.localhost;PathPrefixStrip:/api/jokes/"),
            ("FLATS_ROUTE", "Host(`flats.docker.localhost`) && Path(`/api/flats`)"),
            ("FLATS_REWRITE", "/api"),
            ("WEB_ROUTE", "\"traefik.http.routers.web.rule=Host(`flats.docker.localhost`)\""),
        ],
    );
    let _nginit = site.start();
    for (host, path, want) in [
        ("jokes.docker.localhost", "/api/jokes/", "jokes /"),
        ("jokes.docker.localhost", "/api/jokes/1", "jokes /1"),
        ("jokes.docker.localhost", "/api/jokes", "404 "),
        ("flats.docker.localhost", "/api/flats?page=2", "flats /api?page=2"),
        ("flats.docker.localhost", "/api/flats/", "web /api/flats/"),
        ("flats.docker.localhost", "/", "web /"),
        ("localhost", "/", "404 "),
    ] {
        let answer = ask(&site, "GET", path, Some(host), "");
        let seen = if answer.status == 200 { target(&answer) } else { "" };
        assert_eq!(format!("{} {seen}", who(&answer)), want, "{host}{path}");
    }
}

/// A thousand hosts and two thousand routes, long ones too, in an nginx.conf that sets no hash.
#[test]
fn many_hosts_and_routes_are_accepted() {
    let nginx = nginx_or_skip!();
    let oracle = Oracle::new(nginx.clone());
    let mut site = Site::new(&nginx);
    let mut hosts = String::new();
    for i in 0..1000 {
        let pad = "x".repeat(if i % 100 == 0 { 50 } else { i % 40 });
        let _ = writeln!(hosts, "h{pad}-{i}.example/");
    }
    site.write("hosts", &hosts);
    site.write("paths", &(0..2000).map(|i| format!("/some/path/{i}/\n")).collect::<String>());
    for name in ["HOSTS", "PATHS"] {
        site.set(&format!("{name}_BACKEND"), "127.0.0.1:1");
        site.set(&format!("{name}_ROUTE_FILE"), site.path(&name.to_ascii_lowercase()));
    }
    let rendered = |site: &Site| site.command(&["render"]).output().unwrap();
    let both = rendered(&site);
    let refused = String::from_utf8_lossy(&both.stderr).into_owned();
    assert!(refused.contains("are too many for nginx's memory"), "{refused}");
    site.set("PATHS_ROUTE_FILE", site.path("few"));
    site.write("few", "/");
    let hosts = rendered(&site);
    assert!(hosts.status.success(), "{}", String::from_utf8_lossy(&hosts.stderr));
    oracle.test_text(&String::from_utf8_lossy(&hosts.stdout)).unwrap_or_else(|printed| panic!("{printed}"));
    site.set("PATHS_ROUTE_FILE", site.path("paths"));
    site.set("HOSTS_ROUTE_FILE", site.path("few"));
    let paths = rendered(&site);
    assert!(paths.status.success(), "{}", String::from_utf8_lossy(&paths.stderr));
    oracle.test_text(&String::from_utf8_lossy(&paths.stdout)).unwrap_or_else(|printed| panic!("{printed}"));
}
