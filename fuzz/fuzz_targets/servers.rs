//! Bytes as the variables of an upstream: refused with the variable's name, or rendered with as
//! many `server` lines as there are addresses, none of which holds a character that nginx acts on.
//!
//! The record separator (0x1e) parts the input into STATIC_BACKEND, STATIC_ROUTE, STATIC_BALANCE,
//! STATIC_PORT and NGINIT_LISTEN; what is missing stays unset. The values are bytes, not text, as
//! the environment's are.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use nginit::exit::Failure;
use nginit::inputs::{Env, Mode};
use nginit::live::Groups;
use nginit::nginx::facts::Version;
use nginit::peers;
use nginit::reload::candidate;
use nginit::render::{self, Input};
use nginit::settings::Settings;
use nginit::upstream::{Address, HostName, Lookup, Resolved, Sources, Target};

const VARIABLES: [&str; 5] = ["STATIC_BACKEND", "STATIC_ROUTE", "STATIC_BALANCE", "STATIC_PORT", "NGINIT_LISTEN"];

/// Every line of the built-in template that stands outside of any block.
const TOP: [&str; 6] = ["#", "log_format nginit", "map ", "upstream static_backend {", "server {", "}"];

fuzz_target!(|data: &[u8]| {
    let values = data.splitn(VARIABLES.len(), |b| *b == 0x1e).map(|v| OsString::from_vec(v.to_vec()));
    let vars = VARIABLES.into_iter().map(OsString::from).zip(values).filter(|(_, value)| !value.is_empty());
    let env = Env::new(vars);
    let settings = match candidate::inputs(&env, Mode::Strict) {
        Ok(inputs) => inputs.settings,
        Err(Failure { reason, .. }) => {
            let named = |line: &str| VARIABLES.iter().any(|v| line.starts_with(&format!("\"{v}\": ")));
            assert!(!reason.is_empty() && reason.lines().all(named), "a line per fault: {reason:?}");
            return;
        }
    };
    let resolved = resolve(&settings);
    let input = Input {
        settings: &settings,
        peers: &peers::peers(&settings.upstreams, &resolved),
        sources: &Sources::new(),
        env: &BTreeMap::new(),
        nginx: Version(1, 30, 6),
        ipv6: true,
        ca_bundle: None,
        generation: 1,
        error_pages: &BTreeSet::new(),
        clients: None,
        one_worker: false,
        groups: &Groups::new(),
        resolver: None,
    };
    let files = render::render(input).expect("the built-in templates render");
    check(&files["default.conf"], &settings, &resolved);
});

/// Addresses made from the names: none, one, or one of each family.
fn resolve(settings: &Settings) -> Resolved {
    let targets = |name: &HostName| -> Vec<Target> {
        let length = u8::try_from(name.as_str().len()).expect("at most 253 bytes");
        let v4 = Ipv4Addr::new(10, 0, 0, length).into();
        let v6 = Ipv6Addr::from(u128::from(length) << 64 | 1).into();
        let all = [v4, v6].map(|ip: IpAddr| Target::from(ip));
        all[..usize::from(length % 3)].to_vec()
    };
    let servers = settings.upstreams.values().flat_map(|upstream| &upstream.servers);
    let names = servers.filter_map(|s| if let Address::Host(name, _) = &s.address { Some(name) } else { None });
    names.map(|name| (Lookup::Host(name.clone()), targets(name))).filter(|(_, found)| !found.is_empty()).collect()
}

fn check(conf: &str, settings: &Settings, resolved: &Resolved) {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ./:_[]=@%~+-".contains(c);
    let mut servers = 0;
    for line in conf.lines() {
        let outside = line.is_empty() || line.starts_with([' ', '\t']) || TOP.iter().any(|top| line.starts_with(top));
        assert!(outside, "a statement of its own: {line:?}");
        if let Some(rest) = line.strip_prefix("    server ") {
            let (server, comment) = rest.split_once(';').expect("a statement ends");
            assert!(server.chars().all(plain), "{line:?}");
            let name = comment.strip_prefix(" # ").unwrap_or(comment);
            assert!(HostName::new(name).is_some() || comment.is_empty(), "{line:?}");
            servers += 1;
        }
        if let Some(location) = line.strip_prefix("    location ") {
            let path = location.strip_suffix(" {").expect("a block opens").trim_start_matches("= ");
            assert!(!path.contains([' ', ';', '{', '}', '"', '\'', '\\', '$', '#']), "{line:?}");
        }
    }
    // An address that a name leads to a second time stands there once.
    let places = |address: &Address| -> Vec<String> {
        match address {
            Address::Host(name, port) => {
                let found = resolved.get(&Lookup::Host(name.clone())).into_iter().flatten();
                found.map(|target| SocketAddr::new(target.ip, port.get()).to_string()).collect()
            }
            Address::Srv(_) => Vec::new(),
            Address::Ip(_) | Address::Unix(_) => vec![address.to_string()],
        }
    };
    let listed = settings.upstreams.values().flat_map(|upstream| &upstream.servers);
    let distinct: BTreeSet<String> = listed.flat_map(|server| places(&server.address)).collect();
    assert_eq!(servers, distinct.len(), "{conf}");
}
