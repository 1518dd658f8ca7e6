//! Certificates, and clients that speak TLS: openssl and curl as processes.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Answer;

/// A certificate that is its own authority, and its key.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// Makes `DIR/NAME.pem` and `DIR/NAME.key` for the host `host`.
    pub fn new(dir: &Path, name: &str, host: &str) -> Self {
        let made = Self { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{host}")]);
        openssl.arg("-keyout").arg(&made.key).arg("-out").arg(&made.cert);
        let output = openssl.output().unwrap();
        assert!(output.status.success(), "{openssl:?}: {}", String::from_utf8_lossy(&output.stderr));
        made
    }

    /// Takes the place of `other`, one file at a time, each by a rename.
    pub fn replaces(&self, other: &Self) {
        self.replaces_cert(other);
        self.replaces_key(other);
    }

    pub fn replaces_cert(&self, other: &Self) {
        replace(&self.cert, &other.cert);
    }

    pub fn replaces_key(&self, other: &Self) {
        replace(&self.key, &other.key);
    }
}

fn replace(new: &Path, old: &Path) {
    let aside = old.with_extension("new");
    fs::copy(new, &aside).unwrap();
    fs::rename(aside, old).unwrap();
}

/// What curl gets from `https://localhost:PORT`, trusting `cert`; the status is 0 where there is no
/// answer, and the body tells why then.
pub fn https(cert: &Path, port: u16, path: &str, args: &[&str]) -> Answer {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "--max-time", "20", "--noproxy", "*", "--path-as-is", "--cacert"]).arg(cert);
    curl.args(["--resolve", &format!("localhost:{port}:127.0.0.1")]).args(args);
    answer(curl.arg(format!("https://localhost:{port}{path}")))
}

/// What curl gets from `http://127.0.0.1:PORT`.
pub fn http(port: u16, path: &str, args: &[&str]) -> Answer {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "--max-time", "20", "--noproxy", "*"]).args(args);
    answer(curl.arg(format!("http://127.0.0.1:{port}{path}")))
}

fn answer(curl: &mut Command) -> Answer {
    let output = curl.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n").filter(|_| output.status.success()) else {
        return Answer { status: 0, head: text, body: String::from_utf8_lossy(&output.stderr).into_owned() };
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// The name in the certificate that is presented on this port.
pub fn presented(port: impl Display) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"]);
    let output = openssl.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let subject = text.lines().find_map(|line| line.strip_prefix("subject=")).unwrap_or_default();
    subject.trim_start_matches("CN = ").trim_start_matches("CN=").to_owned()
}
