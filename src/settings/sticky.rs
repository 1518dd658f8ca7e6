//! The grammar of `NAME_STICKY`, and what does not go together with `NAME_BALANCE`.
//!
//! ```text
//! sticky = "off" | "ip" ["consistent"] | "cookie" ["=" NAME] *( ";" attribute )
//! attribute = "httponly" | "secure" | "samesite=" ( "strict" | "lax" | "none" ) | "path=/" …
//!           | "domain=" host name | "expires=" ( time | "max" ) | "hash"
//! ```
//!
//! Attributes are taken in any case, as in a `Set-Cookie`; blanks around `;` are ignored.

use super::error::{Fault, fault};
use super::parse_secs;
use crate::upstream::sticky::{Cookie, Expires, SameSite};
use crate::upstream::{Balance, HostName};

/// The longest name of a cookie, in bytes: what the longest NAME makes is shorter.
const LONGEST_NAME: usize = 80;

/// The longest path, in bytes.
const LONGEST_PATH: usize = 255;

/// The longest life of a cookie, in seconds: browsers keep none for more than 400 days, so ten years,
/// nginx's `max`, is long enough for all others.
const LONGEST_LIFE_SECS: u32 = 315_360_000;

/// What an operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// Whatever the balance method does.
    Off,
    /// By the client's address: `ip_hash`.
    Ip,
    /// By the client's address, on a ring.
    IpRing,
    /// By a cookie.
    Cookie(Cookie),
}

/// The stickiness that `text` asks for, with a cookie called `default_name` unless it says another.
///
/// # Errors
/// Reason and remedy.
pub fn parse_sticky(text: &str, default_name: &str) -> Result<Sticky, Fault> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words[..] {
        ["off"] => return Ok(Sticky::Off),
        ["ip"] => return Ok(Sticky::Ip),
        ["ip", "consistent"] => return Ok(Sticky::IpRing),
        _ => {}
    }
    let mut parts = text.split(';').map(str::trim);
    let name = match parts.next().unwrap_or_default().split_once('=') {
        Some(("cookie", name)) => name,
        None if text.split(';').next().is_some_and(|first| first.trim() == "cookie") => default_name,
        _ => return Err(fault("is no kind of stickiness", "use off, cookie[=NAME][;…], ip or ip consistent")),
    };
    let mut cookie = Cookie {
        name: parse_name(name)?,
        hash: false,
        secure: false,
        same_site: None,
        path: "/".to_owned(),
        domain: None,
        expires: None,
    };
    let mut seen = Vec::new();
    for part in parts {
        let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        if seen.contains(&key) {
            return Err(fault(format!("\"{key}\" is there twice"), "keep one of them"));
        }
        seen.push(key.clone());
        match (key.as_str(), value) {
            ("httponly", None) => {}
            ("secure", None) => cookie.secure = true,
            ("hash", None) => cookie.hash = true,
            ("samesite", Some(word)) => cookie.same_site = Some(parse_same_site(word)?),
            ("path", Some(path)) => cookie.path = parse_path(path)?,
            ("domain", Some(domain)) => cookie.domain = Some(parse_domain(domain)?),
            ("expires", Some(time)) => cookie.expires = Some(parse_expires(time)?),
            _ => {
                let remedy = "use httponly, secure, samesite=strict|lax|none, path=/…, domain=…, expires=T|max or hash";
                return Err(fault(format!("\"{part}\" is no attribute of a cookie here"), remedy));
            }
        }
    }
    if cookie.same_site == Some(SameSite::None) && !cookie.secure {
        return Err(fault("browsers drop a cookie with samesite=none that is not secure", "add ;secure, or use lax"));
    }
    Ok(Sticky::Cookie(cookie))
}

fn parse_name(name: &str) -> Result<String, Fault> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(fits) {
        let reason = format!("\"{name}\" is not the name of a cookie that nginx can read");
        return Err(fault(reason, format!("use at most {LONGEST_NAME} letters, digits and _")));
    }
    Ok(name.to_owned())
}

fn parse_same_site(word: &str) -> Result<SameSite, Fault> {
    let all = [SameSite::Strict, SameSite::Lax, SameSite::None];
    let known = all.into_iter().find(|same_site| same_site.word().eq_ignore_ascii_case(word));
    known.ok_or_else(|| fault(format!("\"samesite={word}\" is unknown"), "use strict, lax or none"))
}

fn parse_path(path: &str) -> Result<String, Fault> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@~%:".contains(&b);
    if !path.starts_with('/') || path.len() > LONGEST_PATH || !path.bytes().all(fits) {
        let remedy = format!("start it with / and use at most {LONGEST_PATH} letters, digits and /._-+@~%:");
        return Err(fault(format!("\"path={path}\" is not a path of a cookie"), remedy));
    }
    Ok(path.to_owned())
}

fn parse_domain(domain: &str) -> Result<String, Fault> {
    // Browsers ignore a dot in front (RFC 6265, 5.2.3).
    let host = HostName::new(domain.strip_prefix('.').unwrap_or(domain));
    let reason = || fault(format!("\"domain={domain}\" is not a host name"), "use for example domain=example.org");
    host.map(|host| host.as_str().to_owned()).ok_or_else(reason)
}

fn parse_expires(time: &str) -> Result<Expires, Fault> {
    if time == "max" {
        return Ok(Expires::Max);
    }
    let secs = parse_secs(time).filter(|secs| (1..=LONGEST_LIFE_SECS).contains(secs));
    let reason = || fault(format!("\"expires={time}\" is no time"), "use 1s to 3650d, for example 1h or 30d, or max");
    secs.map(Expires::Secs).ok_or_else(reason)
}

/// The balance method and the cookie of an upstream. `balance` is what NAME_BALANCE says, or its
/// default where nobody `asked` for one.
///
/// # Errors
/// Reason, without its subject `"NAME_BALANCE"`, and remedy.
pub fn settle(sticky: Sticky, balance: Balance, asked: bool) -> Result<(Balance, Option<Cookie>), Fault> {
    let wants = |wanted: Balance, means: &str| {
        if asked && balance != wanted {
            let reason = format!("asks for {}, while stickiness here means {means}", balance.word());
            return Err(fault(reason, "keep one of the two variables"));
        }
        Ok((wanted, None))
    };
    match sticky {
        Sticky::Off => Ok((balance, None)),
        Sticky::Ip => wants(Balance::IpHash, "ip_hash"),
        Sticky::IpRing => {
            let key = "$binary_remote_addr";
            wants(Balance::Hash { key: key.to_owned(), consistent: true }, &format!("hash {key} consistent"))
        }
        Sticky::Cookie(cookie) if !asked => Ok((Balance::RoundRobin, Some(cookie))),
        Sticky::Cookie(cookie) => match balance {
            Balance::IpHash | Balance::Hash { .. } => {
                let reason = format!("asks for {}, which ties clients to servers by itself", balance.word());
                Err(fault(reason, "keep one of the two variables"))
            }
            Balance::LeastConn | Balance::Random if cookie.hash => {
                let reason = format!("asks for {}, which \"hash\" here replaces", balance.word());
                Err(fault(reason, "remove \";hash\", or balance by round_robin"))
            }
            Balance::RoundRobin | Balance::LeastConn | Balance::Random => Ok((balance, Some(cookie))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(text: &str) -> Cookie {
        match parse_sticky(text, "nginit_x") {
            Ok(Sticky::Cookie(cookie)) => cookie,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_kind_is_read() {
        assert_eq!(parse_sticky(" off ", "x"), Ok(Sticky::Off));
        assert_eq!(parse_sticky("ip", "x"), Ok(Sticky::Ip));
        assert_eq!(parse_sticky("ip  consistent", "x"), Ok(Sticky::IpRing));
        assert_eq!(cookie("cookie").to_nginx(), "sticky cookie nginit_x httponly path=/");
        assert_eq!(cookie("cookie").attributes(), "; HttpOnly; Path=/");
        assert!(!cookie("cookie").hash && cookie("cookie;hash").hash);
    }

    #[test]
    fn attributes_stand_where_nginx_puts_them() {
        let all = "cookie=Home ; path=/a ;samesite=none;secure;httponly; domain=.Example.org;expires=1h30m";
        assert_eq!(
            cookie(all).to_nginx(),
            "sticky cookie Home expires=5400s domain=example.org httponly secure samesite=none path=/a"
        );
        assert_eq!(
            cookie(all).attributes(),
            "; Max-Age=5400; Domain=example.org; HttpOnly; Secure; SameSite=None; Path=/a"
        );
        assert_eq!(cookie("cookie;Secure;HttpOnly;SameSite=Strict"), cookie("cookie;secure;samesite=strict"));
        let max = cookie("cookie;expires=max;samesite=lax");
        assert_eq!(max.to_nginx(), "sticky cookie nginit_x expires=max httponly samesite=lax path=/");
        assert!(max.attributes().contains("; Max-Age=315360000; HttpOnly; SameSite=Lax; Path=/"));
    }

    #[test]
    fn what_is_unknown_or_unsafe_is_refused_by_name() {
        let long = format!("cookie={}", "a".repeat(81));
        let long_path = format!("cookie;path=/{}", "a".repeat(255));
        for (bad, said) in [
            ("", "no kind"),
            ("on", "no kind"),
            ("Cookie", "no kind"),
            ("ip ring", "no kind"),
            ("cookies=x", "no kind"),
            ("cookie x", "no kind"),
            ("cookie=", "\"\" is not the name"),
            ("cookie=a-b", "\"a-b\" is not the name"),
            ("cookie=é", "\"é\" is not the name"),
            ("cookie=a b", "\"a b\" is not the name"),
            (&long, "is not the name"),
            ("cookie;", "\"\" is no attribute"),
            ("cookie;secure=1", "\"secure=1\" is no attribute"),
            ("cookie;evil on", "\"evil on\" is no attribute"),
            ("cookie;Secure;secure", "\"secure\" is there twice"),
            ("cookie;path=/a;path=/b", "\"path\" is there twice"),
            ("cookie;path=a", "\"path=a\""),
            ("cookie;path=/$a", "\"path=/$a\""),
            ("cookie;path=/a b", "\"path=/a b\""),
            ("cookie;path=/\"", "\"path=/\"\""),
            (&long_path, "is not a path"),
            ("cookie;domain=a b", "\"domain=a b\""),
            ("cookie;domain=10.0.0.1", "\"domain=10.0.0.1\""),
            ("cookie;domain=", "\"domain=\""),
            ("cookie;expires=0", "\"expires=0\""),
            ("cookie;expires=never", "\"expires=never\""),
            ("cookie;expires=3651d", "\"expires=3651d\""),
            ("cookie;samesite=none", "not secure"),
        ] {
            let (reason, remedy) = parse_sticky(bad, "x").unwrap_err();
            assert!(reason.contains(said) && !remedy.is_empty(), "{bad}: {reason}");
        }
    }

    #[test]
    fn stickiness_and_balance_that_do_not_go_together_are_refused() {
        let ring = || Balance::Hash { key: "$binary_remote_addr".into(), consistent: true };
        let balances = || [Balance::RoundRobin, Balance::LeastConn, Balance::Random, Balance::IpHash, ring()];
        for (text, asked, fits) in [
            ("off", true, [true, true, true, true, true]),
            ("ip", true, [false, false, false, true, false]),
            ("ip", false, [true, true, true, true, true]),
            ("ip consistent", true, [false, false, false, false, true]),
            ("cookie", true, [true, true, true, false, false]),
            ("cookie", false, [true, true, true, true, true]),
            ("cookie;hash", true, [true, false, false, false, false]),
        ] {
            let settled = balances().map(|balance| settle(parse_sticky(text, "x").unwrap(), balance, asked));
            assert_eq!(settled.each_ref().map(Result::is_ok), fits, "{text} {asked}: {settled:?}");
        }
        let settled = settle(parse_sticky("cookie", "x").unwrap(), Balance::IpHash, false).unwrap();
        assert_eq!((settled.0, settled.1.is_some()), (Balance::RoundRobin, true));
        assert_eq!(settle(Sticky::Ip, Balance::RoundRobin, false), Ok((Balance::IpHash, None)));
        assert_eq!(settle(Sticky::IpRing, Balance::RoundRobin, false), Ok((ring(), None)));
    }
}
