//! The variables of nginit itself: `NGINIT_…` become [`Settings`].

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::error::SettingsError;
use super::variables as table;
use super::{Findings, Settings, StartMode, StopMode, Vars, as_set, or_default, parse_duration, servers, tokens};
use crate::log::{Format, Level};
use crate::upstream::{AccessLog, Listen, Upstreams};

/// The texts, as given.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct Raw {
    listen: String,
    conf_dir: String,
    templates: String,
    nginx: String,
    start: String,
    reload_interval: String,
    reload_backlog: String,
    worker_shutdown_timeout: String,
    stop: String,
    stop_timeout: String,
    workers: String,
    control: String,
    access_log: String,
    log: String,
    log_format: String,
}

/// The settings, unless a text is refused, which is among the findings then.
pub(super) fn parse(raw: &Raw, vars: &Vars, upstreams: Upstreams, findings: &mut Findings) -> Option<Settings> {
    let listen_text = or_default(&raw.listen, table::DEFAULT_LISTEN);
    let listen =
        parse_listen(&as_set(vars, "NGINIT_LISTEN"), listen_text).map_err(|errors| findings.errors.extend(errors)).ok();

    let mut read = Reader { vars, findings };
    let conf_dir = read.value("NGINIT_CONF_DIR", &raw.conf_dir, table::DEFAULT_CONF_DIR, ABSOLUTE, absolute);
    let templates = read.value("NGINIT_TEMPLATES", &raw.templates, table::DEFAULT_TEMPLATES, ABSOLUTE, absolute);
    let modes = "fail or last-good";
    let start = read.value(table::ENV_START, &raw.start, table::DEFAULT_START, modes, StartMode::from_word);
    let interval = table::DEFAULT_RELOAD_INTERVAL;
    let reload_interval = read.value("NGINIT_RELOAD_INTERVAL", &raw.reload_interval, interval, TIME, parse_timeout);
    let backlog = table::DEFAULT_RELOAD_BACKLOG;
    let reload_backlog =
        read.value("NGINIT_RELOAD_BACKLOG", &raw.reload_backlog, backlog, "a number 0-65535", |t| t.parse().ok());
    let stop = read.value("NGINIT_STOP", &raw.stop, table::DEFAULT_STOP, "graceful or forward", |text| match text {
        "graceful" => Some(StopMode::Graceful),
        "forward" => Some(StopMode::Forward),
        _ => None,
    });
    let stop_timeout = table::DEFAULT_STOP_TIMEOUT;
    let stop_timeout = read.value("NGINIT_STOP_TIMEOUT", &raw.stop_timeout, stop_timeout, TIME, parse_timeout);
    let stop_timeout = stop_timeout.map(|timeout| Some(timeout).filter(|t| !t.is_zero()));
    let shutdown = stop_timeout.flatten().map_or(Duration::ZERO, |stop| stop.max(WORKER_SHUTDOWN_TIMEOUT));
    let shutdown = format!("{}ms", shutdown.as_millis());
    let (variable, text) = ("NGINIT_WORKER_SHUTDOWN_TIMEOUT", &raw.worker_shutdown_timeout);
    let worker_shutdown_timeout = read.value(variable, text, &shutdown, TIME, parse_timeout);
    let workers = "auto or a number 1-1024";
    let workers = read.value("NGINIT_WORKERS", &raw.workers, table::DEFAULT_WORKERS, workers, |text| match text {
        "auto" => Some(None),
        text => text.parse().ok().filter(|n: &NonZeroU16| n.get() <= MOST_WORKERS).map(Some),
    });
    let want = "an absolute path of at most 107 bytes, or off";
    let control = read.value(table::ENV_CONTROL, &raw.control, table::DEFAULT_CONTROL, want, |text| match text {
        "off" => Some(None),
        text => absolute(text).filter(|_| text.len() <= LONGEST_SOCKET_PATH).map(Some),
    });
    let access_log = table::DEFAULT_ACCESS_LOG;
    let access_log =
        read.value("NGINIT_ACCESS_LOG", &raw.access_log, access_log, "text, json or off", |text| match text {
            "text" => Some(AccessLog::Text),
            "json" => Some(AccessLog::Json),
            "off" => Some(AccessLog::Off),
            _ => None,
        });
    let levels = "emerg, alert, crit, error, warn, notice, info or debug";
    let log = read.value("NGINIT_LOG", &raw.log, table::DEFAULT_LOG, levels, Level::from_word);
    let formats = "text or json";
    let log_format = table::DEFAULT_LOG_FORMAT;
    let log_format = read.value("NGINIT_LOG_FORMAT", &raw.log_format, log_format, formats, Format::from_word);

    Some(Settings {
        upstreams,
        listen: listen?,
        listen_is_default: raw.listen.trim().is_empty(),
        conf_dir: conf_dir?,
        templates: templates?,
        nginx: Some(raw.nginx.trim()).filter(|name| !name.is_empty()).map(str::to_owned),
        start: start?,
        reload_interval: reload_interval?,
        reload_backlog: NonZeroU16::new(reload_backlog?),
        worker_shutdown_timeout: Some(worker_shutdown_timeout?).filter(|t| !t.is_zero()),
        stop: stop?,
        stop_timeout: stop_timeout?,
        workers: workers?,
        control: control?,
        access_log: access_log?,
        log: log?,
        log_format: log_format?,
    })
}

/// Reads values that stand alone in their variable.
struct Reader<'a> {
    vars: &'a Vars,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// What `parse` makes of `text` or, where that is empty, of `default`; else nothing, and a
    /// fault that says it is not `want`.
    fn value<T>(
        &mut self,
        variable: &str,
        text: &str,
        default: &str,
        want: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = or_default(text, default);
        let fault = || (format!("is not {want}"), "correct it or unset the variable".to_owned());
        self.findings.check(self.vars, variable, text, parse(text).ok_or_else(fault))
    }
}

/// More workers than any machine has cores are a mistyped number.
const MOST_WORKERS: u16 = 1024;

/// Default of `NGINIT_WORKER_SHUTDOWN_TIMEOUT`, unless a stop may take longer.
const WORKER_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest path of a unix socket (`sun_path`, unix(7)).
pub const LONGEST_SOCKET_PATH: usize = 107;

const TIME: &str = "a time such as 9s, 500ms or 1m30s";

/// A time that nginx can hold.
fn parse_timeout(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|time| i32::try_from(time.as_millis()).is_ok())
}

const ABSOLUTE: &str = "an absolute path";

fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    (path.is_absolute() && !text.contains('\0')).then_some(path)
}

fn parse_listen(variable: &str, text: &str) -> Result<Vec<Listen>, Vec<SettingsError>> {
    let mut listen: Vec<Listen> = Vec::new();
    let mut errors = Vec::new();
    for (index, token) in tokens(text).enumerate() {
        match parse_listen_entry(token).filter(|l| !listen.contains(l)) {
            Some(entry) => listen.push(entry),
            None => errors.push(SettingsError {
                variable: variable.to_owned(),
                entry: Some(("address", index + 1)),
                token: Some(token.to_owned()),
                reason: "is not PORT, IP:PORT or [IPv6]:PORT, or stands there twice".to_owned(),
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

/// One address of `NGINIT_LISTEN`, or of nginx's `listen`.
pub fn parse_listen_entry(token: &str) -> Option<Listen> {
    if let Ok(port) = servers::parse_port(token) {
        return Some(Listen { address: None, port });
    }
    let (host, port) = token.rsplit_once(':')?;
    let port = servers::parse_port(port).ok()?;
    let address = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None if host == "*" => return Some(Listen { address: None, port }),
        None if host == "0.0.0.0" => return Some(Listen { address: None, port }),
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(Listen { address: Some(address), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{self, Given};

    #[test]
    fn old_workers_may_take_as_long_as_a_stop() {
        let given = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), Given { variable: (*name).to_owned(), value: (*value).to_owned() })
        };
        let timeout = |set: &[(&str, &str)]| {
            let (settings, _) = settings::parse(&set.iter().map(given).collect()).unwrap();
            settings.worker_shutdown_timeout.map(|t| t.as_secs())
        };
        assert_eq!(timeout(&[]), Some(30));
        assert_eq!(timeout(&[("NGINIT_STOP_TIMEOUT", "1m")]), Some(60));
        assert_eq!(timeout(&[("NGINIT_STOP_TIMEOUT", "0")]), None);
        assert_eq!(timeout(&[("NGINIT_STOP_TIMEOUT", "0"), ("NGINIT_WORKER_SHUTDOWN_TIMEOUT", "5s")]), Some(5));
        assert_eq!(timeout(&[("NGINIT_WORKER_SHUTDOWN_TIMEOUT", "0")]), None);
    }

    #[test]
    fn listen_takes_ports_and_addresses() {
        let listen = parse_listen("L", "80 [::1]:81,127.0.0.1:82 *:83").unwrap();
        assert_eq!(
            listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["80", "[::1]:81", "127.0.0.1:82", "83"]
        );
        for bad in ["x", "0", "1.2.3:80", "::1:80", "80;", "unix:/x", "80 80", "80 0.0.0.0:80", "[::]"] {
            assert!(parse_listen("L", bad).is_err(), "{bad}");
        }
    }
}
