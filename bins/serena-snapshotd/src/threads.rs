//! Work that blocks, beside the one thread that serves everybody.

use std::future::pending;

/// Runs what takes long, or waits for a disk, on a thread of its own; a panic in it goes on here. What is called off because
/// the process ends never returns: nobody waits for it any more.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(lost) if lost.is_panic() => std::panic::resume_unwind(lost.into_panic()),
        Err(_) => pending().await,
    }
}
