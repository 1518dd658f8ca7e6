//! When a name is asked for again, and what SRV records make of addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::Outcome;
use super::message::Service;
use crate::upstream::{SrvTarget, Target};

/// An answer is good for at least this long, and at most for [`LONGEST`], whatever it says.
const SHORTEST: Duration = Duration::from_secs(1);

/// See [`SHORTEST`].
pub const LONGEST: Duration = Duration::from_secs(30);

/// Longest wait after the answer that there is no such name.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);

/// How long an answer is good for that says so.
pub fn life(ttl_secs: u32) -> Duration {
    Duration::from_secs(ttl_secs.into()).clamp(SHORTEST, LONGEST)
}

/// What came last for a name, and how often in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rhythm {
    without: u32,
    failed: u32,
}

impl Rhythm {
    /// How long to wait after this answer, which is good for `life` if it is one. `interval` is the
    /// operator's word, `chance` any number.
    pub fn again(&mut self, outcome: &Outcome, life: Duration, interval: Option<Duration>, chance: u64) -> Duration {
        let doubled = |count: u32, most| (SHORTEST * (1 << (count - 1).min(8))).min(most);
        let (without, failed) = (self.without, self.failed);
        *self = Self::default();
        let wait = match outcome {
            Outcome::Found(_) => return interval.unwrap_or(life),
            Outcome::NoSuchName => {
                self.without = without.saturating_add(1);
                doubled(self.without, LONGEST_WITHOUT)
            }
            Outcome::Failed(_) => {
                self.failed = failed.saturating_add(1);
                // Between three and five quarters, so that many names do not fail in step.
                doubled(self.failed, LONGEST) * (750 + (chance % 501) as u32) / 1000
            }
        };
        interval.map_or(wait, |interval| wait.min(interval))
    }
}

/// The targets of services whose hosts have these addresses: in order, none twice. The lowest priority
/// of those that have an address is served, the others are backups.
pub fn targets(found: &[(Service, Vec<IpAddr>)]) -> Vec<Target> {
    let usable = || found.iter().filter(|(service, ips)| service.port != 0 && !ips.is_empty());
    let first = usable().map(|(service, _)| service.priority).min();
    let mut all = BTreeSet::new();
    for (service, ips) in usable() {
        let Some(port) = NonZeroU16::new(service.port) else { continue };
        let weight = NonZeroU16::new(service.weight).unwrap_or(NonZeroU16::MIN);
        let srv = SrvTarget { port, weight, backup: Some(service.priority) != first };
        all.extend(ips.iter().map(|ip| (srv.backup, Target { ip: *ip, srv: Some(srv) })));
    }
    // A place that is named twice is no backup of itself.
    let mut places = BTreeSet::new();
    let mut targets: Vec<Target> = all.into_iter().map(|(_, target)| target).collect();
    targets.retain(|target| places.insert((target.ip, target.srv.map(|srv| srv.port))));
    targets.sort();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::HostName;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn an_answer_is_good_for_a_second_to_half_a_minute() {
        assert_eq!([0, 1, 7, 30, 31, u32::MAX].map(|ttl| life(ttl).as_secs()), [1, 1, 7, 30, 30, 30]);
        let mut rhythm = Rhythm::default();
        let found = Outcome::Found(Vec::new());
        assert_eq!(rhythm.again(&found, secs(7), None, 0), secs(7));
        assert_eq!(rhythm.again(&found, secs(7), Some(secs(600)), 0), secs(600));
    }

    #[test]
    fn a_missing_name_is_asked_for_twice_soon_and_then_less_often() {
        let mut rhythm = Rhythm::default();
        let mut next = |outcome: &Outcome, interval| rhythm.again(outcome, secs(9), interval, 0).as_secs();
        let waits: Vec<u64> = (0..5).map(|_| next(&Outcome::NoSuchName, None)).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(next(&Outcome::NoSuchName, Some(secs(2))), 2, "no longer than the operator said");
        next(&Outcome::Found(Vec::new()), None);
        assert_eq!(next(&Outcome::NoSuchName, Some(secs(600))), 1);
    }

    #[test]
    fn silence_doubles_the_wait_with_jitter() {
        let waits = |chance| {
            let mut rhythm = Rhythm::default();
            let failed = Outcome::Failed(String::new());
            (0..40).map(|_| rhythm.again(&failed, secs(9), None, chance)).collect::<Vec<_>>()
        };
        let plain: Vec<u128> = waits(250).iter().take(7).map(Duration::as_millis).collect();
        assert_eq!(plain, [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        for chance in [0, 500, 501, u64::MAX] {
            let (wait, last) = (waits(chance)[0], waits(chance)[39]);
            assert!((750..=1250).contains(&wait.as_millis()), "{wait:?}");
            assert!((22_500..=37_500).contains(&last.as_millis()), "{last:?}");
        }
    }

    #[test]
    fn the_lowest_priority_with_an_address_is_served_and_the_others_are_backups() {
        let service = |priority, weight, port, ips: &[&str]| {
            let target = HostName::new("x").unwrap();
            (Service { priority, weight, port, target }, ips.iter().map(|ip| ip.parse().unwrap()).collect())
        };
        let shown = |found: &[(Service, Vec<IpAddr>)]| -> Vec<String> {
            let one = |t: Target| {
                let srv = t.srv.unwrap();
                format!("{} {} {}{}", t.ip, srv.port, srv.weight, if srv.backup { " backup" } else { "" })
            };
            targets(found).into_iter().map(one).collect()
        };
        let all = [
            service(5, 9, 80, &[]),
            service(20, 3, 81, &["10.0.0.1", "10.0.0.2"]),
            service(10, 0, 82, &["10.0.0.3"]),
            service(10, 2, 81, &["10.0.0.2"]),
            service(1, 2, 0, &["10.0.0.4"]),
        ];
        assert_eq!(shown(&all), ["10.0.0.1 81 3 backup", "10.0.0.2 81 2", "10.0.0.3 82 1"]);
        assert_eq!(shown(&all[1..2]), ["10.0.0.1 81 3", "10.0.0.2 81 3"]);
        assert_eq!(shown(&all[..1]), [""; 0]);
    }
}
