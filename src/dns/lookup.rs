//! One name looked up, with all that this takes: files, search domains, both families, targets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Outcome;
use super::ask::{Said, ask};
use super::config::{self, Config};
use super::message::{Kind, Question, Service};
use super::rhythm;
use super::system::{Files, System};
use crate::upstream::{HostName, Lookup, Target};

/// Most names that servers are asked for at a time. Each one takes up to two sockets.
const AT_A_TIME: usize = 100;

/// How long an address of the other family is waited for once there is one. Some servers drop
/// questions for IPv6.
const GRACE: Duration = Duration::from_secs(1);

/// How long what is in no DNS is good for; to ask again costs a look at a file.
const LIFE_OF_FILES: Duration = Duration::from_secs(1);

/// The addresses that a host had last, by family.
#[derive(Debug, Default)]
struct Families {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

/// What is kept of a followed name: the addresses of the host, or of each host of the service.
#[derive(Debug, Default)]
pub struct Last(BTreeMap<HostName, Families>);

/// Looks names up.
#[derive(Debug)]
pub struct Resolver {
    files: Files,
    ipv6: bool,
    slots: Semaphore,
    /// The time from one question to the next.
    gap: Duration,
    /// When the next question may be asked.
    free_at: Mutex<Instant>,
    /// Who is asked first where they take turns.
    turn: AtomicUsize,
}

/// What became of a host.
enum Host {
    Found(Vec<IpAddr>, Duration),
    None,
    Failed(String),
}

impl Resolver {
    /// One that asks for at most a name every `gap`, and for IPv6 only if that is of use.
    pub fn new(system: System, ipv6: bool, gap: Duration) -> Self {
        Self {
            files: Files::new(system),
            ipv6,
            slots: Semaphore::new(AT_A_TIME),
            gap,
            free_at: Mutex::new(Instant::now()),
            turn: AtomicUsize::new(0),
        }
    }

    /// Looks one up; how long a found one is good for. A family, or a target, that nobody answers for
    /// keeps the addresses that it had `last`.
    pub async fn look_up(self: &Arc<Self>, lookup: &Lookup, last: &mut Last) -> (Outcome, Duration) {
        match lookup {
            Lookup::Host(name) => {
                let families = last.0.entry(name.clone()).or_default();
                match self.host(name, false, families).await {
                    Host::Found(ips, life) => {
                        let mut targets: Vec<Target> = ips.into_iter().map(Target::from).collect();
                        targets.sort();
                        targets.dedup();
                        (Outcome::Found(targets), life)
                    }
                    Host::None => (Outcome::NoSuchName, Duration::ZERO),
                    Host::Failed(reason) => (Outcome::Failed(reason), Duration::ZERO),
                }
            }
            Lookup::Srv(name) => self.service(name, last).await,
        }
    }

    /// The addresses of a host; of a `whole` name no search domain is tried.
    async fn host(&self, name: &HostName, whole: bool, last: &mut Families) -> Host {
        let name = name.as_str();
        let own: Vec<IpAddr> = self.usable(self.files.hosts().get(name));
        if !own.is_empty() {
            return Host::Found(own, LIFE_OF_FILES);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Host::Found(self.usable(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]), LIFE_OF_FILES);
        }
        let config = self.files.config();
        let names = if whole { vec![name.to_owned()] } else { config.candidates(name) };
        let mut failure = None;
        for name in names {
            let _slot = self.slot().await;
            let (v4, v6) = self.both(&config, &name).await;
            let (mut found, mut life, mut silent) = (Vec::new(), Duration::MAX, false);
            let mut fell_out = Vec::new();
            for (said, last) in [(v4, &mut last.v4), (v6, &mut last.v6)] {
                match said {
                    Said::Records(records, server) => {
                        life = life.min(life_of(records.ttl_secs, server));
                        found.extend_from_slice(&records.addresses);
                        *last = records.addresses;
                    }
                    Said::None => fell_out.push((last, true)),
                    Said::Failed { reason, silent: nobody } => {
                        silent |= nobody;
                        failure.get_or_insert(reason);
                        fell_out.push((last, false));
                    }
                }
            }
            if !found.is_empty() {
                for (last, is_gone) in fell_out {
                    if is_gone {
                        last.clear();
                    }
                    found.extend_from_slice(last);
                }
                return Host::Found(found, life);
            }
            // Whoever is silent for one name is so for the next.
            if silent {
                break;
            }
        }
        match failure {
            Some(reason) => Host::Failed(reason),
            None => {
                *last = Families::default();
                Host::None
            }
        }
    }

    /// Asks for both families side by side.
    async fn both(&self, config: &Config, name: &str) -> (Said, Said) {
        let first = self.first(config);
        let one = |kind| async move {
            match Question::new(name, kind) {
                Some(question) => ask(config, first, &question).await,
                None => Said::None,
            }
        };
        let late = || Said::Failed { reason: "no answer in time".to_owned(), silent: true };
        let v4 = one(Kind::A);
        if !self.ipv6 {
            return (v4.await, Said::None);
        }
        let v6 = one(Kind::Aaaa);
        tokio::pin!(v4, v6);
        tokio::select! {
            v4 = &mut v4 => {
                let is_found = matches!(v4, Said::Records(..));
                let v6 = if is_found { timeout(GRACE, v6).await.unwrap_or_else(|_| late()) } else { v6.await };
                (v4, v6)
            }
            v6 = &mut v6 => {
                let is_found = matches!(v6, Said::Records(..));
                let v4 = if is_found { timeout(GRACE, v4).await.unwrap_or_else(|_| late()) } else { v4.await };
                (v4, v6)
            }
        }
    }

    /// Where a service is.
    async fn service(self: &Arc<Self>, name: &HostName, last: &mut Last) -> (Outcome, Duration) {
        let config = self.files.config();
        let mut failure = None;
        for name in config.candidates(name.as_str()) {
            let Some(question) = Question::new(&name, Kind::Srv) else { continue };
            let slot = self.slot().await;
            let said = ask(&config, self.first(&config), &question).await;
            drop(slot);
            match said {
                Said::Records(records, server) => {
                    let life = life_of(records.ttl_secs, server);
                    return self.targets(records.services, records.sent_along, life, last).await;
                }
                Said::None => {}
                Said::Failed { reason, silent } => {
                    failure.get_or_insert(reason);
                    if silent {
                        break;
                    }
                }
            }
        }
        (failure.map_or(Outcome::NoSuchName, Outcome::Failed), Duration::ZERO)
    }

    /// The addresses of services' hosts: those that were sent along, or looked up.
    async fn targets(
        self: &Arc<Self>,
        services: Vec<Service>,
        mut sent_along: BTreeMap<HostName, Vec<IpAddr>>,
        mut life: Duration,
        last: &mut Last,
    ) -> (Outcome, Duration) {
        let mut before = std::mem::take(&mut last.0);
        let mut addresses: BTreeMap<HostName, Vec<IpAddr>> = BTreeMap::new();
        let mut running = JoinSet::new();
        for name in services.iter().map(|service| &service.target) {
            if addresses.contains_key(name) {
                continue;
            }
            let known = self.usable(&sent_along.remove(name).unwrap_or_default());
            if known.is_empty() {
                let (resolver, name) = (Arc::clone(self), name.clone());
                let mut families = before.remove(&name).unwrap_or_default();
                running.spawn(async move {
                    let host = resolver.host(&name, true, &mut families).await;
                    (name, host, families)
                });
            } else {
                let (v4, v6) = known.iter().partition(|ip| ip.is_ipv4());
                last.0.insert(name.clone(), Families { v4, v6 });
            }
            addresses.insert(name.clone(), known);
        }
        let mut failure = None;
        while let Some(done) = running.join_next().await {
            let (name, host, families) = match done {
                Ok(done) => done,
                Err(err) => {
                    failure = Some(format!("looking a target up: {err}"));
                    continue;
                }
            };
            let found = match host {
                Host::Found(ips, its) => {
                    life = life.min(its);
                    ips
                }
                Host::None => Vec::new(),
                Host::Failed(reason) => {
                    failure = Some(format!("{name}: {reason}"));
                    [&families.v4[..], &families.v6].concat()
                }
            };
            addresses.insert(name.clone(), found);
            last.0.insert(name, families);
        }
        let found = |service: Service| {
            let ips = addresses.get(&service.target).cloned().unwrap_or_default();
            (service, ips)
        };
        let found: Vec<_> = services.into_iter().map(found).collect();
        let targets = rhythm::targets(&found);
        let outcome = match failure {
            _ if !targets.is_empty() => Outcome::Found(targets),
            Some(reason) => Outcome::Failed(reason),
            None => Outcome::NoSuchName,
        };
        (outcome, life)
    }

    fn usable(&self, ips: &[IpAddr]) -> Vec<IpAddr> {
        ips.iter().copied().filter(|ip| self.ipv6 || ip.is_ipv4()).collect()
    }

    /// Waits until one more name may be asked for.
    async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        let permit = self.slots.acquire().await.ok();
        let at = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*free_at).max(Instant::now());
            *free_at = at + self.gap;
            at
        };
        sleep_until(at).await;
        permit
    }

    fn first(&self, config: &Config) -> usize {
        if config.rotate { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 }
    }
}

fn life_of(ttl_secs: u32, server: IpAddr) -> Duration {
    rhythm::life(if config::says_too_long(server) { 0 } else { ttl_secs })
}
