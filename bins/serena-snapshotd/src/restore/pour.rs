//! Writes files while others are unpacked: batches of bytes go to a few threads, which make the files, hash and check them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use tokio::task::JoinHandle;

use super::RestoreError;
use super::stage::Stage;
use super::tarball::shown;
use super::tree::{Tree, stamp};
use super::unpack::{Flaw, Sink};
use crate::digest::Hasher;
use crate::manifest::{Content, Entry, Kind, Manifest};
use crate::progress::Progress;

/// Bytes in one batch; large enough that handing it over costs nothing.
const BATCH: usize = 512 * 1024;
/// Batches that wait for one thread.
const WAITING: usize = 2;
/// Most threads that write.
const MAX_WRITERS: usize = 3;
/// A run of so many zeros becomes a hole, where it begins at a multiple of it.
const HOLE: usize = 64 * 1024;

/// Gives files to those who write.
pub(super) struct Pour {
    manifest: Arc<Manifest>,
    writers: Vec<Writer>,
    empty: Receiver<Box<[u8]>>,
    /// Who gets the next batch.
    turn: usize,
    batch: Batch,
}

struct Writer {
    to: SyncSender<Batch>,
    thread: JoinHandle<Result<(), RestoreError>>,
}

/// Bytes of one file after another; a file that is longer goes on in the next batch of the same thread.
#[derive(Default)]
struct Batch {
    bytes: Box<[u8]>,
    pieces: Vec<Piece>,
    /// Bytes that are used.
    used: usize,
}

struct Piece {
    /// Place among the entries.
    at: u32,
    /// Where in the file it is.
    offset: u64,
    length: usize,
}

impl Pour {
    /// Starts the threads.
    pub(super) fn start(manifest: &Arc<Manifest>, stage: &Arc<Stage>, progress: &Arc<Progress>) -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WRITERS);
        let (back, empty) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..count).map(|_| {
            let (to, from) = sync_channel(WAITING);
            let (manifest, stage, progress) = (manifest.clone(), stage.clone(), progress.clone());
            let (back, stop) = (back.clone(), stop.clone());
            let work = move || write(&from, &back, &manifest, &stage, &progress, &stop);
            Writer { to, thread: tokio::task::spawn_blocking(work) }
        });
        let writers = writers.collect();
        Pour { manifest: manifest.clone(), writers, empty, turn: 0, batch: Batch::default() }
    }

    /// Waits until everything is written and checked. The first error that is about what was written comes first.
    pub(super) async fn end(mut self) -> Result<(), RestoreError> {
        if self.batch.used > 0 {
            // A thread that is gone says why below.
            let _ = self.send();
        }
        let mut ended = Ok(());
        for Writer { to, thread } in self.writers.drain(..) {
            drop(to);
            let result = match thread.await {
                Ok(result) => result,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            ended = ended.and(result);
        }
        ended
    }

    fn send(&mut self) -> Result<(), Flaw> {
        let next = self.empty.try_recv().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, Batch { bytes: next, ..Batch::default() });
        self.writers[self.turn].to.send(batch).map_err(|_| Flaw::Stopped)
    }
}

impl Sink for Pour {
    fn file(&mut self, at: u32, content: &mut dyn Read) -> Result<(), Flaw> {
        let size = content_of(&self.manifest, at).1.size;
        let mut offset = 0;
        while offset < size {
            if self.batch.used == BATCH {
                self.send()?;
            }
            let batch = &mut self.batch;
            if batch.bytes.is_empty() {
                batch.bytes = vec![0; BATCH].into();
            }
            let length = (size - offset).min((BATCH - batch.used) as u64) as usize;
            content.read_exact(&mut batch.bytes[batch.used..batch.used + length])?;
            batch.used += length;
            batch.pieces.push(Piece { at, offset, length });
            offset += length as u64;
        }
        // Only between two files may somebody else have the next ones.
        if self.batch.used > BATCH / 2 {
            self.send()?;
            self.turn = (self.turn + 1) % self.writers.len();
        }
        Ok(())
    }
}

/// A file that is being written.
struct Open {
    file: File,
    hasher: Hasher,
}

/// One thread's work.
fn write(
    from: &Receiver<Batch>,
    back: &Sender<Box<[u8]>>,
    manifest: &Manifest,
    stage: &Stage,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<(), RestoreError> {
    let mut trees = stage.trees()?;
    let mut open: Option<Open> = None;
    while let Ok(Batch { bytes, pieces, .. }) = from.recv() {
        let mut rest = &bytes[..];
        for piece in &pieces {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let (now, after) = rest.split_at(piece.length);
            rest = after;
            let written = write_piece(&mut open, piece, now, manifest, stage, &mut trees);
            written.inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            progress.add(piece.length as u64, u64::from(open.is_none()));
        }
        // If nobody takes it back, it is freed.
        let _ = back.send(bytes);
    }
    Ok(())
}

fn write_piece(
    open: &mut Option<Open>,
    piece: &Piece,
    bytes: &[u8],
    manifest: &Manifest,
    stage: &Stage,
    trees: &mut [Tree],
) -> Result<(), RestoreError> {
    let (entry, content) = content_of(manifest, piece.at);
    let (place, below) = stage.place(&entry.path).expect("only what has a place is wanted");
    let system = |cause| RestoreError::system(stage.shown(place, below))(cause);
    if piece.offset == 0 {
        let file = trees[place].create(below).map_err(system)?;
        *open = Some(Open { file, hasher: Hasher::new() });
    }
    let now = open.as_mut().expect("a file begins with its first piece");
    now.hasher.update(bytes);
    write_sparse(&now.file, bytes, piece.offset).map_err(system)?;
    if piece.offset + (bytes.len() as u64) < content.size {
        return Ok(());
    }
    let Open { file, hasher } = open.take().expect("it was there above");
    if hasher.finish() != content.sha256 {
        let key = &manifest.about.objects[content.object as usize].key;
        let path = shown(&entry.path);
        return Err(RestoreError::Damaged(format!(
            "{key}: `{path}` is not what the manifest says: its digest differs"
        )));
    }
    // What ends with a hole has its length only so.
    if content.size >= HOLE as u64 {
        file.set_len(content.size).map_err(system)?;
    }
    stamp(file.as_fd(), entry.mode, entry.mtime, stage.owner(place)).map_err(system)
}

/// Writes all but long runs of zeros.
fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    if bytes.len() < HOLE {
        return file.write_all_at(bytes, offset);
    }
    // Where the first window ends that begins at a multiple.
    let first = (HOLE as u64 - offset % HOLE as u64) as usize;
    let mut begin = 0;
    let mut end = first.min(bytes.len());
    let mut pending = 0;
    while begin < bytes.len() {
        if end - begin == HOLE && is_zero(&bytes[begin..end]) {
            file.write_all_at(&bytes[pending..begin], offset + pending as u64)?;
            pending = end;
        }
        begin = end;
        end = (end + HOLE).min(bytes.len());
    }
    file.write_all_at(&bytes[pending..], offset + pending as u64)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Mostly the first few bytes decide.
    bytes[..16].iter().all(|byte| *byte == 0) && bytes.iter().all(|byte| *byte == 0)
}

fn content_of(manifest: &Manifest, at: u32) -> (&Entry, &Content) {
    let entry = &manifest.entries[at as usize];
    match &entry.kind {
        Kind::File(content) => (entry, content),
        Kind::Directory | Kind::Link(_) => unreachable!("only files are wanted"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn long_runs_of_zeros_become_holes_and_the_bytes_are_the_same() {
        for (at, length) in [(0, 300_000), (1, 1 << 20), (70_000, 400_000), (HOLE as u64, HOLE * 4)] {
            let file = tempfile::tempfile().unwrap();
            let mut bytes = vec![0; length];
            bytes[length / 2] = 1;
            write_sparse(&file, &bytes, at).unwrap();
            file.set_len(at + length as u64).unwrap();
            let mut read = vec![9; length];
            file.read_exact_at(&mut read, at).unwrap();
            assert!(read == bytes);
            assert!(file.metadata().unwrap().blocks() * 512 < length as u64, "{at} {length}");
        }
    }
}
