//! How far a long work is; written by who does it, read by who shows it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What is being done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Step {
    /// Nothing yet.
    Idle,
    /// Looking at every file.
    Looking,
    /// Reading and compressing.
    Packing,
    /// Sending to the store.
    Sending,
    /// Fetching from the store and writing.
    Fetching,
    /// Checking what is stored.
    Checking,
    /// Waiting until everything is on disk.
    Syncing,
}

/// How far it is. Totals are 0 until they are known.
#[derive(Debug, Default)]
pub struct Progress {
    step: AtomicU8,
    /// Bytes done in this step.
    pub bytes: AtomicU64,
    /// Bytes to do in this step.
    pub bytes_total: AtomicU64,
    /// Files done in this step.
    pub files: AtomicU64,
    /// Files to do in this step.
    pub files_total: AtomicU64,
}

impl Progress {
    /// Begins a step; counts start again.
    pub fn begin(&self, step: Step, bytes_total: u64, files_total: u64) {
        self.step.store(step as u8, Ordering::Relaxed);
        for (counter, value) in [
            (&self.bytes, 0),
            (&self.files, 0),
            (&self.bytes_total, bytes_total),
            (&self.files_total, files_total),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }

    /// Counts what was done.
    pub fn add(&self, bytes: u64, files: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    /// The step that was begun last.
    pub fn step(&self) -> Step {
        const STEPS: [Step; 7] = [
            Step::Idle,
            Step::Looking,
            Step::Packing,
            Step::Sending,
            Step::Fetching,
            Step::Checking,
            Step::Syncing,
        ];
        STEPS.get(usize::from(self.step.load(Ordering::Relaxed))).copied().unwrap_or(Step::Idle)
    }
}
