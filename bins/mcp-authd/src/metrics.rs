//! What is counted, under fixed names (docs/operations.md); labels come from closed sets only.

use mcp_daemon::metrics::{Counter, EncodeLabelSet, Family, Registry};

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
    pub fn encode(&self) -> String {
        let mut registry = Registry::with_prefix("mcp_authd");
        registry.register("requests", "Requests answered, by status", self.requests.clone());
        mcp_daemon::metrics::encode(&registry)
    }
}
