use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::{Location, S3Settings, Store};

fn store(root: &Path) -> Store {
    let partition = "laptop".parse().unwrap();
    Store::at(&Location::Directory(root.to_owned()), &partition, &S3Settings::default()).unwrap()
}

fn bytes(text: &'static str) -> Source<'static> {
    Source::Bytes(Bytes::from_static(text.as_bytes()))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn everything_is_owner_only_and_nothing_is_left_beside_it() {
    let ground = tempfile::tempdir().unwrap();
    let root = ground.path().join("store");
    let store = store(&root);
    store.put("packs/a", bytes("a")).await.unwrap();
    store.replace("HEAD", Bytes::from_static(b"h"), None).await.unwrap();
    assert_eq!(names(&root.join("laptop")), [".lock", "HEAD", "packs"]);
    assert_eq!(names(&root.join("laptop/packs")), ["a"]);
    for (path, mode) in [
        ("", 0o700),
        ("laptop", 0o700),
        ("laptop/packs", 0o700),
        ("laptop/packs/a", 0o600),
        ("laptop/HEAD", 0o600),
    ] {
        let found = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
    assert_eq!(
        store.list("").await.unwrap().iter().map(|one| one.key.as_str()).collect::<Vec<_>>(),
        ["HEAD", "packs/a"]
    );
}

#[tokio::test]
async fn a_root_that_is_not_there_holds_nothing_if_its_parent_can_be_read() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(&ground.path().join("store"));
    assert!(store.get("HEAD", 9).await.unwrap().is_none());
    assert_eq!(store.list("manifests/").await.unwrap(), []);
    assert_eq!(store.partitions().await.unwrap(), <[String; 0]>::default());
    store.delete("HEAD").await.unwrap();
    assert_eq!(store.sweep(&[]).await.unwrap(), 0);
    assert_eq!(names(ground.path()), <[String; 0]>::default());
}

#[tokio::test]
async fn a_parent_that_is_not_there_is_no_store_and_is_not_made() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(&ground.path().join("disk/store"));
    let errors = [
        store.get("HEAD", 9).await.unwrap_err(),
        store.list("manifests/").await.unwrap_err(),
        store.partitions().await.unwrap_err(),
        store.put("packs/a", bytes("a")).await.unwrap_err(),
        store.replace("HEAD", Bytes::new(), None).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.trouble, Trouble::NoStore, "{error}");
        assert!(error.to_string().contains("/disk is not there or cannot be read; mount it"), "{error}");
    }
    assert_eq!(names(ground.path()), <[String; 0]>::default());
}

#[tokio::test]
async fn only_temporary_files_whose_writer_is_gone_are_swept() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(ground.path());
    store.put("packs/a", bytes("a")).await.unwrap();
    let packs = ground.path().join("laptop/packs");
    fs::write(packs.join(".tmp-left"), "x").unwrap();
    let alive = Temporary::beside(&packs.join("b")).unwrap();
    assert_eq!(store.sweep(&[]).await.unwrap(), 1);
    alive.publish(&packs.join("b")).unwrap();
    assert_eq!(store.sweep(&[]).await.unwrap(), 0);
    assert_eq!(names(&packs), ["a", "b"]);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(ground.path());
    let short = tempfile::tempfile().unwrap();
    let source = Source::File { file: &short, size: 5, sha256: crate::digest::Digest::of(b"12345") };
    let error = store.put("packs/a", source).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Damaged, "{error}");
    assert_eq!(names(&ground.path().join("laptop/packs")), <[String; 0]>::default());
}

#[tokio::test]
async fn a_key_cannot_lead_out_of_the_partition() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(&ground.path().join("store"));
    for key in
        ["", "/etc/passwd", "../x", "packs/../../x", "packs/", "packs//a", ".lock", "packs/.tmp-1", "a\nb"]
    {
        for error in [
            store.get(key, 9).await.unwrap_err(),
            store.put(key, bytes("a")).await.unwrap_err(),
            store.delete(key).await.unwrap_err(),
        ] {
            assert!(error.to_string().ends_with(": not the key of an object"), "{error}");
            assert!(!error.to_string().contains('\n'));
        }
    }
}

#[tokio::test]
async fn two_hundred_replacements_at_once_make_one_chain() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(ground.path());
    store.replace("HEAD", Bytes::from_static(b"0"), None).await.unwrap();
    let one = async || {
        let mut done = 0;
        while done < 100 {
            let head = store.get("HEAD", 99).await.unwrap().unwrap();
            let count: u32 = std::str::from_utf8(&head.bytes).unwrap().parse().unwrap();
            let next = Bytes::from((count + 1).to_string());
            if store.replace("HEAD", next, Some(&head.etag)).await.unwrap() != Replaced::Moved {
                done += 1;
            }
        }
    };
    tokio::join!(one(), one());
    assert_eq!(store.get("HEAD", 99).await.unwrap().unwrap().bytes, "200");
}

#[tokio::test]
async fn another_process_that_holds_the_lock_is_waited_for() {
    let ground = tempfile::tempdir().unwrap();
    let store = store(ground.path());
    store.replace("HEAD", Bytes::from_static(b"0"), None).await.unwrap();
    let file = File::open(ground.path().join("laptop/.lock")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let mut replacing = Box::pin(store.replace("HEAD", Bytes::from_static(b"1"), None));
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut replacing).await;
    assert!(waited.is_err(), "{waited:?}");
    drop(lock);
    assert_eq!(replacing.await.unwrap(), Replaced::Moved);
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_a_disk_that_is_not_there_and_not_an_empty_store() {
    let ground = tempfile::tempdir().unwrap();
    for link in ["store", "store/laptop", "store/laptop/HEAD"] {
        let root = ground.path().join("store");
        let link = ground.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(ground.path().join("not-mounted"), &link).unwrap();
        let store = store(&root);
        let error = store.get("HEAD", 9).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::NoStore, "{error}");
        assert!(error.detail.starts_with(&format!("{} is a link", link.display())), "{error}");
        if !link.ends_with("HEAD") {
            assert!(store.list("manifests/").await.is_err(), "{}", link.display());
            assert!(store.put("packs/a", bytes("a")).await.is_err(), "{}", link.display());
        }
        fs::remove_file(&link).unwrap();
        assert!(store.get("HEAD", 9).await.unwrap().is_none());
    }
}
