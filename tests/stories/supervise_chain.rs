//! The whole chain with real Serena: real clients, mcp-sessiond, the supervisor's socket, Serena and its language server.
//! It may be killed or fall asleep: clients call on, and no process of before is left. Without what `tests/setup`
//! installs a story says so in one line and passes.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

mod real {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::{Path, PathBuf},
        process::Command,
        time::Duration,
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    use serde_json::{Value, json};
    use support::{Client, Events, Ground, RealClient, Sessiond, Supervise, fake_backend, have, real_script};
    use tokio::time::{Instant, timeout};

    const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");
    const NEEDED: [&str; 5] = ["serena", "pyright", "python-2.3", "typescript-1.32", "node"];
    /// Real ones; each opens a stream for what the server has to say and holds it.
    const CLIENTS: [&str; 2] = ["python-2.3", "typescript-1.32"];
    /// How long a process of a killed tree may be left.
    const GONE: Duration = Duration::from_secs(2);
    /// What the supervisor does unless told otherwise, and what these stories are about: no haste but in what they set.
    const USUAL: &str = "start_timeout = '2m'\nliveness.interval = '5s'\nliveness.timeout = '5s'\n\
        stop.drain = '10s'\nstop.term = '10s'\nstop.int = '5s'\nstop.tree = '5s'\n\
        backoff.first = '500ms'\nbackoff.longest = '60s'\n";

    /// Serena as the instance `one`, and mcp-sessiond in front of its socket.
    struct Chain {
        supervise: Supervise,
        sessiond: Sessiond,
    }

    impl Chain {
        /// `settings` of the instance, which may look at its ground, and of mcp-sessiond.
        async fn start(settings: impl FnOnce(&Ground) -> String, before: &str) -> Chain {
            let supervise = Supervise::start(BINARY, |ground| {
                let folder = ground.file("serena");
                let command =
                    [real_script("serena").to_str().unwrap(), &folder, "--port", "{port}"].join("''', '''");
                let socket = ground.socket("one");
                let settings = settings(ground);
                let text = format!(
                    "command = ['''{command}''']\nsocket = 'unix:{}'\n{USUAL}{settings}",
                    socket.display()
                );
                ground.table("instance.one", &text)
            });
            let supervise = supervise.await;
            let sessiond = fake_backend().with_file_name("mcp-sessiond");
            assert!(
                sessiond.exists(),
                "{} is not there; run `cargo build -p mcp-sessiond`",
                sessiond.display()
            );
            let settings = format!("upstream = '{}'\n{before}", supervise.url("one"));
            let sessiond = Sessiond::start_set(sessiond.to_str().unwrap(), |_| settings, &[]).await;
            Chain { supervise, sessiond }
        }

        async fn connect(&self) -> Vec<RealClient> {
            let url = self.sessiond.url();
            let (python, typescript) =
                tokio::join!(RealClient::connect(CLIENTS[0], &url), RealClient::connect(CLIENTS[1], &url));
            vec![python, typescript]
        }

        /// How often each session was healed.
        async fn heals(&self) -> Vec<u64> {
            let (_, sessions) = self.sessiond.control("GET", "/sessions").await;
            sessions.as_array().unwrap().iter().map(|session| session["heals"].as_u64().unwrap()).collect()
        }

        /// Its main process, and every process of its tree, wherever it went.
        async fn tree(&self) -> (Process, Vec<Process>) {
            let one = self.supervise.until_state("one", "ready").await;
            let root = one["pid"].as_i64().unwrap() as i32;
            let strays = self.supervise.living();
            let tree = below(root, &strays);
            (*tree.iter().find(|process| process.pid == root).unwrap(), tree)
        }

        /// SIGKILL for its main process alone while the clients are connected: their next calls are answered by a new
        /// one, and of the old tree nothing is left.
        async fn outlives_kill9(&self, clients: &mut [RealClient]) {
            let (root, tree) = self.tree().await;
            let words = tree.iter().map(Process::command).collect::<Vec<_>>();
            assert!(
                words.iter().any(|words| words.contains("pyright")),
                "its language server runs: {words:?}"
            );
            kill(Pid::from_raw(root.pid), Signal::SIGKILL).unwrap();
            let killed = Instant::now();
            let gone = async {
                self.supervise.until("one", |_| !tree.iter().any(Process::is_there)).await;
                killed.elapsed()
            };
            let (gone, ()) = tokio::join!(gone, look_around(clients));
            println!("gone after {gone:?}, answered after {:?}", killed.elapsed());
            assert!(gone < GONE, "the last of {words:#?} was gone after {gone:?}");
            // What a wrapper left running may have answered until it was gone; this is the new one.
            let diary = self.supervise.file("diary");
            for client in clients.iter_mut() {
                let written = json!({ "command": format!("echo {} >> '{diary}'", client.name()) });
                client.call("execute_shell_command", written).await.unwrap();
            }
            assert_eq!(Vec::from_iter(fs::read_to_string(diary).unwrap().lines()), CLIENTS, "each once");
            assert_eq!(self.heals().await, [1; 2], "one heal a session");
            let (new, _) = self.tree().await;
            assert_ne!(new, root);
            // One more where somebody else had taken the port meanwhile.
            assert!(self.supervise.instance("one").await["starts"].as_u64() >= Some(2));
        }

        async fn stop(mut self, clients: Vec<RealClient>) {
            for client in clients {
                client.quit().await;
            }
            assert!(self.sessiond.stop().await.success());
            self.supervise.stop_clean().await;
        }
    }

    /// A process; when it began tells it from a later one of the same id.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Process {
        pid: i32,
        parent: i32,
        /// Clock ticks since the machine was started.
        began: u64,
    }

    impl Process {
        /// `None` when there is none.
        fn of(pid: i32) -> Option<Process> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // From the third field on; the second is a name, in which anything may stand.
            let fields = Vec::from_iter(stat.rsplit_once(") ")?.1.split(' '));
            Some(Process { pid, parent: fields.get(1)?.parse().ok()?, began: fields.get(19)?.parse().ok()? })
        }

        /// A zombie is there too: nobody has waited for it.
        fn is_there(&self) -> bool {
            Process::of(self.pid).is_some_and(|now| now.began == self.began)
        }

        fn command(&self) -> String {
            let words = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
            String::from_utf8_lossy(&words).replace('\0', " ")
        }
    }

    /// The process, all that `/proc` shows below it, and the `strays`.
    fn below(root: i32, strays: &[i32]) -> Vec<Process> {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut others = Vec::from_iter(pids.filter_map(Process::of));
        let mut tree = Vec::new();
        let mut found = others.extract_if(.., |it| it.pid == root || strays.contains(&it.pid)).collect();
        while !Vec::is_empty(&found) {
            tree.append(&mut found);
            found = others.extract_if(.., |it| tree.iter().any(|parent| parent.pid == it.parent)).collect();
        }
        tree
    }

    /// Serena answers all at once, and so does its language server.
    async fn look_around(clients: &mut [RealClient]) {
        let [python, typescript] = clients else { panic!("two clients") };
        let symbol = json!({ "name_path_pattern": "Greeter/greet" });
        let (one, other) =
            tokio::join!(python.call("find_symbol", symbol.clone()), typescript.call("find_symbol", symbol));
        for answer in [one.unwrap(), other.unwrap()] {
            assert!(answer.contains("Greeter/greet") && answer.contains("greeting.py"), "{answer}");
        }
    }

    /// Waits for `more` comments on a stream that must not end.
    async fn until_comments(events: &mut Events, more: u64) {
        let enough = events.comments() + more;
        let heard = timeout(Duration::from_secs(60), async {
            while events.comments() < enough {
                // An event is taken only when its blank line is read, so this look at the counter loses nothing.
                let event = timeout(Duration::from_millis(10), events.next_event()).await;
                assert_ne!(event, Ok(None), "the stream ended: {:?}", events.broken());
            }
        });
        heard.await.expect("the stream is kept alive with comments");
    }

    /// A place for `tests/real/serena` to look for software, in which `serena` is what runs it through `uvx`, without the
    /// network; `None` and a line that says so if what `tests/setup` downloaded is not there any more.
    fn through_uvx(ground: &Path) -> Option<PathBuf> {
        let real = fs::canonicalize(real_script("..")).unwrap();
        let cache = std::env::var_os("SERENA_MCP_CACHE").filter(|path| !path.is_empty());
        let cache = cache.map_or_else(|| real.parent().unwrap().join(".cache"), PathBuf::from);
        let substitute = ground.join("cache");
        let serena = substitute.join("serena");
        fs::create_dir(&substitute).unwrap();
        symlink(cache.join("bin"), substitute.join("bin")).unwrap();
        let script = format!(
            "#!/bin/sh\nexport UV_CACHE_DIR=\"${{UV_CACHE_DIR:-{0}/uv}}\" UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never\n\
             exec '{0}/bin/uvx' --offline --python \"$(cat '{0}/python')\" --constraints '{1}' --from serena-agent \
             serena \"$@\"\n",
            cache.display(),
            real.join("real/serena.txt").display()
        );
        fs::write(&serena, script).unwrap();
        fs::set_permissions(&serena, fs::Permissions::from_mode(0o755)).unwrap();
        let have = fs::read_to_string(cache.join("have")).unwrap();
        let others = have.lines().filter(|line| !line.starts_with("serena ")).map(|line| format!("{line}\n"));
        let lines = others.chain([format!("serena {}\n", serena.display())]).collect::<String>();
        fs::write(substitute.join("have"), lines).unwrap();
        // The first time it makes an environment of what was downloaded.
        let tried = Command::new(&serena).arg("--version").output().unwrap();
        if !tried.status.success() {
            println!(
                "skipped: a wrapper around Serena because uvx has not all of it; remove .cache/stamp/serena, run tests/setup"
            );
            return None;
        }
        Some(substitute)
    }

    #[tokio::test]
    async fn clients_do_not_notice_that_serena_is_killed() {
        if !have(&NEEDED) {
            return;
        }
        let chain = Chain::start(|_| String::new(), "").await;
        let mut clients = chain.connect().await;
        look_around(&mut clients).await;
        assert_eq!(chain.heals().await, [0; 2]);
        chain.outlives_kill9(&mut clients).await;
        chain.stop(clients).await;
    }

    #[tokio::test]
    async fn what_a_killed_uvx_leaves_running_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        if !have(&[&NEEDED[..], &["uv"]].concat()) {
            return;
        }
        let Some(cache) = through_uvx(folder.path()) else { return };
        let chain = Chain::start(|_| format!("env.SERENA_MCP_CACHE = '''{}'''\n", cache.display()), "").await;
        let mut clients = chain.connect().await;
        look_around(&mut clients).await;
        let (root, tree) = chain.tree().await;
        let serena = tree.iter().find(|process| process.parent == root.pid).unwrap();
        assert!(root.command().contains("uvx") && serena.command().contains("start-mcp-server"), "{tree:?}");
        chain.outlives_kill9(&mut clients).await;
        chain.stop(clients).await;
    }

    #[tokio::test]
    async fn it_sleeps_under_open_streams_and_a_call_wakes_it() {
        if !have(&NEEDED) {
            return;
        }
        let before = "[stream]\npark_after = '500ms'\nkeep_alive = '50ms'\n";
        let chain = Chain::start(|_| "sleep_after = '2s'\n".into(), before).await;
        let client = Client::connect(&chain.sessiond.url()).await.unwrap();
        let session = client.session_id();
        let mut stream = client.open_get().await.unwrap();
        let mut others = chain.connect().await;
        look_around(&mut others).await;
        for _ in 0..2 {
            let asleep = |one: &Value| one["state"] == "stopped" && one["why"] == "asleep";
            let before = chain.supervise.until("one", asleep).await;
            assert_eq!(chain.supervise.living(), Vec::<i32>::new());
            let healed = chain.heals().await.iter().sum::<u64>();
            // For a second nobody wakes it, least of all the streams that are open.
            until_comments(&mut stream, 20).await;
            let one = chain.supervise.instance("one").await;
            assert!(asleep(&one) && one["starts"] == before["starts"] && one["failures"] == 0, "{one:#}");
            let folder = json!({ "relative_path": ".", "recursive": false });
            let listed = client.call_text("list_dir", folder).await.unwrap();
            assert!(listed.contains("greeting.py"), "{listed}");
            assert_eq!(client.session_id(), session);
            look_around(&mut others).await;
            assert_eq!(chain.heals().await.iter().sum::<u64>(), healed + 3, "one heal a session");
            until_comments(&mut stream, 1).await;
        }
        drop((client, stream));
        chain.stop(others).await;
    }
}
