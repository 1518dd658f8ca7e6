//! Command lines: is it nginx that will run, and with which options?
//!
//! A command that ends as nginx, such as `/docker-entrypoint.sh nginx -g 'daemon off;'`, counts as
//! nginx, with what follows that word as nginx's options. `which nginx` does not. Pure.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conf;

/// What runs when no command is given.
/// `daemon off` is not part of it: a main file may set it, and it is added where none does.
pub const DEFAULT: [&str; 1] = ["nginx"];

/// `argv`, or the default where it is empty.
pub fn or_default(argv: Vec<OsString>) -> Vec<OsString> {
    if argv.is_empty() { DEFAULT.map(OsString::from).to_vec() } else { argv }
}

/// What the supervised nginx needs besides its files.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a, W> {
    /// Its worker processes, asked for only if nobody has set them.
    pub workers: W,
    /// Longest wait for requests in old workers; nothing waits for ever.
    pub worker_shutdown_timeout: Option<Duration>,
    /// A file for its emerg lines, so that we learn why it refuses a reload.
    pub errors: Option<&'a Path>,
}

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// nginx's part of it, if it ends as nginx.
    pub nginx: Option<Options>,
}

/// nginx's own options (nginx(8)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Where in the command line nginx itself stands.
    word: usize,
    /// `-c`.
    pub conf: Option<PathBuf>,
    /// `-p`.
    pub prefix: Option<PathBuf>,
    /// `-g`, and where its value stands: which argument, and after how many bytes of it.
    globals: Option<(String, usize, usize)>,
    /// It only prints something or signals another nginx: `-v`, `-V`, `-h`, `-?`, `-s`.
    pub serves_nothing: bool,
}

impl CommandLine {
    /// Reads `argv`; `nginx` is what `NGINIT_NGINX` holds, if anything.
    pub fn parse(argv: Vec<OsString>, nginx: Option<&str>) -> Self {
        let file_name = |word: &OsString| Path::new(word).file_name().unwrap_or_default().to_owned();
        let is_nginx = |word: &OsString| {
            ["nginx", "nginx-debug"].iter().any(|n| file_name(word) == *n) || nginx.is_some_and(|n| word == n)
        };
        let entrypoint = argv.first().is_some_and(|w| file_name(w).to_string_lossy().contains("entrypoint"));
        let foreground = argv.iter().rposition(|w| w.to_string_lossy().contains("daemon off"));
        let ends_as_nginx = |at: usize| at == 0 || (entrypoint && at == 1) || foreground.is_some_and(|end| at < end);
        let word = (0..argv.len()).rfind(|at| is_nginx(&argv[*at]) && ends_as_nginx(*at));
        let options = word.map(|word| Options::parse(&argv, word));
        Self { argv, nginx: options.filter(|options| !options.serves_nothing) }
    }

    /// Whether nginx is run by the user that nginit is: the program itself, or what an entrypoint
    /// script ends as. Others, such as gosu, are there to change that.
    pub fn keeps_user(&self) -> bool {
        let first = self.argv.first().map(|word| Path::new(word).file_name().unwrap_or_default().to_string_lossy());
        let entrypoint = first.is_some_and(|name| name.contains("entrypoint"));
        self.nginx.as_ref().is_some_and(|options| options.word == 0 || entrypoint)
    }

    /// The word that names nginx's binary.
    pub fn nginx_word(&self) -> &str {
        let word = self.nginx.as_ref().and_then(|options| self.argv.get(options.word)?.to_str());
        word.unwrap_or(DEFAULT[0])
    }

    /// The command line with nginx's word replaced by the path of the binary, where nginx is the
    /// program itself, and with `globals` in front of its `-g`.
    pub fn with(&self, binary: &Path, globals: &str) -> Vec<OsString> {
        let mut argv = self.argv.clone();
        let Some(options) = &self.nginx else { return argv };
        if options.word == 0 {
            argv[0] = binary.into();
        }
        if globals.is_empty() {
            return argv;
        }
        match &options.globals {
            Some((value, index, offset)) => {
                let flags = argv[*index].to_str().and_then(|arg| arg.get(..*offset)).unwrap_or_default();
                argv[*index] = format!("{flags}{globals} {value}").into();
            }
            None => argv.extend(["-g".into(), globals.into()]),
        }
        argv
    }
}

impl Options {
    fn parse(argv: &[OsString], word: usize) -> Self {
        let mut options = Self { word, ..Self::default() };
        let mut index = word + 1;
        while let Some(arg) = argv.get(index) {
            let Some(flags) = arg.to_str().and_then(|a| a.strip_prefix('-')) else { break };
            for (at, flag) in flags.char_indices() {
                match flag {
                    'c' | 'p' | 'g' | 'e' | 's' => {
                        let attached = &flags[at + 1..];
                        let (value, offset): (OsString, usize) = if attached.is_empty() {
                            index += 1;
                            (argv.get(index).cloned().unwrap_or_default(), 0)
                        } else {
                            (attached.into(), at + 2)
                        };
                        options.take(flag, &value, index, offset);
                        break;
                    }
                    'v' | 'V' | 'h' | '?' => options.serves_nothing = true,
                    _ => {}
                }
            }
            index += 1;
        }
        options
    }

    fn take(&mut self, flag: char, value: &OsStr, index: usize, offset: usize) {
        match flag {
            'c' => self.conf = Some(value.into()),
            'p' => self.prefix = Some(value.into()),
            'g' => self.globals = value.to_str().map(|text| (text.to_owned(), index, offset)),
            's' => self.serves_nothing = true,
            _ => {}
        }
    }

    /// The main configuration file, given what is compiled in.
    pub fn main_conf(&self, facts: &super::facts::Facts) -> PathBuf {
        let prefix = self.prefix.clone().unwrap_or_else(|| PathBuf::from(&facts.prefix));
        prefix.join(self.conf.clone().unwrap_or_else(|| PathBuf::from(&facts.conf_path)))
    }

    /// Directives that nginit gives nginx in front of `-g`, because the supervised nginx needs
    /// them, each only where neither the command line nor `main`, the text of the main
    /// configuration file, sets it: nginx refuses a directive that is there twice.
    pub fn missing_globals(&self, main: &str, needs: &Needs<'_, impl Fn() -> u16>) -> String {
        let mut missing = Vec::new();
        let mut need = |name: &str, value: &dyn Fn() -> String| {
            if !self.settles(name, main) {
                missing.push(format!("{name} {};", value()));
            }
        };
        need("daemon", &|| "off".to_owned());
        need("worker_processes", &|| (needs.workers)().to_string());
        let timeout = needs.worker_shutdown_timeout.map_or(0, |timeout| timeout.as_millis());
        need("worker_shutdown_timeout", &|| format!("{timeout}ms"));
        if let Some(errors) = needs.errors.filter(|_| self.can_tell_errors(main)) {
            missing.push(format!("error_log {} emerg;", errors.display()));
        }
        missing.join(" ")
    }

    /// Whether nginx can be given one more error log: where none is set, that would take the place
    /// of the compiled-in one.
    pub fn can_tell_errors(&self, main: &str) -> bool {
        self.settles("error_log", main)
    }

    /// The text of `-g`.
    pub fn own_globals(&self) -> &str {
        self.globals.as_ref().map_or("", |(text, ..)| text)
    }

    /// Whether the main file's text or the command line sets a directive outside of any block.
    pub fn settles(&self, directive: &str, main: &str) -> bool {
        conf::sets(main, directive) || conf::sets(self.own_globals(), directive)
    }

    /// Arguments of a test of the configuration `main`, with the same options otherwise; `globals`
    /// is what the running nginx was given in addition.
    pub fn test_args(&self, main: &Path, globals: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["-t".into(), "-c".into(), main.into()];
        if let Some(prefix) = &self.prefix {
            args.extend(["-p".into(), prefix.into()]);
        }
        let all = [globals, self.own_globals()].join(" ");
        if !all.trim().is_empty() {
            args.extend(["-g".into(), all.trim().into()]);
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> CommandLine {
        CommandLine::parse(words.iter().map(Into::into).collect(), None)
    }

    fn with(words: &[&str], globals: &str) -> String {
        let argv = line(words).with(Path::new("/usr/sbin/nginx"), globals);
        argv.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn nginx_is_found_where_it_is_and_nowhere_else() {
        for words in [&DEFAULT[..], &["/usr/sbin/nginx"], &["nginx-debug", "-t"], &["/docker-entrypoint.sh", "nginx"]] {
            assert!(line(words).nginx.is_some(), "{words:?}");
        }
        assert_eq!(line(&["gosu", "nginx", "nginx", "-g", "daemon off;"]).nginx.map(|o| o.word), Some(2));
        for words in [
            &["sh"][..],
            &["which", "nginx"],
            &["ls", "/etc/nginx"],
            &["/docker-entrypoint.sh", "ls", "/etc/nginx"],
            &["nginx", "-v"],
            &["nginx", "-s", "stop"],
            &["nginx", "-tV"],
            &[],
        ] {
            assert!(line(words).nginx.is_none(), "{words:?}");
        }
    }

    #[test]
    fn options_are_read_as_nginx_reads_them() {
        let options = line(&["nginx", "-c", "a.conf", "-p/opt", "-qg", "daemon off;"]).nginx.unwrap();
        assert_eq!(
            (options.conf.as_deref(), options.prefix.as_deref()),
            (Some(Path::new("a.conf")), Some(Path::new("/opt")))
        );
        let facts = super::super::facts::Facts::find(b"nginx version: nginx/1.1.1\0configure arguments: \0").unwrap();
        assert_eq!(options.main_conf(&facts), Path::new("/opt/a.conf"));
        let timeout = Some(Duration::from_secs(30));
        let needs = Needs { workers: || 2, worker_shutdown_timeout: timeout, errors: Some(Path::new("/e")) };
        assert_eq!(options.missing_globals("", &needs), "worker_processes 2; worker_shutdown_timeout 30000ms;");
        let main = "worker_processes 1; error_log stderr;";
        assert_eq!(options.missing_globals(main, &needs), "worker_shutdown_timeout 30000ms; error_log /e emerg;");
        let test = options.test_args(Path::new("/s/nginx.conf"), "worker_processes 2;");
        assert_eq!(test, ["-t", "-c", "/s/nginx.conf", "-p", "/opt", "-g", "worker_processes 2; daemon off;"]);
    }

    #[test]
    fn our_globals_stand_in_front_of_the_commands_own() {
        let globals = "worker_processes 2;";
        assert_eq!(
            with(&["nginx", "-g", "daemon off;"], globals),
            "/usr/sbin/nginx|-g|worker_processes 2; daemon off;"
        );
        assert_eq!(with(&["nginx", "-qgdaemon off;"], globals), "/usr/sbin/nginx|-qgworker_processes 2; daemon off;");
        assert_eq!(with(&["nginx"], globals), "/usr/sbin/nginx|-g|worker_processes 2;");
        assert_eq!(with(&["/entrypoint", "nginx"], globals), "/entrypoint|nginx|-g|worker_processes 2;");
        assert_eq!(with(&["nginx", "-c", "x"], ""), "/usr/sbin/nginx|-c|x");
        assert_eq!(with(&["sh", "-c", "x"], globals), "sh|-c|x");
    }
}
