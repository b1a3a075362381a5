//! What is stored: by hand, in how many objects, encrypted, and with how much memory.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::Ordering;

use age::secrecy::ExposeSecret;

use super::*;
use crate::manifest::Entry;

const MIB: usize = 1024 * 1024;

#[test]
fn gnu_tar_unpacks_a_pack_by_hand() {
    let mut world = World::new();
    let long = "n".repeat(120);
    world.write("plain", "text");
    world.write(&format!("{long}/{long}"), "deep");
    fs::set_permissions(world.path("plain"), Permissions::from_mode(0o640)).unwrap();
    symlink(&long, world.path("short")).unwrap();
    symlink(format!("{long}/{long}"), world.path(&format!("link-{long}"))).unwrap();
    fs::create_dir(world.path("empty")).unwrap();
    File::open(world.path("plain")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let (first, _) = world.new_snapshot(None);
    let place = tempfile::tempdir().unwrap();
    let pack = place.path().join("pack.tar.zst");
    fs::write(&pack, &world.objects[World::packs(&first)[0]]).unwrap();
    let unpacked =
        Command::new("tar").arg("--zstd").arg("-xf").arg(&pack).arg("-C").arg(place.path()).output();
    let is_gnu =
        Command::new("tar").arg("--version").output().is_ok_and(|out| out.stdout.starts_with(b"tar (GNU"));
    if !is_gnu || Command::new("zstd").arg("--version").output().is_err() {
        return; // Nothing to compare with.
    }
    let unpacked = unpacked.unwrap();
    assert!(unpacked.status.success() && unpacked.stderr.is_empty(), "{unpacked:?}");
    let (again, _) = World { home: place, ..World::new() }.below("home");
    let bare = |entries: &[Entry]| {
        let second = |entry: &Entry| (entry.path.clone(), entry.mode, entry.mtime / 1_000_000_000);
        entries.iter().map(second).collect::<Vec<_>>()
    };
    assert_eq!(bare(&again.entries), bare(&first.entries));
    assert_eq!(again.about.tree, first.about.tree);
}

impl World {
    /// A snapshot of a directory in the home.
    fn below(mut self, name: &str) -> (Manifest, Seen) {
        let roots = World::roots(&self.path(name));
        let job = Job {
            roots: &roots,
            base: None,
            seen: None,
            spool: &self.spool,
            seal: None,
            blob_from: self.blob_from,
            progress: &Progress::default(),
            cancelled: &self.cancelled,
        };
        let objects = &mut self.objects;
        let taken = take(&job, &mut |made| {
            objects.insert(made.key.clone(), bytes_of(&made));
            Ok(())
        });
        match taken.unwrap() {
            Taken::New(draft) => manifest(draft),
            Taken::Same(_) => panic!("no base"),
        }
    }
}

#[test]
fn little_is_packed_anew_whole_and_much_only_where_it_has_changed() {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.write(name, vec![b'.'; 7 * MIB]);
    }
    let (first, _) = world.new_snapshot(None);
    world.write("c", "small");
    let (second, _) = world.new_snapshot(Some(&first));
    assert_eq!(World::packs(&second).len(), 1);
    world.write("d", vec![b'.'; 7 * MIB]);
    let (third, _) = world.new_snapshot(Some(&second));
    assert_eq!(World::packs(&third).len(), 2);
    assert_eq!(content(&third, "home/a").object, content(&second, "home/a").object);
    assert_eq!(third.about.objects[0], second.about.objects[0]);
    let key =
        |manifest: &Manifest| manifest.about.objects[content(manifest, "home/a").object as usize].key.clone();
    let (mut base, large, mut most) = (third, key(&second), 0);
    for round in 0..9_u8 {
        world.write("c", format!("round {round}"));
        // Nothing that compresses: a pack that is short as stored, but long unpacked, would be worth less.
        let noise = (0..64_u8).flat_map(|part| *Digest::of(&[round, part]).bytes());
        world.write(&format!("e{round}"), noise.collect::<Vec<_>>());
        (base, _) = world.new_snapshot(Some(&base));
        most = most.max(World::packs(&base).len());
        assert_eq!(world.stored(&base, "home/c"), format!("round {round}").as_bytes());
        assert_eq!(key(&base), large, "a large pack is not stored again for a small change");
    }
    assert_eq!(most, 8);
    for name in ["home/a", "home/b", "home/d"] {
        assert_eq!(world.stored(&base, name).len(), 7 * MIB);
    }
}

#[test]
fn a_large_file_is_stored_once_until_it_changes() {
    let mut world = World { blob_from: 100, ..World::new() };
    world.write("large", [1; 100]);
    world.write("small", [1; 99]);
    let (first, seen) = world.new_snapshot(None);
    assert_eq!(first.about.objects.len(), 2);
    world.write("large", [1; 100]);
    world.write("small", [2; 99]);
    let (second, _) = world.new_snapshot(Some(&first));
    assert_eq!(world.objects.len(), 3);
    world.write("large", [2; 100]);
    let (third, _) = world.new_snapshot(Some(&second));
    assert_eq!(world.stored(&third, "home/large"), [2; 100]);
    // Nothing of it is there twice, and nothing of it is missing.
    assert!(!world.is_same(&first, Some(&seen)));
}

#[test]
fn an_object_ends_with_random_bytes_so_that_no_two_have_one_name() {
    let mut world = World { blob_from: 3, ..World::new() };
    world.write("a", "small");
    world.write("b", "s");
    world.new_snapshot(None);
    world.new_snapshot(None);
    assert_eq!(world.objects.len(), 4);
    for bytes in world.objects.values() {
        assert_eq!(bytes[bytes.len() - 24..][..8], [0x50, 0x2A, 0x4D, 0x18, 16, 0, 0, 0]);
    }
}

#[test]
fn an_encrypted_object_is_read_with_the_key_and_switching_it_on_stores_everything_anew() {
    let mut world = World { blob_from: 5, ..World::new() };
    world.write("a", "text");
    world.write("b", "large");
    let (plain, seen) = world.new_snapshot(None);
    let identity = age::x25519::Identity::generate();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("identity.txt");
    fs::write(&file, identity.to_string().expose_secret()).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    world.seal = Some(Seal::from_files(&[], Some(&file), None).unwrap());
    let Taken::New(draft) = world.take(Some(&plain), Some(&seen)).unwrap() else {
        panic!("still readable by all")
    };
    let (sealed, _) = manifest(draft);
    assert!(sealed.about.objects.iter().all(|object| object.key.ends_with(".age")));
    for object in &sealed.about.objects {
        let decrypted = age::decrypt(&identity, &world.objects[&object.key]).unwrap();
        world.objects.insert(object.key.clone(), decrypted);
    }
    assert_eq!(
        (world.stored(&sealed, "home/a"), world.stored(&sealed, "home/b")),
        (b"text".into(), b"large".into())
    );
    assert!(world.is_same(&sealed, None));
}

#[test]
fn what_is_called_off_ends() {
    let mut world = World::new();
    world.write("a", "text");
    world.cancelled.store(true, Ordering::Relaxed);
    assert!(matches!(world.take(None, None), Err(TakeError::Cancelled)));
}

#[test]
fn a_spool_that_cannot_be_used_is_an_error_that_names_it() {
    let mut world = World::new();
    File::create(world.path("large")).unwrap().set_len(20 * MIB as u64).unwrap();
    world.spool = world.path("large/spool");
    let error = world.take(None, None).err().unwrap().to_string();
    assert!(error.starts_with(&world.spool.display().to_string()), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_a_home() {
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    };
    let mut world = World::new();
    File::create(world.path("large")).unwrap().set_len(160 * MIB as u64).unwrap();
    for name in 0..20 {
        File::create(world.path(&format!("small-{name}"))).unwrap().set_len(7 * MIB as u64).unwrap();
    }
    let before = peak();
    world.new_snapshot(None);
    let grown = peak() - before;
    assert!(grown < 64, "{grown} MiB for 300");
}
