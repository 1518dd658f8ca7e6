//! Requests per second and their times through the configuration that nginit renders, its access log on, beside a
//! hand-tuned nginx without any log, the same with an unbuffered one, haproxy and caddy, in turn, with the same servers.
//! `cargo bench --bench proxy -- --runs 10 --seconds 2`
//!
//! Each proxy has one worker and a core to itself; who asks and the reader of the logs have another one, the servers behind
//! a third or, where there is none, that of who asks. `HAPROXY_BIN`, `CADDY_BIN` and `WRK_BIN` name what is not in PATH.

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::{Cores, Outcome, Running, Site, median, named, peer, print_table};

/// A path of each upstream: each client the same server, and round robin.
const PATHS: [&str; 2] = ["/", "/api/student"];

/// Connections that ask at once. Enough to keep the proxy's core busy, few enough that p99 is not the queue alone.
const CONNECTIONS: usize = 16;

/// Length of the servers' answers, in bytes.
const BODY: usize = 1024;

/// The least share of the hand-tuned nginx's requests per second that nginit is to reach.
const GOAL: f64 = 0.97;

/// Below this share of its core a proxy is not what limits the rate.
const BUSY: f64 = 0.9;

fn main() -> Outcome<()> {
    let (Some(runs), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let Some(wrk) = named("WRK_BIN", "wrk") else {
        println!("wrk is not installed and WRK_BIN names none: nothing is measured");
        return Ok(());
    };
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        println!("proxies and who asks need a core each, and here is one: nothing is measured");
        return Ok(());
    }
    let seconds = support::seconds();
    let nginit = support::static_binary()?;
    let root = tempfile::tempdir()?;
    let makers = Makers { root: root.path().to_owned(), nginx, nginit };
    let (_servers, servers) = makers.servers(cores.min(3) - 1)?;
    let load = Load::new(wrk, root.path())?;
    let mut proxies = makers.proxies(servers)?;
    for path in PATHS {
        for proxy in &mut proxies {
            proxy.check(path)?;
            proxy.taken.clear();
        }
        for round in 0..=runs {
            for turn in 0..proxies.len() {
                // Nobody always follows the same one, and the first round does not count.
                let at = (turn + round) % proxies.len();
                let took = proxies[at].measure(&load, path, if round == 0 { 1 } else { seconds })?;
                if round > 0 {
                    proxies[at].taken.push(took);
                }
            }
        }
        report(&proxies, path, runs, seconds);
    }
    proxies.iter().try_for_each(Proxy::check_log)
}

fn report(proxies: &[Proxy], path: &str, runs: usize, seconds: u32) {
    let base = &proxies[0].taken;
    let ratio = |proxy: &Proxy| median(proxy.taken.iter().zip(base).map(|(own, base)| own.rate / base.rate));
    let of = |proxy: &Proxy, figure: fn(&Taken) -> f64| median(proxy.taken.iter().map(figure));
    let row = |proxy: &Proxy| {
        let figures = [
            format!("{:.3}", ratio(proxy)),
            format!("{:.0}", of(proxy, |taken| taken.rate)),
            format!("{:.2}", of(proxy, |taken| taken.p50)),
            format!("{:.2}", of(proxy, |taken| taken.p99)),
            format!("{:.1}", of(proxy, |taken| taken.processor)),
            format!("{:.2}", of(proxy, |taken| taken.busy)),
        ];
        std::iter::once(proxy.name.to_owned()).chain(figures).collect()
    };
    println!(
        "\n{path}: {CONNECTIONS} kept connections, {runs} rounds of {seconds} s in turn; all are medians, the ratio of pairs"
    );
    let head = ["proxy", "x hand-tuned", "requests/s", "p50 ms", "p99 ms", "CPU us/request", "of its core"];
    print_table(&head, &proxies.iter().map(row).collect::<Vec<_>>());
    println!();
    let Some(nginit) = proxies.iter().find(|proxy| proxy.name == NGINIT) else { return };
    judge(nginit, &proxies[0], GOAL);
    proxies.iter().filter(|proxy| [HAPROXY, CADDY].contains(&proxy.name)).for_each(|peer| judge(nginit, peer, 1.0));
}

/// Says how nginit stands beside another one. Where one of them had time to spare, the rate is that of the servers and of
/// who asks, and nothing is judged; the processor time holds all the same.
fn judge(nginit: &Proxy, other: &Proxy, least: f64) {
    let pairs = || nginit.taken.iter().zip(&other.taken);
    let rate = median(pairs().map(|(own, other)| own.rate / other.rate));
    let processor = median(pairs().map(|(own, other)| other.processor / own.processor));
    let idle = |proxy: &&&Proxy| median(proxy.taken.iter().map(|taken| taken.busy)) < BUSY;
    let verdict = match [nginit, other].iter().find(idle) {
        Some(idle) => format!("not judged, {} had time to spare", idle.name),
        None if rate >= least => "reached".to_owned(),
        None => "MISSED".to_owned(),
    };
    println!(
        "nginit beside {}: {rate:.3} x (by CPU time {processor:.3} x), to reach {least:.2} x: {verdict}",
        other.name
    );
}

/// What asks.
struct Load {
    wrk: PathBuf,
    script: PathBuf,
}

/// One measurement.
struct Taken {
    /// Requests per second.
    rate: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
    /// Microseconds of processor time that the proxy's processes took for a request.
    processor: f64,
    /// The same as a share of the time that passed.
    busy: f64,
    requests: usize,
}

impl Load {
    fn new(wrk: PathBuf, root: &Path) -> Outcome<Self> {
        let script = root.join("load.lua");
        fs::write(&script, SCRIPT)?;
        Ok(Self { wrk, script })
    }

    /// Asks for some seconds, on the core that this process has.
    fn run(&self, address: SocketAddr, path: &str, seconds: u32) -> Outcome<Vec<f64>> {
        let (connections, duration) = (format!("-c{CONNECTIONS}"), format!("-d{seconds}s"));
        let mut command = Command::new(&self.wrk);
        command.args(["-t1", &connections, &duration, "-s"]).arg(&self.script).arg(format!("http://{address}{path}"));
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let figures = said.lines().find_map(|line| line.strip_prefix("figures "));
        let figures = figures.ok_or_else(|| format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let figures: Vec<f64> = figures.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        if figures.len() != 5 || figures[4] > 0.0 {
            return Err(format!("requests fail:\n{said}").into());
        }
        Ok(figures)
    }
}

/// What wrk sends beside the host, and what it tells at the end: requests, microseconds passed, p50, p99, failures.
const SCRIPT: &str = r#"
wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
wrk.headers["Accept"] = "*/*"

function done(summary, latency)
    local bad = summary.errors
    bad = bad.connect + bad.read + bad.write + bad.status + bad.timeout
    print(string.format("figures %d %d %d %d %d", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), bad))
end
"#;

/// A proxy that runs.
struct Proxy {
    name: &'static str,
    address: SocketAddr,
    running: Running,
    /// Of its output, so far.
    lines: Arc<AtomicUsize>,
    is_logging: bool,
    /// Answered in all.
    requests: usize,
    taken: Vec<Taken>,
}

impl Proxy {
    fn start(name: &'static str, site: &Site, argv: &[OsString], is_logging: bool) -> Outcome<Self> {
        let (mut running, _) = site.start_with(argv, Stdio::piped())?;
        let lines = Arc::new(AtomicUsize::new(0));
        let (count, output) = (Arc::clone(&lines), running.stdout().ok_or("no output")?);
        std::thread::spawn(move || read_lines(output, &count));
        Ok(Self { name, address: site.address, running, lines, is_logging, requests: 0, taken: Vec::new() })
    }

    /// Whether the path leads to a server at all.
    fn check(&self, path: &str) -> Outcome<()> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&".".repeat(BODY)) {
            return Ok(());
        }
        Err(format!("{}: {path} is answered with {answer}", self.name).into())
    }

    fn measure(&mut self, load: &Load, path: &str, seconds: u32) -> Outcome<Taken> {
        let before = processor_time(self.running.pid())?;
        let figures = load.run(self.address, path, seconds).map_err(|err| format!("{}: {err}", self.name))?;
        let processor = (processor_time(self.running.pid())? - before) / 1e3;
        let (requests, passed) = (figures[0], figures[1]);
        let taken = Taken {
            rate: requests / passed * 1e6,
            p50: figures[2] / 1e3,
            p99: figures[3] / 1e3,
            processor: processor / requests,
            busy: processor / passed,
            requests: requests as usize,
        };
        self.requests += taken.requests;
        Ok(taken)
    }

    /// Whether the log had a line for each request, or none.
    fn check_log(&self) -> Outcome<()> {
        let lines = || self.lines.load(Ordering::Relaxed);
        if !self.is_logging {
            return if lines() == 0 { Ok(()) } else { Err(format!("{} writes a log", self.name).into()) };
        }
        let what = format!("{}: a line for each of {} requests", self.name, self.requests);
        support::eventually(&what, || Ok(lines() >= self.requests))
    }
}

/// Reads until the end, as a container's engine does.
fn read_lines(mut output: ChildStdout, count: &AtomicUsize) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read) = output.read(&mut piece)
        && read > 0
    {
        count.fetch_add(piece[..read].iter().filter(|byte| **byte == b'\n').count(), Ordering::Relaxed);
    }
}

/// Nanoseconds of processor time of a process and all below it.
fn processor_time(pid: u32) -> Outcome<f64> {
    let mut sum = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let times = fs::read_to_string(task.join("schedstat"))?;
        sum += times.split(' ').next().ok_or("no time")?.parse::<f64>()?;
        for child in fs::read_to_string(task.join("children"))?.split_whitespace() {
            sum += processor_time(child.parse()?)?;
        }
    }
    Ok(sum)
}

/// What proxies and servers are made with.
struct Makers {
    root: PathBuf,
    nginx: PathBuf,
    nginit: PathBuf,
}

const NGINIT: &str = "nginit";
const HAPROXY: &str = "haproxy, no log";
const CADDY: &str = "caddy, no log";

impl Makers {
    fn site(&self, name: &str, cores: Cores) -> Outcome<Site> {
        Site::new(&self.root, name, &self.nginx, &self.nginit, cores)
    }

    /// The servers behind, two for each of two upstreams: one nginx that answers out of its memory.
    fn servers(&self, core: usize) -> Outcome<(Running, [SocketAddr; 4])> {
        let site = self.site("servers", Cores::Numbered(core))?;
        let servers = [site.address, support::free_port()?, support::free_port()?, support::free_port()?];
        let listen: String = servers.iter().map(|server| format!("        listen {server};\n")).collect();
        let conf = SERVERS_CONF.replace("LISTEN", &listen).replace("BODY", &".".repeat(BODY));
        let argv = self.nginx_argv(&site, &conf)?;
        Ok((site.start(&argv)?.0, servers))
    }

    /// The command of an nginx with this configuration.
    fn nginx_argv(&self, site: &Site, conf: &str) -> Outcome<Vec<OsString>> {
        let file = site.dir.join("whole.conf");
        fs::write(&file, conf.replace("DIR", &site.dir.display().to_string()))?;
        Ok(vec![self.nginx.clone().into(), "-c".into(), file.into()])
    }

    /// All that take part, the one that the others are compared with in front.
    fn proxies(&self, servers: [SocketAddr; 4]) -> Outcome<Vec<Proxy>> {
        let fill = |text: &str, site: &Site| {
            let text = text.replace("LISTEN", &site.address.to_string());
            let named = servers.iter().enumerate();
            named.fold(text, |text, (n, server)| text.replace(&format!("SERVER{n}"), &server.to_string()))
        };
        let mut proxies = Vec::new();
        let hands = [
            ("hand-tuned nginx, no log", "off", UPGRADE),
            ("hand-tuned nginx, no WebSockets, no log", "off", BARE),
            ("hand-tuned nginx, unbuffered log", "/dev/stdout combined", UPGRADE),
        ];
        for (n, (name, log, (map, headers))) in hands.into_iter().enumerate() {
            let site = self.site(&format!("hand-{n}"), Cores::One)?;
            let conf = fill(HAND_TUNED_CONF, &site).replace("LOG", log).replace("MAP", map);
            let argv = self.nginx_argv(&site, &conf.replace("HEADERS", headers))?;
            proxies.push(Proxy::start(name, &site, &argv, log != "off")?);
        }
        for (name, log) in [(NGINIT, "text"), ("nginit, NGINIT_ACCESS_LOG=off", "off")] {
            let mut site = self.site(&format!("nginit-{log}"), Cores::One)?;
            let list = |pair: &[SocketAddr]| OsString::from(format!("{} {}", pair[0], pair[1]));
            site.env.retain(|(name, _)| !name.ends_with("_BACKEND"));
            site.env.extend([
                ("STATIC_BACKEND", list(&servers[..2])),
                ("DYNAMIC_BACKEND", list(&servers[2..])),
                ("NGINIT_ACCESS_LOG", log.into()),
            ]);
            let argv = [vec![self.nginit.clone().into()], site.argv.clone()].concat();
            proxies.push(Proxy::start(name, &site, &argv, log != "off")?);
        }
        if let Some(haproxy) = peer("HAPROXY_BIN", "haproxy") {
            let site = self.site("haproxy", Cores::One)?;
            let file = site.dir.join("haproxy.cfg");
            fs::write(&file, fill(HAPROXY_CFG, &site))?;
            proxies.push(Proxy::start(
                HAPROXY,
                &site,
                &[haproxy.into(), "-db".into(), "-f".into(), file.into()],
                false,
            )?);
        }
        if let Some(caddy) = peer("CADDY_BIN", "caddy") {
            let mut site = self.site("caddy", Cores::One)?;
            site.env = vec![("HOME", site.dir.clone().into())];
            let file = site.dir.join("Caddyfile");
            fs::write(&file, fill(CADDYFILE, &site).replace("PORT", &site.address.port().to_string()))?;
            let argv = ["run".into(), "--adapter".into(), "caddyfile".into(), "--config".into(), file.into()];
            proxies.push(Proxy::start(CADDY, &site, &[vec![caddy.into()], argv.to_vec()].concat(), false)?);
        }
        Ok(proxies)
    }
}

/// The servers behind.
const SERVERS_CONF: &str = r#"
pid DIR/nginx.pid;
error_log DIR/error.log crit;
daemon off;
worker_processes 1;
events {
    worker_connections 4096;
}
http {
    access_log off;
    client_body_temp_path DIR/client_body;
    proxy_temp_path       DIR/proxy;
    fastcgi_temp_path     DIR/fastcgi;
    uwsgi_temp_path       DIR/uwsgi;
    scgi_temp_path        DIR/scgi;
    # Whether a proxy keeps its connections is up to the proxy.
    keepalive_requests 100000000;
    server {
LISTEN
        default_type text/plain;
        return 200 "BODY";
    }
}
"#;

/// What a hand-tuned configuration has for WebSockets and for the host, in nginx's own recipe: a map, and headers.
const UPGRADE: (&str, &str) = (
    r#"
    map $http_upgrade $connection_upgrade {
        default upgrade;
        ""      "";
    }
"#,
    r#"
        proxy_set_header Connection       $connection_upgrade;
        proxy_set_header Upgrade          $http_upgrade;
        proxy_set_header X-Forwarded-Host $host;
"#,
);

/// And without them: less than nginit does.
const BARE: (&str, &str) = ("", "        proxy_set_header Connection \"\";\n");

/// What somebody who knows nginx writes for these servers by hand, and no more.
const HAND_TUNED_CONF: &str = r#"
pid DIR/nginx.pid;
error_log DIR/error.log crit;
daemon off;
# One for the one core, as everybody here has.
worker_processes 1;
events {
    # Each request takes two connections.
    worker_connections 4096;
}
http {
    client_body_temp_path DIR/client_body;
    proxy_temp_path       DIR/proxy;
    fastcgi_temp_path     DIR/fastcgi;
    uwsgi_temp_path       DIR/uwsgi;
    scgi_temp_path        DIR/scgi;

    # The whole point of the comparison: no log, or a write for each line.
    access_log LOG;

    # For what comes from files; costs nothing here.
    sendfile   on;
    tcp_nopush on;
    # Clients keep their connections as long as behind nginit.
    keepalive_timeout 65s;
    # A shorter Server field.
    server_tokens off;

MAP
    # The same client goes to the same server, as nginit has it for STATIC_BACKEND.
    upstream static {
        ip_hash;
        server SERVER0;
        server SERVER1;
        # Connections to servers are kept, which is worth more than all else in this file.
        keepalive 64;
    }
    # In turn.
    upstream dynamic {
        server SERVER2;
        server SERVER3;
        keepalive 64;
    }

    server {
        listen LISTEN;

        # What keeping connections to servers takes (the default from 1.29.7 on).
        proxy_http_version 1.1;
HEADERS

        # What servers want to know of the client's request.
        proxy_set_header Host              $host;
        proxy_set_header X-Real-IP         $remote_addr;
        proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;

        # Exact, so that no other path is looked at.
        location = /api/student {
            proxy_pass http://dynamic;
        }
        location / {
            proxy_pass http://static;
        }
    }
}
"#;

/// The same in haproxy's words. Connections to servers are shared freely, as nginx does.
const HAPROXY_CFG: &str = r#"
global
    maxconn 4096
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 65s
    timeout server 60s
    http-reuse always
    option forwardfor
frontend site
    bind LISTEN
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto http
    use_backend dynamic if { path /api/student }
    default_backend static
backend static
    balance source
    server s0 SERVER0
    server s1 SERVER1
backend dynamic
    balance roundrobin
    server s2 SERVER2
    server s3 SERVER3
"#;

/// The same in caddy's words. X-Forwarded-For and -Proto it sets by itself; Go takes one processor where it is given one.
const CADDYFILE: &str = r#"
{
    admin off
    auto_https off
}
http://:PORT {
    bind 127.0.0.1
    handle /api/student {
        reverse_proxy SERVER2 SERVER3 {
            lb_policy round_robin
            header_up X-Real-IP {remote_host}
        }
    }
    handle {
        reverse_proxy SERVER0 SERVER1 {
            lb_policy ip_hash
            header_up X-Real-IP {remote_host}
        }
    }
}
"#;
