//! The misbehaving server says what real servers were measured to say, and its accidents are real ones.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod accidents;
mod manners;
mod processes;
mod protocol;
mod table;

use serde_json::{Value, json};
use support::{Client, RpcFailure, Server};

/// A client of the server itself, which repeats the session id like real ones.
async fn connect(server: &Server) -> Client {
    Client::builder(&server.url()).lenient().connect().await.unwrap()
}

/// A client that holds an id from another life.
fn stale_client(url: &str) -> Client {
    Client::builder(url).lenient().session("00000000000000000000000000000000").unconnected()
}

async fn count(client: &Client) -> Result<String, RpcFailure> {
    client.call_text("count", json!({})).await
}

fn ping() -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" })
}
