//! Host names to addresses, once, as the system does it (`/etc/hosts`, then DNS).
//!
//! Names are looked up side by side under one deadline, because a name that nobody answers for
//! takes many seconds and must not hold up the others. nginx never looks a name up itself: one
//! name that does not resolve would stop the whole proxy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::upstream::{Address, HostName, Resolved, Upstreams};

/// Longest wait for all names together. glibc gives a silent server five seconds; one round of
/// that is enough to tell.
const DEADLINE: Duration = Duration::from_secs(6);

/// Most look-ups at a time.
const THREADS: usize = 16;

/// The host names of all servers.
pub fn names(upstreams: &Upstreams) -> BTreeSet<HostName> {
    let servers = upstreams.values().flat_map(|upstream| &upstream.servers);
    servers.filter_map(|s| if let Address::Host(name, _) = &s.address { Some(name.clone()) } else { None }).collect()
}

/// The addresses of `names`, each list in order, and why the others have none. Takes at most six
/// seconds; look-ups that take longer go on in threads of their own and are forgotten.
pub fn resolve(names: BTreeSet<HostName>, ipv6: bool) -> (Resolved, BTreeMap<HostName, String>) {
    let deadline = Instant::now() + DEADLINE;
    let mut failed: BTreeMap<HostName, String> =
        names.iter().map(|name| (name.clone(), "no answer in time".to_owned())).collect();
    let mut resolved = Resolved::new();
    let (tx, rx) = mpsc::channel();
    let threads = names.len().min(THREADS);
    let queue = Arc::new(Mutex::new(names.into_iter().collect::<VecDeque<_>>()));
    for _ in 0..threads {
        let (queue, tx) = (Arc::clone(&queue), tx.clone());
        let work = move || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(name) = next else { break };
                let answer = look_up(&name, ipv6);
                if tx.send((name, answer)).is_err() {
                    break;
                }
            }
        };
        if thread::Builder::new().name("resolve".into()).spawn(work).is_err() {
            break;
        }
    }
    drop(tx);
    while let Ok((name, answer)) = rx.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match answer {
            Ok(addresses) => {
                failed.remove(&name);
                resolved.insert(name, addresses);
            }
            Err(reason) => {
                failed.insert(name, reason);
            }
        }
    }
    (resolved, failed)
}

fn look_up(name: &HostName, ipv6: bool) -> Result<Vec<IpAddr>, String> {
    let answers = (name.as_str(), 0).to_socket_addrs().map_err(|err| err.to_string())?;
    let addresses: BTreeSet<IpAddr> = answers.map(|a| a.ip()).filter(|ip| ipv6 || ip.is_ipv4()).collect();
    if addresses.is_empty() {
        Err("it has no address that can be reached".to_owned())
    } else {
        Ok(addresses.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_knows_does_not_hide_one_that_is_known() {
        let names = ["localhost", "no-such-host.invalid"].iter().filter_map(|n| HostName::new(n)).collect();
        let (resolved, failed) = resolve(names, false);
        assert_eq!(resolved.values().collect::<Vec<_>>(), [&vec![IpAddr::from([127, 0, 0, 1])]]);
        assert_eq!(failed.keys().map(HostName::as_str).collect::<Vec<_>>(), ["no-such-host.invalid"]);
    }
}
