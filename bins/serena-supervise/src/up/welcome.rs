//! What a person reads once everything serves.

use std::path::Path;

use serde_json::json;

/// The URL, and what to paste into which client; `front` is the executable of mcp-sessiond, `partition` the name of the
/// home in the store of its snapshots.
pub(super) fn text(url: &str, front: &Path, partition: Option<&str>) -> String {
    let snapshots = partition.map_or_else(String::new, |partition| {
        format!("What Serena keeps is snapshotted: serena-snapshotd list --partition {partition}\n")
    });
    let server = json!({ "type": "http", "url": url });
    // A client that launches commands has a short PATH, so the whole path.
    let bridge = json!({ "command": front.display().to_string(), "args": ["stdio", "--upstream", url] });
    let one = |key: &str, value: &serde_json::Value| json!({ key: { "serena": value } });
    format!(
        "\
Serena is served at {url}

Claude Code:
  claude mcp add --transport http serena {url}
Cursor (.cursor/mcp.json), Augment (import from JSON):
  {cursor}
VS Code (.vscode/mcp.json):
  {vs_code}
Claude Desktop (claude_desktop_config.json), and others that launch commands:
  {desktop}

{snapshots}Ctrl-C stops everything. Serena sleeps after 15 minutes without a connection, and wakes with the next.
",
        cursor = one("mcpServers", &server),
        vs_code = one("servers", &server),
        desktop = one("mcpServers", &bridge),
    )
}
