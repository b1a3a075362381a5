//! What a fake backend writes to its stdout and stderr, from threads: a full pipe must not keep it from serving.

use std::{
    io::{self, Write as _},
    thread,
};

use super::Faults;

/// A line of the flood, with its end.
const LINE: usize = 100;

/// Starts whatever the faults say.
pub(crate) fn make(faults: &Faults) {
    let (flood, long_line) = (faults.flood, faults.long_line);
    if flood > 0 {
        thread::spawn(move || {
            let mut out = io::stdout().lock();
            for number in 0..flood / LINE as u64 {
                // Whoever closes the pipe has heard enough.
                if writeln!(out, "{number:0>width$}", width = LINE - 1).is_err() {
                    return;
                }
            }
        });
    }
    if long_line > 0 {
        thread::spawn(move || {
            let mut out = io::stderr().lock();
            let piece = [b'x'; 64 * 1024];
            let mut left = long_line;
            while left > 0 {
                let now = left.min(piece.len() as u64);
                if out.write_all(&piece[..now as usize]).is_err() {
                    return;
                }
                left -= now;
            }
            let _ = out.write_all(b"\nthe long line is over\n");
        });
    }
}
