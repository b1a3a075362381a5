//! Each way to go wrong, once, at each request of each command.

use std::{fs, time::Duration};

use snapshotd::engine::{EngineError, Outcome, RestoreOutcome};
use support::objects::{Asked, Fault, Operation, What};

use crate::world::{Moment, Tree, World, noise, snapshot, tree};

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

/// Of so many cases one heals on the bucket itself, and the others, which is told much sooner, on a copy of it in a directory. It
/// has no divisor in common with the numbers of faults, so that every request and every fault has its turn.
const AFLOAT: usize = 7;

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

/// `world` is as it is before the act; `old` is what a new machine gets then. Tried at the requests that are `meant`.
async fn try_everything(
    world: &mut World,
    act: Act,
    old: Option<Tree>,
    meant: impl Fn(&[Asked], &Asked) -> bool,
) {
    let before = world.moment();
    let new = tree(&world.home("mine"));
    world.objects.forget();
    let clean = act.run(world, "mine").await;
    assert!(matches!(clean, Ok(Outcome::Published(_))), "{clean:?}");
    let requests = world.objects.requests();
    assert_eq!(world.found().await.as_ref(), Some(&new));
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for (attempts, faults) in [(1, &What::ALL[..]), (3, &TRIED_AGAIN)] {
        world.attempts = attempts;
        for asked in requests.iter().filter(|asked| meant(&requests, asked)) {
            for what in faults {
                let case = format!("{act:?} with {attempts} attempts, {what:?} at {}", said(asked));
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, *what)]);
                let outcome = act.run(world, "mine").await;
                // What nobody needs may stay if the store lies about the manifest of what is to go.
                let lies = asked.operation == Operation::Get && matches!(what, What::Flipped | What::Padded);
                world.heal(cases % AFLOAT != 0);
                cases += 1;
                if let Err(why) = check_after(world, outcome, &before, (&old, &new), lies).await {
                    wrong.push(format!("{case}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn is_head(asked: &Asked) -> bool {
    asked.is(Operation::Put, "/HEAD")
}

fn said(asked: &Asked) -> String {
    format!("{} {:?} of {}", asked.number, asked.operation, asked.key)
}

/// Whatever the machine was told: what it was told is true, and it heals.
async fn check_after(
    world: &mut World,
    outcome: Result<Outcome, EngineError>,
    before: &Moment,
    (old, new): (&Option<Tree>, &Tree),
    may_litter: bool,
) -> Result<(), String> {
    // Nothing that was there has changed: a new machine gets what it got before.
    let untouched = old.is_some() && world.still_holds(before);
    let found = if untouched { old.clone() } else { world.found().await };
    match &outcome {
        Ok(Outcome::Published(_) | Outcome::Unchanged(_)) if found.as_ref() == Some(new) => {}
        Ok(outcome) => return Err(format!("{outcome:?}, but it is not there")),
        Err(error) => {
            let line = mcp_daemon::exit::chain(error);
            if found != *old && found.as_ref() != Some(new) {
                return Err(format!("neither the old nor the new, after: {line}"));
            }
            if line.contains('\n') || line.contains(world.objects.secret_key()) {
                return Err(format!("no line for people: {line}"));
            }
        }
    }
    // The next one needs nobody's help, and cleans up.
    let next = world.snapshot("mine").await;
    if !matches!(next, Ok(Outcome::Published(_) | Outcome::Unchanged(_))) {
        return Err(format!("{outcome:?}, and then {next:?}"));
    }
    let mut is_told = matches!(next, Ok(Outcome::Unchanged(_))) && found.as_ref() == Some(new);
    if is_told && !world.litter().is_empty() {
        is_told = false;
        fs::write(world.home("mine").join("memories/one-more.md"), "more").unwrap();
        world.publish("mine").await;
    }
    let litter = world.litter();
    let harmless = litter.iter().all(|what| may_litter && what.starts_with("needless"));
    if !harmless {
        return Err(format!("{outcome:?}, then {next:?}, and left: {litter:?}"));
    }
    if !is_told && world.found().await != Some(tree(&world.home("mine"))) {
        return Err(format!("{outcome:?}, then {next:?}, but it is not there"));
    }
    Ok(())
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

// In two halves, which two cores do at once.
#[tokio::test]
async fn no_single_fault_at_every_other_request_of_a_snapshot_loses_one() {
    let (mut world, old) = with_history().await;
    try_everything(&mut world, Act::Snapshot, Some(old), |_, asked| asked.number % 2 == 0).await;
}

#[tokio::test]
async fn no_single_fault_at_the_requests_between_loses_one() {
    let (mut world, old) = with_history().await;
    try_everything(&mut world, Act::Snapshot, Some(old), |_, asked| asked.number % 2 == 1).await;
}

#[tokio::test]
async fn no_single_fault_at_the_start_of_a_daemon_loses_a_snapshot() {
    let (mut world, old) = with_history().await;
    // What follows the claim is the same as without it.
    let first_head = |all: &[Asked]| all.iter().find(|asked| is_head(asked)).map_or(0, |asked| asked.number);
    try_everything(&mut world, Act::Daemon, Some(old), |all, asked| asked.number <= first_head(all)).await;
}

#[tokio::test]
async fn no_single_fault_of_the_first_snapshot_leaves_a_wrong_one() {
    let mut world = World::new().await;
    world.lose("mine");
    world.write("mine", 1);
    try_everything(&mut world, Act::Snapshot, None, |_, _| true).await;
}

#[tokio::test]
async fn no_single_fault_of_a_snapshot_of_less_loses_the_one_with_more() {
    let (mut world, old) = with_history().await;
    for name in [
        "memories/of-1.md",
        "memories/of-2.md",
        "memories/of-3.md",
        "memories/of-4.md",
        "other.bin",
        "same.bin",
    ] {
        fs::remove_file(world.home("mine").join(name)).unwrap();
    }
    let of_pin = |asked: &Asked| asked.key.contains("/pins/") && asked.operation != Operation::Get;
    try_everything(&mut world, Act::Snapshot, Some(old), |_, asked| of_pin(asked) || is_head(asked)).await;
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
    let mut cases = 0;
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
                let case = format!("{attempts} attempts, {what:?} at {}", said(asked));
                world.attempts = attempts;
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, what)]);
                let outcome = world.snapshot("mine").await;
                world.heal(cases % AFLOAT != 0);
                cases += 1;
                let checked =
                    check_after(&mut world, outcome, &before, (&Some(old.clone()), &new), false).await;
                assert_eq!(checked, Ok(()), "{case}");
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
    let mut wrong = Vec::new();
    for (attempts, faults) in [(1, &What::ALL[..]), (3, &TRIED_AGAIN)] {
        world.attempts = attempts;
        for asked in &requests {
            for what in faults {
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, *what)]);
                let outcome = world.restore("other", false).await;
                if let Err(why) = check_restored(&mut world, outcome, &old).await {
                    wrong.push(format!("{attempts} attempts, {what:?} at {}: {why}", said(asked)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// The newest snapshot, bit for bit, or nothing at all; and then it works.
async fn check_restored(
    world: &mut World,
    outcome: Result<RestoreOutcome, EngineError>,
    expected: &Tree,
) -> Result<(), String> {
    world.heal(true);
    let home = world.home("other");
    let outcome = match outcome {
        Ok(RestoreOutcome::Restored { passed_over, .. }) if passed_over.is_empty() => {
            return if tree(&home) == *expected { Ok(()) } else { Err("something else".to_owned()) };
        }
        Ok(outcome) => return Err(format!("{outcome:?}")),
        Err(error) => error,
    };
    if home.exists() {
        return Err(format!("half of it, after: {outcome}"));
    }
    let again = world.restore("other", false).await;
    if !matches!(again, Ok(RestoreOutcome::Restored { .. })) || tree(&home) != *expected {
        return Err(format!("{outcome}, and then {again:?}"));
    }
    let beside = fs::read_dir(home.parent().unwrap()).unwrap();
    let mut beside = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    match beside.find(|name| name != "home" && !name.starts_with("home.snapshotd.")) {
        Some(left) => Err(format!("{outcome}, and left: {left}")),
        None => Ok(()),
    }
}

#[tokio::test]
async fn no_single_fault_of_a_restore_over_a_full_home_leaves_a_mixture_or_loses_what_was_there() {
    let (mut world, old) = with_history().await;
    world.lose("other");
    world.write("other", 9);
    let own = tree(&world.home("other"));
    let before = world.moment();
    world.objects.forget();
    world.restore("other", true).await.unwrap();
    let requests = world.objects.requests();
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for (attempts, faults) in [(1, &What::ALL[..]), (3, &TRIED_AGAIN)] {
        world.attempts = attempts;
        for asked in &requests {
            for what in faults {
                world.go_back(&before);
                world.objects.plan([Fault::at(asked.number, *what)]);
                let outcome = world.restore("other", true).await;
                world.heal(cases % AFLOAT != 0);
                cases += 1;
                if let Err(why) = check_replaced(&world, outcome, &own, &old).await {
                    wrong.push(format!("{attempts} attempts, {what:?} at {}: {why}", said(asked)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// The newest snapshot, bit for bit, with what was there before beside it; or all as it was, and then it works.
async fn check_replaced(
    world: &World,
    outcome: Result<RestoreOutcome, EngineError>,
    own: &Tree,
    expected: &Tree,
) -> Result<(), String> {
    let home = world.home("other");
    let is_replaced = |outcome: &Result<RestoreOutcome, EngineError>| match outcome {
        Ok(RestoreOutcome::Restored { passed_over, kept, .. }) => {
            let [kept] = &kept[..] else { return false };
            passed_over.is_empty() && tree(&home) == *expected && tree(kept) == *own
        }
        _ => false,
    };
    if is_replaced(&outcome) {
        return Ok(());
    }
    let Err(error) = outcome else { return Err(format!("{outcome:?}")) };
    if tree(&home) != *own {
        return Err(format!("the home has changed, after: {error}"));
    }
    let again = world.restore("other", true).await;
    if !is_replaced(&again) {
        return Err(format!("{error}, and then {again:?}"));
    }
    let beside = fs::read_dir(home.parent().unwrap()).unwrap();
    let mut beside = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let expected =
        |name: &str| name == "home" || name == "home.before-restore" || name.starts_with("home.snapshotd.");
    match beside.find(|name| !expected(name)) {
        Some(left) => Err(format!("{error}, and left: {left}")),
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_probe_that_cannot_be_deleted_stops_no_snapshot() {
    let world = World::new().await;
    world.lose("mine");
    world.write("mine", 1);
    let of_probe = |asked: &Asked| asked.operation == Operation::Delete && asked.key.contains("/probes/");
    world.objects.plan([Fault::when(of_probe, What::Error(403, "AccessDenied"))]);
    world.publish("mine").await;
    assert!(world.objects.requests().iter().any(of_probe));
    assert!(world.found().await == Some(tree(&world.home("mine"))));
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

/// Whether the request of this number has come with its body.
fn is_whole(all: &[Asked], like: &Asked) -> bool {
    all.get(like.number - 1).is_some_and(|asked| asked.size > 0 || like.size == 0)
}

#[tokio::test]
async fn an_answer_that_comes_an_hour_late_overwrites_nothing() {
    let (mut world, _) = with_history().await;
    world.attempts = 1;
    let before = world.moment();
    world.objects.forget();
    world.publish("mine").await;
    let writes: Vec<_> =
        world.objects.requests().into_iter().filter(|asked| asked.operation.writes()).collect();
    for asked in writes {
        let case = said(&asked);
        world.go_back(&before);
        world.objects.plan([Fault::at(asked.number, What::Late)]);
        let outcome = {
            let first = world.snapshot("mine");
            tokio::pin!(first);
            // Given up by its client, as by a deadline or a kill; the store has it all the same.
            tokio::select! {
                outcome = &mut first => Some(outcome),
                () = world.objects.until(|all| is_whole(all, &asked)) => None,
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
