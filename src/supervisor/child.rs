//! Starts programs and signals them.
//!
//! Children start with every signal at its default and none blocked: the standard library clears
//! the mask and PIPE, and all other signals that a parent may have ignored are caught by us, which
//! an exec resets. Nobody waits here: the reaper does.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process, kill_process_group};

use super::Pid;
use crate::exit::{Failure, Status};

/// Makes orphans below us our children, so that they are reaped: PID 1 has them anyway, others ask
/// the kernel (prctl(2), PR_SET_CHILD_SUBREAPER). A kernel that refuses leaves them to its init.
pub fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Which process group a program starts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Its own: what the terminal sends reaches nginit alone.
    Own,
    /// nginit's: a shell keeps the terminal.
    Shared,
}

/// Starts `argv` with our standard streams.
///
/// # Errors
/// 127 when the program is not found, 126 when it cannot be executed.
pub fn spawn(argv: &[OsString], group: Group) -> Result<Pid, Failure> {
    let Some((program, args)) = argv.split_first() else {
        return Err(Failure::new(Status::NotFound, "no command is given"));
    };
    let mut command = Command::new(program);
    command.args(args);
    if group == Group::Own {
        command.process_group(0);
    }
    start(&mut command).map_err(|err| {
        let status = if err.kind() == io::ErrorKind::NotFound { Status::NotFound } else { Status::NotExecutable };
        Failure::new(status, format!("\"{}\" cannot be started: {err}", program.to_string_lossy()))
    })
}

/// Starts a test with its output going to `output`, in a group of its own.
///
/// # Errors
/// What kept it from starting.
pub fn spawn_test(program: &std::path::Path, args: &[OsString], output: &std::path::Path) -> io::Result<Pid> {
    let file = std::fs::File::create(output)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    start(&mut command)
}

fn start(command: &mut Command) -> io::Result<Pid> {
    let child = command.spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Sends a signal; a process that is gone is no fault.
pub fn signal(pid: Pid, signal: Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process has a handler for a signal; nothing where /proc does not say (proc(5), SigCgt).
pub fn catches(pid: Pid, signal: Signal) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & (1 << (signal.as_raw() - 1)) != 0)
}

/// Kills all that is left of a process group.
pub fn kill_group(pid: Pid) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}
