//! A mark that survives what the tag in the environment does not: a program that clears its environment, even one that
//! also forked twice and took a session of its own.
//!
//! It is a soft limit that every descendant inherits and nothing here uses, that of POSIX message queues, lowered by a
//! number that no other living tree of this process has. Whoever has it and came to us as an orphan belongs to that tree.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// Bytes that the limit is lowered by at most: 8 % of what the system gives.
const NUMBERS: u64 = 1 << 16;
/// As /proc/PID/limits names it.
const LINE: &str = "Max msgqueue size";

/// The numbers of living trees.
static TAKEN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// The mark of one tree; dropped, its number is free again.
#[derive(Debug)]
pub(super) struct Mark {
    number: u64,
    limit: u64,
}

impl Mark {
    /// One that no living tree of this process has; `None` where there is no such limit or too little of it.
    pub(super) fn new() -> Option<Mark> {
        let (soft, _) = limit_of("self")?;
        let base = soft.checked_sub(NUMBERS)?;
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (1..NUMBERS).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(Mark { number, limit: base + number })
    }

    /// The soft limit in bytes that a root is to get.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether a process has it.
    pub(super) fn is_on(&self, pid: i32) -> bool {
        limit_of(&pid.to_string()).is_some_and(|(soft, _)| soft == self.limit)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// The soft and the hard limit of a process.
fn limit_of(pid: &str) -> Option<(u64, u64)> {
    read(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn read(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix(LINE))?;
    let mut numbers = line.split_ascii_whitespace();
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read_from_its_line() {
        let limits = "Max pending signals       95936                95936                signals   \nMax msgqueue size         819199               819200               bytes     \n";
        assert_eq!(read(limits), Some((819_199, 819_200)));
        assert_eq!(read("Max msgqueue size         unlimited            unlimited            bytes"), None);
    }

    #[test]
    fn two_marks_differ_and_a_dropped_one_is_free_again() {
        let (Some(one), Some(two)) = (Mark::new(), Mark::new()) else { return };
        assert_ne!(one.limit(), two.limit());
        let number = one.number;
        drop(one);
        assert!(!TAKEN.lock().unwrap().contains(&number));
    }
}
