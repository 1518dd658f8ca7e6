//! The commands that end by themselves: render, check, healthcheck, help.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::{Failure, Status};
use crate::healthcheck;
use crate::inputs::Env;
use crate::nginx::command::{self, CommandLine};
use crate::nginx::{self, facts::Version, verdict};
use crate::reload::candidate::{self, Candidate, Ipv6};
use crate::reload::disk::Disk;
use crate::render;
use crate::settings::variables;

/// What `render` assumes of nginx where none is installed: the oldest version that is supported.
const OLDEST_NGINX: Version = Version(1, 22, 0);

fn made(env: &Env, version: impl FnOnce(&str) -> Result<Version, Failure>) -> Result<Candidate, Failure> {
    let (settings, notes) = candidate::settings(env)?;
    let version = version(&settings.nginx)?;
    let candidate = candidate::render(env, settings, notes, version, 1)?;
    candidate::log_notes(&candidate.notes);
    Ok(candidate)
}

/// Prints the configuration, or writes it into `out`.
///
/// # Errors
/// What keeps it from being rendered, printed or written.
pub fn render(env: &Env, out: Option<&Path>) -> Result<Status, Failure> {
    let candidate = made(env, |nginx| Ok(nginx::find(nginx).map_or(OLDEST_NGINX, |nginx| nginx.facts.version)))?;
    let Some(dir) = out else {
        let mut text = String::new();
        for (name, file) in &candidate.files {
            text.push_str(&format!("# {name}\n{file}"));
        }
        return print(&text);
    };
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        candidate.files.iter().try_for_each(|(name, text)| fs::write(dir.join(name), text))
    };
    let refuse = |err| Failure::new(Status::Failure, format!("\"{}\" cannot be written: {err}", dir.display()));
    write().map(|()| Status::Success).map_err(refuse)
}

/// Validates everything, nginx's own opinion included, on a copy in the temporary directory.
///
/// # Errors
/// The first part that is refused.
pub fn check(env: &Env, argv: Vec<OsString>) -> Result<Status, Failure> {
    let refuse = |reason: String| Failure::new(Status::BadConfiguration, reason);
    let mut found = None;
    let candidate = made(env, |name| {
        let nginx = nginx::find(name)?;
        Ok(found.insert(nginx).facts.version)
    })?;
    let nginx = found.ok_or_else(|| refuse("nginx was not looked for".to_owned()))?;
    let line = CommandLine::parse(command::or_default(argv), &candidate.settings.nginx);
    let options = line.nginx.ok_or_else(|| refuse("the command is not nginx, there is nothing to check".to_owned()))?;
    let main = options.main_conf(&nginx.facts);

    let dir = std::env::temp_dir().join(format!("nginit-check-{}", std::process::id()));
    let disk = Disk::staged_in(&candidate.settings.conf_dir, &dir);
    let tested = (|| {
        let staged = disk.stage(&candidate.files).and_then(|()| disk.stage_main(&candidate.files, &main));
        let staged = staged.map_err(|err| refuse(format!("testing a copy in \"{}\": {err}", dir.display())))?;
        let args = options.test_args(&staged.main, "");
        let output = Command::new(&nginx.path).args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|err| refuse(format!("nginx -t: {err}")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(refuse(verdict::reason(&String::from_utf8_lossy(&output.stderr), &staged.shown)))
    })();
    let _ = disk.drop_staged();
    tested?;
    print(&format!("nginx {} accepts the configuration: {}\n", nginx.facts.version, candidate.counts()))
}

/// Asks the nginx that runs.
///
/// # Errors
/// Why it does not count as healthy.
pub fn healthcheck(env: &Env) -> Result<Status, Failure> {
    let refuse = |reason: String| Failure::new(Status::Failure, reason);
    let (settings, _) = candidate::settings(env).map_err(|failure| refuse(failure.reason))?;
    let ipv6 = Ipv6::of_kernel() != Ipv6::None;
    let listen = render::listen(&settings, ipv6).next().ok_or_else(|| refuse("nginx listens nowhere".to_owned()))?;
    healthcheck::ask(listen).map_err(|err| refuse(format!("nginx does not answer on {listen}: {err}")))?;
    Ok(Status::Success)
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
                Err(Failure::new(Status::Failure, reason))
            }
        },
    }
}

/// Writes to stdout; a reader that has enough, such as `head`, is no fault.
fn print(text: &str) -> Result<Status, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Failure, format!("writing to stdout: {err}")))
        }
        _ => Ok(Status::Success),
    }
}
