//! The command that starts Serena for a project over HTTP. mcp-sessiond has the like for stdio; what the two share is
//! the release below, and nothing in `lib` is to know Serena.

use std::ffi::OsStr;
use std::path::Path;

use mcp_daemon::program;

use super::{SERENA, literal};

/// The release of Serena that `uvx` is asked for; the one this daemon is tested with.
pub(super) const TESTED: &str = "serena-agent==2.1.0";

/// Serena's command line: `serena` on `path`, which is `$PATH`, else through `uvx`; `None` if neither is there.
pub(super) fn command(path: Option<&OsStr>, project: &Path, more: &[String]) -> Option<Vec<String>> {
    let start: &[&str] = if program::find(SERENA, path).is_some() {
        &[SERENA]
    } else if program::find("uvx", path).is_some() {
        &["uvx", "--from", TESTED, SERENA]
    } else {
        return None;
    };
    let server =
        ["start-mcp-server", "--transport", "streamable-http", "--host", "127.0.0.1", "--port", "{port}"];
    let words = start.iter().chain(&server).map(|word| (*word).to_owned());
    let project = ["--project".to_owned(), literal(project)];
    // A dashboard window at each start would be one too many.
    let quiet = ["--open-web-dashboard", "false"].map(ToOwned::to_owned);
    let more = more.iter().map(|word| word.replace('{', "{{"));
    Some(words.chain(project).chain(quiet).chain(more).collect())
}
