//! Trees that do all they can not to end.

use super::*;

/// As many times `line`, each from the loop of one shell.
fn times(count: u32, line: &str) -> String {
    format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); {line}; done")
}

async fn pids(lines: &mut Lines<BufReader<ChildStdout>>, count: usize) -> Vec<i32> {
    let mut pids = Vec::new();
    while pids.len() < count {
        pids.push(pid(lines).await);
    }
    pids
}

#[tokio::test]
async fn a_hundred_orphans_with_own_sessions_that_ignore_sigterm_are_gone_two_seconds_later() {
    let orphan = r#"(setsid sh -c 'trap "" TERM; echo $$; exec sleep 1000' &)"#;
    let (mut tree, stdin, mut lines) = start(&format!("{}; read wait", times(100, orphan))).await;
    let (mut neighbour, _in, _lines) = start("cat").await;
    let orphans = pids(&mut lines, 100).await;
    drop(stdin);
    assert!(tree.exited().await.unwrap().code().is_some());
    assert_eq!(tree.members().len(), 100, "all are known though their root is gone");
    let began = Instant::now();
    assert_eq!(tree.end(Signal::SIGTERM, Duration::from_millis(100)).await.len(), 100);
    assert!(tree.end(Signal::SIGKILL, Duration::from_secs(10)).await.is_empty());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!orphans.into_iter().any(is_alive) && is_alive(neighbour.pid() as i32));
    neighbour.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_storm_of_two_hundred_that_fork_on_is_over_after_stop() {
    let forker = r#"(setsid sh -c 'trap "" TERM; echo $$; while :; do sh -c "exec sleep 0.5"; done' &)"#;
    let (mut tree, stdin, mut lines) = start(&format!("{}; exit 5", times(200, forker))).await;
    let forkers = pids(&mut lines, 200).await;
    drop(stdin);
    let ended = tree.stop(Duration::from_millis(50)).await;
    assert_eq!((ended.status.unwrap().code(), ended.left), (Some(5), vec![]));
    assert!(!forkers.into_iter().any(is_alive));
    assert_eq!(tree.members(), [0; 0]);
}

#[tokio::test]
async fn a_shell_around_the_server_does_not_save_it() {
    let (mut tree, _stdin, mut lines) =
        start("sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done'; echo over").await;
    let server = pid(&mut lines).await;
    assert_ne!(server as u32, tree.pid());
    tree.signal_root(Signal::SIGTERM);
    tree.exited().await.unwrap();
    assert!(is_alive(server), "the signal was for the root alone");
    // Without effect: there is no root any more.
    tree.signal_root(Signal::SIGKILL);
    let ended = tree.stop(Duration::from_millis(50)).await;
    assert!(ended.left.is_empty() && !is_alive(server), "{ended:?}");
}

#[tokio::test]
async fn stopped_members_in_sessions_of_their_own_are_gone_too() {
    let (mut tree, _stdin, mut lines) =
        start("setsid sh -c 'echo $$; kill -STOP $$' & setsid sh -c 'echo $$; kill -STOP $$; true' & wait")
            .await;
    let stopped = pids(&mut lines, 2).await;
    let ended = tree.stop(Duration::from_millis(20)).await;
    assert!(ended.left.is_empty() && !stopped.into_iter().any(is_alive), "{ended:?}");
}

#[tokio::test]
async fn orphans_that_have_ended_do_not_stay_as_zombies() {
    let (mut tree, stdin, mut lines) = start("(setsid sh -c 'echo $$' &) ; read wait; exit 0").await;
    let orphan = pid(&mut lines).await;
    let stat = format!("/proc/{orphan}");
    while std::path::Path::new(&stat).exists() {
        reap_orphans();
        tokio::task::yield_now().await;
    }
    assert_eq!(tree.members(), [tree.pid() as i32]);
    drop(stdin);
    assert!(
        tree.stop(Duration::from_secs(20)).await.status.unwrap().success(),
        "the root's status is not stolen"
    );
}
