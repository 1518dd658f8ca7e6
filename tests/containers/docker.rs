//! The docker CLI as the tests use it: images made once, containers and networks that go away with their guard.
//!
//! What the images are made of comes from the environment: `NGINIT_TEST_BASE`, an image with nginx (`nginx:1.30`), and
//! `NGINIT_TEST_BINARY` and `NGINIT_TEST_DYNAMIC`, static programs (`dist/nginit` and `dist/dynamic`, where
//! `./setup.sh test` leaves them). Nothing is pulled; `tests/images/make-base.sh` makes bases.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen by itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs docker and gives what it said, whatever its status.
pub fn docker_any<S: AsRef<str>>(arguments: &[S]) -> Output {
    let mut command = Command::new("docker");
    command.args(arguments.iter().map(AsRef::as_ref)).env_remove("DOCKER_BUILDKIT");
    command.output().unwrap_or_else(|err| panic!("docker cannot be run: {err}"))
}

/// Runs docker, which must succeed, and gives its stdout without the last newline.
#[track_caller]
pub fn docker<S: AsRef<str>>(arguments: &[S]) -> String {
    let output = docker_any(arguments);
    let line: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    assert!(output.status.success(), "docker {}: {}\n{}", line.join(" "), output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Both outputs of a program.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until `probe` gives something; fails with `what` when it has not after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A name nothing else on this machine has.
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("nginit-test-{}-{stem}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The images under test, built at the first call.
pub struct Images {
    /// The proxy as root.
    pub nginit: String,
    /// The proxy without root.
    pub unprivileged: String,
    /// The demo's static server.
    pub site: String,
    /// The demo's API.
    pub api: String,
    /// What the proxy is built upon.
    pub base: String,
}

fn from_env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// The images under test.
pub fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let base = from_env("NGINIT_TEST_BASE", "nginx:1.30");
        let known = docker_any(&["image", "inspect", &base]).status.success();
        assert!(
            known,
            "no image {base:?} here; make one with tests/images/make-base.sh and name it in NGINIT_TEST_BASE"
        );
        let flavour = base.replace(['/', ':', '.'], "-");
        let tag = |part: &str| format!("nginit-test/{part}:{flavour}");
        let images = Images {
            nginit: tag("nginit"),
            unprivileged: tag("unprivileged"),
            site: tag("static"),
            api: tag("dynamic"),
            base,
        };
        let context = build_context();
        let build = |dockerfile: &str, tag: &str, binary: &str, target: &[&str]| {
            let file = context.path().join(dockerfile).display().to_string();
            let from = format!("BASE={}", images.base);
            let builder = format!("BUILDER={}", images.base);
            let binary = format!("BINARY={binary}");
            let mut line = vec!["build", "-q", "-f", &file, "-t", tag];
            // A build argument the Dockerfile does not know draws a complaint.
            for argument in [&from, &builder, &binary] {
                let name = argument.split('=').next().unwrap_or_default();
                if fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("ARG {name}"))) {
                    line.extend(["--build-arg", argument.as_str()]);
                }
            }
            line.extend(target);
            let here = context.path().display().to_string();
            line.push(&here);
            docker(&line);
        };
        build("nginx/Dockerfile", &images.nginit, "nginit", &[]);
        build("nginx/Dockerfile", &images.unprivileged, "nginit", &["--target", "unprivileged"]);
        build("static/Dockerfile", &images.site, "", &[]);
        build("dynamic/Dockerfile", &images.api, "dynamic/program", &[]);
        images
    })
}

/// An image on a stand-in for the official one, on the base under test: a stage of `official/Dockerfile`. The
/// machine's network, because one of them asks Debian for a package.
pub fn official(stage: &str) -> String {
    static BUILDING: Mutex<()> = Mutex::new(());
    let Images { nginit, base, .. } = images();
    let tag = format!("{}-{stage}", nginit.replace("/nginit:", "/official:"));
    let context = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/official").display().to_string();
    let arguments = [format!("BASE={base}"), format!("NGINIT={nginit}")];
    let _one = BUILDING.lock().expect("no holder panics");
    let [base, nginit] = &arguments;
    docker(&[
        "build",
        "-q",
        "--network",
        "host",
        "--build-arg",
        base,
        "--build-arg",
        nginit,
        "--target",
        stage,
        "-t",
        &tag,
        &context,
    ]);
    tag
}

/// The demo's API as a program of this machine.
pub fn dynamic() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(from_env("NGINIT_TEST_DYNAMIC", "dist/dynamic"))
}

/// The repository's Dockerfiles and what they copy, with the programs beside them.
pub fn build_context() -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let context = tempfile::tempdir().expect("a temporary directory");
    for part in ["nginx", "static", "dynamic/Dockerfile", "compose.yaml"] {
        copy(&root.join(part), &context.path().join(part));
    }
    for (variable, name) in [("NGINIT_TEST_BINARY", "nginit"), ("NGINIT_TEST_DYNAMIC", "dynamic")] {
        let program = root.join(from_env(variable, &format!("dist/{name}")));
        assert!(program.is_file(), "no program {program:?}; ./setup.sh test makes it, or name one in {variable}");
        // The directory "dynamic" is taken by the Dockerfile.
        let place = if name == "dynamic" { "dynamic/program" } else { name };
        copy(&program, &context.path().join(place));
    }
    context
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in fs::read_dir(from).expect("a directory of the repository") {
            let entry = entry.expect("an entry of it");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().expect("a file has a directory")).expect("a directory in a temporary one");
        fs::copy(from, to).unwrap_or_else(|err| panic!("copying {from:?}: {err}"));
    }
}

/// A bridge network; containers on it find one another by name. Drop the containers first.
pub struct Network {
    /// Its name.
    pub name: String,
}

impl Network {
    /// A new one.
    pub fn new() -> Self {
        let name = unique("net");
        docker(&["network", "create", &name]);
        Self { name }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        docker_any(&["network", "rm", &self.name]);
    }
}

/// A container that is removed, with its volumes, when the guard goes; its log is shown when a test failed.
pub struct Container {
    /// Its name.
    pub name: String,
}

impl Container {
    /// `docker run -d` with these arguments, which hold options, the image and the command.
    #[track_caller]
    pub fn run<S: AsRef<str>>(stem: &str, arguments: &[S]) -> Self {
        let guard = Self { name: unique(stem) };
        let mut line = vec!["run", "-d", "--name", &guard.name];
        line.extend(arguments.iter().map(AsRef::as_ref));
        docker(&line);
        guard
    }

    /// A guard for a container that somebody else starts under this name.
    pub fn named(name: String) -> Self {
        Self { name }
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        text(&docker_any(&["logs", &self.name]))
    }

    /// A field of `docker inspect`, as a Go template.
    #[track_caller]
    pub fn inspect(&self, template: &str) -> String {
        docker(&["inspect", "--format", template, &self.name])
    }

    /// Its address on its only network.
    #[track_caller]
    pub fn address(&self) -> String {
        self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    }

    /// The port of this machine that leads to one of its own.
    #[track_caller]
    pub fn port(&self, inside: u16) -> u16 {
        published(&docker(&["port", &self.name, &format!("{inside}/tcp")]))
    }

    /// Runs a shell line inside and gives its stdout.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        docker(&["exec", &self.name, "sh", "-c", line])
    }

    /// Sends a signal to PID 1.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        docker(&["kill", "-s", name, &self.name]);
    }

    /// Waits for its end and gives its status.
    #[track_caller]
    pub fn status(&self) -> i32 {
        eventually("the container ends", || (self.inspect("{{.State.Running}}") == "false").then_some(()));
        self.inspect("{{.State.ExitCode}}").parse().expect("a status is a number")
    }

    /// Waits until the log holds all of `parts`.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        eventually(&format!("the log holds {parts:?}"), || {
            let log = self.log();
            parts.iter().all(|part| log.contains(part)).then_some(())
        });
    }

    /// Waits until `path` answers 200 at `port` of this machine.
    #[track_caller]
    pub fn answers(&self, port: u16, path: &str) -> Answer {
        eventually(&format!("{} answers 200 on {path}", self.name), || get(port, path).ok().filter(|a| a.status == 200))
    }
}

impl Drop for Container {
    #[expect(clippy::print_stderr, reason = "the log of a container is what a failed test is understood by")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- docker logs {}\n{}----", self.name, self.log());
        }
        docker_any(&["rm", "-f", "-v", &self.name]);
    }
}

/// The port in what `docker port` prints.
#[track_caller]
pub fn published(listing: &str) -> u16 {
    let port = listing.lines().next().and_then(|line| line.rsplit(':').next()).and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no port in {listing:?}"))
}

/// What came back for a request.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The X-Server header, empty if there is none.
    pub server: String,
    /// The body, as long as Content-Length says if that header is there.
    pub body: String,
}

/// GET on 127.0.0.1, a connection of its own.
pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("half an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    if header("content-length").is_some_and(|length| length != body.len().to_string()) {
        return Err(cut());
    }
    Ok(Answer { status, server: header("x-server").unwrap_or_default(), body: body.to_owned() })
}

/// A directory to mount into a container, whose files are replaced in one step.
pub struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Puts a file into it, by rename.
    pub fn put(&self, name: &str, content: &str) -> PathBuf {
        let place = self.dir.path().join(name);
        let staged = self.dir.path().join(format!(".{name}"));
        fs::write(&staged, content).expect("a file in a temporary directory");
        fs::rename(&staged, &place).expect("a rename in one directory");
        place
    }

    /// The same with a file that can be executed.
    pub fn put_program(&self, name: &str, content: &str) -> PathBuf {
        let place = self.put(name, content);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("our own file");
        place
    }

    /// The value of `-v` that shows it under `inside`.
    pub fn at(&self, inside: &str) -> String {
        format!("{}:{inside}:ro", self.dir.path().display())
    }
}
