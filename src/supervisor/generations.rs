//! Which worker belongs to which generation, and so which old generations still finish requests.
//!
//! Pure: whoever can see nginx's workers says which there are. A worker belongs to the generation
//! that was live when it was first seen.

use std::collections::BTreeMap;

use super::Pid;

/// The workers of one nginx.
#[derive(Debug, Default)]
pub struct Generations(Vec<(Pid, u64)>);

impl Generations {
    /// These are all workers while `live` is the live generation; those that are gone are
    /// forgotten. To be told before nginx reloads, and once the new generation answers.
    pub fn observe(&mut self, live: u64, workers: &[Pid]) {
        self.0.retain(|(pid, _)| workers.contains(pid));
        for pid in workers {
            if self.0.iter().all(|(known, _)| known != pid) {
                self.0.push((*pid, live));
            }
        }
    }

    /// How many workers each generation besides `live` still has.
    pub fn draining(&self, live: u64) -> BTreeMap<u64, usize> {
        let mut draining = BTreeMap::new();
        for (_, generation) in self.0.iter().filter(|(_, generation)| *generation != live) {
            *draining.entry(*generation).or_default() += 1;
        }
        draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_generations_drain_until_their_last_worker_is_gone() {
        let mut all = Generations::default();
        all.observe(1, &[10, 11]);
        assert_eq!(all.draining(1), BTreeMap::new());
        all.observe(2, &[10, 11, 20, 21]);
        assert_eq!(all.draining(2), BTreeMap::from([(1, 2)]));
        all.observe(3, &[11, 20, 21, 30, 31]);
        assert_eq!(all.draining(3), BTreeMap::from([(1, 1), (2, 2)]));
        all.observe(3, &[30, 32]);
        assert_eq!(all.draining(3), BTreeMap::new(), "a worker that was replaced is no old one");
    }
}
