//! What the tests of the built binary share: a site in a temporary directory, a running nginit,
//! backends that sign their answers, and waiting for facts.

#![allow(dead_code, reason = "no single test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

pub mod dns;
pub mod scripted;
pub mod serf;
pub mod tls;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nginit::admin::desk::Asked;
use nginit::admin::socket::Listener;
use nginit::admin::{Program, Reloads, State, Status};
use nginit::control::{Control, Doors, Told};

/// The program under test.
pub const NGINIT: &str = env!("CARGO_BIN_EXE_nginit");

/// Longest wait for a fact. Generous: it only shows when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The nginx to test with: `$NGINX_BIN`, or the one in `PATH`. Nothing, with a word about it, where
/// there is none, unless `REQUIRE_NGINX=1` forbids that.
pub fn nginx() -> Option<PathBuf> {
    let found = match std::env::var_os("NGINX_BIN").filter(|path| !path.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => which::which("nginx").or_else(|_| which::which("/usr/sbin/nginx")).ok(),
    };
    if found.is_none() {
        assert_ne!(std::env::var("REQUIRE_NGINX").as_deref(), Ok("1"), "REQUIRE_NGINX=1, and there is no nginx");
        eprintln!("skipped: there is no nginx in PATH, and NGINX_BIN is unset");
    }
    found
}

/// Evaluates to the nginx to test with, or ends the test.
#[macro_export]
macro_rules! nginx_or_skip {
    () => {
        match $crate::support::nginx() {
            Some(nginx) => nginx,
            None => return,
        }
    };
}

/// Waits until `fact` gives something.
pub fn eventually<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, fact).unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}

/// Waits until `fact` gives something, or `time` is over.
pub fn within<T>(time: Duration, mut fact: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(value) = fact() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does `work` with each of `items` at the same time, and waits for all of them even if one fails: what
/// they started ends with them.
pub fn side_by_side<T: Send>(items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    thread::scope(|scope| items.into_iter().for_each(|item| drop(scope.spawn(|| work(item)))));
}

/// A status of which nothing is of interest.
pub fn status() -> Status {
    let program = |pid| Program { version: "1.2.3".to_owned(), pid };
    Status {
        nginit: program(1),
        nginx: program(7),
        state: State::Running,
        generation: 7,
        live_secs: 0,
        upstreams: Vec::new(),
        live: None,
        draining: Vec::new(),
        reloads: Reloads::default(),
        last: None,
        last_secs: None,
    }
}

/// Has `ask` answer what is asked on the control socket `path`, in the thread that nginit has for it.
pub fn control(path: &Path, ask: impl Fn(Asked) -> bool + Send + Sync + 'static) -> Control {
    let doors = Doors { socket: Some(Listener::open(path).unwrap()), ..Doors::default() };
    let ask = Arc::new(ask);
    #[allow(irrefutable_let_patterns, reason = "it tells more than what is asked")]
    let tell = move |told| if let Told::Asked(asked) = told { ask(asked) } else { true };
    let control = Control::start(None, tell).unwrap();
    control.open(doors);
    control
}

/// A port of loopback that nobody listens on. None of those that the kernel gives to clients, so that no
/// connection of another test takes it while nginx is down.
pub fn free_port() -> u16 {
    loop {
        let port = 10_100 + u16::try_from(RandomState::new().build_hasher().finish() % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A server that signs its answers with its name. `/slow?MS` takes its time; `/big` is long.
pub struct Backend {
    pub name: String,
    pub address: SocketAddr,
    /// Requests that were answered.
    pub answered: Arc<AtomicUsize>,
    /// Requests that came in.
    pub asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Backend {
    pub fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same at an address that was another one's, or of a free port where that is 0.
    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let backend = Self {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            answered: Arc::default(),
            asked: Arc::default(),
            stop: Arc::default(),
            streams: Arc::default(),
        };
        let (name, stop) = (name.to_owned(), Arc::clone(&backend.stop));
        let (asked, answered) = (Arc::clone(&backend.asked), Arc::clone(&backend.answered));
        let streams = Arc::clone(&backend.streams);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                streams.lock().unwrap().extend(stream.as_ref().ok().and_then(|s| s.try_clone().ok()));
                let (name, asked, answered) = (name.clone(), Arc::clone(&asked), Arc::clone(&answered));
                thread::spawn(move || answer_all(stream.ok()?, &name, &asked, &answered));
            }
        });
        backend
    }

    pub fn entry(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn answer_all(mut stream: TcpStream, name: &str, asked: &AtomicUsize, answered: &AtomicUsize) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut chunk).ok()? {
                0 => return None,
                n => buffer.extend_from_slice(&chunk[..n]),
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        asked.fetch_add(1, Ordering::SeqCst);
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if let Some((_, ms)) = target.split_once("slow?") {
            thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
        }
        let mut body = format!("{name}\n{head}");
        if target.ends_with("/big") {
            body = "x".repeat(1 << 20);
        }
        // In one piece: the kernel holds a second one back until the first is acknowledged.
        let head = format!("HTTP/1.1 200 OK\r\nX-Server: {name}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).ok()?;
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// An answer of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header, in whatever case its name is written.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A GET on a connection of its own.
pub fn get(port: u16, path: &str) -> std::io::Result<Answer> {
    request(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"))
}

/// A request, raw, on a connection of its own, answered until its end.
pub fn request(port: u16, text: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let bad = || std::io::Error::other(format!("no HTTP answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(bad)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A directory with an nginx.conf, a conf.d, templates, and the variables to start nginit with.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub env: BTreeMap<OsString, OsString>,
    pub nginx: PathBuf,
}

impl Site {
    pub fn new(nginx: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        fs::create_dir(dir.path().join("templates")).unwrap();
        let mut site = Self { dir, port, env: BTreeMap::new(), nginx: nginx.to_owned() };
        site.write("nginx.conf", &site.main_conf(""));
        site.set("NGINIT_CONF_DIR", site.path("conf.d"));
        site.set("NGINIT_TEMPLATES", site.path("templates"));
        site.set("NGINIT_NGINX", nginx);
        site.set("NGINIT_LISTEN", format!("127.0.0.1:{port}"));
        site.set("NGINIT_CONTROL", site.path("control.sock"));
        site.set("NGINIT_WORKERS", "2");
        site.set("NGINIT_ACCESS_LOG", "off");
        // A test that reloads twice does not want to wait in between.
        site.set("NGINIT_RELOAD_INTERVAL", "0");
        site.set("NGINIT_RELOAD_BACKLOG", "0");
        // One that writes a file and sends HUP means one reload.
        site.set("NGINIT_WATCH", "off");
        // Most tests count reloads. Those of what follows without one say so; `NGINIT_TEST_LIVE=auto` lets all of them follow.
        let live = std::env::var_os("NGINIT_TEST_LIVE").unwrap_or_else(|| "off".into());
        site.set("NGINIT_LIVE", live);
        site.set("NGINIT_LOG", "debug");
        site.set("PATH", std::env::var_os("PATH").unwrap_or_default());
        site
    }

    /// The main configuration file, with `more` outside of its blocks.
    pub fn main_conf(&self, more: &str) -> String {
        let dir = self.dir.path().display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("    {name}_temp_path {dir}/tmp-{name};\n"))
            .collect();
        format!(
            "{user}\npid {dir}/nginx.pid;\nerror_log stderr notice;\n{more}\nevents {{ worker_connections 1024; }}\n\
             http {{\n{temp}    access_log off;\n    include conf.d/*.conf;\n}}\n"
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A file that can be executed. Another process writes it: a child that a thread of ours starts
    /// meanwhile would have it open, too, and the kernel runs no file that is open to be written.
    pub fn write_program(&self, name: &str, text: &str) {
        self.write("program", text);
        let mut install = Command::new("install");
        install.args(["-m", "755"]).arg(self.path("program")).arg(self.path(name));
        assert!(install.status().unwrap().success(), "{install:?}");
    }

    pub fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.env.insert(name.into(), value.as_ref().to_owned());
    }

    /// The list of static servers, in a file, so that it can change.
    pub fn set_list(&mut self, text: &str) {
        self.write("list", text);
        self.set("STATIC_BACKEND_FILE", self.path("list"));
    }

    /// What conf.d holds besides what is nginit's own business: file name to text.
    pub fn conf_d(&self) -> BTreeMap<String, String> {
        files_in(&self.path("conf.d"))
    }

    /// The command line that runs nginx on this site.
    pub fn nginx_argv(&self) -> Vec<OsString> {
        vec!["nginx".into(), "-c".into(), self.path("nginx.conf").into()]
    }

    /// nginit with these arguments and this site's variables, and no others.
    pub fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(NGINIT);
        command.args(args).env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }

    /// Waits until the files are older than a clock's tick, so that nginit can tell that they have
    /// not changed since its start.
    pub fn age(&self) {
        let young = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap().elapsed().unwrap_or_default();
        eventually("the files are older", || {
            (young(self.path("nginx.conf")) > Duration::from_millis(200)).then_some(())
        });
    }

    /// Starts nginx under nginit and waits until it answers.
    pub fn start(&self) -> Nginit<'_> {
        let nginit = Nginit::spawn(self, self.command(&self.nginx_argv()));
        nginit.is_up();
        nginit
    }

    /// The same as PID 1 of a PID namespace of its own.
    pub fn start_as_pid_1(&self) -> Nginit<'_> {
        let nginit = Nginit::spawn(self, as_pid_1(&self.command(&self.nginx_argv())));
        nginit.is_up();
        nginit
    }

    /// The server that answers.
    pub fn server(&self) -> Option<String> {
        get(self.port, "/").ok()?.header("X-Server").map(str::to_owned)
    }

    /// Puts a script in front of nginx. While a file `hang` is there, its tests hang, and make a file
    /// `hangs` to say so.
    pub fn wrap_nginx(&mut self) {
        let (dir, nginx) = (self.dir.path().display(), self.nginx.display());
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' -t '*) if [ -e '{dir}/hang' ]; then : > '{dir}/hangs'; \
             while [ -e '{dir}/hang' ]; do sleep 0.02; done; fi;; esac\nexec '{nginx}' \"$@\"\n"
        );
        self.write_program("nginx", &script);
        self.set("NGINIT_NGINX", self.path("nginx"));
    }

    /// The same as [`Site::start_as_pid_1`], after a shell has run `script`: with mounts of its own.
    pub fn start_after(&self, script: &str) -> Nginit<'_> {
        let inner = self.command(&self.nginx_argv());
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script} && exec \"$@\""), "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear().envs(&self.env);
        let nginit = Nginit::spawn(self, as_pid_1(&command));
        nginit.is_up();
        nginit
    }

    /// Starts nginit and waits for its end; gives the status and what it wrote to stderr.
    pub fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> (Option<i32>, String) {
        let nginit = Nginit::spawn(self, self.command(args));
        let status = nginit.wait();
        (status.code(), nginit.log())
    }
}

/// What a configuration directory holds, like [`Site::conf_d`].
pub fn files_in(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with(".nginit"))
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&p).unwrap_or_default()))
        .collect()
}

/// `command` as PID 1 of a PID namespace of its own, with a /proc that fits. Not root: in a user
/// namespace too.
pub fn as_pid_1(command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    unshare.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).env_clear();
    unshare.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshare
}

/// A running nginit. It ends with the value, and what it started with it.
pub struct Nginit<'a> {
    site: &'a Site,
    child: std::cell::RefCell<Child>,
    log: PathBuf,
    /// nginit's own process, also where it is PID 1 of a namespace.
    pub pid: i32,
}

impl<'a> Nginit<'a> {
    pub fn spawn(site: &'a Site, mut command: Command) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let log = site.path(&format!("log-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        // nginx opens /dev/stdout anew: only who appends writes over nobody's lines.
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let in_namespace = command.get_program() == "unshare";
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        let outer = i32::try_from(child.id()).unwrap();
        let pid = if in_namespace { eventually("unshare forks", || children(outer).first().copied()) } else { outer };
        Self { site, child: child.into(), log, pid }
    }

    /// What nginit and nginx wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.raw_log()).into_owned()
    }

    /// The same, byte by byte.
    pub fn raw_log(&self) -> Vec<u8> {
        fs::read(&self.log).unwrap_or_default()
    }

    /// Waits until nginx answers.
    pub fn answers(&self) {
        let answered = within(PATIENCE, || {
            assert!(self.ended().is_none(), "nginit ended\n{}", self.report());
            get(self.site.port, "/nginit/ping").ok().filter(|a| a.status == 200)
        });
        assert!(answered.is_some(), "no answer\n{}", self.report());
    }

    /// Waits until nginx answers, nginit knows it, and commands reach it.
    pub fn is_up(&self) {
        self.answers();
        self.logs("generation 1 answers");
        let control = self.site.env.get(OsStr::new("NGINIT_CONTROL")).filter(|path| *path != "off");
        if let Some(path) = control {
            // A file of somebody else's may be in the way, which is then what a test is about.
            let other = || fs::metadata(path).is_ok_and(|meta| meta.is_file());
            eventually("commands reach nginit", || (UnixStream::connect(path).is_ok() || other()).then_some(()));
        }
    }

    /// Waits until the log holds `text`.
    pub fn logs(&self, text: &str) {
        let seen = within(PATIENCE, || self.log().contains(text).then_some(()));
        assert!(seen.is_some(), "the log never said {text:?}\n{}", self.report());
    }

    /// How often the log holds `text`.
    pub fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        signal_pid(self.pid, signal);
    }

    /// HUP, and the wait until its outcome stands in the log.
    pub fn reload(&self) {
        let outcomes = || self.count(" live, ") + self.count("reload: refused, ") + self.count("reload: unchanged, ");
        let before = outcomes();
        self.signal(rustix::process::Signal::HUP);
        let done = within(PATIENCE, || (outcomes() > before).then_some(()));
        assert!(done.is_some(), "the reload came to nothing\n{}", self.report());
    }

    /// Makes `text` the list, reloads, and waits until no worker of before is left; there are two.
    pub fn reload_list(&self, text: &str) {
        let old = self.workers(2);
        self.site.write("list", text);
        self.reload();
        let master = self.master();
        eventually("new workers alone", || {
            let now = children(master);
            (now.len() == 2 && now.iter().all(|pid| !old.contains(pid))).then_some(())
        });
    }

    /// What `nginit status` tells.
    pub fn status(&self) -> nginit::admin::Status {
        let path = self.site.env.get(OsStr::new("NGINIT_CONTROL")).unwrap();
        let asked = nginit::admin::client::ask(Path::new(path), &nginit::admin::Request::Status, Some(PATIENCE));
        match asked {
            Ok(nginit::admin::Reply::Status(status)) => status,
            other => panic!("{other:?}\n{}", self.report()),
        }
    }

    /// What `nginit list` tells.
    pub fn listing(&self) -> nginit::admin::Listing {
        let path = self.site.env.get(OsStr::new("NGINIT_CONTROL")).unwrap();
        let request = nginit::admin::Request::List { upstream: None };
        match nginit::admin::client::ask(Path::new(path), &request, Some(PATIENCE)) {
            Ok(nginit::admin::Reply::Listing(listing)) => listing,
            other => panic!("{other:?}\n{}", self.report()),
        }
    }

    /// The servers that take requests, with what else nginx is told of them, in order: in a file or without.
    pub fn servers(&self) -> Vec<String> {
        use nginit::admin::ServerState;
        let servers = self.listing().upstreams.into_iter().flat_map(|upstream| upstream.servers);
        let takers = servers.filter(|server| matches!(server.state, ServerState::Up | ServerState::Backup));
        let text = |server: nginit::admin::ServerView| {
            let weight = if server.weight == 1 { String::new() } else { format!(" weight={}", server.weight) };
            let backup = if server.state == ServerState::Backup { " backup" } else { "" };
            server.address + &weight + backup
        };
        let mut servers: Vec<String> = takers.map(text).collect();
        servers.sort();
        servers
    }

    /// Waits until nginit is in this state.
    pub fn is_in(&self, state: nginit::admin::State) {
        let seen = within(PATIENCE, || (self.status().state == state).then_some(()));
        assert!(seen.is_some(), "it is never {state:?}\n{}", self.report());
    }

    /// nginx's workers, once there are `count`.
    pub fn workers(&self, count: usize) -> Vec<i32> {
        let master = self.master();
        let workers = within(PATIENCE, || Some(children(master)).filter(|workers| workers.len() == count));
        workers.unwrap_or_else(|| panic!("not {count} workers: {:?}\n{}", children(master), self.report()))
    }

    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().unwrap()
    }

    /// Waits for the end.
    pub fn wait(&self) -> ExitStatus {
        let ended = within(PATIENCE, || self.ended());
        ended.unwrap_or_else(|| panic!("it does not end\n{}", self.report()))
    }

    /// The status it ends with: 128 + N after a signal.
    pub fn code(&self) -> i32 {
        let status = self.wait();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// nginx's master process.
    pub fn master(&self) -> i32 {
        let of = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let master = || children(self.pid).into_iter().find(|pid| of(pid).contains("master process"));
        within(PATIENCE, master).unwrap_or_else(|| panic!("no master\n{}", self.report()))
    }

    /// Everything that helps to understand a failure.
    pub fn report(&self) -> String {
        let mut text = format!("--- status: {:?}\n--- log:\n{}\n", self.ended(), self.log());
        for (name, file) in self.site.conf_d() {
            let _ = writeln!(text, "--- conf.d/{name}:\n{file}");
        }
        text
    }
}

impl Drop for Nginit<'_> {
    fn drop(&mut self) {
        let groups = children(self.pid);
        let child = self.child.get_mut();
        if child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = child.kill();
            let _ = child.wait();
            // nginx leads a group of its own, with workers that it starts just now.
            for leader in groups.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(leader, rustix::process::Signal::KILL);
                let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
            }
        }
    }
}

pub fn signal_pid(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let others = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok()).collect::<String>();
    let mut all: Vec<i32> = [text, others].join(" ").split_whitespace().filter_map(|p| p.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A line of /proc/PID/status, without its name.
pub fn status_line(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    line.trim().to_owned()
}
