//! Entry point of the demo API: argv and environment in, one error printed, one exit status out.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = dynamic::Cli::parse();
    match dynamic::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // When stderr itself is gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "dynamic: {err:#}");
            ExitCode::FAILURE
        }
    }
}
