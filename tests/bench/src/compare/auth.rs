//! What authentication costs alone: CPU of requests that mcp-authd answers itself, beside that of a request from nobody.
//!
//! A notification that is acknowledged here passes everything but the upstream: credential, body, policy, audit. A request
//! for a path that there is not passes the connection, the headers and the audit. The difference is more than
//! authentication, never less. Two credentials take turns on a connection, which knows only the last one again.

use std::io;

use crate::authd;
use crate::process::Running;
use crate::wire::Connection;

/// Calls of each kind in a round.
const CALLS: usize = 2_000;

/// CPU a call in microseconds, by round.
#[derive(Default)]
pub struct Cost {
    /// A request without a credential, for nothing.
    pub nobody: Vec<f64>,
    /// Static tokens.
    pub token: Vec<f64>,
    /// JWTs that were seen before.
    pub jwt: Vec<f64>,
    /// JWTs that were not: with their signature (HS256).
    pub new_jwt: Vec<f64>,
}

/// Measures what stands in [`Cost`], in turns.
pub async fn measure(running: &Running, rounds: usize) -> io::Result<Cost> {
    let mut cost = Cost::default();
    let host = running.address;
    let nobody = [format!("GET /nowhere HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes()];
    let tokens = [authd::TOKEN, authd::OTHER_TOKEN].map(|token| notification(running, token));
    let jwts = [notification(running, &authd::jwt(0)?), notification(running, &authd::jwt(1)?)];
    let mut number = 1;
    for round in 0..rounds {
        eprintln!("authentication: round {} of {rounds}", round + 1);
        let mut fresh = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            number += 1;
            fresh.push(notification(running, &authd::jwt(number)?));
        }
        cost.nobody.push(cpu_of(running, &nobody, 404).await?);
        cost.token.push(cpu_of(running, &tokens, 202).await?);
        cost.jwt.push(cpu_of(running, &jwts, 202).await?);
        cost.new_jwt.push(cpu_of(running, &fresh, 202).await?);
    }
    Ok(cost)
}

/// Sends the requests one after the other, again and again.
async fn cpu_of(running: &Running, requests: &[Vec<u8>], expected: u16) -> io::Result<f64> {
    let mut connection = Connection::open(running.address, false).await?;
    let before = running.cpu()?;
    for request in requests.iter().cycle().take(CALLS) {
        let status = connection.exchange(request).await?.status;
        if status != expected {
            return Err(io::Error::other(format!("answered with status {status}, expected {expected}")));
        }
    }
    Ok((running.cpu()? - before).as_secs_f64() * 1e6 / CALLS as f64)
}

fn notification(running: &Running, token: &str) -> Vec<u8> {
    let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\naccept: application/json, text/event-stream\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        running.address,
        body.len()
    )
    .into_bytes()
}
