//! An upstream session that a heal has made or found again, until the session that it is for takes it over.
//!
//! Whatever ends the heal before that (a refusal, a bound, a client that deletes its session meanwhile), the server is
//! told that nobody needs this one: else each attempt would leave one behind.

use std::sync::Arc;

use super::engine::Engine;
use super::{Live, Session};

/// An upstream session that is closed when this is dropped, unless it was kept.
pub struct Fresh {
    engine: Arc<Engine>,
    session: Arc<Session>,
    live: Live,
    is_kept: bool,
}

impl Fresh {
    /// Answers for `live`, which is meant for `session`.
    pub fn new(engine: &Arc<Engine>, session: &Arc<Session>, live: Live) -> Self {
        Self { engine: engine.clone(), session: session.clone(), live, is_kept: false }
    }

    /// The way to it.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The session has taken it over, and closes it when it ends.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.is_kept {
            self.engine.close_upstream(&self.session, &self.live);
        }
    }
}
