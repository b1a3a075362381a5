//! Where a request waits while its session is not live: bounded in number, bytes and time, and found by its id.

use std::sync::Arc;

use http::Response;
use mcp_daemon::body::Body;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::call::{Call, Progress};
use super::engine::Engine;
use super::state::{Death, Event, State};
use super::{Live, Session, reply};
use crate::mcp::Envelope;
use crate::verdict::Flavour;

/// Waits until the session is live; `Err` is the answer for a request that cannot wait any longer.
pub async fn park(
    engine: &Arc<Engine>,
    call: &Call,
    progress: &mut Progress,
) -> Result<Live, Response<Body>> {
    let session = &call.session;
    if let Some(live) = session.live() {
        return Ok(live);
    }
    let config = engine.config();
    let _place = engine.parking.enter(&config.limits, &session.subject, call.body.len()).map_err(|bound| {
        reply::failed(&call.id, &format!("the server is away and no more requests can wait for it ({bound} reached); try again later"))
    })?;
    let parked = session.register_parked(&call.id);
    let deadline =
        *progress.deadline.get_or_insert_with(|| Instant::now() + config.limits.parked_time.duration());
    let failures = session.lock().failures;
    let then = what_became(progress.may_have_run);
    let failed = |why: &str| reply::failed(&call.id, &format!("{why}; {then}"));
    let mut leaving = None;
    loop {
        let changed = session.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let (state, gave_up, is_refused) = {
            let inner = session.lock();
            (inner.state, inner.failures > failures, inner.is_refused)
        };
        match state {
            State::Live(_) => {
                if let Some(live) = session.live() {
                    return Ok(live);
                }
            }
            // Its id is not over: who comes back with it is taken over.
            State::Dead(Death::Expired) => {
                return Err(failed("this session was closed to make room for others"));
            }
            State::Dead(Death::Deleted | Death::Refused) => return Err(reply::not_found()),
            // Why is in the log, and nothing for a client.
            State::Dormant(_) if gave_up && is_refused => {
                return Err(failed("the server refuses to open this session again"));
            }
            State::Dormant(_) if gave_up => return Err(failed("the server cannot be reached")),
            State::Dormant(_) => drop(engine.apply(session, Event::Wanted, Flavour::Refused)),
            State::Healing(_) => {}
        }
        tokio::select! {
            () = &mut changed => {}
            () = parked.cancelled.notified() => return Err(reply::failed(&call.id, "cancelled while it waited for the server")),
            () = tokio::time::sleep_until(leaving.unwrap_or(deadline)) => {
                let waited = if leaving.is_some() { "mcp-sessiond is stopping" } else { "limits.parked_time is reached" };
                return Err(failed(&format!("the server is still away and {waited}")));
            }
            // Half of the grace is for the server to come back, the rest for the answer.
            () = engine.life.draining(), if leaving.is_none() => {
                leaving = Some(deadline.min(Instant::now() + config.grace.duration() / 2));
            }
        }
    }
}

/// What became of a call that waited in vain; one that was lost while it ran waits only if running twice does no harm.
pub fn what_became(may_have_run: bool) -> &'static str {
    match may_have_run {
        true => "this call may have run, which does no harm twice; try again",
        false => "this call did not run, try again",
    }
}

/// A parked request, to be found by its id.
struct Parked<'s> {
    session: &'s Session,
    cancelled: Arc<Notify>,
}

impl Session {
    fn register_parked(&self, id: &str) -> Parked<'_> {
        let cancelled = Arc::new(Notify::new());
        self.lock().streams().parked.push((id.into(), cancelled.clone()));
        Parked { session: self, cancelled }
    }

    /// Takes the request that a `notifications/cancelled` names out of the parking; `false` if it is not parked.
    pub(super) fn cancel_parked(&self, envelope: &Envelope<'_>) -> bool {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            #[serde(borrow)]
            request_id: &'a RawValue,
        }
        let params = envelope.params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
        let (Some(params), Some(streams)) = (params, &self.lock().streams) else { return false };
        let found = streams.parked.iter().find(|(id, _)| **id == *params.request_id.get());
        // A permit is kept, should the request not be waiting yet.
        found.inspect(|(_, cancelled)| cancelled.notify_one()).is_some()
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if let Some(streams) = &mut self.session.lock().streams {
            streams.parked.retain(|(_, cancelled)| !Arc::ptr_eq(cancelled, &self.cancelled));
        }
    }
}
