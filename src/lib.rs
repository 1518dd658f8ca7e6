//! nginit is the PID 1 of an nginx container: lists of backends in the environment become nginx's
//! upstreams, nginx runs in the foreground, signals reach it, zombies are reaped, and SIGHUP reads
//! everything anew without losing a request.
//!
//! Data flows one way: the environment and the files that it names ([`inputs`]) become checked
//! [`settings`], host names become addresses ([`resolve`]), templates become files ([`mod@render`]),
//! which are staged, tested and published ([`reload`]), whereupon nginx is started or told to
//! reload ([`supervisor`]). What decides is pure; what touches the world is thin and asks it.
//! `docs/architecture.md` has the picture.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | command line and help texts |
//! | [`commands`] | commands that end by themselves |
//! | [`exit`] | every exit status |
//! | [`healthcheck`] | asking the running nginx |
//! | [`inputs`] | reading the environment, the files that it names, the templates |
//! | [`log`] | one line an event on stderr |
//! | [`nginx`] | the binary, its command line, its language, its verdicts |
//! | [`reload`] | candidates: made, staged, published |
//! | [`mod@render`] | settings and templates to files |
//! | [`resolve`] | names to addresses |
//! | [`settings`] | variables to settings |
//! | [`supervisor`] | life cycle, signals, children |
//! | [`upstream`] | the model |

pub mod cli;
pub mod commands;
pub mod exit;
pub mod healthcheck;
pub mod inputs;
pub mod log;
pub mod nginx;
pub mod reload;
pub mod render;
pub mod resolve;
pub mod settings;
pub mod supervisor;
pub mod upstream;

use std::ffi::OsString;
use std::num::NonZeroUsize;

use cli::{Cli, Commands};
use exit::{Failure, Status};
use inputs::Env;
use log::Level;
use nginx::Nginx;
use nginx::command::{self, CommandLine, Options};
use reload::candidate;
use reload::disk::Disk;
use settings::Settings;
use supervisor::child::{self, Group};
use supervisor::shell::{self, Inbox, Reloader};
use supervisor::{Pid, Policy, Supervisor};
use upstream::Resolved;

/// Does what the command line asks for, with these variables, and returns the status to end with.
///
/// # Errors
/// The status and what to print before ending with it.
pub fn run(cli: Cli, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Status, Failure> {
    let env = Env::new(vars);
    match cli.command {
        None => supervise(env, Vec::new()),
        Some(Commands::Run { command } | Commands::Other(command)) => supervise(env, command),
        Some(Commands::Render { out }) => commands::render(&env, out.as_deref()),
        Some(Commands::Check { command }) => commands::check(&env, command),
        Some(Commands::Healthcheck) => commands::healthcheck(&env),
        Some(Commands::Help { topic }) => commands::help(topic.as_deref()),
    }
}

/// Runs a command, as nginx if it is that.
fn supervise(env: Env, argv: Vec<OsString>) -> Result<Status, Failure> {
    let nginx = env.text(settings::variables::ENV_NGINX);
    let line = CommandLine::parse(command::or_default(argv), nginx.as_deref());
    match line.nginx.clone() {
        Some(options) => supervise_nginx(env, &line, options),
        None => supervise_plain(&env, &line),
    }
}

/// The start-up order of a command that is not nginx.
fn supervise_plain(env: &Env, line: &CommandLine) -> Result<Status, Failure> {
    // `nginx -v` and the like only print something.
    let names_nginx = line.argv.first().is_some_and(|word| word.to_string_lossy().ends_with("nginx"));
    if env.declares_upstreams() && !names_nginx {
        let program = line.argv.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        log::line(
            Level::Notice,
            "nginx",
            &format!("\"{program}\" is not nginx: it runs as it is, nothing is configured"),
        );
    }
    let inbox = Inbox::open()?;
    supervisor::child::adopt_orphans();
    let pid = child::spawn(&line.argv, Group::Shared)?;
    Ok(shell::run(Supervisor::plain(), pid, inbox, None))
}

/// nginx from its start to its end.
fn supervise_nginx(env: Env, line: &CommandLine, options: Options) -> Result<Status, Failure> {
    let inbox = Inbox::open()?;
    supervisor::child::adopt_orphans();
    let (supervisor, pid, reloader) = start_nginx(env, line, options)?;
    Ok(shell::run(supervisor, pid, inbox, Some(reloader)))
}

/// The start-up order of nginx. Nothing is written before everything is read, and nginx itself is
/// the first to test the first configuration: testing it twice would double the time to start.
/// What only the start needs, above all the first candidate, is freed when this returns.
fn start_nginx(env: Env, line: &CommandLine, options: Options) -> Result<(Supervisor, Pid, Reloader), Failure> {
    let (settings, notes) = candidate::settings(&env)?;
    log::init(settings.log, settings.log_format);
    let nginx = nginx::find_for(&settings, line)?;
    let main = Main::read(&options, &nginx, &settings);
    let globals = options.missing_globals(&main.text, || workers(&settings));

    let candidate = candidate::render(&env, settings, notes, nginx.facts.version, 1, &Resolved::new())?;
    candidate::log_notes(&candidate.notes);
    let disk = Disk::new(&candidate.settings.conf_dir);
    reload::write(&disk, &candidate).map_err(|err| Failure::new(Status::BadConfiguration, disk.explain(&err)))?;

    let pid = child::spawn(&line.with(&nginx.path, &globals), Group::Own)?;
    // nginx first: on a container's only core, what follows would take its time.
    std::thread::yield_now();
    let (version, counts) = (nginx.facts.version, candidate.counts());
    log::line(Level::Notice, "nginx", &format!("generation 1 starts nginx {version}, pid={pid} {counts}"));
    let policy = Policy { stop: candidate.settings.stop, stop_timeout: candidate.settings.stop_timeout };
    let resolved = candidate.resolved;
    let reloader = Reloader { env, nginx, options, globals, main: main.path, disk, resolved };
    Ok((Supervisor::nginx(policy), pid, reloader))
}

/// nginx's main configuration file.
struct Main {
    path: std::path::PathBuf,
    text: String,
}

impl Main {
    /// Reads it, and warns where it and the settings do not fit together. That it cannot be read is
    /// nginx's to report.
    fn read(options: &Options, nginx: &Nginx, settings: &Settings) -> Self {
        let path = options.main_conf(&nginx.facts);
        let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let base = path.parent().unwrap_or(std::path::Path::new("/"));
        let (_, includes) = nginx::conf::redirect_includes(&text, base, &settings.conf_dir, &settings.conf_dir);
        if includes == 0 && !text.is_empty() {
            let (main, dir) = (path.display(), settings.conf_dir.display());
            let remedy = reload::disk::include_advice(&settings.conf_dir);
            log::line(
                Level::Warn,
                "nginx",
                &format!("{main} does not include {dir}/*.conf, so nothing of it takes effect; {remedy}"),
            );
        }
        if settings.workers.is_some() && options.settles("worker_processes", &text) {
            let text = format!(
                "\"NGINIT_WORKERS\" has no effect: worker_processes is set in {} or on the command line",
                path.display()
            );
            log::line(Level::Warn, "nginx", &text);
        }
        Self { path, text }
    }
}

/// nginx's worker processes: as asked for, or as many as the CPU quota and affinity of the
/// container allow, which is not what nginx's own `auto` counts.
fn workers(settings: &Settings) -> u16 {
    let quota = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    settings.workers.map_or_else(|| u16::try_from(quota()).unwrap_or(u16::MAX), |n| n.get())
}
