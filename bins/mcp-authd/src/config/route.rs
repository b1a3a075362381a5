//! `upstream`, `[route.NAME]` and `[health]`: where routes lead, and how upstreams are found to be unwell.

use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use mcp_daemon::addr::Upstream;
use mcp_daemon::config::Span;
use serde::{Deserialize, Deserializer};

/// `[route.NAME]`: settings that differ from those of the other routes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// Where it leads, instead of the common `upstream`.
    pub upstream: Upstreams,
    /// Answer `notifications/initialized` here with 202, for upstreams that choke on it.
    pub acknowledge_initialized: bool,
    /// Requests with their answers under way at once, streams not counted; more wait.
    pub concurrency: Option<NonZeroUsize>,
    /// Requests that may wait; more are refused.
    pub queue: Option<usize>,
    /// Longest wait in the queue.
    pub queue_timeout: Option<Span>,
}

/// One upstream, given as its address alone, or several as tables.
#[derive(Clone, Debug, Default)]
pub struct Upstreams(pub Vec<UpstreamSettings>);

/// One of several upstreams of a route.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// What it is called: `[a-z0-9-]{1,32}`, unique within its route; it stands before the session ids that clients see, so a
    /// name must keep its meaning. Needed where there are several.
    pub name: Option<String>,
    /// The address: `unix:/run/serena/{route}/mcp.sock`, `http://host/mcp` or `https://host/mcp`.
    pub address: Upstream,
    /// Its share of new sessions, beside the others.
    #[serde(default = "one")]
    pub weight: NonZeroU16,
    /// Where to ask `GET /ready`: the control socket or `--observe` address of a daemon, never a socket that wakes an
    /// instance.
    pub ready: Option<Upstream>,
    /// Take no new sessions to it; those it has stay.
    #[serde(default)]
    pub drain: bool,
    /// File with a bearer token that it wants: its own credential, whatever the client's was.
    pub token_file: Option<PathBuf>,
}

fn one() -> NonZeroU16 {
    NonZeroU16::MIN
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> serde::de::Visitor<'de> for Forms {
            type Value = Upstreams;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an address, or a list of tables with `name` and `address`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Upstreams, E> {
                Ok(Upstreams::one(text.parse().map_err(E::custom)?))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Upstreams, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(list)).map(Upstreams)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl Upstreams {
    /// A single one, without a name.
    pub fn one(address: Upstream) -> Self {
        let only = UpstreamSettings {
            name: None,
            address,
            weight: one(),
            ready: None,
            drain: false,
            token_file: None,
        };
        Self(vec![only])
    }
}

/// `[health]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Pause between two questions at an upstream's `ready`.
    pub interval: Span,
    /// How long the answer may take.
    pub timeout: Span,
    /// Failures in a row, of questions or of requests, after which an upstream gets no new sessions.
    pub failures: NonZeroU32,
    /// For how long; each time in a row it is twice as long.
    pub ejection: Span,
    /// No ejection takes longer.
    pub longest_ejection: Span,
    /// How long a request for which no upstream can be reached waits for one.
    pub patience: Span,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: Span::seconds(5),
            timeout: Span::seconds(2),
            failures: NonZeroU32::new(3).expect("a literal that is not zero"),
            ejection: Span::seconds(5),
            longest_ejection: Span::seconds(300),
            patience: Span::seconds(10),
        }
    }
}
