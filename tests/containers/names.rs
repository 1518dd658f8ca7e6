//! Names of Docker's DNS whose containers come and go, under a load that must not lose a request, and nobody types
//! a signal.

use std::collections::BTreeSet;
use std::fs;

use nginit::admin::{Listing, ServerState};

use crate::docker::{
    Container, Network, build_context, docker, docker_any, eventually, get, images, published, text, unique,
};
use crate::{ANY_PORT, Load, Project};

/// Clients of the API: some ask as fast as they can, and some are always in the middle of a request.
pub struct Crowd(Vec<Load>);

impl Crowd {
    /// At this port of the proxy.
    pub fn on(port: u16) -> Self {
        let paths = ["/api/student", "/api/student?delay_ms=20", "/api/student?delay_ms=300"];
        Self(paths.iter().map(|path| Load::on(port, path)).collect())
    }

    /// Gives who answered.
    #[track_caller]
    pub fn ends_without_a_fault(self) -> BTreeSet<String> {
        self.0.into_iter().flat_map(|load| load.end_without_a_fault().into_keys()).collect()
    }
}

/// The servers of the API that the proxy has now, as `ADDRESS:PORT`: nginit knows them, its files need not.
fn configured(proxy: &str) -> BTreeSet<String> {
    // At first nobody answers.
    let list = text(&docker_any(&["exec", proxy, "nginit", "list", "dynamic", "--json"]));
    let list = serde_json::from_str::<Listing>(&list).unwrap_or_default();
    let servers = list.upstreams.into_iter().flat_map(|upstream| upstream.servers);
    servers.filter(|server| server.state == ServerState::Up).map(|server| server.address).collect()
}

/// Who answers, in as many requests as it takes for all of `count` to have been asked for sure.
fn answering(port: u16, count: usize) -> BTreeSet<String> {
    (0..4 * count).filter_map(|_| get(port, "/api/student").ok()).map(|answer| answer.server).collect()
}

/// Waits until the proxy has exactly these servers, and until exactly they answer: the name of a server is that of
/// its container's host.
#[track_caller]
pub fn serve(proxy: &str, port: u16, servers: &[(String, String)]) {
    let addresses: BTreeSet<String> = servers.iter().map(|(_, address)| format!("{address}:8080")).collect();
    let hosts: BTreeSet<String> = servers.iter().map(|(host, _)| format!("{host}:8080")).collect();
    eventually(&format!("{proxy} has {addresses:?}"), || (configured(proxy) == addresses).then_some(()));
    // Old workers may still take a connection; a server that failed is asked again after its ten seconds.
    eventually(&format!("{hosts:?} answer"), || (answering(port, hosts.len()) == hosts).then_some(()));
}

/// The name of a container's host, and its address on the network; nothing if it is gone.
pub fn host(id: &str, network: &str) -> Option<(String, String)> {
    let template =
        format!("{{{{.Config.Hostname}}}} {{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    let output = docker_any(&["inspect", "--format", &template, id]);
    let line = text(&output);
    let (host, address) = line.trim().split_once(' ').filter(|_| output.status.success())?;
    Some((host.to_owned(), address.to_owned()))
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_service_that_compose_scales_up_and_down_is_followed_and_loses_no_request() {
    let project = Project { name: unique("scale"), context: build_context() };
    let (api, nginit, site) = (&images().api, &images().nginit, &images().site);
    let ours = format!(
        "services: {{static: {{image: '{site}'}}, dynamic: {{image: '{api}'}}, proxy: {{image: '{nginit}'}}}}\n"
    );
    fs::write(project.context.path().join("tests.yaml"), ours).expect("a file in a temporary directory");
    let scale = |count: u8| {
        let scale = format!("dynamic={count}");
        project.compose(&["up", "-d", "--no-build", "--no-recreate", "--scale", &scale]);
    };
    let network = format!("{}_default", project.name);
    let hosts = || -> Vec<_> { project.containers("dynamic").iter().filter_map(|id| host(id, &network)).collect() };
    scale(2);
    let proxy = project.containers("proxy").remove(0);
    let port = published(&docker(&["port", &proxy, "80/tcp"]));
    serve(&proxy, port, &hosts());

    let crowd = Crowd::on(port);
    scale(5);
    assert_eq!(hosts().len(), 5);
    serve(&proxy, port, &hosts());
    scale(2);
    assert_eq!(hosts().len(), 2);
    serve(&proxy, port, &hosts());
    crowd.ends_without_a_fault();
}

/// A network whose addresses are the test's to give: its name, and the start of its addresses.
fn addressed() -> (Network, String) {
    // Those of networks that are there are refused.
    let name = unique("net");
    let take = |n: u8| {
        let start = format!("10.213.{n}.");
        let subnet = format!("{start}0/24");
        docker_any(&["network", "create", "--subnet", &subnet, &name]).status.success().then_some(start)
    };
    let start = (0..=255).find_map(take).expect("one of 256 networks is free");
    (Network { name }, start)
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_container_that_moves_is_followed_and_who_gets_its_address_is_not_asked() {
    let (network, start) = addressed();
    let run = |alias: &str, host: &str, last: u8| {
        let address = format!("{start}{last}");
        let line = ["--network", &network.name, "--network-alias", alias, "--ip", &address, "--hostname", host];
        Container::run(host, &[&line[..], &[&images().api]].concat())
    };
    let hosts = |all: &[(&str, u8)]| -> Vec<_> {
        all.iter().map(|(host, last)| ((*host).to_owned(), format!("{start}{last}"))).collect()
    };
    let _stays = run("api", "stays", 10);
    let moves = run("api", "moves", 11);
    let line = ["--network", &network.name, "-e", "DYNAMIC_BACKEND=api:8080", "-e", "STATIC_BACKEND=api:8080"];
    let proxy = Container::run("proxy", &[&line[..], &["-p", ANY_PORT, &images().nginit]].concat());
    let port = proxy.port(80);
    serve(&proxy.name, port, &hosts(&[("stays", 10), ("moves", 11)]));

    let crowd = Crowd::on(port);
    docker(&["stop", &moves.name]);
    drop(moves);
    serve(&proxy.name, port, &hosts(&[("stays", 10)]));
    let _other = run("other", "other", 11);
    let moved = run("api", "moved", 12);
    serve(&proxy.name, port, &hosts(&[("stays", 10), ("moved", 12)]));
    // Away for a moment, and back at the address that it had.
    docker(&["restart", &moved.name]);
    serve(&proxy.name, port, &hosts(&[("stays", 10), ("moved", 12)]));
    let answered = crowd.ends_without_a_fault();
    assert_eq!(answered, ["moved:8080", "moves:8080", "stays:8080"].map(str::to_owned).into());
}
