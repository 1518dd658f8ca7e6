//! What commands have ordered and servers have announced, as text that outlives a restart.
//!
//! ```json
//! {"added":{"DYNAMIC":["10.0.0.5:8080;weight=2"]},
//!  "announced":{"DYNAMIC":{"10.0.0.7:8080":15000}},
//!  "orders":{"DYNAMIC":{"10.0.0.1:80":{"drain":true}}}}
//! ```
//!
//! Servers are entries of a list and go through its grammar again, so whoever can write the text can say no more than
//! a list can. An announcement holds for its whole time (milliseconds) again, because nobody could renew it meanwhile.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Membership;
use super::orders::Order;
use crate::admin::orders::TTL;
use crate::ordered::InOrder;
use crate::settings::servers::parse_entry;
use crate::upstream::{Address, Name, Server};

/// The text's shape: upstreams by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Text {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    added: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    announced: BTreeMap<String, BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    orders: BTreeMap<String, BTreeMap<String, Order>>,
}

impl Membership {
    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = Text::default();
        for (name, servers) in &self.members.added {
            text.added.insert(name.as_str().to_owned(), servers.iter().map(entry).collect());
        }
        for (name, address, announcement) in self.announced.iter() {
            let server = Server { address: address.clone(), params: announcement.params };
            let ms = u64::try_from(announcement.ttl.as_millis()).unwrap_or(u64::MAX);
            text.announced.entry(name.as_str().to_owned()).or_default().insert(entry(&server), ms);
        }
        for (name, orders) in &self.members.orders {
            let orders = orders.iter().map(|(address, order)| (address.to_string(), *order)).into_map();
            text.orders.insert(name.as_str().to_owned(), orders);
        }
        serde_json::to_string(&text).unwrap_or_default() + "\n"
    }

    /// Takes over what the text says, which a membership of before has written.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it counts then.
    pub fn restore(&mut self, text: &[u8], now: Instant) -> Result<(), String> {
        let text: Text = serde_json::from_slice(text).map_err(|err| err.to_string())?;
        let mut restored = Self::default();
        for (name, servers) in text.added {
            let servers = servers.iter().map(|server| parse(server)).collect::<Result<_, _>>()?;
            restored.members.added.insert(upstream(&name)?, servers);
        }
        for (name, servers) in text.announced {
            for (server, ms) in servers {
                let ttl = Duration::from_millis(ms).min(*TTL.end());
                restored.announced.announce(&upstream(&name)?, &parse(&server)?, ttl, now);
            }
        }
        for (name, orders) in text.orders {
            let order = |(server, order): (String, Order)| -> Result<(Address, Order), String> {
                Ok((parse(&server)?.address, order))
            };
            let orders = orders.into_iter().map(order).try_into_map()?;
            restored.members.orders.insert(upstream(&name)?, orders);
        }
        restored.members.announced = restored.announced.snapshot();
        *self = restored;
        Ok(())
    }
}

fn entry(server: &Server) -> String {
    let params = server.params.to_list();
    let semicolon = if params.is_empty() { "" } else { ";" };
    format!("{}{semicolon}{params}", server.address)
}

fn parse(text: &str) -> Result<Server, String> {
    parse_entry(text, NonZeroU16::MIN).map_err(|(reason, _)| format!("{text:?}: {reason}"))
}

fn upstream(text: &str) -> Result<Name, String> {
    Name::new(text).ok_or_else(|| format!("{text:?} is no upstream"))
}
