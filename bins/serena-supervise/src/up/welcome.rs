//! What a person reads once everything serves.

use std::path::Path;

use serde_json::json;

/// Whether what Serena keeps is kept safe.
pub(super) enum Snapshots<'a> {
    /// They are not taken, for this reason.
    None { complaint: &'a str },
    /// They are, and this is the name of the home in their store.
    Taken { partition: &'a str },
}

/// The URL, and what to paste into which client; `front` is the executable of mcp-sessiond.
pub(super) fn text(url: &str, front: &Path, snapshots: Option<Snapshots<'_>>) -> String {
    let snapshots = match snapshots {
        Some(Snapshots::None { complaint }) => format!("What Serena keeps is NOT snapshotted: {complaint}\n"),
        Some(Snapshots::Taken { partition }) => {
            format!("What Serena keeps is snapshotted: serena-snapshotd list --partition {partition}\n")
        }
        None => String::new(),
    };
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
