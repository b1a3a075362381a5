//! Stories that need the whole machine, one at a time.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

mod saturate {
    use std::{path::PathBuf, time::Duration};

    use serde_json::json;
    use support::{Client, Gate, Supervise};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
        task::JoinSet,
        time::{Instant, sleep, timeout},
    };

    const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

    #[tokio::test]
    async fn a_hundred_children_that_nothing_leads_to_are_gone_when_it_is_stopped() {
        let arguments = [
            "--children",
            "100",
            "--double-fork",
            "--setsid",
            "--children-ignore-term",
            "--ignore-term",
            "--ignore-int",
        ];
        let mut supervise =
            Supervise::start(BINARY, |ground| ground.instance("one", "start = 'boot'", &arguments)).await;
        supervise.journal("one").until(|journal| journal.count("child") == 100).await;
        supervise.until_state("one", "ready").await;
        assert_eq!(supervise.living().len(), 101);
        supervise.ask("one", "stop").await;
        supervise.until_state("one", "stopped").await;
        assert_eq!(supervise.living(), Vec::<i32>::new(), "stopped is said when nothing lives, not before");
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn children_without_an_environment_are_found_as_well() {
        let arguments = [
            "--children",
            "20",
            "--double-fork",
            "--setsid",
            "--children-ignore-term",
            "--children-clear-environment",
        ];
        let mut supervise =
            Supervise::start(BINARY, |ground| ground.instance("one", "start = 'boot'", &arguments)).await;
        supervise.journal("one").until(|journal| journal.count("child") == 20).await;
        supervise.until_state("one", "ready").await;
        supervise.ask("one", "stop").await;
        supervise.until_state("one", "stopped").await;
        assert_eq!(supervise.living(), Vec::<i32>::new());
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn a_storm_of_two_hundred_forks_is_ended() {
        let arguments =
            ["--children", "200", "--storm", "--double-fork", "--setsid", "--misbehave-first", "1"];
        let mut supervise =
            Supervise::start(BINARY, |ground| ground.instance("one", "start = 'boot'", &arguments)).await;
        supervise.until_state("one", "ready").await;
        supervise.ask("one", "stop").await;
        supervise.until_state("one", "stopped").await;
        assert_eq!(supervise.living(), Vec::<i32>::new());
        supervise.ask("one", "wake").await;
        supervise.until_state("one", "ready").await;
        supervise.stop_clean().await;
    }

    /// One request of a client that connects, asks, and goes; the status line of the answer.
    async fn ping(socket: PathBuf, round: usize) -> String {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":{round},\"method\":\"ping\"}}");
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:9121\r\nAccept: application/json, text/event-stream\r\n\
             Content-Type: application/json\r\nmcp-session-id: race\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let asked = async {
            let mut stream = UnixStream::connect(socket).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer.lines().next().unwrap_or_default().to_owned())
        };
        match timeout(Duration::from_secs(30), asked).await {
            Ok(answered) => answered.unwrap_or_else(|error| error.to_string()),
            Err(_) => "no answer".into(),
        }
    }

    /// How many files a process has open: what is not closed adds up.
    fn descriptors(pid: u32) -> usize {
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    #[tokio::test]
    async fn a_thousand_connections_at_the_moment_of_going_to_sleep_are_all_served_once() {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        const ROUNDS: usize = 250;
        const SLEEP: u64 = 20;
        let mut supervise = Supervise::start(BINARY, |ground| {
            NAMES.map(|name| ground.instance(name, &format!("sleep_after = '{SLEEP}ms'"), &[])).concat()
        })
        .await;
        for name in NAMES {
            // What is opened once and kept.
            ping(supervise.socket(name), 0).await;
            supervise.until_state(name, "stopped").await;
        }
        let before = descriptors(supervise.pid());
        let mut racers = JoinSet::new();
        for (nth, name) in NAMES.into_iter().enumerate() {
            let socket = supervise.socket(name);
            racers.spawn(async move {
                let mut odd = Vec::new();
                for round in 0..ROUNDS {
                    let answer = ping(socket.clone(), round).await;
                    if !answer.starts_with("HTTP/1.1 404") {
                        odd.push((round, answer));
                    }
                    // The moment is the subject: just before, at, and just after it, in steps of a tenth of a millisecond.
                    let step = (round * 7 + nth * 13) as u64 % 60;
                    sleep(Duration::from_micros(SLEEP * 1_000 - 2_000 + step * 100)).await;
                }
                odd
            });
        }
        for odd in racers.join_all().await {
            assert_eq!(odd, vec![]);
        }
        let mut starts = 0;
        for name in NAMES {
            let journal = supervise.journal(name);
            let served = journal.all("request").iter().filter(|it| it["session"] == "race").count();
            assert_eq!((served, journal.count("overlap")), (ROUNDS + 1, 0), "{name}: none lost, none twice");
            starts += journal.count("start");
            assert_eq!(supervise.instance(name).await["failures"], 0);
        }
        assert!(starts > 100, "only {starts} starts: the moment was missed");
        println!("{starts} starts in {} rounds", NAMES.len() * ROUNDS);
        for name in NAMES {
            supervise.until_state(name, "stopped").await;
        }
        supervise.until("a", |_| descriptors(supervise.pid()) <= before + 2).await;
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn killed_at_any_moment_it_leaves_nothing_that_its_successor_does_not_clear_away() {
        let mut supervise = Supervise::start(BINARY, |ground| {
            let arguments = ["--children", "3", "--double-fork", "--setsid"];
            ground.instance("one", "sleep_after = '60ms'", &arguments)
        })
        .await;
        for round in 0..24 {
            let woken = tokio::spawn(ping(supervise.socket("one"), round));
            // From before the start of the server to after the beginning of its stop.
            sleep(Duration::from_millis(round as u64 * 7)).await;
            supervise.kill9().await;
            woken.await.unwrap();
            supervise.start_again().await;
            // It is ready, and nobody has woken anything yet.
            assert_eq!(supervise.living(), Vec::<i32>::new(), "round {round}");
        }
        assert!(ping(supervise.socket("one"), 0).await.starts_with("HTTP/1.1 404"));
        let journal = supervise.journal("one");
        assert!(journal.count("start") > 12, "the moments were missed");
        assert_eq!(journal.count("overlap"), 0);
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn two_hundred_clients_are_served_with_forty_descriptors() {
        let forty = ["prlimit", "--nofile=40:40"];
        let mut supervise =
            Supervise::start_under(&forty, BINARY, |ground| ground.instance("one", "start = 'boot'", &[]))
                .await;
        let given = supervise.journal("one").all("start")[0]["open_files"].clone();
        assert_eq!(given, 40, "the server has no more than the supervisor");
        let mut clients = JoinSet::new();
        for _ in 0..200 {
            let url = supervise.url("one");
            clients.spawn(async move {
                let client =
                    Client::builder(&url).lenient().patience(Duration::from_secs(60)).connect().await?;
                client.call_text("count", json!({})).await
            });
        }
        let mut refused = 0;
        while let Some(client) = clients.join_next().await {
            match client.unwrap() {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.status, Some(503), "served, or told that it cannot be: {error:?}");
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 0, "they can wait in the kernel until there is room");
        assert_eq!(supervise.journal("one").executed().len(), 200);
        let one = supervise.until("one", |one| one["connections"] == 0).await;
        assert_eq!((&one["state"], &one["starts"]), (&json!("ready"), &json!(1)));
        supervise.stop_clean().await;
    }

    #[tokio::test]
    async fn a_held_connection_costs_little_beyond_the_readiness_of_the_server() {
        let mut supervise = Supervise::start(BINARY, |ground| {
            let gate = ground.file("gate");
            ground.instance("one", "", &["--gate", &gate])
        })
        .await;
        let gate = Gate::new(supervise.file("gate"));
        let mut costs = Vec::new();
        for round in 1..=15 {
            let socket = supervise.socket("one");
            let held = tokio::spawn(async move {
                let answer = ping(socket, round).await;
                (answer, now_ms())
            });
            supervise.until("one", |one| one["held"] == 1).await;
            // Long enough for a lazy probe to have become slow.
            let waiting = gate.next().await;
            sleep(Duration::from_millis(300)).await;
            waiting.go().await;
            let (answer, at) = held.await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
            let listening =
                supervise.journal("one").all("listening").pop().unwrap()["at_ms"].as_f64().unwrap();
            costs.push(at - listening);
            supervise.ask("one", "sleep").await;
            supervise.until_state("one", "stopped").await;
        }
        costs.sort_by(f64::total_cmp);
        println!("a held connection costs {:.1} ms (median; {costs:.1?})", costs[costs.len() / 2]);
        assert!(costs[costs.len() / 2] <= 50.0, "{costs:?}");
        supervise.stop_clean().await;
    }

    fn now_ms() -> f64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs_f64() * 1e3
    }

    #[tokio::test]
    async fn fifty_instances_start_and_stop_together() {
        let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
        let mut supervise = Supervise::start(BINARY, |ground| {
            names.iter().map(|name| ground.instance(name, "start = 'boot'", &[])).collect::<Vec<_>>().concat()
        })
        .await;
        // A free port may be somebody else's by the time a server binds it; that is no failure.
        assert!(
            supervise.instances().await.iter().all(|one| one["state"] == "ready" && one["failures"] == 0)
        );
        let began = Instant::now();
        supervise.stop_clean().await;
        println!("50 instances stopped in {:?}", began.elapsed());
    }
}
