//! The model: upstreams, their servers and routes, as plain data.
//!
//! It owns the shape of what an operator wrote, already checked and in one spelling, and what
//! nginx allows each balance method to do. It never reads, resolves or renders anything: every
//! other module imports this one, and this one imports nobody. Everything is ordered, so the same
//! input leads to the same bytes.

mod network;
pub mod passing;
mod protocol;
pub mod sticky;

pub use network::Network;
pub use protocol::{PeerTls, Protocol};

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use serde::Serialize;
use sticky::Cookie;

use passing::Passing;

/// The NAME of `NAME_BACKEND`: at most 64 upper-case ASCII letters, digits and `_`, starting with a
/// letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The name, if `text` is one.
    pub fn new(text: &str) -> Option<Self> {
        let starts = text.starts_with(|c: char| c.is_ascii_uppercase());
        let rest = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        (starts && text.len() <= 64 && text.chars().all(rest)).then(|| Self(text.to_owned()))
    }

    /// As it stands in variable names: `STATIC`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The upstream in nginx: `static_backend`.
    pub fn upstream(&self) -> String {
        format!("{}_backend", self.0.to_ascii_lowercase())
    }
}

/// All upstreams by name.
pub type Upstreams = BTreeMap<Name, Upstream>;

/// One named group of servers and the requests it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// In the order of the list; no address twice.
    pub servers: Vec<Server>,
    /// Which requests it gets; none where only templates of the operator's use it.
    pub routes: Vec<Route>,
    /// How nginx chooses among the servers.
    pub balance: Balance,
    /// How requests are passed on to them.
    pub passing: Passing,
    /// The cookie that ties a client to a server, if one does.
    pub sticky: Option<Cookie>,
    /// What nginx speaks to them.
    pub protocol: Protocol,
    /// The port of servers that name none.
    pub port: NonZeroU16,
    /// How often host names are looked up; nothing goes by what DNS says.
    pub resolve: Option<Duration>,
    /// The `role` tag of Serf's members that are servers of it.
    pub serf_role: String,
    /// The variable that the servers came from, as the operator set it (`STATIC_BACKEND_FILE`).
    pub variable: String,
}

impl Upstream {
    /// Whether servers that its list does not name may be backups, whatever nginx makes of its cookie.
    pub fn knows_backups(&self) -> bool {
        self.balance.allows_backup() && self.sticky.is_none()
    }
}

#[cfg(test)]
impl Upstream {
    /// One of which only a part matters.
    pub(crate) fn sample() -> Self {
        Self {
            servers: Vec::new(),
            routes: Vec::new(),
            balance: Balance::RoundRobin,
            passing: Passing::default(),
            sticky: None,
            protocol: Protocol::default(),
            port: const { NonZeroU16::new(80).unwrap() },
            resolve: None,
            serf_role: String::new(),
            variable: String::new(),
        }
    }
}

/// One entry of a server list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// How it takes part.
    pub params: Params,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name and port: as many peers as it has addresses.
    Host(HostName, NonZeroU16),
    /// The name of SRV records, which carry ports, weights and priorities.
    Srv(HostName),
    /// The absolute path of a unix socket, at most 107 bytes (`sun_path`, unix(7)).
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => write!(f, "{addr}"),
            Self::Host(name, port) => write!(f, "{name}:{port}"),
            Self::Srv(name) => write!(f, "srv:{name}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A DNS name in lower case, without a trailing dot, at most 253 bytes; `_` is allowed, because
/// Compose makes such names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The name, if `text` is one; names whose last label is a number are not (they are broken
    /// IPv4 addresses: RFC 1123 §2.1).
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > 253 || !text.split('.').all(is_label) {
            return None;
        }
        let last = text.rsplit('.').next()?;
        (!last.bytes().all(|b| b.is_ascii_digit())).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// nginx's parameters of a server, with nginx's meaning
/// (<https://nginx.org/en/docs/http/ngx_http_upstream_module.html#server>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Params {
    /// Share of the requests relative to the others; nginx's default is 1.
    pub weight: Option<NonZeroU16>,
    /// Most requests at a time; 0 is no limit.
    pub max_conns: Option<u32>,
    /// Failures within `fail_timeout` that take it out; 0 never does.
    pub max_fails: Option<u32>,
    /// Seconds over which failures count, and for which it is then out.
    pub fail_timeout_secs: Option<u32>,
    /// Gets requests only while no other server can.
    pub backup: bool,
    /// Gets no requests.
    pub down: bool,
    /// Gets no new requests while running ones finish.
    pub drain: bool,
}

impl Params {
    /// As an entry of a list has them, each behind a `;`, without the first one.
    pub fn to_list(self) -> String {
        let drain = self.drain && !self.down;
        let nginx = Self { drain: false, ..self }.to_nginx();
        let words = nginx.split_ascii_whitespace().chain(drain.then_some("drain"));
        words.collect::<Vec<_>>().join(";")
    }

    /// As nginx writes them after a server's address, each with a blank before it. `drain` is
    /// `down` there: without a sticky cookie the two are the same to nginx.
    pub fn to_nginx(self) -> String {
        use fmt::Write;
        let mut out = String::new();
        let mut put = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                let _ = write!(out, " {name}={value}");
            }
        };
        put("weight", self.weight.map(|w| w.get().into()));
        put("max_conns", self.max_conns.map(Into::into));
        put("max_fails", self.max_fails.map(Into::into));
        put("fail_timeout", self.fail_timeout_secs.map(Into::into));
        if self.backup {
            out.push_str(" backup");
        }
        if self.down || self.drain {
            out.push_str(" down");
        }
        out
    }
}

/// How nginx chooses among the servers of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest active requests.
    LeastConn,
    /// By chance, by weight.
    Random,
    /// By the client's address: the first three octets of IPv4, all of IPv6.
    IpHash,
    /// By a key made of nginx variables and plain text; `consistent` is the ketama ring.
    Hash {
        /// Only variables that every nginx knows, so that it cannot be refused.
        key: String,
        /// A change of servers moves few keys.
        consistent: bool,
    },
}

impl Balance {
    /// The directive without its semicolon, or nothing for nginx's default.
    pub fn to_nginx(&self) -> Option<String> {
        match self {
            Self::RoundRobin => None,
            Self::LeastConn => Some("least_conn".into()),
            Self::Random => Some("random".into()),
            Self::IpHash => Some("ip_hash".into()),
            Self::Hash { key, consistent } => {
                let ring = if *consistent { " consistent" } else { "" };
                Some(format!("hash {key}{ring}"))
            }
        }
    }

    /// As an operator writes it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConn => "least_conn",
            Self::Random => "random",
            Self::IpHash => "ip_hash",
            Self::Hash { .. } => "hash",
        }
    }

    /// Whether nginx accepts `backup` with it
    /// (<https://nginx.org/en/docs/http/ngx_http_upstream_module.html#server>).
    pub fn allows_backup(&self) -> bool {
        matches!(self, Self::RoundRobin | Self::LeastConn)
    }
}

/// Which requests an upstream gets, and with which path it gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The host that a client names; nothing is any.
    pub host: Option<HostName>,
    /// The path of the request.
    pub path: PathMatch,
    /// What becomes of the path.
    pub rewrite: Rewrite,
    /// Where several routes take a request, the highest one gets it: the length of the route, or of
    /// the rule that it comes from, as the operator wrote it.
    pub priority: usize,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            f.write_str(host.as_str())?;
        }
        write!(f, "{}", self.path)
    }
}

/// Which paths a route takes. nginx compares with the decoded and normalised path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatch {
    /// This path alone.
    Exact(String),
    /// Every path that starts with this string.
    Prefix(String),
}

impl PathMatch {
    /// The path alone.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) => f.write_str(path),
        }
    }
}

/// What becomes of a request's path on its way to the server. The query always stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rewrite {
    /// Nothing.
    Keep,
    /// This prefix is taken off; what is left starts with one slash.
    Strip(String),
    /// This path takes its place.
    Replace(String),
}

/// An address that nginx listens on, and what is spoken there. It is written without the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listen {
    /// Nothing means every IPv4 address.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: NonZeroU16,
    /// TLS, with HTTP/2 for those who ask for it.
    pub tls: bool,
    /// HTTP/2 without TLS.
    pub http2: bool,
    /// Every connection starts with the PROXY protocol.
    pub proxy_protocol: bool,
}

impl Listen {
    /// Plain HTTP.
    pub fn plain(address: Option<IpAddr>, port: NonZeroU16) -> Self {
        Self { address, port, tls: false, http2: false, proxy_protocol: false }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "{}", self.port),
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port.get())),
        }
    }
}

/// How nginx's access log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// A readable line per request.
    Text,
    /// A JSON object per request.
    Json,
    /// No log.
    Off,
}

/// What is looked up in DNS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// The addresses of a host (A and AAAA records).
    Host(HostName),
    /// Where a service is (SRV records, and the addresses of their targets).
    Srv(HostName),
}

impl Lookup {
    /// What has to be looked up for this address, if anything has.
    pub fn of(address: &Address) -> Option<Self> {
        match address {
            Address::Host(name, _) => Some(Self::Host(name.clone())),
            Address::Srv(name) => Some(Self::Srv(name.clone())),
            Address::Ip(_) | Address::Unix(_) => None,
        }
    }

    /// The name.
    pub fn name(&self) -> &HostName {
        match self {
            Self::Host(name) | Self::Srv(name) => name,
        }
    }
}

/// As it stands in a list of servers, without the port.
impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => name.fmt(f),
            Self::Srv(name) => write!(f, "srv:{name}"),
        }
    }
}

/// One address that a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The address.
    pub ip: IpAddr,
    /// What an SRV record says besides.
    pub srv: Option<SrvTarget>,
}

/// What an SRV record says of a target besides its address (RFC 2782).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SrvTarget {
    /// The port.
    pub port: NonZeroU16,
    /// Share of the requests; 0 in the record is 1 here.
    pub weight: NonZeroU16,
    /// Its priority is not the lowest one.
    pub backup: bool,
}

impl From<IpAddr> for Target {
    fn from(ip: IpAddr) -> Self {
        Self { ip, srv: None }
    }
}

/// Where names led to at one moment, each list in order and without repeats. A name that is missing did
/// not resolve.
pub type Resolved = BTreeMap<Lookup, Vec<Target>>;

/// The files that make up one configuration: plain file name to text.
pub type Files = BTreeMap<String, String>;

/// A template directory's content: file name to source.
pub type Sources = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upper_case_words() {
        assert_eq!(Name::new("STATIC").map(|n| n.upstream()).as_deref(), Some("static_backend"));
        for bad in ["", "static", "1A", "_A", "A-B", "É", &"A".repeat(65)] {
            assert_eq!(Name::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn host_names_follow_rfc_1123_and_compose() {
        for good in ["web", "Web.Example.", "project_web_1", "_http._tcp.web", "1a", "a.b1", "xn--bcher-kva"] {
            let name = HostName::new(good).unwrap_or_else(|| panic!("{good}"));
            assert_eq!(name.as_str(), good.trim_end_matches('.').to_ascii_lowercase());
        }
        let long = format!("{}.x", "a".repeat(64));
        for bad in ["", ".", "a..b", "-a", "a-", "10.0.0", "256.1.1.1", "a b", "a;b", "bücher", &long] {
            assert_eq!(HostName::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn params_are_written_as_nginx_spells_them() {
        let all = Params {
            weight: NonZeroU16::new(3),
            max_conns: Some(10),
            max_fails: Some(0),
            fail_timeout_secs: Some(30),
            backup: true,
            down: false,
            drain: true,
        };
        assert_eq!(all.to_nginx(), " weight=3 max_conns=10 max_fails=0 fail_timeout=30 backup down");
        assert_eq!(Params::default().to_nginx(), "");
    }
}
