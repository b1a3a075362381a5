//! Signs of life of a server that does not answer: is it stopped, does it work, or is nothing to be seen?
//!
//! Read from /proc, and only once a probe got no answer: a walk of the process table costs some milliseconds. Where
//! there is no /proc nothing is ever to be seen. What belongs to the server is what descends from its main process.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use tokio::time::Instant;

/// Clock ticks a second in /proc (`USER_HZ`), fixed on every architecture that Rust and Linux share.
const TICKS: u64 = 100;
/// A tree that uses less than one part in this many of a core does nothing. A Serena whose event loop is blocked still
/// has threads that look around ten times a second; they use 1 part in 300.
const IDLE_PART: u64 = 50;
/// Fewer ticks than this are what a look itself or a timer may cost, however short the time.
const FEWEST_TICKS: u64 = 2;

/// What a silent server does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sign {
    /// Nothing that can be seen: it waits for something, or for ever.
    Quiet,
    /// A signal stopped it; nothing but another signal can wake it.
    Stopped,
    /// It works, for the reason given.
    Working(&'static str),
}

/// Looks at one process tree.
pub struct Pulse {
    root: i32,
    /// When the server answered last, in ticks since boot; `None` where the system does not tell.
    answered: Option<u64>,
    /// CPU time of the tree at the last look.
    used: Option<(Instant, u64)>,
}

impl Pulse {
    /// Of the tree below the process `root`, which has just answered.
    pub fn new(root: u32) -> Self {
        let mut pulse = Pulse { root: i32::try_from(root).unwrap_or_default(), answered: None, used: None };
        pulse.answered();
        pulse
    }

    /// Notes that the server answered just now.
    pub fn answered(&mut self) {
        // The end of this tick: a process that started within it may have answered already.
        self.answered = ticks_since_boot().map(|now| now + 1);
        self.used = None;
    }

    /// Looks; the first look after an answer cannot tell yet how much CPU is used.
    pub fn look(&mut self) -> Sign {
        let table = table();
        let members = members(&table, self.root);
        let older = |one: &Process| self.answered.is_none_or(|answered| one.start < answered);
        // Not a child that came later: a tool's background job may be stopped by its terminal.
        if members.iter().any(|one| one.state == b'T' && older(one)) {
            return Sign::Stopped;
        }
        let now = Instant::now();
        let used = members.iter().map(|one| one.used).sum();
        let before = self.used.replace((now, used));
        if members.iter().any(|one| one.state == b't') {
            return Sign::Working("a debugger holds it");
        }
        // Servers that run tools in their event loop (every server of Python's mcp 1.x, so Serena 1.7) answer nobody
        // until the tool is done; what such a tool waits for is mostly a process that it started.
        if members.iter().any(|one| !older(one) && self.answered.is_some()) {
            return Sign::Working("it waits for a process that it started");
        }
        if let Some((then, before)) = before
            && is_work(used.saturating_sub(before), now - then)
        {
            return Sign::Working("it computes");
        }
        // Also where other processes leave it no CPU time to show.
        if members.iter().any(|one| runs(one.pid)) {
            return Sign::Working("it has work that waits for the processor or the disk");
        }
        Sign::Quiet
    }
}

fn is_work(ticks: u64, time: Duration) -> bool {
    let passed = u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / (1000 / TICKS);
    ticks >= FEWEST_TICKS && ticks.saturating_mul(IDLE_PART) >= passed
}

/// What /proc says of a process that has not ended.
struct Process {
    pid: i32,
    parent: i32,
    state: u8,
    start: u64,
    /// CPU time in ticks, with that of children that have ended: so the sum over a tree never shrinks.
    used: u64,
}

fn table() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// Reads a line of proc(5) `stat`: the name in parentheses may hold anything, what follows it has fixed places.
fn parse(pid: i32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let mut used = 0;
    for (field, number) in fields.by_ref().skip(9).take(4).enumerate() {
        // The two of ended children may be negative in theory; they count as nothing then.
        used += number.parse::<u64>().ok().or((field > 1).then_some(0))?;
    }
    let start = fields.nth(4)?.parse().ok()?;
    (!matches!(state, b'Z' | b'X')).then_some(Process { pid, parent, state, start, used })
}

fn members(table: &[Process], root: i32) -> Vec<&Process> {
    let mut pids = HashSet::from([root]);
    loop {
        let before = pids.len();
        pids.extend(
            table.iter().filter(|one| pids.contains(&one.parent)).map(|one| one.pid).collect::<Vec<_>>(),
        );
        if pids.len() == before {
            return table.iter().filter(|one| pids.contains(&one.pid)).collect();
        }
    }
}

/// Whether one of its threads runs, waits for a processor, or is in a disk operation.
fn runs(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = fs::read(thread.path().join("stat")).unwrap_or_default();
        let state = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
        matches!(state, Some(b'R' | b'D'))
    })
}

/// Now, on the clock on which /proc gives the start of a process; `None` where the two differ, as in containers that
/// are told another uptime: there even our own process seems to be from the future.
fn ticks_since_boot() -> Option<u64> {
    let now = u64::try_from(since_boot()?.as_millis()).ok()? / (1000 / TICKS);
    let own = parse(0, &fs::read("/proc/self/stat").ok()?)?;
    (own.start <= now).then_some(now)
}

/// Time since boot, in which the machine's suspends count; `None` where the system does not tell.
pub(super) fn since_boot() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split_ascii_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests;
