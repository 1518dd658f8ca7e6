//! The files that variables name: each is read once in a reading, and one that fails can keep what it
//! held when all was well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::ordered::InOrder;
use crate::reload::followed::Looks;
use crate::reload::others::Look;
use crate::settings;
use crate::settings::error::SettingsError;

/// The longest file that a variable may name, in bytes: ten times what 10,000 servers need.
const LONGEST_FILE: u64 = 16 << 20;

/// The texts of files, by their paths as given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts(BTreeMap<PathBuf, String>);

impl Texts {
    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }
}

/// Without the texts, which may be secrets.
impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.paths()).finish()
    }
}

/// What becomes of a file that fails.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// It is a fault.
    Strict,
    /// It counts as it was when all was well, if it ever was, and is told apart.
    Lenient {
        /// What files held then.
        last: &'a Texts,
    },
}

/// A file that counts as it was, because it cannot count as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// The variable that names it.
    pub variable: String,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, in a line.
    pub reason: String,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, path, reason } = self;
        write!(f, "\"{variable}\": {reason}; until then, \"{}\" counts as it was before", path.display())
    }
}

/// Reads files, each once.
#[derive(Debug)]
pub struct Files<'a> {
    mode: Mode<'a>,
    /// What was read, or why not, and what to do about it.
    read: BTreeMap<PathBuf, Result<String, (String, &'static str)>>,
    failing: BTreeMap<PathBuf, Failing>,
    /// How each looked before it was read.
    looks: Looks,
}

impl<'a> Files<'a> {
    /// No file is read yet.
    pub fn new(mode: Mode<'a>) -> Self {
        Self { mode, read: BTreeMap::new(), failing: BTreeMap::new(), looks: Looks::new() }
    }

    /// The text of a file that `variable` names.
    pub(super) fn read(&mut self, variable: &str, path: &Path) -> Result<String, SettingsError> {
        let fault = |reason: &str, remedy: &str| SettingsError::new(variable, path.to_str(), reason, remedy);
        if !self.read.contains_key(path) {
            self.looks.insert(path.to_owned(), Look::at(path));
            let text = read(path);
            let problem = match &text {
                Err((reason, remedy)) => Some(fault(reason, remedy)),
                // Somebody is about to write it, or failed to.
                Ok(text) if text.trim().is_empty() && self.last(path).is_some_and(holds_something) => {
                    Some(fault("is empty and was not before", "write # into it if that is meant"))
                }
                Ok(_) => None,
            };
            self.read.insert(path.to_owned(), text);
            if let Some(problem) = problem {
                self.keep(variable, path, &problem);
            }
        }
        self.read[path].clone().map_err(|(reason, remedy)| fault(&reason, remedy))
    }

    /// What `parse` makes of a file that `variable` names, or of what it held before.
    pub(super) fn read_as<T>(
        &mut self,
        variable: &str,
        path: &Path,
        parse: impl Fn(&str) -> Result<T, Vec<SettingsError>>,
    ) -> Result<T, Vec<SettingsError>> {
        let parsed = self.read(variable, path).map_err(|error| vec![error]).and_then(|text| parse(&text));
        match parsed {
            Err(errors) if errors.first().is_some_and(|error| self.keep(variable, path, error)) => {
                self.read(variable, path).map_err(|error| vec![error]).and_then(|text| parse(&text))
            }
            parsed => parsed,
        }
    }

    /// Has a file that `variable` names count as it was before, because of `error`, if it can and does not
    /// yet.
    pub fn keep(&mut self, variable: &str, path: &Path, error: &SettingsError) -> bool {
        let Some(last) = self.last(path).map(str::to_owned) else { return false };
        let Some(now) = self.read.get_mut(path).filter(|now| now.as_ref().ok() != Some(&last)) else { return false };
        *now = Ok(last);
        let reason = error.to_string();
        let reason = reason.strip_prefix(&format!("\"{variable}\": ")).unwrap_or(&reason).to_owned();
        let failing = Failing { variable: variable.to_owned(), path: path.to_owned(), reason };
        self.failing.insert(path.to_owned(), failing);
        true
    }

    /// The files that count by now as they are, and were different.
    pub fn changed(&self) -> BTreeSet<PathBuf> {
        let differs = |(path, now): &(&PathBuf, &Result<String, _>)| {
            self.last(path).is_some_and(|last| now.as_ref().is_ok_and(|now| now != last))
        };
        self.read.iter().filter(differs).map(|(path, _)| path.clone()).into_set()
    }

    /// All that could be read or was kept, and which was kept.
    pub fn into_texts(self) -> (Texts, Vec<Failing>) {
        let texts = self.read.into_iter().filter_map(|(path, text)| Some((path, text.ok()?)));
        (Texts(texts.into_map()), self.failing.into_values().collect())
    }

    /// How each looked before it was read, or could not be.
    pub fn looks(&self) -> &Looks {
        &self.looks
    }

    /// What a file held when all was well.
    fn last(&self, path: &Path) -> Option<&'a str> {
        match self.mode {
            Mode::Strict => None,
            Mode::Lenient { last } => last.0.get(path).map(String::as_str),
        }
    }
}

/// Whether there is anything in a text besides comments.
fn holds_something(text: &str) -> bool {
    settings::tokens(text).next().is_some()
}

/// What is in a file, or why not, and what to do about it.
fn read(path: &Path) -> Result<String, (String, &'static str)> {
    const OTHER: &str = "name a file that holds the value";
    let open = || -> std::io::Result<Option<Vec<u8>>> {
        // A FIFO or a device could block the start for ever.
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    match open() {
        Err(err) => Err((format!("cannot be read: {err}"), "mount the file or correct the path")),
        Ok(None) => Err(("is not a regular file".to_owned(), OTHER)),
        Ok(Some(bytes)) if bytes.len() as u64 > LONGEST_FILE => Err(("holds more than 16 MiB".to_owned(), OTHER)),
        Ok(Some(bytes)) => String::from_utf8(bytes).map_err(|_| ("is not UTF-8".to_owned(), "write the file in UTF-8")),
    }
}
