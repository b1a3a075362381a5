//! The ETag of a file: what tells two contents apart, taken from the bytes alone, so that no file system can change it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::digest::{Digest, Hasher};
use crate::store::Etag;

/// Up to this size in bytes the whole content counts; everything that is ever replaced is smaller.
const WHOLE: u64 = 4 << 20;
/// Of a larger file so many bytes at each of its ends: what a crash or a full disk cuts off shows there.
const EDGE: u64 = 1 << 20;
/// Bytes read at once.
const STEP: u64 = 256 << 10;

/// Of bytes in memory.
pub(super) fn etag_of_bytes(bytes: &[u8]) -> Etag {
    let size = bytes.len() as u64;
    if size <= WHOLE {
        return Etag(Digest::of(bytes).to_string());
    }
    let mut hasher = Hasher::new();
    for (from, to) in parts(size) {
        hasher.update(&bytes[from as usize..to as usize]);
    }
    edges(size, hasher)
}

/// Of a file of `size` bytes.
pub(super) fn etag_of_file(file: &File, size: u64) -> io::Result<Etag> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; STEP.min(size) as usize];
    for (mut from, to) in parts(size) {
        while from < to {
            let piece = &mut buffer[..STEP.min(to - from) as usize];
            file.read_exact_at(piece, from)?;
            hasher.update(piece);
            from += piece.len() as u64;
        }
    }
    Ok(if size <= WHOLE { Etag(hasher.finish().to_string()) } else { edges(size, hasher) })
}

fn parts(size: u64) -> Vec<(u64, u64)> {
    if size <= WHOLE { vec![(0, size)] } else { vec![(0, EDGE), (size - EDGE, size)] }
}

fn edges(size: u64, hasher: Hasher) -> Etag {
    Etag(format!("edges-{size}-{}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_has_the_etag_of_its_bytes_whatever_its_size() {
        for size in [0, 1, STEP, WHOLE - 1, WHOLE, WHOLE + 1, 2 * WHOLE + 3] {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            assert_eq!(etag_of_file(&file, size).unwrap(), etag_of_bytes(&bytes), "{size}");
            if let Some((last, rest)) = bytes.split_last() {
                let other = [rest, &[last ^ 1]].concat();
                assert_ne!(etag_of_bytes(&other), etag_of_bytes(&bytes), "{size}");
            }
        }
    }
}
