//! Reads what settings and templates name: the environment's variables, the files of `NAME_FILE`
//! variables, the template directory.
//!
//! The environment is captured once; files are read anew at each call, which is what HUP is for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::Context;

use crate::render::ENDING;
use crate::settings::error::SettingsError;
use crate::settings::{self, Class, Given, Note, Vars};
use crate::upstream::Sources;

/// The longest file that a variable may name, in bytes: ten times what 10,000 servers need.
const LONGEST_FILE: u64 = 16 << 20;

/// The environment that nginit was started with. Names and values need not be UTF-8.
#[derive(Debug, Clone)]
pub struct Env(Vec<(OsString, OsString)>);

impl Env {
    /// Captures the environment.
    pub fn new(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(vars.into_iter().collect())
    }

    /// Every variable of ours with its text, and what is wrong with the others.
    pub fn read(&self) -> Reading {
        let names: BTreeSet<&str> = self.0.iter().filter_map(|(name, _)| name.to_str()).collect();
        let mut read = Reading::default();
        let mut ours: Vec<(&str, &OsString)> = self.0.iter().filter_map(|(n, v)| Some((n.to_str()?, v))).collect();
        ours.sort_unstable();
        for (name, value) in ours {
            let (canonical, in_file) = match settings::classify(name, &names) {
                Class::Ours { canonical, in_file } => (canonical, in_file),
                Class::Noted(note) => {
                    read.notes.push(note);
                    continue;
                }
                Class::Foreign => continue,
            };
            let value = match value.to_str() {
                Some(text) if in_file && text.trim().is_empty() => continue,
                Some(text) if in_file => read_value(name, text.trim()),
                Some(text) => Ok(text.to_owned()),
                None => Err(SettingsError::new(name, None, "the value is not UTF-8", "write it in UTF-8")),
            };
            match value {
                Ok(value) => read.insert(canonical, Given { variable: name.to_owned(), value }),
                Err(error) => read.fail(canonical, error),
            }
        }
        read
    }

    /// The text of one variable, or of the file that its `_FILE` names, if there is any. What is
    /// wrong with it is found when everything is read.
    pub fn text(&self, name: &str) -> Option<String> {
        let get = |name: &str| {
            let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
            value.to_str().map(str::trim).filter(|text| !text.is_empty())
        };
        let in_file = || read_value(name, get(&format!("{name}_FILE"))?).ok();
        get(name).map(str::to_owned).or_else(in_file).map(|text| text.trim().to_owned())
    }

    /// Whether any upstream is declared. Reads no value.
    pub fn declares_upstreams(&self) -> bool {
        let names: BTreeSet<&str> = self.0.iter().filter_map(|(name, _)| name.to_str()).collect();
        let ours = |name: &&str| matches!(settings::classify(name, &names), Class::Ours { .. });
        names.iter().any(|name| !name.starts_with("NGINIT_") && ours(name))
    }

    /// All variables that are UTF-8, for templates of the operator's.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let text = |s: &OsString| s.to_str().map(str::to_owned);
        self.0.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
    }
}

/// What was read of the environment.
#[derive(Debug, Default)]
pub struct Reading {
    /// Our variables with their texts.
    pub vars: Vars,
    /// About variables that are nearly ours.
    pub notes: Vec<Note>,
    /// Values that are not UTF-8, files that cannot be read, variables that are set both directly
    /// and by a file.
    pub errors: Vec<SettingsError>,
    /// The canonical names of variables whose values are among the errors, and so missing above.
    pub missing: BTreeSet<String>,
}

impl Reading {
    /// Adds a value; one that is set already, under another spelling, is a fault unless either is
    /// empty.
    fn insert(&mut self, canonical: String, new: Given) {
        match self.vars.get(&canonical) {
            Some(_) if new.value.trim().is_empty() => {}
            Some(old) if !old.value.trim().is_empty() => {
                let reason = format!("\"{}\" is set too", old.variable);
                self.errors.push(SettingsError::new(&new.variable, None, reason, "unset one of the two"));
            }
            _ => {
                self.vars.insert(canonical, new);
            }
        }
    }

    fn fail(&mut self, canonical: String, error: SettingsError) {
        self.missing.insert(canonical);
        self.errors.push(error);
    }
}

fn read_value(variable: &str, path: &str) -> Result<String, SettingsError> {
    let refuse = |reason: String, remedy: &str| Err(SettingsError::new(variable, Some(path), reason, remedy));
    let open = || -> std::io::Result<(bool, Vec<u8>)> {
        // A FIFO or a device could block the start for ever.
        if !fs::metadata(path)?.is_file() {
            return Ok((false, Vec::new()));
        }
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
        Ok((true, bytes))
    };
    match open() {
        Err(err) => refuse(format!("cannot be read: {err}"), "mount the file or correct the path"),
        Ok((false, _)) => refuse("is not a regular file".to_owned(), "name a file that holds the value"),
        Ok((true, bytes)) if bytes.len() as u64 > LONGEST_FILE => {
            refuse("holds more than 16 MiB".to_owned(), "name a file that holds the value")
        }
        Ok((true, bytes)) => match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => refuse("is not UTF-8".to_owned(), "write the file in UTF-8"),
        },
    }
}

/// The statuses 400-599 that have a page `STATUS.html` in `dir`; none where there is no such directory.
///
/// # Errors
/// The path that cannot be read.
pub fn error_pages(dir: &Path) -> anyhow::Result<BTreeSet<u16>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(err) => return Err(err).with_context(|| format!("\"NGINIT_ERROR_PAGES\": reading \"{}\"", dir.display())),
    };
    let status = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".html")?;
        let status = name.parse().ok().filter(|status| (400..600).contains(status) && name.len() == 3)?;
        path.is_file().then_some(status)
    };
    Ok(entries.filter_map(|entry| status(&entry.ok()?.path())).collect())
}

/// The templates in `dir` by file name; none where there is no such directory.
///
/// # Errors
/// The path that cannot be read.
pub fn templates(dir: &Path) -> anyhow::Result<Sources> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Sources::new()),
        Err(err) => return Err(err).with_context(|| format!("\"NGINIT_TEMPLATES\": reading {dir:?}")),
    };
    let mut sources = Sources::new();
    for entry in entries {
        let path = entry.with_context(|| format!("\"NGINIT_TEMPLATES\": reading {dir:?}"))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(ENDING)) else { continue };
        if path.is_file() {
            let text = fs::read_to_string(&path).with_context(|| format!("\"NGINIT_TEMPLATES\": reading {path:?}"))?;
            sources.insert(name.to_owned(), text);
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::new(pairs.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))))
    }

    #[test]
    fn a_value_comes_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "a b\n").unwrap();
        let read = env(&[("STATIC_BACKEND_FILE", path.to_str().unwrap()), ("STATIC_BACKEND", "")]).read();
        let given = &read.vars["STATIC_BACKEND"];
        assert_eq!((given.value.as_str(), given.variable.as_str()), ("a b\n", "STATIC_BACKEND_FILE"));
    }

    #[test]
    fn what_cannot_be_read_is_a_fault_with_the_variables_name() {
        let dir = tempfile::tempdir().unwrap();
        let latin = dir.path().join("latin");
        fs::write(&latin, b"\xe9").unwrap();
        let dir = dir.path().to_str().unwrap();
        for (set, reason) in [
            (vec![("STATIC_BACKEND_FILE", "/no/such")], "\"STATIC_BACKEND_FILE\": \"/no/such\": cannot be read"),
            (vec![("STATIC_BACKEND_FILE", dir)], "is not a regular file"),
            (vec![("STATIC_BACKEND_FILE", "/dev/zero")], "is not a regular file"),
            (vec![("STATIC_BACKEND_FILE", latin.to_str().unwrap())], "is not UTF-8"),
            (vec![("STATIC_BACKEND", "a"), ("STATIC_APP", "b")], "\"STATIC_BACKEND\": \"STATIC_APP\" is set too"),
        ] {
            let read = env(&set).read();
            assert!(read.errors.len() == 1 && read.errors[0].to_string().contains(reason), "{read:?}");
        }
    }

    #[test]
    fn only_our_own_variables_must_be_utf_8() {
        let odd = |name: &[u8]| (OsString::from_vec(name.to_vec()), OsString::from_vec(b"\xff".to_vec()));
        let read = Env::new([odd(b"OTHER"), odd(b"\xfe"), odd(b"CELERY_BACKEND")]).read();
        assert!(read.vars.is_empty() && read.errors.is_empty());
        let read = Env::new([odd(b"STATIC_BACKEND"), odd(b"NGINIT_LISTEN")]).read();
        assert_eq!((read.errors.len(), read.missing.len()), (2, 2));
    }

    #[test]
    fn templates_are_the_files_with_the_ending() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.conf.j2"), "x").unwrap();
        fs::write(dir.path().join("notes.txt"), "x").unwrap();
        fs::create_dir(dir.path().join("d.j2")).unwrap();
        assert_eq!(templates(dir.path()).unwrap().keys().collect::<Vec<_>>(), ["a.conf.j2"]);
        assert!(templates(&dir.path().join("none")).unwrap().is_empty());
    }
}
