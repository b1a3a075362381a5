//! `mcp-sessiond serena`: the command that starts Serena for a project, and what to paste into a client.

use std::ffi::OsStr;
use std::path::Path;

use mcp_daemon::program;

/// The release of Serena that `uvx` is asked for; the one this daemon is tested with.
pub const TESTED: &str = "serena-agent==2.1.0";

/// Neither way to start Serena is there.
#[derive(Debug, thiserror::Error)]
#[error(
    "neither `serena` nor `uvx` is on PATH; install uv (https://docs.astral.sh/uv/), which brings uvx, or Serena itself: uv tool install {TESTED}"
)]
pub struct NotFound;

/// How to start Serena as a stdio server: `serena` on PATH, else through `uvx`.
pub fn command(path: Option<&OsStr>, project: &Path, more: &[String]) -> Result<Vec<String>, NotFound> {
    let start: &[&str] = if program::find("serena", path).is_some() {
        &["serena"]
    } else if program::find("uvx", path).is_some() {
        &["uvx", "--from", TESTED, "serena"]
    } else {
        return Err(NotFound);
    };
    let mut command: Vec<String> = start.iter().map(|part| (*part).to_owned()).collect();
    // A dashboard window for every session would be one too many.
    command.extend(["start-mcp-server", "--open-web-dashboard", "false", "--project"].map(ToOwned::to_owned));
    command.push(project.display().to_string());
    command.extend(more.iter().cloned());
    Ok(command)
}

/// What a person needs to connect a client to `url`.
pub fn welcome(url: &str) -> String {
    format!(
        r#"Serena is served at {url}

Claude Code:      claude mcp add --transport http serena {url}
Cursor (.cursor/mcp.json), Augment (import from JSON):
  {{"mcpServers": {{"serena": {{"type": "http", "url": "{url}"}}}}}}
VS Code (.vscode/mcp.json):
  {{"servers": {{"serena": {{"type": "http", "url": "{url}"}}}}}}
Clients that only launch commands (Claude Desktop):
  {{"mcpServers": {{"serena": {{"command": "mcp-sessiond", "args": ["stdio", "--upstream", "{url}"]}}}}}}

Ctrl-C stops it. Serena starts with the first client; its sessions survive restarts of Serena and of this command.
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(names: &[&str]) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        directory
    }

    #[test]
    fn serena_itself_is_preferred_to_uvx_and_a_missing_one_is_said_clearly() {
        let start = |names: &[&str]| {
            let directory = directory_with(names);
            command(Some(directory.path().as_os_str()), Path::new("/p"), &[])
                .map(|command| command[0].clone())
        };
        assert_eq!(start(&["serena", "uvx"]).unwrap(), "serena");
        assert_eq!(start(&["uvx"]).unwrap(), "uvx");
        assert!(start(&[]).unwrap_err().to_string().contains("uv tool install"));
    }
}
