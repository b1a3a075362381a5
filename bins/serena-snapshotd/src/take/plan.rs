//! Which packs of the base are still used by the next snapshot. Pure.
//!
//! Up to [`ONE_PACK`] bytes of small files: none, so that one pack holds all of them, and unpacking it by hand gives the
//! whole tree. Above that only what has changed is packed, and the rest stays where it is; but what is alive of a pack moves
//! to the new one if that is less than half of the pack, or if the pack is the smallest and there would be more than
//! [`MAX_PACKS`]. So a change costs about its own size, a store holds at most about twice what is alive, and a restore
//! fetches few objects.

/// Small files up to this sum, in bytes, are packed anew whenever one changes.
pub(super) const ONE_PACK: u64 = 16 * 1024 * 1024;
/// Most packs that a snapshot uses.
pub(super) const MAX_PACKS: usize = 8;

/// A pack of the base.
#[derive(Clone, Copy, Debug)]
pub(super) struct OldPack {
    /// Bytes in it of files that have not changed.
    pub(super) alive: u64,
    /// Bytes of files in it, at least: what the base uses of it, or its length as it is stored, whichever is more.
    pub(super) held: u64,
    /// Whether any unchanged file is in it, be it an empty one.
    pub(super) used: bool,
}

/// For each pack whether its files move to the new one. `small` is the sum of all small files, `changed` says whether
/// there will be a new pack anyway.
pub(super) fn given_up(small: u64, changed: bool, packs: &[OldPack]) -> Vec<bool> {
    let mut given_up: Vec<bool> =
        packs.iter().map(|pack| small <= ONE_PACK || !pack.used || pack.alive < pack.held / 2).collect();
    loop {
        let mut kept: Vec<usize> = (0..packs.len()).filter(|at| !given_up[*at]).collect();
        let moves = packs.iter().zip(&given_up).any(|(pack, given_up)| pack.used && *given_up);
        if kept.len() + usize::from(changed || moves) <= MAX_PACKS {
            return given_up;
        }
        kept.sort_by_key(|at| packs[*at].alive);
        if let Some(smallest) = kept.first() {
            given_up[*smallest] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_packs() -> impl Strategy<Value = Vec<OldPack>> {
        let pack = (0_u64..1000, 0_u64..1000, any::<bool>()).prop_map(|(alive, dead, used)| OldPack {
            alive,
            held: alive + dead,
            used: used || alive > 0,
        });
        vec(pack, 0..20)
    }

    proptest! {
        #[test]
        fn few_packs_are_kept_and_each_is_worth_it(small: bool, changed: bool, packs in any_packs()) {
            let total = if small { ONE_PACK } else { ONE_PACK + 1 };
            let given_up = given_up(total, changed, &packs);
            let kept = || packs.iter().zip(&given_up).filter(|(_, given_up)| !**given_up).map(|(pack, _)| pack);
            prop_assert!(kept().count() <= MAX_PACKS);
            prop_assert!(!small || kept().count() == 0);
            prop_assert!(kept().all(|pack| pack.used && pack.alive * 2 + 1 >= pack.held));
            // Nothing that is worth it moves without need.
            let worth = |pack: &OldPack| pack.used && pack.alive >= pack.held / 2;
            let moved = packs.iter().zip(&given_up).filter(|(pack, given_up)| worth(pack) && **given_up);
            let (moved, count) = (moved.map(|(pack, _)| pack.alive).collect::<Vec<_>>(), kept().count());
            prop_assert!(small || moved.is_empty() || count + 1 == MAX_PACKS || (count == MAX_PACKS && moved.len() == 1 && !changed));
            prop_assert!(small || moved.iter().all(|alive| kept().all(|pack| pack.alive >= *alive)));
        }
    }

    #[test]
    fn one_changed_file_after_another_never_moves_the_large_pack() {
        let mut packs = vec![OldPack { alive: 500_000_000, held: 500_000_000, used: true }];
        for _ in 0..1000 {
            let given_up = given_up(500_000_000, true, &packs);
            assert!(!given_up[0]);
            let moved: u64 =
                packs.iter().zip(&given_up).filter(|(_, up)| **up).map(|(pack, _)| pack.alive).sum();
            let mut up = given_up.iter();
            packs.retain(|_| !up.next().unwrap());
            packs.push(OldPack { alive: moved + 1000, held: moved + 1000, used: true });
            assert!(packs.len() <= MAX_PACKS);
        }
    }
}
