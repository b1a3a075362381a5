//! The bytes of all bodies that are in memory at once: each body has a bound, but a client may send many, and there are many
//! clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// All of them.
#[derive(Debug, Default)]
pub struct Bodies(AtomicUsize);

/// What one body takes of the room; free again when it is dropped.
#[derive(Debug)]
pub struct Taken {
    all: Arc<Bodies>,
    bytes: usize,
}

impl Bodies {
    /// Nothing yet.
    pub fn begin(self: &Arc<Self>) -> Taken {
        Taken { all: self.clone(), bytes: 0 }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Taken {
    /// Takes room for more bytes, unless all bodies together would then have more than `most`.
    pub fn take(&mut self, bytes: usize, most: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= most);
        let is_taken = self.all.0.fetch_update(Relaxed, Relaxed, fits).is_ok();
        self.bytes += if is_taken { bytes } else { 0 };
        is_taken
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_makes_room_for_others() {
        let bodies = Arc::new(Bodies::default());
        let (mut one, mut other) = (bodies.begin(), bodies.begin());
        assert!(one.take(6, 10) && other.take(4, 10));
        assert!(!one.take(1, 10) && !other.take(usize::MAX, 10) && other.take(0, 10));
        assert_eq!(bodies.bytes(), 10);
        drop(one);
        assert!(other.take(6, 10) && !other.take(1, 10));
        drop(other);
        assert_eq!(bodies.bytes(), 0);
    }
}
