//! Where a daemon listens, in the one spelling that flags, TOML, logs and status share.
//!
//! What it connects to is in [`crate::upstream`], the name a subject is sent to in [`crate::route`]; both are
//! re-exported here. Every `Display` in these modules parses back to the same value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use crate::route::Route;
pub use crate::upstream::{Endpoint, Upstream};

/// Longest path of a Unix socket in bytes: `sun_path` of the platform less its closing zero.
pub const MAX_UNIX_PATH: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// Why a text is no address or route; each one says what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddrError {
    /// Not something one can listen on.
    #[error("`{0}` is not an address; write 127.0.0.1:9121, unix:/run/x.sock or fd:name")]
    Listen(String),
    /// An upstream with `{route}` was asked for without a route.
    #[error("`{0}` contains {{route}}, and this request has no route")]
    NoRoute(String),
    /// A host name where only an IP address is unambiguous.
    #[error("`{0}` is a name, listening needs an IP address; write 127.0.0.1:9121 or 0.0.0.0:9121")]
    NotAnIp(String),
    /// The kernel has no room for a longer path.
    #[error(
        "`{path}` has {found} bytes, a Unix socket path at most {MAX_UNIX_PATH}; use a shorter directory"
    )]
    PathTooLong {
        /// The path as written.
        path: String,
        /// Its length in bytes.
        found: usize,
    },
    /// A path that depends on the working directory, or none.
    #[error("`{0}` is not an absolute path; write unix:/run/x.sock")]
    RelativePath(String),
    /// Not a route name.
    #[error(
        "`{0}` is not a route; write 1-63 of a-z 0-9 . _ - that start with a letter or digit, without `..`"
    )]
    Route(String),
    /// Not something one can connect to.
    #[error(
        "`{found}` is not an upstream ({reason}); write http://127.0.0.1:8080/mcp, https://host/mcp or unix:/run/x.sock:/mcp"
    )]
    Upstream {
        /// The text as written, without a password it may have contained.
        found: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Something to listen on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Listen {
    /// `127.0.0.1:9121` or `[::1]:9121`; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// `unix:/run/x.sock`, an absolute path of at most [`MAX_UNIX_PATH`] bytes.
    Unix(PathBuf),
    /// `fd:name`: every inherited socket of that name (`LISTEN_FDNAMES`).
    Inherited(String),
}

impl FromStr for Listen {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Listen::Unix);
        }
        if let Some(name) = text.strip_prefix("fd:") {
            return if is_fd_name(name) {
                Ok(Listen::Inherited(name.to_owned()))
            } else {
                Err(AddrError::Listen(text.to_owned()))
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Listen::Tcp(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddrError::Listen(text.to_owned()))?;
        let port = port.parse().map_err(|_| AddrError::Listen(text.to_owned()))?;
        match host {
            // Everybody means the IPv4 loopback; listening on two addresses would need two sockets.
            "localhost" => Ok(Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))),
            "" => Err(AddrError::Listen(text.to_owned())),
            _ if host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                && host.chars().any(|c| c.is_ascii_alphabetic()) =>
            {
                Err(AddrError::NotAnIp(text.to_owned()))
            }
            _ => Err(AddrError::Listen(text.to_owned())),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Inherited(name) => write!(f, "fd:{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks what the kernel and our spelling demand of the path of a Unix socket.
pub fn unix_path(path: &str) -> Result<PathBuf, AddrError> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(AddrError::RelativePath(path.to_owned()));
    }
    if path.len() > MAX_UNIX_PATH {
        return Err(AddrError::PathTooLong { path: path.to_owned(), found: path.len() });
    }
    Ok(Path::new(path).to_path_buf())
}

/// What systemd allows as `FileDescriptorName=`, less the empty name.
fn is_fd_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_documented_form_is_read() {
        for (text, shown) in [
            ("127.0.0.1:9121", "127.0.0.1:9121"),
            ("[::1]:9121", "[::1]:9121"),
            ("localhost:9121", "127.0.0.1:9121"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("fd:web", "fd:web"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_address_shows_the_right_form() {
        for text in
            ["", "9121", ":9121", "127.0.0.1", "127.0.0.1:99999", "fd:", "fd:a:b", "http://127.0.0.1:1/"]
        {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`{text}` is not an address; write 127.0.0.1:9121, unix:/run/x.sock or fd:name")
            );
        }
        assert!(matches!("example.org:80".parse::<Listen>(), Err(AddrError::NotAnIp(_))));
        assert!(matches!("unix:x.sock".parse::<Listen>(), Err(AddrError::RelativePath(_))));
    }

    #[test]
    fn a_path_that_the_kernel_cannot_hold_is_refused_with_both_numbers() {
        let longest = format!("unix:/{}", "a".repeat(MAX_UNIX_PATH - 1));
        assert!(longest.parse::<Listen>().is_ok());
        let error = format!("{longest}a").parse::<Listen>().unwrap_err().to_string();
        assert!(error.contains(&format!("has {} bytes", MAX_UNIX_PATH + 1)), "{error}");
        assert!(error.contains(&format!("at most {MAX_UNIX_PATH}")), "{error}");
    }

    #[test]
    fn a_listen_address_is_a_string_in_json() {
        let listen: Listen = serde_json::from_str(r#""[::1]:1""#).unwrap();
        assert_eq!(serde_json::to_string(&listen).unwrap(), r#""[::1]:1""#);
    }

    proptest! {
        #[test]
        fn whatever_parses_is_shown_so_that_it_parses_back(text in "(unix:/|fd:|127.0.0.1:|\\[::1\\]:|localhost:|)[ -~]{0,40}") {
            if let Ok(listen) = text.parse::<Listen>() {
                prop_assert_eq!(listen.to_string().parse::<Listen>().unwrap(), listen);
            }
        }

        #[test]
        fn every_socket_address_round_trips(ip: IpAddr, port: u16) {
            let listen = Listen::Tcp(SocketAddr::new(ip, port));
            prop_assert_eq!(listen.to_string().parse::<Listen>().unwrap(), listen);
        }
    }
}
