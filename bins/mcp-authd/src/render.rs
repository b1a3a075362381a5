//! What a running daemon said, and what tokens there are, for people.

use authd::credentials::moment;
use mcp_daemon::terminal::{clean, spell, table};
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

/// `token list`, as a table; `now` is seconds since 1970.
pub fn tokens(list: &[Value], now: u64) -> String {
    if list.is_empty() {
        return "no tokens; `mcp-authd token new NAME --tokens FILE` makes one\n".into();
    }
    let row = |token: &Value| {
        let text = |key: &str| token[key].as_str().map_or_else(|| "-".to_owned(), clean);
        let used = token["last_use"].as_str().and_then(moment::parse);
        let used = used.map_or_else(|| "-".to_owned(), |at| format!("{} ago", spell(now.saturating_sub(at))));
        [text("name"), text("subject"), text("route"), text("state"), text("expires"), used]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    let headings = ["NAME", "SUBJECT", "ROUTE", "STATE", "EXPIRES", "LAST USE"];
    table(headings, &[], &rows).into_iter().map(|line| line + "\n").collect()
}
