//! What the benchmarks share: the command line, medians and tables, a site that nginx serves, and
//! processes that are started, asked until they answer, and stopped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nginit::nginx::command::{CommandLine, Needs};
use rustix::process::{Pid, Signal, kill_process};

pub mod load;
pub mod network;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Longest wait for anything; what takes longer is broken, not slow.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// In which /proc counts CPU time (`USER_HZ`, proc(5)).
pub const TICKS_PER_SECOND: f64 = 100.0;

/// Between two attempts to connect. Some attempt finds the socket before a worker answers on it,
/// and then the answer itself is waited for, so this is no part of what is measured.
const PAUSE: Duration = Duration::from_micros(20);

/// The core of who asks, where things run on cores of their own.
pub const ASKERS_CORE: usize = 1;

/// Where things run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Where the scheduler puts them.
    All,
    /// Everything that is started on one core, as in a container with one; who asks, on another.
    One,
    /// Everything that is started on this one.
    Numbered(usize),
}

impl Cores {
    fn place(self, core: usize) {
        if self != Self::All {
            let core = if let Self::Numbered(own) = self { own } else { core };
            let mut cores = rustix::thread::CpuSet::new();
            cores.set(core);
            let _ = rustix::thread::sched_setaffinity(None, &cores);
        }
    }
}

/// How often each thing is done. Nothing where this is not `cargo bench` (`cargo test
/// --all-targets` starts benchmarks too) or the command line is wrong.
pub fn runs() -> Option<usize> {
    let mut runs = 30;
    let mut is_bench = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => is_bench = true,
            "--runs" => runs = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0)?,
            "--seconds" => drop(args.next().and_then(|n| n.parse::<u32>().ok()).filter(|n| *n > 0)?),
            "--servers" | "--only" => drop(args.next()?),
            _ => {
                eprintln!(
                    "usage: cargo bench [--bench start|memory|render|reload|proxy|members|names|live] [-- --runs N --seconds S]\n\
                     live alone: --servers N,N --only served|lost|cost"
                );
                return None;
            }
        }
    }
    is_bench.then_some(runs)
}

/// How long each measurement of load takes, where [`runs`] found the command line right.
pub fn seconds() -> u32 {
    option("--seconds").and_then(|n| n.parse().ok()).unwrap_or(2)
}

/// What follows an option on the command line.
pub fn option(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2));
    low.zip(high).map_or(f64::NAN, |(low, high)| f64::midpoint(*low, *high))
}

pub fn min(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

pub fn max(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// What `percent` of the values do not exceed.
pub fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Prints a table that can be pasted into Markdown.
pub fn print_table(head: &[&str], rows: &[Vec<String>]) {
    let cells = || rows.iter().map(|row| row.iter().map(String::as_str).collect::<Vec<_>>());
    let width =
        |n: usize| cells().map(|row| row[n].chars().count()).chain([head[n].len(), 3]).max().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(n, (cell, width))| if n == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule = |n: usize| if n == 0 { "-".repeat(widths[n]) } else { format!("{}:", "-".repeat(widths[n] - 1)) };
    let rules: Vec<String> = (0..head.len()).map(rule).collect();
    println!("\n{}\n{}", line(head), line(&rules.iter().map(String::as_str).collect::<Vec<_>>()));
    cells().for_each(|row| println!("{}", line(&row)));
}

/// Says whether a limit is kept. Nothing fails: a busy machine is no fault of the program.
pub fn print_limit(what: &str, value: f64, limit: f64, unit: &str) {
    let verdict = if value <= limit { "kept" } else { "MISSED" };
    println!("{what}: {value:.2} {unit}, limit {limit:.2} {unit}: {verdict}");
}

/// nginx, where tests look for it too.
pub fn nginx() -> Option<PathBuf> {
    let found = program(&std::env::var("NGINX_BIN").unwrap_or_else(|_| "nginx".to_owned()));
    if found.is_none() {
        println!("nginx is not installed and NGINX_BIN names none: nothing is measured");
    }
    found
}

pub fn program(name: &str) -> Option<PathBuf> {
    which::which(name).ok()
}

/// A program by a variable, else by its name in PATH.
pub fn named(variable: &str, name: &str) -> Option<PathBuf> {
    program(&std::env::var(variable).unwrap_or_else(|_| name.to_owned()))
}

/// The same for a rival; the output says who is missing.
pub fn peer(variable: &str, name: &str) -> Option<PathBuf> {
    let found = named(variable, name);
    if found.is_none() {
        println!("{name} is not installed and {variable} names none: left out");
    }
    found
}

/// The static release binary: `NGINIT_BENCH_BINARY`, or one that cargo builds now.
pub fn static_binary() -> Outcome<PathBuf> {
    if let Some(given) = std::env::var_os("NGINIT_BENCH_BINARY") {
        return Ok(given.into());
    }
    let built = build()?;
    // Pages of a file that is not on disk yet would count as private and dirty.
    File::open(&built)?.sync_all()?;
    Ok(built)
}

fn build() -> Outcome<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("cargo gave no target directory")?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--release", "--quiet", "--bin", "nginit", "--target", &triple, "--target-dir"])
        .arg(target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C force-frame-pointers=yes")
        .status()?;
    if !built.success() {
        return Err("the static binary does not build".into());
    }
    Ok(target.join(triple).join("release/nginit"))
}

/// A directory with a configuration for nginx, and a port of its own.
pub struct Site {
    pub dir: PathBuf,
    pub address: SocketAddr,
    /// `nginx -c CONF`
    pub argv: Vec<OsString>,
    /// The same as nginit completes it: with the binary's path and directives that it adds, but for a log of nginit's own.
    pub completed: Vec<OsString>,
    /// What nginit is told.
    pub env: Vec<(&'static str, OsString)>,
    /// How many workers nginx has.
    pub workers: usize,
    cores: Cores,
}

impl Site {
    /// Makes the site `name` below `root`, and has `nginit` render its configuration into
    /// `DIR/rendered`.
    pub fn new(root: &Path, name: &str, nginx: &Path, nginit: &Path, cores: Cores) -> Outcome<Self> {
        let dir = root.join(name);
        let conf_dir = dir.join("conf.d");
        fs::create_dir_all(&conf_dir)?;
        let address = free_port()?;
        let conf = main_conf(&dir);
        fs::write(dir.join("nginx.conf"), &conf)?;
        let argv: Vec<OsString> = vec!["nginx".into(), "-c".into(), dir.join("nginx.conf").into()];
        let line = CommandLine::parse(argv.clone(), None);
        cores.place(0);
        let workers = std::thread::available_parallelism()?.get();
        let count = u16::try_from(workers)?;
        let timeout = Some(Duration::from_secs(30));
        let needs = Needs { workers: || count, worker_shutdown_timeout: timeout, errors: None };
        let globals = line.nginx.as_ref().ok_or("not nginx")?.missing_globals(&conf, &needs);
        let env = vec![
            ("STATIC_BACKEND", "127.0.0.1:9001 127.0.0.1:9002".into()),
            ("DYNAMIC_BACKEND", "127.0.0.1:9003 127.0.0.1:9004".into()),
            ("NGINIT_LISTEN", address.to_string().into()),
            ("NGINIT_CONF_DIR", conf_dir.into()),
            ("NGINIT_TEMPLATES", dir.join("none").into()),
            ("NGINIT_CONTROL", dir.join("control.sock").into()),
            ("NGINIT_NGINX", nginx.into()),
            ("NGINIT_RELOAD_INTERVAL", "0".into()),
        ];
        let site = Self { completed: line.with(nginx, &globals), dir, address, argv, env, workers, cores };
        site.render(nginit, &site.rendered())?;
        Ok(site)
    }

    /// Has `nginit` render the configuration into `out`.
    pub fn render(&self, nginit: &Path, out: &Path) -> Outcome<()> {
        self.run(nginit, &["render".into(), "--out".into(), out.into()])
    }

    /// Runs something that ends by itself, and in success.
    pub fn run(&self, program: &Path, args: &[OsString]) -> Outcome<()> {
        let output = self.command(program, args).stderr(Stdio::piped()).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} {args:?} fails: {said}", program.display()).into())
    }

    pub fn rendered(&self) -> PathBuf {
        self.dir.join("rendered")
    }

    pub fn conf_dir(&self) -> PathBuf {
        self.dir.join("conf.d")
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// A command with the site's environment and nothing else but PATH.
    fn command(&self, program: &Path, args: &[OsString]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(self.env.iter().cloned());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts `argv`, waits until nginx answers, and says how long that took from before the fork.
    pub fn start(&self, argv: &[OsString]) -> Outcome<(Running, Duration)> {
        self.start_with(argv, Stdio::null())
    }

    /// The same with an output that goes somewhere.
    pub fn start_with(&self, argv: &[OsString], stdout: Stdio) -> Outcome<(Running, Duration)> {
        let (program, args) = argv.split_first().ok_or("no command")?;
        let mut command = self.command(Path::new(program), args);
        command.stdout(stdout);
        command.stderr(File::create(self.dir.join("stderr"))?);
        self.cores.place(0);
        let begin = Instant::now();
        let child = command.spawn()?;
        if self.cores != Cores::All {
            Cores::One.place(ASKERS_CORE);
        }
        let mut running = Running { child, pid_file: self.dir.join("nginx.pid") };
        match answer(self.address, begin, &mut running.child) {
            Ok(()) => Ok((running, begin.elapsed())),
            Err(err) => Err(format!("{argv:?}: {err}\n{}", self.stderr()).into()),
        }
    }
}

/// The main file of the proxy's image, with everything that nginx writes or includes below `dir`.
fn main_conf(dir: &Path) -> String {
    let conf = include_str!("../../nginx/nginx.conf");
    let conf = conf.replace("/run/nginit/", &format!("{}/", dir.display()));
    conf.replace("    include /etc/nginx/conf.d/*.conf;\n", "")
        .replace("error_log stderr notice;", "error_log /dev/null crit;")
}

/// A port that nobody listens on, from below those that the kernel gives to clients: there, an
/// attempt to connect to a port that is not open yet could meet itself.
pub fn free_port() -> Outcome<SocketAddr> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 18_000)?;
    loop {
        let port = first + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
        if port > 32_000 {
            return Err("no port is free".into());
        }
    }
}

/// Asks until nginx answers 200.
fn answer(address: SocketAddr, begin: Instant, child: &mut Child) -> Outcome<()> {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET /nginit/ping HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    while begin.elapsed() < DEADLINE {
        if ask().unwrap_or(false) {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("ended early, {status}").into());
        }
        std::thread::sleep(PAUSE);
    }
    Err("no answer in time".into())
}

/// Waits until `fact` holds.
pub fn eventually(what: &str, fact: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    if within(DEADLINE, fact)? { Ok(()) } else { Err(format!("in vain: {what}").into()) }
}

/// Waits until `fact` holds, and says whether it does in time.
pub fn within(limit: Duration, mut fact: impl FnMut() -> Outcome<bool>) -> Outcome<bool> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if fact()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(false)
}

/// A process that was started, and the nginx below it. Both end with it.
pub struct Running {
    child: Child,
    pid_file: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The output, where it was started with a pipe, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// nginx's master, where there is one.
    pub fn nginx(&self) -> Option<u32> {
        fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()
    }

    /// How many processes nginx's master has, or the one that was started where no nginx is.
    pub fn workers(&self) -> Outcome<usize> {
        let master = self.nginx().unwrap_or(self.child.id());
        Ok(fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?.split_whitespace().count())
    }

    /// What nginx's master process says that it is.
    pub fn nginx_title(&self) -> Outcome<String> {
        let pid = self.nginx().ok_or("nginx has no pid file")?;
        let title = fs::read(format!("/proc/{pid}/cmdline"))?;
        Ok(String::from_utf8_lossy(&title).trim_end_matches('\0').to_owned())
    }
}

impl Drop for Running {
    /// Stops nginx, whereupon everything above it ends by itself.
    fn drop(&mut self) {
        let nginx = self.nginx();
        send(nginx.unwrap_or(self.child.id()), Signal::INT);
        let ended = eventually("the end", || Ok(self.child.try_wait()?.is_some()));
        if ended.is_err() {
            let _ = self.child.kill();
            nginx.into_iter().for_each(|pid| send(pid, Signal::KILL));
        }
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The CPU time that the process has spent so far, its threads together, in `USER_HZ` (proc(5)): of itself, and of
/// those of its children that it has waited for.
pub fn ticks(pid: u32) -> Outcome<[u64; 2]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before may have blanks. utime and stime are the 14th and 15th, the children's follow (proc(5)).
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name")?;
    let times: Vec<u64> = fields.split(' ').skip(11).take(4).map(str::parse).collect::<Result<_, _>>()?;
    Ok([times.iter().take(2).sum(), times.iter().skip(2).sum()])
}

/// What is resident, and what of it is its own, in KiB.
pub fn memory(pid: u32) -> Outcome<[f64; 2]> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let figure = |name: &str| -> Outcome<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or(format!("no {name}"))?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    };
    Ok([figure("Rss:")?, figure("Private_Dirty:")?])
}

/// A list of `count` servers.
pub fn servers(count: usize) -> String {
    (0..count).map(|n| format!("10.{}.{}.{}:8080\n", n >> 16, n >> 8 & 255, n & 255)).collect()
}
