//! Ordered maps and sets from iterators, element by element. `collect` sorts all of them first, with 5 kB of
//! code for each type of element, which for what we collect is most of its size and none of the time.

use std::collections::{BTreeMap, BTreeSet};

/// What `collect` would make of the iterator.
pub trait InOrder: Iterator + Sized {
    /// A map; of equal keys the last one stays.
    fn into_map<K: Ord, V>(self) -> BTreeMap<K, V>
    where
        Self: Iterator<Item = (K, V)>,
    {
        let mut map = BTreeMap::new();
        map.extend(self);
        map
    }

    /// The same, or the first error.
    ///
    /// # Errors
    /// That of an element.
    fn try_into_map<K: Ord, V, E>(mut self) -> Result<BTreeMap<K, V>, E>
    where
        Self: Iterator<Item = Result<(K, V), E>>,
    {
        self.try_fold(BTreeMap::new(), |mut map, pair| {
            let (key, value) = pair?;
            map.insert(key, value);
            Ok(map)
        })
    }

    /// A set.
    fn into_set(self) -> BTreeSet<Self::Item>
    where
        Self::Item: Ord,
    {
        let mut set = BTreeSet::new();
        set.extend(self);
        set
    }
}

impl<I: Iterator> InOrder for I {}
