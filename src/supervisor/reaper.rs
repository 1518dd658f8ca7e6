//! Waits for every child that ended, our own and the orphans that PID 1 inherits.
//!
//! The only place that waits: many deaths may raise one CHLD, so it goes on until none is left.

use rustix::process::{WaitOptions, WaitStatus, wait};

use super::{Ended, Pid};

/// All children that ended since the last call.
pub fn reap_all() -> Vec<(Pid, Ended)> {
    let mut ended = Vec::new();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => ended.extend(how(status).map(|how| (pid.as_raw_nonzero().get(), how))),
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return ended,
        }
    }
}

fn how(status: WaitStatus) -> Option<Ended> {
    let code = status.exit_status().map(|code| Ended::Status(u8::try_from(code).unwrap_or(u8::MAX)));
    code.or_else(|| status.terminating_signal().map(Ended::Signal))
}
