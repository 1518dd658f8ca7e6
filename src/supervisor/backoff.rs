//! How long to wait before something is tried again: longer each time, and not all at one moment.

use std::time::Duration;

/// Waits that double from the shortest to the longest, each of them longer or shorter by chance by up
/// to a quarter: what fails together is not to be tried again together.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
    chance: u64,
}

impl Backoff {
    /// Chance comes from `seed`.
    pub fn new(shortest: Duration, longest: Duration, seed: u64) -> Self {
        Self { shortest, longest, next: shortest, chance: seed }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let percent = 75 + u32::try_from((mixed ^ (mixed >> 31)) % 51).unwrap_or(25);
        wait * percent / 100
    }

    /// What is tried again has worked: the next wait is the shortest one.
    pub fn reset(&mut self) {
        self.next = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_give_or_take_a_quarter() {
        let (shortest, longest) = (Duration::from_secs(1), Duration::from_secs(30));
        for seed in 0..200 {
            let mut backoff = Backoff::new(shortest, longest, seed);
            for secs in [1, 2, 4, 8, 16, 30, 30, 30] {
                let (wait, middle) = (backoff.wait(), Duration::from_secs(secs));
                assert!(wait >= middle * 3 / 4 && wait <= middle * 5 / 4, "{wait:?} for {middle:?}, seed {seed}");
            }
            backoff.reset();
            assert!(backoff.wait() <= shortest * 5 / 4);
        }
    }

    #[test]
    fn chance_differs_by_seed_and_by_turn() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(30), seed);
            (0..50).map(|_| backoff.wait()).collect::<std::collections::BTreeSet<_>>()
        };
        assert!(waits(1).len() > 20);
        assert_ne!(waits(1), waits(2));
    }
}
