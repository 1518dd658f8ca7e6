//! Servers that nginx follows without a reload: on 1.30 by default, with whatever a container is not allowed.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use nginit::admin::{Listing, Status};

use crate::docker::{
    Container, Network, build_context, docker, docker_any, eventually, get, images, published, text, unique,
};
use crate::names::{Crowd, host, serve};
use crate::{ANY_PORT, Project};

/// What a command of nginit's prints as JSON in a container.
#[track_caller]
fn json<T: serde::de::DeserializeOwned>(proxy: &str, words: &[&str]) -> T {
    let line = [&["exec", proxy, "nginit"], words, &["--json"]].concat();
    eventually(&format!("{words:?} is answered"), || {
        let printed = docker_any(&line);
        printed.status.success().then(|| text(&printed)).and_then(|text| serde_json::from_str(&text).ok())
    })
}

/// Whether nginx follows the servers of the API without a reload, which no nginx before 1.27.3 can.
#[track_caller]
fn follows(proxy: &str) -> bool {
    let listing: Listing = json(proxy, &["list", "dynamic"]);
    let reload = &listing.upstreams[0].reload;
    assert!(reload.is_none() || images().base.contains("1.22"), "{reload:?}");
    reload.is_none()
}

/// The generation that is live, and the workers, which are others after a reload.
#[track_caller]
fn standing(proxy: &str) -> (u64, String) {
    let status: Status = json(proxy, &["status"]);
    let master = status.nginx.pid;
    let children = format!("cat /proc/{master}/task/{master}/children");
    (status.generation, docker(&["exec", proxy, "sh", "-c", &children]))
}

/// Servers of the demo's API under one name of the network.
fn api(network: &Network, host: &str) -> Container {
    let line = ["--network", &network.name, "--network-alias", "api", "--hostname", host, &images().api];
    Container::run(host, &line)
}

/// The host of a server and its address.
fn both(api: &Container, host: &str) -> (String, String) {
    (host.to_owned(), api.address())
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_service_that_is_scaled_keeps_its_nginx_as_it_is_and_loses_no_request() {
    let project = Project { name: unique("live"), context: build_context() };
    let (api, nginit, site) = (&images().api, &images().nginit, &images().site);
    let ours = format!(
        "services: {{static: {{image: '{site}'}}, dynamic: {{image: '{api}'}}, proxy: {{image: '{nginit}'}}}}\n"
    );
    fs::write(project.context.path().join("tests.yaml"), ours).expect("a file in a temporary directory");
    let network = format!("{}_default", project.name);
    let hosts = || -> Vec<_> { project.containers("dynamic").iter().filter_map(|id| host(id, &network)).collect() };
    let scale = |count: usize| {
        let scale = format!("dynamic={count}");
        project.compose(&["up", "-d", "--no-build", "--no-recreate", "--scale", &scale]);
        assert_eq!(hosts().len(), count);
    };
    scale(2);
    let proxy = project.containers("proxy").remove(0);
    if !follows(&proxy) {
        return;
    }
    let port = published(&docker(&["port", &proxy, "80/tcp"]));
    serve(&proxy, port, &hosts());
    let before = standing(&proxy);

    let crowd = Crowd::on(port);
    for count in [5, 2] {
        scale(count);
        serve(&proxy, port, &hosts());
    }
    crowd.ends_without_a_fault();
    assert_eq!(standing(&proxy), before, "neither a reload nor other workers");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_proxy_that_was_paused_follows_what_happened_meanwhile() {
    let network = Network::new();
    let one = api(&network, "one");
    let line = ["--network", &network.name, "-e", "DYNAMIC_BACKEND=api:8080", "-e", "STATIC_BACKEND=127.0.0.1:1"];
    let proxy = Container::run("proxy", &[&line[..], &["-p", ANY_PORT, &images().nginit]].concat());
    let port = proxy.port(80);
    serve(&proxy.name, port, &[both(&one, "one")]);
    if !follows(&proxy.name) {
        return;
    }
    let before = standing(&proxy.name);
    docker(&["pause", &proxy.name]);
    let two = api(&network, "two");
    thread::sleep(Duration::from_secs(8));
    docker(&["unpause", &proxy.name]);
    serve(&proxy.name, port, &[both(&one, "one"), both(&two, "two")]);
    let addresses = [both(&two, "two")];
    docker(&["stop", &one.name]);
    serve(&proxy.name, port, &addresses);
    assert_eq!(standing(&proxy.name), before, "neither a reload nor other workers");
}

/// A server comes and goes, of which nginx is told and which takes it in, without a reload.
#[track_caller]
fn takes_in(proxy: &Container) {
    if !follows(&proxy.name) {
        return;
    }
    let before = standing(&proxy.name);
    for words in [["add", "dynamic", "127.0.0.2:9"], ["remove", "dynamic", "127.0.0.2:9"]] {
        let said = docker(&[&["exec", &proxy.name, "nginit"], &words[..], &["--wait"]].concat());
        assert!(said.starts_with("nginx has followed without a reload"), "{words:?}: {said}");
    }
    assert_eq!(standing(&proxy.name), before, "neither a reload nor other workers");
    let live = json::<Status>(&proxy.name, &["status"]).live.expect("it listens on loopback");
    assert!(live.taken && live.upstreams == 1 && live.refused == 0, "{live:?}");
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn nothing_but_loopback_is_needed_to_follow_servers() {
    let bare = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let lists = ["-e", "DYNAMIC_BACKEND=127.0.0.1:9", "-e", "STATIC_BACKEND=127.0.0.1:9"];
    for options in [&bare[..], &["--network", "none"], &[&bare[..], &["--network", "none"]].concat()] {
        for image in [&images().unprivileged, &images().nginit] {
            if *image == images().nginit && options.contains(&"--read-only") {
                continue;
            }
            takes_in(&Container::run("proxy", &[&lists[..], options, &[image]].concat()));
        }
    }
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn two_on_the_network_of_the_host_follow_servers_each_for_itself() {
    let lists = ["--network", "host", "-e", "DYNAMIC_BACKEND=127.0.0.1:9", "-e", "STATIC_BACKEND=127.0.0.1:9"];
    let run = || {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).expect("a port").port();
        let listen = format!("NGINIT_LISTEN=127.0.0.1:{port}");
        let proxy = Container::run("proxy", &[&lists[..], &["-e", &listen, &images().nginit]].concat());
        eventually("it answers", || get(port, "/nginit/ping").ok().filter(|answer| answer.status == 200));
        proxy
    };
    let (first, second) = (run(), run());
    takes_in(&first);
    takes_in(&second);
    let resolver = |proxy: &Container| proxy.sh("grep resolver /etc/nginx/conf.d/default.conf || true");
    assert!(!follows(&first.name) || resolver(&first) != resolver(&second), "{}", resolver(&first));
}
