//! TLS on nginx's side: `NGINIT_TLS_CERT`, `NGINIT_TLS_KEY`, `NGINIT_TLS_REDIRECT`.

use std::num::NonZeroU16;

use super::error::SettingsError;
use super::variables as table;
use super::{Findings, Settings, Vars, as_set, note, or_default, own, servers};
use crate::log::Level;
use crate::upstream::Listen;

/// What nginx needs for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The file of the certificate and its chain, an absolute path of plain characters.
    pub cert: String,
    /// The file of its key, the same.
    pub key: String,
    /// The port of https that clients of plain HTTP are sent to; nothing serves both.
    pub redirect: Option<NonZeroU16>,
}

/// TLS, if it is asked for; nothing where what is said of it is refused.
pub(super) fn parse(raw: &own::Raw, vars: &Vars, findings: &mut Findings) -> Option<Option<Tls>> {
    let (cert, key, redirect) = (raw.tls_cert.trim(), raw.tls_key.trim(), table::ENV_TLS_REDIRECT);
    let port_text = or_default(&raw.tls_redirect, table::DEFAULT_TLS_REDIRECT);
    let port = match port_text {
        "off" => Ok(None),
        text => servers::parse_port(text).map(Some),
    };
    let port = port.map_err(|_| ("is not a port or off".to_owned(), "correct it or unset the variable".to_owned()));
    let port = findings.check(vars, redirect, port_text, port);
    let mut missing = |set: &str, unset: &str| {
        let remedy = format!(
            "set {unset} too: the file of the {}",
            if unset == table::ENV_TLS_KEY { "key" } else { "certificate" }
        );
        findings.errors.push(SettingsError::new(as_set(vars, set), None, format!("{unset} is not set"), remedy));
        None
    };
    match (cert, key) {
        ("", "") => {
            if !raw.tls_redirect.trim().is_empty() {
                let text = format!("\"{redirect}\" means nothing without {}", table::ENV_TLS_CERT);
                note(&mut findings.notes, Level::Warn, text);
            }
            Some(None)
        }
        (_, "") => missing(table::ENV_TLS_CERT, table::ENV_TLS_KEY),
        ("", _) => missing(table::ENV_TLS_KEY, table::ENV_TLS_CERT),
        (cert, key) => {
            let cert = path(table::ENV_TLS_CERT, cert, vars, findings);
            let key = path(table::ENV_TLS_KEY, key, vars, findings);
            Some(Some(Tls { cert: cert?, key: key?, redirect: port? }))
        }
    }
}

/// The longest path of a file, in bytes (`PATH_MAX`, limits.h).
const LONGEST_PATH: usize = 4096;

/// A path that nginx reads as it stands, from `variable`; else nothing, and a fault. A value that is
/// the file's content by mistake is not repeated: it may be a key.
pub(super) fn path(variable: &str, text: &str, vars: &Vars, findings: &mut Findings) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@%+=~,:".contains(c);
    let fault = |reason: &str, remedy: &str| Err((reason.to_owned(), remedy.to_owned()));
    let parsed = if text.contains("-----BEGIN") {
        let reason = "holds the text of a PEM file instead of the file's path";
        let remedy = format!("set {variable} itself, without _FILE, to the path");
        findings.errors.push(SettingsError::new(as_set(vars, variable), None, reason, remedy));
        return None;
    } else if !text.starts_with('/') || text.ends_with('/') || text.len() > LONGEST_PATH {
        fault("is not the absolute path of a file", "correct it or unset the variable")
    } else if let Some(c) = text.chars().find(|c| !plain(*c)) {
        fault(&format!("has the character {c:?}"), "use a path of letters, digits and /._-@%+=~,:")
    } else {
        Ok(text.to_owned())
    };
    findings.check(vars, variable, text, parsed)
}

impl Settings {
    /// The port of https that plain listeners send their clients to, and whether there is such a
    /// listener. Nothing, where all that is listened on serves.
    pub fn redirect(&self) -> Option<NonZeroU16> {
        let port = self.tls.as_ref()?.redirect?;
        self.listen.iter().any(|listen| !listen.tls).then_some(port)
    }

    /// Whether requests on this address are served, not redirected.
    pub fn serves_on(&self, listen: &Listen) -> bool {
        listen.tls || self.redirect().is_none()
    }

    /// The files of certificates and keys that nginx reads.
    pub fn certificates(&self) -> Vec<&str> {
        let own = self.tls.iter().flat_map(|tls| [tls.cert.as_str(), tls.key.as_str()]);
        let peers = self.upstreams.values().filter_map(|upstream| upstream.protocol.tls.as_ref()?.ca.as_deref());
        own.chain(peers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Given, Vars, parse};

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        let given = |name: &str, value: &str| Given { variable: name.to_owned(), value: value.to_owned() };
        pairs.iter().map(|(n, v)| ((*n).to_owned(), given(n, v))).collect()
    }

    const PAIR: [(&str, &str); 2] = [("NGINIT_TLS_CERT", "/c/cert.pem"), ("NGINIT_TLS_KEY", "/c/key.pem")];

    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vars {
        vars(&[&PAIR[..], more].concat())
    }

    #[test]
    fn a_certificate_opens_443_and_redirects_80() {
        let (settings, notes) = parse(&with(&[])).unwrap();
        let listen: Vec<String> = settings.listen.iter().map(|l| format!("{l} {}", l.tls)).collect();
        assert_eq!(listen, ["80 false", "[::]:80 false", "443 true", "[::]:443 true"]);
        assert_eq!(settings.redirect().map(|port| port.get()), Some(443));
        assert_eq!(settings.certificates(), ["/c/cert.pem", "/c/key.pem"]);
        assert!(notes.is_empty() && settings.listen_is_default);
        let redirect = |more: &[(&str, &str)]| parse(&with(more)).unwrap().0.redirect().map(|port| port.get());
        assert_eq!(redirect(&[("NGINIT_TLS_REDIRECT", "8443")]), Some(8443));
        assert_eq!(redirect(&[("NGINIT_TLS_REDIRECT", "off")]), None);
        assert_eq!(redirect(&[("NGINIT_LISTEN", "443;tls 444;tls")]), None);
    }

    #[test]
    fn half_a_pair_and_listeners_that_do_not_fit_are_refused() {
        let refused = |vars: &Vars| parse(vars).unwrap_err().to_string();
        for (vars, error) in [
            (
                vars(&PAIR[..1]),
                "\"NGINIT_TLS_CERT\": NGINIT_TLS_KEY is not set; set NGINIT_TLS_KEY too: the file of the key",
            ),
            (
                vars(&PAIR[1..]),
                "\"NGINIT_TLS_KEY\": NGINIT_TLS_CERT is not set; set NGINIT_TLS_CERT too: the file of the certificate",
            ),
            (
                with(&[("NGINIT_LISTEN", "8080")]),
                "\"NGINIT_LISTEN\": \"8080\": no address has \";tls\", and NGINIT_TLS_CERT is set; append \";tls\" to an address, or unset NGINIT_TLS_CERT",
            ),
            (
                vars(&[("NGINIT_LISTEN", "80 443;tls")]),
                "\"NGINIT_LISTEN\": address 2 \"443;tls\": there is no certificate; set NGINIT_TLS_CERT and NGINIT_TLS_KEY, or remove \";tls\"",
            ),
            (
                with(&[("NGINIT_TLS_REDIRECT", "on")]),
                "\"NGINIT_TLS_REDIRECT\": \"on\": is not a port or off; correct it or unset the variable",
            ),
        ] {
            assert_eq!(refused(&vars), error);
        }
        for bad in ["cert.pem", "/a b", "/a;b", "/a$b", "/c/", "/a\"b", "/ä"] {
            assert!(refused(&vars(&[PAIR[1], ("NGINIT_TLS_CERT", bad)])).contains("NGINIT_TLS_CERT"), "{bad}");
        }
        let leaked = refused(&vars(&[PAIR[0], ("NGINIT_TLS_KEY", "-----BEGIN PRIVATE KEY-----\nSECRET")]));
        assert!(leaked.contains("the file's path") && !leaked.contains("SECRET"), "{leaked}");
    }

    #[test]
    fn a_redirect_without_tls_is_noted() {
        assert_eq!(parse(&vars(&[("NGINIT_TLS_REDIRECT", "443")])).unwrap().1.len(), 1);
    }
}
