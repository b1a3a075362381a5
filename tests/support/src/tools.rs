//! The tools. Every call is counted when it starts and again when its effect has happened.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    methods::RpcError,
    world::{Outlet, World},
};

/// The tools a server starts with.
pub(crate) fn defaults() -> Vec<Value> {
    let tool = |name: &str, annotations: Value| json!({ "name": name, "inputSchema": { "type": "object" }, "annotations": annotations });
    let read_only = json!({ "readOnlyHint": true });
    vec![
        tool("activate_project", json!({})),
        tool("ask", json!({})),
        tool("big", read_only.clone()),
        tool("count", json!({})),
        tool("echo", read_only.clone()),
        tool("idempotent_set", json!({ "idempotentHint": true })),
        tool("progress", json!({})),
        tool("read", read_only.clone()),
        tool("whoami", read_only),
    ]
}

/// Whether a request's tool says something before its result, and so needs a stream.
pub(crate) fn speaks_first(message: &Value) -> bool {
    message["method"] == "tools/call"
        && matches!(message["params"]["name"].as_str(), Some("ask" | "progress"))
}

/// Runs `tools/call`; `sleep_ms` delays any tool between its start and its effect.
pub(crate) async fn call(
    world: &Arc<World>,
    session: Option<&str>,
    params: &Value,
    outlet: &Outlet,
) -> Result<Value, RpcError> {
    let name = params["name"].as_str().unwrap_or_default();
    if !world.state().tools.iter().any(|tool| tool["name"] == name) {
        return Err((-32602, format!("Unknown tool: {name}")));
    }
    let arguments = &params["arguments"];
    world.change(|state| state.start(name));
    if let Some(delay) = arguments["sleep_ms"].as_u64() {
        sleep(Duration::from_millis(delay)).await;
    }
    let said = match name {
        "activate_project" => world.change(|state| {
            state.project = arguments["project"].as_str().map(str::to_owned);
            "activated".to_owned()
        }),
        "ask" => ask(world, session, arguments, outlet).await?,
        "big" => "x".repeat(arguments["bytes"].as_u64().unwrap_or(65_536) as usize),
        "count" => world.change(|state| {
            state.count += 1;
            state.count.to_string()
        }),
        "echo" => arguments["text"].as_str().unwrap_or_default().to_owned(),
        "idempotent_set" => world.change(|state| {
            state.setting = Some(arguments["value"].clone());
            "set".to_owned()
        }),
        "progress" => progress(params, outlet),
        "read" => world.state().setting.clone().unwrap_or_default().to_string(),
        "whoami" => whoami(world, session).to_string(),
        // A tool that a test added: it says its own name.
        other => other.to_owned(),
    };
    world.change(|state| state.execute(name));
    Ok(json!({ "content": [{ "type": "text", "text": said }], "isError": false }))
}

/// Asks the client on the call's own stream and returns its answer, as JSON text.
async fn ask(
    world: &World,
    session: Option<&str>,
    arguments: &Value,
    outlet: &Outlet,
) -> Result<String, RpcError> {
    let (answered, answer) = oneshot::channel();
    let method = arguments["method"].as_str().unwrap_or("elicitation/create");
    let id = world
        .change(|state| {
            let session = state.sessions.get_mut(session?)?;
            session.asked += 1;
            session.waiting.insert(session.asked, answered);
            Some(session.asked)
        })
        .ok_or((-32603, "no session to ask in".to_owned()))?;
    let _ = outlet.send(question(id, method));
    let answer =
        answer.await.map_err(|_| (-32603, "the session ended before the client answered".to_owned()))?;
    Ok(answer.get("result").or(answer.get("error")).cloned().unwrap_or_default().to_string())
}

/// A request of the server to the client.
fn question(id: u64, method: &str) -> Value {
    let params = match method {
        "elicitation/create" => {
            let schema = json!({ "type": "object", "properties": { "go": { "type": "boolean" } } });
            json!({ "message": "Go on?", "requestedSchema": schema })
        }
        _ => json!({}),
    };
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn progress(params: &Value, outlet: &Outlet) -> String {
    let steps = params["arguments"]["n"].as_u64().unwrap_or(3);
    let token = &params["_meta"]["progressToken"];
    for step in 1..=steps {
        let params = json!({ "progressToken": token, "progress": step, "total": steps });
        let _ =
            outlet.send(json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }));
    }
    format!("{steps} steps")
}

/// What this server believes about the caller: the process's project, the session's level, subscriptions and id.
fn whoami(world: &World, session: Option<&str>) -> Value {
    let state = world.state();
    let known = session.and_then(|session| state.sessions.get(session));
    json!({
        "project": state.project,
        "log_level": known.and_then(|it| it.log_level.as_deref()),
        "subscriptions": known.map(|it| it.subscriptions.iter().collect::<Vec<_>>()).unwrap_or_default(),
        "version": known.map(|it| it.version.as_str()),
        "session": session,
    })
}
