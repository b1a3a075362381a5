//! A bucket that is reached over TLS: snapshots go there and come back, and a certificate that is not good is said in one
//! line, never taken for an empty store, and forgotten once it is right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its tasks end with its runtime")]

use std::fs;

use support::{
    Authority, Snapshotd, TlsFront,
    objects::{Objects, Operation},
};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");
const HOST: &str = "127.0.0.1";

/// A bucket behind TLS, and a machine that trusts one authority alone.
struct Place {
    authority: Authority,
    objects: Objects,
    front: TlsFront,
    machine: Snapshotd,
}

impl Place {
    async fn new() -> Place {
        let (authority, objects) = (Authority::new("trusted"), Objects::start().await);
        let front = TlsFront::before(objects.address, authority.face(HOST));
        let machine = Snapshotd::new(BINARY);
        let (trusted, settings) = (machine.path().join("trusted.pem"), machine.path().join("settings.toml"));
        fs::write(&trusted, &authority.pem).unwrap();
        let endpoint = format!("https://{HOST}:{}", front.port());
        let text = format!(
            "partition = 'laptop'\nstore = 's3://{}/homes'\n[s3]\nendpoint = '{endpoint}'\nattempts = 1\n",
            objects.bucket()
        );
        fs::write(&settings, text).unwrap();
        let machine = machine
            .with_flags(&["--config", settings.to_str().unwrap()])
            .with_env("AWS_ACCESS_KEY_ID", objects.access_key())
            .with_env("AWS_SECRET_ACCESS_KEY", objects.secret_key())
            // Whatever else this machine trusts does not count.
            .with_env("SSL_CERT_FILE", trusted.to_str().unwrap())
            .with_env("SSL_CERT_DIR", "");
        machine.write("serena_config.yml", "precious\n");
        Place { authority, objects, front, machine }
    }

    fn endpoint(&self) -> String {
        format!("https://{HOST}:{}", self.front.port())
    }
}

#[tokio::test]
async fn snapshots_go_into_a_bucket_over_tls_and_come_back() {
    let mut place = Place::new().await;
    // Larger than one piece of a body.
    place.machine.write("memories/large.md", "0123456789abcdef".repeat(1 << 16));
    assert_eq!(place.machine.json(&["snapshot"]).await["outcome"], "published");
    place.machine.lose_home();
    place.machine.start(&["--interval", "off"]).await;
    assert_eq!(place.machine.read("serena_config.yml").as_deref(), Some("precious\n"));
    assert_eq!(place.machine.read("memories/large.md").unwrap().len(), 1 << 20);
    place.machine.write("memories/new.md", "x");
    assert_eq!(place.machine.control("POST", "/snapshot").await.1["outcome"], "published");
    assert!(place.machine.stop().await.success());
    let checked = place.machine.json(&["verify", "--read-data"]).await;
    assert!(
        checked.as_array().unwrap().iter().all(|one| one["problems"] == serde_json::json!([])),
        "{checked}"
    );
    // All of it went through TLS, and was signed for the host that was asked.
    let requests = place.objects.requests();
    let named = format!("{HOST}:{}", place.front.port());
    assert!(requests.iter().all(|asked| asked.header("host") == Some(&named)), "{requests:?}");
    assert!(requests.iter().any(|asked| asked.is(Operation::Put, "/HEAD")) && place.front.handshakes() > 0);
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_said_and_a_good_one_heals_without_a_restart() {
    let mut place = Place::new().await;
    place.machine.succeed(&["snapshot"]).await;
    let before = place.objects.snapshot();
    place.machine.lose_home();
    for (face, why) in [
        (Authority::new("nobody knows it").face(HOST), "UnknownIssuer"),
        (place.authority.face("other.example"), "certificate not valid for name"),
    ] {
        place.front.restart(face).await;
        for command in [&["restore"][..], &["list"], &["snapshot"]] {
            let (line, code) = place.machine.fail(command).await;
            assert!(line.contains(&format!("cannot reach {}: ", place.endpoint())), "{line}");
            assert!(line.contains(why) && code == 69, "{line} {code}");
        }
        assert!(!place.machine.home().exists(), "{why}");
    }
    // The daemon starts all the same, publishes nothing, and restores once it can tell.
    place.machine.start(&["--interval", "200ms"]).await;
    assert_eq!(place.machine.status().await["standing"], "unknown");
    assert_eq!(place.objects.snapshot(), before);
    place.front.restart(place.authority.face(HOST)).await;
    place.machine.until(|status| status["standing"] == "current").await;
    assert_eq!(place.machine.read("serena_config.yml").as_deref(), Some("precious\n"));
    assert!(place.machine.stop().await.success());
}
