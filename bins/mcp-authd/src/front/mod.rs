//! Connections, and what of a request is about HTTP alone.

pub mod body;
pub mod headers;
pub mod health;
pub mod hosts;
pub mod metadata;

use std::net::IpAddr;
use std::sync::Arc;

use mcp_daemon::serve::{Listener, Peer, ServeLimits, serve};

use crate::gate::Gate;

/// What is known of a connection, for as long as it lasts.
#[derive(Debug)]
pub struct Connection {
    /// The peer's address, where it has one.
    pub address: Option<IpAddr>,
    /// Whether it came over TCP, where `Host` and `Origin` have to be checked.
    pub is_tcp: bool,
}

/// Serves one listener until the drain.
pub async fn run(gate: Arc<Gate>, listener: Listener) {
    let config = gate.config();
    let limits = ServeLimits {
        connections: config.limits.connections.get(),
        header_timeout: config.limits.head_timeout.duration(),
        max_header_bytes: config.limits.head.bytes(),
    };
    let life = gate.life.clone();
    serve(listener, limits, life, move |request, peer: Peer| {
        let connection = Arc::new(Connection { address: peer.address, is_tcp: peer.tcp });
        gate.clone().answer(request, connection)
    })
    .await;
}
