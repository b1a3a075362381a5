//! Snapshots that somebody has damaged, or made to write elsewhere.

use std::io::Read;

use proptest::prelude::*;

use super::*;

fn assert_refused(ground: &Ground, manifest: &Arc<Manifest>, why: &str) {
    fs::create_dir_all(ground.home()).unwrap();
    fs::write(ground.home().join("mine"), "old").unwrap();
    let before = tree(&ground.home());
    let error = ground.restore(manifest).unwrap_err().to_string();
    assert!(error.contains(why), "{error}, expected {why}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(tree(&ground.home()), before, "{why}");
    ground.assert_clean(&[]);
}

#[test]
fn a_pack_that_does_not_hold_what_the_manifest_says_is_damaged() {
    let with_size = |size: u64| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        tar.append_data(&mut header, "home/a", &b"one"[..]).unwrap();
        tar.into_inner().unwrap()
    };
    let of_kind = |kind: tar::EntryType| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        tar.append_link(&mut header, "home/a", "/etc/passwd").unwrap();
        compressed(&tar.into_inner().unwrap())
    };
    let mut trailing = with_size(3);
    trailing.extend([1]);
    let mut unended = with_size(3);
    unended.truncate(1024);
    let good = pack(&[("home/a", b"one")]);
    for (stored, why) in [
        (pack(&[("home/b", b"one")]), "`home/a` is not in it"),
        (pack(&[("home/a", b"one"), ("home/a", b"one")]), "`home/a` is in it twice"),
        (pack(&[("home/a", b"longer")]), "`home/a` has 6 bytes in it, expected 3"),
        (pack(&[("home/a", b"two")]), "`home/a` is not what the manifest says"),
        (of_kind(tar::EntryType::Symlink), "`home/a` is no file in it"),
        (of_kind(tar::EntryType::Link), "`home/a` is no file in it"),
        (compressed(&trailing), "more data after its end"),
        (compressed(&unended), "ends too early"),
        (good[..good.len() - 30].to_vec(), ""),
        ([&good[..], b"more"].concat(), ""),
        (b"no zstd at all".to_vec(), ""),
        (Vec::new(), ""),
    ] {
        let ground = Ground::new();
        let packed = ground.put(stored, layout::pack);
        assert_refused(
            &ground,
            &manifest(vec![directory("home"), file("home/a", b"one", 0)], vec![packed]),
            why,
        );
    }
}

#[test]
fn a_blob_that_is_shorter_longer_or_other_is_damaged() {
    for (bytes, why) in
        [(&b"on"[..], "ends too early"), (b"one!", "more data than its file has"), (b"two", "digest differs")]
    {
        let ground = Ground::new();
        let blob = ground.put(compressed(bytes), layout::blob);
        assert_refused(
            &ground,
            &manifest(vec![directory("home"), file("home/a", b"one", 0)], vec![blob]),
            why,
        );
    }
}

#[test]
fn an_object_that_is_gone_or_has_other_bytes_than_its_name_says_is_damaged() {
    let entries = || vec![directory("home"), file("home/a", b"one", 0)];
    let ground = Ground::new();
    let packed = ground.put(pack(&[("home/a", b"one")]), layout::pack);
    let path = ground.stored_path(&packed);
    let good = fs::read(&path).unwrap();
    fs::write(&path, pack(&[("home/a", b"one")])).unwrap();
    assert_refused(
        &ground,
        &manifest(entries(), vec![packed.clone()]),
        "its bytes are not those that its name says",
    );
    fs::write(&path, &good[1..]).unwrap();
    assert_refused(&ground, &manifest(entries(), vec![packed.clone()]), "bytes, expected");
    fs::remove_file(&path).unwrap();
    assert_refused(&ground, &manifest(entries(), vec![packed]), "not in the store any more");
}

#[test]
fn a_bomb_stops_early() {
    // 64 GiB of zeros in frames that are a few KiB each; nothing of it is wanted.
    let frame = zstd::encode_all(std::io::repeat(0).take(64 << 20), 3).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("home/bomb").unwrap();
    header.set_size(64 << 30);
    header.set_cksum();
    let mut stored = zstd::encode_all(&header.as_bytes()[..], 3).unwrap();
    for _ in 0..8 {
        stored.extend(&frame);
    }
    let ground = Ground::new();
    let packed = ground.put(stored, layout::pack);
    let entries = vec![directory("home"), file("home/a", b"one", 0)];
    assert_refused(&ground, &manifest(entries, vec![packed]), "far more in it than it should have");
    // As a blob it ends as soon as the file has its bytes.
    let blob = ground.put(zstd::encode_all(std::io::repeat(0).take(64 << 20), 3).unwrap(), layout::blob);
    let entries = vec![directory("home"), file("home/a", &[0; 3], 0)];
    assert_refused(&ground, &manifest(entries, vec![blob]), "more data than its file has");
}

#[test]
fn a_window_that_would_take_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![7; 1 << 20]).unwrap();
    let ground = Ground::new();
    let blob = ground.put(encoder.finish().unwrap(), layout::blob);
    let entries = vec![directory("home"), file("home/a", &vec![7; 1 << 20], 0)];
    assert_refused(&ground, &manifest(entries, vec![blob]), "memory");
}

#[test]
fn a_manifest_that_nobody_checked_cannot_write_elsewhere() {
    let outside = |ground: &Ground| ground.directory.path().join("canary").display().to_string();
    for hostile in [
        vec![directory("home"), file("home/../../canary", b"one", 0)],
        vec![directory("home"), directory("home/.."), file("home/../x", b"one", 0)],
        vec![directory("home"), directory("home//x")],
        vec![directory("home"), directory("home/."), file("home/./x", b"one", 0)],
        vec![directory("home"), directory("home/d"), directory("home/d")],
        vec![directory("home"), file("home/a", b"one", 0), file("home/a/b", b"", 0)],
        vec![directory("home"), link("home/l", "../.."), file("home/l/canary", b"", 0)],
        vec![directory("home"), link("home/l", "../.."), link("home/l/canary", "x")],
        vec![directory("home"), link("home/x", "/etc"), file("home/x", b"", 0)],
    ] {
        let ground = Ground::new();
        let packed = ground.put(pack(&[("home/a", b"one"), ("home/./x", b"one")]), layout::pack);
        assert!(fs::read_to_string(outside(&ground)).is_ok());
        assert_refused(&ground, &manifest(hostile, vec![packed]), "");
    }
}

#[test]
fn set_user_id_and_its_like_are_not_given() {
    let ground = Ground::new();
    let bold = Entry { mode: 0o6755, ..file("home/a", b"", 0) };
    ground.restore(&manifest(vec![Entry { mode: 0o7777, ..directory("home") }, bold], vec![])).unwrap();
    assert_eq!(fs::metadata(ground.home().join("a")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(ground.home()).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn a_place_that_cannot_be_is_an_error_that_names_it() {
    let ground = Ground::new();
    let manifest = manifest(vec![directory("home")], vec![]);
    let to = |path: PathBuf| {
        let error =
            ground.restore_to(&manifest, &[Target { name: HOME.to_owned(), path, ours: None }]).unwrap_err();
        error.to_string()
    };
    let missing = ground.directory.path().join("no/home");
    assert_eq!(to(missing.clone()), format!("{}: No such file or directory (os error 2)", missing.display()));
    let canary = ground.directory.path().join("canary");
    assert_eq!(to(canary.clone()), format!("{}: not a directory", canary.display()));
    ground.assert_clean(&[]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_pack_with_one_bit_wrong_or_cut_off_is_never_put_back(at: prop::sample::Index, bit in 0_u32..8, is_cut: bool, renamed: bool) {
        let ground = Ground::new();
        let bytes: Vec<u8> = (0..5000_u32).map(|at| (at % 11) as u8).collect();
        let mut stored = pack(&[("home/a", b"one"), ("home/b", &bytes)]);
        let at = at.index(stored.len());
        let good = ground.put(stored.clone(), layout::pack);
        if is_cut { stored.truncate(at) } else { stored[at] ^= 1_u8 << bit }
        let entries = vec![directory("home"), file("home/a", b"one", 0), file("home/b", &bytes, 0)];
        // Either its name is that of the good one, or somebody made one that is its own.
        let object = if renamed {
            ground.put(stored, layout::pack)
        } else {
            fs::write(ground.stored_path(&good), &stored).unwrap();
            good
        };
        match ground.restore(&manifest(entries, vec![object])) {
            Err(error) => {
                prop_assert!(matches!(error, RestoreError::Damaged(_)), "{error}");
                prop_assert!(!ground.home().exists());
            }
            // Bits that mean nothing, such as a pack's owner names or random end.
            Ok(_) => prop_assert!(renamed && fs::read(ground.home().join("b")).unwrap() == bytes),
        }
        ground.assert_clean(&[]);
    }
}
