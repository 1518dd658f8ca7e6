//! nginx's main configuration file: what follows from it for what nginit renders and asks.
//!
//! It is the operator's, and never written to.

use std::path::{Path, PathBuf};

use super::command::{CommandLine, Options};
use super::{Nginx, conf};
use crate::exit::{Failure, Status};
use crate::log::{self, Level};
use crate::reload::disk::{Disk, include_advice};
use crate::render::generation;
use crate::settings::{LONGEST_SOCKET_PATH, Settings};

/// nginx's main configuration file.
#[derive(Debug)]
pub struct Main {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
    /// Why it does not read the file with the generation's number.
    blind: Option<String>,
}

impl Main {
    /// Reads it, and warns where it and the settings do not fit together. That it cannot be read is
    /// nginx's to report.
    pub fn read(options: &Options, nginx: &Nginx, settings: &Settings) -> Self {
        let path = options.main_conf(&nginx.facts);
        let path = std::path::absolute(&path).unwrap_or(path);
        let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let base = path.parent().unwrap_or(Path::new("/"));
        let known = by_one_name(&text, base, &settings.conf_dir);
        let (_, includes) = conf::redirect_includes(&known, base, &settings.conf_dir, &settings.conf_dir);
        let (main, dir) = (path.display(), settings.conf_dir.display());
        if includes == 0 && !text.is_empty() {
            let remedy = include_advice(&settings.conf_dir);
            log::line(
                Level::Warn,
                "nginx",
                &format!(
                    "{main} itself does not include {dir}/*.conf: reloads are refused and, unless a file that it \
                     includes or a pattern of directories does, nothing of it takes effect; {remedy}"
                ),
            );
        }
        if settings.workers.is_some() && options.settles("worker_processes", &text) {
            let text =
                format!("\"NGINIT_WORKERS\" has no effect: worker_processes is set in {main} or on the command line");
            log::line(Level::Warn, "nginx", &text);
        }
        let sees = conf::includes(&known, base, &settings.conf_dir, generation::NAME);
        let blind = (!sees).then(|| format!("{main} itself does not include {dir}/{}", generation::NAME));
        Self { path, text, blind }
    }

    /// Checks that nginx stays in the foreground: otherwise it counts as ended as soon as it runs.
    ///
    /// # Errors
    /// 78, and who sends it to the background.
    pub fn check_foreground(&self, options: &Options) -> Result<(), Failure> {
        let on = |text: &str| conf::setting(text, "daemon").is_some_and(|value| value.eq_ignore_ascii_case("on"));
        let place = match () {
            () if on(&self.text) => self.path.display().to_string(),
            () if on(options.own_globals()) => "the command's -g".to_owned(),
            () => return Ok(()),
        };
        let reason = format!("{place} sets \"daemon on\", but nginx has to stay in the foreground: remove it");
        Err(Failure::new(Status::BadConfiguration, reason))
    }

    /// Where nginx can answer its generation, which takes a file system that knows sockets.
    pub fn generation_socket(&self, disk: &Disk, line: &CommandLine) -> Option<PathBuf> {
        let socket = disk.generation_socket();
        let obstacle = match &self.blind {
            Some(blind) => Some(blind.clone()),
            None if !line.keeps_user() => Some("nginx may run as another user".to_owned()),
            None if socket.as_os_str().len() > LONGEST_SOCKET_PATH => {
                Some(format!("{} is too long a path for a socket", socket.display()))
            }
            None => disk.try_socket().err().map(|err| format!("{}: {err}", socket.display())),
        };
        let Some(obstacle) = obstacle else { return Some(socket) };
        let text =
            format!("a reload counts as live once nginx has new workers, because it cannot be asked: {obstacle}");
        log::line(Level::Info, "nginx", &text);
        None
    }

    /// Where nginx can tell us of clients.
    pub fn clients(&self, disk: &Disk, line: &CommandLine) -> Option<PathBuf> {
        let clients = disk.clients();
        (is_plain(&clients) && line.keeps_user() && clients.exists()).then_some(clients)
    }

    /// Where nginx can write its emerg lines for us.
    pub fn errors(&self, disk: &Disk, line: &CommandLine, options: &Options) -> Option<PathBuf> {
        let errors = disk.errors();
        (is_plain(&errors) && line.keeps_user() && options.can_tell_errors(&self.text)).then_some(errors)
    }
}

/// Whether a path means nothing to nginx.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)))
}

/// `text`, that of a main file in `base`, with includes that reach `dir` by another name, through
/// symbolic links, made ones of `dir`.
pub fn by_one_name(text: &str, base: &Path, dir: &Path) -> String {
    let Ok(real) = dir.canonicalize() else { return text.to_owned() };
    let known = |words: &[&str], path: &str| {
        let ["include", _] = words else { return None };
        let path = base.join(path);
        let parent = path.parent()?.canonicalize().ok()?;
        Some(dir.join(parent.strip_prefix(&real).ok()?).join(path.file_name()?))
    };
    conf::replaced(text, known).0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn includes_through_links_are_those_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (base, real, link) = (dir.path(), dir.path().join("real"), dir.path().join("link"));
        std::fs::create_dir_all(real.join("sub")).unwrap();
        symlink("real", &link).unwrap();
        let text = "include mime.types; http { include link/*.conf; include 'real/sub/a'; include none/*.conf; }";
        for dir in [&real, &link] {
            let expected = text
                .replace("link/*.conf", &conf::quoted(&dir.join("*.conf")))
                .replace("'real/sub/a'", &conf::quoted(&dir.join("sub/a")));
            assert_eq!(by_one_name(text, base, dir), expected);
        }
        assert_eq!(by_one_name(text, base, &base.join("none")), text);
    }
}
