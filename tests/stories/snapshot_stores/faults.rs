//! Every fault at every request: an answer is the truth or an error.

use std::collections::BTreeMap;

use snapshotd::store::{Conditions, Etag, Replaced, Source};
use support::objects::{Fault, Manner, Objects, Operation, What};

use super::alike::*;

/// The faults that a client of a store can notice at all: a bit that is wrong, or more bytes than there were with a length
/// that says so too, is for whoever has a digest.
fn noticeable() -> impl Iterator<Item = What> {
    What::ALL.into_iter().filter(|what| !matches!(what, What::Flipped | What::Padded))
}

/// Each fault at each of the first requests, and from the first one on.
fn plans(requests: usize) -> impl Iterator<Item = (What, usize, bool)> {
    noticeable().flat_map(move |what| {
        (1..=requests).map(move |number| (what, number, false)).chain([(what, 1, true)])
    })
}

fn fault((what, number, lasts): (What, usize, bool)) -> Fault {
    if lasts { Fault::from(number, what) } else { Fault::at(number, what) }
}

#[tokio::test]
async fn no_fault_makes_a_read_untrue() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let (small, large) = ("small content\n".repeat(9), "large content\n".repeat(30_000));
    put(&store, "HEAD", &small).await;
    put(&store, "packs/p", &large).await;
    let expected = keys(&store, "").await;
    let stored = store.stat("HEAD").await.unwrap();
    for plan in plans(1) {
        let again = || {
            objects.forget();
            objects.plan([fault(plan)]);
        };
        again();
        if let Ok(found) = store.get("HEAD", 999).await {
            assert_eq!(found.map(|found| found.bytes), Some(bytes(&small)), "{plan:?}");
        }
        again();
        if let Ok(None) = store.open("packs/p").await {
            panic!("{plan:?}: it is there");
        }
        again();
        if let Ok(found) = store.stat("HEAD").await {
            assert_eq!(found, stored, "{plan:?}");
        }
        again();
        assert!(!matches!(store.get("HEAX", 999).await, Ok(Some(_))), "{plan:?}");
        again();
        if let Ok(found) = store.list("").await {
            assert_eq!(found.into_iter().map(|one| one.key).collect::<Vec<_>>(), expected, "{plan:?}");
        }
    }
}

#[tokio::test]
async fn one_fault_that_passes_is_healed() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let large = "large content\n".repeat(100_000);
    let passing = noticeable().filter(|what| {
        !matches!(what, What::Error(400..=428 | 501 | 507, _) | What::Html(404) | What::Overlong)
    });
    for what in passing {
        objects.heal();
        put(&store, "packs/p", "old").await;
        for (operation, number) in [("put", 1), ("list", 1), ("get", 1), ("replace", 1)] {
            objects.forget();
            objects.plan([Fault::at(number, what)]);
            let healed = match operation {
                "put" => store.put("packs/p", Source::Bytes(bytes(&large))).await.map(drop),
                "list" => store.list("packs/").await.map(drop),
                "get" => read_all(&store, "packs/p").await.map(|found| assert!(found == large.as_bytes())),
                _ => store.replace("HEAD", bytes(operation), None).await.map(|_| ()),
            };
            // A page that calls itself a success is not asked for twice where only its content could tell.
            let is_page = what == What::Html(200) && matches!(operation, "put" | "get" | "replace");
            let is_strange = what == What::ErrorInside && matches!(operation, "put" | "get" | "replace");
            assert!(healed.is_ok() || is_page || is_strange, "{operation} {what:?}: {healed:?}");
        }
        objects.heal();
        store.delete("HEAD").await.unwrap();
    }
}

#[tokio::test]
async fn no_fault_makes_a_write_untrue() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let whole = |key: &str| format!("some/prefix/laptop/{key}");
    for plan in plans(1) {
        objects.reset_to(&[(whole("packs/old"), b"old".to_vec())].into());
        objects.forget();
        objects.plan([fault(plan)]);
        let stored = store.put("packs/new", Source::Bytes(bytes("new"))).await;
        if let Ok(stored) = stored {
            assert_eq!(stored.size, 3);
            assert_eq!(objects.get(&whole("packs/new")).as_deref(), Some(&b"new"[..]), "{plan:?}");
        }
        objects.forget();
        let deleted = store.delete("packs/old").await;
        if deleted.is_ok() {
            assert_eq!(objects.get(&whole("packs/old")), None, "{plan:?}");
        }
    }
}

#[tokio::test]
async fn no_two_faults_make_a_replacement_untrue() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let head = "some/prefix/laptop/HEAD";
    // One of each kind; all of them alone are above.
    let kinds = [
        What::CutAfter,
        What::CutBefore,
        What::CutInside,
        What::Error(409, "ConditionalRequestConflict"),
        What::Error(412, "PreconditionFailed"),
        What::Error(503, "SlowDown"),
        What::ErrorAfter(500, "InternalError"),
        What::Html(200),
        What::Html(404),
    ];
    let alone = noticeable().map(|what| (what, None));
    let pairs = kinds.into_iter().flat_map(|first| kinds.map(|second| (first, Some(second))));
    for (first, second) in alone.chain(pairs) {
        for is_moved in [false, true] {
            objects.heal();
            objects.reset_to(&[(head.to_owned(), b"before".to_vec())].into());
            let mut expected = store.get("HEAD", 99).await.unwrap().unwrap().etag;
            if is_moved {
                expected = Etag("0123456789abcdef0123456789abcdef".into());
            }
            objects.forget();
            objects.plan([Fault::at(1, first)].into_iter().chain(second.map(|what| Fault::at(2, what))));
            let replaced = store.replace("HEAD", bytes("after"), Some(&expected)).await;
            let is_done = objects.get(head).unwrap() == b"after";
            let case = format!("{first:?} {second:?} {is_moved}: {replaced:?}");
            assert!(!(is_moved && is_done), "{case}");
            match replaced {
                Ok(Replaced::Done(_)) => assert!(is_done, "{case}"),
                Ok(Replaced::Moved) => assert!(!is_done, "{case}"),
                Err(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn a_replacement_whose_answer_was_lost_is_known_to_be_done() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    for what in [
        What::CutAfter,
        What::CutInside,
        What::ErrorAfter(500, "InternalError"),
        What::ErrorAfter(503, "SlowDown"),
    ] {
        objects.reset_to(&BTreeMap::new());
        objects.forget();
        objects.plan([Fault::at(1, what)]);
        let replaced = store.replace("HEAD", bytes("ours"), None).await.unwrap();
        assert!(matches!(replaced, Replaced::Done(_)), "{what:?}: {replaced:?}");
    }
}

#[tokio::test]
async fn no_fault_makes_an_ignorant_store_honest() {
    let objects = Objects::start_with(Manner { ignores_conditions: true, ..Manner::default() }).await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    for plan in plans(6) {
        objects.forget();
        objects.plan([fault(plan)]);
        assert!(!matches!(store.conditions().await, Ok(Conditions::Honest)), "{plan:?}");
    }
    objects
        .plan([Fault::when(|asked| asked.operation == Operation::Put, What::Error(501, "NotImplemented"))]);
    assert_eq!(store.conditions().await.unwrap(), Conditions::Ignored);
}

#[tokio::test]
async fn an_upload_in_parts_is_whole_or_given_up() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let (file, content) = file(PART + 1);
    put_file(&store, "blobs/b", &file, &content).await.unwrap();
    let clean = objects.requests().len();
    for what in [
        What::CutAfter,
        What::CutInside,
        What::Error(403, "AccessDenied"),
        What::Error(503, "SlowDown"),
        What::ErrorAfter(500, "InternalError"),
        What::ErrorInside,
        What::Html(200),
    ] {
        for number in 1..=clean {
            objects.heal();
            store.delete("blobs/b").await.unwrap();
            objects.forget();
            objects.plan([Fault::at(number, what)]);
            let stored = put_file(&store, "blobs/b", &file, &content).await;
            let found = objects.get("some/prefix/laptop/blobs/b");
            match stored {
                Ok(stored) => {
                    assert_eq!(stored.size, content.len() as u64);
                    assert!(found.as_deref() == Some(&content), "{what:?} at {number}");
                }
                Err(error) => assert!(found.is_none(), "{what:?} at {number}: {error}"),
            }
            // One that was begun without our hearing of it is for the next start.
            let swept = store.sweep(&["blobs/b".into()]).await.unwrap();
            assert!(swept == 0 || number == 1, "{what:?} at {number}");
            assert_eq!(objects.uploads(), [], "{what:?} at {number}");
        }
    }
}
