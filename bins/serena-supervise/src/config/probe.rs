//! `probe`: how readiness is seen. In flags and TOML alike `mcp`, `mcp:/path`, `http:/path`, `tcp`, `fd`, `notify` or
//! `none`; in TOML also a table with one key, which is the only form that has room for a command.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Where MCP is answered unless something else is said.
const MCP_PATH: &str = "/mcp";
const EXPECTED: &str = "\"mcp\", \"tcp\", \"fd\", \"notify\", \"none\", { mcp = \"/mcp\" }, { http = \"/ready\" } or { exec = [\"command\"] }";

/// `probe`: `"mcp"`, `"tcp"`, `"fd"`, `"notify"`, `"none"`, `{ mcp = "/path" }`, `{ http = "/path" }`, `{ exec = ["command"] }`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// A command that exits with 0 once the server is ready.
    Exec(Vec<String>),
    /// The server writes a newline to the descriptor `{fd}`.
    Fd,
    /// GET of this path is answered with 2xx.
    Http(String),
    /// MCP is answered at this path, `/mcp` unless given; leaves no session behind.
    Mcp(String),
    /// Running is enough.
    None,
    /// The server sends `READY=1` to `$NOTIFY_SOCKET`.
    Notify,
    /// The port accepts connections.
    Tcp,
}

impl Probe {
    /// Whether the supervisor asks at the server's port, so that it must know the port.
    pub fn asks_port(&self) -> bool {
        match self {
            Probe::Http(_) | Probe::Mcp(_) | Probe::Tcp => true,
            Probe::Exec(_) | Probe::Fd | Probe::None | Probe::Notify => false,
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Probe::Mcp(MCP_PATH.into())
    }
}

/// Not a probe.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a probe; write mcp, mcp:/path, http:/path, tcp, fd, notify or none")]
pub struct ProbeError(String);

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let (kind, path) = match text.split_once(':') {
            Some((kind, path)) => (kind, Some(path)),
            None => (text, None),
        };
        match (kind, path) {
            ("fd", None) => Ok(Probe::Fd),
            ("http", Some(path)) if is_path(path) => Ok(Probe::Http(path.into())),
            ("mcp", None) => Ok(Probe::default()),
            ("mcp", Some(path)) if is_path(path) => Ok(Probe::Mcp(path.into())),
            ("none", None) => Ok(Probe::None),
            ("notify", None) => Ok(Probe::Notify),
            ("tcp", None) => Ok(Probe::Tcp),
            _ => Err(ProbeError(text.into())),
        }
    }
}

/// Parses back, but for `exec`, which has no form in one word.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Probe::Exec(command) => write!(f, "exec {}", command.join(" ")),
            Probe::Fd => f.write_str("fd"),
            Probe::Http(path) => write!(f, "http:{path}"),
            Probe::Mcp(path) if path == MCP_PATH => f.write_str("mcp"),
            Probe::Mcp(path) => write!(f, "mcp:{path}"),
            Probe::None => f.write_str("none"),
            Probe::Notify => f.write_str("notify"),
            Probe::Tcp => f.write_str("tcp"),
        }
    }
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

struct Forms;

impl<'de> Visitor<'de> for Forms {
    type Value = Probe;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Probe, E> {
        text.parse().map_err(|_| E::custom(format_args!("`{text}` is not a probe; write {EXPECTED}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Probe, A::Error> {
        let one = || de::Error::custom(format_args!("a probe has one key; write {EXPECTED}"));
        let probe = match table.next_key::<String>()?.ok_or_else(one)?.as_str() {
            "exec" => Probe::Exec(table.next_value()?),
            "http" => Probe::Http(path(table.next_value()?)?),
            "mcp" => Probe::Mcp(path(table.next_value()?)?),
            other => {
                return Err(de::Error::custom(format_args!("`{other}` is not a probe; write {EXPECTED}")));
            }
        };
        if table.next_key::<String>()?.is_some() { Err(one()) } else { Ok(probe) }
    }
}

fn path<E: de::Error>(path: String) -> Result<String, E> {
    if is_path(&path) {
        Ok(path)
    } else {
        Err(E::custom(format_args!("`{path}` is not a path; write \"/mcp\"")))
    }
}

/// What may stand in the first line of a request.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Probe, String> {
        #[derive(Deserialize)]
        struct One {
            probe: Probe,
        }
        mcp_daemon::config::parse::<One>(std::path::Path::new("x.toml"), &format!("probe = {toml}"))
            .map(|one| one.probe)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_documented_form_is_read_and_one_word_parses_back() {
        for (toml, probe) in [
            ("'mcp'", Probe::Mcp("/mcp".into())),
            ("'mcp:/m'", Probe::Mcp("/m".into())),
            ("{ mcp = '/m' }", Probe::Mcp("/m".into())),
            ("{ http = '/ready?x=1' }", Probe::Http("/ready?x=1".into())),
            ("'tcp'", Probe::Tcp),
            ("'fd'", Probe::Fd),
            ("'notify'", Probe::Notify),
            ("'none'", Probe::None),
        ] {
            assert_eq!(read(toml).unwrap(), probe);
            assert_eq!(probe.to_string().parse(), Ok(probe));
        }
        assert_eq!(read("{ exec = ['a', 'b c'] }").unwrap(), Probe::Exec(vec!["a".into(), "b c".into()]));
    }

    #[test]
    fn anything_else_is_one_line_that_shows_the_forms() {
        for toml in
            ["'http'", "'udp'", "{ udp = 1 }", "{}", "{ mcp = '/m', http = '/r' }", "1", "{ http = 'ready' }"]
        {
            let error = read(toml).unwrap_err();
            assert!(error.starts_with("x.toml:1: probe"), "{error}");
            assert!(error.contains("write \"") || error.contains("expected \"mcp\""), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!("http:/a b".parse::<Probe>().is_err(), "a blank would end the request line's path");
    }
}
