//! The file of names beside DNS: hosts(5).

use std::collections::BTreeMap;
use std::net::IpAddr;

/// The addresses of every name of the file, in its order; names in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hosts(BTreeMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Reads the text. Lines that make no sense are left out, as the system does.
    pub fn parse(text: &str) -> Self {
        let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            // An address with a zone is of use only to who knows the link.
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                let known = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        Self(hosts)
    }

    /// The addresses of a name in lower case.
    pub fn get(&self, name: &str) -> &[IpAddr] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_line_has_its_address_and_a_name_those_of_all_lines() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost\n\n# 10.0.0.9 web\n10.0.0.1\tWeb web.example. # the web\n::1 web\n10.0.0.1 web\n\
             not-an-address web\n10.0.0.300 web\nfe80::1%eth0 web\n10.0.0.2",
        );
        let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(hosts.get("web"), ips(&["10.0.0.1", "::1"]));
        assert_eq!(hosts.get("web.example"), ips(&["10.0.0.1"]));
        assert_eq!(hosts.get("localhost"), ips(&["127.0.0.1"]));
        assert_eq!(hosts.get("the"), ips(&[]));
    }
}
