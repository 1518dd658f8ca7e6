//! Servers that come and go under load, beside what a user would do instead: how long a new one takes to answer, what
//! clients notice of many changes, and what it costs nginit and nginx to stay in touch.
//! `cargo bench --bench live -- --runs 5`, one part of it with `--only served`, `lost` or `cost`
//!
//! All is in a network of its own, with one nginx for all servers. `HAPROXY_BIN` and `CADDY_BIN` name what is not in PATH.

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

#[path = "live/rivals.rs"]
mod rivals;
#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use rivals::{Cast, Rival, Way, exchange};
use support::load::{self, Clients, Tally};
use support::{Outcome, TICKS_PER_SECOND, max, median, memory, min, network, percentile, print_table, ticks};

/// Most rounds of each.
const MOST_RUNS: usize = 20;

/// Who asks all the time while a server comes: connections that are kept, each without a pause.
const ASKERS: usize = 4;

/// Between rounds, and what each round rests longer than the one before: nginx goes by the seconds of the wall clock, and
/// a change may come at any moment of one.
const REST: Duration = Duration::from_millis(300);
const SHIFT: Duration = Duration::from_millis(137);

/// Servers of the part that counts losses.
const FEW: usize = 10;

/// Changes a run; 5 runs make 60.
const CHANGES: usize = 12;

/// Between two changes under load.
const SPACING: Duration = Duration::from_millis(200);

/// Downloads that are open from before the changes.
const DOWNLOADS: usize = 20;

/// How long they are watched after the last change: nginx's old workers have 30 s (`worker_shutdown_timeout`).
const WATCHED: Duration = Duration::from_secs(32);

/// Between two changes while the cost is measured.
const QUICK: Duration = Duration::from_millis(100);

/// Before the cost is measured, for what follows a start.
const FIRST: Duration = Duration::from_secs(5);

fn main() -> Outcome<()> {
    let (Some(runs), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let nginit = support::static_binary()?;
    if !network::is_inside(&nginit)? {
        return Ok(());
    }
    let runs = if support::option("--runs").is_some() { runs.min(MOST_RUNS) } else { 5 };
    let counts = |default: &str| -> Outcome<Vec<usize>> {
        let given = support::option("--servers").unwrap_or_else(|| default.to_owned());
        Ok(given.split(',').map(str::parse).collect::<Result<_, _>>()?)
    };
    let only = support::option("--only");
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let root = tempfile::tempdir()?;
    let (haproxy, caddy) = (support::peer("HAPROXY_BIN", "haproxy"), support::peer("CADDY_BIN", "caddy"));
    let cast = Cast { root: root.path().to_owned(), nginx, nginit, haproxy, caddy };
    let (_servers, port) = cast.servers()?;
    if wanted("served") {
        served(&cast, port, &counts("10,200,1000,5000")?, runs)?;
    }
    if wanted("lost") {
        lost(&cast, port, runs * CHANGES)?;
    }
    if wanted("cost") {
        let seconds = if support::option("--seconds").is_some() { support::seconds() } else { 60 };
        cost(&cast, port, &counts("10,100,1000,5000")?, Duration::from_secs(seconds.into()))?;
    }
    Ok(())
}

/// The servers that are always there.
fn standing(count: usize, port: u16) -> Vec<SocketAddr> {
    (0..count).map(|n| address(8, n, port)).collect()
}

/// The one that comes in this round.
fn newcomer(n: usize, port: u16) -> SocketAddr {
    address(9, n, port)
}

#[expect(clippy::cast_possible_truncation, reason = "bytes of a number below 65,536")]
fn address(net: u8, n: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([127, net, (n >> 8) as u8, n as u8], port))
}

/// From the event to the first answer of the new server.
fn served(cast: &Cast, port: u16, counts: &[usize], runs: usize) -> Outcome<()> {
    let mut rows = Vec::new();
    for &count in counts {
        for way in Way::ALL.into_iter().filter(|way| cast.has(*way)) {
            let mut rival = Rival::start(cast, way, &format!("served-{count}-{way:?}"), &standing(count, port))?;
            // The others are nginx too.
            if Some(&count) == counts.first() && !matches!(way, Way::NginitOff | Way::Sed) {
                println!("{}", rival.version());
            }
            let mut taken = Vec::new();
            for round in 0..=runs {
                match come(&mut rival, newcomer(round, port)) {
                    Ok(took) if round > 0 => taken.push(took),
                    Ok(_) => {}
                    Err(err) => println!("{count}: {}: {err}", way.name()),
                }
                thread::sleep(REST + SHIFT * u32::try_from(round)?);
            }
            let told = || taken.iter().map(|(told, _)| *told);
            let answers = || taken.iter().map(|(_, answers)| *answers);
            let figures = [median(told()), median(answers()), min(answers()), max(answers())];
            let name = vec![format!("{count}: {}", way.name())];
            rows.push([name, figures.map(|figure| format!("{figure:.1}")).to_vec()].concat());
        }
    }
    println!(
        "\nfrom the event to the first answer of the new server, {runs} rounds each, while {ASKERS} clients ask without \
         a pause"
    );
    print_table(&["servers: event", "command ms", "median ms", "min ms", "max ms"], &rows);
    Ok(())
}

/// Milliseconds until the command has its answer, and until a client has one of the new server. It is gone afterwards.
fn come(rival: &mut Rival, new: SocketAddr) -> Outcome<(f64, f64)> {
    let (answer, first) = (format!("{new}\n"), OnceLock::new());
    let hear = |body: &[u8]| {
        if body == answer.as_bytes() {
            first.get_or_init(Instant::now);
        }
    };
    let askers =
        Clients { address: rival.site.address, count: ASKERS, all_keep: true, pause: Duration::ZERO, hear: &hear };
    let (_, took) = askers.during(|| {
        thread::sleep(REST);
        let begin = Instant::now();
        rival.change(new, true, true)?;
        let told = begin.elapsed();
        support::eventually("the new server answers", || Ok(first.get().is_some()))?;
        let answers = first.get().map(|first| first.duration_since(begin)).unwrap_or_default();
        Ok([told, answers].map(|time| time.as_secs_f64() * 1e3))
    })?;
    rival.change(new, false, true)?;
    rival.settle()?;
    Ok((took[0], took[1]))
}

/// What clients notice of many changes.
fn lost(cast: &Cast, port: u16, changes: usize) -> Outcome<()> {
    // The first is for nginx that is left alone.
    let cases: Vec<(Way, usize)> = std::iter::once((Way::Nginit, 0))
        .chain(Way::ALL.into_iter().filter(|way| cast.has(*way)).map(|way| (way, changes)))
        .collect();
    let mut met = Vec::new();
    for (n, (way, changes_here)) in cases.into_iter().enumerate() {
        let mut rival = Rival::start(cast, way, &format!("lost-{n}"), &standing(FEW, port))?;
        let address = rival.site.address;
        let downloads = Downloads::open(address)?;
        let mut most = 0;
        let mut work = || {
            for change in 0..changes {
                let next = Instant::now() + SPACING;
                if change < changes_here {
                    rival.change(newcomer(change / 2, port), change % 2 == 0, false)?;
                }
                most = most.max(rival.running.workers()?);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        };
        let (tally, ()) = load::during(address, &mut work)?;
        let most = if matches!(way, Way::Haproxy | Way::Caddy) { 1 } else { most };
        met.push((rival, changes_here, tally, most, downloads));
    }
    // All are watched together, each for at least that long.
    thread::sleep(WATCHED);
    let rows = met.into_iter().map(|(rival, changes, tally, most, downloads)| {
        let Tally { milliseconds, lost, stale } = &tally;
        let name = if changes == 0 { "nginit, no change" } else { rival.way.name() };
        let time = |percent| format!("{:.2}", percentile(milliseconds.iter().copied(), percent));
        let counts = [milliseconds.len() + lost, *lost, *stale].map(|count| count.to_string());
        let rest = [downloads.cut().to_string(), most.to_string()];
        [vec![name.to_owned()], counts.to_vec(), rest.to_vec(), vec![time(50), time(99)]].concat()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    println!(
        "\n{changes} changes under load, {} ms apart, {FEW} servers, {DOWNLOADS} downloads meanwhile",
        SPACING.as_millis()
    );
    print_table(
        &["change", "requests", "lost", "of them stale", "downloads cut", "most workers", "p50 ms", "p99 ms"],
        &rows,
    );
    Ok(())
}

/// Downloads that take an hour. What was sent waits in the sockets until somebody looks.
struct Downloads(Vec<TcpStream>);

impl Downloads {
    fn open(address: SocketAddr) -> Outcome<Self> {
        let send = |_| -> Outcome<TcpStream> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(support::DEADLINE))?;
            stream.write_all(b"GET /slow HTTP/1.1\r\nHost: bench\r\n\r\n")?;
            Ok(stream)
        };
        // A slow answer also begins late, so they are waited for together.
        let mut sent = (0..DOWNLOADS).map(send).collect::<Outcome<Vec<_>>>()?;
        for stream in &mut sent {
            let mut head = [0; 12];
            stream.read_exact(&mut head)?;
            if &head != b"HTTP/1.1 200" {
                return Err("no download".into());
            }
        }
        Ok(Self(sent))
    }

    /// How many of them ended, which all did too early.
    fn cut(self) -> usize {
        let is_cut = |mut stream: TcpStream| {
            let _ = stream.set_nonblocking(true);
            let mut piece = [0; 65_536];
            loop {
                match stream.read(&mut piece) {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(err) => return err.kind() != ErrorKind::WouldBlock,
                }
            }
        };
        self.0.into_iter().map(is_cut).filter(|cut| *cut).count()
    }
}

/// What it costs nginit and nginx to stay in touch, with nobody asking for anything.
fn cost(cast: &Cast, port: u16, counts: &[usize], watched: Duration) -> Outcome<()> {
    let mut rows = Vec::new();
    for &count in counts {
        let mut rival = Rival::start(cast, Way::Nginit, &format!("cost-{count}"), &standing(count, port))?;
        thread::sleep(FIRST);
        let rest = Spent::during(&mut rival, |_| {
            thread::sleep(watched);
            Ok(())
        })?;
        let [resident, dirty] = memory(rival.running.pid())?;
        let busy = Spent::during(&mut rival, |rival| {
            let begin = Instant::now();
            for change in 0.. {
                if begin.elapsed() > watched / 3 {
                    break;
                }
                let next = Instant::now() + QUICK;
                rival.change(newcomer(change / 2, port), change % 2 == 0, false)?;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        })?;
        let memory = [resident, dirty, shared(&rival)?].map(|kib| format!("{kib:.0}"));
        rows.push([vec![count.to_string()], rest.cells(), busy.cells(), memory.to_vec()].concat());
    }
    println!(
        "\nnobody asks: at rest for {} s, and a change each {} ms for a third of it",
        watched.as_secs(),
        QUICK.as_millis()
    );
    let head = [
        "servers",
        "rest: nginx CPU %",
        "nginit CPU %",
        "questions/s",
        "changes: nginx CPU %",
        "nginit CPU %",
        "questions/s",
        "nginit resident kB",
        "private dirty kB",
        "zones kB",
    ];
    print_table(&head, &rows);
    Ok(())
}

/// What was spent in a time.
struct Spent {
    /// Per cent of a core: nginx's processes together, and nginit.
    nginx: f64,
    nginit: f64,
    /// A second; nothing where nginit does not count them.
    questions: Option<f64>,
}

impl Spent {
    fn during(rival: &mut Rival, work: impl FnOnce(&mut Rival) -> Outcome<()>) -> Outcome<Self> {
        let look = |rival: &Rival| -> Outcome<_> {
            Ok((nginx_ticks(rival)?, ticks(rival.running.pid())?[0], questions(rival)?))
        };
        let (begin, before) = (Instant::now(), look(rival)?);
        work(rival)?;
        let after = look(rival)?;
        let seconds = begin.elapsed().as_secs_f64();
        let percent =
            |before: u64, after: u64| after.saturating_sub(before) as f64 / TICKS_PER_SECOND / seconds * 100.0;
        let asked = before.2.zip(after.2).map(|(before, after)| after.saturating_sub(before) as f64 / seconds);
        Ok(Self { nginx: percent(before.0, after.0), nginit: percent(before.1, after.1), questions: asked })
    }

    fn cells(&self) -> Vec<String> {
        let questions = self.questions.map_or("-".to_owned(), |questions| format!("{questions:.1}"));
        vec![format!("{:.2}", self.nginx), format!("{:.2}", self.nginit), questions]
    }
}

/// nginx's workers, and the master.
fn nginx_pids(rival: &Rival) -> Outcome<Vec<u32>> {
    let master = rival.running.nginx().ok_or("nginx has no pid file")?;
    let workers = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    let workers = workers.split_whitespace().map(|pid| Ok(pid.parse()?));
    std::iter::once(Ok(master)).chain(workers).collect()
}

/// CPU time of all of them, of workers that ended too. One that ends meanwhile is counted by its master.
fn nginx_ticks(rival: &Rival) -> Outcome<u64> {
    let pids = nginx_pids(rival)?;
    let spent = |(n, pid): (usize, &u32)| {
        let [own, ended] = ticks(*pid).unwrap_or_default();
        if n == 0 { own + ended } else { own }
    };
    Ok(pids.iter().enumerate().map(spent).sum())
}

/// Shared memory that nginx has written to, in KiB: its zones. Each process counts what it has seen itself.
fn shared(rival: &Rival) -> Outcome<f64> {
    let zones = |pid: &u32| -> Outcome<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let mut sum = 0.0;
        let mut is_zone = false;
        for line in text.lines() {
            // A mapping begins with its addresses, its figures are names with a colon.
            match line.split_once(':') {
                Some(("Rss", figure)) if is_zone => sum += figure.trim().trim_end_matches(" kB").parse::<f64>()?,
                Some((name, _)) if !name.contains(' ') => {}
                _ => is_zone = line.ends_with("/dev/zero (deleted)"),
            }
        }
        Ok(sum)
    };
    Ok(max(nginx_pids(rival)?.iter().filter_map(|pid| zones(pid).ok())))
}

/// How many questions nginx has asked nginit so far, where nginit says so.
fn questions(rival: &Rival) -> Outcome<Option<u64>> {
    let ask = b"GET /v1/status HTTP/1.1\r\nHost: nginit\r\nConnection: close\r\n\r\n";
    let said = exchange(UnixStream::connect(rival.control())?, ask)?;
    let (_, body) = said.split_once("\r\n\r\n").ok_or("no answer")?;
    let status: serde_json::Value = serde_json::from_str(body)?;
    Ok(status["live"]["asked"].as_u64())
}
