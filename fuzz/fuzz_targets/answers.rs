//! Bytes as the answer of a DNS server: reading it never panics, and gives nothing that was not asked for.
//!
//! The first byte chooses the question, the next two are the flags and three more the numbers of records;
//! the others follow the question. The same bytes are read as a whole message, too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nginit::dns::message::{Kind, Question, Reply, read};

const KINDS: [Kind; 3] = [Kind::A, Kind::Aaaa, Kind::Srv];

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<6>() else { return };
    let kind = KINDS[usize::from(head[0] % 3)];
    let question = Question::new("web.test", kind).expect("a name");
    let mut message = question.bytes(7);
    (message[2], message[3]) = (head[1] | 0x80, head[2]);
    (message[7], message[9], message[11]) = (head[3], head[4], head[5]);
    message.extend_from_slice(rest);
    check(&message, kind, &question);
    assert_eq!(read(&message, 8, &question), Reply::NotOurs);
    check(data, kind, &question);
});

fn check(message: &[u8], kind: Kind, question: &Question) {
    let Reply::Records(records) = read(message, 7, question) else { return };
    let (addresses, services) = (&records.addresses, &records.services);
    match kind {
        Kind::A => assert!(addresses.iter().all(|ip| ip.is_ipv4())),
        Kind::Aaaa => assert!(addresses.iter().all(|ip| ip.is_ipv6())),
        Kind::Srv => assert!(addresses.is_empty() && !services.is_empty()),
    }
    assert!(kind == Kind::Srv || (!addresses.is_empty() && services.is_empty() && records.sent_along.is_empty()));
    assert!(records.sent_along.keys().all(|name| services.iter().any(|service| service.target == *name)));
    // A record takes ten bytes and a name.
    assert!(addresses.len() + services.len() + records.sent_along.len() <= message.len() / 11);
}
