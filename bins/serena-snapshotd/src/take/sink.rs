//! What every object goes through: zstd, a frame of random bytes, age where there is a key, SHA-256; then it waits in
//! memory if it is small, else in a file without a name. The memory it takes does not grow with the object.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::thread::available_parallelism;

use age::stream::StreamWriter;
use aws_lc_rs::rand;
use bytes::Bytes;
use zstd::stream::raw::{CParameter, Encoder};
use zstd::stream::zio;

use super::{Job, Made, MadeBytes, TakeError};
use crate::digest::{Digest, Hasher};

/// zstd's own default.
const LEVEL: i32 = 3;
/// Most threads that compress one object.
const MAX_WORKERS: usize = 4;
/// What one of them takes at once, in bytes; memory grows with it, and a small object is cut into at least four for each.
const PIECE: u64 = 2 * 1024 * 1024;
/// Least of it.
const LEAST_PIECE: u64 = 512 * 1024;
/// Up to this size, in bytes, a compressing thread for each core is worth its start; it is over in a moment.
const ALL_CORES: u64 = 32 * 1024 * 1024;
/// From this size on, in bytes, more threads are worth their start.
const WORTH_WORKERS: u64 = 3 * 1024 * 1024;
/// Largest object in bytes that waits in memory.
const MAX_MEMORY: usize = 16 * 1024 * 1024;
/// What goes to the file at once, in bytes.
const CHUNK: usize = 128 * 1024;
/// Begins a frame that zstd skips, of 16 bytes.
const SKIPPED: [u8; 8] = [0x50, 0x2A, 0x4D, 0x18, 16, 0, 0, 0];

/// An object in the making.
pub(super) struct Object<'a> {
    job: &'a Job<'a>,
    zstd: zio::Writer<Out<'a>, Encoder<'static>>,
}

impl<'a> Object<'a> {
    /// Begins one; `expected` is about how many bytes will be written to it.
    pub(super) fn begin(job: &'a Job<'a>, expected: u64) -> Result<Self, TakeError> {
        let begin = || {
            let mut encoder = Encoder::new(LEVEL)?;
            encoder.set_parameter(CParameter::ChecksumFlag(true))?;
            if expected >= WORTH_WORKERS {
                let cores = available_parallelism().map_or(1, usize::from);
                // Above that the reading and hashing beside it keep a core busy, too.
                let spare = usize::from(expected > ALL_CORES);
                let workers = (cores - spare.min(cores - 1)).min(MAX_WORKERS);
                encoder.set_parameter(CParameter::NbWorkers(workers as u32))?;
                let piece = (expected / (4 * workers as u64)).clamp(LEAST_PIECE, PIECE);
                encoder.set_parameter(CParameter::JobSize(piece as u32))?;
            }
            let sink = Sink::new(job.spool, expected > MAX_MEMORY as u64)?;
            let out = Out::new(job, sink)?;
            Ok(Object { job, zstd: zio::Writer::new_with_capacity(out, encoder, CHUNK) })
        };
        begin().map_err(|cause| spool_error(job, cause))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), TakeError> {
        self.zstd.write_all(bytes).map_err(|cause| spool_error(self.job, cause))
    }

    /// Ends it; `key` says where an object with such a digest is, encrypted or not.
    pub(super) fn finish(mut self, key: fn(&Digest, bool) -> String) -> Result<Made, TakeError> {
        let job = self.job;
        let finish = move || {
            self.zstd.finish()?;
            let (mut out, _) = self.zstd.into_inner();
            let mut frame = [0; 24];
            frame[..8].copy_from_slice(&SKIPPED);
            rand::fill(&mut frame[8..]).map_err(|_| io::Error::other("no random bytes"))?;
            out.write_all(&frame)?;
            out.finish()?.finish()
        };
        let (bytes, size, sha256) = finish().map_err(|cause| spool_error(job, cause))?;
        Ok(Made { key: key(&sha256, job.seal.is_some()), size, sha256, bytes })
    }
}

fn spool_error(job: &Job<'_>, cause: io::Error) -> TakeError {
    TakeError::system(job.spool, cause)
}

/// Encrypted or not.
enum Out<'a> {
    Plain(Sink<'a>),
    Sealed(Box<StreamWriter<Sink<'a>>>),
}

impl<'a> Out<'a> {
    fn new(job: &Job<'a>, sink: Sink<'a>) -> io::Result<Self> {
        match job.seal {
            Some(seal) => Ok(Out::Sealed(Box::new(seal.writer(sink)?))),
            None => Ok(Out::Plain(sink)),
        }
    }

    fn finish(self) -> io::Result<Sink<'a>> {
        match self {
            Out::Plain(sink) => Ok(sink),
            Out::Sealed(sealed) => sealed.finish(),
        }
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::Plain(sink) => sink.write(bytes),
            Out::Sealed(sealed) => sealed.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the stored bytes wait.
struct Sink<'a> {
    spool: &'a Path,
    hasher: Hasher,
    size: u64,
    memory: Vec<u8>,
    file: Option<File>,
}

impl<'a> Sink<'a> {
    fn new(spool: &'a Path, large: bool) -> io::Result<Self> {
        let file = if large { Some(nameless(spool)?) } else { None };
        Ok(Sink { spool, hasher: Hasher::new(), size: 0, memory: Vec::new(), file })
    }

    fn finish(self) -> io::Result<(MadeBytes, u64, Digest)> {
        let Sink { hasher, size, memory, file, .. } = self;
        let bytes = match file {
            Some(mut file) => {
                file.write_all(&memory)?;
                MadeBytes::Spooled(file)
            }
            None => MadeBytes::Memory(Bytes::from(memory)),
        };
        Ok((bytes, size, hasher.finish()))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + bytes.len() > MAX_MEMORY {
            self.file = Some(nameless(self.spool)?);
        }
        if let Some(file) = &mut self.file {
            let is_large = bytes.len() >= CHUNK / 2;
            // What waits comes before what goes straight to the file.
            if is_large || self.memory.len() + bytes.len() > CHUNK {
                file.write_all(&self.memory)?;
                self.memory = Vec::new();
            }
            if is_large {
                file.write_all(bytes)?;
            } else {
                self.memory.extend_from_slice(bytes);
            }
        } else {
            self.memory.extend_from_slice(bytes);
        }
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is gone when it is closed, and that nobody else can open.
fn nameless(spool: &Path) -> io::Result<File> {
    match tempfile::tempfile_in(spool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(spool)?;
            tempfile::tempfile_in(spool)
        }
        file => file,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn bytes_are_stored_in_the_order_in_which_they_came(
            large: bool,
            lengths in prop::collection::vec(prop_oneof![0_usize..300, CHUNK / 4..CHUNK + 2], 0..30),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sink = Sink::new(directory.path(), large).unwrap();
            let mut expected = Vec::new();
            for (at, length) in lengths.into_iter().enumerate() {
                let bytes = vec![at as u8 + 1; length];
                sink.write_all(&bytes).unwrap();
                expected.extend(bytes);
            }
            let (made, size, digest) = sink.finish().unwrap();
            let stored = match made {
                MadeBytes::Memory(bytes) => bytes.to_vec(),
                MadeBytes::Spooled(mut file) => {
                    let mut bytes = Vec::new();
                    file.rewind().unwrap();
                    file.read_to_end(&mut bytes).unwrap();
                    bytes
                }
            };
            prop_assert!(stored == expected);
            prop_assert_eq!((size, digest), (expected.len() as u64, Digest::of(&expected)));
        }
    }
}
