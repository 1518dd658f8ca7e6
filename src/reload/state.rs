//! What outlives a restart: the slots of servers, in a small JSON file.
//!
//! ```json
//! {"STATIC":[{"address":"10.0.0.1:80","weight":1},{"address":"unix:/run/a.sock","weight":2}]}
//! ```
//!
//! The file is nobody's input, but whoever can write it must not be able to say more than an
//! operator's list can: addresses go through the grammar of the lists, and anything that we would
//! not have written leads to the whole file being ignored. Nothing but stickiness depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::live::zone::Zone;
use crate::log::{self, Level};
use crate::membership::Membership;
use crate::ordered::InOrder;
use crate::peers::PeerAddress;
use crate::settings::Note;
use crate::settings::servers::parse_address;
use crate::settings::variables::ENV_STATE;
use crate::slots::{Slot, Slots};
use crate::upstream::{Address, Name};

/// The longest file that is read, in bytes: some ten times what 10,000 servers need.
const LONGEST: u64 = 8 << 20;

/// Where the slots are, given nginit's private directory.
fn path(private: &Path) -> PathBuf {
    private.join("slots.json")
}

/// A slot as the file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    address: String,
    weight: NonZeroU16,
}

/// The slots that were written, none where there is no file, and a warning where it is not as it
/// was written.
pub fn read(private: &Path) -> (Slots, Option<Note>) {
    let path = path(private);
    let slots = match text(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Default::default(),
        Err(err) => Err(err.to_string()),
        Ok(text) => parse(&text),
    };
    let note = |reason| {
        let text = format!("\"{}\" is ignored, servers may get other slots: {reason}", path.display());
        (Slots::new(), Some(Note { level: Level::Warn, text }))
    };
    slots.map_or_else(note, |slots| (slots, None))
}

/// Writes the slots, aside and then by a rename, if they are not those of the file. No slots are
/// no file.
///
/// # Errors
/// The operation that fails; the file is as it was.
pub fn write(private: &Path, slots: &Slots) -> io::Result<()> {
    let path = path(private);
    if slots.is_empty() {
        return match fs::remove_file(&path) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        };
    }
    let new = to_text(slots)?;
    if text(&path).is_ok_and(|old| old == new.as_bytes()) {
        return Ok(());
    }
    replace(&path, &new)
}

/// Writes the file aside, and then renames it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// What nginx was told of its servers, in a file beside the configuration that has it ask: who starts with that
/// (`NGINIT_START=last-good`) need not know more.
#[derive(Debug)]
pub struct Answers {
    path: PathBuf,
    /// Where nginx asks: the last good set names it.
    port: u16,
    /// Not before then, so that a storm of changes is not one of writing.
    again: Option<Instant>,
}

/// Least time between two versions of it.
const ANSWERS_INTERVAL: Duration = Duration::from_secs(1);

impl Answers {
    /// The file in nginit's private directory.
    pub fn new(private: &Path) -> Self {
        let mut answers = Self { path: private.join("servers"), port: 0, again: None };
        answers.port = answers.parts().map_or(0, |(port, _)| port);
        answers
    }

    /// The port on which nginx was told last, if that is known.
    pub fn port(&self) -> Option<u16> {
        Some(self.port).filter(|port| *port != 0)
    }

    /// From now on nginx is told on this one.
    pub fn listens(&mut self, port: u16) {
        self.port = port;
    }

    /// What was told last.
    pub fn read(&self) -> Option<Zone> {
        self.parts().and_then(|(_, zone)| Zone::parse(&zone))
    }

    /// The first line, which is the port, and the others.
    fn parts(&self) -> Option<(u16, String)> {
        let text = String::from_utf8(text(&self.path).ok()?).ok()?;
        let (port, zone) = text.split_once('\n')?;
        Some((port.parse().ok()?, zone.to_owned()))
    }

    /// When it may be written.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Writes it, if it is time. Says whether that is done.
    pub fn write(&mut self, zone: &Zone, now: Instant) -> bool {
        if self.again.is_some_and(|again| again > now) {
            return false;
        }
        self.again = Some(now + ANSWERS_INTERVAL);
        if let Err(err) = replace(&self.path, &format!("{}\n{}", self.port, zone.to_text())) {
            let text = format!(
                "\"{}\" cannot be written: {err}; a start with the last good set knows older servers",
                self.path.display()
            );
            log::line(Level::Warn, "live", &text);
        }
        true
    }
}

/// What commands and servers have said, in a file of the operator's (`NGINIT_STATE`).
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    /// What is in the file, as far as we know.
    text: String,
}

impl Kept {
    /// The file at `path`, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, text: String::new() }
    }

    /// Has `membership` take over what the file says. One that is bad is said, and does not count.
    pub fn restore(&mut self, membership: &mut Membership) {
        let restored = match text(&self.path) {
            Err(err) if err.kind() == ErrorKind::NotFound => return,
            Err(err) => Err(err.to_string()),
            Ok(text) => membership.restore(&text, Instant::now()),
        };
        match restored {
            Ok(()) => self.text = membership.to_text(),
            Err(reason) => {
                let path = self.path.display();
                let text = format!(
                    "\"{ENV_STATE}\": \"{path}\" is ignored, orders and announcements of before are forgotten: {reason}"
                );
                log::line(Level::Warn, "membership", &text);
            }
        }
    }

    /// Writes the text, if it is not that of the file.
    pub fn write(&mut self, text: String) {
        if text == self.text {
            return;
        }
        match replace(&self.path, &text) {
            Ok(()) => self.text = text,
            Err(err) => {
                let path = self.path.display();
                let text =
                    format!("\"{ENV_STATE}\": \"{path}\" cannot be written: {err}; a restart forgets what is new");
                log::line(Level::Warn, "membership", &text);
            }
        }
    }
}

/// The same where a failure costs no more than stickiness over a restart, and so only a warning.
pub fn keep(private: &Path, slots: &Slots) {
    if let Err(err) = write(private, slots) {
        let path = path(private);
        let text = format!("\"{}\" cannot be written: {err}; a restart moves clients", path.display());
        log::line(Level::Warn, "reload", &text);
    }
}

fn text(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO or a device could block the start for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("longer than {} MiB", LONGEST >> 20)));
    }
    Ok(bytes)
}

fn to_text(slots: &Slots) -> io::Result<String> {
    let line = |slot: &Slot| Line { address: slot.address.to_string(), weight: slot.weight };
    let file: BTreeMap<&str, Vec<Line>> =
        slots.iter().map(|(name, slots)| (name.as_str(), slots.iter().map(line).collect())).into_map();
    Ok(serde_json::to_string(&file)? + "\n")
}

fn parse(text: &[u8]) -> Result<Slots, String> {
    let file: BTreeMap<String, Vec<Line>> = serde_json::from_slice(text).map_err(|err| err.to_string())?;
    let upstream = |(name, lines): (String, Vec<Line>)| {
        let name = Name::new(&name).ok_or_else(|| format!("{name:?} is no upstream"))?;
        let mut seen = BTreeSet::new();
        let slot = |line: Line| {
            let address = address(&line.address).ok_or_else(|| format!("{:?} is no address", line.address))?;
            let slot = Slot { address, weight: line.weight };
            if seen.insert(slot.address.clone()) { Ok(slot) } else { Err(format!("{} has two slots", slot.address)) }
        };
        Ok((name, lines.into_iter().map(slot).collect::<Result<_, String>>()?))
    };
    file.into_iter().map(upstream).try_into_map()
}

/// An address in the one spelling that we write.
fn address(text: &str) -> Option<PeerAddress> {
    let address = match parse_address(text, NonZeroU16::MIN).ok()? {
        Address::Ip(address) => PeerAddress::Ip(address),
        Address::Unix(path) => PeerAddress::Unix(path),
        Address::Host(..) | Address::Srv(_) => return None,
    };
    (address.to_string() == text).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(addresses: &[(&str, u16)]) -> Slots {
        let slot = |(text, weight): &(&str, u16)| Slot {
            address: address(text).unwrap(),
            weight: NonZeroU16::new(*weight).unwrap(),
        };
        Slots::from([(Name::new("STATIC").unwrap(), addresses.iter().map(slot).collect())])
    }

    fn listing(dir: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let slots = slots(&[("10.0.0.2:80", 1), ("[::1]:8080", 65535), ("unix:/run/a.sock", 3)]);
        write(dir.path(), &slots).unwrap();
        assert_eq!(read(dir.path()), (slots, None));
        assert_eq!(listing(dir.path()).len(), 1, "nothing else is left there");
    }

    #[test]
    fn equal_slots_are_not_written_again_and_none_are_no_file() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let inode = || fs::metadata(path(dir.path())).unwrap().ino();
        write(dir.path(), &Slots::new()).unwrap();
        assert!(listing(dir.path()).is_empty());
        assert_eq!(read(dir.path()), Default::default());
        write(dir.path(), &slots(&[("10.0.0.2:80", 1)])).unwrap();
        // Held by a second name, so that no new file can get its number.
        fs::hard_link(path(dir.path()), dir.path().join("held")).unwrap();
        let first = inode();
        write(dir.path(), &slots(&[("10.0.0.2:80", 1)])).unwrap();
        assert_eq!(inode(), first);
        write(dir.path(), &slots(&[("10.0.0.2:80", 2)])).unwrap();
        assert_ne!(inode(), first);
        write(dir.path(), &Slots::new()).unwrap();
        assert_eq!(listing(dir.path()), ["held"]);
    }

    #[test]
    fn a_file_that_is_not_ours_is_ignored_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let one = |address: &str| format!("{{\"STATIC\":[{{\"address\":{address:?},\"weight\":1}}]}}");
        assert!(parse(one("10.0.0.1:80").as_bytes()).is_ok());
        let path_of_108 = format!("unix:/{}", "a".repeat(107));
        for bad in [
            "10.0.0.1:80; evil on",
            "10.0.0.1",
            "10.0.0.1:0",
            "010.0.0.1:80",
            "[::0001]:80",
            "web:80",
            "srv:web",
            "unix:/run/a b",
            "unix:/run/a;",
            "unix:/run/$a",
            "unix:/run/a\n}",
            "unix:run/a",
            "unix:/run/a{}",
            &path_of_108,
            "",
        ] {
            let reason = parse(one(bad).as_bytes()).unwrap_err();
            assert!(reason.ends_with("is no address") && !reason.contains('\n'), "{bad:?}: {reason}");
        }
        let twice = "{\"address\":\"10.0.0.1:80\",\"weight\":1}";
        for bad in [
            "",
            "[]",
            "{\"STATIC\":[",
            "{\"a;b\":[]}",
            "{\"STATIC\":[{\"address\":\"10.0.0.1:80\",\"weight\":0}]}",
            "{\"STATIC\":[{\"address\":\"10.0.0.1:80\",\"weight\":65536}]}",
            "{\"STATIC\":[{\"address\":\"10.0.0.1:80\",\"weight\":1,\"more\":1}]}",
            "{\"STATIC\":[{\"address\":\"10.0.0.1:80\"}]}",
            &format!("{{\"STATIC\":[{twice},{twice}]}}"),
            &"[".repeat(100_000),
            &" ".repeat((LONGEST + 1) as usize),
        ] {
            fs::write(path(dir.path()), bad).unwrap();
            let (slots, note) = read(dir.path());
            let note = note.unwrap_or_else(|| panic!("{bad:.80}"));
            assert!(slots.is_empty() && note.level == Level::Warn && !note.text.contains('\n'), "{note:?}");
        }
        fs::remove_file(path(dir.path())).unwrap();
        fs::create_dir(path(dir.path())).unwrap();
        assert!(read(dir.path()).1.unwrap().text.ends_with("not a regular file"));
        assert!(write(dir.path(), &slots(&[("10.0.0.2:80", 1)])).is_err());
        assert_eq!(listing(dir.path()).len(), 1, "what was written aside is gone");
    }
}
