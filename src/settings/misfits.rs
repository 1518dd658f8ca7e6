//! What good settings ask for and the nginx at hand cannot do.
//!
//! It takes nginx's version to know, so this is not found while variables are read.

use super::LiveMode;
use super::Note;
use super::Settings;
use super::error::SettingsError;
use super::variables as table;
use crate::live::{self, Ability, Why};
use crate::log::Level;
use crate::nginx::facts::Version;
use crate::upstream::{Balance, Name, Upstream};

/// Upstreams that are sticky by a cookie in a way of ours because nginx has none of its own.
fn without_nginx_way(settings: &Settings, nginx: Version) -> impl Iterator<Item = (&Name, &Upstream)> {
    let wants_it = |upstream: &Upstream| upstream.sticky.as_ref().is_some_and(|cookie| !cookie.hash);
    settings.upstreams.iter().filter(move |(_, upstream)| !nginx.has_sticky() && wants_it(upstream))
}

/// Every setting that this nginx cannot follow.
pub fn misfits(settings: &Settings, nginx: Version) -> Vec<SettingsError> {
    let others = grpc_without_http2(settings, nginx).into_iter().chain(never_live(settings, nginx));
    backups_with_cookies(settings, nginx).into_iter().chain(others).collect()
}

/// Backup servers need a cookie of nginx's own.
fn backups_with_cookies(settings: &Settings, nginx: Version) -> Vec<SettingsError> {
    let of = |(name, upstream): (&Name, &Upstream)| {
        let backups = upstream.servers.iter().filter(|server| server.params.backup);
        let error = |token: String| {
            let reason = format!("nginx {nginx} knows no backup servers with {}_STICKY=cookie", name.as_str());
            SettingsError::new(
                &upstream.variable,
                Some(&token),
                reason,
                "use nginx 1.29.6 or later, or remove \"backup\"",
            )
        };
        backups.map(|server| error(format!("{};backup", server.address))).collect::<Vec<_>>()
    };
    without_nginx_way(settings, nginx).flat_map(of).collect()
}

/// What cannot be followed without a reload, where the operator insists on that.
fn never_live(settings: &Settings, nginx: Version) -> Vec<SettingsError> {
    let ability = Ability { mode: settings.live, nginx, ipv6: true, fault: None };
    if settings.live != LiveMode::On {
        return Vec::new();
    }
    let refuse = |reason: String| {
        SettingsError::new("NGINIT_LIVE", Some("on"), reason, "set it to auto, where nginx reloads for such servers")
    };
    if let Some(why) = ability.lack() {
        return vec![refuse(why.to_string())];
    }
    let refused = settings.upstreams.iter().filter_map(|(name, upstream)| {
        let why = ability.why_not(upstream).or_else(|| live::differ(&upstream.servers).then_some(Why::Params))?;
        Some(refuse(format!("{}: {why}", name.upstream())))
    });
    refused.collect()
}

/// What this nginx does otherwise than the settings say, without harm.
pub fn advice(settings: &Settings, nginx: Version) -> Vec<Note> {
    let replaced = |(_, upstream): &(&Name, &Upstream)| upstream.balance != Balance::RoundRobin;
    let note = |(name, upstream): (&Name, &Upstream)| {
        let (name, word) = (name.as_str(), upstream.balance.word());
        let text = format!(
            "\"{name}_BALANCE\": nginx {nginx} knows {word} with {name}_STICKY=cookie no more than other methods: \
             new clients take turns; use nginx 1.29.6 or later, or round_robin"
        );
        Note { level: Level::Warn, text }
    };
    without_nginx_way(settings, nginx).filter(replaced).map(note).collect()
}

/// gRPC needs HTTP/2 from the client too.
fn grpc_without_http2(settings: &Settings, nginx: Version) -> Option<SettingsError> {
    let (name, upstream) = settings.upstreams.iter().find(|(_, upstream)| upstream.protocol.grpc)?;
    let possible = nginx.has_http2_directive() || settings.listen.iter().any(|listen| listen.tls || listen.http2);
    (!possible).then(|| {
        let reason = format!("clients need HTTP/2 for it, which nginx {nginx} speaks only where it is asked to");
        let remedy =
            format!("append \";http2\" or \";tls\" to an address of {}, or use nginx 1.25.1", table::ENV_LISTEN);
        SettingsError::new(format!("{}_PROTOCOL", name.as_str()), Some(upstream.protocol.word()), reason, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Given, Vars, parse};

    const OLD: Version = Version(1, 29, 5);
    const NEW: Version = Version(1, 29, 6);

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let given = |name: &str, value: &str| Given { variable: name.to_owned(), value: value.to_owned() };
        let vars: Vars = pairs.iter().map(|(n, v)| ((*n).to_owned(), given(n, v))).collect();
        parse(&vars).unwrap().0
    }

    #[test]
    fn backups_need_a_cookie_of_nginx() {
        let list = ("STATIC_BACKEND", "10.0.0.1 10.0.0.2;backup");
        let settings = settings(&[list, ("STATIC_STICKY", "cookie")]);
        assert_eq!(misfits(&settings, NEW), []);
        assert_eq!(
            misfits(&settings, OLD).iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "\"STATIC_BACKEND\": \"10.0.0.2:80;backup\": nginx 1.29.5 knows no backup servers with STATIC_STICKY=cookie; use nginx 1.29.6 or later, or remove \"backup\""
            ]
        );
    }

    #[test]
    fn who_insists_on_no_reloads_is_told_what_takes_one() {
        let misfits = |pairs: &[(&str, &str)], nginx| {
            let on = [&[("NGINIT_LIVE", "on")], pairs].concat();
            misfits(&settings(&on), nginx).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let good = [
            ("STATIC_BACKEND", "10.0.0.1;max_fails=2;weight=3 10.0.0.2;max_fails=2;backup"),
            ("STATIC_BALANCE", "least_conn"),
        ];
        assert_eq!(misfits(&good, NEW), "");
        assert_eq!(misfits(&[("STATIC_BACKEND", "10.0.0.1")], NEW), "", "ip_hash, because somebody insists");
        for (pairs, nginx, why) in [
            (&good[..], Version(1, 26, 3), "nginx 1.26.3 cannot; 1.27.3 can"),
            (
                &[("STATIC_BACKEND", "a b;max_fails=2")],
                NEW,
                "static_backend: its servers differ in max_conns, max_fails or fail_timeout",
            ),
            (
                &[("STATIC_BACKEND", "a"), ("STATIC_STICKY", "cookie;hash")],
                NEW,
                "static_backend: the cookie's servers are computed by nginit; nginx's own sticky cookie can",
            ),
        ] {
            assert_eq!(
                misfits(pairs, nginx),
                format!("\"NGINIT_LIVE\": \"on\": {why}; set it to auto, where nginx reloads for such servers")
            );
        }
    }

    #[test]
    fn a_method_that_does_not_count_is_noted() {
        let list = ("STATIC_BACKEND", "10.0.0.1");
        let least = settings(&[list, ("STATIC_STICKY", "cookie"), ("STATIC_BALANCE", "least_conn")]);
        assert_eq!(advice(&least, NEW), []);
        assert_eq!(advice(&least, OLD).len(), 1);
        assert_eq!(misfits(&least, OLD), []);
        assert_eq!(advice(&settings(&[list, ("STATIC_STICKY", "cookie;hash")]), OLD), []);
        assert_eq!(advice(&settings(&[list, ("STATIC_BALANCE", "least_conn")]), OLD), []);
    }

    #[test]
    fn grpc_needs_http2_from_clients() {
        let misfits = |nginx: Version, listen: &str| {
            let given = |name: &str, value: &str| {
                (name.to_owned(), Given { variable: name.to_owned(), value: value.to_owned() })
            };
            let vars = [given("STATIC_BACKEND", "a"), given("STATIC_PROTOCOL", "grpc"), given("NGINIT_LISTEN", listen)];
            let (settings, _) = parse(&vars.into_iter().collect()).unwrap();
            misfits(&settings, nginx).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            misfits(Version(1, 22, 1), "80"),
            [
                "\"STATIC_PROTOCOL\": \"grpc\": clients need HTTP/2 for it, which nginx 1.22.1 speaks only where it is asked to; append \";http2\" or \";tls\" to an address of NGINIT_LISTEN, or use nginx 1.25.1"
            ]
        );
        assert!(misfits(Version(1, 22, 1), "80 81;http2").is_empty());
        assert!(misfits(Version(1, 25, 1), "80").is_empty());
    }
}
