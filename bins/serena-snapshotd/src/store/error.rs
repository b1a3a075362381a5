//! Why a store did not do what was asked, in the few kinds that decide what happens next.

use mcp_daemon::exit::Exit;

/// One failed operation on a store.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {detail}")]
pub struct StoreError {
    /// What was tried on which object, for people: `read HEAD of s3://bucket/prefix/laptop`.
    pub what: String,
    /// What the store or the system said, one line, without credentials.
    pub detail: String,
    /// What it means.
    pub trouble: Trouble,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// The store answers, but not now: 429, 5xx, a timeout, after all attempts.
    Busy,
    /// What came is not what was stored, or cannot be.
    Damaged,
    /// The credentials are missing, wrong, or allow too little.
    Denied,
    /// No room left.
    Full,
    /// There is no such bucket or directory, or what is there cannot be a store.
    NoStore,
    /// No answer at all: refused, no such host, cut off.
    Unreachable,
}

impl StoreError {
    pub(super) fn new(what: impl Into<String>, trouble: Trouble, detail: impl Into<String>) -> Self {
        StoreError { what: what.into(), detail: detail.into(), trouble }
    }

    /// How a command ends that failed for this reason.
    pub fn exit(&self) -> Exit {
        match self.trouble {
            Trouble::Busy | Trouble::Damaged | Trouble::Full => Exit::TryAgain,
            Trouble::Denied | Trouble::NoStore => Exit::Config,
            Trouble::Unreachable => Exit::Unavailable,
        }
    }
}
