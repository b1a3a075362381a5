//! What /proc says of the processes of this machine.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::sync::LazyLock;

use nix::unistd::{SysconfVar, getpid, sysconf};

/// Longest line that says how a process is, in bytes: 52 numbers and a name of 64 bytes.
const MAX_STAT: usize = 2048;
/// Longest environment that is read, in bytes; the system allows one entry alone to be 128 KiB.
const MAX_ENVIRONMENT: u64 = 4 << 20;

/// One process.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// It has ended, and its parent has not looked yet.
    pub(super) zombie: bool,
    /// In clock ticks since boot: with the pid it is unique.
    pub(super) start: u64,
    /// Memory in use, in pages.
    pub(super) pages: u64,
}

/// Whether /proc is there and has the numbers that we know processes by: not if we got a pid namespace without it.
pub(super) fn is_ours() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|us| us.to_str() == Some(getpid().to_string().as_str()))
}

/// All processes that can be seen, in no order that means anything; none where the numbers are not ours.
pub(super) fn table() -> Vec<Process> {
    if !is_ours() {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// One of them.
pub(super) fn process(pid: i32) -> Option<Process> {
    let mut stat = [0; MAX_STAT];
    // One call gives all of it; to ask for its end would cost a third of the whole.
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    parse(pid, &stat[..length])
}

/// Adds everything below `mine`, however deep and in whatever order the table is.
pub(super) fn add_descendants(table: &[Process], mine: &mut HashSet<i32>) {
    loop {
        let before = mine.len();
        for one in table {
            if mine.contains(&one.parent) {
                mine.insert(one.pid);
            }
        }
        if mine.len() == before {
            return;
        }
    }
}

/// What the process was started with; empty for those of other users, which we may not read.
pub(super) fn environment(pid: i32) -> Vec<u8> {
    let mut environment = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/environ")) {
        let _ = file.take(MAX_ENVIRONMENT).read_to_end(&mut environment);
    }
    environment
}

/// Pages as bytes.
pub(super) fn bytes(pages: u64) -> u64 {
    static PAGE: LazyLock<u64> = LazyLock::new(|| match sysconf(SysconfVar::PAGE_SIZE) {
        Ok(Some(bytes)) => bytes as u64,
        _ => 4096,
    });
    pages * *PAGE
}

/// Reads a line of proc(5) `stat`: the name in parentheses may hold anything, what follows it has fixed places.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(15)?.parse().ok()?;
    let pages = fields.nth(1)?.parse().unwrap_or(0);
    Some(Process { pid, parent, session, zombie: matches!(state, "Z" | "X"), start, pages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = b"7 (a) R 1 (b) S 4 5 6 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 12\n";
        let one = parse(7, stat).unwrap();
        assert_eq!((one.parent, one.session, one.zombie, one.start, one.pages), (4, 6, false, 4711, 12));
        assert!(parse(7, b"7 (short) Z 1").is_none());
    }

    #[test]
    fn we_are_in_the_table_with_our_memory() {
        let us = std::process::id() as i32;
        let table = table();
        let one = table.iter().find(|one| one.pid == us).unwrap();
        assert!(!one.zombie && one.pages > 100 && one.parent > 0);
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let one = |pid, parent| Process { pid, parent, session: 1, zombie: false, start: 1, pages: 0 };
        let mut mine = HashSet::from([10]);
        add_descendants(&[one(13, 12), one(12, 11), one(11, 10), one(20, 1)], &mut mine);
        assert_eq!(mine, HashSet::from([10, 11, 12, 13]));
    }
}
