//! The daemon: an empty home is restored before it says ready, snapshots come by themselves, when asked, and at the stop.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{fs, os::unix::net::UnixDatagram, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Snapshotd,
    objects::{Asked, Fault, Objects, What},
};
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");

fn used() -> Snapshotd {
    let snapshotd = Snapshotd::new(BINARY);
    snapshotd.write("serena_config.yml", "projects: [/srv/a]\n");
    snapshotd
}

async fn newest(snapshotd: &Snapshotd) -> Value {
    let (status, list) = snapshotd.control("GET", "/snapshots").await;
    assert_eq!(status, 200, "{list}");
    list[0].clone()
}

#[tokio::test]
async fn an_empty_home_is_restored_before_it_says_ready() {
    let mut snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.lose_home();
    snapshotd.start(&["--interval", "off"]).await;
    assert_eq!(snapshotd.read("serena_config.yml").as_deref(), Some("projects: [/srv/a]\n"));
    let status = snapshotd.status().await;
    assert_eq!(
        (&status["standing"], &status["partition"]),
        (&json!("current"), &json!("laptop")),
        "{status}"
    );
    assert_eq!(snapshotd.control("GET", "/ready").await, (200, json!({ "ready": true })));
    // A hook that restores before Serena starts finds nothing to do.
    assert!(snapshotd.succeed(&["restore"]).await.contains("is not empty"));
    let said = snapshotd.succeed(&["status"]).await;
    assert!(said.contains("well: the home descends from the newest snapshot"), "{said}");
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn nobody_hears_that_it_is_ready_while_an_empty_home_is_being_restored() {
    let objects = Objects::start().await;
    let older = bucket(&objects);
    older.write("serena_config.yml", "1");
    older.succeed(&["snapshot"]).await;
    objects.forget();
    let is_pack = |asked: &Asked| asked.method == "GET" && asked.key.contains("/packs/");
    objects.plan([Fault::when(is_pack, What::Late).times(1)]);
    let mut newer = bucket(&objects);
    let restoring = newer.launch(&["--interval", "off"]).await;
    objects.until(|all| all.iter().any(is_pack)).await;
    let early = newer.control("GET", "/ready").await;
    assert_eq!(early, (503, json!({ "ready": false, "reasons": ["starting"] })));
    objects.release();
    newer.ready(restoring).await;
    assert_eq!(newer.control("GET", "/ready").await, (200, json!({ "ready": true })));
    assert_eq!(newer.read("serena_config.yml").as_deref(), Some("1"));
    assert!(newer.stop().await.success());
}

#[tokio::test]
async fn snapshots_come_by_themselves() {
    let mut snapshotd = used();
    snapshotd.start(&["--interval", "50ms"]).await;
    // What was never stored is stored at once.
    let first = snapshotd.until(|status| status["last"]["outcome"].is_string()).await;
    assert_eq!(first["standing"], "current");
    snapshotd.write("memories/a.md", "1");
    let second = snapshotd.until(|status| status["last"]["files"] == 2).await;
    assert_eq!(second["last"]["outcome"], "published");
    snapshotd.until(|status| status["last"]["outcome"] == "unchanged").await;
    assert!(snapshotd.stop().await.success());
    assert_eq!(snapshotd.json(&["list"]).await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_signal_and_a_request_take_a_snapshot_and_the_stop_takes_the_last() {
    let mut snapshotd = used();
    snapshotd.start(&["--interval", "off"]).await;
    let (status, made) = snapshotd.control("POST", "/snapshot").await;
    assert_eq!((status, &made["outcome"]), (200, &json!("published")), "{made}");
    for key in ["id", "files", "bytes", "sent", "took_ms"] {
        assert!(!made[key].is_null(), "{made}");
    }
    snapshotd.write("memories/signal.md", "1");
    snapshotd.signal(Signal::SIGUSR1);
    snapshotd.until(|status| status["last"]["files"] == 2).await;
    snapshotd.write("memories/last.md", "1");
    assert!(snapshotd.stop().await.success());
    let list = snapshotd.json(&["list"]).await;
    assert_eq!((list.as_array().unwrap().len(), &list[0]["files"]), (3, &json!(3)), "{list}");
}

#[tokio::test]
async fn requests_that_come_together_are_one_snapshot() {
    let mut snapshotd = used();
    for index in 0..200 {
        snapshotd.write(&format!("memories/{index}.md"), format!("{index}"));
    }
    snapshotd.start(&["--interval", "off"]).await;
    let ask = || snapshotd.control("POST", "/snapshot");
    let (a, b, c, d, e) = tokio::join!(ask(), ask(), ask(), ask(), ask());
    let all = [a, b, c, d, e];
    assert!(all.iter().all(|(status, made)| *status == 200 && made["id"] == all[0].1["id"]), "{all:?}");
    assert_eq!(newest(&snapshotd).await["seq"], 1);
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn commands_ask_the_daemon_that_serves_this_home_and_no_other() {
    let mut snapshotd = used();
    snapshotd.start(&["--interval", "off"]).await;
    // Without any setting: the daemon knows.
    let output = snapshotd.bare().arg("snapshot").output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = snapshotd.bare().args(["list", "--json"]).output().await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()[0]["seq"], 1);
    let output = snapshotd.bare().args(["cat", "1", "serena_config.yml"]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "projects: [/srv/a]\n", "{output:?}");
    for args in [&["pin", "1"][..], &["unpin", "1"], &["prune"]] {
        snapshotd.succeed(args).await;
    }
    snapshotd.write("serena_config.yml", "changed");
    snapshotd.succeed(&["restore", "1", "--replace"]).await;
    assert_eq!(snapshotd.read("serena_config.yml").as_deref(), Some("projects: [/srv/a]\n"));
    let output = snapshotd.bare().args(["list", "--partition", "other"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is not asked: its partition is laptop, not other"), "{said}");
    assert_eq!(output.status.code(), Some(69));
    let (status, answer) = snapshotd.control("POST", "/pin?which=99").await;
    assert_eq!((status, &answer["exit"]), (409, &json!(69)), "{answer}");
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn what_is_mistyped_in_a_request_is_named_and_nothing_is_done() {
    let mut snapshotd = used();
    snapshotd.start(&["--interval", "off"]).await;
    assert_eq!(snapshotd.control("POST", "/snapshot").await.0, 200);
    snapshotd.write("serena_config.yml", "precious");
    for (path, named) in [
        ("/restore?wich=1&replace=true", "`wich` means nothing"),
        ("/restore?replace=yes", "replace: `yes`"),
        ("/restore?which=x&replace=true", "which: `x`"),
        ("/prune?dryrun=true", "`dryrun` means nothing"),
        ("/adopt?side=remoet", "side: `remoet`"),
        ("/snapshot?nwo", "`nwo` means nothing"),
    ] {
        let (status, answer) = snapshotd.control("POST", path).await;
        assert_eq!((status, &answer["exit"]), (400, &json!(64)), "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(named), "{path}: {answer}");
    }
    assert_eq!(snapshotd.read("serena_config.yml").as_deref(), Some("precious"));
    assert!(snapshotd.stop().await.success());
}

fn epoch(snapshotd: &Snapshotd) -> Value {
    let head = fs::read(snapshotd.partition().join("HEAD")).unwrap();
    serde_json::from_slice::<Value>(&head).unwrap()["epoch"].clone()
}

#[tokio::test]
async fn a_stranger_that_gets_the_newest_snapshot_becomes_the_writer_and_a_fenced_one_does_not() {
    let other = used();
    other.succeed(&["snapshot"]).await;
    let store = format!("file://{}", other.store().display());
    let mut stranger = Snapshotd::new(BINARY).with_flags(&["--partition", "laptop", "--store", &store]);
    stranger.write("memories/own.md", "its own");
    stranger.start(&["--interval", "off"]).await;
    assert_eq!((&stranger.status().await["standing"], epoch(&other)), (&json!("diverged"), json!(1)));
    let (status, restored) = stranger.control("POST", "/restore?replace=true").await;
    assert_eq!((status, &restored["outcome"]), (200, &json!("restored")), "{restored}");
    // It has claimed, as it would have at its start.
    assert_eq!((&stranger.status().await["standing"], epoch(&other)), (&json!("current"), json!(2)));
    let mut newer = Snapshotd::new(BINARY).with_flags(&["--partition", "laptop", "--store", &store]);
    newer.start(&["--interval", "off"]).await;
    stranger.write("memories/late.md", "late");
    assert_eq!(stranger.control("POST", "/snapshot").await.1["outcome"], "forked");
    assert_eq!(stranger.control("POST", "/restore?replace=true").await.0, 200);
    // Somebody else is the writer, whatever is in this home.
    assert_eq!((&stranger.status().await["standing"], epoch(&other)), (&json!("fenced"), json!(3)));
    assert_eq!(stranger.control("GET", "/ready").await.0, 503);
    newer.write("memories/new.md", "1");
    assert_eq!(newer.control("POST", "/snapshot").await.1["outcome"], "published");
    stranger.stop().await;
    assert!(newer.stop().await.success());
}

#[tokio::test]
async fn a_reload_changes_what_can_be_changed_and_names_the_rest() {
    let mut snapshotd = used();
    let settings = snapshotd.path().join("settings.toml");
    let store = snapshotd.store();
    let write = |more: &str| {
        let text =
            format!("partition = 'laptop'\nstore = 'file://{}'\ninterval = 'off'\n{more}", store.display());
        fs::write(&settings, text.replace("interval = 'off'\ninterval", "interval")).unwrap();
    };
    write("");
    snapshotd = snapshotd.with_flags(&["--config", settings.to_str().unwrap()]);
    snapshotd.start(&[]).await;
    assert_eq!(snapshotd.status().await["next_in_seconds"], Value::Null);
    write("interval = '1h'\nverify = 'read'\n");
    let (status, answer) = snapshotd.control("POST", "/reload").await;
    assert_eq!((status, answer), (200, json!({ "reloaded": "interval 1h; needs a restart: verify" })));
    snapshotd.until(|status| status["next_in_seconds"].is_u64()).await;
    write("intervall = 1\n");
    let (status, answer) = snapshotd.control("POST", "/reload").await;
    assert!(
        status == 422 && answer["error"].as_str().unwrap().contains("settings.toml:3: intervall"),
        "{answer}"
    );
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn a_second_daemon_of_one_home_is_refused() {
    let mut snapshotd = used();
    snapshotd.start(&["--interval", "off"]).await;
    let (line, code) = snapshotd.fail(&["run"]).await;
    assert!(line.contains("in use by process") && code == 75, "{line} {code}");
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn the_older_of_two_daemons_learns_that_it_was_replaced() {
    let mut older = used();
    older.start(&["--interval", "off"]).await;
    assert_eq!(older.control("POST", "/snapshot").await.0, 200);
    let store = format!("file://{}", older.store().display());
    let mut newer = Snapshotd::new(BINARY).with_flags(&["--partition", "laptop", "--store", &store]);
    newer.start(&["--interval", "off"]).await;
    assert_eq!(newer.read("serena_config.yml").as_deref(), Some("projects: [/srv/a]\n"));
    older.write("memories/late.md", "kept all the same");
    let (status, made) = older.control("POST", "/snapshot").await;
    assert_eq!(
        (status, &made["outcome"], &made["standing"]),
        (200, &json!("forked"), &json!("fenced")),
        "{made}"
    );
    older.until_logged("another daemon has taken over").await;
    let (status, ready) = older.control("GET", "/ready").await;
    assert!(status == 503 && ready["reasons"][0].as_str().unwrap().starts_with("fenced"), "{ready}");
    assert!(older.control("GET", "/metrics").await.1.as_str().unwrap().contains("serena_snapshotd_fenced 1"));
    newer.write("memories/new.md", "1");
    assert_eq!(newer.control("POST", "/snapshot").await.1["outcome"], "published");
    older.stop().await;
    assert!(newer.stop().await.success());
    let list = newer.json(&["list"]).await;
    let fork = list.as_array().unwrap().iter().find(|row| row["place"] == "fork").unwrap();
    let text = newer.succeed(&["cat", fork["id"].as_str().unwrap(), "memories/late.md"]).await;
    assert_eq!(text, "kept all the same");
}

/// One whose store is a bucket, and who gives up soon.
fn bucket(objects: &Objects) -> Snapshotd {
    let snapshotd = Snapshotd::new(BINARY)
        .with_env("AWS_ACCESS_KEY_ID", objects.access_key())
        .with_env("AWS_SECRET_ACCESS_KEY", objects.secret_key());
    let settings = format!(
        "partition = 'laptop'\nstore = 's3://{}/homes'\nshutdown_deadline = '2s'\n[s3]\nendpoint = '{}'\nattempts = 2\nbackoff = '5ms'\n",
        objects.bucket(),
        objects.endpoint(),
    );
    let file = snapshotd.path().join("settings.toml");
    fs::write(&file, settings).unwrap();
    snapshotd.with_flags(&["--config", file.to_str().unwrap()])
}

#[tokio::test]
async fn while_nobody_can_tell_strict_does_not_start_and_lax_publishes_nothing() {
    let objects = Objects::start().await;
    let mut snapshotd = bucket(&objects);
    snapshotd.write("serena_config.yml", "precious\n");
    snapshotd.succeed(&["snapshot"]).await;
    let before = objects.snapshot();
    snapshotd.lose_home();
    objects.plan([Fault::always(What::Error(503, "SlowDown"))]);
    let pipe = snapshotd.launch(&["--strict"]).await;
    assert_eq!(snapshotd.end().await.code(), Some(75));
    drop(pipe);
    snapshotd.start(&["--interval", "200ms"]).await;
    let status = snapshotd.status().await;
    assert_eq!(status["standing"], "unknown", "{status}");
    assert_eq!(objects.snapshot(), before);
    // The store comes back: the home is still empty, and is restored.
    objects.heal();
    snapshotd.until(|status| status["standing"] == "current").await;
    assert_eq!(snapshotd.read("serena_config.yml").as_deref(), Some("precious\n"));
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn the_last_snapshot_finds_out_first_what_nobody_could_tell() {
    let objects = Objects::start().await;
    let mut snapshotd = bucket(&objects);
    snapshotd.write("serena_config.yml", "precious\n");
    snapshotd.succeed(&["snapshot"]).await;
    // The home is lost, but not what is beside it.
    fs::remove_dir_all(snapshotd.home()).unwrap();
    objects.plan([Fault::always(What::Error(503, "SlowDown"))]);
    snapshotd.start(&["--interval", "off"]).await;
    assert_eq!(snapshotd.status().await["standing"], "unknown");
    objects.heal();
    assert!(snapshotd.stop().await.success());
    let list = snapshotd.json(&["list"]).await;
    assert_eq!(list.as_array().unwrap().len(), 1, "an empty home was published: {list}");
    assert_eq!(snapshotd.read("serena_config.yml").as_deref(), Some("precious\n"));
    // Where it still cannot be told, there is no last snapshot, and that is said.
    fs::remove_dir_all(snapshotd.home()).unwrap();
    objects.plan([Fault::always(What::Error(503, "SlowDown"))]);
    snapshotd.start(&["--interval", "off"]).await;
    snapshotd.write("serena_config.yml", "half a home\n");
    assert_eq!(snapshotd.stop().await.code(), Some(75));
}

#[tokio::test]
async fn what_the_writer_before_publishes_while_we_restore_is_restored_too() {
    let objects = Objects::start().await;
    let older = bucket(&objects);
    older.write("serena_config.yml", "first");
    older.succeed(&["snapshot"]).await;
    let before = objects.snapshot();
    older.write("serena_config.yml", "its last words");
    older.succeed(&["snapshot"]).await;
    let after = objects.snapshot();
    objects.reset_to(&before);
    objects.forget();
    let is_pack = |asked: &Asked| asked.method == "GET" && asked.key.contains("/packs/");
    objects.plan([Fault::when(is_pack, What::Late).times(1)]);
    let mut newer = bucket(&objects);
    let publishing = async {
        objects.until(|all| all.iter().any(is_pack)).await;
        objects.reset_to(&after);
        objects.release();
    };
    tokio::join!(newer.start(&["--interval", "off"]), publishing);
    assert_eq!(newer.read("serena_config.yml").as_deref(), Some("its last words"));
    assert_eq!(newer.status().await["standing"], "current");
    newer.write("serena_config.yml", "mine");
    assert_eq!(newer.control("POST", "/snapshot").await.1["outcome"], "published");
    assert!(newer.stop().await.success());
}

#[tokio::test]
async fn who_asks_while_a_snapshot_runs_gets_the_next_one() {
    let objects = Objects::start().await;
    let mut snapshotd = bucket(&objects);
    snapshotd.write("serena_config.yml", "1");
    snapshotd.start(&["--interval", "off"]).await;
    let is_manifest = |asked: &Asked| asked.method == "PUT" && asked.key.contains("/manifests/");
    objects.plan([Fault::when(is_manifest, What::Late).times(1)]);
    let first = snapshotd.control("POST", "/snapshot");
    let later = async {
        objects.until(|all| all.iter().any(is_manifest)).await;
        snapshotd.write("memories/new.md", "2");
        let status = snapshotd.status().await;
        assert_eq!(status["working"]["what"], "snapshot", "{status}");
        let second = snapshotd.control("POST", "/snapshot");
        let third = async {
            let answer = snapshotd.control("GET", "/ready").await;
            objects.release();
            answer
        };
        tokio::join!(second, third)
    };
    let ((_, first), ((_, second), ready)) = tokio::join!(first, later);
    assert_eq!((&first["files"], &second["files"]), (&json!(1), &json!(2)), "{first} {second}");
    assert_eq!(ready.0, 200);
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn nobody_who_asks_for_a_snapshot_waits_for_the_prune_after_it() {
    let objects = Objects::start().await;
    let mut snapshotd = bucket(&objects);
    let file = snapshotd.path().join("settings.toml");
    let settings = fs::read_to_string(&file).unwrap();
    fs::write(&file, settings + "[keep]\nlast = 2\ndaily = 0\nweekly = 0\n").unwrap();
    snapshotd.start(&["--interval", "off"]).await;
    let is_first = |asked: &Asked| asked.method == "DELETE" && asked.key.contains("/manifests/0000000001-");
    objects.plan([Fault::when(is_first, What::Late).times(1)]);
    for number in 1..=3 {
        snapshotd.write("serena_config.yml", number.to_string());
        let answer = snapshotd.control("POST", "/snapshot").await.1;
        assert_eq!(answer["outcome"], "published", "{answer}");
    }
    objects.until(|all| all.iter().any(is_first)).await;
    assert_eq!(snapshotd.status().await["working"]["what"], "prune");
    objects.release();
    // Whoever asks now comes after it.
    assert_eq!(snapshotd.control("POST", "/snapshot").await.1["outcome"], "unchanged");
    assert_eq!(snapshotd.control("GET", "/snapshots").await.1.as_array().unwrap().len(), 2);
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn no_snapshot_for_three_intervals_is_said_loudly_and_makes_it_unready() {
    let objects = Objects::start().await;
    let mut snapshotd = bucket(&objects);
    snapshotd.write("serena_config.yml", "1");
    snapshotd.start(&["--interval", "300ms"]).await;
    snapshotd.until(|status| status["last_success"].is_string()).await;
    objects.plan([Fault::always(What::Error(500, "InternalError"))]);
    snapshotd.write("serena_config.yml", "2");
    snapshotd.until(|status| status["complaint"].is_string()).await;
    let (status, ready) = snapshotd.control("GET", "/ready").await;
    assert!(
        status == 503 && ready["reasons"][0].as_str().unwrap().contains("no snapshot has succeeded"),
        "{ready}"
    );
    snapshotd.until_logged("no snapshot has succeeded for three intervals").await;
    assert!(
        snapshotd.control("GET", "/metrics").await.1.as_str().unwrap().contains("serena_snapshotd_overdue 1")
    );
    objects.heal();
    snapshotd.until(|status| status["complaint"].is_null()).await;
    assert_eq!(snapshotd.control("GET", "/ready").await.0, 200);
    assert!(snapshotd.stop().await.success());
    let said = snapshotd.log().join("\n");
    assert!(!said.contains(objects.secret_key()) && !said.contains(objects.access_key()), "{said}");
}

#[tokio::test]
async fn a_stop_waits_for_the_last_snapshot_but_not_for_ever_and_a_second_signal_ends_it_at_once() {
    let objects = Objects::start().await;
    let mut snapshotd = bucket(&objects);
    snapshotd.write("serena_config.yml", "1");
    snapshotd.start(&["--interval", "off"]).await;
    assert_eq!(snapshotd.control("POST", "/snapshot").await.0, 200);
    let before = objects.snapshot();
    objects.plan([Fault::always(What::Late)]);
    snapshotd.write("serena_config.yml", "2");
    snapshotd.signal(Signal::SIGTERM);
    snapshotd.until_logged("taking the last snapshot").await;
    snapshotd.signal(Signal::SIGTERM);
    assert_eq!(snapshotd.end().await.code(), Some(143));
    assert_eq!(objects.snapshot(), before);
    // The same, with patience.
    objects.heal();
    snapshotd.start(&["--interval", "off"]).await;
    objects.plan([Fault::always(What::Late)]);
    snapshotd.write("serena_config.yml", "3");
    let ended = snapshotd.stop().await;
    assert_eq!(ended.code(), Some(75));
    let said = snapshotd.log().join("\n");
    assert!(said.contains("not done within shutdown_deadline"), "{said}");
    objects.heal();
    assert_eq!(snapshotd.json(&["snapshot"]).await["outcome"], "published");
}

#[tokio::test]
async fn the_service_manager_hears_that_it_is_ready() {
    let mut snapshotd = used();
    let socket = snapshotd.path().join("notify.sock");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    snapshotd = snapshotd.with_env("NOTIFY_SOCKET", socket.to_str().unwrap());
    snapshotd.start(&["--interval", "off"]).await;
    let mut heard = String::new();
    while !heard.contains("READY=1") {
        let mut buffer = [0; 4096];
        let count = manager.recv(&mut buffer).unwrap();
        heard += &String::from_utf8_lossy(&buffer[..count]);
    }
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn a_daemon_that_is_off_is_ready_and_does_nothing() {
    let mut snapshotd = Snapshotd::new(BINARY).with_flags(&[]).with_env("SERENA_R2_STATE_ENABLED", "0");
    snapshotd.start(&[]).await;
    assert_eq!(snapshotd.status().await["enabled"], false);
    assert!(snapshotd.succeed(&["status"]).await.contains("off: SERENA_R2_STATE_ENABLED is off"));
    let stopped = timeout(Duration::from_secs(30), snapshotd.stop()).await.unwrap();
    assert!(stopped.success() && !snapshotd.home().exists());
}
