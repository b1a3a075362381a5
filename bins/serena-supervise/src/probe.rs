//! Whether a server is there: asked on a new connection each time, or told by the server itself.
//!
//! [`Prober`] asks one question; [`Prober::until_ready`] asks until the answer is yes, [`watch`](watch::watch) until it
//! has been no for too long. Servers that tell instead are heard in [`fd`] and [`notify`]. Who owns the port that
//! answers is not looked at here: the owner of the process tree does that.

pub mod ask;
pub mod echo;
pub mod exec;
pub mod fd;
pub mod notify;
pub mod pulse;
pub mod verdict;
pub mod watch;

pub use ask::{Prober, Surroundings};
pub use echo::Echo;
pub use watch::{Dead, watch};

use std::time::Duration;

use mcp_daemon::config::Span;

/// Why a server does not count as ready or alive, as one line for a person.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProbeError {
    /// The command of an `exec` probe says no or cannot be run.
    #[error("{0}")]
    Exec(String),
    /// Nobody listens, or the connection broke before there was an answer.
    #[error("no answer: {0}")]
    Gone(String),
    /// The connection is there, the answer is not.
    #[error("no answer within {}", span(*.0))]
    Silent(Duration),
    /// This process could not ask: no descriptor, no memory, no port of its own. Says nothing about the server.
    #[error("cannot ask: {0}")]
    Ours(String),
    /// A server that told by descriptor or socket how it is, said no.
    #[error("{0}")]
    Told(String),
    /// An answer that a ready server would not give.
    #[error("wrong answer: {0}")]
    Wrong(String),
}

/// A duration as people write it; a timeout from the configuration is never 0.
fn span(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
    Span::milliseconds(milliseconds).to_string()
}
