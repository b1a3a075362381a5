//! What a heal says again: the state that a lost session had.
//!
//! What belongs to the session is said in each; what belongs to the server's process (`replay_tools`) once per loss.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::engine::Engine;
use super::heal::{self, Asked};
use super::learn::failed_tool;
use super::talk::{self, TalkError};
use super::{Live, Session};

/// Sets again what was set. What the server itself refuses is told of in the log, and the session goes on without; what
/// did not reach it fails the attempt.
pub async fn replay(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) -> Result<(), TalkError> {
    let (level, subscriptions, private) = {
        let inner = session.lock();
        let memory = &inner.memory;
        (memory.level.clone(), memory.subscriptions.clone(), memory.replay.clone())
    };
    let mut calls: Vec<Again> = Vec::new();
    calls.extend(level.map(|params| Again { method: "logging/setLevel", tool: "".into(), params }));
    for uri in subscriptions {
        calls.extend(
            serde_json::value::to_raw_value(&serde_json::json!({ "uri": uri })).ok().map(|params| Again {
                method: "resources/subscribe",
                tool: "".into(),
                params,
            }),
        );
    }
    if engine.back.is_private() {
        calls.extend(private.into_iter().map(Again::tool));
    }
    run_all(engine, session, live, calls).await?;
    if engine.back.is_private() { Ok(()) } else { replay_shared(engine, session, live).await }
}

/// Replays what belongs to the server process: once per loss, though each of its sessions heals for itself.
async fn replay_shared(engine: &Arc<Engine>, session: &Arc<Session>, live: &Live) -> Result<(), TalkError> {
    let calls: Vec<_> = session.upstream.replay().into_iter().map(Again::tool).collect();
    if calls.is_empty() {
        return Ok(());
    }
    let mut replayed = session.upstream.replayed.lock().await;
    // The session of another healer vouches for the process that it replayed to: no clock could.
    if let Some(witness) = replayed.as_ref().filter(|witness| witness.id.is_some())
        && heal::ask(engine, session, witness).await == Asked::Alive
    {
        // Whoever came last is likely to stay longest.
        *replayed = Some(live.clone());
        return Ok(());
    }
    run_all(engine, session, live, calls).await?;
    *replayed = Some(live.clone());
    Ok(())
}

async fn run_all(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    live: &Live,
    calls: Vec<Again>,
) -> Result<(), TalkError> {
    for Again { method, tool, params } in calls {
        match talk::request(engine, session, live, method, Some(&params)).await {
            Ok(result) if method == "tools/call" && failed_tool(&result) => {
                // What it says is for a client's eyes.
                log::warn!(session = session.key.short(), method, tool = &*tool; "state not restored, the tool fails");
            }
            Ok(_) => {}
            Err(error @ (TalkError::Unreachable(_) | TalkError::Unable(_) | TalkError::Lost { .. })) => {
                return Err(error);
            }
            Err(error) => {
                log::warn!(session = session.key.short(), method, tool = &*tool, error:% = error; "state not restored, the server refuses it");
            }
        }
    }
    Ok(())
}

/// A request that is made again; `tool` is empty unless it is a `tools/call`.
struct Again {
    method: &'static str,
    tool: Box<str>,
    params: Box<RawValue>,
}

impl Again {
    fn tool((tool, params): (Box<str>, Box<RawValue>)) -> Self {
        Self { method: "tools/call", tool, params }
    }
}
