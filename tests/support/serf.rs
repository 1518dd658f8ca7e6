//! Real agents of Serf on loopback, each with an event handler that keeps what it is given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{eventually, free_port};

/// Serf, if it is installed; nothing, with a word about it, where it is not, unless `REQUIRE_SERF=1` forbids
/// that.
pub fn serf() -> Option<PathBuf> {
    let found = which::which("serf").or_else(|_| which::which("/usr/bin/serf")).ok();
    if found.is_none() {
        assert_ne!(std::env::var("REQUIRE_SERF").as_deref(), Ok("1"), "REQUIRE_SERF=1, and there is no serf");
        eprintln!("skipped: there is no serf in PATH");
    }
    found
}

/// Evaluates to the serf to test with, or ends the test.
#[macro_export]
macro_rules! serf_or_skip {
    () => {
        match $crate::support::serf::serf() {
            Some(serf) => serf,
            None => return,
        }
    };
}

/// What keeps its input and the name of its event, whole, as `NUMBER` in a directory: names in their order.
const HANDLER: &str = "#!/bin/sh\nmkdir -p \"$1\"\nn=$(ls \"$1\" | wc -l)\n\
    { echo \"$SERF_EVENT\"; cat; } > \"$1.new\" && mv \"$1.new\" \"$1/$(printf %06d \"$n\")\"\n";

/// A running agent. It is killed with the value.
pub struct Agent {
    pub name: String,
    /// Where others join it.
    pub address: String,
    /// Where commands reach it.
    pub rpc: String,
    serf: PathBuf,
    child: Child,
    events: PathBuf,
}

impl Agent {
    /// Starts one with these options besides, which keeps all of its own in `dir`, and waits until it takes
    /// commands. `ip` is one of loopback.
    pub fn start(serf: &Path, dir: &Path, name: &str, ip: &str, options: &[&str]) -> Self {
        let agent = Self::spawn(serf, dir, name, ip, &format!("127.0.0.1:{}", free_port()), options);
        eventually("the agent takes commands", || agent.run(&["info"]).is_some().then_some(()));
        agent
    }

    /// The same, which takes commands at `rpc`, and without the wait.
    pub fn spawn(serf: &Path, dir: &Path, name: &str, ip: &str, rpc: &str, options: &[&str]) -> Self {
        let handler = dir.join("handler");
        if !handler.exists() {
            let new = dir.join("handler.new");
            fs::write(&new, HANDLER).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(new, &handler).unwrap();
        }
        let events = dir.join(format!("events-{name}"));
        fs::create_dir_all(&events).unwrap();
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let address = format!("{ip}:{}", free_port());
        let log = fs::File::create(dir.join(format!("agent-{name}.log"))).unwrap();
        let mut command = Command::new(serf);
        command.args(["agent", &format!("-node={name}"), &format!("-bind={address}"), &format!("-rpc-addr={rpc}")]);
        // Members are found out soon.
        command.args(["-profile=local", "-log-level=info"]).args(options);
        command.arg(format!("-event-handler=sh '{}' '{}'", handler.display(), events.display()));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        Self { name: name.to_owned(), address, rpc: rpc.to_owned(), serf: serf.to_owned(), child, events }
    }

    /// What a command of serf's prints, which asks this agent; nothing if it fails.
    pub fn run(&self, args: &[&str]) -> Option<Vec<u8>> {
        let (command, rest) = args.split_first().unwrap();
        let output = Command::new(&self.serf).arg(command).arg(format!("-rpc-addr={}", self.rpc)).args(rest).output();
        let output = output.unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// All events that the handler was given so far: their names and what stood on its input.
    pub fn events(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(&self.events).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let split = |path: PathBuf| {
            let bytes = fs::read(path).unwrap();
            let at = bytes.iter().position(|b| *b == b'\n').unwrap();
            (String::from_utf8(bytes[..at].to_vec()).unwrap(), bytes[at + 1..].to_vec())
        };
        files.into_iter().map(split).collect()
    }

    /// The input of the last event of this name with `text` in it that the handler was given.
    pub fn was_told(&self, event: &str, text: &str) -> Option<Vec<u8>> {
        let mut events = self.events().into_iter().rev();
        events
            .find(|(name, input)| name == event && String::from_utf8_lossy(input).contains(text))
            .map(|(_, input)| input)
    }

    /// Waits until the handler was given one.
    pub fn told(&self, event: &str, text: &str) -> Vec<u8> {
        eventually(&format!("{} is told of {event} {text}", self.name), || self.was_told(event, text))
    }

    /// Kills it without a word to anybody.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}
