//! Who listens on a port: /proc/net/tcp names the socket, `/proc/PID/fd` its holders.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Holder;
use super::procfs;

/// Addresses as /proc/net/tcp prints them (in words of the machine's byte order), those that answer 127.0.0.1, the
/// closest first; a connection goes to the closest one.
const CLOSEST_FIRST: [[u8; 4]; 2] = [[127, 0, 0, 1], [0, 0, 0, 0]];

/// Bytes of a line in /proc/net/tcp, which are all as long; in tcp6 they are longer.
const LINE: usize = 150;

/// Ports that are remembered; who asks for more of one tree pays each time.
const MAX_SEEN: usize = 8;

/// By port, where in /proc each socket of a member was seen that listens there.
///
/// While it is still there nobody else can have come, but for one who shares the port by `SO_REUSEPORT`; and to read
/// /proc/net/tcp takes milliseconds, because the system walks through its table of all connections.
#[derive(Default)]
pub(super) struct Seen(HashMap<u16, Vec<(PathBuf, u64)>>);

impl Seen {
    /// Who of `members` (or else) takes connections to 127.0.0.1 at `port`, in the network that `root` is in.
    pub(super) fn holder(&mut self, root: i32, port: u16, members: impl FnOnce() -> Vec<i32>) -> Holder {
        if self
            .0
            .get(&port)
            .is_some_and(|seen| seen.iter().all(|(path, inode)| socket_at(path) == Some(*inode)))
        {
            return Holder::Ours;
        }
        self.0.remove(&port);
        if !procfs::is_ours() {
            return Holder::Unknown;
        }
        let sockets = listening(root, port);
        if sockets.is_empty() {
            return Holder::Nobody;
        }
        // The root is the one in most trees; to find all members takes a walk.
        let by_root = held_by(&[root], &mut sockets.clone()).ok().flatten();
        match by_root.map_or_else(|| held(sockets, members()), Ok) {
            Ok(seen) => {
                if self.0.len() < MAX_SEEN {
                    self.0.insert(port, seen);
                }
                Holder::Ours
            }
            Err(holder) => holder,
        }
    }
}

/// Where these processes hold all of the sockets, which are taken out one by one; an error where that cannot be seen.
fn held_by(pids: &[i32], sockets: &mut HashSet<u64>) -> io::Result<Option<Vec<(PathBuf, u64)>>> {
    let mut seen = Vec::new();
    let mut blind = None;
    for pid in pids {
        match sockets_of(*pid) {
            Ok(held) => seen.extend(held.into_iter().filter(|(_, inode)| sockets.remove(inode))),
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => blind = Some(error),
        }
        if sockets.is_empty() {
            return Ok(Some(seen));
        }
    }
    blind.map_or(Ok(None), Err)
}

/// Where members hold all of these sockets; else who does.
fn held(mut sockets: HashSet<u64>, members: Vec<i32>) -> Result<Vec<(PathBuf, u64)>, Holder> {
    let is_blind = match held_by(&members, &mut sockets) {
        Ok(Some(seen)) => return Ok(seen),
        Ok(None) => false,
        Err(_) => true,
    };
    let members: HashSet<i32> = members.into_iter().collect();
    let others =
        procfs::table().processes.into_iter().map(|one| one.pid).filter(|pid| !members.contains(pid));
    let foreign = others
        .filter_map(|pid| Some((pid, sockets_of(pid).ok()?)))
        .find(|(_, held)| held.iter().any(|(_, inode)| sockets.contains(inode)));
    Err(match foreign {
        None if is_blind => Holder::Unknown,
        foreign => Holder::Foreign(foreign.map(|(pid, _)| pid)),
    })
}

/// The inodes of the sockets that share what comes to 127.0.0.1 at `port`.
fn listening(root: i32, port: u16) -> HashSet<u64> {
    // The usual server listens right there, and is found among the first lines.
    let exact = format!("{:08X}", u32::from_ne_bytes(CLOSEST_FIRST[0]));
    let mut found = None;
    let tcp = lines_until(root, "tcp", |line| {
        found = listener(line, port).filter(|(address, _)| *address == exact);
        found.is_some()
    });
    match found {
        Some((_, inode)) => HashSet::from([inode]),
        None => closest(&tcp, &lines_until(root, "tcp6", |_| false), port),
    }
}

/// Reads a table of /proc/net until a line is the one. Those that listen come first, and each read makes the system
/// look for as many as there is room for, through a table of all connections; so there is room for one.
fn lines_until(root: i32, name: &str, mut is_it: impl FnMut(&str) -> bool) -> String {
    // The root may have ended before its children.
    let file = File::open(format!("/proc/{root}/net/{name}"))
        .or_else(|_| File::open(format!("/proc/self/net/{name}")));
    let (Ok(mut file), mut text, mut room) = (file, String::new(), [0; LINE]) else { return String::new() };
    let mut seen = 0;
    while let Ok(length @ 1..) = file.read(&mut room) {
        text.push_str(&String::from_utf8_lossy(&room[..length]));
        while let Some(end) = text[seen..].find('\n') {
            let line = &text[seen..seen + end];
            if is_it(line) {
                return text;
            }
            seen += end + 1;
        }
    }
    text
}

fn closest(tcp: &str, tcp6: &str, port: u16) -> HashSet<u64> {
    let listeners: Vec<(String, u64)> =
        tcp.lines().chain(tcp6.lines()).filter_map(|line| listener(line, port)).collect();
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
    let mapped = format!("{0:08X}{0:08X}{1}", 0, word([0, 0, 0xFF, 0xFF]));
    let mut ranks: Vec<Vec<String>> = CLOSEST_FIRST
        .iter()
        .map(|address| vec![word(*address), format!("{mapped}{}", word(*address))])
        .collect();
    ranks.push(vec!["0".repeat(32)]);
    for addresses in ranks {
        let at: HashSet<u64> = listeners
            .iter()
            .filter(|(address, _)| addresses.contains(address))
            .map(|(_, inode)| *inode)
            .collect();
        if !at.is_empty() {
            return at;
        }
    }
    HashSet::new()
}

/// Address and inode, if the line is of a socket that listens on `port`.
fn listener(line: &str, port: u16) -> Option<(String, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, local_port) = fields.get(1)?.split_once(':')?;
    let is_it = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16).ok()? == port;
    is_it.then_some(())?;
    Some((address.to_owned(), fields.get(9)?.parse().ok()?))
}

/// The sockets that a process has open, each with its place in /proc.
fn sockets_of(pid: i32) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter_map(|path| socket_at(&path).map(|inode| (path, inode))).collect())
}

fn socket_at(path: &Path) -> Option<u64> {
    fs::read_link(path).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_closest_address_takes_the_connection_and_what_does_not_listen_counts_for_nothing() {
        let line = |address: &str, state: &str, inode: u32| {
            format!(
                "   0: {address}:2391 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n"
            )
        };
        let any6 = line(&"0".repeat(32), "0A", 6);
        let any4 = line("00000000", "0A", 4);
        let exact = line("0100007F", "0A", 1);
        let mapped = line("0000000000000000FFFF00000100007F", "0A", 7);
        let connected = line("0100007F", "01", 9);
        let elsewhere = line("0200000A", "0A", 8);
        let one_of = |tcp: &[&str], tcp6: &[&str]| {
            let mut inodes: Vec<u64> =
                closest(&(TCP.to_owned() + &tcp.concat()), &(TCP.to_owned() + &tcp6.concat()), 0x2391)
                    .into_iter()
                    .collect();
            inodes.sort_unstable();
            inodes
        };
        assert_eq!(one_of(&[&any4, &exact, &connected], &[&any6]), [1]);
        assert_eq!(one_of(&[&exact], &[&mapped]), [1, 7]);
        assert_eq!(one_of(&[&any4, &elsewhere], &[&any6]), [4]);
        assert_eq!(one_of(&[], &[&any6]), [6]);
        assert!(one_of(&[&connected, &elsewhere], &[]).is_empty());
        assert_eq!(closest(&(TCP.to_owned() + &exact), "", 0x2392), HashSet::new());
    }
}
