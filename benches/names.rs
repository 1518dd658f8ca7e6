//! Memory and CPU time of nginit while it follows host names, as the DNS server of a process apart answers.
//! `cargo bench --bench names -- --seconds 60`

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::ffi::OsString;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::network::{self, dns::Dns};
use support::{Cores, Outcome, Site, TICKS_PER_SECOND, memory, print_limit, print_table, ticks};

/// Has the process be the DNS server: how many names it knows, and for how many seconds they are good.
const SERVER: &str = "NGINIT_BENCH_DNS";

/// How many names there are, the seconds that answers are good for, and what `NAME_RESOLVE` says.
const CASES: [(usize, u32, &str); 4] = [(0, 30, ""), (100, 30, "interval=1s"), (1_000, 30, ""), (1_000, 1, "")];

/// Before the measurement, for the first answers and the reload that they may bring.
const FIRST: Duration = Duration::from_secs(5);

fn main() -> Outcome<()> {
    if let Ok(says) = std::env::var(SERVER) {
        return serve(&says);
    }
    let (Some(_), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let nginit = support::static_binary()?;
    if !network::is_inside(&nginit)? {
        return Ok(());
    }
    let seconds = if std::env::args().any(|arg| arg == "--seconds") { support::seconds() } else { 60 };
    let root = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let mut limits = Vec::new();
    for (n, (names, ttl, resolve)) in CASES.into_iter().enumerate() {
        let mut site = Site::new(root.path(), &format!("site-{n}"), &nginx, &nginit, Cores::All)?;
        site.env.retain(|(name, _)| !name.ends_with("_BACKEND") && *name != "NGINIT_RELOAD_INTERVAL");
        let list: Vec<String> = (0..names).map(|n| format!("n{n}.test:8080")).collect();
        let list = if names == 0 { "127.0.0.1:8080".to_owned() } else { list.join(" ") };
        site.env.extend([("STATIC_BACKEND", list.into()), ("STATIC_RESOLVE", resolve.into())]);
        let server = Server::start(names, ttl)?;
        let argv = [vec![OsString::from(&nginit)], site.argv.clone()].concat();
        let (running, _) = site.start(&argv)?;
        std::thread::sleep(FIRST);
        let (begin, before) = (Instant::now(), ticks(running.pid())?[0]);
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let spent = (ticks(running.pid())?[0] - before) as f64 / TICKS_PER_SECOND;
        let percent = spent / begin.elapsed().as_secs_f64() * 100.0;
        let [resident, dirty] = memory(running.pid())?;
        drop(running);
        drop(server);
        let what = match (names, resolve) {
            (0, _) => "none".to_owned(),
            (_, "") => format!("{names}, good for {ttl} s"),
            _ => format!("{names}, {resolve}"),
        };
        rows.push(vec![what, format!("{resident:.0}"), format!("{dirty:.0}"), format!("{percent:.2}")]);
        limits.push((percent, resident));
    }
    println!("\nnginit while it follows names for {seconds} s");
    print_table(&["names", "resident kB", "private dirty kB", "CPU %"], &rows);
    let megabytes = |kib: f64| kib * 1024.0 / 1e6;
    print_limit("\nresident with none", megabytes(limits[0].1), 4.0, "MB");
    print_limit("resident with 1,000", megabytes(limits[2].1), 12.0, "MB");
    print_limit("CPU with 1,000", limits[2].0, 1.0, "%");
    Ok(())
}

fn serve(says: &str) -> Outcome<()> {
    let (names, ttl) = says.split_once(' ').ok_or("two numbers")?;
    let (names, ttl): (usize, u32) = (names.parse()?, ttl.parse()?);
    let dns = Dns::start("127.0.0.53");
    for n in 0..names {
        dns.set_addresses(&format!("n{n}.test"), ttl, &[&format!("127.7.{}.{}", n >> 8, n & 255)]);
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// The DNS server. It ends with the value.
struct Server(Child);

impl Server {
    fn start(names: usize, ttl: u32) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.env(SERVER, format!("{names} {ttl}")).stdout(Stdio::piped()).spawn()?;
        let mut stdout = child.stdout.take().ok_or("no pipe")?;
        let server = Self(child);
        stdout.read_exact(&mut [0; 5])?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
