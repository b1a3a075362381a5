//! What is counted, under fixed names (docs/operations.md); labels come from closed sets only.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mcp_daemon::metrics::{
    self, Counter, EncodeLabelSet, Family, Gauge, Histogram, Registry, exponential_buckets,
};

use crate::engine::{EngineError, Outcome, Standing};
use crate::restore::RestoreError;
use crate::store::{StoreError, Trouble};
use crate::take::TakeError;

/// Counters; what is true now is read off the state when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    snapshots: Family<Ended, Counter>,
    failures: Family<Failed, Counter>,
    seconds: Histogram,
    sent: Counter,
    files: Gauge,
    bytes: Gauge,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Ended {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Failed {
    kind: &'static str,
}

/// What is true now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// How the home and the store stand to each other.
    pub standing: Option<Standing>,
    /// The last success, in seconds since 1970; 0 if there was none.
    pub last_success: f64,
    /// How long ago that was, by a clock that nobody can set back; in seconds.
    pub age: Option<f64>,
    /// Whether none has succeeded for three intervals.
    pub overdue: bool,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        Metrics {
            snapshots: Family::default(),
            failures: Family::default(),
            // 2 ms to 8.7 minutes.
            seconds: Histogram::new(exponential_buckets(0.002, 4.0, 10)),
            sent: Counter::default(),
            files: Gauge::default(),
            bytes: Gauge::default(),
        }
    }

    /// A snapshot ended well.
    pub fn snapshot(&self, outcome: &Outcome, took: Duration) {
        let (name, summary) = match outcome {
            Outcome::Forked(summary, _) => ("forked", Some(summary)),
            Outcome::Published(summary) => ("published", Some(summary)),
            Outcome::Nothing | Outcome::Unchanged(_) => ("unchanged", None),
        };
        self.snapshots.get_or_create(&Ended { outcome: name }).inc();
        self.seconds.observe(took.as_secs_f64());
        if let Some(summary) = summary {
            self.sent.inc_by(summary.sent);
            self.holds(summary.files, summary.bytes);
        }
    }

    /// How much the newest snapshot holds.
    pub fn holds(&self, files: u64, bytes: u64) {
        self.files.set(i64::try_from(files).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Something failed.
    pub fn failed(&self, error: &EngineError) {
        self.failures.get_or_create(&Failed { kind: kind(error) }).inc();
    }

    /// OpenMetrics text.
    pub fn encode(&self, now: Now) -> String {
        for outcome in ["forked", "published", "unchanged"] {
            drop(self.snapshots.get_or_create(&Ended { outcome }));
        }
        let mut registry = Registry::with_prefix("serena_snapshotd");
        registry.register("snapshots", "Snapshots that ended well, by how", self.snapshots.clone());
        registry.register("failures", "What failed, by why", self.failures.clone());
        registry.register(
            "snapshot_seconds",
            "From the start of a snapshot to its end",
            self.seconds.clone(),
        );
        registry.register("sent_bytes", "Bytes that were stored", self.sent.clone());
        registry.register(
            "snapshot_files",
            "Files in the newest snapshot of this daemon",
            self.files.clone(),
        );
        registry.register("snapshot_bytes", "Their bytes", self.bytes.clone());
        for (name, help, is_so) in [
            (
                "fenced",
                "1: another daemon has taken over this partition",
                now.standing == Some(Standing::Fenced),
            ),
            (
                "diverged",
                "1: the home may not be published until somebody adopts a side",
                now.standing == Some(Standing::Diverged),
            ),
            ("overdue", "1: no snapshot has succeeded for three intervals", now.overdue),
            ("unknown", "1: the store has not been read yet", now.standing.is_none()),
        ] {
            let gauge: Gauge = Gauge::default();
            gauge.set(is_so.into());
            registry.register(name, help, gauge);
        }
        let last: Gauge<f64, AtomicU64> = Gauge::default();
        last.set(now.last_success);
        registry.register(
            "last_success_timestamp_seconds",
            "When a snapshot last succeeded, 0 if none has",
            last,
        );
        if let Some(age) = now.age {
            let gauge: Gauge<f64, AtomicU64> = Gauge::default();
            gauge.set(age);
            registry.register("last_success_age_seconds", "How long ago that was", gauge);
        }
        metrics::encode(&registry)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// Why something failed, as a label.
fn kind(error: &EngineError) -> &'static str {
    match error {
        EngineError::Store(error)
        | EngineError::Take(TakeError::Deliver(error))
        | EngineError::Restore(RestoreError::Store(error)) => of_store(error),
        EngineError::Damaged(_) | EngineError::Restore(RestoreError::Damaged(_)) => "damaged",
        EngineError::Home { .. }
        | EngineError::Lock(_)
        | EngineError::Restore(RestoreError::System { .. })
        | EngineError::Take(TakeError::System { .. }) => "home",
        EngineError::NoSuchSnapshot(_) | EngineError::Refused(_) => "refused",
        EngineError::Take(TakeError::Cancelled) => "cancelled",
        EngineError::Unreadable(_) | EngineError::Restore(RestoreError::Locked(_)) => "unreadable",
    }
}

fn of_store(error: &StoreError) -> &'static str {
    match error.trouble {
        Trouble::Busy => "busy",
        Trouble::Damaged => "damaged",
        Trouble::Denied => "denied",
        Trouble::Full => "full",
        Trouble::NoStore => "no_store",
        Trouble::Unreachable => "unreachable",
    }
}
