//! Starts programs and signals them.
//!
//! Children start with every signal at its default and none blocked: the standard library clears
//! the mask and PIPE, and all other signals that a parent may have ignored are caught by us, which
//! an exec resets. Nobody waits here: the reaper does.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;
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

/// Starts a test in a group of its own, and gives what holds its output: memory, because a disk that
/// is full must not keep the reason for itself.
///
/// # Errors
/// What kept it from starting.
pub fn spawn_test(program: &std::path::Path, args: &[OsString]) -> io::Result<(Pid, File)> {
    let output = File::from(rustix::fs::memfd_create("nginx-t", MemfdFlags::CLOEXEC)?);
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?).process_group(0);
    Ok((start(&mut command)?, output))
}

/// Starts a program in a group of its own, with `output` as both of its output streams.
///
/// # Errors
/// What kept it from starting.
pub fn spawn_piped(words: &[String], output: io::PipeWriter) -> io::Result<Pid> {
    let (program, args) = words.split_first().ok_or_else(|| io::Error::other("no program is named"))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    start(&mut command)
}

/// Starts a program in a group of its own, and gives what holds its output and its complaints: memory, as
/// for [`spawn_test`].
///
/// # Errors
/// What kept it from starting.
pub fn spawn_captured(words: &[String]) -> io::Result<(Pid, File, File)> {
    let (program, args) = words.split_first().ok_or_else(|| io::Error::other("no program is named"))?;
    let memory = || io::Result::Ok(File::from(rustix::fs::memfd_create("captured", MemfdFlags::CLOEXEC)?));
    let (output, errors) = (memory()?, memory()?);
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(errors.try_clone()?).process_group(0);
    Ok((start(&mut command)?, output, errors))
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

/// The worker processes of an nginx master, those that are shutting down among them.
pub fn workers(master: Pid) -> Vec<Pid> {
    // Kernels without CONFIG_PROC_CHILDREN have no such list (proc(5)).
    let list = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
    let children = list.map_or_else(
        |_| all_children(master),
        |list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
    );
    children.into_iter().filter(|pid| title(*pid).contains(WORKER)).collect()
}

/// Whether a process is a worker that takes connections, and not one that is shutting down.
pub fn is_accepting(pid: Pid) -> bool {
    title(pid).split_once(WORKER).is_some_and(|(_, rest)| !rest.starts_with(" is shutting down"))
}

/// What nginx calls a worker (`ngx_worker_process_init` in src/os/unix/ngx_process_cycle.c), if not
/// at the very start: a loader in front of nginx leaves its own name there.
const WORKER: &str = "nginx: worker process";

/// What a process calls itself; nothing of one that is gone.
fn title(pid: Pid) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

/// The children of a process, by a look at all processes.
fn all_children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Pid>().ok());
    let is_child = |pid: &Pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|ppid| ppid.trim() == parent.to_string()))
    };
    pids.filter(is_child).collect()
}

/// Whether a process has a handler for a signal; nothing where /proc does not say (proc(5), SigCgt).
pub fn catches(pid: Pid, signal: Signal) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & (1 << (signal.as_raw() - 1)) != 0)
}

/// Asks a process group to end.
pub fn terminate_group(pid: Pid) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = kill_process_group(pid, Signal::TERM);
    }
}

/// Kills all that is left of a process group.
pub fn kill_group(pid: Pid) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "nobody reaps here")]
    fn both_ways_find_the_same_children() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = all_children(i32::try_from(std::process::id()).unwrap());
        assert!(found.contains(&pid), "{found:?}");
        assert!(workers(i32::try_from(std::process::id()).unwrap()).is_empty(), "a sleeper is no worker");
        signal(pid, Signal::KILL);
        child.wait().unwrap();
    }
}
