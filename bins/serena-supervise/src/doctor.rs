//! `serena-supervise doctor`: what works on this machine, what is locked, what was left behind.

use std::path::Path;

use mcp_daemon::files::{Lock, LockError};
use mcp_daemon::program;
use mcp_daemon::tree::{self, Mechanism};
use serde_json::Value;

use crate::config::{Config, ConfigProblem};
use crate::fleet::lock_path;

/// Looks at everything and tells each finding, a line that begins with `ok`, `note` or `FAIL`; whether nothing failed.
pub fn examine(
    config: &Config,
    running: Option<&Value>,
    runtime: &Path,
    mut tell: impl FnMut(String),
) -> Result<bool, ConfigProblem> {
    let mut well = true;
    match tree::mechanism() {
        Mechanism::Cgroup => tell("ok    processes are found and killed by cgroup".into()),
        Mechanism::Subreaper => {
            tell("ok    processes are found by /proc, orphans come to the supervisor".into());
            tell("note  with a delegated cgroup nothing could hide at all (systemd: Delegate=yes)".into());
        }
        Mechanism::Group => tell(
            "note  processes are found by their group alone: what takes a session of its own can escape here"
                .into(),
        ),
    }
    match running {
        None => tell("note  no supervisor of this user is running".into()),
        Some(status) => {
            tell(format!("ok    a supervisor is running, pid {}", status["pid"]));
            for one in status["instances"].as_array().into_iter().flatten() {
                let text = |key: &str| one[key].as_str().unwrap_or_default();
                let cause =
                    if text("cause").is_empty() { String::new() } else { format!(": {}", text("cause")) };
                match text("state") {
                    "failed" | "backoff" => {
                        well = false;
                        tell(format!("FAIL  {} is in {}{cause}", text("name"), text("state")));
                    }
                    "degraded" => {
                        tell(format!("note  {} serves, but {}", text("name"), text("language_server")))
                    }
                    state => tell(format!("ok    {} is {state}", text("name"))),
                }
            }
        }
    }
    let instances = if config.instance.is_empty() && config.template.is_none() {
        Vec::new()
    } else {
        config.instances()?
    };
    for (name, settings) in instances {
        if let Some(command) = settings.command.first() {
            match program::find(command, std::env::var_os("PATH").as_deref()) {
                Some(found) => tell(format!("ok    {name}: `{command}` is {}", found.display())),
                None => {
                    well = false;
                    tell(format!("FAIL  {name}: command `{command}` is not found on PATH"));
                }
            }
        }
        let lock = lock_path(runtime, &name, &settings);
        match Lock::is_free(&lock) {
            Ok(()) => {
                // Nobody owns it now: whatever still runs in its name was left behind.
                let left = tree::left_by(&lock.display().to_string());
                if left.is_empty() {
                    tell(format!("ok    {name}: not in use, nothing was left behind"));
                } else {
                    tell(format!(
                        "note  {name}: processes {left:?} were left behind; the next start ends them"
                    ));
                }
            }
            Err(LockError::Held { holder: Some(pid), .. }) => {
                tell(format!("ok    {name}: in use by process {pid}"))
            }
            Err(LockError::Held { holder: None, .. }) => tell(format!("ok    {name}: in use")),
            Err(error) => {
                well = false;
                tell(format!("FAIL  {name}: {error}"));
            }
        }
    }
    Ok(well)
}
