//! How the system asks DNS: resolv.conf(5), with glibc's defaults and limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// DNS.
const PORT: u16 = 53;

/// Servers after these are not asked.
const MOST_SERVERS: usize = 3;

/// Docker's own server, which says that an answer is good for ten minutes when it may be wrong in a second.
const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who is asked, in this order; never empty.
    pub servers: Vec<SocketAddr>,
    /// What may follow a name to make a whole one.
    pub search: Vec<String>,
    /// A name with as many dots is first tried as it is.
    pub ndots: usize,
    /// Longest wait for one server.
    pub timeout: Duration,
    /// How often each server is asked.
    pub attempts: usize,
    /// Each question starts with another server.
    pub rotate: bool,
    /// Everything over TCP.
    pub tcp: bool,
}

impl Config {
    /// Reads the text. `host` is the name of this machine, whose domain is searched where the file names
    /// none; `link` gives the number of a network interface.
    pub fn parse(text: &str, host: &str, link: impl Fn(&str) -> Option<u32>) -> Self {
        let mut servers = Vec::new();
        let domain = host.split_once('.').map(|(_, domain)| domain.trim());
        let mut config = Self {
            servers: Vec::new(),
            search: domain.into_iter().filter_map(whole_domain).collect(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            tcp: false,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(|word| server(word, &link))),
                Some("domain") => config.search = words.take(1).filter_map(whole_domain).collect(),
                Some("search") => config.search = words.filter_map(whole_domain).collect(),
                Some("options") => words.for_each(|word| config.option(word)),
                _ => {}
            }
        }
        servers.truncate(MOST_SERVERS);
        if servers.is_empty() {
            servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        }
        config.servers = servers;
        config
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = value.parse::<usize>().ok();
        match (name, number) {
            ("ndots", Some(n)) => self.ndots = n.min(15),
            ("timeout", Some(n)) => self.timeout = Duration::from_secs(n.clamp(1, 30) as u64),
            ("attempts", Some(n)) => self.attempts = n.clamp(1, 5),
            ("rotate", _) => self.rotate = true,
            ("use-vc", _) => self.tcp = true,
            _ => {}
        }
    }

    /// The whole names that `name` may stand for, in the order in which they are tried.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let at = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names.retain(|name| name.len() <= 253);
        names
    }
}

/// Whether what this server says of an answer's life is no use.
pub fn says_too_long(server: IpAddr) -> bool {
    server == DOCKER
}

/// A domain to search, without its dot; nothing for the root, under which every name is tried as it is.
fn whole_domain(word: &str) -> Option<String> {
    let domain = word.trim_end_matches('.');
    (!domain.is_empty() && domain != "(none)").then(|| domain.to_ascii_lowercase())
}

/// An address, of IPv6 with the link that it is good for.
fn server(word: &str, link: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse().ok()?, PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let zone = zone.parse().ok().or_else(|| link(zone))?;
    Some(SocketAddrV6::new(address, PORT, 0, zone).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, "box.own.test", |name| (name == "eth0").then_some(7))
    }

    #[test]
    fn a_missing_file_means_this_machine_and_its_domain() {
        let config = parse("");
        assert_eq!(config.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((config.ndots, config.timeout, config.attempts), (1, Duration::from_secs(5), 2));
        assert_eq!(config.search, ["own.test"]);
        assert_eq!(Config::parse("", "box", |_| None).search, [""; 0]);
    }

    #[test]
    fn three_servers_count_of_both_families_and_with_a_link() {
        let config = parse(
            "nameserver 10.0.0.1\nnameserver\t2001:db8::1 more\n nameserver fe80::1%eth0\nnameserver 10.0.0.4\n\
             #nameserver 10.0.0.5",
        );
        assert_eq!(config.servers[..2], ["10.0.0.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        assert_eq!(config.servers[2..], [SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7).into()]);
        let bad =
            parse("nameserver fe80::1%eth9\nnameserver web\nnameserver\nnameserver 10.0.0.1%eth0\nNAMESERVER 1.1.1.1");
        assert_eq!(bad.servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn the_last_of_search_and_domain_counts() {
        assert_eq!(parse("search a.test B.test.\ndomain c.test d.test").search, ["c.test"]);
        assert_eq!(parse("domain c.test\nsearch a.test . B.test.\r\n").search, ["a.test", "b.test"]);
        assert_eq!(parse("search .").search, [""; 0]);
    }

    #[test]
    fn options_stay_within_the_limits_of_glibc() {
        let config = parse("options ndots:99 timeout:0 attempts:9 rotate use-vc edns0 no-such x:y ndots:\r\n");
        assert_eq!((config.ndots, config.timeout, config.attempts), (15, Duration::from_secs(1), 5));
        assert!(config.rotate && config.tcp);
        assert_eq!(parse("options timeout:60 ndots:0").timeout, Duration::from_secs(30));
    }

    #[test]
    fn dots_decide_whether_a_name_is_first_tried_as_it_is() {
        let config = parse("search a.test b.test\noptions ndots:2");
        assert_eq!(config.candidates("web.x"), ["web.x.a.test", "web.x.b.test", "web.x"]);
        assert_eq!(config.candidates("web.x.y"), ["web.x.y", "web.x.y.a.test", "web.x.y.b.test"]);
        assert_eq!(config.candidates(&"a".repeat(250)), ["a".repeat(250)]);
    }

    #[test]
    fn any_text_leads_to_someone_to_ask() {
        let mut runner = proptest::test_runner::TestRunner::default();
        let text = "((nameserver|search|domain|options|#|;)[ \t]*[0-9a-z.:% ]{0,30}\n){0,8}|\\PC{0,99}";
        let checked = runner.run(&text, |text| {
            let config = parse(&text);
            proptest::prop_assert!((1..=3).contains(&config.servers.len()));
            proptest::prop_assert!(config.candidates("web").contains(&"web".to_owned()));
            Ok(())
        });
        checked.unwrap();
    }
}
