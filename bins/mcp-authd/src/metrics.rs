//! What is counted, under fixed names (docs/operations.md); labels come from closed sets only.

use std::sync::OnceLock;

use mcp_daemon::metrics::{Counter, EncodeLabelSet, Family, Gauge, Registry};

use crate::gate::Gate;

/// Counters; gauges are read off their owners when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<StatusLabels, Counter>,
    /// The most frequent of them, found once.
    served: OnceLock<Counter>,
    unserved: Family<ReasonLabels, Counter>,
}

/// Why a request of somebody who was let in got no answer of an upstream. Many of these are answered with 200 and an error,
/// so their status does not tell.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// The queue of its route was full.
    Busy,
    /// No upstream could be reached.
    Down,
    /// Lost while it ran.
    Lost,
    /// Its credential ended while it waited.
    NoLongerGood,
    /// Its route leads nowhere.
    NoUpstream,
    /// Its subject asks too often.
    Rate,
    /// The daemon was told to stop while it waited.
    Stopping,
}

impl Reason {
    const ALL: [Reason; 7] = [
        Reason::Busy,
        Reason::Down,
        Reason::Lost,
        Reason::NoLongerGood,
        Reason::NoUpstream,
        Reason::Rate,
        Reason::Stopping,
    ];

    fn label(self) -> ReasonLabels {
        let reason = match self {
            Reason::Busy => "busy",
            Reason::Down => "down",
            Reason::Lost => "lost",
            Reason::NoLongerGood => "no_longer_good",
            Reason::NoUpstream => "no_upstream",
            Reason::Rate => "rate",
            Reason::Stopping => "stopping",
        };
        ReasonLabels { reason }
    }
}

/// The label of what went well.
const SERVED: &str = "2xx";

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StatusLabels {
    status: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabels {
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics =
            Self { requests: Family::default(), served: OnceLock::new(), unserved: Family::default() };
        // From the start, so that the first one is a change that an alert can see.
        for reason in Reason::ALL {
            drop(metrics.unserved.get_or_create(&reason.label()));
        }
        metrics
    }
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, status: http::StatusCode) {
        let status = match status.as_u16() {
            0..=299 => SERVED,
            300..=399 => "3xx",
            401 => "401",
            403 => "403",
            429 => "429",
            400..=499 => "4xx",
            _ => "5xx",
        };
        if status == SERVED {
            self.served.get_or_init(|| self.requests.get_or_create_owned(&StatusLabels { status })).inc();
        } else {
            self.requests.get_or_create(&StatusLabels { status }).inc();
        }
    }

    /// A request was not served.
    pub fn unserved(&self, reason: Reason) {
        self.unserved.get_or_create(&reason.label()).inc();
    }

    /// OpenMetrics text.
    pub fn encode(&self, gate: &Gate) -> String {
        let mut registry = Registry::with_prefix("mcp_authd");
        registry.register("requests", "Requests answered, by status", self.requests.clone());
        let help = "Requests of somebody who was let in that no upstream answered, by reason";
        registry.register("unserved", help, self.unserved.clone());
        let mut gauge = |name: &str, help: &str, value: i64| {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        };
        gauge("held", "Answers to wrong credentials that wait", gate.limits.wrong.held() as i64);
        gauge("audit_lost", "Lines of the audit that could not be kept", gate.audit.lost() as i64);
        gauge("body_bytes", "Bytes of bodies in memory", gate.limits.bodies.bytes() as i64);
        let strangers = gate.limits.strangers.len() as i64;
        gauge("strangers", "Connections that have shown no good credential", strangers);
        let upstreams = gate.router.readiness();
        gauge("upstreams", "Upstreams of the routes in use", upstreams.of as i64);
        gauge("upstreams_ready", "Those of them that are ready", upstreams.ready as i64);
        if let Some(face) = gate.face.load().as_ref() {
            let help = "When our certificate expires, in seconds since 1970";
            gauge("certificate_expires_timestamp_seconds", help, face.term.until);
        }
        mcp_daemon::metrics::encode(&registry)
    }
}
