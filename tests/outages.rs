//! Where nginit hears of servers is gone and comes back, one after the other, under a load that must not lose a
//! request.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the bans are for the program, not for its tests")]

#[path = "support/load.rs"]
mod load;
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use load::{Load, Server};
use nginit::admin::{Reply, Request, State, client};
use rustix::process::Signal;
use support::dns::{Dns, Says, write_etc};
use support::serf::Agent;
use support::{Nginit, PATIENCE, Site, eventually, free_port, within};

/// A site whose servers take turns.
fn site(nginx: &Path) -> Site {
    let mut site = Site::new(nginx);
    site.set("STATIC_BALANCE", "round_robin");
    site
}

/// A running nginit with clients that never rest.
struct Busy<'a> {
    nginit: Nginit<'a>,
    load: Load,
}

impl<'a> Busy<'a> {
    /// Once `servers` serve.
    fn start(site: &'a Site, servers: &[&Server]) -> Self {
        let nginit = site.start();
        let mut busy = Self { nginit, load: Load::default() };
        // Who is yet to be heard of is in a second generation; no worker of the first one may be left.
        let all = || {
            let listed = busy.nginit.servers();
            let is_running = || busy.nginit.status().state == State::Running;
            servers.iter().all(|server| listed.contains(&server.entry())) && is_running()
        };
        busy.holds("all are served", || all().then_some(()));
        for n in 1..3 {
            busy.load.add("closing", load::closing(site.port, Duration::from_millis(n)));
            busy.load.add("keeping", load::keeping(site.port, Duration::from_millis(n), true));
        }
        busy.served_by(servers, &[]);
        busy
    }

    #[track_caller]
    fn holds<T>(&self, what: &str, fact: impl FnMut() -> Option<T>) -> T {
        within(PATIENCE, fact).unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}\n{}", self.nginit.report()))
    }

    /// Waits until requests go to each of `on` and none of `off`.
    #[track_caller]
    fn served_by(&self, on: &[&Server], off: &[&Server]) {
        let count = |server: &&Server| server.seen().values().sum::<usize>();
        let counts = |servers: &[&Server]| servers.iter().map(count).collect::<Vec<_>>();
        self.holds("others serve", || {
            let (ons, offs) = (counts(on), counts(off));
            let grown = || on.iter().zip(&ons).all(|(server, before)| count(server) > before + 50);
            within(PATIENCE, || grown().then_some(()))?;
            (counts(off) == offs).then_some(())
        });
    }

    #[track_caller]
    fn ends_without_a_loss(self) {
        for (name, tally) in self.load.stop() {
            let lost = tally.lost.lock().unwrap();
            assert!(lost.is_empty(), "{name}: {tally}: {:?}\n{}", lost.first(), self.nginit.report());
        }
    }
}

#[test]
fn a_list_that_is_gone_loses_nothing_and_counts_again_when_it_is_back() {
    let nginx = nginx_or_skip!();
    let [a, b] = [(); 2].map(|()| Server::start(load::all));
    let mut site = site(&nginx);
    site.set("NGINIT_WATCH", "true");
    site.write("list", &a.entry());
    site.set("STATIC_BACKEND_FILE", site.path("list"));
    let busy = Busy::start(&site, &[&a]);
    fs::remove_file(site.path("list")).unwrap();
    busy.nginit.logs("counts as it was before");
    busy.nginit.reload();
    busy.served_by(&[&a], &[&b]);
    site.write("list", &format!("{} {}", a.entry(), b.entry()));
    busy.served_by(&[&a, &b], &[]);
    // With all that is around it.
    site.write("list", &b.entry());
    busy.served_by(&[&b], &[&a]);
    busy.ends_without_a_loss();
}

#[test]
fn dns_that_is_gone_loses_nothing_and_counts_again_when_it_is_back() {
    own_network!();
    let nginx = nginx_or_skip!();
    let dns = Dns::start("127.0.0.53");
    write_etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n");
    let port = free_port();
    let [a, b] = [1, 2].map(|n| Server::start_at(SocketAddr::from(([127, 0, 1, n], port)), load::all));
    let mut site = site(&nginx);
    site.set("STATIC_BACKEND", format!("web.test:{port}"));
    site.set("STATIC_RESOLVE", "interval=1s");
    dns.set_addresses("web.test", 1, &["127.0.1.1"]);
    let busy = Busy::start(&site, &[&a]);
    dns.set("web.test", Says::Silence);
    let before = dns.asked("web.test");
    eventually("it is asked in vain", || (dns.asked("web.test") > before + 2).then_some(()));
    dns.stop();
    busy.nginit.reload();
    let said = "keeps its last addresses in static_backend: ";
    assert!(busy.nginit.log().contains(said), "{}", busy.nginit.report());
    busy.served_by(&[&a], &[&b]);
    let dns = Dns::start("127.0.0.53");
    // A server that has just come up knows nothing at first.
    dns.set("web.test", Says::Code(2));
    eventually("it is asked", || (dns.asked("web.test") > 0).then_some(()));
    dns.set_addresses("web.test", 1, &["127.0.1.2"]);
    busy.served_by(&[&b], &[&a]);
    busy.ends_without_a_loss();
}

#[test]
fn a_control_socket_that_is_gone_loses_nothing_and_comes_back() {
    let nginx = nginx_or_skip!();
    let [a, b] = [(); 2].map(|()| Server::start(load::all));
    let mut site = site(&nginx);
    site.set("STATIC_BACKEND", a.entry());
    let busy = Busy::start(&site, &[&a]);
    let socket = site.path("control.sock");
    fs::remove_file(&socket).unwrap();
    let add = site.command(&["add", "static", &b.entry()]).status().unwrap();
    assert!(!add.success(), "nobody is there to take it");
    busy.nginit.logs("was removed, and is back");
    let add = site.command(&["add", "static", &b.entry(), "--wait"]).output().unwrap();
    assert!(add.status.success(), "{add:?}");
    busy.served_by(&[&a, &b], &[]);
    assert!(matches!(client::ask(&socket, &Request::Status, Some(PATIENCE)), Ok(Reply::Status(_))));
    busy.ends_without_a_loss();
}

/// An agent beside a server, which tells its port.
fn beside(serf: &Path, dir: &Path, name: &str, server: &Server, options: &[&str]) -> Agent {
    let port = format!("-tag=port={}", server.address.port());
    let options: Vec<&str> = ["-tag=role=static", &port].into_iter().chain(options.iter().copied()).collect();
    Agent::start(serf, dir, name, "127.0.0.1", &options)
}

/// A site whose servers are Serf's members, as an agent beside nginx tells, which joins `agent`.
fn site_of(nginx: &Path, serf: &Path, agent: &Agent) -> Site {
    let mut site = site(nginx);
    site.set("STATIC_BACKEND", "# those of Serf");
    let (bind, rpc, join) = (free_port(), free_port(), &agent.address);
    let words = format!(
        "{} agent -node=proxy -bind=127.0.0.1:{bind} -rpc-addr=127.0.0.1:{rpc} -profile=local -retry-join={join} \
         -retry-interval=1s -tag=role=lb -event-handler='{} serf'",
        serf.display(),
        support::NGINIT
    );
    site.set("NGINIT_SIDECAR_SERF", words);
    site
}

#[test]
fn an_agent_that_is_killed_loses_nothing_and_knows_afterwards_who_came_and_went() {
    let (nginx, serf) = (nginx_or_skip!(), serf_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = [(); 3].map(|()| Server::start(load::all));
    let agent_a = beside(&serf, dir.path(), "a", &a, &[]);
    let join = format!("-join={}", agent_a.address);
    let agent_b = beside(&serf, dir.path(), "b", &b, &[&join]);
    let site = site_of(&nginx, &serf, &agent_a);
    let busy = Busy::start(&site, &[&a, &b]);
    let log = busy.nginit.log();
    let pid = log.lines().find_map(|line| line.split("serf starts, pid=").nth(1)?.parse().ok()).unwrap();
    support::signal_pid(pid, Signal::KILL);
    busy.nginit.logs("sidecar: serf was ended by signal 9");
    assert!(agent_b.run(&["leave"]).is_some());
    let _agent_c = beside(&serf, dir.path(), "c", &c, &[&join]);
    busy.served_by(&[&a, &c], &[&b]);
    busy.ends_without_a_loss();
}

#[test]
fn members_that_change_while_the_control_socket_is_gone_are_known_afterwards() {
    let (nginx, serf) = (nginx_or_skip!(), serf_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = [(); 2].map(|()| Server::start(load::all));
    let agent_a = beside(&serf, dir.path(), "a", &a, &[]);
    let site = site_of(&nginx, &serf, &agent_a);
    let busy = Busy::start(&site, &[&a]);
    let socket = site.path("control.sock");
    fs::remove_file(&socket).unwrap();
    // Where something else stands, nothing is made anew.
    site.write("control.sock", "");
    let _agent_b = beside(&serf, dir.path(), "b", &b, &[&format!("-join={}", agent_a.address)]);
    busy.nginit.logs("Error invoking script");
    busy.served_by(&[&a], &[&b]);
    fs::remove_file(&socket).unwrap();
    busy.served_by(&[&a, &b], &[]);
    busy.ends_without_a_loss();
}
