//! Questions and answers of DNS as bytes (RFC 1035 §4).
//!
//! Whatever the bytes are, reading them ends in one of [`Reply`]'s cases. Only what answers the very
//! question counts: records of other names are for nobody, however useful they look.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::{Name, ParsedName};
use domain::base::{Message, MessageBuilder, ParsedRecord};
use domain::rdata::{A, Aaaa, Cname, Srv};

use crate::ordered::InOrder;
use crate::upstream::HostName;

/// Most aliases between a name and its records. Nobody needs more than a few.
const LONGEST_CHAIN: usize = 16;

/// What kind of record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Where a service is (RFC 2782).
    Srv,
}

impl Kind {
    fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Srv => Rtype::SRV,
        }
    }
}

/// A question: a name in DNS's own form, and the kind of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    name: Name<Vec<u8>>,
    kind: Kind,
}

impl Question {
    /// The question for `name`, which is taken as a whole name, dot at its end or not; nothing if no
    /// name of DNS is spelt so.
    pub fn new(name: &str, kind: Kind) -> Option<Self> {
        let name: Name<Vec<u8>> = name.parse().ok()?;
        Some(Self { name, kind })
    }

    /// The message that asks it.
    pub fn bytes(&self, id: u16) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        // A Vec has room for one question.
        let _ = message.push((&self.name, self.kind.rtype(), Class::IN));
        message.finish()
    }
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The lowest one is asked first.
    pub priority: u16,
    /// Share of the requests among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host.
    pub target: HostName,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing that answers the question: somebody else's answer, a forgery, or no message of DNS.
    NotOurs,
    /// The answer is longer than what came: ask over TCP.
    Truncated,
    /// That there are such records.
    Records(Records),
    /// That there is no such name, or none with a record of this kind.
    None,
    /// That it cannot tell, by the word of the protocol.
    Refused(String),
}

/// What an answer holds for its question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// The addresses, in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// The services, in the order of the answer.
    pub services: Vec<Service>,
    /// Addresses that were sent along, by name.
    pub sent_along: BTreeMap<HostName, Vec<IpAddr>>,
    /// How many seconds all of it is good for.
    pub ttl_secs: u32,
}

/// Reads the answer to `question` that was asked with this id.
pub fn read(bytes: &[u8], id: u16, question: &Question) -> Reply {
    let Ok(message) = Message::from_slice(bytes) else { return Reply::NotOurs };
    let header = message.header();
    if header.id() != id || !header.qr() || header.opcode() != Opcode::QUERY {
        return Reply::NotOurs;
    }
    let code = header.rcode();
    let tells = code == Rcode::NOERROR || code == Rcode::NXDOMAIN;
    match message.sole_question() {
        Ok(asked) => {
            let same = asked.qname() == &question.name && asked.qtype() == question.kind.rtype();
            if !same || asked.qclass() != Class::IN {
                return Reply::NotOurs;
            }
        }
        // Who cannot answer may leave the question out.
        Err(_) if !tells && message.header_counts().qdcount() == 0 => {}
        Err(_) => return Reply::NotOurs,
    }
    if header.tc() {
        return Reply::Truncated;
    }
    if !tells {
        return Reply::Refused(code.to_string());
    }
    if code == Rcode::NXDOMAIN {
        return Reply::None;
    }
    // Who neither knows by itself nor asks others knows nothing (so thinks glibc, too).
    if !header.aa() && !header.ra() && message.header_counts().ancount() == 0 {
        return Reply::Refused("that others know".to_owned());
    }
    match records(message, question) {
        None => Reply::Refused("nothing that makes sense".to_owned()),
        Some(records) if records.addresses.is_empty() && records.services.is_empty() => Reply::None,
        Some(records) => Reply::Records(records),
    }
}

/// The records for the question, or nothing if the message is broken.
fn records(message: &Message<[u8]>, question: &Question) -> Option<Records> {
    let answer: Vec<ParsedRecord<'_, [u8]>> = message.answer().ok()?.collect::<Result<_, _>>().ok()?;
    let (owner, mut ttl) = end_of_chain(&answer, question)?;
    let mut records = Records::default();
    for record in answer.iter().filter(|record| record.class() == Class::IN && record.owner() == owner) {
        if record.rtype() != question.kind.rtype() {
            continue;
        }
        ttl = ttl.min(record.ttl().as_secs());
        match question.kind {
            Kind::A | Kind::Aaaa => records.addresses.extend(Some(address(record)?).filter(is_a_hosts)),
            Kind::Srv => {
                let record = record.to_record::<Srv<ParsedName<&[u8]>>>().ok()??;
                let srv = record.data();
                // A target of "." means that there is no such service (RFC 2782).
                let Some(target) = host_name(srv.target()) else { continue };
                let (priority, weight, port) = (srv.priority(), srv.weight(), srv.port());
                records.services.push(Service { priority, weight, port, target });
            }
        }
    }
    let targets = records.services.iter().map(|service| &service.target).into_set();
    if !targets.is_empty() {
        // What cannot be read of what nobody asked for is no fault.
        for record in message.additional().into_iter().flatten().map_while(Result::ok) {
            let (Some(address), Some(name)) = (address(&record), host_name(&record.owner())) else { continue };
            if record.class() == Class::IN && targets.contains(&name) && is_a_hosts(&address) {
                ttl = ttl.min(record.ttl().as_secs());
                records.sent_along.entry(name).or_default().push(address);
            }
        }
    }
    records.ttl_secs = ttl;
    Some(records)
}

/// The name that the question's name is an alias of, if it is one, and the shortest life of the
/// records on the way. Nothing if the way has no end.
fn end_of_chain<'a>(answer: &[ParsedRecord<'a, [u8]>], question: &Question) -> Option<(Name<Vec<u8>>, u32)> {
    let (mut name, mut ttl) = (question.name.clone(), u32::MAX);
    for _ in 0..=LONGEST_CHAIN {
        let alias = |record: &&ParsedRecord<'a, [u8]>| {
            record.rtype() == Rtype::CNAME && record.class() == Class::IN && record.owner() == name
        };
        let Some(alias) = answer.iter().find(alias) else { return Some((name, ttl)) };
        ttl = ttl.min(alias.ttl().as_secs());
        let record = alias.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
        name = domain::base::ToName::to_name(record.data().cname());
    }
    None
}

/// Whether a server can be there. Who blocks names says 0.0.0.0, where nginx would meet itself.
fn is_a_hosts(ip: &IpAddr) -> bool {
    let ip = ip.to_canonical();
    !(ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST))
}

/// The address in an A or AAAA record.
fn address(record: &ParsedRecord<'_, [u8]>) -> Option<IpAddr> {
    match record.rtype() {
        Rtype::A => Some(record.to_record::<A>().ok()??.data().addr().into()),
        Rtype::AAAA => Some(record.to_record::<Aaaa>().ok()??.data().addr().into()),
        _ => None,
    }
}

/// A name of DNS, if it is one that a host can have.
fn host_name(name: &impl fmt::Display) -> Option<HostName> {
    HostName::new(&name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::base::message_builder::AnswerBuilder;
    use domain::base::{Record, Ttl};
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    fn name(text: &str) -> Name<Vec<u8>> {
        text.parse().unwrap()
    }

    fn question(text: &str, kind: Kind) -> Question {
        Question::new(text, kind).unwrap()
    }

    /// An answer of a server that asks others, with the id 7.
    fn answer(asked: &Question, more: impl FnOnce(&mut AnswerBuilder<Vec<u8>>)) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        let header = message.header_mut();
        header.set_id(7);
        header.set_qr(true);
        header.set_ra(true);
        let mut message = message.question();
        message.push((&asked.name, asked.kind.rtype())).unwrap();
        let mut message = message.answer();
        more(&mut message);
        message.finish()
    }

    fn a(owner: &str, ttl: u32, ip: &str) -> Record<Name<Vec<u8>>, A> {
        Record::new(name(owner), Class::IN, Ttl::from_secs(ttl), A::new(ip.parse().unwrap()))
    }

    fn alias(owner: &str, ttl: u32, of: &str) -> Record<Name<Vec<u8>>, Cname<Name<Vec<u8>>>> {
        Record::new(name(owner), Class::IN, Ttl::from_secs(ttl), Cname::new(name(of)))
    }

    fn addresses(reply: Reply) -> (Vec<String>, u32) {
        match reply {
            Reply::Records(records) => (records.addresses.iter().map(ToString::to_string).collect(), records.ttl_secs),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_question_reads_as_one() {
        let bytes = question("Web.test", Kind::Aaaa).bytes(0x1234);
        assert_eq!(bytes, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03Web\x04test\0\0\x1c\0\x01");
        assert_eq!(Question::new("a..b", Kind::A), None);
        assert_eq!(Question::new(&"a.".repeat(200), Kind::A), None);
    }

    #[test]
    fn only_records_of_the_name_that_was_asked_for_count() {
        let asked = question("web.test", Kind::A);
        let bytes = answer(&asked, |m| {
            m.push(a("WEB.test", 60, "10.0.0.2")).unwrap();
            m.push(a("other.test", 1, "10.9.9.9")).unwrap();
            m.push(a("web.test", 30, "10.0.0.1")).unwrap();
        });
        assert_eq!(addresses(read(&bytes, 7, &asked)), (vec!["10.0.0.2".into(), "10.0.0.1".into()], 30));
    }

    #[test]
    fn where_no_host_can_be_is_no_server() {
        let asked = question("web.test", Kind::A);
        let bytes = answer(&asked, |m| {
            for ip in ["0.0.0.0", "10.0.0.1", "224.0.0.1", "255.255.255.255"] {
                m.push(a("web.test", 30, ip)).unwrap();
            }
        });
        assert_eq!(addresses(read(&bytes, 7, &asked)), (vec!["10.0.0.1".into()], 30));
        let none = answer(&asked, |m| m.push(a("web.test", 30, "0.0.0.0")).unwrap());
        assert_eq!(read(&none, 7, &asked), Reply::None);
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_not_for_ever() {
        let asked = question("web.test", Kind::A);
        let bytes = answer(&asked, |m| {
            m.push(a("c.test", 60, "10.0.0.1")).unwrap();
            m.push(alias("b.test", 5, "c.test")).unwrap();
            m.push(alias("web.test", 9, "B.test")).unwrap();
        });
        assert_eq!(addresses(read(&bytes, 7, &asked)), (vec!["10.0.0.1".into()], 5));
        let round = answer(&asked, |m| {
            m.push(alias("web.test", 9, "b.test")).unwrap();
            m.push(alias("b.test", 9, "web.test")).unwrap();
        });
        assert!(matches!(read(&round, 7, &asked), Reply::Refused(_)));
        let nowhere = answer(&asked, |m| m.push(alias("web.test", 9, "b.test")).unwrap());
        assert_eq!(read(&nowhere, 7, &asked), Reply::None);
    }

    #[test]
    fn what_answers_another_question_is_nobodys() {
        let asked = question("web.test", Kind::A);
        let good = answer(&asked, |m| m.push(a("web.test", 1, "10.0.0.1")).unwrap());
        assert_eq!(read(&good, 8, &asked), Reply::NotOurs, "another id");
        for other in [question("wob.test", Kind::A), question("web.test", Kind::Aaaa), question("test", Kind::A)] {
            assert_eq!(read(&good, 7, &other), Reply::NotOurs);
        }
        assert_eq!(read(&asked.bytes(7), 7, &asked), Reply::NotOurs, "a question is no answer");
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(read(&two, 7, &asked), Reply::NotOurs, "two questions");
        let mut none = good.clone();
        none[5] = 0;
        assert_eq!(read(&none, 7, &asked), Reply::NotOurs, "no question");
        assert_eq!(read(&good[..good.len() - 1], 7, &asked), Reply::Refused("nothing that makes sense".into()));
        assert_eq!(read(&good[..11], 7, &asked), Reply::NotOurs);
    }

    #[test]
    fn the_word_of_the_protocol_is_told() {
        let asked = question("web.test", Kind::A);
        let with = |byte: usize, value: u8| {
            let mut bytes = answer(&asked, |_| ());
            bytes[byte] = value;
            read(&bytes, 7, &asked)
        };
        assert_eq!(with(3, 0x80), Reply::None, "no such record");
        assert_eq!(with(3, 0x83), Reply::None, "NXDOMAIN");
        assert_eq!(with(3, 0x82), Reply::Refused("SERVFAIL".into()));
        assert_eq!(with(3, 0x85), Reply::Refused("REFUSED".into()));
        assert_eq!(with(3, 0), Reply::Refused("that others know".into()), "neither authority nor recursion");
        assert_eq!(with(2, 0x84), Reply::None, "authority");
        assert_eq!(with(2, 0x82), Reply::Truncated);
        let short = b"\0\x07\x81\x82\0\0\0\0\0\0\0\0";
        assert_eq!(read(short, 7, &asked), Reply::Refused("SERVFAIL".into()), "without the question");
    }

    #[test]
    fn services_come_with_the_addresses_of_their_hosts() {
        let asked = question("_http._tcp.web.test", Kind::Srv);
        let srv = |priority, weight, port, target: &str| {
            let data = Srv::new(priority, weight, port, name(target));
            Record::new(name("_http._tcp.web.test"), Class::IN, Ttl::from_secs(60), data)
        };
        let bytes = {
            let mut message = MessageBuilder::new_vec();
            message.header_mut().set_id(7);
            message.header_mut().set_qr(true);
            message.header_mut().set_aa(true);
            let mut message = message.question();
            message.push((&asked.name, Rtype::SRV)).unwrap();
            let mut message = message.answer();
            message.push(srv(10, 5, 81, "A.test")).unwrap();
            message.push(srv(20, 0, 82, "b.test")).unwrap();
            message.push(srv(20, 0, 82, ".")).unwrap();
            message.push(srv(20, 0, 82, "-bad-.test")).unwrap();
            let mut message = message.additional();
            message.push(a("a.test", 4, "10.0.0.1")).unwrap();
            message.push(a("other.test", 1, "10.9.9.9")).unwrap();
            let six = Aaaa::new("fd00::1".parse().unwrap());
            message.push(Record::new(name("a.test"), Class::IN, Ttl::from_secs(60), six)).unwrap();
            message.finish()
        };
        let Reply::Records(records) = read(&bytes, 7, &asked) else { panic!("no records") };
        let host = |text| HostName::new(text).unwrap();
        let service = |priority, weight, port, target| Service { priority, weight, port, target: host(target) };
        assert_eq!(records.services, [service(10, 5, 81, "a.test"), service(20, 0, 82, "b.test")]);
        let ips: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!((records.sent_along, records.ttl_secs), ([(host("a.test"), ips)].into(), 4));
        let none = answer(&asked, |m| m.push(srv(0, 0, 0, ".")).unwrap());
        assert_eq!(read(&none, 7, &asked), Reply::None, "no such service");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let asked = question("web.test", Kind::Srv);
        let head = asked.bytes(7);
        let strategy = (prop::collection::vec(any::<u8>(), 0..600), 0_u8..4, any::<[u8; 4]>());
        let checked = TestRunner::default().run(&strategy, |(rest, how, counts)| {
            let mut bytes = if how == 0 { Vec::new() } else { head.clone() };
            if how > 0 {
                (bytes[2], bytes[3]) = (0x84, 0x80);
                (bytes[7], bytes[11]) = (counts[0] % 8, counts[1] % 8);
            }
            bytes.extend(rest);
            if let Reply::Records(records) = read(&bytes, 7, &asked) {
                prop_assert!(!records.services.is_empty() && records.addresses.is_empty());
            }
            Ok(())
        });
        checked.unwrap();
    }
}
