//! nginit is the PID 1 of an nginx container: lists of backends in the environment become nginx's
//! upstreams, nginx runs in the foreground, signals reach it, zombies are reaped, and SIGHUP reads
//! everything anew without losing a request.
//!
//! Data flows one way: the environment and the files that it names ([`inputs`]) become checked
//! [`settings`], host names become addresses ([`dns`]), templates become files ([`mod@render`]),
//! which are staged, tested and published ([`reload`]), whereupon nginx is started or told to
//! reload ([`supervisor`]). What decides is pure; what touches the world is thin and asks it.
//! `docs/architecture.md` has the picture.
//!
//! | module | owns |
//! |---|---|
//! | [`admin`] | the control socket: what is asked and answered, both of its ends |
//! | [`ask`] | asking the running nginx |
//! | [`cli`] | command line and help texts |
//! | [`commands`] | commands that end by themselves |
//! | [`control`] | the thread for all that waits for others |
//! | [`dns`] | names to addresses, once and again and again |
//! | [`exit`] | every exit status |
//! | [`inputs`] | reading the environment, the files that it names, the templates |
//! | [`live`] | telling nginx of its servers without a reload |
//! | [`log`] | one line an event on stderr |
//! | [`membership`] | which servers there are, and who says so |
//! | [`nginx`] | the binary, its command line, its language, its verdicts |
//! | [`ordered`] | maps and sets in little code |
//! | [`peers`] | servers and their addresses to peers |
//! | [`reload`] | candidates: made, staged, published |
//! | [`mod@render`] | settings and templates to files |
//! | [`serf`] | members of a Serf cluster |
//! | [`settings`] | variables to settings |
//! | [`slots`] | which place each server of an ip_hash upstream has |
//! | [`supervisor`] | life cycle, signals, children |
//! | [`upstream`] | the model |

pub mod admin;
pub mod ask;
pub mod cli;
pub mod commands;
pub mod control;
pub mod dns;
pub mod exit;
pub mod inputs;
pub mod live;
pub mod log;
pub mod membership;
pub mod nginx;
pub mod ordered;
pub mod peers;
pub mod reload;
pub mod render;
pub mod serf;
pub mod settings;
pub mod slots;
pub mod supervisor;
pub mod upstream;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use cli::{Cli, Commands};
use control::Control;
use exit::{Failure, Status};
use inputs::{Env, Mode};
use live::Groups;
use live::serve::Sockets;
use log::Level;
use membership::Membership;
use nginx::command::{self, CommandLine, Needs, Options};
use nginx::facts::Version;
use nginx::main::Main;
use reload::candidate::{self, Anew, Before, Candidate, Runs};
use reload::disk::Disk;
use reload::state::{self, Answers, Kept};
use render::generation;
use settings::variables::ENV_START;
use settings::{LiveMode, Settings, StartMode};
use supervisor::child::{self, Group};
use supervisor::cluster::Cluster;
use supervisor::reload::Limits;
use supervisor::reloader::{self, Reloader, Setup};
use supervisor::servers::Servers;
use supervisor::shell::{self, Inbox, WaysIn};
use supervisor::sidecar::run::Runner;
use supervisor::watch::Watcher;
use supervisor::{Pid, Policy, Supervisor};

/// Does what the command line asks for, with these variables, and returns the status to end with.
///
/// # Errors
/// The status and what to print before ending with it.
pub fn run(cli: Cli, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Status, Failure> {
    let env = Env::new(vars);
    match cli.command {
        None => supervise(env, Vec::new()),
        Some(Commands::Run { command } | Commands::Other(command)) => supervise(env, command),
        Some(command) => commands::run(&env, command),
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
    let (supervisor, pid, nginx) = start_nginx(env, line, options, &inbox)?;
    Ok(shell::run(supervisor, pid, inbox, Some(nginx)))
}

/// The start-up order of nginx. Nothing is written before everything is read, and nginx itself is
/// the first to test the first configuration: testing it twice would double the time to start.
/// What only the start needs, above all the first candidate, is freed when this returns.
fn start_nginx(
    env: Env,
    line: &CommandLine,
    options: Options,
    inbox: &Inbox,
) -> Result<(Supervisor, Pid, shell::Nginx), Failure> {
    let (settings, inputs) = match candidate::inputs(&env, Mode::Strict) {
        Ok(inputs) => (inputs.settings.clone(), Ok(inputs)),
        Err(failure) if env.text(ENV_START).as_deref().and_then(StartMode::from_word) == Some(StartMode::LastGood) => {
            (candidate::own_settings(&env), Err(failure))
        }
        Err(failure) => return Err(failure),
    };
    log::init(settings.log, settings.log_format);
    let nginx = nginx::find_for(&settings, line)?;
    let main = Main::read(&options, &nginx, &settings);
    main.check_foreground(&options)?;

    let disk = Disk::new(&settings.conf_dir);
    let refuse = |err| Failure::new(Status::BadConfiguration, disk.explain(&err));
    let lock = disk.lock().map_err(refuse)?;
    if disk.recover().and_then(|unproven| disk.prepare().map(|()| unproven)).map_err(refuse)? {
        let text = "the set that was published last had never answered; the one before it is the last good one";
        log::line(Level::Warn, "reload", text);
    }
    let last_good = settings.start == StartMode::LastGood && disk.has_set();
    let (slots, note) = state::read(disk.private());
    candidate::log_notes(note.as_slice());
    let mut membership = Membership::default();
    let mut kept = settings.state.clone().map(Kept::new);
    if let Some(kept) = &mut kept {
        kept.restore(&mut membership);
    }

    let socket = main.generation_socket(&disk, line);
    let errors = main.errors(&disk, line, &options);
    let clients = main.clients(&disk, line);
    let needs = Needs {
        workers: || workers(&settings),
        worker_shutdown_timeout: settings.worker_shutdown_timeout,
        errors: errors.as_deref(),
    };
    let globals = options.missing_globals(&main.text, &needs);
    let argv = line.with(&nginx.path, &globals);
    let limits = Limits { interval: settings.reload_interval, backlog: settings.reload_backlog };
    let mut policy = Policy { last_good, reloads: limits, stop: settings.stop, stop_timeout: settings.stop_timeout };
    let ways_in = WaysIn { control: settings.control.clone(), admin: settings.admin.clone() };
    let cluster = Cluster::new(&settings.sidecars);
    let sidecars = Runner::new(settings.sidecars.clone());

    let version = nginx.facts.version;
    let answers = (settings.start == StartMode::LastGood).then(|| Answers::new(disk.private()));
    let sockets = listen_for_nginx(&settings, version, answers.as_ref().and_then(Answers::port));
    let resolver = sockets.as_ref().map(|sockets| sockets.address);
    let one_worker = globals.contains("worker_processes 1;");
    let runs = Runs { version, resolver, unasked: BTreeSet::new(), clients, one_worker };
    let everything = Anew::Everything;
    let read = inputs.and_then(|inputs| candidate::complete(inputs, everything, None));
    let before = Before { slots: &slots, groups: &Groups::new() };
    let first = read.and_then(|read| candidate::render(read, &membership.take(), everything, &runs, 1, before));
    let first = first.and_then(|candidate| publish_first(&disk, candidate, socket.as_deref()));
    // Before nginx reads them, so that no change is missed.
    let watcher = Watcher::new(first.as_ref().map_or_else(|_| candidate::seen(&env), Candidate::watched));
    let clients = runs.clients.clone();
    let mut servers = Servers::new(env, runs, membership, kept, slots);
    if let Some(mut answers) = answers {
        answers.listens(resolver.map_or(0, |address| address.port()));
        servers.keep_answers(answers);
        if first.is_err() {
            servers.recall();
        }
    }
    let control = answer_nginx(&mut servers, first.as_ref().ok(), sockets.as_ref(), inbox);
    let setup = Setup { nginx, argv, options, globals, main: main.path, disk, socket, errors, clients, lock };
    let (pid, what) = match &first {
        Ok(candidate) => {
            let pid = child::spawn(&setup.argv, Group::Own).inspect_err(|_| drop(setup.disk.roll_back()))?;
            (pid, candidate.counts())
        }
        Err(failure) if last_good => {
            policy.last_good = false;
            (reloader::start_last_good(&setup, &failure.reason)?, "what was live last".to_owned())
        }
        Err(failure) => return Err(failure.clone()),
    };
    // nginx first: on a container's only core, what follows would take its time.
    std::thread::yield_now();
    log::line(Level::Notice, "nginx", &format!("generation 1 starts nginx {version}, pid={pid} {what}"));
    let reloader = Reloader::new(setup, first.ok(), servers);
    let supervisor = Supervisor::nginx(policy);
    Ok((supervisor, pid, shell::Nginx { reloader, ways_in, watcher, sidecars, cluster, sockets, control }))
}

/// Listens where nginx is to ask for its servers, if it can ask: where it did `before`, as far as that is known.
fn listen_for_nginx(settings: &Settings, version: Version, before: Option<u16>) -> Option<Arc<Sockets>> {
    if settings.live == LiveMode::Off || !version.has_resolve() {
        return None;
    }
    let warn = |err: &std::io::Error| {
        let text = format!("each change of servers reloads nginx: nginit cannot listen on loopback: {err}");
        log::line(Level::Warn, "live", &text);
    };
    Sockets::bind(before).inspect_err(warn).ok().map(Arc::new)
}

/// Starts to answer nginx, before that is started, where the first candidate has it ask. If there can be no thread, the
/// loop says so, and reloads.
fn answer_nginx(
    servers: &mut Servers,
    first: Option<&Candidate>,
    sockets: Option<&Arc<Sockets>>,
    inbox: &Inbox,
) -> Option<Control> {
    first.into_iter().for_each(|first| servers.prepare(first));
    let zone = servers.take_zone()?;
    let control = inbox.start_control(sockets?.clone()).ok()?;
    control.tell(zone);
    Some(control)
}

/// Writes the first set, which nginx itself is the first to test.
fn publish_first(disk: &Disk, mut candidate: Candidate, socket: Option<&Path>) -> Result<Candidate, Failure> {
    candidate::log_notes(&candidate.notes);
    candidate.files.extend(socket.map(|socket| generation::file(1, socket)));
    reload::write(disk, &candidate).map_err(|err| Failure::new(Status::BadConfiguration, disk.explain(&err)))?;
    Ok(candidate)
}

/// nginx's worker processes: as asked for, or as many as the CPU quota and affinity of the
/// container allow, which is not what nginx's own `auto` counts.
fn workers(settings: &Settings) -> u16 {
    let quota = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    settings.workers.map_or_else(|| u16::try_from(quota()).unwrap_or(u16::MAX), |n| n.get())
}
