//! Which of a route's upstreams a request goes to. A pure function: chance comes in as a number.

/// Upstreams a route can have: as many as fit into [`Tried`].
pub const MAX_UPSTREAMS: usize = 64;

/// One upstream at the moment of the choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
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
    let total: u64 = open.clone().map(|(_, candidate)| u64::from(candidate.weight)).sum();
    let mut left = draw.checked_rem(total)?;
    for (at, candidate) in open {
        match left.checked_sub(candidate.weight.into()) {
            Some(rest) => left = rest,
            None => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use proptest::prelude::*;

    use super::*;

    const WELL: Candidate = Candidate { weight: 1, admits: true, drains: false };
    const UNWELL: Candidate = Candidate { admits: false, ..WELL };
    const DRAINS: Candidate = Candidate { drains: true, ..WELL };

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
        let candidates = [1, 2, 7].map(|weight| Candidate { weight, ..WELL });
        let (mut counts, chance) = ([0_u32; 3], RandomState::new());
        for number in 0..100_000_u32 {
            counts[pick(&candidates, false, &[], chance.hash_one(number)).unwrap()] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000_u32, 20_000, 70_000]) {
            // Ten standard deviations and more: chance never gets there, a wrong weight always does.
            assert!(count.abs_diff(expected) < 1_500, "{counts:?}");
        }
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (1..=u16::MAX, any::<bool>(), any::<bool>()).prop_map(|(weight, admits, drains)| Candidate {
            weight,
            admits,
            drains,
        })
    }

    proptest! {
        #[test]
        fn a_choice_is_untried_allowed_and_the_same_again(
            candidates in prop::collection::vec(any_candidate(), 0..=MAX_UPSTREAMS),
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
