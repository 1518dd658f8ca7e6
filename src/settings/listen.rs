//! The grammar of `NGINIT_LISTEN`: `PORT`, `IP:PORT` or `[IPv6]:PORT`, each with `;tls`, `;http2` and
//! `;proxy_protocol`.

use std::net::IpAddr;

use super::error::SettingsError;
use super::tls::Tls;
use super::variables as table;
use super::{Findings, Vars, as_set, or_default, own, servers, tokens};
use crate::upstream::Listen;

/// Where nginx listens, unless that is refused, which is among the findings then. Whether there is
/// `tls` is not known where what is said of it is refused.
pub(super) fn parse(
    raw: &own::Raw,
    tls: Option<Option<&Tls>>,
    vars: &Vars,
    findings: &mut Findings,
) -> Option<Vec<Listen>> {
    let variable = as_set(vars, table::ENV_LISTEN);
    let default = if tls.flatten().is_some() { table::DEFAULT_TLS_LISTEN } else { table::DEFAULT_LISTEN };
    let text = or_default(&raw.listen, default);
    let listen = parse_list(&variable, text).map_err(|errors| findings.errors.extend(errors)).ok()?;
    let encrypted = listen.iter().position(|listen| listen.tls);
    match (tls, encrypted) {
        (Some(None), Some(index)) => findings.errors.push(SettingsError {
            variable,
            entry: Some(("address", index + 1)),
            token: tokens(text).nth(index).map(str::to_owned),
            reason: "there is no certificate".to_owned(),
            remedy: format!("set {} and {}, or remove \";tls\"", table::ENV_TLS_CERT, table::ENV_TLS_KEY),
        }),
        (Some(Some(_)), None) => findings.errors.push(SettingsError::new(
            variable,
            Some(text),
            format!("no address has \";tls\", and {} is set", table::ENV_TLS_CERT),
            format!("append \";tls\" to an address, or unset {}", table::ENV_TLS_CERT),
        )),
        _ => return Some(listen),
    }
    None
}

fn parse_list(variable: &str, text: &str) -> Result<Vec<Listen>, Vec<SettingsError>> {
    let mut listen: Vec<Listen> = Vec::new();
    let mut errors = Vec::new();
    for (index, token) in tokens(text).enumerate() {
        let twice = |new: &Listen| listen.iter().any(|l| (l.address, l.port) == (new.address, new.port));
        let entry = parse_entry(token).and_then(|new| match twice(&new) {
            true => Err("stands there twice".to_owned()),
            false => Ok(new),
        });
        match entry {
            Ok(entry) => listen.push(entry),
            Err(reason) => errors.push(SettingsError {
                variable: variable.to_owned(),
                entry: Some(("address", index + 1)),
                token: Some(token.to_owned()),
                reason,
                remedy: "correct it or remove the entry".to_owned(),
            }),
        }
    }
    if listen.is_empty() && errors.is_empty() {
        errors.push(SettingsError::new(
            variable,
            Some(text),
            "holds no address",
            "write a port, or unset the variable",
        ));
    }
    if errors.is_empty() { Ok(listen) } else { Err(errors) }
}

/// One address of `NGINIT_LISTEN` with its parameters.
///
/// # Errors
/// What is wrong with it.
pub fn parse_entry(token: &str) -> Result<Listen, String> {
    let mut parts = token.split(';');
    let address = parts.next().and_then(parse_address);
    let mut listen = address.ok_or("is not PORT, IP:PORT or [IPv6]:PORT")?;
    for param in parts {
        let flag = match param {
            "tls" => &mut listen.tls,
            "http2" => &mut listen.http2,
            "proxy_protocol" => &mut listen.proxy_protocol,
            _ => return Err(format!("\"{param}\" is not tls, http2 or proxy_protocol")),
        };
        if std::mem::replace(flag, true) {
            return Err(format!("\"{param}\" stands there twice"));
        }
    }
    Ok(listen)
}

/// What a `listen` statement of nginx says, by its arguments.
pub fn parse_statement(arguments: &[&str]) -> Option<Listen> {
    let (address, params) = arguments.split_first()?;
    let listen = parse_address(address)?;
    let has = |param| params.contains(&param);
    Some(Listen { tls: has("ssl"), http2: has("http2"), proxy_protocol: has("proxy_protocol"), ..listen })
}

/// The address alone.
fn parse_address(text: &str) -> Option<Listen> {
    if let Ok(port) = servers::parse_port(text) {
        return Some(Listen::plain(None, port));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = servers::parse_port(port).ok()?;
    let address = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => Some(IpAddr::V6(v6.parse().ok()?)),
        None if host == "*" || host == "0.0.0.0" => None,
        None => Some(IpAddr::V4(host.parse().ok()?)),
    };
    Some(Listen::plain(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_takes_ports_and_addresses() {
        let listen = parse_list("L", "80 [::1]:81,127.0.0.1:82 *:83").unwrap();
        assert_eq!(
            listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["80", "[::1]:81", "127.0.0.1:82", "83"]
        );
        for bad in ["x", "0", "1.2.3:80", "::1:80", "80;", "unix:/x", "80 80", "80 0.0.0.0:80", "[::]", "80 80;tls"] {
            assert!(parse_list("L", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_combined_in_any_order() {
        let entry = |text| parse_entry(text).map(|l| (l.tls, l.http2, l.proxy_protocol));
        assert_eq!(entry("443;tls"), Ok((true, false, false)));
        assert_eq!(entry("[::1]:1;proxy_protocol;http2"), Ok((false, true, true)));
        assert_eq!(entry("443;http2;proxy_protocol;tls"), Ok((true, true, true)));
        for bad in ["443;ssl", "443;tls;tls", "443;", ";tls", "443;tls=on", "443 ;tls"] {
            assert!(parse_entry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn statements_of_nginx_are_read_back() {
        let listen = parse_statement(&["[::1]:443", "ssl", "http2", "proxy_protocol", "default_server"]).unwrap();
        assert_eq!(Ok(listen), parse_entry("[::1]:443;tls;http2;proxy_protocol"));
        assert_eq!(parse_statement(&["80", "default_server"]), parse_entry("80").ok());
        assert_eq!((parse_statement(&["unix:/a"]), parse_statement(&[])), (None, None));
    }
}
