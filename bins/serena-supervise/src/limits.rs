//! Whether a process tree uses more than it may; pure.

use std::time::Duration;

use mcp_daemon::config::Size;
use mcp_daemon::tree::Usage;

use crate::config::Limits;

/// A limit that is passed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Excess {
    /// Whether the tree is ended now, or at its next quiet moment.
    pub at_once: bool,
    /// What is used and what is allowed, as one line.
    pub text: String,
}

/// The worst limit that a tree of this usage and age has passed: one that ends it at once before one that can wait.
pub fn verdict(limits: &Limits, usage: Usage, age: Duration) -> Option<Excess> {
    let over = |limit: Option<Size>| limit.filter(|limit| usage.memory > limit.bytes() as u64);
    if let Some(limit) = over(limits.memory_hard) {
        return Some(now(format!("uses {} of memory, memory_hard is {limit}", mebibytes(usage.memory))));
    }
    if let Some(limit) = limits.processes.filter(|limit| usage.processes > limit.get()) {
        return Some(now(format!("has {} processes, the limit is {limit}", usage.processes)));
    }
    if let Some(limit) = over(limits.memory_soft) {
        return Some(later(format!("uses {} of memory, memory_soft is {limit}", mebibytes(usage.memory))));
    }
    if let Some(limit) = limits.max_age.filter(|limit| age >= limit.duration()) {
        return Some(later(format!("runs for {} s, max_age is {limit}", age.as_secs())));
    }
    None
}

fn now(text: String) -> Excess {
    Excess { at_once: true, text }
}

fn later(text: String) -> Excess {
    Excess { at_once: false, text }
}

/// Rounded up, so that what is over a limit never looks as if it were not.
fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use mcp_daemon::config::Span;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits() -> Limits {
        Limits {
            memory_soft: Some(Size(100 << 20)),
            memory_hard: Some(Size(200 << 20)),
            processes: NonZeroUsize::new(10),
            max_age: Some(Span::seconds(60)),
            ..Limits::default()
        }
    }

    fn text(memory: u64, processes: usize, seconds: u64) -> Option<(bool, String)> {
        let usage = Usage { memory, processes };
        let excess = verdict(&limits(), usage, Duration::from_secs(seconds))?;
        Some((excess.at_once, excess.text))
    }

    #[test]
    fn each_limit_says_what_is_used_and_what_is_allowed() {
        assert_eq!(text(100 * MIB, 10, 59), None);
        let (soft, hard) =
            ("uses 101MiB of memory, memory_soft is 100MiB", "uses 300MiB of memory, memory_hard is 200MiB");
        assert_eq!(text(100 * MIB + 1, 1, 0), Some((false, soft.into())));
        assert_eq!(text(300 * MIB, 1, 0), Some((true, hard.into())));
        assert_eq!(text(0, 11, 0), Some((true, "has 11 processes, the limit is 10".into())));
        assert_eq!(text(0, 1, 60), Some((false, "runs for 60 s, max_age is 1m".into())));
    }

    #[test]
    fn what_cannot_wait_is_said_before_what_can() {
        assert_eq!(text(150 * MIB, 11, 60), Some((true, "has 11 processes, the limit is 10".into())));
    }

    proptest! {
        #[test]
        fn without_limits_nothing_is_too_much(memory: u64, processes: usize, seconds in 0..u64::MAX / 2) {
            let usage = Usage { memory, processes };
            prop_assert_eq!(verdict(&Limits::default(), usage, Duration::from_secs(seconds)), None);
        }

        #[test]
        fn what_is_too_much_stays_too_much_when_there_is_more(memory in 0..1u64 << 32, more in 0..1u64 << 32, seconds in 0..1000u64) {
            let age = Duration::from_secs(seconds);
            let small = verdict(&limits(), Usage { memory, processes: 1 }, age);
            let large = verdict(&limits(), Usage { memory: memory + more, processes: 1 }, age);
            if let Some(small) = small {
                prop_assert!(large.is_some_and(|large| large.at_once >= small.at_once));
            }
        }
    }
}
