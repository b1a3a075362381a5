//! Which of a route's upstreams a request goes to. A pure function: chance comes in as a number.
//!
//! By weighted rendezvous hashing: each upstream draws a lot of its own, and the best one wins. Where upstreams come, go or
//! change their weight, only those draws move that an upstream wins or loses by it.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Upstreams a route can have: as many as fit into [`Tried`].
pub const MAX_UPSTREAMS: usize = 64;

/// One upstream at the moment of the choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// Tells it from the others, whatever its place (see [`key`]).
    pub key: u64,
    /// Its share beside the others; not 0.
    pub weight: u16,
    /// Whether it is well, as far as anybody knows.
    pub admits: bool,
    /// Whether it takes no new sessions.
    pub drains: bool,
}

/// Upstreams that a request could not be brought to, by their places.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tried(u64);

impl Tried {
    /// Remembers one.
    pub fn add(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    /// Whether it was tried.
    pub fn has(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }
}

/// The place of the upstream that a request goes to, by weight, or `None` if all that come into question were tried.
///
/// A session (`in_session`) may go to an upstream that drains if there is no other, new ones never do. The same `draw`
/// makes the same choice as long as the candidates stay as they are.
pub fn choose(
    candidates: impl Iterator<Item = Candidate> + Clone,
    in_session: bool,
    tried: Tried,
    draw: u64,
) -> Option<usize> {
    // Draining ones are for sessions that have nowhere else to go.
    let all_drain = candidates.clone().all(|candidate| candidate.drains);
    let open = candidates.enumerate().filter(|(at, candidate)| {
        !tried.has(*at) && if candidate.drains { all_drain && in_session } else { true }
    });
    // One that is unwell may be back by now: it is asked before anybody waits for a well one that cannot be reached.
    let best = open.clone().map(|(_, candidate)| candidate.admits).max()?;
    let open = open.filter(|(_, candidate)| candidate.admits == best);
    let lots = open.map(|(at, candidate)| (at, candidate.lot(draw)));
    lots.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(at, _)| at)
}

/// What tells the upstream of this name from others: the same in every process.
pub fn key(name: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    name.hash(&mut hash);
    hash.finish()
}

impl Candidate {
    /// Its lot in one draw; the smallest wins. Exponentially distributed with the weight as its rate, so that the chance to
    /// win is the weight's share of all.
    fn lot(&self, draw: u64) -> f64 {
        // The upper 53 bits make a number between 0 and 1, neither of them included.
        let uniform = ((mixed(draw ^ mixed(self.key)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() / f64::from(self.weight)
    }
}

/// A number in which every bit depends on every bit of `number`: the finalizer of MurmurHash3 with the constants of David
/// Stafford's Mix13 (<https://zimbry.blogspot.com/2011/09/better-bit-mixing-improving-on.html>).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use proptest::prelude::*;

    use super::*;

    const WELL: Candidate = Candidate { key: 1, weight: 1, admits: true, drains: false };
    const UNWELL: Candidate = Candidate { key: 2, admits: false, ..WELL };
    const DRAINS: Candidate = Candidate { key: 3, drains: true, ..WELL };

    fn pick(candidates: &[Candidate], in_session: bool, tried: &[usize], draw: u64) -> Option<usize> {
        let mut set = Tried::default();
        tried.iter().for_each(|at| set.add(*at));
        choose(candidates.iter().copied(), in_session, set, draw)
    }

    #[test]
    fn new_sessions_never_go_where_it_drains() {
        for draw in 0..10 {
            assert_eq!(pick(&[DRAINS, WELL], false, &[], draw), Some(1));
            assert_eq!(pick(&[DRAINS, UNWELL], false, &[], draw), Some(1));
            assert_eq!(pick(&[DRAINS], false, &[], draw), None);
            assert_eq!(pick(&[DRAINS], true, &[], draw), Some(0));
            assert_eq!(pick(&[DRAINS, WELL], true, &[], draw), Some(1));
        }
    }

    #[test]
    fn those_that_are_unwell_are_asked_when_no_well_one_is_left() {
        assert_eq!(pick(&[UNWELL, WELL], false, &[], 0), Some(1));
        assert_eq!(pick(&[UNWELL, WELL], false, &[1], 0), Some(0));
        assert_eq!(pick(&[DRAINS, WELL], true, &[1], 0), None, "it has somewhere else to go");
        assert_eq!(pick(&[UNWELL, UNWELL], false, &[0], 0), Some(1));
        assert_eq!(pick(&[], false, &[], 7), None);
    }

    #[test]
    fn weights_are_respected() {
        let candidates =
            [1, 2, 7].map(|weight| Candidate { key: key(&format!("n{weight}")), weight, ..WELL });
        let (mut counts, chance) = ([0_u32; 3], RandomState::new());
        for number in 0..100_000_u32 {
            counts[pick(&candidates, false, &[], chance.hash_one(number)).unwrap()] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000_u32, 20_000, 70_000]) {
            // Ten standard deviations and more: chance never gets there, a wrong weight always does.
            assert!(count.abs_diff(expected) < 1_500, "{counts:?}");
        }
    }

    #[test]
    fn draws_that_are_next_to_each_other_are_as_good_as_any() {
        let candidates = ["a", "b", "c", "d"].map(|name| Candidate { key: key(name), ..WELL });
        let mut counts = [0_u32; 4];
        for draw in 0..40_000 {
            counts[pick(&candidates, true, &[], draw).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 900), "{counts:?}");
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (1..=u16::MAX, any::<bool>(), any::<bool>()).prop_map(|(weight, admits, drains)| Candidate {
            key: 0,
            weight,
            admits,
            drains,
        })
    }

    /// Each with a key of its own.
    fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        prop::collection::vec(any_candidate(), 0..=MAX_UPSTREAMS).prop_map(|candidates| {
            let named = candidates.into_iter().enumerate();
            named.map(|(at, candidate)| Candidate { key: key(&format!("n{at}")), ..candidate }).collect()
        })
    }

    /// Which one wins, by its key.
    fn winner(candidates: &[Candidate], draw: u64) -> Option<u64> {
        pick(candidates, false, &[], draw).map(|at| candidates[at].key)
    }

    proptest! {
        #[test]
        fn weights_are_respected_whatever_they_are(
            weights in prop::collection::vec(1..=u16::MAX, 2..=8),
            seed: u64,
        ) {
            const DRAWS: u32 = 4_000;
            let named = weights.iter().enumerate();
            let candidates: Vec<_> =
                named.map(|(at, weight)| Candidate { key: key(&format!("n{at}")), weight: *weight, ..WELL }).collect();
            let mut counts = vec![0_u32; candidates.len()];
            for number in 0..u64::from(DRAWS) {
                counts[pick(&candidates, false, &[], seed.wrapping_add(number)).unwrap()] += 1;
            }
            let total: f64 = weights.iter().copied().map(f64::from).sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(*weight) / total;
                let deviation = (f64::from(DRAWS) * share * (1.0 - share)).sqrt();
                let off = (f64::from(*count) - f64::from(DRAWS) * share).abs();
                prop_assert!(off < 6.0 * deviation + 10.0, "{counts:?} by {weights:?}");
            }
        }

        #[test]
        fn an_upstream_that_goes_or_comes_moves_what_was_its_own_alone(
            candidates in any_candidates(),
            one: prop::sample::Index,
            draw: u64,
        ) {
            prop_assume!(!candidates.is_empty());
            let candidates: Vec<_> = candidates.into_iter().map(|it| Candidate { drains: false, admits: true, ..it }).collect();
            let mut fewer = candidates.clone();
            let gone = fewer.remove(one.index(candidates.len()));
            let (before, after) = (winner(&candidates, draw), winner(&fewer, draw));
            prop_assert!(before == after || before == Some(gone.key));
        }

        #[test]
        fn another_weight_moves_draws_to_it_or_from_it_alone(
            candidates in any_candidates(),
            one: prop::sample::Index,
            weight in 1..=u16::MAX,
            draw: u64,
        ) {
            prop_assume!(!candidates.is_empty());
            let mut changed = candidates.clone();
            let one = one.index(candidates.len());
            changed[one].weight = weight;
            let (before, after) = (winner(&candidates, draw), winner(&changed, draw));
            let is_heavier = weight > candidates[one].weight;
            let concerned = if is_heavier { after } else { before };
            prop_assert!(before == after || concerned == Some(candidates[one].key));
        }

        #[test]
        fn the_order_of_the_settings_means_nothing(candidates in any_candidates(), draw: u64) {
            let mut reversed = candidates.clone();
            reversed.reverse();
            prop_assert_eq!(winner(&candidates, draw), winner(&reversed, draw));
        }

        #[test]
        fn a_choice_is_untried_allowed_and_the_same_again(
            candidates in any_candidates(),
            tried: u64,
            in_session: bool,
            draw: u64,
        ) {
            let tried = Tried(tried);
            let choice = choose(candidates.iter().copied(), in_session, tried, draw);
            prop_assert_eq!(choice, choose(candidates.iter().copied(), in_session, tried, draw));
            if let Some(at) = choice {
                prop_assert!(!tried.has(at));
                prop_assert!(in_session || !candidates[at].drains);
                let better = |other: &Candidate| other.admits && !other.drains;
                let mut open = candidates.iter().enumerate().filter(|(at, _)| !tried.has(*at));
                prop_assert!(better(&candidates[at]) || !open.any(|(_, other)| better(other)));
            }
        }

        #[test]
        fn every_upstream_is_tried_once_before_there_is_none_left(
            weights in prop::collection::vec(1..=u16::MAX, 1..=MAX_UPSTREAMS),
            draw: u64,
        ) {
            let candidates = weights.iter().map(|weight| Candidate { weight: *weight, ..WELL });
            let mut tried = Tried::default();
            let mut count = 0;
            while let Some(at) = choose(candidates.clone(), false, tried, draw) {
                tried.add(at);
                count += 1;
            }
            prop_assert_eq!(count, weights.len());
        }
    }
}
