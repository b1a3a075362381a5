//! One writer: snapshots follow each other, are restored, pinned and deleted.

use super::*;

#[tokio::test]
async fn a_snapshot_is_published_once_and_restored_as_it_was() {
    let ground = Ground::new();
    let home = ground.home("one");
    fs::write(home.join("large"), "x".repeat(200_000)).unwrap();
    let mut engine = ground.engine(&home);
    assert_eq!(engine.standing().await.unwrap(), Standing::Fresh);
    let first = publish(&mut engine).await;
    assert_eq!(first.seq, 1);
    assert!(matches!(snap(&mut engine).await, Outcome::Unchanged(id) if id == first));
    fs::write(home.join("memories/new.md"), "new").unwrap();
    let second = publish(&mut engine).await;
    assert_eq!(second.seq, 2);
    // The large file has not changed, and was stored once.
    assert_eq!((ground.keys("blobs").len(), ground.keys("packs").len()), (1, 2));

    let other = ground.new_home("other");
    let mut engine = ground.engine(&other);
    assert_eq!(engine.standing().await.unwrap(), Standing::Empty);
    let RestoreOutcome::Restored { id, files: 3, .. } = restore(&mut engine, None, false).await else {
        panic!()
    };
    assert_eq!((id, content(&other)), (second.clone(), content(&home)));
    assert_eq!(engine.standing().await.unwrap(), Standing::Current);
    assert!(matches!(snap(&mut engine).await, Outcome::Unchanged(id) if id == second));
}

#[tokio::test]
async fn an_empty_store_is_said_to_be_empty_and_a_full_home_is_left_alone() {
    let ground = Ground::new();
    let mut engine = ground.engine(&ground.new_home("new"));
    assert!(matches!(restore(&mut engine, None, false).await, RestoreOutcome::Nothing));
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    publish(&mut engine).await;
    let RestoreOutcome::LeftAlone(Standing::Current) = restore(&mut engine, None, false).await else {
        panic!()
    };
}

#[tokio::test]
async fn going_back_to_an_older_snapshot_loses_nothing_of_the_newer() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    let first = publish(&mut engine).await;
    let before = content(&home);
    fs::write(home.join("memories/whose.md"), "changed").unwrap();
    let second = publish(&mut engine).await;
    let RestoreOutcome::Restored { id, kept, .. } = restore(&mut engine, Some(Selector::Seq(1)), true).await
    else {
        panic!()
    };
    assert_eq!((id, content(&home), kept.len()), (first.clone(), before, 1));
    let third = publish(&mut engine).await;
    let rows = engine.reader().list().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>(), [third, second, first]);
}

#[tokio::test]
async fn what_is_not_kept_is_deleted_with_its_bytes_and_a_pin_holds_it() {
    let mut ground = Ground::new();
    ground.keep = Keep { last: 2, within: 0, daily: 0, weekly: 0, monthly: 0 };
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    for round in 0..5 {
        fs::write(home.join("memories/whose.md"), format!("round {round}")).unwrap();
        publish(&mut engine).await;
        if round == 1 {
            engine.reader().pin(&Selector::Seq(2)).await.unwrap();
        }
    }
    let list = async |engine: &Engine| {
        engine.reader().list().await.unwrap().iter().map(|row| (row.id.seq, row.pinned)).collect::<Vec<_>>()
    };
    assert_eq!(list(&engine).await, [(5, None), (4, None), (2, Some("pin"))]);
    assert_eq!(ground.keys("packs").len(), 3);
    engine.reader().unpin(&Selector::Seq(2)).await.unwrap();
    let would = engine.prune(None, true).await.unwrap();
    assert_eq!((would.snapshots.len(), ground.keys("manifests").len()), (1, 3));
    engine.prune(None, false).await.unwrap();
    assert_eq!(list(&engine).await, [(5, None), (4, None)]);
    assert_eq!(ground.keys("packs").len(), 2);
    // What is left is whole.
    for seq in [4, 5] {
        let other = ground.new_home(&format!("other{seq}"));
        let mut engine = ground.engine(&other);
        restore(&mut engine, Some(Selector::Seq(seq)), false).await;
        assert_eq!(content(&other)["memories/whose.md"], format!("round {}", seq - 1));
    }
}

#[tokio::test]
async fn a_home_that_shrank_pins_what_it_was() {
    let mut ground = Ground::new();
    ground.keep = Keep { last: 1, within: 0, daily: 0, weekly: 0, monthly: 0 };
    let home = ground.home("one");
    fs::write(home.join("serena_config.yml"), "projects:\n- /one\n- /two\n").unwrap();
    let mut engine = ground.engine(&home);
    publish(&mut engine).await;
    fs::write(home.join("serena_config.yml"), "projects:\n- /one\n#      \n").unwrap();
    publish(&mut engine).await;
    fs::remove_dir_all(home.join("memories")).unwrap();
    fs::remove_file(home.join("serena_config.yml")).unwrap();
    publish(&mut engine).await;
    for round in 0..3 {
        fs::write(home.join("small"), format!("round {round}")).unwrap();
        publish(&mut engine).await;
    }
    let rows = engine.reader().list().await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.id.seq, row.pinned)).collect();
    assert_eq!(rows, [(6, None), (5, None), (2, Some("before a shrink")), (1, Some("before a shrink"))]);
}

#[tokio::test]
async fn a_home_that_shrinks_again_and_again_does_not_keep_everything_for_ever() {
    let mut ground = Ground::new();
    ground.keep = Keep { last: 1, within: 0, daily: 0, weekly: 0, monthly: 0 };
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    let rounds = prune::MAX_SHRUNK + 4;
    for round in 0..rounds {
        // The second round is the one that is worth most.
        let length = if round == 1 { 100_000 } else { 10_000 + round };
        fs::write(home.join("large"), "x".repeat(length)).unwrap();
        publish(&mut engine).await;
        fs::remove_file(home.join("large")).unwrap();
        fs::write(home.join("small"), format!("round {round}")).unwrap();
        publish(&mut engine).await;
    }
    // A person's pin is none of ours, whatever it was before.
    let rows = engine.reader().list().await.unwrap();
    let small = rows[rows.len() - 2].id.clone();
    engine.reader().pin(&Selector::Id(small.clone())).await.unwrap();
    for round in 0..4 {
        fs::write(home.join("large"), "x".repeat(20_000 + round)).unwrap();
        publish(&mut engine).await;
        fs::remove_file(home.join("large")).unwrap();
        publish(&mut engine).await;
    }
    let rows = engine.reader().list().await.unwrap();
    let ours: Vec<u64> =
        rows.iter().filter(|row| row.pinned == Some(pins::SHRUNK)).map(|row| row.id.seq).collect();
    assert_eq!(ours.len(), prune::MAX_SHRUNK, "{rows:?}");
    assert!(ours.contains(&3), "the largest of all is not among {ours:?}");
    assert!(rows.iter().any(|row| row.id == small && row.pinned == Some("pin")), "{rows:?}");
    assert!(rows.len() <= prune::MAX_SHRUNK + 3, "{rows:?}");
}

#[tokio::test]
async fn what_somebody_pins_before_it_is_deleted_stays_with_all_that_it_needs() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    let first = publish(&mut engine).await;
    let packs = ground.keys("packs");
    fs::write(home.join("memories/whose.md"), "changed").unwrap();
    publish(&mut engine).await;
    // As a prune has written it down, which then was killed.
    let gone = std::iter::once(first.manifest(false)).chain(packs.iter().map(|pack| format!("packs/{pack}")));
    engine.marker.marker.leftovers.extend(gone);
    engine.reader().pin(&Selector::Seq(1)).await.unwrap();
    assert_eq!(engine.delete_leftovers().await, HashSet::from([first]));
    assert!(engine.marker.marker.leftovers.is_empty());
    assert_eq!((ground.keys("manifests").len(), ground.keys("packs").len()), (2, 2));
    let other = ground.new_home("other");
    restore(&mut ground.engine(&other), Some(Selector::Seq(1)), false).await;
    assert_eq!(content(&other)["memories/whose.md"], "one");
}

#[tokio::test]
async fn a_damaged_newest_snapshot_is_passed_over_and_the_next_one_is_whole() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    publish(&mut engine).await;
    let old = content(&home);
    let packs = ground.keys("packs");
    fs::write(home.join("memories/whose.md"), "newer").unwrap();
    publish(&mut engine).await;
    let newest = ground.keys("packs").into_iter().find(|key| !packs.contains(key)).unwrap();
    fs::write(ground.directory.path().join("store/here/packs").join(newest), "nonsense").unwrap();
    let other = ground.new_home("other");
    let mut engine = ground.engine(&other);
    let RestoreOutcome::Restored { id, passed_over, .. } = restore(&mut engine, None, false).await else {
        panic!()
    };
    assert_eq!((id.seq, passed_over.len(), content(&other)), (1, 1, old));
    // It follows the damaged one, and needs none of its bytes.
    assert_eq!(publish(&mut engine).await.seq, 3);
    let third = ground.new_home("third");
    let mut engine = ground.engine(&third);
    restore(&mut engine, None, false).await;
    assert_eq!(content(&third), content(&other));
}

#[tokio::test]
async fn a_damaged_manifest_or_head_is_never_an_empty_store() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    publish(&mut engine).await;
    let store = ground.directory.path().join("store/here");
    let head = fs::read(store.join("HEAD")).unwrap();
    fs::write(store.join("HEAD"), "{").unwrap();
    let mut other = ground.engine(&ground.new_home("other"));
    let request = RestoreRequest::default();
    let error = other.restore(&request, &Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("HEAD is not readable"), "{error}");
    // Without HEAD the list of manifests still says what there is.
    fs::remove_file(store.join("HEAD")).unwrap();
    assert!(matches!(restore(&mut other, None, false).await, RestoreOutcome::Restored { .. }));
    fs::write(store.join("HEAD"), head).unwrap();
    let manifest = store.join("manifests").join(&ground.keys("manifests")[0]);
    fs::write(&manifest, "nonsense").unwrap();
    let mut third = ground.engine(&ground.new_home("third"));
    let error = third.restore(&request, &Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("no snapshot is whole"), "{error}");
    // And who still has the home publishes a whole one after it.
    drop(engine);
    fs::write(home.join("memories/more.md"), "more").unwrap();
    let mut engine = ground.engine(&home);
    assert_eq!(publish(&mut engine).await.seq, 2);
}
