//! Instances that need others: who starts after whom, and who stops before whom, also where the other never comes, is
//! stopped, or is replaced meanwhile.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::fs;

use support::{Gate, Ground, Supervise};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-supervise");

/// A supervisor that is ready, because nobody has to start yet.
async fn calm() -> Supervise {
    Supervise::start(BINARY, |ground| ground.instance("calm", "", &[])).await
}

/// The same with `needed`, and `needs` which starts after it; both start with the supervisor.
fn two(ground: &Ground, settings: &str, arguments: &[&str]) -> String {
    let needed = ground.instance("needed", &format!("start = 'boot'\n{settings}"), arguments);
    let needs = ground.instance("needs", "start = 'boot'\nafter = ['needed']", &[]);
    [ground.instance("calm", "", &[]), needed, needs].concat()
}

async fn reload(supervise: &Supervise, settings: impl FnOnce(&Ground) -> String) -> String {
    supervise.rewrite(settings);
    let (status, said) = supervise.control("POST", "/reload").await;
    assert_eq!(status, 200, "{said}");
    said.to_string()
}

#[tokio::test]
async fn nobody_waits_for_one_that_was_stopped_by_request() {
    let mut supervise = calm().await;
    reload(&supervise, |ground| two(ground, "", &["--never-listen"])).await;
    supervise.until_state("needed", "probing").await;
    assert_eq!(supervise.instance("needs").await["starts"], 0);
    supervise.ask("needed", "stop").await;
    supervise.until_state("needs", "ready").await;
    assert_eq!(supervise.instance("needed").await["why"], "asked");
    supervise.stop_clean().await;
}

#[tokio::test]
async fn whoever_waits_for_one_that_is_replaced_waits_for_the_next_one() {
    let mut supervise = calm().await;
    reload(&supervise, |ground| two(ground, "", &["--never-listen"])).await;
    supervise.until_state("needed", "probing").await;
    let gate = Gate::new(supervise.file("gate"));
    let said = reload(&supervise, |ground| {
        let home = format!("home = '{}'", ground.file("home"));
        two(ground, &home, &["--gate", &ground.file("gate")])
    });
    let said = said.await;
    assert!(said.contains("needed: moved") && !said.contains("needs:"), "{said}");
    let waiting = gate.next().await;
    supervise.until_state("needed", "probing").await;
    assert_eq!(supervise.instance("needs").await["starts"], 0, "its predecessor was not enough");
    waiting.go().await;
    supervise.until_state("needs", "ready").await;
    let at = |name: &str, event: &str| supervise.journal(name).all(event).pop().unwrap()["at_ms"].as_f64();
    assert!(at("needs", "start") >= at("needed", "listening"));
    supervise.stop_clean().await;
}

#[tokio::test]
async fn a_reload_stops_first_what_needs_others() {
    let settings = |ground: &Ground| {
        let path = ground.path().display();
        let hook =
            format!("hooks.after_stop = {{ command = ['sh', '-c', 'echo {{name}} >> {path}/stopped'] }}");
        // By their names they come the other way round.
        let chain = [("a", "[]"), ("b", "['a']"), ("c", "['b']")];
        chain.map(|(name, after)| ground.instance(name, &format!("after = {after}\n{hook}"), &[])).concat()
    };
    let mut supervise = Supervise::start(BINARY, settings).await;
    for name in ["a", "b", "c"] {
        supervise.ask(name, "wake").await;
        supervise.until_state(name, "ready").await;
    }
    let said = reload(&supervise, |ground| ground.instance("calm", "", &[])).await;
    assert!(said.contains("a: removed, b: removed, c: removed, calm: added"), "{said}");
    assert_eq!(fs::read_to_string(supervise.file("stopped")).unwrap(), "c\nb\na\n");
    supervise.stop_clean().await;
}
