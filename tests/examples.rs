//! The examples that users paste, started by Compose as they stand and checked for what the cookbook says of them.
//!
//! Like the other tests in containers they need a Docker engine, an image with nginx and static programs, so plain
//! `cargo test` leaves them out; `./setup.sh test containers` makes all of that and runs them. What compose files name by
//! variables (`NGINIT`, `BASE`, `PORT`, …) the tests set. Where an example needs an image that Debian's packages cannot
//! give, `tests/examples/NAME.yaml` puts another service in its place.

#![expect(clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;

#[path = "containers/docker.rs"]
#[allow(dead_code, reason = "it serves the tests of single containers as well")]
mod docker;

#[path = "examples/check.rs"]
mod check;

use docker::{Mounted, docker, docker_any, eventually, images, text, unique};

/// Directories of `examples/` that several examples share.
const SHARED: [&str; 1] = ["backend"];

/// Makes a test of each function, which gets the example of its name (with `-` for `_`), up and running.
macro_rules! examples {
    ($($name:ident)*) => {
        /// The examples that have a check.
        const CHECKED: &[&str] = &[$(stringify!($name)),*];

        mod example {
            $(
                #[test]
                #[ignore = "needs a Docker engine; run by ./setup.sh test"]
                fn $name() {
                    super::check::$name(&super::Example::up(&stringify!($name).replace('_', "-")));
                }
            )*
        }
    };
}

examples! {
    announce
    balance
    error_pages
    fastcgi
    grpc
    health
    https_upstream
    json_log
    last_good
    limits
    list_file
    lists
    maintenance
    official_entrypoint
    proxy_protocol
    read_only
    real_ip
    rewrite
    routes
    scale
    secrets
    sse
    sticky_cookie
    sticky_ip
    tcp
    tls
    traefik_v1
    traefik_v2
    unix_socket
    websocket
}

/// A Compose project made of an example. It goes away with its guard; its log is shown when a test failed.
struct Example {
    project: String,
    files: Vec<PathBuf>,
    variables: BTreeMap<&'static str, String>,
    /// What LISTS leads to: a copy of the example's lists, which a test may change.
    lists: Mounted,
    /// Published ports by service and port inside, once asked for.
    ports: Mutex<BTreeMap<(&'static str, u16), u16>>,
}

impl Example {
    fn up(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files =
            [root.join(format!("examples/{name}/compose.yaml")), root.join(format!("tests/examples/{name}.yaml"))];
        let (images, lists) = (images(), Mounted::new());
        let mut directory = String::new();
        for list in fs::read_dir(root.join(format!("examples/{name}/lists"))).into_iter().flatten() {
            let list = list.expect("an entry");
            let content = fs::read_to_string(list.path()).expect("a list");
            let place = lists.put(&list.file_name().to_string_lossy(), &content);
            directory = place.parent().expect("a file has a directory").display().to_string();
        }
        // "127.0.0.1:" before ":80" asks for any port of that address.
        let variables = [
            ("NGINIT", images.nginit.clone()),
            ("NGINIT_UNPRIVILEGED", images.unprivileged.clone()),
            ("API", images.api.clone()),
            ("BASE", images.base.clone()),
            ("PORT", "127.0.0.1:".to_owned()),
            ("HTTPS_PORT", free_port().to_string()),
            ("LISTS", directory),
        ];
        let mut variables: BTreeMap<_, _> = variables.into();
        if name == "official-entrypoint" {
            variables.insert("OFFICIAL", docker::official("official"));
        }
        let example = Self {
            project: unique(name),
            files: files.into_iter().filter(|file| file.is_file()).collect(),
            variables,
            lists,
            ports: Mutex::default(),
        };
        example.compose(&["up", "-d"]);
        example
    }

    /// Runs Compose on the example, which must succeed, and gives both outputs.
    #[track_caller]
    fn compose(&self, arguments: &[&str]) -> String {
        static PLUGIN: OnceLock<bool> = OnceLock::new();
        let plugin = *PLUGIN.get_or_init(|| docker_any(&["compose", "version"]).status.success());
        let mut command = Command::new(if plugin { "docker" } else { "docker-compose" });
        command.args(plugin.then_some("compose")).args(["-p", &self.project]);
        for file in &self.files {
            command.arg("-f").arg(file);
        }
        command.args(arguments).envs(&self.variables);
        let output = command.output().unwrap_or_else(|err| panic!("Compose cannot be run: {err}"));
        assert!(output.status.success(), "compose {arguments:?}: {}\n{}", output.status, text(&output));
        text(&output)
    }

    /// The only container of a service.
    #[track_caller]
    fn container(&self, service: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={service}");
        docker(&["ps", "-a", "-q", "--filter", &project, "--filter", &service])
    }

    /// Where a port of a service is published: `127.0.0.1:32768`.
    #[track_caller]
    fn published(&self, service: &'static str, inside: u16) -> String {
        let mut known = self.ports.lock().expect("no holder panics");
        let ask = || docker::published(&docker(&["port", &self.container(service), &format!("{inside}/tcp")]));
        format!("127.0.0.1:{}", known.entry((service, inside)).or_insert_with(ask))
    }

    /// The URL of a path on port 80 of the proxy.
    #[track_caller]
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.published("proxy", 80))
    }

    /// Runs a shell line in a service's container and gives its stdout.
    #[track_caller]
    fn sh(&self, service: &str, line: &str) -> String {
        docker(&["exec", &self.container(service), "sh", "-c", line])
    }

    /// What `docker compose kill -s SIGNAL SERVICE` does, in less time.
    #[track_caller]
    fn kill(&self, service: &str, signal: &str) {
        docker(&["kill", "-s", signal, &self.container(service)]);
    }

    /// What a service has said so far.
    #[track_caller]
    fn log(&self, service: &str) -> String {
        text(&docker_any(&["logs", &self.container(service)]))
    }

    /// Waits until `path` on port 80 of the proxy answers 200.
    #[track_caller]
    fn answers(&self, path: &str) -> Answer {
        let url = self.url(path);
        eventually(&format!("200 on {path}"), || try_curl(&[&url]).ok().filter(|answer| answer.status == 200))
    }

    /// GET of `path` on port 80 of the proxy, whatever comes.
    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        curl(&[self.url(path)])
    }
}

impl Drop for Example {
    #[expect(clippy::print_stderr, reason = "the log is what a failed test is understood by")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- compose logs\n{}----", self.compose(&["logs", "--no-color"]));
        }
        // What "compose down -v --rmi local" does, without asking anything to stop by itself.
        let ours = format!("label=com.docker.compose.project={}", self.project);
        let remove = |list: &[&str], remove: &[&str]| {
            let found = text(&docker_any(&[list, &["-q", "--filter", &ours]].concat()));
            if !found.is_empty() {
                docker_any(&[remove, &found.split_whitespace().collect::<Vec<_>>()].concat());
            }
        };
        remove(&["ps", "-a"], &["rm", "-f", "-v"]);
        remove(&["network", "ls"], &["network", "rm"]);
        remove(&["volume", "ls"], &["volume", "rm"]);
        let built = ["_", "-"].map(|between| format!("{}{between}proxy", self.project));
        docker_any(&["rmi", &built[0], &built[1]]);
    }
}

/// A port of loopback that nobody listens on, for an example whose answers name the published one.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port of loopback").port()
}

/// What came back for a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// As curl prints it, with the line of the status.
    head: String,
    body: String,
}

impl Answer {
    /// The values of a header, in their order.
    fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim_end()).collect()
    }

    /// The server that signed it.
    #[track_caller]
    fn server(&self) -> &str {
        let server = self.headers("X-Server");
        assert_eq!(server.len(), 1, "one server signs: {self:?}");
        server[0]
    }

    /// A line of what examples/backend answers.
    #[track_caller]
    fn line(&self, name: &str) -> &str {
        let mut lines = self.body.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name).unwrap_or_else(|| panic!("no line {name:?}: {self:?}")).1.trim()
    }
}

/// curl with these arguments; an error is what it said.
fn try_curl<S: AsRef<str>>(arguments: &[S]) -> Result<Answer, String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "20", "--noproxy", "*"]).args(arguments.iter().map(AsRef::as_ref));
    let output = command.output().map_err(|err| err.to_string())?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(text(&output));
    }
    // With a proxy or an upgrade there may be several heads; the last one counts.
    let (head, body) = told.split_once("\r\n\r\n").ok_or("no head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// curl, which must get an answer.
#[track_caller]
fn curl<S: AsRef<str>>(arguments: &[S]) -> Answer {
    let line: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    try_curl(arguments).unwrap_or_else(|err| panic!("curl {}: {err}", line.join(" ")))
}

/// How often each server signed `count` answers.
#[track_caller]
fn shares(example: &Example, path: &str, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        *shares.entry(example.answers(path).server().to_owned()).or_default() += 1;
    }
    shares
}

/// The example directories.
fn directories() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries =
        fs::read_dir(&root).expect("the repository has examples").map(|entry| entry.expect("an entry").path());
    let name = |path: PathBuf| path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
    entries.filter(|path| path.is_dir()).map(name).filter(|name| !SHARED.contains(&name.as_str())).collect()
}

#[test]
fn every_example_is_checked_and_every_check_has_an_example() {
    let checked = CHECKED.iter().map(|name| name.replace('_', "-")).collect::<BTreeSet<_>>();
    assert_eq!(directories(), checked, "left: directories of examples/, right: functions of tests/examples.rs");
}

#[test]
fn the_cookbook_shows_every_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cookbook = fs::read_to_string(root.join("docs/cookbook.md")).expect("docs/cookbook.md");
    for name in directories() {
        assert!(cookbook.contains(&format!("(../examples/{name}/compose.yaml)")), "no link to the example {name}");
    }
    for link in cookbook.split("](../").skip(1).filter_map(|rest| rest.split(')').next()) {
        let path = link.split('#').next().unwrap_or_default();
        assert!(root.join(path).exists(), "{path} is not there");
    }
}

/// A text of a compose file with the defaults of `${NAME:-default}` in their places.
fn with_defaults(text: &str) -> String {
    let mut parts = text.split("${");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').expect("a variable ends");
        plain += variable.split_once(":-").map_or("", |(_, default)| default);
        plain += rest;
    }
    plain
}

#[test]
fn variables_in_the_cookbook_stand_in_their_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cookbook = fs::read_to_string(root.join("docs/cookbook.md")).expect("docs/cookbook.md");
    let mut shown = 0;
    for recipe in cookbook.split("\n## ").skip(1) {
        let name = recipe.split("(../examples/").nth(1).and_then(|rest| rest.split('/').next()).expect(recipe);
        let file = fs::read_to_string(root.join(format!("examples/{name}/compose.yaml"))).expect(name);
        let file = with_defaults(&file);
        for block in recipe.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let lines = block.lines().map(|line| line.split("  #").next().unwrap_or_default().trim());
            for line in lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())) {
                assert!(file.lines().any(|other| other.trim() == line), "{line:?} is not in the example {name}");
                shown += 1;
            }
        }
    }
    assert!(shown > 40, "{shown}");
}
