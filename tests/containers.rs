//! The images in real containers: what `docker run`, `kill`, `stop` and Compose do to nginit as PID 1.
//!
//! They need a Docker engine, an image with nginx and static programs, so plain `cargo test` leaves them out;
//! `./setup.sh test` makes all of that and runs them.

#![expect(clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[path = "containers/docker.rs"]
mod docker;
#[path = "containers/files.rs"]
mod files;
#[path = "containers/live.rs"]
mod live;
#[path = "containers/names.rs"]
mod names;
#[path = "containers/serf.rs"]
mod serf;
#[path = "containers/swarm.rs"]
mod swarm;

use docker::{
    Container, Mounted, Network, PATIENCE, docker, docker_any, eventually, get, images, official, text, unique,
};

/// Publishes a port of the container on one of 127.0.0.1 that the engine chooses.
const ANY_PORT: &str = "127.0.0.1::80";

/// A network with servers of the demo on it.
struct Servers {
    sites: Vec<Container>,
    apis: Vec<Container>,
    // Last, because a network can go only after its containers.
    network: Network,
}

fn servers(sites: usize, apis: usize) -> Servers {
    let network = Network::new();
    let start = |count: usize, stem: &str, image: &str| {
        let run = |n| {
            let host = format!("{stem}-{n}");
            Container::run(stem, &["--network", &network.name, "--hostname", &host, image])
        };
        (1..=count).map(run).collect()
    };
    let sites = start(sites, "static", &images().site);
    let apis = start(apis, "dynamic", &images().api);
    Servers { sites, apis, network }
}

impl Servers {
    fn site_list(&self) -> String {
        self.sites.iter().map(|site| site.name.clone()).collect::<Vec<_>>().join(" ")
    }

    fn api_list(&self) -> String {
        self.apis.iter().map(|api| format!("{}:8080", api.name)).collect::<Vec<_>>().join(", ")
    }

    /// nginit in front of all of them.
    fn proxy(&self, options: &[&str], image: &str, command: &[&str]) -> Container {
        let sites = format!("STATIC_BACKEND={}", self.site_list());
        let apis = format!("DYNAMIC_BACKEND={}", self.api_list());
        let mut line = vec!["--network", &self.network.name, "-e", &sites, "-e", &apis];
        line.extend(options);
        line.push(image);
        line.extend(command);
        Container::run("proxy", &line)
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn lists_in_the_environment_are_served_and_logged_with_their_server() {
    let servers = servers(2, 2);
    let proxy = servers.proxy(&["-p", ANY_PORT], &images().nginit, &[]);
    let port = proxy.port(80);
    proxy.answers(port, "/");

    let answered = |path: &str| -> Vec<String> {
        (0..8)
            .map(|_| get(port, path).expect("an answer"))
            .inspect(|a| assert_eq!(a.status, 200))
            .map(|a| a.server)
            .collect()
    };
    let sites = answered("/");
    assert!(sites.iter().all(|site| site == &sites[0]), "ip_hash keeps a client on one server: {sites:?}");
    let apis = answered("/api/student");
    assert!(apis.windows(2).all(|pair| pair[0] != pair[1]), "round robin alternates between two: {apis:?}");
    let slash = answered("/api/student/");
    assert_eq!(BTreeSet::from_iter(&slash), BTreeSet::from_iter(&apis));

    for api in &servers.apis {
        proxy.says(&["/api/student", &format!("{}:8080", api.address())]);
    }
}

/// Asks one path over and over, a connection each, until told to stop; gives who answered how often, and what went
/// wrong.
struct Load {
    stop: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<String>>>,
    thread: thread::JoinHandle<BTreeMap<String, usize>>,
}

impl Load {
    fn on(port: u16, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&faults));
        let thread = thread::spawn(move || {
            let mut answered = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                match get(port, path) {
                    Ok(answer) if answer.status == 200 => *answered.entry(answer.server).or_default() += 1,
                    other => noted.lock().expect("no holder panics").push(format!("{other:?}")),
                }
            }
            answered
        });
        Self { stop, faults, thread }
    }

    #[track_caller]
    fn end_without_a_fault(self) -> BTreeMap<String, usize> {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.thread.join().expect("the load does not panic");
        let (count, faults) = (answered.values().sum::<usize>(), self.faults.lock().expect("no holder panics"));
        assert!(faults.is_empty(), "{} requests failed, {count} did not: {faults:?}", faults.len());
        assert!(count > 3, "only {count} requests were made");
        answered
    }
}

/// The proxy on the network of `servers`, with its dynamic list in the file `dynamic` of `lists`.
fn proxy_with_list(servers: &Servers, lists: &Mounted) -> Container {
    Container::run(
        "proxy",
        &[
            "--network",
            &servers.network.name,
            "-v",
            &lists.at("/lists"),
            "-e",
            &format!("STATIC_BACKEND={}", servers.site_list()),
            "-e",
            "DYNAMIC_BACKEND_FILE=/lists/dynamic",
            "-p",
            ANY_PORT,
            &images().nginit,
        ],
    )
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn hup_switches_servers_and_loses_no_request() {
    let servers = servers(1, 2);
    let lists = Mounted::new();
    let entry = |n: usize| format!("{}:8080\n", servers.apis[n].name);
    lists.put("dynamic", &entry(0));
    let proxy = proxy_with_list(&servers, &lists);
    let port = proxy.port(80);
    assert_eq!(proxy.answers(port, "/api/student").server, "dynamic-1:8080");

    let load = Load::on(port, "/api/student");
    for turn in 1..=6 {
        let now = turn % 2;
        lists.put("dynamic", &entry(now));
        proxy.signal("HUP");
        let name = format!("dynamic-{}:8080", now + 1);
        eventually(&format!("{name} answers"), || get(port, "/api/student").ok().filter(|a| a.server == name));
    }
    load.end_without_a_fault();
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn hup_with_a_bad_list_keeps_the_servers_and_says_why() {
    let servers = servers(1, 1);
    let lists = Mounted::new();
    lists.put("dynamic", &servers.api_list());
    let proxy = proxy_with_list(&servers, &lists);
    let port = proxy.port(80);
    proxy.answers(port, "/api/student");
    let files = "cd /etc/nginx/conf.d && find . -type f | sort && cat ./*.conf && stat -c %i default.conf";
    let before = proxy.sh(files);

    lists.put("dynamic", "web:99999");
    proxy.signal("HUP");
    proxy.says(&["DYNAMIC_BACKEND", "web:99999"]);
    assert_eq!(get(port, "/api/student").expect("an answer").server, "dynamic-1:8080");
    assert_eq!(proxy.sh(files), before, "nothing on disk was touched");

    // And the way back is open.
    lists.put("dynamic", &format!("{} # mended", servers.api_list()));
    proxy.signal("HUP");
    assert_eq!(proxy.answers(port, "/api/student").status, 200);
}

/// Ends the proxy with `end` while a request of three seconds is on its way, which must be answered, and gives the
/// status of the container.
fn end_during_a_request(image: &str, inside: u16, end: impl FnOnce(&Container)) -> i32 {
    let servers = servers(1, 1);
    let proxy = servers.proxy(&["-p", &format!("127.0.0.1::{inside}")], image, &[]);
    let port = proxy.port(inside);
    proxy.answers(port, "/");
    let request = thread::spawn(move || get(port, "/api/student?delay_ms=3000"));
    // The kernel's table of the proxy has a connection to port 8080 (1F90) that is established (01).
    eventually("the request is with the server", || proxy.sh("cat /proc/net/tcp").contains(":1F90 01").then_some(()));
    let began = Instant::now();
    end(&proxy);
    let status = proxy.status();
    let answer = request.join().expect("no panic").expect("the request is answered");
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with(']'), "the whole of it: {}", answer.body);
    assert!(began.elapsed() < Duration::from_secs(9), "it ends when the request is answered, not when time is up");
    status
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn docker_stop_lets_a_request_finish_and_the_status_is_0() {
    let stop = |proxy: &Container| drop(docker(&["stop", &proxy.name]));
    assert_eq!(end_during_a_request(&images().nginit, 80, stop), 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn docker_stop_lets_a_request_finish_without_root() {
    let stop = |proxy: &Container| drop(docker(&["stop", &proxy.name]));
    assert_eq!(end_during_a_request(&images().unprivileged, 8080, stop), 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn docker_kill_with_term_lets_a_request_finish() {
    assert_eq!(end_during_a_request(&images().nginit, 80, |proxy| proxy.signal("TERM")), 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn docker_kill_with_quit_lets_a_request_finish() {
    assert_eq!(end_during_a_request(&images().nginit, 80, |proxy| proxy.signal("QUIT")), 0);
}

/// The unprivileged image with these options serves, reloads and stops.
fn serves_without_root(options: &[&str]) {
    let servers = servers(1, 1);
    let mut line = vec!["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-p", "127.0.0.1::8080"];
    line.extend(options);
    let proxy = servers.proxy(&line, &images().unprivileged, &[]);
    let port = proxy.port(8080);
    proxy.answers(port, "/");
    proxy.answers(port, "/api/student");
    assert_eq!(proxy.sh("id -u"), "101");
    proxy.signal("HUP");
    docker(&["exec", &proxy.name, "nginit", "healthcheck"]);
    docker(&["stop", &proxy.name]);
    assert_eq!(proxy.status(), 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn read_only_without_root_and_capabilities_serves() {
    serves_without_root(&["--read-only"]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn read_only_with_run_in_memory_serves() {
    serves_without_root(&["--read-only", "--tmpfs", "/run"]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn read_only_with_an_empty_directory_in_memory_serves() {
    serves_without_root(&["--read-only", "--tmpfs", "/run/nginit"]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn any_other_user_serves_too() {
    let servers = servers(1, 1);
    for memory in [&[][..], &["--tmpfs", "/run/nginit"]] {
        let mut line = vec!["--user", "4711:4711", "--read-only", "--cap-drop", "ALL", "-p", "127.0.0.1::8080"];
        line.extend(memory);
        let proxy = servers.proxy(&line, &images().unprivileged, &[]);
        proxy.answers(proxy.port(8080), "/");
        assert_eq!(proxy.sh("id -u"), "4711");
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn workers_of_a_root_nginx_cannot_write_its_configuration() {
    let proxy = Container::run("root", &["-e", "STATIC_BACKEND=192.0.2.1", &images().nginit]);
    proxy.says(&["start worker process"]);
    let uids = proxy.sh("cat /proc/[0-9]*/status | grep ^Uid: | cut -f2 | sort -u");
    assert!(uids.lines().count() > 1, "master and workers are different users: {uids}");
    let places = "/run/nginit /run/nginit/conf.d /etc/nginx/conf.d /etc/nginx/conf.d/default.conf";
    assert_eq!(
        proxy.sh(&format!("stat -c '%u %A' {places}")),
        "0 drwxr-xr-x\n0 drwxr-xr-x\n0 drwxr-xr-x\n0 -rw-r--r--"
    );
}

/// Runs to the end in the foreground; gives status and both outputs.
fn run_to_end(arguments: &[&str]) -> (i32, String) {
    let (status, out, err) = run_apart(arguments);
    (status, out + &err)
}

/// The same with the outputs apart.
fn run_apart(arguments: &[&str]) -> (i32, String, String) {
    let mut line = vec!["run", "--rm"];
    line.extend(arguments);
    let output = docker_any(&line);
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code().expect("docker ends by itself"), out, err)
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn bad_environment_is_64_with_a_line_per_fault() {
    let environment = ["-e", "STATIC_BACKEND=web:99999 10.0.0.1;weight=x", "-e", "NGINIT_STOP_TIMEOUT=soon"];
    let mut line = environment.to_vec();
    line.push(&images().nginit);
    let (status, output) = run_to_end(&line);
    assert_eq!(status, 64, "{output}");
    for (variable, token) in
        [("STATIC_BACKEND", "web:99999"), ("STATIC_BACKEND", "weight=x"), ("NGINIT_STOP_TIMEOUT", "soon")]
    {
        let said = output.lines().any(|line| line.contains(variable) && line.contains(token));
        assert!(said, "no line about {token:?} of {variable:?} in:\n{output}");
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_command_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let (status, output) = run_to_end(&[&images().nginit, "nosuchprogram"]);
    assert_eq!(status, 127, "{output}");
    assert!(output.contains("nosuchprogram"), "{output}");
    let (status, output) = run_to_end(&[&images().nginit, "/etc/passwd"]);
    assert_eq!(status, 126, "{output}");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn another_command_keeps_its_output_and_status() {
    let (status, out, err) = run_apart(&[&images().nginit, "sh", "-c", "echo out; exit 7"]);
    assert_eq!((status, out.as_str()), (7, "out\n"), "{err}");
    let (status, output) = run_to_end(&[&images().nginit, "sh", "-c", "kill -TERM $$"]);
    assert_eq!(status, 143, "{output}");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn docker_stop_ends_another_command_at_once() {
    let container = Container::run("sleep", &[&images().nginit, "sleep", "1000"]);
    eventually("sleep runs", || container.sh("cat /proc/[0-9]*/comm").contains("sleep").then_some(()));
    let began = Instant::now();
    docker(&["stop", &container.name]);
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert_eq!(container.status(), 143);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_read_only_root_without_a_place_to_write_is_said_in_one_line() {
    let (status, output) = run_to_end(&["--read-only", "-e", "STATIC_BACKEND=192.0.2.1", &images().nginit]);
    assert_ne!(status, 0, "{output}");
    assert!(output.lines().any(|line| line.contains("NGINIT_CONF_DIR")), "{output}");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_port_in_use_gives_the_message_and_status_of_nginx() {
    let first = Container::run("first", &["-e", "STATIC_BACKEND=192.0.2.1", &images().nginit]);
    first.says(&["start worker process"]);
    let network = format!("container:{}", first.name);
    let (status, output) = run_to_end(&["--network", &network, "-e", "STATIC_BACKEND=192.0.2.1", &images().nginit]);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("bind() to 0.0.0.0:80 failed (98: "), "{output}");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn the_death_of_nginx_is_the_containers() {
    let container = Container::run("dies", &["-e", "STATIC_BACKEND=192.0.2.1", &images().nginit]);
    container.says(&["start worker process"]);
    container.sh("kill -KILL $(cat /run/nginit/nginx.pid)");
    assert_eq!(container.status(), 137);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn orphans_of_an_exec_are_reaped() {
    let container = Container::run("reaper", &["-e", "STATIC_BACKEND=192.0.2.1", &images().nginit]);
    container.says(&["start worker process"]);
    // Each subshell ends at once, and its sleep becomes a child of PID 1.
    container.sh("for n in 1 2 3 4 5 6 7 8 9 10; do (sleep 2 >/dev/null 2>&1 &) ; done");
    // "PID (sleep) STATE PARENT ..."
    let orphans = || {
        let table = container.sh("cat /proc/[0-9]*/stat 2>/dev/null || true");
        table.lines().filter(|line| line.contains("(sleep)")).map(str::to_owned).collect::<Vec<_>>()
    };
    let born = orphans();
    let adopted = born.iter().filter(|line| line.contains("(sleep) S 1 ")).count();
    assert_eq!(adopted, 10, "all ten belong to PID 1: {born:?}");
    eventually("none is left, neither asleep nor a zombie", || orphans().is_empty().then_some(()));
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn healthcheck_turns_healthy() {
    for image in [&images().nginit, &images().unprivileged] {
        let container = Container::run("healthy", &["-e", "STATIC_BACKEND=192.0.2.1", image]);
        eventually("healthy", || (container.inspect("{{.State.Health.Status}}") == "healthy").then_some(()));
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn render_prints_what_a_container_would_serve() {
    let (status, output) = run_to_end(&["-e", "STATIC_BACKEND=192.0.2.1:81", &images().nginit, "render"]);
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("server 192.0.2.1:81"), "{output}");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_script_that_ends_by_execing_nginx_works_as_the_command() {
    let servers = servers(1, 1);
    let scripts = Mounted::new();
    let script = scripts.put_program("entrypoint.sh", "#!/bin/sh\necho \"stand-in: $# words\"\nexec \"$@\"\n");
    let mount = format!("{}:/docker-entrypoint.sh:ro", script.display());
    let proxy = servers.proxy(
        &["-v", &mount, "-p", ANY_PORT],
        &images().nginit,
        &["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"],
    );
    let port = proxy.port(80);
    proxy.answers(port, "/");
    proxy.answers(port, "/api/student");
    proxy.says(&["stand-in: 3 words"]);
    docker(&["stop", &proxy.name]);
    assert_eq!(proxy.status(), 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn an_image_of_the_users_own_works_with_the_stock_nginx_conf() {
    let servers = servers(1, 1);
    let context = tempfile::tempdir().expect("a temporary directory");
    let dockerfile = format!(
        "FROM {}\n\
         COPY --from={} /usr/local/bin/nginit /usr/local/bin/\n\
         RUN rm -f /etc/nginx/sites-enabled/default\n\
         ENTRYPOINT [\"nginit\"]\n\
         CMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
        images().base,
        images().nginit
    );
    fs::write(context.path().join("Dockerfile"), dockerfile).expect("a file in a temporary directory");
    let image = format!("nginit-test/own:{}", unique("own"));
    docker(&["build", "-q", "-t", &image, &context.path().display().to_string()]);
    {
        let proxy = servers.proxy(&["-p", ANY_PORT], &image, &[]);
        let port = proxy.port(80);
        proxy.answers(port, "/");
        assert_eq!(proxy.answers(port, "/api/student").server, "dynamic-1:8080");
        proxy.says(&[&format!("{}:8080", servers.apis[0].address())]);
    }
    docker(&["rmi", &image]);
}

/// A server of a user's own on port 8081, as a template of the official image's.
const OWN_TEMPLATE: &str = "server { listen 8081; server_name ${APP_NAME}.test; root /usr/share/nginx/html;\n\
    resolver ${NGINX_LOCAL_RESOLVERS}; location = /own { return 200 \"${APP_NAME} $uri ${APP_SCRIPT}\"; } }\n";

/// The options that mount a template of a user's own and a script that sets a variable for it.
fn own_template(mounted: &Mounted) -> Vec<String> {
    let template = mounted.put("own.conf.template", OWN_TEMPLATE);
    let script = mounted.put_program("05-own.envsh", "export APP_SCRIPT=scripted\n");
    let options = [
        format!("{}:/etc/nginx/templates/own.conf.template:ro", template.display()),
        format!("{}:/docker-entrypoint.d/05-own.envsh:ro", script.display()),
    ];
    let variables =
        ["APP_NAME=shop", "NGINX_ENTRYPOINT_LOCAL_RESOLVERS=1", "uri=not-this", "STATIC_BACKEND=127.0.0.1:8081"];
    let filter = "NGINX_ENVSUBST_FILTER=^(APP|NGINX)_".to_owned();
    let variables = variables.map(str::to_owned).into_iter().chain([filter]).flat_map(|v| ["-e".to_owned(), v]);
    options.into_iter().flat_map(|o| ["-v".to_owned(), o]).chain(variables).collect()
}

/// Runs the image with a template of a user's own: both servers serve, a reload works, and so does check.
fn serves_beside_a_template(image: &str, inside: u16, options: &[&str]) -> (Container, Mounted) {
    let mounted = Mounted::new();
    let published = format!("127.0.0.1::{inside}");
    let own = own_template(&mounted);
    let mut line = vec!["-p", published.as_str(), "-p", "127.0.0.1::8081"];
    line.extend(options.iter().copied().chain(own.iter().map(String::as_str)).chain([image]));
    let container = Container::run("official", &line);
    let (port, own) = (container.port(inside), container.port(8081));
    assert_eq!(container.answers(own, "/own").body, "shop /own scripted");
    assert_eq!(container.answers(port, "/own").body, "shop /own scripted", "through nginit's server");
    assert_eq!(container.answers(port, "/").body, "stock page\n", "static files of a server of the user's own");
    container.says(&["generation 1 answers"]);
    let nginit = |arguments: &[&str]| docker(&[&["exec", &container.name, "nginit"], arguments].concat());
    assert!(nginit(&["check"]).contains("accepts the configuration"));
    nginit(&["healthcheck"]);
    container.signal("HUP");
    container.says(&["asks for a reload"]);
    container.answers(port, "/own");
    let log = container.log();
    assert!(!log.contains("nginit error") && !log.contains("nginit warn"), "{log}");
    (container, mounted)
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn the_official_entrypoints_scripts_and_templates_work_beside_ours() {
    let tune = ["-e", "NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE=1"];
    let (container, _mounted) = serves_beside_a_template(&official("own"), 80, &tune);
    container.says(&[
        "entrypoint: is done",
        "default.conf is not the stock one",
        "kept as /etc/nginx/conf.d/.nginit/kept/",
    ]);
    let stock =
        container.sh("cmp /etc/nginx/conf.d/.nginit/kept/default.conf /usr/share/stock-default.conf && echo same");
    assert_eq!(stock, "same", "the file that nginit's replaces is not lost");
    assert!(container.sh("cat /etc/nginx/conf.d/own.conf").contains("shop.test"));
    assert!(container.sh("grep ^worker_processes /etc/nginx/nginx.conf") != "worker_processes  auto;");
    let wait = || docker(&["exec", &container.name, "nginit", "reload", "--wait"]);
    assert!(wait().contains("generation"));
    docker(&["restart", &container.name]);
    let port = container.port(80);
    assert_eq!(container.answers(port, "/own").body, "shop /own scripted", "after a restart, too");
    docker(&["stop", &container.name]);
    assert_eq!(container.status(), 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn the_official_entrypoint_works_on_a_read_only_root() {
    let memory = ["--read-only", "--tmpfs", "/etc/nginx/conf.d", "--tmpfs", "/run", "--tmpfs", "/var/lib/nginx"];
    let tune = ["-e", "NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE=1"];
    let (container, _mounted) = serves_beside_a_template(&official("own"), 80, &[&memory[..], &tune].concat());
    container.says(&["30-tune: ERROR: /etc/nginx/nginx.conf cannot be written"]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn the_official_entrypoint_works_without_root() {
    let options = ["--cap-drop", "ALL", "-e", "NGINIT_LISTEN=8080", "-e", "NGINIT_CONTROL=/tmp/nginit.sock"];
    let (container, _mounted) = serves_beside_a_template(&official("unprivileged"), 8080, &options);
    assert_eq!(container.sh("id -u"), "101");
    docker(&["exec", &container.name, "nginit", "reload", "--wait"]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn nginx_debug_and_a_quiet_entrypoint_work() {
    let command = ["/docker-entrypoint.sh", "nginx-debug", "-g", "daemon off;"];
    let image = official("own");
    let line = ["-e", "NGINX_ENTRYPOINT_QUIET_LOGS=1", "-e", "STATIC_BACKEND=192.0.2.1", "-p", ANY_PORT, &image];
    let container = Container::run("debug", &[&line[..], &command].concat());
    container.answers(container.port(80), "/nginit/ping");
    container.says(&["generation 1 answers"]);
    assert!(
        container.sh("tr '\\0' ' ' </proc/[0-9]*/cmdline 2>/dev/null; cat /proc/*/cmdline").contains("nginx-debug")
    );
    assert!(!container.log().contains("entrypoint:"), "{}", container.log());
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_dynamic_module_and_a_template_for_it_work() {
    let mounted = Mounted::new();
    mounted.put("tcp.conf.stream-template", "server { listen 9000; return \"HTTP/1.1 200 OK\\r\\n\\r\\n${WORD}\"; }");
    let image = official("module");
    let mount = mounted.at("/etc/nginx/templates");
    let line = ["-e", "WORD=streamed", "-v", &mount, "-p", ANY_PORT, "-p", "127.0.0.1::9000", &image];
    let container = Container::run("module", &line);
    container.answers(container.port(80), "/nginit/ping");
    let streamed = || eventually("stream answers", || get(container.port(9000), "/").ok()).body;
    assert_eq!(streamed(), "streamed");
    container.says(&["generation 1 answers"]);
    // Young files are a reason to reload, so this one tests and reloads what has the module.
    container.sh("echo '# changed' >>/etc/nginx/nginx.conf");
    let reloaded = docker(&["exec", &container.name, "nginit", "reload", "--wait"]);
    assert!(reloaded.starts_with("generation 2 is live"), "{reloaded}");
    assert_eq!(streamed(), "streamed");
    assert!(docker(&["exec", &container.name, "nginit", "check"]).contains("accepts the configuration"));
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_template_that_overwrites_nginits_file_is_told_of() {
    let mounted = Mounted::new();
    mounted.put("default.conf.template", "server { listen 80; location / { return 200 ${WORD}; } }");
    let image = official("own");
    let line = ["-e", "WORD=templated", "-v", &mounted.at("/etc/nginx/templates"), "-p", ANY_PORT, &image];
    let container = Container::run("overwritten", &line);
    assert_eq!(container.answers(container.port(80), "/").body, "templated");
    container.says(&[
        "nginit error reload: /etc/nginx/conf.d/default.conf is not nginit's any more",
        "a template default.conf.template; give that another name",
    ]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_file_that_is_mounted_where_nginits_belongs_is_refused_with_the_remedy() {
    let mounted = Mounted::new();
    let file = mounted.put("default.conf", "server { listen 80; }\n");
    let mount = format!("{}:/etc/nginx/conf.d/default.conf:ro", file.display());
    let (status, output) = run_to_end(&["-v", &mount, &official("own")]);
    assert_eq!(status, 78, "{output}");
    assert!(output.contains("is a mount of its own") && output.contains("mount it under another name"), "{output}");
}

/// `docker run -it` inside a terminal of its own; what is typed goes in, what appears is kept.
struct Terminal {
    script: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    container: Container,
}

impl Terminal {
    fn run(image: &str, command: &str) -> Self {
        let container = Container::named(unique("terminal"));
        let line = format!("exec docker run -it --name {} {image} {command}", container.name);
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux, runs");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut output, kept) = (script.stdout.take().expect("piped"), Arc::clone(&seen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                kept.lock().expect("no holder panics").extend_from_slice(&buffer[..length]);
            }
        });
        Self { script, seen, container }
    }

    fn types(&mut self, keys: &str) {
        let keyboard = self.script.stdin.as_mut().expect("piped");
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).expect("the terminal is there");
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no holder panics")).into_owned()
    }

    #[track_caller]
    fn shows(&self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.screen().contains(part) {
            assert!(Instant::now() < deadline, "no {part:?} on the screen:\n{}", self.screen());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end of what runs in it and gives its status.
    #[track_caller]
    fn status(&mut self) -> Option<i32> {
        let ended = eventually("the terminal's program ends", || self.script.try_wait().expect("our child"));
        ended.code()
    }

    /// Sets the size of the terminal that docker runs in, as a person pulling at a window does.
    fn resize(&self, rows: u16, columns: u16) {
        let pid = self.script.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("script lives");
        let client = children.split_whitespace().next().expect("script has a child");
        let terminal = fs::read_link(format!("/proc/{client}/fd/0")).expect("docker has a terminal");
        let size = ["rows", &rows.to_string(), "columns", &columns.to_string()].map(str::to_owned);
        let status = Command::new("stty").arg("-F").arg(&terminal).args(size).status().expect("stty runs");
        assert!(status.success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

// What is typed shows on the screen too, so every answer is a word that its command does not hold: $((40+2)) for 42.

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_shell_on_a_terminal_has_job_control() {
    let mut terminal = Terminal::run(&images().nginit, "sh");
    terminal.types("echo ready-$((40+2))\n");
    terminal.shows("ready-42");
    assert!(!terminal.screen().contains("job control turned off"), "{}", terminal.screen());
    terminal.types("sleep 1000\n");
    // Ctrl-Z reaches the program in front only once there is one.
    let asleep =
        |container: &Container| container.sh("cat /proc/[0-9]*/stat 2>/dev/null || true").contains("(sleep) S ");
    eventually("sleep is in front", || asleep(&terminal.container).then_some(()));
    terminal.types("\x1a");
    terminal.types("jobs; echo listed-$((40+2))\n");
    terminal.shows("listed-42");
    assert!(terminal.screen().contains("Stopped"), "{}", terminal.screen());
    // exec, because a shell asks twice before it leaves a stopped job alone.
    terminal.types("kill -KILL %1; exec sh -c 'exit 5'\n");
    assert_eq!(terminal.status(), Some(5), "{}", terminal.screen());
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn ctrl_c_reaches_the_program_in_front_once() {
    let mut terminal = Terminal::run(&images().nginit, "sh");
    terminal.types("(trap 'echo got-$((40+2))' INT; echo set-$((40+2)); n=0; ");
    terminal.types("while [ $n -lt 20 ]; do sleep 0.1; n=$((n+1)); done; echo end-$((40+2)))\n");
    terminal.shows("set-42");
    terminal.types("\x03");
    terminal.shows("end-42");
    terminal.types("echo alive-$((40+2))\n");
    terminal.shows("alive-42");
    assert_eq!(terminal.screen().matches("got-42").count(), 1, "{}", terminal.screen());
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn ctrl_c_ends_nginx_and_the_container() {
    let mut terminal = Terminal::run(&format!("-e STATIC_BACKEND=192.0.2.1 {}", images().nginit), "");
    terminal.shows("start worker process");
    terminal.types("\x03");
    assert_eq!(terminal.status(), Some(0), "{}", terminal.screen());
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn the_size_of_the_terminal_follows_and_is_signalled() {
    let mut terminal = Terminal::run(&images().nginit, "sh");
    terminal.types("trap 'echo winch-$((40+2))' WINCH; echo ready-$((40+2))\n");
    terminal.shows("ready-42");
    terminal.resize(41, 99);
    terminal.types("while [ \"$(stty size)\" != '41 99' ]; do sleep 0.1; done; echo size-$((40+2))\n");
    terminal.shows("size-42");
    terminal.shows("winch-42");
}

/// A Compose project that goes away with its guard.
struct Project {
    name: String,
    context: tempfile::TempDir,
}

impl Project {
    fn compose(&self, arguments: &[&str]) -> String {
        let plugin = docker_any(&["compose", "version"]).status.success();
        let mut command = Command::new(if plugin { "docker" } else { "docker-compose" });
        if plugin {
            command.arg("compose");
        }
        command.args(["-p", &self.name, "-f", "compose.yaml", "-f", "tests.yaml"]).args(arguments);
        command.current_dir(self.context.path());
        // "127.0.0.1:" before ":80" asks for any port of that address.
        command.env("PORT", "127.0.0.1:").env("BASE", &images().base).env("BUILDER", &images().base);
        command.env("BINARY", "nginit").env("BINARY_DYNAMIC", "dynamic/program");
        let output = command.output().unwrap_or_else(|err| panic!("Compose cannot be run: {err}"));
        assert!(output.status.success(), "compose {arguments:?}: {}\n{}", output.status, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn containers(&self, service: &str) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        docker(&["ps", "-q", "--filter", &project, "--filter", &service]).lines().map(str::to_owned).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        self.compose(&["down", "-v", "--remove-orphans"]);
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn compose_scales_both_services_and_all_of_them_are_found() {
    let project = Project { name: unique("compose"), context: docker::build_context() };
    // The file as it is, but with images of our own names, so that a demo's stay as they are.
    let ours = format!(
        "services:\n  static:\n    image: {}\n  dynamic:\n    image: {}\n  proxy:\n    image: {}\n",
        images().site,
        images().api,
        images().nginit
    );
    fs::write(project.context.path().join("tests.yaml"), ours).expect("a file in a temporary directory");
    project.compose(&["up", "-d", "--build", "--scale", "static=2", "--scale", "dynamic=3"]);

    let (sites, apis) = (project.containers("static"), project.containers("dynamic"));
    assert_eq!((sites.len(), apis.len()), (2, 3));
    let proxies = project.containers("proxy");
    let port = docker::published(&docker(&["port", &proxies[0], "80/tcp"]));
    eventually("the page answers", || get(port, "/").ok().filter(|answer| answer.status == 200));
    let answered: BTreeSet<_> = (0..9).map(|_| get(port, "/api/student").expect("an answer").server).collect();
    assert_eq!(answered.len(), 3, "all three answer: {answered:?}");

    // A client is kept on one static server, so that both are there shows in the list.
    let listed = docker(&["exec", &proxies[0], "nginit", "list"]);
    for id in sites.iter().chain(&apis) {
        let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = docker(&["inspect", "--format", template, id]);
        assert!(listed.contains(&format!("{address}:")), "{address} is missing:\n{listed}");
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn commands_reach_the_running_nginit_with_and_without_root() {
    let servers = servers(1, 1);
    let bare = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-p", "127.0.0.1::8080"];
    for (image, port, options) in
        [(&images().nginit, 80, &["-p", ANY_PORT][..]), (&images().unprivileged, 8080, &bare[..])]
    {
        let proxy = servers.proxy(options, image, &[]);
        proxy.answers(proxy.port(port), "/");
        eventually("commands are served", || {
            docker_any(&["exec", &proxy.name, "nginit", "status"]).status.success().then_some(())
        });
        // Whatever it finds, it ends well: nothing has changed, or a first look at the files was not possible.
        docker(&["exec", &proxy.name, "nginit", "reload", "--wait"]);
        let status = docker(&["exec", &proxy.name, "nginit", "status", "--json"]);
        assert!(status.contains("\"state\":\"running\"") && status.contains("\"static_backend\""), "{status}");
        assert_eq!(docker_any(&["exec", &proxy.name, "nginit", "nginx", "-t"]).status.code(), Some(78));
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_container_that_starts_with_a_bad_list_serves_what_was_live_last() {
    let servers = servers(1, 1);
    let lists = Mounted::new();
    lists.put("dynamic", &servers.api_list());
    let volume = unique("conf");
    docker(&["volume", "create", &volume]);
    let start = || {
        let mount = format!("{volume}:/run/nginit/conf.d");
        let options = ["-v", &mount, "-v", &lists.at("/lists"), "-e", "NGINIT_CONF_DIR=/run/nginit/conf.d"];
        let more = ["-e", "NGINIT_START=last-good", "-e", "DYNAMIC_BACKEND_FILE=/lists/dynamic", "-p", ANY_PORT];
        let network = ["--network", &servers.network.name, &images().nginit];
        Container::run("proxy", &[&options[..], &more, &network].concat())
    };
    let first = start();
    first.answers(first.port(80), "/api/student");
    docker(&["stop", &first.name]);
    drop(first);

    lists.put("dynamic", "web:99999");
    let second = start();
    assert_eq!(second.answers(second.port(80), "/api/student").server, "dynamic-1:8080");
    second.says(&["NGINIT_START=last-good serves what was live last", "web:99999"]);
    docker(&["stop", &second.name]);
    drop(second);
    docker(&["volume", "rm", &volume]);
}
