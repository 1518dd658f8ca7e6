//! What commands say of servers, and servers of themselves.
//!
//! An order stands beside what the lists say until it is taken back: it changes no list. Where the two contradict
//! each other the order counts, and whoever gives it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::announced::MOST;
use super::{Members, Membership, Snapshot};
use crate::admin::{self, Announcement, Ordered, What};
use crate::peers::{Peer, PeerAddress, Peers, peers};
use crate::settings::servers::parse_entry;
use crate::upstream::{Address, Name, Params, Resolved, Server, Upstream, Upstreams};

/// All orders, by upstream and server.
pub type Orders = BTreeMap<Name, BTreeMap<Address, Order>>;

/// What is ordered about one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// It is taken out, whatever source has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// It is drained, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// Its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<NonZeroU16>,
}

impl Order {
    /// Changes what it goes for.
    pub fn apply(&self, params: &mut Params) {
        params.drain = self.drain.unwrap_or(params.drain);
        params.weight = self.weight.or(params.weight);
    }

    /// As an operator reads it.
    pub fn words(&self) -> Vec<String> {
        let removed = self.removed.then(|| "removed".to_owned());
        let drain = self.drain.map(|drain| if drain { "drain".to_owned() } else { "undrain".to_owned() });
        let weight = self.weight.map(|weight| format!("weight={weight}"));
        removed.into_iter().chain(drain).chain(weight).collect()
    }
}

/// Why an order is not taken, for whoever gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is no such upstream or server.
    Unknown(String),
    /// It cannot be understood, or not be done.
    Bad(String),
    /// There is no room.
    Full(String),
}

/// What the live configuration has: the settings' upstreams with their lists, and all peers.
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    /// As the settings have them.
    pub upstreams: &'a Upstreams,
    /// Their peers.
    pub peers: &'a Peers,
}

impl<'a> Live<'a> {
    /// The upstream that an operator calls `dynamic`, `DYNAMIC` or `dynamic_backend`.
    ///
    /// # Errors
    /// That there is none, and which there are.
    pub fn find(&self, text: &str) -> Result<(&'a Name, &'a Upstream), Refused> {
        let upper = text.to_ascii_uppercase();
        let find = |text: &str| Name::new(text).and_then(|name| self.upstreams.get_key_value(&name));
        let found = find(&upper).or_else(|| find(upper.strip_suffix("_BACKEND")?));
        found.ok_or_else(|| {
            let all: Vec<String> = self.upstreams.keys().map(Name::upstream).collect();
            let all =
                if all.is_empty() { "none is declared".to_owned() } else { format!("there are {}", all.join(", ")) };
            Refused::Unknown(format!("no upstream is called {text:?}; {all}"))
        })
    }
}

impl Membership {
    /// Takes an order about a server, which is written as in a list. The upstream is one of the live ones.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn order(&mut self, live: Live<'_>, order: &admin::Order, now: Instant) -> Result<Ordered, Refused> {
        let (name, upstream) = live.find(&order.upstream)?;
        let server = parse(&order.server, upstream)?;
        let what = order.what;
        if what != What::Add && server.params != Params::default() {
            return Err(Refused::Bad("only a server that is added has parameters".to_owned()));
        }
        let before = self.members.clone();
        let notes = match what {
            What::Add => self.add(name, upstream, server)?,
            What::Remove => self.remove(live, name, upstream, &server.address)?,
            What::Drain => {
                let mut notes = self.change(live, name, upstream, &server.address, |order| order.drain = Some(true))?;
                if self.stays(name, upstream, &server.address) {
                    notes.push("no other server takes requests: it still gets them until one does".to_owned());
                }
                notes
            }
            What::Undrain => self.change(live, name, upstream, &server.address, |order| order.drain = Some(false))?,
            What::Weight(weight) => {
                self.change(live, name, upstream, &server.address, |order| order.weight = Some(weight))?
            }
        };
        let changed = self.members != before;
        if changed {
            self.touch("add", now);
        }
        Ok(Ordered { changed, notes, outcome: None })
    }

    /// Whether a server gets requests although it is drained, as the last one.
    fn stays(&self, name: &Name, upstream: &Upstream, address: &Address) -> bool {
        let merged = self.members.merge(&Upstreams::from([(name.clone(), upstream.clone())]));
        let mut peers = peers(&merged, &self.members.resolved);
        self.members.order_peers(&mut peers);
        let is_meant = |peer: &Peer| match address {
            Address::Ip(_) | Address::Unix(_) => Address::from(&peer.address) == *address,
            Address::Host(host, _) | Address::Srv(host) => peer.name.as_ref() == Some(host),
        };
        peers.values().flatten().any(|peer| is_meant(peer) && peer.takes_requests())
    }

    fn add(&mut self, name: &Name, upstream: &Upstream, server: Server) -> Result<Vec<String>, Refused> {
        check_backup(name, upstream, server.params)?;
        let mut notes = Vec::new();
        if set_order(&mut self.members.orders, name, &server.address, |order| order.removed = false) {
            notes.push(format!("{} was taken out by a command before", server.address));
        }
        let listed = upstream.servers.iter().find(|listed| listed.address == server.address);
        if let Some(listed) = listed {
            let same = server.params == Params::default() || server.params == listed.params;
            let says = if same { "it stands there already".to_owned() } else { shown(listed.params) };
            notes.push(format!("\"{}\" has {}: {says}", upstream.variable, server.address));
            if same {
                remove_server(&mut self.members.added, name, &server.address);
                return Ok(notes);
            }
        }
        let added = self.members.added.entry(name.clone()).or_default();
        match added.iter_mut().find(|old| old.address == server.address) {
            Some(old) => old.params = server.params,
            None => added.push(server),
        }
        Ok(notes)
    }

    fn remove(
        &mut self,
        live: Live<'_>,
        name: &Name,
        upstream: &Upstream,
        address: &Address,
    ) -> Result<Vec<String>, Refused> {
        let mut notes = Vec::new();
        let added = remove_server(&mut self.members.added, name, address);
        let announced = self.announced.withdraw(name, address);
        if announced {
            remove_server(&mut self.members.announced, name, address);
            notes.push("it announced itself: unless that ends, it comes back; drain keeps it away".to_owned());
        }
        let from = self.origin(live, name, upstream, address);
        match from {
            None if added || announced => {
                set_order(&mut self.members.orders, name, address, |order| *order = Order::default());
            }
            None => return Err(unknown(name, address)),
            Some(origin) => {
                set_order(&mut self.members.orders, name, address, |order| order.removed = true);
                notes.push(format!("{origin} still has it: it is taken out until nginit add puts it back"));
            }
        }
        Ok(notes)
    }

    /// Changes what is ordered about a server that is there.
    fn change(
        &mut self,
        live: Live<'_>,
        name: &Name,
        upstream: &Upstream,
        address: &Address,
        change: impl Fn(&mut Order),
    ) -> Result<Vec<String>, Refused> {
        let own = self.members.added.get(name).into_iter().flatten().any(|server| server.address == *address);
        let announced = self.announced.get(name, address).is_some();
        let origin = self.origin(live, name, upstream, address);
        if origin.is_none() && !own && !announced {
            return Err(unknown(name, address));
        }
        let listed = upstream.servers.iter().find(|listed| listed.address == *address);
        let said = listed.map_or_else(Params::default, |listed| listed.params);
        // What repeats the list is no order.
        let change = |order: &mut Order| {
            change(order);
            order.drain = order.drain.filter(|drain| *drain != said.drain);
            let weight = said.weight.unwrap_or(NonZeroU16::MIN);
            order.weight = order.weight.filter(|own| *own != weight || listed.is_none());
        };
        set_order(&mut self.members.orders, name, address, change);
        let order = self.members.order(name, address).copied().unwrap_or_default();
        let mut notes = Vec::new();
        if order.removed {
            notes.push("it is taken out by a command; nginit add puts it back".to_owned());
        }
        if let Some(listed) = listed.filter(|_| order.drain == Some(false) || order.weight.is_some()) {
            let variable = &upstream.variable;
            let text = format!("\"{variable}\" has {address} {}; the order counts more", shown(listed.params));
            notes.push(text);
        }
        if said.down {
            notes.push(format!("\"{}\" has it down", upstream.variable));
        }
        Ok(notes)
    }

    /// Which source that no command changes has the server, in words.
    fn origin(&self, live: Live<'_>, name: &Name, upstream: &Upstream, address: &Address) -> Option<String> {
        if upstream.servers.iter().any(|server| server.address == *address) {
            return Some(format!("\"{}\"", upstream.variable));
        }
        if self.members.serf.get(name).into_iter().flatten().any(|server| server.address == *address) {
            return Some("Serf".to_owned());
        }
        let Address::Ip(address) = address else { return None };
        let peer = PeerAddress::Ip(*address);
        let by_name = live.peers.get(name)?.iter().find(|candidate| candidate.address == peer && !candidate.gone);
        let by_name = by_name.and_then(|peer| peer.name.as_ref()).map(|host| format!("the name \"{host}\""));
        by_name.or_else(|| self.is_masked(name, &Address::Ip(*address)).then(|| "a name".to_owned()))
    }

    /// Whether an order has taken out an address that is in no list, but that a name leads to.
    fn is_masked(&self, name: &Name, address: &Address) -> bool {
        self.members.order(name, address).is_some_and(|order| order.removed)
    }

    /// A server announces itself for some time; none withdraws it. Whoever does so over TCP from elsewhere has the
    /// address that it comes from where it names none, and may not speak for sockets and addresses of
    /// this machine.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn announce(&mut self, live: Live<'_>, announcement: &Announcement, now: Instant) -> Result<Ordered, Refused> {
        let (name, upstream) = live.find(&announcement.upstream)?;
        let mut server = match (&announcement.server, announcement.peer) {
            (Some(text), _) => parse(text, upstream)?,
            (None, Some(ip)) => {
                let port = announcement.port.unwrap_or(upstream.port);
                Server { address: Address::Ip(SocketAddr::new(ip, port.get())), params: Params::default() }
            }
            (None, None) => return Err(Refused::Bad("\"server\" is missing".to_owned())),
        };
        server.params.weight = announcement.weight.or(server.params.weight);
        let foreign = match &server.address {
            Address::Unix(_) => true,
            Address::Ip(address) => {
                // An IPv4 address in IPv6's clothes is still one.
                let ip = address.ip().to_canonical();
                ip.is_loopback() || ip.is_unspecified()
            }
            Address::Host(host, _) | Address::Srv(host) => {
                host.as_str() == "localhost" || host.as_str().ends_with(".localhost")
            }
        };
        if foreign && announcement.peer.is_some_and(|remote| !remote.is_loopback()) {
            return Err(Refused::Bad(format!("{} is on nginit's own machine, which you are not on", server.address)));
        }
        check_backup(name, upstream, server.params)?;
        let address = server.address.clone();
        // A heartbeat that says what is known is by far the most frequent thing, and has to cost nothing.
        let changed = if announcement.withdraws() {
            self.announced.withdraw(name, &address) && remove_server(&mut self.members.announced, name, &address)
        } else {
            let changed = self.announced.announce(name, &server, announcement.ttl, now);
            let full = || Refused::Full(format!("{MOST} servers announce themselves already"));
            let changed = changed.ok_or_else(full)?;
            if changed {
                put_server(&mut self.members.announced, name, server);
            }
            changed
        };
        if changed {
            self.touch("announce", now);
        }
        let mut notes = Vec::new();
        if self.is_masked(name, &address) {
            notes.push("it is taken out by a command; nginit add puts it back".to_owned());
        }
        Ok(Ordered { changed, notes, outcome: None })
    }
}

fn parse(text: &str, upstream: &Upstream) -> Result<Server, Refused> {
    let parsed = parse_entry(text.trim(), upstream.port);
    parsed.map_err(|(reason, remedy)| Refused::Bad(format!("{text:?}: {reason}; {remedy}")))
}

fn check_backup(name: &Name, upstream: &Upstream, params: Params) -> Result<(), Refused> {
    if params.backup && !upstream.knows_backups() {
        return Err(Refused::Bad(format!("{} knows no backup servers", name.upstream())));
    }
    Ok(())
}

fn unknown(name: &Name, address: &Address) -> Refused {
    Refused::Unknown(format!("{} has no server {address}; nginit list shows all", name.upstream()))
}

/// The parameters as in a list.
fn shown(params: Params) -> String {
    match params.to_list() {
        text if text.is_empty() => "without parameters".to_owned(),
        text => format!("with {text}"),
    }
}

/// Changes the order about a server; one that says nothing is none. Whether it is another one now.
fn set_order(orders: &mut Orders, name: &Name, address: &Address, change: impl FnOnce(&mut Order)) -> bool {
    let of_upstream = orders.entry(name.clone()).or_default();
    let before = of_upstream.get(address).copied().unwrap_or_default();
    let mut order = before;
    change(&mut order);
    if order == Order::default() {
        of_upstream.remove(address);
    } else {
        of_upstream.insert(address.clone(), order);
    }
    if of_upstream.is_empty() {
        orders.remove(name);
    }
    order != before
}

/// Puts a server into a snapshot that is in order, or gives it other parameters.
fn put_server(snapshot: &mut Snapshot, name: &Name, server: Server) {
    let servers = snapshot.entry(name.clone()).or_default();
    match servers.binary_search_by(|other| other.address.cmp(&server.address)) {
        Ok(at) => servers[at] = server,
        Err(at) => servers.insert(at, server),
    }
}

/// Takes a server out of a snapshot; false where it is not in it.
fn remove_server(snapshot: &mut Snapshot, name: &Name, address: &Address) -> bool {
    let Some(servers) = snapshot.get_mut(name) else { return false };
    let before = servers.len();
    servers.retain(|server| server.address != *address);
    let removed = servers.len() != before;
    if servers.is_empty() {
        snapshot.remove(name);
    }
    removed
}

impl Membership {
    /// There are other settings: forgets orders about servers that no source has any more.
    pub fn forget_orders(&mut self, upstreams: &Upstreams, resolved: &Resolved) {
        if self.members.orders.is_empty() {
            return;
        }
        let unordered = Members { orders: Orders::new(), ..self.members.clone() };
        let merged = unordered.merge(upstreams);
        let peers = peers(&merged, resolved);
        self.members.orders.retain(|name, orders| {
            let listed = |address: &Address| merged.get(name)?.servers.iter().find(|s| s.address == *address).map(drop);
            let led_to = |address: &Address| {
                let Address::Ip(address) = address else { return None };
                peers.get(name)?.iter().find(|peer| peer.address == PeerAddress::Ip(*address)).map(drop)
            };
            orders.retain(|address, _| listed(address).or_else(|| led_to(address)).is_some());
            !orders.is_empty()
        });
    }
}
