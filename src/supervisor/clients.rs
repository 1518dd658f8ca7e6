//! Reads what nginx tells of the clients of `ip_hash` upstreams, and warns where they are one.
//!
//! nginx appends a line for some requests to a file, through a buffer: a regular file, so that no
//! worker ever waits for us. A thread reads it now and then and empties it, so that it stays small;
//! nginx then goes on at its start.

pub mod dominant;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::log::{self, Level};
use dominant::Samples;

/// How often the file is read: as often as nginx writes it at least.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is read of the file at a time, in bytes; what is beyond that is dropped with it.
const MOST: u64 = 1 << 20;

/// A thread that reads the file; it ends with the value.
#[derive(Debug)]
pub struct Reader(#[expect(dead_code, reason = "its end is the message")] Sender<()>);

/// Starts reading the file `path`.
///
/// # Errors
/// That no thread can be started.
pub fn read(path: PathBuf) -> io::Result<Reader> {
    let (alive, over) = mpsc::channel();
    let work = move || {
        let mut samples = Samples::default();
        while over.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            // That it is gone, or full, or somebody else's, is no matter for a proxy that serves.
            let text = take(&path).unwrap_or_default();
            for dominant in samples.take(&text) {
                log::line(Level::Warn, "clients", &dominant.advice());
            }
        }
    };
    thread::Builder::new().name("clients".into()).spawn(work)?;
    Ok(Reader(alive))
}

/// What the file holds, which it then does no more.
fn take(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() == 0 {
        return Ok(String::new());
    }
    let file = File::options().read(true).write(true).open(path)?;
    let mut bytes = Vec::new();
    (&file).take(MOST).read_to_end(&mut bytes)?;
    file.set_len(0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_gone_and_writers_go_on_at_the_start() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clients");
        let mut writer = File::options().append(true).create(true).open(&path).unwrap();
        assert_eq!(take(&path).unwrap(), "");
        for text in ["one\n", "two\n"] {
            writer.write_all(text.as_bytes()).unwrap();
            assert_eq!(take(&path).unwrap(), text);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        }
        writer.write_all(&vec![b'x'; 3 << 20]).unwrap();
        assert_eq!((take(&path).unwrap().len(), std::fs::metadata(&path).unwrap().len()), (1 << 20, 0));
        assert!(take(&dir.path().join("none")).is_err());
    }
}
