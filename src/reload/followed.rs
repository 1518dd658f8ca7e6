//! What a candidate was made from on disk, so that a change of it can ask for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::others::Look;
use crate::ordered::InOrder;
use crate::render::ENDING;
use crate::settings::Settings;

/// Most files of a directory that are looked at.
const MOST: usize = 10_000;

/// How files look by path; what is not there looks like nothing.
pub type Looks = BTreeMap<PathBuf, Option<Look>>;

/// What counts for a candidate, and how it looked before it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What counts.
    pub followed: Followed,
    /// How it looked.
    pub looks: Looks,
    /// Templates and pages are those of before, and were not read.
    pub named_only: bool,
}

impl Seen {
    /// Looks at all that counts with these settings. Of files that were read already, `read` tells how
    /// they looked before.
    pub fn new(settings: &Settings, read: &Looks) -> Self {
        let followed = Followed::new(settings, read.keys());
        let mut looks = followed.look();
        looks.extend(read.iter().filter(|_| settings.watch).map(|(path, look)| (path.clone(), *look)));
        Self { followed, looks, named_only: false }
    }
}

/// Files and directories whose changes count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// What variables name.
    files: BTreeSet<PathBuf>,
    /// The directory of templates; its files count.
    templates: Option<PathBuf>,
    /// The directory of error pages. nginx reads them anew itself, so only their names count.
    pages: Option<PathBuf>,
}

impl Followed {
    /// What counts with these settings, where variables name `files`; nothing if that is not wanted.
    pub fn new<'a>(settings: &Settings, files: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        if !settings.watch {
            return Self::default();
        }
        let certificates = settings.certificates().into_iter().map(PathBuf::from);
        Self {
            files: files.into_iter().cloned().chain(certificates).into_set(),
            templates: Some(settings.templates.clone()),
            pages: Some(settings.error_pages.clone()),
        }
    }

    /// Looks at all of it.
    pub fn look(&self) -> Looks {
        let mut looks = self.files.iter().map(|path| (path.clone(), Look::at(path))).into_map();
        let is_there = |path: &Path| path.is_file().then(Look::default);
        if let Some(dir) = &self.templates {
            list(dir, ENDING, Look::at, &mut looks);
        }
        if let Some(dir) = &self.pages {
            list(dir, ".html", is_there, &mut looks);
        }
        looks
    }

    /// Whether a variable names this file.
    pub fn names(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.templates.is_none() && self.pages.is_none()
    }
}

/// Adds the looks of the files in `dir` that end so, and of itself, as being there or not.
fn list(dir: &Path, ending: &str, look: impl Fn(&Path) -> Option<Look>, looks: &mut Looks) {
    let entries = fs::read_dir(dir);
    looks.insert(dir.to_owned(), entries.is_ok().then(Look::default));
    let paths = entries.into_iter().flatten().take(MOST).filter_map(|entry| Some(entry.ok()?.path()));
    let ours = paths.filter(|path| path.as_os_str().as_encoded_bytes().ends_with(ending.as_bytes()));
    looks.extend(ours.map(|path| (path.clone(), look(&path))));
}

/// The directories through which a file of that path comes and goes: its own, those of links on the way
/// to it, or the nearest one that is there.
pub fn directories(path: &Path) -> BTreeSet<PathBuf> {
    /// As many links as the kernel follows (path_resolution(7)).
    const MOST_LINKS: usize = 40;
    let mut found = BTreeSet::new();
    let mut target = path.to_owned();
    'links: for _ in 0..MOST_LINKS {
        let mut at = PathBuf::new();
        let mut parts = target.components();
        while let Some(part) = parts.next() {
            let next = at.join(part);
            let Ok(meta) = fs::symlink_metadata(&next) else {
                found.insert(at);
                break 'links;
            };
            if meta.is_symlink() {
                let Ok(to) = fs::read_link(&next) else { break 'links };
                // Relative, it starts where the link is.
                let onward = at.join(to).join(parts.as_path());
                found.insert(at);
                target = onward;
                continue 'links;
            }
            if !meta.is_dir() {
                found.insert(at);
                break 'links;
            }
            at = next;
        }
        found.insert(at);
        break;
    }
    // Of a relative path, the directory that it starts in.
    found.into_iter().map(|dir| if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir }).into_set()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_through_all_their_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("volume/..1")).unwrap();
        fs::write(at("volume/..1/list"), "").unwrap();
        symlink("..1", at("volume/..data")).unwrap();
        symlink("..data/list", at("volume/list")).unwrap();
        symlink(at("volume"), at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let found = |name: &str| {
            let names = directories(&at(name)).into_iter().map(|dir| dir.strip_prefix(&root).unwrap().to_owned());
            names.map(|name| name.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found("volume/..1/list"), "volume/..1");
        assert_eq!(found("volume/list"), "volume volume/..1");
        assert_eq!(found("link/list"), " volume volume/..1");
        assert_eq!(found("volume"), "volume", "of a directory, itself");
        assert_eq!(found("none/of/these"), "");
        assert_eq!(found("volume/none"), "volume");
        assert_eq!(found("volume/list/x"), "volume volume/..1");
        assert_eq!(found("loop"), "");
        assert_eq!(directories(Path::new("no-such-file")), BTreeSet::from([PathBuf::from(".")]));
    }

    #[test]
    fn templates_count_whole_and_error_pages_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (mut settings, _) = settings::defaults();
        (settings.templates, settings.error_pages) = (at("templates"), at("pages"));
        let followed = Followed::new(&settings, &[at("list")]);
        let mut before = followed.look();
        let mut changed = || {
            let now = followed.look();
            let old = std::mem::replace(&mut before, now.clone());
            let differ: BTreeSet<PathBuf> =
                now.keys().chain(old.keys()).filter(|path| now.get(*path) != old.get(*path)).cloned().collect();
            let names = differ.iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(changed(), "");
        fs::create_dir(at("templates")).unwrap();
        fs::create_dir(at("pages")).unwrap();
        assert_eq!(changed(), "pages templates");
        for name in ["list", "templates/a.conf.j2", "templates/notes", "pages/404.html", "pages/logo.png"] {
            fs::write(at(name), "1").unwrap();
        }
        assert_eq!(changed(), "list pages/404.html templates/a.conf.j2");
        for name in ["list", "templates/a.conf.j2", "pages/404.html"] {
            fs::write(at(name), "22").unwrap();
        }
        assert_eq!(changed(), "list templates/a.conf.j2");
        fs::remove_file(at("pages/404.html")).unwrap();
        fs::remove_file(at("templates/a.conf.j2")).unwrap();
        assert_eq!(changed(), "pages/404.html templates/a.conf.j2");
        settings.watch = false;
        assert!(Followed::new(&settings, &[at("list")]).is_empty());
    }
}
