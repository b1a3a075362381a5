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
    /// Requests with their answers under way at once; more wait. A stream counts up to its head. Default: the common
    /// `concurrency`.
    pub concurrency: Option<NonZeroUsize>,
    /// Requests that may wait for `concurrency`, in the order in which they came; more are refused. Default: the
    /// common `queue`.
    pub queue: Option<usize>,
    /// Longest wait in the queue; default: the common `queue_timeout`.
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
    /// Where to ask `GET /ready` (200 is well; its own path counts for nothing): the control socket or `--observe` address
    /// of a daemon, never a socket that wakes an instance.
    pub ready: Option<Upstream>,
    /// Take no new sessions to it; those it has stay.
    #[serde(default)]
    pub drain: bool,
    /// File with a bearer token that it wants: its own credential, whatever the client's was. Read again at reload.
    pub token_file: Option<PathBuf>,
    /// Tell it who is asking (`Mcp-Auth-Subject`, `Mcp-Route`) over TCP too; a Unix socket is always told. Off unless set:
    /// a server elsewhere need not know who our people are, and nothing keeps others on its network from claiming the same.
    #[serde(default)]
    pub identity_headers: bool,
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
            identity_headers: false,
        };
        Self(vec![only])
    }
}

/// `[health]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Pause between two questions at an upstream's `ready`.
    pub interval: Span,
    /// How long the answer may take.
    pub timeout: Span,
    /// Failures in a row after which an upstream gets no new sessions: of questions, until one is answered well; of
    /// requests (not reached, lost, or answered with 502, 503 or 504), for the time of an `ejection`. The last upstream
    /// of a route that takes new sessions goes on taking them.
    pub failures: NonZeroU32,
    /// After this long one request is let through to try; if it fails too, the next time is twice as long.
    pub ejection: Span,
    /// No ejection takes longer.
    pub longest_ejection: Span,
    /// How long a request waits for an upstream that can be reached, and how long a session waits for its own before it
    /// is taken to another one.
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
