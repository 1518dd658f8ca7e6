//! The nginx binary: where it is and what it is.
//!
//! Its version and compiled-in paths are read from the binary's own bytes, which takes a tenth of
//! the time that starting it would; where they do not stand there (a wrapper script, a fork),
//! `nginx -V` is asked.

pub mod command;
pub mod conf;
pub mod facts;
pub mod verdict;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit::{Failure, Status};
use facts::Facts;

/// An nginx that can be run.
#[derive(Debug, Clone)]
pub struct Nginx {
    /// Its binary.
    pub path: PathBuf,
    /// What it is.
    pub facts: Facts,
}

/// Finds the binary `name`, a path or a name in `PATH`, and reads what it is.
///
/// # Errors
/// 127 when there is none, 126 when it cannot be run or is no nginx.
pub fn find(name: &str) -> Result<Nginx, Failure> {
    let path = which::which(name).map_err(|_| {
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
    let from_bytes = std::fs::read(path).ok().filter(|bytes| bytes.starts_with(b"\x7fELF"));
    if let Some(facts) = from_bytes.and_then(|bytes| Facts::find(&bytes)) {
        return Some(facts);
    }
    let output = Command::new(path).arg("-V").output().ok()?;
    Facts::find(&output.stderr)
}
