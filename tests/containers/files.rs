//! Files of real bind mounts that change under a running container, and nobody types a signal.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::docker::{Container, Mounted, eventually, get, images};
use crate::{ANY_PORT, Servers, servers};

/// The proxy with its static list in the file `list`, and more options of `docker run`.
fn proxy(servers: &Servers, list: &str, options: &[&str]) -> Container {
    let file = format!("STATIC_BACKEND_FILE={list}");
    let mut line = vec!["--network", &servers.network.name, "-p", ANY_PORT, "-e", &file];
    line.extend(options);
    line.push(&images().nginit);
    Container::run("proxy", &line)
}

/// The list of one server.
fn entry(servers: &Servers, n: usize) -> String {
    format!("{}\n", servers.sites[n].address())
}

/// Waits until that server answers.
fn serves(proxy: &Container, servers: &Servers, n: usize) {
    let (port, address) = (proxy.port(80), servers.sites[n].address());
    // At first there is no file; and a server that went keeps its place, as "down".
    let upstream = || {
        let lines = proxy.sh("grep 'server [0-9]' /etc/nginx/conf.d/default.conf || true");
        lines.lines().any(|line| line.contains(&format!("server {address}:80")) && !line.contains(" down"))
    };
    eventually(&format!("server {n} answers"), || (upstream() && get(port, "/").ok()?.status == 200).then_some(()));
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_mounted_directory_is_followed_however_it_is_written() {
    let servers = servers(2, 0);
    let lists = Mounted::new();
    let list = lists.put("list", &entry(&servers, 0));
    let proxy = proxy(&servers, "/lists/list", &["-v", &lists.at("/lists")]);
    serves(&proxy, &servers, 0);
    for (turn, n) in [1, 0, 1, 0].into_iter().enumerate() {
        if turn % 2 == 0 {
            lists.put("list", &entry(&servers, n));
        } else {
            fs::write(&list, entry(&servers, n)).expect("our own file");
        }
        serves(&proxy, &servers, n);
    }
    fs::remove_file(&list).expect("our own file");
    proxy.says(&["STATIC_BACKEND_FILE", "cannot be read", "counts as it was before"]);
    serves(&proxy, &servers, 0);
    lists.put("list", &entry(&servers, 1));
    serves(&proxy, &servers, 1);
    proxy.says(&["STATIC_BACKEND_FILE", "is good again"]);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_swapped_link_is_followed_on_a_read_only_root() {
    let servers = servers(2, 0);
    let lists = Mounted::new();
    let dir = lists.put("none", "").parent().expect("it is in a directory").to_owned();
    // As the kubelet writes a ConfigMap.
    let publish = |version: &str, n: usize| {
        fs::create_dir(dir.join(version)).expect("a new directory");
        fs::write(dir.join(version).join("list"), entry(&servers, n)).expect("a new file");
        symlink(version, dir.join("..data_tmp")).expect("a new link");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("a rename in one directory");
    };
    publish("..1", 0);
    symlink("..data/list", dir.join("list")).expect("a new link");
    let mount = lists.at("/lists");
    let mut options = vec!["-v", &mount, "--read-only"];
    for own in ["/etc/nginx/conf.d", "/run/nginit", "/tmp"] {
        options.extend(["--tmpfs", own]);
    }
    let proxy = proxy(&servers, "/lists/list", &options);
    serves(&proxy, &servers, 0);
    publish("..2", 1);
    fs::remove_dir_all(dir.join("..1")).expect("our own directory");
    serves(&proxy, &servers, 1);
    publish("..3", 0);
    serves(&proxy, &servers, 0);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_file_that_is_mounted_alone_is_followed_while_it_is_the_same() {
    let servers = servers(2, 0);
    let lists = Mounted::new();
    let list = lists.put("list", &entry(&servers, 0));
    let mount = format!("{}:/list:ro", list.display());
    let proxy = proxy(&servers, "/list", &["-v", &mount]);
    serves(&proxy, &servers, 0);
    fs::write(&list, entry(&servers, 1)).expect("our own file");
    serves(&proxy, &servers, 1);
    // The mount keeps the file that was there, so nothing in the container can see another one of that name.
    let old = fs::read_to_string(&list).expect("our own file");
    lists.put("list", &entry(&servers, 0));
    assert!(Path::new(&list).is_file());
    assert_eq!(proxy.sh("cat /list").trim(), old.trim(), "the kernel shows it now: say so in docs/variables.md");
    serves(&proxy, &servers, 1);
}

#[test]
#[ignore = "needs a Docker engine; run by ./setup.sh test"]
fn a_file_of_variables_changes_what_the_environment_cannot() {
    let servers = servers(2, 0);
    let conf = Mounted::new();
    let variables = |n: usize, more: &str| format!("STATIC_BACKEND='{}'\n{more}", entry(&servers, n));
    conf.put("nginit.env", &variables(0, ""));
    let options = ["-v", &conf.at("/conf"), "-e", "NGINIT_ENV_FILE=/conf/nginit.env"];
    let proxy = proxy(&servers, "", &options);
    serves(&proxy, &servers, 0);
    conf.put("nginit.env", &variables(1, "NEW_ROUTE=/new/\nNEW_BACKEND=10.0.0.1 # and another upstream\n"));
    serves(&proxy, &servers, 1);
    assert!(proxy.sh("cat /etc/nginx/conf.d/default.conf").contains("upstream new_backend"));
    conf.put("nginit.env", "half a li");
    proxy.says(&["NGINIT_ENV_FILE", "line 1 has no", "counts as it was before"]);
    serves(&proxy, &servers, 1);
}
