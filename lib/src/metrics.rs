//! The metric types of the daemons and their text form. Names and meanings are documented in docs/operations.md;
//! label values must come from a closed set, never from a request.

pub use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
pub use prometheus_client::registry::{Registry, Unit};

/// The media type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a registry as OpenMetrics text, closed by `# EOF`.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("writing to a String cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_appears_with_its_total_suffix_and_the_text_is_closed() {
        let mut registry = Registry::with_prefix("mcp_test");
        let heals: Counter = Counter::default();
        registry.register("heals", "Sessions healed", heals.clone());
        heals.inc_by(3);
        let text = encode(&registry);
        assert!(text.contains("mcp_test_heals_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
