//! The stateless era, 2026-07-28: `server/discover`, calls without a session, `subscriptions/listen`.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    answer::{Answer, VERSION as VERSION_HEADER, stream, text, typed},
    answer_body::AnswerBody,
    http_front::Asked,
    methods::{self, VERSIONS},
    switches::Switches,
    world::Listener,
};

/// The first version without sessions; versions are dates, so text order is time order.
pub(crate) const VERSION: &str = "2026-07-28";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Answers a POST whose version header is of this era.
pub(crate) async fn answer(asked: &Asked, switches: &Switches) -> Answer {
    let Some(id) = asked.id() else { return text(202, "") };
    if let Some((code, sentence)) = malformed(asked) {
        return refuse(400, id, code, &sentence);
    }
    match asked.method() {
        "server/discover" => {
            let versions: Vec<&str> = VERSIONS.iter().copied().chain([VERSION]).collect();
            let introduction = json!({
                "supportedVersions": versions,
                "capabilities": methods::capabilities(),
                "serverInfo": { "name": "misbehaving-server", "version": env!("CARGO_PKG_VERSION") },
            });
            asked.framed(switches, &methods::result(Some(id), complete(introduction)), None)
        }
        "subscriptions/listen" => listen(asked, id),
        // Removed in this era, or never there.
        "ping" | "initialize" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
            refuse(404, id, -32601, "Method not found")
        }
        _ => call(asked, switches, id).await,
    }
}

async fn call(asked: &Asked, switches: &Switches, id: &Value) -> Answer {
    let (outlet, _said) = mpsc::unbounded_channel();
    let (world, message) = (asked.world.clone(), asked.message.clone());
    // A task of its own: the effect of a call happens even if the client goes away meanwhile.
    let answered = tokio::spawn(async move { methods::answer(&world, None, &message, &outlet).await }).await;
    match answered {
        Ok(mut response) if response.get("result").is_some() => {
            response["result"] = complete(response["result"].take());
            asked.framed(switches, &response, None)
        }
        Ok(response) if response["error"]["code"] == -32601 => {
            typed(404, Some("application/json"), response.to_string())
        }
        Ok(response) => asked.framed(switches, &response, None),
        Err(_) => refuse(500, id, -32603, "Internal error"),
    }
}

/// Acknowledges first; then [`crate::Server::notify`] pushes.
fn listen(asked: &Asked, id: &Value) -> Answer {
    let (outlet, messages) = mpsc::unbounded_channel();
    let framing = asked.framing();
    let wanted = &asked.message["params"]["notifications"];
    let acknowledgement = json!({
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": { "_meta": { META_SUBSCRIPTION: id }, "notifications": wanted },
    });
    let _ = outlet.send(acknowledgement);
    asked.world.change(|state| state.listeners.push(Listener { subscription: id.clone(), outlet }));
    stream(AnswerBody::events(messages, framing))
}

/// A notification as one subscriber gets it.
pub(crate) fn tagged(message: &Value, subscription: &Value) -> Value {
    let mut message = message.clone();
    message["params"]["_meta"][META_SUBSCRIPTION] = subscription.clone();
    message
}

/// Adds what every result of this era has.
fn complete(mut result: Value) -> Value {
    for (member, value) in
        [("resultType", json!("complete")), ("ttlMs", json!(0)), ("cacheScope", json!("private"))]
    {
        result[member] = value;
    }
    result
}

fn malformed(asked: &Asked) -> Option<(i64, String)> {
    let header = asked.header(VERSION_HEADER).unwrap_or_default();
    let Some(version) = asked.message["params"]["_meta"][META_VERSION].as_str() else {
        return Some((-32602, format!("Invalid params: _meta[\"{META_VERSION}\"] is required")));
    };
    if header != version {
        return Some((
            -32020,
            format!("Header mismatch: {VERSION_HEADER} is {header}, the body says {version}"),
        ));
    }
    if version != VERSION {
        return Some((-32022, format!("Unsupported protocol version: {version}")));
    }
    if asked.header("mcp-method") != Some(asked.method()) {
        return Some((-32020, "Header mismatch: Mcp-Method".into()));
    }
    let name = asked.message["params"]["name"].as_str().filter(|_| asked.method() == "tools/call");
    if name.is_some() && asked.header("mcp-name") != name {
        return Some((-32020, "Header mismatch: Mcp-Name".into()));
    }
    None
}

fn refuse(status: u16, id: &Value, code: i64, sentence: &str) -> Answer {
    typed(status, Some("application/json"), methods::error(Some(id), code, sentence).to_string())
}
