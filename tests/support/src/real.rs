//! Where the real software of `tests/real` is, and whether `tests/setup` could install it.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// Lowest port that [`quiet_port`] looks at.
const LOWEST_PORT: u32 = 12_000;
/// How many ports it looks at: none of them is one that Linux gives to outgoing connections (32768 and up).
const PORTS: u32 = 20_000;

/// The path of a script of `tests/real`, such as `server`.
pub fn real_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../real").join(name)
}

/// Whether everything in `names` is installed, as `.cache/have` names it; if not, says so in one line that
/// `tests/run` repeats at its end.
pub fn have(names: &[&str]) -> bool {
    let installed = fs::read_to_string(cache().join("have")).unwrap_or_default();
    let missing: BTreeSet<_> = names
        .iter()
        .filter(|name| !installed.lines().any(|line| line.split(' ').next() == Some(name)))
        .copied()
        .collect();
    let has_all = missing.is_empty();
    if !has_all {
        let story = std::thread::current().name().unwrap_or("a story").to_owned();
        let missing = Vec::from_iter(missing).join(", ");
        println!("skipped: {story} because there is no {missing}; run tests/setup");
    }
    has_all
}

/// A free TCP port for a server that will be killed and started again on it.
///
/// Not an ephemeral one: while the server is down, the kernel could give such a port to somebody's outgoing
/// connection, even to one that tries to reach that very server.
pub(crate) fn quiet_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    (0..PORTS)
        .map(|_| LOWEST_PORT + start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("one of 20,000 ports is free")
}

fn cache() -> PathBuf {
    std::env::var_os("SERENA_MCP_CACHE")
        .filter(|value| !value.is_empty())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"), PathBuf::from)
}
