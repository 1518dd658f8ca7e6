//! The machine as `which` sees it, but without the table of users: to ask the C library for a home directory
//! links all that could know of one, 140 kB in the static program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use which::sys::{RealSys, Sys};

/// The machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

impl Sys for Machine {
    type ReadDirEntry = <RealSys as Sys>::ReadDirEntry;
    type Metadata = <RealSys as Sys>::Metadata;

    /// For a `~` in `PATH`, as a shell has it.
    #[expect(clippy::disallowed_methods, reason = "beside PATH, which the library reads")]
    fn home_dir(&self) -> Option<PathBuf> {
        std::env::var_os("HOME").map(PathBuf::from)
    }

    fn is_windows(&self) -> bool {
        RealSys.is_windows()
    }

    fn current_dir(&self) -> io::Result<PathBuf> {
        RealSys.current_dir()
    }

    fn env_split_paths(&self, paths: &OsStr) -> Vec<PathBuf> {
        RealSys.env_split_paths(paths)
    }

    fn env_path(&self) -> Option<OsString> {
        RealSys.env_path()
    }

    fn env_path_ext(&self) -> Option<OsString> {
        RealSys.env_path_ext()
    }

    fn metadata(&self, path: &Path) -> io::Result<Self::Metadata> {
        RealSys.metadata(path)
    }

    fn symlink_metadata(&self, path: &Path) -> io::Result<Self::Metadata> {
        RealSys.symlink_metadata(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<Self::ReadDirEntry>>>> {
        RealSys.read_dir(path)
    }

    fn is_valid_executable(&self, path: &Path) -> io::Result<bool> {
        RealSys.is_valid_executable(path)
    }
}
