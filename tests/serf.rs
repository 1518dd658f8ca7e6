//! What real agents of Serf tell, and what is made of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use nginit::serf::{Event, Kind, Member, Roster, command_body, parse_members};
use nginit::settings::{self, Given};
use nginit::supervisor::resync::run::Asker;
use nginit::supervisor::{Ended, Pid};
use nginit::upstream::{Name, Upstreams};
use rustix::process::{WaitOptions, waitpid};
use support::serf::Agent;
use support::{Backend, NGINIT, Site, children, eventually, free_port, get, within};

fn event(kind: &str, input: &[u8]) -> Event {
    command_body(Some(kind), input).unwrap().unwrap()
}

/// The member of this name in what a handler was given.
fn member(kind: &str, input: &[u8], name: &str) -> Member {
    event(kind, input).members.into_iter().find(|member| member.name == name).unwrap()
}

fn tags(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn upstreams() -> Upstreams {
    let given = |name: &str, value: &str| {
        let given = Given { variable: name.to_owned(), value: value.to_owned() };
        (name.to_owned(), given)
    };
    let vars = [given("DYNAMIC_BACKEND", "127.0.0.1:1"), given("DYNAMIC_PORT", "8080")];
    settings::parse(&vars.into()).unwrap().0.upstreams
}

/// The servers of the upstream by all that the agent's handler was given so far.
fn servers(agent: &Agent) -> Vec<String> {
    let mut roster = Roster::default();
    for (kind, input) in agent.events() {
        if let Some(event) = command_body(Some(&kind), &input).unwrap() {
            roster.on(event);
        }
    }
    servers_of(&roster)
}

fn servers_of(roster: &Roster) -> Vec<String> {
    let snapshot = roster.snapshot(&upstreams());
    let servers = snapshot.get(&Name::new("DYNAMIC").unwrap()).map(Vec::as_slice).unwrap_or_default();
    servers.iter().map(|server| format!("{}{}", server.address, server.params.to_nginx())).collect()
}

/// Gives up members that are gone within seconds.
fn quick_reaping(dir: &Path) -> String {
    let config = dir.join("config.json");
    let text = r#"{"reconnect_timeout":"1s","tombstone_timeout":"1s","reconnect_interval":"1s"}"#;
    std::fs::write(&config, text).unwrap();
    format!("-config-file={}", config.display())
}

#[test]
fn members_come_change_and_go_as_a_handler_is_told() {
    let serf = serf_or_skip!();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let start = |name, ip, options: &[&str]| Agent::start(&serf, dir, name, ip, options);
    let proxy = start("proxy", "127.0.0.1", &["-tag=role=lb"]);
    let join = format!("-join={}", proxy.address);
    let odd = ["-tag=role=dynamic", "-tag=port=9090", "-tag=odd=a=b,c", "-tag=x y=two words", "-tag=weight=3", &join];
    let one = start("one", "127.0.0.2", &odd);
    let mut two = start("two.x_Y-1", "127.0.0.3", &["-tag=role=dynamic", &join]);
    let other = start("other", "127.0.0.4", &["-tag=role=static", &join]);

    eventually("both are servers", || (servers(&proxy) == ["127.0.0.2:9090 weight=3", "127.0.0.3:8080"]).then_some(()));
    let joined = member("member-join", &proxy.told("member-join", "one\t"), "one");
    let want = [("role", "dynamic"), ("port", "9090"), ("odd", "a=b,c"), ("x y", "two words"), ("weight", "3")];
    let address: IpAddr = "127.0.0.2".parse().unwrap();
    assert_eq!(joined, Member { name: "one".to_owned(), address, role: "dynamic".to_owned(), tags: tags(&want) });

    // The list says the same.
    let listed = parse_members(&proxy.run(&["members", "-format=json"]).unwrap()).unwrap();
    assert_eq!(listed.len(), 4);
    assert!(listed.contains(&joined), "{listed:?}");

    let set = one.run(&["tags", "-set", "port=9091", "-set", "multi=a\tb\nc", "-delete", "odd", "-delete", "weight"]);
    assert!(set.is_some());
    let input = proxy.told("member-update", "9091");
    let want = [("role", "dynamic"), ("port", "9091"), ("x y", "two words"), ("multi", "a\tb\nc")];
    assert_eq!(member("member-update", &input, "one").tags, tags(&want));
    eventually("its port is another", || (servers(&proxy) == ["127.0.0.2:9091", "127.0.0.3:8080"]).then_some(()));

    // Of users' events the handler is told too.
    // Gossip may lose one; the handler is told of each that comes.
    let input = eventually("the handler is told of an event", || {
        assert!(one.run(&["event", "deploy", "the payload"]).is_some());
        within(Duration::from_secs(5), || proxy.was_told("user", "the payload"))
    });
    assert_eq!(command_body(Some("user"), &input), Ok(None));

    assert!(one.run(&["leave"]).is_some());
    let input = proxy.told("member-leave", "one\t");
    assert_eq!(event("member-leave", &input).kind, Kind::Leave);
    eventually("who left is gone", || (servers(&proxy) == ["127.0.0.3:8080"]).then_some(()));

    two.kill();
    let input = proxy.told("member-failed", "two.x_Y-1\t");
    assert_eq!(event("member-failed", &input).kind, Kind::Failed);
    assert_eq!(servers(&proxy), [""; 0]);
    let names = |agent: &Agent| -> Vec<String> {
        let listed = parse_members(&agent.run(&["members", "-format=json"]).unwrap()).unwrap();
        listed.into_iter().map(|member| member.name).collect()
    };
    assert!(names(&proxy).len() == 2 && names(&proxy).contains(&other.name), "{:?}", names(&proxy));
}

#[test]
fn members_of_ipv6_are_given_up_as_a_handler_is_told() {
    let serf = serf_or_skip!();
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let proxy = Agent::start(&serf, dir, "proxy", "::1", &[&quick_reaping(dir)]);
    let mut one = Agent::start(&serf, dir, "one", "::1", &["-tag=role=dynamic", &format!("-join={}", proxy.address)]);
    eventually("it is a server", || (servers(&proxy) == ["[::1]:8080"]).then_some(()));
    let listed = parse_members(&proxy.run(&["members", "-format=json"]).unwrap()).unwrap();
    assert!(listed.contains(&member("member-join", &proxy.told("member-join", "one\t"), "one")), "{listed:?}");
    one.kill();
    let input = proxy.told("member-reap", "one\t");
    assert_eq!(event("member-reap", &input).kind, Kind::Reap);
    assert_eq!(servers(&proxy), [""; 0]);
}

/// The end of the process that asks, if it has ended.
fn ended(asker: &Asker) -> Option<(Pid, Ended)> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let pid = children(own).into_iter().find(|pid| asker.has(*pid))?;
    let (_, status) = waitpid(rustix::process::Pid::from_raw(pid), WaitOptions::NOHANG).unwrap()?;
    let code = status.exit_status().map(|code| Ended::Status(u8::try_from(code).unwrap()));
    Some((pid, code.unwrap_or_else(|| Ended::Signal(status.terminating_signal().unwrap()))))
}

/// Drives the question until there is an answer.
fn ask(asker: &mut Asker, roster: &mut Roster) {
    let members = eventually("the agent answers", || {
        if asker.deadline().is_some_and(|at| at <= Instant::now()) && asker.on_deadline() {
            roster.asked();
        }
        let (pid, how) = ended(asker)?;
        asker.ended(pid, how, !roster.is_empty())
    });
    roster.reset(members);
}

#[test]
fn an_agent_is_asked_until_it_answers_and_after_its_restart_until_it_has_joined() {
    let serf = serf_or_skip!();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let one = Agent::start(&serf, dir, "one", "127.0.0.2", &["-tag=role=dynamic"]);
    let rpc = format!("127.0.0.1:{}", free_port());
    let words = [serf.display().to_string(), "agent".to_owned(), format!("-rpc-addr={rpc}")];
    let mut asker = Asker::new(&[(Name::new("SERF").unwrap(), words.to_vec())].into());
    let mut roster = Roster::default();

    // Nobody is there at first.
    asker.want();
    assert!(asker.on_deadline());
    let (pid, how) = eventually("nobody answers", || ended(&asker));
    assert_ne!(how, Ended::Status(0));
    assert_eq!(asker.ended(pid, how, false), None);
    assert!(asker.deadline().is_some(), "it is asked again");

    let join = format!("-join={}", one.address);
    let mut proxy = Agent::spawn(&serf, dir, "proxy", "127.0.0.1", &rpc, &["-tag=role=lb", &join]);
    ask(&mut asker, &mut roster);
    if roster.len() < 2 {
        // It was asked before it had joined; its handler is told of the other one then.
        let input = proxy.told("member-join", "one\t");
        roster.on(event("member-join", &input));
    }
    assert_eq!(servers_of(&roster), ["127.0.0.2:8080"]);
    assert_eq!(asker.deadline(), None);

    // Another one knows nobody at first.
    proxy.kill();
    let proxy = Agent::spawn(&serf, dir, "proxy2", "127.0.0.1", &rpc, &["-tag=role=lb"]);
    eventually("it takes commands", || proxy.run(&["info"]));
    asker.want();
    assert!(asker.on_deadline());
    let (pid, how) = eventually("it answers", || ended(&asker));
    assert_eq!(asker.ended(pid, how, !roster.is_empty()), None, "that is no reason to forget everybody");
    assert!(proxy.run(&["join", &one.address]).is_some());
    ask(&mut asker, &mut roster);
    assert_eq!(servers_of(&roster), ["127.0.0.2:8080"]);
}

/// A site whose servers are Serf's members of the role `web`.
fn site(nginx: &Path) -> Site {
    let mut site = Site::new(nginx);
    site.set("STATIC_BACKEND", "# none");
    site.set("STATIC_BALANCE", "round_robin");
    site.set("STATIC_SERF_ROLE", "web");
    site
}

/// An agent beside a backend, which tells its port.
fn beside(serf: &Path, dir: &Path, backend: &Backend, options: &[&str]) -> Agent {
    let port = format!("-tag=port={}", backend.address.port());
    let options: Vec<&str> = ["-tag=role=web", &port].into_iter().chain(options.iter().copied()).collect();
    Agent::start(serf, dir, &backend.name, "127.0.0.1", &options)
}

/// Waits until these servers take turns, and no others.
fn serve(site: &Site, names: &[&str]) {
    let answers = || {
        let mut seen: Vec<String> = (0..4).filter_map(|_| site.server()).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    let seen = support::within(support::PATIENCE, || (answers() == names).then_some(()));
    let log = || std::fs::read_to_string(site.path("log-0")).unwrap_or_default();
    assert!(seen.is_some(), "{names:?} do not serve, but {:?}\n{}", answers(), log());
}

/// Tells nginit what the agent's handler was given from the `from`th event on, as a handler would; gives the
/// number of the next one.
fn hand_on(site: &Site, agent: &Agent, from: usize) -> usize {
    let events = agent.events();
    for (kind, input) in &events[from..] {
        let Some(event) = command_body(Some(kind), input).unwrap() else { continue };
        let request = nginit::admin::Request::Serf(event);
        let told = nginit::admin::client::ask(&site.path("control.sock"), &request, Some(support::PATIENCE));
        assert_eq!(told.unwrap(), nginit::admin::Reply::Accepted);
    }
    events.len()
}

#[test]
fn members_of_a_role_serve_as_an_agent_tells() {
    let (nginx, serf) = (nginx_or_skip!(), serf_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let agent_a = beside(&serf, dir, &a, &[]);
    let join = format!("-join={}", agent_a.address);
    let proxy = Agent::start(&serf, dir, "proxy", "127.0.0.1", &["-tag=role=lb", &join]);
    proxy.told("member-join", "a\t127");
    let mut site = site(&nginx);
    site.set("SERF_RPC_ADDR", &proxy.rpc);
    let nginit = site.start();
    // Its events were before nginit's time: the list tells.
    serve(&site, &["a"]);
    let mut next = proxy.events().len();

    let mut agent_b = beside(&serf, dir, &b, &[&join]);
    proxy.told("member-join", "b\t127");
    next = hand_on(&site, &proxy, next);
    serve(&site, &["a", "b"]);

    assert!(agent_a.run(&["tags", "-set", "port=99999"]).is_some());
    proxy.told("member-update", "99999");
    next = hand_on(&site, &proxy, next);
    serve(&site, &["b"]);
    nginit.logs(
        "warn serf: static_backend: Serf's member \"a\" has the tag port=\"99999\", which is no port: it is left out",
    );

    assert!(agent_a.run(&["tags", "-set", &format!("port={}", a.address.port())]).is_some());
    proxy.told("member-update", &format!("port={}", a.address.port()));
    next = hand_on(&site, &proxy, next);
    serve(&site, &["a", "b"]);
    agent_b.kill();
    proxy.told("member-failed", "b\t127");
    hand_on(&site, &proxy, next);
    serve(&site, &["a"]);
}

#[test]
fn a_reload_that_changes_a_role_changes_the_servers() {
    let (nginx, serf) = (nginx_or_skip!(), serf_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let a = Backend::start("a");
    let agent = beside(&serf, dir.path(), &a, &[]);
    let mut site = site(&nginx);
    site.set("SERF_RPC_ADDR", &agent.rpc);
    site.write("role", "web");
    site.env.remove(std::ffi::OsStr::new("STATIC_SERF_ROLE"));
    site.set("STATIC_SERF_ROLE_FILE", site.path("role"));
    let nginit = site.start();
    nginit.logs("generation 2 live");
    serve(&site, &["a"]);
    site.write("role", "other");
    nginit.reload();
    eventually("nobody serves", || (get(site.port, "/").unwrap().status == 503).then_some(()));
    site.write("role", "web");
    nginit.reload();
    serve(&site, &["a"]);
}

#[test]
fn an_agent_beside_nginx_may_be_killed_and_what_it_missed_is_known_afterwards() {
    let (nginx, serf) = (nginx_or_skip!(), serf_or_skip!());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let agent_a = beside(&serf, dir, &a, &[]);
    let agent_b = beside(&serf, dir, &b, &[&format!("-join={}", agent_a.address)]);
    let mut site = site(&nginx);
    // The first start of the agent is at once, the next one waits until there is a file.
    let (bind, go) = (free_port(), site.path("go"));
    let agent = format!(
        "exec '{}' agent -node=proxy -bind=127.0.0.1:{bind} -rpc-addr=127.0.0.1:{} -profile=local -retry-join={} \
         -tag role=lb -event-handler='{NGINIT} serf'",
        serf.display(),
        free_port(),
        agent_a.address,
    );
    let script = format!("[ ! -e '{0}.no' ] || until [ -e '{0}' ]; do sleep 0.05; done", go.display());
    let program = site.path("serf").display().to_string();
    let rpc = agent.split("-rpc-addr=").nth(1).unwrap().split(' ').next().unwrap();
    site.set("NGINIT_SIDECAR_SERF", format!("{program} agent -rpc-addr={rpc}"));
    // The program asks for members, too.
    let members = format!("[ \"$1\" = agent ] || exec '{}' \"$@\"", serf.display());
    site.write_program("serf", &format!("#!/bin/sh\n{members}\n{script}\n{agent}\n"));
    let nginit = site.start();
    serve(&site, &["a", "b"]);
    nginit.logs("serf: ==> Serf agent running!");

    // While it is away, another one goes.
    site.write("go.no", "");
    let started = nginit.log();
    let pid = started.lines().find_map(|line| line.split("serf starts, pid=").nth(1)?.parse().ok()).unwrap();
    support::signal_pid(pid, rustix::process::Signal::KILL);
    nginit.logs("sidecar: serf was ended by signal 9");
    assert!(agent_b.run(&["leave"]).is_some());
    agent_a.told("member-leave", "b\t127");
    serve(&site, &["a", "b"]);
    site.write("go", "");
    serve(&site, &["a"]);
    assert_eq!(nginit.count("generation 1 answers"), 1);
    nginit.signal(rustix::process::Signal::TERM);
    assert_eq!(nginit.code(), 0);
}

#[test]
fn a_question_without_serf_or_without_an_end_comes_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("serf");
    let sidecars = || [(Name::new("SERF").unwrap(), vec![program.display().to_string()])].into();
    let mut asker = Asker::new(&sidecars());
    asker.heard();
    assert!(!asker.on_deadline(), "there is no such program");
    assert_eq!(asker.deadline(), None);

    let script = "#!/bin/sh\necho '{\"members\":[]}'\necho 'no list' >&2\nexit 3\n";
    std::fs::write(dir.path().join("new"), script).unwrap();
    let mut install = std::process::Command::new("install");
    install.args(["-m", "755"]).arg(dir.path().join("new")).arg(&program);
    assert!(install.status().unwrap().success());
    let mut asker = Asker::new(&sidecars());
    asker.want();
    assert!(asker.on_deadline());
    let (pid, how) = eventually("it ends", || ended(&asker));
    assert_eq!((how, asker.ended(pid, how, false)), (Ended::Status(3), None), "its status counts");
    assert!(asker.deadline().is_some());
}
