//! Trees of any shape, and what of them is told apart.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::take::settle::hook;

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
    Sparse(u64),
}

type Tree = Vec<(Vec<Vec<u8>>, Node, bool)>;

fn any_tree() -> impl Strategy<Value = Tree> {
    let name = prop_oneof![
        4 => vec(b'a'..b'e', 1..3),
        2 => vec(1_u8.., 1..20),
        1 => vec(1_u8.., 90..255),
    ];
    let name = name.prop_filter("names", |name| !name.contains(&b'/') && !matches!(&name[..], b"." | b".."));
    let node = prop_oneof![
        1 => Just(Node::Directory),
        4 => vec(any::<u8>(), 0..3000).prop_map(Node::File),
        1 => vec(1_u8.., 1..200).prop_map(Node::Link),
        1 => (0_u64..300_000).prop_map(Node::Sparse),
    ];
    vec((vec(name, 1..5), node, any::<bool>()), 0..20)
}

/// Makes as much of it as fits together.
fn make(tree: &Tree, home: &Path) {
    for (path, node, narrow) in tree {
        let mut place = home.to_owned();
        path.iter().for_each(|part| place.push(OsStr::from_bytes(part)));
        let Some(above) = place.parent() else { continue };
        if fs::create_dir_all(above).is_err() || place.symlink_metadata().is_ok() {
            continue;
        }
        let made = match node {
            Node::Directory => fs::create_dir(&place),
            Node::File(bytes) => fs::write(&place, bytes),
            Node::Link(target) => symlink(OsStr::from_bytes(target), &place),
            Node::Sparse(length) => File::create(&place).and_then(|file| file.set_len(*length)),
        };
        if made.is_ok() && !matches!(node, Node::Link(_)) {
            let mode = if *narrow { 0o500 } else { 0o755 };
            let mode = if matches!(node, Node::Directory) { mode | 0o200 } else { mode };
            fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// Every path below a directory as a manifest names it.
fn walk(place: &Path, path: &[u8], found: &mut Vec<Vec<u8>>) {
    found.push(path.to_vec());
    if place.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(place).unwrap() {
            let entry = entry.unwrap();
            walk(&entry.path(), &[path, b"/", entry.file_name().as_bytes()].concat(), found);
        }
    }
}

/// Everything that is there is in the manifest, and everything in the manifest is stored.
fn check(world: &World, manifest: &Manifest) {
    let mut paths = Vec::new();
    walk(world.home.path(), b"home", &mut paths);
    paths.sort();
    assert_eq!(manifest.entries.iter().map(|entry| &*entry.path).collect::<Vec<_>>(), paths);
    let mut used = vec![false; manifest.about.objects.len()];
    let decoded: Vec<Vec<u8>> = manifest
        .about
        .objects
        .iter()
        .map(|object| {
            assert_eq!(world.objects[&object.key].len() as u64, object.size);
            zstd::decode_all(&world.objects[&object.key][..]).unwrap()
        })
        .collect();
    let packs: Vec<_> = manifest
        .about
        .objects
        .iter()
        .zip(&decoded)
        .map(|(object, bytes)| object.key.starts_with(PACKS).then(|| unpack(bytes)))
        .collect();
    for entry in &manifest.entries {
        let below = entry.path.strip_prefix(b"home/").unwrap_or_default();
        let place = world.home.path().join(OsStr::from_bytes(below));
        let facts = place.symlink_metadata().unwrap();
        assert_eq!(
            (entry.mode, entry.mtime),
            (facts.mode() & 0o777, facts.mtime() * 1_000_000_000 + facts.mtime_nsec())
        );
        match &entry.kind {
            Kind::Directory => assert!(facts.is_dir()),
            Kind::Link(target) => {
                assert_eq!(fs::read_link(&place).unwrap().as_os_str().as_bytes(), &**target)
            }
            Kind::File(content) => {
                let object = content.object as usize;
                used[object] = true;
                let bytes = packs[object].as_ref().map_or(&decoded[object], |pack| &pack[&*entry.path]);
                assert!(*bytes == fs::read(&place).unwrap(), "{place:?}");
                assert_eq!((content.sha256, content.size), (Digest::of(bytes), bytes.len() as u64));
                assert!(!content.unsettled);
            }
        }
    }
    assert!(used.iter().all(|used| *used), "an object that nothing needs");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_taken_is_what_is_there(one in any_tree(), more in any_tree(), blob_from in 1_u64..200_000) {
        let mut world = World { blob_from, ..World::new() };
        make(&one, world.home.path());
        let (first, seen) = world.new_snapshot(None);
        check(&world, &first);
        prop_assert!(world.is_same(&first, Some(&seen)));
        prop_assert!(world.is_same(&first, None));
        let stored = world.objects.len();
        make(&more, world.home.path());
        match world.take(Some(&first), Some(&seen)).unwrap() {
            Taken::New(draft) => check(&world, &manifest(draft).0),
            Taken::Same(_) => {
                prop_assert_eq!(world.objects.len(), stored);
                check(&world, &first);
            }
        }
    }
}

#[test]
fn an_empty_home_is_a_snapshot_without_objects() {
    let mut world = World::new();
    let (first, _) = world.new_snapshot(None);
    assert_eq!((first.entries.len(), first.about.objects.len()), (1, 0));
    assert!(world.is_same(&first, None));
}

#[test]
fn new_times_alone_are_no_change() {
    let mut world = World::new();
    world.write("a", "text");
    let (first, seen) = world.new_snapshot(None);
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(world.path("a")).unwrap().set_modified(hour_ago).unwrap();
    File::open(world.home.path()).unwrap().set_modified(hour_ago).unwrap();
    assert!(world.is_same(&first, Some(&seen)));
    world.write("b", "more");
    let (second, _) = world.new_snapshot(Some(&first));
    let mtime = world.path("a").metadata().unwrap().mtime();
    assert_eq!(second.find(b"home/a").unwrap().mtime / 1_000_000_000, mtime);
}

#[test]
fn every_difference_but_times_is_a_change() {
    let changes: [fn(&World); 6] = [
        |world| world.write("a", "TEXT"),
        |world| world.write("new", ""),
        |world| fs::remove_file(world.path("a")).unwrap(),
        |world| fs::set_permissions(world.path("a"), Permissions::from_mode(0o604)).unwrap(),
        |world| {
            fs::remove_file(world.path("l")).unwrap();
            symlink("elsewhere", world.path("l")).unwrap();
        },
        |world| {
            fs::remove_file(world.path("l")).unwrap();
            fs::create_dir(world.path("l")).unwrap();
        },
    ];
    for change in changes {
        let mut world = World::new();
        world.write("a", "text");
        symlink("a", world.path("l")).unwrap();
        let (first, seen) = world.new_snapshot(None);
        change(&world);
        match world.take(Some(&first), Some(&seen)).unwrap() {
            Taken::New(draft) => check(&world, &manifest(draft).0),
            Taken::Same(_) => panic!("not seen"),
        }
    }
}

#[test]
fn what_was_seen_and_is_old_is_not_read_again() {
    let roots = World::roots(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let job = |base, seen| Job {
        roots: &roots,
        base,
        seen,
        spool: Path::new("/nowhere"),
        seal: None,
        blob_from: MAX_SMALL,
        progress: Box::leak(Box::default()),
        cancelled: Box::leak(Box::default()),
    };
    let Taken::New(draft) = take(&job(None, None), &mut |_| Ok(())).unwrap() else { panic!("no base") };
    let (first, seen) = manifest(draft);
    hook::set(|name| panic!("read again: {}", String::from_utf8_lossy(name)));
    let again = take(&job(Some(&first), Some(&seen)), &mut |_| Ok(()));
    hook::clear();
    assert!(matches!(again, Ok(Taken::Same(_))));
}

#[test]
fn what_was_seen_of_another_tree_is_not_believed() {
    let mut world = World::new();
    world.write("a", "text");
    let (first, seen) = world.new_snapshot(None);
    world.write("a", "TEXT");
    let (second, _) = world.new_snapshot(Some(&first));
    world.write("a", "text");
    assert!(!world.is_same(&second, Some(&seen)));
    // A change in the same moment, and of the same length, is seen.
    world.write("a", "tixt");
    assert!(!world.is_same(&first, Some(&seen)));
}

#[test]
fn what_is_neither_file_directory_nor_link_is_left_out_and_named() {
    let mut world = World::new();
    world.write("a", "text");
    let _socket = UnixListener::bind(world.path("s")).unwrap();
    mkfifo(&world.path("p\n"), Mode::S_IRWXU).unwrap();
    let Taken::New(mut draft) = world.take(None, None).unwrap() else { panic!("no base") };
    draft.skipped.sort();
    let home = world.home.path().display();
    let expected =
        [(format!("{home}/p\\n"), "a named pipe".to_owned()), (format!("{home}/s"), "a socket".to_owned())];
    assert_eq!(draft.skipped, expected);
    assert_eq!(draft.entries.len(), 2);
}

#[test]
fn a_home_that_is_not_there_is_an_error_that_names_it() {
    let mut world = World::new();
    let place = world.home.path().to_owned();
    fs::remove_dir(&place).unwrap();
    let error = world.take(None, None).err().unwrap().to_string();
    assert!(error.starts_with(&place.display().to_string()) && error.contains("No such file"), "{error}");
    fs::create_dir(&place).unwrap();
}

#[test]
fn a_file_that_may_not_be_read_is_an_error_that_names_it() {
    if nix::unistd::geteuid().is_root() {
        return; // Root may read everything.
    }
    let mut world = World::new();
    world.write("a/secret", "text");
    fs::set_permissions(world.path("a/secret"), Permissions::from_mode(0o000)).unwrap();
    let error = world.take(None, None).err().unwrap().to_string();
    assert!(error.contains("/a/secret: Permission denied"), "{error}");
}
