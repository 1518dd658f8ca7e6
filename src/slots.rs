//! Which place each server of an `ip_hash` upstream, or of one that is sticky by a cookie, has, whatever
//! becomes of the others.
//!
//! nginx's ip_hash turns a client's address into a position in the list
//! (nginx: src/http/modules/ngx_http_upstream_ip_hash_module.c), so a list that gets shorter or is
//! sorted anew moves nearly every client. Therefore a server that is gone stays in its place, marked
//! `down`: only its own clients go to others. A server that comes back finds its slot, and a
//! newcomer takes over that of one who is gone.
//!
//! There is a limit to it. nginx looks for another position where one is `down`, gives up after
//! 20 times and then takes turns, which is no stickiness at all. So the free slots are at most as
//! many, and together weigh at most as much, as the servers that are there: then one client in
//! two million gives up. What is beyond that is dropped from the end, which does move most clients.
//!
//! A cookie names its server's slot by number, so nginx need not know of those who are gone, and no
//! slot is ever dropped: there are as many as there once were servers at a time.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

use crate::ordered::InOrder;
use crate::peers::{Peer, PeerAddress, Peers};
use crate::upstream::{Balance, Name, Params, Upstreams};

/// The slots of every upstream that has any; no address twice in one.
pub type Slots = BTreeMap<Name, Vec<Slot>>;

/// The place of one peer in its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whose it is, or was last.
    pub address: PeerAddress,
    /// How many of the positions it takes.
    pub weight: NonZeroU16,
}

impl Slot {
    fn of(peer: &Peer) -> Self {
        Self { address: peer.address.clone(), weight: peer.weight() }
    }

    /// What stands there while its server is gone.
    fn placeholder(&self) -> Peer {
        let weight = Some(self.weight).filter(|weight| *weight > NonZeroU16::MIN);
        let params = Params { weight, down: true, ..Params::default() };
        Peer { address: self.address.clone(), name: None, params, gone: true, slot: None }
    }
}

/// The peers of all upstreams, those of `ip_hash` and of cookies in their slots, and the slots to
/// remember. Upstreams that balance otherwise, or are no more, have none.
pub fn place_all(remembered: &Slots, upstreams: &Upstreams, mut peers: Peers) -> (Peers, Slots) {
    let mut slots = Slots::new();
    for (name, upstream) in upstreams {
        let place = match upstream.balance {
            _ if upstream.sticky.is_some() => number,
            Balance::IpHash => place,
            _ => continue,
        };
        let before = remembered.get(name).map_or(&[][..], Vec::as_slice);
        let (placed, after) = place(before, peers.remove(name).unwrap_or_default());
        peers.insert(name.clone(), placed);
        if !after.is_empty() {
            slots.insert(name.clone(), after);
        }
    }
    (peers, slots)
}

/// The peers of one upstream in their slots, with placeholders for those that are gone, and the
/// slots to remember. Nobody at all leaves the slots as they were.
pub fn place(remembered: &[Slot], peers: Vec<Peer>) -> (Vec<Peer>, Vec<Slot>) {
    if peers.is_empty() {
        return (peers, remembered.to_vec());
    }
    let mut placed = seat(remembered, peers);
    drop_surplus(&mut placed);
    let slots = placed.iter().map(Slot::of).collect();
    (placed, slots)
}

/// The peers of one upstream, each with the number of its slot and in the order of these, and the slots
/// to remember: those who are gone keep theirs until a newcomer takes it over.
fn number(remembered: &[Slot], peers: Vec<Peer>) -> (Vec<Peer>, Vec<Slot>) {
    if peers.is_empty() {
        return (peers, remembered.to_vec());
    }
    let mut placed = seat(remembered, peers);
    let slots = placed.iter().map(Slot::of).collect();
    placed.iter_mut().enumerate().for_each(|(at, peer)| peer.slot = Some(at));
    placed.retain(|peer| !peer.gone);
    (placed, slots)
}

/// Every peer in its slot or a new one, and placeholders in the others.
fn seat(remembered: &[Slot], peers: Vec<Peer>) -> Vec<Peer> {
    let own = remembered.iter().enumerate().map(|(at, s)| (&s.address, at)).into_map();
    let mut placed: Vec<Peer> = remembered.iter().map(Slot::placeholder).collect();
    let mut newcomers = Vec::new();
    for peer in peers {
        match own.get(&peer.address) {
            Some(at) => placed[*at] = peer,
            None => newcomers.push(peer),
        }
    }
    settle(newcomers, &mut placed);
    placed
}

/// Gives each newcomer the first free slot of its weight; those who find none the free slots that
/// are left, and then places at the end. Another weight shifts all positions behind it, as a
/// further slot does.
fn settle(newcomers: Vec<Peer>, placed: &mut Vec<Peer>) {
    let mut free: BTreeMap<NonZeroU16, VecDeque<usize>> = BTreeMap::new();
    for (at, peer) in placed.iter().enumerate().filter(|(_, peer)| peer.gone) {
        free.entry(peer.weight()).or_default().push_back(at);
    }
    let mut others = VecDeque::new();
    for peer in newcomers {
        match free.get_mut(&peer.weight()).and_then(VecDeque::pop_front) {
            Some(at) => placed[at] = peer,
            None => others.push_back(peer),
        }
    }
    for place in placed.iter_mut().filter(|peer| peer.gone) {
        let Some(peer) = others.pop_front() else { break };
        *place = peer;
    }
    placed.extend(others);
}

/// Drops free slots from the end until those that are left are neither more than the servers that
/// are there nor weigh more.
fn drop_surplus(placed: &mut Vec<Peer>) {
    let sum = |gone: bool| {
        let of = placed.iter().filter(|peer| peer.gone == gone);
        of.fold((0, 0), |(count, weight), peer| (count + 1, weight + u64::from(peer.weight().get())))
    };
    let (most, most_weight) = sum(false);
    let (mut count, mut weight): (usize, u64) = sum(true);
    placed.reverse();
    placed.retain(|peer| {
        let surplus = peer.gone && (count > most || weight > most_weight);
        if surplus {
            count -= 1;
            weight -= u64::from(peer.weight().get());
        }
        !surplus
    });
    placed.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn peer(port: u16, weight: u16) -> Peer {
        let address = PeerAddress::Ip(SocketAddr::from(([10, 0, 0, 1], port)));
        let params = Params { weight: NonZeroU16::new(weight).filter(|w| w.get() > 1), ..Params::default() };
        Peer { address, name: None, params, gone: false, slot: None }
    }

    /// Peers by a letter each, with their weights: `a b3`.
    fn peers(text: &str) -> Vec<Peer> {
        let one = |word: &str| {
            let (letter, weight) = word.split_at(1);
            peer(letter.as_bytes()[0].into(), weight.parse().unwrap_or(1))
        };
        text.split_whitespace().map(one).collect()
    }

    /// The same of what is placed, with those that are gone in brackets.
    fn shown(peers: &[Peer]) -> String {
        let one = |peer: &Peer| {
            let PeerAddress::Ip(address) = peer.address else { return String::new() };
            let weight = peer.params.weight.map_or_else(String::new, |w| w.to_string());
            let text = format!("{}{weight}", char::from(address.port() as u8));
            assert_eq!(peer.params.down, peer.gone);
            if peer.gone { format!("[{text}]") } else { text }
        };
        peers.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn servers_keep_their_slots() {
        for (what, lists) in [
            ("the first list is as it is", &[("c a b", "c a b")][..]),
            ("the order of a list is nothing", &[("a b c", "a b c"), ("c b a", "a b c")]),
            ("who is gone keeps the place", &[("a b c", "a b c"), ("a c", "a [b] c"), ("a b c", "a b c")]),
            ("also at the end", &[("a b c", "a b c"), ("a b", "a b [c]"), ("c b a", "a b c")]),
            ("a newcomer gets the first free one", &[("a b c d e", "a b c d e"), ("e x c a", "a x c [d] e")]),
            ("and no other takes its place", &[("a b c", "a b c"), ("a x c", "a x c"), ("a x c b", "a x c b")]),
            ("who returns goes first", &[("a b c", "a b c"), ("a c", "a [b] c"), ("x a b c", "a b c x")]),
            ("of the same weight, if there is", &[("a b c2 d", "a b c2 d"), ("a d x2", "a [b] x2 d")]),
            ("whoever finds it", &[("a b c2 d", "a b c2 d"), ("a d x5 y2", "a x5 y2 d")]),
            ("of another one else", &[("a b c d", "a b c d"), ("a d x2", "a x2 [c] d")]),
            ("a weight may change", &[("a b c", "a b c"), ("a b7", "a b7 [c]"), ("a b7 c", "a b7 c")]),
            ("a gone one keeps its weight", &[("a b3 c4", "a b3 c4"), ("a c4", "a [b3] c4"), ("a b c4", "a b c4")]),
            ("half may be gone", &[("a b c d", "a b c d"), ("b d", "[a] b [c] d"), ("a b c d", "a b c d")]),
            ("and no more", &[("a b c d", "a b c d"), ("c", "[a] c"), ("a c d b", "a c d b")]),
            ("nor more than half of the weight", &[("a b9 c d", "a b9 c d"), ("a c d", "a c d")]),
            ("nobody at all is remembered", &[("a b c", "a b c"), ("", ""), ("c b", "[a] b c")]),
        ] {
            let mut slots = Vec::new();
            for (list, want) in lists {
                let (placed, after) = place(&slots, peers(list));
                assert_eq!(shown(&placed), *want, "{what}: {list}");
                slots = after;
            }
        }
    }

    #[test]
    fn slots_that_cookies_name_are_never_dropped() {
        let mut slots = Vec::new();
        for (list, want) in [
            ("a b c d e", "a0 b1 c2 d3 e4"),
            ("e", "e4"),
            ("e x a", "a0 x1 e4"),
            ("", ""),
            ("x e c d y z", "y0 x1 c2 d3 e4 z5"),
        ] {
            let (placed, after) = number(&slots, peers(list));
            let shown: Vec<String> =
                placed.iter().map(|peer| shown(std::slice::from_ref(peer)) + &peer.slot.unwrap().to_string()).collect();
            assert_eq!(shown.join(" "), want, "{list}");
            slots = after;
        }
        assert_eq!(slots.len(), 6);
    }

    #[test]
    fn what_the_operator_marks_down_is_there() {
        let (_, slots) = place(&[], peers("a b"));
        let mut list = peers("b a");
        list[0].params.down = true;
        list[0].params.max_fails = Some(7);
        let (placed, _) = place(&slots, list.clone());
        assert_eq!(placed, [list[1].clone(), list[0].clone()]);
    }

    #[test]
    fn only_ip_hash_has_slots_and_only_while_it_is_there() {
        use crate::upstream::{Address, Server, Upstream};
        let name = |text: &str| Name::new(text).unwrap();
        let upstream = |balance: Balance| Upstream {
            servers: vec![Server { address: Address::Unix("/a".into()), params: Params::default() }],
            balance,
            ..Upstream::sample()
        };
        let upstreams = Upstreams::from([
            (name("A"), upstream(Balance::IpHash)),
            (name("B"), upstream(Balance::RoundRobin)),
            (name("C"), upstream(Balance::IpHash)),
        ]);
        let remembered: Slots = ["A", "B", "D"].into_iter().map(|n| (name(n), place(&[], peers("x y")).1)).collect();
        let given = Peers::from([(name("A"), peers("y")), (name("B"), peers("y")), (name("C"), Vec::new())]);
        let (placed, slots) = place_all(&remembered, &upstreams, given);
        assert_eq!(placed.values().map(|p| shown(p)).collect::<Vec<_>>(), ["[x] y", "y", ""]);
        assert_eq!(slots, Slots::from([(name("A"), remembered[&name("A")].clone())]));
    }

    /// Lists of an upstream that changes, each server once: address and weight.
    fn lists() -> impl Strategy<Value = Vec<Vec<Peer>>> {
        let weight = prop_oneof![4 => Just(1_u16), 1 => 2_u16..5, 1 => 1_u16..];
        let list = btree_map(1_u16..24, weight, 0..20)
            .prop_map(|list| list.into_iter().map(|(port, weight)| peer(port, weight)).collect::<Vec<_>>());
        vec(list.prop_shuffle(), 1..8)
    }

    fn weigh<'a>(peers: impl Iterator<Item = &'a Peer>) -> u64 {
        peers.map(|peer| u64::from(peer.weight().get())).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_the_lists_are_slots_hold(lists in lists()) {
            let mut slots = Vec::new();
            for list in lists {
                let (placed, after) = place(&slots, list.clone());
                prop_assert_eq!(place(&slots, list.clone()), (placed.clone(), after.clone()), "the same again");
                if list.is_empty() {
                    prop_assert!(placed.is_empty());
                    prop_assert_eq!(&after, &slots);
                    continue;
                }
                let of: Vec<Slot> = placed.iter().map(Slot::of).collect();
                prop_assert_eq!(&after, &of, "what is remembered is what is rendered");
                let (gone, present): (Vec<&Peer>, Vec<&Peer>) = placed.iter().partition(|peer| peer.gone);
                let key = |peer: &&Peer| peer.address.clone();
                let mut sorted = (present.clone(), list.iter().collect::<Vec<_>>());
                sorted.0.sort_by_key(key);
                sorted.1.sort_by_key(key);
                prop_assert_eq!(sorted.0, sorted.1, "each that is there once, as it was given");
                let distinct: BTreeSet<&PeerAddress> = placed.iter().map(|peer| &peer.address).collect();
                prop_assert_eq!(distinct.len(), placed.len(), "no address twice");
                prop_assert!(gone.len() <= present.len());
                prop_assert!(weigh(gone.into_iter()) <= weigh(present.into_iter()));
                if placed.len() >= slots.len() {
                    let now: BTreeMap<&PeerAddress, usize> =
                        placed.iter().enumerate().map(|(at, peer)| (&peer.address, at)).collect();
                    for (at, slot) in slots.iter().enumerate() {
                        let stays = list.iter().any(|peer| peer.address == slot.address);
                        prop_assert!(!stays || now[&slot.address] == at, "who stays or returns keeps its slot");
                        prop_assert!(stays || placed[at].gone == (placed[at].address == slot.address));
                    }
                }
                // Another order of those who were known changes nothing.
                let mut reversed = list;
                let known = |peer: &Peer| slots.iter().any(|slot| slot.address == peer.address);
                if reversed.iter().all(known) {
                    reversed.reverse();
                    prop_assert_eq!(place(&slots, reversed).0, placed);
                }
                slots = after;
            }
        }
    }
}
