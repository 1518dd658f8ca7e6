//! From exec to the first answer: nginit beside nginx alone, an init, and a shell entrypoint, in
//! turn, with the same configuration. `cargo bench --bench start -- --runs 30`

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, reason = "a benchmark")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use support::{Cores, Outcome, Site, median, min, print_limit, print_table, program};

/// One way to start nginx.
struct Way {
    name: &'static str,
    site: Site,
    argv: Vec<OsString>,
    fresh: Fresh,
    milliseconds: Vec<f64>,
}

/// What the configuration directory holds before each start, as in a new container.
#[derive(Clone, Copy)]
enum Fresh {
    /// What nginit rendered.
    Rendered,
    /// Nothing.
    Empty,
    /// The file of a package, to be edited and replaced.
    Packaged,
}

impl Way {
    fn prepare(&self) -> Outcome<()> {
        fs::remove_dir_all(self.site.conf_dir())?;
        fs::create_dir(self.site.conf_dir())?;
        let file = self.site.conf_dir().join("default.conf");
        match self.fresh {
            Fresh::Rendered => drop(fs::copy(self.site.rendered().join("default.conf"), file)?),
            Fresh::Empty => {}
            Fresh::Packaged => fs::write(file, PACKAGED)?,
        }
        Ok(())
    }
}

const PACKAGED: &str = "server {\n    listen       80;\n    server_name  localhost;\n}\n";

fn main() -> Outcome<()> {
    let (Some(runs), Some(nginx)) = (support::runs(), support::nginx()) else { return Ok(()) };
    let nginit = support::static_binary()?;
    let root = tempfile::tempdir()?;
    // In this order: a thread that was given one core stays with it.
    for cores in [Cores::All, Cores::One] {
        measure(&mut ways(&root.path().join(format!("{cores:?}")), &nginx, &nginit, cores)?, runs, cores)?;
    }
    Ok(())
}

fn measure(ways: &mut [Way], runs: usize, cores: Cores) -> Outcome<()> {
    for round in 0..=runs {
        for turn in 0..ways.len() {
            // Nobody always follows the same one.
            let at = (turn + round) % ways.len();
            let way = &mut ways[at];
            way.prepare()?;
            let (running, took) = way.site.start(&way.argv)?;
            if round == 0 {
                let (title, want) = (running.nginx_title()?, way.site.completed.join(&OsString::from(" ")));
                if !title.starts_with(&format!("nginx: master process {}", want.to_string_lossy())) {
                    return Err(format!("{} runs another nginx: {title}", way.name).into());
                }
            } else {
                way.milliseconds.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    report(ways, runs, cores);
    Ok(())
}

fn ways(root: &Path, nginx: &Path, nginit: &Path, cores: Cores) -> Outcome<Vec<Way>> {
    let mut ways = Vec::new();
    let mut add = |name: &'static str, fresh, argv: &dyn Fn(&mut Site) -> Outcome<Vec<OsString>>| -> Outcome<()> {
        let mut site = Site::new(root, &format!("site{}", ways.len()), nginx, nginit, cores)?;
        let argv = argv(&mut site)?;
        ways.push(Way { name, site, argv, fresh, milliseconds: Vec::new() });
        Ok(())
    };
    let behind = |front: Vec<OsString>, site: &Site| [front, site.completed.clone()].concat();
    add("nginx alone", Fresh::Rendered, &|site| Ok(site.completed.clone()))?;
    add("nginit", Fresh::Empty, &|site| Ok([vec![nginit.into()], site.argv.clone()].concat()))?;
    match program("tini") {
        Some(tini) => add("tini, nginx", Fresh::Rendered, &|site| {
            Ok(behind(vec![tini.clone().into(), "-s".into(), "--".into()], site))
        })?,
        None => println!("tini is not installed: left out"),
    }
    let script: OsString = "\"$@\" -t && exec \"$@\"".into();
    add("sh: nginx -t, exec nginx", Fresh::Rendered, &|site| {
        Ok(behind(vec!["sh".into(), "-c".into(), script.clone(), "sh".into()], site))
    })?;
    match ["envsubst", "md5sum", "find"].iter().find(|tool| program(tool).is_none()) {
        None => add("sh: entrypoint steps, exec nginx", Fresh::Packaged, &|site| {
            let script = stand_in(site)?;
            Ok(behind(vec![script], site))
        })?,
        Some(tool) => println!("{tool} is not installed: the entrypoint of steps is left out"),
    }
    Ok(ways)
}

/// Lays out what the stand-in for the official image's entrypoint works on.
fn stand_in(site: &mut Site) -> Outcome<OsString> {
    let templates = site.dir.join("templates");
    fs::create_dir_all(&templates)?;
    let rendered = fs::read_to_string(site.rendered().join("default.conf"))?;
    let template = rendered.replace("127.0.0.1:9001", "${STATIC_1}").replace("127.0.0.1:9002", "${STATIC_2}");
    let template = template.replace("127.0.0.1:9003", "${DYNAMIC_1}").replace("127.0.0.1:9004", "${DYNAMIC_2}");
    fs::write(templates.join("default.conf.template"), template)?;

    let file = site.conf_dir().join("default.conf");
    fs::write(&file, PACKAGED)?;
    let sum = std::process::Command::new("md5sum").arg(&file).output()?.stdout;
    fs::write(site.dir.join("packaged.md5"), sum)?;

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/entrypoint");
    site.env = vec![
        ("STEPS", scripts.join("steps").into()),
        ("TEMPLATES", templates.into()),
        ("CONF_DIR", site.conf_dir().into()),
        ("PACKAGED_SUM", site.dir.join("packaged.md5").into()),
        ("STATIC_1", "127.0.0.1:9001".into()),
        ("STATIC_2", "127.0.0.1:9002".into()),
        ("DYNAMIC_1", "127.0.0.1:9003".into()),
        ("DYNAMIC_2", "127.0.0.1:9004".into()),
    ];
    Ok(scripts.join("entrypoint.sh").into())
}

fn report(ways: &[Way], runs: usize, cores: Cores) {
    let base = &ways[0].milliseconds;
    let ratio = |way: &Way| median(way.milliseconds.iter().zip(base).map(|(own, base)| own / base));
    let more = |way: &Way| median(way.milliseconds.iter().zip(base).map(|(own, base)| own - base));
    let row = |way: &Way| {
        let all = || way.milliseconds.iter().copied();
        let figures = [ratio(way), more(way), median(all()), min(all())];
        let figures = figures.iter().map(|figure| format!("{figure:.2}"));
        std::iter::once(way.name.to_owned()).chain(figures).collect()
    };
    let place = if cores == Cores::One { "one core" } else { "all cores" };
    println!("\nexec to the first 200, {place}, {runs} runs in turn; ratio and addition are medians of pairs");
    let rows: Vec<Vec<String>> = ways.iter().map(row).collect();
    print_table(&["start", "x nginx", "added ms", "median ms", "min ms"], &rows);
    let nginit = &ways[1];
    print_limit("\nstart of nginit", ratio(nginit), 1.1, "x nginx");
    print_limit("added by nginit", more(nginit), 2.0, "ms");
}
