//! `mcp-sessiond doctor`: says what a server does to a stale session, and leaves the server as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Output;
use std::time::Duration;

use support::{Flavour, Server, misbehaving_server};
use tokio::process::Command;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

async fn doctor(args: &[&str]) -> (Output, String) {
    let mut command = Command::new(BINARY);
    command.arg("doctor").args(args).kill_on_drop(true);
    let output = timeout(Duration::from_secs(60), command.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    (output, said)
}

#[tokio::test]
async fn a_server_that_was_examined_has_no_session_left() {
    for flavour in [Flavour::Python1_12, Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp] {
        let server = Server::start(flavour).await;
        let (output, said) = doctor(&["--upstream", &server.url()]).await;
        assert!(output.status.success() && said.contains("was healed"), "{flavour}: {output:?}");
        assert!(said.contains("Origin") && said.contains("Host"), "{flavour}: {said}");
        assert_eq!((server.initializes(), server.sessions()), (2, 0), "{flavour}: {said}");
    }
}

#[tokio::test]
async fn a_command_is_not_asked_for_manners_that_only_http_has() {
    let server = misbehaving_server();
    let (output, said) = doctor(&["--", server.to_str().unwrap(), "--stdio"]).await;
    assert!(output.status.success() && said.contains("was healed"), "{output:?}");
    assert!(!said.contains("Origin") && !said.contains("Host"), "{said}");
}
