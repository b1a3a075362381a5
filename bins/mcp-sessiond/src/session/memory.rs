//! What a session remembers, in a form that outlives the process: one JSON file per session.
//!
//! It holds what is needed to make the session whole again: what `initialize` said, what was agreed, what was set since.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::state::Generation;

/// The remembered part of a session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Memory {
    /// The id the client holds; never changes.
    pub id: Box<str>,
    /// Whose session it is; empty where nobody authenticates.
    pub subject: Box<str>,
    /// Where its requests go, for upstreams with `{route}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Box<str>>,
    /// The version agreed with the client; offered again at every heal.
    pub version: Box<str>,
    /// The parameters of the client's `initialize`.
    pub params: Box<RawValue>,
    /// The upstream's id of this session; none where the upstream is stateless or does not know us yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<str>>,
    /// Counts the upstream sessions.
    pub generation: Generation,
    /// The parameters of the last `logging/setLevel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Box<RawValue>>,
    /// The URIs of `resources/subscribe`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub subscriptions: BTreeSet<Box<str>>,
    /// Whether the server promised `tools.listChanged`.
    #[serde(default)]
    pub told_of_changes: bool,
    /// What is known of the tools, from the last `tools/list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// With `exec`, where the process is the session's own: the calls to make again (else in `session::upstream`).
    #[serde(default, skip_serializing_if = "Replay::is_empty")]
    pub replay: Replay,
}

/// Parameters of the newest successful call of each tool to replay, by its name.
pub type Replay = BTreeMap<Box<str>, Box<RawValue>>;

/// What a session knows of the server's tools.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tools {
    /// Names of those that say `readOnlyHint` or `idempotentHint`: sending them twice does no harm.
    pub harmless: BTreeSet<Box<str>>,
    /// Whether every page was seen, so that a name that is not in `harmless` is known to be harmful.
    pub complete: bool,
    /// Digest over all pages; another one after a heal means that the tools changed.
    pub digest: Box<str>,
}

impl Tools {
    /// Takes in one page, a result of `tools/list`. `first`: it was asked for without a cursor. Returns the next cursor.
    pub fn learn(&mut self, result: &RawValue, first: bool) -> Option<Box<str>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page<'a> {
            #[serde(borrow, default)]
            tools: Vec<&'a RawValue>,
            #[serde(default)]
            next_cursor: Option<Box<str>>,
        }
        #[derive(Deserialize)]
        struct Tool {
            name: Box<str>,
            #[serde(default)]
            annotations: Hints,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Hints {
            read_only_hint: Option<bool>,
            idempotent_hint: Option<bool>,
        }
        let page: Page<'_> = serde_json::from_str(result.get()).ok()?;
        if first {
            *self = Self::default();
        }
        let mut digest = self.digest.to_string();
        for raw in page.tools {
            digest.push_str(raw.get());
            if let Ok(tool) = serde_json::from_str::<Tool>(raw.get())
                && (tool.annotations.read_only_hint == Some(true)
                    || tool.annotations.idempotent_hint == Some(true))
            {
                self.harmless.insert(tool.name);
            }
        }
        self.digest = mcp_daemon::secret::sha256_hex(digest.as_bytes()).into();
        self.complete = page.next_cursor.is_none();
        page.next_cursor
    }
}

/// Parameters for our own `initialize`: what the client said, with the version that was agreed.
pub fn offer(params: &RawValue, version: &str) -> Box<RawValue> {
    let mut map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(params.get()).unwrap_or_default();
    map.insert("protocolVersion".into(), version.into());
    serde_json::value::to_raw_value(&map).unwrap_or_else(|_| params.to_owned())
}

/// The parameters of `initialize` for a session whose client never told us its own.
pub fn anonymous_params(version: &str) -> Box<RawValue> {
    let params = serde_json::json!({
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": {"name": "mcp-sessiond", "version": env!("CARGO_PKG_VERSION")},
    });
    serde_json::value::to_raw_value(&params).expect("a JSON value is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn tools_are_learned_over_pages_and_changes_are_seen() {
        let mut tools = Tools::default();
        let first = raw(
            r#"{"tools":[{"name":"read","annotations":{"readOnlyHint":true}},{"name":"write"}],"nextCursor":"2"}"#,
        );
        let second =
            raw(r#"{"tools":[{"name":"set","annotations":{"idempotentHint":true,"readOnlyHint":false}}]}"#);
        assert_eq!(tools.learn(&first, true).as_deref(), Some("2"));
        assert!(!tools.complete);
        assert_eq!(tools.learn(&second, false), None);
        assert!(
            tools.complete
                && tools.harmless.contains("read")
                && tools.harmless.contains("set")
                && !tools.harmless.contains("write")
        );
        let before = tools.clone();
        tools.learn(&first, true);
        tools.learn(&second, false);
        assert_eq!(tools, before);
        tools.learn(&second, true);
        assert_ne!(tools.digest, before.digest);
    }

    #[test]
    fn the_agreed_version_is_offered_again() {
        let offered =
            offer(&raw(r#"{"protocolVersion":"2025-11-25","capabilities":{"roots":{}}}"#), "2025-03-26");
        let value: serde_json::Value = serde_json::from_str(offered.get()).unwrap();
        assert_eq!(value, serde_json::json!({"protocolVersion":"2025-03-26","capabilities":{"roots":{}}}));
    }
}
