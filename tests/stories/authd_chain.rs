//! The whole way: real clients with a token each, mcp-authd, mcp-sessiond, serena-supervise, and a Serena of its own for
//! each of them. Without what `tests/setup` installs a story says so in one line and passes.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

mod real {
    use std::fs;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use serde_json::{Value, json};
    use support::{Authd, Client, Curl, RealClient, Sessiond, Supervise, fake_backend, have, real_script};
    use tokio::time::timeout;

    const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
    const NEEDED: [&str; 6] = ["serena", "pyright", "python-1.30", "python-2.3", "typescript-1.32", "node"];
    const PEOPLE: [(&str, &str); 2] =
        [("alice", "alice-has-a-long-token"), ("bob", "bob-has-another-long-token")];

    /// A daemon of another crate, built beside the one under test.
    fn beside(name: &str) -> String {
        let binary = fake_backend().with_file_name(name);
        assert!(binary.exists(), "{} is not there; run `cargo build --workspace --bins`", binary.display());
        binary.to_str().unwrap().to_owned()
    }

    struct Chain {
        supervise: Supervise,
        sessiond: Sessiond,
        authd: Authd,
    }

    fn tokens(people: &[(&str, &str)]) -> String {
        people.iter().map(|(name, token)| format!("[token.{name}]\ntoken = '{token}'\n")).collect()
    }

    impl Chain {
        /// An instance for each of [`PEOPLE`], which sleeps until somebody calls.
        async fn start() -> Chain {
            let supervise = Supervise::start(&beside("serena-supervise"), |ground| {
                let serena = real_script("serena");
                let instance = |(name, _): &(&str, &str)| {
                    let command =
                        [serena.to_str().unwrap(), &ground.file(name), "--port", "{port}"].join("\", \"");
                    let socket = ground.socket(name);
                    let text = format!(
                        "command = [\"{command}\"]\nsocket = 'unix:{}'\nstart_timeout = '2m'\nliveness.interval = '5s'\nliveness.timeout = '5s'\n",
                        socket.display()
                    );
                    ground.table(&format!("instance.{name}"), &text)
                };
                PEOPLE.iter().map(instance).collect()
            })
            .await;
            let sockets = supervise.url("alice").replace("alice.sock", "{route}.sock");
            let settings = move |directory: &std::path::Path| {
                format!(
                    "upstream = '{sockets}'\n[[listener]]\naddress = 'unix:{}'\ntrusted = true\n",
                    directory.join("mcp.sock").display()
                )
            };
            let sessiond = Sessiond::start_set(&beside("mcp-sessiond"), settings, &[]).await;
            let upstream = sessiond.url_of(1);
            let authd = Authd::start(BINARY, |directory| {
                let tokens = Authd::secret_file(directory, "tokens.toml", &tokens(&PEOPLE));
                format!("tokens = '{}'\nupstream = '{upstream}'\n", tokens.display())
            })
            .await;
            Chain { supervise, sessiond, authd }
        }

        async fn connect(&self, client: &str, (_, token): (&str, &str)) -> RealClient {
            RealClient::connect_with_token(client, &self.authd.url(), token).await
        }

        async fn stop(mut self) {
            assert!(self.authd.stop().await.success());
            assert!(self.sessiond.stop().await.success());
            self.supervise.stop_clean().await;
        }
    }

    async fn listed(client: &mut RealClient) -> String {
        client.call("list_dir", json!({ "relative_path": ".", "recursive": false })).await.unwrap()
    }

    #[tokio::test]
    async fn two_tokens_have_two_serenas_and_neither_sees_the_others_project() {
        if !have(&NEEDED) {
            return;
        }
        let chain = Chain::start().await;
        let [alice, bob] = PEOPLE;
        let mut of_alice = chain.connect("python-2.3", alice).await;
        let mut of_bob = chain.connect("typescript-1.32", bob).await;
        for (client, (name, _)) in [(&mut of_alice, alice), (&mut of_bob, bob)] {
            let command = format!("touch only-{name}-has-this");
            client.call("execute_shell_command", json!({ "command": command })).await.unwrap();
        }
        let (of_a, of_b) = (listed(&mut of_alice).await, listed(&mut of_bob).await);
        assert!(of_a.contains("only-alice-has-this") && !of_a.contains("only-bob-has-this"), "{of_a}");
        assert!(of_b.contains("only-bob-has-this") && !of_b.contains("only-alice-has-this"), "{of_b}");

        // The Serena of one is killed: the other does not notice, and neither does its own client.
        let pid = |instance: &Value| instance["pid"].as_i64().unwrap() as i32;
        let before = (chain.supervise.instance("alice").await, chain.supervise.instance("bob").await);
        kill(Pid::from_raw(pid(&before.0)), Signal::SIGKILL).unwrap();
        assert!(listed(&mut of_alice).await.contains("only-alice-has-this"));
        assert!(listed(&mut of_bob).await.contains("only-bob-has-this"));
        let after = (chain.supervise.instance("alice").await, chain.supervise.instance("bob").await);
        assert!(pid(&before.0) != pid(&after.0) && pid(&before.1) == pid(&after.1));

        // curl sends what it is told to and nothing else, with one token and with the other.
        for ((name, token), other) in [(alice, "bob"), (bob, "alice")] {
            let Some(curl) = Curl::at(&chain.authd.url()).await else { break };
            let curl = curl.with(&format!("Authorization: Bearer {token}")).into_session().await;
            let arguments = json!({ "relative_path": ".", "recursive": false });
            let params = json!({ "name": "list_dir", "arguments": arguments });
            let seen = curl
                .post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }))
                .await;
            let file = |name: &str| format!("only-{name}-has-this");
            assert!(seen.contains(&file(name)) && !seen.contains(&file(other)), "{seen}");
        }

        // A session of one is nothing to the other, whatever its id.
        let builder = |(_, token): (&str, &str)| {
            Client::builder(&chain.authd.url()).header("authorization", &format!("Bearer {token}")).lenient()
        };
        let own = builder(alice).connect().await.unwrap();
        let stolen = builder(bob).session(&own.session_id().unwrap()).unconnected();
        let seen =
            stolen.call_text("list_dir", json!({ "relative_path": ".", "recursive": false })).await.unwrap();
        assert!(seen.contains("only-bob-has-this") && !seen.contains("only-alice-has-this"), "{seen}");

        // One token is revoked while its stream is open.
        let mut stream = own.open_get().await.unwrap();
        Authd::secret_file(chain.authd.directory(), "tokens.toml", &tokens(&PEOPLE[1..]));
        let end = async { while stream.next_event().await.is_some() {} };
        timeout(Duration::from_secs(10), end).await.expect("the stream of a revoked token is cut");
        let refused = of_alice.call("list_dir", json!({ "relative_path": ".", "recursive": false })).await;
        assert!(refused.is_err(), "{refused:?}");
        assert!(listed(&mut of_bob).await.contains("only-bob-has-this"));
        of_bob.quit().await;
        drop((of_alice, stream, own, stolen));

        let audit = chain.authd.out().join("\n");
        assert!(audit.contains("execute_shell_command") && !audit.contains("only-alice"), "{audit}");
        assert!(fs::read_dir(chain.supervise.file("alice/project")).unwrap().count() > 0);
        chain.stop().await;
    }

    #[tokio::test]
    async fn clients_do_not_notice_that_any_one_daemon_is_killed() {
        if !have(&NEEDED) {
            return;
        }
        let mut chain = Chain::start().await;
        let [alice, _] = PEOPLE;
        let mut clients =
            vec![chain.connect("python-1.30", alice).await, chain.connect("typescript-1.32", alice).await];
        for client in &mut clients {
            assert!(listed(client).await.contains("greeting.py"));
        }
        chain.sessiond.kill9().await;
        chain.sessiond.start_again().await;
        for client in &mut clients {
            assert!(listed(client).await.contains("greeting.py"));
        }
        chain.authd.kill9().await;
        chain.authd.start_again().await;
        for client in &mut clients {
            assert!(listed(client).await.contains("greeting.py"));
        }
        chain.supervise.kill9().await;
        chain.supervise.start_again().await;
        for client in &mut clients {
            assert!(listed(client).await.contains("greeting.py"));
        }
        for client in clients {
            client.quit().await;
        }
        chain.stop().await;
    }
}
