//! Bytes as routes: refused with the variable's name, or rendered with no statement and no
//! character that is not the template's own, and never more than the bound.
//!
//! The record separator (0x1e) parts the input into A_ROUTE, A_REWRITE and B_ROUTE.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use nginit::exit::Failure;
use nginit::inputs::{Env, Mode};
use nginit::live::Groups;
use nginit::nginx::facts::Version;
use nginit::peers;
use nginit::reload::candidate;
use nginit::render::{self, Input};
use nginit::upstream::{Resolved, Sources};

const VARIABLES: [&str; 3] = ["A_ROUTE", "A_REWRITE", "B_ROUTE"];

/// Every line of the built-in template that stands outside of any block.
const TOP: [&str; 6] = ["#", "log_format nginit", "map ", "upstream ", "server {", "}"];

fuzz_target!(|data: &[u8]| {
    let values = data.splitn(VARIABLES.len(), |b| *b == 0x1e).map(|v| OsString::from_vec(v.to_vec()));
    let mut vars: BTreeMap<OsString, OsString> =
        VARIABLES.into_iter().map(OsString::from).zip(values).filter(|(_, value)| !value.is_empty()).collect();
    for name in ["A", "B"] {
        if vars.contains_key(&OsString::from(format!("{name}_ROUTE"))) {
            vars.insert(format!("{name}_BACKEND").into(), "10.0.0.1".into());
        }
    }
    let settings = match candidate::inputs(&Env::new(vars), Mode::Strict) {
        Ok(inputs) => inputs.settings,
        Err(Failure { reason, .. }) => {
            let named = |line: &str| VARIABLES.iter().any(|v| line.starts_with(&format!("\"{v}\": ")));
            assert!(!reason.is_empty() && reason.lines().all(named), "a line per fault: {reason:?}");
            return;
        }
    };
    let files = render::render(Input {
        settings: &settings,
        peers: &peers::peers(&settings.upstreams, &Resolved::new()),
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
    })
    .expect("the built-in templates render");
    for line in files["default.conf"].lines() {
        let outside = line.is_empty() || line.starts_with([' ', '\t']) || TOP.iter().any(|top| line.starts_with(top));
        assert!(outside, "a statement of its own: {line:?}");
        let line = line.trim();
        let argument = if let Some(rest) = line.strip_prefix("location ") {
            rest.strip_suffix(" {").expect("a block opens").trim_start_matches("= ")
        } else if let Some(rest) = line.strip_prefix("server_name ") {
            let name = rest.strip_suffix(';').expect("a statement ends");
            name.strip_prefix("\"~^").and_then(|name| name.strip_suffix("$\"")).unwrap_or(name)
        } else if let Some(rest) = line.strip_prefix("set $nginit_prefix \"") {
            rest.strip_suffix("\";").expect("a statement ends")
        } else if let Some(rest) = line.strip_prefix("set $nginit_path \"").filter(|rest| !rest.starts_with('"')) {
            rest.strip_suffix("$is_args$args\";").expect("a statement ends")
        } else if let Some(rest) = line.strip_prefix("rewrite \"(?s)^") {
            rest.strip_suffix("/*(.*)$\" /$1;").expect("a statement ends")
        } else {
            continue;
        };
        assert!(!argument.contains([' ', ';', '{', '}', '"', '\'', '\\', '$', '#']), "{line:?}");
    }
});
