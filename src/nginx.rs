//! The nginx binary: where it is and what it is.
//!
//! Its version and compiled-in paths are read from the binary's own bytes, which takes a tenth of
//! the time that starting it would; where they do not stand there (a wrapper script, a fork),
//! `nginx -V` is asked.

pub mod clash;
pub mod command;
pub mod conf;
pub mod facts;
mod machine;
pub mod main;
pub mod reading;
pub mod verdict;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use which::WhichConfig;

use crate::exit::{Failure, Status};
use crate::settings::Settings;
use command::CommandLine;
use facts::Facts;
use machine::Machine;

/// An nginx that can be run.
#[derive(Debug, Clone)]
pub struct Nginx {
    /// Its binary.
    pub path: PathBuf,
    /// What it is.
    pub facts: Facts,
}

/// Finds the binary that the settings name, else the one that the command does.
///
/// # Errors
/// As those of [`find`].
pub fn find_for(settings: &Settings, line: &CommandLine) -> Result<Nginx, Failure> {
    find(settings.nginx.as_deref().unwrap_or(line.nginx_word()))
}

/// Finds the binary `name`, a path or a name in `PATH`, and reads what it is.
///
/// # Errors
/// 127 when there is none, 126 when it cannot be run or is no nginx.
pub fn find(name: &str) -> Result<Nginx, Failure> {
    let found = WhichConfig::new_with_sys(&Machine).binary_name(name.into()).first_result();
    let path = found.map_err(|_| {
        if name.contains('/') && Path::new(name).exists() {
            let reason = format!("\"NGINIT_NGINX\": \"{name}\" is not executable; chmod +x it");
            return Failure::new(Status::NotExecutable, reason);
        }
        let remedy =
            "install it (Debian: apt-get install nginx-light), start from an image that has it, or set NGINIT_NGINX";
        Failure::new(Status::NotFound, format!("\"{name}\" is not found; {remedy}"))
    })?;
    let facts = read_facts(&path).ok_or_else(|| {
        let reason = format!("\"{}\" does not say its version; set NGINIT_NGINX to nginx's binary", path.display());
        Failure::new(Status::NotExecutable, reason)
    })?;
    Ok(Nginx { path, facts })
}

fn read_facts(path: &Path) -> Option<Facts> {
    if let Some(facts) = facts_of_binary(path) {
        return Some(facts);
    }
    let output = Command::new(path).arg("-V").output().ok()?;
    Facts::find(&output.stderr)
}

/// What stands in the binary's read-only data. The first 64 KiB of that are tried alone, since
/// nginx's own texts come first and every page that is not touched saves a microsecond.
fn facts_of_binary(path: &Path) -> Option<Facts> {
    const FIRST: usize = 64 << 10;
    const LONGEST: usize = 64 << 20;
    let file = File::open(path).ok()?;
    let mut head = [0; 4096];
    let length = file.read_at(&mut head, 0).ok()?;
    facts::read_only_segments(&head[..length]).into_iter().find_map(|(offset, length)| {
        [length.min(FIRST), length.min(LONGEST)].into_iter().find_map(|length| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).ok()?;
            Facts::find(&bytes)
        })
    })
}
