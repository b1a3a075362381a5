//! What is counted, under fixed names (docs/operations.md); labels come from closed sets only.

use std::time::Duration;

use mcp_daemon::metrics::{Counter, EncodeLabelSet, Family, Gauge, Histogram, Registry, exponential_buckets};

use crate::session::engine::Engine;
use crate::session::state::State;
use crate::verdict::Flavour;

/// Counters and histograms; gauges are read off the engine when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    /// Calls whose effect is unknown because the server was lost while they ran.
    pub lost_calls: Counter,
    /// Heals that ran out of attempts.
    pub failed_heals: Counter,
    heals: Family<HealLabels, Counter>,
    heal_seconds: Histogram,
    answer_seconds: Histogram,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HealLabels {
    flavour: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabels {
    state: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        Self {
            lost_calls: Counter::default(),
            failed_heals: Counter::default(),
            heals: Family::default(),
            heal_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            answer_seconds: Histogram::new(exponential_buckets(0.000_1, 4.0, 11)),
        }
    }

    /// A session was healed.
    pub fn healed(&self, flavour: Flavour, took: Duration) {
        self.heals.get_or_create(&HealLabels { flavour: flavour.as_str() }).inc();
        self.heal_seconds.observe(took.as_secs_f64());
    }

    /// A request was answered, or its stream began.
    pub fn answered(&self, took: Duration) {
        self.answer_seconds.observe(took.as_secs_f64());
    }

    /// OpenMetrics text.
    pub fn encode(&self, engine: &Engine) -> String {
        let mut registry = Registry::with_prefix("mcp_sessiond");
        registry.register("heals", "Sessions healed, by how the loss showed", self.heals.clone());
        registry.register("failed_heals", "Heals that ran out of attempts", self.failed_heals.clone());
        registry.register("lost_calls", "Calls whose effect is unknown", self.lost_calls.clone());
        registry.register("heal_seconds", "From a loss to a whole session", self.heal_seconds.clone());
        registry.register(
            "answer_seconds",
            "From a request to its answer, or to the start of its stream",
            self.answer_seconds.clone(),
        );
        let parked: Gauge = Gauge::default();
        parked.set(engine.parking.requests() as i64);
        registry.register("parked", "Requests that wait for a heal", parked);
        let kept: Gauge = Gauge::default();
        kept.set(engine.kept.bytes() as i64);
        registry.register("kept_answer_bytes", "Answers kept for clients that come back", kept);
        let sessions: Family<StateLabels, Gauge> = Family::default();
        for state in ["live", "healing", "dormant"] {
            sessions.get_or_create(&StateLabels { state }).set(0);
        }
        for session in engine.sessions() {
            let state = state_name(session.lock().state);
            sessions.get_or_create(&StateLabels { state }).inc();
        }
        registry.register("sessions", "Sessions, by state", sessions);
        mcp_daemon::metrics::encode(&registry)
    }
}

/// How metrics and status name a state.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Dead(_) => "dead",
        State::Dormant(_) => "dormant",
        State::Healing(_) => "healing",
        State::Live(_) => "live",
    }
}
