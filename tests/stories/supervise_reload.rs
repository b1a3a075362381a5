//! Other settings while everything runs: an instance that gets another name, a home that changes hands, and what cannot be
//! changed so.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{fs, os::unix::fs::symlink};

use serde_json::{Value, json};
use support::{Ground, Supervise};
use tokio::net::UnixStream;

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

/// Asks for a reload, which must be done; what is said of it.
async fn reload(supervise: &Supervise) -> String {
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{said}");
    said.to_string()
}

async fn count(supervise: &Supervise, socket: &str) -> String {
    let client = supervise.client(socket).await.unwrap();
    client.call_text("count", json!({})).await.unwrap()
}

/// One server, whatever its name is: its home, its socket and its journal are those of `one`.
fn named(name: &'static str) -> impl FnOnce(&Ground) -> String {
    move |ground| {
        // Through a link, to a directory that is not there before the first start.
        let home = format!("home = '{}'", ground.file("link/deep/home"));
        ground
            .instance("one", &home, &["--ignore-term"])
            .replace("[instance.one]", &format!("[instance.{name}]"))
    }
}

#[tokio::test]
async fn a_renamed_instance_gets_its_home_and_its_socket_when_the_old_one_is_gone() {
    let supervise = Supervise::prepared(BINARY, &[]);
    fs::create_dir(supervise.path().join("real")).unwrap();
    symlink(supervise.path().join("real"), supervise.path().join("link")).unwrap();
    let mut supervise = supervise.set(named("one")).await;
    assert_eq!(count(&supervise, "one").await, "1");
    for (round, (old, new)) in [("one", "two"), ("two", "three")].into_iter().enumerate() {
        supervise.rewrite(named(new));
        let said = reload(&supervise).await;
        let expected = format!("{old}: removed, {new}: added");
        assert!(said.contains(&expected), "{said}");
        assert_eq!(count(&supervise, "one").await, "1", "a server of its own");
        let journal = supervise.journal("one");
        assert_eq!((journal.count("start"), journal.count("overlap")), (round + 2, 0));
    }
    // The home is locked as before, by whichever way it is named.
    let other = Supervise::prepared(BINARY, &[]);
    let home = format!("home = '{}'", supervise.file("real/deep/home"));
    fs::write(other.settings_file(), Ground::instance(&other, "other", &home, &[])).unwrap();
    let refused = other.command(&["run", "--config", other.settings_file().to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(69) && said.contains(&format!("process {}", supervise.pid())),
        "{said}"
    );
    supervise.stop_clean().await;
}

#[tokio::test]
async fn an_instance_that_goes_hands_its_socket_on_before_anybody_can_take_it() {
    let named = |name: &'static str| {
        move |ground: &Ground| {
            let (path, socket) = (ground.path().display(), ground.socket("one"));
            // In the moment between two owners somebody would have the name of the socket for a file.
            let script =
                format!("until [ -e {path}/go ]; do sleep 0.01; done; : > {} || true", socket.display());
            let settings =
                format!("home = '{path}/home'\nhooks.after_stop = {{ command = ['sh', '-c', '{script}'] }}");
            ground.instance("one", &settings, &[]).replace("[instance.one]", &format!("[instance.{name}]"))
        }
    };
    let mut supervise = Supervise::start(BINARY, named("one")).await;
    assert_eq!(count(&supervise, "one").await, "1");
    supervise.rewrite(named("two"));
    let story = async {
        supervise.until_state("one", "finishing").await;
        // Of the old one nothing is left, and the new one is not there yet.
        let early = UnixStream::connect(supervise.socket("one")).await.expect("whoever comes now waits");
        fs::write(supervise.file("go"), "").unwrap();
        early
    };
    let (said, early) = tokio::join!(reload(&supervise), story);
    assert!(said.contains("one: removed, two: added"), "{said}");
    assert_eq!(count(&supervise, "one").await, "1", "a server of its own");
    supervise.until("two", |two| two["connections"] == 1).await;
    drop(early);
    assert_eq!((supervise.journal("one").count("start"), supervise.journal("one").count("overlap")), (2, 0));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_found_out_while_everything_still_runs() {
    let mut supervise = Supervise::start(BINARY, |ground| {
        symlink(".", ground.path().join("link")).unwrap();
        ground.instance("one", &format!("home = '{}'", ground.file("home")), &[])
    })
    .await;
    let client = supervise.client("one").await.unwrap();
    // Two are to have the home of the one that would go; that it is the same one does not show.
    supervise.rewrite(|ground| {
        let instance = |name, home| ground.instance(name, &format!("home = '{}'", ground.file(home)), &[]);
        [instance("three", "home"), instance("two", "link/home")].concat()
    });
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 422, "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("instance two") && error.contains("home.supervise.lock: in use by"), "{said}");
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "in the session of before");
    assert_eq!(supervise.instances().await.len(), 1);
    assert!(!supervise.socket("two").exists() && !supervise.socket("three").exists());
    drop(client);
    supervise.stop_clean().await;
}

#[tokio::test]
async fn two_instances_can_swap_their_homes() {
    let with = |homes: [&'static str; 2]| {
        move |ground: &Ground| {
            let instance =
                |(name, home)| ground.instance(name, &format!("home = '{}'", ground.file(home)), &[]);
            ["a", "b"].into_iter().zip(homes).map(instance).collect::<Vec<_>>().concat()
        }
    };
    let mut supervise = Supervise::start(BINARY, with(["left", "right"])).await;
    for name in ["a", "b"] {
        count(&supervise, name).await;
    }
    supervise.rewrite(with(["right", "left"]));
    let said = reload(&supervise).await;
    assert!(said.contains("a: moved, b: moved"), "{said}");
    for (name, homes) in [("a", ["left", "right"]), ("b", ["right", "left"])] {
        count(&supervise, name).await;
        let had: Vec<Value> =
            supervise.journal(name).all("start").iter().map(|it| it["home"].clone()).collect();
        assert_eq!(had, homes.map(|home| supervise.file(home)));
    }
    supervise.stop_clean().await;
}

#[tokio::test]
async fn what_needs_a_restart_is_named() {
    let with = |top: &'static str, hold: &'static str, more: &'static str| {
        move |ground: &Ground| {
            let one = ground.instance("one", &format!("{hold}\n{more}"), &[]);
            [top, "\n", &one, &ground.instance("two", "", &[])].concat()
        }
    };
    let mut supervise = Supervise::start(BINARY, with("grace = '20s'", "", "")).await;
    supervise.rewrite(with(
        "grace = '5s'\nmax_instances = 3\nobserve = '127.0.0.1:0'",
        "hold.timeout = '7s'",
        "",
    ));
    let said = reload(&supervise).await;
    assert!(said.contains("\"in force after a restart: max_instances, observe, grace, one.hold\""), "{said}");
    supervise.rewrite(with("grace = '5s'", "", "settle = '1ms'"));
    let said = reload(&supervise).await;
    assert!(said.contains("\"one: in force at its next start; in force after a restart: grace\""), "{said}");
    supervise.rewrite(with("grace = '20s'", "", "settle = '1ms'"));
    let said = reload(&supervise).await;
    assert!(said.contains("nothing has changed"), "{said}");
    supervise.stop_clean().await;
}
