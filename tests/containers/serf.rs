//! Real agents of Serf, one in each container: those of the servers tell the one beside nginx.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::docker::{Container, Network, docker, docker_any, dynamic, eventually, get, images, text};
use crate::{ANY_PORT, Load};

/// Serf of this machine, which runs in containers, too: it needs nothing but a C library.
fn program() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin")]);
    let found = places.map(|dir| dir.join("serf")).find(|file| file.is_file());
    let found = found.expect("serf is installed: it is in Debian's package of that name");
    format!("{}:/usr/bin/serf:ro", found.display())
}

/// Members are found out soon.
const QUICK: &str = "-profile=local -retry-interval=1s -retry-join=one";

/// A server of the demo's API with an agent beside it, called as its host is.
fn member(network: &Network, name: &str) -> Container {
    let line = format!("serf agent -node={name} -tag=role=dynamic -tag=port=8080 {QUICK} & exec /dynamic");
    let (serf, api) = (program(), format!("{}:/dynamic:ro", dynamic().display()));
    let options = ["--network", &network.name, "--network-alias", name, "--hostname", name, "-v", &serf, "-v", &api];
    Container::run(name, &[&options[..], &[&images().base, "sh", "-c", &line]].concat())
}

/// Waits until exactly these answer.
#[track_caller]
fn serve(proxy: &Container, names: &[&str]) {
    let port = proxy.port(80);
    let wanted: BTreeSet<String> = names.iter().map(|name| format!("{name}:8080")).collect();
    eventually(&format!("{wanted:?} answer"), || {
        // An answer of nginx's own, that there is no server, is signed by nobody.
        let answers = (0..12).filter_map(|_| get(port, "/api/student").ok());
        (answers.map(|answer| answer.server).collect::<BTreeSet<_>>() == wanted).then_some(())
    });
}

/// How many seconds after nginit was told of somebody nginx was, with a generation or without, by the clock of the log.
#[track_caller]
fn lag(proxy: &Container, (hows, who): (&[&str], &str)) -> f64 {
    // "2026-01-02T03:04:05.678901234Z text"
    let seconds = |line: &str| -> f64 {
        let numbers = line[11..29].split(':').map(|number| number.parse::<f64>().expect("a time"));
        numbers.fold(0.0, |sum, number| sum * 60.0 + number)
    };
    // An event may be about several, in any order.
    let tells = |line: &str| hows.iter().any(|how| line.contains(how)) && line.split(' ').any(|word| word == who);
    eventually(&format!("{hows:?} {who} is live"), || {
        let log = text(&docker_any(&["logs", "-t", &proxy.name]));
        let mut lines = log.lines().skip_while(|line| !tells(line));
        let told = seconds(lines.next()?);
        let live = seconds(
            lines.find(|line| line.contains(" live, upstreams=") || line.contains("dynamic_backend follows: "))?,
        );
        Some((live - told).rem_euclid(86_400.0))
    })
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn members_that_join_leave_and_are_killed_are_followed_and_known_after_a_restart() {
    let network = Network::new();
    let _one = member(&network, "one");
    let agent = format!("serf agent -node=proxy -tag=role=lb -event-handler='nginit serf' {QUICK}");
    let (serf, agent) = (program(), format!("NGINIT_SIDECAR_SERF={agent}"));
    let options = ["--network", &network.name, "-v", &serf, "-e", &agent, "-e", "STATIC_BACKEND=127.0.0.1:1"];
    let more = ["-e", "DYNAMIC_BACKEND=# those of Serf", "-p", ANY_PORT, &images().nginit];
    let proxy = Container::run("proxy", &[&options[..], &more].concat());
    // And no worker is left that knows no server.
    proxy.says(&["generation 2 live"]);
    serve(&proxy, &["one"]);

    let load = Load::on(proxy.port(80), "/api/student");
    let two = member(&network, "two");
    let three = member(&network, "three");
    serve(&proxy, &["one", "two", "three"]);
    docker(&["exec", &two.name, "serf", "leave"]);
    serve(&proxy, &["one", "three"]);
    docker(&["stop", &two.name]);
    docker(&["kill", &three.name]);
    proxy.says(&["failing: three"]);
    serve(&proxy, &["one"]);
    let _four = member(&network, "four");
    serve(&proxy, &["one", "four"]);
    load.end_without_a_fault();
    // From the agent's word on, a second is enough; a machine that stands still may be late once.
    let there: &[&str] = &["there:"];
    // Whoever leaves just after it joined may be missed by others before they hear that it left.
    let gone: &[&str] = &["leaving:", "failing:"];
    let mut lags = [(there, "two"), (gone, "two"), (gone, "three"), (there, "four")].map(|told| lag(&proxy, told));
    lags.sort_by(f64::total_cmp);
    assert!(lags[2] < 1.0, "{lags:?} seconds");

    docker(&["restart", &proxy.name]);
    serve(&proxy, &["one", "four"]);
}
