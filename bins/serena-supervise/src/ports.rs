//! Free ports for servers that cannot be told to choose one themselves.
//!
//! A number is free when it is given out, and nothing keeps it so: the server binds it seconds later. It is one that the
//! system gives to no outgoing connection, because any of the machine could take it meanwhile. One that was taken all
//! the same is noticed by whoever started the server, who asks for another.

use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mcp_daemon::secret;
use tokio::net::TcpSocket;
use tokio::time::Instant;

/// How long a number is not given out again: the slowest server on record binds it 8.5 s after its start.
const RESERVED: Duration = Duration::from_secs(60);
/// Numbers tried below those of outgoing connections, and as many of the system's own choice, before giving up.
const TRIES: usize = 100;
/// The numbers from which outgoing connections get theirs.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Numbers that are chosen from: far more than servers, and above most of those that people know by heart.
const ROOM: u16 = 10_000;
/// From here on Kubernetes redirects, on its nodes, what no socket shows.
const REDIRECTED: u16 = 30_000;
/// The first number that needs no privilege.
const UNPRIVILEGED: u16 = 1_024;

/// The numbers given out lately, with the time of each.
static GIVEN: Mutex<Vec<(u16, Instant)>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nobody uses, and that nobody else in this process was given in the last minute.
pub fn free_port() -> io::Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    given.retain(|(_, when)| now.saturating_duration_since(*when) < RESERVED);
    let outgoing = std::fs::read_to_string(OUTGOING).unwrap_or_default();
    let port = choose(below(&outgoing), |port| given.iter().any(|(one, _)| *one == port))?;
    given.push((port, now));
    Ok(port)
}

/// A number of `room`, else, where all of them are taken or there are none, one of the system's choice.
fn choose(room: Option<Range<u16>>, is_given: impl Fn(u16) -> bool) -> io::Result<u16> {
    for room in [room, None] {
        for _ in 0..TRIES {
            match bind(room.as_ref().map_or(0, any)) {
                Ok(port) if !is_given(port) => return Ok(port),
                Ok(_) => {}
                // Somebody has it, or we may not.
                Err(_) if room.is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("no free port on 127.0.0.1 in {TRIES} tries"),
    ))
}

/// The number, if nobody has it; 0 is one of the system's choice. Bound as strictly as there is, so that a server that
/// sets no option gets it, and closed without ever taking a connection, which leaves no trace.
fn bind(port: u16) -> io::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket.local_addr()?.port())
}

/// Numbers below those of `outgoing`, which is the first and the last of them, if that leaves any.
fn below(outgoing: &str) -> Option<Range<u16>> {
    let first: u16 = outgoing.split_whitespace().next()?.parse().ok()?;
    let end = first.min(REDIRECTED);
    let room = end.saturating_sub(ROOM).max(UNPRIVILEGED)..end;
    (!room.is_empty()).then_some(room)
}

fn any(room: &Range<u16>) -> u16 {
    let room_for = u64::from(room.end - room.start);
    room.start + u16::try_from(secret::random_u64() % room_for).expect("less than the room")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_below_those_of_outgoing_connections_where_that_leaves_room() {
        for (outgoing, expected) in [
            ("32768\t60999\n", Some(20_000..30_000)),
            ("20000\t60999\n", Some(10_000..20_000)),
            ("1100 65535", Some(1_024..1_100)),
            ("1024 65535", None),
            ("1 65535", None),
            ("", None),
            ("many", None),
        ] {
            assert_eq!(below(outgoing), expected, "{outgoing:?}");
        }
        let Some(room) = below(&std::fs::read_to_string(OUTGOING).unwrap_or_default()) else { return };
        let ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert!(ports.iter().all(|port| room.contains(port)), "{ports:?}");
    }

    #[test]
    fn where_all_of_them_are_taken_it_is_one_of_the_systems_choice() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = taken.local_addr().unwrap().port();
        let given = choose(None, |_| false).unwrap();
        for room in [taken..taken + 1, given..given + 1] {
            let port = choose(Some(room.clone()), |port| port == given).unwrap();
            assert!(!room.contains(&port), "{room:?}");
        }
    }

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
