//! Whose word on a client's address counts: `NGINIT_TRUSTED_PROXIES`, `NGINIT_REAL_IP_HEADER`.

use std::net::IpAddr;

use super::error::SettingsError;
use super::variables as table;
use super::{Findings, Vars, as_set, note, or_default, own, tokens};
use crate::log::Level;
use crate::upstream::{Listen, Network};

/// Proxies in front of nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealIp {
    /// Their addresses, each once; never empty.
    pub trusted: Vec<Network>,
    /// How they tell the client's address.
    pub header: RealIpHeader,
}

/// How a proxy tells the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealIpHeader {
    /// In a header of each request: letters, digits and `-`, at most 64.
    Header(String),
    /// At the start of each connection.
    ProxyProtocol,
}

impl RealIpHeader {
    /// As nginx and an operator write it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Header(name) => name,
            Self::ProxyProtocol => PROXY_PROTOCOL,
        }
    }
}

const PROXY_PROTOCOL: &str = "proxy_protocol";

/// Most networks: the lists of the largest content networks have some hundreds.
const MOST_NETWORKS: usize = 2000;

/// The longest name of a header, in bytes.
const LONGEST_HEADER: usize = 64;

/// The proxies, if there are any; nothing where what is said of them is refused. Where what is
/// said of listeners is refused, what depends on them is not looked at.
pub(super) fn parse(
    raw: &own::Raw,
    listen: Option<&[Listen]>,
    vars: &Vars,
    findings: &mut Findings,
) -> Option<Option<RealIp>> {
    let before = findings.errors.len();
    let trusted = parse_networks(raw, vars, findings);
    let (proxies, header) = (table::ENV_TRUSTED_PROXIES, table::ENV_REAL_IP_HEADER);
    let text = raw.real_ip_header.trim();
    let speaks = |listen: &Listen| listen.proxy_protocol;
    let any = listen.map(|all| all.iter().any(speaks));
    let every = listen.is_some_and(|all| all.iter().all(speaks));
    let default = if every { PROXY_PROTOCOL } else { table::DEFAULT_REAL_IP_HEADER };
    let name = match or_default(text, default) {
        PROXY_PROTOCOL => RealIpHeader::ProxyProtocol,
        name => RealIpHeader::Header(name.to_owned()),
    };
    let mut refuse = |variable: &str, token: Option<&str>, reason: &str, remedy: String| {
        findings.errors.push(SettingsError::new(as_set(vars, variable), token, reason, remedy));
    };
    let token = Some(text).filter(|text| !text.is_empty());
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match &name {
        RealIpHeader::Header(name) if name.len() > LONGEST_HEADER || !name.chars().all(good) => {
            refuse(header, token, "is not the name of a header or proxy_protocol", "correct it".to_owned());
        }
        RealIpHeader::ProxyProtocol if any == Some(false) => {
            let remedy = format!("append \";proxy_protocol\" to an address of {}", table::ENV_LISTEN);
            refuse(header, token, "no address speaks it", remedy);
        }
        _ if trusted.is_empty() && token.is_some() => {
            let remedy = format!("set {proxies} to the addresses of the proxies that send it");
            refuse(header, token, "nobody's word counts", remedy);
        }
        _ => {}
    }
    if any == Some(true) && trusted.is_empty() && before == findings.errors.len() {
        let remedy = format!("set {proxies} to the addresses of the proxies that speak it");
        findings.errors.push(SettingsError::new(
            as_set(vars, table::ENV_LISTEN),
            Some(";proxy_protocol"),
            "anybody could name any address with it",
            remedy,
        ));
    } else if any == Some(true) && !every && text.is_empty() {
        let remedy = format!("set {header} to proxy_protocol, or to the header that counts on every address");
        findings.errors.push(SettingsError::new(
            as_set(vars, table::ENV_LISTEN),
            Some(";proxy_protocol"),
            "some addresses speak it and others do not",
            remedy,
        ));
    }
    for all in trusted.iter().map(ToString::to_string).filter(|network| network.ends_with("/0")) {
        let text = format!("\"{}\": {all} is everybody, so any client can name any address", as_set(vars, proxies));
        note(&mut findings.notes, Level::Warn, format!("{text}; name the proxies alone"));
    }
    let good = findings.errors.len() == before;
    good.then(|| Some(RealIp { trusted, header: name }).filter(|real_ip| !real_ip.trusted.is_empty()))
}

fn parse_networks(raw: &own::Raw, vars: &Vars, findings: &mut Findings) -> Vec<Network> {
    let mut networks = Vec::new();
    let variable = as_set(vars, table::ENV_TRUSTED_PROXIES);
    for (index, token) in tokens(&raw.trusted_proxies).enumerate() {
        let parsed = match parse_network(token) {
            Some(_) if networks.len() == MOST_NETWORKS => Err(format!("is one more than {MOST_NETWORKS}")),
            Some(network) => Ok(network),
            None => Err("is not an IP address or network such as 10.0.0.0/8 or fd00::/8".to_owned()),
        };
        match parsed {
            Ok(network) if networks.contains(&network) => {}
            Ok(network) => networks.push(network),
            Err(reason) => findings.errors.push(SettingsError {
                variable: variable.clone(),
                entry: Some(("network", index + 1)),
                token: Some(token.to_owned()),
                reason,
                remedy: "correct it or remove the entry".to_owned(),
            }),
        }
    }
    networks
}

/// An address or a network. An IPv4 address in IPv6 is that IPv4 address, as nginx sees it.
fn parse_network(text: &str) -> Option<Network> {
    let Some((address, prefix)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(|ip| Network::of(ip.to_canonical()));
    };
    let number = prefix.bytes().all(|b| b.is_ascii_digit()) && prefix.len() <= 3;
    Network::new(address.parse().ok()?, prefix.parse().ok().filter(|_| number)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Given, Vars, parse};
    use super::parse_network;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        let given = |name: &str, value: &str| Given { variable: name.to_owned(), value: value.to_owned() };
        pairs.iter().map(|(n, v)| ((*n).to_owned(), given(n, v))).collect()
    }

    #[test]
    fn networks_lose_the_bits_of_hosts() {
        for (text, network) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("fd00:1::1/16", "fd00::/16"),
            ("2001:DB8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::1/128", "::1/128"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), network, "{text}");
        }
        for bad in [
            "",
            "x",
            "10.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "lb.test",
            "unix:",
            "[::1]",
            "10.0.0.0/255.0.0.0",
            "1.2.3.4:80",
            "10.0.0.0/0008",
        ] {
            assert_eq!(parse_network(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_header_goes_by_what_is_spoken() {
        let header = |set: &[(&str, &str)]| {
            let all = [&[("NGINIT_TRUSTED_PROXIES", "10.0.0.0/8 10.1.1.1/8, ::1")], set].concat();
            let (settings, _) = parse(&vars(&all)).unwrap();
            let real_ip = settings.real_ip.unwrap();
            assert_eq!(real_ip.trusted.len(), 2);
            real_ip.header.as_str().to_owned()
        };
        assert_eq!(header(&[]), "X-Forwarded-For");
        assert_eq!(header(&[("NGINIT_REAL_IP_HEADER", "CF-Connecting-IP")]), "CF-Connecting-IP");
        let spoken = ("NGINIT_LISTEN", "80;proxy_protocol 81;proxy_protocol");
        assert_eq!(header(&[spoken]), "proxy_protocol");
        assert_eq!(header(&[spoken, ("NGINIT_REAL_IP_HEADER", "X-Real-IP")]), "X-Real-IP");
        let mixed = ("NGINIT_LISTEN", "80 81;proxy_protocol");
        assert_eq!(header(&[mixed, ("NGINIT_REAL_IP_HEADER", "proxy_protocol")]), "proxy_protocol");
        assert_eq!(parse(&vars(&[])).unwrap().0.real_ip, None);
    }

    #[test]
    fn what_would_trust_nobody_or_anybody_is_refused() {
        let refused = |set: &[(&str, &str)]| parse(&vars(set)).unwrap_err().to_string();
        let proxies = ("NGINIT_TRUSTED_PROXIES", "10.0.0.1");
        for (set, error) in [
            (
                &[("NGINIT_LISTEN", "80;proxy_protocol")][..],
                "\"NGINIT_LISTEN\": \";proxy_protocol\": anybody could name any address with it; set NGINIT_TRUSTED_PROXIES to the addresses of the proxies that speak it",
            ),
            (
                &[proxies, ("NGINIT_LISTEN", "80 81;proxy_protocol")],
                "\"NGINIT_LISTEN\": \";proxy_protocol\": some addresses speak it and others do not; set NGINIT_REAL_IP_HEADER to proxy_protocol, or to the header that counts on every address",
            ),
            (
                &[proxies, ("NGINIT_REAL_IP_HEADER", "proxy_protocol")],
                "\"NGINIT_REAL_IP_HEADER\": \"proxy_protocol\": no address speaks it; append \";proxy_protocol\" to an address of NGINIT_LISTEN",
            ),
            (
                &[("NGINIT_REAL_IP_HEADER", "X-Real-IP")],
                "\"NGINIT_REAL_IP_HEADER\": \"X-Real-IP\": nobody's word counts; set NGINIT_TRUSTED_PROXIES to the addresses of the proxies that send it",
            ),
            (
                &[proxies, ("NGINIT_REAL_IP_HEADER", "X Real")],
                "\"NGINIT_REAL_IP_HEADER\": \"X Real\": is not the name of a header or proxy_protocol; correct it",
            ),
            (
                &[("NGINIT_TRUSTED_PROXIES", "10.0.0.1 lb.test")],
                "\"NGINIT_TRUSTED_PROXIES\": network 2 \"lb.test\": is not an IP address or network such as 10.0.0.0/8 or fd00::/8; correct it or remove the entry",
            ),
        ] {
            assert_eq!(refused(set), error);
        }
    }
}
