//! The first look at the store: who we are to it, and what an empty home gets from it.

use std::sync::Arc;

use crate::engine::{Engine, EngineError, RestoreOutcome, RestoreRequest, Standing};
use crate::progress::Progress;

/// Becomes the writer, then restores a home that is empty. In this order, so that nobody publishes between the two; and not
/// where the home may not be published anyway, so that whoever may is not fenced for nothing.
pub(super) async fn settle(engine: &mut Engine, progress: &Arc<Progress>) -> Result<RestoreOutcome, EngineError> {
    match engine.standing().await? {
        standing @ (Standing::Diverged | Standing::Fenced) => Ok(RestoreOutcome::LeftAlone(standing)),
        Standing::Current | Standing::Empty | Standing::Fresh => {
            engine.claim().await?;
            engine.restore(&RestoreRequest::default(), progress).await
        }
    }
}
