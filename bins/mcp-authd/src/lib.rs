//! mcp-authd: who is this, and where may they go. The only daemon that faces a network.
//!
//! A request passes these in order: `front` (TLS, hosts, origins, sizes), `credentials` (credential to identity),
//! `limits`, `policy` (may this identity do that), `route` (which upstream), and leaves a line in `audit`.
//! [`gate`] is that path; read it first.

pub mod address;
pub mod answer;
pub mod audit;
pub mod config;
pub mod credentials;
pub mod front;
pub mod gate;
pub mod identity;
pub mod leash;
pub mod limits;
pub mod metrics;
mod object;
pub mod ops;
pub mod policy;
pub mod prepared;
pub mod refusal;
pub mod reload;
pub mod route;
pub mod watch;
