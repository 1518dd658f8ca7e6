//! From the signal of a reload to the first answer of the new configuration, and what clients
//! notice: nginit beside nginx reloaded by hand and haproxy, in turn, with the same servers.
//! `cargo bench --bench reload -- --runs 30`

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::load::{self, Tally};
use support::{Cores, Outcome, Running, Site, max, median, min, percentile, print_limit, print_table, program};

/// Who brings a new list of servers into effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A script that replaces nginx's files and sends HUP.
    Script,
    /// The same with `nginx -t` in between.
    CarefulScript,
    /// nginit, once the list is replaced.
    Nginit,
    /// haproxy's master, once its file is replaced.
    Haproxy,
}

/// One way to reload a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    name: &'static str,
    who: Who,
    /// Told to leave idle connections to their clients for a while, which nobody is by default.
    lenient: bool,
}

const fn way(name: &'static str, who: Who, lenient: bool) -> Way {
    Way { name, who, lenient }
}

const NGINX: Way = way("nginx", Who::Script, true);
const CAREFUL: Way = way("nginx -t, nginx", Who::CarefulScript, true);
const NGINIT: Way = way("nginit", Who::Nginit, true);
const HAPROXY: Way = way("haproxy", Who::Haproxy, false);
/// Further ways that differ under load alone.
const PLAIN: Way = way("nginx without keepalive_min_timeout", Who::Script, false);
const LENIENT_HAPROXY: Way = way("haproxy, idle-close-on-response", Who::Haproxy, true);

/// What nginx from 1.27.4 on has and the built-in templates use.
const LENIENCE: &str = "keepalive_min_timeout";

/// Between the beginnings of two reloads under load, unless one takes longer.
const SPACING: Duration = Duration::from_millis(200);

/// Before another proxy has its turn, for what follows after the first answer.
const REST: Duration = Duration::from_millis(50);

/// Connections that ask for the new configuration at once. A connection alone is nearly always taken
/// by the worker that has waited longest, which is an old one as long as there is any.
const AT_ONCE: usize = 8;

/// Most reloads of one way under load before another has its turn.
const MOST_IN_TURN: usize = 10;

/// Programs that take part, and the port of the servers behind.
struct Cast {
    root: PathBuf,
    nginx: PathBuf,
    nginit: PathBuf,
    haproxy: Option<PathBuf>,
    servers_port: u16,
}

fn main() -> Outcome<()> {
    let (Some(runs), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let root = tempfile::tempdir()?;
    let (servers_port, _) = load::serve()?;
    let haproxy = program("haproxy");
    if haproxy.is_none() {
        println!("haproxy is not installed: left out");
    }
    let nginit = support::static_binary()?;
    let cast = Cast { root: root.path().to_owned(), nginx, nginit, haproxy, servers_port };
    alone(&cast, runs)?;
    loaded(&cast, runs)
}

/// Reloads while nothing else happens.
fn alone(cast: &Cast, runs: usize) -> Outcome<()> {
    let (mut rows, mut shares) = (Vec::new(), Vec::new());
    for servers in [2, 100, 1_000, 10_000] {
        let mut proxies = cast.start("alone", &[NGINX, CAREFUL, NGINIT, HAPROXY], servers)?;
        let mut totals = vec![Vec::new(); proxies.len()];
        let mut tests = Vec::new();
        for round in 0..=runs {
            for turn in 0..proxies.len() {
                // Nobody always follows the same one.
                let at = (turn + round) % proxies.len();
                let change = proxies[at].writer.prepare(cast)?;
                let took = proxies[at].reload(cast, &change)?;
                proxies[at].settle()?;
                if round > 0 {
                    totals[at].push(took.total);
                    tests.extend(took.test);
                }
            }
        }
        let mut row = |name: &str, times: &[f64], added: String| {
            let all = || times.iter().copied();
            let figures = [median(all()), min(all()), max(all())].map(|figure| format!("{figure:.1}"));
            rows.push([vec![format!("{servers}: {name}")], figures.to_vec(), vec![added]].concat());
        };
        let added = |times: &[f64]| median(times.iter().zip(&totals[0]).map(|(own, base)| own - base));
        row("nginx -t alone", &tests, String::new());
        for (proxy, times) in proxies.iter().zip(&totals) {
            row(proxy.writer.way.name, times, format!("{:.1}", added(times)));
        }
        let tested: Vec<f64> = totals[2].iter().zip(&tests).map(|(own, test)| own - test).collect();
        shares.push((servers, added(&tested)));
    }
    println!(
        "\nreload to the first answer of the new configuration, {runs} reloads in turn; added is a median of pairs"
    );
    print_table(&["servers: reload", "median ms", "min ms", "max ms", "added ms"], &rows);
    println!("\nnginit beside nginx and one nginx -t of the same round:");
    shares.iter().for_each(|(servers, share)| print_limit(&format!("{servers} servers"), *share, 10.0, "ms"));
    Ok(())
}

/// Reloads while clients ask.
fn loaded(cast: &Cast, reloads: usize) -> Outcome<()> {
    let mut rows = Vec::new();
    let mut lost_by_nginit = 0;
    for servers in [2, 1_000] {
        let mut proxies = cast.start("loaded", &[NGINX, PLAIN, CAREFUL, NGINIT, HAPROXY, LENIENT_HAPROXY], servers)?;
        // The last is for nginx that is left alone.
        let mut met: Vec<(Tally, Vec<Took>)> = (0..=proxies.len()).map(|_| Default::default()).collect();
        for round in 0..reloads.div_ceil(MOST_IN_TURN) {
            let count = MOST_IN_TURN.min(reloads - round * MOST_IN_TURN);
            for turn in 0..met.len() {
                let at = (turn + round) % met.len();
                let (proxy, count_here) = if at < proxies.len() { (at, count) } else { (0, 0) };
                let proxy = &mut proxies[proxy];
                let changes = (0..count_here).map(|_| proxy.writer.prepare(cast)).collect::<Outcome<Vec<_>>>()?;
                let work = || spaced(count, |n| changes.get(n).map(|change| proxy.reload(cast, change)).transpose());
                let (tally, times) = load::during(proxy.writer.site.address, work)?;
                met[at].0.add(tally);
                met[at].1.extend(times);
                proxy.settle()?;
            }
        }
        met.rotate_right(1);
        let names = std::iter::once("nginx, no reload").chain(proxies.iter().map(|proxy| proxy.writer.way.name));
        for (name, (tally, times)) in names.zip(&met) {
            let Tally { milliseconds, lost, stale } = tally;
            let time = |percent| format!("{:.2}", percentile(milliseconds.iter().copied(), percent));
            let counts = [milliseconds.len() + lost, *lost, *stale].map(|count| count.to_string());
            let unheard: usize = times.iter().map(|took| took.unheard).sum();
            let reload = median(times.iter().map(|took| took.total));
            let reloads = if times.is_empty() {
                [String::new(), String::new()]
            } else {
                [format!("{reload:.1}"), unheard.to_string()]
            };
            let name_cell = vec![format!("{servers}: {name}")];
            rows.push([name_cell, counts.to_vec(), vec![time(50), time(99)], reloads.to_vec()].concat());
            lost_by_nginit += if name == NGINIT.name { *lost } else { 0 };
        }
    }
    println!(
        "\n{reloads} reloads under load, {} ms apart; reload is the median to the first new answer",
        SPACING.as_millis()
    );
    print_table(
        &["servers: reload", "requests", "lost", "of them stale", "p50 ms", "p99 ms", "reload ms", "unheard"],
        &rows,
    );
    print_limit("\nlost by nginit", lost_by_nginit as f64, 0.0, "requests");
    Ok(())
}

/// Does the work `count` times, spaced; what comes of each.
fn spaced<T>(count: usize, mut work: impl FnMut(usize) -> Outcome<Option<T>>) -> Outcome<Vec<T>> {
    let mut all = Vec::new();
    for n in 0..count {
        let next = Instant::now() + SPACING;
        all.extend(work(n)?);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(all)
}

impl Cast {
    /// Starts a proxy for each of the ways that is possible here.
    fn start(&self, part: &str, ways: &[Way], servers: usize) -> Outcome<Vec<Proxy>> {
        let mut proxies: Vec<Proxy> = Vec::new();
        for (n, way) in ways.iter().enumerate() {
            if way.who == Who::Haproxy && self.haproxy.is_none() {
                continue;
            }
            let name = format!("{part}-{servers}-{n}");
            match Proxy::start(self, *way, &name, servers)? {
                Some(proxy) => proxies.push(proxy),
                None => println!("this nginx has no {LENIENCE}: \"{}\" is left out", way.name),
            }
        }
        Ok(proxies)
    }
}

/// A proxy that runs.
struct Proxy {
    writer: Writer,
    running: Running,
    /// Processes of one generation.
    workers: usize,
}

/// Milliseconds of a reload.
struct Took {
    test: Option<f64>,
    total: f64,
    /// Signals that came to nothing.
    unheard: usize,
}

impl Proxy {
    /// Nothing where the way is the same as another one.
    fn start(cast: &Cast, way: Way, name: &str, servers: usize) -> Outcome<Option<Self>> {
        let mut writer = Writer::new(cast, way, name, servers)?;
        let change = writer.prepare(cast)?;
        if change.is_in_vain {
            return Ok(None);
        }
        change.apply()?;
        let (site, haproxy) = (&writer.site, cast.haproxy.clone().unwrap_or_default());
        let (workers, argv) = match way.who {
            Who::Haproxy => {
                (1, vec![haproxy.into(), "-W".into(), "-db".into(), "-f".into(), writer.haproxy_cfg().into()])
            }
            Who::Nginit => (site.workers, [vec![cast.nginit.clone().into()], site.argv.clone()].concat()),
            Who::Script | Who::CarefulScript => (site.workers, site.completed.clone()),
        };
        let (running, _) = site.start(&argv)?;
        let proxy = Self { running, workers, writer };
        proxy.wait_for(&change)?;
        proxy.settle()?;
        Ok(Some(proxy))
    }

    /// Brings a change into effect; the clock runs from before the first file is replaced.
    fn reload(&self, cast: &Cast, change: &Change) -> Outcome<Took> {
        let begin = Instant::now();
        let milliseconds = || begin.elapsed().as_secs_f64() * 1e3;
        change.apply()?;
        let mut test = None;
        if self.writer.way.who == Who::CarefulScript {
            let begin = milliseconds();
            self.writer.site.run(&cast.nginx, &[&self.writer.site.completed[1..], &["-t".into()]].concat())?;
            test = Some(milliseconds() - begin);
        }
        let mut unheard = 0;
        if self.writer.way.who == Who::Haproxy {
            self.running.signal(Signal::USR2);
            // Version 2.6 under load does nothing about some. Nobody else is excused.
            let patience = Duration::from_secs(1) + Duration::from_millis(u64::try_from(self.writer.servers)?);
            if !support::within(patience, || Ok(self.tells(change)))? {
                unheard = 1;
                self.running.signal(Signal::USR2);
            }
        } else {
            self.running.signal(Signal::HUP);
        }
        self.wait_for(change)?;
        Ok(Took { test, unheard, total: milliseconds() })
    }

    fn tells(&self, change: &Change) -> bool {
        load::answers(self.writer.generation_address, AT_ONCE).iter().any(|told| told.ends_with(&change.answer))
    }

    fn wait_for(&self, change: &Change) -> Outcome<()> {
        support::eventually(&change.answer, || Ok(self.tells(change)))
            .map_err(|err| format!("{}: {err}\n{}", self.writer.way.name, self.writer.site.stderr()).into())
    }

    /// Waits until the old generations are gone, and all that comes after a reload with them.
    fn settle(&self) -> Outcome<()> {
        support::eventually("the end of old generations", || Ok(self.running.workers()? == self.workers))?;
        std::thread::sleep(REST);
        Ok(())
    }
}

/// Who writes the lists of servers for one proxy, and what is made of them.
struct Writer {
    way: Way,
    site: Site,
    /// Where the last server of the list is what the proxy answers.
    generation_address: SocketAddr,
    servers: usize,
    servers_port: u16,
    generation: usize,
}

/// New files, ready to be put in place.
struct Change {
    /// How the answer of the new configuration ends.
    answer: String,
    /// From where to where.
    files: Vec<(PathBuf, PathBuf)>,
    /// What should make the way a different one does nothing.
    is_in_vain: bool,
}

impl Change {
    fn apply(&self) -> Outcome<()> {
        Ok(self.files.iter().try_for_each(|(new, live)| fs::rename(new, live))?)
    }
}

impl Writer {
    fn new(cast: &Cast, way: Way, name: &str, servers: usize) -> Outcome<Self> {
        let mut site = Site::new(&cast.root, name, &cast.nginx, &cast.nginit, Cores::All)?;
        let generation_address = support::free_port()?;
        let templates = site.dir.join("templates");
        fs::create_dir(&templates)?;
        let template = GENERATION_TEMPLATE.replace("ADDRESS", &generation_address.to_string());
        fs::write(templates.join("generation.conf.j2"), template)?;
        site.env.retain(|(name, _)| !name.ends_with("_BACKEND") && *name != "NGINIT_TEMPLATES");
        site.env.extend([
            ("STATIC_BACKEND_FILE", site.dir.join("list").into()),
            ("NGINIT_TEMPLATES", templates.into()),
            ("NGINIT_ACCESS_LOG", "off".into()),
            ("NGINIT_RELOAD_INTERVAL", "0".into()),
            ("NGINIT_RELOAD_BACKLOG", "0".into()),
        ]);
        Ok(Self { way, site, generation_address, servers, servers_port: cast.servers_port, generation: 0 })
    }

    fn haproxy_cfg(&self) -> PathBuf {
        self.site.dir.join("haproxy.cfg")
    }

    /// Writes what the next reload puts in place.
    fn prepare(&mut self, cast: &Cast) -> Outcome<Change> {
        self.generation += 1;
        let addresses = self.addresses();
        let answer = format!("\r\n\r\n{}\n", addresses.last().ok_or("no servers")?);
        let list = addresses.join("\n");
        let (dir, live_list) = (self.site.dir.join(format!("next-{}", self.generation)), self.site.dir.join("list"));
        fs::create_dir(&dir)?;
        let mut is_in_vain = false;
        let files = match self.way.who {
            Who::Nginit => {
                fs::write(dir.join("list"), list)?;
                vec![(dir.join("list"), live_list)]
            }
            Who::Haproxy => {
                fs::write(dir.join("haproxy.cfg"), self.haproxy_text(&addresses))?;
                vec![(dir.join("haproxy.cfg"), self.haproxy_cfg())]
            }
            Who::Script | Who::CarefulScript => {
                fs::write(live_list, list)?;
                self.site.render(&cast.nginit, &dir)?;
                if !self.way.lenient {
                    is_in_vain = !remove_lines(&dir.join("default.conf"), LENIENCE)?;
                }
                let conf_dir = self.site.conf_dir();
                let names =
                    fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name())).collect::<Outcome<Vec<OsString>>>()?;
                names.iter().map(|name| (dir.join(name), conf_dir.join(name))).collect()
            }
        };
        Ok(Change { answer, files, is_in_vain })
    }

    /// The servers of the generation. All are the one that answers; the last names the generation.
    fn addresses(&self) -> Vec<String> {
        let address = |net: usize, n: usize| format!("127.{net}.{}.{}:{}", n >> 8, n & 255, self.servers_port);
        (1..self.servers).map(|n| address(1, n)).chain([address(2, self.generation)]).collect()
    }

    fn haproxy_text(&self, addresses: &[String]) -> String {
        let lines = addresses.iter().enumerate().map(|(n, address)| format!("    server s{n} {address}\n"));
        HAPROXY_CFG
            .replace("DIR", &self.site.dir.display().to_string())
            .replace("SITE", &self.site.address.to_string())
            .replace("GENERATION", &self.generation_address.to_string())
            .replace("LAST", addresses.last().map_or("", String::as_str))
            .replace("OPTION", if self.way.lenient { "option idle-close-on-response" } else { "" })
            + &lines.collect::<String>()
    }
}

/// A second server that answers with the last server of the list.
const GENERATION_TEMPLATE: &str = r#"server {
    listen ADDRESS;
    default_type text/plain;
    return 200 "{% for upstream in upstreams %}{{ (upstream.servers | last).address }}{% endfor %}\n";
}
"#;

/// As near to what nginit renders as haproxy can be. The listeners are handed over without a gap.
const HAPROXY_CFG: &str = r#"global
    maxconn 4096
    hard-stop-after 30s
    stats socket DIR/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 65s
    timeout server 60s
    OPTION
frontend site
    bind SITE
    http-request return status 200 content-type text/plain string "ok\n" if { path /nginit/ping }
    default_backend static
frontend generation
    bind GENERATION
    http-request return status 200 content-type text/plain string "LAST\n"
backend static
    balance source
"#;

/// Removes the lines of a file that contain `what`, and says whether there were any.
fn remove_lines(file: &Path, what: &str) -> Outcome<bool> {
    let text = fs::read_to_string(file)?;
    let rest: String = text.split_inclusive('\n').filter(|line| !line.contains(what)).collect();
    fs::write(file, &rest)?;
    Ok(rest.len() < text.len())
}
