//! Several writers of one partition: one lineage, and nobody's work is lost.

use std::{collections::BTreeSet, fs, sync::Arc};

use snapshotd::{
    engine::{Engine, Outcome, RestoreOutcome, RestoreRequest, Selector, Side, Standing},
    layout::Id,
    progress::Progress,
    settings::Keep,
};
use support::objects::{Asked, Fault, Operation, What};

use crate::world::{Tree, World, snapshot, tree};

/// How often two writers race.
const ROUNDS: usize = 200;

async fn adopt(engine: &mut Engine, side: Side) {
    engine.adopt(side, &Arc::new(Progress::default())).await.unwrap();
}

fn note(world: &World, machine: &str, round: usize) {
    let memories = world.home(machine).join("memories");
    fs::write(memories.join(format!("{machine}-{round}.md")), format!("by {machine} in round {round}"))
        .unwrap();
}

#[tokio::test]
async fn a_pin_that_comes_while_its_snapshot_is_deleted_brings_it_back() {
    let mut world = World::new().await;
    world.keep = Keep { last: 10, ..world.keep };
    world.lose("one");
    for version in 1..=3 {
        world.write("one", version);
        world.publish("one").await;
    }
    world.keep = Keep { last: 1, within: 0, daily: 0, weekly: 0, monthly: 0 };
    let mut one = world.open("one").unwrap();
    let expected = tree_of(&one, 1).await;
    world.objects.forget();
    let is_deletion =
        |asked: &Asked| asked.operation == Operation::Delete && asked.key.contains("/manifests/");
    world.objects.plan([Fault::when(is_deletion, What::Late).times(1)]);
    let pin = async {
        world.objects.until(|all| all.iter().any(is_deletion)).await;
        // Another machine had stored its pin, and seen the manifest, just before that.
        let id = one_of(&world, 1);
        let text = format!(r#"{{"id":"{id}","why":"pin"}}"#);
        world.objects.put("state/laptop/pins/0000000001", text);
        world.objects.release();
    };
    let (pruned, ()) = tokio::join!(one.prune(None, false), pin);
    assert!(pruned.unwrap().snapshots.is_empty());
    assert_eq!(tree_of(&one, 1).await, expected);
    assert_eq!(world.litter(), Vec::<String>::new());
}

/// What a snapshot of this number holds, as its manifest says.
async fn tree_of(engine: &Engine, seq: u64) -> String {
    engine.reader().manifest(&Selector::Seq(seq)).await.unwrap().about.tree.to_string()
}

/// The id of the snapshot that has this number; it may just have been deleted.
fn one_of(world: &World, seq: u64) -> Id {
    let asked = world.objects.requests().into_iter();
    let keys = asked.map(|asked| asked.key).chain(world.objects.snapshot().into_keys());
    let mut ids = keys.filter_map(|key| Id::of_key(key.strip_prefix("state/laptop/")?));
    ids.find(|id| id.seq == seq).unwrap()
}

#[tokio::test]
async fn two_hundred_races_of_two_writers_make_one_lineage_without_a_loss() {
    let mut world = World::new().await;
    world.keep = Keep { last: 10_000, ..world.keep };
    world.objects.behave(|manner| manner.page = 1000);
    world.lose("one");
    world.lose("two");
    world.write("one", 1);
    world.publish("one").await;
    world.restore("two", false).await.unwrap();
    let (mut one, mut two) = (world.open("one").unwrap(), world.open("two").unwrap());
    let mut acknowledged: Vec<(Id, Tree)> = Vec::new();
    let mut wins = [0, 0];
    for round in 0..ROUNDS {
        note(&world, "one", round);
        note(&world, "two", round);
        let trees = ["one", "two"].map(|machine| tree(&world.home(machine)));
        let (first, second) = tokio::join!(snapshot(&mut one), snapshot(&mut two));
        let mut published = 0;
        for (at, (outcome, tree)) in [first, second].into_iter().zip(trees).enumerate() {
            match outcome.unwrap() {
                Outcome::Published(summary) => {
                    acknowledged.push((summary.id, tree));
                    published += 1;
                    wins[at] += 1;
                }
                Outcome::Forked(_, Standing::Diverged) => {
                    let loser = if at == 0 { &mut one } else { &mut two };
                    adopt(loser, if round % 10 == 0 { Side::Remote } else { Side::Local }).await;
                }
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert_eq!(published, 1, "round {round}: both followed one snapshot");
    }
    let newest = one.reader().manifest(&Selector::Latest).await.unwrap();
    let lineage: Vec<Id> = std::iter::once(newest.about.id.clone())
        .chain(newest.about.ancestors.iter().map(|ancestor| ancestor.pointer.id.clone()))
        .collect();
    assert_eq!(lineage.len(), ROUNDS + 1);
    let told: BTreeSet<u64> = lineage.iter().map(|id| id.seq).collect();
    assert_eq!(told, (1..=ROUNDS as u64 + 1).collect());
    assert_eq!(
        acknowledged.iter().rev().map(|(id, _)| id).collect::<Vec<_>>(),
        lineage[..ROUNDS].iter().collect::<Vec<_>>()
    );
    for (id, expected) in acknowledged.iter().step_by(23) {
        world.lose("new");
        let request = RestoreRequest { which: Some(Selector::Id(id.clone())), replace: false };
        let mut new = world.open("new").unwrap();
        let restored = new.restore(&request, &Arc::new(Progress::default())).await.unwrap();
        assert!(matches!(restored, RestoreOutcome::Restored { .. }), "{restored:?}");
        assert!(tree(&world.home("new")) == *expected, "{id}");
    }
    assert_eq!(world.litter(), Vec::<String>::new());
    println!("wins: {wins:?}");
}

#[tokio::test]
async fn the_daemon_that_starts_last_wins_and_the_other_says_so_and_keeps_its_state() {
    let world = World::new().await;
    world.lose("one");
    world.write("one", 1);
    let mut one = world.open("one").unwrap();
    one.claim().await.unwrap();
    assert!(matches!(snapshot(&mut one).await, Ok(Outcome::Published(_))));
    world.lose("two");
    world.restore("two", false).await.unwrap();
    let mut two = world.open("two").unwrap();
    two.claim().await.unwrap();

    note(&world, "one", 1);
    let fenced = tree(&world.home("one"));
    let outcome = snapshot(&mut one).await.unwrap();
    let Outcome::Forked(fork, Standing::Fenced) = outcome else { panic!("{outcome:?}") };
    note(&world, "two", 1);
    assert!(matches!(snapshot(&mut two).await, Ok(Outcome::Published(_))));
    let newest = tree(&world.home("two"));
    // Not even a fenced daemon that is started again, nor a command, publishes over the newer lineage.
    note(&world, "one", 2);
    assert!(matches!(snapshot(&mut one).await, Ok(Outcome::Forked(_, Standing::Fenced))));
    drop(one);
    for round in 3..5 {
        note(&world, "one", round);
        let mut again = world.open("one").unwrap();
        if round == 4 {
            again.claim().await.unwrap();
        }
        assert!(matches!(snapshot(&mut again).await, Ok(Outcome::Forked(_, Standing::Diverged))));
    }
    note(&world, "two", 2);
    assert!(
        matches!(snapshot(&mut two).await, Ok(Outcome::Published(_))),
        "a stale daemon has fenced the right one"
    );
    assert!(world.found().await == Some(tree(&world.home("two"))));
    assert_ne!(newest, fenced);
    assert!(fork.files > 0);
    let forks: Vec<_> = world.objects.snapshot().into_keys().filter(|key| key.contains("/forks/")).collect();
    assert_eq!(forks.len(), 1, "{forks:?}");
}

#[tokio::test]
async fn what_somebody_else_has_built_on_is_never_cleaned_away_as_an_attempt_that_failed() {
    for side in [Side::Local, Side::Remote] {
        let world = World::new().await;
        world.lose("one");
        world.write("one", 1);
        world.publish("one").await;
        // It is published, and the machine dies before it hears of it: no request of it is answered any more.
        world.write("one", 2);
        world.objects.forget();
        let head = |asked: &support::objects::Asked| asked.is(Operation::Put, "/HEAD");
        world.objects.plan([Fault::when(head, What::Mute)]);
        {
            let dying = world.snapshot("one");
            tokio::pin!(dying);
            tokio::select! {
                outcome = &mut dying => panic!("{outcome:?}"),
                () = world.objects.until(|all| all.iter().any(|asked| head(asked) && asked.effect)) => {}
            }
        }
        world.objects.heal();
        // Another machine goes on from there. The large files stay where the first machine has stored them.
        world.lose("two");
        world.restore("two", false).await.unwrap();
        note(&world, "two", 1);
        world.publish("two").await;
        // The first one comes back, is told to go on, and publishes.
        note(&world, "one", 1);
        let mut one = world.open("one").unwrap();
        assert!(matches!(snapshot(&mut one).await, Ok(Outcome::Forked(_, Standing::Diverged))));
        adopt(&mut one, side).await;
        for round in 2..4 {
            note(&world, "one", round);
            assert!(matches!(snapshot(&mut one).await, Ok(Outcome::Published(_))));
            assert_eq!(world.litter(), Vec::<String>::new(), "{side:?}, round {round}");
        }
        assert!(world.found().await == Some(tree(&world.home("one"))), "{side:?}");
    }
}
