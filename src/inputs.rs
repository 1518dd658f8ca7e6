//! Reads what settings and templates name: the environment's variables, those of `NGINIT_ENV_FILE`,
//! the files of `NAME_FILE` variables, the template directory.
//!
//! The environment is captured once; files are read anew at each call, which is what HUP is for.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::log::Level;
use crate::ordered::InOrder;
use crate::render::ENDING;
use crate::settings::error::SettingsError;
use crate::settings::variables::{ENV_ENV_FILE, spelling_of};
use crate::settings::{self, Class, Given, Note, Vars, env_file};
use crate::upstream::Sources;
pub use files::{Failing, Files, Mode, Texts};

/// The environment that nginit was started with. Names and values need not be UTF-8.
#[derive(Debug, Clone)]
pub struct Env(Vec<(OsString, OsString)>);

/// A file of variables, and the names in it.
type OfFile = (PathBuf, BTreeSet<String>);

impl Env {
    /// Captures the environment.
    pub fn new(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(vars.into_iter().collect())
    }

    /// Every variable of ours with its text, and what is wrong with the others.
    pub fn read(&self, files: &mut Files) -> Reading {
        let (env, of_file, errors) = self.with_file(files);
        let names: BTreeSet<&str> = env.0.iter().filter_map(|(name, _)| name.to_str()).into_set();
        let missing = errors.iter().map(|_| ENV_ENV_FILE.to_owned()).into_set();
        let mut read = Reading { errors, missing, ..Reading::default() };
        if of_file.as_ref().is_some_and(|(_, names)| names.contains(ENV_ENV_FILE)) {
            let text =
                format!("\"{ENV_ENV_FILE}\" in a file of variables counts for nothing: the environment names it");
            read.notes.push(Note { level: Level::Warn, text });
        }
        let mut ours: Vec<(&str, &OsString)> = env.0.iter().filter_map(|(n, v)| Some((n.to_str()?, v))).collect();
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
            let named = value.to_str().filter(|_| in_file).map(|text| PathBuf::from(text.trim()));
            let from = of_file.iter().filter(|(_, names)| names.contains(name)).map(|(path, _)| path.clone());
            let origins: Vec<PathBuf> = named.into_iter().chain(from).collect();
            if !origins.is_empty() {
                read.origins.insert(name.to_owned(), origins);
            }
            let value = match value.to_str() {
                Some(text) if in_file && text.trim().is_empty() => continue,
                Some(text) if in_file => files.read(name, Path::new(text.trim())),
                Some(text) => Ok(text.to_owned()),
                None => Err(SettingsError::new(name, None, "the value is not UTF-8", "write it in UTF-8")),
            };
            match value {
                Ok(value) => read.insert(canonical, Given { variable: name.to_owned(), value }),
                Err(error) => read.fail(canonical, error),
            }
        }
        read.env = env.to_map();
        read
    }

    /// These variables under those of `NGINIT_ENV_FILE`, that file with the names in it, and what is wrong
    /// with it. A variable of the file takes the place of the environment's, whichever of both is by `_FILE`
    /// or has an older spelling.
    fn with_file(&self, files: &mut Files) -> (Self, Option<OfFile>, Vec<SettingsError>) {
        let (variable, path) = match (self.get(ENV_ENV_FILE), self.get(&format!("{ENV_ENV_FILE}_FILE"))) {
            (Some(path), _) => (ENV_ENV_FILE.to_owned(), path.to_owned()),
            (None, Some(named)) => {
                let variable = format!("{ENV_ENV_FILE}_FILE");
                match files.read(&variable, Path::new(named)) {
                    Ok(path) => (variable, path.trim().to_owned()),
                    Err(error) => return (self.clone(), None, vec![error]),
                }
            }
            (None, None) => return (self.clone(), None, Vec::new()),
        };
        let path = PathBuf::from(path);
        // Settings say so.
        if !path.is_absolute() {
            return (self.clone(), None, Vec::new());
        }
        let parsed = files.read_as(&variable, &path, |text| {
            let fault = |bad: env_file::BadLine| {
                let (reason, remedy) = (format!("line {} {}", bad.number, bad.fault.0), bad.fault.1);
                SettingsError::new(&variable, path.to_str(), reason, remedy)
            };
            env_file::parse(text).map_err(|bad| bad.into_iter().map(fault).collect())
        });
        let vars: BTreeMap<String, String> = match parsed {
            Ok(vars) => vars.into_iter().into_map(),
            Err(errors) => return (self.clone(), None, errors),
        };
        let spelt: BTreeSet<&str> = vars.keys().map(|name| spelling_of(name)).into_set();
        let is_kept = |name: &str| name == variable || !spelt.contains(spelling_of(name));
        let kept = self.0.iter().filter(|(name, _)| name.to_str().is_none_or(is_kept)).cloned();
        let new = vars.iter().filter(|(name, _)| spelling_of(name) != ENV_ENV_FILE);
        let all = kept.chain(new.map(|(name, value)| (name.into(), value.into()))).collect();
        (Self(all), Some((path, vars.into_keys().into_set())), Vec::new())
    }

    /// A variable that is not empty, without blanks around it.
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        value.to_str().map(str::trim).filter(|text| !text.is_empty())
    }

    /// The text of one variable, or of the file that its `_FILE` names, if there is any. What is
    /// wrong with it is found when everything is read.
    pub fn text(&self, name: &str) -> Option<String> {
        let mut files = Files::new(Mode::Strict);
        let (env, _, _) = self.with_file(&mut files);
        let mut in_file = || files.read(name, Path::new(env.get(&format!("{name}_FILE"))?)).ok();
        env.get(name).map(str::to_owned).or_else(&mut in_file).map(|text| text.trim().to_owned())
    }

    /// Whether any upstream is declared. Reads no value.
    pub fn declares_upstreams(&self) -> bool {
        let (env, _, _) = self.with_file(&mut Files::new(Mode::Strict));
        let names: BTreeSet<&str> = env.0.iter().filter_map(|(name, _)| name.to_str()).into_set();
        let ours = |name: &&str| matches!(settings::classify(name, &names), Class::Ours { .. });
        names.iter().any(|name| !name.starts_with("NGINIT_") && ours(name))
    }

    /// All variables that are UTF-8, for templates of the operator's.
    fn to_map(&self) -> BTreeMap<String, String> {
        let text = |s: &OsString| s.to_str().map(str::to_owned);
        self.0.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).into_map()
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
    /// The files that the text of a variable, by its name as set, is from: the one that it names, the one
    /// that it stands in.
    pub origins: BTreeMap<String, Vec<PathBuf>>,
    /// All variables that are UTF-8, for templates of the operator's.
    pub env: BTreeMap<String, String>,
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
    Ok(entries.filter_map(|entry| status(&entry.ok()?.path())).into_set())
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

    fn strict() -> Files<'static> {
        Files::new(Mode::Strict)
    }

    #[test]
    fn a_value_comes_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "a b\n").unwrap();
        let read = env(&[("STATIC_BACKEND_FILE", path.to_str().unwrap()), ("STATIC_BACKEND", "")]).read(&mut strict());
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
            let read = env(&set).read(&mut strict());
            assert!(read.errors.len() == 1 && read.errors[0].to_string().contains(reason), "{read:?}");
        }
    }

    #[test]
    fn only_our_own_variables_must_be_utf_8() {
        let odd = |name: &[u8]| (OsString::from_vec(name.to_vec()), OsString::from_vec(b"\xff".to_vec()));
        let read = Env::new([odd(b"OTHER"), odd(b"\xfe"), odd(b"CELERY_BACKEND")]).read(&mut strict());
        assert!(read.vars.is_empty() && read.errors.is_empty());
        let read = Env::new([odd(b"STATIC_BACKEND"), odd(b"NGINIT_LISTEN")]).read(&mut strict());
        assert_eq!((read.errors.len(), read.missing.len()), (2, 2));
    }

    /// The environment over a file of variables that holds `text`, read.
    fn with_file(text: &str, pairs: &[(&str, &str)]) -> Reading {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        fs::write(&path, text).unwrap();
        let all = [pairs, &[("NGINIT_ENV_FILE", path.to_str().unwrap())]].concat();
        env(&all).read(&mut strict())
    }

    #[test]
    fn variables_of_the_file_win_however_they_are_spelt() {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(&list, "of-list").unwrap();
        let by_file = format!("STATIC_BACKEND_FILE={}", list.path().display());
        for (text, pairs, expected) in [
            ("STATIC_BACKEND=a", vec![], "a"),
            ("STATIC_BACKEND=a", vec![("STATIC_BACKEND", "b")], "a"),
            ("STATIC_BACKEND=a", vec![("STATIC_APP", "b")], "a"),
            ("STATIC_APP=a", vec![("STATIC_BACKEND_FILE", "/no/such")], "a"),
            ("STATIC_BACKEND=", vec![("STATIC_BACKEND", "b")], ""),
            (&by_file, vec![("STATIC_BACKEND", "b")], "of-list"),
            ("OTHER=1", vec![("STATIC_BACKEND", "b")], "b"),
        ] {
            let read = with_file(text, &pairs);
            assert!(read.errors.is_empty(), "{read:?}");
            assert_eq!(read.vars["STATIC_BACKEND"].value, expected, "{text}");
        }
        let read = with_file("A=1\nPATH='/x'", &[("PATH", "/bin"), ("B", "2")]);
        let of = |name: &str| read.env[name].as_str();
        assert_eq!((of("A"), of("B"), of("PATH")), ("1", "2", "/x"), "templates see them too");
    }

    #[test]
    fn one_variable_alone_is_read_from_the_file_too() {
        let dir = tempfile::tempdir().unwrap();
        let (file, socket, named) = (dir.path().join("env"), dir.path().join("socket"), dir.path().join("named"));
        fs::write(&file, format!("NGINIT_CONTROL_FILE='{}'\nNGINIT_START=last-good\n", socket.display())).unwrap();
        fs::write(&socket, "/run/other.sock\n").unwrap();
        fs::write(&named, format!("{}\n", file.display())).unwrap();
        for (name, path) in [("NGINIT_ENV_FILE", &file), ("NGINIT_ENV_FILE_FILE", &named)] {
            let env = env(&[(name, path.to_str().unwrap()), ("NGINIT_CONTROL", "/run/one.sock")]);
            assert_eq!(env.text("NGINIT_CONTROL").as_deref(), Some("/run/other.sock"), "{name}");
            assert_eq!(env.text("NGINIT_START").as_deref(), Some("last-good"), "{name}");
        }
        assert_eq!(env(&[("NGINIT_ENV_FILE", "/no/such"), ("A", "1")]).text("A").as_deref(), Some("1"));
    }

    #[test]
    fn what_is_wrong_with_the_file_of_variables_is_a_fault() {
        let fault = |read: Reading| read.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let missing = fault(env(&[("NGINIT_ENV_FILE", "/no/such")]).read(&mut strict()));
        assert!(missing.starts_with("\"NGINIT_ENV_FILE\": \"/no/such\": cannot be read"), "{missing}");
        let bad = fault(with_file("A=1\nhunter2\nB='x\n", &[]));
        assert!(
            bad.contains(": line 2 has no \"=\"; write NAME=VALUE") && bad.contains(": line 3 has a quote"),
            "{bad}"
        );
        assert!(!bad.contains("hunter2"));
        let nested = with_file("NGINIT_ENV_FILE=/other", &[]);
        assert!(nested.errors.is_empty() && nested.notes.len() == 1 && nested.vars.len() == 1, "{nested:?}");
        assert_ne!(nested.vars["NGINIT_ENV_FILE"].value, "/other");
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
