//! The life cycle as a daemon sees it: tasks, grace, signals, and what whoever started us is told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mcp_daemon::life::Life;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn finish_waits_for_tasks_that_end_within_the_grace() {
    let life = Life::new(GRACE);
    let done = Arc::new(AtomicBool::new(false));
    let (told, ended) = (life.clone(), Arc::clone(&done));
    life.spawn(async move {
        told.draining().await;
        tokio::time::sleep(GRACE / 2).await;
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!((life.running(), life.is_draining()), (1, false));
    life.drain();
    assert_eq!(life.finish().await, 0);
    assert!(done.load(Ordering::Relaxed) && life.running() == 0);
}

#[tokio::test(start_paused = true)]
async fn finish_aborts_what_outlasts_the_grace_and_counts_it() {
    let life = Life::new(GRACE);
    let stuck = life.spawn(std::future::pending::<()>());
    let (other, began) = (life.clone(), tokio::time::Instant::now());
    life.spawn(async move { other.draining().await });
    life.drain();
    assert_eq!(life.finish().await, 1);
    assert!(began.elapsed() >= GRACE && began.elapsed() < GRACE + Duration::from_secs(1));
    assert!(stuck.await.unwrap_err().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn many_lives_can_end_by_one_deadline_and_what_outlasts_it_is_aborted_in_each() {
    let lives: Vec<Life> = (0..3).map(|_| Life::new(GRACE)).collect();
    let stuck: Vec<_> = lives.iter().map(|life| life.spawn(std::future::pending::<()>())).collect();
    let began = tokio::time::Instant::now();
    let deadline = began + GRACE / 2;
    for life in &lives {
        assert_eq!(life.finish_by(deadline).await, 1);
    }
    assert!(began.elapsed() >= GRACE / 2 && began.elapsed() < GRACE, "{:?}", began.elapsed());
    for task in stuck {
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_does_not_hold_up_the_end() {
    let life = Life::new(GRACE);
    let task = life.spawn(async { panic!("expected by this test") });
    life.drain();
    assert_eq!(life.finish().await, 0);
    assert!(task.await.unwrap_err().is_panic());
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_the_last_life_outlives_all_other_tasks() {
    let life = Life::new(GRACE);
    let last = life.last();
    let (seen, order) = std::sync::mpsc::channel();
    for (which, name) in [(&last, "last"), (&life, "first")] {
        let (told, seen) = (which.clone(), seen.clone());
        which.spawn(async move {
            told.draining().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            seen.send(name).unwrap();
        });
    }
    life.drain();
    life.finish().await;
    assert_eq!(order.try_iter().collect::<Vec<_>>(), ["first", "last"]);
}

#[tokio::test]
async fn everybody_who_waits_hears_of_the_drain_before_and_after_it() {
    let life = Life::new(GRACE);
    let mut owned = life.draining_owned();
    let waiting: Vec<_> = (0..1_000).map(|_| life.spawn(life.draining_owned())).collect();
    assert!(futures_poll_once(&mut owned).await.is_none());
    life.drain();
    life.drain();
    owned.await;
    for task in waiting {
        task.await.unwrap();
    }
    life.draining().await;
    life.draining_owned().await;
}

#[tokio::test]
async fn a_reload_that_is_asked_for_before_anybody_waits_is_not_lost() {
    let life = Life::new(GRACE);
    life.request_reload();
    life.request_reload();
    life.reload_requested().await;
    assert!(futures_poll_once(&mut Box::pin(life.reload_requested())).await.is_none());
}

async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Set in a child process to the part it plays.
const ROLE: &str = "MCP_DAEMON_TEST_ROLE";

/// Runs the named test of this binary again, as a child process that plays a part.
fn child(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).stdout(Stdio::piped());
    command
}

/// Reads the child's output up to a line that contains the words.
fn wait_for(output: &mut impl BufRead, words: &str) {
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended before it said `{words}`");
    }
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_second_signal_exits_even_when_the_runtime_is_stuck() {
    if std::env::var_os(ROLE).is_some() {
        return runtime().block_on(async {
            let life = Life::with_signals(GRACE).unwrap();
            println!("listening for signals");
            life.draining().await;
            println!("draining");
            loop {
                std::thread::park();
            }
        });
    }
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut child =
            child("a_second_signal_exits_even_when_the_runtime_is_stuck", "stuck").spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut output, "listening for signals");
        send(&child, Signal::SIGTERM);
        wait_for(&mut output, "draining");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn one_signal_drains_and_hangup_reloads() {
    if std::env::var_os(ROLE).is_some() {
        return runtime().block_on(async {
            let life = Life::with_signals(GRACE).unwrap();
            println!("listening for signals");
            life.reload_requested().await;
            println!("reloading, draining: {}", life.is_draining());
            life.draining().await;
            assert_eq!(life.finish().await, 0);
        });
    }
    let mut child = child("one_signal_drains_and_hangup_reloads", "calm").spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut output, "listening for signals");
    send(&child, Signal::SIGHUP);
    wait_for(&mut output, "reloading, draining: false");
    send(&child, Signal::SIGINT);
    wait_for(&mut output, "1 passed");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_service_manager_hears_ready_watchdog_and_stopping_and_the_descriptor_gets_one_line() {
    if std::env::var_os(ROLE).is_some() {
        return runtime().block_on(async {
            let life = Life::with_signals(GRACE).unwrap();
            life.ready("serving 1 listener", Some(3));
            life.draining().await;
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(GRACE)).unwrap();
    let ready_file = directory.path().join("ready");
    let test = "the_service_manager_hears_ready_watchdog_and_stopping_and_the_descriptor_gets_one_line";
    // The shell opens descriptor 3, which std cannot, and then becomes the child.
    let inner = child(test, "notifier");
    let mut child = Command::new("sh")
        .args(["-c", "exec 3>\"$READY\"; unset READY; exec \"$@\"", "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(ROLE, "notifier")
        .env("READY", &ready_file)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "20000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut buffer = [0; 256];
    let mut next = || {
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(next(), "READY=1\nSTATUS=serving 1 listener\n");
    assert_eq!(next(), "WATCHDOG=1\n");
    assert_eq!(next(), "WATCHDOG=1\n");
    assert_eq!(std::fs::read(&ready_file).unwrap(), b"\n");
    send(&child, Signal::SIGTERM);
    while next() != "STOPPING=1\n" {}
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
