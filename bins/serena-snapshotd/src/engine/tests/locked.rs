//! Encrypted to other keys than ours is not damaged: nothing older is restored instead.

use age::secrecy::ExposeSecret;
use age::x25519;

use super::*;
use crate::restore::RestoreError;
use crate::seal::Seal;

/// A seal that reads with all of these identities, and writes to the last of them.
fn seal(ground: &Ground, identities: &[&x25519::Identity]) -> Arc<Seal> {
    let path = ground.directory.path().join("identities");
    let lines: Vec<String> =
        identities.iter().map(|one| one.to_string().expose_secret().to_owned()).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, mode).unwrap();
    let recipient = identities.last().unwrap().to_public().to_string();
    Arc::new(Seal::from_files(&[recipient], Some(&path), None).unwrap())
}

fn engine(ground: &Ground, home: &Path, seal: Arc<Seal>) -> Engine {
    let settings = Settings { seal: Some(seal), ..ground.settings(home) };
    Engine::open(settings, ground.store()).unwrap()
}

#[tokio::test]
async fn a_blob_of_another_key_is_no_damage_and_nothing_older_is_restored_for_it() {
    let ground = Ground::new();
    let [old, new] = [x25519::Identity::generate(), x25519::Identity::generate()];
    let home = ground.home("one");
    let mut first = engine(&ground, &home, seal(&ground, &[&new]));
    publish(&mut first).await;
    drop(first);
    // A large file that is stored while the old key writes, and carried on when the new one does.
    fs::write(home.join("large"), "x".repeat(100_000)).unwrap();
    let mut second = engine(&ground, &home, seal(&ground, &[&new, &old]));
    let of_old_key = publish(&mut second).await;
    drop(second);
    fs::write(home.join("small"), "x").unwrap();
    let mut third = engine(&ground, &home, seal(&ground, &[&old, &new]));
    publish(&mut third).await;
    assert_eq!(ground.keys("blobs").len(), 1);
    drop(third);
    fs::remove_file(ground.directory.path().join("store/here").join(of_old_key.manifest(true))).unwrap();
    // Whoever has only the new key can read the newest manifest, and the first snapshot whole.
    let other = ground.new_home("other");
    let mut newcomer = engine(&ground, &other, seal(&ground, &[&new]));
    let error = newcomer.restore(&RestoreRequest::default(), &Arc::default()).await.unwrap_err();
    assert!(matches!(error, EngineError::Restore(RestoreError::Locked(_))), "{error:?}");
    assert!(error.to_string().contains("encrypted to other keys"), "{error}");
    assert_eq!(error.exit(), mcp_daemon::exit::Exit::Config);
    assert!(!other.exists() && ground.keys("pins").is_empty());
    // With both it is there.
    drop(newcomer);
    let mut newcomer = engine(&ground, &other, seal(&ground, &[&old, &new]));
    assert!(matches!(restore(&mut newcomer, None, false).await, RestoreOutcome::Restored { .. }));
    assert_eq!(content(&other), content(&home));
}
