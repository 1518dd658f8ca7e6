//! Reads the files of a configuration as nginx would, where somebody must be told about them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::clash::{Clash, Reading, Source};
use super::{conf, verdict};
use crate::log::{self, Level};

/// What nginx gives as its reason in `output`, with what to do about it, after a test or a start with
/// the main file `main`. `shown` says which staged path stands for which live one.
pub fn reason(output: &[u8], main: &Path, shown: &[(String, String)]) -> String {
    let read = |clash: &Clash| read(main, shown, |words| clash.wants(words));
    verdict::reason(&String::from_utf8_lossy(output), shown, read)
}

/// Warns of servers that no request reaches because of others; see [`Reading::unreached`].
pub fn warn_of_unreached(main: &Path, shown: &[(String, String)]) {
    let reading = read(main, shown, |words| matches!(words, ["listen" | "server_name", ..]));
    for told in reading.unreached() {
        log::line(Level::Warn, "nginx", &told);
    }
}

/// Reads `main` and what it includes; a file that cannot be read is an empty one.
fn read(main: &Path, shown: &[(String, String)], keep: impl Fn(&[&str]) -> bool) -> Reading {
    let source = |path: &Path| {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let path = path.display().to_string();
        Source { path: shown.iter().fold(path, |path, (staged, live)| path.replace(staged, live)), text }
    };
    let base = main.parent().unwrap_or(Path::new("/"));
    let load = |pattern: &str| {
        let path = base.join(pattern);
        let parts: Vec<&OsStr> = path.iter().collect();
        let mut found = Vec::new();
        expand(PathBuf::new(), &parts, &mut found);
        found.iter().map(|path| source(path)).collect()
    };
    Reading::new(source(main), load, keep)
}

/// Adds what `pattern` stands for below `dir`, in the order of glob(3).
fn expand(dir: PathBuf, pattern: &[&OsStr], found: &mut Vec<PathBuf>) {
    let Some((part, rest)) = pattern.split_first() else {
        found.extend(dir.is_file().then_some(dir));
        return;
    };
    let bytes = part.as_encoded_bytes();
    if !bytes.iter().any(|b| b"*?[".contains(b)) {
        return expand(dir.join(part), rest, found);
    }
    let names = fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let is_meant = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        (!name.starts_with(b".") || bytes.starts_with(b".")) && conf::matches(bytes, name)
    };
    let mut names: Vec<_> = names.filter(|name| is_meant(name)).collect();
    names.sort_unstable();
    for name in names {
        expand(dir.join(name), rest, found);
    }
}
