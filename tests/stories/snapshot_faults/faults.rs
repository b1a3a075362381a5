//! Each way to go wrong, once, at each request of each command.

use std::{fs, time::Duration};

use snapshotd::engine::{EngineError, Outcome, RestoreOutcome};
use support::objects::{Fault, Operation, What};

use crate::world::{Tree, World, noise, snapshot, tree};

/// Those that a client who tries again must see through; the others are tried with one attempt.
const TRIED_AGAIN: [What; 8] = [
    What::Error(409, "ConditionalRequestConflict"),
    What::Error(503, "SlowDown"),
    What::ErrorAfter(500, "InternalError"),
    What::CutBefore,
    What::CutAfter,
    What::CutInside,
    What::EndInside,
    What::Html(502),
];

/// What a machine does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    /// A daemon starts: it claims, then takes a snapshot.
    Daemon,
    /// The command.
    Snapshot,
}

impl Act {
    async fn run(self, world: &World, machine: &str) -> Result<Outcome, EngineError> {
        let mut engine = world.open(machine)?;
        if self == Act::Daemon {
            engine.claim().await?;
        }
        snapshot(&mut engine).await
    }
}

/// `world` is as it is before the act; `old` is what a new machine gets then.
async fn try_everything(world: &mut World, act: Act, old: Option<Tree>) {
    let before = world.moment();
    let new = tree(&world.home("mine"));
    world.objects.forget();
    let clean = act.run(world, "mine").await;
    assert!(matches!(clean, Ok(Outcome::Published(_))), "{clean:?}");
    let requests = world.objects.requests();
    assert_eq!(world.found().await.as_ref(), Some(&new));
    for (attempts, faults) in [(1, &What::ALL[..]), (3, &TRIED_AGAIN)] {
        world.attempts = attempts;
        for asked in &requests {
            for what in faults {
                let case = format!("{act:?} with {attempts} attempts, {what:?} at {} {}", asked.number, said(asked));
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, *what)]);
                let outcome = act.run(world, "mine").await;
                check_after(world, &case, outcome, (&old, &new)).await;
            }
        }
    }
}

fn said(asked: &support::objects::Asked) -> String {
    format!("{:?} of {}", asked.operation, asked.key)
}

/// Whatever the machine was told: what it was told is true, and it heals.
async fn check_after(
    world: &World,
    case: &str,
    outcome: Result<Outcome, EngineError>,
    (old, new): (&Option<Tree>, &Tree),
) {
    world.objects.heal();
    let found = world.found().await;
    match &outcome {
        Ok(Outcome::Published(_)) => assert!(found.as_ref() == Some(new), "{case}: acknowledged, but not there"),
        Ok(other) => panic!("{case}: {other:?}"),
        Err(error) => {
            assert!(found == *old || found.as_ref() == Some(new), "{case}: neither the old nor the new, after {error}");
            let line = mcp_daemon::exit::chain(error);
            assert!(!line.contains('\n') && !line.contains(world.objects.secret_key()), "{case}: {line}");
        }
    }
    // The next one needs nobody's help.
    let next = world.snapshot("mine").await;
    let good = matches!(next, Ok(Outcome::Published(_) | Outcome::Unchanged(_)));
    assert!(good, "{case}: {outcome:?}, and then {next:?}");
    assert!(world.found().await.as_ref() == Some(new), "{case}: {outcome:?}, then {next:?}, but it is not there");
    // And the one after it cleans up.
    fs::write(world.home("mine").join("memories/one-more.md"), "more").unwrap();
    world.publish("mine").await;
    assert_eq!(world.litter(), Vec::<String>::new(), "{case}");
    let expected = Some(tree(&world.home("mine")));
    assert!(world.found().await == expected, "{case}: the one after it");
}

/// A world whose machine has published three versions, and has a fourth.
async fn with_history() -> (World, Tree) {
    let world = World::new().await;
    world.lose("mine");
    for version in 1..=3 {
        world.write("mine", version);
        world.publish("mine").await;
    }
    let old = tree(&world.home("mine"));
    world.write("mine", 4);
    (world, old)
}

#[tokio::test]
async fn no_single_fault_of_a_snapshot_loses_one() {
    let (mut world, old) = with_history().await;
    try_everything(&mut world, Act::Snapshot, Some(old)).await;
}

#[tokio::test]
async fn no_single_fault_at_the_start_of_a_daemon_loses_a_snapshot() {
    let (mut world, old) = with_history().await;
    try_everything(&mut world, Act::Daemon, Some(old)).await;
}

#[tokio::test]
async fn no_single_fault_of_the_first_snapshot_leaves_a_wrong_one() {
    let mut world = World::new().await;
    world.lose("mine");
    world.write("mine", 1);
    try_everything(&mut world, Act::Snapshot, None).await;
}

#[tokio::test]
async fn no_single_fault_of_a_snapshot_of_less_loses_the_one_with_more() {
    let (mut world, old) = with_history().await;
    for name in ["memories/of-1.md", "memories/of-2.md", "memories/of-3.md", "memories/of-4.md", "other.bin", "same.bin"] {
        fs::remove_file(world.home("mine").join(name)).unwrap();
    }
    try_everything(&mut world, Act::Snapshot, Some(old)).await;
}

#[tokio::test]
async fn no_single_fault_of_an_upload_in_parts_leaves_half_of_one() {
    let (mut world, old) = with_history().await;
    world.multipart_from = 5 << 20;
    fs::write(world.home("mine").join("large.bin"), noise((5 << 20) + 1, 99)).unwrap();
    let before = world.moment();
    let new = tree(&world.home("mine"));
    world.objects.forget();
    world.publish("mine").await;
    let requests = world.objects.requests();
    for asked in &requests {
        use Operation::*;
        if !matches!(asked.operation, Abort | Begin | Complete | Part | Uploads) {
            continue;
        }
        for what in [
            What::Error(400, "InvalidPart"),
            What::Error(404, "NoSuchUpload"),
            What::Error(503, "SlowDown"),
            What::ErrorAfter(500, "InternalError"),
            What::ErrorInside,
            What::CutUnread,
            What::CutAfter,
            What::EndInside,
            What::Html(200),
        ] {
            for attempts in [1, 2] {
                let case = format!("{attempts} attempts, {what:?} at {} {}", asked.number, said(asked));
                world.attempts = attempts;
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, what)]);
                let outcome = world.snapshot("mine").await;
                check_after(&world, &case, outcome, (&Some(old.clone()), &new)).await;
            }
        }
    }
}

#[tokio::test]
async fn no_single_fault_of_a_restore_restores_something_else_or_half() {
    let (mut world, old) = with_history().await;
    world.lose("other");
    let before = world.moment();
    world.objects.forget();
    world.restore("other", false).await.unwrap();
    let requests = world.objects.requests();
    for (attempts, faults) in [(1, &What::ALL[..]), (3, &TRIED_AGAIN)] {
        world.attempts = attempts;
        for asked in &requests {
            for what in faults {
                let case = format!("{attempts} attempts, {what:?} at {} {}", asked.number, said(asked));
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, *what)]);
                let outcome = world.restore("other", false).await;
                world.objects.heal();
                match outcome {
                    Ok(RestoreOutcome::Restored { passed_over, .. }) => {
                        assert!(passed_over.is_empty(), "{case}: an older one, because of {passed_over:?}");
                        assert!(tree(&world.home("other")) == old, "{case}: something else");
                        continue;
                    }
                    Ok(other) => panic!("{case}: {other:?}"),
                    Err(_) => {}
                }
                assert!(!world.home("other").exists(), "{case}: half of it");
                let again = world.restore("other", false).await;
                assert!(matches!(again, Ok(RestoreOutcome::Restored { .. })), "{case}: {again:?}");
                assert!(tree(&world.home("other")) == old, "{case}: something else at last");
                let left: Vec<_> = fs::read_dir(world.home("other").parent().unwrap())
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .filter(|name| name != "home" && !name.starts_with("home.snapshotd."))
                    .collect();
                assert_eq!(left, Vec::<String>::new(), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_answers_nothing_but_errors_is_never_taken_for_an_empty_one() {
    let (world, old) = with_history().await;
    world.lose("other");
    for what in What::ALL {
        // These still say what is stored, or something that cannot be told from it.
        if matches!(what, What::Overlong | What::ErrorAfter(..)) {
            continue;
        }
        world.objects.plan([Fault::always(what)]);
        let restored = world.restore("other", false).await;
        assert!(restored.is_err(), "{what:?}: {restored:?}");
        assert!(!world.home("other").exists(), "{what:?}");
        world.write("other", 9);
        let published = world.snapshot("other").await;
        assert!(published.is_err(), "{what:?}: {published:?}");
        world.lose("other");
        world.objects.heal();
        assert!(world.found().await.as_ref() == Some(&old), "{what:?}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_an_hour_late_overwrites_nothing() {
    let (mut world, _) = with_history().await;
    world.attempts = 1;
    let before = world.moment();
    world.objects.forget();
    world.publish("mine").await;
    let writes: Vec<_> = world.objects.requests().into_iter().filter(|asked| asked.operation.writes()).collect();
    for asked in writes {
        let case = format!("{} {}", asked.number, said(&asked));
        world.go_back(&before);
        world.objects.plan([Fault::at(asked.number, What::Late)]);
        let outcome = {
            let first = world.snapshot("mine");
            tokio::pin!(first);
            // Given up by its client, as by a deadline or a kill; the store has it all the same.
            tokio::select! {
                outcome = &mut first => Some(outcome),
                () = world.objects.until(|all| all.len() >= asked.number && all[asked.number - 1].size == asked.size) => None,
            }
        };
        assert!(outcome.is_none(), "{case}: {outcome:?}");
        // Meanwhile the machine goes on.
        for version in 5..=6 {
            world.write("mine", version);
            world.publish("mine").await;
        }
        let newest = tree(&world.home("mine"));
        world.objects.release();
        world.objects.until(|all| all[asked.number - 1].status != 0).await;
        assert!(world.found().await == Some(newest), "{case}");
        world.write("mine", 7);
        world.publish("mine").await;
        assert!(world.found().await == Some(tree(&world.home("mine"))), "{case}: and the next");
    }
    // The clients that were given up have pooled nothing that could disturb others.
    tokio::time::timeout(Duration::from_secs(20), world.found()).await.unwrap();
}

#[tokio::test]
async fn prof() {
    let (world, _) = with_history().await;
    let before = world.moment();
    for _ in 0..3 {
        let t = tokio::time::Instant::now();
        world.go_back(&before);
        let a = t.elapsed();
        let t = tokio::time::Instant::now();
        let s = world.store();
        let b = t.elapsed();
        drop(s);
        let t = tokio::time::Instant::now();
        world.publish("mine").await;
        let c = t.elapsed();
        let n = world.objects.requests().len();
        let t = tokio::time::Instant::now();
        world.found().await;
        let d = t.elapsed();
        println!("back {a:?} store {b:?} publish {c:?} ({n} requests) found {d:?}");
    }
    for asked in world.objects.requests() { println!("{} {}", asked.number, said(&asked)); }
}
