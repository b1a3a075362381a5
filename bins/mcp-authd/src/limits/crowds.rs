//! Numbers by the place where they are, and which place has most of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Place;

/// How large a crowd is, and of those that are as large, how old: its oldest number.
type Rank = (usize, Reverse<u64>);

/// All of them.
#[derive(Default)]
pub struct Crowds {
    of_place: HashMap<Place, Crowd>,
    ranks: BTreeMap<Rank, Place>,
}

#[derive(Default)]
struct Crowd {
    numbers: BTreeSet<u64>,
    /// Whether all of it is somebody's doing; else each counts alone.
    is_one: bool,
}

impl Crowd {
    /// `None` once it is empty. No two have the same: a number is in one place.
    fn rank(&self) -> Option<Rank> {
        let size = if self.is_one { self.numbers.len() } else { 1 };
        Some((size, Reverse(*self.numbers.first()?)))
    }
}

impl Crowds {
    /// Adds a number, none of which comes twice, to its place.
    pub fn add(&mut self, place: Place, number: u64, is_one: bool) {
        self.change(place, |crowd| {
            crowd.numbers.insert(number);
            crowd.is_one = is_one;
        });
    }

    /// Takes it away.
    pub fn remove(&mut self, place: Place, number: u64) {
        self.change(place, |crowd| {
            crowd.numbers.remove(&number);
        });
    }

    /// How many there are at a place, and the oldest.
    pub fn at(&self, place: Place) -> Option<(usize, u64)> {
        let numbers = &self.of_place.get(&place)?.numbers;
        Some((numbers.len(), *numbers.first()?))
    }

    /// The oldest of the place that has most; where several have, of the one whose oldest is.
    pub fn oldest_of_largest(&self) -> Option<u64> {
        self.ranks.last_key_value().map(|((_, Reverse(oldest)), _)| *oldest)
    }

    /// Whether there is nobody.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.of_place.is_empty() && self.ranks.is_empty()
    }

    fn change(&mut self, place: Place, change: impl FnOnce(&mut Crowd)) {
        let crowd = self.of_place.entry(place).or_default();
        if let Some(before) = crowd.rank() {
            self.ranks.remove(&before);
        }
        change(crowd);
        match crowd.rank() {
            Some(rank) => {
                self.ranks.insert(rank, place);
            }
            None => {
                self.of_place.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The same question asked in the plainest way.
        #[test]
        fn the_oldest_of_the_largest_is_what_a_plain_search_finds(
            moves in proptest::collection::vec((0..4u8, any::<bool>()), 0..60),
        ) {
            let place = |last: u8| Place::of(Some([192, 0, 2, last].into()));
            let (mut crowds, mut plain) = (Crowds::default(), Vec::<(u64, u8)>::new());
            for (number, (last, comes)) in moves.into_iter().enumerate() {
                match plain.iter().position(|(_, there)| *there == last) {
                    Some(at) if !comes => crowds.remove(place(last), plain.remove(at).0),
                    _ => {
                        crowds.add(place(last), number as u64, last != 0);
                        plain.push((number as u64, last));
                    }
                }
                let size = |last: u8| if last == 0 { 1 } else { plain.iter().filter(|(_, there)| *there == last).count() };
                let found = plain.iter().max_by_key(|(number, last)| (size(*last), Reverse(*number)));
                prop_assert_eq!(crowds.oldest_of_largest(), found.map(|(number, _)| *number));
                prop_assert_eq!(crowds.is_empty(), plain.is_empty());
            }
        }
    }
}
