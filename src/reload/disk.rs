//! The files of a configuration on disk: stage aside, publish by rename, take back.
//!
//! Everything that is written has its place in a hidden directory inside of the configuration
//! directory first, on the same file system, where no `*.conf` pattern finds it. A reader sees an
//! old file or a new one, never a part of one. What is replaced is kept in a
//! journal (`journal.rs`) until the new set is proven; a failure in the middle of publishing puts
//! it back at once, a crash at the next start. Files that others put into the directory are never
//! touched, unless a rendered one has the same name, and then they are kept aside.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::journal::{self, Failed, Journal, is_ours, read_dir_or_none};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::nginx::conf;
use crate::nginx::main::by_one_name;
use crate::ordered::InOrder;
use crate::render::generation;
use crate::upstream::Files;

/// Name of the hidden directory that is staged in.
const PRIVATE: &str = ".nginit";

/// Name of the directory in it for files of others that were replaced.
const KEPT: &str = "kept";

/// How the name of anything else that is ours and hidden begins.
const HIDDEN: &str = ".nginit-";

/// A configuration directory.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The directory of the live files.
    live: PathBuf,
    /// Where nginit has its own files.
    private: PathBuf,
}

/// Keeps others from a configuration directory.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is the open file's")] File);

/// A file of others that was replaced: its name, and where it is kept.
pub type Replaced = (String, PathBuf);

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
        Self { live: live.to_owned(), private: live.join(PRIVATE) }
    }

    /// The directory `live` for tests alone: staged in `stage`, never published.
    pub fn staged_in(live: &Path, stage: &Path) -> Self {
        Self { live: live.to_owned(), private: stage.to_owned() }
    }

    /// The directory of the live files.
    pub fn live(&self) -> &Path {
        &self.live
    }

    /// nginit's private directory, `.nginit` in the live one.
    pub fn private(&self) -> &Path {
        &self.private
    }

    /// The socket on which nginx answers its generation.
    pub fn generation_socket(&self) -> PathBuf {
        self.private.join("generation.sock")
    }

    /// The file that nginx writes its worst errors to. Not in the private directory: workers, which may
    /// be another user's, open it again when log files are rotated.
    pub fn errors(&self) -> PathBuf {
        self.live.join(format!("{HIDDEN}errors"))
    }

    /// The file in which nginx tells of clients. Where the one above is, for the same reason.
    pub fn clients(&self) -> PathBuf {
        self.live.join(format!("{HIDDEN}clients"))
    }

    /// Takes the directory for this nginit alone, for as long as the value lives: two of them would take
    /// each other's socket and files.
    ///
    /// # Errors
    /// `WouldBlock` when another one has it, or what keeps it from being looked at. A file system
    /// without locks is no error.
    pub fn lock(&self) -> io::Result<Lock> {
        self.make_private()?;
        let file = File::options().create(true).truncate(false).write(true).open(self.private.join("lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(Lock(file)),
        }
    }

    /// Makes the live and the private directory ready for a start of nginx: an empty file for its
    /// errors and, if that can be, one for clients' addresses, which are not everybody's to read; and no
    /// socket of an earlier run, which it could not bind again.
    ///
    /// # Errors
    /// The first operation that fails.
    pub fn prepare(&self) -> io::Result<()> {
        self.make_private()?;
        journal::write(&self.errors(), "")?;
        let _ = journal::remove(&self.clients());
        let _ = File::options().create_new(true).write(true).mode(0o600).open(self.clients());
        journal::remove(&self.generation_socket())
    }

    /// Whether a socket can be where [`Disk::generation_socket`] says. Some file systems, above all
    /// those that a virtual machine shares with its host, know none.
    ///
    /// # Errors
    /// What keeps it from being bound.
    pub fn try_socket(&self) -> io::Result<()> {
        // statfs(2); trying takes longer than asking, and these can.
        const EXT: i64 = 0xef53;
        const OVERLAY: i64 = 0x794c_7630;
        const TMPFS: i64 = 0x0102_1994;
        const XFS: i64 = 0x5846_5342;
        const BTRFS: i64 = 0x9123_683e;
        let kind = rustix::fs::statfs(&self.private)?.f_type;
        if [EXT, OVERLAY, TMPFS, XFS, BTRFS].contains(&kind) {
            return Ok(());
        }
        let socket = self.generation_socket();
        UnixListener::bind(&socket).and_then(|_| journal::remove(&socket))
    }

    fn make_private(&self) -> io::Result<()> {
        match journal::make_private(&self.private) {
            // Most often the live directory is there.
            Err(err) if err.kind() == ErrorKind::NotFound => {
                self.private.parent().map_or(Ok(()), fs::create_dir_all)?;
                journal::make_private(&self.private)
            }
            made => made,
        }
    }

    /// What keeps the directory from being written, and what to do about it.
    pub fn explain(&self, err: &io::Error) -> String {
        if err.kind() == ErrorKind::InvalidInput {
            return err.to_string();
        }
        let dir = self.live.display();
        if err.kind() == ErrorKind::ResourceBusy {
            return format!(
                "\"NGINIT_CONF_DIR\": a file in \"{dir}\" that nginit has to write, such as default.conf, is a mount of its \
                 own: {err}; mount it under another name, or mount the whole directory"
            );
        }
        if err.kind() == ErrorKind::WouldBlock {
            return format!(
                "\"NGINIT_CONF_DIR\": another nginit runs on \"{dir}\"; each needs a directory of its own (to test a \
                 configuration, use nginit check)"
            );
        }
        let remedy = match err.kind() {
            ErrorKind::PermissionDenied if self.private.exists() => {
                "mount a directory there that this user can write, with all that is in it, its hidden .nginit too, or set \
                 NGINIT_CONF_DIR to one that nginx.conf includes"
                    .to_owned()
            }
            ErrorKind::StorageFull => "free space or inodes there, or enlarge the mount".to_owned(),
            ErrorKind::QuotaExceeded => "free space there, or raise the quota".to_owned(),
            ErrorKind::ReadOnlyFilesystem => format!(
                "mount a writable file system there, for example with --tmpfs {dir}, or set NGINIT_CONF_DIR to a \
                 writable directory that nginx.conf includes"
            ),
            _ => "mount a writable directory there, for example with --tmpfs, or set NGINIT_CONF_DIR to one that \
                  nginx.conf includes"
                .to_owned(),
        };
        format!("\"NGINIT_CONF_DIR\": \"{dir}\" cannot be written: {err}; {remedy}")
    }

    fn new_dir(&self) -> PathBuf {
        self.private.join("new")
    }

    /// Writes the candidate aside.
    ///
    /// # Errors
    /// The first operation that fails; nothing live is touched.
    pub fn stage(&self, files: &Files) -> io::Result<()> {
        self.drop_staged()?;
        self.make_private()?;
        let dir = self.new_dir();
        journal::make_private(&dir)?;
        files.iter().try_for_each(|(name, text)| journal::write(&dir.join(name), text))
    }

    /// Makes a staged candidate testable: its directory gets links to what others put into the
    /// live one, and a copy of the main configuration file `main` includes it in place of the live
    /// one. The copy stands among links to the neighbours of `main`, so that its relative paths
    /// still lead there, those in files that it includes too, unless these climb out with `..`.
    ///
    /// # Errors
    /// The first operation that fails, or that `main` includes nothing of the live directory.
    pub fn stage_main(&self, files: &Files, main: &Path) -> io::Result<Staged> {
        let dir = self.new_dir();
        for entry in read_dir_or_none(&self.live)? {
            let name = entry.file_name();
            let replaced =
                name.to_str().is_some_and(|n| n == PRIVATE || files.contains_key(n)) || is_ours(&entry.path());
            if !replaced {
                symlink(entry.path(), dir.join(name))?;
            }
        }
        // Links to what is named relative to the working directory would lead nowhere.
        let main = &std::path::absolute(main)?;
        let base = main.parent().unwrap_or(Path::new("/"));
        let refuse = |reason: String| io::Error::new(ErrorKind::InvalidInput, reason);
        let text = fs::read(main).map_err(|err| refuse(format!("{} cannot be read: {err}", main.display())))?;
        let text = String::from_utf8_lossy(&text);
        let text = by_one_name(&conf::anchored(&text, base), base, &self.live);
        let (text, changed) = conf::redirect_includes(&text, base, &self.live, &dir);
        if changed == 0 {
            let (main, live) = (main.display(), self.live.display());
            return Err(refuse(format!(
                "\"NGINIT_CONF_DIR\": {main} itself does not include {live}/*.conf; {}",
                include_advice(&self.live)
            )));
        }
        let root = self.private.join("main");
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
    /// The first operation that fails; that nothing is staged is none.
    pub fn drop_staged(&self) -> io::Result<()> {
        ["new", "main"].iter().try_for_each(|name| journal::remove(&self.private.join(name)))
    }

    fn journal(&self) -> Journal<'_> {
        Journal { live: &self.live, private: &self.private }
    }

    /// Makes the staged files the live ones and removes those that an earlier run rendered and
    /// this one did not. What they replace is kept until [`Disk::prove`] or [`Disk::roll_back`].
    /// What else was staged is still there. Returns the names of files of others that were replaced, and
    /// where these are kept.
    ///
    /// # Errors
    /// The first operation that fails, after the files that were live are back in their places, if
    /// that is possible.
    pub fn publish(&self, files: &Files) -> Result<Vec<Replaced>, Failed> {
        let published = self.swap(files);
        if published.is_err() {
            let _ = self.drop_staged();
        }
        published
    }

    /// Makes files live like [`Disk::publish`] that were not staged. For the first start, which tests
    /// nothing before; what is left of the stage is to be dropped when there is time.
    ///
    /// # Errors
    /// As above.
    pub fn write(&self, files: &Files) -> io::Result<Vec<Replaced>> {
        self.stage(files)?;
        self.swap(files).map_err(|failed| failed.error)
    }

    fn swap(&self, files: &Files) -> Result<Vec<Replaced>, Failed> {
        let mut replaced = Vec::new();
        for name in files.keys() {
            let live = self.live.join(name);
            if journal::exists(&live)? && !is_ours(&live) {
                replaced.push((name.clone(), self.keep(name)?));
            }
        }
        let stale = self.stale(files)?;
        let names: Vec<&str> = files.keys().chain(&stale).map(String::as_str).collect();
        let new = self.new_dir();
        let swap = || {
            files.keys().try_for_each(|name| journal::rename(&new.join(name), &self.live.join(name)))?;
            stale.iter().try_for_each(|name| journal::remove(&self.live.join(name)))
        };
        // What is left of the stage may be the very space that putting back needs.
        let swap = || swap().inspect_err(|_| drop(self.drop_staged()));
        self.journal().change(&names, swap).map(|()| replaced)
    }

    /// Keeps the file `name` of others, which is to be replaced, in the private directory for good, and
    /// gives the path. What is there already under that name is left alone.
    fn keep(&self, name: &str) -> io::Result<PathBuf> {
        let kept = self.private.join(KEPT);
        journal::make_private(&kept)?;
        let live = self.live.join(name);
        let mut path = kept.join(name);
        for number in 2.. {
            if !journal::exists(&path)? {
                journal::duplicate(&live, &path)?;
                break;
            }
            if journal::same(&live, &path)? {
                break;
            }
            path = kept.join(format!("{name}.{number}"));
        }
        Ok(path)
    }

    /// Which of the files `names`, which were published, are somebody else's by now.
    pub fn overwritten<'a>(&self, names: &'a [String]) -> impl Iterator<Item = &'a String> {
        names.iter().filter(|name| {
            let live = self.live.join(name);
            live.exists() && !is_ours(&live)
        })
    }

    /// Writes files for somebody to look at: nothing is staged, kept, or left besides them.
    ///
    /// # Errors
    /// The first operation that fails. A full disk or the like leaves the directory as it was.
    pub fn write_out(&self, files: &Files) -> io::Result<()> {
        fs::create_dir_all(&self.live)?;
        let stale = self.stale(files)?;
        let hidden = |name: &str| self.live.join(format!("{HIDDEN}{name}"));
        let write = || {
            files.iter().try_for_each(|(name, text)| journal::write(&hidden(name), text))?;
            files.keys().try_for_each(|name| journal::rename(&hidden(name), &self.live.join(name)))?;
            stale.iter().try_for_each(|name| journal::remove(&self.live.join(name)))
        };
        write().inspect_err(|_| files.keys().for_each(|name| drop(journal::remove(&hidden(name)))))
    }

    /// Files of ours that are not among `files`.
    fn stale(&self, files: &Files) -> io::Result<Vec<String>> {
        Ok(journal::ours(&self.live)?.into_iter().filter(|name| !files.contains_key(name)).collect())
    }

    /// Whether files of ours are live.
    pub fn has_set(&self) -> bool {
        journal::ours(&self.live).is_ok_and(|names| !names.is_empty())
    }

    /// The live files of ours, all that are UTF-8.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn ours(&self) -> io::Result<Files> {
        let names = journal::ours(&self.live)?.into_iter();
        names.map(|name| fs::read_to_string(self.live.join(&name)).map(|text| (name, text))).try_into_map()
    }

    /// Whether the live files of ours are `files`, byte by byte, and no others, whatever their
    /// generation is.
    pub fn holds(&self, files: &Files) -> bool {
        self.ours().is_ok_and(|mut ours| {
            ours.remove(generation::NAME);
            ours == *files
        })
    }

    /// Replaces one live file, without a way back.
    ///
    /// # Errors
    /// The operation that fails; the file is as it was.
    pub fn rewrite(&self, name: &str, text: &str) -> io::Result<()> {
        let hidden = self.live.join(format!("{HIDDEN}{name}"));
        journal::write(&hidden, text)?;
        journal::rename(&hidden, &self.live.join(name))
    }

    /// The live set is good: what it replaced is given up.
    ///
    /// # Errors
    /// The operation that fails; the set still counts as not proven then.
    pub fn prove(&self) -> io::Result<()> {
        self.journal().forget()
    }

    /// Puts back what was live when the last set was proven, and says whether there was a newer one
    /// to be taken back. May be called again after a failure or a crash.
    ///
    /// # Errors
    /// The first operation that failed; what could be put back is, and the rest can be later.
    pub fn roll_back(&self) -> io::Result<bool> {
        self.journal().roll_back()
    }

    /// Cleans up after a run that ended in the middle of something, and takes back a set that was
    /// never proven; says whether there was one. For the start.
    ///
    /// # Errors
    /// As with [`Disk::roll_back`]. What is left over and cannot be removed is no error.
    pub fn recover(&self) -> io::Result<bool> {
        let _ = self.drop_staged();
        self.journal().clean();
        for entry in read_dir_or_none(&self.live)? {
            if entry.file_name().to_str().is_some_and(|n| n.starts_with(HIDDEN)) {
                let _ = journal::remove(&entry.path());
            }
        }
        self.roll_back()
    }
}

/// What to do about a main file that does not include `dir`.
pub fn include_advice(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "add \"include {dir}/*.conf;\" to its http block (in place of what else includes it), or set NGINIT_CONF_DIR"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::render::MARK;

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
        assert!(!disk.has_set());
        let first = files(&[("default.conf", "1"), ("extra.conf", "1")]);
        let kept = disk.private().join("kept/default.conf");
        assert_eq!(disk.write(&first).unwrap(), [("default.conf".to_owned(), kept.clone())]);
        assert!(disk.has_set());
        assert_eq!(listing(&live), [".nginit", "default.conf", "extra.conf", "users.conf"]);
        assert_eq!(fs::read_to_string(live.join("default.conf")).unwrap(), first["default.conf"]);
        disk.prove().unwrap();
        let second = files(&[("default.conf", "2")]);
        disk.stage(&second).unwrap();
        assert_eq!(listing(&live), [".nginit", "default.conf", "extra.conf", "users.conf"]);
        assert!(disk.publish(&second).unwrap().is_empty());
        disk.drop_staged().unwrap();
        assert_eq!(listing(&live), [".nginit", "default.conf", "users.conf"]);
        assert_eq!(fs::read_to_string(live.join("users.conf")).unwrap(), "own");
        assert_eq!(listing(disk.private()), ["kept", "last"]);
        assert_eq!(fs::read_to_string(kept).unwrap(), "stock");
    }

    #[test]
    fn a_candidate_that_is_not_whole_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path();
        let disk = Disk::new(live);
        let first = files(&[("a.conf", "1"), ("b.conf", "1")]);
        disk.write(&first).unwrap();
        disk.prove().unwrap();
        let second = files(&[("a.conf", "2"), ("b.conf", "2"), ("c.conf", "2")]);
        disk.stage(&second).unwrap();
        fs::remove_file(live.join(".nginit/new/b.conf")).unwrap();
        assert!(disk.publish(&second).is_err());
        assert_eq!(listing(live), [".nginit", "a.conf", "b.conf"]);
        assert_eq!(fs::read_to_string(live.join("a.conf")).unwrap(), first["a.conf"]);
        assert!(listing(disk.private()).is_empty());
    }

    #[test]
    fn the_private_directory_is_made_ready_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("deep/conf.d"));
        let mode = || fs::metadata(disk.private()).unwrap().permissions().mode() & 0o7777;
        disk.prepare().unwrap();
        assert_eq!(mode(), 0o700);
        assert_eq!(fs::read(disk.errors()).unwrap(), b"");
        fs::write(disk.errors(), "old").unwrap();
        fs::set_permissions(disk.private(), fs::Permissions::from_mode(0o755)).unwrap();
        drop(UnixListener::bind(disk.generation_socket()).unwrap());
        disk.prepare().unwrap();
        assert_eq!(mode(), 0o700);
        assert_eq!(fs::read(disk.errors()).unwrap(), b"");
        assert_eq!(listing(disk.private()), [""; 0]);
        disk.stage(&files(&[("a.conf", "1")])).unwrap();
        disk.drop_staged().unwrap();
        let lock = disk.lock().unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(lock);
        disk.lock().unwrap();
        assert_eq!(listing(disk.private()), ["lock"], "only what was staged is dropped");
        fs::remove_dir_all(disk.private()).unwrap();
        fs::write(disk.private(), "in the way").unwrap();
        assert_eq!(disk.prepare().unwrap_err().kind(), ErrorKind::NotADirectory);
        assert!(!disk.recover().unwrap());
    }

    #[test]
    fn files_to_look_at_leave_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let disk = Disk::new(&out);
        disk.write_out(&files(&[("a.conf", "1"), ("b.conf", "1")])).unwrap();
        disk.write_out(&files(&[("a.conf", "2")])).unwrap();
        assert_eq!(listing(&out), ["a.conf"]);
        fs::create_dir(out.join("b.conf")).unwrap();
        disk.write_out(&files(&[("b.conf", "3")])).unwrap_err();
        assert_eq!(listing(&out), ["a.conf", "b.conf"]);
    }

    #[test]
    fn each_failure_has_its_remedy() {
        let disk = Disk::new(Path::new("/etc/nginx/conf.d"));
        let start = "\"NGINIT_CONF_DIR\": ";
        for (kind, remedy) in [
            (ErrorKind::StorageFull, "enlarge the mount"),
            (ErrorKind::QuotaExceeded, "raise the quota"),
            (ErrorKind::ReadOnlyFilesystem, "--tmpfs /etc/nginx/conf.d"),
            (ErrorKind::PermissionDenied, "mount a writable directory"),
            (ErrorKind::ResourceBusy, "mount it under another name, or mount the whole directory"),
        ] {
            let text = disk.explain(&kind.into());
            assert!(text.starts_with(start) && text.contains(remedy), "{text}");
        }
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
        fs::write(&main, "include ../shared/x; http { include link/*.conf; }").unwrap();
        symlink("conf.d", etc.join("link")).unwrap();
        disk.stage(&candidate).unwrap();
        let text = fs::read_to_string(disk.stage_main(&candidate, &main).unwrap().main).unwrap();
        let (shared, new) = (etc.join("../shared/x"), disk.new_dir());
        let expected = format!("include \"{}\"; http {{ include \"{}/*.conf\"; }}", shared.display(), new.display());
        assert_eq!(text, expected);
        fs::write(&main, "http { }").unwrap();
        disk.stage(&candidate).unwrap();
        let err = disk.stage_main(&candidate, &main).unwrap_err().to_string();
        assert!(err.contains("does not include"), "{err}");
    }
}
