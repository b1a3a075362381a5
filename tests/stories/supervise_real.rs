//! Real Serena under a real supervisor: probes that leave nothing behind, a busy one is left alone, a frozen one is not,
//! and the state of its language server is known. Without what `tests/setup` installs a story says so and passes.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

mod real {
    use std::{fs, net::TcpListener, path::Path, time::Duration};

    use bytes::Bytes;
    use http::{HeaderValue, Method, Request};
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    use serde_json::{Value, json};
    use supervise::{
        dashboard::{self, Level},
        probe::{Prober, Surroundings},
    };
    use support::{Client, RealServer, Supervise, have, real_script};

    const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
    /// Both with the tools as tools: 2.1.0 answers while a tool runs, 1.7.0 does not.
    const RELEASES: [(&str, &[&str]); 2] = [("serena", &[]), ("serena-1.7", &["--1.7"])];
    /// Three failures in a row are over in a second.
    const QUICK: &str = "start = 'boot'\nstart_timeout = '2m'\nliveness.interval = '100ms'\nliveness.timeout = '200ms'\n\
        liveness.failures = 3\n";

    /// Serena as the instance `one`, in the folder `serena` of the story's ground, where `prepare` is called first.
    async fn supervised(settings: &str, arguments: &[&str], prepare: fn(&Path)) -> Supervise {
        let supervise = Supervise::start(BINARY, |ground| {
            let folder = ground.file("serena");
            fs::create_dir(&folder).unwrap();
            prepare(Path::new(&folder));
            let script = real_script("serena");
            let words =
                [script.to_str().unwrap(), &folder, "--port", "{port}"].into_iter().chain(arguments.to_vec());
            let command: Vec<_> = words.map(|word| format!("'''{word}'''")).collect();
            let socket = ground.socket("one");
            let text = format!(
                "command = [{}]\nsocket = 'unix:{}'\n{settings}",
                command.join(", "),
                socket.display()
            );
            ground.table("instance.one", &text)
        });
        supervise.await
    }

    async fn ready(supervise: &Supervise) -> Value {
        supervise.until("one", |one| one["state"] == "ready").await
    }

    /// A file on which the search for [`ENDLESS`] takes some seconds, in which no other thread of Python may run.
    fn with_a_trap(folder: &Path) {
        fs::create_dir(folder.join("project")).unwrap();
        fs::write(folder.join("project/trap.txt"), format!("{}b\n", "a".repeat(26))).unwrap();
    }

    const ENDLESS: &str = "(a+)+$";

    /// A home in which the language server is a program that is not there.
    fn without_language_server(folder: &Path) {
        let project = folder.join("project");
        fs::create_dir(&project).unwrap();
        fs::copy(real_script("project/greeting.py"), project.join("greeting.py")).unwrap();
        fs::create_dir(folder.join("home")).unwrap();
        let config = "projects: []\nls_specific_settings:\n  python:\n    ls_path: /nonexistent/pyright\n";
        fs::write(folder.join("home/serena_config.yml"), config).unwrap();
    }

    fn memory(pid: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// How many sessions Serena 2.1 says in its own log that it made; 1.7 says so on its output alone.
    fn sessions(folder: &Path) -> usize {
        let days = fs::read_dir(folder.join("home/logs")).unwrap().flatten();
        let files = days.flat_map(|day| fs::read_dir(day.path()).unwrap().flatten());
        files
            .map(|file| fs::read_to_string(file.path()).unwrap().matches("Created new transport").count())
            .sum()
    }

    /// What a probe that names no session would leave in 1.7: a session each, for good.
    async fn a_hundred_naive_probes(url: &str) {
        let client = Client::builder(url).lenient().unconnected();
        for _ in 0..100 {
            let mut request =
                Request::new(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
            *request.method_mut() = Method::POST;
            let headers = request.headers_mut();
            headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
            headers.insert("content-type", HeaderValue::from_static("application/json"));
            assert_eq!(client.raw(request).await.unwrap().status(), 400);
        }
    }

    #[tokio::test]
    async fn a_thousand_probes_make_no_session_and_cost_no_memory() {
        for (release, arguments) in RELEASES {
            if !have(&[release]) {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let mut serena = RealServer::serena(folder.path(), arguments).await;
            let address =
                serena.url().trim_start_matches("http://").trim_end_matches("/mcp").parse().unwrap();
            let prober = Prober::new(&"mcp".parse().unwrap(), address, Surroundings::default()).unwrap();
            let ask = async |times| {
                for _ in 0..times {
                    assert_eq!(prober.ask(Duration::from_secs(20)).await, Ok(()));
                }
            };
            // Whatever it allocates once.
            ask(100).await;
            let before = memory(serena.pid());
            ask(1000).await;
            let grown = memory(serena.pid()).saturating_sub(before);
            assert!(grown < 2 << 20, "{release} grew by {grown} bytes");
            // And both ways in which a session would show do show one.
            if release == "serena" {
                assert_eq!(sessions(folder.path()), 0);
                drop(Client::builder(&serena.url()).lenient().connect().await.unwrap());
                assert_eq!(sessions(folder.path()), 1);
            } else {
                let before = memory(serena.pid());
                a_hundred_naive_probes(&serena.url()).await;
                let grown = memory(serena.pid()).saturating_sub(before);
                assert!(grown > 2 << 20, "a hundred sessions in {grown} bytes");
            }
            serena.kill9().await;
        }
    }

    #[tokio::test]
    async fn a_busy_one_is_left_alone() {
        for (release, arguments) in RELEASES {
            if !have(&[release]) {
                continue;
            }
            let mut supervise = supervised(QUICK, arguments, with_a_trap).await;
            let before = ready(&supervise).await;
            let client = supervise.client("one").await.unwrap();
            let search = json!({ "substring_pattern": ENDLESS, "relative_path": "trap.txt" });
            assert_eq!(client.call_text("search_for_pattern", search).await.unwrap(), "{}");
            supervise.until_logged("it computes").await;
            let slept =
                client.call_text("execute_shell_command", json!({ "command": "sleep 4" })).await.unwrap();
            assert!(slept.contains(r#""return_code":0"#), "{slept}");
            if release == "serena-1.7" {
                supervise.until_logged("it waits for a process that it started").await;
            }
            let one = supervise.instance("one").await;
            assert_eq!((&one["pid"], &one["failures"]), (&before["pid"], &json!(0)), "{release}: {one}");
            drop(client);
            supervise.stop_clean().await;
        }
    }

    #[tokio::test]
    async fn a_frozen_one_is_replaced() {
        if !have(&["serena"]) {
            return;
        }
        let mut supervise = supervised(QUICK, &[], |_| ()).await;
        let first = ready(&supervise).await;
        kill(Pid::from_raw(first["pid"].as_i64().unwrap() as i32), Signal::SIGSTOP).unwrap();
        // However many starts that takes: somebody else may have taken its port meanwhile.
        supervise.until("one", |one| one["state"] == "ready" && one["pid"] != first["pid"]).await;
        let client = supervise.client("one").await.unwrap();
        let listed =
            client.call_text("list_dir", json!({ "relative_path": ".", "recursive": false })).await.unwrap();
        assert!(listed.contains("greeting.py"), "{listed}");
        drop(client);
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn its_language_server_is_seen_and_a_decoy_is_not_asked() {
        if !have(&["serena", "pyright"]) {
            return;
        }
        // Where the dashboard usually is; if somebody is there already, that is the decoy.
        let decoy = TcpListener::bind("127.0.0.1:24282").ok();
        let settings = format!("{QUICK}language_server = true");
        let mut supervise = supervised(&settings, &["--enable-web-dashboard", "true"], |_| ()).await;
        supervise.until("one", |one| one["language_server"] == "ready").await;
        let line = supervise.until_logged("Serena web dashboard started at").await;
        let port = line.find("INFO ").and_then(|at| dashboard::port_in(&line[at..])).unwrap();
        assert_ne!(port, 24282);
        assert_eq!(dashboard::language_server(port).await, Level::Ready);
        if let Some(decoy) = decoy {
            decoy.set_nonblocking(true).unwrap();
            assert!(decoy.accept().is_err(), "the decoy was asked");
        }
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn one_without_its_language_server_serves_and_says_so() {
        if !have(&["serena"]) {
            return;
        }
        let settings = format!("{QUICK}language_server = true");
        let mut supervise = supervised(&settings, &[], without_language_server).await;
        let degraded = supervise.until_state("one", "degraded").await;
        assert_eq!(degraded["failures"], 0, "{degraded}");
        let client = supervise.client("one").await.unwrap();
        let listed =
            client.call_text("list_dir", json!({ "relative_path": ".", "recursive": false })).await.unwrap();
        assert!(listed.contains("greeting.py"), "{listed}");
        drop(client);
        supervise.stop_clean().await;
    }
}
