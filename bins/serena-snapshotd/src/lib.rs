//! Snapshots of a home to a local directory or S3 that cannot lose the last good copy.
//!
//! Start with [`layout`] (what is in a store), [`head`] and [`manifest`] (what it means), then [`engine`], which decides what
//! may be published, restored and deleted. [`take`] reads a living home, [`restore`] puts one back, [`store`] keeps bytes.

pub mod cat;
pub mod config;
pub mod daemon;
pub mod digest;
pub mod engine;
pub mod head;
pub mod import;
pub mod layout;
pub mod manifest;
pub mod progress;
pub mod report;
pub mod restore;
pub mod seal;
pub mod settings;
pub mod store;
pub mod take;
pub mod threads;
pub mod verify;
