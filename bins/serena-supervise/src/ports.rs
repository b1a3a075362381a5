//! Free ports for servers that cannot be told to choose one themselves.
//!
//! A number is free when it is given out, and nothing keeps it so: the server binds it seconds later. A port that was
//! taken meanwhile is noticed by whoever started the server, who asks for another.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a number is not given out again: the slowest server on record binds it 8.5 s after its start.
const RESERVED: Duration = Duration::from_secs(60);
/// Numbers tried before giving up; the system picks them at random from some 28,000.
const TRIES: usize = 100;

/// The numbers given out lately, with the time of each.
static GIVEN: Mutex<Vec<(u16, Instant)>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nobody uses, and that nobody else in this process was given in the last minute.
pub fn free_port() -> io::Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    given.retain(|(_, when)| now.saturating_duration_since(*when) < RESERVED);
    for _ in 0..TRIES {
        // Bound without SO_REUSEADDR's effect on listeners, and closed without ever taking a connection: it leaves no
        // trace that would keep the server from binding it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if !given.iter().any(|(one, _)| *one == port) {
            given.push((port, now));
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("no free port on 127.0.0.1 in {TRIES} tries"),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn five_hundred_ports_are_five_hundred_and_can_be_bound() {
        let ports: HashSet<u16> = (0..500).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 500);
        let bound =
            ports.iter().filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, **port)).is_ok()).count();
        // Other processes of the machine take ports too, so one or another may be gone.
        assert!(bound >= 490, "{bound}");
    }
}
