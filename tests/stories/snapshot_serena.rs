//! Real Serena: used, snapshotted while it runs, its home deleted, restored, and everything it knew is there. Without what
//! `tests/setup` installs the story says so and passes.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

use std::fs;

use serde_json::json;
use support::{Client, RealServer, Snapshotd, have};

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");
const NOTES: [(&str, &str); 2] =
    [("global/style", "Short sentences."), ("plan", "First the roof, then the walls.")];

#[tokio::test]
async fn serena_knows_after_a_restore_what_it_knew_before() {
    if !have(&["serena"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (home, own) = (folder.path().join("home"), folder.path().join("project/.serena"));
    let mut serena = RealServer::serena(folder.path(), &[]).await;
    let client = Client::builder(&serena.url()).lenient().connect().await.unwrap();
    for (memory_name, content) in NOTES {
        client
            .call_text("write_memory", json!({ "memory_name": memory_name, "content": content }))
            .await
            .unwrap();
    }
    let root = format!("project={}", own.display());
    let machine = Snapshotd::new(BINARY);
    let store = format!("file://{}", machine.store().display());
    let flags = ["--home", home.to_str().unwrap(), "--root", &root, "--partition", "web", "--store", &store];
    let machine = machine.with_flags(&flags);
    // It runs, and writes its log.
    let said = machine.succeed(&["snapshot"]).await;
    assert!(said.starts_with("published"), "{said}");
    assert!(machine.succeed(&["snapshot"]).await.starts_with("unchanged"));
    machine.succeed(&["verify", "--read-data"]).await;
    serena.kill9().await;
    let config = fs::read_to_string(home.join("serena_config.yml")).unwrap();
    fs::remove_dir_all(&home).unwrap();
    fs::remove_dir_all(&own).unwrap();

    machine.succeed(&["restore"]).await;
    assert_eq!(fs::read_to_string(home.join("serena_config.yml")).unwrap(), config);
    serena.start_again().await;
    let client = Client::builder(&serena.url()).lenient().connect().await.unwrap();
    for (memory_name, content) in NOTES {
        let read = client.call_text("read_memory", json!({ "memory_name": memory_name })).await.unwrap();
        assert!(read.contains(content), "{memory_name}: {read}");
    }
}
