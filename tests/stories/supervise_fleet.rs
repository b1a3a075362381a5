//! Many instances of one template: each on its own, at most so many at once, and all renewed by a new generation.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Ground, Supervise};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

/// A template of fake backends; `top` stands before it, `settings` in it.
fn template(ground: &Ground, top: &str, settings: &str) -> String {
    let path = ground.path().display();
    let command = ground.command("{name}", &[]);
    let words: Vec<_> = command.iter().map(|word| format!("'{word}'")).collect();
    let settings = format!(
        "command = [{}]\nsocket = 'unix:{path}/{{name}}.sock'\nhome = '{path}/homes/{{name}}'\n{settings}",
        words.join(", ")
    );
    format!("{top}\n{}", ground.table("template", &settings))
}

async fn count(supervise: &Supervise, name: &str) -> String {
    let client = supervise.client(name).await.unwrap();
    client.call_text("count", json!({})).await.unwrap()
}

#[tokio::test]
async fn each_name_is_an_instance_of_its_own_started_by_its_own_socket() {
    let mut supervise =
        Supervise::start(BINARY, |ground| template(ground, "", "names = ['alice', 'bob', 'carol']")).await;
    assert_eq!(count(&supervise, "alice").await, "1");
    assert_eq!(count(&supervise, "bob").await, "1");
    let instances = supervise.instances().await;
    let states: Vec<_> =
        instances.iter().map(|it| (it["name"].as_str().unwrap(), it["state"].as_str().unwrap())).collect();
    assert_eq!(states, [("alice", "ready"), ("bob", "ready"), ("carol", "stopped")]);
    for name in ["alice", "bob"] {
        let start = supervise.journal(name).all("start").remove(0);
        assert_eq!(start["home"], supervise.file(&format!("homes/{name}")));
    }
    assert!(!supervise.path().join("homes/carol").exists(), "made for who starts");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn whoever_is_idle_longest_makes_room() {
    let mut supervise =
        Supervise::start(BINARY, |ground| template(ground, "max_instances = 2", "names = ['a', 'b', 'c']"))
            .await;
    count(&supervise, "a").await;
    supervise.until("a", |one| one["connections"] == 0).await;
    count(&supervise, "b").await;
    supervise.until("b", |one| one["connections"] == 0).await;
    count(&supervise, "c").await;
    let a = supervise.instance("a").await;
    assert_eq!((&a["state"], &a["why"]), (&json!("stopped"), &json!("asleep")));
    assert_eq!(supervise.instance("b").await["state"], "ready");
    supervise.until("c", |one| one["connections"] == 0).await;
    // It comes back, in the place of b.
    assert_eq!(count(&supervise, "a").await, "1");
    assert_eq!(supervise.instance("b").await["state"], "stopped");
    assert_eq!((supervise.journal("a").count("start"), supervise.journal("c").count("start")), (2, 1));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn who_finds_no_room_waits_and_then_is_told() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        template(ground, "max_instances = 1", "names = ['a', 'b']\nhold.timeout = '700ms'")
    })
    .await;
    let busy = supervise.client("a").await.unwrap();
    let stream = busy.open_get().await.unwrap();
    let refused = supervise.client("b").await.unwrap_err();
    assert_eq!(refused.status, Some(503), "{refused:?}");
    assert_eq!(supervise.journal("b").count("start"), 0);
    assert_eq!(supervise.instance("a").await["state"], "ready", "who is used is not put to sleep");
    drop((busy, stream));
    assert_eq!(count(&supervise, "b").await, "1");
    assert_eq!(supervise.instance("a").await["state"], "stopped");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_wait_for_room_can_be_called_off() {
    let mut supervise =
        Supervise::start(BINARY, |ground| template(ground, "max_instances = 1", "names = ['a', 'b']")).await;
    let busy = supervise.client("a").await.unwrap();
    let stream = busy.open_get().await.unwrap();
    supervise.ask("b", "wake").await;
    supervise.until_state("b", "preparing").await;
    supervise.ask("b", "stop").await;
    supervise.until_state("b", "stopped").await;
    drop((busy, stream));
    supervise.until("a", |one| one["connections"] == 0).await;
    // Nobody waits any more, so nobody has to make room.
    count(&supervise, "a").await;
    assert_eq!((supervise.journal("a").count("start"), supervise.journal("b").count("start")), (1, 0));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn many_more_than_may_run_all_have_their_turn() {
    let names: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
    let listed = names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let mut supervise = Supervise::start(BINARY, |ground| {
        template(ground, "max_instances = 3", &format!("names = [{listed}]"))
    })
    .await;
    let mut turns = tokio::task::JoinSet::new();
    for name in &names {
        let url = supervise.url(name);
        turns.spawn(async move {
            let client = support::Client::builder(&url).lenient().connect().await.unwrap();
            client.call_text("count", json!({})).await.unwrap()
        });
    }
    assert!(turns.join_all().await.iter().all(|answer| answer == "1"));
    let awake = supervise.instances().await.iter().filter(|one| !one["pid"].is_null()).count();
    assert!(awake <= 3, "{awake}");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_new_generation_renews_the_idle_at_once_and_the_busy_when_they_are_done() {
    let with = |generation: &'static str| {
        move |ground: &Ground| {
            template(ground, &format!("generation = '{generation}'"), "names = ['idle', 'busy', 'asleep']")
        }
    };
    let mut supervise = Supervise::start(BINARY, with("first")).await;
    count(&supervise, "idle").await;
    let busy = supervise.client("busy").await.unwrap();
    let stream = busy.open_get().await.unwrap();
    supervise.until("idle", |one| one["connections"] == 0).await;
    supervise.rewrite(with("second"));
    supervise.signal(Signal::SIGHUP);
    let idle = supervise.until("idle", |one| one["generation"] == "second" && one["state"] == "ready").await;
    assert_eq!(idle["starts"], 2);
    let waiting = supervise.instance("busy").await;
    assert_eq!((&waiting["generation"], &waiting["starts"]), (&json!("first"), &json!(1)));
    assert_eq!(busy.call_text("count", json!({})).await.unwrap(), "1");
    drop((busy, stream));
    supervise.until("busy", |one| one["generation"] == "second" && one["state"] == "ready").await;
    assert_eq!(supervise.journal("asleep").count("start"), 0, "who sleeps has nothing to renew");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_new_generation_waits_for_the_busy_no_longer_than_it_may() {
    let with = |generation: &'static str| {
        move |ground: &Ground| {
            let top = format!("generation = '{generation}'\ngeneration_deadline = '400ms'");
            template(ground, &top, "names = ['busy']")
        }
    };
    let mut supervise = Supervise::start(BINARY, with("1")).await;
    let busy = supervise.client("busy").await.unwrap();
    let mut stream = busy.open_get().await.unwrap();
    supervise.rewrite(with("2"));
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{said}");
    supervise.until("busy", |one| one["generation"] == "2" && one["state"] == "ready").await;
    while stream.next_event().await.is_some() {}
    supervise.stop_clean().await;
}

#[tokio::test]
async fn the_generation_may_come_from_the_environment() {
    let settings = |ground: &Ground| template(ground, "", "names = ['a']");
    let env = [("MCP_CONTAINER_ROUTE_GENERATION", "g7")];
    let mut supervise = Supervise::start_with(BINARY, settings, &env).await;
    count(&supervise, "a").await;
    assert_eq!(supervise.instance("a").await["generation"], "g7");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_reload_adds_and_removes_and_leaves_the_rest_alone() {
    let with =
        |names: &'static str| move |ground: &Ground| template(ground, "", &format!("names = [{names}]"));
    let mut supervise = Supervise::start(BINARY, with("'kept', 'gone'")).await;
    let kept = supervise.client("kept").await.unwrap();
    let stream = kept.open_get().await.unwrap();
    count(&supervise, "gone").await;
    supervise.rewrite(with("'kept', 'new'"));
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(count(&supervise, "new").await, "1");
    let names: Vec<_> =
        supervise.instances().await.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["kept", "new"]);
    assert_eq!(supervise.journal("gone").living(), Vec::<i32>::new());
    assert!(!supervise.socket("gone").exists());
    assert_eq!(kept.call_text("count", json!({})).await.unwrap(), "1", "in the session of before");
    drop((kept, stream));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_the_answer_says_why() {
    let good = |ground: &Ground| template(ground, "", "names = ['a']");
    let mut supervise = Supervise::start(BINARY, good).await;
    count(&supervise, "a").await;
    supervise.rewrite(|ground| template(ground, "max_instanses = 3", "names = ['b']"));
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 422);
    assert!(said["error"].as_str().unwrap().contains("max_instanses"), "{said}");
    let one = supervise.instance("a").await;
    assert_eq!((&one["state"], &one["starts"]), (&json!("ready"), &json!(1)));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn the_names_may_come_from_the_tokens_of_the_front() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        let tokens = "[token.laptop]\nroute = 'alice'\nsecret = 'hush'\n[token.bob]\nsecret = 'hush'\n";
        std::fs::write(ground.file("tokens.toml"), tokens).unwrap();
        template(ground, "", &format!("names_from = '{}'", ground.file("tokens.toml")))
    })
    .await;
    assert_eq!(count(&supervise, "alice").await, "1");
    assert_eq!(count(&supervise, "bob").await, "1");
    assert!(!supervise.log().iter().any(|line| line.contains("hush")), "a token is never logged");
    supervise.stop_clean().await;
}
