//! How many requests may wait for a heal, how many bytes of them, and whose: the bounds have the names of `[limits]`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::config::Limits;

/// Counts what is parked.
#[derive(Debug, Default)]
pub struct Parking {
    load: Mutex<Load>,
}

#[derive(Debug, Default)]
struct Load {
    requests: usize,
    bytes: usize,
    by_subject: HashMap<Arc<str>, usize>,
}

/// A place in the parking; leaving it is dropping this.
#[derive(Debug)]
pub struct Place {
    parking: Arc<Parking>,
    subject: Arc<str>,
    bytes: usize,
}

impl Parking {
    /// Takes a place for a body of `bytes`, or says by its name which bound is reached.
    pub fn enter(
        self: &Arc<Self>,
        limits: &Limits,
        subject: &Arc<str>,
        bytes: usize,
    ) -> Result<Place, &'static str> {
        let mut load = self.load.lock().expect("no panic while locked");
        let of_subject = load.by_subject.get(subject).copied().unwrap_or_default();
        if load.requests >= limits.parked_requests.get() {
            return Err("limits.parked_requests");
        }
        if of_subject >= limits.parked_requests_per_subject.get() {
            return Err("limits.parked_requests_per_subject");
        }
        if load.bytes.saturating_add(bytes) > limits.parked_bytes.bytes() {
            return Err("limits.parked_bytes");
        }
        load.requests += 1;
        load.bytes += bytes;
        load.by_subject.insert(subject.clone(), of_subject + 1);
        Ok(Place { parking: self.clone(), subject: subject.clone(), bytes })
    }

    /// Requests parked now.
    pub fn requests(&self) -> usize {
        self.load.lock().expect("no panic while locked").requests
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut load = self.parking.load.lock().expect("no panic while locked");
        load.requests -= 1;
        load.bytes -= self.bytes;
        if let Some(of_subject) = load.by_subject.get_mut(&self.subject) {
            *of_subject -= 1;
            if *of_subject == 0 {
                load.by_subject.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn each_bound_is_named_and_a_place_comes_back() {
        let parking = Arc::new(Parking::default());
        let limits = Limits {
            parked_requests: NonZeroUsize::new(3).unwrap(),
            parked_requests_per_subject: NonZeroUsize::new(2).unwrap(),
            parked_bytes: mcp_daemon::config::Size(100),
            ..Limits::default()
        };
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let first = parking.enter(&limits, &ann, 50).unwrap();
        assert_eq!(parking.enter(&limits, &ann, 51).unwrap_err(), "limits.parked_bytes");
        let _second = parking.enter(&limits, &ann, 10).unwrap();
        assert_eq!(parking.enter(&limits, &ann, 10).unwrap_err(), "limits.parked_requests_per_subject");
        let _third = parking.enter(&limits, &bob, 10).unwrap();
        assert_eq!(parking.enter(&limits, &bob, 10).unwrap_err(), "limits.parked_requests");
        drop(first);
        assert_eq!(parking.requests(), 2);
        assert!(parking.enter(&limits, &bob, 90).is_err());
        assert!(parking.enter(&limits, &bob, 80).is_ok());
    }
}
