//! The control socket and what an operator does with it: status, readiness, metrics, reload, drain.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use nix::sys::signal::Signal;
use serde_json::json;
use support::{Client, Flavour, Mishap, Server, Sessiond};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

async fn in_front_of(server: &Server, settings: &str) -> Sessiond {
    let settings = format!("upstream = '{}'\n{settings}\n", server.url());
    Sessiond::start_set(BINARY, |_| settings, &[]).await
}

/// The value of one line of `GET /metrics`; `None` if there is no such line.
async fn metric(sessiond: &Sessiond, name: &str) -> Option<f64> {
    let (status, text) = sessiond.control("GET", "/metrics").await;
    assert_eq!(status, 200);
    let text = text.as_str().expect("metrics are text").to_owned();
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends so: {text}");
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn status_says_what_runs_where_and_for_whom() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let _client = Client::connect(&sessiond.url()).await.unwrap();
    let (code, status) = sessiond.control("GET", "/status").await;
    assert_eq!(code, 200);
    assert_eq!(status["daemon"], "mcp-sessiond");
    assert_eq!(status["pid"], sessiond.pid());
    assert_eq!(status["path"], "/mcp");
    assert_eq!(status["sessions"], json!({"live": 1, "healing": 0, "dormant": 0}));
    assert_eq!((&status["parked"], &status["draining"]), (&json!(0), &json!(false)));
    assert!(status.to_string().contains(&server.url()), "{status}");
    assert_eq!(format!("http://{}/mcp", status["listeners"][0].as_str().unwrap()), sessiond.url());
    assert_eq!(sessiond.control("GET", "/ready").await.0, 200);
}

#[tokio::test]
async fn the_control_socket_is_for_its_owner_alone_and_answers_nonsense_with_what_there_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let mode = std::fs::metadata(sessiond.control_socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for (method, path) in [
        ("GET", "/"),
        ("POST", "/status"),
        ("GET", "/reload"),
        ("GET", "/drain"),
        ("DELETE", "/sessions/"),
        ("GET", "/mcp"),
    ] {
        let (status, body) = sessiond.control(method, path).await;
        assert_eq!(status, 404, "{method} {path}");
        assert!(body["error"].as_str().unwrap().contains("/status"), "{method} {path}: {body}");
    }
    let (status, body) = sessiond.control("DELETE", "/sessions/0123").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().unwrap().contains("0123"), "{body}");
}

#[tokio::test]
async fn metrics_count_heals_by_flavour_lost_calls_parked_requests_and_sessions_by_state() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    for name in
        ["mcp_sessiond_parked", "mcp_sessiond_lost_calls_total", "mcp_sessiond_sessions{state=\"live\"}"]
    {
        assert_eq!(metric(&sessiond, name).await, Some(0.0), "{name}");
    }
    let client = Client::connect(&sessiond.url()).await.unwrap();
    assert_eq!(metric(&sessiond, "mcp_sessiond_sessions{state=\"live\"}").await, Some(1.0));
    for heals in [1.0, 2.0] {
        server.forget_sessions();
        client.call("count", json!({})).await.unwrap();
        assert_eq!(metric(&sessiond, "mcp_sessiond_heals_total{flavour=\"404\"}").await, Some(heals));
    }
    server.next(1, Mishap::die_after(0).on("tools/call"));
    client.call("count", json!({})).await.unwrap_err();
    assert_eq!(metric(&sessiond, "mcp_sessiond_lost_calls_total").await, Some(1.0));
    server.stop().await;
    let parked = tokio::spawn({
        let client = client.clone();
        async move { client.call("count", json!({})).await }
    });
    sessiond.until_status(|status| status["parked"] == 1).await;
    assert_eq!(metric(&sessiond, "mcp_sessiond_parked").await, Some(1.0));
    assert_eq!(metric(&sessiond, "mcp_sessiond_sessions{state=\"healing\"}").await, Some(1.0));
    server.start_again().await;
    parked.await.unwrap().unwrap();
    assert_eq!(metric(&sessiond, "mcp_sessiond_parked").await, Some(0.0));
    client.delete().await.unwrap();
    assert_eq!(metric(&sessiond, "mcp_sessiond_sessions{state=\"live\"}").await, Some(0.0));
}

#[tokio::test]
async fn metrics_name_every_series_of_the_documentation() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.forget_sessions();
    client.call("count", json!({})).await.unwrap();
    let (_, text) = sessiond.control("GET", "/metrics").await;
    for series in
        ["heals", "failed_heals", "lost_calls", "heal_seconds", "answer_seconds", "parked", "sessions"]
    {
        assert!(
            text.as_str().unwrap().contains(&format!("# TYPE mcp_sessiond_{series} ")),
            "{series}: {text}"
        );
    }
    assert!(metric(&sessiond, "mcp_sessiond_answer_seconds_count").await.unwrap() >= 3.0);
    assert_eq!(metric(&sessiond, "mcp_sessiond_heal_seconds_count").await, Some(1.0));
}

#[tokio::test]
async fn reload_puts_a_good_file_in_force_and_a_bad_one_changes_nothing_and_says_why() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let file = sessiond.settings_file();
    let stranger = Client::builder(&sessiond.url()).session("from-before").unconnected();
    let write = |settings: &str| {
        std::fs::write(&file, format!("upstream = '{}'\n{settings}\n", server.url())).unwrap()
    };
    write("unknown_ids = 'refuse'\n[limits]\nparked_tim = '5s'");
    let (status, answer) = sessiond.control("POST", "/reload").await;
    assert_eq!(status, 422, "{answer}");
    let why = answer["error"].as_str().unwrap().to_owned();
    assert!(why.contains("settings.toml:4") && why.contains("parked_tim"), "{why}");
    let logged = sessiond.until_logged("not reloaded").await;
    assert!(logged.contains("ERROR") && logged.contains("parked_tim"), "{logged}");
    stranger.call("echo", json!({})).await.expect("half of a bad file is not in force");
    stranger.delete().await.unwrap();
    write("unknown_ids = 'refuse'");
    let (status, answer) = sessiond.control("POST", "/reload").await;
    assert_eq!(status, 200, "{answer}");
    let stranger = Client::builder(&sessiond.url()).session("another").unconnected();
    assert_eq!(stranger.call("echo", json!({})).await.unwrap_err().status, Some(404));
}

#[tokio::test]
async fn sighup_reloads_and_what_needs_a_restart_is_named() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let file = sessiond.settings_file();
    let settings = format!(
        "upstream = '{}'\nheaders = ['X-Added: by reload']\ngrace = '7s'\npath = '/other'\n",
        server.url()
    );
    std::fs::write(&file, settings).unwrap();
    sessiond.signal(Signal::SIGHUP);
    let line = sessiond.until_logged("reloaded").await;
    assert!(line.contains("grace") && !line.contains("headers"), "{line}");
    // The path is in force at once: the client's URL is another now, its session the same.
    let moved =
        Client::builder(&sessiond.url().replace("/mcp", "/other")).session(&client.session_id().unwrap());
    moved.unconnected().call("echo", json!({})).await.unwrap();
    assert_eq!(server.requests().last().unwrap().headers["x-added"], "by reload");
    assert_eq!(server.initializes(), 1);
    let other = server.url().replace("127.0.0.1", "localhost");
    std::fs::write(&file, format!("upstream = '{other}'\n")).unwrap();
    let (_, answer) = sessiond.control("POST", "/reload").await;
    assert!(answer["reloaded"].as_str().unwrap().contains("upstream"), "{answer}");
    std::fs::remove_file(&file).unwrap();
    let (status, answer) = sessiond.control("POST", "/reload").await;
    assert_eq!(status, 422);
    assert!(answer["error"].as_str().unwrap().contains("settings.toml"), "{answer}");
}

#[tokio::test]
async fn a_reload_reads_the_token_anew_and_a_bad_token_file_changes_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start(Flavour::Python2).await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let write = |text: &str, mode: u32| {
        std::fs::write(&token, text).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("first\n", 0o600);
    let sessiond = in_front_of(&server, &format!("token_file = '{}'", token.display())).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let sent = async || {
        client.call("echo", json!({})).await.unwrap();
        server.requests().last().unwrap().headers["authorization"].to_str().unwrap().to_owned()
    };
    assert_eq!(sent().await, "Bearer first");
    write("second\n", 0o644);
    let (status, answer) = sessiond.control("POST", "/reload").await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("chmod 600"), "{answer}");
    assert_eq!(sent().await, "Bearer first");
    write("second\n", 0o600);
    assert_eq!(sessiond.control("POST", "/reload").await.0, 200);
    assert_eq!(sent().await, "Bearer second");
    assert!(!sessiond.log().join("\n").contains("Bearer"), "no token in the log");
}

#[tokio::test]
async fn sessions_are_listed_with_what_an_operator_wants_to_know() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    server.forget_sessions();
    client.call("echo", json!({})).await.unwrap();
    let (_, sessions) = sessiond.control("GET", "/sessions").await;
    let row = &sessions[0];
    assert_eq!(
        (&row["client"], &row["version"], &row["state"], &row["heals"]),
        (&json!("support"), &json!("2025-11-25"), &json!("live"), &json!(1))
    );
    let held = client.session_id().unwrap();
    assert!(!sessions.to_string().contains(&held), "an id is a credential: {sessions}");
    assert!(!sessions.to_string().contains(&server.session_ids()[0]), "{sessions}");
    assert!(!sessiond.log().join("\n").contains(&held), "nor is it logged");
}

/// Asks a TCP address.
async fn ask(address: &str, method: Method, path: &str) -> Response<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    Client::builder(&format!("http://{address}/")).unconnected().raw(request).await.unwrap()
}

#[tokio::test]
async fn observe_serves_ready_and_metrics_and_nothing_else() {
    let server = Server::start(Flavour::Python2).await;
    // A port that was free a moment ago: the daemon does not tell which one it takes for `--observe`.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let sessiond = Sessiond::start(BINARY, &["--upstream", &server.url(), "--observe", &free]).await;
    let ready = ask(&free, Method::GET, "/ready").await;
    assert_eq!(ready.status(), 200);
    let metrics = ask(&free, Method::GET, "/metrics").await;
    assert_eq!(metrics.status(), 200);
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.body().ends_with(b"# EOF\n"));
    for (method, path) in [
        (Method::GET, "/status"),
        (Method::GET, "/sessions"),
        (Method::POST, "/reload"),
        (Method::POST, "/drain"),
        (Method::GET, "/mcp"),
    ] {
        let answer = ask(&free, method, path).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert!(!String::from_utf8_lossy(answer.body()).contains("/reload"), "{path}");
    }
    assert_eq!(sessiond.control("GET", "/ready").await.0, 200, "it was not drained");
}

#[tokio::test]
async fn drain_over_the_control_socket_makes_ready_say_no_until_the_work_is_done() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let working = tokio::spawn({
        let client = client.clone();
        async move { client.call_text("count", json!({"sleep_ms": 1000})).await }
    });
    server.until(|server| server.started("count") == 1).await;
    assert_eq!(sessiond.control("POST", "/drain").await.0, 202);
    let (status, ready) = sessiond.control("GET", "/ready").await;
    assert_eq!(status, 503);
    assert!(ready["reasons"].to_string().contains("draining"), "{ready}");
    assert_eq!(sessiond.control("GET", "/status").await.1["draining"], true);
    assert_eq!(working.await.unwrap().unwrap(), "1");
    let status = sessiond.end().await;
    assert!(status.success(), "{status}");
    assert!(!sessiond.control_socket().exists());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_server_that_is_away_when_no_request_does() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = in_front_of(&server, "grace = '40s'").await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let _events = client.open_get().await.unwrap();
    server.until(|server| server.streams() == 1).await;
    server.stop().await;
    sessiond.until_status(|status| status["sessions"]["healing"] == 1).await;
    let stopping = tokio::time::timeout(Duration::from_secs(15), sessiond.stop());
    assert!(stopping.await.expect("long before the grace is over").success());
}
