//! What is known about the daemon's work: written by the actor, read by whoever asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::metrics::Now;
use crate::engine::Standing;
use crate::progress::Progress;
use crate::report;

/// Shared by the actor and the control socket.
#[derive(Default)]
pub struct State(Mutex<Facts>);

/// What is known.
#[derive(Default)]
pub struct Facts {
    /// How the home and the store stand to each other; `None`: nobody can tell.
    pub standing: Option<Standing>,
    /// What is being done.
    pub working: Option<Working>,
    /// How the last snapshot ended.
    pub last: Option<Value>,
    /// The last success, by both clocks.
    pub success: Option<(Timestamp, Instant)>,
    /// The last failure since then.
    pub error: Option<(String, Timestamp)>,
    /// Failures since the last success.
    pub failures: u32,
    /// When the next snapshot is due.
    pub next: Option<Instant>,
    /// Why a person must look, besides the standing.
    pub complaint: Option<String>,
}

/// Work that is under way.
pub struct Working {
    /// What: `snapshot`, `restore` and so on.
    pub what: &'static str,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// When it began.
    pub began: Instant,
}

impl State {
    /// To read or to change it; never held across an await.
    pub fn known(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a person must look; empty if all is well.
    pub fn complaints(&self) -> Vec<String> {
        let known = self.known();
        let standing = match known.standing {
            Some(Standing::Diverged) => {
                Some("diverged: the home does not descend from the newest snapshot; adopt a side".to_owned())
            }
            Some(Standing::Fenced) => Some("fenced: another daemon has taken over this partition".to_owned()),
            Some(Standing::Current | Standing::Empty | Standing::Fresh) | None => None,
        };
        standing.into_iter().chain(known.complaint.clone()).collect()
    }

    /// For the metrics.
    pub fn now(&self) -> Now {
        let known = self.known();
        Now {
            standing: known.standing,
            last_success: known
                .success
                .as_ref()
                .map_or(0.0, |(when, _)| when.as_millisecond() as f64 / 1000.0),
            age: known.success.as_ref().map(|(_, when)| when.elapsed().as_secs_f64()),
            overdue: known.complaint.is_some(),
        }
    }

    /// For `GET /status`.
    pub fn to_json(&self) -> Value {
        let known = self.known();
        let working = known.working.as_ref().map(|working| {
            let mut value = json!({ "what": working.what, "seconds": working.began.elapsed().as_secs() });
            value["progress"] = report::progress(&working.progress);
            value
        });
        let now = Instant::now();
        json!({
            "standing": known.standing.map_or("unknown", report::word),
            "working": working,
            "last": known.last,
            "last_success": known.success.as_ref().map(|(when, _)| *when),
            "last_success_age_seconds": known.success.as_ref().map(|(_, when)| when.elapsed().as_secs()),
            "last_error": known.error.as_ref().map(|(line, _)| line),
            "last_error_at": known.error.as_ref().map(|(_, when)| *when),
            "failures": known.failures,
            "next_in_seconds": known.next.map(|due| due.saturating_duration_since(now).as_secs()),
            "complaint": known.complaint,
        })
    }
}
