//! What a running daemon said, for people.

use mcp_daemon::terminal::{clean, spell};
use serde_json::Value;

/// `status`, as a few lines.
pub fn status(status: &Value) -> String {
    let text = |key: &str| status[key].as_str().map(clean).unwrap_or_default();
    let list = |key: &str| {
        let items = status[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(clean);
        items.collect::<Vec<_>>().join(" ")
    };
    let number = |key: &str| status[key].as_u64().unwrap_or_default();
    let mut out = format!(
        "mcp-authd {}, pid {}, up {}",
        text("version"),
        number("pid"),
        spell(number("uptime_seconds"))
    );
    if status["draining"] == true {
        out.push_str(", draining");
    }
    out.push_str(&format!("\nserving   {} at {}\n", list("listeners"), text("path")));
    if let Some(expires) = status["certificate"]["expires"].as_str() {
        out.push_str(&format!("TLS       certificate good until {}\n", clean(expires)));
    }
    out
}
