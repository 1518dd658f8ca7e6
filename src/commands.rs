//! The commands that end by themselves: render, check, healthcheck and help here, those that ask the
//! running nginit in [`control`], texts for shells in [`shells`].

pub mod control;
pub mod serf;
pub mod shells;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory;
use control::Form;

use crate::admin::{Announcement, Order, What};
use crate::ask;
use crate::cli::{Cli, Commands, JsonForm, OrderArgs, Place, Waits};
use crate::exit::{Failure, Status};
use crate::inputs::{Env, Mode};
use crate::live::{Groups, serve};
use crate::membership::Members;
use crate::nginx::command::{self, CommandLine};
use crate::nginx::{self, conf, facts::Version, reading};
use crate::reload::candidate::{self, Anew, Before, Candidate, Runs};
use crate::reload::disk::Disk;
use crate::reload::state;
use crate::settings::{self, Settings, listen, variables};
use crate::upstream::Listen;

/// What `render` assumes of nginx where none is installed: the oldest version that is supported.
const OLDEST_NGINX: Version = Version(1, 22, 0);

/// Does what a command says.
///
/// # Errors
/// The status and what to print before ending with it.
pub fn run(env: &Env, command: Commands) -> Result<Status, Failure> {
    let form = |form: JsonForm| if form.json { Form::Json } else { Form::Text };
    let order = |what, OrderArgs { place: Place { upstream, server }, waits: Waits { wait, timeout }, form: json }| {
        control::order(env, Order { what, upstream, server, wait }, timeout, form(json))
    };
    match command {
        // What runs until nginx ends is no command of these.
        Commands::Run { .. } | Commands::Other(_) => help(None),
        Commands::Reload { waits: Waits { wait, timeout }, form: json } => {
            control::reload(env, wait, timeout, form(json))
        }
        Commands::Status { csv: true, .. } => control::status(env, Form::Csv),
        Commands::Status { form: json, .. } => control::status(env, form(json)),
        Commands::List { upstream, form: json } => control::list(env, upstream, form(json)),
        Commands::Why { server, form: json } => control::why(env, &server, form(json)),
        Commands::Diff { form: json } => control::diff(env, form(json)),
        Commands::Add(args) => order(What::Add, args),
        Commands::Remove(args) => order(What::Remove, args),
        Commands::Drain(args) => order(What::Drain, args),
        Commands::Undrain(args) => order(What::Undrain, args),
        Commands::Weight { order: args, weight } => order(What::Weight(weight), args),
        Commands::Announce { place: Place { upstream, server }, ttl, every, weight, form: json } => {
            let server = Some(server);
            let announcement = Announcement { upstream, server, port: None, ttl, weight, peer: None };
            control::announce(env, announcement, every, form(json))
        }
        Commands::Top => control::top(env),
        Commands::Serf => serf::run(env),
        Commands::Render { out } => render(env, out.as_deref()),
        Commands::Check { command } => check(env, command),
        Commands::Healthcheck => healthcheck(env),
        Commands::Completions { shell } => print(&shells::completions(&Cli::command(), shell)),
        Commands::Man => print(&shells::man(&mut Cli::command())),
        Commands::Help { topic } => help(topic.as_deref()),
    }
}

/// A candidate from what the environment says now, with the slots that a start would find, for the
/// nginx whose version `version` tells.
fn made(env: &Env, version: impl FnOnce(&Settings) -> Result<Version, Failure>) -> Result<Candidate, Failure> {
    let mut inputs = candidate::inputs(env, Mode::Strict)?;
    let version = version(&inputs.settings)?;
    let (slots, note) = state::read(Disk::new(&inputs.settings.conf_dir).private());
    inputs.notes.extend(note);
    let resolver = Some((Ipv4Addr::LOCALHOST, serve::PORT).into());
    let runs = Runs { version, resolver, unasked: BTreeSet::new(), clients: None, one_worker: false };
    let read = candidate::complete(inputs, Anew::Everything, None)?;
    let before = Before { slots: &slots, groups: &Groups::new() };
    let candidate = candidate::render(read, &Members::default(), Anew::Everything, &runs, 1, before)?;
    candidate::log_notes(&candidate.notes);
    Ok(candidate)
}

/// Prints the configuration, or writes it into `out`.
///
/// # Errors
/// What keeps it from being rendered, printed or written.
pub fn render(env: &Env, out: Option<&Path>) -> Result<Status, Failure> {
    let line = CommandLine::parse(command::or_default(Vec::new()), None);
    let candidate =
        made(env, |settings| Ok(nginx::find_for(settings, &line).map_or(OLDEST_NGINX, |nginx| nginx.facts.version)))?;
    let Some(dir) = out else {
        let mut text = String::new();
        for (name, file) in &candidate.files {
            text.push_str(&format!("# {name}\n{file}"));
        }
        return print(&text);
    };
    let refuse = |err| Failure::new(Status::Failure, format!("\"{}\" cannot be written: {err}", dir.display()));
    Disk::new(dir).write_out(&candidate.files).map(|()| Status::Success).map_err(refuse)
}

/// Validates everything, nginx's own opinion included, on a copy aside.
///
/// # Errors
/// The first part that is refused.
pub fn check(env: &Env, argv: Vec<OsString>) -> Result<Status, Failure> {
    let refuse = |reason: String| Failure::new(Status::BadConfiguration, reason);
    let line = CommandLine::parse(command::or_default(argv), env.text(variables::ENV_NGINX).as_deref());
    let options = line.nginx.as_ref();
    let options =
        options.ok_or_else(|| Failure::new(Status::Usage, "the command is not nginx, there is nothing to check"))?;
    let mut found = None;
    let candidate = made(env, |settings| Ok(found.insert(nginx::find_for(settings, &line)?).facts.version))?;
    let nginx = found.ok_or_else(|| refuse("nginx was not looked for".to_owned()))?;
    let main = options.main_conf(&nginx.facts);

    let dir = private_dir(&candidate.read.inputs.settings.conf_dir).map_err(|err| {
        refuse(format!("neither the temporary directory nor NGINIT_CONF_DIR can hold a copy to test: {err}"))
    })?;
    let disk = Disk::staged_in(&candidate.read.inputs.settings.conf_dir, &dir.join("stage"));
    let tested = (|| {
        let staged = disk.stage(&candidate.files).and_then(|()| disk.stage_main(&candidate.files, &main));
        let staged = staged.map_err(|err| match err.kind() {
            io::ErrorKind::InvalidInput => refuse(disk.explain(&err)),
            _ => refuse(format!("testing a copy in \"{}\": {err}", dir.display())),
        })?;
        let args = options.test_args(&staged.main, "");
        let output = Command::new(&nginx.path).args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|err| refuse(format!("nginx -t: {err}")))?;
        if output.status.success() {
            reading::warn_of_unreached(&staged.main, &staged.shown);
            return Ok(());
        }
        Err(refuse(reading::reason(&output.stderr, &staged.main, &staged.shown)))
    })();
    let _ = fs::remove_dir_all(&dir);
    tested?;
    print(&format!("nginx {} accepts the configuration: {}\n", nginx.facts.version, candidate.counts()))
}

/// A new directory of our own, in the temporary directory or, where that cannot be written, hidden
/// in `other`.
fn private_dir(other: &Path) -> io::Result<PathBuf> {
    let name = format!(".nginit-check-{}", std::process::id());
    let create = |parent: &Path| {
        let dir = parent.join(&name);
        fs::DirBuilder::new().mode(0o700).create(&dir).map(|()| dir)
    };
    create(&std::env::temp_dir()).or_else(|_| create(other))
}

/// Asks the nginx that runs, on an address that the live configuration listens on. Lists and other
/// settings may be bad by now: that is no reason to replace a proxy that serves.
///
/// # Errors
/// Why it does not count as healthy.
pub fn healthcheck(env: &Env) -> Result<Status, Failure> {
    let refuse = |reason: String| Failure::new(Status::Failure, reason);
    let dir = env.text(variables::ENV_CONF_DIR).unwrap_or_else(|| variables::DEFAULT_CONF_DIR.to_owned());
    // HTTP/1 without more can be asked best.
    let easiest = |all: Vec<Listen>| all.into_iter().min_by_key(|l| (l.tls || l.http2, l.proxy_protocol));
    let listen = easiest(live_listen(Path::new(&dir))).or_else(|| easiest(asked_listen(env)));
    let listen = listen.ok_or_else(|| refuse("it is not known where nginx listens; see NGINIT_LISTEN".to_owned()))?;
    let answer = if listen.tls || listen.http2 {
        // The private socket, where there is one, leaves no line in the access log.
        match ask::generation(&Disk::new(Path::new(&dir)).generation_socket()) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => ask::knock(&listen),
            answer => answer.map(drop),
        }
    } else {
        ask::ping(&listen)
    };
    answer.map_err(|err| refuse(format!("nginx does not answer on {listen}: {err}")))?;
    Ok(Status::Success)
}

/// Where the live configuration listens.
fn live_listen(dir: &Path) -> Vec<Listen> {
    let text = fs::read_to_string(dir.join("default.conf")).unwrap_or_default();
    let statements = conf::words(&text).filter_map(|words| match &words[..] {
        ["listen", arguments @ ..] => listen::parse_statement(arguments),
        _ => None,
    });
    statements.collect()
}

/// Where nginx was asked to listen.
fn asked_listen(env: &Env) -> Vec<Listen> {
    let text = env.text(variables::ENV_LISTEN).unwrap_or_else(|| variables::DEFAULT_LISTEN.to_owned());
    settings::tokens(&text).filter_map(|token| listen::parse_entry(token).ok()).collect()
}

/// Prints help.
///
/// # Errors
/// An unknown topic.
pub fn help(topic: Option<&str>) -> Result<Status, Failure> {
    let mut cli = Cli::command();
    match topic {
        None => print(&cli.render_long_help().to_string()),
        Some("env") => print(&variables::terminal(100)),
        Some(topic) => match cli.find_subcommand_mut(topic) {
            Some(command) => print(&command.render_long_help().to_string()),
            None => {
                let reason = format!("\"{topic}\" is no command; try nginit help, or nginit help env");
                Err(Failure::new(Status::Usage, reason))
            }
        },
    }
}

/// Writes to stdout; a reader that has enough, such as `head`, is no fault.
fn print(text: &str) -> Result<Status, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Failure, format!("writing to stdout: {err}")))
        }
        _ => Ok(Status::Success),
    }
}
