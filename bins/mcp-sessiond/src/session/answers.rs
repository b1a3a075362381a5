//! Answers that have ended and are kept for clients that come back for the rest: for `stream.keep_answer` each, and within
//! `stream.kept_bytes` all together. How many of one session is bounded where it keeps them.

use std::sync::Arc;

use tokio::time::Instant;

use super::Session;
use super::engine::Engine;
use crate::config;
use crate::streams::Ring;

impl Engine {
    /// The stream of a call has ended. Beyond the bound those go that ended first.
    pub(super) fn keep_ended(&self, ring: &Ring) {
        ring.end_in(&self.kept);
        if self.kept.bytes() > self.config().stream.kept_bytes.bytes() {
            self.trim_answers();
        }
    }

    /// Forgets the answers that are too old; if the others are beyond the bound, as many of those that ended first as
    /// leaves a quarter of it free: the next one to end need not look at every session again.
    pub(super) fn trim_answers(&self) {
        let bounds = self.config().stream.clone();
        let mut kept: Vec<(Instant, Arc<Session>, Arc<Ring>)> = Vec::new();
        for session in self.sessions() {
            let rings = session.trim_answers(&bounds);
            kept.extend(rings.into_iter().filter_map(|ring| Some((ring.ended()?, session.clone(), ring))));
        }
        let mut sum: usize = kept.iter().map(|(_, _, ring)| ring.bytes()).sum();
        let bound = bounds.kept_bytes.bytes();
        if sum <= bound {
            return;
        }
        kept.sort_by_key(|(ended, ..)| *ended);
        for (_, session, ring) in kept {
            if sum <= bound - bound / 4 {
                break;
            }
            sum -= ring.bytes();
            session.forget_answer(&ring);
        }
    }
}

impl Session {
    /// Forgets the answers that are too old; the others that have ended.
    fn trim_answers(&self, bounds: &config::Stream) -> Vec<Arc<Ring>> {
        let mut inner = self.lock();
        let Some(streams) = inner.streams.as_deref_mut() else { return Vec::new() };
        streams.answers.retain(|ring| !ring.is_over(bounds));
        streams.answers.iter().filter(|ring| ring.ended().is_some()).cloned().collect()
    }

    fn forget_answer(&self, ring: &Arc<Ring>) {
        if let Some(streams) = &mut self.lock().streams {
            streams.answers.retain(|kept| !Arc::ptr_eq(kept, ring));
        }
    }
}
