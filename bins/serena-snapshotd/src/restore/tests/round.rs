//! What is taken is what is put back, for any tree.

use std::ffi::OsStr;
use std::sync::atomic::AtomicBool;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::settings::Root;
use crate::take::{Draft, Job, MadeBytes, Profile, Rules, Taken, take};

#[derive(Clone, Debug)]
enum What {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
}

fn any_tree() -> impl Strategy<Value = BTreeMap<Vec<Vec<u8>>, (What, u32, i64)>> {
    let name = vec(prop_oneof![4 => b'a'..=b'c', 1 => 1_u8..], 1..5)
        .prop_filter("names", |name| !name.contains(&b'/') && !matches!(&name[..], b"." | b".."));
    let bytes = prop_oneof![
        3 => vec(any::<u8>(), 0..300),
        1 => (0..400_000_usize, 0..400_000_usize, any::<u8>()).prop_map(|(zeros, more, byte)| {
            let mut bytes = vec![0; zeros];
            bytes.extend(vec![byte; more]);
            bytes
        }),
    ];
    let what = prop_oneof![
        1 => Just(What::Directory),
        3 => bytes.prop_map(What::File),
        1 => vec(1_u8.., 1..20).prop_map(What::Link),
    ];
    // Whoever reads it must be able to.
    btree_map(
        vec(name, 1..4),
        (what, (0..=0o777_u32).prop_map(|mode| mode | 0o500), 0..4_000_000_000_000_000_000_i64),
        0..25,
    )
}

fn build(home: &Path, tree: &BTreeMap<Vec<Vec<u8>>, (What, u32, i64)>) {
    fs::create_dir(home).unwrap();
    let mut places = Vec::new();
    for (names, (what, mode, mtime)) in tree {
        let path = names.iter().fold(home.to_owned(), |path, name| path.join(OsStr::from_bytes(name)));
        // Whatever is below a file or link is left out.
        if fs::create_dir_all(path.parent().unwrap()).is_err() || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        if path.parent().unwrap().canonicalize().unwrap() != path.parent().unwrap() {
            continue;
        }
        match what {
            What::Directory => fs::create_dir(&path).unwrap(),
            What::File(bytes) => fs::write(&path, bytes).unwrap(),
            What::Link(target) => {
                std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap();
                continue;
            }
        }
        places.push((path, *mode, *mtime));
    }
    for (path, mode, mtime) in places.iter().rev() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(*mtime as u64);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
    }
}

fn taken(ground: &Ground, home: &Path) -> Draft {
    let rules = Arc::new(Rules::new(Profile::Everything, &[], &[]).unwrap());
    let roots = [Root { name: HOME.to_owned(), path: home.to_owned(), rules }];
    let job = Job {
        roots: &roots,
        base: None,
        seen: None,
        spool: ground.directory.path(),
        seal: None,
        blob_from: 100_000,
        progress: &Progress::default(),
        cancelled: &AtomicBool::new(false),
    };
    let mut deliver = |made: crate::take::Made| {
        let source = match &made.bytes {
            MadeBytes::Memory(bytes) => Source::Bytes(bytes.clone()),
            MadeBytes::Spooled(file) => Source::File { file, size: made.size, sha256: made.sha256 },
        };
        ground.runtime.block_on(ground.store().put(&made.key, source)).map(drop)
    };
    match take(&job, &mut deliver).unwrap() {
        Taken::New(draft) => draft,
        Taken::Same(_) => panic!("there is nothing that it could be the same as"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_put_back_is_what_was_taken(tree in any_tree()) {
        let ground = Ground::new();
        let source = ground.directory.path().canonicalize().unwrap().join("source");
        build(&source, &tree);
        let first = taken(&ground, &source);
        ground.restore(&manifest(first.entries.clone(), first.objects)).unwrap();
        let second = taken(&ground, &ground.home());
        prop_assert_eq!(bare(first.entries), bare(second.entries));
        clear::remove(&source).unwrap();
        clear::remove(&ground.home()).unwrap();
    }
}

/// Without where the bytes are.
fn bare(mut entries: Vec<Entry>) -> Vec<Entry> {
    for entry in &mut entries {
        if let Kind::File(content) = &mut entry.kind {
            content.object = 0;
        }
    }
    entries
}
