//! Which snapshots are kept: pure. It follows the lineage, newest first; names decide nothing, and times only keep more.

use std::collections::HashSet;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::layout::Id;
use crate::settings::Keep;

/// A snapshot of a lineage, as far as this has to know it.
#[derive(Clone, Debug)]
pub(super) struct Kin {
    /// Which.
    pub id: Id,
    /// When it was made, as its maker says.
    pub created: Timestamp,
    /// Somebody has pinned it.
    pub is_pinned: bool,
}

/// Those that need not be kept, the oldest first. `lineage` begins with the newest, which is never among them, nor is the
/// one after it.
pub(super) fn dispensable(lineage: &[Kin], keep: &Keep) -> Vec<Id> {
    let Some(newest) = lineage.first() else { return Vec::new() };
    let mut buckets = [
        Buckets::new(keep.daily, |date| (date.year(), date.day_of_year())),
        Buckets::new(keep.weekly, |date| {
            let week = date.iso_week_date();
            (week.year(), i16::from(week.week()))
        }),
        Buckets::new(keep.monthly, |date| (date.year(), i16::from(date.month()))),
    ];
    let mut gone: Vec<Id> = Vec::new();
    for (age, kin) in lineage.iter().enumerate() {
        let date = kin.created.to_zoned(TimeZone::UTC).date();
        // Every rule looks at every snapshot: what one keeps still counts for the others.
        let mut first_of_its_time = false;
        for buckets in &mut buckets {
            first_of_its_time |= buckets.wants(date);
        }
        let seconds = newest.created.as_second().saturating_sub(kin.created.as_second());
        let is_young = keep.within > 0 && seconds <= i64::try_from(keep.within).unwrap_or(i64::MAX);
        let counts = age < (keep.last.max(1) as usize).max(2);
        if !(counts || kin.is_pinned || is_young || first_of_its_time) {
            gone.push(kin.id.clone());
        }
    }
    gone.reverse();
    gone
}

/// The newest of each of so many days, weeks or months.
struct Buckets {
    left: u32,
    filled: HashSet<(i16, i16)>,
    of: fn(Date) -> (i16, i16),
}

impl Buckets {
    fn new(left: u32, of: fn(Date) -> (i16, i16)) -> Self {
        Buckets { left, filled: HashSet::new(), of }
    }

    fn wants(&mut self, date: Date) -> bool {
        if self.left == 0 || !self.filled.insert((self.of)(date)) {
            return false;
        }
        self.left -= 1;
        true
    }
}

/// Whether a state is so much smaller than the one before it that somebody may want the latter back. `projects` is how many
/// projects Serena has registered, where that is known.
pub(super) fn has_shrunk(before: Extent, now: Extent) -> bool {
    let halved = |before: u64, now: u64| now < before.div_ceil(2);
    let fewer_projects =
        matches!((before.projects, now.projects), (Some(before), now) if now.unwrap_or(0) < before);
    halved(before.files, now.files) || halved(before.bytes, now.bytes) || fewer_projects
}

/// How large a snapshot is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub files: u64,
    pub bytes: u64,
    pub projects: Option<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_lineage() -> impl Strategy<Value = Vec<Kin>> {
        prop::collection::vec((any::<u32>(), any::<bool>()), 0..60).prop_map(|found| {
            let count = found.len() as u64;
            let kin = |(age, (seconds, pinned)): (usize, (u32, bool))| Kin {
                id: Id::new(count - age as u64, 1),
                // A clock that jumps as it likes.
                created: Timestamp::from_second(i64::from(seconds)).unwrap(),
                is_pinned: pinned && age % 7 == 0,
            };
            found.into_iter().enumerate().map(kin).collect()
        })
    }

    fn any_keep() -> impl Strategy<Value = Keep> {
        (0_u32..9, 0_u64..4_000_000_000, 0_u32..9, 0_u32..9, 0_u32..9)
            .prop_map(|(last, within, daily, weekly, monthly)| Keep { last, within, daily, weekly, monthly })
    }

    proptest! {
        #[test]
        fn what_must_be_kept_is_kept_whatever_the_clocks_say(lineage in any_lineage(), keep in any_keep()) {
            let gone = dispensable(&lineage, &keep);
            for (age, kin) in lineage.iter().enumerate() {
                let must = age < 2 || age < keep.last as usize || kin.is_pinned;
                prop_assert!(!(must && gone.contains(&kin.id)));
            }
            // Each rule keeps as many as it says, or all there are.
            let kept: Vec<&Kin> = lineage.iter().filter(|kin| !gone.contains(&kin.id)).collect();
            let days = |all: &mut dyn Iterator<Item = &Kin>| {
                all.map(|kin| kin.created.to_zoned(TimeZone::UTC).date()).collect::<HashSet<_>>().len()
            };
            let possible = days(&mut lineage.iter()).min(keep.daily as usize);
            prop_assert!(days(&mut kept.into_iter()) >= possible);
        }

        #[test]
        fn without_rules_only_the_newest_two_and_pins_stay(lineage in any_lineage()) {
            let gone = dispensable(&lineage, &Keep { last: 1, within: 0, daily: 0, weekly: 0, monthly: 0 });
            let expected = lineage.iter().skip(2).filter(|kin| !kin.is_pinned).count();
            prop_assert_eq!(gone.len(), expected);
        }

        #[test]
        fn keeping_again_what_was_kept_deletes_nothing_more(lineage in any_lineage(), keep in any_keep()) {
            let gone = dispensable(&lineage, &keep);
            let kept: Vec<Kin> = lineage.into_iter().filter(|kin| !gone.contains(&kin.id)).collect();
            prop_assert_eq!(dispensable(&kept, &keep), Vec::<Id>::new());
        }
    }

    #[test]
    fn a_shrink_is_half_of_the_files_half_of_the_bytes_or_any_project() {
        let extent = |files, bytes, projects| Extent { files, bytes, projects };
        let before = extent(10, 1000, Some(3));
        for (now, expected) in [
            (extent(10, 1000, Some(3)), false),
            (extent(5, 500, Some(4)), false),
            (extent(4, 1000, Some(3)), true),
            (extent(10, 499, Some(3)), true),
            (extent(10, 1000, Some(2)), true),
            (extent(10, 1000, None), true),
            (extent(0, 0, None), true),
        ] {
            assert_eq!(has_shrunk(before, now), expected, "{now:?}");
        }
        assert!(has_shrunk(extent(1, 0, None), extent(0, 0, None)));
        assert!(!has_shrunk(extent(0, 0, None), extent(0, 0, None)));
    }
}
