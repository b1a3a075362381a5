//! Readiness by command: exit code 0 is yes.

use std::ffi::OsString;
use std::pin::pin;
use std::time::Duration;

use mcp_daemon::tree::{Launch, Pipes, Stdin, Tree};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::ProbeError;
use super::ask::Surroundings;

/// Bytes of what a command says that are kept; the last line of them is repeated to a person.
const KEPT: usize = 1024;
/// How long what the command left behind may take to be gone, and what it had said to be read.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Runs the command once. A caller that does not wait to the end ends it: the tree is killed when it is dropped.
pub async fn run(command: &[String], surroundings: &Surroundings) -> Result<(), ProbeError> {
    let name = command.first().map_or("", String::as_str);
    let mut launch = Launch::new(command.iter().map(OsString::from).collect());
    launch.env.clone_from(&surroundings.env);
    launch.directory.clone_from(&surroundings.directory);
    launch.owner.clone_from(&surroundings.owner);
    launch.stdin = Stdin::Null;
    let spawned = Tree::spawn(launch).await;
    let (mut tree, Pipes { mut stdout, mut stderr, .. }) =
        spawned.map_err(|error| ProbeError::Exec(format!("{name} cannot be run: {error}")))?;
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let mut reading = pin!(async {
            tokio::join!(listen(&mut stdout, &mut said), listen(&mut stderr, &mut complained))
        });
        let mut open = true;
        let status = loop {
            tokio::select! {
                status = tree.exited() => break status,
                _ = &mut reading, if open => open = false,
            }
        };
        // Its children too: more would stay with each probe.
        tree.end(Signal::SIGKILL, END_LIMIT).await;
        if open {
            let _ = timeout(END_LIMIT, reading).await;
        }
        status.map_err(|error| ProbeError::Exec(format!("{name}: {error}")))?
    };
    if status.success() {
        return Ok(());
    }
    let words = last_line(&complained).or_else(|| last_line(&said));
    let words = words.map_or_else(String::new, |line| format!(": {line}"));
    Err(ProbeError::Exec(format!("{name} says no ({status}){words}")))
}

/// Reads to the end and keeps the last bytes.
async fn listen(pipe: &mut (impl AsyncRead + Unpin), kept: &mut Vec<u8>) {
    let mut bytes = [0; 512];
    while let Ok(length @ 1..) = pipe.read(&mut bytes).await {
        kept.extend_from_slice(&bytes[..length]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
}

/// The last line with anything on it, fit for a terminal.
fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn sh(script: &str) -> Result<(), ProbeError> {
        let command = ["sh", "-c", script].map(str::to_owned);
        let surroundings = Surroundings {
            env: vec![("COLOUR".into(), "blue".into())],
            directory: Some("/".into()),
            owner: None,
        };
        run(&command, &surroundings).await
    }

    #[tokio::test]
    async fn the_exit_code_decides_and_the_last_line_says_why() {
        assert_eq!(sh("echo fine; exit 0").await, Ok(()));
        let error = sh("echo one; echo no such table >&2; exit 3").await.unwrap_err().to_string();
        assert_eq!(error, "sh says no (exit status: 3): no such table");
        assert_eq!(sh("kill -9 $$").await.unwrap_err().to_string(), "sh says no (signal: 9 (SIGKILL))");
        let error =
            run(&["/nonexistent/probe".to_owned()], &Surroundings::default()).await.unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/probe cannot be run: "), "{error}");
    }

    #[tokio::test]
    async fn it_runs_where_and_as_the_server_runs() {
        assert_eq!(sh(r#"test "$COLOUR" = blue && test "$PWD" = /"#).await, Ok(()));
    }

    #[tokio::test]
    async fn ten_megabytes_of_words_neither_block_nor_are_kept() {
        let error = sh("yes | head -c 10000000; echo; echo end; exit 1").await.unwrap_err().to_string();
        assert_eq!(error, "sh says no (exit status: 1): end");
    }

    #[tokio::test]
    async fn a_child_that_stays_on_the_pipe_is_ended_with_its_probe() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; exit 0", file.display());
        assert_eq!(timeout(Duration::from_secs(20), sh(&script)).await.unwrap(), Ok(()));
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err(), "{pid} lives");
    }
}
