//! The command line: types and help texts, nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::settings;

/// The PID 1 that nginx deserves: it turns lists of backends in the environment into nginx's
/// upstreams, runs nginx, and keeps the two in step.
#[derive(Debug, Parser)]
#[command(
    name = "nginit",
    version,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    allow_external_subcommands = true,
    after_help = AFTER_HELP
)]
pub struct Cli {
    /// What to do; nothing is `run`.
    #[command(subcommand)]
    pub command: Option<Commands>,
}

const AFTER_HELP: &str = "\
Any other COMMAND is run, as with `nginit run COMMAND`. Without one, it is nginx, in the foreground.

Examples:
  docker run --name proxy -e STATIC_BACKEND='web1 web2' -e DYNAMIC_BACKEND='api1:8080 api2:8080' -p 7777:80 nginit
  docker exec proxy nginit reload --wait

Variables: nginit help env";

/// The names of our commands.
const OWN: [&str; 7] = ["run", "reload", "status", "render", "check", "healthcheck", "help"];

/// What nginit can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Commands {
    /// Configure nginx, run it and supervise it (the default)
    ///
    /// A COMMAND that is not nginx and does not end as nginx is run as it is, with the duties of
    /// an init: signals are handed on, zombies are reaped.
    Run {
        /// Program and arguments [default: nginx, in the foreground]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Have the running nginit read everything anew and reload nginx
    ///
    /// Run it where nginit runs: docker exec CONTAINER nginit reload --wait. Ends with 0 once the
    /// reload was taken, or 1 if no nginit answers. With --wait, ends with 0 if the new generation
    /// is live or nothing has changed, 1 with nginx's reason if it was refused, 2 if the time is over.
    Reload {
        /// Wait for its outcome
        #[arg(long)]
        wait: bool,
        /// Longest wait, such as 500ms or 1m30s; 0 waits for ever
        #[arg(long, value_name = "T", default_value = "60s", value_parser = parse_time)]
        timeout: Duration,
    },
    /// Show what the running nginit does: generation, upstreams, reloads
    ///
    /// Run it where nginit runs: docker exec CONTAINER nginit status. Ends with 1 if no nginit
    /// answers.
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration that would be written, and touch nothing
    Render {
        /// Write the files into this directory instead of printing them
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Validate variables, files, templates and, with nginx -t, the configuration; touch nothing
    ///
    /// Ends with 0 if nginx would accept it, 64 for a bad variable, 127 without nginx, 78 for
    /// everything else.
    Check {
        /// nginx's command line, as given to `run` [default: nginx]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Ask the running nginx for /nginit/ping; ends with 0 if it answers, else 1
    ///
    /// Made for Docker: HEALTHCHECK CMD ["nginit", "healthcheck"]
    Healthcheck,
    /// Print help: of nginit, of a command, or of all variables (`nginit help env`)
    Help {
        /// A command, or env
        topic: Option<String>,
    },
    /// A command that is none of ours.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

fn parse_time(text: &str) -> Result<Duration, &'static str> {
    settings::parse_duration(text).ok_or("is not a time such as 60s, 500ms or 1m30s")
}

impl Cli {
    /// Reads the command line. A `--` in front of a command means `run --`, so that a program may
    /// have the name of one of our commands. The command line of a container's start is understood
    /// without clap, which would take longer than reading the settings.
    ///
    /// # Errors
    /// Wrong usage, or a request for help or the version: clap's texts and statuses.
    pub fn read(argv: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut argv: Vec<OsString> = argv.into_iter().collect();
        match argv.get(1).map(|arg| arg.to_str()) {
            None => return Ok(Self { command: None }),
            Some(Some("--")) => argv.insert(1, "run".into()),
            Some(Some(word)) if !word.starts_with('-') && !OWN.contains(&word) => {
                return Ok(Self { command: Some(Commands::Other(argv.split_off(1))) });
            }
            Some(_) => {}
        }
        Self::try_parse_from(argv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn read(words: &[&str]) -> Commands {
        let argv = std::iter::once("nginit").chain(words.iter().copied()).map(OsString::from);
        Cli::read(argv).unwrap().command.unwrap()
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
        let names: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        assert_eq!(names, OWN);
    }

    #[test]
    fn a_command_may_be_given_in_three_ways() {
        let nginx = ["nginx", "-g", "daemon off;"];
        assert!(matches!(read(&nginx), Commands::Other(c) if c == nginx));
        assert!(matches!(read(&["run", "nginx", "-g", "daemon off;"]), Commands::Run { command } if command == nginx));
        assert!(matches!(read(&["--", "check", "-x"]), Commands::Run { command } if command == ["check", "-x"]));
        assert!(
            matches!(read(&["run", "--", "sh", "--help"]), Commands::Run { command } if command == ["sh", "--help"])
        );
        assert!(
            matches!(read(&["run", "reload", "--wait"]), Commands::Run { command } if command == ["reload", "--wait"])
        );
        assert!(matches!(read(&["run", "--", "status"]), Commands::Run { command } if command == ["status"]));
        assert!(Cli::read(["nginit".into()]).unwrap().command.is_none());
    }
    #[test]
    fn a_reload_waits_in_nginx_own_time_syntax() {
        let waits = |words: &[&str]| match read(words) {
            Commands::Reload { wait, timeout } => (wait, timeout.as_millis()),
            other => panic!("{other:?}"),
        };
        assert_eq!(waits(&["reload"]), (false, 60_000));
        assert_eq!(waits(&["reload", "--wait", "--timeout", "1m500ms"]), (true, 60_500));
        assert_eq!(waits(&["reload", "--wait", "--timeout=0"]), (true, 0));
        let err = Cli::read(["nginit", "reload", "--timeout", "soon"].map(OsString::from)).unwrap_err();
        assert!(err.to_string().contains("is not a time such as 60s, 500ms or 1m30s"), "{err}");
    }
}
