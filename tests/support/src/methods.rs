//! The legacy methods, the same over HTTP and stdio.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    switches::Switches,
    tools,
    world::{Outlet, Session, World},
};

/// The versions with sessions, oldest first.
pub(crate) const VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// Code and sentence of a JSON-RPC error.
pub(crate) type RpcError = (i64, String);

/// The response to a request; what the method says before goes to `outlet`.
pub(crate) async fn answer(
    world: &Arc<World>,
    session: Option<&str>,
    message: &Value,
    outlet: &Outlet,
) -> Value {
    let params = &message["params"];
    let answered = match message["method"].as_str().unwrap_or_default() {
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({ "tools": world.state().tools })),
        "tools/call" => tools::call(world, session, params, outlet).await,
        "logging/setLevel" => in_session(world, session, |it| {
            it.log_level = params["level"].as_str().map(str::to_owned);
        }),
        "resources/subscribe" => in_session(world, session, |it| {
            it.subscriptions.insert(uri(params));
        }),
        "resources/unsubscribe" => in_session(world, session, |it| {
            it.subscriptions.remove(&uri(params));
        }),
        "resources/list" => Ok(json!({ "resources": [{ "uri": "test://one", "name": "one" }] })),
        "resources/read" => Ok(json!({ "contents": [{ "uri": uri(params), "text": "one" }] })),
        "prompts/list" => Ok(json!({ "prompts": [{ "name": "greet" }] })),
        "prompts/get" => {
            Ok(json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": "hello" } }] }))
        }
        "completion/complete" => Ok(json!({ "completion": { "values": ["one", "two"] } })),
        _ => Err((-32601, "Method not found".into())),
    };
    match answered {
        Ok(outcome) => result(message.get("id"), outcome),
        Err((code, sentence)) => error(message.get("id"), code, &sentence),
    }
}

/// Takes a notification, or the answer to a request of ours.
pub(crate) fn told(world: &World, session: &str, message: &Value) {
    world.change(|state| {
        if message.get("method").is_none() {
            state.answers.push(message.clone());
        }
        let Some(session) = state.sessions.get_mut(session) else { return };
        if message["method"] == "notifications/initialized" {
            session.initialized = true;
        } else if message.get("method").is_none()
            && let Some(waiting) = message["id"].as_u64().and_then(|id| session.waiting.remove(&id))
        {
            let _ = waiting.send(message.clone());
        }
    });
}

/// The result of `initialize`.
pub(crate) fn introduction(version: &str) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": capabilities(),
        "serverInfo": { "name": "misbehaving-server", "version": env!("CARGO_PKG_VERSION") },
    })
}

pub(crate) fn capabilities() -> Value {
    json!({
        "completions": {}, "logging": {}, "prompts": {},
        "resources": { "subscribe": true }, "tools": { "listChanged": true },
    })
}

/// The version agreed to: the switch, else the offer if it is one of ours, else our newest.
pub(crate) fn agree(switches: &Switches, initialize: &Value) -> String {
    let offered = initialize["params"]["protocolVersion"].as_str().unwrap_or_default();
    let echoed = VERSIONS.iter().find(|version| **version == offered).unwrap_or(&VERSIONS[3]);
    switches.agreed_version.clone().unwrap_or_else(|| (*echoed).to_owned())
}

/// A JSON-RPC result.
pub(crate) fn result(id: Option<&Value>, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// A response with an error object made elsewhere.
pub(crate) fn failed(id: &Value, error: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

/// A JSON-RPC error.
pub(crate) fn error(id: Option<&Value>, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn in_session(
    world: &World,
    session: Option<&str>,
    alter: impl FnOnce(&mut Session),
) -> Result<Value, RpcError> {
    world.change(|state| match session.and_then(|session| state.sessions.get_mut(session)) {
        Some(session) => {
            alter(session);
            Ok(json!({}))
        }
        None => Err((-32601, "Method not found".into())),
    })
}

fn uri(params: &Value) -> String {
    params["uri"].as_str().unwrap_or_default().to_owned()
}
