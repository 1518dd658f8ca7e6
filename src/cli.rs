//! The command line: types and help texts, nothing else.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::{orders, route};
use crate::settings;

/// The PID 1 that nginx deserves: it turns lists of servers, from the environment, files, DNS and
/// the servers themselves, into nginx's upstreams, runs nginx, and keeps the two in step.
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
  docker exec proxy nginit list
  docker exec proxy nginit reload --wait

Variables: nginit help env";

/// The names of our commands.
const OWN: [&str; 20] = [
    "run",
    "reload",
    "status",
    "list",
    "why",
    "diff",
    "add",
    "remove",
    "drain",
    "undrain",
    "weight",
    "announce",
    "top",
    "serf",
    "render",
    "check",
    "healthcheck",
    "completions",
    "man",
    "help",
];

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
        /// Whether it waits for the reload.
        #[command(flatten)]
        waits: Waits,
        /// What is printed.
        #[command(flatten)]
        form: JsonForm,
    },
    /// Show what the running nginit does: generation, upstreams, reloads
    ///
    /// Run it where nginit runs: docker exec CONTAINER nginit status. Ends with 1 if no nginit
    /// answers.
    Status {
        /// What is printed.
        #[command(flatten)]
        form: JsonForm,
        /// Print a line a server as CSV, below a line of column names
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// Show the servers, their state and where they come from
    ///
    /// Ends with 1 if no nginit answers or there is no such upstream.
    List {
        /// Of this upstream alone
        #[arg(value_parser = parse_upstream)]
        upstream: Option<String>,
        /// What is printed.
        #[command(flatten)]
        form: JsonForm,
    },
    /// Show why a server is in an upstream, or is not
    ///
    /// Ends with 0 if it is or was lately in one, 1 if in none, or if no nginit answers.
    Why {
        /// An address, with its port or without, or a host name
        server: String,
        /// What is printed.
        #[command(flatten)]
        form: JsonForm,
    },
    /// Show what a reload would change now, in files and in servers, and whether nginx has to be reloaded for it
    ///
    /// Ends with 0 whether it would or not, 1 if a reload would be refused, with the reason, or if no
    /// nginit answers.
    Diff {
        /// What is printed.
        #[command(flatten)]
        form: JsonForm,
    },
    /// Add a server to an upstream
    ///
    /// It stays through reloads and, where NGINIT_STATE is set, through a restart, until it is removed.
    /// Ends with 0 if the order was taken, 1 if it was refused or no nginit answers. With --wait, ends
    /// with 0 once nginx serves accordingly, 1 with nginx's reason if it refuses, 2 if the time is over.
    Add(OrderArgs),
    /// Take a server out of an upstream, wherever it comes from
    ///
    /// It stays out, also if a list or a name still has it, until it is added. Ends as add does.
    Remove(OrderArgs),
    /// Give a server no new requests while it finishes what it has
    ///
    /// Ends as add does.
    Drain(OrderArgs),
    /// Give a drained server new requests again
    ///
    /// Ends as add does.
    Undrain(OrderArgs),
    /// Give a server another share of the requests
    ///
    /// Ends as add does.
    Weight {
        /// Which server.
        #[command(flatten)]
        order: OrderArgs,
        /// Its share relative to the others, 1-65535
        #[arg(value_name = "N")]
        weight: NonZeroU16,
    },
    /// Announce a server for some time, or, with --every, for as long as this runs
    ///
    /// Ends with 0 if it was taken, 1 if it was refused or no nginit answers. With --every, what goes
    /// wrong is said and tried again; at TERM, INT, QUIT or HUP the server is taken back.
    Announce {
        /// Which server.
        #[command(flatten)]
        place: Place,
        /// How long it counts, 1s-24h; 0 takes it back
        #[arg(long, value_name = "T", value_parser = parse_ttl)]
        ttl: Duration,
        /// Announce it again every T
        #[arg(long, value_name = "T", value_parser = parse_time)]
        every: Option<Duration>,
        /// Its share of the requests
        #[arg(long, value_name = "N")]
        weight: Option<NonZeroU16>,
        /// What is printed.
        #[command(flatten)]
        form: JsonForm,
    },
    /// Show status and servers every second until Ctrl-C; once, where no terminal is
    ///
    /// Ends with 1 if no nginit answers at the beginning.
    Top,
    /// Tell the running nginit what a Serf agent tells: an event handler for Serf
    ///
    /// For the agent: -event-handler='member-join,member-leave,member-failed,member-update,member-reap=nginit serf'.
    /// Ends with 0 if it was taken or is none of ours, 1 if no nginit answers in time.
    Serf,
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
    /// Print what a shell needs to complete nginit's command line
    ///
    /// Such as: nginit completions bash > /etc/bash_completion.d/nginit
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print nginit's manual page, for man -l -
    Man,
    /// Print help: of nginit, of a command, or of all variables (`nginit help env`)
    Help {
        /// A command, or env
        topic: Option<String>,
    },
    /// A command that is none of ours.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Whether to wait for the reload, and how long.
#[derive(Debug, Clone, Copy, Args)]
pub struct Waits {
    /// Wait for its outcome
    #[arg(long)]
    pub wait: bool,
    /// Longest wait, such as 500ms or 1m30s; 0 waits for ever
    #[arg(long, value_name = "T", default_value = "60s", value_parser = parse_time)]
    pub timeout: Duration,
}

/// What is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct JsonForm {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// A server of an upstream.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The upstream: dynamic, DYNAMIC or dynamic_backend
    #[arg(value_parser = parse_upstream)]
    pub upstream: String,
    /// The server, as in a list, such as 10.0.0.7:8080;weight=2
    pub server: String,
}

/// An order.
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    /// Which server.
    #[command(flatten)]
    pub place: Place,
    /// Whether it waits for the reload.
    #[command(flatten)]
    pub waits: Waits,
    /// What is printed.
    #[command(flatten)]
    pub form: JsonForm,
}

/// The shells that there are completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU's
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

fn parse_time(text: &str) -> Result<Duration, &'static str> {
    settings::parse_duration(text).ok_or("is not a time such as 60s, 500ms or 1m30s")
}

fn parse_ttl(text: &str) -> Result<Duration, &'static str> {
    orders::parse_ttl(text).ok_or("is not 0 or a time of 1s to 24h")
}

fn parse_upstream(text: &str) -> Result<String, &'static str> {
    let name = Some(text).filter(|text| route::is_name(text));
    name.map(str::to_owned).ok_or("is not a name of letters, digits and _")
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
            Commands::Reload { waits: Waits { wait, timeout }, .. } => (wait, timeout.as_millis()),
            other => panic!("{other:?}"),
        };
        assert_eq!(waits(&["reload"]), (false, 60_000));
        assert_eq!(waits(&["reload", "--wait", "--timeout", "1m500ms"]), (true, 60_500));
        assert_eq!(waits(&["reload", "--wait", "--timeout=0"]), (true, 0));
        let err = Cli::read(["nginit", "reload", "--timeout", "soon"].map(OsString::from)).unwrap_err();
        assert!(err.to_string().contains("is not a time such as 60s, 500ms or 1m30s"), "{err}");
    }
}
