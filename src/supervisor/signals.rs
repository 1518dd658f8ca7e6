//! Signals become events: one table says what each means.
//!
//! The handlers only record; a thread hands what they recorded to the loop, in order. Faults
//! (SEGV, ILL, FPE, BUS, TRAP, ABRT, SYS) are left to the kernel, and PIPE to the Rust runtime,
//! which ignores it: it is the answer to our own writes. Real-time signals mean nothing to nginx
//! and are left alone.

use std::io;
use std::thread;

use rustix::process::Signal;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

use super::{Meaning, Pid, Received};

/// What every signal that can be caught means to nginx, but CHLD.
const TABLE: &[(Signal, &str, Meaning)] = &[
    (Signal::HUP, "SIGHUP", Meaning::Reload),
    (Signal::QUIT, "SIGQUIT", Meaning::Quit),
    (Signal::TERM, "SIGTERM", Meaning::Term),
    (Signal::INT, "SIGINT", Meaning::FastStop),
    (Signal::USR1, "SIGUSR1", Meaning::Forward),
    (Signal::USR2, "SIGUSR2", Meaning::Forward),
    (Signal::WINCH, "SIGWINCH", Meaning::Forward),
    (Signal::ALARM, "SIGALRM", Meaning::Forward),
    (Signal::CONT, "SIGCONT", Meaning::Forward),
    (Signal::TSTP, "SIGTSTP", Meaning::Forward),
    (Signal::TTIN, "SIGTTIN", Meaning::Forward),
    (Signal::TTOU, "SIGTTOU", Meaning::Forward),
    (Signal::URG, "SIGURG", Meaning::Forward),
    (Signal::XCPU, "SIGXCPU", Meaning::Forward),
    (Signal::XFSZ, "SIGXFSZ", Meaning::Forward),
    (Signal::VTALARM, "SIGVTALRM", Meaning::Forward),
    (Signal::PROF, "SIGPROF", Meaning::Forward),
    (Signal::IO, "SIGIO", Meaning::Forward),
    (Signal::POWER, "SIGPWR", Meaning::Forward),
    #[cfg(not(any(target_arch = "mips", target_arch = "sparc64")))]
    (Signal::STKFLT, "SIGSTKFLT", Meaning::Forward),
];

/// Something that a signal tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A child ended or stopped.
    Child,
    /// A signal for the program: its name, who sent it, if that is known, and what it means.
    Program(&'static str, Option<Pid>, Received),
}

/// Signals that are recorded.
pub struct Hooked(SignalsInfo<WithOrigin>);

/// Records signals from here on.
///
/// # Errors
/// What kept a handler from being set up.
pub fn hook() -> io::Result<Hooked> {
    let numbers = TABLE.iter().map(|(signal, ..)| signal.as_raw()).chain([Signal::CHILD.as_raw()]);
    SignalsInfo::new(numbers).map(Hooked)
}

impl Hooked {
    /// Hands every recorded signal to `tell`, in a thread of its own, until that says that nobody
    /// listens.
    ///
    /// # Errors
    /// What kept the thread from being started.
    pub fn forward(mut self, tell: impl Fn(Told) -> bool + Send + 'static) -> io::Result<()> {
        let work = move || {
            for origin in self.0.forever() {
                if meaning_of(&origin).is_some_and(|told| !tell(told)) {
                    break;
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(work).map(drop)
    }
}

fn meaning_of(origin: &Origin) -> Option<Told> {
    let number = origin.signal;
    if number == Signal::CHILD.as_raw() {
        return Some(Told::Child);
    }
    let (_, name, meaning) = *TABLE.iter().find(|(signal, ..)| signal.as_raw() == number)?;
    let received = Received { number, meaning, from_terminal: matches!(origin.cause, Cause::Kernel) };
    Some(Told::Program(name, origin.process.as_ref().map(|p| p.pid).filter(|pid| *pid > 0), received))
}

/// The signal with this number, if it is one that can be sent.
pub fn from_number(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::number;

    #[test]
    fn the_pure_part_knows_the_numbers() {
        let raw = [Signal::HUP, Signal::QUIT, Signal::TERM].map(Signal::as_raw);
        assert_eq!([number::HUP, number::QUIT, number::TERM], raw);
        for (signal, ..) in TABLE {
            assert_eq!(from_number(signal.as_raw()), Some(*signal));
        }
    }
}
