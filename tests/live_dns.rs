//! nginx asks nginit for its servers: the thread that answers, with the real nginx and real backends.
//! `--nocapture` shows how long each change takes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nginit::live::responder::News;
use nginit::live::serve::{Sockets, serve};
use nginit::live::zone::{Served, Set, Zone};
use support::{PATIENCE, Site, eventually, signal_pid};
use tokio::sync::{oneshot, watch};

/// The nginx to test with, if it can follow servers.
fn nginx_that_resolves() -> Option<PathBuf> {
    let nginx = support::nginx()?;
    let version = nginit::nginx::find(nginx.to_str()?).ok()?.facts.version;
    if !version.has_resolve() {
        eprintln!("skipped: nginx {version} cannot follow servers, 1.27.3 can");
        return None;
    }
    Some(nginx)
}

/// A backend at every address of loopback, on one port. It answers with the address that was connected to.
fn backends(at: &str) -> u16 {
    let listener = TcpListener::bind(at).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || sign(stream));
        }
    });
    port
}

fn sign(mut stream: TcpStream) -> Option<()> {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    let body = stream.local_addr().ok()?.to_string();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer).ok()? {
                0 => return None,
                length => read.extend_from_slice(&buffer[..length]),
            }
        }
        read.clear();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

/// The thread that answers, and what it is given.
struct Responder {
    sockets: Arc<Sockets>,
    zone: watch::Sender<Arc<Zone>>,
    version: u64,
    heard: Arc<Mutex<Vec<News>>>,
    stop: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Responder {
    fn new() -> Self {
        let (zone, sockets) = (watch::Sender::new(Arc::default()), Arc::new(Sockets::bind(None).unwrap()));
        Self { sockets, zone, version: 0, heard: Arc::default(), stop: None }
    }

    fn start(&mut self) {
        let (sockets, zone) = (Arc::clone(&self.sockets), self.zone.subscribe());
        let heard = Arc::clone(&self.heard);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tell = |told| heard.lock().unwrap().push(told);
            runtime.block_on(async {
                tokio::select! {
                    ended = serve(&sockets, zone, &tell) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        self.stop = Some((stop, thread));
    }

    fn stop(&mut self) {
        let (stop, thread) = self.stop.take().unwrap();
        stop.send(()).unwrap();
        thread.join().unwrap();
    }

    /// These are the servers, part by part.
    fn set(&mut self, parts: &[Vec<Served>]) {
        self.version += 1;
        let sets = parts.iter().enumerate();
        let set = |servers: &Vec<Served>| Set { version: self.version, servers: servers.clone(), freed: false };
        let zone = Zone::of(sets.map(|(at, servers)| (format!("{at}.web"), set(servers))));
        self.zone.send_replace(Arc::new(zone));
    }

    /// Waits until nginx has taken in what is set.
    fn is_heard(&self, parts: usize) {
        eventually("nginx has heard of it", || {
            let heard = self.heard.lock().unwrap();
            let names: BTreeSet<&str> = heard
                .iter()
                .filter_map(|news| match news {
                    News::Heard { name, version } if *version == self.version => Some(name.as_str()),
                    _ => None,
                })
                .collect();
            (names.len() == parts).then_some(())
        });
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.stop();
        }
    }
}

struct Proxy {
    site: Site,
    nginx: Child,
}

impl Proxy {
    fn start(nginx: &Path, responder: &Responder, parts: usize) -> Self {
        let site = Site::new(nginx);
        let names: String =
            (0..parts).map(|at| format!("    server {at}.web.nginit service=http resolve max_fails=0;\n")).collect();
        let off = if Path::new("/proc/net/if_inet6").exists() { "" } else { " ipv6=off" };
        let conf = format!(
            "upstream web {{\n    zone web 8m;\n    resolver {}{off};\n    resolver_timeout 1d;\n{names}}}\n\
             server {{ listen 127.0.0.1:{}; keepalive_requests 1000000; location / {{ proxy_pass http://web; }} }}\n",
            responder.sockets.address, site.port
        );
        site.write("conf.d/default.conf", &conf);
        let mut command = Command::new(nginx);
        command.arg("-c").arg(site.path("nginx.conf")).arg("-p").arg(site.dir.path());
        command.args(["-g", "daemon off; worker_processes 1;"]);
        let nginx = command.stderr(std::fs::File::create(site.path("log")).unwrap()).spawn().unwrap();
        Self { site, nginx }
    }

    /// Who answers so many requests in a row, and how many each.
    fn ask(&self, requests: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.site.port)) else { return counts };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 4096];
        for _ in 0..requests {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut read = String::new();
            let body = loop {
                let length = stream.read(&mut buffer).unwrap();
                assert_ne!(length, 0, "nginx closed the connection after {read:?}");
                read.push_str(str::from_utf8(&buffer[..length]).unwrap());
                let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
                let length = head.split_once("Content-Length: ").unwrap().1;
                if body.len() == length.split("\r\n").next().unwrap().parse::<usize>().unwrap() {
                    break if head.contains(" 200 ") { body.to_owned() } else { head[9..12].to_owned() };
                }
            };
            *counts.entry(body).or_default() += 1;
        }
        counts
    }

    /// Waits until exactly these answer; says how long it took since `since`.
    fn has(&self, what: &str, servers: &[Served], since: Instant) -> Duration {
        let wanted: BTreeSet<String> = servers.iter().map(|served| served.address.to_string()).collect();
        let mut seen = BTreeSet::new();
        let found = support::within(PATIENCE, || {
            // All of them only once it looks like it, not to keep nginx from its questions.
            seen = self.ask(1).into_keys().collect();
            if seen.is_subset(&wanted) {
                seen = self.ask(wanted.len()).into_keys().collect();
            }
            (seen == wanted).then(|| since.elapsed())
        });
        let log = || std::fs::read_to_string(self.site.path("log")).unwrap();
        let log = || log().lines().filter(|line| !line.contains("no live upstreams")).collect::<Vec<_>>().join("\n");
        let took = found.unwrap_or_else(|| panic!("{what}: {} of {} servers\n{}", seen.len(), wanted.len(), log()));
        eprintln!("{what}: {took:?}");
        took
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        signal_pid(self.nginx.id().try_into().unwrap(), rustix::process::Signal::TERM);
        let _ = self.nginx.wait();
    }
}

fn served(address: impl Into<SocketAddr>) -> Served {
    Served { address: address.into(), weight: 1.try_into().unwrap(), backup: false }
}

/// So many servers, from the one with this number on.
fn servers(port: u16, from: u32, count: u32) -> Vec<Served> {
    let ip = |number: u32| Ipv4Addr::from(0x7f01_0001 + number);
    (from..from + count).map(|number| served((ip(number), port))).collect()
}

#[test]
fn servers_come_and_go_within_milliseconds() {
    let Some(nginx) = nginx_that_resolves() else { return };
    let (port, mut responder) = (backends("0.0.0.0:0"), Responder::new());
    responder.set(&[servers(port, 0, 3)]);
    responder.start();
    let started = Instant::now();
    let proxy = Proxy::start(&nginx, &responder, 1);
    proxy.has("3 servers, cold", &servers(port, 0, 3), started);
    for (what, count) in [("one comes", 4), ("one goes", 3), ("ten come", 13), ("all but one go", 1)] {
        responder.is_heard(1);
        let (now, those) = (Instant::now(), servers(port, 0, count));
        responder.set(std::slice::from_ref(&those));
        proxy.has(what, &those, now);
    }
    let now = Instant::now();
    responder.set(&[servers(port, 0, 2)]);
    proxy.has("one comes right after", &servers(port, 0, 2), now);
    responder.is_heard(1);
    assert!(responder.sockets.tally.told.load(Ordering::Relaxed) < 20);
    assert_eq!(responder.sockets.tally.refused.load(Ordering::Relaxed), 0);
}

#[test]
fn many_servers_come_at_once() {
    let Some(nginx) = nginx_that_resolves() else { return };
    let (port, mut responder) = (backends("0.0.0.0:0"), Responder::new());
    responder.set(&[servers(port, 0, 300)]);
    responder.start();
    let started = Instant::now();
    let proxy = Proxy::start(&nginx, &responder, 1);
    proxy.has("300 servers, cold", &servers(port, 0, 300), started);
    for (what, count) in [("one comes", 301), ("one goes", 300), ("600 come", 900), ("all but 300 go", 300)] {
        responder.is_heard(1);
        let (now, those) = (Instant::now(), servers(port, 0, count));
        responder.set(std::slice::from_ref(&those));
        proxy.has(what, &those, now);
    }
}

#[test]
fn two_thousand_servers_stand_at_three_names() {
    let Some(nginx) = nginx_that_resolves() else { return };
    let (port, mut responder) = (backends("0.0.0.0:0"), Responder::new());
    let parts = |more: u32| [servers(port, 0, 667), servers(port, 1000, 667), servers(port, 2000, 666 + more)];
    responder.set(&parts(0));
    responder.start();
    let started = Instant::now();
    let proxy = Proxy::start(&nginx, &responder, 3);
    proxy.has("2,000 servers, cold", &parts(0).concat(), started);
    responder.is_heard(3);
    let now = Instant::now();
    responder.set(&parts(1));
    proxy.has("one comes", &parts(1).concat(), now);
}

#[test]
fn weights_and_priorities_are_kept() {
    let Some(nginx) = nginx_that_resolves() else { return };
    let (port, mut responder) = (backends("0.0.0.0:0"), Responder::new());
    let with = |weights: [u16; 3], backups: [bool; 3]| -> Vec<Served> {
        let all = servers(port, 0, 3).into_iter().zip(weights.into_iter().zip(backups));
        all.map(|(served, (weight, backup))| Served { weight: weight.try_into().unwrap(), backup, ..served }).collect()
    };
    responder.set(&[with([1, 2, 5], [false; 3])]);
    responder.start();
    let proxy = Proxy::start(&nginx, &responder, 1);
    let counts = |what: &str, wanted: &[usize]| {
        let found = support::within(PATIENCE, || {
            let counts: Vec<usize> = proxy.ask(80).into_values().collect();
            (counts == wanted).then_some(())
        });
        assert!(found.is_some(), "{what}: {:?}", proxy.ask(80));
    };
    counts("weights", &[10, 20, 50]);
    responder.is_heard(1);
    responder.set(&[with([3, 1, 4], [false; 3])]);
    counts("other weights", &[30, 10, 40]);
    responder.is_heard(1);
    responder.set(&[with([3, 1, 4], [false, false, true])]);
    counts("a backup", &[60, 20]);
}

#[test]
fn servers_of_ipv6_are_followed() {
    let Some(nginx) = nginx_that_resolves() else { return };
    if !Path::new("/proc/net/if_inet6").exists() {
        return eprintln!("skipped: this kernel has no IPv6");
    }
    let ports = [backends("[::1]:0"), backends("[::1]:0"), backends("0.0.0.0:0")];
    let six = |port| served((IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), port));
    let mut all = vec![six(ports[0]), six(ports[1])];
    all.extend(servers(ports[2], 0, 1));
    let mut responder = Responder::new();
    responder.set(&[all[..1].to_vec()]);
    responder.start();
    let started = Instant::now();
    let proxy = Proxy::start(&nginx, &responder, 1);
    proxy.has("one server of IPv6, cold", &all[..1], started);
    responder.is_heard(1);
    let now = Instant::now();
    responder.set(std::slice::from_ref(&all));
    proxy.has("one more, and one of IPv4", &all, now);
}

#[test]
fn whoever_answers_may_begin_anew_or_be_silent() {
    let Some(nginx) = nginx_that_resolves() else { return };
    let (port, mut responder) = (backends("0.0.0.0:0"), Responder::new());
    responder.set(&[servers(port, 0, 300)]);
    responder.start();
    let proxy = Proxy::start(&nginx, &responder, 1);
    proxy.has("300 servers, cold", &servers(port, 0, 300), Instant::now());
    responder.is_heard(1);
    responder.stop();
    proxy.has("nobody answers", &servers(port, 0, 300), Instant::now());
    let now = Instant::now();
    responder.set(&[servers(port, 1, 300)]);
    responder.start();
    proxy.has("begun anew, other servers", &servers(port, 1, 300), now);
    responder.is_heard(1);
    responder.stop();
    thread::sleep(Duration::from_secs(7));
    proxy.has("silent for 7 seconds", &servers(port, 1, 300), Instant::now());
    let now = Instant::now();
    responder.set(&[servers(port, 2, 300)]);
    responder.start();
    proxy.has("not any more, other servers", &servers(port, 2, 300), now);
    responder.is_heard(1);
}
