//! Follows the files that a configuration is made from, and tells the loop when they have changed.
//!
//! What counts is what a path leads to, looked at every two seconds: links are swapped some directories
//! above (Kubernetes, certbot), and mounts over a network tell nothing. The kernel's notices
//! (`notices`) only say that it is worth to look at once; where there are none, polling is enough.
//!
//! A change is told once it has rested: two looks alike, a tenth of a second apart, and no file younger
//! than that, so that one that is just written is left alone. Several rest together, for up to a second.
//! Certificate and key change one after the other: where both looks fall in between, `nginx -t` refuses
//! the pair, and the change of the second file is told too.
//!
//! One thread does all of it, and nobody ever waits for it: a file system that hangs holds up that alone.

mod notices;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::log::{self, Level};
use crate::ordered::InOrder;
use crate::reload::followed::{Followed, Looks, Seen};
use crate::reload::others::Look;
use notices::{Bell, Notices};

/// Time between two looks where nothing is noticed: an operator waits that long gladly, and it costs
/// nothing.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long a file has to rest: longer than an editor takes between two writes of the same file.
const QUIET: Duration = Duration::from_millis(100);

/// How long files that rest wait for others that do not.
const LONGEST_UNREST: Duration = Duration::from_secs(1);

/// Least time between two looks, whatever else happens in the directories of the files.
const SPACING: Duration = Duration::from_millis(50);

/// Most files that one line names.
const MOST_NAMED: usize = 4;

/// The files that are followed, and the thread that does so, once there are any.
#[derive(Debug, Default)]
pub struct Watcher {
    /// What is to be followed from now on, until the thread takes it.
    order: Arc<Mutex<Option<Order>>>,
    /// Wakes the thread.
    running: Option<Arc<Bell>>,
}

#[derive(Debug)]
enum Order {
    Follow(Seen),
    End,
}

impl Watcher {
    /// Follows what has been `seen` from now on.
    pub fn new(seen: Seen) -> Self {
        Self { order: Arc::new(Mutex::new(Some(Order::Follow(seen)))), running: None }
    }

    /// Follows what has been `seen`, and nothing else.
    pub fn follow(&self, seen: Seen) {
        self.give(Order::Follow(seen));
    }

    fn give(&self, order: Order) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        if let Some(bell) = &self.running {
            bell.ring();
        }
    }

    /// Starts the thread, if there is anything to follow and it does not run. `tell` gets a text that
    /// names what has changed, and says whether somebody still listens.
    ///
    /// # Errors
    /// That a thread cannot be started.
    pub fn start(&mut self, tell: impl Fn(String) -> bool + Send + 'static) -> io::Result<()> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = !matches!(&*order, Some(Order::Follow(seen)) if !seen.followed.is_empty());
        drop(order);
        if self.running.is_some() || is_idle {
            return Ok(());
        }
        let bell = Arc::new(Bell::new()?);
        let (order, hears) = (Arc::clone(&self.order), Arc::clone(&bell));
        let work = move || {
            let watch = || watch(&order, &hears, &Notices::open(), &tell);
            while catch_unwind(AssertUnwindSafe(watch)).is_err() {
                let text = "it crashed, and follows files again after the next reload; report this as a bug";
                log::line(Level::Error, "watch", text);
            }
        };
        thread::Builder::new().name("watch".into()).spawn(work)?;
        self.running = Some(bell);
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.give(Order::End);
    }
}

/// The thread's work.
fn watch(order: &Mutex<Option<Order>>, bell: &Bell, notices: &Notices, tell: &dyn Fn(String) -> bool) {
    let mut watch = Watch::default();
    let mut is_stirred = true;
    loop {
        // Not held while files are looked at: whoever gives orders must not wait.
        let taken = order.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(Order::End) => return,
            Some(Order::Follow(seen)) => {
                watch.follow(seen);
                is_stirred = true;
            }
            None => {}
        }
        if is_stirred || !watch.unrest.is_empty() {
            // Before the look, so that no change falls in between.
            notices.follow(watch.known.keys());
        }
        let looks = watch.followed.look();
        if watch.see(&looks, Instant::now(), SystemTime::now()).is_some_and(|text| !tell(text)) {
            return;
        }
        // What is noticed meanwhile waits; an order does not.
        let is_called = bell.wait(Some(SPACING), None);
        let wait = if watch.unrest.is_empty() { INTERVAL } else { QUIET }.saturating_sub(SPACING);
        is_stirred = is_called || bell.wait(Some(wait).filter(|_| !watch.followed.is_empty()), Some(notices));
    }
}

/// What the thread knows.
#[derive(Debug, Default)]
struct Watch {
    followed: Followed,
    /// As it was told of last.
    known: Looks,
    /// What looks otherwise, and since when it looks so.
    unrest: BTreeMap<PathBuf, (Option<Look>, Instant)>,
    /// Since when there is unrest.
    since: Option<Instant>,
}

impl Watch {
    /// Follows what has been `seen`. What was known before stays known, even if it has changed since: that
    /// is yet to be told, unless it was just seen as it is.
    fn follow(&mut self, seen: Seen) {
        let Seen { followed, looks: before, named_only } = seen;
        let now = followed.look();
        let is_named = |path: &PathBuf| followed.names(path) || self.followed.names(path);
        let is_unread = |path: &PathBuf| named_only && !followed.is_empty() && !is_named(path);
        let unread = self.known.keys().filter(|path| is_unread(path));
        let paths = before.keys().chain(now.keys()).chain(unread).into_set();
        let known = paths.into_iter().map(|path| {
            let (before, now) = (at(&before, path), at(&now, path));
            let known = match self.known.get(path).copied() {
                known if is_unread(path) => known.flatten(),
                _ if before == now => now,
                known => known.unwrap_or(before),
            };
            (path.clone(), known)
        });
        self.known = known.into_map();
        self.followed = followed;
    }

    /// What has changed and rests, which is known then.
    fn see(&mut self, looks: &Looks, now: Instant, clock: SystemTime) -> Option<String> {
        let paths = self.known.keys().chain(looks.keys()).into_set();
        let changed = paths.into_iter().filter(|path| at(&self.known, path) != at(looks, path));
        let unrest = changed.map(|path| {
            let look = at(looks, path);
            let same = self.unrest.get(path).filter(|(before, _)| *before == look);
            (path.clone(), (look, same.map_or(now, |(_, since)| *since)))
        });
        self.unrest = unrest.into_map();
        if self.unrest.is_empty() {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let rests = |(look, since): &(Option<Look>, Instant)| {
            *since + QUIET <= now && !look.is_some_and(|look| look.is_new(QUIET, clock))
        };
        if now < since + LONGEST_UNREST && !self.unrest.values().all(rests) {
            return None;
        }
        let (told, unrest): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.unrest).into_iter().partition(|(_, at)| rests(at));
        self.unrest = unrest;
        let text = said(told.keys())?;
        self.known.extend(told.into_iter().map(|(path, (look, _))| (path, look)));
        self.since = self.since.filter(|_| !self.unrest.is_empty()).and(Some(now));
        Some(text)
    }
}

fn at(looks: &Looks, path: &PathBuf) -> Option<Look> {
    looks.get(path).copied().flatten()
}

/// That these have changed.
fn said<'a>(paths: impl ExactSizeIterator<Item = &'a PathBuf>) -> Option<String> {
    let more = paths.len().saturating_sub(MOST_NAMED);
    let names = paths.take(MOST_NAMED).map(|path| format!("\"{}\"", path.display()));
    let names: Vec<String> = names.chain((more > 0).then(|| format!("{more} more"))).collect();
    (!names.is_empty()).then(|| format!("{} changed", names.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::mpsc;

    /// Follows files of a directory, and nothing else is there.
    fn seen(dir: &Path, files: &[&str]) -> Seen {
        let (mut settings, _) = settings::defaults();
        (settings.templates, settings.error_pages) = (dir.join("templates"), dir.join("pages"));
        let read = files.iter().map(|name| (dir.join(name), Look::at(&dir.join(name)))).collect();
        Seen::new(&settings, &read)
    }

    /// A thread's knowledge with a clock that is made up.
    struct Clock {
        watch: Watch,
        now: Instant,
        dir: tempfile::TempDir,
    }

    impl Clock {
        fn new(files: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            files.iter().for_each(|name| fs::write(dir.path().join(name), "1").unwrap());
            let mut watch = Watch::default();
            watch.follow(seen(dir.path(), files));
            Self { watch, now: Instant::now(), dir }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.at(name), text).unwrap();
        }

        /// What is told `ms` later, by the names of files; files are older than that.
        fn after(&mut self, ms: u64) -> Option<String> {
            self.now += Duration::from_millis(ms);
            let looks = self.watch.followed.look();
            let old = SystemTime::now() + Duration::from_secs(60);
            let dir = format!("{}/", self.dir.path().display());
            self.watch.see(&looks, self.now, old).map(|text| text.replace(&dir, ""))
        }
    }

    fn changed(name: &str) -> Option<String> {
        Some(format!("\"{name}\" changed"))
    }

    #[test]
    fn a_change_is_told_once_when_it_rests() {
        let mut clock = Clock::new(&["cert", "key"]);
        assert_eq!(clock.after(0), None);
        clock.write("cert", "22");
        assert_eq!(clock.after(0), None, "it may go on");
        assert_eq!(clock.after(50), None);
        clock.write("cert", "333");
        assert_eq!(clock.after(60), None, "it does");
        assert_eq!(clock.after(100), changed("cert"));
        assert_eq!(clock.after(100), None);
        fs::remove_file(clock.at("key")).unwrap();
        assert_eq!(clock.after(0), None);
        assert_eq!(clock.after(100), changed("key"));
        clock.write("key", "1");
        assert_eq!(clock.after(0), None);
        fs::remove_file(clock.at("key")).unwrap();
        assert_eq!(clock.after(100), None, "as it was");
        assert!(clock.watch.unrest.is_empty());
    }

    #[test]
    fn what_was_not_read_is_told_however_it_was_seen() {
        let mut clock = Clock::new(&["list"]);
        fs::create_dir(clock.at("templates")).unwrap();
        clock.write("templates/own.j2", "1");
        assert!(clock.after(0).or_else(|| clock.after(100)).is_some());
        for text in ["22", "333"] {
            clock.write("templates/own.j2", text);
            clock.watch.follow(Seen { named_only: true, ..seen(clock.dir.path(), &["list"]) });
            assert_eq!(clock.after(0), None);
            assert_eq!(clock.after(100), changed("templates/own.j2"));
            clock.watch.follow(Seen { named_only: true, ..seen(clock.dir.path(), &["list"]) });
            assert_eq!((clock.after(0), clock.after(100)), (None, None), "once");
        }
        clock.write("list", "22");
        clock.watch.follow(Seen { named_only: true, ..seen(clock.dir.path(), &["list"]) });
        assert_eq!((clock.after(0), clock.after(100)), (None, None), "a list has been read");
    }

    #[test]
    fn what_is_young_does_not_rest() {
        let mut clock = Clock::new(&["list"]);
        clock.write("list", "22");
        let looks = clock.watch.followed.look();
        let written = fs::metadata(clock.at("list")).unwrap().modified().unwrap();
        let later = clock.now + QUIET;
        assert_eq!(clock.watch.see(&looks, clock.now, written), None);
        assert_eq!(clock.watch.see(&looks, later, written + QUIET / 2), None);
        assert!(clock.watch.see(&looks, later, written + QUIET).is_some());
        // By a clock that is wrong, it would never rest.
        clock.write("list", "333");
        let looks = clock.watch.followed.look();
        assert_eq!(clock.watch.see(&looks, later, written - QUIET), None);
        assert!(clock.watch.see(&looks, later + QUIET, written - 9 * QUIET).is_some());
    }

    #[test]
    fn several_rest_together_but_not_for_ever() {
        let mut clock = Clock::new(&["a", "b", "c"]);
        clock.write("a", "22");
        clock.write("b", "22");
        assert_eq!(clock.after(0), None);
        clock.write("b", "333");
        assert_eq!(clock.after(100), None);
        assert_eq!(clock.after(100), Some("\"a\" and \"b\" changed".to_owned()));
        clock.write("a", "1");
        for n in 0..10 {
            clock.write("b", &"x".repeat(n));
            assert_eq!(clock.after(100), None);
        }
        clock.write("b", "restless");
        assert_eq!(clock.after(100), changed("a"));
        assert_eq!(clock.after(100), changed("b"));
        let all = ["a", "b", "c", "d", "e", "f"].map(PathBuf::from);
        assert_eq!(said(all.iter()).unwrap(), "\"a\" and \"b\" and \"c\" and \"d\" and 2 more changed");
    }

    #[test]
    fn links_are_followed_however_far_up_they_are_swapped() {
        let mut clock = Clock::new(&[]);
        for version in ["..1", "..2"] {
            fs::create_dir(clock.at(version)).unwrap();
            fs::write(clock.at(version).join("cert"), "same").unwrap();
        }
        symlink("..1", clock.at("..data")).unwrap();
        symlink("..data/cert", clock.at("cert")).unwrap();
        clock.watch.follow(seen(clock.dir.path(), &["cert"]));
        symlink("..2", clock.at("..new")).unwrap();
        fs::rename(clock.at("..new"), clock.at("..data")).unwrap();
        assert_eq!(clock.after(0), None);
        assert_eq!(clock.after(100), changed("cert"));
    }

    #[test]
    fn what_is_followed_can_change_and_no_change_is_lost_by_it() {
        let mut clock = Clock::new(&["a"]);
        clock.write("b", "1");
        let later = seen(clock.dir.path(), &["a", "b"]);
        let read_anew = |clock: &Clock| seen(clock.dir.path(), &["a", "b"]);
        // Both after they were read.
        clock.write("a", "22");
        clock.write("b", "22");
        clock.watch.follow(later);
        assert_eq!(clock.after(0), None);
        assert_eq!(clock.after(100), Some("\"a\" and \"b\" changed".to_owned()));
        // Before: by a HUP, say, that was faster.
        clock.write("a", "333");
        clock.watch.follow(read_anew(&clock));
        assert_eq!((clock.after(0), clock.after(100)), (None, None));
        // Known and changed: the next order does not make it forgotten.
        let old = read_anew(&clock);
        clock.write("b", "333");
        clock.watch.follow(old);
        assert_eq!((clock.after(0), clock.after(100)), (None, changed("b")));
        clock.watch.follow(seen(clock.dir.path(), &["b"]));
        clock.write("a", "4444");
        assert_eq!((clock.after(0), clock.after(100)), (None, None));
    }

    #[test]
    fn without_notices_files_are_polled() {
        let clock = Clock::new(&["a"]);
        let order = Mutex::new(Some(Order::Follow(seen(clock.dir.path(), &["a"]))));
        let (bell, (tx, rx)) = (Bell::new().unwrap(), mpsc::channel());
        thread::scope(|scope| {
            scope.spawn(|| watch(&order, &bell, &Notices::default(), &move |text| tx.send(text).is_ok()));
            clock.write("a", "changed");
            let told = rx.recv_timeout(Duration::from_secs(20));
            *order.lock().unwrap() = Some(Order::End);
            bell.ring();
            assert!(told.unwrap().contains("/a\" changed"));
        });
    }

    #[test]
    fn a_thread_runs_once_there_is_something_and_ends_with_its_value() {
        let clock = Clock::new(&["a", "b"]);
        let (tx, rx) = mpsc::channel();
        let mut watcher = Watcher::default();
        let tell = |tx: &mpsc::Sender<String>| {
            let tx = tx.clone();
            move |text| tx.send(text).is_ok()
        };
        watcher.start(tell(&tx)).unwrap();
        assert!(watcher.running.is_none());
        watcher.follow(seen(clock.dir.path(), &["a"]));
        watcher.start(tell(&tx)).unwrap();
        drop(tx);
        let patience = Duration::from_secs(20);
        for name in ["a", "b"] {
            watcher.follow(seen(clock.dir.path(), &[name]));
            clock.write(name, "changed");
            assert!(rx.recv_timeout(patience).unwrap().contains(&format!("/{name}\" changed")));
        }
        drop(watcher);
        assert_eq!(rx.recv_timeout(patience), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
