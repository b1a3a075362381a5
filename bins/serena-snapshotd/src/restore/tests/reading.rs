//! What only reads a snapshot: `verify` and `cat`.

use std::io::Read;

use super::*;
use crate::cat::cat;
use crate::verify::{Verified, verify};

/// Two packs and a blob, with one file of everything.
fn snapshot(ground: &Ground) -> (Arc<Manifest>, Vec<StoredObject>) {
    let big = big();
    let objects = vec![
        ground.put(pack(&[("home/a", b"one"), ("home/b", b"two"), ("home/stale", b"-")]), layout::pack),
        ground.put(pack(&[("home/c", b"three")]), layout::pack),
        ground.put(compressed(&big), layout::blob),
    ];
    let entries = vec![
        directory("home"),
        file("home/a", b"one", 0),
        file("home/b", b"two", 0),
        file("home/big", &big, 2),
        file("home/c", b"three", 1),
        file("home/empty", b"", 1),
        link("home/l", "a"),
    ];
    (manifest(entries, objects.clone()), objects)
}

fn big() -> Vec<u8> {
    (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn verified(ground: &Ground, manifest: &Arc<Manifest>, read_data: bool) -> Verified {
    ground.runtime.block_on(verify(&ground.store(), manifest, None, read_data, &Arc::default())).unwrap()
}

fn shown(ground: &Ground, manifest: &Arc<Manifest>, path: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let ended = ground.runtime.block_on(cat(&ground.store(), manifest, None, path.as_bytes(), &mut out));
    ended.map(|()| out).map_err(|error| error.to_string())
}

#[test]
fn a_whole_snapshot_has_no_problems() {
    let ground = Ground::new();
    let (manifest, objects) = snapshot(&ground);
    let stored = objects.iter().map(|object| object.size).sum();
    let seen = Verified { objects: 3, stored, ..Verified::default() };
    assert_eq!(verified(&ground, &manifest, false), seen);
    assert_eq!(verified(&ground, &manifest, true), Verified { files: 4, bytes: 4_000_011, ..seen });
}

#[test]
fn all_problems_are_told_and_not_only_the_first() {
    let ground = Ground::new();
    let (manifest, objects) = snapshot(&ground);
    fs::remove_file(ground.stored_path(&objects[1])).unwrap();
    let path = ground.stored_path(&objects[2]);
    let mut stored = fs::read(&path).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    fs::write(&path, stored).unwrap();
    assert_eq!(verified(&ground, &manifest, false).problems.len(), 1);
    let mut other = (*manifest).clone();
    for at in [1, 2] {
        other.entries[at] = file(["home/a", "home/b"][at - 1], b"else"[..3].as_ref(), 0);
    }
    let problems = verified(&ground, &Arc::new(other), true).problems;
    assert_eq!(problems.len(), 4, "{problems:#?}");
    for (problem, why) in problems.iter().zip([
        "not in the store any more",
        "`home/a` is not what the manifest says",
        "`home/b` is not what the manifest says",
        &objects[2].key,
    ]) {
        assert!(problem.contains(why), "{problem}, expected {why}");
    }
}

#[test]
fn one_file_is_shown_from_a_pack_or_blob_with_or_without_the_name_of_its_root() {
    let ground = Ground::new();
    let (manifest, _) = snapshot(&ground);
    for (path, bytes) in [("home/a", &b"one"[..]), ("c", b"three"), ("home/big", &big()), ("empty", b"")] {
        assert!(shown(&ground, &manifest, path).unwrap() == bytes, "{path}");
    }
    assert!(shown(&ground, &manifest, "nope").unwrap_err().starts_with("`nope` is not in this snapshot; "));
    assert_eq!(
        shown(&ground, &manifest, "home").unwrap_err(),
        "`home` is a directory in this snapshot, not a file"
    );
    assert_eq!(
        shown(&ground, &manifest, "l").unwrap_err(),
        "`home/l` is a link to `a` in this snapshot, not a file"
    );
}

#[test]
fn a_file_that_is_not_what_it_was_is_an_error_after_its_bytes() {
    let ground = Ground::new();
    let (manifest, _) = snapshot(&ground);
    let mut other = (*manifest).clone();
    other.entries[1] = file("home/a", b"ten", 0);
    let error = shown(&ground, &Arc::new(other), "a").unwrap_err();
    assert!(error.ends_with("`home/a` is not what the manifest says: its digest differs"), "{error}");
    let full = |path: &str| {
        let mut full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ended =
            ground.runtime.block_on(cat(&ground.store(), &manifest, None, path.as_bytes(), &mut full));
        ended.unwrap_err().to_string()
    };
    assert_eq!(full("home/big"), "cannot write: No space left on device (os error 28)");
}

#[test]
fn a_sealed_snapshot_is_read_with_its_key_alone() {
    let ground = Ground::new();
    let passphrase = ground.directory.path().join("passphrase");
    fs::write(&passphrase, "correct horse battery staple").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let seal = Arc::new(Seal::from_files(&[], None, Some(&passphrase)).unwrap());
    let mut sealed = seal.writer(Vec::new()).unwrap();
    sealed.write_all(&pack(&[("home/a", b"one")])).unwrap();
    let stored = sealed.finish().unwrap();
    let key = layout::pack(&Digest::of(&stored), true);
    let size = stored.len() as u64;
    ground.runtime.block_on(ground.store().put(&key, Source::Bytes(stored.into()))).unwrap();
    let manifest =
        manifest(vec![directory("home"), file("home/a", b"one", 0)], vec![StoredObject { key, size }]);
    let error = ground.restore(&manifest).unwrap_err().to_string();
    assert!(error.contains("encrypted, and no key was given"), "{error}");
    let progress = Arc::default();
    let targets = [Target { name: HOME.to_owned(), path: ground.home(), ours: None }];
    let store = ground.store();
    let plan = Restoration {
        manifest: &manifest,
        store: &store,
        seal: Some(&seal),
        targets: &targets,
        progress: &progress,
    };
    ground.runtime.block_on(restore(&plan, &ground.journal())).unwrap();
    let mut text = String::new();
    fs::File::open(ground.home().join("a")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "one");
}
