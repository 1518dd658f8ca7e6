//! What nginx speaks to the servers of an upstream: `NAME_PROTOCOL`, `NAME_TLS_VERIFY`,
//! `NAME_TLS_NAME`, `NAME_TLS_CA`.

use super::error::SettingsError;
use super::{Findings, Vars, as_set, or_default, parse_switch, tls};
use crate::ordered::InOrder;
use crate::upstream::{Address, HostName, Name, PeerTls, Protocol, Server, Upstreams};

/// The texts, as given.
pub(super) struct Raw<'a> {
    pub(super) protocol: &'a str,
    pub(super) verify: &'a str,
    pub(super) name: &'a str,
    pub(super) ca: &'a str,
}

const HTTP: &str = super::variables::DEFAULT_PROTOCOL;

/// The protocol of the upstream `name`; nothing where what is said of it is refused.
pub(super) fn parse(name: &Name, raw: &Raw<'_>, vars: &Vars, findings: &mut Findings) -> Option<Protocol> {
    let var = |suffix: &str| format!("{}_{suffix}", name.as_str());
    let fault = |reason: &str| (reason.to_owned(), "correct it or unset the variable".to_owned());
    let word = or_default(raw.protocol, HTTP);
    let parsed = match word {
        "http" => Ok((false, false)),
        "https" => Ok((false, true)),
        "grpc" => Ok((true, false)),
        "grpcs" => Ok((true, true)),
        _ => Err(fault("is not http, https, grpc or grpcs")),
    };
    let protocol = findings.check(vars, &var("PROTOCOL"), word, parsed);
    let verify = parse_switch(or_default(raw.verify, super::variables::DEFAULT_TLS_VERIFY));
    let verify = findings.check(vars, &var("TLS_VERIFY"), raw.verify, verify);
    let host = match raw.name.trim() {
        "" => Some(None),
        text => {
            let host = HostName::new(text).ok_or_else(|| fault("is not a host name"));
            findings.check(vars, &var("TLS_NAME"), text, host).map(Some)
        }
    };
    let ca = match raw.ca.trim() {
        "" => Some(None),
        text => tls::path(&var("TLS_CA"), text, vars, findings).map(Some),
    };
    let (grpc, encrypted) = protocol?;
    if encrypted {
        return Some(Protocol { grpc, tls: Some(PeerTls { verify: verify?, name: host?, ca: ca? }) });
    }
    for (suffix, text) in [("TLS_VERIFY", raw.verify), ("TLS_NAME", raw.name), ("TLS_CA", raw.ca)] {
        if !text.trim().is_empty() {
            let with_tls = if grpc { "grpcs" } else { "https" };
            let remedy = format!("set {}={with_tls}, or unset it", var("PROTOCOL"));
            let reason = format!("means nothing with {}={word}", var("PROTOCOL"));
            findings.errors.push(SettingsError::new(as_set(vars, &var(suffix)), None, reason, remedy));
        }
    }
    Some(Protocol { grpc, tls: None })
}

/// The same, with the name of its `servers` where that is not given and they all have the same.
pub(super) fn named(
    name: &Name,
    protocol: Protocol,
    servers: &[Server],
    vars: &Vars,
    findings: &mut Findings,
) -> Protocol {
    let Protocol { grpc, tls: Some(PeerTls { verify, name: None, ca }) } = protocol else { return protocol };
    let host = |server: &Server| match &server.address {
        Address::Host(host, _) | Address::Srv(host) => Some(host.clone()),
        Address::Ip(_) | Address::Unix(_) => None,
    };
    let hosts = servers.iter().map(host).into_set();
    let only = if hosts.len() == 1 { hosts.into_iter().next().flatten() } else { None };
    if verify && only.is_none() && !servers.is_empty() {
        let name = name.as_str();
        findings.errors.push(SettingsError::new(
            as_set(vars, &format!("{name}_BACKEND")),
            None,
            "certificates are verified by a host name, and the servers have none or several",
            format!("set {name}_TLS_NAME to the name in their certificates, or {name}_TLS_VERIFY=off"),
        ));
    }
    Protocol { grpc, tls: Some(PeerTls { verify, name: only, ca }) }
}

/// The faults of upstreams whose servers are to be verified by the authorities of the system, of
/// which there are none.
pub fn without_bundle(upstreams: &Upstreams) -> Vec<SettingsError> {
    let verified = upstreams.iter().filter(|(_, upstream)| upstream.protocol.needs_bundle());
    let error = |(name, upstream): (&Name, &crate::upstream::Upstream)| {
        let name = name.as_str();
        SettingsError::new(
            format!("{name}_PROTOCOL"),
            Some(upstream.protocol.word()),
            "there are no certificates of authorities in /etc/ssl or /etc/pki to verify servers by",
            format!("install ca-certificates, set {name}_TLS_CA, or set {name}_TLS_VERIFY=off"),
        )
    };
    verified.map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Given, Vars, parse};
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        let given = |name: &str, value: &str| Given { variable: name.to_owned(), value: value.to_owned() };
        let all = [&[("A_ROUTE", "/")], pairs].concat();
        all.iter().map(|(n, v)| ((*n).to_owned(), given(n, v))).collect()
    }

    fn protocol(pairs: &[(&str, &str)]) -> (Protocol, String) {
        let (settings, _) = parse(&vars(pairs)).unwrap();
        let upstream = settings.upstreams.into_values().next().unwrap();
        (upstream.protocol, upstream.servers.first().map(|s| s.address.to_string()).unwrap_or_default())
    }

    #[test]
    fn tls_verifies_by_the_one_name_of_the_servers() {
        let tls = |name: Option<&str>, verify| PeerTls { verify, name: name.and_then(HostName::new), ca: None };
        let (plain, address) = protocol(&[("A_BACKEND", "web")]);
        assert_eq!((plain, address.as_str()), (Protocol::default(), "web:80"));
        let (https, address) = protocol(&[("A_BACKEND", "web web:444"), ("A_PROTOCOL", "https")]);
        assert_eq!((https.word(), https.module(), address.as_str()), ("https", "proxy", "web:443"));
        assert_eq!(https.tls, Some(tls(Some("web"), true)));
        let (grpcs, _) = protocol(&[("A_BACKEND", "a b"), ("A_PROTOCOL", "grpcs"), ("A_TLS_NAME", "X.test")]);
        assert_eq!((grpcs.word(), grpcs.module()), ("grpcs", "grpc"));
        assert_eq!(grpcs.tls, Some(tls(Some("x.test"), true)));
        let (off, _) = protocol(&[("A_BACKEND", "10.0.0.1"), ("A_PROTOCOL", "https"), ("A_TLS_VERIFY", "off")]);
        assert_eq!(off.tls, Some(tls(None, false)));
        let (empty, _) = protocol(&[("A_BACKEND", ""), ("A_PROTOCOL", "https"), ("A_TLS_CA", "/ca.pem")]);
        assert_eq!(empty.tls.unwrap().ca.as_deref(), Some("/ca.pem"));
        let (grpc, address) = protocol(&[("A_BACKEND", "web"), ("A_PROTOCOL", "grpc"), ("A_PORT", "50051")]);
        assert_eq!((grpc.word(), address.as_str()), ("grpc", "web:50051"));
    }

    #[test]
    fn what_cannot_be_verified_is_refused() {
        let refused = |pairs: &[(&str, &str)]| parse(&vars(pairs)).unwrap_err().to_string();
        let nameless = "\"A_BACKEND\": certificates are verified by a host name, and the servers have none or several; set A_TLS_NAME to the name in their certificates, or A_TLS_VERIFY=off";
        for servers in ["10.0.0.1", "a b", "a unix:/a.sock", "[::1] a"] {
            assert_eq!(refused(&[("A_BACKEND", servers), ("A_PROTOCOL", "https")]), nameless, "{servers}");
        }
        for (set, error) in [
            (
                ("A_PROTOCOL", "h2"),
                "\"A_PROTOCOL\": \"h2\": is not http, https, grpc or grpcs; correct it or unset the variable",
            ),
            (
                ("A_TLS_CA", "/ca.pem"),
                "\"A_TLS_CA\": means nothing with A_PROTOCOL=http; set A_PROTOCOL=https, or unset it",
            ),
            (
                ("A_TLS_VERIFY", "no"),
                "\"A_TLS_VERIFY\": \"no\": is not on or off; correct it or unset the variable\n\"A_TLS_VERIFY\": means nothing with A_PROTOCOL=http; set A_PROTOCOL=https, or unset it",
            ),
            (
                ("A_TLS_NAME", "10.0.0.1"),
                "\"A_TLS_NAME\": \"10.0.0.1\": is not a host name; correct it or unset the variable\n\"A_TLS_NAME\": means nothing with A_PROTOCOL=http; set A_PROTOCOL=https, or unset it",
            ),
        ] {
            assert_eq!(refused(&[("A_BACKEND", "a"), set]), error);
        }
    }

    #[test]
    fn without_a_bundle_only_own_authorities_verify() {
        let missing = |more: &[(&str, &str)]| {
            let all = [&[("A_BACKEND", "a"), ("A_PROTOCOL", "https")], more].concat();
            without_bundle(&parse(&vars(&all)).unwrap().0.upstreams).len()
        };
        assert_eq!(missing(&[]), 1);
        assert_eq!((missing(&[("A_TLS_CA", "/ca.pem")]), missing(&[("A_TLS_VERIFY", "off")])), (0, 0));
    }
}
