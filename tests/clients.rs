//! nginit tells where one address makes up nearly all requests of an ip_hash upstream, and nginx never waits for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::Signal;
use support::scripted::Scripted;
use support::{Nginit, Site, eventually, get};

/// A site with an ip_hash upstream of two servers.
fn site(nginx: &Path, servers: &[Scripted]) -> Site {
    let mut site = Site::new(nginx);
    site.set("NGINIT_WORKERS", "1");
    site.set_list(&servers.iter().map(Scripted::entry).collect::<Vec<_>>().join("\n"));
    site
}

fn servers() -> Vec<Scripted> {
    ["a", "b"].map(|name| Scripted::fixed("200 OK", "", name)).into()
}

fn tap(site: &Site) -> PathBuf {
    site.path("conf.d/.nginit-clients")
}

/// Sends `count` requests on one connection from this address of loopback.
fn send_from(site: &Site, address: Ipv4Addr, count: usize) {
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&client, &SocketAddr::from((address, 0))).unwrap();
    connect(&client, &SocketAddr::from((Ipv4Addr::LOCALHOST, site.port))).unwrap();
    let stream = TcpStream::from(client);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..count {
        (&stream).write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).unwrap();
    }
}

/// `total` requests from 127.0.0.1, in connections as short as nginx wants them.
fn send(site: &Site, total: usize) {
    for _ in 0..total.div_ceil(50) {
        send_from(site, Ipv4Addr::LOCALHOST, 50);
    }
}

/// Waits until something was taken out of the file: it is shorter than it was.
fn is_read(site: &Site, nginit: &Nginit<'_>) {
    let mut longest = 0;
    eventually(&format!("the file is read\n{}", nginit.report()), || {
        let length = fs::metadata(tap(site)).unwrap().len();
        longest = longest.max(length);
        (longest > 0 && length < longest).then_some(())
    });
}

#[test]
fn one_address_for_nearly_all_requests_is_said_once_with_its_remedy() {
    let nginx = nginx_or_skip!();
    let servers = servers();
    let mut site = site(&nginx, &servers);
    site.set("NGINIT_ACCESS_LOG", "text");
    let nginit = site.start();
    let meta = fs::metadata(tap(&site)).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o600, 0));
    send(&site, 5000);
    nginit.logs(
        "nginit warn clients: nearly all requests to static_backend come from 127.0.0.1, so ip_hash sends them to one \
         server; if that is a proxy, set NGINIT_TRUSTED_PROXIES=127.0.0.1 ",
    );
    assert!(nginit.log().contains("set STATIC_BALANCE=least_conn or STATIC_STICKY=cookie"), "{}", nginit.log());
    // Lines that nginx still keeps back come with the next ones.
    send(&site, 5000);
    is_read(&site, &nginit);
    assert_eq!(nginit.count("nginit warn clients: "), 1, "{}", nginit.log());
    eventually("every request is in the access log", || {
        (nginit.count("\"GET / HTTP/1.1\" 200") == 10_000).then_some(())
    });
}

#[test]
fn many_addresses_are_no_news_and_the_file_no_change() {
    let nginx = nginx_or_skip!();
    let servers = servers();
    let site = site(&nginx, &servers);
    site.age();
    let nginit = site.start();
    for n in 0..100 {
        send_from(&site, Ipv4Addr::new(127, 0, n, 1), 50);
    }
    eventually("nginx tells", || (fs::metadata(tap(&site)).unwrap().len() > 0).then_some(()));
    let inode = fs::metadata(tap(&site)).unwrap().ino();
    nginit.reload();
    assert_eq!((nginit.count("reload: unchanged"), nginit.count(" live, ")), (1, 0), "{}", nginit.log());
    is_read(&site, &nginit);
    // A reload that is one, tested on a copy which has the same file.
    site.write("list", &(servers[1].entry() + "\n" + &servers[0].entry() + ";weight=2"));
    nginit.reload();
    assert_eq!(nginit.count(" live, "), 1, "{}", nginit.log());
    for n in 0..100 {
        send_from(&site, Ipv4Addr::new(127, 0, n, 1), 50);
    }
    is_read(&site, &nginit);
    let meta = fs::metadata(tap(&site)).unwrap();
    assert_eq!((meta.ino(), meta.permissions().mode() & 0o777), (inode, 0o600));
    assert_eq!(nginit.count("warn clients"), 0, "{}", nginit.log());
}

#[test]
fn nothing_is_told_where_no_server_is_chosen_by_address_or_nobody_listens() {
    let nginx = nginx_or_skip!();
    let servers = servers();
    let mut site = site(&nginx, &servers);
    for command in ["render", "check"] {
        let mut args = vec![OsString::from(command)];
        args.extend(site.nginx_argv().into_iter().filter(|_| command == "check"));
        let (code, said) = site.run(&args);
        assert_eq!(code, Some(0), "{command}: {said}");
        assert!(!tap(&site).exists(), "{command}");
    }
    let mut printed = site.command(&["render"]);
    let printed = String::from_utf8(printed.output().unwrap().stdout).unwrap();
    assert!(printed.contains("ip_hash;") && !printed.contains("nginit_clients"), "{printed}");
    let tapped = |site: &Site| {
        let _nginit = site.start();
        assert_eq!(get(site.port, "/").unwrap().status, 200);
        site.conf_d()["default.conf"].contains("nginit_clients")
    };
    assert!(tapped(&site));
    site.set("STATIC_BALANCE", "least_conn");
    assert!(!tapped(&site));
    site.set("STATIC_BALANCE", "ip_hash");
    site.set_list(&servers[0].entry());
    assert!(!tapped(&site));
    // nginx would not take this path as it is.
    fs::create_dir(site.path("conf.d/a b")).unwrap();
    site.set("NGINIT_CONF_DIR", site.path("conf.d/a b"));
    site.write("nginx.conf", &site.main_conf("").replace("conf.d/*.conf", "'conf.d/a b/*.conf'"));
    site.set_list(&servers.iter().map(Scripted::entry).collect::<Vec<_>>().join("\n"));
    let _nginit = site.start();
    let text = fs::read_to_string(site.path("conf.d/a b/default.conf")).unwrap();
    assert!(text.contains("ip_hash;") && !text.contains("nginit_clients"), "{text}");
}

#[test]
fn workers_of_another_user_go_on_when_log_files_are_opened_again() {
    let nginx = nginx_or_skip!();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let servers = servers();
    let site = site(&nginx, &servers);
    site.write("nginx.conf", &site.main_conf("").replace("user root;", "user daemon;"));
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let nginit = site.start();
    nginit.signal(Signal::USR1);
    nginit.logs("reopening logs");
    send(&site, 5000);
    nginit.logs("nginit warn clients: ");
    assert_eq!(nginit.count("[alert]") + nginit.count("[emerg]"), 0, "{}", nginit.log());
    let meta = fs::metadata(tap(&site)).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}
