mod cgroups;
mod launching;
mod owners;
mod storms;

use std::ffi::OsString;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::ChildStdout;

use super::*;

async fn start(script: &str) -> (Tree, ChildStdin, Lines<BufReader<ChildStdout>>) {
    start_as(shell(script)).await
}

fn shell(script: &str) -> Launch {
    Launch::new(["sh", "-c", script].map(OsString::from).into())
}

async fn start_as(launch: Launch) -> (Tree, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let (tree, pipes) = Tree::spawn(launch).await.unwrap();
    (tree, pipes.stdin.unwrap(), BufReader::new(pipes.stdout).lines())
}

async fn pid(lines: &mut Lines<BufReader<ChildStdout>>) -> i32 {
    lines.next_line().await.unwrap().unwrap().parse().unwrap()
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn the_end_of_input_is_enough_for_a_polite_root() {
    let (mut tree, stdin, mut lines) = start("echo $$; cat; exit 3").await;
    assert_eq!(pid(&mut lines).await as u32, tree.pid());
    drop(stdin);
    let ended = tree.stop(Duration::from_secs(20)).await;
    assert_eq!((ended.status.unwrap().code(), ended.left), (Some(3), vec![]));
}

#[tokio::test]
async fn a_grandchild_in_its_own_session_that_ignores_sigterm_is_gone_after_stop() {
    let (mut tree, stdin, mut lines) =
        start("setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait").await;
    let grandchild = pid(&mut lines).await;
    assert!(is_alive(grandchild));
    drop(stdin);
    let ended = tree.stop(Duration::from_millis(50)).await;
    assert!(ended.left.is_empty() && !is_alive(grandchild), "{ended:?}");
}

#[tokio::test]
async fn an_orphan_that_forked_twice_is_found_after_its_root_died() {
    let (mut tree, _stdin, mut lines) =
        start("(setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' >&1 &) ; exit 0").await;
    let orphan = pid(&mut lines).await;
    assert!(tree.exited().await.unwrap().success());
    assert!(is_alive(orphan));
    let ended = tree.stop(Duration::from_millis(50)).await;
    assert!(ended.status.unwrap().success() && !is_alive(orphan), "{ended:?}");
}

#[tokio::test]
async fn an_orphan_without_tag_is_found_by_what_it_was_before() {
    let (mut tree, _stdin, mut lines) =
        start("env -i setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait").await;
    let (mut other, _stdin_too, _lines) = start("cat").await;
    let stripped = pid(&mut lines).await;
    let ended = tree.stop(Duration::from_millis(20)).await;
    assert!(ended.left.is_empty() && !is_alive(stripped), "{ended:?}");
    assert!(is_alive(other.pid() as i32), "a neighbour is not touched");
    other.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_dropped_tree_is_killed() {
    let (tree, _stdin, mut lines) = start("sh -c 'echo $$; exec sleep 1000' & wait").await;
    let child = pid(&mut lines).await;
    drop(tree);
    // The pipe ends when its last writer is dying, which is a moment before it is dead.
    assert_eq!(lines.next_line().await.unwrap(), None);
    while is_alive(child) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stopped_process_cannot_hide() {
    let (mut tree, _stdin, mut lines) = start("echo $$; kill -STOP $$").await;
    let root = pid(&mut lines).await;
    let ended = tree.stop(Duration::from_millis(20)).await;
    assert!(ended.left.is_empty() && ended.status.is_some() && !is_alive(root), "{ended:?}");
}

#[tokio::test]
async fn adopted_zombies_are_reaped_and_exit_statuses_are_not_stolen() {
    for round in 0..20 {
        let (mut one, _in1, mut lines) = start("(sh -c 'echo $$' &) ; read never").await;
        let (mut two, _in2, _lines2) = start(&format!("exit {round}")).await;
        let zombie = pid(&mut lines).await;
        one.stop(Duration::ZERO).await;
        assert!(!std::path::Path::new(&format!("/proc/{zombie}")).exists(), "round {round}");
        assert_eq!(two.exited().await.unwrap().code(), Some(round));
        two.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn what_a_dead_root_never_read_is_known_and_what_others_may_read_is_not() {
    for (script, expected) in
        [("read line; echo $$; exec sleep 1000", 6), ("read line; echo $$; sleep 1000", 0)]
    {
        let (mut tree, mut stdin, mut lines) = start(script).await;
        let input = Input::of(&stdin).unwrap();
        stdin.write_all(b"first\nsecond").await.unwrap();
        pid(&mut lines).await;
        assert_eq!(input.never_read(), 0, "it lives, it may read on");
        if expected == 0 {
            // The second reader exists once the shell has a child.
            let children = format!("/proc/{0}/task/{0}/children", tree.pid());
            while std::fs::read_to_string(&children).unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(tree.pid() as i32), Signal::SIGKILL).unwrap();
        tree.exited().await.unwrap();
        assert_eq!(input.never_read(), expected, "{script}");
        drop((input, stdin));
        tree.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_missing_command_says_so() {
    let error = Tree::spawn(Launch::new(vec!["/nonexistent/command".into()])).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
