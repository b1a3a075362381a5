//! Several writers, crashes, and answers that were lost.

use proptest::prelude::*;

use super::*;
use crate::manifest::Kind;

#[tokio::test]
async fn the_last_daemon_to_start_publishes_and_the_older_one_keeps_a_fork() {
    let ground = Ground::new();
    let (one, two) = (ground.home("one"), ground.new_home("two"));
    let mut older = ground.engine(&one);
    older.claim().await.unwrap();
    publish(&mut older).await;

    let mut newer = ground.engine(&two);
    restore(&mut newer, None, false).await;
    newer.claim().await.unwrap();
    fs::write(one.join("memories/old.md"), "old writer").unwrap();
    fs::write(two.join("memories/new.md"), "new writer").unwrap();
    let Outcome::Forked(fork, Standing::Fenced) = snap(&mut older).await else { panic!() };
    assert_eq!(publish(&mut newer).await.seq, 2);
    // Its fork follows what it does, and there is never more than one.
    let Outcome::Forked(again, Standing::Fenced) = snap(&mut older).await else { panic!() };
    assert_eq!((again.id, again.files, again.sent), (fork.id, fork.files, 0));
    fs::write(one.join("memories/old.md"), "old writer again").unwrap();
    assert!(matches!(snap(&mut older).await, Outcome::Forked(_, Standing::Fenced)));
    assert_eq!(ground.keys("forks").len(), 1);

    // Started again it is stale: it neither publishes nor fences the writer.
    drop(older);
    let mut older = ground.engine(&one);
    older.claim().await.unwrap();
    assert_eq!(older.standing().await.unwrap(), Standing::Diverged);
    fs::write(two.join("memories/new.md"), "still the writer").unwrap();
    assert_eq!(publish(&mut newer).await.seq, 3);
    // Nothing of either is lost.
    let third = ground.new_home("third");
    let mut engine = ground.engine(&third);
    restore(&mut engine, None, false).await;
    assert_eq!(content(&third), content(&two));
    let fork = engine.reader().list().await.unwrap().pop().unwrap().id;
    restore(&mut engine, Some(Selector::Id(fork)), true).await;
    assert_eq!(content(&third), content(&one));
}

#[tokio::test]
async fn a_person_chooses_the_home_or_the_store_and_the_other_is_kept() {
    for side in [Side::Local, Side::Remote] {
        let ground = Ground::new();
        let (one, two) = (ground.home("one"), ground.home("two"));
        publish(&mut ground.engine(&one)).await;
        let mut engine = ground.engine(&two);
        assert_eq!(engine.standing().await.unwrap(), Standing::Diverged);
        assert!(matches!(snap(&mut engine).await, Outcome::Forked(_, Standing::Diverged)));
        let before = content(&two);
        engine.adopt(side, &Arc::default()).await.unwrap();
        assert_eq!(engine.standing().await.unwrap(), Standing::Current);
        match side {
            Side::Local => {
                assert_eq!(publish(&mut engine).await.seq, 2);
                assert_eq!(content(&two), before);
            }
            Side::Remote => {
                assert_eq!(content(&two), content(&one));
                assert!(matches!(snap(&mut engine).await, Outcome::Unchanged(_)));
                let fork = engine.reader().list().await.unwrap().pop().unwrap();
                let third = ground.new_home("third");
                restore(&mut ground.engine(&third), Some(Selector::Id(fork.id)), false).await;
                assert_eq!(content(&third), before);
            }
        }
    }
}

#[tokio::test]
async fn a_fork_stays_until_somebody_names_it_and_then_goes_with_its_bytes() {
    let ground = Ground::new();
    let (one, two) = (ground.home("one"), ground.home("two"));
    let mut engine = ground.engine(&one);
    let first = publish(&mut engine).await;
    let mut stranger = ground.engine(&two);
    let Outcome::Forked(fork, _) = snap(&mut stranger).await else { panic!() };
    fs::write(one.join("memories/more.md"), "more").unwrap();
    let second = publish(&mut engine).await;
    assert!(engine.prune(None, false).await.unwrap().snapshots.is_empty());
    // What is no fork is not deleted by this way.
    for other in [&first, &second, &Id::new(7, 1)] {
        let error = engine.prune(Some(other), false).await.unwrap_err();
        assert!(matches!(&error, EngineError::NoSuchSnapshot(why) if why.contains("is no fork")), "{error}");
    }
    let would = engine.prune(Some(&fork.id), true).await.unwrap();
    assert_eq!((would.snapshots, would.objects, ground.keys("forks").len()), (vec![fork.id.clone()], 1, 1));
    engine.prune(Some(&fork.id), false).await.unwrap();
    assert_eq!((ground.keys("forks").len(), ground.keys("packs").len()), (0, 2));
    // The home whose fork that was keeps another one, whole.
    let Outcome::Forked(again, _) = snap(&mut stranger).await else { panic!() };
    let third = ground.new_home("third");
    restore(&mut ground.engine(&third), Some(Selector::Id(again.id)), false).await;
    assert_eq!(content(&third), content(&two));
}

#[tokio::test]
async fn an_empty_home_is_no_first_snapshot() {
    let ground = Ground::new();
    let home = ground.new_home("one");
    let mut engine = ground.engine(&home);
    assert!(matches!(snap(&mut engine).await, Outcome::Nothing));
    fs::create_dir_all(home.join("memories")).unwrap();
    assert!(matches!(snap(&mut engine).await, Outcome::Nothing));
    assert_eq!((ground.keys("manifests").len(), ground.keys("").len()), (0, 0));
    fs::write(home.join("memories/first.md"), "1").unwrap();
    publish(&mut engine).await;
    // Afterwards nothing is something, too: somebody has deleted it.
    fs::remove_file(home.join("memories/first.md")).unwrap();
    publish(&mut engine).await;
}

#[tokio::test]
async fn a_crash_between_head_and_marker_does_not_make_the_home_a_stranger() {
    let ground = Ground::new();
    let home = ground.home("one");
    let marker = beside(&home, "snapshotd.json");
    let mut engine = ground.engine(&home);
    let first = publish(&mut engine).await;
    fs::write(home.join("memories/whose.md"), "second").unwrap();
    let (before, says) = (fs::read(&marker).unwrap(), Descent::read(&home).unwrap());
    let second = publish(&mut engine).await;
    drop(engine);
    // As it was when the last intent was written, and nothing after it.
    let mut crashed: marker::Marker = serde_json::from_slice(&before).unwrap();
    crashed.intend(second.clone(), Some(first.clone()), second.manifest(false));
    fs::write(&marker, serde_json::to_vec(&crashed).unwrap()).unwrap();
    says.write(&home).unwrap();
    let mut engine = ground.engine(&home);
    assert_eq!(engine.standing().await.unwrap(), Standing::Current);
    assert!(matches!(snap(&mut engine).await, Outcome::Unchanged(id) if id == second));
}

#[tokio::test]
async fn a_crashed_snapshot_that_others_have_followed_is_nobodys_leftover() {
    let ground = Ground::new();
    let (one, two) = (ground.home("one"), ground.new_home("two"));
    let mut engine = ground.engine(&one);
    let first = publish(&mut engine).await;
    drop(engine);
    fs::write(beside(&one, "snapshotd.json"), {
        let mut crashed = marker::Marker::default();
        crashed.intend(first.clone(), Some(first.clone()), first.manifest(false));
        serde_json::to_vec(&crashed).unwrap()
    })
    .unwrap();
    let mut other = ground.engine(&two);
    restore(&mut other, None, false).await;
    fs::write(two.join("memories/new.md"), "second").unwrap();
    publish(&mut other).await;
    let mut engine = ground.engine(&one);
    assert_eq!(engine.standing().await.unwrap(), Standing::Diverged);
    engine.adopt(Side::Local, &Arc::default()).await.unwrap();
    assert_eq!(publish(&mut engine).await.seq, 3);
    assert_eq!(
        engine.reader().list().await.unwrap().iter().map(|row| row.id.seq).collect::<Vec<_>>(),
        [3, 2, 1]
    );
}

#[tokio::test]
async fn what_a_crash_left_in_the_store_is_deleted_after_the_next_snapshot() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    let first = publish(&mut engine).await;
    let store = ground.directory.path().join("store/here");
    // A snapshot that came as far as its manifest.
    let lost = Id::new(2, first.epoch);
    fs::copy(store.join("manifests").join(&ground.keys("manifests")[0]), store.join(lost.manifest(false)))
        .unwrap();
    engine.marker.marker.intend(lost.clone(), Some(first), lost.manifest(false));
    engine.marker.write().unwrap();
    drop(engine);
    let mut engine = ground.engine(&home);
    assert_eq!(engine.standing().await.unwrap(), Standing::Current);
    fs::write(home.join("memories/whose.md"), "second").unwrap();
    publish(&mut engine).await;
    assert_eq!(ground.keys("manifests").len(), 2);
    assert!(engine.marker.marker.leftovers.is_empty());
}

#[tokio::test]
async fn an_empty_home_without_a_marker_is_not_kept_as_a_fork() {
    let ground = Ground::new();
    publish(&mut ground.engine(&ground.home("one"))).await;
    let empty = ground.new_home("empty");
    fs::create_dir(&empty).unwrap();
    let mut engine = ground.engine(&empty);
    let progress = Arc::new(Progress::default());
    let error = engine.snapshot("asked", &progress, &Arc::default()).await.unwrap_err().to_string();
    assert!(error.contains("`serena-snapshotd restore` first"), "{error}");
    assert_eq!(ground.keys("forks").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_takeover_wait_a_long_work_is_no_silence_and_what_was_heard_in_it_counts() {
    let ground = Ground::new();
    let (one, two) = (ground.home("one"), ground.new_home("two"));
    let with = |home: &Path, takeover| {
        Engine::open(Settings { takeover, ..ground.settings(home) }, ground.store()).unwrap()
    };
    let mut holder = with(&one, Takeover::Wait);
    holder.claim().await.unwrap();
    publish(&mut holder).await;
    let mut newcomer = with(&two, Takeover::Wait);
    restore(&mut newcomer, None, false).await;
    let long = claim::RENEW * 10;
    let began = tokio::time::Instant::now();
    tokio::select! {
        claimed = newcomer.claim() => panic!("{claimed:?} after {:?}", began.elapsed()),
        () = holder.alive(tokio::time::sleep(long)) => {}
    }
    assert!(began.elapsed() >= long);
    drop(newcomer);
    // Somebody who does not wait takes over while the next snapshot is being made.
    fs::write(one.join("memories/late.md"), "late").unwrap();
    let id = Id::new(2, 1);
    let work = gather::Work { reason: "asked".into(), progress: Arc::default(), cancelled: Arc::default() };
    let manifest = Arc::new(gather::made(&holder.settings, id.clone(), &work, vec![], vec![], vec![]));
    let ours = holder.put_manifest(id.manifest(false), &manifest).await.unwrap();
    let mut third = with(&two, Takeover::Now);
    third.claim().await.unwrap();
    let head = fs::read(ground.directory.path().join("store/here/HEAD")).unwrap();
    holder.alive(tokio::time::sleep(claim::RENEW * 2)).await;
    let claimed = holder.make_newest(ours).await.unwrap();
    assert!(matches!(claimed, publish::Claimed::Refused(Standing::Fenced)));
    assert_eq!(fs::read(ground.directory.path().join("store/here/HEAD")).unwrap(), head);
}

#[tokio::test(start_paused = true)]
async fn with_takeover_wait_a_newcomer_waits_for_the_holder_but_not_for_itself() {
    let ground = Ground::new();
    let (one, two) = (ground.home("one"), ground.new_home("two"));
    let waiting = |home: &Path| {
        let settings = Settings { takeover: Takeover::Wait, ..ground.settings(home) };
        Engine::open(settings, ground.store()).unwrap()
    };
    let mut holder = waiting(&one);
    holder.claim().await.unwrap();
    publish(&mut holder).await;
    let mut newcomer = waiting(&two);
    restore(&mut newcomer, None, false).await;
    let began = tokio::time::Instant::now();
    let alive = async {
        for _ in 0..5 {
            tokio::time::sleep(claim::RENEW).await;
            assert!(holder.renew().await.unwrap());
        }
    };
    let (claimed, ()) = tokio::join!(newcomer.claim(), alive);
    claimed.unwrap();
    assert!(began.elapsed() >= claim::RENEW * 7, "{:?}", began.elapsed());
    // The holder has been replaced, and hears of it when it says that it is alive.
    assert!(!holder.renew().await.unwrap());
    // Whoever wrote HEAD last need not wait for himself, nor anybody for who has released it.
    drop(newcomer);
    let mut again = waiting(&two);
    let began = tokio::time::Instant::now();
    again.claim().await.unwrap();
    again.release().await.unwrap();
    drop(holder);
    fs::remove_dir_all(&one).unwrap();
    fs::remove_file(beside(&one, "snapshotd.json")).unwrap();
    let mut third = waiting(&one);
    restore(&mut third, None, false).await;
    third.claim().await.unwrap();
    assert!(began.elapsed() < claim::RENEW);
}

/// What may happen to one of two homes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Adopt(Side),
    Claim,
    Crash,
    Edit(u8),
    Restart,
    Snapshot,
}

fn any_step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        1 => Just(Step::Adopt(Side::Local)),
        1 => Just(Step::Adopt(Side::Remote)),
        2 => Just(Step::Claim),
        2 => Just(Step::Crash),
        4 => any::<u8>().prop_map(Step::Edit),
        2 => Just(Step::Restart),
        5 => Just(Step::Snapshot),
    ];
    (0_usize..2, step)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Whatever two homes do in whatever order: what was acknowledged as published is in the lineage of `HEAD`, whole, and
    /// each home is found in the lineage or in a fork after its last snapshot.
    #[test]
    fn nothing_that_was_acknowledged_is_lost(steps in prop::collection::vec(any_step(), 1..25)) {
        let runtime = mcp_daemon::life::runtime().unwrap();
        runtime.block_on(async {
            let mut ground = Ground::new();
            ground.keep = Keep { last: 1000, within: 0, daily: 0, weekly: 0, monthly: 0 };
            let homes = [ground.home("one"), ground.home("two")];
            let mut engines = [ground.engine(&homes[0]), ground.engine(&homes[1])].map(Some);
            let mut published: Vec<Id> = Vec::new();
            for (who, step) in steps {
                let mut engine = engines[who].take().unwrap();
                match step {
                    Step::Adopt(side) => {
                        let _refused_while_there_is_nothing = engine.adopt(side, &Arc::default()).await;
                    }
                    Step::Claim => engine.claim().await.unwrap(),
                    Step::Crash => {
                        let marker = engine.marker.marker.clone();
                        let mut says = Descent::read(&homes[who]).unwrap();
                        // Published, and killed before the marker says so.
                        if let Outcome::Published(lost) = snap(&mut engine).await {
                            let mut before = marker;
                            if says.known_by().is_none() {
                                says.attempt = Some(lost.id.clone());
                            }
                            before.intend(lost.id.clone(), says.known_by().cloned(), lost.id.manifest(false));
                            says.write(&homes[who]).unwrap();
                            engine.marker.marker = before;
                            engine.marker.write().unwrap();
                            published.push(lost.id);
                        }
                        drop(engine);
                        engine = ground.engine(&homes[who]);
                    }
                    Step::Edit(what) => fs::write(homes[who].join("memories/edit.md"), [what]).unwrap(),
                    Step::Restart => {
                        drop(engine);
                        engine = ground.engine(&homes[who]);
                    }
                    Step::Snapshot => if let Outcome::Published(summary) = snap(&mut engine).await {
                        published.push(summary.id);
                    },
                }
                engines[who] = Some(engine);
            }
            let reader = engines[0].as_ref().unwrap().reader();
            let rows = reader.list().await.unwrap();
            let lineage: Vec<&Id> = rows.iter().filter(|row| row.place != Place::Fork).map(|row| &row.id).collect();
            for id in &published {
                assert!(lineage.contains(&id), "{id} is not in {lineage:?}");
            }
            // Numbers count along one line, and every byte of every snapshot is there.
            let numbers: Vec<u64> = lineage.iter().map(|id| id.seq).collect();
            assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]), "{numbers:?}");
            for row in &rows {
                let manifest = reader.manifest(&Selector::Id(row.id.clone())).await.unwrap();
                for entry in &manifest.entries {
                    if let Kind::File(content) = &entry.kind {
                        let object = &manifest.about.objects[content.object as usize];
                        assert!(ground.store().stat(&object.key).await.unwrap().is_some(), "{}", object.key);
                    }
                }
            }
        });
    }
}
