//! A DNS server that says what its test says, and a network of its own for the test, with files of the
//! system to match. The server shares no code with the program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

/// Longest answer over UDP.
const UDP: usize = 512;

/// Runs the rest of the test in a network, with mounts and processes of its own: a loopback with every
/// port free, the addresses fd00::1 and fe80::53 on it, an empty hosts file, and a resolv.conf that names
/// 127.0.0.53.
#[macro_export]
macro_rules! own_network {
    () => {{
        fn here() {}
        if !$crate::support::dns::is_inside(std::any::type_name_of_val(&here)) {
            return;
        }
    }};
}

/// Whether this is the process within. Outside: starts that with this test, and waits for its good end.
pub fn is_inside(path: &str) -> bool {
    const INSIDE: &str = "NGINIT_TEST_INSIDE";
    if let Some(dir) = std::env::var_os(INSIDE) {
        for (name, text) in [("hosts", ""), ("resolv.conf", "nameserver 127.0.0.53\n")] {
            let file = Path::new(&dir).join(name);
            fs::write(&file, text).unwrap();
            let mut mount = Command::new("mount");
            mount.arg("--bind").arg(&file).arg(Path::new("/etc").join(name));
            assert!(mount.status().unwrap().success(), "{mount:?}");
        }
        return true;
    }
    let claim = path.trim_end_matches("::here").split_once("::").unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c"]);
    let script = "ip link set lo up && { ip -6 addr add fd00::1/64 dev lo; ip -6 addr add fe80::53/64 dev lo; \
                  exec \"$@\"; }";
    unshare.arg(script).arg("sh").arg(std::env::current_exe().unwrap()).args(["--exact", claim, "--nocapture"]);
    let status = unshare.env(INSIDE, dir.path()).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{claim}: {status}");
    false
}

/// Writes a file of the system within the test's own network.
pub fn write_etc(name: &str, text: &str) {
    assert!(["hosts", "resolv.conf"].contains(&name) && std::env::var_os("NGINIT_TEST_INSIDE").is_some());
    fs::write(Path::new("/etc").join(name), text).unwrap();
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Address(IpAddr),
    Alias(String),
    /// Priority, weight, port, target.
    Service(u16, u16, u16, String),
}

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub owner: String,
    pub ttl: u32,
    pub data: Data,
}

impl Record {
    fn kind(&self) -> u16 {
        match &self.data {
            Data::Address(IpAddr::V4(_)) => A,
            Data::Address(IpAddr::V6(_)) => AAAA,
            Data::Alias(_) => CNAME,
            Data::Service(..) => SRV,
        }
    }

    /// As it stands in a message.
    pub fn bytes(&self) -> Vec<u8> {
        let data = match &self.data {
            Data::Address(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Data::Address(IpAddr::V6(ip)) => ip.octets().to_vec(),
            Data::Alias(target) => name(target),
            Data::Service(priority, weight, port, target) => {
                let numbers = [priority, weight, port].map(|n| n.to_be_bytes()).concat();
                [numbers, name(target)].concat()
            }
        };
        let length = u16::try_from(data.len()).unwrap();
        let (kind, ttl) = (self.kind().to_be_bytes(), self.ttl.to_be_bytes());
        [name(&self.owner), kind.into(), vec![0, 1], ttl.into(), length.to_be_bytes().into(), data].concat()
    }
}

/// A name as labels.
fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

/// Addresses of a name, all with this time to live.
pub fn addresses(owner: &str, ttl: u32, ips: &[&str]) -> Vec<Record> {
    let one = |ip: &&str| Record { owner: owner.into(), ttl, data: Data::Address(ip.parse().unwrap()) };
    ips.iter().map(one).collect()
}

/// An alias.
pub fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record { owner: owner.into(), ttl, data: Data::Alias(target.into()) }
}

/// A service: priority, weight, port, target.
pub fn service(owner: &str, ttl: u32, (priority, weight, port, target): (u16, u16, u16, &str)) -> Record {
    Record { owner: owner.into(), ttl, data: Data::Service(priority, weight, port, target.into()) }
}

/// A question that came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub at: Instant,
    pub name: String,
    pub kind: u16,
    pub tcp: bool,
    pub id: u16,
    /// The port that it came from.
    pub port: u16,
}

impl Query {
    /// What is asked, if this is a question.
    pub fn read(bytes: &[u8], tcp: bool, port: u16) -> Option<Self> {
        let (mut labels, mut at) = (Vec::new(), 12);
        while *bytes.get(at)? > 0 {
            let end = at + 1 + usize::from(bytes[at]);
            labels.push(String::from_utf8(bytes.get(at + 1..end)?.to_vec()).ok()?);
            at = end;
        }
        let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let (name, kind, id) = (labels.join("."), number(at + 1)?, number(0)?);
        Some(Self { at: Instant::now(), name, kind, tcp, id, port })
    }

    /// The answer with these records that fit the question, aliases first, and with `along` besides.
    pub fn answer(&self, code: u8, records: &[Record], along: &[Record]) -> Vec<u8> {
        let fits = |record: &&Record| record.kind() == self.kind || record.kind() == CNAME;
        let answer: Vec<&Record> = records.iter().filter(fits).collect();
        let counts = [1, answer.len(), 0, along.len()].map(|n| u16::try_from(n).unwrap().to_be_bytes()).concat();
        let mut bytes = [self.id.to_be_bytes().into(), vec![0x81, 0x80 | code], counts, name(&self.name)].concat();
        bytes.extend([self.kind.to_be_bytes(), [0, 1]].concat());
        bytes.extend(answer.into_iter().chain(along).flat_map(Record::bytes));
        bytes
    }
}

/// What a server says of a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// These records, those of them that are asked for.
    Records(Vec<Record>),
    /// The same, and more besides.
    Along(Vec<Record>, Vec<Record>),
    /// That there is no such name.
    NoSuchName,
    /// That it cannot tell: 2 is SERVFAIL, 5 is REFUSED.
    Code(u8),
    /// Nothing.
    Silence,
    /// Nothing to questions of this kind.
    SilenceTo(u16, Vec<Record>),
    /// SERVFAIL to questions of this kind.
    FailsFor(u16, Vec<Record>),
    /// The address 10.66.66.66 in answers to other questions, with other ids, from another port, and noise;
    /// then these records.
    Lies(Vec<Record>),
    /// The same, and then nothing.
    LiesAlone,
    /// Over UDP, that it is too long; over TCP nothing more.
    HangsOverTcp,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Says>,
    queries: Vec<Query>,
}

/// A DNS server on port 53 of an address. It listens until it is stopped.
#[derive(Clone)]
pub struct Dns {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Dns {
    pub fn start(ip: &str) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        Self::start_at(SocketAddr::new(ip, 53))
    }

    pub fn start_at(address: SocketAddr) -> Self {
        let (udp, tcp) = (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
        let dns = Self { state: Arc::default(), address, stopped: Arc::default(), threads: Arc::default() };
        let server = dns.clone();
        let over_udp = thread::spawn(move || server.serve_udp(&udp));
        let server = dns.clone();
        let over_tcp = thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                if server.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let server = server.clone();
                thread::spawn(move || server.serve_tcp(stream));
            }
        });
        dns.threads.lock().unwrap().extend([over_udp, over_tcp]);
        dns
    }

    /// From now on nobody listens at its address.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Whatever comes wakes them.
        let _ = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0)).unwrap().send_to(&[], self.address);
        let _ = TcpStream::connect(self.address);
        self.threads.lock().unwrap().drain(..).for_each(|thread| thread.join().unwrap());
    }

    /// What it says of a name from now on. Of others it says that they do not exist.
    pub fn set(&self, name: &str, says: Says) {
        self.state.lock().unwrap().names.insert(name.to_owned(), says);
    }

    /// These addresses, for as many seconds.
    pub fn set_addresses(&self, name: &str, ttl: u32, ips: &[&str]) {
        self.set(name, Says::Records(addresses(name, ttl, ips)));
    }

    /// Every question that came in.
    pub fn queries(&self) -> Vec<Query> {
        self.state.lock().unwrap().queries.clone()
    }

    /// How many came in for this name.
    pub fn asked(&self, name: &str) -> usize {
        self.state.lock().unwrap().queries.iter().filter(|query| query.name == name).count()
    }

    fn says(&self, query: &Query) -> Says {
        let mut state = self.state.lock().unwrap();
        state.queries.push(query.clone());
        state.names.get(&query.name).cloned().unwrap_or(Says::NoSuchName)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            if self.stopped.load(Ordering::SeqCst) {
                break;
            }
            let Some(query) = Query::read(&buffer[..length], false, client.port()) else { continue };
            let says = self.says(&query);
            if let Says::Lies(_) | Says::LiesAlone = says {
                let lie = addresses(&query.name, 60, &["10.66.66.66"]);
                let other_id = Query { id: query.id ^ 1, ..query.clone() };
                let other_name = Query { name: format!("x{}", query.name), ..query.clone() };
                let other_kind = Query { kind: query.kind ^ 2, ..query.clone() };
                for other in [other_id, other_name, other_kind] {
                    let _ = socket.send_to(&other.answer(0, &lie, &[]), client);
                }
                let elsewhere = UdpSocket::bind(SocketAddr::new(socket.local_addr().unwrap().ip(), 0)).unwrap();
                let _ = elsewhere.send_to(&query.answer(0, &lie, &[]), client);
                let _ = socket.send_to(b"\xff\xc0\x0c", client);
            }
            for message in messages(&query, says) {
                let message = if message.len() > UDP { truncated(&query) } else { message };
                let _ = socket.send_to(&message, client);
            }
        }
    }

    fn serve_tcp(&self, mut stream: TcpStream) -> Option<()> {
        let port = stream.peer_addr().ok()?.port();
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut bytes).ok()?;
            let query = Query::read(&bytes, true, port)?;
            let says = self.says(&query);
            if says == Says::HangsOverTcp {
                continue;
            }
            for message in messages(&query, says) {
                let length = u16::try_from(message.len()).unwrap().to_be_bytes();
                // In pieces, as a network would.
                for piece in [&length[..1], &length[1..], &message[..20], &message[20..]] {
                    stream.write_all(piece).ok()?;
                }
            }
        }
    }
}

fn messages(query: &Query, says: Says) -> Vec<Vec<u8>> {
    match says {
        Says::Records(records) | Says::Lies(records) => vec![query.answer(0, &records, &[])],
        Says::Along(records, along) => vec![query.answer(0, &records, &along)],
        Says::NoSuchName => vec![query.answer(3, &[], &[])],
        Says::Code(code) => vec![query.answer(code, &[], &[])],
        Says::SilenceTo(kind, _) if kind == query.kind => Vec::new(),
        Says::FailsFor(kind, _) if kind == query.kind => vec![query.answer(2, &[], &[])],
        Says::SilenceTo(_, records) | Says::FailsFor(_, records) => vec![query.answer(0, &records, &[])],
        Says::Silence | Says::LiesAlone => Vec::new(),
        Says::HangsOverTcp => vec![truncated(query)],
    }
}

/// The answer that there is more to say than fits.
fn truncated(query: &Query) -> Vec<u8> {
    let mut bytes = query.answer(0, &[], &[]);
    bytes[2] |= 2;
    bytes
}
