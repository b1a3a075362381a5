use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::check::parent;
use super::*;

/// Any tree that may be: every path has its parents.
fn any_tree() -> impl Strategy<Value = Manifest> {
    let name = vec(1_u8.., 1..6)
        .prop_filter("names", |name| !name.contains(&b'/') && !matches!(&name[..], b"." | b".."));
    let path = vec(name, 0..4).prop_map(|parts| {
        let mut path = HOME.as_bytes().to_vec();
        for part in parts {
            path.push(b'/');
            path.extend(part);
        }
        path
    });
    let kind = prop_oneof![
        Just(Kind::Directory),
        (any::<u64>(), any::<[u8; 8]>(), 0_u32..2, any::<bool>()).prop_map(
            |(size, bytes, object, unsettled)| {
                Kind::File(Content { size: size >> 24, sha256: Digest::of(&bytes), object, unsettled })
            }
        ),
        vec(1_u8.., 1..9).prop_map(|target| Kind::Link(target.into())),
    ];
    btree_map(path, (kind, 0..=MODE_MASK, any::<i64>()), 0..20).prop_map(|found| {
        let mut all = std::collections::BTreeMap::new();
        for (path, what) in found {
            let mut above = &path[..];
            while let Some(parent) = parent(above) {
                all.insert(parent.to_vec(), (Kind::Directory, 0o700, 0));
                above = parent;
            }
            all.entry(path.clone()).or_insert(what);
            if path == HOME.as_bytes() {
                all.insert(path, (Kind::Directory, 0o700, 0));
            }
        }
        let entries = all
            .into_iter()
            .map(|(path, (kind, mode, mtime))| Entry { path: path.into(), mode, mtime, kind })
            .collect();
        manifest(entries)
    })
}

fn manifest(entries: Vec<Entry>) -> Manifest {
    let (files, bytes, unsettled) = count(&entries);
    let id = Id::new(2, 1);
    let parent = Id::new(1, 1);
    let pointer = Pointer {
        manifest: parent.manifest(false),
        id: parent,
        manifest_sha256: Digest::of(b"m"),
        tree: Digest::of(b"t"),
    };
    let objects =
        [crate::layout::pack(&Digest::of(b"p"), false), crate::layout::blob(&Digest::of(b"b"), false)];
    let about = About {
        id,
        created: Timestamp::UNIX_EPOCH,
        writer: "host/1".to_owned(),
        reason: "asked".to_owned(),
        tree: tree_digest(&entries),
        files,
        bytes,
        unsettled,
        projects: Some(3),
        objects: objects.map(|key| StoredObject { key, size: 7 }).into(),
        ancestors: vec![Ancestor { pointer, created: Timestamp::UNIX_EPOCH, files: 1, bytes: 2 }],
    };
    Manifest { about, entries }
}

fn written(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::new();
    manifest.write(&mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(manifest in any_tree()) {
        prop_assert_eq!(Manifest::read(&written(&manifest)[..]).unwrap(), manifest);
    }

    #[test]
    fn a_damaged_manifest_is_an_error_and_never_another_snapshot(manifest in any_tree(), at: prop::sample::Index, bit in 0_u32..8) {
        let mut bytes = written(&manifest);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        if let Ok(read) = Manifest::read(&bytes[..]) {
            prop_assert_eq!(read, manifest);
        }
    }

    #[test]
    fn two_trees_that_differ_have_two_digests(one in any_tree(), other in any_tree()) {
        let bare = |manifest: &Manifest| {
            let mut entries = manifest.entries.clone();
            for entry in &mut entries {
                entry.mtime = 0;
                if let Kind::File(content) = &mut entry.kind {
                    *content = Content { size: 0, object: 0, unsettled: false, ..*content };
                }
            }
            entries
        };
        prop_assert_eq!(one.about.tree == other.about.tree, bare(&one) == bare(&other));
    }
}

fn directory(path: &str) -> Entry {
    Entry { path: path.as_bytes().into(), mode: 0o700, mtime: 0, kind: Kind::Directory }
}

fn link(path: &str) -> Entry {
    Entry { kind: Kind::Link(b"/etc".as_slice().into()), ..directory(path) }
}

#[test]
fn nothing_that_could_be_written_elsewhere_is_read() {
    let file = |object| {
        let content = Content { size: 1, sha256: Digest::of(b""), object, unsettled: false };
        Entry { kind: Kind::File(content), ..directory("home/f") }
    };
    for (entries, why) in [
        (vec![directory("/etc")], "an absolute path"),
        (vec![directory("home"), directory("home/../x")], "a path with `.`, `..`"),
        (vec![directory("home"), directory("home//x")], "a path with `.`, `..`"),
        (vec![directory("home"), directory("home/a\0")], "a path with a zero byte"),
        (vec![directory("home"), directory("home")], "twice, or out of order"),
        (vec![directory("home"), directory("home/b"), directory("home/a")], "twice, or out of order"),
        (vec![directory("home/a")], "below what is no directory"),
        (vec![directory("home"), link("home/l"), directory("home/l/x")], "below what is no directory"),
        (vec![link("home")], "a root that is no directory"),
        (vec![directory("home"), file(2)], "its bytes are in no object"),
        (vec![Entry { mode: 0o4755, ..directory("home") }], "permissions beyond 0777"),
    ] {
        let error = Manifest::read(&written(&manifest(entries))[..]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}, expected {why}");
    }
    let mut other = manifest(vec![directory("home")]);
    other.about.tree = Digest::of(b"else");
    let error = Manifest::read(&written(&other)[..]).unwrap_err().to_string();
    assert!(error.contains("a digest that is not that of its entries"), "{error}");
    let mut other = manifest(vec![directory("home")]);
    other.about.objects[0].key = "packs/../HEAD".to_owned();
    let error = Manifest::read(&written(&other)[..]).unwrap_err().to_string();
    assert!(error.contains("neither in a pack nor in a blob"), "{error}");
}

#[test]
fn it_is_json_with_one_entry_a_line() {
    let text = zstd::decode_all(&written(&manifest(vec![directory("home"), link("home/l")]))[..]).unwrap();
    let text = String::from_utf8(text).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["entries"][1]["link"], "/etc");
    assert_eq!(text.lines().filter(|line| line.contains("\"path\"")).count(), 2);
}

#[test]
fn one_of_a_later_version_is_no_damage_whatever_else_is_in_it() {
    for text in [
        "{\n  \"version\": 2,\n  \"id\": 7, \"entries\": \"elsewhere\"}",
        "{\"version\":2}",
        "{ \"version\" : 2 , \"entries\": [{\"path\": \"home\", \"acl\": []}]}",
    ] {
        let stored = zstd::encode_all(text.as_bytes(), 3).unwrap();
        let read = Manifest::read(&stored[..]);
        assert!(matches!(read, Err(ManifestError::Version(2))), "{text}: {read:?}");
    }
    for damaged in ["", "{", "{\"version\": ", "{\"version\": 1", "{\"version\": x}", "{\"version\": 1}"] {
        let stored = zstd::encode_all(damaged.as_bytes(), 3).unwrap();
        let read = Manifest::read(&stored[..]);
        assert!(matches!(read, Err(ManifestError::Json(_))), "{damaged}: {read:?}");
    }
}
