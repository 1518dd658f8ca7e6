//! The journal of a configuration directory: what was live before a change, until the change is
//! proven.
//!
//! Before a live file is replaced or removed, it is kept in `last/`. That directory comes into being
//! whole, by one rename, and goes the same way, so that a crash at any moment leaves either no journal
//! and a set that was not touched or was proven, or a journal from which the older set can be put back.
//! Putting back never moves anything out of the journal, so it can be done again from the start.
//! Kept files are hard links: they need no space, and on a full disk they can still be put back.
//!
//! It withstands whatever ends the container. Nothing is synced, for the sake of the start: after a
//! loss of power the file system has the last word.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::ordered::InOrder;
use crate::render::MARK;

/// The last good set, or as much of it as the live one replaced.
const LAST: &str = "last";

/// The same while it is put together.
const PART: &str = "last.part";

/// The same while it is thrown away.
const GONE: &str = "last.gone";

/// A file on its way back.
const PUT: &str = "put";

/// Mode of a directory that nobody else may look into.
const PRIVATE: u32 = 0o700;

/// The journal of one directory.
#[derive(Debug, Clone, Copy)]
pub struct Journal<'a> {
    /// The directory of the live files.
    pub live: &'a Path,
    /// Where the journal is, on the same file system.
    pub private: &'a Path,
}

/// A change that failed.
#[derive(Debug)]
pub struct Failed {
    /// With what.
    pub error: io::Error,
    /// The live files are neither those of before nor the new ones.
    pub torn: bool,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, torn: false }
    }
}

impl Journal<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.private.join(name)
    }

    /// Whether there is a journal: the live set was never proven.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(self.at(LAST)).is_ok_and(|m| m.is_dir())
    }

    /// Does `change`, which may touch the live files `names` and make files of ours, after they have
    /// been kept. A journal that is there already is given up: what is live is what nginx runs, and so
    /// what a way back must lead to.
    ///
    /// # Errors
    /// What could not be kept, whereupon nothing was changed, or what `change` failed with, after the
    /// files are back as they were. Where putting back fails too, the files are torn, and the journal
    /// stays for another attempt.
    pub fn change(&self, names: &[&str], change: impl FnOnce() -> io::Result<()>) -> Result<(), Failed> {
        let keep = self.keep(names).inspect_err(|_| drop(remove(&self.at(PART))));
        keep.map_err(|error| Failed { error, torn: false })?;
        change().map_err(|error| Failed { error, torn: self.roll_back().is_err() })
    }

    fn keep(&self, names: &[&str]) -> io::Result<()> {
        self.forget()?;
        // An empty directory is whole from its first moment on.
        if !names.iter().any(|name| fs::symlink_metadata(self.live.join(name)).is_ok()) {
            return make_private(&self.at(LAST));
        }
        let part = self.at(PART);
        remove(&part)?;
        make_private(&part)?;
        for name in names {
            let live = self.live.join(name);
            if exists(&live)? {
                duplicate(&live, &part.join(name))?;
            }
        }
        rename(&part, &self.at(LAST))
    }

    /// Gives the older set up.
    ///
    /// # Errors
    /// The operation that fails; the journal is still there then. That there is none is no error.
    pub fn forget(&self) -> io::Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let gone = self.at(GONE);
        remove(&gone)?;
        rename(&self.at(LAST), &gone)?;
        // It counts no longer; what cannot be deleted now is deleted before the next one comes.
        let _ = remove(&gone);
        Ok(())
    }

    /// Makes the older set live again, and says whether there was one. Can be repeated after a failure
    /// or a crash.
    ///
    /// # Errors
    /// The first operation that failed; all that could be put back is, and the journal is still there.
    pub fn roll_back(&self) -> io::Result<bool> {
        if !self.exists() {
            return Ok(false);
        }
        self.restore(&self.at(LAST))?;
        self.forget().map(|()| true)
    }

    /// Removes what an interrupted change leaves behind. What cannot be removed is in nobody's way, or
    /// the operation that it hinders says so.
    pub fn clean(&self) {
        for name in [PART, GONE, PUT] {
            let _ = remove(&self.at(name));
        }
        if !self.exists() {
            let _ = remove(&self.at(LAST));
        }
    }

    /// Puts the files of `from` back and removes files of ours that are not among them.
    fn restore(&self, from: &Path) -> io::Result<()> {
        let kept = list(from)?;
        let mut done = Ok(());
        for name in &kept {
            done = done.and(self.put(&from.join(name), &self.live.join(name)));
        }
        for name in ours(self.live)?.difference(&kept) {
            done = done.and(remove(&self.live.join(name)));
        }
        done
    }

    /// Makes `to` what `from` is, in one step.
    fn put(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Also because a rename of two links to one file does nothing (rename(2)), and because what is
        // a mount of its own cannot be replaced and never was.
        if same(from, to)? {
            return Ok(());
        }
        let hidden = self.at(PUT);
        remove(&hidden)?;
        duplicate(from, &hidden)?;
        rename(&hidden, to)
    }
}

/// Makes a directory that is nobody else's business, or an existing one such.
pub fn make_private(dir: &Path) -> io::Result<()> {
    step("mkdir", dir)?;
    match fs::DirBuilder::new().mode(PRIVATE).create(dir) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err),
        _ => {}
    }
    let meta = fs::metadata(dir)?;
    if !meta.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    // Not needlessly: only the owner may.
    if meta.mode() & 0o7777 != PRIVATE {
        fs::set_permissions(dir, Permissions::from_mode(PRIVATE))?;
    }
    Ok(())
}

/// Writes a new file.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    step("write", path)?;
    fs::write(path, text)
}

/// Moves a file or directory, over an existing file.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step("rename", to)?;
    fs::rename(from, to)
}

/// Removes whatever is there, if anything is.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => step("rmdir", path).and_then(|()| fs::remove_dir_all(path)),
        Ok(_) => step("unlink", path).and_then(|()| fs::remove_file(path)),
        Err(err) => Err(err),
    };
    removed.or_else(|err| if err.kind() == ErrorKind::NotFound { Ok(()) } else { Err(err) })
}

/// Whether there is anything, be it a link that leads nowhere.
pub fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}

/// A second name `to` for `from`, or a copy with its mode and, where that is allowed, its owner. Links
/// are not possible everywhere, nor to files of everybody (proc(5), fs.protected_hardlinks).
///
/// # Errors
/// The operation that fails, or that it is neither a file nor a link.
pub fn duplicate(from: &Path, to: &Path) -> io::Result<()> {
    if step("link", to).and_then(|()| fs::hard_link(from, to)).is_ok() {
        return Ok(());
    }
    step("copy", to)?;
    let meta = fs::symlink_metadata(from)?;
    match meta.file_type() {
        kind if kind.is_symlink() => symlink(fs::read_link(from)?, to)?,
        kind if kind.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        kind if kind.is_file() => drop(fs::copy(from, to)?),
        // Reading a pipe or a device may never end.
        _ => return Err(ErrorKind::Unsupported.into()),
    }
    let _ = lchown(to, Some(meta.uid()), Some(meta.gid()));
    Ok(())
}

/// Whether `b` is what `a` is: the same file, a link to the same place, the same bytes and mode.
///
/// # Errors
/// The operation that fails; that there is no `b` is none.
pub fn same(a: &Path, b: &Path) -> io::Result<bool> {
    if !exists(b)? {
        return Ok(false);
    }
    let (x, y) = (fs::symlink_metadata(a)?, fs::symlink_metadata(b)?);
    if (x.dev(), x.ino()) == (y.dev(), y.ino()) {
        return Ok(true);
    }
    if x.mode() != y.mode() || x.len() != y.len() {
        return Ok(false);
    }
    Ok(match x.file_type() {
        kind if kind.is_symlink() => fs::read_link(a)? == fs::read_link(b)?,
        kind if kind.is_file() => fs::read(a)? == fs::read(b)?,
        _ => false,
    })
}

/// Names of what is in `dir` and no directory; none where it is missing. Names that are not UTF-8 are
/// not ours.
fn list(dir: &Path) -> io::Result<BTreeSet<String>> {
    let entries = read_dir_or_none(dir)?.into_iter();
    Ok(entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .into_set())
}

/// Names of the files of ours in `dir`.
pub fn ours(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = list(dir)?;
    names.retain(|name| is_ours(&dir.join(name)));
    Ok(names)
}

/// Whether nginit rendered the file.
pub fn is_ours(path: &Path) -> bool {
    let mut start = Vec::new();
    let regular = fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    let mut read = || fs::File::open(path)?.take(MARK.len() as u64).read_to_end(&mut start);
    regular && read().is_ok() && start == MARK.as_bytes()
}

/// What is in `dir`; nothing where it is missing.
pub fn read_dir_or_none(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

/// Comes before every operation that changes something, so that tests can let it fail.
#[cfg(not(test))]
const fn step(_: &str, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use tests::step;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::super::disk::Disk;
    use super::*;
    use crate::upstream::Files;

    type Hook = Box<dyn FnMut(&str, &Path) -> io::Result<()>>;

    thread_local! {
        static HOOK: RefCell<Hook> = RefCell::new(Box::new(|_, _| Ok(())));
    }

    pub fn step(operation: &str, path: &Path) -> io::Result<()> {
        HOOK.with_borrow_mut(|hook| hook(operation, path))
    }

    /// How operations go.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        /// All that come after so many fail.
        Crash(usize),
        /// The one that comes after so many fails.
        Once(usize),
        None,
    }

    fn with_hook<T>(hook: impl FnMut(&str, &Path) -> io::Result<()> + 'static, work: impl FnOnce() -> T) -> T {
        HOOK.set(Box::new(hook));
        let result = work();
        HOOK.set(Box::new(|_, _| Ok(())));
        result
    }

    /// Does `work` with a fault, and says whether it came to that.
    fn with<T>(fault: Fault, links: bool, work: impl FnOnce() -> T) -> (T, bool) {
        let hit = std::rc::Rc::new(std::cell::Cell::new(false));
        let (seen, mut done) = (hit.clone(), 0);
        let hook = move |operation: &str, path: &Path| {
            if operation == "link" && !links {
                return Err(io::Error::from(ErrorKind::PermissionDenied));
            }
            done += 1;
            let fails = match fault {
                Fault::Crash(after) => done > after,
                Fault::Once(after) => done == after + 1,
                Fault::None => false,
            };
            if fails && !seen.replace(true) {
                tear(operation, path);
            }
            if fails { Err(io::Error::other(format!("{fault:?}: {operation}"))) } else { Ok(()) }
        };
        (with_hook(hook, work), hit.get())
    }

    /// What an operation of several steps leaves behind when it is interrupted.
    fn tear(operation: &str, path: &Path) {
        match operation {
            "write" | "copy" => fs::write(path, "torn").unwrap(),
            "rmdir" => {
                let first = fs::read_dir(path).unwrap().next();
                first.into_iter().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
            }
            _ => {}
        }
    }

    fn files(generation: u32, names: &[&str]) -> Files {
        names.iter().map(|name| ((*name).to_owned(), format!("{MARK}x, {generation} of {name}\n"))).collect()
    }

    fn set(generation: u32) -> Files {
        match generation {
            1 => files(1, &["a.conf", "b.conf"]),
            2 => files(2, &["a.conf", "c.conf", "default.conf", "link.conf"]),
            _ => files(3, &["b.conf", "c.conf", "users.conf"]),
        }
    }

    /// What nginx and users see of a directory: type and mode, owner, text or target.
    fn seen(live: &Path) -> BTreeMap<String, (u32, u32, String)> {
        let names = fs::read_dir(live).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let look = |name: String| {
            let path = live.join(&name);
            let meta = fs::symlink_metadata(&path).unwrap();
            let text = fs::read_link(&path).map(|to| to.display().to_string());
            (name, (meta.mode(), meta.uid(), text.or_else(|_| fs::read_to_string(&path)).unwrap_or_default()))
        };
        names.filter(|name| !name.starts_with(".nginit")).map(look).collect()
    }

    /// A directory with files of others in which the first set is live and proven.
    fn site() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("conf.d");
        fs::create_dir(&live).unwrap();
        fs::write(dir.path().join("elsewhere"), "elsewhere").unwrap();
        fs::write(live.join("users.conf"), "own").unwrap();
        fs::write(live.join("untouched.conf"), "own").unwrap();
        symlink("../elsewhere", live.join("link.conf")).unwrap();
        fs::write(live.join("default.conf"), "stock").unwrap();
        fs::set_permissions(live.join("default.conf"), Permissions::from_mode(0o640)).unwrap();
        let _ = lchown(live.join("default.conf"), Some(1234), None);
        let disk = Disk::new(&live);
        disk.write(&set(1)).unwrap();
        disk.prove().unwrap();
        (dir, disk)
    }

    fn publish(disk: &Disk, generation: u32) -> io::Result<Vec<String>> {
        disk.stage(&set(generation))?;
        let replaced = disk.publish(&set(generation)).map_err(|failed| failed.error)?;
        Ok(replaced.into_iter().map(|(name, _)| name).collect())
    }

    /// Does `work` on a site that `before` made, once for each operation of it with a fault there and
    /// once without; then `check` looks. Says how many operations there were.
    fn at_each(
        fault: fn(usize) -> Fault,
        before: impl Fn(&Disk),
        work: impl Fn(&Disk) -> bool,
        check: impl Fn(&Disk, bool),
    ) {
        for links in [true, false] {
            for operation in 0.. {
                let (_dir, disk) = site();
                before(&disk);
                let (done, hit) = with(fault(operation), links, || work(&disk));
                assert!(done || hit, "without a fault it succeeds");
                with(Fault::None, links, || check(&disk, done));
                if !hit {
                    assert!(operation > 2, "there were operations");
                    break;
                }
            }
        }
    }

    #[test]
    fn a_set_that_is_taken_back_leaves_no_trace() {
        let (dir, disk) = site();
        let first = seen(disk.live());
        assert_eq!(first["link.conf"].2, "../elsewhere");
        assert_eq!(publish(&disk, 2).unwrap(), ["default.conf", "link.conf"]);
        let second = seen(disk.live());
        assert_eq!(
            second.keys().collect::<Vec<_>>(),
            ["a.conf", "c.conf", "default.conf", "link.conf", "untouched.conf", "users.conf"]
        );
        assert_eq!(second["link.conf"].2, set(2)["link.conf"], "a file stands in place of the link");
        assert_eq!(fs::read_to_string(dir.path().join("elsewhere")).unwrap(), "elsewhere");
        assert!(disk.roll_back().unwrap());
        assert_eq!(seen(disk.live()), first);
        assert!(!disk.roll_back().unwrap(), "there is nothing more to take back");
        publish(&disk, 2).unwrap();
        fs::create_dir_all(disk.private().join(GONE).join("left over")).unwrap();
        disk.prove().unwrap();
        assert!(!disk.roll_back().unwrap() && !disk.recover().unwrap());
        assert_eq!(seen(disk.live()), second);
        disk.prove().unwrap();
    }

    #[test]
    fn the_way_back_leads_to_what_was_live_just_before() {
        let (_dir, disk) = site();
        publish(&disk, 2).unwrap();
        let second = seen(disk.live());
        publish(&disk, 3).unwrap();
        assert_eq!(seen(disk.live()).keys().collect::<Vec<_>>(), ["b.conf", "c.conf", "untouched.conf", "users.conf"]);
        assert!(disk.recover().unwrap());
        assert_eq!(seen(disk.live()), second, "it was never proven, but nginx ran it");
    }

    #[test]
    fn a_crash_while_publishing_ends_in_the_old_set() {
        let (_dir, disk) = site();
        let first = seen(disk.live());
        let recovers = |disk: &Disk, _| {
            disk.recover().unwrap();
            assert_eq!(seen(disk.live()), first);
            assert_eq!(list(disk.private()).unwrap(), BTreeSet::new());
        };
        at_each(Fault::Crash, |_| {}, |disk| publish(disk, 2).is_ok(), recovers);
        at_each(Fault::Crash, |_| {}, |disk| disk.write(&set(2)).is_ok(), recovers);
        publish(&disk, 2).unwrap();
        let second = seen(disk.live());
        let recovers = |disk: &Disk, _| {
            disk.recover().unwrap();
            // Before the older journal is given up, it counts; after it, what nginx runs.
            assert!([&first, &second].contains(&&seen(disk.live())));
        };
        at_each(Fault::Crash, |disk| drop(publish(disk, 2).unwrap()), |disk| publish(disk, 3).is_ok(), recovers);
    }

    #[test]
    fn a_crash_while_proving_ends_in_one_of_the_sets() {
        let (_dir, disk) = site();
        let first = seen(disk.live());
        publish(&disk, 2).unwrap();
        let second = seen(disk.live());
        at_each(
            Fault::Crash,
            |_| {},
            |disk| publish(disk, 2).is_ok() && disk.prove().is_ok(),
            |disk, proven| {
                disk.recover().unwrap();
                assert_eq!(seen(disk.live()), if proven { &second } else { &first }.clone());
            },
        );
    }

    #[test]
    fn crashes_while_rolling_back_end_in_the_old_set() {
        let (_dir, disk) = site();
        let first = seen(disk.live());
        for again in 0..20 {
            at_each(
                Fault::Crash,
                |disk| drop(publish(disk, 2).unwrap()),
                |disk| disk.roll_back().is_ok(),
                |disk, _| {
                    let _ = with(Fault::Crash(again), true, || disk.recover());
                    disk.recover().unwrap();
                    assert_eq!(seen(disk.live()), first);
                    assert!(!disk.roll_back().unwrap());
                },
            );
        }
    }

    #[test]
    fn an_operation_that_fails_leaves_what_was_live() {
        let (_dir, disk) = site();
        let first = seen(disk.live());
        publish(&disk, 2).unwrap();
        let second = seen(disk.live());
        publish(&disk, 3).unwrap();
        let third = seen(disk.live());
        at_each(
            Fault::Once,
            |_| {},
            |disk| publish(disk, 2).is_ok(),
            |disk, done| {
                assert_eq!(seen(disk.live()), if done { &second } else { &first }.clone());
                assert_eq!(disk.roll_back().unwrap(), done);
                assert_eq!(seen(disk.live()), first);
            },
        );
        at_each(
            Fault::Once,
            |disk| drop(publish(disk, 2).unwrap()),
            |disk| publish(disk, 3).is_ok(),
            |disk, done| {
                assert_eq!(seen(disk.live()), if done { &third } else { &second }.clone());
                // Where the older journal could not be given up, it is still there.
                if disk.roll_back().unwrap() {
                    assert!([&first, &second].contains(&&seen(disk.live())));
                }
            },
        );
    }

    #[test]
    fn a_directory_in_the_way_is_refused_and_waited_for() {
        let (_dir, disk) = site();
        let first = seen(disk.live());
        let way = disk.live().join("c.conf");
        fs::create_dir(&way).unwrap();
        for published in [publish(&disk, 2).map(drop), disk.write(&set(2)).map(drop)] {
            assert_eq!(published.unwrap_err().kind(), ErrorKind::IsADirectory);
            assert!(!disk.roll_back().unwrap(), "nothing was begun");
        }
        fs::remove_dir(&way).unwrap();
        assert_eq!(seen(disk.live()), first);
        publish(&disk, 2).unwrap();
        let way = disk.live().join("a.conf");
        fs::remove_file(&way).unwrap();
        fs::create_dir(&way).unwrap();
        disk.roll_back().unwrap_err();
        assert_eq!(seen(disk.live())["default.conf"], first["default.conf"], "the others are back");
        fs::remove_dir(&way).unwrap();
        assert!(disk.roll_back().unwrap());
        assert_eq!(seen(disk.live()), first);
    }

    #[test]
    fn leftovers_of_any_kind_are_cleaned_up() {
        let (_dir, disk) = site();
        let first = seen(disk.live());
        let private = disk.private();
        disk.drop_staged().unwrap();
        for file in ["last", PART, "new"] {
            fs::write(private.join(file), "x").unwrap();
        }
        for dir in [GONE, PUT, "main", "../.nginit-a.conf"] {
            fs::create_dir_all(private.join(dir).join("deep")).unwrap();
            symlink("nowhere", private.join(dir).join("link")).unwrap();
        }
        let unreadable = disk.live().join(".nginit-test");
        fs::write(&unreadable, "x").unwrap();
        fs::set_permissions(&unreadable, Permissions::from_mode(0o000)).unwrap();
        assert!(!disk.recover().unwrap());
        assert_eq!(fs::read_dir(private).unwrap().count(), 0);
        assert_eq!(fs::read_dir(disk.live()).unwrap().count(), first.len() + 1);
        assert_eq!(seen(disk.live()), first);
        publish(&disk, 2).unwrap();
        assert!(disk.roll_back().unwrap());
        assert_eq!(seen(disk.live()), first);
    }

    #[test]
    fn a_torn_journal_counts_as_none() {
        let (_dir, disk) = site();
        publish(&disk, 2).unwrap();
        let second = seen(disk.live());
        let (last, gone) = (disk.private().join(LAST), disk.private().join(GONE));
        fs::rename(&last, &gone).unwrap();
        fs::remove_file(gone.join("a.conf")).unwrap();
        fs::create_dir(disk.private().join(PART)).unwrap();
        fs::write(disk.private().join(PART).join("a.conf"), "hal").unwrap();
        assert!(!disk.recover().unwrap());
        assert_eq!(seen(disk.live()), second);
    }

    /// A file system of 64 KiB. It exists in the mount namespace of a process that ends with us, and is
    /// reached through /proc.
    fn small_disk(dir: &Path) -> Option<(Child, PathBuf)> {
        let script = "mount -t tmpfs -o size=64k none \"$0\" && echo ready && exec cat";
        for options in [&["-m"][..], &["-m", "-r"]] {
            let mut command = Command::new("unshare");
            command.args(options).args(["sh", "-c", script]).arg(dir);
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut holder) = command.spawn() else { continue };
            let mut said = String::new();
            BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
            if said == "ready\n" {
                let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
                return Some((holder, root.join(dir.strip_prefix("/").unwrap())));
            }
        }
        #[expect(clippy::disallowed_methods, reason = "the ban is for the program, not for its tests")]
        let must = std::env::var_os("CI").is_some();
        assert!(!must, "a file system cannot be mounted");
        None
    }

    #[test]
    fn a_full_disk_keeps_the_live_set_whole() {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut holder, root)) = small_disk(dir.path()) else {
            println!("skipped: a file system cannot be mounted");
            return;
        };
        let disk = Disk::new(&root.join("conf.d"));
        let set = |generation: u32, size: usize| -> Files {
            let text = |name: &str| format!("{MARK}x\n# {generation} {name} {}\n", "x".repeat(size));
            ["a.conf", "b.conf", "default.conf"].map(|name| (name.to_owned(), text(name))).into()
        };
        fs::create_dir(disk.live()).unwrap();
        fs::write(disk.live().join("default.conf"), "stock").unwrap();
        disk.write(&set(1, 5000)).unwrap();
        disk.prove().unwrap();
        let first = seen(disk.live());
        let is_full = |result: io::Result<()>| {
            let err = result.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::StorageFull);
            assert!(disk.explain(&err).contains("enlarge the mount"), "{}", disk.explain(&err));
            assert_eq!(seen(disk.live()), first);
            assert!(!disk.recover().unwrap());
            assert_eq!(seen(disk.live()), first);
        };
        is_full(disk.stage(&set(2, 15000)));
        is_full(disk.write(&set(2, 15000)).map(drop));

        let filler = root.join("filler");
        let fill = move || fs::write(&filler, "x".repeat(1 << 16)).unwrap_err();
        disk.stage(&set(2, 5000)).unwrap();
        assert_eq!(fill().kind(), ErrorKind::StorageFull);
        disk.publish(&set(2, 5000)).unwrap();
        assert_ne!(seen(disk.live()), first);
        assert!(disk.roll_back().unwrap(), "links need no space");
        assert_eq!(seen(disk.live()), first);

        fs::remove_file(root.join("filler")).unwrap();
        disk.stage(&set(2, 5000)).unwrap();
        fill();
        let publish = || disk.publish(&set(2, 5000)).map(drop).map_err(|failed| failed.error);
        is_full(with(Fault::None, false, publish).0);
        fs::remove_file(root.join("filler")).unwrap();

        disk.stage(&set(2, 3000)).unwrap();
        let fill_at = move |operation: &str, path: &Path| {
            let fails = operation == "link" || (operation == "rename" && path.ends_with("conf.d/b.conf"));
            if operation == "rename" && fails {
                fill();
            }
            if fails { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        let result = with_hook(fill_at, || disk.publish(&set(2, 3000)));
        is_full(result.map(drop).map_err(|failed| failed.error));
        holder.kill().unwrap();
    }
}
