//! The files of a configuration on disk: stage aside, publish by rename.
//!
//! Everything that is written has a hidden name inside of the configuration directory first, on the
//! same file system, where no `*.conf` pattern finds it. A reader sees an old file or a new
//! one, never a part of one, and a failure in the middle of publishing puts the old ones back.
//! Files that others put into the directory are never touched, unless a rendered one has the
//! same name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::nginx::conf;
use crate::render::MARK;
use crate::upstream::Files;

/// Name of the hidden directory that is staged in.
const STAGE: &str = ".nginit";

/// A configuration directory.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The directory of the live files.
    live: PathBuf,
    /// Where candidates are staged.
    stage: PathBuf,
}

/// A candidate on disk that can be tested.
#[derive(Debug)]
pub struct Staged {
    /// A copy of the main configuration file that includes the candidate's files.
    pub main: PathBuf,
    /// Staged paths and the live ones that they stand for, to be shown in their stead.
    pub shown: Vec<(String, String)>,
}

impl Disk {
    /// The directory `live`, staged inside of itself.
    pub fn new(live: &Path) -> Self {
        Self { live: live.to_owned(), stage: live.join(STAGE) }
    }

    /// The directory `live` for tests alone: staged in `stage`, never published.
    pub fn staged_in(live: &Path, stage: &Path) -> Self {
        Self { live: live.to_owned(), stage: stage.to_owned() }
    }

    /// The directory of the live files.
    pub fn live(&self) -> &Path {
        &self.live
    }

    /// What keeps the directory from being written, and what to do about it.
    pub fn explain(&self, err: &io::Error) -> String {
        if err.kind() == ErrorKind::InvalidInput {
            return err.to_string();
        }
        let dir = self.live.display();
        if err.kind() == ErrorKind::ResourceBusy {
            return format!(
                "\"NGINIT_CONF_DIR\": a file in \"{dir}\" is a mount of its own: {err}; mount the directory"
            );
        }
        let remedy = "mount a writable directory there, for example with --tmpfs, or set NGINIT_CONF_DIR to one that nginx.conf includes";
        format!("\"NGINIT_CONF_DIR\": \"{dir}\" cannot be written: {err}; {remedy}")
    }

    fn new_dir(&self) -> PathBuf {
        self.stage.join("new")
    }

    /// Where a test of the candidate writes what it prints.
    pub fn test_output(&self) -> PathBuf {
        self.stage.join("output")
    }

    /// Writes the candidate aside.
    ///
    /// # Errors
    /// The first operation that fails; nothing live is touched.
    pub fn stage(&self, files: &Files) -> io::Result<()> {
        self.drop_staged()?;
        fs::create_dir_all(self.new_dir())?;
        for (name, text) in files {
            fs::write(self.new_dir().join(name), text)?;
        }
        Ok(())
    }

    /// Makes a staged candidate testable: its directory gets links to what others put into the
    /// live one, and a copy of the main configuration file `main` includes it in place of the live
    /// one. The copy stands among links to the neighbours of `main`, so that its relative paths
    /// still lead there.
    ///
    /// # Errors
    /// The first operation that fails, or that `main` includes nothing of the live directory.
    pub fn stage_main(&self, files: &Files, main: &Path) -> io::Result<Staged> {
        let dir = self.new_dir();
        for entry in read_dir_or_none(&self.live)? {
            let name = entry.file_name();
            let replaced = name.to_str().is_some_and(|n| n == STAGE || files.contains_key(n)) || is_ours(&entry.path());
            if !replaced {
                symlink(entry.path(), dir.join(name))?;
            }
        }
        let base = main.parent().unwrap_or(Path::new("/"));
        let refuse = |reason: String| io::Error::new(ErrorKind::InvalidInput, reason);
        let text = fs::read(main).map_err(|err| refuse(format!("{} cannot be read: {err}", main.display())))?;
        let text = String::from_utf8_lossy(&text);
        let (text, changed) = conf::redirect_includes(&text, base, &self.live, &dir);
        if changed == 0 {
            let (main, live) = (main.display(), self.live.display());
            return Err(refuse(format!(
                "\"NGINIT_CONF_DIR\": {main} does not include {live}/*.conf; {}",
                include_advice(&self.live)
            )));
        }
        let root = self.stage.join("main");
        fs::create_dir_all(&root)?;
        let copy = root.join(main.file_name().unwrap_or_default());
        fs::write(&copy, text)?;
        for entry in read_dir_or_none(base)? {
            let link = root.join(entry.file_name());
            if link != copy {
                symlink(entry.path(), link)?;
            }
        }
        let pair = |staged: &Path, live: &Path| (staged.display().to_string(), live.display().to_string());
        Ok(Staged { main: copy, shown: vec![pair(&dir, &self.live), pair(&root, base)] })
    }

    /// Removes what was staged.
    ///
    /// # Errors
    /// The operation that fails; that nothing is staged is none.
    pub fn drop_staged(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.stage) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Makes the staged files the live ones and removes those that an earlier run rendered and
    /// this one did not. What else was staged is still there. Returns the names of files of others
    /// that were replaced.
    ///
    /// # Errors
    /// The first operation that fails, after the files that were live are back in their places.
    pub fn publish(&self, files: &Files) -> io::Result<Vec<String>> {
        let published = self.swap(files, |name| Ok(self.new_dir().join(name)));
        if published.is_err() {
            let _ = self.drop_staged();
        }
        published
    }

    /// Writes files that were not staged, each under a hidden name first, and makes them the live
    /// ones like [`Disk::publish`]. For the first start, which tests nothing before.
    ///
    /// # Errors
    /// As above.
    pub fn write(&self, files: &Files) -> io::Result<Vec<String>> {
        self.swap(files, |name| {
            let hidden = self.hidden(name);
            let written = fs::write(&hidden, &files[name]);
            // Most often the directory is there.
            if written.as_ref().is_err_and(|err| err.kind() == ErrorKind::NotFound) {
                fs::create_dir_all(&self.live)?;
                fs::write(&hidden, &files[name])?;
            } else {
                written?;
            }
            Ok(hidden)
        })
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.live.join(format!("{STAGE}-{name}"))
    }

    /// Renames each file from where `from` says to its live name, and removes stale ones.
    fn swap(&self, files: &Files, from: impl Fn(&str) -> io::Result<PathBuf>) -> io::Result<Vec<String>> {
        let mut before: BTreeMap<&str, Option<Vec<u8>>> = BTreeMap::new();
        let mut replaced = Vec::new();
        let stale = self.stale(files)?;
        for name in files.keys().chain(&stale) {
            let old = match fs::read(self.live.join(name)) {
                Ok(bytes) => Some(bytes),
                Err(err) if err.kind() == ErrorKind::NotFound => None,
                Err(err) => return Err(err),
            };
            if old.as_ref().is_some_and(|bytes| !bytes.starts_with(MARK.as_bytes())) {
                replaced.push(name.clone());
            }
            before.insert(name, old);
        }
        let swap = || -> io::Result<()> {
            files.keys().try_for_each(|name| fs::rename(from(name)?, self.live.join(name)))?;
            stale.iter().try_for_each(|name| fs::remove_file(self.live.join(name)))
        };
        let done = swap();
        if done.is_err() {
            self.restore(&before);
        }
        done.map(|()| replaced)
    }

    /// Puts files back as they were; what fails here cannot be helped.
    fn restore(&self, before: &BTreeMap<&str, Option<Vec<u8>>>) {
        for (name, old) in before {
            let (live, hidden) = (self.live.join(name), self.hidden(name));
            match old {
                Some(bytes) if fs::read(&live).ok().as_ref() != Some(bytes) => {
                    if fs::write(&hidden, bytes).is_ok() {
                        let _ = fs::rename(&hidden, live);
                    }
                }
                Some(_) => {}
                None => {
                    let _ = fs::remove_file(live);
                }
            }
            let _ = fs::remove_file(hidden);
        }
    }

    /// Files that an earlier run rendered and that are not among `files`.
    fn stale(&self, files: &Files) -> io::Result<Vec<String>> {
        let names = read_dir_or_none(&self.live)?.into_iter().filter_map(|e| e.file_name().into_string().ok());
        Ok(names.filter(|name| !files.contains_key(name) && is_ours(&self.live.join(name))).collect())
    }
}

/// What to do about a main file that does not include `dir`.
pub fn include_advice(dir: &Path) -> String {
    format!("add \"include {}/*.conf;\" to its http block, or set NGINIT_CONF_DIR", dir.display())
}

/// Whether an earlier run rendered the file.
fn is_ours(path: &Path) -> bool {
    let mut start = Vec::new();
    let regular = fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    let mut read = || fs::File::open(path)?.take(MARK.len() as u64).read_to_end(&mut start);
    regular && read().is_ok() && start == MARK.as_bytes()
}

fn read_dir_or_none(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs.iter().map(|(n, t)| ((*n).to_owned(), format!("{MARK}{t}\n"))).collect()
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn publishing_replaces_ours_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("conf.d");
        fs::create_dir(&live).unwrap();
        fs::write(live.join("users.conf"), "own").unwrap();
        fs::write(live.join("default.conf"), "stock").unwrap();
        let disk = Disk::new(&live);
        let first = files(&[("default.conf", "1"), ("extra.conf", "1")]);
        assert_eq!(disk.write(&first).unwrap(), ["default.conf"]);
        assert_eq!(listing(&live), ["default.conf", "extra.conf", "users.conf"]);
        assert_eq!(fs::read_to_string(live.join("default.conf")).unwrap(), first["default.conf"]);
        let second = files(&[("default.conf", "2")]);
        disk.stage(&second).unwrap();
        assert_eq!(listing(&live), [".nginit", "default.conf", "extra.conf", "users.conf"]);
        assert!(disk.publish(&second).unwrap().is_empty());
        disk.drop_staged().unwrap();
        assert_eq!(listing(&live), ["default.conf", "users.conf"]);
        assert_eq!(fs::read_to_string(live.join("users.conf")).unwrap(), "own");
    }

    #[test]
    fn a_failure_in_the_middle_puts_the_old_files_back() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path();
        let disk = Disk::new(live);
        let first = files(&[("a.conf", "1"), ("b.conf", "1")]);
        disk.write(&first).unwrap();
        let second = files(&[("a.conf", "2"), ("b.conf", "2"), ("c.conf", "2")]);
        disk.stage(&second).unwrap();
        fs::remove_file(live.join(".nginit/new/b.conf")).unwrap();
        assert!(disk.publish(&second).is_err());
        assert_eq!(listing(live), ["a.conf", "b.conf"]);
        assert_eq!(fs::read_to_string(live.join("a.conf")).unwrap(), first["a.conf"]);
        fs::create_dir(live.join("c.conf")).unwrap();
        assert!(disk.write(&second).is_err());
        assert_eq!(listing(live), ["a.conf", "b.conf", "c.conf"]);
        assert_eq!(fs::read_to_string(live.join("b.conf")).unwrap(), first["b.conf"]);
    }

    #[test]
    fn the_staged_main_file_reads_the_candidate_and_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path();
        fs::create_dir(etc.join("conf.d")).unwrap();
        fs::write(etc.join("conf.d/users.conf"), "own").unwrap();
        fs::write(etc.join("mime.types"), "types").unwrap();
        let main = etc.join("nginx.conf");
        fs::write(&main, "http { include mime.types; include conf.d/*.conf; }").unwrap();
        let disk = Disk::new(&etc.join("conf.d"));
        let candidate = files(&[("default.conf", "1")]);
        disk.stage(&candidate).unwrap();
        let staged = disk.stage_main(&candidate, &main).unwrap();
        assert_eq!(listing(&disk.new_dir()), ["default.conf", "users.conf"]);
        assert_eq!(listing(staged.main.parent().unwrap()), ["conf.d", "mime.types", "nginx.conf"]);
        let text = fs::read_to_string(&staged.main).unwrap();
        assert!(text.contains(&format!("\"{}/*.conf\"", disk.new_dir().display())), "{text}");
        fs::write(&main, "http { }").unwrap();
        disk.stage(&candidate).unwrap();
        let err = disk.stage_main(&candidate, &main).unwrap_err().to_string();
        assert!(err.contains("does not include"), "{err}");
    }
}
