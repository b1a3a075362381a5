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
    /// All bodies that are in memory at once, of everybody; a request beyond that is refused. A body is there until its
    /// request is answered. At least as large as `body`.
    pub bodies: Size,
    /// Longest wait for a request's body.
    pub body_timeout: Span,
    /// Largest request head.
    pub head: Size,
    /// Longest wait for a request's head, and for a TLS handshake.
    pub head_timeout: Span,
    /// A client that takes nothing of its answer for this long, at most twice as long, is cut.
    pub answer_timeout: Span,
    /// Open connections of one listener; read at the start only.
    pub connections: NonZeroUsize,
    /// Open connections from one address (of IPv6 one /64) that have shown no good credential within 3 s; of more the oldest
    /// is cut. Those of trusted proxies do not count. In all at most half of `connections` are kept, however young: where most
    /// are the oldest is cut.
    pub strangers_per_address: NonZeroUsize,
    /// Open connections that have shown a good credential of one subject; requests on further ones are refused. Those of
    /// trusted proxies do not count.
    pub connections_per_subject: NonZeroUsize,
    /// A connection without a request for this long, at most twice as long, is closed.
    pub idle: Span,
    /// Requests under way at once on one HTTP/2 connection.
    pub streams: NonZeroU32,
    /// Longest credential in bytes.
    pub credential: Size,
}

/// `[rate]`: on average so many requests a second, and so many at once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Requests a second of one subject.
    pub subject_per_second: NonZeroU32,
    /// Requests at once of one subject.
    pub subject_burst: NonZeroU32,
    /// Requests a second from one address (of IPv6 one /64) that bring no good credential. Those that do are counted by
    /// subject alone: behind one address there may be many, who must not keep each other out.
    pub address_per_second: NonZeroU32,
    /// Such requests at once from one address.
    pub address_burst: NonZeroU32,
}

/// `[wrong]`: what a wrong credential costs its sender. One that was good once, or is not yet, is no guess and costs nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wrong {
    /// The first wrong credential from an address (of IPv6 one /64) is answered after this long; each further one takes
    /// twice as long. A good credential is served at once, a missing one is told so at once.
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
            bodies: Size(256 << 20),
            body_timeout: Span::seconds(60),
            head: Size(64 << 10),
            head_timeout: Span::seconds(10),
            answer_timeout: Span::seconds(60),
            connections: count(10_000),
            strangers_per_address: count(64),
            connections_per_subject: count(1_000),
            idle: Span::seconds(600),
            streams: rate(128),
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
