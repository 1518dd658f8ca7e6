//! The variables of nginit itself: `NGINIT_…` become [`Settings`].

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::variables as table;
use super::{
    Findings, LiveMode, Settings, StartMode, StopMode, Vars, admin, listen, or_default, parse_duration, parse_switch,
    real_ip, sidecars, tls,
};
use crate::log::{Format, Level};
use crate::upstream::{AccessLog, Upstreams};

/// The texts, as given.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct Raw {
    pub(super) listen: String,
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
    access_log_flush: String,
    gzip: String,
    request_id: String,
    error_pages: String,
    log: String,
    log_format: String,
    pub(super) tls_cert: String,
    pub(super) tls_key: String,
    pub(super) tls_redirect: String,
    pub(super) trusted_proxies: String,
    pub(super) real_ip_header: String,
    watch: String,
    live: String,
    pub(super) admin: String,
    pub(super) admin_token: String,
    state: String,
    env_file: String,
}

/// The settings, unless a text is refused, which is among the findings then.
pub(super) fn parse(raw: &Raw, vars: &Vars, upstreams: Upstreams, findings: &mut Findings) -> Option<Settings> {
    let tls = tls::parse(raw, vars, findings);
    let listen = listen::parse(raw, tls.as_ref().map(Option::as_ref), vars, findings);
    let real_ip = real_ip::parse(raw, listen.as_deref(), vars, findings);

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
    let (flush, want) = (table::DEFAULT_ACCESS_LOG_FLUSH, "a time up to 1h such as 1s, or 0");
    let flush = read.value("NGINIT_ACCESS_LOG_FLUSH", &raw.access_log_flush, flush, want, |text| {
        parse_duration(text).filter(|time| *time <= LONGEST_FLUSH)
    });
    let request_id = read.switch("NGINIT_REQUEST_ID", &raw.request_id, table::DEFAULT_REQUEST_ID);
    let gzip = read.switch("NGINIT_GZIP", &raw.gzip, table::DEFAULT_GZIP);
    let (pages, want) = (table::DEFAULT_ERROR_PAGES, "an absolute path of letters, digits and /._@+-");
    let error_pages = read.value("NGINIT_ERROR_PAGES", &raw.error_pages, pages, want, plain_directory);
    let levels = "emerg, alert, crit, error, warn, notice, info or debug";
    let log = read.value("NGINIT_LOG", &raw.log, table::DEFAULT_LOG, levels, Level::from_word);
    let formats = "text or json";
    let log_format = table::DEFAULT_LOG_FORMAT;
    let log_format = read.value("NGINIT_LOG_FORMAT", &raw.log_format, log_format, formats, Format::from_word);
    let watch = read.switch("NGINIT_WATCH", &raw.watch, table::DEFAULT_WATCH);
    let live = read.value("NGINIT_LIVE", &raw.live, table::DEFAULT_LIVE, "auto, on or off", |text| match text {
        "auto" => Some(LiveMode::Auto),
        "on" => Some(LiveMode::On),
        "off" => Some(LiveMode::Off),
        _ => None,
    });
    let want = "an absolute path, or off";
    let state = read.value(table::ENV_STATE, &raw.state, table::DEFAULT_STATE, want, |text| match text {
        "off" => Some(None),
        text => absolute(text).map(Some),
    });
    let env_file = read.value(table::ENV_ENV_FILE, &raw.env_file, "", ABSOLUTE, |text| match text {
        "" => Some(None),
        text => absolute(text).map(Some),
    });
    let admin = admin::parse(raw, vars, findings);
    let sidecars = sidecars::parse(vars, findings);

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
        access_log_flush: Some(flush?).filter(|time| !time.is_zero()),
        gzip: gzip?,
        request_id: request_id?,
        error_pages: error_pages?,
        log: log?,
        log_format: log_format?,
        tls: tls?,
        real_ip: real_ip?,
        watch: watch?,
        admin: admin?,
        live: live?,
        state: state?,
        env_file: env_file?,
        sidecars: sidecars?,
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
        let parsed = parse(text);
        if parsed.is_none() {
            let fault = (format!("is not {want}"), "correct it or unset the variable".to_owned());
            self.findings.refuse(self.vars, variable, text, fault);
        }
        parsed
    }

    /// The same of `on` and `off`.
    fn switch(&mut self, variable: &str, text: &str, default: &str) -> Option<bool> {
        let text = or_default(text, default);
        self.findings.check(self.vars, variable, text, parse_switch(text))
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

/// Whoever reads the log wants to see it the same day, and nginx at a stop writes what is left.
const LONGEST_FLUSH: Duration = Duration::from_secs(3600);

/// The longest path of a directory that nginx is told of, in bytes; with a file's name it is one
/// argument of nginx's, which holds less than 4,096.
const LONGEST_DIRECTORY: usize = 2048;

/// An absolute path that means nothing to nginx, without a slash at its end.
fn plain_directory(text: &str) -> Option<PathBuf> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._@+-".contains(&b);
    let fits = text.len() <= LONGEST_DIRECTORY && text.bytes().all(plain);
    let text = text.trim_end_matches('/');
    absolute(text).filter(|_| fits)
}

#[cfg(test)]
mod tests {
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
}
