//! Stores: what every one of them does alike, how they say what is wrong, and that no fault makes one of them say what is
//! not so. The same against real servers is in `snapshot_real`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test fails by panicking")]

mod alike;
mod faults;

use std::time::Duration;

use mcp_daemon::secret::Secret;
use snapshotd::{
    digest::Digest,
    store::{Location, Replaced, S3Settings, Store, Trouble},
};
use support::objects::{Asked, Fault, Manner, Objects, Operation, What};

use self::alike::*;

#[tokio::test]
async fn a_directory_does_what_every_store_does() {
    let ground = tempfile::tempdir().unwrap();
    let root = ground.path().join("store");
    conforms(&directory(&root, "laptop"), &directory(&root, "other"), true, PART).await;
}

#[tokio::test]
async fn the_oracle_does_what_every_store_does() {
    let objects = Objects::start().await;
    let settings = of_objects(&objects);
    conforms(
        &s3(objects.bucket(), "laptop", &settings),
        &s3(objects.bucket(), "other", &settings),
        true,
        PART,
    )
    .await;
    assert_eq!(objects.uploads(), []);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    let objects = Objects::start_with(Manner { ignores_conditions: true, ..Manner::default() }).await;
    let settings = of_objects(&objects);
    conforms(
        &s3(objects.bucket(), "laptop", &settings),
        &s3(objects.bucket(), "other", &settings),
        false,
        PART,
    )
    .await;
}

#[tokio::test]
async fn a_wrong_bucket_is_never_an_empty_store() {
    let objects = Objects::start().await;
    for error in everything_fails(&s3("another-bucket", "laptop", &of_objects(&objects))).await {
        assert_eq!(error.trouble, Trouble::NoStore, "{error}");
        assert!(error.detail.contains("NoSuchBucket") && error.detail.contains("correct --store"), "{error}");
    }
}

#[tokio::test]
async fn wrong_keys_are_said_in_plain_words_and_not_shown() {
    let objects = Objects::start().await;
    let right = of_objects(&objects);
    let wrong_secret = S3Settings { secret_access_key: Secret::new("hunter2".into()), ..right.clone() };
    let wrong_key = S3Settings { access_key_id: "AKIAHUNTER".into(), ..right };
    for (settings, advice) in
        [(wrong_secret, "check AWS_SECRET_ACCESS_KEY"), (wrong_key, "check AWS_ACCESS_KEY_ID")]
    {
        let store = s3(objects.bucket(), "laptop", &settings);
        for error in everything_fails(&store).await {
            assert_eq!(error.trouble, Trouble::Denied, "{error}");
            assert!(error.detail.contains(advice), "{error}");
            let shown = format!("{error} {error:?} {store:?} {settings:?}").to_lowercase();
            assert!(!shown.contains("hunter"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let objects = Objects::start().await;
    objects.stop().await;
    for endpoint in [objects.endpoint(), format!("https://{}", objects.address)] {
        let settings = S3Settings { endpoint: Some(endpoint.clone()), ..of_objects(&objects) };
        for error in everything_fails(&s3(objects.bucket(), "laptop", &settings)).await {
            assert_eq!(error.trouble, Trouble::Unreachable, "{error}");
            let why = format!("cannot reach {endpoint}: Connection refused (os error 111), tried 3 times");
            assert_eq!(error.detail, why);
        }
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_busy_after_the_timeout() {
    let objects = Objects::start().await;
    objects.plan([Fault::always(What::Late)]);
    let quick = S3Settings { timeout: Duration::from_millis(50), attempts: 2, ..of_objects(&objects) };
    let error = s3(objects.bucket(), "laptop", &quick).get("HEAD", 99).await.unwrap_err();
    assert_eq!(error.trouble, Trouble::Busy, "{error}");
    assert!(error.detail.contains("no answer within 50ms, tried 2 times"), "{error}");
    objects.release();
}

#[tokio::test]
async fn what_is_no_s3_server_never_says_that_there_is_nothing() {
    let objects = Objects::start().await;
    for status in [200, 302, 403, 404, 502] {
        objects.plan([Fault::always(What::Html(status))]);
        for error in everything_fails(&s3(objects.bucket(), "laptop", &of_objects(&objects))).await {
            assert!(error.detail.contains("S3 server") || status == 200, "{status}: {error}");
        }
    }
}

#[tokio::test]
async fn every_request_is_signed_with_its_payload_and_has_no_trailer() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    conforms(&store, &s3(objects.bucket(), "other", &of_objects(&objects)), true, PART).await;
    for asked in objects.requests() {
        let hash = asked.header("x-amz-content-sha256").unwrap_or_default();
        assert!(hash.parse::<Digest>().is_ok(), "{asked:?}");
        let strange = [
            "x-amz-trailer",
            "content-encoding",
            "transfer-encoding",
            "x-amz-sdk-checksum-algorithm",
            "content-md5",
        ];
        assert!(strange.iter().all(|name| asked.header(name).is_none()), "{asked:?}");
    }
}

#[tokio::test]
async fn of_24_writers_who_create_one_object_one_wins() {
    let (objects, ground) = (Objects::start().await, tempfile::tempdir().unwrap());
    for store in [s3(objects.bucket(), "laptop", &of_objects(&objects)), directory(ground.path(), "laptop")] {
        let writers = (0..24).map(|number| {
            let store = store.clone();
            tokio::spawn(
                async move { store.replace("HEAD", bytes(&number.to_string()), None).await.unwrap() },
            )
        });
        let mut winners = 0;
        for writer in writers.collect::<Vec<_>>() {
            winners += usize::from(writer.await.unwrap() != Replaced::Moved);
        }
        assert_eq!(winners, 1, "{store}");
    }
}

#[tokio::test]
async fn a_download_that_breaks_off_is_taken_up_where_it_broke() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let content = "0123456789abcde\n".repeat(1 << 17);
    put(&store, "packs/p", &content).await;
    objects.forget();
    // Each of them breaks in the middle of what is left.
    objects.plan([Fault::when(|asked| asked.operation == Operation::Get, What::CutInside).times(4)]);
    assert!(read_all(&store, "packs/p").await.unwrap() == content.as_bytes());
    let ranges = objects.requests().iter().filter(|asked| asked.header("range").is_some()).count();
    assert_eq!(ranges, 4);
}

#[tokio::test]
async fn a_download_is_not_taken_up_in_the_middle_of_another_object() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let content = "0123456789abcde\n".repeat(1 << 17);
    put(&store, "packs/p", &content).await;
    objects.forget();
    objects.plan([Fault::at(1, What::CutInside)]);
    let mut reading = store.open("packs/p").await.unwrap().unwrap();
    objects.tamper("some/prefix/laptop/packs/p", |bytes| bytes.reverse());
    let error = loop {
        match reading.next().await {
            Ok(piece) => assert!(piece.is_some(), "it ended well"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.trouble, Trouble::Damaged, "{error}");
    assert!(error.detail.contains("not the same any more"), "{error}");
}

#[tokio::test]
async fn only_uploads_of_our_own_keys_are_swept() {
    let objects = Objects::start().await;
    let store = s3(objects.bucket(), "laptop", &of_objects(&objects));
    let client = objects.client();
    for key in ["laptop/blobs/ours", "laptop/blobs/theirs", "laptop/packs/ours", "other/blobs/ours"] {
        let target = format!("/{}/some/prefix/{key}?uploads", objects.bucket());
        assert_eq!(client.ask("POST", &target, &[], b"").await.unwrap().status, 200);
    }
    let ours = ["blobs/ours".to_owned(), "packs/ours".to_owned()];
    assert_eq!(store.sweep(&ours).await.unwrap(), 2);
    let left: Vec<_> = objects.uploads().into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, ["some/prefix/laptop/blobs/theirs", "some/prefix/other/blobs/ours"]);
    objects.forget();
    assert_eq!(store.sweep(&[]).await.unwrap(), 0);
    assert_eq!(objects.requests(), <[Asked; 0]>::default());
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_is_asked() {
    let objects = Objects::start().await;
    let right = of_objects(&objects);
    let location: Location = "s3://snapshots".parse().unwrap();
    for (settings, trouble, words) in [
        (
            S3Settings { endpoint: Some("localhost".into()), ..right.clone() },
            Trouble::NoStore,
            "write https://host",
        ),
        (S3Settings { access_key_id: " ".into(), ..right }, Trouble::Denied, "set AWS_ACCESS_KEY_ID"),
    ] {
        let error = Store::at(&location, &"laptop".parse().unwrap(), &settings).unwrap_err();
        assert_eq!(error.trouble, trouble, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(objects.requests(), <[Asked; 0]>::default());
}
