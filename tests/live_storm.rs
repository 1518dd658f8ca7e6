//! nginx follows its servers without a reload, under load: storms of changes, thousands of servers, and the first
//! requests after a start. `NGINIT_TEST_LONG=1` takes larger numbers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

#[path = "support/live.rs"]
mod live;
#[path = "support/load.rs"]
mod load;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live::{Chance, Steady, many, order, taken, weight};
use load::{BINARY, CLOSE, Connection, DROPS, Load, Outcome, Reply, Request, Server};
use nginit::admin::What;
use support::{Nginit, PATIENCE, Site, eventually, free_port, within};

const MS: fn(u64) -> Duration = Duration::from_millis;

#[track_caller]
fn ends_without_a_loss(load: Load, nginit: &Nginit) {
    for (name, tally) in load.stop() {
        println!("{name}: {tally}");
        assert!(tally.fine.load(Ordering::Relaxed) > 0, "{name}");
        let lost = tally.lost.lock().unwrap();
        let again = tally.again.load(Ordering::Relaxed);
        assert!(lost.is_empty() && again == 0, "{name}: {tally}: {:?}\n{}", lost.first(), nginit.report());
    }
}

/// No request that may change something came twice, and none is missing.
fn posts_came_once<'a>(servers: impl IntoIterator<Item = &'a Server>) {
    let mut posts: BTreeMap<String, usize> = BTreeMap::new();
    for (request, times) in servers.into_iter().flat_map(Server::seen).filter(|(name, _)| name.starts_with("POST ")) {
        *posts.entry(request).or_default() += times;
    }
    let twice: Vec<_> = posts.iter().filter(|(_, times)| **times != 1).collect();
    assert!(!posts.is_empty() && twice.is_empty(), "{twice:?}");
}

/// Which servers there are, as changes have it: of each its share, and whether it is drained. The first one stands in
/// the list, and only its share changes.
struct Model {
    servers: Vec<String>,
    known: Vec<Option<(u16, bool)>>,
}

impl Model {
    fn new(servers: &[Server]) -> Self {
        let mut known = vec![None; servers.len()];
        known[0] = Some((1, false));
        Self { servers: servers.iter().map(Server::entry).collect(), known }
    }

    /// A change by chance, and the server that it is about.
    fn change(&mut self, chance: &mut Chance) -> (What, String) {
        let at = chance.below(self.known.len());
        let share = u16::try_from(1 + chance.below(5)).unwrap();
        let (what, now) = match (self.known[at], chance.below(4)) {
            (None, _) => (What::Add, Some((1, false))),
            (Some((_, drained)), 0) => (weight(share), Some((share, drained))),
            (Some((_, drained)), _) if at == 0 => (weight(share), Some((share, drained))),
            (Some((share, true)), 1) => (What::Undrain, Some((share, false))),
            (Some((share, false)), 1) => (What::Drain, Some((share, true))),
            (Some(_), _) => (What::Remove, None),
        };
        self.known[at] = now;
        (what, self.servers[at].clone())
    }

    /// The share of each server.
    fn shares(&self) -> Vec<usize> {
        let share = |known: &Option<(u16, bool)>| known.filter(|(_, drained)| !drained).map_or(0, |(share, _)| share);
        self.known.iter().map(|known| usize::from(share(known))).collect()
    }
}

/// How many requests each server has had.
fn counts(servers: &[Server]) -> Vec<usize> {
    servers.iter().map(|server| server.seen().values().sum()).collect()
}

/// Asks for `target` so many times, on a connection that is kept as long as nginx lets it.
fn ask(site: &Site, target: &str, times: usize) {
    let mut kept = None;
    for _ in 0..times {
        let mut connection = kept.take().unwrap_or_else(|| Connection::open(site.port).unwrap());
        assert_eq!(connection.ask("GET", target, b"").unwrap().status, 200);
        kept = Some(connection).filter(|kept| !kept.said_close);
    }
}

#[test]
fn a_storm_of_changes_loses_nothing_and_ends_as_it_should() {
    let nginx = live_nginx_or_skip!();
    let servers = [(); 10].map(|()| Server::start(load::all));
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", servers[0].entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let mut load = Load::default();
    for n in 0..3 {
        load.add("keeping", load::keeping(site.port, MS(1 + n), false));
        load.add("posting", load::posting(site.port, MS(1 + n)));
    }
    load.add("closing", load::closing(site.port, MS(3)));
    let (mut model, mut chance) = (Model::new(&servers), Chance::new());
    let (start, changes) = (Instant::now(), many(500, 10_000));
    for number in 1..=changes {
        let (what, server) = model.change(&mut chance);
        // Those who wait see that answers come.
        order(&site, what, &server, number % 50 == 0);
        thread::sleep(MS(u64::try_from(chance.below(20)).unwrap()));
    }
    taken(&nginit);
    let fine = load.fine();
    println!("{changes} changes in {:?}, {fine} requests, told {:?}", start.elapsed(), nginit.status().live);
    assert!(fine > 1000, "{fine}");
    ends_without_a_loss(load, &nginit);
    posts_came_once(&servers);
    steady.holds(&nginit);
    let (before, shares, rounds) = (counts(&servers), model.shares(), 20);
    ask(&site, "/", rounds * shares.iter().sum::<usize>());
    for (at, (after, share)) in counts(&servers).into_iter().zip(&shares).enumerate() {
        let (had, due) = (after - before[at], rounds * share);
        assert!(had.abs_diff(due) <= *share, "server {at} had {had}, not {due}: {shares:?}\n{}", nginit.report());
    }
    steady.holds(&nginit);
}

/// As [`load::all`], and `/drip/N` slowly.
fn dripping(request: &Request) -> Reply {
    match load::seed_of(&request.target) {
        seed if request.target.starts_with("/drip/") => Reply::Drip(load::pattern(seed, 4096 * DROPS), MS(80)),
        _ => load::all(request),
    }
}

/// Talks until it is told to end.
fn talk(port: u16, end: &AtomicBool) -> io::Result<()> {
    let mut stream = load::upgrade(port)?;
    while !end.load(Ordering::SeqCst) {
        load::exchange(&mut stream, BINARY, &load::pattern(load::unique(), 100))?;
        thread::sleep(MS(50));
    }
    load::exchange(&mut stream, CLOSE, &[])
}

#[test]
fn what_is_open_stays_open_whatever_comes_and_goes() {
    const OF_EACH: usize = 50;
    let nginx = live_nginx_or_skip!();
    let servers = [(); 4].map(|()| Server::start(dripping));
    let mut site = live::site(&nginx);
    site.set("STATIC_BACKEND", servers[0].entry());
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let mut model = Model::new(&servers);
    for (at, server) in servers.iter().enumerate().skip(1) {
        live::follow(&site, What::Add, &server.entry());
        model.known[at] = Some((1, false));
    }
    let (end, port) = (AtomicBool::new(false), site.port);
    thread::scope(|scope| {
        let talks: Vec<_> = (0..OF_EACH).map(|_| scope.spawn(|| talk(port, &end))).collect();
        let drips = (0..OF_EACH).map(|_| {
            scope.spawn(move || {
                let seed = load::unique();
                let answer = Connection::open(port).unwrap().ask("GET", &format!("/drip/{seed}"), b"");
                answer.is_ok_and(|answer| answer.status == 200 && answer.body == load::pattern(seed, 4096 * DROPS))
            })
        });
        let drips: Vec<_> = drips.collect();
        let open = || counts(&servers).into_iter().sum::<usize>();
        let all = within(PATIENCE, || (open() >= 2 * OF_EACH).then_some(()));
        // The server that stays need not have one more than the others.
        let each = counts(&servers);
        let mut chance = Chance::new();
        for _ in 0..50 {
            let (what, server) = model.change(&mut chance);
            order(&site, what, &server, false);
            thread::sleep(MS(30));
        }
        // All that had some but the first one go.
        for (at, server) in servers.iter().enumerate().skip(1) {
            if model.known[at].is_some() {
                order(&site, if at == 1 { What::Drain } else { What::Remove }, &server.entry(), true);
            }
        }
        let under_way = drips.iter().filter(|drip| !drip.is_finished()).count();
        ask(&site, "/after", 20);
        // Whatever fails, nobody talks for ever.
        end.store(true, Ordering::SeqCst);
        for talk in talks {
            assert!(talk.join().unwrap().is_ok(), "{}", nginit.report());
        }
        let whole = drips.into_iter().filter_map(|drip| drip.join().ok()).filter(|whole| *whole).count();
        assert!(all.is_some() && each.iter().all(|count| *count > 10), "{each:?}");
        assert_eq!((whole, under_way), (OF_EACH, OF_EACH), "{}", nginit.report());
    });
    let after = |server: &Server| server.seen().get("GET /after").copied().unwrap_or_default();
    assert_eq!(servers.iter().map(after).collect::<Vec<_>>(), [20, 0, 0, 0], "{}", nginit.report());
    steady.holds(&nginit);
}

/// An nginx of its own that answers at all addresses of this machine with that which was asked.
struct Everywhere {
    port: u16,
    child: Child,
}

impl Everywhere {
    fn start(nginx: &Path, site: &Site) -> Self {
        let (port, dir) = (free_port(), site.dir.path().display());
        let own = format!("access_log off; server {{ listen {port} backlog=4096; return 200 \"$server_addr\"; }}");
        let main = site.main_conf("").replace("include conf.d/*.conf;", &own);
        let main = main.replace(&format!("{dir}/nginx.pid"), &format!("{dir}/everywhere.pid"));
        let main = main.replace("worker_connections 1024", "worker_connections 8192");
        site.write("everywhere.conf", &main);
        let mut command = Command::new(nginx);
        command.arg("-c").arg(site.path("everywhere.conf")).args(["-g", "daemon off;"]);
        let child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let everywhere = Self { port, child };
        eventually("it answers", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        everywhere
    }

    fn address(&self, number: usize) -> String {
        format!("127.9.{}.{}:{}", number / 250, number % 250 + 1, self.port)
    }
}

impl Drop for Everywhere {
    fn drop(&mut self) {
        // Its workers go with it.
        support::signal_pid(i32::try_from(self.child.id()).unwrap(), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A client that wants an answer, of whoever it is.
fn anybody(port: u16, method: &'static str, pause: Duration) -> impl FnMut() -> Outcome {
    let mut kept = None;
    move || {
        thread::sleep(pause);
        let asked = kept.take().map_or_else(|| Connection::open(port), Ok).map_err(|error| error.to_string());
        let asked = asked.and_then(|mut connection| match connection.ask(method, "/", b"") {
            Ok(answer) if answer.status == 200 => Ok(connection),
            Ok(answer) => Err(answer.head),
            Err(failure) => Err(failure.error.to_string()),
        });
        match asked {
            Ok(connection) => kept = Some(connection).filter(|kept| !kept.said_close),
            Err(why) => return Outcome::Lost(format!("{method}: {why}")),
        }
        Outcome::Fine
    }
}

/// Waits until so many servers answer, and no others.
#[track_caller]
fn answer(nginit: &Nginit, site: &Site, wanted: &BTreeSet<String>) {
    let (start, mut seen, mut kept) = (Instant::now(), BTreeSet::new(), None);
    while seen != *wanted {
        assert!(start.elapsed() < Duration::from_secs(120), "{} of {}\n{}", seen.len(), wanted.len(), nginit.log());
        let mut connection = kept.take().unwrap_or_else(|| Connection::open(site.port).unwrap());
        let answer = connection.ask("GET", "/", b"").unwrap();
        assert_eq!(answer.status, 200, "{}", nginit.log());
        let server = String::from_utf8(answer.body).unwrap();
        if wanted.contains(&server) {
            seen.insert(server);
        } else {
            // It had not gone yet.
            seen.clear();
        }
        kept = Some(connection).filter(|kept| !kept.said_close);
    }
}

#[test]
fn thousands_of_servers_come_and_go() {
    const MOST: usize = 5000;
    let nginx = live_nginx_or_skip!();
    let mut site = live::site(&nginx);
    site.write("nginx.conf", &site.main_conf("").replace("worker_connections 1024", "worker_connections 4096"));
    site.age();
    let everywhere = Everywhere::start(&nginx, &site);
    let all: Vec<String> = (0..MOST).map(|number| everywhere.address(number)).collect();
    let addresses = |all: &[String]| all.iter().map(|one| one.split(':').next().unwrap().to_owned()).collect();
    site.set("NGINIT_WATCH", "true");
    site.set_list(&all[0]);
    let nginit = site.start();
    let steady = Steady::new(&nginit);
    let mut load = Load::default();
    load.add("GET", anybody(site.port, "GET", MS(2)));
    load.add("POST", anybody(site.port, "POST", MS(2)));
    let timed = |what: &str, list: &[String]| {
        let start = Instant::now();
        site.write("list", &list.join("\n"));
        let wanted = if list.len() == 1 { list.len() } else { MOST };
        let told = within(Duration::from_secs(60), || {
            (nginit.status().upstreams[0].servers == wanted && nginit.status().live.unwrap().taken).then_some(())
        });
        assert!(told.is_some(), "{what}\n{}", nginit.log());
        let took = start.elapsed();
        answer(&nginit, &site, &addresses(list));
        println!("{what}: {took:?}, and all have answered after {:?}", start.elapsed());
    };
    timed("to many by a list", &all);
    timed("to one by a list", &all[..1]);
    let commands = many(500, MOST);
    let start = Instant::now();
    for server in &all[1..commands] {
        order(&site, What::Add, server, false);
    }
    let took = start.elapsed();
    taken(&nginit);
    println!("{commands} by commands: {took:?}, taken in {:?}", start.elapsed());
    answer(&nginit, &site, &addresses(&all[..commands]));
    for server in &all[1..commands] {
        order(&site, What::Remove, server, false);
    }
    taken(&nginit);
    answer(&nginit, &site, &addresses(&all[..1]));
    ends_without_a_loss(load, &nginit);
    steady.holds(&nginit);
}

/// Asks as soon as the port is open, and a few times more.
fn first_answers(port: u16, method: &'static str) -> Result<(), String> {
    let start = Instant::now();
    let mut connection = loop {
        match Connection::open(port) {
            Ok(connection) => break connection,
            Err(error) if start.elapsed() > PATIENCE => return Err(format!("connect: {error}")),
            Err(_) => thread::sleep(Duration::from_micros(300)),
        }
    };
    for number in 0..5 {
        let target = format!("/first/{}", load::unique());
        let body: &[u8] = if method == "POST" { b"a body" } else { b"" };
        match connection.ask(method, &target, body) {
            Ok(answer) if answer.status == 200 && answer.body == target.as_bytes() => {}
            Ok(answer) => return Err(format!("{method} {number}: {}", answer.head)),
            Err(failure) => return Err(format!("{method} {number}: {}", failure.error)),
        }
        connection = Connection::open(port).map_err(|error| format!("connect: {error}"))?;
    }
    Ok(())
}

/// How servers are chosen: balance and stickiness.
const WAYS: [(&str, &str); 4] =
    [("round_robin", "off"), ("hash $uri consistent", "off"), ("random", "off"), ("round_robin", "cookie")];

#[test]
fn the_first_requests_after_a_start_are_answered() {
    let nginx = live_nginx_or_skip!();
    let port = free_port();
    let server = Server::start_at(SocketAddr::from(([0, 0, 0, 0], port)), load::all);
    let sizes = [1, 3, 300];
    for start in 0..many(24, 1000) {
        let (balance, sticky) = WAYS[start % WAYS.len()];
        let size = sizes[start / WAYS.len() % sizes.len()];
        let mut site = live::young_site(&nginx);
        let list: Vec<String> = (0..size).map(|n| format!("127.9.{}.{}:{port}", n / 250, n % 250 + 1)).collect();
        site.set("STATIC_BACKEND", list.join(" "));
        site.set("STATIC_BALANCE", balance);
        site.set("STATIC_STICKY", sticky);
        let nginit = Nginit::spawn(&site, site.command(&site.nginx_argv()));
        let answers = thread::scope(|scope| {
            let clients = ["GET", "POST", "GET", "POST"].map(|method| scope.spawn(|| first_answers(site.port, method)));
            clients.map(|client| client.join().unwrap())
        });
        let good = answers.iter().all(Result::is_ok);
        assert!(good, "start {start}, {balance}, {sticky}, {size}: {answers:?}\n{}", nginit.report());
    }
    posts_came_once([&server]);
}
