//! The supervisor behind `serena-supervise`: one actor owns one instance's process tree, from its start to its verified
//! end. Start with [`instance`]; its states are in [`instance::state`], the socket that wakes it in [`wake`].

pub mod config;
pub mod dashboard;
pub mod doctor;
pub mod fleet;
pub mod hooks;
pub mod instance;
pub mod limits;
pub mod ops;
pub mod output;
pub mod placeholders;
pub mod places;
pub mod ports;
pub mod probe;
pub mod up;
pub mod wake;
