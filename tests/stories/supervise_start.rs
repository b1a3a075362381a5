//! How an instance comes up: what counts as ready, what happens when it does not become so, and whose port it is.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use serde_json::json;
use support::{Flavour, Gate, Ground, Server, Supervise};
use tokio::{net::TcpListener, time::Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

fn gated(ground: &Ground, settings: &str, arguments: &[&str]) -> String {
    let gate = ground.file("gate");
    ground.instance("one", settings, &[&["--gate", &gate], arguments].concat())
}

#[tokio::test]
async fn it_is_ready_once_mcp_answers_and_no_probe_leaves_a_session_behind() {
    let mut supervise =
        Supervise::start(BINARY, |ground| gated(ground, "liveness.interval = '20ms'", &[])).await;
    assert_eq!(supervise.instance("one").await["state"], "stopped", "nobody needs it yet");
    let gate = Gate::new(supervise.file("gate"));
    supervise.ask("one", "wake").await;
    let waiting = gate.next().await;
    let probing = supervise.until_state("one", "probing").await;
    assert_eq!(
        (probing["pid"].as_i64(), probing["port"].as_u64()),
        (Some(waiting.pid.into()), Some(waiting.port.into()))
    );
    waiting.go().await;
    supervise.until_state("one", "ready").await;
    let journal = supervise.journal("one");
    journal.until(|journal| journal.count("request") >= 50).await;
    assert_eq!(journal.requests("initialize"), 0);
    let made_up = journal.all("request").iter().all(|it| it["session"].is_string() && it["http"] == "POST");
    assert!(made_up, "without a session id an older Serena would make one");
    let client = supervise.client("one").await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn every_other_probe_waits_for_its_own_fact() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let exists = format!("probe = {{ exec = ['test', '-e', '{}'] }}", ground.file("exists"));
        let gate = ground.file("gate");
        [
            ground.instance("tcp", "probe = 'tcp'", &["--gate", &gate]),
            ground.instance("fd", "probe = 'fd'", &["--gate", &gate, "--ready-fd", "{fd}"]),
            ground.instance("notify", "probe = 'notify'", &["--gate", &gate, "--notify"]),
            ground.instance("http", "probe = { http = '/health' }", &["--plain", "starting,starting,ready"]),
            ground.instance("exec", &exists, &[]),
            ground.instance("none", "probe = 'none'", &["--never-listen"]),
        ]
        .concat()
    })
    .await;
    let gate = Gate::new(supervise.file("gate"));
    for name in ["tcp", "fd", "notify"] {
        supervise.ask(name, "wake").await;
        let waiting = gate.next().await;
        let until = supervise.until_state(name, "probing").await;
        assert_eq!(until["pid"], waiting.pid, "{name}");
        waiting.go().await;
        supervise.until_state(name, "ready").await;
        supervise.client(name).await.unwrap();
    }
    supervise.ask("http", "wake").await;
    supervise.until_state("http", "ready").await;
    let asked = supervise.journal("http").all("request");
    assert!(asked.iter().filter(|it| it["path"] == "/health" && it["http"] == "GET").count() >= 3);
    supervise.ask("exec", "wake").await;
    supervise.journal("exec").until(|journal| journal.count("listening") == 1).await;
    assert_eq!(supervise.instance("exec").await["state"], "probing");
    std::fs::write(supervise.file("exists"), "").unwrap();
    supervise.until_state("exec", "ready").await;
    supervise.ask("none", "wake").await;
    supervise.until_state("none", "ready").await;
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_server_settles_before_it_is_ready() {
    let mut supervise =
        Supervise::start(BINARY, |ground| ground.instance("one", "settle = '400ms'", &[])).await;
    let client = supervise.client("one").await.unwrap();
    let journal = supervise.journal("one");
    let at = |event: &str| {
        journal.events().iter().find(|it| it["event"] == event || it["method"] == event).unwrap()["at_ms"]
            .as_f64()
    };
    let waited = at("initialize").unwrap() - at("listening").unwrap();
    assert!((380.0..5_000.0).contains(&waited), "{waited} ms");
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_server_does_not_get_the_keys_of_snapshots_but_its_hooks_do_and_it_may_ask_for_them() {
    let mut supervise = Supervise::start_with(
        BINARY,
        |ground| {
            let keys = ground.file("keys");
            let hook =
                format!("hooks.before_start.command = ['sh', '-c', 'echo $AWS_SECRET_ACCESS_KEY > {keys}']");
            [ground.instance("one", &hook, &[]), ground.instance("two", "withhold = []", &[])].concat()
        },
        &[("AWS_SECRET_ACCESS_KEY", "of-nobody")],
    )
    .await;
    for (name, expected) in [("one", json!(null)), ("two", json!("of-nobody"))] {
        supervise.client(name).await.unwrap();
        assert_eq!(supervise.journal(name).all("start")[0]["secret"], expected, "{name}");
    }
    assert_eq!(std::fs::read_to_string(supervise.file("keys")).unwrap(), "of-nobody\n");
    let said = supervise.until_logged("not given to the server").await;
    assert!(said.contains("AWS_SECRET_ACCESS_KEY") && !said.contains("of-nobody"), "{said}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_server_gets_its_home_its_directory_its_environment_and_its_name() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let home = ground.file("homes/one");
        let settings = format!(
            "home = '{home}'\ndirectory = '{}'\nenv = {{ GREETING = 'hello {{name}}' }}\nlimits.open_files = 64",
            ground.path().display()
        );
        ground.instance("one", &settings, &[])
    })
    .await;
    supervise.client("one").await.unwrap();
    let start = supervise.journal("one").all("start").remove(0);
    assert_eq!(start["home"], supervise.file("homes/one"));
    assert!(supervise.path().join("homes/one").is_dir(), "made when missing");
    assert_eq!(start["directory"], supervise.path().to_str().unwrap());
    assert_eq!((&start["greeting"], &start["open_files"]), (&json!("hello one"), &json!(64)));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_crash_loop_ends_as_failed_with_its_cause_and_is_tried_again_later() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let settings = "backoff.starts = 3\nbackoff.retry = '700ms'";
        ground.instance("one", settings, &["--exit", "7", "--misbehave-first", "3"])
    })
    .await;
    let client = supervise.client("one").await.unwrap_err();
    assert_eq!(client.status, Some(503), "who waits is told at once when it has failed: {client:?}");
    let failed = supervise.until_state("one", "failed").await;
    assert_eq!((failed["starts"].as_u64(), failed["failures"].as_u64()), (Some(3), Some(3)));
    let cause = failed["cause"].as_str().unwrap();
    assert!(cause.contains("exit code 7") && cause.contains("exits with 7, as it was told"), "{cause}");
    assert!(failed["lines"].to_string().contains("exits with 7"), "{failed}");
    assert_eq!(failed["pid"], json!(null));
    let (status, why) = supervise.control("GET", "/ready").await;
    assert!(status == 503 && why.to_string().contains("one has failed"), "{why}");
    let ready = supervise.until_state("one", "ready").await;
    assert_eq!((&ready["starts"], &ready["cause"]), (&json!(4), &json!(null)));
    supervise.client("one").await.unwrap();
    supervise.stop_clean().await;
}

#[tokio::test]
async fn the_one_try_of_a_failed_instance_fails_it_again() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        ground.instance("one", "backoff.starts = 2\nbackoff.retry = '100ms'", &["--exit", "7"])
    })
    .await;
    supervise.ask("one", "wake").await;
    // Two, then one at a time; each of them is a failure.
    let failed =
        supervise.until("one", |one| one["state"] == "failed" && one["starts"].as_u64() >= Some(5)).await;
    assert_eq!(failed["starts"], failed["failures"]);
    supervise.ask("one", "stop").await;
    supervise.until_state("one", "stopped").await;
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_killed_server_comes_back_and_its_cause_names_the_signal() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        // So that the cause stays to be seen.
        ground.instance("one", "start = 'boot'\nbackoff.first = '20s'\nbackoff.longest = '20s'", &[])
    })
    .await;
    let ready = supervise.until_state("one", "ready").await;
    kill(&ready["pid"], nix::sys::signal::Signal::SIGKILL);
    let paused = supervise.until("one", |one| one["failures"] == 1).await;
    assert!(paused["cause"].as_str().unwrap().contains("SIGKILL"), "{paused}");
    // A person need not wait for the pause.
    supervise.ask("one", "wake").await;
    supervise.until("one", |one| one["state"] == "ready" && one["starts"] == 2).await;
    supervise.stop_clean().await;
}

fn kill(pid: &serde_json::Value, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.as_i64().unwrap() as i32), signal).unwrap();
}

#[tokio::test]
async fn a_server_that_never_listens_is_given_up_in_time_and_named_so() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let settings = "start_timeout = '300ms'\nbackoff.starts = 1\nbackoff.retry = '1h'";
        ground.instance("one", settings, &["--never-listen"])
    })
    .await;
    let refused = supervise.client("one").await.unwrap_err();
    assert_eq!(refused.status, Some(503));
    let failed = supervise.until_state("one", "failed").await;
    assert!(failed["cause"].as_str().unwrap().contains("not ready within 300ms"), "{failed}");
    supervise.until_nothing_lives().await;
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_taken_port_means_at_once_again_on_another() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        // A pause would be noticed.
        gated(ground, "backoff.first = '50s'\nbackoff.longest = '50s'", &[])
    })
    .await;
    let gate = Gate::new(supervise.file("gate"));
    supervise.ask("one", "wake").await;
    let (mut rivals, mut ports) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let waiting = gate.next().await;
        // Between the choice of a port and the server's own bind somebody else takes it.
        rivals.push(TcpListener::bind(("127.0.0.1", waiting.port)).await.unwrap());
        ports.push(waiting.port);
        waiting.go().await;
    }
    let began = Instant::now();
    gate.next().await.go().await;
    let ready = supervise.until_state("one", "ready").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(ready["failures"], 0, "no fault of its own");
    assert!(!ports.contains(&(ready["port"].as_u64().unwrap() as u16)));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_server_that_always_finds_its_port_taken_fails_like_any_other() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        ground.instance("one", "backoff.starts = 2\nbackoff.retry = '1h'", &["--exit", "3"])
    })
    .await;
    supervise.ask("one", "wake").await;
    let failed = supervise.until_state("one", "failed").await;
    assert!(failed["starts"].as_u64().unwrap() < 20, "{failed}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_port_that_its_own_child_has_is_not_taken() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let server = ground.command("one", &[]).join(" ");
        // It exits as a Serena whose port is taken, and leaves a server there.
        let script = format!(
            "{server} & until grep -q listening {} 2>/dev/null; do sleep 0.01; done; exit 3",
            ground.file("one.log")
        );
        let settings = format!(
            "command = ['sh', '-c', '{script}']\nsocket = 'unix:{}'\nbackoff.starts = 1\nbackoff.retry = '1h'\nprobe = 'fd'\n\
             env = {{ READY = '{{fd}}' }}",
            ground.socket("one").display()
        );
        ground.table("instance.one", &settings)
    })
    .await;
    supervise.ask("one", "wake").await;
    let failed = supervise.until_state("one", "failed").await;
    assert_eq!((&failed["starts"], &failed["failures"]), (&json!(1), &json!(1)), "{failed}");
    assert!(failed["cause"].as_str().unwrap().contains("exit code 3"), "{failed}");
    supervise.until_nothing_lives().await;
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_fixed_port_that_is_taken_is_named_and_used_once_it_is_free() {
    let rival = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = rival.local_addr().unwrap().port();
    let mut supervise = Supervise::start(BINARY, |ground| {
        ground.instance("one", &format!("port = {port}\nbackoff.starts = 1000"), &[])
    })
    .await;
    supervise.ask("one", "wake").await;
    let failed = supervise.until("one", |one| one["failures"].as_u64() >= Some(2)).await;
    assert!(failed["cause"].as_str().unwrap().contains(&port.to_string()), "{failed}");
    drop(rival);
    let ready = supervise.until_state("one", "ready").await;
    assert_eq!(ready["port"], port);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_stranger_on_our_port_gets_no_client_and_our_server_another_port() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        gated(ground, "start_timeout = '20s'", &["--never-listen", "--misbehave-first", "1"])
    })
    .await;
    let gate = Gate::new(supervise.file("gate"));
    supervise.ask("one", "wake").await;
    let first = gate.next().await;
    // It answers every probe as a Serena would.
    let stranger = Server::builder(Flavour::Python2).port(first.port).start().await.unwrap();
    let client = {
        let url = supervise.url("one");
        tokio::spawn(async move { support::Client::builder(&url).lenient().connect().await })
    };
    supervise.until("one", |one| one["held"] == 1).await;
    first.go().await;
    gate.next().await.go().await;
    let client = client.await.unwrap().unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    assert_eq!((stranger.initializes(), stranger.executed("count")), (0, 0));
    assert_eq!(supervise.journal("one").executed(), ["count"]);
    drop(client);
    supervise.stop_clean().await;
}
