//! Hooks: commands beside a server, before its start and after its stop. Each is a process tree of its own, gone when it
//! is over, in time or not.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use mcp_daemon::config::Span;
use mcp_daemon::tree::{Launch, Pipes, Stdin, Tree};
use nix::sys::signal::Signal;
use tokio::time::{Duration, timeout};

use crate::config::Hook;
use crate::output::Output;
use crate::placeholders::{UnknownPlaceholder, Values};

/// How long what a hook started may take to end after it.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Why a hook did not do its work, as one line.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It was called off, and has ended with all that it started.
    #[error("{name}: called off")]
    CalledOff {
        /// Which hook.
        name: &'static str,
    },
    /// It says so itself.
    #[error("{name}: {how}{last}")]
    Failed {
        /// Which hook.
        name: &'static str,
        /// How it ended.
        how: String,
        /// What it printed last, if anything.
        last: String,
    },
    /// It took too long, and was ended.
    #[error("{name}: not done within {timeout}")]
    Late {
        /// Which hook.
        name: &'static str,
        /// Its bound.
        timeout: Span,
    },
    /// It cannot be run.
    #[error("{name}: no such command: {program}")]
    NoCommand {
        /// Which hook.
        name: &'static str,
        /// The program.
        program: String,
    },
    /// Its command line cannot be made.
    #[error("{name}: {cause}")]
    Placeholder {
        /// Which hook.
        name: &'static str,
        /// Why.
        cause: UnknownPlaceholder,
    },
    /// The system does not want to.
    #[error("{name}: {cause}")]
    System {
        /// Which hook.
        name: &'static str,
        /// Why.
        cause: std::io::Error,
    },
}

/// Where and as whom a hook runs.
pub struct Surroundings {
    /// What placeholders in its command stand for.
    pub values: Values,
    /// Variables besides those of the supervisor: those of the server.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: Option<PathBuf>,
    /// Whoever finds what is left of it after our death.
    pub owner: Option<String>,
}

/// Runs a hook to its end, or until `called_off` resolves: then it is asked to end, and killed if it does not.
pub async fn run(
    name: &'static str,
    hook: &Hook,
    surroundings: Surroundings,
    output: &Arc<Output>,
    called_off: impl Future<Output = ()>,
) -> Result<(), HookError> {
    let Surroundings { values, env, directory, owner } = surroundings;
    let filled: Result<Vec<_>, _> = hook.command.iter().map(|argument| values.fill(argument)).collect();
    let command = filled.map_err(|cause| HookError::Placeholder { name, cause })?;
    let program = command.first().cloned().unwrap_or_default();
    let mut launch = Launch::new(command.into_iter().map(OsString::from).collect());
    (launch.env, launch.directory, launch.owner, launch.stdin) = (env, directory, owner, Stdin::Null);
    let (mut tree, Pipes { stdout, stderr, .. }) =
        Tree::spawn(launch).await.map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => HookError::NoCommand { name, program },
            _ => HookError::System { name, cause },
        })?;
    // What was said before is not its word.
    let (first, _) = output.since(u64::MAX);
    let mut reading = std::pin::pin!(async {
        tokio::join!(output.clone().pump(stdout, name), output.clone().pump(stderr, name));
    });
    let mut open = true;
    let mut called_off = std::pin::pin!(called_off);
    let exited = timeout(hook.timeout.duration(), async {
        loop {
            tokio::select! {
                exit = tree.exited() => return Some(exit),
                () = &mut reading, if open => open = false,
                () = &mut called_off => return None,
            }
        }
    })
    .await;
    // What a hook leaves running would run beside the server.
    if !tree.end(Signal::SIGTERM, END_LIMIT).await.is_empty() {
        tree.end(Signal::SIGKILL, END_LIMIT).await;
    }
    if open {
        let _ = timeout(END_LIMIT, &mut reading).await;
    }
    let exit = exited
        .map_err(|_elapsed| HookError::Late { name, timeout: hook.timeout })?
        .ok_or(HookError::CalledOff { name })?
        .map_err(|cause| HookError::System { name, cause })?;
    if exit.success() {
        return Ok(());
    }
    let last = output.since(first).1.pop().map(|line| format!(": {line}")).unwrap_or_default();
    Err(HookError::Failed { name, how: crate::instance::ended(exit), last })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run_script(script: &str, timeout: Span) -> (Result<(), String>, Arc<Output>) {
        run_into(Output::new("a"), script, timeout).await
    }

    async fn run_into(output: Arc<Output>, script: &str, timeout: Span) -> (Result<(), String>, Arc<Output>) {
        let command = ["sh", "-c", script].map(String::from).to_vec();
        let hook = Hook { command, timeout, strict: true };
        let values =
            Values { name: "a".into(), port: 1, home: Some("/srv/a".into()), socket: None, fd: None };
        let env = vec![("HOOKED".into(), "yes".into())];
        let surroundings = Surroundings { values, env, directory: None, owner: None };
        (
            run("before_start", &hook, surroundings, &output, std::future::pending())
                .await
                .map_err(|error| error.to_string()),
            output,
        )
    }

    #[tokio::test]
    async fn a_hook_has_the_servers_environment_and_its_lines_are_kept() {
        let (done, output) = run_script("echo $HOOKED {home}", Span::seconds(60)).await;
        assert_eq!((done, output.last(1)), (Ok(()), vec!["yes /srv/a".to_owned()]));
    }

    #[tokio::test]
    async fn a_failure_says_how_it_ended_and_what_it_said_last() {
        let (done, _) = run_script("echo no such bucket >&2; exit 7", Span::seconds(60)).await;
        assert_eq!(done.unwrap_err(), "before_start: exit code 7: no such bucket");
    }

    #[tokio::test]
    async fn a_silent_failure_does_not_repeat_what_others_said_before() {
        let output = Output::new("a");
        output.clone().pump(&b"ready\n"[..], "stdout").await;
        let (done, output) = run_into(output, "exit 7", Span::seconds(60)).await;
        assert_eq!(
            (done.unwrap_err().as_str(), output.last(9)),
            ("before_start: exit code 7", vec!["ready".into()])
        );
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_ended_with_all_it_started() {
        let (done, output) =
            run_script("sh -c 'echo $$; exec sleep 1000' & sleep 1000", Span::milliseconds(300)).await;
        assert_eq!(done.unwrap_err(), "before_start: not done within 300ms");
        let child: i32 = output.last(1)[0].parse().unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{child}")).exists());
    }

    #[tokio::test]
    async fn a_missing_command_is_named() {
        let output = Output::new("a");
        let hook = Hook { command: vec!["/nonexistent/x".into()], timeout: Span::seconds(1), strict: false };
        let values = Values { name: "a".into(), port: 1, home: None, socket: None, fd: None };
        let surroundings = Surroundings { values, env: Vec::new(), directory: None, owner: None };
        let error =
            run("after_stop", &hook, surroundings, &output, std::future::pending()).await.unwrap_err();
        assert_eq!(error.to_string(), "after_stop: no such command: /nonexistent/x");
    }
}
