//! What runs beside a server, and the home that belongs to one supervisor alone.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::json;
use support::{Ground, Supervise};
use tokio::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

/// A hook that runs a line of shell.
fn hook(name: &str, script: &str, more: &str) -> String {
    format!("hooks.{name} = {{ command = ['sh', '-c', '''{script}''']{more} }}")
}

fn said(supervise: &Supervise) -> Vec<String> {
    let text = fs::read_to_string(supervise.path().join("hooks")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn hooks_run_before_each_start_and_after_each_stop_when_nothing_is_left() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let (path, home) = (ground.path().display(), ground.file("home"));
        let before = hook("before_start", &format!("echo before {{name}} {{home}} >> {path}/hooks"), "");
        // The lock is free only once the server is gone.
        let after = format!("flock -n {path}/one.lock echo after >> {path}/hooks");
        let settings = format!("home = '{home}'\n{before}\n{}", hook("after_stop", &after, ""));
        ground.instance("one", &settings, &["--ignore-term", "--ignore-int"])
    })
    .await;
    for round in 1..=2 {
        supervise.client("one").await.unwrap();
        supervise.ask("one", "sleep").await;
        supervise.until_state("one", "stopped").await;
        let before = format!("before one {}", supervise.file("home"));
        let expected: Vec<_> = (0..round).flat_map(|_| [before.clone(), "after".to_owned()]).collect();
        assert_eq!(said(&supervise), expected);
    }
    supervise.client("one").await.unwrap();
    supervise.stop_clean().await;
    assert_eq!(said(&supervise).last().unwrap(), "after", "also when the supervisor stops");
}

#[tokio::test]
async fn a_server_is_stopped_with_the_settings_it_was_started_with() {
    let with = |settings: &'static str, drain: &'static str| {
        move |ground: &Ground| {
            let path = ground.path().display();
            let hook = |name, word| hook(name, &format!("echo {word} {settings} >> {path}/hooks"), "");
            let hooks = [hook("before_start", "before"), hook("after_stop", "after")].join("\n");
            ground.instance("one", &format!("stop.drain = '{drain}'\n{hooks}"), &[])
        }
    };
    let mut supervise = Supervise::start(BINARY, with("first", "30s")).await;
    let client = supervise.client("one").await.unwrap();
    supervise.rewrite(with("second", "1ms"));
    let (status, answer) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{answer}");
    let call = tokio::spawn(async move { client.call_text("count", json!({ "sleep_ms": 500 })).await });
    supervise.journal("one").until(|journal| journal.requests("tools/call") == 1).await;
    supervise.ask("one", "sleep").await;
    assert_eq!(call.await.unwrap().unwrap(), "1", "it has the time that it was promised");
    supervise.until_state("one", "stopped").await;
    assert_eq!(said(&supervise), ["before first", "after first"]);
    supervise.client("one").await.unwrap();
    supervise.stop_clean().await;
    assert_eq!(said(&supervise)[2..], ["before second", "after second"]);
}

#[tokio::test]
async fn a_strict_hook_that_fails_keeps_the_server_from_starting_and_a_lax_one_does_not() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let fails = "echo no snapshot today; exit 9";
        let strict = hook("before_start", fails, ", strict = true");
        let lax = hook("before_start", fails, "");
        [
            ground.instance("strict", &format!("backoff.starts = 2\nbackoff.retry = '1h'\n{strict}"), &[]),
            ground.instance("lax", &lax, &[]),
        ]
        .concat()
    })
    .await;
    let refused = supervise.client("strict").await.unwrap_err();
    assert_eq!(refused.status, Some(503));
    let failed = supervise.until_state("strict", "failed").await;
    let cause = failed["cause"].as_str().unwrap();
    assert!(
        ["before_start", "exit code 9", "no snapshot today"].iter().all(|it| cause.contains(it)),
        "{cause}"
    );
    assert_eq!((&failed["starts"], supervise.journal("strict").count("start")), (&json!(0), 0));
    supervise.client("lax").await.unwrap();
    supervise.until_logged("no snapshot today").await;
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_hook_that_hangs_is_ended_with_all_it_started() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let path = ground.path().display();
        let script = format!("setsid sleep 1000 & echo begun >> {path}/hooks; sleep 1000");
        let hangs = hook("before_start", &script, ", strict = true, timeout = '400ms'");
        let after = hook("after_stop", "sleep 1000", ", timeout = '300ms'");
        [
            ground.instance("before", &format!("backoff.starts = 1\nbackoff.retry = '1h'\n{hangs}"), &[]),
            ground.instance("after", &after, &[]),
        ]
        .concat()
    })
    .await;
    supervise.ask("before", "wake").await;
    let failed = supervise.until_state("before", "failed").await;
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.contains("before_start") && cause.contains("400ms"), "{cause}");
    assert_eq!((said(&supervise), supervise.living()), (vec!["begun".to_owned()], vec![]));
    supervise.client("after").await.unwrap();
    supervise.ask("after", "sleep").await;
    let stopped = supervise.until_state("after", "stopped").await;
    assert!(stopped["cause"].to_string().contains("after_stop"), "{stopped}");
    assert_eq!(supervise.living(), Vec::<i32>::new());
    // And it wakes again.
    supervise.client("after").await.unwrap();
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_hook_before_the_start() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let script = format!("echo begun >> {}/hooks; sleep 1000", ground.path().display());
        ground.instance("one", &hook("before_start", &script, ", strict = true"), &[])
    })
    .await;
    supervise.ask("one", "wake").await;
    supervise.until("one", |_| !said(&supervise).is_empty()).await;
    let began = Instant::now();
    supervise.ask("one", "stop").await;
    supervise.until_state("one", "stopped").await;
    supervise.until_nothing_lives().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(supervise.journal("one").count("start"), 0);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn two_supervisors_on_one_home_are_refused_with_the_pid_of_the_first() {
    let mut first = Supervise::start(BINARY, |ground| {
        ground.instance("one", &format!("home = '{}'", ground.file("home")), &[])
    })
    .await;
    let second = Supervise::prepared(BINARY, &[]);
    let settings = Ground::instance(&second, "other", &format!("home = '{}'", first.file("home")), &[]);
    fs::write(second.settings_file(), settings).unwrap();
    let refused = second.command(&["run", "--config", second.settings_file().to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_ne!(refused.status.code(), Some(0));
    let last = said.lines().last().unwrap();
    assert!(last.contains(&first.pid().to_string()) && last.contains("home.supervise.lock"), "{said}");
    // The first one never noticed.
    first.client("one").await.unwrap();
    first.kill9().await;
    let mut second = Supervise::start(BINARY, |ground| {
        ground.instance("other", &format!("home = '{}'", first.file("home")), &[])
    })
    .await;
    assert_eq!(first.living(), Vec::<i32>::new(), "what the first one left on this home is gone");
    second.client("other").await.unwrap();
    second.stop_clean().await;
}

/// A file system of 64 KiB that is full; dropped, it is unmounted.
struct Full(PathBuf);

impl Full {
    /// `None` where nobody may mount.
    fn mount(path: PathBuf) -> Option<Full> {
        fs::create_dir_all(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&path).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let full = Full(path);
        // The last page too.
        fs::write(full.0.join("ballast"), vec![0; 1 << 20]).unwrap_err();
        Some(full)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_home_on_a_full_disk_is_no_reason_not_to_serve() {
    let directory = tempfile::tempdir().unwrap();
    let Some(full) = Full::mount(directory.path().join("full")) else {
        println!("skipped: a home on a full disk, because nothing can be mounted here");
        return;
    };
    let home = full.0.join("home");
    let mut supervise = Supervise::start(BINARY, |ground| {
        let on_full = format!("home = '{}'", home.display());
        [ground.instance("full", &on_full, &[]), ground.instance("fine", "", &[])].concat()
    })
    .await;
    supervise.client("fine").await.unwrap();
    let client = supervise.client("full").await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    drop(client);
    supervise.stop_clean().await;
}
