//! What is true of each example. The cookbook says it, so that it must hold.

use super::*;

pub fn last_good(example: &Example) {
    example.answers("/");
    example.lists.put("static", "web1:99999\n");
    docker(&["restart", &example.container("proxy")]);
    example.ports.lock().expect("no holder panics").clear();
    assert_eq!(example.answers("/").server(), "web1");
    eventually("what was bad is said", || example.log("proxy").contains("port must be 1-65535").then_some(()));
}

pub fn lists(example: &Example) {
    example.answers("/");
    assert_eq!(shares(example, "/", 8), [("web1".to_owned(), 6), ("web2".to_owned(), 2)].into());
    example.kill("web1", "KILL");
    example.kill("web2", "KILL");
    assert_eq!(shares(example, "/", 4), [("spare".to_owned(), 4)].into());
}

pub fn balance(example: &Example) {
    example.answers("/");
    let owners: BTreeSet<_> = (0..20)
        .map(|n| {
            let path = format!("/cache/{n}");
            let first = example.get(&path).server().to_owned();
            assert_eq!(first, example.get(&path).server(), "{path} stays");
            first
        })
        .collect();
    assert_eq!(owners.len(), 3, "20 paths have three owners: {owners:?}");
    // A slow request keeps one of two servers busy, so the other one gets all the rest.
    let mut slow = Command::new("curl");
    slow.args(["-sSiN", "--noproxy", "*"]).arg(example.url("/slow")).stdout(Stdio::piped());
    let mut slow = slow.spawn().expect("curl runs");
    let mut lines = BufReader::new(slow.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    let busy = lines.find_map(|line| line.strip_prefix("X-Server: ").map(str::to_owned)).expect("headers");
    let rest = shares(example, "/", 4);
    assert!(rest.len() == 1 && !rest.contains_key(&busy), "{busy} is busy: {rest:?}");
    assert!(slow.try_wait().expect("our own child").is_none(), "the slow answer still ran");
    slow.kill().and_then(|()| slow.wait()).expect("our own child");
}

pub fn list_file(example: &Example) {
    assert_eq!(example.answers("/").server(), "web1");
    example.lists.put("static", "web2\n");
    eventually("the list of now is served", || (example.answers("/").server() == "web2").then_some(()));
    example.lists.put("static", "web1 web2;drain\n");
    eventually("it is served by the other one", || (example.answers("/").server() == "web1").then_some(()));
    assert_eq!(shares(example, "/", 4), [("web1".to_owned(), 4)].into(), "a server that drains gets nothing new");
    example.lists.put("static", "web1:99999\n");
    eventually("the fault is said", || example.log("proxy").contains("counts as it was before").then_some(()));
    assert!(example.sh("proxy", "nginit list").contains("port must be 1-65535"), "and listed");
    let refused = docker_any(&["exec", &example.container("proxy"), "nginit", "reload", "--wait"]);
    assert!(!refused.status.success() && text(&refused).contains("port must be 1-65535"), "{}", text(&refused));
    assert_eq!(example.get("/").server(), "web1", "what was live stays");
}

/// Waits until this line in the proxy prints so many servers of an upstream that are up.
#[track_caller]
fn up(example: &Example, upstream: &str, count: usize) {
    let list = || example.sh("proxy", &format!("nginit list {upstream}"));
    eventually(&format!("{count} servers are up"), || {
        let up = list().lines().filter(|line| line.split_whitespace().nth(2) == Some("up")).count();
        (up == count).then_some(())
    });
}

pub fn scale(example: &Example) {
    example.answers("/");
    for count in [3, 1] {
        example.compose(&["up", "-d", "-t", "0", "--scale", &format!("web={count}")]);
        up(example, "static", count);
        assert_eq!(shares(example, "/", 6).len(), count, "{count} containers");
    }
}

pub fn announce(example: &Example) {
    example.answers("/api/student");
    up(example, "dynamic", 1);
    example.kill("api", "KILL");
    let gone =
        eventually("its announcement runs out", || Some(example.get("/api/student")).filter(|a| a.status == 503));
    assert!(gone.body.contains("dynamic_backend has no servers"), "{gone:?}");
    docker(&["start", &example.container("api")]);
    example.answers("/api/student");
    let log = example.log("proxy");
    assert!(!log.contains("not-a-secret-make-your-own"), "{log}");
}

pub fn maintenance(example: &Example) {
    example.answers("/");
    let both = eventually("both serve", || Some(shares(example, "/", 4)).filter(|shares| shares.len() == 2));
    example.sh("proxy", "nginit drain static web1 --wait");
    assert_eq!(shares(example, "/", 4), [("web2".to_owned(), 4)].into());
    assert!(example.sh("proxy", "nginit why web1").contains("order    drain"));
    docker(&["restart", &example.container("proxy")]);
    example.ports.lock().expect("no holder panics").clear();
    example.answers("/");
    assert_eq!(shares(example, "/", 4), [("web2".to_owned(), 4)].into(), "the order outlasts a restart");
    example.sh("proxy", "nginit undrain static web1 --wait");
    assert_eq!(shares(example, "/", 4), both);
}

pub fn secrets(example: &Example) {
    example.answers("/");
    let listed = example.sh("proxy", "nginit list");
    assert!(listed.contains("web1") && listed.contains("web2"), "{listed}");
    let shown = docker(&["inspect", "-f", "{{.Config.Env}}", &example.container("proxy")]);
    assert!(!shown.contains("web1"), "the environment shows no server: {shown}");
}

pub fn json_log(example: &Example) {
    example.answers("/");
    curl(&["-A", "a \"b\" \\ c", &example.url("/x?y=%22")]);
    let line = eventually("the request is logged", || {
        example.log("proxy").lines().find(|line| line.contains("/x?y=")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&line).expect(&line);
    assert_eq!((&line["uri"], &line["status"]), (&"/x?y=%22".into(), &200.into()), "{line}");
    assert_eq!(line["user_agent"], "a \"b\" \\ c");
    let id = example.get("/").line("X-Request-ID").to_owned();
    assert_eq!(id.len(), 32, "{id}");
    eventually("the log has the server's id", || example.log("proxy").contains(&id).then_some(()));
    let ours = example.log("proxy");
    let ours = ours.lines().find(|line| line.contains("generation 1")).expect("nginit's own line");
    serde_json::from_str::<serde_json::Value>(ours).expect(ours);
}

pub fn read_only(example: &Example) {
    let url = format!("http://{}/", example.published("proxy", 8080));
    eventually("200", || try_curl(&[&url]).ok().filter(|answer| answer.status == 200));
    assert_eq!(example.sh("proxy", "id -u"), "101");
    assert_eq!(example.sh("proxy", "touch /x 2>/dev/null || echo refused"), "refused");
    example.sh("proxy", "nginit reload --wait");
}

pub fn unix_socket(example: &Example) {
    assert_eq!(example.answers("/").body, "server web\n");
}

pub fn health(example: &Example) {
    let started = |service| docker(&["inspect", "-f", "{{.State.StartedAt}}", &example.container(service)]);
    let (web, proxy, client) = (started("web1"), started("proxy"), started("client"));
    assert!(web < proxy && proxy < client, "{web} {proxy} {client}");
    assert_eq!(example.answers("/").server(), "web1");
}

/// What the proxy answers for a path of a host.
#[track_caller]
fn of_host(example: &Example, host: &str, path: &str) -> Answer {
    curl(&["-H", &format!("Host: {host}"), &example.url(path)])
}

/// The first 200 for a path of a host.
#[track_caller]
fn host_answers(example: &Example, host: &str, path: &str) -> Answer {
    let line = ["-H", &format!("Host: {host}"), &example.url(path)].map(str::to_owned);
    eventually(&format!("200 on {host}{path}"), || try_curl(&line).ok().filter(|answer| answer.status == 200))
}

pub fn routes(example: &Example) {
    example.answers("/");
    for (host, path, server) in [
        ("localhost", "/about", "site"),
        ("shop.localhost", "/about", "shop"),
        ("SHOP.localhost:8080", "/about", "shop"),
        ("localhost", "/api/users", "api"),
        ("shop.localhost", "/api/users", "api"),
        ("localhost", "/status", "api"),
        ("localhost", "/status/", "site"),
        ("shop.localhost", "/status", "shop"),
    ] {
        assert_eq!(of_host(example, host, path).server(), server, "{host} {path}");
    }
}

pub fn rewrite(example: &Example) {
    example.answers("/api/");
    for (asked, got) in [
        ("/api/users?page=2", "/users?page=2"),
        ("/api/a%20b/%2F", "/a%20b/%2F"),
        ("/api/", "/"),
        ("/old.html?from=mail", "/pages/new.html?from=mail"),
    ] {
        assert_eq!(example.get(asked).line("uri"), got, "{asked}");
    }
    assert_eq!(example.get("/elsewhere").status, 404);
}

pub fn traefik_v1(example: &Example) {
    host_answers(example, "webapp.localhost", "/");
    let ask = |path| of_host(example, "webapp.localhost", path);
    assert_eq!(ask("/").server(), "webapp");
    // As in Traefik: the prefix ends with a slash, so the path without it is the web application's.
    assert_eq!(ask("/api/jokes").server(), "webapp");
    let joke = ask("/api/jokes/random?n=1");
    assert_eq!((joke.server(), joke.line("uri")), ("jokes", "/random?n=1"));
    assert_eq!(ask("/api/jokes/").line("uri"), "/");
    assert_eq!(of_host(example, "other.localhost", "/").status, 404);
}

pub fn traefik_v2(example: &Example) {
    host_answers(example, "webapp.localhost", "/");
    let ask = |path| of_host(example, "webapp.localhost", path);
    assert_eq!(ask("/").server(), "webapp");
    let flats = ask("/api/flats?rooms=3");
    assert_eq!((flats.server(), flats.line("uri")), ("flats", "/?rooms=3"));
    assert_eq!(ask("/api/flats/").server(), "webapp", "Path is exact");
    assert_eq!(of_host(example, "other.localhost", "/").status, 404);
}

pub fn sticky_cookie(example: &Example) {
    example.answers("/");
    let url = example.url("/");
    let first = curl(&[&url]);
    let set = first.headers("Set-Cookie")[0].to_owned();
    assert!(set.starts_with("home=") && set.to_lowercase().contains("httponly"), "{set}");
    let cookie = set.split(';').next().expect("a cookie").to_owned();
    let home = |cookie: &str| curl(&["-b", cookie, &url]).server().to_owned();
    assert!((0..8).all(|_| home(&cookie) == first.server()), "the cookie leads home: {first:?}");
    assert_eq!(shares(example, "/", 12).len(), 3, "without it, all of them answer");

    let gone = first.server().to_owned();
    example.kill(&gone, "KILL");
    let moved = curl(&["-b", &cookie, &url]);
    assert!(moved.status == 200 && moved.server() != gone, "{moved:?}");
    // Of two tries, each sets one, and the last one counts.
    let cookie = moved.headers("Set-Cookie").last().expect("a cookie").split(';').next().expect("a cookie");
    assert!((0..8).all(|_| home(cookie) == moved.server()), "the new home stays: {moved:?}");
}

pub fn sticky_ip(example: &Example) {
    example.answers("/");
    for path in ["/", "/shop/"] {
        assert_eq!(shares(example, path, 8).len(), 1, "one client, one server for {path}");
    }
    let rendered = example.sh("proxy", "cat /etc/nginx/conf.d/default.conf");
    assert!(rendered.contains("ip_hash;") && rendered.contains("consistent;"), "{rendered}");
}

pub fn tls(example: &Example) {
    let redirect = eventually("a redirect", || {
        try_curl(&[&example.url("/a?b=c")]).ok().filter(|answer| (301..=308).contains(&answer.status))
    });
    let port = &example.variables["HTTPS_PORT"];
    let https = format!("https://localhost:{port}/a?b=c");
    assert!(redirect.headers("Location").iter().all(|to| to.ends_with(&format!(":{port}/a?b=c"))), "{redirect:?}");

    let trusted = tempfile::tempdir().expect("a temporary directory").keep();
    let trusted = trusted.join("site.pem");
    let trust = || {
        fs::write(&trusted, example.sh("proxy", "cat /certs/site.pem") + "\n").expect("a file of ours");
        trusted.display().to_string()
    };
    let line = ["--cacert", &trust(), &https];
    let answer = curl(&line);
    assert!(answer.head.starts_with("HTTP/2 200"), "{answer:?}");
    assert_eq!((answer.line("X-Forwarded-Proto"), answer.line("uri")), ("https", "/a?b=c"));

    // Another certificate in the place of the first one is found without being told.
    docker(&["start", "-a", &example.container("certificate")]);
    trust();
    eventually("the new certificate is served", || try_curl(&line).ok());
    fs::remove_dir_all(trusted.parent().expect("our own directory")).expect("it goes");
}

pub fn https_upstream(example: &Example) {
    let answer = example.answers("/");
    assert_eq!(answer.body, "server api, TLSv1.3, for the name api\n");
    assert_eq!(example.get("/stranger").status, 502);
    eventually("the reason is logged", || example.log("proxy").contains("certificate verify").then_some(()));
}

pub fn grpc(example: &Example) {
    let url = example.url("/helloworld.Greeter/SayHello");
    // A call with an empty message: not compressed, of length 0.
    let message = std::env::temp_dir().join(unique("grpc"));
    fs::write(&message, [0; 5]).expect("a file of ours");
    let body = format!("@{}", message.display());
    let call = ["--http2-prior-knowledge", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
    let call = [&call[..], &["--data-binary", &body, &url]].concat();
    let answer = eventually("the call is answered", || try_curl(&call).ok().filter(|a| a.status == 200));
    assert_eq!(answer.headers("grpc-status"), ["0"], "{answer:?}");
    assert_eq!(answer.headers("grpc-message"), ["greeter speaks HTTP/2.0"], "{answer:?}");
    fs::remove_file(message).expect("it goes");
}

pub fn sse(example: &Example) {
    let url = example.url("/api/student/events");
    eventually("the proxy answers", || try_curl(&["-I", &url]).ok().filter(|answer| answer.status == 200));
    let mut events = Command::new("curl");
    events.args(["-sSN", "--noproxy", "*", &url]).stdout(Stdio::piped());
    let mut events = events.spawn().expect("curl runs");
    let lines = BufReader::new(events.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    let first: Vec<_> = lines.filter(|line| line.starts_with("data: [")).take(3).collect();
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(events.try_wait().expect("our own child").is_none(), "more of them are to come");
    events.kill().and_then(|()| events.wait()).expect("our own child");
}

pub fn websocket(example: &Example) {
    let at = example.published("proxy", 80);
    let request = "GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = eventually("the server takes the upgrade", || {
        let mut stream = TcpStream::connect(&at).ok()?;
        stream.set_read_timeout(Some(docker::PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        // The answer to that key stands in RFC 6455, 1.3.
        (head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")).then_some(stream)
    });
    for word in [&b"hello"[..], b"again"] {
        let mask = [1, 2, 3, 4];
        let masked = word.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> = [0x81, 0x80 | 5].into_iter().chain(mask).chain(masked).collect();
        stream.write_all(&frame).expect("the connection is open");
        let mut echo = [0; 7];
        stream.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo[2..], word);
    }
}

/// What makes a request from this machine look as it does to containers.
fn gateway(example: &Example) -> String {
    docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", &example.container("edge")])
}

pub fn real_ip(example: &Example) {
    let url = format!("http://{}/", example.published("edge", 80));
    let lie = ["-H", "X-Forwarded-For: 192.0.2.66", &url];
    let answer = eventually("200", || try_curl(&lie).ok().filter(|answer| answer.status == 200));
    let client = gateway(example);
    assert_eq!(answer.line("X-Real-IP"), client, "{answer:?}");
    let chain = answer.line("X-Forwarded-For");
    assert!(chain.starts_with(&format!("{client}, ")) && !chain.contains("192.0.2.66"), "{answer:?}");
    eventually("the log has the client", || example.log("proxy").contains(&format!("{client} - - ")).then_some(()));
}

pub fn proxy_protocol(example: &Example) {
    let url = format!("http://{}/", example.published("edge", 80));
    let answer = eventually("200", || try_curl(&[&url]).ok().filter(|answer| answer.status == 200));
    assert_eq!(answer.line("X-Real-IP"), gateway(example), "{answer:?}");
    example.sh("proxy", "nginit healthcheck");
}

pub fn error_pages(example: &Example) {
    example.answers("/");
    let closed = example.get("/shop/");
    assert!(closed.status == 503 && closed.body.contains("Closed for today"), "{closed:?}");
    example.kill("web1", "KILL");
    let broken = example.get("/");
    assert!([502, 504].contains(&broken.status) && broken.body.contains("back in a minute"), "{broken:?}");
}

pub fn limits(example: &Example) {
    example.answers("/");
    let upload = std::env::temp_dir().join(unique("upload"));
    let put = |megabytes: usize| {
        fs::write(&upload, vec![b'x'; megabytes << 20]).expect("a file of ours");
        curl(&["-H", "Expect:", "--data-binary", &format!("@{}", upload.display()), &example.url("/upload")]).status
    };
    assert_eq!((put(19), put(21)), (200, 413));
    fs::remove_file(&upload).expect("it goes");

    assert_eq!(example.answers("/api/student").status, 200);
    assert_eq!(example.get("/api/student?delay_ms=5000").status, 504);

    assert_eq!(shares(example, "/shop/", 6), [("web1".to_owned(), 6)].into());
    eventually("the log has both servers", || example.log("proxy").contains(", ").then_some(()));
}

pub fn fastcgi(example: &Example) {
    let ask = |path| of_host(example, "php.localhost", path);
    let answer = host_answers(example, "php.localhost", "/?a=b");
    assert_eq!(answer.body, "script /index.php\nquery a=b\n");
    assert_eq!(ask("/no/such/file?x").body, "script /index.php\nquery x\n");
    assert_eq!(ask("/about.txt").body, "A file, sent by nginx.\n");
    example.sh("proxy", "nginit reload --wait");
}

pub fn tcp(example: &Example) {
    let at = example.published("proxy", 5432);
    let ask = || {
        let mut told = String::new();
        TcpStream::connect(&at).and_then(|mut stream| stream.read_to_string(&mut told)).map(|_| told)
    };
    let both = eventually("both answer", || {
        let told: BTreeSet<_> = (0..4).filter_map(|_| ask().ok()).filter(|told| !told.is_empty()).collect();
        (told.len() == 2).then_some(told)
    });
    assert_eq!(both, ["db1\n".to_owned(), "db2\n".to_owned()].into());
    example.kill("db1", "KILL");
    assert!((0..4).all(|_| ask().is_ok_and(|told| told == "db2\n")), "the one that is left takes all");
    example.sh("proxy", "nginit reload --wait");
    assert!(!example.sh("proxy", "cat /etc/nginx/conf.d/default.conf").contains("location / {\n        set"));
}

pub fn official_entrypoint(example: &Example) {
    example.answers("/");
    assert_eq!(example.get("/").server(), "web1");
    let hello = of_host(example, "hello.localhost", "/");
    assert!(hello.body.starts_with("Guten Tag, "), "{hello:?}");
    assert!(example.log("proxy").contains("50-hello.sh: what a script"));
    example.sh("proxy", "nginit healthcheck && nginit reload --wait");
}
