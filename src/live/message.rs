//! Questions of nginx's and the answers to them, as bytes (RFC 1035 §4, RFC 2782).
//!
//! The target of an SRV record is the server's address itself, written as labels (`10.0.0.2:8080`), so nothing
//! has to be remembered to say which address it has, and nginx sees each server under the same name in each answer.

use std::net::{IpAddr, SocketAddr};

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AnswerBuilder, PushError};
use domain::base::name::{Label, Name, NameBuilder, ToLabelIter};
use domain::base::{Message, MessageBuilder, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa, Srv};

use super::zone::{SUFFIX, Served};

/// Longest question. One of nginx's takes 271 bytes at most.
pub const LONGEST_QUESTION: usize = 512;

/// Longest answer over UDP; nginx reads no more of one.
pub const LONGEST_OVER_UDP: usize = 4096;

/// Longest answer over TCP.
pub const LONGEST_OVER_TCP: usize = 65_535;

/// How long nginx may keep what cannot change: the address that is a server's name.
const ADDRESS_TTL: Ttl = Ttl::from_secs(3600);

/// What nginx's `service=http` puts in front of the name that it asks for first.
const SERVICE: &str = "_http._tcp.";

/// What kind of record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Servers.
    Srv,
    /// Something that we have none of.
    Other,
}

/// How sure it has to be that nginx knows servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sure {
    /// It has been told, and has had time to take it in.
    Nearly,
    /// It has asked anew since.
    Quite,
}

/// What a name stands for. Names of parts and upstreams are as in [`super::zone`], without the suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The servers at this name.
    Servers(String),
    /// Whether the servers of this upstream are known to nginx by now.
    Gate(String, Sure),
    /// An address that is its own name.
    Address(SocketAddr),
}

/// A message that asks one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// By which the asker knows the answer.
    pub id: u16,
    opcode: Opcode,
    recursion: bool,
    name: Name<Vec<u8>>,
    rtype: Rtype,
    class: Class,
}

impl Question {
    /// Reads one. Nothing if it is none, or broken, or more than one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_slice(bytes).ok().filter(|_| bytes.len() <= LONGEST_QUESTION)?;
        let header = message.header();
        if header.qr() || header.tc() || message.header_counts().qdcount() != 1 {
            return None;
        }
        let asked = message.sole_question().ok()?;
        let name: Name<Vec<u8>> = domain::base::ToName::to_name(asked.qname());
        let (rtype, class) = (asked.qtype(), asked.qclass());
        Some(Self { id: header.id(), opcode: header.opcode(), recursion: header.rd(), name, rtype, class })
    }

    /// What kind of record it asks for.
    pub fn kind(&self) -> Kind {
        match self.rtype {
            Rtype::A => Kind::A,
            Rtype::AAAA => Kind::Aaaa,
            Rtype::SRV => Kind::Srv,
            _ => Kind::Other,
        }
    }

    /// What it is about, if that is anything of ours.
    pub fn subject(&self) -> Option<Subject> {
        if self.opcode != Opcode::QUERY || self.class != Class::IN {
            return None;
        }
        let text = text(&self.name)?;
        let Some(ours) = text.strip_suffix(SUFFIX).and_then(|rest| rest.strip_suffix('.')) else {
            let address: SocketAddr = text.parse().ok()?;
            return (address.to_string() == text).then_some(Subject::Address(address));
        };
        if let Some(part) = ours.strip_prefix(SERVICE) {
            return Some(Subject::Servers(part.to_owned()));
        }
        let (first, rest) = ours.split_once('.')?;
        let sure = match first {
            "gate" => Sure::Nearly,
            "gate1" => Sure::Quite,
            _ => return None,
        };
        Some(Subject::Gate(rest.to_owned(), sure))
    }

    /// Who the servers are, if that fits into so many bytes.
    pub fn servers(&self, servers: &[Served], most: usize) -> Option<Vec<u8>> {
        self.records(most, |message| {
            for served in servers {
                let Some(target) = name(&served.address.to_string()) else { continue };
                let (priority, weight) = (u16::from(served.backup), served.weight.get());
                message.push((&self.name, Ttl::ZERO, Srv::new(priority, weight, served.address.port(), target)))?;
            }
            Ok(())
        })
    }

    /// The address in a name, or that there is none of the kind that is asked for.
    pub fn address(&self, address: IpAddr) -> Vec<u8> {
        let answer = match (self.kind(), address) {
            (Kind::A, IpAddr::V4(ip)) => {
                self.records(LONGEST_OVER_UDP, |m| m.push((&self.name, ADDRESS_TTL, A::new(ip))))
            }
            (Kind::Aaaa, IpAddr::V6(ip)) => {
                self.records(LONGEST_OVER_UDP, |m| m.push((&self.name, ADDRESS_TTL, Aaaa::new(ip))))
            }
            _ => None,
        };
        answer.unwrap_or_else(|| self.empty())
    }

    /// That there is such a name, with no record of that kind.
    pub fn empty(&self) -> Vec<u8> {
        self.bare(Rcode::NOERROR, false)
    }

    /// That this is nothing for us.
    pub fn refused(&self) -> Vec<u8> {
        self.bare(Rcode::REFUSED, false)
    }

    /// That there is no such name.
    pub fn no_such_name(&self) -> Vec<u8> {
        self.bare(Rcode::NXDOMAIN, false)
    }

    /// That the answer is too long for UDP.
    pub fn truncated(&self) -> Vec<u8> {
        self.bare(Rcode::NOERROR, true)
    }

    /// An answer without records.
    fn bare(&self, code: Rcode, truncated: bool) -> Vec<u8> {
        let mut message = self.begin();
        message.header_mut().set_rcode(code);
        message.header_mut().set_tc(truncated);
        message.finish().into_target()
    }

    /// An answer with records, if they fit into so many bytes.
    fn records(&self, most: usize, push: impl FnOnce(&mut Builder) -> Result<(), PushError>) -> Option<Vec<u8>> {
        let mut message = self.begin();
        message.set_push_limit(most);
        push(&mut message).ok()?;
        Some(message.finish().into_target())
    }

    /// The beginning of an answer: the header and the question.
    fn begin(&self) -> Builder {
        let mut message = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).expect("a Vec has room");
        let header = message.header_mut();
        header.set_id(self.id);
        header.set_qr(true);
        header.set_opcode(self.opcode);
        header.set_aa(true);
        header.set_rd(self.recursion);
        let mut message = message.question();
        message.push((&self.name, self.rtype, self.class)).expect("a Vec has room");
        message.answer()
    }
}

type Builder = AnswerBuilder<StaticCompressor<Vec<u8>>>;

/// A name in lower case, as nginx takes it. Nothing if a label has a byte that none of ours has.
fn text(name: &Name<Vec<u8>>) -> Option<String> {
    let is_ours = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
    let labels = name.iter_labels().filter(|label| !label.is_root());
    let labels: Option<Vec<&str>> = labels
        .map(|label: &Label| str::from_utf8(label.as_slice()).ok().filter(|text| text.bytes().all(|b| is_ours(&b))))
        .collect();
    Some(labels?.join(".").to_ascii_lowercase())
}

/// The name with these labels, whatever they are made of.
fn name(text: &str) -> Option<Name<Vec<u8>>> {
    let mut name = NameBuilder::new_vec();
    // An IPv6 address has no dot but in its last 32 bits, where it has as many labels as there are.
    for label in text.split('.') {
        name.append_label(label.as_bytes()).ok()?;
    }
    name.into_name().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A question as nginx asks it.
    pub fn question(id: u16, text: &str, rtype: u16) -> Vec<u8> {
        let mut bytes = vec![(id >> 8) as u8, id as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in text.split('.') {
            bytes.push(label.len().try_into().unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, (rtype >> 8) as u8, rtype as u8, 0, 1]);
        bytes
    }

    fn read(text: &str, rtype: u16) -> Question {
        Question::read(&question(7, text, rtype)).unwrap()
    }

    pub const A: u16 = 1;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;

    fn served(address: &str, weight: u16, backup: bool) -> Served {
        Served { address: address.parse().unwrap(), weight: weight.try_into().unwrap(), backup }
    }

    #[test]
    fn a_name_says_what_it_stands_for() {
        let address = |text: &str| Some(Subject::Address(text.parse().unwrap()));
        for (name, subject) in [
            ("_http._tcp.0.web.nginit", Some(Subject::Servers("0.web".into()))),
            ("_HTTP._tcp.0.WEB.Nginit", Some(Subject::Servers("0.web".into()))),
            ("0.web.nginit", None),
            ("gate.web.nginit", Some(Subject::Gate("web".into(), Sure::Nearly))),
            ("gate1.web.nginit", Some(Subject::Gate("web".into(), Sure::Quite))),
            ("gate2.web.nginit", None),
            ("10.0.0.2:8080", address("10.0.0.2:8080")),
            ("[fd00::1]:8080", address("[fd00::1]:8080")),
            ("[FD00::1]:8080", address("[fd00::1]:8080")),
            ("[::ffff:10.0.0.1]:80", address("[::ffff:10.0.0.1]:80")),
            ("10.0.0.2", None),
            ("10.0.0.2:08080", None),
            ("[fd00:0::1]:8080", None),
            ("10.0.0.2:8080.nginit", None),
            ("0.web.nginit", None),
            ("web.nginit", None),
            ("nginit", None),
            ("_http._tcp.0.web.test", None),
            ("t.0.web.nginit", None),
            ("tx.0.web.nginit", None),
        ] {
            assert_eq!(read(name, SRV).subject(), subject, "{name}");
        }
        let mut dotted = question(7, "_http._tcp.0.web.nginit", SRV);
        dotted[17] = b'.';
        assert_eq!(Question::read(&dotted).unwrap().subject(), None, "a dot within a label");
    }

    #[test]
    fn what_is_no_single_question_is_nothing() {
        let good = question(7, "_http._tcp.0.web.nginit", SRV);
        assert!(Question::read(&good).is_some());
        for (at, value, what) in [
            (2, 0x81, "an answer"),
            (2, 0x03, "a part of one"),
            (5, 0, "no question"),
            (5, 2, "two"),
            (12, 0xc0, "a name that points to itself"),
            (12, 200, "a label that is too long"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            if at == 12 && value == 0xc0 {
                bad[13] = 12;
            }
            assert_eq!(Question::read(&bad), None, "{what}");
        }
        for end in 0..good.len() {
            assert_eq!(Question::read(&good[..end]), None, "the first {end} bytes");
        }
        let mut long = good.clone();
        long.resize(LONGEST_QUESTION + 1, 0);
        assert_eq!(Question::read(&long), None);
    }

    #[test]
    fn answers_are_as_small_as_they_can_be() {
        let asked = read("_http._tcp.0.web.nginit", SRV);
        let one = asked.servers(&[served("10.0.0.2:8080", 5, true)], LONGEST_OVER_UDP).unwrap();
        let head = b"\0\x07\x85\0\0\x01\0\x01\0\0\0\0\x05_http\x04_tcp\x010\x03web\x06nginit\0\0\x21\0\x01".to_vec();
        let record = b"\xc0\x0c\0\x21\0\x01\0\0\0\0\0\x15\0\x01\0\x05\x1f\x90\x0210\x010\x010\x062:8080\0";
        assert_eq!(one, [&head[..], record].concat());
        let six = asked.servers(&[served("[fd00::1]:8080", 1, false)], LONGEST_OVER_UDP).unwrap();
        assert!(six.ends_with(b"\0\0\0\x01\x1f\x90\x0e[fd00::1]:8080\0"));
    }

    #[test]
    fn an_answer_holds_what_fits() {
        let servers = |n: u16| -> Vec<Served> {
            (0..n).map(|i| served(&format!("10.100.{}.{}:18080", 100 + i / 100, 100 + i % 100), 1, false)).collect()
        };
        let asked = read("_http._tcp.0.web.nginit", SRV);
        assert!(asked.servers(&servers(900), LONGEST_OVER_UDP).is_none());
        let udp = (1..900).take_while(|n| asked.servers(&servers(*n), LONGEST_OVER_UDP).is_some()).count();
        assert!((90..120).contains(&udp), "{udp}");
        let sixes: Vec<Served> = (0_u16..900)
            .map(|i| served(&format!("[fdaa:aaaa:aaaa:aaaa:aaaa:aaaa:aaaa:{:x}]:65535", 0xa000 + i), 1, false))
            .collect();
        assert!(asked.servers(&sixes, LONGEST_OVER_TCP).is_some_and(|bytes| bytes.len() > 60_000));
    }

    #[test]
    fn addresses_and_refusals() {
        let v4 = "10.0.0.2".parse().unwrap();
        let v6 = "fd00::1".parse().unwrap();
        let counts = |bytes: Vec<u8>| (bytes[3] & 0xf, bytes[7], bytes[2] & 2 != 0);
        assert!(read("10.0.0.2:80", A).address(v4).ends_with(b"\0\x01\0\x01\0\0\x0e\x10\0\x04\x0a\0\0\x02"));
        assert_eq!(counts(read("10.0.0.2:80", AAAA).address(v4)), (0, 0, false));
        assert_eq!(counts(read("[fd00::1]:80", A).address(v6)), (0, 0, false));
        assert_eq!(counts(read("[fd00::1]:80", AAAA).address(v6)), (0, 1, false));
        assert_eq!(counts(read("x", A).refused()), (5, 0, false));
        assert_eq!(counts(read("x", A).no_such_name()), (3, 0, false));
        assert_eq!(counts(read("x", A).truncated()), (0, 0, true));
        let mut status = question(7, "x", A);
        status[2] = 0x11;
        assert_eq!(Question::read(&status).unwrap().subject(), None);
        assert_eq!(Question::read(&status).unwrap().refused()[2], 0x95, "opcode and RD as asked, no more");
    }
}
