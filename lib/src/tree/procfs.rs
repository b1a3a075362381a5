//! What /proc says of the processes of this machine.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::LazyLock;

use nix::unistd::{SysconfVar, getpid, sysconf};

/// Longest line that says how a process is, in bytes: 52 numbers and a name of 64 bytes.
const MAX_STAT: usize = 2048;
/// `PF_KTHREAD` of the kernel's sched.h, in the flags of proc(5) `stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;
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

/// The processes of a machine, seen one after the other.
#[derive(Default)]
pub(super) struct Table {
    pub(super) processes: Vec<Process>,
    /// One that was listed had ended when it was looked at. What it forked before that may be younger than the list.
    pub(super) is_torn: bool,
}

/// What a process was started with.
pub(super) enum Environment {
    /// Its variables, each with a zero behind it; none for those of other users, which we may not read.
    Read(Vec<u8>),
    /// It has ended, or is between exec and the end of its set-up: not to be known now.
    Unknown,
}

/// Whether /proc is there and has the numbers that we know processes by: not if we got a pid namespace without it.
pub(super) fn is_ours() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|us| us.to_str() == Some(getpid().to_string().as_str()))
}

/// All processes that can be seen, in no order that means anything; none where the numbers are not ours.
pub(super) fn table() -> Table {
    let mut table = Table::default();
    if !is_ours() {
        return table;
    }
    let Ok(entries) = std::fs::read_dir("/proc") else { return table };
    for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        match process(pid) {
            Some(one) => table.processes.push(one),
            None => table.is_torn |= !Path::new(&format!("/proc/{pid}")).exists(),
        }
    }
    table
}

/// One of them.
pub(super) fn process(pid: i32) -> Option<Process> {
    parse(pid, &stat(pid)?)
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

/// What the process was started with.
pub(super) fn environment(pid: i32) -> Environment {
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    match read {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Environment::Read(Vec::new()),
        Ok(1..) => Environment::Read(environment),
        _ if has_none(pid) => Environment::Read(Vec::new()),
        _ => Environment::Unknown,
    }
}

/// Whether there really is nothing in the environment of a process in which nothing was found.
fn has_none(pid: i32) -> bool {
    let Some(stat) = stat(pid) else { return false };
    let number = |place: usize| stat.split_ascii_whitespace().nth(place)?.parse::<u64>().ok();
    let (flags, start, end) = (number(6), number(47), number(48));
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
        || start.is_some_and(|start| start != 0 && Some(start) == end)
}

/// Pages as bytes.
pub(super) fn bytes(pages: u64) -> u64 {
    static PAGE: LazyLock<u64> = LazyLock::new(|| match sysconf(SysconfVar::PAGE_SIZE) {
        Ok(Some(bytes)) => bytes as u64,
        _ => 4096,
    });
    pages * *PAGE
}

/// The line of proc(5) `stat` from the state on: the name in parentheses before it may hold anything, what follows has
/// fixed places.
fn stat(pid: i32) -> Option<String> {
    let mut stat = [0; MAX_STAT];
    // One call gives all of it; to ask for its end would cost a third of the whole.
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    after_name(&stat[..length]).map(str::to_owned)
}

fn after_name(stat: &[u8]) -> Option<&str> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[after_name..]).ok()
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    let mut fields = stat.split_ascii_whitespace();
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
        let one = parse(7, after_name(stat).unwrap()).unwrap();
        assert_eq!((one.parent, one.session, one.zombie, one.start, one.pages), (4, 6, false, 4711, 12));
        assert!(parse(7, after_name(b"7 (short) Z 1").unwrap()).is_none());
    }

    #[test]
    fn we_are_in_the_table_with_our_memory() {
        let us = std::process::id() as i32;
        let table = table();
        let one = table.processes.iter().find(|one| one.pid == us).unwrap();
        assert!(!one.zombie && one.pages > 100 && one.parent > 0);
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let one = |pid, parent| Process { pid, parent, session: 1, zombie: false, start: 1, pages: 0 };
        let mut mine = HashSet::from([10]);
        add_descendants(&[one(13, 12), one(12, 11), one(11, 10), one(20, 1)], &mut mine);
        assert_eq!(mine, HashSet::from([10, 11, 12, 13]));
    }

    #[test]
    fn an_environment_is_read_or_empty_or_not_to_be_known() {
        let us = environment(std::process::id() as i32);
        assert!(matches!(us, Environment::Read(ours) if !ours.is_empty()));
        let mut command = std::process::Command::new("cat");
        let mut bare = command.env_clear().stdin(std::process::Stdio::piped()).spawn().unwrap();
        // It runs, but may not have been set up yet.
        let mut bares = std::iter::repeat_with(|| environment(bare.id() as i32));
        let bares = bares.find(|bares| matches!(bares, Environment::Read(_))).unwrap();
        assert!(matches!(bares, Environment::Read(none) if none.is_empty()));
        drop(bare.stdin.take());
        bare.wait().unwrap();
        assert!(matches!(environment(bare.id() as i32), Environment::Unknown));
    }
}
