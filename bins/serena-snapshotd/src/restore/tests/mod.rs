//! Whatever happens, a home is entirely the old one or entirely the new one, and nothing beside it is touched.

mod hostile;
mod mounted;
mod reading;
mod round;
mod swaps;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::*;
use crate::digest::Digest;
use crate::layout::{self, Id};
use crate::manifest::{About, Content, Entry, HOME, StoredObject, count, tree_digest};
use crate::store::{Location, S3Settings, Source};

/// A directory with a store in it, room for a home, and something beside that nobody may touch.
struct Ground {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("room")).unwrap();
        fs::write(directory.path().join("canary"), "alive").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Ground { directory, runtime }
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("room/home")
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("room/.journal")
    }

    fn store(&self) -> Store {
        let location = Location::Directory(self.directory.path().join("store"));
        Store::at(&location, &"here".parse().unwrap(), &S3Settings::default()).unwrap()
    }

    /// Stores a pack or blob with such bytes.
    fn put(&self, stored: Vec<u8>, key: fn(&Digest, bool) -> String) -> StoredObject {
        let key = key(&Digest::of(&stored), false);
        let size = stored.len() as u64;
        self.runtime.block_on(self.store().put(&key, Source::Bytes(Bytes::from(stored)))).unwrap();
        StoredObject { key, size }
    }

    fn stored_path(&self, object: &StoredObject) -> PathBuf {
        self.directory.path().join("store/here").join(&object.key)
    }

    fn restore(&self, manifest: &Arc<Manifest>) -> Result<Restored, RestoreError> {
        self.restore_to(manifest, &[Target { name: HOME.to_owned(), path: self.home(), ours: None }])
    }

    fn restore_to(&self, manifest: &Arc<Manifest>, targets: &[Target]) -> Result<Restored, RestoreError> {
        let progress = Arc::default();
        let plan = Restoration { manifest, store: &self.store(), seal: None, targets, progress: &progress };
        self.runtime.block_on(restore(&plan, &self.journal()))
    }

    /// Nothing but the home, what was there before, and what is named may be left, and the canary lives.
    fn assert_clean(&self, also: &[&str]) {
        assert_eq!(fs::read_to_string(self.directory.path().join("canary")).unwrap(), "alive");
        let mut left: Vec<_> = fs::read_dir(self.directory.path().join("room")).unwrap().flatten().collect();
        left.retain(|entry| {
            entry.file_name() != "home" && !also.contains(&entry.file_name().to_str().unwrap())
        });
        assert!(left.is_empty(), "{left:?}");
    }
}

fn directory(path: &str) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        mode: 0o755,
        mtime: 1_500_000_000_123_456_789,
        kind: Kind::Directory,
    }
}

fn file(path: &str, bytes: &[u8], object: u32) -> Entry {
    let content = Content { size: bytes.len() as u64, sha256: Digest::of(bytes), object, unsettled: false };
    Entry { mode: 0o640, kind: Kind::File(content), ..directory(path) }
}

fn link(path: &str, target: &str) -> Entry {
    Entry { kind: Kind::Link(target.as_bytes().into()), mode: 0o777, ..directory(path) }
}

/// As it is written; nothing checks it.
fn manifest(entries: Vec<Entry>, objects: Vec<StoredObject>) -> Arc<Manifest> {
    let (files, bytes, unsettled) = count(&entries);
    let about = About {
        id: Id::new(1, 1),
        created: Timestamp::UNIX_EPOCH,
        writer: "test".to_owned(),
        reason: "asked".to_owned(),
        tree: tree_digest(&entries),
        files,
        bytes,
        unsettled,
        projects: None,
        objects,
        ancestors: Vec::new(),
    };
    Arc::new(Manifest { about, entries })
}

/// A tar of such files, compressed, with what ends every object.
fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    compressed(&tar.into_inner().unwrap())
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    let mut stored = encoder.finish().unwrap();
    stored.extend(0x184D_2A50_u32.to_le_bytes());
    stored.extend(16_u32.to_le_bytes());
    stored.extend(layout::nonce().as_bytes());
    stored
}

/// Everything below a directory: kind, permissions, time and content; what is ours is left out.
fn tree(path: &Path) -> BTreeMap<Vec<u8>, String> {
    fn walk(root: &Path, path: &Path, into: &mut BTreeMap<Vec<u8>, String>) {
        let found = fs::symlink_metadata(path).unwrap();
        let mode = found.permissions().mode() & 0o7777;
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let what = if found.is_symlink() {
            format!("link {:?}", fs::read_link(path).unwrap())
        } else if found.is_dir() {
            for entry in fs::read_dir(path).unwrap().flatten() {
                if entry.file_name() != journal::INSIDE {
                    walk(root, &entry.path(), into);
                }
            }
            format!("directory {mode:o}")
        } else {
            format!("file {mode:o} {} {}", found.mtime_nsec(), Digest::of(&fs::read(path).unwrap()))
        };
        into.insert(name, what);
    }
    let mut all = BTreeMap::new();
    if path.exists() {
        walk(path, path, &mut all);
    }
    all
}

#[test]
fn files_directories_and_links_are_put_back_with_permissions_and_times() {
    let ground = Ground::new();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    let mut holes = vec![0; 2_000_000];
    holes[1_500_000] = 1;
    let files: [(&str, &[u8]); 3] =
        [("home/a", b"one"), ("home/d/b", &big), ("home/old", b"of an older snapshot")];
    let packed = ground.put(pack(&files), layout::pack);
    let blob = ground.put(compressed(&holes), layout::blob);
    let closed = Entry { mode: 0o500, ..directory("home/d") };
    let entries = vec![
        directory("home"),
        file("home/a", b"one", 0),
        closed,
        file("home/d/b", &big, 0),
        file("home/d/empty", b"", 0),
        file("home/h", &holes, 1),
        file("home/h2", &holes, 1),
        link("home/l", "/nowhere"),
    ];
    let restored = ground.restore(&manifest(entries, vec![packed, blob])).unwrap();
    assert_eq!((restored.files, restored.bytes, restored.kept.len()), (5, 7_000_003, 0));
    let home = ground.home();
    assert_eq!(fs::read(home.join("d/b")).unwrap(), big);
    for sparse in ["h", "h2"] {
        assert_eq!(fs::read(home.join(sparse)).unwrap(), holes);
        assert!(fs::metadata(home.join(sparse)).unwrap().blocks() * 512 < 200_000);
    }
    assert_eq!(fs::read_link(home.join("l")).unwrap(), Path::new("/nowhere"));
    let found = fs::metadata(home.join("a")).unwrap();
    assert_eq!(
        (found.mode() & 0o7777, found.mtime(), found.mtime_nsec()),
        (0o640, 1_500_000_000, 123_456_789)
    );
    let found = fs::metadata(home.join("d")).unwrap();
    assert_eq!(
        (found.mode() & 0o7777, found.mtime(), found.mtime_nsec()),
        (0o500, 1_500_000_000, 123_456_789)
    );
    assert!(!home.join("old").exists());
    ground.assert_clean(&[]);
    fs::set_permissions(home.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn what_was_there_is_kept_once() {
    let ground = Ground::new();
    let packed = ground.put(pack(&[("home/a", b"new")]), layout::pack);
    let manifest = manifest(vec![directory("home"), file("home/a", b"new", 0)], vec![packed]);
    let kept = ground.directory.path().join("room/home.before-restore");
    for round in ["first", "second"] {
        let _ = fs::remove_dir_all(ground.home());
        fs::create_dir(ground.home()).unwrap();
        fs::write(ground.home().join("mine"), round).unwrap();
        let restored = ground.restore(&manifest).unwrap();
        assert_eq!(restored.kept, [kept.canonicalize().unwrap()]);
        assert_eq!(fs::read_to_string(kept.join("mine")).unwrap(), round);
        assert_eq!(fs::read_to_string(ground.home().join("a")).unwrap(), "new");
        assert!(!ground.home().join("mine").exists());
    }
    // An empty home is nothing to keep, and pushes nothing out.
    fs::remove_dir_all(ground.home()).unwrap();
    fs::create_dir(ground.home()).unwrap();
    assert!(ground.restore(&manifest).unwrap().kept.is_empty());
    assert_eq!(fs::read_to_string(kept.join("mine")).unwrap(), "second");
    ground.assert_clean(&["home.before-restore"]);
}

#[test]
fn a_home_behind_a_link_is_replaced_where_it_really_is() {
    let ground = Ground::new();
    let real = ground.directory.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("mine"), "old").unwrap();
    std::os::unix::fs::symlink(&real, ground.home()).unwrap();
    let packed = ground.put(pack(&[("home/a", b"new")]), layout::pack);
    ground.restore(&manifest(vec![directory("home"), file("home/a", b"new", 0)], vec![packed])).unwrap();
    assert_eq!(fs::read_link(ground.home()).unwrap(), real);
    assert_eq!(fs::read_to_string(real.join("a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(ground.directory.path().join("real.before-restore/mine")).unwrap(), "old");
}

#[test]
fn only_roots_that_are_in_the_snapshot_and_have_a_place_are_touched() {
    let ground = Ground::new();
    let packed = ground.put(pack(&[("home/a", b"new"), ("left/b", b"out")]), layout::pack);
    let entries =
        vec![directory("home"), file("home/a", b"new", 0), directory("left"), file("left/b", b"out", 0)];
    let other = ground.directory.path().join("room/other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine"), "stays").unwrap();
    let targets = [("home", ground.home()), ("absent", other.clone())];
    let targets = targets.map(|(name, path)| Target { name: name.to_owned(), path, ours: None });
    let restored = ground.restore_to(&manifest(entries, vec![packed]), &targets).unwrap();
    assert_eq!((restored.files, restored.bytes), (1, 3));
    assert_eq!(fs::read_to_string(other.join("mine")).unwrap(), "stays");
    ground.assert_clean(&["other"]);
}
