//! What every store does alike, and how the stories reach one.
#![allow(dead_code, reason = "each of the two test binaries uses its part")]

use std::{io::Write as _, path::Path, time::Duration};

use bytes::Bytes;
use mcp_daemon::secret::Secret;
use snapshotd::{
    digest::Digest,
    layout::Partition,
    store::{Conditions, Etag, Location, Replaced, S3Settings, Source, Store, StoreError, Stored, Trouble},
};
use support::{RealStore, objects::Objects};

/// Size of a part, which the oracle takes at any size.
pub const PART: u64 = 64 << 10;
/// The smallest part that real stores take.
const REAL_PART: u64 = 5 << 20;

fn settings(endpoint: String, key: &str, secret: &str, part: u64) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint),
        access_key_id: key.into(),
        secret_access_key: Secret::new(secret.into()),
        attempts: 3,
        timeout: Duration::from_secs(20),
        backoff: Duration::from_millis(1),
        multipart_from: part,
        part_size: part,
        ..S3Settings::default()
    }
}

pub fn of_objects(objects: &Objects) -> S3Settings {
    settings(objects.endpoint(), objects.access_key(), objects.secret_key(), PART)
}

pub fn of_real(real: &RealStore) -> S3Settings {
    settings(real.endpoint(), real.access_key(), real.secret_key(), REAL_PART)
}

pub fn s3(bucket: &str, partition: &str, settings: &S3Settings) -> Store {
    at(&format!("s3://{bucket}/some/prefix"), partition, settings)
}

pub fn directory(root: &Path, partition: &str) -> Store {
    at(&format!("file://{}", root.display()), partition, &S3Settings::default())
}

pub fn at(location: &str, partition: &str, settings: &S3Settings) -> Store {
    let (location, partition): (Location, Partition) =
        (location.parse().unwrap(), partition.parse().unwrap());
    Store::at(&location, &partition, settings).unwrap()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

pub async fn put(store: &Store, key: &str, text: &str) -> Stored {
    store.put(key, Source::Bytes(bytes(text))).await.unwrap()
}

pub async fn text(store: &Store, key: &str) -> Option<String> {
    let found = store.get(key, 1 << 20).await.unwrap();
    found.map(|object| String::from_utf8(object.bytes.to_vec()).unwrap())
}

pub async fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|one| one.key).collect()
}

pub async fn read_all(store: &Store, key: &str) -> Result<Vec<u8>, StoreError> {
    let mut reading = store.open(key).await?.expect("it is there");
    let mut all = Vec::new();
    while let Some(piece) = reading.next().await? {
        assert!(!piece.is_empty() && piece.len() <= 256 << 10, "a piece of {} bytes", piece.len());
        all.extend_from_slice(&piece);
    }
    assert_eq!(all.len() as u64, reading.size);
    Ok(all)
}

/// A file of this size, its content never the same twice in a row.
pub fn file(size: u64) -> (std::fs::File, Vec<u8>) {
    let content: Vec<u8> = (0..size).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    (file, content)
}

pub async fn put_file(
    store: &Store,
    key: &str,
    file: &std::fs::File,
    content: &[u8],
) -> Result<Stored, StoreError> {
    let (size, sha256) = (content.len() as u64, Digest::of(content));
    store.put(key, Source::File { file, size, sha256 }).await
}

/// What every store does alike. `store` and `other` are two empty partitions, `laptop` and `other`, of one place.
pub async fn conforms(store: &Store, other: &Store, honest: bool, part: u64) {
    nothing_is_there(store).await;
    what_is_put_is_read(store).await;
    files_of_every_size(store, part).await;
    listings(store).await;
    if honest {
        replacements(store).await;
    }
    let conditions = store.conditions().await.unwrap();
    assert_eq!(conditions, if honest { Conditions::Honest } else { Conditions::Ignored });
    assert_eq!(keys(store, "probes/").await, <[&str; 0]>::default());
    partitions(store, other).await;
}

async fn nothing_is_there(store: &Store) {
    assert!(store.get("HEAD", 99).await.unwrap().is_none());
    assert!(store.open("packs/none").await.unwrap().is_none());
    assert_eq!(store.stat("packs/none").await.unwrap(), None);
    assert_eq!(keys(store, "").await, <[&str; 0]>::default());
    store.delete("packs/none").await.unwrap();
    assert_eq!(store.sweep(&["packs/none".into()]).await.unwrap(), 0);
}

async fn what_is_put_is_read(store: &Store) {
    for content in ["one", "two", ""] {
        let stored = put(store, "packs/a.tar.zst", content).await;
        assert_eq!(stored.size, content.len() as u64);
        assert_eq!(store.stat("packs/a.tar.zst").await.unwrap(), Some(stored.clone()));
        let found = store.get("packs/a.tar.zst", content.len() as u64).await.unwrap().unwrap();
        assert_eq!((found.bytes, found.etag), (bytes(content), stored.etag));
        assert_eq!(read_all(store, "packs/a.tar.zst").await.unwrap(), content.as_bytes());
    }
    put(store, "packs/a.tar.zst", "123456789").await;
    let error = store.get("packs/a.tar.zst", 8).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Damaged);
    assert!(error.to_string().contains("9 bytes long, expected at most 8"), "{error}");
    store.delete("packs/a.tar.zst").await.unwrap();
    assert_eq!(text(store, "packs/a.tar.zst").await, None);
}

async fn files_of_every_size(store: &Store, part: u64) {
    for size in [1, part - 1, part, 2 * part + 1, 300_000] {
        let (file, content) = file(size);
        let stored = put_file(store, "blobs/b.zst", &file, &content).await.unwrap();
        assert_eq!(stored.size, size);
        assert_eq!(store.stat("blobs/b.zst").await.unwrap(), Some(stored), "{size}");
        assert!(read_all(store, "blobs/b.zst").await.unwrap() == content, "{size}");
    }
    store.delete("blobs/b.zst").await.unwrap();
}

async fn listings(store: &Store) {
    let mut expected: Vec<_> =
        (0..12).map(|number| format!("manifests/{number:010}-000001-a.json.zst")).collect();
    for key in expected.iter().rev() {
        put(store, key, key).await;
    }
    put(store, "HEAD", "h").await;
    put(store, "packs/p", "p").await;
    assert_eq!(keys(store, "manifests/").await, expected);
    assert_eq!(keys(store, "manifests/000000001").await, expected[10..]);
    assert!(store.list("manifests/").await.unwrap().iter().all(|one| one.size == one.key.len() as u64));
    expected.insert(0, "HEAD".into());
    expected.push("packs/p".into());
    assert_eq!(keys(store, "").await, expected);
    for key in &expected {
        store.delete(key).await.unwrap();
    }
    assert_eq!(keys(store, "").await, <[&str; 0]>::default());
}

async fn replacements(store: &Store) {
    let done = |replaced: Replaced| match replaced {
        Replaced::Done(etag) => etag,
        Replaced::Moved => panic!("it was as expected"),
    };
    let none = Etag("00000000000000000000000000000000".into());
    assert_eq!(store.replace("HEAD", bytes("0"), Some(&none)).await.unwrap(), Replaced::Moved);
    let first = done(store.replace("HEAD", bytes("1"), None).await.unwrap());
    assert_eq!(store.replace("HEAD", bytes("x"), None).await.unwrap(), Replaced::Moved);
    assert_eq!(store.replace("HEAD", bytes("x"), Some(&none)).await.unwrap(), Replaced::Moved);
    assert_eq!(text(store, "HEAD").await.as_deref(), Some("1"));
    assert_eq!(store.get("HEAD", 9).await.unwrap().unwrap().etag, first);
    let second = done(store.replace("HEAD", bytes("2"), Some(&first)).await.unwrap());
    assert_eq!(store.stat("HEAD").await.unwrap().unwrap().etag, second);
    assert_eq!(store.replace("HEAD", bytes("x"), Some(&first)).await.unwrap(), Replaced::Moved);
    assert_eq!(text(store, "HEAD").await.as_deref(), Some("2"));
    store.delete("HEAD").await.unwrap();
    assert_eq!(store.replace("HEAD", bytes("x"), Some(&second)).await.unwrap(), Replaced::Moved);
    assert_eq!(text(store, "HEAD").await, None);
}

async fn partitions(store: &Store, other: &Store) {
    put(store, "HEAD", "ours").await;
    put(other, "HEAD", "theirs").await;
    assert_eq!(text(store, "HEAD").await.as_deref(), Some("ours"));
    assert_eq!(keys(store, "").await, ["HEAD"]);
    assert_eq!(store.partitions().await.unwrap(), ["laptop", "other"]);
    assert!(store.to_string().ends_with("/laptop"), "{store}");
}

/// Everything that can be asked for, each as an error.
pub async fn everything_fails(store: &Store) -> Vec<StoreError> {
    let (file, content) = file(PART);
    vec![
        store.get("HEAD", 99).await.unwrap_err(),
        store.open("packs/a").await.map(drop).unwrap_err(),
        store.stat("packs/a").await.unwrap_err(),
        store.put("packs/a", Source::Bytes(bytes("a"))).await.unwrap_err(),
        put_file(store, "blobs/a", &file, &content).await.unwrap_err(),
        store.replace("HEAD", bytes("a"), None).await.unwrap_err(),
        store.list("manifests/").await.unwrap_err(),
        store.partitions().await.unwrap_err(),
        store.conditions().await.unwrap_err(),
    ]
}

/// A real store does it too, and says what is wrong.
pub async fn a_real_store(name: &str) {
    let real = RealStore::start(name).await;
    let settings = of_real(&real);
    let honest = real.honours_conditions();
    conforms(
        &s3(real.bucket(), "laptop", &settings),
        &s3(real.bucket(), "other", &settings),
        honest,
        REAL_PART,
    )
    .await;
    let nowhere = s3("no-such-bucket", "laptop", &settings);
    // s3s-fs answers a read there with "no such key": that alone is never "there is nothing".
    match nowhere.get("HEAD", 99).await {
        Ok(found) => assert!(found.is_none() && name == "s3s-fs", "{name}"),
        Err(error) => assert_eq!(error.trouble, Trouble::NoStore, "{name}: {error}"),
    }
    for error in [nowhere.list("manifests/").await.unwrap_err(), nowhere.partitions().await.unwrap_err()] {
        assert_eq!(error.trouble, Trouble::NoStore, "{name}: {error}");
    }
    if real.checks_signatures() {
        let wrong = S3Settings { secret_access_key: Secret::new("wrong".into()), ..settings };
        for error in everything_fails(&s3(real.bucket(), "laptop", &wrong)).await {
            assert_eq!(error.trouble, Trouble::Denied, "{name}: {error}");
        }
    }
}
