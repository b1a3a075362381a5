//! What every daemon of this project does alike: addresses, sockets, serving, connecting, control, life cycle,
//! configuration, logs and metrics. Flat modules; nothing here knows a session or a particular server.
//! Of MCP itself it knows the envelope alone ([`mcp`]).
//! A module enters when a second daemon needs it. Start with [`life`], then [`serve`], [`client`] and [`control`].
//! The only `unsafe` code is in [`fds`], [`heap`] and [`tree`]'s `child`, and the only call of `tokio::spawn` in [`life`].

pub mod accept;
pub mod addr;
pub mod args;
pub mod body;
pub mod client;
pub mod config;
pub(crate) mod connect;
pub mod control;
pub mod exit;
pub mod fds;
pub mod files;
mod gather;
pub mod heap;
pub mod hosts;
pub mod inbound;
mod keepalive;
pub mod life;
pub mod listener;
pub mod log;
pub mod mcp;
pub mod metrics;
pub(crate) mod notify;
pub(crate) mod patience;
pub mod pool;
pub mod program;
pub mod progress;
pub mod quantity;
pub mod route;
pub mod secret;
pub mod serve;
pub(crate) mod signals;
pub mod terminal;
pub mod tokens;
pub mod tree;
pub mod upstream;
