//! Real clients, real servers, kill -9: every client keeps its one connection and gets the right answer.
//!
//! Without what `tests/setup` installs a story says so in one line and passes. Calls are made while the server is still
//! starting, so they wait in mcp-sessiond, and a `count` that ran twice or not at all shows in its numbers.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

use std::{fs, path::Path};

use serde_json::{Value, json};
use support::{RealClient, RealServer, Sessiond, have, real_script};
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
/// Every generation of clients that `tests/real/client` knows.
const CLIENTS: [&str; 4] = ["python-1.12", "python-1.30", "python-2.3", "typescript-1.32"];
/// What those need.
const CLIENTS_NEED: [&str; 5] = ["python-1.12", "python-1.30", "python-2.3", "typescript-1.32", "node"];

async fn connected(names: &[&'static str], url: &str) -> Vec<RealClient> {
    let mut connecting = JoinSet::new();
    for &name in names {
        let url = url.to_owned();
        connecting.spawn(async move { RealClient::connect(name, &url).await });
    }
    connecting.join_all().await
}

/// All clients call `tool` at once; their answers in any order.
async fn all_call(clients: &mut Vec<RealClient>, tool: &'static str, arguments: Value) -> Vec<String> {
    let mut calling = JoinSet::new();
    for mut client in clients.drain(..) {
        let arguments = arguments.clone();
        calling.spawn(async move {
            let answer = client.call(tool, arguments).await;
            let answer = answer.unwrap_or_else(|error| panic!("{}: {tool}: {error}", client.name()));
            (client, answer)
        });
    }
    let (called, answers) = calling.join_all().await.into_iter().unzip();
    *clients = called;
    answers
}

async fn all_quit(clients: Vec<RealClient>) {
    for client in clients {
        client.quit().await;
    }
}

/// How often each session that mcp-sessiond has was healed.
async fn heals(sessiond: &Sessiond) -> Vec<u64> {
    let (_, sessions) = sessiond.control("GET", "/sessions").await;
    sessions.as_array().unwrap().iter().map(|session| session["heals"].as_u64().unwrap()).collect()
}

mod on_serena {
    use super::*;

    const SERENA_NEEDS: [&str; 2] = ["serena", "pyright"];

    /// Serena answers, has the project active, and its language server works.
    async fn look_around(clients: &mut Vec<RealClient>) {
        for answer in all_call(clients, "list_dir", json!({"relative_path": ".", "recursive": false})).await {
            assert!(answer.contains("greeting.py"), "{answer}");
        }
        for answer in all_call(clients, "find_symbol", json!({"name_path_pattern": "Greeter/greet"})).await {
            assert!(answer.contains("Greeter/greet") && answer.contains("greeting.py"), "{answer}");
        }
    }

    #[tokio::test]
    async fn four_generations_of_clients_outlive_serena_and_sessiond() {
        if !have(&[&SERENA_NEEDS[..], &CLIENTS_NEED].concat()) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut serena = RealServer::serena(folder.path(), &[]).await;
        let mut sessiond = Sessiond::start(BINARY, &["--upstream", &serena.url()]).await;
        let mut clients = connected(&CLIENTS, &sessiond.url()).await;
        look_around(&mut clients).await;
        assert_eq!(heals(&sessiond).await, [0; 4]);

        serena.kill9().await;
        tokio::join!(serena.start_again(), look_around(&mut clients));
        assert_eq!(heals(&sessiond).await, [1; 4], "one session a client, healed once");

        sessiond.kill9().await;
        serena.kill9().await;
        sessiond.start_again().await;
        tokio::join!(serena.start_again(), look_around(&mut clients));
        assert_eq!(heals(&sessiond).await, [2; 4], "one session a client, healed once more");

        all_quit(clients).await;
        serena.kill9().await;
    }

    #[tokio::test]
    async fn the_project_that_one_client_activated_is_active_again_for_everybody() {
        if !have(&[&SERENA_NEEDS[..], &CLIENTS_NEED].concat()) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut serena = RealServer::serena(folder.path(), &["--no-project"]).await;
        let mut sessiond = Sessiond::start(BINARY, &["--upstream", &serena.url()]).await;
        let mut active = connected(&["python-1.30"], &sessiond.url()).await;
        let mut other = connected(&["typescript-1.32"], &sessiond.url()).await;
        let before = other[0].call("list_dir", json!({"relative_path": ".", "recursive": false})).await;
        assert!(before.as_ref().is_err_and(|error| error.contains("No active project")), "{before:?}");
        let project = folder.path().join("project");
        all_call(&mut active, "activate_project", json!({"project": project, "session": "story"})).await;
        look_around(&mut other).await;

        serena.kill9().await;
        tokio::join!(serena.start_again(), look_around(&mut other));
        look_around(&mut active).await;

        sessiond.kill9().await;
        serena.kill9().await;
        sessiond.start_again().await;
        tokio::join!(serena.start_again(), look_around(&mut active));
        look_around(&mut other).await;

        all_quit(active).await;
        all_quit(other).await;
        serena.kill9().await;
    }

    #[tokio::test]
    async fn serena_on_stdio_is_started_again_and_leaves_nothing_behind() {
        if !have(&["serena", "pyright", "python-2.3"]) {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let script = real_script("serena");
        let command = ["--", script.to_str().unwrap(), folder.path().to_str().unwrap()];
        let mut sessiond = Sessiond::start(BINARY, &command).await;
        let mut clients = connected(&["python-2.3"], &sessiond.url()).await;
        look_around(&mut clients).await;

        let (_, status) = sessiond.control("GET", "/status").await;
        let pid = status["back"]["processes"][0]["pid"].as_i64().unwrap();
        let root = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(root, nix::sys::signal::Signal::SIGKILL).unwrap();
        look_around(&mut clients).await;
        assert_eq!(heals(&sessiond).await, [1]);
        sessiond.until_status(|status| status["back"]["processes"].as_array().unwrap().len() == 1).await;
        let (_, status) = sessiond.control("GET", "/status").await;
        assert_ne!(status["back"]["processes"][0]["pid"], pid);

        assert!(processes_in(folder.path()).len() >= 2, "Serena and its language server run");
        assert!(sessiond.stop().await.success());
        assert_eq!(processes_in(folder.path()), Vec::<String>::new());
    }

    /// The command lines of all processes of a Serena that was started on `folder`: they inherit its home.
    fn processes_in(folder: &Path) -> Vec<String> {
        let home = format!("SERENA_HOME={}", folder.join("home").display());
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        processes
            .filter(|process| {
                let environment = fs::read(process.join("environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
            })
            .map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default())
            .collect()
    }
}

mod on_each_sdk {
    use super::*;

    /// Clients `names` on server `name` call, and call again after a kill -9 of the server, of mcp-sessiond, of both.
    async fn outlives_every_kill(name: &str, names: &[&'static str]) {
        let mut server = RealServer::start(name).await;
        let mut sessiond = Sessiond::start(BINARY, &["--upstream", &server.url()]).await;
        let mut clients = connected(names, &sessiond.url()).await;
        let counts = name != "everything-ts";
        if counts {
            counted(&mut clients, 0).await;
        }
        echoed(&mut clients, "before").await;

        server.kill9().await;
        tokio::join!(server.start_again(), async {
            if counts {
                counted(&mut clients, 0).await;
            }
            echoed(&mut clients, "after the server").await;
        });
        assert_eq!(heals(&sessiond).await, vec![1; names.len()], "one session a client, healed once");

        sessiond.kill9().await;
        sessiond.start_again().await;
        if counts {
            counted(&mut clients, names.len()).await;
        }
        echoed(&mut clients, "after mcp-sessiond").await;

        sessiond.kill9().await;
        server.kill9().await;
        sessiond.start_again().await;
        tokio::join!(server.start_again(), async {
            if counts {
                counted(&mut clients, 0).await;
            }
            echoed(&mut clients, "after both").await;
        });
        assert_eq!(heals(&sessiond).await.len(), names.len(), "no client has connected again");
        if counts {
            assert_eq!(
                all_call(&mut clients, "pid", json!({})).await,
                vec![server.pid().to_string(); names.len()]
            );
        }
        all_quit(clients).await;
    }

    /// Each client counts once, in a process where that was done `before` times: nothing is lost, nothing done twice.
    async fn counted(clients: &mut Vec<RealClient>, before: usize) {
        let mut numbers: Vec<usize> = all_call(clients, "count", json!({}))
            .await
            .iter()
            .map(|number| number.parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, Vec::from_iter(before + 1..=before + clients.len()));
    }

    async fn echoed(clients: &mut Vec<RealClient>, text: &str) {
        // `message` is what server-everything calls it; each ignores what the other wants.
        for answer in all_call(clients, "echo", json!({"text": text, "message": text})).await {
            assert!(answer.ends_with(text), "{answer} is not {text}");
        }
    }

    fn can_run(server: &'static str) -> bool {
        have(&[&CLIENTS_NEED[..], &[server]].concat())
    }

    #[tokio::test]
    async fn python_1_12_outlives_every_kill() {
        if can_run("python-1.12") {
            outlives_every_kill("python-1.12", &CLIENTS).await;
        }
    }

    #[tokio::test]
    async fn python_1_30_outlives_every_kill() {
        if can_run("python-1.30") {
            outlives_every_kill("python-1.30", &CLIENTS).await;
        }
    }

    #[tokio::test]
    async fn python_2_3_outlives_every_kill() {
        if can_run("python-2.3") {
            outlives_every_kill("python-2.3", &CLIENTS).await;
        }
    }

    #[tokio::test]
    async fn typescript_1_32_outlives_every_kill() {
        if can_run("typescript-1.32") {
            outlives_every_kill("typescript-1.32", &CLIENTS).await;
        }
    }

    #[tokio::test]
    async fn typescript_with_one_transport_outlives_every_kill() {
        if can_run("typescript-1.32") {
            // It takes one client at a time.
            for client in CLIENTS {
                outlives_every_kill("typescript-single", &[client]).await;
            }
        }
    }

    #[tokio::test]
    async fn server_everything_outlives_every_kill() {
        if can_run("everything-ts") {
            outlives_every_kill("everything-ts", &CLIENTS).await;
        }
    }

    #[tokio::test]
    async fn a_client_that_launches_sessiond_outlives_its_servers() {
        if !have(&["python-1.12", "python-1.30", "python-2.3"]) {
            return;
        }
        for name in ["python-1.12", "python-1.30", "python-2.3"] {
            let mut server = RealServer::start(name).await;
            let upstream = server.url();
            let stdio = ["stdio", "--upstream", &upstream];
            let mut clients = vec![RealClient::launching(Path::new(BINARY), &stdio).await];
            counted(&mut clients, 0).await;
            for round in ["first", "second"] {
                server.kill9().await;
                tokio::join!(server.start_again(), async {
                    counted(&mut clients, 0).await;
                    echoed(&mut clients, round).await;
                });
            }
            assert_eq!(all_call(&mut clients, "pid", json!({})).await, [server.pid().to_string()]);
            all_quit(clients).await;
        }
    }
}
