//! A network of the benchmark's own, with files of the system to match: a DNS server needs port 53.

use std::path::Path;
use std::process::Command;

use super::Outcome;

#[path = "../../tests/support/dns.rs"]
#[allow(dead_code, unused_macros, clippy::unwrap_used, clippy::panic, reason = "tests use all of it")]
pub mod dns;

/// Tells the process within that it is.
const INSIDE: &str = "NGINIT_TEST_INSIDE";

/// Whether this is the process within. Outside: starts that, with this binary to measure, and waits for its end.
pub fn is_inside(nginit: &Path) -> Outcome<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(dns::is_inside(""));
    }
    let dir = tempfile::tempdir()?;
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c"]);
    unshare.args(["ip link set lo up && exec \"$@\"", "sh"]).arg(std::env::current_exe()?);
    unshare.args(std::env::args_os().skip(1)).env(INSIDE, dir.path()).env("NGINIT_BENCH_BINARY", nginit);
    let status = unshare.status()?;
    if status.success() { Ok(false) } else { Err(format!("within a network of its own: {status}").into()) }
}
