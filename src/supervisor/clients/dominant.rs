//! Finds the one address that nearly all requests of an upstream come from, in samples of them.
//!
//! Where every client comes by way of one address, `ip_hash` sends all of them to one server, and
//! nothing fails that an operator would notice. Pure: text in, findings out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// So many samples are looked at together, or more: of a request of each connection, a hundred of these.
const LEAST_SAMPLES: u32 = 100;

/// The share of the samples that makes an address suspicious, in percent.
const DOMINANT_PERCENT: u32 = 95;

/// Most addresses that are counted for an upstream at a time. One that dominates comes early.
const MOST_ADDRESSES: usize = 64;

/// Most upstreams that are counted, and most findings that are remembered.
const MOST: usize = 1000;

/// An address that nearly all requests of an upstream come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dominant {
    /// The upstream in nginx: `static_backend`.
    pub upstream: String,
    /// The address.
    pub address: IpAddr,
}

impl Dominant {
    /// What to tell the operator.
    pub fn advice(&self) -> String {
        let Self { upstream, address } = self;
        let name = upstream.strip_suffix("_backend").unwrap_or(upstream).to_ascii_uppercase();
        format!(
            "nearly all requests to {upstream} come from {address}, so ip_hash sends them to one server; if that is a \
             proxy, set NGINIT_TRUSTED_PROXIES={address} and, unless it sends X-Forwarded-For, NGINIT_REAL_IP_HEADER; \
             if it hides its clients, as Docker's gateway can, set {name}_BALANCE=least_conn or {name}_STICKY=cookie"
        )
    }
}

/// Counts samples by upstream.
#[derive(Debug, Default)]
pub struct Samples {
    tallies: BTreeMap<String, Tally>,
    found: BTreeSet<Dominant>,
}

#[derive(Debug, Default)]
struct Tally {
    total: u32,
    by_address: BTreeMap<IpAddr, u32>,
}

impl Samples {
    /// Takes in lines of an upstream's name and a client's address, and gives what is found for the
    /// first time. Counts start anew once there were enough for a look.
    pub fn take(&mut self, text: &str) -> Vec<Dominant> {
        for line in text.lines() {
            let Some((upstream, address)) = line.split_once(' ') else { continue };
            let Ok(address) = address.parse() else { continue };
            if self.tallies.len() >= MOST && !self.tallies.contains_key(upstream) {
                continue;
            }
            let tally = self.tallies.entry(upstream.to_owned()).or_default();
            tally.total = tally.total.saturating_add(1);
            if tally.by_address.len() < MOST_ADDRESSES || tally.by_address.contains_key(&address) {
                *tally.by_address.entry(address).or_default() += 1;
            }
        }
        let mut new = Vec::new();
        let (enough, few) = std::mem::take(&mut self.tallies).into_iter().partition(|(_, t)| t.total >= LEAST_SAMPLES);
        self.tallies = few;
        let enough: BTreeMap<String, Tally> = enough;
        for (upstream, tally) in enough {
            let is_dominant =
                |count: u32| u64::from(count) * 100 >= u64::from(tally.total) * u64::from(DOMINANT_PERCENT);
            let found = tally.by_address.into_iter().find(|(_, count)| is_dominant(*count));
            let Some((address, _)) = found else { continue };
            let dominant = Dominant { upstream, address };
            if self.found.len() < MOST && self.found.insert(dominant.clone()) {
                new.push(dominant);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
        (0..count).map(|n| line(n) + "\n").collect()
    }

    fn one(count: usize, upstream: &str, address: &str) -> String {
        lines(count, |_| format!("{upstream} {address}"))
    }

    fn many(count: usize, upstream: &str) -> String {
        lines(count, |n| format!("{upstream} 10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255))
    }

    #[test]
    fn one_address_is_found_once_enough_was_seen() {
        let mut samples = Samples::default();
        assert!(samples.take(&one(99, "a_backend", "172.17.0.1")).is_empty());
        let found = samples.take(&one(1, "a_backend", "172.17.0.1"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].upstream.as_str(), found[0].address.to_string().as_str()), ("a_backend", "172.17.0.1"));
        assert!(found[0].advice().contains("NGINIT_TRUSTED_PROXIES=172.17.0.1 "), "{}", found[0].advice());
        assert!(found[0].advice().contains("A_BALANCE=least_conn or A_STICKY=cookie"), "{}", found[0].advice());
        assert!(samples.take(&one(500, "a_backend", "172.17.0.1")).is_empty(), "said once");
        assert_eq!(samples.take(&one(500, "a_backend", "::1")).len(), 1, "another address");
        assert_eq!(samples.take(&one(500, "b_backend", "::1")).len(), 1, "another upstream");
    }

    #[test]
    fn nearly_all_is_95_percent() {
        let mut samples = Samples::default();
        assert!(samples.take(&(many(6, "a_backend") + &one(94, "a_backend", "::1"))).is_empty());
        assert_eq!(samples.take(&(many(5, "a_backend") + &one(95, "a_backend", "::1"))).len(), 1);
        assert!(samples.take(&many(100_000, "a_backend")).is_empty());
    }

    #[test]
    fn what_was_seen_long_ago_does_not_count() {
        let mut samples = Samples::default();
        assert!(samples.take(&many(10_000, "a_backend")).is_empty());
        assert_eq!(samples.take(&one(100, "a_backend", "::1")).len(), 1);
    }

    #[test]
    fn memory_is_bounded_whatever_is_told() {
        let mut samples = Samples::default();
        samples.take(&lines(100_000, |n| format!("u{n} 10.0.0.1")));
        samples.take(&lines(98, |n| format!("u1 10.0.0.{n}")));
        assert_eq!((samples.tallies.len(), samples.tallies["u1"].by_address.len()), (MOST, MOST_ADDRESSES));
        for text in ["", " ", "a", "a b", "\n\n", "a_backend 10.0.0", "a_backend 10.0.0.1 x", "é ü", "a_backend unix:"]
        {
            assert!(samples.take(text).is_empty(), "{text}");
        }
    }
}
