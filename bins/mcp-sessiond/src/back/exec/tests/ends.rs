//! How processes end, and what becomes of the requests that they had.

use super::*;

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_crash_breaks_what_was_written_and_the_session_is_gone() {
    let world = World::new(options(SERVER));
    let session = world.initialize().await;
    let mut stream = world.send("GET", Some(&session), "").await.unwrap().into_body();
    let (hang, crash) = (request(1, "hang"), request(2, "crash"));
    let (hung, crashed) =
        tokio::join!(world.send("POST", Some(&session), &hang), world.send("POST", Some(&session), &crash));
    assert!(matches!(hung, Err(SendError::Broken(_))) && matches!(crashed, Err(SendError::Broken(_))));
    assert!(stream.frame().await.unwrap().is_err());
    assert_eq!(world.post(&session, &request(3, "pid")).await.0, 404);
    let again = world.initialize().await;
    assert_eq!(world.post(&again, &request(3, "pid")).await.0, 200);
}

#[tokio::test]
async fn what_a_killed_server_never_read_was_not_sent() {
    // It answers `initialize` and reads no further; as a shell with a child, that child might.
    for (ending, is_proven) in [("exec sleep 1000", true), ("sleep 1000", false)] {
        let world = World::new(options(
            &SERVER.replace("*'\"crash\"'*) exit 7", &format!("*'\"crash\"'*) {ending}")),
        ));
        let session = world.initialize().await;
        let root = world.processes()[0];
        let stat = format!("/proc/{root}/stat");
        let children = format!("/proc/{root}/task/{root}/children");
        world.post(&session, r#"{"method":"crash"}"#).await;
        let has_settled = || match is_proven {
            true => std::fs::read_to_string(&stat).unwrap().contains("(sleep)"),
            false => !std::fs::read_to_string(&children).unwrap().is_empty(),
        };
        while !has_settled() {
            tokio::task::yield_now().await;
        }
        let call = request(1, "pid");
        let kill = async {
            // Not before it is in the pipe.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(root), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        };
        let (answer, ()) = tokio::join!(world.send("POST", Some(&session), &call), kill);
        match answer {
            Err(SendError::NotSent(_)) => assert!(is_proven, "{ending}"),
            Err(SendError::Broken(_)) => assert!(!is_proven, "{ending}"),
            Ok(_) => panic!("nobody answers"),
        }
        world.back.shut_down().await;
    }
}

#[tokio::test]
async fn delete_takes_the_whole_tree() {
    let world =
        World::new(options(&format!("setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & {SERVER}")));
    let session = world.initialize().await;
    let root = world.processes()[0];
    let children = std::fs::read_to_string(format!("/proc/{root}/task/{root}/children")).unwrap();
    let grandchild: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(world.send("DELETE", Some(&session), "").await.unwrap().status(), 200);
    assert_eq!(world.post(&session, &request(1, "pid")).await.0, 404);
    world.back.shut_down().await;
    assert!(!is_alive(root) && !is_alive(grandchild));
}

#[tokio::test]
async fn at_shut_down_the_wait_of_a_deleted_session_is_cut_short() {
    let script = SERVER.replace("while IFS=", "trap '' TERM; while IFS=") + "while :; do sleep 1; done";
    let grace = Duration::from_secs(3600);
    let world = World::new(ExecOptions { stop_grace: grace, ..options(&script) });
    let session = world.initialize().await;
    let root = world.processes()[0];
    world.send("DELETE", Some(&session), "").await.unwrap();
    timeout(Duration::from_secs(60), world.back.shut_down()).await.expect("long before the grace");
    assert!(!is_alive(root));
}

#[tokio::test]
async fn an_idle_process_ends_by_itself() {
    let world = World::new(ExecOptions { idle_timeout: Duration::from_millis(100), ..options(SERVER) });
    let session = world.initialize().await;
    let mut stream = world.send("GET", Some(&session), "").await.unwrap().into_body();
    assert_eq!(event(&mut stream).await, None);
    assert_eq!(world.post(&session, &request(1, "pid")).await.0, 404);
}

#[tokio::test]
async fn a_client_that_leaves_during_initialize_leaves_no_process() {
    let world = World::new(options("echo ready >&2; cat >/dev/null"));
    tokio::select! {
        biased;
        _ = world.send("POST", None, INITIALIZE) => panic!("it never answers"),
        () = async { while world.processes().is_empty() { tokio::task::yield_now().await } } => {}
    }
    while !world.processes().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn at_drain_processes_end_once_their_calls_are_answered() {
    let world = World::new(options(SERVER));
    let session = world.initialize().await;
    let asking = request(1, "ask");
    let drained = async {
        let mut stream = world.send("GET", Some(&session), "").await.unwrap().into_body();
        assert!(event(&mut stream).await.unwrap().contains("roots/list"));
        world.life.drain();
        let refused = world.send("POST", None, INITIALIZE).await.unwrap();
        assert_eq!(refused.status(), 503);
        world.post(&session, r#"{"jsonrpc":"2.0","id":"q","result":{}}"#).await
    };
    let ((_, thanks), _) = tokio::join!(world.post(&session, &asking), drained);
    assert!(thanks.contains("thanks"), "{thanks}");
    assert_eq!(world.life.finish().await, 0);
    assert!(world.processes().is_empty());
}
