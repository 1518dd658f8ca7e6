//! Those who take part: each a proxy in front of the same servers, and the way in which a server is added and removed
//! while it runs.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nginit::admin::{Order, Reply, Request, What, client};

use super::support::{self, Cores, DEADLINE, Outcome, Running, Site};

/// The most servers that haproxy takes in turn (its manual, `balance`).
const MOST_IN_TURN: usize = 4095;

/// Who learns of a server, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `nginit add`, sent over the control socket.
    Nginit,
    /// The same where nginx is reloaded for it.
    NginitOff,
    /// sed on nginx's configuration, and a reload; without nginit.
    Sed,
    /// `add server` and `enable server` over haproxy's socket.
    Haproxy,
    /// The whole list by caddy's admin API.
    Caddy,
}

impl Way {
    pub const ALL: [Self; 5] = [Self::Nginit, Self::NginitOff, Self::Sed, Self::Haproxy, Self::Caddy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Nginit => "nginit add",
            Self::NginitOff => "nginit add, NGINIT_LIVE=off",
            Self::Sed => "sed, nginx -s reload",
            Self::Haproxy => "haproxy, add server",
            Self::Caddy => "caddy, PATCH upstreams",
        }
    }
}

/// What rivals are made of.
pub struct Cast {
    pub root: PathBuf,
    pub nginx: PathBuf,
    pub nginit: PathBuf,
    /// Where they are installed.
    pub haproxy: Option<PathBuf>,
    pub caddy: Option<PathBuf>,
}

impl Cast {
    pub fn has(&self, way: Way) -> bool {
        match way {
            Way::Haproxy => self.haproxy.is_some(),
            Way::Caddy => self.caddy.is_some(),
            Way::Nginit | Way::NginitOff | Way::Sed => true,
        }
    }

    /// The servers behind: one nginx that answers, on every address of the loopback at its port, with the address at
    /// which it was asked, and below `/slow` with a file that takes an hour.
    pub fn servers(&self) -> Outcome<(Running, u16)> {
        let site = Site::new(&self.root, "servers", &self.nginx, &self.nginit, Cores::All)?;
        fs::File::create(site.dir.join("slow"))?.set_len(8 << 20)?;
        let file = site.dir.join("whole.conf");
        let port = site.address.port();
        let conf = SERVERS_CONF.replace("DIR", &site.dir.display().to_string());
        fs::write(&file, conf.replace("PORT", &port.to_string()))?;
        let argv: Vec<OsString> = vec![self.nginx.clone().into(), "-c".into(), file.into()];
        Ok((site.start(&argv)?.0, port))
    }
}

/// A proxy that runs.
pub struct Rival<'a> {
    pub way: Way,
    pub site: Site,
    pub running: Running,
    cast: &'a Cast,
    /// Those that are always there.
    servers: Vec<SocketAddr>,
    /// Of caddy.
    admin: SocketAddr,
    /// How haproxy calls the server that was added last: a name is free again only once no connection is left.
    added: usize,
}

impl<'a> Rival<'a> {
    pub fn start(cast: &'a Cast, way: Way, name: &str, servers: &[SocketAddr]) -> Outcome<Self> {
        let mut site = Site::new(&cast.root, name, &cast.nginx, &cast.nginit, Cores::All)?;
        let admin = support::free_port()?;
        let list = site.dir.join("list");
        fs::write(&list, servers.iter().map(|server| format!("{server}\n")).collect::<String>())?;
        site.env.retain(|(name, _)| !name.ends_with("_BACKEND"));
        site.env.extend([
            ("POOL_BACKEND_FILE", list.into()),
            ("POOL_ROUTE", "/".into()),
            ("NGINIT_ACCESS_LOG", "off".into()),
            ("NGINIT_RELOAD_BACKLOG", "0".into()),
            ("HOME", site.dir.clone().into()),
        ]);
        if way != Way::Nginit {
            site.env.push(("NGINIT_LIVE", "off".into()));
        }
        let argv: Vec<OsString> = match way {
            Way::Nginit | Way::NginitOff => [vec![cast.nginit.clone().into()], site.argv.clone()].concat(),
            Way::Sed => {
                site.render(&cast.nginit, &site.conf_dir())?;
                site.completed.clone()
            }
            Way::Haproxy => {
                let file = site.dir.join("haproxy.cfg");
                fs::write(&file, haproxy_cfg(&site, servers))?;
                let haproxy = cast.haproxy.clone().ok_or("no haproxy")?;
                vec![haproxy.into(), "-db".into(), "-f".into(), file.into()]
            }
            Way::Caddy => {
                let file = site.dir.join("caddy.json");
                fs::write(&file, caddy_json(&site, admin, servers).to_string())?;
                let caddy = cast.caddy.clone().ok_or("no caddy")?;
                vec![caddy.into(), "run".into(), "--config".into(), file.into()]
            }
        };
        let (running, _) = site.start(&argv)?;
        let rival = Self { way, site, running, cast, servers: servers.to_vec(), admin, added: 0 };
        // nginit is up before it is done with the start.
        rival.settle()?;
        Ok(rival)
    }

    /// Makes a server come, or the one that came last go; over when the command has its answer. That of nginit comes
    /// at once, or when it is done.
    pub fn change(&mut self, server: SocketAddr, comes: bool, wait: bool) -> Outcome<()> {
        match self.way {
            Way::Nginit | Way::NginitOff => self.order(server, comes, wait),
            Way::Sed => self.edit(server, comes),
            Way::Haproxy => {
                self.added += usize::from(comes);
                let name = format!("pool/new{}", self.added);
                let commands = if comes {
                    format!("add server {name} {server}; enable server {name}\n")
                } else {
                    format!("disable server {name}; del server {name}\n")
                };
                let said = exchange(UnixStream::connect(self.site.dir.join("haproxy.sock"))?, commands.as_bytes())?;
                if !comes || said.contains("registered") { Ok(()) } else { Err(said.into()) }
            }
            Way::Caddy => {
                let new = comes.then_some(server);
                let list = upstreams(self.servers.iter().copied().chain(new)).to_string();
                let (admin, length) = (self.admin, list.len());
                let head = format!(
                    "PATCH /id/pool/upstreams HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\
                     Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
                );
                let said = exchange(TcpStream::connect(admin)?, (head + &list).as_bytes())?;
                if said.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(said.into()) }
            }
        }
    }

    fn order(&self, server: SocketAddr, comes: bool, wait: bool) -> Outcome<()> {
        let what = if comes { What::Add } else { What::Remove };
        let order = Order { what, upstream: "pool".to_owned(), server: server.to_string(), wait };
        match client::ask(&self.control(), &Request::Order(order), Some(DEADLINE))? {
            Reply::Ordered(_) => Ok(()),
            reply => Err(format!("{reply:?}").into()),
        }
    }

    pub fn control(&self) -> PathBuf {
        self.site.dir.join("control.sock")
    }

    /// nginx reloaded as somebody who has no nginit would do it: a line more or less.
    fn edit(&self, server: SocketAddr, comes: bool) -> Outcome<()> {
        let conf = self.site.conf_dir().join("default.conf");
        let edit = if comes {
            let last = self.servers.last().ok_or("no servers")?;
            format!("/upstream pool_backend/,/}}/s/^\\( *server \\){last}\\(.*\\)$/&\\n\\1{server}\\2/")
        } else {
            format!("/server {server}/d")
        };
        self.site.run(Path::new("sed"), &["-i".into(), edit.into(), conf.into()])?;
        let (nginx, args) = self.site.completed.split_first().ok_or("no nginx")?;
        self.site.run(Path::new(nginx), &[args, &["-s".into(), "reload".into()]].concat())
    }

    /// Waits until nginx's old processes are gone, where it is reloaded.
    pub fn settle(&self) -> Outcome<()> {
        match self.way {
            Way::Haproxy | Way::Caddy => Ok(()),
            Way::Nginit | Way::NginitOff | Way::Sed => support::eventually("the end of old workers", || {
                thread::sleep(Duration::from_millis(5));
                Ok(self.running.workers()? == self.site.workers)
            }),
        }
    }

    /// What the program says of its version.
    pub fn version(&self) -> String {
        let (program, argument) = match self.way {
            Way::Haproxy => (self.cast.haproxy.clone(), "-v"),
            Way::Caddy => (self.cast.caddy.clone(), "version"),
            Way::Nginit | Way::NginitOff | Way::Sed => (Some(self.cast.nginx.clone()), "-v"),
        };
        let output = program.and_then(|program| std::process::Command::new(program).arg(argument).output().ok());
        let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
    }
}

/// Sends all of it, and gives what comes until the other end closes.
pub fn exchange(mut stream: impl Read + Write, what: &[u8]) -> Outcome<String> {
    stream.write_all(what)?;
    Ok(io::read_to_string(stream)?)
}

/// The servers behind.
const SERVERS_CONF: &str = r#"
pid DIR/nginx.pid;
error_log DIR/error.log crit;
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
events {
    worker_connections 16384;
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
        listen 0.0.0.0:PORT;
        default_type text/plain;
        location / {
            return 200 "$server_addr:$server_port\n";
        }
        location /slow {
            root DIR;
            limit_rate 2k;
        }
    }
}
"#;

fn haproxy_cfg(site: &Site, servers: &[SocketAddr]) -> String {
    let lines = servers.iter().enumerate().map(|(n, server)| format!("    server s{n} {server}\n"));
    let balance = if servers.len() < MOST_IN_TURN { "roundrobin" } else { "leastconn" };
    HAPROXY_CFG
        .replace("DIR", &site.dir.display().to_string())
        .replace("LISTEN", &site.address.to_string())
        .replace("BALANCE", balance)
        + &lines.collect::<String>()
}

/// As near to what nginit renders as haproxy can be.
const HAPROXY_CFG: &str = r#"
global
    maxconn 4096
    stats socket DIR/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 65s
    timeout server 60s
    option forwardfor
frontend site
    bind LISTEN
    http-request return status 200 content-type text/plain string "ok\n" if { path /nginit/ping }
    default_backend pool
backend pool
    balance BALANCE
"#;

/// The same for caddy; connections that are open at a change have as long as nginx's old workers.
fn caddy_json(site: &Site, admin: SocketAddr, servers: &[SocketAddr]) -> serde_json::Value {
    let proxy = serde_json::json!({
        "@id": "pool",
        "handler": "reverse_proxy",
        "load_balancing": {"selection_policy": {"policy": "round_robin"}},
        "upstreams": upstreams(servers.iter().copied()),
    });
    let ping = serde_json::json!({
        "match": [{"path": ["/nginit/ping"]}],
        "handle": [{"handler": "static_response", "status_code": 200, "body": "ok\n"}],
        "terminal": true,
    });
    let server = serde_json::json!({
        "listen": [site.address.to_string()],
        "automatic_https": {"disable": true},
        "routes": [ping, {"handle": [proxy]}],
    });
    serde_json::json!({
        "admin": {"listen": admin.to_string(), "config": {"persist": false}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {"http": {"grace_period": "30s", "servers": {"site": server}}},
    })
}

fn upstreams(servers: impl Iterator<Item = SocketAddr>) -> serde_json::Value {
    servers.map(|server| serde_json::json!({"dial": server.to_string()})).collect()
}
