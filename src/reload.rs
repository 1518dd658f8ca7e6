//! A candidate configuration: how it comes about, is tested and becomes the live one.
//!
//! [`candidate`] reads ([`mod@inputs`]) and renders, [`followed`] says what it was made from, [`disk`] stages and publishes, [`others`] looks at what nginx
//! reads besides, [`state`] keeps what outlasts a restart. The order of the steps is the supervisor's.

pub mod candidate;
pub mod disk;
pub mod followed;
pub mod inputs;
pub mod journal;
pub mod others;
pub mod state;

use std::io;

use crate::log::{self, Level};
use candidate::Candidate;
use disk::{Disk, Replaced};
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

fn report_replaced(disk: &Disk, replaced: &[Replaced]) {
    for (name, kept) in replaced {
        let (dir, kept) = (disk.live().display(), kept.display());
        let text = format!(
            "{dir}/{name} of somebody else's is replaced, because nginit's has that name; it is kept as {kept}: to have it \
             served too, give it another name in {dir}"
        );
        log::line(Level::Notice, "reload", &text);
    }
}

/// Says which of the files `names`, published for the start, something else has written since then.
pub fn report_overwritten(disk: &Disk, names: &[String]) {
    for name in disk.overwritten(names) {
        let text = format!(
            "{}/{name} is not nginit's any more, so nothing of it is served: what ran in front of nginx has written it \
             since, such as the entrypoint from a template {name}.template; give that another name and restart (a reload \
             puts nginit's file in its place)",
            disk.live().display()
        );
        log::line(Level::Error, "reload", &text);
    }
}
