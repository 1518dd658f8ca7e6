//! Memory of PID 1 while it idles, and the size of the binary.
//! `cargo bench --bench memory -- --runs 5`

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use rustix::process::Signal;

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::{Cores, Outcome, Running, Site, median, print_limit, print_table, program};

/// The figures of a process, in KiB: what /proc calls them, and what the table does.
const FIGURES: [(&str, &str); 4] =
    [("Rss", "resident kB"), ("Pss", "share kB"), ("Anonymous", "anonymous kB"), ("Private_Dirty", "private dirty kB")];

/// Most starts of each: memory differs little from one to the next.
const MOST_RUNS: usize = 5;

fn main() -> Outcome<()> {
    let (Some(runs), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let runs = runs.min(MOST_RUNS);
    let nginit = support::static_binary()?;
    let root = tempfile::tempdir()?;
    let site = Site::new(root.path(), "site", &nginx, &nginit, Cores::All)?;
    let mut many = Site::new(root.path(), "many", &nginx, &nginit, Cores::All)?;
    fs::write(many.dir.join("servers"), support::servers(10_000))?;
    many.env[0] = ("STATIC_BACKEND_FILE", many.dir.join("servers").into());

    let mut rows = Vec::new();
    let mut measure = |name: &str, site: &Site, argv: &[OsString], then: &dyn Fn(&Running) -> Outcome<()>| {
        let mut taken = Vec::new();
        for _ in 0..runs {
            let (running, _) = site.start(argv)?;
            then(&running)?;
            taken.push(settled(running.pid())?);
        }
        let figures: Vec<f64> = (0..FIGURES.len()).map(|n| median(taken.iter().map(|t| t[n]))).collect();
        rows.push(std::iter::once(name.to_owned()).chain(figures.iter().map(|f| format!("{f:.0}"))).collect());
        Ok::<_, Box<dyn std::error::Error>>(figures)
    };
    let nothing = |_: &Running| Ok(());

    let reload = |site: &Site, times: usize| {
        let dir = site.dir.clone();
        move |running: &Running| {
            // A number that is printed makes each of them a change.
            let templates = dir.join("none");
            fs::create_dir_all(&templates)?;
            fs::write(templates.join("count.conf.j2"), "# {{ generation }}\n")?;
            for generation in 2..times + 2 {
                running.signal(Signal::HUP);
                let said = format!("generation {generation} live");
                let stderr = dir.join("stderr");
                support::eventually(&said, || Ok(fs::read_to_string(&stderr)?.contains(&said)))?;
            }
            Ok(())
        }
    };
    let own = |site: &Site| [vec![OsString::from(&nginit)], site.argv.clone()].concat();
    let idle = measure("nginit", &site, &own(&site), &nothing)?;
    measure("nginit after 10 reloads", &site, &own(&site), &reload(&site, 10))?;
    measure("nginit, 10,000 servers", &many, &own(&many), &nothing)?;
    measure("nginit, 10,000 servers, after 10 reloads", &many, &own(&many), &reload(&many, 10))?;

    fs::copy(site.rendered().join("default.conf"), site.conf_dir().join("default.conf"))?;
    let inits: [(&str, &str, &[&str]); 4] = [
        ("tini", "tini", &["-s", "--"]),
        ("catatonit", "catatonit", &["--"]),
        ("sh script that stays", "sh", &["-c", "\"$@\"; true", "sh"]),
        ("bash script that stays", "bash", &["-c", "\"$@\"; true", "bash"]),
    ];
    for (name, init, args) in inits {
        let Some(path) = program(init) else {
            println!("{init} is not installed: left out");
            continue;
        };
        let front = std::iter::once(OsString::from(path)).chain(args.iter().map(OsString::from));
        measure(name, &site, &front.chain(site.completed.clone()).collect::<Vec<_>>(), &nothing)?;
    }

    println!("\nPID 1 while nginx below it answers and nothing happens, medians of {runs} starts");
    let head: Vec<&str> = std::iter::once("PID 1").chain(FIGURES.iter().map(|(_, title)| *title)).collect();
    print_table(&head, &rows);
    let bytes = fs::metadata(&nginit)?.len();
    println!("\nnginit's static binary: {bytes} bytes");
    print_limit("binary", kib_to_mb(bytes as f64 / 1024.0), 4.0, "MB");
    print_limit("resident, idle", kib_to_mb(idle[0]), 4.0, "MB");
    Ok(())
}

fn kib_to_mb(kib: f64) -> f64 {
    kib * 1024.0 / 1e6
}

/// The figures once two readings in a row are equal.
fn settled(pid: u32) -> Outcome<Vec<f64>> {
    let mut last = Vec::new();
    support::eventually("memory that does not change", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = figures(pid)?;
        let same = now == last;
        last = now;
        Ok(same)
    })?;
    Ok(last)
}

fn figures(pid: u32) -> Outcome<Vec<f64>> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).ok_or(format!("no {name}"))
    };
    Ok(FIGURES.iter().map(|(name, _)| figure(name)).collect::<Result<_, _>>()?)
}
