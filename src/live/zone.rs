//! What nginx is told when it asks for the servers of its upstreams: a name of DNS for each part of one, and
//! the servers at it.
//!
//! The names are `0.dynamic.nginit`, `1.dynamic.nginit` and so on. nginx keeps the servers of each apart, and
//! asks for each by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{Groups, MOST_AT_A_NAME};
use crate::ordered::InOrder;
use crate::peers::Peers;
use crate::upstream::Name;

/// What all of our names end with.
pub const SUFFIX: &str = "nginit";

/// Longest label that an upstream's name is cut into; DNS allows 63, and a name may have 64 letters.
const LONGEST_LABEL: usize = 32;

/// A server, as nginx is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share of the requests.
    pub weight: NonZeroU16,
    /// It gets requests only while no other server can.
    pub backup: bool,
}

/// The servers at one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// Goes up with each change, and is never 0.
    pub version: u64,
    /// In order; where there are any, at least one of them is no backup.
    pub servers: Vec<Served>,
    /// There are none, and there once were.
    pub freed: bool,
}

/// All names and the servers at them. A name stands here in lower case, without the suffix: `0.dynamic`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// The highest version that was given out.
    version: u64,
    sets: BTreeMap<String, Arc<Set>>,
}

/// How an upstream is called in DNS, without number and suffix.
pub fn label(name: &Name) -> String {
    let text = name.as_str().to_ascii_lowercase();
    let labels = text.as_bytes().chunks(LONGEST_LABEL).map(|label| String::from_utf8_lossy(label).into_owned());
    labels.collect::<Vec<_>>().join(".")
}

/// The name of the part `at` of an upstream, without the suffix.
pub fn part(name: &Name, at: usize) -> String {
    format!("{at}.{}", label(name))
}

/// The label of the upstream that this is a part of.
pub fn label_of(part: &str) -> Option<&str> {
    part.split_once('.').map(|(_, label)| label)
}

/// The whole name.
pub fn whole(part: &str) -> String {
    format!("{part}.{SUFFIX}")
}

impl Zone {
    /// The servers at `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<Set>> {
        self.sets.get(name)
    }

    /// All names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Set>)> {
        self.sets.iter().map(|(name, set)| (name.as_str(), set))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Whether this upstream, by its [`label`], has a name here.
    pub fn has(&self, label: &str) -> bool {
        self.sets.contains_key(&format!("0.{label}"))
    }

    /// The one that comes after this one, with the same versions where nothing changes.
    #[must_use]
    pub fn next(&self, groups: &Groups, peers: &Peers) -> Self {
        let mut version = self.version;
        let mut sets = BTreeMap::new();
        for (name, group) in groups {
            let mut parts: Vec<Vec<Served>> = vec![Vec::new(); group.names()];
            for peer in peers.get(name).into_iter().flatten() {
                let Some((at, served)) = group.served(peer) else { continue };
                parts[at].push(served);
            }
            for (at, mut servers) in parts.into_iter().enumerate() {
                servers.sort_unstable();
                let name = part(name, at);
                let before = self.sets.get(&name);
                let set = before.filter(|set| set.servers == servers).cloned().unwrap_or_else(|| {
                    version += 1;
                    let freed = before.is_some() && servers.is_empty();
                    Arc::new(Set { version, servers, freed })
                });
                sets.insert(name, set);
            }
        }
        Self { version, sets }
    }

    /// A line for each server, for a start that knows nothing of servers but what was told before.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for (name, set) in self.iter() {
            for Served { address, weight, backup } in &set.servers {
                let backup = if *backup { " backup" } else { "" };
                out.push_str(&format!("{name} {address} {weight}{backup}\n"));
            }
        }
        out
    }

    /// The zone of such a text; nothing, if that is not as we write it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut sets: Vec<(String, Set)> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (name, address, weight, backup) = match words[..] {
                [name, address, weight] => (name, address, weight, false),
                [name, address, weight, "backup"] => (name, address, weight, true),
                _ => return None,
            };
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
            if !name.bytes().all(plain) || name.len() > 253 {
                return None;
            }
            let served = Served { address: address.parse().ok()?, weight: weight.parse().ok()?, backup };
            match sets.last_mut() {
                Some((last, set)) if last == name => set.servers.push(served),
                _ => sets.push((name.to_owned(), Set { version: 1, servers: vec![served], freed: false })),
            }
        }
        let is_ours = |(_, set): &(String, Set)| set.servers.is_sorted() && set.servers.len() <= MOST_AT_A_NAME;
        (sets.is_sorted_by(|(a, _), (b, _)| a < b) && sets.iter().all(is_ours)).then(|| Self::of(sets))
    }

    /// The same, and of `other` those upstreams that are not here.
    #[must_use]
    pub fn with_others_of(mut self, other: &Self) -> Self {
        let is_other = |name: &str| label_of(name).is_some_and(|label| !self.has(label));
        let others: Vec<_> = other.sets.iter().filter(|(name, _)| is_other(name)).collect();
        let others: Vec<_> = others.into_iter().map(|(name, set)| (name.clone(), Arc::clone(set))).collect();
        self.sets.extend(others);
        self.version = self.version.max(other.version);
        self
    }

    /// The same with versions that `before` has not given out.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let later =
            |set: &Set| Set { version: before.version + set.version, servers: set.servers.clone(), freed: set.freed };
        let sets = self.sets.iter().map(|(name, set)| (name.clone(), Arc::new(later(set))));
        Self { version: before.version + self.version, sets: sets.into_map() }
    }

    /// A zone of these, each with its version.
    pub fn of(sets: impl IntoIterator<Item = (String, Set)>) -> Self {
        let sets: Vec<(String, Set)> = sets.into_iter().collect();
        let version = sets.iter().map(|(_, set)| set.version).max().unwrap_or_default();
        Self { version, sets: sets.into_iter().map(|(name, set)| (name, Arc::new(set))).into_map() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_kept_as_text() {
        let text = "0.dynamic 10.0.0.1:80 1\n0.dynamic [::1]:80 65535 backup\n1.my_api 10.0.0.1:81 2\n";
        let zone = Zone::parse(text).unwrap();
        assert_eq!(zone.to_text(), text);
        assert_eq!(zone.get("0.dynamic").unwrap().servers.len(), 2);
        assert_eq!(Zone::parse("").unwrap(), Zone::default());
        for bad in ["x", "a 10.0.0.1:80 0", "a 10.0.0.1 1", "A 10.0.0.1:80 1", "a 10.0.0.1:80 1 x", "a  10.0.0.1:80 1"]
        {
            assert_eq!(Zone::parse(bad), None, "{bad}");
        }
    }
}
