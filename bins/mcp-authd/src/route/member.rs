//! One upstream of a route in use: where it is, how it stands, and what is under way there.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_daemon::addr::{Endpoint, Route};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::balance::Candidate;
use super::health::{Event, Rules, Standing};
use super::outage::Outage;
use super::probe::Probe;
use super::table::Goal;

/// An upstream of a route.
pub(super) struct Member {
    pub route: Route,
    goals: Arc<[Goal]>,
    at: usize,
    pub endpoint: Endpoint,
    rules: Rules,
    probe: Option<Arc<Probe>>,
    /// What outlives a reload.
    vitals: Arc<Vitals>,
}

#[derive(Debug)]
struct Vitals {
    pulse: Mutex<Pulse>,
    in_flight: AtomicUsize,
    streams: AtomicUsize,
    sessions: AtomicU64,
}

#[derive(Debug)]
struct Pulse {
    standing: Standing,
    /// While nothing can be brought to it.
    outage: Option<Outage>,
    /// Failures in a row, for the log.
    failures: u32,
    /// Whether the log knows that its sessions go elsewhere.
    left: bool,
}

impl Member {
    /// The upstream at a place in `goals`, in the state that `before` had if that is the same one.
    pub fn new(
        route: &Route,
        goals: &Arc<[Goal]>,
        at: usize,
        endpoint: Endpoint,
        rules: Rules,
        probe: Option<Arc<Probe>>,
        before: Option<&Member>,
    ) -> Self {
        let vitals = before.map_or_else(Arc::default, |before| before.vitals.clone());
        Self { route: route.clone(), goals: goals.clone(), at, endpoint, rules, probe, vitals }
    }

    pub fn goal(&self) -> &Goal {
        &self.goals[self.at]
    }

    /// Its name for people.
    pub fn label(&self) -> &str {
        if self.goal().name.is_empty() { "the only one" } else { &self.goal().name }
    }

    /// As the choice sees it.
    pub fn candidate(&self, now: Instant) -> Candidate {
        let Goal { key, weight, drains, .. } = *self.goal();
        Candidate { key, weight, admits: self.admits(now), drains }
    }

    /// Whether it is well, as far as anybody knows.
    pub fn admits(&self, now: Instant) -> bool {
        self.probe.as_ref().is_none_or(|probe| probe.is_well()) && self.pulse().standing.admits(now)
    }

    /// Whether a request that is sent there now is likely to be answered. Also of the last upstream of a route, which
    /// admits whatever happens.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.admits(now) && self.pulse().failures < self.rules.failures
    }

    /// Whether a session that lives there has to wait for it: it was not seen to be away for so long as `health.patience`,
    /// or somebody is just trying whether it is back.
    pub fn may_come_back(&self) -> bool {
        let Pulse { standing, outage, .. } = *self.pulse();
        let is_away = outage.is_some_and(|outage| outage.is_longer_than(self.rules.patience));
        !is_away || matches!(standing, Standing::Trial { .. })
    }

    /// Its sessions go elsewhere; the log hears of it once per outage.
    pub fn is_left(&self) {
        if !std::mem::replace(&mut self.pulse().left, true) {
            log::warn!(route:% = self.route, upstream = self.label(); "an upstream was not back in time, its sessions go to others");
        }
    }

    /// One more session began there.
    pub fn session_began(&self) {
        self.vitals.sessions.fetch_add(1, Relaxed);
    }

    /// For the control socket.
    pub fn report(&self) -> Value {
        let now = Instant::now();
        let Pulse { standing, failures, outage, .. } = *self.pulse();
        let (state, left) = match standing {
            Standing::In { .. } if self.probe.as_ref().is_some_and(|probe| !probe.is_well()) => {
                ("not ready", None)
            }
            Standing::In { .. } => ("well", None),
            Standing::Out { until, .. } => ("ejected", Some(until.saturating_duration_since(now))),
            Standing::Trial { .. } => ("on trial", None),
        };
        let goal = self.goal();
        json!({
            "name": if goal.name.is_empty() { Value::Null } else { (&*goal.name).into() },
            "address": self.endpoint.to_string(),
            "weight": goal.weight,
            "drain": goal.drains,
            "health": state,
            "ejected_ms": left.map(|left| left.as_millis() as u64),
            "failures": failures,
            "unreachable_ms": outage.map(|outage| (now - outage.first).as_millis() as u64),
            "in_flight": self.vitals.in_flight.load(Relaxed),
            "streams": self.vitals.streams.load(Relaxed),
            "sessions_started": self.vitals.sessions.load(Relaxed),
        })
    }

    /// Whether something is under way there.
    pub fn is_busy(&self) -> bool {
        self.vitals.in_flight.load(Relaxed) + self.vitals.streams.load(Relaxed) > 0
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.vitals.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) {
        let mut pulse = self.pulse();
        if pulse.failures == 0 {
            // Nearly always.
            return;
        }
        let failures = std::mem::take(&mut pulse.failures);
        *pulse = Pulse {
            standing: pulse.standing.on(Event::Answered, Instant::now(), &self.rules),
            ..Pulse::WELL
        };
        drop(pulse);
        if failures >= self.rules.failures {
            log::info!(route:% = self.route, upstream = self.label(), failures; "an upstream answers again");
        }
    }

    fn failed(&self, why: &str, was_reached: bool, is_last: bool) {
        let now = Instant::now();
        let mut pulse = self.pulse();
        pulse.standing = pulse.standing.on(Event::Failed { is_last }, now, &self.rules);
        pulse.failures = pulse.failures.saturating_add(1);
        pulse.outage = match pulse.outage {
            _ if was_reached => None,
            Some(outage) => Some(outage.goes_on(now, self.rules.patience)),
            None => Some(Outage::began(now)),
        };
        let (failures, standing) = (pulse.failures, pulse.standing);
        drop(pulse);
        if failures == self.rules.failures {
            let ejected = matches!(standing, Standing::Out { .. });
            log::warn!(route:% = self.route, upstream = self.label(), failures, ejected, error = why; "an upstream fails");
        }
    }
}

impl Pulse {
    const WELL: Pulse = Pulse { standing: Standing::NEW, outage: None, failures: 0, left: false };
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            pulse: Mutex::new(Pulse::WELL),
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            sessions: AtomicU64::new(0),
        }
    }
}

/// A request on its way to an upstream, and then the answer on its way back: counted until this is dropped.
pub(super) struct Errand {
    pub member: Arc<Member>,
    is_stream: bool,
    is_decided: bool,
}

impl Errand {
    /// It is about to be sent.
    pub fn begin(member: Arc<Member>) -> Self {
        let mut pulse = member.pulse();
        if pulse.failures > 0 {
            pulse.standing = pulse.standing.on(Event::Begun, Instant::now(), &member.rules);
        }
        drop(pulse);
        member.vitals.in_flight.fetch_add(1, Relaxed);
        Self { member, is_stream: false, is_decided: false }
    }

    /// The head of an answer has come.
    pub fn answered(&mut self) {
        self.is_decided = true;
        self.member.answered();
    }

    /// It came to nothing, or to the answer of somebody who could not reach the server (`was_reached`).
    pub fn failed(&mut self, why: &str, was_reached: bool, is_last: bool) {
        self.is_decided = true;
        self.member.failed(why, was_reached, is_last);
    }

    /// Whether the rest of the answer is a stream.
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The rest of the answer is a stream.
    pub fn goes_on(&mut self) {
        self.is_stream = true;
        self.member.vitals.in_flight.fetch_sub(1, Relaxed);
        self.member.vitals.streams.fetch_add(1, Relaxed);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        let vitals = &self.member.vitals;
        let count = if self.is_stream { &vitals.streams } else { &vitals.in_flight };
        count.fetch_sub(1, Relaxed);
        if !self.is_decided {
            let mut pulse = self.member.pulse();
            pulse.standing = pulse.standing.on(Event::Abandoned, Instant::now(), &self.member.rules);
        }
    }
}
