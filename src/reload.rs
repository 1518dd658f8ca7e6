//! A candidate configuration: how it comes about, is tested and becomes the live one.
//!
//! [`candidate`] reads and renders, [`disk`] stages and publishes, [`others`] looks at what nginx
//! reads besides, [`state`] keeps what outlasts a restart. The order of the steps is the supervisor's.

pub mod candidate;
pub mod disk;
pub mod journal;
pub mod others;
pub mod state;

use std::io;

use crate::log::{self, Level};
use candidate::Candidate;
use disk::Disk;
use journal::Failed;

/// Makes a staged candidate live, and says so of files of others that it replaces.
///
/// # Errors
/// As those of [`Disk::publish`].
pub fn publish(disk: &Disk, candidate: &Candidate) -> Result<(), Failed> {
    disk.publish(&candidate.files).map(|replaced| report_replaced(disk, &replaced))
}

/// The same for the first candidate, which is not staged.
///
/// # Errors
/// As those of [`Disk::write`].
pub fn write(disk: &Disk, candidate: &Candidate) -> io::Result<()> {
    disk.write(&candidate.files).map(|replaced| report_replaced(disk, &replaced))
}

fn report_replaced(disk: &Disk, names: &[String]) {
    for name in names {
        log::line(Level::Info, "reload", &format!("{}/{name} of somebody else's is replaced", disk.live().display()));
    }
}
