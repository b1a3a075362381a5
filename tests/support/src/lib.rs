//! Test support: an MCP server that misbehaves on command ([`Server`]), a strict little client ([`Client`]),
//! an S3-compatible store that does so too ([`objects`]), and the real daemons as child processes ([`Authd`], [`Sessiond`],
//! [`Supervise`], [`Snapshotd`]).
//!
//! Nothing here is shipped. Tests wait for facts ([`Server::until`], [`Daemon::until_logged`], [`Journal::until`]), never for seconds.
#![allow(
    clippy::disallowed_methods,
    reason = "test support has no drain: its tasks end with the test's runtime"
)]

mod address;
mod answer;
mod answer_body;
mod authd;
mod authority;
mod bridge;
mod builder;
mod checks;
mod child_log;
mod client;
mod client_builder;
mod connection;
mod curl;
mod daemon;
mod dial;
mod events;
mod failure;
mod fake;
mod flavour;
mod framing;
mod gate;
mod ground;
mod http_front;
mod key_server;
mod methods;
mod mishap;
mod modern;
pub mod objects;
mod process;
mod real;
mod real_client;
mod real_server;
mod real_store;
mod refusal;
mod server;
mod sessiond;
mod snapshotd;
mod stdio;
mod supervise;
mod switches;
mod tls_front;
mod tools;
mod world;

pub use authd::Authd;
pub use authority::Authority;
pub use bridge::Bridge;
pub use builder::Builder;
pub use client::Client;
pub use client_builder::ClientBuilder;
pub use curl::Curl;
pub use daemon::Daemon;
pub use events::{Event, Events};
pub use failure::RpcFailure;
pub use fake::{
    FakeBackend, Faults,
    children::{Children, be_child},
    journal::Journal,
    run_fake_backend,
};
pub use flavour::{Flavour, UnknownFlavour};
pub use gate::{Gate, Waiting};
pub use ground::{Ground, fake_backend};
pub use key_server::KeyServer;
pub use mishap::Mishap;
pub use process::{Process, misbehaving_server};
pub use real::{have, real_script};
pub use real_client::RealClient;
pub use real_server::RealServer;
pub use real_store::RealStore;
pub use server::Server;
pub use sessiond::Sessiond;
pub use snapshotd::Snapshotd;
pub use stdio::{StdioOptions, be_left_behind, serve_stdio};
pub use supervise::Supervise;
pub use switches::{Answers, Switches};
pub use tls_front::{Face, TlsFront};
pub use world::Recorded;
