//! What a successful answer teaches: state to set again after a loss, and tools that may be called twice.

use serde_json::value::RawValue;

use super::call::Call;
use super::engine::{Engine, Settings};
use super::resend;
use super::store::Saved;
use crate::mcp::Envelope;

impl Call {
    /// Whether its answer changes what the session remembers.
    pub fn teaches(&self, settings: &Settings) -> bool {
        match &*self.method {
            "tools/list" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => true,
            "tools/call" => {
                let mut named = settings.replay_tools_in(&self.body).peekable();
                named.peek().is_some() && self.tool().is_some_and(|tool| named.any(|name| *name == *tool))
            }
            _ => false,
        }
    }

    /// The tool, of a `tools/call`.
    pub fn tool(&self) -> Option<Box<str>> {
        resend::tool_of(&Envelope::parse(&self.body).ok()?)
    }
}

/// Remembers what a successful answer teaches; the returned promise is to be awaited before the client has the answer.
pub fn learn(engine: &Engine, call: &Call, message: &[u8]) -> Option<Saved> {
    let result = Envelope::parse(message).ok()?.result?;
    let request = Envelope::parse(&call.body).ok()?;
    let params = request.params;
    let mut inner = call.session.lock();
    let memory = &mut inner.memory;
    match &*call.method {
        "tools/list" => {
            let first = params.is_none_or(|params| !params.get().contains("\"cursor\""));
            memory.tools.get_or_insert_default().learn(result, first);
        }
        "logging/setLevel" => memory.level = params.map(ToOwned::to_owned),
        "resources/subscribe" => {
            memory.subscriptions.insert(uri_of(params?)?);
        }
        "resources/unsubscribe" => {
            memory.subscriptions.remove(&uri_of(params?)?);
        }
        _ if failed_tool(result) => return None,
        _ if engine.back.is_private() => {
            memory.replay.insert(call.tool()?, params?.to_owned());
        }
        _ => {
            drop(inner);
            return call.session.upstream.learn(&call.tool()?, params?, engine);
        }
    }
    Some(inner.save(&engine.store, &call.session.key))
}

fn uri_of(params: &RawValue) -> Option<Box<str>> {
    #[derive(serde::Deserialize)]
    struct Params {
        uri: Box<str>,
    }
    serde_json::from_str::<Params>(params.get()).ok().map(|params| params.uri)
}

/// Whether a tool says that it failed, in a result that is a success as far as JSON-RPC goes.
pub fn failed_tool(result: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct ToolResult {
        #[serde(default, rename = "isError")]
        is_error: bool,
    }
    serde_json::from_str::<ToolResult>(result.get()).is_ok_and(|result| result.is_error)
}
