//! The stop ladder: each rung asks a little louder and has a deadline of its own; the last one ends when no process of
//! the tree is left.
//!
//! Serena's needs are the reason for the rungs: it exits by SIGTERM when idle, waits for a running tool, and with an
//! open listen stream only SIGINT ends it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use mcp_daemon::client::{Client, ClientOptions};
use mcp_daemon::tree::Tree;
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::config::Stop;

/// How long one round of SIGKILL may take before it is said that something resists, and tried again.
const KILL_ROUND: Duration = Duration::from_secs(10);
/// What is left of a tree whose main process is gone gets this long to end by itself.
const ORPHANS: Duration = Duration::from_secs(1);

/// Asks, then tells, then kills; `rung` hears the name of each step as it is taken. Ends when the tree is empty.
pub async fn stop(tree: &mut Tree, at: Option<SocketAddr>, ladder: &Stop, rung: impl Fn(&'static str)) {
    // A look before anything ends: who leaves parent and session later is known from now.
    tree.members();
    if let (Some(path), Some(at)) = (&ladder.http, at) {
        rung("asking over HTTP");
        let asked = async {
            ask(at, path).await;
            tree.exited().await
        };
        let _ = timeout(ladder.http_wait.duration(), asked).await;
    }
    for (name, signal, patience) in [
        ("SIGTERM to the main process", Signal::SIGTERM, ladder.term),
        ("SIGINT to the main process", Signal::SIGINT, ladder.int),
    ] {
        // It may have exited on the rung before.
        if timeout(Duration::ZERO, tree.exited()).await.is_ok() {
            break;
        }
        rung(name);
        tree.signal_root(signal);
        if timeout(patience.duration(), tree.exited()).await.is_ok() {
            break;
        }
    }
    if tree.members().is_empty() {
        return;
    }
    rung("SIGTERM to the whole tree");
    if !tree.end(Signal::SIGTERM, ladder.tree.duration()).await.is_empty() {
        kill(tree, rung).await;
    }
}

/// Clears away what a main process that is gone, or does not answer, has left.
pub async fn clear(tree: &mut Tree, rung: impl Fn(&'static str)) {
    if !tree.end(Signal::SIGTERM, ORPHANS).await.is_empty() {
        kill(tree, rung).await;
    }
}

async fn kill(tree: &mut Tree, rung: impl Fn(&'static str)) {
    rung("SIGKILL to the whole tree");
    loop {
        let left = tree.end(Signal::SIGKILL, KILL_ROUND).await;
        if left.is_empty() {
            return;
        }
        // Nothing is stopped that still runs, so nothing is said to be.
        log::error!(pids:? = left; "processes outlive SIGKILL, still trying");
    }
}

async fn ask(at: SocketAddr, path: &str) {
    let Ok(upstream) = format!("http://{at}{path}").parse::<mcp_daemon::addr::Upstream>() else { return };
    let Ok(endpoint) = upstream.endpoint(None) else { return };
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::PUT;
    if let Err(error) = Client::new(ClientOptions::default()).send_on_new_connection(&endpoint, request).await
    {
        log::debug!(error:% = error; "the request to shut down was not answered");
    }
}
