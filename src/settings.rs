//! Variables as (name, value) pairs become [`Settings`].
//!
//! Two steps, so that reading a setting never opens what it names: [`classify`] says of a name
//! whether it is ours and whether its value stands in a file (whoever holds the environment then
//! reads that), and [`parse`] turns the texts into their useful form, collecting every fault of
//! every variable. Variables of other programs are never looked at.

mod admin;
pub mod balance;
pub mod env_file;
pub mod error;
pub mod listen;
mod misfits;
pub mod own;
pub mod passing;
pub mod protocol;
pub mod real_ip;
pub mod resolve;
pub mod rewrite;
pub mod routes;
pub mod rules;
pub mod serf;
pub mod servers;
mod sidecars;
pub mod sticky;
pub mod tls;
mod upstreams;
pub mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use crate::log::{Format, Level};
use crate::ordered::InOrder;
use crate::upstream::{AccessLog, Listen, Name, Upstreams};
use error::{Fault, SettingsError, SettingsErrors, fault};
pub use misfits::{advice, misfits};
pub use own::LONGEST_SOCKET_PATH;
use real_ip::RealIp;
use tls::Tls;
use variables as table;

/// A value together with the variable that the operator set, which messages must name: for
/// `STATIC_BACKEND` that may be `STATIC_BACKEND_FILE` or `STATIC_APP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The variable as set.
    pub variable: String,
    /// Its text, read from its file where that was asked for.
    pub value: String,
}

/// Every variable that is ours, by its canonical name.
pub type Vars = BTreeMap<String, Given>;

/// Everything that nginit is told from outside, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// All declared upstreams.
    pub upstreams: Upstreams,
    /// Where nginx listens; never empty.
    pub listen: Vec<Listen>,
    /// Whether `listen` is the default, which may shrink to what the kernel supports.
    pub listen_is_default: bool,
    /// Where the configuration is written to.
    pub conf_dir: PathBuf,
    /// Where templates of the operator's are.
    pub templates: PathBuf,
    /// nginx's binary, a path or a name; nothing is the one that the command names.
    pub nginx: Option<String>,
    /// What a start does with a bad configuration.
    pub start: StartMode,
    /// Least time between two reloads of nginx.
    pub reload_interval: Duration,
    /// Most old generations that may still finish requests when nginx is told to reload; nothing
    /// is no limit.
    pub reload_backlog: Option<NonZeroU16>,
    /// Longest wait for requests in old workers; nothing waits for ever.
    pub worker_shutdown_timeout: Option<Duration>,
    /// What TERM means.
    pub stop: StopMode,
    /// Longest wait for running requests at a stop; nothing waits for ever.
    pub stop_timeout: Option<Duration>,
    /// nginx's worker processes; nothing is the container's quota.
    pub workers: Option<NonZeroU16>,
    /// The unix socket over which commands reach the running nginit.
    pub control: Option<PathBuf>,
    /// The access log's form.
    pub access_log: AccessLog,
    /// Longest time that nginx keeps lines of it back; nothing writes each at once.
    pub access_log_flush: Option<Duration>,
    /// Whether texts are compressed for clients that can take it.
    pub gzip: bool,
    /// Whether each request gets a name for logs, where it has none.
    pub request_id: bool,
    /// Where pages of the operator's for errors are: an absolute path that means nothing to nginx.
    pub error_pages: PathBuf,
    /// The least severe level that nginit logs.
    pub log: Level,
    /// The form of nginit's lines.
    pub log_format: Format,
    /// TLS where nginx listens.
    pub tls: Option<Tls>,
    /// Proxies in front of nginx.
    pub real_ip: Option<RealIp>,
    /// Whether changes of files are followed.
    pub watch: bool,
    /// Whether nginx follows servers without a reload.
    pub live: LiveMode,
    /// Where nginit answers over TCP, if anywhere.
    pub admin: Option<Admin>,
    /// The file that keeps what was ordered and announced over a restart.
    pub state: Option<PathBuf>,
    /// The file of variables that win over those of the environment.
    pub env_file: Option<PathBuf>,
    /// Programs that are kept running beside nginx: their arguments, never empty.
    pub sidecars: BTreeMap<Name, Vec<String>>,
}

/// Where nginit answers over TCP, and to whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// What whoever wants to change something has to know; nothing lets nobody.
    pub token: Option<String>,
}

/// Without the token, which belongs into no log.
impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What a start does with a bad configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// It ends.
    Fail,
    /// It serves the set that was live last.
    LastGood,
}

impl StartMode {
    /// The mode that `word` names.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "fail" => Some(Self::Fail),
            "last-good" => Some(Self::LastGood),
            _ => None,
        }
    }
}

/// Whether nginx follows servers without a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveMode {
    /// Where that is as good as a reload in all else.
    Auto,
    /// Wherever it is possible at all; where it is not, the configuration is refused.
    On,
    /// Nowhere.
    Off,
}

/// What TERM means to nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// QUIT: requests that run are finished.
    Graceful,
    /// TERM: the fast stop.
    Forward,
}

/// Something an operator should know that is no fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How loudly.
    pub level: Level,
    /// One line.
    pub text: String,
}

fn note(notes: &mut Vec<Note>, level: Level, text: String) {
    notes.push(Note { level, text });
}

/// What a variable's name means to nginit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// Not ours: its value is not read.
    Foreign,
    /// Nearly ours: worth a line.
    Noted(Note),
    /// Ours.
    Ours {
        /// The name it goes by in [`Vars`].
        canonical: String,
        /// Its value is the path of a file that holds the text.
        in_file: bool,
    },
}

/// Says of `name` what it is, given the names of all variables that are set: an upstream counts
/// once both its `NAME_BACKEND` and its `NAME_ROUTE` are there.
pub fn classify(name: &str, all: &BTreeSet<&str>) -> Class {
    if name.starts_with("NGINIT_") {
        return classify_own(name);
    }
    let (base, in_file) = match name.strip_suffix("_FILE") {
        Some(base) => (base, true),
        None => (name, false),
    };
    if let Some(&(_, meant)) = table::ALIASES.iter().find(|(old, _)| *old == base) {
        return Class::Ours { canonical: meant.to_owned(), in_file };
    }
    let Some((upstream, suffix)) = upstreams::SUFFIXES.iter().find_map(|s| base.strip_suffix(s).map(|name| (name, *s)))
    else {
        return classify_misspelt(name, base, all);
    };
    if Name::new(upstream).is_none() || upstream == "NGINIT" {
        return Class::Foreign;
    }
    let (listed, routed) = (is_listed(upstream, all), is_routed(upstream, all));
    if listed && routed {
        return Class::Ours { canonical: base.to_owned(), in_file };
    }
    let text = match suffix {
        "_BACKEND" => format!("it is an upstream of nginx once \"{upstream}_ROUTE\" is set too"),
        // What others call so says nothing of nginit.
        "_PORT" => return Class::Foreign,
        _ if routed => format!("it counts once \"{upstream}_BACKEND\" is set too"),
        _ => return Class::Foreign,
    };
    Class::Noted(Note { level: Level::Info, text: format!("\"{name}\" is left alone: {text}") })
}

fn is_set(name: &str, all: &BTreeSet<&str>) -> bool {
    all.contains(name) || all.contains(format!("{name}_FILE").as_str())
}

/// Whether the upstream has a list of servers.
fn is_listed(upstream: &str, all: &BTreeSet<&str>) -> bool {
    let backend = format!("{upstream}_BACKEND");
    is_set(&backend, all) || table::ALIASES.iter().any(|(old, new)| *new == backend && is_set(old, all))
}

/// Whether the upstream has a route.
fn is_routed(upstream: &str, all: &BTreeSet<&str>) -> bool {
    known_route(upstream).is_some() || is_set(&format!("{upstream}_ROUTE"), all)
}

/// Says of a name that ends as no variable of an upstream does whether it nearly is one. An upstream that
/// lacks its list or route is asked for that alone: half of its variables may be another program's.
fn classify_misspelt(name: &str, base: &str, all: &BTreeSet<&str>) -> Class {
    let meant = |(at, _)| {
        let (upstream, suffix) = base.split_at(at);
        let real = table::nearest_suffix(suffix)?;
        let meant = format!("{upstream}{real}");
        let asked = match (is_listed(upstream, all), is_routed(upstream, all)) {
            (true, true) => true,
            (true, false) => real == "_ROUTE",
            (false, true) => real == "_BACKEND",
            (false, false) => false,
        };
        let fits = asked && Name::new(upstream).is_some() && upstream != "NGINIT" && !is_set(&meant, all);
        fits.then(|| format!("{meant}{}", &name[base.len()..]))
    };
    let Some(meant) = base.match_indices('_').find_map(meant) else { return Class::Foreign };
    let text = format!("\"{name}\" is not a variable of nginit; did you mean \"{meant}\"?");
    Class::Noted(Note { level: Level::Warn, text })
}

fn classify_own(name: &str) -> Class {
    let is_sidecar = |name: &str| name.strip_prefix(table::SIDECAR).is_some_and(|name| Name::new(name).is_some());
    let is_real =
        |name: &str| table::NGINIT.iter().any(|v| v.name == name) || is_sidecar(name) && !name.ends_with("_FILE");
    if is_real(name) {
        return Class::Ours { canonical: name.to_owned(), in_file: false };
    }
    if let Some(base) = name.strip_suffix("_FILE").filter(|base| is_real(base)) {
        return Class::Ours { canonical: base.to_owned(), in_file: true };
    }
    // Kubernetes gives every container of a namespace such names for a Service called nginit.
    if name.starts_with("NGINIT_SERVICE_") || name.starts_with("NGINIT_PORT") {
        return Class::Foreign;
    }
    let hint = match table::nearest(name.strip_suffix("_FILE").unwrap_or(name)) {
        Some(real) => format!("did you mean \"{real}\"?"),
        None => "\"nginit help env\" lists them all".to_owned(),
    };
    Class::Noted(Note { level: Level::Warn, text: format!("\"{name}\" is not a variable of nginit; {hint}") })
}

/// The route of an upstream that is known by its name.
fn known_route(name: &str) -> Option<&'static str> {
    match name {
        "STATIC" => Some(table::DEFAULT_STATIC_ROUTE),
        "DYNAMIC" => Some(table::DEFAULT_DYNAMIC_ROUTE),
        _ => None,
    }
}

/// Every fault and note, while the variables are gone through.
#[derive(Default)]
struct Findings {
    errors: Vec<SettingsError>,
    notes: Vec<Note>,
}

impl Findings {
    /// The value, or nothing and a fault of the variable that was set for `canonical`.
    fn check<T, E: Into<(String, String)>>(
        &mut self,
        vars: &Vars,
        canonical: &str,
        text: &str,
        parsed: Result<T, E>,
    ) -> Option<T> {
        parsed.map_err(|fault| self.refuse(vars, canonical, text, fault.into())).ok()
    }

    /// A fault of the variable that was set for `canonical`. Apart from [`Findings::check`], of which there is
    /// one for each kind of value.
    #[inline(never)]
    fn refuse(&mut self, vars: &Vars, canonical: &str, text: &str, (reason, remedy): Fault) {
        self.errors.push(SettingsError::new(as_set(vars, canonical), Some(text), reason, remedy));
    }
}

/// The variable that the operator set for `canonical`.
fn as_set(vars: &Vars, canonical: &str) -> String {
    vars.get(canonical).map_or(canonical, |given| &given.variable).to_owned()
}

/// The text, or the default where it is empty.
fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    let text = text.trim();
    if text.is_empty() { default } else { text }
}

/// Turns the texts of our variables into settings, with notes for the operator.
///
/// # Errors
/// All faults of all variables.
pub fn parse(vars: &Vars) -> Result<(Settings, Vec<Note>), SettingsErrors> {
    let mut findings = Findings::default();
    let raw: own::Raw = from_vars("NGINIT_", vars, &mut findings);
    let upstreams = upstreams::parse(vars, &mut findings);
    let settings = own::parse(&raw, vars, upstreams, &mut findings);
    match settings {
        Some(settings) if findings.errors.is_empty() => Ok((settings, findings.notes)),
        _ => Err(SettingsErrors(with_quotes_named(findings.errors, vars))),
    }
}

/// Of a value with quotes around it, which `docker run --env-file` leaves there, one fault that says so.
fn with_quotes_named(errors: Vec<SettingsError>, vars: &Vars) -> Vec<SettingsError> {
    let is_quoted = |text: &str| {
        let text = text.trim();
        text.len() > 1 && text.starts_with(['"', '\'']) && text.as_bytes().first() == text.as_bytes().last()
    };
    // A rule may have them.
    let is_rule = |name: &str, text: &str| name.ends_with("_ROUTE") && rules::parse(text).is_some();
    let quoted = vars.iter().filter(|(name, given)| is_quoted(&given.value) && !is_rule(name, &given.value));
    let quoted = quoted.map(|(_, given)| given.variable.as_str()).into_set();
    let mut named = BTreeSet::new();
    let name = |error: SettingsError| {
        let Some(variable) = quoted.get(error.variable.as_str()) else { return Some(error) };
        let remedy = "remove them: Docker's --env-file and lists of Compose take them as a part of the value";
        let reason = "there are quotes around the value";
        named.insert(*variable).then(|| SettingsError { reason: reason.to_owned(), remedy: remedy.to_owned(), ..error })
    };
    errors.into_iter().filter_map(name).collect()
}

/// What holds where nothing is set.
pub fn defaults() -> (Settings, Vec<Note>) {
    parse(&Vars::new()).expect("every default is a good value")
}

/// The variables that start with `prefix`, as the struct of texts that they are. The fields are
/// all optional texts, so nothing but a fault of ours makes this fail; it is reported as such.
fn from_vars<T: serde::de::DeserializeOwned + Default>(prefix: &str, vars: &Vars, findings: &mut Findings) -> T {
    let pairs = vars.iter().map(|(name, given)| (name.clone(), given.value.clone()));
    envy::prefixed(prefix).from_iter(pairs).unwrap_or_else(|err| {
        let remedy = "report this as a bug of nginit";
        findings.errors.push(SettingsError::new(format!("{prefix}…"), None, err.to_string(), remedy));
        T::default()
    })
}

/// The entries of a list: separated by blanks, commas or newlines; `#` starts a comment.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\r'])
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split([' ', '\t', ',']))
        .filter(|token| !token.is_empty())
}

/// `on` and `off`.
///
/// # Errors
/// Reason and remedy.
pub fn parse_switch(text: &str) -> Result<bool, Fault> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(fault("is not on or off", "correct it or unset the variable")),
    }
}

/// A time as nginx writes it: plain seconds, or numbers with `ms`, `s`, `m`, `h`, `d` from the
/// largest unit to the smallest (`1m30s`).
/// (<https://nginx.org/en/docs/syntax.html>)
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut largest = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let index = UNITS.iter().position(|(name, _)| *name == unit)?;
        if index < largest {
            return None;
        }
        largest = index + 1;
        total_ms = total_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(UNITS[index].1)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total_ms))
}

/// A time in whole seconds that nginx can hold.
pub fn parse_secs(text: &str) -> Option<u32> {
    let time = parse_duration(text).filter(|t| t.subsec_nanos() == 0)?;
    i32::try_from(time.as_secs()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        let given = |name: &str, value: &str| Given { variable: name.to_owned(), value: value.to_owned() };
        pairs.iter().map(|(n, v)| ((*n).to_owned(), given(n, v))).collect()
    }

    fn class(name: &str, all: &[&str]) -> Class {
        classify(name, &all.iter().copied().collect())
    }

    #[test]
    fn a_misspelt_variable_of_an_upstream_is_named_and_those_of_others_are_not() {
        let noted = |name: &str, all: &[&str]| match class(name, all) {
            Class::Noted(note) => Some(note.text),
            _ => None,
        };
        let meant =
            |name: &str, real: &str| Some(format!("\"{name}\" is not a variable of nginit; did you mean \"{real}\"?"));
        for (name, all, real) in [
            ("STATIC_STICKYY", &["STATIC_BACKEND"][..], "STATIC_STICKY"),
            ("STATIC_STICKYY_FILE", &["STATIC_APP_FILE"], "STATIC_STICKY_FILE"),
            ("MY_SHOP_TIMEOUTS", &["MY_SHOP_BACKEND", "MY_SHOP_ROUTE"], "MY_SHOP_TIMEOUT"),
            ("SHOP_ROUTES", &["SHOP_BACKEND"], "SHOP_ROUTE"),
            ("SHOP_BACKENDS", &["SHOP_ROUTE_FILE"], "SHOP_BACKEND"),
            ("STATIC_BACKENDS", &[], "STATIC_BACKEND"),
        ] {
            assert_eq!(noted(name, all), meant(name, real));
        }
        for (name, all) in [
            // Of an upstream that is none, or with the right one beside it.
            ("SHOP_STICKYY", &["SHOP_BACKEND"][..]),
            ("SHOP_ROUTES", &[]),
            ("STATIC_STICKYY", &["STATIC_BACKEND", "STATIC_STICKY"]),
            ("STATIC_STICKYY", &[]),
            ("STATIC_ROOT", &["STATIC_BACKEND"]),
            ("STATIC_SERVICE_HOST", &["STATIC_BACKEND"]),
            ("STATIC_PORT_80_TCP_PROTO", &["STATIC_BACKEND"]),
            ("NGINIT_BACKENDS", &["NGINIT_ROUTE"]),
            ("STATIC_PORT", &[]),
        ] {
            assert!(!noted(name, all).is_some_and(|text| text.contains("did you mean")), "{name}");
        }
        let left =
            |name: &str, other: &str| Some(format!("\"{name}\" is left alone: it counts once \"{other}\" is set too"));
        assert_eq!(noted("SHOP_ROUTE", &["SHOP_ROUTE"]), left("SHOP_ROUTE", "SHOP_BACKEND"));
        assert_eq!(noted("DYNAMIC_STICKY", &[]), left("DYNAMIC_STICKY", "DYNAMIC_BACKEND"));
    }

    #[test]
    fn quotes_around_a_value_are_named_once() {
        let errors = |pairs: &[(&str, &str)]| parse(&vars(pairs)).unwrap_err().to_string();
        assert_eq!(
            errors(&[("STATIC_BACKEND", "\"10.0.0.1 10.0.0.2\"")]),
            "\"STATIC_BACKEND\": server 1 \"\\\"10.0.0.1\": there are quotes around the value; remove them: Docker's --env-file and lists of Compose take them as a part of the value"
        );
        let backend = ("STATIC_BACKEND", "10.0.0.1");
        assert!(errors(&[backend, ("STATIC_BUFFERING", "'off'")]).contains("remove them"));
        let rule = errors(&[backend, ("STATIC_ROUTE", "\"traefik.http.routers.x.rule=Nonsense(`a`)\"")]);
        assert!(rule.contains("\"Nonsense\" is no matcher"), "{rule}");
    }

    #[test]
    fn what_may_not_be_meant_is_noted() {
        let notes = |pairs: &[(&str, &str)]| {
            let all = [&[("STATIC_BACKEND", "10.0.0.1")], pairs].concat();
            parse(&vars(&all)).unwrap().1.into_iter().map(|note| note.text).collect::<Vec<_>>()
        };
        assert_eq!(
            notes(&[("STATIC_ROUTE", "/ shop/ a.example/x localhost/ /api/*")]),
            [
                "\"STATIC_ROUTE\": \"shop/\" is for the host \"shop\"; a path starts with \"/\": \"/shop/\"",
                "\"STATIC_ROUTE\": \"/api/*\" takes that \"*\" alone; a route without \"=\" takes all that starts with it: \"/api/\"",
            ]
        );
        assert!(notes(&[("STATIC_ROUTE", "Host(`shop`)")]).is_empty());
        assert_eq!(
            notes(&[("NGINIT_TRUSTED_PROXIES", "10.0.0.0/8 ::/0")]),
            [
                "\"NGINIT_TRUSTED_PROXIES\": ::/0 is everybody, so any client can name any address; name the proxies alone"
            ]
        );
    }

    #[test]
    fn nothing_set_is_the_table_of_defaults() {
        let (settings, notes) = parse(&Vars::new()).unwrap();
        assert!(settings.upstreams.is_empty() && notes.is_empty());
        assert_eq!(settings.listen.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80", "[::]:80"]);
        assert_eq!(settings.stop_timeout, Some(Duration::from_secs(9)));
        assert_eq!((settings.workers, settings.access_log), (None, AccessLog::Text));
        assert_eq!(settings.reload_backlog.map(NonZeroU16::get), Some(4));
    }

    #[test]
    fn every_variable_of_the_table_is_read() {
        for v in table::NGINIT {
            let set = vars(&[(v.name, "\u{1}")]);
            let is_set = |s: Settings| s.nginx.is_some() || !s.sidecars.is_empty();
            let read = parse(&set).map_or_else(|e| e.to_string().contains(v.name), |(s, _)| is_set(s));
            assert!(read, "{} is not read", v.name);
        }
        for v in table::UPSTREAM {
            let name = v.name.replacen("NAME", "STATIC", 1);
            let mut set = vars(&[("STATIC_BACKEND", "a")]);
            set.extend(vars(&[(&name, "\u{1}")]));
            let errors = parse(&set).unwrap_err().to_string();
            assert!(errors.contains(&name), "{errors}");
        }
    }

    #[test]
    fn static_and_dynamic_have_their_own_defaults() {
        let (settings, _) = parse(&vars(&[("STATIC_BACKEND", "a"), ("DYNAMIC_BACKEND", "b:81")])).unwrap();
        let shape: Vec<_> = settings
            .upstreams
            .iter()
            .map(|(n, u)| (n.upstream(), u.balance.word(), u.routes.len(), u.servers.len()))
            .collect();
        assert_eq!(
            shape,
            [("dynamic_backend".to_owned(), "round_robin", 2, 1), ("static_backend".to_owned(), "ip_hash", 1, 1)]
        );
    }

    #[test]
    fn all_faults_are_reported_in_one_go() {
        let errors = parse(&vars(&[
            ("STATIC_BACKEND", "a:0 b b:0"),
            ("STATIC_PORT", "http"),
            ("STATIC_BALANCE", "sticky"),
            ("DYNAMIC_BACKEND", "c"),
            ("DYNAMIC_ROUTE", "x"),
            ("NGINIT_LISTEN", "80 99999"),
            ("NGINIT_START", "x"),
            ("NGINIT_RELOAD_INTERVAL", "x"),
            ("NGINIT_RELOAD_BACKLOG", "-1"),
            ("NGINIT_WORKER_SHUTDOWN_TIMEOUT", "x"),
            ("NGINIT_CONTROL", "x"),
            ("NGINIT_STOP", "x"),
            ("NGINIT_STOP_TIMEOUT", "x"),
            ("NGINIT_WORKERS", "0"),
            ("NGINIT_ACCESS_LOG", "x"),
            ("NGINIT_LOG", "x"),
            ("NGINIT_LOG_FORMAT", "x"),
            ("NGINIT_CONF_DIR", "x"),
            ("NGINIT_TEMPLATES", "x"),
            ("STATIC_RETRY", "x"),
            ("STATIC_TIMEOUT", "x"),
            ("STATIC_KEEPALIVE", "x"),
            ("STATIC_MAX_BODY", "x"),
            ("STATIC_BUFFERING", "x"),
            ("NGINIT_ACCESS_LOG_FLUSH", "x"),
            ("NGINIT_GZIP", "x"),
            ("NGINIT_ERROR_PAGES", "x"),
        ]))
        .unwrap_err();
        assert_eq!(errors.0.len(), 27, "{errors}");
    }

    #[test]
    fn backup_is_refused_where_nginx_would() {
        let errors = parse(&vars(&[("STATIC_BACKEND", "a b;backup")])).unwrap_err().to_string();
        assert_eq!(
            errors,
            "\"STATIC_BACKEND\": server 2 \"b:80;backup\": ip_hash knows no backup servers; set STATIC_BALANCE=round_robin or remove \"backup\""
        );
        assert!(parse(&vars(&[("STATIC_BACKEND", "a b;backup"), ("STATIC_BALANCE", "least_conn")])).is_ok());
        let errors = parse(&vars(&[("DYNAMIC_BACKEND", "a;backup")])).unwrap_err().to_string();
        assert!(errors.contains("needs a server that is no backup"), "{errors}");
    }

    #[test]
    fn a_route_of_two_upstreams_names_both() {
        let set = vars(&[("A_BACKEND", "a"), ("A_ROUTE", "/x"), ("B_BACKEND", "b"), ("B_ROUTE", "/x")]);
        let errors = parse(&set).unwrap_err().to_string();
        assert_eq!(errors, "\"B_ROUTE\": \"/x\": a_backend has the same route; give A and B different routes");
    }

    #[test]
    fn names_are_ours_once_backend_and_route_are_set() {
        let ours = |canonical: &str, in_file| Class::Ours { canonical: canonical.to_owned(), in_file };
        assert_eq!(class("STATIC_BACKEND", &["STATIC_BACKEND"]), ours("STATIC_BACKEND", false));
        assert_eq!(class("STATIC_APP", &["STATIC_APP"]), ours("STATIC_BACKEND", false));
        assert_eq!(class("STATIC_PORT", &["STATIC_APP", "STATIC_PORT"]), ours("STATIC_PORT", false));
        assert_eq!(class("STATIC_PORT", &["STATIC_APP_FILE", "STATIC_PORT"]), ours("STATIC_PORT", false));
        assert_eq!(class("STATIC_PORT", &["STATIC_PORT"]), Class::Foreign);
        assert_eq!(class("API_BACKEND_FILE", &["API_BACKEND_FILE", "API_ROUTE"]), ours("API_BACKEND", true));
        assert_eq!(class("API_ROUTE", &["API_BACKEND_FILE", "API_ROUTE"]), ours("API_ROUTE", false));
        assert!(matches!(class("CELERY_BACKEND", &["CELERY_BACKEND"]), Class::Noted(n) if n.level == Level::Info));
        assert_eq!(class("NGINIT_LISTEN_FILE", &[]), ours("NGINIT_LISTEN", true));
        assert!(matches!(class("NGINIT_LISTN", &[]), Class::Noted(n) if n.text.contains("\"NGINIT_LISTEN\"")));
        assert_eq!(class("NGINIT_SERVICE_HOST", &[]), Class::Foreign);
        for foreign in ["PATH", "HOME", "_BACKEND", "x_BACKEND", "static_backend"] {
            assert_eq!(class(foreign, &[foreign]), Class::Foreign, "{foreign}");
        }
    }

    #[test]
    fn a_service_link_is_no_port() {
        let (settings, notes) = parse(&vars(&[("STATIC_BACKEND", "a"), ("STATIC_PORT", "tcp://10.0.0.1:81")])).unwrap();
        assert_eq!(settings.upstreams.values().next().unwrap().servers[0].address.to_string(), "a:80");
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn times_are_written_as_in_nginx() {
        for (text, ms) in [("9", 9000), ("9s", 9000), ("500ms", 500), ("1m30s", 90_000), ("1d1h", 90_000_000), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "9x", "1s1m", "1s1s", "-1", "1.5s", " 1", "99999999999999999999d", "9é"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!((parse_secs("1m"), parse_secs("500ms"), parse_secs("99999999999")), (Some(60), None, None));
    }
}
