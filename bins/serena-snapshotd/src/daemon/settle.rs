//! The first look at the store: what an empty home gets from it, and who we are to it.

use std::sync::Arc;

use crate::engine::{Engine, EngineError, RestoreOutcome, RestoreRequest, Standing};
use crate::progress::Progress;

/// How often a writer that is just stopping may publish while we restore.
const ATTEMPTS: u32 = 5;

/// How the home stands after a restore that somebody asked for. One that was a stranger until then, and so has claimed
/// nothing, becomes the writer now; one that was fenced stays so, because another one is the writer.
pub(super) async fn claim_if_it_may(engine: &mut Engine) -> Result<Standing, EngineError> {
    let standing = engine.standing().await?;
    let may_publish = matches!(standing, Standing::Current | Standing::Empty | Standing::Fresh);
    if !may_publish || engine.has_claimed() {
        return Ok(standing);
    }
    engine.claim().await?;
    engine.standing().await
}

/// Restores a home that is empty, then becomes the writer; how the restore ended, and how the home stands now.
pub(super) async fn settle(
    engine: &mut Engine,
    progress: &Arc<Progress>,
) -> Result<(RestoreOutcome, Standing), EngineError> {
    let mut request = RestoreRequest::default();
    let mut attempt = 1;
    loop {
        let outcome = engine.restore(&request, progress).await?;
        engine.claim().await?;
        let standing = engine.standing().await?;
        let is_overtaken =
            standing == Standing::Diverged && matches!(outcome, RestoreOutcome::Restored { .. });
        if !is_overtaken || attempt == ATTEMPTS {
            if standing == Standing::Fresh {
                engine.name_others().await;
            }
            return Ok((outcome, standing));
        }
        // Its last snapshot came after the one that we have just put back. Nobody has been told yet that the home is there.
        log::info!("the writer before us has published once more, restoring again");
        request.replace = true;
        attempt += 1;
    }
}
