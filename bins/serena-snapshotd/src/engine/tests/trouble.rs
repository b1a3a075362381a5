//! What cannot be read or stored is said, tried again, and never taken for something else.

use mcp_daemon::exit::Exit;

use super::*;

async fn fails(engine: &mut Engine) -> EngineError {
    engine.snapshot("asked", &Arc::default(), &Arc::default()).await.unwrap_err()
}

#[tokio::test]
async fn a_pin_that_could_not_be_stored_is_stored_by_the_next_attempt() {
    let ground = Ground::new();
    let home = ground.home("one");
    fs::write(home.join("large"), "x".repeat(10_000)).unwrap();
    let mut engine = ground.engine(&home);
    let before = publish(&mut engine).await;
    fs::remove_file(home.join("large")).unwrap();
    // Where the pins should be is something else.
    let pins = ground.directory.path().join("store/here/pins");
    fs::write(&pins, "in the way").unwrap();
    fails(&mut engine).await;
    fs::remove_file(&pins).unwrap();
    publish(&mut engine).await;
    let rows = engine.reader().list().await.unwrap();
    let pinned: Vec<_> = rows.iter().filter(|row| row.pinned.is_some()).map(|row| row.id.clone()).collect();
    assert_eq!(pinned, [before]);
    // What a person lets go is not pinned again.
    engine.reader().unpin(&Selector::Seq(1)).await.unwrap();
    fs::write(home.join("more"), "x").unwrap();
    publish(&mut engine).await;
    assert_eq!(ground.keys("pins").len(), 0);
}

#[tokio::test]
async fn a_list_has_what_cannot_be_read_too() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    publish(&mut engine).await;
    fs::write(home.join("memories/more.md"), "x").unwrap();
    let second = publish(&mut engine).await;
    let manifests = ground.directory.path().join("store/here");
    let newest = manifests.join(second.manifest(false));
    let whole = fs::read(&newest).unwrap();
    for damaged in [Some("nonsense"), None] {
        match damaged {
            Some(text) => fs::write(&newest, text).unwrap(),
            None => fs::remove_file(&newest).unwrap(),
        }
        let rows = engine.reader().list().await.unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.id.seq, row.place, row.held.is_ok())).collect();
        assert_eq!(found, [(2, Place::Newest, false), (1, Place::Fork, true)], "{rows:?}");
        // Nor is it found under its name, as if it were whole.
        for which in [Selector::Seq(2), Selector::Id(second.clone()), Selector::Latest] {
            let error = engine.reader().manifest(&which).await.unwrap_err();
            assert!(matches!(error, EngineError::Damaged(_)), "{which}: {error}");
        }
        engine.reader().manifest(&Selector::Seq(1)).await.unwrap();
    }
    // One that is readable, but not what HEAD says.
    let first = manifests.join(engine.reader().list().await.unwrap()[1].id.manifest(false));
    let mut other = Manifest::read(&fs::read(first).unwrap()[..]).unwrap();
    other.about.id = second.clone();
    let mut bytes = Vec::new();
    other.write(&mut bytes).unwrap();
    fs::write(&newest, bytes).unwrap();
    let error = engine.reader().manifest(&Selector::Id(second)).await.unwrap_err().to_string();
    assert!(error.contains("not what was stored"), "{error}");
    fs::write(&newest, whole).unwrap();
    assert!(engine.reader().list().await.unwrap().iter().all(|row| row.held.is_ok()));
}

#[tokio::test]
async fn what_a_newer_version_has_written_is_neither_damaged_nor_passed_over() {
    let ground = Ground::new();
    let home = ground.home("one");
    let mut engine = ground.engine(&home);
    publish(&mut engine).await;
    fs::write(home.join("memories/more.md"), "x").unwrap();
    let second = publish(&mut engine).await;
    let store = ground.directory.path().join("store/here");
    let head = fs::read_to_string(store.join("HEAD")).unwrap();
    // HEAD.
    fs::write(store.join("HEAD"), r#"{"version": 2, "snapshots": []}"#).unwrap();
    let mut other = ground.engine(&ground.new_home("other"));
    let restored = other.restore(&RestoreRequest::default(), &Arc::default()).await;
    assert_newer(&restored.unwrap_err());
    assert_newer(&fails(&mut ground.engine(&ground.home("third"))).await);
    // The newest manifest, which HEAD names rightly.
    let stored = zstd::encode_all(&br#"{"version": 2, "entries": "somewhere else"}"#[..], 3).unwrap();
    let digest = crate::digest::Digest::of(&stored).to_string();
    fs::write(store.join(second.manifest(false)), stored).unwrap();
    let was = serde_json::from_str::<serde_json::Value>(&head).unwrap()["manifest_sha256"].clone();
    fs::write(store.join("HEAD"), head.replace(was.as_str().unwrap(), &digest)).unwrap();
    let restored = other.restore(&RestoreRequest::default(), &Arc::default()).await;
    assert_newer(&restored.unwrap_err());
    assert!(!ground.new_home("other").exists());
}

fn assert_newer(error: &EngineError) {
    assert!(matches!(error, EngineError::Unreadable(_)), "{error:?}");
    assert!(error.to_string().contains("written by a newer serena-snapshotd"), "{error}");
    assert_eq!(error.exit(), Exit::Config);
}

#[tokio::test]
async fn a_number_that_two_pins_have_is_not_let_go_by_chance() {
    let ground = Ground::new();
    let reader = Reader::new(ground.store(), None);
    let [one, two] = [Id::new(7, 1), Id::new(7, 2)];
    for id in [&one, &two] {
        reader.put_pin(id, pins::ASKED).await.unwrap();
    }
    let error = reader.unpin(&Selector::Seq(7)).await.unwrap_err().to_string();
    assert!(error.contains(&one.to_string()) && error.contains(&two.to_string()), "{error}");
    assert_eq!(ground.keys("pins").len(), 2);
    reader.unpin(&Selector::Id(two)).await.unwrap();
    assert_eq!(reader.unpin(&Selector::Seq(7)).await.unwrap(), one);
    let error = reader.unpin(&Selector::Seq(7)).await.unwrap_err().to_string();
    assert_eq!(error, "snapshot 7 is not pinned");
}
