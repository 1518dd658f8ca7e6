//! Variables and the files that they name, read and checked: what a candidate is made from.
//!
//! Who asks for a reload wants to hear what is wrong, and one fault refuses it. Where files have changed
//! by themselves, nobody may be there to hear: then a file that fails keeps what it held when all was
//! well, and the others count.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::candidate::log_notes;
use super::followed::{Looks, Seen};
use crate::exit::{Failure, Status};
use crate::inputs::{Env, Failing, Files, Mode, Reading, Texts};
use crate::log::Level;
use crate::settings::error::{SettingsError, SettingsErrors};
use crate::settings::variables::ENV_ENV_FILE;
use crate::settings::{self, Note, Settings};

/// What was read.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The settings.
    pub settings: Settings,
    /// What the operator should know.
    pub notes: Vec<Note>,
    /// All variables, for templates of the operator's.
    pub env: BTreeMap<String, String>,
    /// What the files that variables name held, or hold still for us.
    pub texts: Texts,
    /// The files among them that count as they were before.
    pub failing: Vec<Failing>,
    /// How each file looked before it was read.
    pub looks: Looks,
}

/// Reads the settings from `env` and the files that it names.
///
/// # Errors
/// Every fault of every variable. Warnings are logged then, as they may be the reason of a fault.
pub fn inputs(env: &Env, mode: Mode) -> Result<Inputs, Failure> {
    let mut files = Files::new(mode);
    loop {
        let Reading { vars, mut notes, mut errors, missing, origins, env } = env.read(&mut files);
        match settings::parse(&vars) {
            Ok((settings, more)) if errors.is_empty() => {
                notes.extend(more);
                let looks = files.looks().clone();
                let (texts, failing) = files.into_texts();
                return Ok(Inputs { settings, notes, env, texts, failing, looks });
            }
            Ok(_) => {}
            // Without the file of variables, others cannot be judged.
            Err(_) if missing.contains(ENV_ENV_FILE) => {}
            // What could not be read is not reported a second time as being empty.
            Err(SettingsErrors(more)) => errors.extend(more.into_iter().filter(|e| !missing.contains(&e.variable))),
        }
        for error in &mut errors {
            if let Some([path]) =
                origins.get(&error.variable).map(Vec::as_slice).filter(|_| !error.variable.ends_with("_FILE"))
            {
                error.remedy.push_str(&format!(" in \"{}\"", path.display()));
            }
        }
        if keep(&mut files, &errors, &origins) {
            continue;
        }
        notes.retain(|note| note.level <= Level::Warn);
        log_notes(&notes);
        return Err(Failure::new(Status::BadEnvironment, SettingsErrors(errors).to_string()));
    }
}

/// Has the files count as before that these faults come from; all that have changed, if it cannot be
/// told which. False, where there are none.
fn keep(files: &mut Files, errors: &[SettingsError], origins: &BTreeMap<String, Vec<PathBuf>>) -> bool {
    let mut kept = false;
    for error in errors {
        let of = origins.get(&error.variable).map(Vec::as_slice).unwrap_or_default();
        kept |= of.iter().any(|path| files.keep(&error.variable, path, error));
    }
    if let (false, Some(error)) = (kept, errors.first()) {
        for path in files.changed() {
            let variable = origins.iter().find(|(_, of)| of.contains(&path)).map(|(variable, _)| variable.as_str());
            kept |= files.keep(variable.unwrap_or_default(), &path, error);
        }
    }
    kept
}

/// What is to be followed while nothing can be read: whatever the variables name.
pub fn seen(env: &Env) -> Seen {
    let mut files = Files::new(Mode::Strict);
    env.read(&mut files);
    Seen::new(&own_settings(env), files.looks())
}

/// The settings of nginit itself, without those that are bad and without any upstream: for serving
/// what was live last while the variables cannot be used.
pub fn own_settings(env: &Env) -> Settings {
    let mut vars = env.read(&mut Files::new(Mode::Strict)).vars;
    vars.retain(|name, _| name.starts_with("NGINIT_"));
    // One that is left out may be what another one needs.
    while let Err(SettingsErrors(errors)) = settings::parse(&vars) {
        let before = vars.len();
        vars.retain(|_, given| errors.iter().all(|error| error.variable != given.variable));
        if vars.len() == before {
            break;
        }
    }
    settings::parse(&vars).unwrap_or_else(|_| settings::defaults()).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::fs;
    use std::path::Path;

    /// Two lists, a route and a file of variables, on disk.
    struct Site(tempfile::TempDir);

    impl Site {
        fn new() -> Self {
            let site = Self(tempfile::tempdir().unwrap());
            site.write("one", "10.0.0.1");
            site.write("two", "10.0.0.2");
            site.write("route", "/two/");
            site.write("env", "STATIC_TIMEOUT=1s");
            site
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn read(&self, mode: Mode) -> Result<Inputs, String> {
            let named = [
                ("NGINIT_ENV_FILE", "env"),
                ("STATIC_BACKEND_FILE", "one"),
                ("TWO_BACKEND_FILE", "two"),
                ("TWO_ROUTE_FILE", "route"),
            ];
            let env = Env::new(named.map(|(name, file)| (OsString::from(name), self.path(file).into_os_string())));
            inputs(&env, mode).map_err(|failure| failure.reason)
        }

        /// The servers and the files that fail, with the start of the reason, if `last` was good.
        fn lenient(&self, last: &Inputs) -> (String, Vec<(String, String)>) {
            let read = self.read(Mode::Lenient { last: &last.texts }).unwrap();
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            let failing = read.failing.iter().map(|failing| (name(&failing.path), failing.to_string()));
            (servers(&read), failing.collect())
        }
    }

    fn servers(inputs: &Inputs) -> String {
        let all = inputs.settings.upstreams.values().flat_map(|upstream| &upstream.servers);
        all.map(|server| server.address.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_file_that_fails_keeps_what_it_held_and_the_others_count() {
        let site = Site::new();
        let first = site.read(Mode::Strict).unwrap();
        assert_eq!((servers(&first).as_str(), first.failing.len()), ("10.0.0.1:80 10.0.0.2:80", 0));
        site.write("two", "10.0.0.22");
        type Spoiling = (fn(&Site), &'static str);
        let spoil: [Spoiling; 5] = [
            (|site| fs::remove_file(site.path("one")).unwrap(), "cannot be read"),
            (|site| site.write("one", "10.0.0.9 10.0.0"), "server 2"),
            (|site| site.write("one", " \n"), "is empty and was not before"),
            (|site| fs::write(site.path("one"), b"\xe9").unwrap(), "is not UTF-8"),
            (|site| drop(fs::remove_file(site.path("one")).and_then(|()| fs::create_dir(site.path("one")))), "regular"),
        ];
        for (spoil, reason) in spoil {
            spoil(&site);
            let (servers, failing) = site.lenient(&first);
            assert_eq!(servers, "10.0.0.1:80 10.0.0.22:80", "{reason}");
            let [(path, text)] = &failing[..] else { panic!("{failing:?}") };
            assert_eq!(path, "one");
            assert!(text.starts_with("\"STATIC_BACKEND_FILE\": ") && text.contains(reason), "{text}");
            assert!(text.ends_with("one\" counts as it was before"), "{text}");
        }
        assert!(site.read(Mode::Strict).is_err(), "who asks is told");
    }

    #[test]
    fn a_list_can_be_emptied_by_a_comment_or_by_who_asks() {
        let site = Site::new();
        let first = site.read(Mode::Strict).unwrap();
        site.write("one", "# none\n");
        let (servers, failing) = site.lenient(&first);
        assert_eq!((servers.as_str(), failing.len()), ("10.0.0.2:80", 0));
        site.write("one", "");
        assert_eq!(site.read(Mode::Strict).unwrap().settings.upstreams.len(), 2);
        // What held nothing can be empty.
        let empty = site.read(Mode::Strict).unwrap();
        assert!(site.lenient(&empty).1.is_empty());
    }

    #[test]
    fn where_two_files_contradict_each_other_one_stays_as_it_was() {
        let site = Site::new();
        let first = site.read(Mode::Strict).unwrap();
        site.write("one", "10.0.0.11");
        site.write("route", "/");
        let (servers, failing) = site.lenient(&first);
        assert_eq!(servers, "10.0.0.11:80 10.0.0.2:80");
        assert_eq!(failing.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["route"]);
    }

    #[test]
    fn a_bad_file_of_variables_stays_as_it_was() {
        let site = Site::new();
        let first = site.read(Mode::Strict).unwrap();
        let timeout = |inputs: &Inputs| inputs.settings.upstreams.values().next().unwrap().clone();
        site.write("one", "10.0.0.11");
        for (text, reason) in [
            ("STATIC_TIMEOUT=2s\nhalf", "line 2 has no \"=\""),
            ("STATIC_TIMEOUT=nonsense", "\"STATIC_TIMEOUT\": "),
            ("STATIC_BACKEND_FILE=/no/such", "\"/no/such\": cannot be read"),
            ("", "is empty"),
        ] {
            site.write("env", text);
            let (servers, failing) = site.lenient(&first);
            assert_eq!(servers, "10.0.0.11:80 10.0.0.2:80", "{text}");
            let [(path, told)] = &failing[..] else { panic!("{failing:?}") };
            assert!(path == "env" && told.contains(reason), "{told}");
        }
        site.write("env", "STATIC_TIMEOUT=nonsense");
        let refused = site.read(Mode::Strict).unwrap_err();
        assert!(refused.ends_with(&format!(" in \"{}\"", site.path("env").display())), "{refused}");
        site.write("env", "STATIC_TIMEOUT=3s");
        let read = site.read(Mode::Lenient { last: &first.texts }).unwrap();
        assert_ne!(timeout(&read).passing, timeout(&first).passing);
    }

    #[test]
    fn what_never_was_good_is_a_fault() {
        let site = Site::new();
        site.write("one", "10.0.0.1:0");
        let none = Texts::default();
        assert!(site.read(Mode::Lenient { last: &none }).unwrap_err().contains("STATIC_BACKEND_FILE"));
    }
}
