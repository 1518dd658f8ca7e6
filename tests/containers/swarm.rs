//! A service of Docker's Swarm, whose tasks come and go under a load that must not lose a request.
//!
//! This one runs alone: an engine that leaves its swarm forgets the names of all containers that run at that time
//! (`cleanupServiceDiscovery` in libnetwork).

use std::thread;
use std::time::{Duration, Instant};

use crate::ANY_PORT;
use crate::docker::{Container, PATIENCE, docker, docker_any, eventually, images, unique};
use crate::names::{Crowd, host, serve};

/// A swarm of this engine's own; one that is there already is used and stays.
struct Swarm {
    ours: bool,
    /// The network that the engine makes for it was there before.
    bridged: bool,
}

/// What an engine makes when it enters a swarm, and keeps when it leaves.
const BRIDGE: &str = "docker_gwbridge";

impl Swarm {
    fn join() -> Self {
        let active = docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]) == "active";
        let bridged = docker_any(&["network", "inspect", BRIDGE]).status.success();
        if !active {
            docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377"]);
        }
        Self { ours: !active, bridged }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if self.ours {
            docker_any(&["swarm", "leave", "--force"]);
            if !self.bridged {
                docker_any(&["network", "rm", BRIDGE]);
            }
        }
    }
}

/// A service of the swarm, on an overlay network; both go with the value.
struct Service {
    name: String,
    network: String,
    // Last: it must be there until both are gone.
    _swarm: Swarm,
}

impl Service {
    /// Two servers of the demo's API. A new one is there before an old one is stopped.
    fn start() -> Self {
        let service = Self { name: unique("service"), network: unique("overlay"), _swarm: Swarm::join() };
        docker(&["network", "create", "-d", "overlay", "--attachable", &service.network]);
        let line = ["service", "create", "-d", "--no-resolve-image", "--name", &service.name, "--network"];
        let more = [&service.network, "--replicas", "2", "--update-order", "start-first", "--update-delay", "1s"];
        docker(&[&line[..], &more, &["--update-monitor", "1s", "--hostname", "{{.Task.ID}}", &images().api]].concat());
        service
    }

    /// Its containers that run: the name of each host and its address.
    fn hosts(&self) -> Vec<(String, String)> {
        let ids = docker(&["ps", "-q", "--filter", &format!("label=com.docker.swarm.service.name={}", self.name)]);
        ids.lines().filter_map(|id| host(id, &self.network)).collect()
    }

    /// Waits until that many run, none of them one of `but`, and gives them.
    #[track_caller]
    fn has(&self, count: usize, but: &[(String, String)]) -> Vec<(String, String)> {
        eventually(&format!("{count} tasks run"), || {
            let hosts = self.hosts();
            (hosts.len() == count && hosts.iter().all(|host| !but.contains(host))).then_some(hosts)
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        docker_any(&["service", "rm", &self.name]);
        // Its containers hold the network for some moments. No panic in here: a test may have failed.
        let deadline = Instant::now() + PATIENCE;
        while !docker_any(&["network", "rm", &self.network]).status.success() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn the_tasks_of_a_service_that_is_scaled_and_rolled_are_followed_and_lose_no_request() {
    let service = Service::start();
    let list = format!("DYNAMIC_BACKEND=tasks.{}:8080", service.name);
    let line = ["--network", &service.network, "-e", &list, "-e", "STATIC_BACKEND=127.0.0.1:1", "-p", ANY_PORT];
    let before = service.has(2, &[]);
    let proxy = Container::run("proxy", &[&line[..], &[&images().nginit]].concat());
    let port = proxy.port(80);
    serve(&proxy.name, port, &before);

    let crowd = Crowd::on(port);
    let scale = |count: usize| {
        docker(&["service", "scale", "-d", &format!("{}={count}", service.name)]);
        serve(&proxy.name, port, &service.has(count, &[]));
    };
    scale(5);
    scale(2);
    let before = service.hosts();
    docker(&["service", "update", "-d", "--force", "--no-resolve-image", &service.name]);
    serve(&proxy.name, port, &service.has(2, &before));
    crowd.ends_without_a_fault();
}
