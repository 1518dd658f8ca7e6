//! The grammar of `NAME_BALANCE`.
//!
//! ```text
//! balance = round_robin | least_conn | random | ip_hash | "hash" KEY ["consistent"]
//! KEY     = 1*( "$"variable | letter | digit | one of _.:/- )
//! ```

use super::error::{Fault, fault};
use crate::upstream::Balance;

/// Variables that nginx knows in every build
/// (<https://nginx.org/en/docs/http/ngx_http_core_module.html#variables>). A key of others would
/// be refused by nginx, so it is refused here, where the operator's variable can be named.
const KNOWN: &[&str] = &[
    "args",
    "binary_remote_addr",
    "content_type",
    "document_uri",
    "host",
    "hostname",
    "https",
    "is_args",
    "proxy_protocol_addr",
    "query_string",
    "remote_addr",
    "remote_user",
    "request",
    "request_id",
    "request_method",
    "request_uri",
    "scheme",
    "server_addr",
    "server_name",
    "server_port",
    "server_protocol",
    "uri",
];

/// What to do about a key.
const USAGE: &str =
    "use for example hash $request_uri consistent, $cookie_NAME, $http_NAME or $arg_NAME (in a shell, quote the $)";

/// The longest key, in bytes; nginx takes no argument of 4,096.
const LONGEST_KEY: usize = 255;

/// Families of variables, by prefix.
const FAMILIES: &[&str] = &["arg_", "cookie_", "http_"];

/// The balance method.
///
/// # Errors
/// Reason and remedy.
pub fn parse_balance(text: &str) -> Result<Balance, Fault> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words[..] {
        ["round_robin"] => Ok(Balance::RoundRobin),
        ["least_conn"] => Ok(Balance::LeastConn),
        ["random"] => Ok(Balance::Random),
        ["ip_hash"] => Ok(Balance::IpHash),
        ["hash", key] => Ok(Balance::Hash { key: parse_key(key)?, consistent: false }),
        ["hash", key, "consistent"] => Ok(Balance::Hash { key: parse_key(key)?, consistent: true }),
        _ => Err(fault(
            "is not a balance method",
            "use round_robin, least_conn, random, ip_hash or hash KEY [consistent]",
        )),
    }
}

fn parse_key(key: &str) -> Result<String, Fault> {
    if key.len() > LONGEST_KEY {
        return Err(fault(format!("the key holds more than {LONGEST_KEY} bytes"), USAGE));
    }
    let mut parts = key.split('$');
    let literal = parts.next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b);
    if !literal.bytes().all(plain) {
        return Err(fault("the key holds a character that is not letter, digit, $ or one of _.:/-", USAGE));
    }
    let mut variables = 0;
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_').unwrap_or(part.len());
        let (name, literal) = part.split_at(end);
        let family = FAMILIES.iter().any(|f| name.strip_prefix(f).is_some_and(|rest| !rest.is_empty()));
        if !family && !KNOWN.contains(&name) {
            return Err(fault(format!("\"${name}\" is not a variable that every nginx knows"), USAGE));
        }
        if !literal.bytes().all(plain) {
            return Err(fault("the key holds a character that is not letter, digit, $ or one of _.:/-", USAGE));
        }
        variables += 1;
    }
    if variables == 0 {
        return Err(fault("a key without a variable sends every request to one server", USAGE));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read() {
        assert_eq!(parse_balance(" ip_hash "), Ok(Balance::IpHash));
        let hash = parse_balance("hash $host:$cookie_sid/x consistent").unwrap();
        assert_eq!(hash.to_nginx().as_deref(), Some("hash $host:$cookie_sid/x consistent"));
    }

    #[test]
    fn what_nginx_would_refuse_is_refused() {
        for bad in [
            "",
            "sticky",
            "ip_hash x",
            "hash",
            "hash key",
            "hash $nosuch",
            "hash $cookie_",
            "hash $uri;x",
            "hash ${uri}",
            "hash $Uri",
        ] {
            assert!(parse_balance(bad).is_err(), "{bad}");
        }
    }
}
