//! Stickiness by a cookie where nginx has none of its own, or where its own is not wanted.
//!
//! The cookie names the slot of a server ([`crate::slots`]), not its address. nginx has no directive
//! that sends a request to a server by name, but `hash KEY` picks one by arithmetic that is easily
//! done beforehand (nginx: src/http/modules/ngx_http_upstream_hash_module.c): so a `map` gives each
//! cookie a key that leads to its server. A hash over the cookie itself would move clients with each
//! server that comes, even on a ring; this moves nobody. A client without a cookie has no key,
//! and nginx takes turns then.
//!
//! All clients of one key go on to the same server when theirs is dead. Therefore a server has several
//! keys, and a cookie holds the share of the clients to which it belongs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::peers::{Peer, PeerAddress};

/// The shares of a server's clients, by the letter that ends their cookies; `_sticky.j2` deals them out.
const SHARES: [char; 8] = ['g', 'h', 'i', 'j', 'k', 'l', 'm', 'n'];

/// How many positions nginx's hash can lead to: it has 15 bits.
const REACH: u32 = 0x8000;

/// How many keys are tried at most: some ten times what it takes for as many servers as can be reached.
const MOST_KEYS: u32 = 4_000_000;

/// The longest text that nginx keeps in a map with its default `map_hash_bucket_size`, in bytes: 64, less
/// two pointers, less a length (nginx: src/core/ngx_hash.c).
const LONGEST_IN_MAP: usize = 46;

/// How many keys of a server are passed over for others that spread its clients better.
const MOST_REFUSED: u32 = 64;

/// The value of a cookie, and the key that leads to its server.
pub type Home = (String, String);

/// The peers with weights that nginx's hash can reach, in about the same ratio.
pub fn fit(peers: &[Peer]) -> Cow<'_, [Peer]> {
    let total: u64 = peers.iter().map(|peer| u64::from(peer.weight().get())).sum();
    if total <= u64::from(REACH) {
        return Cow::Borrowed(peers);
    }
    // Each may be rounded up to 1.
    let room = u64::from(REACH).saturating_sub(peers.len() as u64);
    let mut fitted = peers.to_vec();
    for peer in &mut fitted {
        let weight = u64::from(peer.weight().get()) * room / total;
        peer.params.weight = u16::try_from(weight.max(1)).ok().and_then(std::num::NonZeroU16::new);
    }
    Cow::Owned(fitted)
}

/// The cookies of all servers that take requests, in the order of the servers, with their keys.
pub fn homes(peers: &[Peer]) -> Vec<Home> {
    let positions = Positions::of(peers);
    let open = |at: usize| peers[at].slot.is_some() && (at == 0 || positions.ends[at - 1] < REACH);
    let mut found: Vec<Found> = vec![Found::default(); peers.len()];
    let mut missing = (0..peers.len()).filter(|at| positions.takes[*at] && open(*at)).count() * SHARES.len();
    for number in 0..MOST_KEYS {
        if missing == 0 {
            break;
        }
        let key = nth_key(number);
        let at = positions.server(position(&key));
        if positions.takes[at]
            && open(at)
            && found[at].keys.len() < SHARES.len()
            && found[at].spreads(at, &key, &positions)
        {
            found[at].keys.push(key);
            missing -= 1;
        }
    }
    let cookies = |(peer, found): (&Peer, Found)| {
        let slot = peer.slot.map(tag).unwrap_or_default();
        let cookie = |(share, key)| (format!("{slot}{share}"), key);
        SHARES.into_iter().zip(found.keys).map(cookie).collect::<Vec<_>>()
    };
    peers.iter().zip(found).flat_map(cookies).collect()
}

/// Text number `number`. Of many lengths: for keys of one length, a server's checksums differ so
/// little that some sums of weights lead all of them on to the same other server.
fn nth_key(number: u32) -> String {
    let width = 1 + number as usize % 16;
    format!("{:0width$}", number / 16)
}

/// Where nginx's hash finds each server.
struct Positions {
    /// The position after the last one of each server.
    ends: Vec<u32>,
    /// Whether it takes requests.
    takes: Vec<bool>,
    /// The weights of all that take requests, summed.
    weight: u32,
}

impl Positions {
    fn of(peers: &[Peer]) -> Self {
        let mut end = 0;
        let ends = peers.iter().map(|peer| {
            end += u32::from(peer.weight().get());
            end
        });
        let (ends, takes) = (ends.collect(), peers.iter().map(|peer| !is_down(peer)).collect());
        let weight = peers.iter().filter(|peer| !is_down(peer)).map(|peer| u32::from(peer.weight().get())).sum();
        Self { ends, takes, weight }
    }

    fn weight_of(&self, at: usize) -> u32 {
        self.ends[at] - if at == 0 { 0 } else { self.ends[at - 1] }
    }

    fn server(&self, sum: u32) -> usize {
        let all = self.ends.last().copied().unwrap_or(1);
        self.ends.partition_point(|end| *end <= sum % all)
    }

    /// Where the clients of `key` go when the server `at` is dead. After as many attempts nginx takes turns.
    fn next(&self, at: usize, key: &str) -> Option<usize> {
        let mut sum = position(key);
        (1..=20).find_map(|attempt| {
            sum += position(&format!("{attempt}{key}"));
            let next = self.server(sum);
            (next != at && self.takes[next]).then_some(next)
        })
    }
}

/// The keys of one server.
#[derive(Clone, Default)]
struct Found {
    keys: Vec<String>,
    /// Where they lead on to.
    next: BTreeMap<usize, u32>,
    refused: u32,
}

impl Found {
    /// Whether `key` leads on to a server that gets no more than its weight's share yet.
    fn spreads(&mut self, at: usize, key: &str, positions: &Positions) -> bool {
        let Some(next) = positions.next(at, key) else { return true };
        let others = positions.weight - positions.weight_of(at);
        let most = (SHARES.len() as u32 * positions.weight_of(next)).div_ceil(others);
        let used = self.next.entry(next).or_default();
        if *used >= most && self.refused < MOST_REFUSED {
            self.refused += 1;
            return false;
        }
        *used += 1;
        true
    }
}

/// How a map of nginx writes the addresses of the servers that take requests, each with the part of its
/// cookies that names the slot.
pub fn places(peers: &[Peer]) -> Vec<(String, String)> {
    let place = |peer: &Peer| Some((pattern(&peer.address), tag(peer.slot?)));
    peers.iter().filter(|peer| !is_down(peer)).filter_map(place).collect()
}

fn is_down(peer: &Peer) -> bool {
    peer.params.down || peer.params.drain
}

/// A slot as it stands in cookies.
fn tag(slot: usize) -> String {
    format!("{slot:x}")
}

/// Plain text, or a regular expression where that would be too long, or where case matters: nginx
/// compares plain text without it. Of the characters that paths may hold, `.` and `+` mean something.
fn pattern(address: &PeerAddress) -> String {
    let text = address.to_string();
    match address {
        PeerAddress::Ip(_) if text.len() <= LONGEST_IN_MAP => text,
        PeerAddress::Ip(_) | PeerAddress::Unix(_) => {
            let special = |c: char| matches!(c, '.' | '+' | '[' | ']');
            let escaped: String =
                text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect();
            format!("\"~^{escaped}$\"")
        }
    }
}

/// What nginx makes of a key before it takes the remainder by the sum of all weights.
fn position(key: &str) -> u32 {
    (crc32(key.as_bytes()) >> 16) & (REACH - 1)
}

/// CRC-32 as in zip files (ISO 3309), reflected.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let step = |crc: u32, nibble: u8| TABLE[usize::from(crc as u8 & 15 ^ nibble)] ^ crc >> 4;
    !bytes.iter().fold(!0, |crc, byte| step(step(crc, byte & 15), byte >> 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::num::NonZeroU16;

    use crate::upstream::Params;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn peer(slot: usize, weight: u16) -> Peer {
        let address = PeerAddress::Ip(SocketAddr::from(([10, 0, (slot >> 8) as u8, slot as u8], 80)));
        let params = Params { weight: NonZeroU16::new(weight), ..Params::default() };
        Peer { address, name: None, params, gone: false, slot: Some(slot) }
    }

    /// Which peer nginx sends a key to, counted as nginx does.
    fn target(peers: &[Peer], key: &str) -> usize {
        let total: u32 = peers.iter().map(|peer| u32::from(peer.weight().get())).sum();
        let mut rest = position(key) % total;
        for (at, peer) in peers.iter().enumerate() {
            match rest.checked_sub(u32::from(peer.weight().get())) {
                Some(less) => rest = less,
                None => return at,
            }
        }
        unreachable!("the remainder is less than the sum")
    }

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn nobody_and_those_who_take_no_requests_have_no_cookies() {
        assert_eq!(homes(&[]), []);
        let mut peers = vec![peer(0, 1), peer(1, 1), peer(2, 1)];
        peers[0].params.down = true;
        peers[2].params.drain = true;
        let homes = homes(&peers);
        assert_eq!(homes.iter().map(|(cookie, _)| &cookie[..1]).collect::<BTreeSet<_>>(), BTreeSet::from(["1"]));
        assert_eq!((homes.len(), places(&peers)), (8, vec![("10.0.0.1:80".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn thousands_of_servers_have_all_their_cookies() {
        for count in [1_000, 10_000] {
            let peers: Vec<Peer> = (0..count).map(|slot| peer(slot, 1)).collect();
            assert_eq!(homes(&peers).len(), count * SHARES.len());
        }
    }

    #[test]
    fn the_clients_of_a_dead_server_go_to_many_others() {
        for count in [2, 3, 6, 8, 16, 33, 64] {
            let peers: Vec<Peer> = (0..count).map(|slot| peer(slot, 1)).collect();
            let positions = Positions::of(&peers);
            for (at, homes) in homes(&peers).chunks(SHARES.len()).enumerate() {
                let next: BTreeSet<_> = homes.iter().map(|(_, key)| positions.next(at, key)).collect();
                let each = SHARES.len().div_ceil(count - 1);
                assert!(next.len() >= SHARES.len().div_ceil(each), "{at} of {count}: {next:?}");
            }
        }
    }

    #[test]
    fn addresses_that_no_map_holds_are_expressions() {
        let ip = |text: &str| pattern(&PeerAddress::Ip(text.parse().unwrap()));
        assert_eq!(ip("[2001:db8::1]:80"), "[2001:db8::1]:80");
        let full = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        assert_eq!((full.len(), ip(full)), (46, full.to_owned()));
        assert_eq!(
            ip("[2001:1db8:1111:2222:3333:4444:5555:6666]:65535"),
            "\"~^\\[2001:1db8:1111:2222:3333:4444:5555:6666\\]:65535$\""
        );
        let unix = pattern(&PeerAddress::Unix("/run/a.b/c+d.sock".into()));
        assert_eq!(unix, "\"~^unix:/run/a\\.b/c\\+d\\.sock$\"");
    }

    proptest! {
        // Few: a server that weighs a hundredth of a per cent takes many keys to be found.
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn every_cookie_leads_to_its_server(
            weights in vec(prop_oneof![4 => 1_u16..5, 1 => 1_u16..], 1..40),
        ) {
            let given: Vec<Peer> = weights.iter().enumerate().map(|(at, weight)| peer(at * 3, *weight)).collect();
            let peers = fit(&given);
            let total: u32 = peers.iter().map(|peer| u32::from(peer.weight().get())).sum();
            prop_assert!(total <= REACH);
            let by_slot: BTreeMap<String, usize> = (0..peers.len()).map(|at| (tag(at * 3), at)).collect();
            let homes = homes(&peers);
            let distinct: BTreeSet<&String> = homes.iter().map(|(cookie, _)| cookie).collect();
            prop_assert_eq!(distinct.len(), peers.len() * SHARES.len());
            for (cookie, key) in &homes {
                prop_assert_eq!(target(&peers, key), by_slot[&cookie[..cookie.len() - 1]]);
            }
        }
    }
}
