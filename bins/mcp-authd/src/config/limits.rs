//! `[limits]`, `[rate]` and `[wrong]`: everything that can grow, and how far.

use std::num::{NonZeroU32, NonZeroUsize};

use mcp_daemon::config::{Size, Span};
use serde::Deserialize;

/// `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body.
    pub body: Size,
    /// Longest wait for a request's body.
    pub body_timeout: Span,
    /// Largest request head.
    pub head: Size,
    /// Longest wait for a request's head, and for a TLS handshake.
    pub head_timeout: Span,
    /// Open connections of one listener.
    pub connections: NonZeroUsize,
    /// Open connections from one address that have shown no good credential yet.
    pub strangers_per_address: NonZeroUsize,
    /// A connection without a request for this long is closed.
    pub idle: Span,
    /// Longest credential in bytes.
    pub credential: Size,
}

/// `[rate]`: on average so many requests a second, and so many at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Requests a second of one subject.
    pub subject_per_second: NonZeroU32,
    /// Requests at once of one subject.
    pub subject_burst: NonZeroU32,
    /// Requests a second from one address, whoever they are from.
    pub address_per_second: NonZeroU32,
    /// Requests at once from one address.
    pub address_burst: NonZeroU32,
}

/// `[wrong]`: what a wrong credential costs its sender.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wrong {
    /// The first wrong credential from an address is answered after this long; each further one takes twice as long.
    pub first_delay: Span,
    /// No answer takes longer.
    pub longest_delay: Span,
    /// Without a wrong credential for this long an address starts anew.
    pub forget: Span,
    /// Answers that are held back at once; beyond that the answer comes at once, as 429.
    pub held: NonZeroUsize,
    /// The same, of one address.
    pub held_per_address: NonZeroUsize,
    /// Addresses that are remembered; the one longest without a wrong credential makes room.
    pub addresses: NonZeroUsize,
}

const fn count(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).expect("a literal that is not zero")
}

const fn rate(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).expect("a literal that is not zero")
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size(16 << 20),
            body_timeout: Span::seconds(60),
            head: Size(64 << 10),
            head_timeout: Span::seconds(10),
            connections: count(10_000),
            strangers_per_address: count(64),
            idle: Span::seconds(600),
            credential: Size(16 << 10),
        }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            subject_per_second: rate(1_000),
            subject_burst: rate(2_000),
            address_per_second: rate(2_000),
            address_burst: rate(4_000),
        }
    }
}

impl Default for Wrong {
    fn default() -> Self {
        Self {
            first_delay: Span::milliseconds(250),
            longest_delay: Span::seconds(10),
            forget: Span::seconds(900),
            held: count(512),
            held_per_address: count(8),
            addresses: count(65_536),
        }
    }
}
