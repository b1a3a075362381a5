//! Where requests go: one upstream or several, well or not, and never twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use support::{Authd, Client, Flavour, Server};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");

#[tokio::test]
async fn a_good_token_reaches_the_only_upstream() {
    let server = Server::start(Flavour::Python2).await;
    let authd = Authd::start(BINARY, |directory| {
        let tokens = Authd::secret_file(directory, "tokens.toml", "[token.alice]\ntoken = 'alice-token'\n");
        format!("tokens = '{}'\nupstream = '{}'\n", tokens.display(), server.url())
    })
    .await;
    let client = Client::builder(&authd.url()).header("authorization", "Bearer alice-token").lenient();
    let client = client.connect().await.unwrap();
    assert_eq!(client.call_text("count", serde_json::json!({})).await.unwrap(), "1");
    assert_eq!(server.session_ids(), [client.session_id().unwrap()], "one upstream: ids are untouched");
}
