//! Archives that somebody else wrote. Whatever is in them, nothing outside of the directory is touched, and what counts as
//! unpacked is what was promised.
//!
//! An input is a tar without compression. It is brought in as the Cloudflare wrapper's would be, and restored as the pack of
//! a snapshot with three files: `home/a` (`hello`), `home/s/b` (600 times `b`) and `home/s/c` (empty).

#![no_main]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use flate2::Compression;
use flate2::read::GzEncoder;
use libfuzzer_sys::fuzz_target;
use snapshotd::digest::Digest;
use snapshotd::import::{Limits, unpack};
use snapshotd::layout;
use snapshotd::manifest::{About, Content, Entry, Kind, Manifest, count, tree_digest};
use snapshotd::progress::Progress;
use snapshotd::restore::{Restoration, Target, restore};
use snapshotd::store::{S3Settings, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const LIMITS: Limits = Limits { entries: 40, bytes: 64 * 1024 };

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().build().expect("the system has room for a runtime")
});

fuzz_target!(|input: &[u8]| {
    brought_in(input);
    restored(input);
});

/// A directory in memory where there is such a place, with a file beside what may be written.
fn ground() -> TempDir {
    let memory = Path::new("/dev/shm");
    let ground = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let ground = ground.expect("there is room for a directory");
    fs::write(ground.path().join("canary"), "alive").expect("there is room for a file");
    ground
}

/// Nothing is beside the canary but these, and it is as it was.
fn untouched(ground: &TempDir, expected: &[&str]) {
    assert_eq!(fs::read(ground.path().join("canary")).expect("it is there"), b"alive");
    let mut names: Vec<_> = fs::read_dir(ground.path())
        .expect("it is there")
        .map(|entry| entry.expect("it can be listed").file_name().into_string().expect("only our names"))
        .filter(|name| name != "canary")
        .collect();
    names.sort_unstable();
    assert_eq!(names, expected);
}

fn brought_in(archive: &[u8]) {
    let ground = ground();
    let into = ground.path().join("into");
    let unpacked = unpack(GzEncoder::new(archive, Compression::none()), &into, LIMITS);
    untouched(&ground, &["into"]);
    let (mut files, mut bytes) = (0, 0);
    look(&into, &into.canonicalize().expect("it is there"), &mut files, &mut bytes);
    assert!(bytes <= LIMITS.bytes, "{bytes} bytes");
    match unpacked {
        Ok(unpacked) => assert_eq!((unpacked.files, unpacked.bytes), (files, bytes)),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// Counts files, and follows every link to see where it leads.
fn look(directory: &Path, root: &Path, files: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(directory).expect("we may always look into what we made") {
        let path = entry.expect("it can be listed").path();
        let about = path.symlink_metadata().expect("it is there");
        if about.is_dir() {
            look(&path, root, files, bytes);
        } else if about.is_symlink() {
            let leads_to = path.canonicalize();
            assert!(
                leads_to.is_err() || leads_to.is_ok_and(|to| to.starts_with(root)),
                "{} leads out",
                path.display()
            );
            continue;
        } else {
            assert!(about.is_file());
            *files += 1;
            *bytes += about.len();
        }
        assert_eq!(about.permissions().mode() & 0o7000, 0, "{}", path.display());
    }
}

fn restored(pack: &[u8]) {
    let ground = ground();
    let stored = zstd::encode_all(pack, 1).expect("memory takes everything");
    let key = layout::pack(&Digest::of(&stored), false);
    let place = ground.path().join("store/p").join(&key);
    fs::create_dir_all(place.parent().expect("it has one")).expect("there is room for a directory");
    fs::write(&place, &stored).expect("there is room for a file");
    let location =
        format!("file://{}", ground.path().join("store").display()).parse().expect("an absolute path");
    let partition = "p".parse().expect("a name");
    let store = Store::at(&location, &partition, &S3Settings::default()).expect("a directory needs nothing");

    let home = ground.path().join("home");
    fs::create_dir(&home).expect("there is room for a directory");
    fs::write(home.join("old"), "old").expect("there is room for a file");
    let manifest = Arc::new(manifest(&key, stored.len()));
    let targets = [Target { name: "home".to_owned(), path: home.clone(), ours: None }];
    let progress = Arc::default();
    let plan = Restoration {
        manifest: &manifest,
        store: &store,
        seal: None,
        targets: &targets,
        progress: &progress as &Arc<Progress>,
    };
    match RUNTIME.block_on(restore(&plan, &ground.path().join("journal"))) {
        Ok(_) => {
            let read = |name: &str| fs::read(home.join(name)).expect("it was restored");
            assert_eq!(
                (read("a"), read("s/b"), read("s/c")),
                (b"hello".to_vec(), vec![b'b'; 600], Vec::new())
            );
            assert_eq!(fs::read_dir(&home).expect("it is there").count(), 2);
            untouched(&ground, &["home", "home.before-restore", "store"]);
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            assert_eq!(fs::read(home.join("old")).expect("it is as it was"), b"old");
            assert_eq!(fs::read_dir(&home).expect("it is there").count(), 1);
            untouched(&ground, &["home", "store"]);
        }
    }
}

/// Of three files that should be in the pack.
fn manifest(key: &str, size: usize) -> Manifest {
    let file = |bytes: &[u8]| {
        Kind::File(Content {
            size: bytes.len() as u64,
            sha256: Digest::of(bytes),
            object: 0,
            unsettled: false,
        })
    };
    let entry = |path: &str, mode, kind| Entry { path: path.as_bytes().into(), mode, mtime: 0, kind };
    let entries = vec![
        entry("home", 0o700, Kind::Directory),
        entry("home/a", 0o600, file(b"hello")),
        entry("home/s", 0o755, Kind::Directory),
        entry("home/s/b", 0o644, file(&[b'b'; 600])),
        entry("home/s/c", 0o644, file(b"")),
    ];
    let ((files, bytes, _), tree) = (count(&entries), tree_digest(&entries));
    let text = format!(
        r#"{{"id": "0000000001-000001-0123456789abcdef", "created": "2026-01-01T00:00:00Z", "writer": "w", "reason": "asked",
            "tree": "{tree}", "files": {files}, "bytes": {bytes}, "unsettled": 0, "ancestors": [],
            "objects": [{{"key": "{key}", "size": {size}}}]}}"#
    );
    let about: About = serde_json::from_str(&text).expect("it is written as one");
    Manifest { about, entries }
}
