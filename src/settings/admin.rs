//! Where nginit answers over TCP: `NGINIT_ADMIN` and `NGINIT_ADMIN_TOKEN`.

use std::net::SocketAddr;

use super::error::SettingsError;
use super::own::Raw;
use super::variables::{DEFAULT_ADMIN, ENV_ADMIN, ENV_ADMIN_TOKEN};
use super::{Admin, Findings, Vars, as_set, note, or_default};
use crate::log::Level;

/// Length of a token: what nobody guesses, and what fits into a header.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=256;

/// Where to listen; nothing at all where a text is refused.
pub(super) fn parse(raw: &Raw, vars: &Vars, findings: &mut Findings) -> Option<Option<Admin>> {
    let token = token(raw.admin_token.trim(), vars, findings)?;
    let text = or_default(&raw.admin, DEFAULT_ADMIN);
    if text == "off" {
        if token.is_some() {
            let text = format!("\"{ENV_ADMIN_TOKEN}\" is of no use: \"{ENV_ADMIN}\" is off");
            note(&mut findings.notes, Level::Warn, text);
        }
        return Some(None);
    }
    let correct = || "correct it, or write off".to_owned();
    let address: Result<SocketAddr, _> =
        text.parse().map_err(|_| ("is not IP:PORT or [IPv6]:PORT".to_owned(), correct()));
    let address = address.and_then(|address| match address {
        address if address.port() == 0 => Err(("port must be 1-65535".to_owned(), correct())),
        address if !address.ip().is_loopback() && token.is_none() => {
            let reason = "an address outside of loopback needs a token".to_owned();
            Err((reason, format!("set {ENV_ADMIN_TOKEN}, best by {ENV_ADMIN_TOKEN}_FILE")))
        }
        address => Ok(address),
    });
    let address = findings.check(vars, ENV_ADMIN, text, address)?;
    Some(Some(Admin { address, token }))
}

/// The token, which no message shows.
fn token(text: &str, vars: &Vars, findings: &mut Findings) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    if TOKEN.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(Some(text.to_owned()));
    }
    let reason = format!("a token has {} to {} visible ASCII characters", TOKEN.start(), TOKEN.end());
    findings.errors.push(SettingsError::new(
        as_set(vars, ENV_ADMIN_TOKEN),
        None,
        reason,
        "make one: openssl rand -hex 16",
    ));
    None
}

#[cfg(test)]
mod tests {
    use crate::settings::{self, Given};

    fn parse(set: &[(&str, &str)]) -> Result<(Option<settings::Admin>, usize), String> {
        let given = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), Given { variable: (*name).to_owned(), value: (*value).to_owned() })
        };
        let parsed = settings::parse(&set.iter().map(given).collect());
        parsed.map(|(settings, notes)| (settings.admin, notes.len())).map_err(|errors| errors.to_string())
    }

    #[test]
    fn outside_of_loopback_a_token_is_needed() {
        let (token, word) = ("NGINIT_ADMIN_TOKEN", "0123456789abcdef");
        assert_eq!(parse(&[]), Ok((None, 0)));
        assert_eq!(parse(&[("NGINIT_ADMIN", "off"), (token, word)]), Ok((None, 1)));
        for local in ["127.0.0.1:1936", "[::1]:1936"] {
            assert!(parse(&[("NGINIT_ADMIN", local)]).unwrap().0.is_some());
        }
        for open in ["0.0.0.0:1936", "[::]:1936", "10.0.0.1:1"] {
            assert!(parse(&[("NGINIT_ADMIN", open)]).unwrap_err().contains("needs a token"));
            assert!(parse(&[("NGINIT_ADMIN", open), (token, word)]).unwrap().0.is_some());
        }
        for bad in ["1936", "localhost:1936", "127.0.0.1", "127.0.0.1:0", "::1:80"] {
            assert!(parse(&[("NGINIT_ADMIN", bad), (token, word)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_token_is_not_shown() {
        for bad in ["short-secret", "with a blank in between", "schlüsselschlüssel"] {
            let error = parse(&[("NGINIT_ADMIN_TOKEN", bad)]).unwrap_err();
            assert!(error.contains("16 to 256") && !error.contains(bad), "{error}");
        }
        let (Some(admin), _) =
            parse(&[("NGINIT_ADMIN", "127.0.0.1:1"), ("NGINIT_ADMIN_TOKEN", "0123456789abcdef")]).unwrap()
        else {
            panic!("it is set");
        };
        assert!(!format!("{admin:?}").contains("0123456789abcdef"));
    }
}
