//! Looks at certificates and keys, and tells the loop when they have changed.
//!
//! By asking every two seconds rather than through inotify: what counts is what a path leads to, and
//! renewals swap links some directories above (Kubernetes, certbot) or write into mounts that tell
//! nothing. A change is told once two looks in a row see the same, so that a file that is just
//! written is left alone. Certificate and key change one after the other: where both looks fall in
//! between, `nginx -t` refuses the pair, and the change of the second file is told too.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::reload::others::Look;

/// Time between two looks: an operator waits that long gladly, and it costs nothing.
const INTERVAL: Duration = Duration::from_secs(2);

/// How each file looked; one that is not there looks like nothing.
type Looks = BTreeMap<PathBuf, Option<Look>>;

/// The files that are followed, and the thread that does so, once there are any.
#[derive(Debug, Default)]
pub struct Watcher {
    /// As nginx knows them.
    known: Arc<Mutex<Looks>>,
    /// The thread ends with it.
    running: Option<Sender<()>>,
}

impl Watcher {
    /// Follows `files` from now on.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let watcher = Self::default();
        watcher.follow(files);
        watcher
    }

    /// Follows `files` and no others.
    pub fn follow(&self, files: Vec<PathBuf>) {
        let mut known = lock(&self.known);
        let mut before = std::mem::take(&mut *known);
        *known = files.into_iter().map(|path| (before.remove_entry(&path)).unwrap_or_else(|| look(path))).collect();
    }

    /// Starts the thread, if there is anything to follow and it does not run. `tell` gets a text that
    /// names what has changed, and says whether somebody still listens.
    ///
    /// # Errors
    /// That a thread cannot be started.
    pub fn start(&mut self, tell: impl Fn(String) -> bool + Send + 'static) -> io::Result<()> {
        if self.running.is_some() || lock(&self.known).is_empty() {
            return Ok(());
        }
        let known = Arc::clone(&self.known);
        let (running, stop) = mpsc::channel();
        let work = move || {
            let mut unrest = Looks::new();
            while stop.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let changed = settle(&mut lock(&known), &mut unrest);
                if changed.is_some_and(|text| !tell(text)) {
                    return;
                }
            }
        };
        thread::Builder::new().name("watch".into()).spawn(work)?;
        self.running = Some(running);
        Ok(())
    }
}

fn lock(known: &Mutex<Looks>) -> MutexGuard<'_, Looks> {
    // A map is whole whatever happened to the other thread.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(path: PathBuf) -> (PathBuf, Option<Look>) {
    let look = Look::at(&path);
    (path, look)
}

/// What has changed against `known` and looks as it did the last time, which is in `unrest`; that is
/// known then.
fn settle(known: &mut Looks, unrest: &mut Looks) -> Option<String> {
    let now: Looks = known.keys().cloned().map(look).collect();
    if now == *known {
        unrest.clear();
        return None;
    }
    if now != *unrest {
        *unrest = now;
        return None;
    }
    let changed = now.iter().filter(|(path, look)| known.get(*path) != Some(look));
    let names: Vec<String> = changed.map(|(path, _)| format!("\"{}\"", path.display())).collect();
    *known = now;
    unrest.clear();
    Some(format!("{} changed", names.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_change_is_told_once_when_it_rests() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
        fs::write(&cert, "1").unwrap();
        fs::write(&key, "1").unwrap();
        let watcher = Watcher::new(vec![cert.clone(), key.clone()]);
        let mut known = lock(&watcher.known);
        let mut unrest = Looks::new();
        assert_eq!(settle(&mut known, &mut unrest), None);
        fs::write(&cert, "22").unwrap();
        assert_eq!(settle(&mut known, &mut unrest), None, "it may go on");
        fs::write(&cert, "333").unwrap();
        assert_eq!(settle(&mut known, &mut unrest), None, "it does");
        let told = settle(&mut known, &mut unrest);
        assert_eq!(told, Some(format!("\"{}\" changed", cert.display())));
        assert_eq!(settle(&mut known, &mut unrest), None);
        fs::remove_file(&key).unwrap();
        assert_eq!(settle(&mut known, &mut unrest), None);
        assert_eq!(settle(&mut known, &mut unrest), Some(format!("\"{}\" changed", key.display())));
    }

    #[test]
    fn links_are_followed_however_far_up_they_are_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("cert"), "same").unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/cert", at("cert")).unwrap();
        let watcher = Watcher::new(vec![at("cert")]);
        symlink("..2", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        let (mut known, mut unrest) = (lock(&watcher.known), Looks::new());
        assert_eq!(settle(&mut known, &mut unrest), None);
        assert!(settle(&mut known, &mut unrest).is_some());
    }

    #[test]
    fn what_is_followed_can_change() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "1").unwrap();
        let watcher = Watcher::new(vec![a.clone()]);
        fs::write(&a, "22").unwrap();
        watcher.follow(vec![a.clone(), b.clone()]);
        let (mut known, mut unrest) = (lock(&watcher.known), Looks::new());
        assert_eq!(settle(&mut known, &mut unrest), None);
        assert_eq!(settle(&mut known, &mut unrest), Some(format!("\"{}\" changed", a.display())), "not forgotten");
        drop(known);
        watcher.follow(vec![b]);
        assert_eq!(lock(&watcher.known).len(), 1);
        let mut none = Watcher::default();
        none.start(|_| true).unwrap();
        assert!(none.running.is_none());
    }
}
