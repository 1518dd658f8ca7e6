//! From the event that brings a server to the first request that this server answers, for each source of
//! servers, beside what a user would do instead.
//! `cargo bench --bench members -- --runs 5`

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::network::{self, dns, dns::Dns};
use support::{Cores, Outcome, Running, Site, max, median, min, print_table};

/// Most rounds of each: a name that is good for a second takes its time.
const MOST_RUNS: usize = 10;

/// Requests at once: one of the two servers has its turn, and old workers answer too.
const AT_ONCE: usize = 8;

/// Before the next round, for what follows after the first answer.
const REST: Duration = Duration::from_millis(50);

const TOKEN: &str = "a token of the benchmark";

/// The name of the DNS server and that of the hosts file.
const NAMES: [&str; 2] = ["dns.test", "hosts.test"];

/// Whence a server comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Sed,
    Hup,
    File,
    Link,
    Dns,
    Hosts,
    Add,
    Announce,
    AnnounceTcp,
    Serf,
}

use Source::{Add, Announce, AnnounceTcp, File, Hosts, Hup, Link, Sed, Serf};

/// What each is called, and the upstream that it changes.
const SOURCES: [(Source, &str, &str); 10] = [
    (Sed, "sed, nginx -s reload, without nginit", "FILE"),
    (Hup, "list written, HUP to nginit", "FILE"),
    (File, "list written", "FILE"),
    (Link, "list swapped by symlink", "LINK"),
    (Source::Dns, "DNS answer, good for 1 s", "DNS"),
    (Hosts, "/etc/hosts", "HOSTS"),
    (Add, "nginit add", "ADD"),
    (Announce, "announced over the socket", "ANNOUNCE"),
    (AnnounceTcp, "announced over TCP", "TCP"),
    (Serf, "Serf's event by nginit serf", "SERF"),
];

/// Whether nginx follows servers (`NGINIT_LIVE`), and how far apart reloads are where it does not.
const WAYS: [(&str, &str, &str); 3] = [("none, followed", "auto", "0"), ("0", "off", "0"), ("1s", "off", "1s")];

fn main() -> Outcome<()> {
    let (Some(runs), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let nginit = support::static_binary()?;
    if !network::is_inside(&nginit)? {
        return Ok(());
    }
    let runs = runs.min(MOST_RUNS);
    let root = tempfile::tempdir()?;
    let dns = Dns::start("127.0.0.53");
    let port = support::free_port()?.port();
    serve(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    let base = format!("127.8.0.1:{port}");
    dns::write_etc("hosts", &format!("127.8.0.1 {}\n", NAMES[1]));
    dns.set_addresses(NAMES[0], 1, &["127.8.0.1"]);
    let mut rows = Vec::new();
    for (way, live, interval) in WAYS {
        let mut site = Site::new(root.path(), &format!("nginit-{live}-{interval}"), &nginx, &nginit, Cores::All)?;
        let admin = support::free_port()?;
        set_up(&mut site, live, interval, admin, &base, port)?;
        let (running, _) = site.start(&[vec![OsString::from(&nginit)], site.argv.clone()].concat())?;
        let mut plain = Site::new(root.path(), &format!("nginx-{live}-{interval}"), &nginx, &nginit, Cores::All)?;
        set_up(&mut plain, "off", interval, admin, &base, port)?;
        plain.render(&nginit, &plain.conf_dir())?;
        let (plain_running, _) = plain.start(&plain.completed)?;
        let stage =
            Stage { site, running, plain, plain_running, nginit: nginit.clone(), dns: dns.clone(), admin, base: &base };
        for (at, (source, name, upstream)) in SOURCES.into_iter().enumerate() {
            if source == Sed && way != "0" {
                continue;
            }
            let mut times = Vec::new();
            for round in 0..=runs {
                let new = if source == AnnounceTcp {
                    // Who announces itself is who connects.
                    let own = support::free_port()?.port();
                    serve(SocketAddr::from((Ipv4Addr::LOCALHOST, own)))?;
                    SocketAddr::from((Ipv4Addr::LOCALHOST, own))
                } else {
                    SocketAddr::from(([127, 9, u8::try_from(at)?, u8::try_from(round + 1)?], port))
                };
                let took = stage.round(source, upstream, new).map_err(|err| format!("{name}: {err}"))?;
                // Nobody waits for a reload before.
                if interval != "0" {
                    thread::sleep(Duration::from_secs(1));
                }
                if round > 0 {
                    times.push(took.as_secs_f64() * 1e3);
                }
            }
            let all = || times.iter().copied();
            let figures = [median(all()), min(all()), max(all())].map(|figure| format!("{figure:.0}"));
            let way = if source == Sed { "" } else { way };
            rows.push([vec![name.to_owned(), way.to_owned()], figures.to_vec()].concat());
        }
    }
    println!("\nfrom the event to the first answer of the new server, {runs} rounds each");
    print_table(&["event", "reloads apart", "median ms", "min ms", "max ms"], &rows);
    Ok(())
}

/// An upstream for each source, all with the one server that was there before.
fn set_up(site: &mut Site, live: &str, interval: &str, admin: SocketAddr, base: &str, port: u16) -> Outcome<()> {
    site.env.retain(|(name, _)| !name.ends_with("_BACKEND") && *name != "NGINIT_RELOAD_INTERVAL");
    let (list, first, link) = (site.dir.join("list"), site.dir.join("list-0"), site.dir.join("link"));
    fs::write(&list, base)?;
    fs::write(&first, base)?;
    symlink(&first, &link)?;
    site.env.extend([
        ("FILE_BACKEND_FILE", list.into()),
        ("FILE_ROUTE", "/FILE".into()),
        ("LINK_BACKEND_FILE", link.into()),
        ("LINK_ROUTE", "/LINK".into()),
        ("DNS_BACKEND", format!("{}:{port}", NAMES[0]).into()),
        ("DNS_ROUTE", "/DNS".into()),
        ("HOSTS_BACKEND", format!("{}:{port}", NAMES[1]).into()),
        ("HOSTS_ROUTE", "/HOSTS".into()),
        ("ADD_BACKEND", base.into()),
        ("ADD_ROUTE", "/ADD".into()),
        ("ANNOUNCE_BACKEND", base.into()),
        ("ANNOUNCE_ROUTE", "/ANNOUNCE".into()),
        ("TCP_BACKEND", base.into()),
        ("TCP_ROUTE", "/TCP".into()),
        ("SERF_BACKEND", base.into()),
        ("SERF_ROUTE", "/SERF".into()),
        ("NGINIT_LIVE", live.into()),
        ("NGINIT_RELOAD_INTERVAL", interval.into()),
        ("NGINIT_RELOAD_BACKLOG", "0".into()),
        ("NGINIT_ADMIN", admin.to_string().into()),
        ("NGINIT_ADMIN_TOKEN", TOKEN.replace(' ', "-").into()),
    ]);
    Ok(())
}

/// All that takes part.
struct Stage<'a> {
    site: Site,
    running: Running,
    /// nginx alone, with the same files.
    plain: Site,
    plain_running: Running,
    nginit: PathBuf,
    dns: Dns,
    admin: SocketAddr,
    base: &'a str,
}

impl Stage<'_> {
    /// How long a new server takes; it is gone again afterwards.
    fn round(&self, source: Source, upstream: &str, new: SocketAddr) -> Outcome<Duration> {
        let (site, running) =
            if source == Sed { (&self.plain, &self.plain_running) } else { (&self.site, &self.running) };
        let answer = format!("\r\n\r\n{new}\n");
        let there = || told(site.address, upstream).iter().any(|told| told.ends_with(&answer));
        let begin = Instant::now();
        self.change(source, new, true)?;
        support::eventually("the new server answers", || Ok(there()))?;
        let took = begin.elapsed();
        self.change(source, new, false)?;
        support::eventually("the new server is gone", || Ok(!there() && running.workers()? == site.workers))?;
        thread::sleep(REST);
        Ok(took)
    }

    /// Makes the server come, or go.
    fn change(&self, source: Source, new: SocketAddr, comes: bool) -> Outcome<()> {
        let list = if comes { format!("{}\n{new}\n", self.base) } else { self.base.to_owned() };
        let both =
            if comes { vec![IpAddr::from([127, 8, 0, 1]), new.ip()] } else { vec![IpAddr::from([127, 8, 0, 1])] };
        let ttl = if comes { "1h" } else { "0" };
        match source {
            Sed => {
                let conf = self.plain.conf_dir().join("default.conf");
                let edit = if comes {
                    format!("/upstream file_backend/,/}}/s/^\\( *server \\){}\\(.*\\)$/&\\n\\1{new}\\2/", self.base)
                } else {
                    format!("/server {new}/d")
                };
                let sed: [OsString; 3] = ["-i".into(), edit.into(), conf.into()];
                self.plain.run("sed".as_ref(), &sed)?;
                let (nginx, args) = self.plain.completed.split_first().ok_or("no nginx")?;
                self.plain.run(nginx.as_ref(), &[args, &["-s".into(), "reload".into()]].concat())
            }
            Hup => {
                fs::write(self.site.dir.join("list"), list)?;
                self.running.signal(Signal::HUP);
                Ok(())
            }
            File => Ok(fs::write(self.site.dir.join("list"), list)?),
            Link => {
                let (file, next) = (self.site.dir.join(format!("list-{new}-{comes}")), self.site.dir.join("next"));
                fs::write(&file, list)?;
                symlink(file, &next)?;
                Ok(fs::rename(next, self.site.dir.join("link"))?)
            }
            Source::Dns => {
                let both: Vec<String> = both.iter().map(ToString::to_string).collect();
                self.dns.set_addresses(NAMES[0], 1, &both.iter().map(String::as_str).collect::<Vec<_>>());
                Ok(())
            }
            Hosts => {
                let lines: Vec<String> = both.iter().map(|ip| format!("{ip} {}\n", NAMES[1])).collect();
                dns::write_etc("hosts", &lines.concat());
                Ok(())
            }
            Add => {
                let word = if comes { "add" } else { "remove" };
                self.site.run(&self.nginit, &[word.into(), "add".into(), new.to_string().into()])
            }
            Announce => {
                let body = format!(r#"{{"upstream":"announce","server":"{new}","ttl":"{ttl}"}}"#);
                post(UnixStream::connect(self.site.dir.join("control.sock"))?, &body)
            }
            AnnounceTcp => {
                let body = format!(r#"{{"upstream":"tcp","port":{},"ttl":"{ttl}"}}"#, new.port());
                post(TcpStream::connect(self.admin)?, &body)
            }
            Serf => {
                let mut command = Command::new(&self.nginit);
                command.arg("serf").env("NGINIT_CONTROL", self.site.dir.join("control.sock"));
                command.env("SERF_EVENT", if comes { "member-join" } else { "member-leave" });
                let mut child = command.stdin(Stdio::piped()).spawn()?;
                let line = format!("new\t{}\tserf\trole=serf,port={}\n", new.ip(), new.port());
                child.stdin.take().ok_or("no pipe")?.write_all(line.as_bytes())?;
                if child.wait()?.success() { Ok(()) } else { Err("nginit serf fails".into()) }
            }
        }
    }
}

fn post(mut stream: impl Read + Write, body: &str) -> Outcome<()> {
    let (length, token) = (body.len(), TOKEN.replace(' ', "-"));
    let head = format!(
        "POST /v1/announce HTTP/1.1\r\nHost: nginit\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    let answer = io::read_to_string(stream)?;
    if answer.starts_with("HTTP/1.1 20") { Ok(()) } else { Err(answer.into()) }
}

/// The answers to requests at the same time for what this upstream serves. Those that fail are none.
fn told(address: SocketAddr, upstream: &str) -> Vec<String> {
    let send = || -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /{upstream} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    };
    let sent: Vec<TcpStream> = (0..AT_ONCE).filter_map(|_| send().ok()).collect();
    sent.into_iter().filter_map(|stream| io::read_to_string(stream).ok()).collect()
}

/// A server that answers with the address at which it was asked. It lives as long as the benchmark.
fn serve(address: SocketAddr) -> Outcome<()> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve_one(stream));
        }
    });
    Ok(())
}

fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    let body = format!("{}\n", stream.local_addr()?);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&piece[..read]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            stream.write_all(answer.as_bytes())?;
        }
    }
}
