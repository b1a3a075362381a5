//! Real object stores: that they behave as we believe, and that snapshots go into them and come back.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "snapshot_stores/alike.rs"]
mod alike;

use support::{RealStore, Snapshotd, have};

#[tokio::test]
async fn each_real_store_honours_or_ignores_conditions_as_we_believe() {
    for name in RealStore::ALL {
        if !have(&[name]) {
            continue;
        }
        let store = RealStore::start(name).await;
        let put = async |headers: &[(&str, &str)], body: &str| {
            store.client().ask("PUT", "/snapshots/HEAD", headers, body.as_bytes()).await.unwrap()
        };
        let first = put(&[("if-none-match", "*")], "1").await;
        assert_eq!(first.status, 200, "{name}: {}", first.text());
        let again = put(&[("if-none-match", "*")], "2").await.status;
        let other = put(&[("if-match", "\"0123456789abcdef0123456789abcdef\"")], "3").await.status;
        let right = put(&[("if-match", &first.headers["etag"])], "4").await.status;
        let expected = if store.honours_conditions() { (412, 412, 200) } else { (200, 200, 200) };
        assert_eq!((again, other, right), expected, "{name}");

        let wrong =
            support::objects::SignedClient::new(store.address(), store.access_key(), "wrong", "us-east-1");
        let wrong = wrong.ask("GET", "/snapshots/HEAD", &[], b"").await.unwrap().status;
        assert_eq!(wrong, if store.checks_signatures() { 403 } else { 200 }, "{name}");
    }
}

#[tokio::test]
async fn each_real_store_does_what_every_store_does() {
    for name in RealStore::ALL {
        if have(&[name]) {
            alike::a_real_store(name).await;
        }
    }
}

#[tokio::test]
async fn a_home_goes_into_each_real_store_and_comes_back() {
    for name in RealStore::ALL {
        if !have(&[name]) {
            continue;
        }
        let store = RealStore::start(name).await;
        let (endpoint, at) = (store.endpoint(), format!("s3://{}/some/prefix", store.bucket()));
        let machine = || {
            Snapshotd::new(env!("CARGO_BIN_EXE_serena-snapshotd"))
                .with_flags(&["--partition", "laptop", "--store", &at, "--endpoint", &endpoint])
                .with_env("AWS_ACCESS_KEY_ID", store.access_key())
                .with_env("AWS_SECRET_ACCESS_KEY", store.secret_key())
        };
        let mine = machine();
        for version in ["one", "two"] {
            mine.write("memories/version.md", version);
            let said = mine.succeed(&["snapshot"]).await;
            assert!(!said.contains("unchanged"), "{name}: {said}");
        }
        let other = machine();
        other.succeed(&["restore"]).await;
        assert_eq!(other.read("memories/version.md").as_deref(), Some("two"), "{name}");
        other.succeed(&["verify", "--read-data"]).await;
        assert_eq!(other.json(&["list"]).await.as_array().unwrap().len(), 2, "{name}");
    }
}
