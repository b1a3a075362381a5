//! The side of mcp-authd that faces the network: what is no honest request never gets behind it, and nobody who misbehaves
//! keeps out somebody who does not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its tasks end with its runtime")]
#![allow(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

mod authority;
mod browsers;
mod certificates;
mod flood;
mod limits;
mod place;
mod smuggling;
mod tls;
mod wire;
