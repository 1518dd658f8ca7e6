//! argv and environment in, exit status out; nothing is decided here.

use std::io::Write;
use std::process::ExitCode;

use nginit::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(err) => {
            let _ = err.print();
            return u8::try_from(err.exit_code()).unwrap_or(2).into();
        }
    };
    match nginit::run(cli, std::env::vars_os()) {
        Ok(status) => status.into(),
        Err(failure) => {
            for line in failure.reason.lines() {
                let _ = writeln!(std::io::stderr(), "nginit: {line}");
            }
            failure.status.into()
        }
    }
}
