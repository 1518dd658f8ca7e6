//! Bytes as messages to the thread that answers nginx: none panics, only what is a question is answered, over UDP
//! with no more than nginx reads, and what is remembered stays bounded.
//!
//! Each message has a byte for its length and one for who sends it, over what, and how much time passes before.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use nginit::live::message::{LONGEST_OVER_UDP, Question};
use nginit::live::responder::{Action, Asker, Responder};
use nginit::live::zone::{Served, Set, Zone};

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let mut responder = Responder::new(zone(1));
    let mut rest = data;
    while let Some(([length, how], tail)) = rest.split_first_chunk::<2>() {
        let (message, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        let port = 5000 + u16::from(how & 7);
        let from = if how & 8 == 0 { Asker::Udp(([127, 0, 0, 1], port).into()) } else { Asker::Tcp(port.into()) };
        now += Duration::from_millis([0, 1, 500, 5000][usize::from(how >> 4 & 3)]);
        let mut actions = match how >> 6 {
            0 => responder.on_zone(zone(u64::from(*length)), now),
            _ => Vec::new(),
        };
        check(&actions);
        actions = responder.on_question(message, from, now);
        assert!(Question::read(message).is_some() || actions == [Action::Ignore]);
        check(&actions);
        if responder.deadline().is_some_and(|at| at <= now) {
            check(&responder.on_deadline(now));
            assert!(responder.deadline().is_none_or(|at| at > now), "it would be called again and again");
        }
        assert!(responder.remembered() <= 4096 + 1024);
    }
});

/// A short list, a long one, and sometimes none.
fn zone(version: u64) -> Arc<Zone> {
    let served =
        |i: u8| Served { address: ([10, 0, 0, i], 8080).into(), weight: 1.try_into().expect("not 0"), backup: i == 7 };
    let set = |count: u8| Set { version, servers: (0..count).map(served).collect(), freed: count == 0 && version % 2 == 0 };
    let counts = [3, 200, (version % 3).try_into().expect("less than 3")];
    Arc::new(Zone::of(counts.into_iter().enumerate().map(|(at, count)| (format!("{at}.web"), set(count)))))
}

fn check(actions: &[Action]) {
    for action in actions {
        let (Action::Answer(to, bytes) | Action::Tell(to, bytes) | Action::Refuse(to, bytes)) = action else {
            continue;
        };
        assert!(bytes.len() >= 12 && bytes[2] & 0x80 != 0, "an answer");
        assert!(matches!(to, Asker::Tcp(_)) || bytes.len() <= LONGEST_OVER_UDP);
    }
}
