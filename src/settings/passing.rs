//! The grammars of `NAME_RETRY`, `NAME_TIMEOUT`, `NAME_KEEPALIVE`, `NAME_MAX_BODY` and
//! `NAME_BUFFERING`.
//!
//! ```text
//! retry     = off | N *( ";" ( "timeout=" T | "on=" COND *( "," COND ) ) )
//! COND      = error | timeout | invalid_header | http_403 | http_404 | http_429 | http_500 | http_502 | http_503 | http_504
//! timeout   = T | ( "connect=" T | "read=" T | "send=" T ) *( ";" … )
//! keepalive = off | N [ ";timeout=" T ]
//! max_body  = off | N [ k | m | g ]
//! buffering = on | off
//! ```
//!
//! Each part stands there once, in any order, without blanks.

use std::time::Duration;

use super::error::Fault;
use super::parse_duration;
use crate::upstream::passing::{Condition, DEFAULT_CONDITIONS, Keepalive, MaxBody, Retry, Timeouts};

/// More tries than any upstream has use for are a mistyped number.
const MOST_TRIES: u16 = 1000;

/// Idle connections that a worker can be asked to keep: more than it has in all.
const MOST_CONNECTIONS: u16 = 10_000;

/// Longest time. nginx counts milliseconds in 31 bits, and adds to them.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Longest wait for a connection: the kernel gives up about then (nginx's `proxy_connect_timeout`).
const LONGEST_CONNECT: Duration = Duration::from_secs(75);

/// Largest body: a TiB.
const LARGEST_BODY: u64 = 1 << 40;

/// `NAME_RETRY`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_retry(text: &str) -> Result<Retry, Fault> {
    let remedy = || "write for example 2, 2;timeout=10s, 1;on=error,timeout,http_503, or off".to_owned();
    if text == "off" {
        return Ok(Retry::Off);
    }
    let (number, parts) = text.split_once(';').map_or((text, None), |(number, rest)| (number, Some(rest)));
    let more = whole(number, MOST_TRIES).ok_or_else(|| {
        let reason = format!("does not start with off or a number of further servers 1-{MOST_TRIES}");
        (reason, remedy())
    })?;
    let (mut timeout, mut on) = (None, None);
    for part in parts.into_iter().flat_map(|parts| parts.split(';')) {
        match part.split_once('=') {
            Some(("timeout", value)) if timeout.is_none() => timeout = Some(time(part, value, LONGEST, remedy)?),
            Some(("on", list)) if on.is_none() => on = Some(conditions(list)?),
            _ => return Err(unknown(part, "timeout=T or on=LIST", remedy())),
        }
    }
    Ok(Retry::On { more: Some(more), timeout, on: on.unwrap_or_else(|| DEFAULT_CONDITIONS.to_vec()) })
}

fn conditions(list: &str) -> Result<Vec<Condition>, Fault> {
    let mut conditions = Vec::new();
    for word in list.split(',') {
        if word == "non_idempotent" {
            let reason = "\"non_idempotent\": a request that may change something is never sent twice".to_owned();
            return Err((reason, "remove it".to_owned()));
        }
        match Condition::from_word(word).filter(|condition| !conditions.contains(condition)) {
            Some(condition) => conditions.push(condition),
            None => {
                let statuses: Vec<String> = Condition::STATUSES.iter().map(|s| format!("http_{s}")).collect();
                let known = format!("error, timeout, invalid_header, {}", statuses.join(", "));
                return Err(unknown(word, "a condition of nginx's", format!("use some of {known}, each once")));
            }
        }
    }
    Ok(conditions)
}

/// `NAME_TIMEOUT`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_timeouts(text: &str) -> Result<Timeouts, Fault> {
    let remedy = || "write for example 30s, or connect=2s;read=5m;send=1m".to_owned();
    if !text.contains('=') {
        let both = Some(time(text, text, LONGEST, remedy)?);
        return Ok(Timeouts { connect: None, read: both, send: both });
    }
    let mut timeouts = Timeouts::default();
    for part in text.split(';') {
        let (slot, value, longest) = match part.split_once('=') {
            Some(("connect", value)) => (&mut timeouts.connect, value, LONGEST_CONNECT),
            Some(("read", value)) => (&mut timeouts.read, value, LONGEST),
            Some(("send", value)) => (&mut timeouts.send, value, LONGEST),
            _ => return Err(unknown(part, "connect=T, read=T or send=T", remedy())),
        };
        if slot.replace(time(part, value, longest, remedy)?).is_some() {
            return Err((format!("\"{part}\" says it a second time"), remedy()));
        }
    }
    Ok(timeouts)
}

/// `NAME_KEEPALIVE`; nothing is `off`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_keepalive(text: &str) -> Result<Option<Keepalive>, Fault> {
    let remedy = || "write for example 64, 64;timeout=1s, or off".to_owned();
    if text == "off" {
        return Ok(None);
    }
    let (number, part) = text.split_once(';').map_or((text, None), |(number, part)| (number, Some(part)));
    let connections = whole(number, MOST_CONNECTIONS).ok_or_else(|| {
        let reason = format!("does not start with off or a number of connections 1-{MOST_CONNECTIONS}");
        (reason, remedy())
    })?;
    let timeout = match part.map(|part| (part, part.strip_prefix("timeout="))) {
        None => Keepalive::default().timeout,
        Some((part, Some(value))) => time(part, value, LONGEST, remedy)?,
        Some((part, None)) => return Err(unknown(part, "timeout=T", remedy())),
    };
    Ok(Some(Keepalive { connections, timeout }))
}

/// `NAME_MAX_BODY`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_max_body(text: &str) -> Result<MaxBody, Fault> {
    if text == "off" {
        return Ok(MaxBody::Unlimited);
    }
    let fault = || {
        let reason = "is not off or a size from 1 to 1024g, in bytes or with k, m or g".to_owned();
        (reason, "write for example 512k, 10m or 1g; off for no limit".to_owned())
    };
    let (number, unit) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1u64),
    };
    let number = Some(number).filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let bytes = number.and_then(|n| n.parse::<u64>().ok()?.checked_mul(unit));
    bytes.filter(|bytes| (1..=LARGEST_BODY).contains(bytes)).map(MaxBody::Bytes).ok_or_else(fault)
}

/// A whole number from 1 to `most`, written in digits alone.
fn whole(text: &str, most: u16) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && (1..=most).contains(n))
}

fn time(part: &str, value: &str, longest: Duration, remedy: impl Fn() -> String) -> Result<Duration, Fault> {
    let time = parse_duration(value).filter(|time| !time.is_zero() && *time <= longest);
    time.ok_or_else(|| (format!("\"{part}\" is not a time from 1ms to {}s", longest.as_secs()), remedy()))
}

fn unknown(part: &str, want: &str, remedy: String) -> Fault {
    (format!("\"{part}\" is not {want}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_read() {
        assert_eq!(parse_retry("off"), Ok(Retry::Off));
        let on = |more, timeout: Option<u64>, on: &[Condition]| {
            Ok(Retry::On { more: Some(more), timeout: timeout.map(Duration::from_secs), on: on.to_vec() })
        };
        assert_eq!(parse_retry("1"), on(1, None, &DEFAULT_CONDITIONS));
        assert_eq!(parse_retry("2;timeout=10s"), on(2, Some(10), &DEFAULT_CONDITIONS));
        let conditions = [Condition::InvalidHeader, Condition::Status(429)];
        assert_eq!(parse_retry("3;on=invalid_header,http_429;timeout=1m"), on(3, Some(60), &conditions));
        for bad in [
            "",
            "0",
            "1001",
            "+1",
            "-1",
            "x",
            "on",
            "OFF",
            "1;",
            ";1",
            "1;;on=error",
            "1;on=",
            "1;on=error,",
            "1;on",
            "1;on=http_418",
            "1;on=error,error",
            "1;on=error;on=timeout",
            "1;timeout=0",
            "1;timeout=25h",
            "1;x=1",
            "off;on=error",
            "1; on=error",
            "1;on=error timeout",
            "1;on=updating",
            "1;timeout=1s;timeout=1s",
            "99999",
        ] {
            assert!(parse_retry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_may_change_something_is_never_asked_for_twice() {
        let (reason, _) = parse_retry("1;on=error,non_idempotent").unwrap_err();
        assert_eq!(reason, "\"non_idempotent\": a request that may change something is never sent twice");
    }

    #[test]
    fn timeouts_are_read() {
        let secs = |n| Some(Duration::from_secs(n));
        assert_eq!(parse_timeouts("30"), Ok(Timeouts { connect: None, read: secs(30), send: secs(30) }));
        let all = Timeouts { connect: secs(1), read: secs(300), send: secs(7) };
        assert_eq!(parse_timeouts("send=7;connect=1s;read=5m"), Ok(all));
        assert_eq!(parse_timeouts("connect=75s").map(|t| t.read), Ok(None));
        for bad in [
            "",
            "0",
            "off",
            "x",
            "-1s",
            "25h",
            "connect=76s",
            "connect=0",
            "read",
            "read=",
            "read=1s;",
            "read=1s;read=2s",
            "30s;read=1s",
            "read=1s,send=1s",
            "read = 1s",
            "READ=1s",
            "read=99999999999999999999",
        ] {
            assert!(parse_timeouts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keepalive_is_read() {
        assert_eq!(parse_keepalive("off"), Ok(None));
        assert_eq!(parse_keepalive("64;timeout=1s"), Ok(Some(Keepalive::default())));
        let kept = Keepalive { connections: 8, timeout: Duration::from_millis(2500) };
        assert_eq!(parse_keepalive("8;timeout=2s500ms"), Ok(Some(kept)));
        for bad in
            ["", "0", "10001", "on", "8;", "8;timeout", "8;timeout=0", "8;timeout=1s;x", "8;time=1s", "off;timeout=1s"]
        {
            assert!(parse_keepalive(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_written_as_in_nginx() {
        for (text, bytes) in [("1", 1), ("1k", 1 << 10), ("10M", 10 << 20), ("1024g", 1 << 40)] {
            assert_eq!(parse_max_body(text), Ok(MaxBody::Bytes(bytes)), "{text}");
        }
        assert_eq!(parse_max_body("off"), Ok(MaxBody::Unlimited));
        for bad in
            ["", "0", "0k", "k", "1025g", "1t", "1.5m", "10mb", "+1m", "10 m", "99999999999999999999g", "é", "1é"]
        {
            assert!(parse_max_body(bad).is_err(), "{bad}");
        }
    }
}
