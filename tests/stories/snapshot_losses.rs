//! The four ways in which a shell script around `aws s3 cp` was seen to lose data, each told to the real daemon.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{collections::BTreeMap, fs, io::Write as _};

use nix::sys::signal::Signal;
use serde_json::json;
use support::{
    Snapshotd,
    objects::{Asked, Fault, Objects, Operation, What},
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");

fn machine(objects: &Objects) -> Snapshotd {
    let machine = Snapshotd::new(BINARY);
    let config = machine.path().join("settings.toml");
    let text = format!(
        "partition = 'laptop'\nstore = 's3://{}/state'\n[keep]\nlast = 2\ndaily = 0\nweekly = 0\n\
         [s3]\nendpoint = '{}'\nattempts = 1\n",
        objects.bucket(),
        objects.endpoint()
    );
    fs::write(&config, text).unwrap();
    let machine = machine.with_flags(&["--config", config.to_str().unwrap()]);
    machine
        .with_env("AWS_ACCESS_KEY_ID", objects.access_key())
        .with_env("AWS_SECRET_ACCESS_KEY", objects.secret_key())
}

async fn with_history(objects: &Objects) -> Snapshotd {
    let mine = machine(objects);
    for version in 1..=3 {
        mine.write("serena_config.yml", format!("version: {version}\n"));
        mine.write(&format!("memories/of-{version}.md"), "months of work");
        mine.succeed(&["snapshot"]).await;
    }
    mine
}

/// The memories that a new machine gets.
async fn found(objects: &Objects) -> BTreeMap<String, String> {
    let new = machine(objects);
    new.succeed(&["restore"]).await;
    memories(&new)
}

fn memories(machine: &Snapshotd) -> BTreeMap<String, String> {
    let entries = fs::read_dir(machine.home().join("memories")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), machine.read(&format!("memories/{name}")).unwrap())).collect()
}

#[tokio::test]
async fn a_store_that_is_busy_at_the_start_is_not_an_empty_one() {
    let objects = Objects::start().await;
    let good = memories(&with_history(&objects).await);
    // Strict: it does not start.
    let strict = machine(&objects);
    objects.plan([Fault::always(What::Error(503, "SlowDown")).times(2)]);
    let (line, code) = strict.fail(&["restore", "--strict"]).await;
    assert_eq!(code, 75, "{line}");
    objects.plan([Fault::always(What::Error(503, "SlowDown")).times(2)]);
    let (line, code) = strict.fail(&["run", "--strict"]).await;
    assert_eq!(code, 75, "{line}");

    // Lax: it starts, the program writes a home of its own, and nothing good is ever replaced by that or deleted.
    let before = objects.snapshot();
    let mut lax = machine(&objects);
    objects.plan([Fault::always(What::Error(503, "SlowDown")).times(6)]);
    lax.start(&["--interval", "20ms"]).await;
    for version in 0..5 {
        lax.write("serena_config.yml", format!("a home that began empty: {version}\n"));
        let (status, said) = lax.control("POST", "/snapshot").await;
        assert!(status >= 400 || said["outcome"] != "published", "{said}");
    }
    lax.stop().await;
    let after = objects.snapshot();
    for (key, bytes) in &before {
        assert!(key.ends_with("/HEAD") || after.get(key) == Some(bytes), "{key} is gone");
    }
    assert!(found(&objects).await == good);
}

#[tokio::test]
async fn a_log_that_grows_all_the_time_fails_no_snapshot() {
    let objects = Objects::start().await;
    let mut mine = machine(&objects);
    mine.write("memories/a.md", "1");
    mine.write("growing.log", "begin\n");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let path = mine.home().join("growing.log");
    let growing = tokio::task::spawn_blocking(move || {
        let mut log = fs::OpenOptions::new().append(true).open(path).unwrap();
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            writeln!(log, "one more line").unwrap();
        }
    });
    mine.start(&["--interval", "off"]).await;
    for round in 0..5 {
        mine.write("memories/a.md", format!("{round}"));
        let (status, made) = mine.control("POST", "/snapshot").await;
        assert_eq!((status, &made["outcome"]), (200, &json!("published")), "{made}");
        assert_eq!(found(&objects).await["a.md"], format!("{round}"));
    }
    stop.send(()).unwrap();
    growing.await.unwrap();
    assert!(mine.stop().await.success());
}

#[tokio::test]
async fn a_stop_during_a_snapshot_takes_the_final_one_too_and_blocks_nobody() {
    let objects = Objects::start().await;
    let mut mine = with_history(&objects).await;
    mine.start(&["--interval", "off"]).await;
    mine.write("memories/during.md", "written before the snapshot");
    objects.forget();
    let is_pack = |asked: &Asked| asked.operation == Operation::Put && asked.key.contains("/packs/");
    objects.plan([Fault::when(is_pack, What::Late).times(1)]);
    mine.signal(Signal::SIGUSR1);
    objects.until(|all| all.iter().any(|asked| is_pack(asked) && asked.size > 0)).await;
    mine.write("memories/last.md", "written while it runs");
    mine.signal(Signal::SIGTERM);
    mine.until_logged("stopping").await;
    objects.release();
    assert!(mine.end().await.success());
    let kept = found(&objects).await;
    assert_eq!(kept, memories(&mine));
    assert!(kept.contains_key("last.md"));
    // No lock is in anybody's way.
    mine.write("memories/next.md", "1");
    mine.start(&["--interval", "off"]).await;
    assert!(mine.stop().await.success());
    assert_eq!(found(&objects).await, memories(&mine));
}
