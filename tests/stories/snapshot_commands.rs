//! What a person and a script see of serena-snapshotd without a daemon: commands on a home and a directory store.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use nix::unistd::geteuid;
use serde_json::{Value, json};
use support::Snapshotd;

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");

/// A home with something in it.
fn used() -> Snapshotd {
    let snapshotd = Snapshotd::new(BINARY);
    snapshotd.write("serena_config.yml", "projects: [/srv/a]\n");
    snapshotd.write("memories/global/style.md", "short words\n");
    snapshotd.write("logs/today.txt", "not worth keeping\n");
    snapshotd
}

fn ids(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|row| row["seq"].as_u64().unwrap()).collect()
}

/// The line with which a command gives up, run with these flags alone.
async fn fails_with(snapshotd: &Snapshotd, args: &[&str]) -> (String, i32) {
    let output = snapshotd.bare().args(args).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("serena-snapshotd: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {output:?}");
    (lines[0].to_owned(), output.status.code().unwrap())
}

#[tokio::test]
async fn a_home_that_is_lost_comes_back() {
    let snapshotd = used();
    assert!(snapshotd.succeed(&["restore"]).await.contains("there is no snapshot"));
    let made = snapshotd.json(&["snapshot"]).await;
    assert_eq!((&made["outcome"], &made["files"]), (&json!("published"), &json!(2)), "{made}");
    assert!(snapshotd.succeed(&["restore"]).await.contains("is not empty and is left alone;"));
    let again = snapshotd.json(&["snapshot"]).await;
    assert_eq!((&again["outcome"], &again["id"]), (&json!("unchanged"), &made["id"]));
    snapshotd.lose_home();
    let text = snapshotd.succeed(&["restore"]).await;
    assert!(text.starts_with(&format!("restored {}", made["id"].as_str().unwrap())), "{text}");
    assert_eq!(snapshotd.read("memories/global/style.md").as_deref(), Some("short words\n"));
    assert_eq!(snapshotd.read("logs/today.txt"), None);
    // It descends from the snapshot: what changes now is published.
    snapshotd.write("memories/global/style.md", "shorter\n");
    assert_eq!(snapshotd.json(&["snapshot"]).await["outcome"], "published");
    assert_eq!(ids(&snapshotd.json(&["list"]).await), [2, 1]);
}

#[tokio::test]
async fn what_is_stored_can_be_looked_at() {
    let snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.write("memories/global/style.md", "shorter\n");
    snapshotd.write("contexts/mine.yml", "x: 1\n");
    fs::remove_file(snapshotd.home().join("serena_config.yml")).unwrap();
    snapshotd.succeed(&["snapshot"]).await;
    let shown = snapshotd.succeed(&["show", "latest"]).await;
    assert!(shown.contains("home/contexts/mine.yml") && !shown.contains("serena_config.yml"), "{shown}");
    let diff = snapshotd.succeed(&["diff", "1", "2"]).await;
    assert_eq!(
        diff,
        "+ home/contexts/\n+ home/contexts/mine.yml  5 B\n~ home/memories/global/style.md  12 B -> 8 B\n- home/serena_config.yml  19 B\n"
    );
    assert_eq!(snapshotd.succeed(&["cat", "1", "home/serena_config.yml"]).await, "projects: [/srv/a]\n");
    let list = snapshotd.succeed(&["list"]).await;
    assert!(
        list.starts_with("NUMBER  MADE") && list.lines().count() == 3 && list.contains("newest"),
        "{list}"
    );
    let checked = snapshotd.json(&["verify", "--read-data"]).await;
    assert_eq!((checked.as_array().unwrap().len(), &checked[0]["problems"]), (2, &json!([])), "{checked}");
    let id = snapshotd.json(&["list"]).await[1]["id"].as_str().unwrap().to_owned();
    assert_eq!(snapshotd.json(&["show", &id]).await["files"], 2);
}

#[tokio::test]
async fn an_older_snapshot_replaces_the_home_when_asked_and_nothing_is_lost() {
    let snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.write("memories/global/style.md", "second\n");
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.write("memories/global/style.md", "never stored\n");
    let restored = snapshotd.json(&["restore", "1", "--replace"]).await;
    assert_eq!(snapshotd.read("memories/global/style.md").as_deref(), Some("short words\n"));
    let kept = restored["kept"][0].as_str().unwrap();
    assert_eq!(fs::read_to_string(format!("{kept}/memories/global/style.md")).unwrap(), "never stored\n");
    // The older state is the newest snapshot again, and the second one is still there.
    snapshotd.succeed(&["snapshot"]).await;
    assert_eq!(ids(&snapshotd.json(&["list"]).await), [3, 2, 1]);
    assert_eq!(snapshotd.succeed(&["cat", "2", "memories/global/style.md"]).await, "second\n");
}

#[tokio::test]
async fn prune_keeps_what_it_must_and_a_pin_holds() {
    let mut snapshotd = used();
    let settings = snapshotd.path().join("settings.toml");
    let store = snapshotd.store();
    let text = format!(
        "partition = 'laptop'\nstore = 'file://{}'\n[keep]\nlast = 2\ndaily = 0\nweekly = 0\n",
        store.display()
    );
    fs::write(&settings, text).unwrap();
    snapshotd = snapshotd.with_flags(&["--config", settings.to_str().unwrap()]);
    for turn in 1..=3 {
        snapshotd.write("memories/turn.md", turn.to_string());
        snapshotd.succeed(&["snapshot"]).await;
        if turn == 1 {
            snapshotd.succeed(&["pin", "1"]).await;
        }
    }
    for turn in 4..=5 {
        snapshotd.write("memories/turn.md", turn.to_string());
        snapshotd.succeed(&["snapshot"]).await;
    }
    let list = snapshotd.json(&["list"]).await;
    assert_eq!(ids(&list), [5, 4, 1]);
    assert_eq!(list[2]["pinned"], "pin");
    snapshotd.succeed(&["unpin", "1"]).await;
    let dry = snapshotd.json(&["prune", "--dry-run"]).await;
    assert_eq!(dry["snapshots"].as_array().unwrap().len(), 1, "{dry}");
    assert_eq!(ids(&snapshotd.json(&["list"]).await).len(), 3);
    snapshotd.succeed(&["prune"]).await;
    assert_eq!(ids(&snapshotd.json(&["list"]).await), [5, 4]);
    let (line, code) = snapshotd.fail(&["unpin", "5"]).await;
    assert_eq!((line.as_str(), code), ("snapshot 5 is not pinned", 69));
}

#[tokio::test]
async fn a_stale_home_goes_to_forks_until_somebody_chooses() {
    let snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    // Another machine takes over.
    let (mine, other) = (snapshotd.home(), snapshotd.path().join("other"));
    let elsewhere = |args: &[&str]| {
        let mut command = snapshotd.bare();
        let store = format!("file://{}", snapshotd.store().display());
        command.args(args).args([
            "--partition",
            "laptop",
            "--store",
            &store,
            "--home",
            other.to_str().unwrap(),
        ]);
        command
    };
    assert!(elsewhere(&["restore"]).status().await.unwrap().success());
    fs::write(other.join("memories/global/style.md"), "from the other machine\n").unwrap();
    assert!(elsewhere(&["snapshot"]).status().await.unwrap().success());
    // The first machine comes back with changes of its own.
    snapshotd.write("memories/global/style.md", "from the first machine\n");
    let (line, code) = snapshotd.fail(&["snapshot"]).await;
    assert!(
        line.contains("does not descend") && line.contains("adopt --local") && code == 69,
        "{line} {code}"
    );
    // Nothing has changed since, and it is no more published than before.
    assert_eq!(snapshotd.fail(&["snapshot"]).await, (line, code));
    let list = snapshotd.json(&["list"]).await;
    let places: Vec<_> = list.as_array().unwrap().iter().map(|row| row["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["newest", "ancestor", "fork"]);
    let fork = list[2]["id"].as_str().unwrap();
    assert_eq!(
        snapshotd.succeed(&["cat", fork, "memories/global/style.md"]).await,
        "from the first machine\n"
    );
    assert_eq!(snapshotd.fail(&["adopt"]).await.1, 64);
    snapshotd.succeed(&["adopt", "--local"]).await;
    assert_eq!(snapshotd.json(&["snapshot"]).await["outcome"], "published");
    assert_eq!(
        snapshotd.succeed(&["cat", "latest", "memories/global/style.md"]).await,
        "from the first machine\n"
    );
    // And the other one, which is stale now, takes what is newest.
    fs::write(other.join("memories/more.md"), "x").unwrap();
    assert_eq!(elsewhere(&["snapshot"]).status().await.unwrap().code(), Some(69));
    assert!(elsewhere(&["adopt", "--remote"]).status().await.unwrap().success());
    assert_eq!(
        fs::read_to_string(other.join("memories/global/style.md")).unwrap(),
        "from the first machine\n"
    );
    assert!(!other.join("memories/more.md").exists());
    assert_eq!(
        fs::read_to_string(mine.join("memories/global/style.md")).unwrap(),
        "from the first machine\n"
    );
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_line() {
    let snapshotd = used();
    let store = format!("file://{}", snapshotd.store().display());
    let (line, code) = snapshotd.fail(&["list"]).await;
    assert_eq!(
        (line, code),
        (format!("there is no partition `laptop` in {store}; there is none at all"), 69)
    );
    snapshotd.succeed(&["snapshot"]).await;
    for args in
        [vec!["list"], vec!["show", "latest"], vec!["verify"], vec!["cat", "1", "home/x"], vec!["pin", "1"]]
    {
        let args = [args, vec!["--partition", "other", "--store", &store]].concat();
        let (line, code) = fails_with(&snapshotd, &args).await;
        assert_eq!(line, format!("there is no partition `other` in {store}; there are: laptop"), "{args:?}");
        assert_eq!(code, 69);
    }
    let (line, code) = snapshotd.fail(&["show", "7"]).await;
    assert_eq!((line, code), (format!("there is no snapshot 7 in {store}/laptop"), 69));
    let (line, code) = snapshotd.fail(&["cat", "1", "nothing"]).await;
    assert!(line.starts_with("`nothing` is not in this snapshot") && code == 69, "{line} {code}");
    // An empty home and a name that nobody has used: nothing, which is no error, but said.
    let empty = snapshotd.path().join("empty");
    let args = ["restore", "--partition", "other", "--store", &store, "--home", empty.to_str().unwrap()];
    let output = snapshotd.bare().args(args).output().await.unwrap();
    assert!(output.status.success() && !empty.exists(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("there is no snapshot"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are: laptop"), "{output:?}");
    let (line, code) = snapshotd.fail(&["status"]).await;
    assert!(line.contains("control.sock") && line.contains("list") && code == 69, "{line} {code}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_one_line_that_says_what_and_where() {
    let snapshotd = used();
    for (args, expected, code) in [
        (&["snapshot"][..], "--partition: the name of this home in the store is missing", 78),
        (&["snapshot", "--partition", "a/b"], "`a/b` is not a partition", 64),
        (&["list", "--partition", "a", "--store", "/srv/x"], "write s3://bucket/prefix", 64),
        (&["list", "--partition", "a", "--store", "s3://bucket/p"], "AWS_ACCESS_KEY_ID", 78),
        (&["list", "--partition", "a", "--store", "file:///nonexistent/store/x"], "/nonexistent/store", 78),
        (&["show", "x"], "`x` is not the id of a snapshot", 64),
        (&["run", "--interval", "soon"], "`soon` is not an interval", 64),
        (&["check", "--config", "/nonexistent.toml"], "/nonexistent.toml: ", 78),
        (&["backup"], "backup", 64),
    ] {
        let (line, found) = fails_with(&snapshotd, args).await;
        assert!(line.contains(expected) && found == code, "{args:?}: {line} ({found})");
    }
    let settings = snapshotd.path().join("settings.toml");
    fs::write(&settings, "partition = 'a'\n\nintervall = '3m'\n").unwrap();
    let (line, code) = fails_with(&snapshotd, &["check", "--config", settings.to_str().unwrap()]).await;
    assert!(line.contains("settings.toml:3: intervall: unknown field") && code == 78, "{line} {code}");
    fs::write(&settings, "partition = 'a'\n").unwrap();
    let output =
        snapshotd.bare().args(["check", "--config", settings.to_str().unwrap()]).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}: right\n", settings.display()));
    assert!(!snapshotd.path().join(".local").exists(), "only what takes snapshots makes directories");
}

#[tokio::test]
async fn a_home_that_a_daemon_owns_has_one_owner() {
    let mut snapshotd = used();
    snapshotd.start(&["--interval", "off"]).await;
    // Somebody who does not find the daemon cannot get in its way.
    let store = format!("file://{}", snapshotd.store().display());
    let elsewhere = snapshotd.path().join("elsewhere");
    let args = ["snapshot", "--partition", "laptop", "--store", &store];
    let output = snapshotd.bare().args(args).env("XDG_RUNTIME_DIR", elsewhere).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("home.snapshotd.lock: in use by process"), "{said}");
    assert_eq!(output.status.code(), Some(75));
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn a_socket_that_is_named_must_have_its_daemon() {
    let mut snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.write("memories/new.md", "x");
    let nowhere = snapshotd.path().join("nowhere.sock");
    for args in
        [&["snapshot"][..], &["restore", "--replace"], &["list"], &["prune"], &["pin", "1"], &["status"]]
    {
        let args = [args, &["--control", nowhere.to_str().unwrap()]].concat();
        let (line, code) = snapshotd.fail(&args).await;
        let expected = format!("no serena-snapshotd is running ({}: no such socket)", nowhere.display());
        assert_eq!((line, code), (expected, 69), "{args:?}");
    }
    assert_eq!(ids(&snapshotd.json(&["list"]).await), [1], "nobody has worked alone");
    // Nor is one asked for what it does not serve, or gone round.
    snapshotd.start(&["--interval", "off"]).await;
    let control = snapshotd.control_socket();
    let args = ["list", "--partition", "other", "--control", control.to_str().unwrap()];
    let (line, code) = fails_with(&snapshotd, &args).await;
    assert!(line.ends_with("serves something else: its partition is laptop, not other"), "{line}");
    assert_eq!(code, 69);
    assert!(snapshotd.stop().await.success());
}

#[tokio::test]
async fn what_is_damaged_is_listed_and_verified_as_that() {
    let snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.write("memories/new.md", "x");
    let made = snapshotd.json(&["snapshot"]).await;
    let id = made["id"].as_str().unwrap();
    fs::write(snapshotd.partition().join(format!("manifests/{id}.json.zst")), "nonsense").unwrap();
    let list = snapshotd.json(&["list"]).await;
    assert_eq!((ids(&list), &list[0]["files"]), (vec![2, 1], &Value::Null), "{list}");
    assert!(list[0]["problem"].as_str().unwrap().contains(id), "{list}");
    assert!(snapshotd.succeed(&["list"]).await.contains("newest, cannot be read"));
    for args in [&["verify"][..], &["verify", "--read-data"]] {
        let output = snapshotd.command(args).await;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("FAIL  {id}")) && said.contains("ok    0000000001-"), "{said}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("1 of 2 snapshots are damaged or cannot be read"), "{said}");
        assert_eq!(output.status.code(), Some(69), "{args:?}");
    }
    // The older one is put back, and both are named.
    snapshotd.lose_home();
    let text = snapshotd.succeed(&["restore"]).await;
    assert!(text.starts_with("restored 0000000001-"), "{text}");
    assert!(text.contains(&format!("damaged, passed over: {id}: ")), "{text}");
}

#[tokio::test]
async fn a_root_that_is_left_alone_is_named() {
    let snapshotd = used();
    let web = snapshotd.path().join("web");
    fs::create_dir(&web).unwrap();
    fs::write(web.join("project.yml"), "a").unwrap();
    let root = format!("web={}", web.display());
    snapshotd.succeed(&["snapshot", "--root", &root]).await;
    snapshotd.lose_home();
    let text = snapshotd.succeed(&["restore", "--root", &root]).await;
    assert!(text.contains(&format!("{} is not empty and was left alone", web.display())), "{text}");
}

#[tokio::test]
async fn snapshots_that_are_off_are_said_and_no_failure() {
    let snapshotd = Snapshotd::new(BINARY).with_flags(&[]).with_env("SERENA_R2_STATE_ENABLED", "0");
    snapshotd.write("serena_config.yml", "x");
    assert!(snapshotd.succeed(&["restore"]).await.contains("SERENA_R2_STATE_ENABLED is off"));
    assert!(snapshotd.succeed(&["snapshot"]).await.contains("SERENA_R2_STATE_ENABLED is off"));
    let (line, code) = snapshotd.fail(&["list"]).await;
    assert_eq!((line.as_str(), code), ("snapshots are off: SERENA_R2_STATE_ENABLED is off", 78));
}

/// A home with the wrapper's settings, and half a key.
fn of_wrapper() -> Snapshotd {
    let snapshotd = Snapshotd::new(BINARY)
        .with_flags(&[])
        .with_env("SERENA_R2_STATE_ENABLED", "1")
        .with_env("R2_BUCKET_NAME", "serena-state")
        .with_env("R2_ACCOUNT_ID", "0123456789abcdef0123456789abcdef")
        .with_env("CLOUDFLARE_DURABLE_OBJECT_ID", "do-7")
        .with_env("AWS_ACCESS_KEY_ID", "id");
    snapshotd.write("serena_config.yml", "x");
    snapshotd
}

#[tokio::test]
async fn the_wrapper_without_a_key_starts_without_snapshots_unless_it_is_strict() {
    let why = "SERENA_R2_STATE_ENABLED is on, but AWS_SECRET_ACCESS_KEY is not set";
    let mut lax = of_wrapper();
    for command in ["restore", "snapshot"] {
        let said = lax.succeed(&[command]).await;
        assert!(said.contains("snapshots are off") && said.contains(why), "{said}");
    }
    lax.start(&[]).await;
    assert!(lax.until_logged("snapshots are off").await.contains(why));
    assert_eq!(lax.status().await["enabled"], false);
    assert!(lax.stop().await.success());
    let strict = of_wrapper().with_env("SERENA_R2_STATE_STRICT", "1");
    for command in ["restore", "snapshot", "run"] {
        let (line, code) = strict.fail(&[command]).await;
        assert!(
            line.starts_with("AWS_SECRET_ACCESS_KEY: is not set") && code == 78,
            "{command}: {line} {code}"
        );
    }
    // Somebody who looks needs the key in any case.
    let (line, code) = of_wrapper().fail(&["list"]).await;
    assert!(line.starts_with("AWS_SECRET_ACCESS_KEY: is not set") && code == 78, "{line} {code}");
}

#[tokio::test]
async fn an_archive_of_the_wrapper_becomes_the_first_snapshot() {
    let snapshotd = used();
    let archives = snapshotd.partition().join("snapshots");
    fs::create_dir_all(&archives).unwrap();
    let name = "serena-home-20260101T000000Z-1.tar.gz";
    let tar = |arguments: &[&str]| {
        Command::new("tar").args(arguments).status().is_ok_and(|status| status.success())
    };
    let archive = archives.join(name);
    assert!(tar(&["-C", snapshotd.home().to_str().unwrap(), "-czf", archive.to_str().unwrap(), "."]));
    fs::write(snapshotd.partition().join("LATEST"), format!("{name}\n")).unwrap();
    snapshotd.lose_home();
    let made = snapshotd.json(&["import"]).await;
    assert_eq!((&made["outcome"], &made["files"]), (&json!("published"), &json!(2)), "{made}");
    snapshotd.succeed(&["restore"]).await;
    assert_eq!(snapshotd.read("memories/global/style.md").as_deref(), Some("short words\n"));
    let (line, code) = snapshotd.fail(&["import"]).await;
    assert!(line.contains("there are snapshots") && code == 69, "{line} {code}");
}

/// Runs a command as somebody to whom permissions mean something: as us, or where we are root as nobody, to whom all of the
/// story's directory is given first. `None` where nobody may run our binary.
async fn as_a_user(snapshotd: &Snapshotd, args: &[&str]) -> Option<Output> {
    const NOBODY: u32 = 65534;
    let mut command = snapshotd.bare();
    command.args(args).args(snapshotd.flags());
    if geteuid().is_root() {
        let path = snapshotd.path().to_str().unwrap();
        let given = Command::new("chown").args(["-hR", &format!("{NOBODY}:{NOBODY}"), path]).status();
        assert!(given.unwrap().success());
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    match command.output().await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            println!("skipped: what a user may not write, because nobody but root may run {BINARY}");
            None
        }
        output => Some(output.unwrap()),
    }
}

/// The one line with which it gives up, and its exit code.
fn gave_up(output: &Output) -> (String, i32) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("serena-snapshotd: ")).collect();
    assert_eq!(lines.len(), 1, "{output:?}");
    (lines[0].to_owned(), output.status.code().unwrap())
}

#[tokio::test]
async fn a_home_that_cannot_be_written_is_left_as_it_is() {
    let snapshotd = used();
    let Some(first) = as_a_user(&snapshotd, &["snapshot"]).await else { return };
    assert!(first.status.success(), "{first:?}");
    fs::set_permissions(snapshotd.home(), Permissions::from_mode(0o500)).unwrap();
    // Its permissions have changed, and nothing can be made in it.
    let changed = as_a_user(&snapshotd, &["snapshot"]).await.unwrap();
    assert!(changed.status.success(), "{changed:?}");
    fs::set_permissions(snapshotd.path(), Permissions::from_mode(0o500)).unwrap();
    let (line, code) = gave_up(&as_a_user(&snapshotd, &["restore", "--replace"]).await.unwrap());
    fs::set_permissions(snapshotd.path(), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(snapshotd.home(), Permissions::from_mode(0o700)).unwrap();
    assert!(line.contains("home") && code == 78, "{line} {code}");
    assert_eq!(snapshotd.read("memories/global/style.md").as_deref(), Some("short words\n"));
}

#[tokio::test]
async fn a_home_in_a_directory_that_cannot_be_written_is_a_wrong_setting_and_says_which() {
    let snapshotd = used();
    let closed = snapshotd.path().canonicalize().unwrap().join("closed");
    let home = closed.join("home");
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o500)).unwrap();
    for command in ["snapshot", "restore"] {
        let output = as_a_user(&snapshotd, &[command, "--home", home.to_str().unwrap()]).await;
        let Some(output) = output else { break };
        let (line, code) = gave_up(&output);
        let wanted = format!("{} must be a directory that this user may write", closed.display());
        assert!(
            line.contains("home.snapshotd.lock") && line.contains(&wanted) && code == 78,
            "{line} {code}"
        );
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn to_be_strict_can_be_said_in_the_file_and_in_the_environment_too() {
    let base =
        "partition = 'a'\nstore = 's3://bucket/p'\n[s3]\nendpoint = 'http://127.0.0.1:1'\nattempts = 1\n";
    let with = |toml: &str, variables: &[(&str, &str)]| {
        let mut snapshotd = Snapshotd::new(BINARY)
            .with_env("AWS_ACCESS_KEY_ID", "id")
            .with_env("AWS_SECRET_ACCESS_KEY", "secret");
        for (name, value) in variables {
            snapshotd = snapshotd.with_env(name, value);
        }
        let settings = snapshotd.path().join("settings.toml");
        fs::write(&settings, format!("{toml}{base}")).unwrap();
        snapshotd.with_flags(&["--config", settings.to_str().unwrap()])
    };
    let strict = ("SERENA_R2_STATE_STRICT", "1");
    for (toml, variables, args, expected) in [
        ("", &[][..], &["restore"][..], 69),
        ("", &[], &["restore", "--strict"], 75),
        ("strict = true\n", &[], &["restore"], 75),
        ("", &[strict], &["restore"], 75),
        ("strict = false\n", &[strict], &["restore"], 69),
    ] {
        let (line, code) = with(toml, variables).fail(args).await;
        assert_eq!(code, expected, "{toml} {variables:?} {args:?}: {line}");
    }
}

#[tokio::test]
async fn whoever_may_give_files_away_gives_a_restored_home_to_its_owner() {
    if !geteuid().is_root() {
        println!("skipped: a restore with capabilities alone because only root can pass them on");
        return;
    }
    const OWNER: u32 = 4321;
    let snapshotd = used();
    snapshotd.succeed(&["snapshot"]).await;
    snapshotd.lose_home();
    std::os::unix::fs::chown(snapshotd.path(), Some(OWNER), Some(OWNER)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--inh-caps=+chown,+dac_override,+fowner", "--ambient-caps=+chown,+dac_override,+fowner"])
        .args([BINARY, "restore"])
        .args(snapshotd.flags())
        .env("SERENA_HOME", snapshotd.home())
        .env("HOME", snapshotd.path())
        .env("RUNTIME_DIRECTORY", snapshotd.path().join("run-of-another"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for path in ["", "memories/global", "memories/global/style.md"] {
        let found = fs::metadata(snapshotd.home().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (OWNER, OWNER), "{path}");
    }
    assert_eq!(snapshotd.read("memories/global/style.md").as_deref(), Some("short words\n"));
}

/// Runs a script with a file system of 1 MiB at `$1`, in a mount namespace of its own; `None` where that is not allowed.
fn on_a_small_disk(snapshotd: &Snapshotd, script: &str) -> Option<Output> {
    let small = snapshotd.path().join("small");
    fs::create_dir(&small).unwrap();
    let script = format!("set -e; mount -t tmpfs -o size=1m,mode=0700 tmpfs \"$1\"; set +e; {script}");
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script, "sh", small.to_str().unwrap(), BINARY])
        .env("SERENA_HOME", snapshotd.home())
        .env("HOME", snapshotd.path())
        .env("XDG_RUNTIME_DIR", snapshotd.path().join("run"))
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("ermitted") || said.contains("ermission") {
        println!("skipped: a full disk because no file system may be mounted here: {}", said.trim());
        return None;
    }
    Some(output)
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_lost() {
    let snapshotd = used();
    // Bytes that cannot be compressed.
    let mut noise = Vec::new();
    fs::File::open("/dev/urandom").unwrap().take(4 << 20).read_to_end(&mut noise).unwrap();
    let script = "small=\"--partition a --store file://$1/store\"; big=\"--partition a --store file://$(dirname $1)/big\"; $2 snapshot $small || exit 99; \
                  cp $1/../noise $SERENA_HOME/memories/noise; $2 snapshot $small; echo code $?; \
                  rm $SERENA_HOME/memories/noise; $2 verify --read-data $small; $2 snapshot $small; \
                  mkdir $1/home; cp $1/../noise $SERENA_HOME/memories/noise; rm $SERENA_HOME.snapshotd.json; $2 snapshot $big; \
                  $2 restore $big --home $1/home; echo code $?; ls -A $1 $1/home";
    fs::write(snapshotd.path().join("noise"), noise).unwrap();
    let Some(output) = on_a_small_disk(&snapshotd, script) else { return };
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let all = format!("{out}\n{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("serena-snapshotd: ")).collect();
    assert_eq!(out.matches("code 75").count(), 2, "{all}");
    assert_eq!(lines.len(), 2, "{all}");
    assert!(lines.iter().all(|line| line.contains("No space left")), "{all}");
    assert!(out.contains("ok    0000000001-") && out.contains("unchanged: 0000000001-"), "{all}");
    let left = out.rsplit("code 75").next().unwrap();
    assert!(
        left.contains("home.snapshotd.lock") && !left.contains("restore") && left.ends_with("home:\n"),
        "{all}"
    );
}
