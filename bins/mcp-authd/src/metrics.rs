//! What is counted, under fixed names (docs/operations.md); labels come from closed sets only.

use mcp_daemon::metrics::{Counter, EncodeLabelSet, Family, Gauge, Registry};

use crate::gate::Gate;

/// Counters; gauges are read off their owners when somebody asks.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Family<StatusLabels, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StatusLabels {
    status: &'static str,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, status: http::StatusCode) {
        let status = match status.as_u16() {
            0..=299 => "2xx",
            300..=399 => "3xx",
            401 => "401",
            403 => "403",
            429 => "429",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&StatusLabels { status }).inc();
    }

    /// OpenMetrics text.
    pub fn encode(&self, gate: &Gate) -> String {
        let mut registry = Registry::with_prefix("mcp_authd");
        registry.register("requests", "Requests answered, by status", self.requests.clone());
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
        if let Some(face) = gate.face.load().as_ref() {
            let help = "When our certificate expires, in seconds since 1970";
            gauge("certificate_expires_timestamp_seconds", help, face.term.until);
        }
        mcp_daemon::metrics::encode(&registry)
    }
}
