//! How clients reach sessiond: over HTTP, or as a command they launch.

pub mod http;
pub mod stdio;
