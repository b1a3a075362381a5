//! Who has had enough for now: requests a second, wrong credentials, connections of strangers.
//!
//! One thought runs through all of it: behind one address there may be many, so what somebody does there who has no good
//! credential never keeps out somebody who has one. Everything is bounded in number and forgets by itself.

pub mod bodies;
mod crowds;
pub mod rate;
pub mod strangers;
pub mod wrong;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use self::bodies::Bodies;
use self::rate::Meter;
use self::strangers::Strangers;
use self::wrong::Wrong;
use crate::config;
use crate::identity::Subject;

/// Subjects, and addresses, whose requests are counted at once; who is idle does not count.
const MAX_KEYS: usize = 65_536;

/// What is limited beyond a single request.
pub struct Limits {
    rates: ArcSwap<Rates>,
    /// What wrong credentials cost.
    pub wrong: Wrong,
    /// Connections that have shown no good credential.
    pub strangers: Arc<Strangers>,
    /// Bodies in memory.
    pub bodies: Arc<Bodies>,
}

struct Rates {
    settings: config::limits::Rate,
    subjects: Meter<Subject>,
    places: Meter<Place>,
}

/// Where somebody is, as far as it can be told apart: an IPv4 address; the first half of an IPv6 one, the rest of which its
/// owner chooses; `None` for Unix sockets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Place(Option<IpAddr>);

impl Place {
    /// The place of an address.
    pub fn of(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        }))
    }
}

impl Limits {
    /// Nobody has done anything yet.
    pub fn new(rate: &config::limits::Rate) -> Self {
        Self {
            rates: ArcSwap::from_pointee(Rates::new(rate)),
            wrong: Wrong::default(),
            strangers: Arc::default(),
            bodies: Arc::default(),
        }
    }

    /// Takes other rates; if they are the same, nobody's count begins anew.
    pub fn reconfigure(&self, rate: &config::limits::Rate) {
        if self.rates.load().settings != *rate {
            self.rates.store(Arc::new(Rates::new(rate)));
        }
    }

    /// Counts a request of a subject, or says how long it should wait.
    pub fn subject(&self, subject: &Subject) -> Result<(), Duration> {
        self.rates.load().subjects.count(subject)
    }

    /// Counts a request from a place that brought no good credential, or says how long it should wait.
    pub fn place(&self, place: Place) -> Result<(), Duration> {
        self.rates.load().places.count(&place)
    }
}

impl Rates {
    fn new(settings: &config::limits::Rate) -> Self {
        Self {
            subjects: Meter::new(settings.subject_per_second, settings.subject_burst, MAX_KEYS),
            places: Meter::new(settings.address_per_second, settings.address_burst, MAX_KEYS),
            settings: settings.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_ipv4_address_or_half_of_an_ipv6_one() {
        let place = |text: &str| Place::of(Some(text.parse().unwrap()));
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1:2:3"));
        assert_ne!(place("2001:db8::1"), place("2001:db8:0:1::1"));
        assert_eq!(place("::ffff:192.0.2.1"), place("192.0.2.1"));
        assert_ne!(place("192.0.2.1"), place("192.0.2.2"));
        assert_ne!(place("192.0.2.1"), Place::of(None));
    }

    #[tokio::test(start_paused = true)]
    async fn counts_go_on_over_a_reload_that_changes_no_rate() {
        let one = std::num::NonZeroU32::MIN;
        let strict =
            config::limits::Rate { subject_per_second: one, subject_burst: one, ..Default::default() };
        let (limits, alice) = (Limits::new(&strict), "alice".parse().unwrap());
        assert_eq!(limits.subject(&alice), Ok(()));
        limits.reconfigure(&strict);
        assert_eq!(limits.subject(&alice), Err(Duration::from_secs(1)));
        limits.reconfigure(&config::limits::Rate::default());
        assert_eq!(limits.subject(&alice), Ok(()));
    }
}
