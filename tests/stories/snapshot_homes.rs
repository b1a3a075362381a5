//! Which home it is: one that was lost, emptied or replaced while the files beside it survived is never published over the
//! snapshots of the one before; one that was only moved, rebooted or restored is still itself.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::fs;

use serde_json::json;
use support::{
    Snapshotd,
    objects::{Fault, Objects, What},
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");
/// What is lost with the home.
const MEMORIES: [&str; 3] = ["memories/one.md", "memories/two.md", "memories/three.md"];

/// A machine that keeps five snapshots in a bucket, and no more.
fn machine(objects: &Objects) -> Snapshotd {
    let machine = Snapshotd::new(BINARY);
    let config = machine.path().join("settings.toml");
    let text = format!(
        "partition = 'laptop'\nstore = 's3://{}/state'\n[keep]\nlast = 5\ndaily = 0\nweekly = 0\n\
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

/// What Serena writes into a home that it finds empty.
fn begin(machine: &Snapshotd) {
    for number in 0..7 {
        machine.write(&format!("contexts/{number}.yml"), format!("what every home has: {number}\n"));
    }
}

/// A home with a snapshot of months of work.
async fn with_work(objects: &Objects) -> Snapshotd {
    let mine = machine(objects);
    begin(&mine);
    for memory in MEMORIES {
        mine.write(memory, "months of work");
    }
    mine.succeed(&["snapshot"]).await;
    mine
}

/// The good snapshot is the newest still, and gives everything back.
async fn assert_nothing_is_lost(objects: &Objects) {
    let new = machine(objects);
    new.succeed(&["restore"]).await;
    for memory in MEMORIES {
        assert_eq!(new.read(memory).as_deref(), Some("months of work"), "{memory}");
    }
}

/// Snapshots as hooks take them, more than are kept: each keeps the home as a fork, and says what to do.
async fn assert_only_forked(mine: &Snapshotd) {
    for round in 0..6 {
        mine.succeed(&["restore"]).await;
        mine.write("memories/after.md", format!("written after the loss: {round}"));
        let (line, code) = mine.fail(&["snapshot"]).await;
        assert!(line.contains("not published") && line.contains("adopt --local") && code == 69, "{line}");
    }
}

#[tokio::test]
async fn a_home_that_is_lost_while_the_store_cannot_be_read_is_not_the_one_that_was_stored() {
    let objects = Objects::start().await;
    let mut mine = with_work(&objects).await;
    fs::remove_dir_all(mine.home()).unwrap();
    objects.plan([Fault::always(What::Error(503, "SlowDown"))]);
    mine.start(&["--interval", "20ms"]).await;
    begin(&mine);
    objects.heal();
    mine.until(|status| status["last"]["outcome"].is_string()).await;
    let status = mine.status().await;
    assert_eq!((&status["standing"], &status["last"]["outcome"]), (&json!("diverged"), &json!("forked")));
    mine.stop().await;
    assert_only_forked(&mine).await;
    assert_nothing_is_lost(&objects).await;
    // A person says which one wins, and then it goes on.
    mine.succeed(&["adopt", "--local"]).await;
    assert_eq!(mine.json(&["snapshot"]).await["outcome"], "published");
}

#[tokio::test]
async fn nor_is_one_that_was_made_anew_or_replaced_before_anybody_looked() {
    let objects = Objects::start().await;
    // By hooks, whose first restore could not read the store.
    let lost = with_work(&objects).await;
    fs::remove_dir_all(lost.home()).unwrap();
    objects.plan([Fault::always(What::Error(503, "SlowDown"))]);
    lost.fail(&["restore"]).await;
    objects.heal();
    begin(&lost);
    assert_only_forked(&lost).await;
    // Before any restore was tried; the directory itself may be the same, as where something is mounted.
    for keeps_directory in [false, true] {
        let objects = Objects::start().await;
        let anew = with_work(&objects).await;
        if keeps_directory {
            for entry in fs::read_dir(anew.home()).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
            }
        } else {
            fs::remove_dir_all(anew.home()).unwrap();
        }
        begin(&anew);
        assert_only_forked(&anew).await;
        assert_nothing_is_lost(&objects).await;
    }
    // By a directory that was somewhere else until now.
    let objects = Objects::start().await;
    let replaced = with_work(&objects).await;
    fs::rename(replaced.home(), replaced.path().join("elsewhere")).unwrap();
    begin(&replaced);
    assert_only_forked(&replaced).await;
    assert_nothing_is_lost(&objects).await;
    // The right one comes back, and is known.
    fs::remove_dir_all(replaced.home()).unwrap();
    fs::rename(replaced.path().join("elsewhere"), replaced.home()).unwrap();
    replaced.write("memories/four.md", "more work");
    assert_eq!(replaced.json(&["snapshot"]).await["outcome"], "published");
}

#[tokio::test]
async fn a_home_that_comes_back_from_an_old_disk_is_an_old_one_whatever_is_beside_it() {
    let objects = Objects::start().await;
    let mine = with_work(&objects).await;
    let old = mine.path().join("old");
    copy(&mine.home(), &old);
    mine.write("memories/four.md", "more work");
    mine.succeed(&["snapshot"]).await;
    fs::remove_dir_all(mine.home()).unwrap();
    fs::rename(old, mine.home()).unwrap();
    assert_only_forked(&mine).await;
    let new = machine(&objects);
    new.succeed(&["restore"]).await;
    assert_eq!(new.read("memories/four.md").as_deref(), Some("more work"));
}

#[tokio::test]
async fn a_home_that_is_lost_under_a_running_daemon_is_not_published_when_it_is_made_anew() {
    let objects = Objects::start().await;
    let mut mine = with_work(&objects).await;
    mine.start(&["--interval", "off"]).await;
    fs::remove_dir_all(mine.home()).unwrap();
    begin(&mine);
    let (status, made) = mine.control("POST", "/snapshot").await;
    assert_eq!((status, &made["outcome"], &made["standing"]), (200, &json!("forked"), &json!("diverged")));
    mine.stop().await;
    assert_nothing_is_lost(&objects).await;
}

#[tokio::test]
async fn a_home_that_is_moved_copied_or_restored_is_still_itself() {
    let objects = Objects::start().await;
    let mine = with_work(&objects).await;
    // Moved with what is beside it.
    let moved = machine(&objects);
    for name in ["home", "home.snapshotd.json", "home.snapshotd.lock"] {
        fs::rename(mine.path().join(name), moved.path().join(name)).unwrap();
    }
    moved.write("memories/four.md", "after the move");
    assert_eq!(moved.json(&["snapshot"]).await["outcome"], "published");
    // Copied: other numbers on another device, as after a new disk, or a reboot that counts devices anew.
    copy(&moved.home(), &mine.home());
    mine.write("memories/five.md", "after the copy");
    assert_eq!(mine.json(&["snapshot"]).await["outcome"], "published");
    // Put back by an exchange; the one that was replaced is older now.
    mine.succeed(&["restore", "1", "--replace"]).await;
    assert_eq!(mine.read("memories/five.md"), None);
    mine.write("memories/six.md", "after the restore");
    assert_eq!(mine.json(&["snapshot"]).await["outcome"], "published");
    fs::remove_dir_all(mine.home()).unwrap();
    fs::rename(mine.path().join("home.before-restore"), mine.home()).unwrap();
    mine.write("memories/seven.md", "in the one that was put aside");
    let (line, code) = mine.fail(&["snapshot"]).await;
    assert!(line.contains("not published") && code == 69, "{line}");
}

/// Copies a directory with all that is in it.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { fs::copy(&path, &to).map(drop).unwrap() }
    }
}
