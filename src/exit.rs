//! Every exit status that nginit returns of its own.
//!
//! Otherwise it returns what its child did: the child's own status, or 128 + N after signal N.

use std::fmt;
use std::process::ExitCode;

/// Why nginit ended without, or in place of, a child's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Success,
    /// nginx does not answer (`healthcheck`), nginit does not, or it refused (`reload`, `status`), or
    /// output cannot be written (`render`).
    Failure,
    /// Wrong usage (clap's status for it).
    Usage,
    /// The wait for a reload is over (`reload`); the same number as wrong usage.
    Timeout,
    /// A variable is refused (EX_USAGE, sysexits.h).
    BadEnvironment,
    /// The first configuration could not be rendered or written, or nginx refused it (EX_CONFIG).
    BadConfiguration,
    /// The command cannot be executed (as in sh and env).
    NotExecutable,
    /// The command is not found (as in sh and env).
    NotFound,
    /// What the supervised program returned: its status, or 128 + N.
    Child(u8),
}

impl Status {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage | Self::Timeout => 2,
            Self::BadEnvironment => 64,
            Self::BadConfiguration => 78,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Child(code) => code,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        status.code().into()
    }
}

/// An end with a reason, which may have several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status to end with.
    pub status: Status,
    /// What to print before.
    pub reason: String,
}

impl Failure {
    /// An end with `status` because of `reason`.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}
