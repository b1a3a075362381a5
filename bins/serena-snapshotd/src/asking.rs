//! A running daemon, asked through its control socket: it has the lock, the newest state and the keys.

use std::path::{Path, PathBuf};

use http::StatusCode;
use mcp_daemon::control::{self, AskError};
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::files;
use mcp_daemon::terminal::Progress;
use serde_json::Value;
use snapshotd::config::{DAEMON, Flags, Named};
use tokio::time::{Duration, interval};

use crate::render::show_progress;

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);

/// One that serves what was asked for.
pub struct Daemon {
    socket: PathBuf,
    /// What it said of itself.
    pub status: Value,
}

/// Looks for the daemon that serves the partition, home and store that were named; one that serves others is not used. A
/// socket that was named on purpose must have one.
pub async fn find(flags: &Flags, named: &Named) -> Result<Option<Daemon>, Failure> {
    for socket in places(flags, named)? {
        let status = match status(&socket).await {
            Ok(status) => status,
            Err(AskError::NotRunning { .. }) if flags.control.is_none() => continue,
            Err(error) => return Err(Failure::unavailable(&error)),
        };
        let differs = ["partition", "home", "store"].into_iter().find_map(|key| {
            let wanted = match key {
                "partition" => named.partition.as_ref()?.to_string(),
                "home" => named.home.as_ref()?.display().to_string(),
                _ => named.store.as_ref()?.to_string(),
            };
            let serves = status[key].as_str().unwrap_or("none");
            (serves != wanted).then(|| format!("its {key} is {serves}, not {wanted}"))
        });
        match differs {
            None if status["enabled"] == true => return Ok(Some(Daemon { socket, status })),
            // It does nothing, so it is in nobody's way.
            None => {}
            Some(why) if flags.control.is_some() => {
                let line = format!("the daemon at {} serves something else: {why}", socket.display());
                return Err(Failure { line, exit: Exit::Unavailable });
            }
            Some(why) => {
                eprintln!("{DAEMON}: the daemon at {} is not asked: {why}", socket.display());
            }
        }
    }
    Ok(None)
}

/// Where it may listen: at the place that was said, or at the usual ones.
fn places(flags: &Flags, named: &Named) -> Result<Vec<PathBuf>, Failure> {
    if let Some(control) = &flags.control {
        return Ok(vec![control.clone()]);
    }
    let usual = control::socket(None, DAEMON)?;
    let of_partition = named.partition.as_ref();
    let of_partition = of_partition
        .map(|name| usual.with_file_name(format!("control-{}.sock", files::name_of(name.as_str()))));
    // One under the partition's own name is surely the one; the usual one may be another's.
    Ok(of_partition.filter(|path| path.exists()).into_iter().chain([usual]).collect())
}

async fn status(socket: &Path) -> Result<Value, AskError> {
    let (_, body) = control::ask(socket, "GET", "/status").await?;
    serde_json::from_slice(&body).map_err(|error| AskError::NoAnswer {
        socket: socket.display().to_string(),
        cause: format!("its status is not JSON ({error})"),
    })
}

/// What a daemon says of itself, whichever it is; a failure if there is none.
pub async fn any_status(flags: &Flags, named: &Named) -> Result<Value, Failure> {
    if let Some(daemon) = find(flags, named).await? {
        return Ok(daemon.status);
    }
    for socket in places(flags, named)? {
        if let Ok(status) = status(&socket).await
            && status["enabled"] == false
        {
            return Ok(status);
        }
    }
    let usual = places(flags, named)?.pop().unwrap_or_default();
    Err(Failure {
        line: format!(
            "no {DAEMON} is running for this ({}); `{DAEMON} list` shows what is stored, `{DAEMON} run` starts one",
            usual.display()
        ),
        exit: Exit::Unavailable,
    })
}

impl Daemon {
    /// Asks it to do something, and shows how far it is until it has.
    pub async fn ask(&self, method: &str, path: &str) -> Result<Value, Failure> {
        let mut progress = Progress::stderr();
        let mut answer = std::pin::pin!(control::ask_patiently(&self.socket, method, path));
        let mut looks = interval(LOOK);
        let answered = loop {
            tokio::select! {
                biased;
                answered = &mut answer => break answered,
                _ = looks.tick(), if progress.is_shown() => {
                    if let Ok(status) = status(&self.socket).await {
                        show_progress(&mut progress, &status["working"]["progress"]);
                    }
                }
            }
        };
        progress.clear();
        let (status, body) = answered.map_err(|error| Failure::unavailable(&error))?;
        understand(status, &body)
    }
}

fn understand(status: StatusCode, body: &[u8]) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let line = value["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    let exit = [Exit::Usage, Exit::Unavailable, Exit::Bug, Exit::TryAgain, Exit::Config]
        .into_iter()
        .find(|exit| value["exit"] == *exit as u8)
        .unwrap_or(Exit::Unavailable);
    Err(Failure { line, exit })
}
