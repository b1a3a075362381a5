//! What a person and a service manager see: commands, one-line errors, readiness that is told.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{Gate, Ground, Supervise};
use tokio::{io::AsyncBufReadExt as _, time::timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one line with which a command gave up, and its exit code.
fn one_line(output: &Output) -> (String, i32) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("serena-supervise: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    (lines[0].to_owned(), output.status.code().unwrap())
}

#[tokio::test]
async fn every_command_does_what_it_says() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        [ground.instance("one", "", &["--flood", "2000"]), ground.instance("two", "", &[])].concat()
    })
    .await;
    let table = stdout(&supervise.command(&["status"]).await);
    assert!(table.contains("one") && table.contains("asleep"), "{table}");
    stdout(&supervise.command(&["wake", "one"]).await);
    stdout(&supervise.command(&["wait", "one", "--for", "ready", "--timeout", "30s"]).await);
    let ready = supervise.instance("one").await;
    assert_eq!(ready["state"], "ready");
    let table = stdout(&supervise.command(&["status"]).await);
    let (pid, port) = (ready["pid"].to_string(), ready["port"].to_string());
    let line = table.lines().find(|line| line.starts_with("one")).unwrap();
    assert!(line.contains(&pid) && line.contains(&port) && line.contains("ready"), "{table}");
    let status: Value =
        serde_json::from_str(&stdout(&supervise.command(&["status", "--json"]).await)).unwrap();
    assert_eq!(status["instances"][0]["name"], "one");
    let logs = stdout(&supervise.command(&["logs", "one", "--lines", "3"]).await);
    assert_eq!(logs.lines().count(), 3, "{logs}");
    assert!(logs.ends_with(&format!("{:0>99}\n", 19)), "{logs}");
    stdout(&supervise.command(&["restart", "one"]).await);
    supervise.until("one", |one| one["starts"] == 2 && one["state"] == "ready").await;
    stdout(&supervise.command(&["sleep", "one"]).await);
    stdout(&supervise.command(&["wait", "one", "--for", "stopped", "--timeout", "30s"]).await);
    assert_eq!(supervise.instance("one").await["why"], "asleep");
    stdout(&supervise.command(&["stop", "one"]).await);
    assert_eq!(supervise.until("one", |one| one["why"] == "asked").await["state"], "stopped");
    let (line, code) = one_line(&supervise.command(&["wait", "one", "--timeout", "300ms"]).await);
    assert!(line.contains("300ms") && line.contains("one") && code == 75, "{line} {code}");
    let (line, _) = one_line(&supervise.command(&["wake", "three"]).await);
    assert!(line.contains("`three`") && line.contains("one, two"), "{line}");
    let settings = supervise.settings_file();
    stdout(&supervise.command(&["check", "--config", settings.to_str().unwrap()]).await);
    supervise.stop_clean().await;
    let (line, code) = one_line(&supervise.command(&["status"]).await);
    assert!(line.contains("control.sock") && code == 69, "{line} {code}");
}

#[tokio::test]
async fn logs_follow_what_is_printed_from_now_on() {
    let mut supervise = Supervise::start(BINARY, |ground| ground.instance("one", "", &["--exit", "7"])).await;
    let mut command = supervise.bare();
    command.args(["logs", "one", "--follow"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    supervise.ask("one", "wake").await;
    let line = timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("exits with 7"), "{line}");
    assert_eq!(supervise.stop().await.code(), Some(0));
    timeout(Duration::from_secs(30), child.wait()).await.expect("it ends with the supervisor").unwrap();
}

#[tokio::test]
async fn lines_that_are_kept_no_more_are_counted() {
    let loud = "[instance.loud]\ncommand = ['seq', '3000']\nprobe = 'none'\nbackoff.starts = 1\nbackoff.retry = '1h'\n";
    let mut supervise = Supervise::start(BINARY, |_| loud.to_owned()).await;
    let mut command = supervise.bare();
    command.args(["logs", "loud", "--follow", "--lines", "3000"]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    supervise.ask("loud", "wake").await;
    let mut lines = tokio::io::BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut followed = 0;
    loop {
        let line = timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap();
        followed += 1;
        if line.expect("it ends with the supervisor") == "3000" {
            break;
        }
    }
    let kept = supervise.command(&["logs", "loud", "--lines", "500"]).await;
    assert_eq!(supervise.stop().await.code(), Some(0));
    let told = timeout(Duration::from_secs(30), follower.wait_with_output()).await.unwrap().unwrap().stderr;
    assert_eq!(followed + missed(&told), 3_000);
    let shown = String::from_utf8(kept.stdout).unwrap();
    assert!(shown.ends_with("\n3000\n"), "{shown}");
    assert_eq!(shown.lines().count() + missed(&kept.stderr), 500);
    assert!(missed(&kept.stderr) > 0);
}

/// How many lines of the loud one were missed, as stderr says.
fn missed(told: &[u8]) -> usize {
    let told = String::from_utf8_lossy(told);
    let counts = told.lines().filter_map(|line| line.split_once(" older lines of loud are kept no more"));
    counts.map(|(line, _)| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[tokio::test]
async fn one_server_needs_no_file() {
    let mut supervise = Supervise::start_command(BINARY, |ground| {
        let socket = format!("unix:{}", ground.socket("mine").display());
        let flags =
            ["--name", "mine", "--socket", &socket, "--sleep-after", "300ms", "--"].map(str::to_owned);
        flags.into_iter().chain(ground.command("mine", &[])).collect()
    })
    .await;
    let client = supervise.client("mine").await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    drop(client);
    let asleep = supervise.until_state("mine", "stopped").await;
    assert_eq!(asleep["why"], "asleep");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn what_cannot_work_is_one_line_that_says_what_and_where() {
    let supervise = Supervise::prepared(BINARY, &[]);
    let file = supervise.settings_file();
    let file = file.to_str().unwrap();
    let long = supervise.file(&"x".repeat(120));
    let missing = supervise.file("missing");
    let fake = ["x", "{port}"];
    let with =
        |settings: &str| format!("[instance.one]\ncommand = ['{}', '{}']\n{settings}", fake[0], fake[1]);
    for (settings, expected) in [
        ("[instance.one]\ncommnd = ['x']".to_owned(), &["settings.toml:2", "commnd"][..]),
        ("[instance.one]\n".to_owned(), &["settings.toml", "instance.one.command"]),
        ("[instance.one]\ncommand = []".to_owned(), &["instance.one.command"]),
        (with("sleep_after = 900"), &["settings.toml:3", "sleep_after", "900"]),
        (with("probe = 'ping'"), &["settings.toml:3", "probe", "`ping`"]),
        (with("home = 'relative'"), &["instance.one.home", "relative", "absolute"]),
        (with(&format!("socket = 'unix:{long}'")), &["instance.one.socket", "107"]),
        ("[instance.one]\ncommand = ['x', '{prot}']".to_owned(), &["instance.one.command", "{prot}"]),
        ("[instance.one]\ncommand = ['x']".to_owned(), &["instance.one.command", "{port}"]),
        (
            format!(
                "{}\n[instance.two]\ncommand = ['x', '{{port}}']\nhome = '/srv/a'",
                with("home = '/srv/a'")
            ),
            &["/srv/a", "home", "`one`"],
        ),
        ("max_instances = 3".to_owned(), &["settings.toml", "instance"]),
        ("[instance.'UPPER']\ncommand = ['x', '{port}']".to_owned(), &["UPPER"]),
        ("not toml".to_owned(), &["settings.toml:1"]),
    ] {
        fs::write(file, &settings).unwrap();
        for command in [&["check", "--config", file], &["run", "--config", file]] {
            let (line, code) = one_line(&supervise.command(command).await);
            assert!(expected.iter().all(|it| line.contains(it)), "{settings}\n{line}");
            assert_eq!(code, 78, "{line}");
        }
    }
    let (line, code) = one_line(&supervise.command(&["check", "--config", &missing]).await);
    assert!(line.contains(&missing) && code == 78, "{line}");
    let (line, code) = one_line(&supervise.command(&["run"]).await);
    assert!(line.contains("-- COMMAND") && code == 64, "{line}");
    assert_eq!(supervise.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn what_is_missing_on_this_machine_is_said_of_the_instance_and_stops_no_other() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let (socket, blocked) = (ground.socket("missing"), ground.file("blocked"));
        fs::write(&blocked, "a file").unwrap();
        let missing = format!(
            "command = ['/nonexistent/server', '{{port}}']\nsocket = 'unix:{}'\nbackoff.starts = 2\nbackoff.retry = '1h'",
            socket.display()
        );
        let home = format!("home = '{blocked}'\nbackoff.starts = 2\nbackoff.retry = '1h'");
        [
            ground.table("instance.missing", &missing),
            ground.instance("homeless", &home, &[]),
            ground.instance("fine", "", &[]),
        ]
        .concat()
    })
    .await;
    for (name, expected) in [("missing", "`/nonexistent/server` is not found"), ("homeless", "blocked")] {
        let refused = supervise.client(name).await.unwrap_err();
        assert_eq!(refused.status, Some(503), "{refused:?}");
        let failed = supervise.until_state(name, "failed").await;
        assert!(failed["cause"].as_str().unwrap().contains(expected), "{failed}");
    }
    let table = stdout(&supervise.command(&["status"]).await);
    assert!(table.contains("is not found"), "{table}");
    supervise.client("fine").await.unwrap();
    let file = supervise.settings_file();
    let doctor = supervise.command(&["doctor", "--config", file.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && said.contains("/nonexistent/server"), "{said}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_socket_or_home_that_cannot_be_made_is_a_refused_start() {
    let supervise = Supervise::prepared(BINARY, &[]);
    let file = supervise.settings_file();
    let in_use = supervise.file("plain-file");
    fs::write(&in_use, "precious").unwrap();
    let under_file = format!("{in_use}/home");
    for (settings, expected) in [
        (format!("socket = 'unix:{in_use}'"), in_use.as_str()),
        (format!("home = '{under_file}'"), in_use.as_str()),
    ] {
        let command = Ground::command(&supervise, "one", &[]);
        let words: Vec<_> = command.iter().map(|word| format!("'{word}'")).collect();
        fs::write(&file, format!("[instance.one]\ncommand = [{}]\n{settings}", words.join(", "))).unwrap();
        let (line, code) = one_line(&supervise.command(&["run", "--config", file.to_str().unwrap()]).await);
        assert!(line.contains(expected) && line.contains("one"), "{line}");
        assert!([69, 78].contains(&code), "{line} {code}");
    }
    assert_eq!(fs::read_to_string(&in_use).unwrap(), "precious", "what is no socket is never replaced");
}

/// What a service manager was told, up to and with a message that has `text` in it.
fn told(socket: &UnixDatagram, text: &str) -> Vec<String> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {text}: {error}; {all:?}"));
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        if all.last().unwrap().contains(text) {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told_of_the_start_the_readiness_the_watchdog_and_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    let gate = Gate::new(directory.path().join("gate"));
    let (notify, gate_path) = (directory.path().join("notify"), gate.path().to_str().unwrap().to_owned());
    let env = [("NOTIFY_SOCKET", notify.to_str().unwrap()), ("WATCHDOG_USEC", "400000")];
    let start = Supervise::start_with(
        BINARY,
        |ground| ground.instance("one", "start = 'boot'", &["--gate", &gate_path]),
        &env,
    );
    let watched = async {
        let waiting = gate.next().await;
        let starting = tokio::task::block_in_place(|| told(&socket, "EXTEND_TIMEOUT_USEC="));
        assert!(!starting.concat().contains("READY=1"), "{starting:?}");
        waiting.go().await;
        tokio::task::block_in_place(|| told(&socket, "READY=1"))
    };
    let (mut supervise, ready) = tokio::join!(start, watched);
    assert!(ready.concat().contains("STATUS="), "{ready:?}");
    assert_eq!(supervise.instance("one").await["state"], "ready");
    tokio::task::block_in_place(|| told(&socket, "WATCHDOG=1"));
    let start = supervise.journal("one").all("start").remove(0);
    assert_eq!(start["notify_socket"], json!(null), "the server is not told of our manager");
    supervise.stop_clean().await;
    tokio::task::block_in_place(|| told(&socket, "STOPPING=1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_server_does_not_keep_the_others_from_being_told_as_ready() {
    let directory = tempfile::tempdir().unwrap();
    let notify = directory.path().join("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    let env = [("NOTIFY_SOCKET", notify.to_str().unwrap())];
    let boot = "start = 'boot'\nbackoff.starts = 2\nbackoff.retry = '1h'";
    let mut supervise = Supervise::start_with(
        BINARY,
        |ground| {
            [ground.instance("fine", boot, &[]), ground.instance("broken", boot, &["--exit", "7"])].concat()
        },
        &env,
    )
    .await;
    let ready = tokio::task::block_in_place(|| told(&socket, "READY=1"));
    assert!(ready.last().unwrap().contains("2 instances, failed: broken"), "{ready:?}");
    assert_eq!(supervise.instance("fine").await["state"], "ready");
    assert_eq!(supervise.instance("broken").await["state"], "failed");
    let (status, complaints) = supervise.control("GET", "/ready").await;
    assert_eq!(status, 503);
    assert!(complaints.to_string().contains("broken has failed"), "{complaints}");
    supervise.stop_clean().await;
}

/// Processes whose parent is `parent`, with their state.
fn children(parent: i32) -> Vec<(i32, char)> {
    let numbered =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
    numbered
        .filter_map(|pid: i32| {
            let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
            let mut words = stat.rsplit(") ").next()?.split(' ');
            let state = words.next()?.chars().next()?;
            (words.next()?.parse() == Ok(parent)).then_some((pid, state))
        })
        .collect()
}

#[tokio::test]
async fn as_the_first_process_of_a_container_it_reaps_and_keeps_the_exit_code() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let tried = std::process::Command::new(unshare[0]).args(&unshare[1..]).arg("true").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        println!("skipped: the first process of a container, because there are no namespaces for us here");
        return;
    }
    let storm = ["--children", "3", "--storm", "--double-fork", "--setsid"];
    let mut supervise = Supervise::start_under(&unshare, BINARY, |ground| {
        ground.instance("one", "start = 'boot'\nstop.tree = '500ms'", &storm)
    })
    .await;
    supervise.until_state("one", "ready").await;
    let first = children(supervise.pid() as i32)[0].0;
    // The storm makes an orphan every tenth of a second: reaped, they do not add up.
    let seen = RefCell::new(BTreeSet::new());
    supervise
        .until("one", |_| {
            let now = children(first);
            seen.borrow_mut().extend(now.iter().map(|(pid, _)| *pid));
            seen.borrow().len() > 50 && now.iter().filter(|(_, state)| *state == 'Z').count() < 10
        })
        .await;
    supervise.ask("one", "stop").await;
    supervise.until_state("one", "stopped").await;
    supervise.until("one", |_| children(first).is_empty()).await;
    supervise.ask("one", "wake").await;
    supervise.until_state("one", "ready").await;
    kill(Pid::from_raw(first), Signal::SIGTERM).unwrap();
    assert_eq!(supervise.end().await.code(), Some(0));
    assert_eq!(supervise.living(), Vec::<i32>::new());
}
