//! The tables of the settings: bounds on what can grow, and patience, each with its default.

use std::num::{NonZeroU32, NonZeroUsize};

use mcp_daemon::config::{Size, Span};
use serde::Deserialize;

/// `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body.
    pub body: Size,
    /// Largest answer that is held back until it is whole; a larger one is passed on as it comes.
    pub answer: Size,
    /// Longest wait for a request's body.
    pub body_timeout: Span,
    /// Largest request head.
    pub head: Size,
    /// Longest wait for a request's head.
    pub head_timeout: Span,
    /// Open connections of one listener.
    pub connections: NonZeroUsize,
    /// Sessions of one subject; the one idle longest makes room.
    pub sessions_per_subject: NonZeroUsize,
    /// Sessions of everybody; the one idle longest makes room.
    pub sessions: NonZeroUsize,
    /// A session that nobody used for this long is closed.
    pub session_idle: Span,
    /// Ids of deleted sessions that are remembered, so that they are not taken for unknown ones.
    pub deleted_ids: NonZeroUsize,
    /// Requests that may wait for a heal at once.
    pub parked_requests: NonZeroUsize,
    /// The same, of one subject.
    pub parked_requests_per_subject: NonZeroUsize,
    /// Bytes of bodies that may wait for a heal at once.
    pub parked_bytes: Size,
    /// Longest wait of one request.
    pub parked_time: Span,
}

/// `[hang]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hang {
    /// Silence, with a request in flight, after which the server is probed.
    pub silence: Span,
    /// Pause between two probes.
    pub interval: Span,
    /// How long one probe may take.
    pub timeout: Span,
    /// This many failed probes in a row are a hang.
    pub failures: NonZeroU32,
}

/// `[heal]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heal {
    /// How long to go on trying before parked requests are told that it failed.
    pub timeout: Span,
    /// How long one attempt may take.
    pub attempt_timeout: Span,
    /// Attempts that the server answers, but not as it should, before giving up.
    pub attempts: NonZeroU32,
}

/// `[stream]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Events kept per stream for `Last-Event-ID`.
    pub ring_events: NonZeroUsize,
    /// Bytes of events kept per stream.
    pub ring_bytes: Size,
    /// Silence after which a comment keeps a stream alive.
    pub keep_alive: Span,
    /// A parked request answers with a stream of comments after this long, if its client takes streams.
    pub comment_after: Span,
    /// The upstream's stream is closed when its session was idle for this long.
    pub park_after: Span,
    /// How long an answer is kept for a client that went away.
    pub keep_answer: Span,
    /// Bytes of such answers, of all sessions together.
    pub kept_bytes: Size,
}

/// `[process]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// A process without a request for this long is ended; its session heals when it is used again.
    pub idle: Span,
    /// Processes at once.
    pub max: NonZeroUsize,
    /// Failures in a row after which new processes wait.
    pub failures: NonZeroU32,
    /// How long `initialize` may take.
    pub start_timeout: Span,
    /// How long a process may take to end by itself.
    pub stop_grace: Span,
}
impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size(16 << 20),
            answer: Size(4 << 20),
            body_timeout: Span::seconds(60),
            head: Size(64 << 10),
            head_timeout: Span::seconds(30),
            connections: count(10_000),
            sessions_per_subject: count(10_000),
            sessions: count(20_000),
            session_idle: Span::seconds(7 * 24 * 3600),
            deleted_ids: count(10_000),
            parked_requests: count(4_096),
            parked_requests_per_subject: count(1_024),
            parked_bytes: Size(64 << 20),
            parked_time: Span::seconds(300),
        }
    }
}

impl Default for Hang {
    fn default() -> Self {
        Self {
            silence: Span::seconds(30),
            interval: Span::seconds(5),
            timeout: Span::seconds(10),
            failures: NonZeroU32::MIN.saturating_add(2),
        }
    }
}

impl Default for Heal {
    fn default() -> Self {
        Self {
            timeout: Span::seconds(300),
            attempt_timeout: Span::seconds(60),
            attempts: NonZeroU32::MIN.saturating_add(4),
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            ring_events: count(256),
            ring_bytes: Size(1 << 20),
            keep_alive: Span::seconds(15),
            comment_after: Span::seconds(2),
            park_after: Span::seconds(300),
            keep_answer: Span::seconds(600),
            kept_bytes: Size(64 << 20),
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            idle: Span::seconds(1800),
            max: count(32),
            failures: NonZeroU32::MIN.saturating_add(9),
            start_timeout: Span::seconds(120),
            stop_grace: Span::seconds(5),
        }
    }
}
fn count(value: usize) -> NonZeroUsize {
    NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN)
}
