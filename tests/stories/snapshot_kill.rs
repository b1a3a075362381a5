//! kill -9 of the real binary at every single request, before and after the store has done it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use snapshotd::take::DESCENT;
use support::{
    Snapshotd,
    objects::{Asked, Fault, Objects, What},
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");
/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that keeps its home in the bucket, and prunes early.
fn machine(objects: &Objects) -> Snapshotd {
    let machine = Snapshotd::new(BINARY);
    let config = machine.path().join("settings.toml");
    let text = format!(
        "partition = 'laptop'\nstore = 's3://{}/state'\nblob_from = '64KiB'\n[keep]\nlast = 2\ndaily = 0\nweekly = 0\n\
         [s3]\nendpoint = '{}'\nbackoff = '1ms'\n",
        objects.bucket(),
        objects.endpoint()
    );
    fs::write(&config, text).unwrap();
    let machine = machine.with_flags(&["--config", config.to_str().unwrap()]);
    machine
        .with_env("AWS_ACCESS_KEY_ID", objects.access_key())
        .with_env("AWS_SECRET_ACCESS_KEY", objects.secret_key())
}

fn write(machine: &Snapshotd, version: usize) {
    machine.write("serena_config.yml", format!("version: {version}\n"));
    machine.write(&format!("memories/of-{version}.md"), "kept from here on");
    machine.write("language.bin", format!("{version} ").repeat(20_000));
}

/// The files of a home, but ours.
fn files(home: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![home.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.file_name().unwrap() != DESCENT {
                found.insert(path.strip_prefix(home).unwrap().to_owned(), fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Runs a command and kills it at the request of this number, which the store has then done or not.
async fn kill_at(machine: &Snapshotd, objects: &Objects, args: &[&str], number: usize, done: bool) {
    let pid = Arc::new(AtomicI32::new(0));
    let victim = pid.clone();
    objects.forget();
    objects.plan((!done).then(|| Fault::at(number, What::CutBefore)));
    objects.on_request(move |asked| {
        if asked.number == number {
            let pid = loop {
                match victim.load(Ordering::Acquire) {
                    0 => std::thread::yield_now(),
                    pid => break pid,
                }
            };
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    });
    let mut command = machine.bare();
    command.args(args).args(machine.flags()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    pid.store(child.id().unwrap() as i32, Ordering::Release);
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(!ended.success(), "request {number} never came");
    objects.heal();
}

/// What a new machine gets.
async fn found(objects: &Objects) -> BTreeMap<PathBuf, Vec<u8>> {
    let new = machine(objects);
    new.succeed(&["restore"]).await;
    files(&new.home())
}

/// Three versions in the bucket, and a fourth in the home.
async fn with_history(objects: &Objects) -> Snapshotd {
    let mine = machine(objects);
    for version in 1..=3 {
        write(&mine, version);
        mine.succeed(&["snapshot"]).await;
    }
    mine
}

async fn requests_of(machine: &Snapshotd, objects: &Objects, args: &[&str]) -> Vec<Asked> {
    objects.forget();
    machine.succeed(args).await;
    objects.requests()
}

#[tokio::test]
async fn a_snapshot_that_is_killed_at_any_request_leaves_the_old_or_the_new_and_is_made_up_for() {
    let objects = Objects::start().await;
    let mine = with_history(&objects).await;
    write(&mine, 4);
    let count = requests_of(&mine, &objects, &["snapshot"]).await.len();
    for number in 1..=count {
        for done in [false, true] {
            let case = format!("killed at {number} of {count}, done: {done}");
            let old = files(&mine.home());
            write(&mine, 5 + 2 * number + usize::from(done));
            let new = files(&mine.home());
            kill_at(&mine, &objects, &["snapshot"], number, done).await;
            let after = found(&objects).await;
            assert!(after == old || after == new, "{case}: neither the old nor the new");
            mine.succeed(&["snapshot"]).await;
            assert!(found(&objects).await == new, "{case}: not made up for");
        }
    }
    // One more, and nothing is left of all of them.
    write(&mine, 1000);
    mine.succeed(&["snapshot"]).await;
    let kept = objects.snapshot().into_keys();
    let kept: Vec<_> = kept.filter(|key| key.contains("/manifests/") || key.contains("/forks/")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    mine.succeed(&["verify", "--read-data"]).await;
}

#[tokio::test]
async fn a_restore_that_is_killed_at_any_request_leaves_no_home_and_is_made_up_for() {
    let objects = Objects::start().await;
    let mine = with_history(&objects).await;
    let expected = files(&mine.home());
    let count = requests_of(&machine(&objects), &objects, &["restore"]).await.len();
    for number in 1..=count {
        let other = machine(&objects);
        kill_at(&other, &objects, &["restore"], number, true).await;
        assert!(!other.home().exists() || files(&other.home()).is_empty(), "half a home at {number}");
        other.succeed(&["restore"]).await;
        assert!(files(&other.home()) == expected, "killed at {number}");
        let left: Vec<_> = fs::read_dir(other.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("restore-"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "killed at {number}");
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_request_of_its_start_can_be_started_again() {
    let objects = Objects::start().await;
    let mut mine = with_history(&objects).await;
    objects.forget();
    mine.start(&["--interval", "off"]).await;
    let count = objects.requests().len();
    mine.kill9().await;
    for number in 1..=count {
        for done in [false, true] {
            kill_at(&mine, &objects, &["run", "--interval", "off"], number, done).await;
        }
    }
    write(&mine, 4);
    mine.start(&["--interval", "off"]).await;
    let (status, made) = mine.control("POST", "/snapshot").await;
    assert_eq!((status, &made["outcome"]), (200, &"published".into()), "{made}");
    assert!(mine.stop().await.success());
    assert!(found(&objects).await == files(&mine.home()));
}
