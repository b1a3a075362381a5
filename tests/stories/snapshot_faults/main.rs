//! Everything that can go wrong with a bucket, at every single request: the last acknowledged snapshot is never lost.
//!
//! The engine runs in the test's own process against the oracle of `support::objects`; kill -9 is in `snapshot_kill`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod clocks;
mod faults;
mod races;
mod world;
