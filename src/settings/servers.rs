//! The server-list grammar of `NAME_BACKEND`.
//!
//! ```text
//! list    = entry *( 1*( blank | "," | newline ) entry )      "#" starts a comment, to the end of the line
//! entry   = address *( ";" param )
//! address = IPv4[:port] | "[" IPv6 "]"[:port] | host name[:port] | "srv:" name | "unix:" path
//! param   = weight=N | max_conns=N | max_fails=N | fail_timeout=T | backup | down | drain
//! ```
//!
//! Whatever is not in the grammar is refused with its token. What is accepted consists of
//! characters that mean nothing to nginx, so no list can become nginx syntax. Parsing never
//! resolves a name or opens a socket.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use super::error::{Fault, SettingsError, fault};
use super::{parse_secs, tokens};
use crate::upstream::{Address, HostName, Params, Server};

/// Longest path of a unix socket in bytes: `sun_path` holds 108 with the final NUL (unix(7)).
const LONGEST_UNIX_PATH: usize = 107;

const FIX_OR_REMOVE: &str = "correct it or remove the entry";

/// What a list holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerList {
    /// In the list's order, each address once.
    pub servers: Vec<Server>,
    /// The number of each server's entry in the list, from 1.
    pub entries: Vec<usize>,
    /// Tokens, in quotes, that repeat an earlier entry in every respect and were dropped; of many,
    /// the first and how many more.
    pub repeated: Vec<String>,
}

/// Most entries of one list that are reported one by one. A file of millions of faults would
/// otherwise be gigabytes of messages.
const MOST_REPORTED: usize = 100;

/// The servers of a list; `port` is that of entries that name none.
///
/// # Errors
/// Every refused entry, counted from 1.
pub fn parse_servers(variable: &str, text: &str, port: NonZeroU16) -> Result<ServerList, Vec<SettingsError>> {
    let mut list = ServerList::default();
    let mut seen: HashMap<Address, usize> = HashMap::new();
    let mut errors = Vec::new();
    let (mut more_errors, mut more_repeated) = (0, 0);
    for (index, token) in tokens(text).enumerate() {
        let parsed = parse_entry(token, port).and_then(|server| match seen.get(&server.address) {
            Some(&earlier) if list.servers[earlier].params != server.params => Err(fault(
                format!("\"{}\" stands in the list already, with other parameters", server.address),
                "keep one of the two",
            )),
            earlier => Ok((server, earlier.is_some())),
        });
        match parsed {
            Ok((_, true)) if list.repeated.len() < MOST_REPORTED => list.repeated.push(format!("\"{token}\"")),
            Ok((_, true)) => more_repeated += 1,
            Ok((server, false)) => {
                seen.insert(server.address.clone(), list.servers.len());
                list.servers.push(server);
                list.entries.push(index + 1);
            }
            Err(_) if errors.len() >= MOST_REPORTED => more_errors += 1,
            Err((reason, remedy)) => errors.push(SettingsError {
                variable: variable.to_owned(),
                entry: Some(("server", index + 1)),
                token: Some(token.to_owned()),
                reason,
                remedy,
            }),
        }
    }
    if more_repeated > 0 {
        list.repeated.push(format!("each of {more_repeated} more"));
    }
    if more_errors > 0 {
        let reason = format!("{more_errors} more entries are refused");
        errors.push(SettingsError::new(variable, None, reason, "correct those above first"));
    }
    if errors.is_empty() { Ok(list) } else { Err(errors) }
}

/// One entry of a list; `port` is that of an address that names none.
///
/// # Errors
/// Reason and remedy.
pub fn parse_entry(token: &str, port: NonZeroU16) -> Result<Server, Fault> {
    let mut parts = token.split(';');
    let address = parts.next().unwrap_or_default();
    if address.is_empty() {
        return Err(fault("an address must stand before \";\"", "write ADDRESS;PARAM without blanks"));
    }
    let address = parse_address(address, port)?;
    let mut params = Params::default();
    let mut names: Vec<&str> = Vec::new();
    for part in parts {
        let name = part.split_once('=').map_or(part, |(name, _)| name);
        if names.contains(&name) && !name.is_empty() {
            return Err(fault(format!("parameter \"{name}\" is given twice"), "keep one of the two"));
        }
        names.push(name);
        parse_param(part, &mut params)?;
    }
    Ok(Server { address, params })
}

/// An address alone; `default_port` is that of one that names none.
///
/// # Errors
/// Reason and remedy.
pub fn parse_address(text: &str, default_port: NonZeroU16) -> Result<Address, Fault> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_unix(path).map(Address::Unix);
    }
    if let Some(name) = text.strip_prefix("srv:") {
        let none = || fault(format!("\"{name}\" is not a DNS name"), "write srv:NAME without a port");
        return HostName::new(name).map(Address::Srv).ok_or_else(none);
    }
    if text.contains("://") {
        return Err(fault("a URL is not an address", "write HOST:PORT without scheme and path"));
    }
    if text.contains('/') {
        return Err(fault("a path is not part of an address", "write HOST:PORT; paths go into NAME_ROUTE"));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest
            .split_once(']')
            .ok_or_else(|| fault("\"]\" is missing after the IPv6 address", "write [IPv6]:PORT"))?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| fault(format!("\"{ip}\" is not an IPv6 address"), FIX_OR_REMOVE))?;
        let port = match port.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if port.is_empty() => default_port,
            None => return Err(fault("only \":PORT\" may follow \"]\"", FIX_OR_REMOVE)),
        };
        return Ok(Address::Ip(SocketAddr::new(ip.into(), port.get())));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(fault("an IPv6 address stands in brackets", format!("write [{text}]")));
    }
    if text.contains('=') {
        return Err(fault("a parameter belongs to its server", "write SERVER;PARAM without blanks"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, parse_port(port)?),
        None => (text, default_port),
    };
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Address::Ip(SocketAddr::new(ip.into(), port.get())));
    }
    if host.split('.').next_back().is_some_and(|last| !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(fault(format!("\"{host}\" is neither an IPv4 address nor a host name"), FIX_OR_REMOVE));
    }
    let none = || {
        fault(
            "not an address: IPv4, [IPv6], a host name, srv:NAME or unix:/PATH, with :PORT where one fits",
            FIX_OR_REMOVE,
        )
    };
    HostName::new(host).map(|name| Address::Host(name, port)).ok_or_else(none)
}

/// A port, 1-65535, in decimal digits alone.
///
/// # Errors
/// Reason and remedy.
pub fn parse_port(text: &str) -> Result<NonZeroU16, Fault> {
    parse_digits::<u16>(text).and_then(NonZeroU16::new).ok_or_else(|| fault("port must be 1-65535", FIX_OR_REMOVE))
}

fn parse_unix(path: &str) -> Result<String, Fault> {
    if !path.starts_with('/') {
        return Err(fault("the path of a unix socket must be absolute", "write unix:/PATH"));
    }
    if path.len() > LONGEST_UNIX_PATH {
        let reason = format!("the path of a unix socket holds at most {LONGEST_UNIX_PATH} bytes");
        return Err(fault(reason, "use a shorter path"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@~%:=".contains(&b);
    if !path.bytes().all(plain) {
        return Err(fault(
            "the path of a unix socket may hold letters, digits and /._-+@~%:= alone",
            "rename the socket",
        ));
    }
    Ok(path.to_owned())
}

fn parse_param(text: &str, params: &mut Params) -> Result<(), Fault> {
    let number = |value: &str| {
        parse_digits::<u32>(value)
            .filter(|n| i32::try_from(*n).is_ok())
            .ok_or_else(|| fault(format!("\"{text}\" needs a number 0-2147483647"), FIX_OR_REMOVE))
    };
    match text.split_once('=') {
        Some(("weight", value)) => {
            let weight = parse_digits::<u16>(value).and_then(NonZeroU16::new);
            let none = || fault("weight must be 1-65535", "correct it, or use \"down\" for no requests");
            params.weight = Some(weight.ok_or_else(none)?);
        }
        Some(("max_conns", value)) => params.max_conns = Some(number(value)?),
        Some(("max_fails", value)) => params.max_fails = Some(number(value)?),
        Some(("fail_timeout", value)) => {
            let none = || fault(format!("\"{value}\" is not a time"), "write seconds, or a time such as 30s or 1m");
            params.fail_timeout_secs = Some(parse_secs(value).ok_or_else(none)?);
        }
        None if text == "backup" => params.backup = true,
        None if text == "down" => params.down = true,
        None if text == "drain" => params.drain = true,
        None if text.is_empty() => {
            return Err(fault("an empty parameter", "remove the \";\" that nothing follows"));
        }
        None if parse_address(text, NonZeroU16::MIN).is_ok_and(|address| matches!(address, Address::Ip(_))) => {
            return Err(fault("\";\" starts a parameter", "separate servers by blanks, commas or newlines"));
        }
        _ => {
            return Err(fault(
                format!("unknown parameter \"{text}\""),
                "use weight=N, max_conns=N, max_fails=N, fail_timeout=T, backup, down or drain",
            ));
        }
    }
    Ok(())
}

/// A number of decimal digits alone: no sign, no blank, which `FromStr` would let through.
fn parse_digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: NonZeroU16 = NonZeroU16::MIN.saturating_add(79);

    fn one(text: &str) -> String {
        let list = parse_servers("X_BACKEND", text, PORT).unwrap();
        assert!(list.repeated.is_empty());
        let written: Vec<String> =
            list.servers.iter().map(|s| format!("{}{}", s.address, s.params.to_nginx())).collect();
        written.join("|")
    }

    fn refused(text: &str) -> String {
        let errors = parse_servers("X_BACKEND", text, PORT).unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_form_of_address_is_read() {
        for (text, want) in [
            ("10.0.0.1", "10.0.0.1:80"),
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]", "[::1]:80"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("web", "web:80"),
            ("Web.Example.:81", "web.example:81"),
            ("srv:_http._tcp.web", "srv:_http._tcp.web"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("a b,c\n\td # e f\n#g\nh#i", "a:80|b:80|c:80|d:80|h:80"),
            ("", ""),
            (" , ,\r\n", ""),
        ] {
            assert_eq!(one(text), want, "{text:?}");
        }
    }

    #[test]
    fn every_parameter_is_read() {
        assert_eq!(
            one("a;weight=5;max_conns=7;max_fails=0;fail_timeout=1m30s;backup b;down c;drain;weight=65535"),
            "a:80 weight=5 max_conns=7 max_fails=0 fail_timeout=90 backup|b:80 down|c:80 weight=65535 down"
        );
    }

    #[test]
    fn what_is_not_in_the_grammar_is_refused_with_its_token() {
        for (text, reason) in [
            ("web:99999", "server 1 \"web:99999\": port must be 1-65535"),
            ("web:0", "port must be 1-65535"),
            ("web:+80", "port must be 1-65535"),
            ("web:", "port must be 1-65535"),
            ("a b:x", "server 2 \"b:x\""),
            ("http://web/", "a URL is not an address"),
            ("web/path", "a path is not part of an address"),
            ("::1", "write [::1]"),
            ("[::1", "\"]\" is missing"),
            ("[::1]80", "only \":PORT\" may follow"),
            ("[1.2.3.4]", "not an IPv6 address"),
            ("[fe80::1%eth0]:80", "not an IPv6 address"),
            ("256.0.0.1", "neither an IPv4 address nor a host name"),
            ("10.0.0", "neither an IPv4 address nor a host name"),
            ("a}b", "not an address"),
            ("$host", "not an address"),
            ("a\"b", "\"a\\\"b\": not an address"),
            ("a\u{0}b", "\"a\\u{0}b\": not an address"),
            ("bücher", "not an address"),
            ("a;", "an empty parameter"),
            ("a;;down", "an empty parameter"),
            (";down", "an address must stand before"),
            ("a;weight=0", "weight must be 1-65535"),
            ("a;weight=65536", "weight must be 1-65535"),
            ("a;weight", "unknown parameter \"weight\""),
            ("a;down=1", "unknown parameter \"down=1\""),
            ("a;max_fails=-1", "needs a number"),
            ("a;max_conns=2147483648", "needs a number"),
            ("a;fail_timeout=5x", "\"5x\" is not a time"),
            ("a;down;down", "given twice"),
            ("unix:run/a", "must be absolute"),
            ("unix:/a$b", "letters, digits"),
            ("srv:a:80", "not a DNS name"),
            ("a a:80;down", "server 2 \"a:80;down\": \"a:80\" stands in the list already"),
        ] {
            let got = refused(text);
            assert!(got.contains(reason), "{text:?}: {got}");
            assert!(got.contains("\"X_BACKEND\": server"), "{got}");
        }
        assert_eq!(refused("a:0 b c:0 d;x").lines().count(), 3, "all entries are reported");
    }

    #[test]
    fn a_repeated_entry_counts_once() {
        let list = parse_servers("X", "a b A:80 c", PORT).unwrap();
        assert_eq!((list.servers.len(), list.entries, list.repeated), (3, vec![1, 2, 4], vec!["\"A:80\"".to_owned()]));
        let list = parse_servers("X", &"a ".repeat(1000), PORT).unwrap();
        assert_eq!((list.repeated.len(), list.repeated[100].as_str()), (101, "each of 899 more"));
        let errors = parse_servers("X", &"; ".repeat(1000), PORT).unwrap_err();
        assert_eq!(errors.len(), 101);
        assert_eq!(errors[100].to_string(), "\"X\": 900 more entries are refused; correct those above first");
    }
}
