//! From variables and files to the text that nginx reads, through the library.
//! `cargo bench --bench render -- --runs 30`

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use nginit::cli::Cli;
use nginit::inputs::{Env, Files, Mode};
use nginit::live::Groups;
use nginit::membership::Members;
use nginit::nginx::{self, facts::Version};
use nginit::peers::{self, Peers};
use nginit::reload::candidate::{self, Anew, Before, Candidate, Runs};
use nginit::reload::disk::Disk;
use nginit::render::{self, Input};
use nginit::settings;
use nginit::slots::Slots;
use nginit::upstream::Resolved;

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::{Outcome, median, min, print_limit, print_table};

const NGINX: Version = Version(1, 30, 0);

/// How it runs.
const RUNS: Runs = Runs { version: NGINX, resolver: None, unasked: BTreeSet::new(), clients: None, one_worker: false };

fn main() -> Outcome<()> {
    let Some(runs) = support::runs() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let mut most = 0.0;
    for servers in [2, 100, 1_000, 10_000] {
        // Small ones are short: more of them cost nothing and steady the median.
        let runs = if servers < 1_000 { runs * 10 } else { runs };
        let env = env(dir.path(), servers)?;
        let whole = measure(runs, || Ok(candidate(&env)?.files))?;
        let read = measure(runs, || Ok(env.read(&mut Files::new(Mode::Strict))))?;
        let vars = env.read(&mut Files::new(Mode::Strict)).vars;
        let parse = measure(runs, || Ok(settings::parse(&vars)?))?;
        let (settings, _) = settings::parse(&vars)?;
        let peers = peers::peers(&settings.upstreams, &Resolved::new());
        let render = measure(runs, || Ok(render::render(input(&settings, &peers))?))?;
        let files = render::render(input(&settings, &peers))?;
        let lines = files.values().flat_map(|text| text.lines()).filter(|l| l.starts_with("    server ")).count();
        if lines != servers {
            return Err(format!("{lines} servers were rendered out of {servers}").into());
        }
        most = median(whole.iter().copied()) / 1e3;
        let cell = |times: &[f64]| format!("{:.0}", median(times.iter().copied()));
        let figures = [&whole, &read, &parse, &render].map(|times| cell(times));
        let least = format!("{:.0}", min(whole.iter().copied()));
        rows.push([vec![servers.to_string()], figures.to_vec(), vec![least]].concat());
    }
    println!("\nfrom a list in a file to the text for nginx, medians of {runs} runs or more, µs");
    print_table(&["servers", "whole", "read", "parse", "render", "whole, min"], &rows);
    print_limit("\n10,000 servers", most, 20.0, "ms");
    steps(dir.path(), runs * 10)
}

/// What a start does besides.
fn steps(dir: &Path, runs: usize) -> Outcome<()> {
    let mut rows = Vec::new();
    let mut add = |name: &str, times: Vec<f64>| {
        rows.push(vec![name.to_owned(), format!("{:.0}", median(times.iter().copied())), format!("{:.0}", min(times))]);
    };
    let argv = ["nginit", "nginx", "-g", "daemon off;"].map(OsString::from);
    add("read the command line", measure(runs, || Ok(Cli::read(argv.clone())?))?);
    add("IPv6 of the kernel", measure(runs, || Ok(candidate::Ipv6::of_kernel()))?);
    match support::nginx() {
        Some(path) => {
            let path = path.to_str().ok_or("nginx's path is not UTF-8")?.to_owned();
            add("find nginx and read its version", measure(runs, || Ok(nginx::find(&path)?))?);
        }
        None => println!("its version is not read"),
    }
    let files = candidate(&env(dir, 2)?)?.files;
    let live = dir.join("live");
    fs::create_dir_all(&live)?;
    let disk = Disk::new(&live);
    add("write the files", measure(runs, || Ok(disk.write(&files)?))?);
    println!("\nsteps of a start, medians of {runs} runs, µs");
    print_table(&["step", "median", "min"], &rows);
    Ok(())
}

/// The candidate of a start.
fn candidate(env: &Env) -> Outcome<Candidate> {
    let read = candidate::read(env, Anew::Everything, None)?;
    let before = Before { slots: &Slots::new(), groups: &Groups::new() };
    Ok(candidate::render(read, &Members::default(), Anew::Everything, &RUNS, 1, before)?)
}

fn env(dir: &Path, servers: usize) -> Outcome<Env> {
    let list = dir.join(format!("servers-{servers}"));
    fs::write(&list, support::servers(servers))?;
    Ok(Env::new([
        (OsString::from("STATIC_BACKEND_FILE"), list.into_os_string()),
        ("NGINIT_TEMPLATES".into(), dir.join("none").into_os_string()),
    ]))
}

fn input<'a>(settings: &'a settings::Settings, peers: &'a Peers) -> Input<'a> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    static NO_GROUPS: Groups = Groups::new();
    static NO_PAGES: BTreeSet<u16> = BTreeSet::new();
    Input {
        settings,
        peers,
        sources: &NONE,
        env: &NONE,
        nginx: NGINX,
        ipv6: true,
        ca_bundle: None,
        generation: 1,
        error_pages: &NO_PAGES,
        clients: None,
        one_worker: false,
        groups: &NO_GROUPS,
        resolver: None,
    }
}

/// Microseconds of each run, after one that is not counted.
fn measure<T>(runs: usize, work: impl Fn() -> Outcome<T>) -> Outcome<Vec<f64>> {
    let mut times = Vec::with_capacity(runs);
    for run in 0..=runs {
        let begin = Instant::now();
        let made = black_box(work()?);
        let took = begin.elapsed();
        drop(made);
        if run > 0 {
            times.push(took.as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}
