//! The files that say how this system finds hosts, read anew when they change.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::config::Config;
use super::hosts::Hosts;

/// Most that is read of a file, in bytes.
const LONGEST: u64 = 4 << 20;

/// A file that is younger can change without looking any different.
const TICK: Duration = Duration::from_secs(2);

/// Where the files are.
#[derive(Debug)]
pub struct System {
    /// hosts(5); Docker writes it.
    pub hosts: PathBuf,
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() }
    }
}

/// What the files say.
#[derive(Debug)]
pub struct Files {
    system: System,
    hosts: Mutex<Cached<Hosts>>,
    config: Mutex<Cached<Config>>,
}

/// What tells two states of a file apart.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// What a file said, and the state of it, if that is certain.
type Cached<T> = Option<(Option<Stamp>, Arc<T>)>;

impl Files {
    /// Reads nothing yet.
    pub fn new(system: System) -> Self {
        Self { system, hosts: Mutex::default(), config: Mutex::default() }
    }

    /// The names of the file beside DNS.
    pub fn hosts(&self) -> Arc<Hosts> {
        current(&self.hosts, &self.system.hosts, Hosts::parse)
    }

    /// How DNS is asked.
    pub fn config(&self) -> Arc<Config> {
        let parse = |text: &str| {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            Config::parse(text, &host, link)
        };
        current(&self.config, &self.system.resolv_conf, parse)
    }
}

/// What the file says now. A file that cannot be read says nothing, as for the system.
fn current<T>(cached: &Mutex<Cached<T>>, path: &Path, parse: impl FnOnce(&str) -> T) -> Arc<T> {
    let mut cached = cached.lock().unwrap_or_else(PoisonError::into_inner);
    let (stamp, certain) = stamp(path);
    if let Some((known, value)) = &*cached
        && *known == Some(stamp)
    {
        return Arc::clone(value);
    }
    let value = Arc::new(parse(&text(path)));
    *cached = Some((certain.then_some(stamp), Arc::clone(&value)));
    value
}

/// The state of a file, and whether it is old enough for that to mean something.
fn stamp(path: &Path) -> (Stamp, bool) {
    let Ok(meta) = fs::metadata(path) else { return (None, true) };
    let age = |time: SystemTime| SystemTime::now().duration_since(time).unwrap_or_default();
    let changed = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let stamp = (meta.dev(), meta.ino(), meta.size(), changed.0, changed.1, changed.2, changed.3);
    (Some(stamp), meta.modified().is_ok_and(|time| age(time) > TICK))
}

fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let _ = fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number of a network interface.
fn link(name: &str) -> Option<u32> {
    let plain = !name.is_empty() && !name.contains('/') && name != "..";
    let index = plain.then(|| fs::read_to_string(format!("/sys/class/net/{name}/ifindex")))?;
    index.ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn files_that_change_are_read_anew_and_missing_ones_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, resolv_conf) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
        let files = Files::new(System { hosts: hosts.clone(), resolv_conf: resolv_conf.clone() });
        let server = |files: &Files| files.config().servers[0].to_string();
        assert_eq!((files.hosts().get("web").len(), server(&files)), (0, "127.0.0.1:53".to_owned()));
        for (web, dns) in [("10.0.0.1", "10.0.1.1"), ("10.0.0.2", "10.0.1.2")] {
            fs::write(&hosts, format!("{web} web")).unwrap();
            fs::write(&resolv_conf, format!("nameserver {dns}\n")).unwrap();
            assert_eq!(files.hosts().get("web"), [web.parse::<IpAddr>().unwrap()]);
            assert_eq!(server(&files), format!("{dns}:53"));
        }
        let old = SystemTime::now() - Duration::from_secs(60);
        fs::File::options().write(true).open(&hosts).unwrap().set_modified(old).unwrap();
        let first = files.hosts();
        assert!(Arc::ptr_eq(&first, &files.hosts()), "an old file is read once");
        fs::write(&hosts, "10.0.0.3 web").unwrap();
        assert_eq!(files.hosts().get("web"), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        fs::remove_file(&resolv_conf).unwrap();
        assert_eq!(server(&files), "127.0.0.1:53");
    }

    #[test]
    fn a_link_has_a_number() {
        assert_eq!(link("lo").is_some(), Path::new("/sys/class/net/lo").exists());
        assert_eq!((link("no-such-link"), link("../net/lo"), link("")), (None, None, None));
    }
}
