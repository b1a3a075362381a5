//! How a home and a store stand to each other: pure, so that every case can be tried.

use crate::layout::Id;

/// How the home and the store stand to each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The home comes after the newest snapshot, or is it: it may be published.
    Current,
    /// The home is not empty and the newest snapshot is not one it descends from: what is in it goes to `forks/` only, until
    /// somebody adopts one of the two.
    Diverged,
    /// The home is empty and there is a snapshot: it can be restored.
    Empty,
    /// A newer writer has taken over while this process ran: as [`Standing::Diverged`], until this process ends.
    Fenced,
    /// There is no snapshot yet; the first one may be published.
    Fresh,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared<'a> {
    /// The newest snapshot in the store, and the epoch in `HEAD`.
    pub newest: Option<(&'a Id, u64)>,
    /// The snapshot that the home descends from, as it says itself.
    pub base: Option<&'a Id>,
    /// The ancestors of that one, where they are known.
    pub base_ancestors: &'a [Id],
    /// The epoch that this process has claimed.
    pub epoch: Option<u64>,
    /// Whether the home has no files.
    pub home_is_empty: bool,
}

/// Decides.
pub(super) fn standing(compared: Compared<'_>) -> Standing {
    let Compared { newest, base, base_ancestors, epoch, home_is_empty } = compared;
    match newest {
        None => Standing::Fresh,
        Some((_, raised)) if epoch.is_some_and(|ours| raised > ours) => Standing::Fenced,
        Some(_) if home_is_empty => Standing::Empty,
        Some((newest, _)) if base == Some(newest) || base_ancestors.contains(newest) => Standing::Current,
        Some(_) => Standing::Diverged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_home_that_contains_the_newest_snapshot_may_be_published() {
        let [one, two, other] = [Id::new(1, 1), Id::new(2, 1), Id::new(2, 1)];
        let stale = Compared {
            newest: Some((&two, 1)),
            base: Some(&one),
            base_ancestors: &[],
            epoch: None,
            home_is_empty: false,
        };
        let ahead = std::slice::from_ref(&two);
        for (compared, expected) in [
            (Compared { newest: None, ..stale }, Standing::Fresh),
            (Compared { newest: None, home_is_empty: true, base: None, ..stale }, Standing::Fresh),
            (Compared { base: Some(&two), ..stale }, Standing::Current),
            (Compared { base: Some(&two), epoch: Some(1), ..stale }, Standing::Current),
            (Compared { base: Some(&other), base_ancestors: ahead, ..stale }, Standing::Current),
            (stale, Standing::Diverged),
            (Compared { base: None, ..stale }, Standing::Diverged),
            // The same number is not the same snapshot.
            (Compared { base: Some(&other), ..stale }, Standing::Diverged),
            (Compared { home_is_empty: true, ..stale }, Standing::Empty),
            (Compared { home_is_empty: true, base: Some(&two), ..stale }, Standing::Empty),
            (
                Compared { newest: Some((&two, 2)), base: Some(&two), epoch: Some(1), ..stale },
                Standing::Fenced,
            ),
        ] {
            assert_eq!(standing(compared), expected, "{compared:?}");
        }
    }
}
