//! What is in the files: reads them, compares them with the base, and carries forward what never stands still.

use super::TakeError;
use super::below::{split_name, unless_gone};
use super::reading::{Fate, Reading};
use super::settle::{self, Small, Steady};
use super::stamp::{Stamp, Stat};
use crate::digest::{Digest, Hasher};
use crate::manifest::{Content, Kind};

/// What is read of a large file at once, in bytes.
const CHUNK: usize = 256 * 1024;
/// How often a large file is read: once more, because it may have been an accident; not for ever, because it may be huge.
pub(super) const LARGE_LOOKS: usize = 2;

/// What a file was like when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Bytes that were read.
    pub(super) length: u64,
    /// Before it was read.
    pub(super) stat: Stat,
    /// When it was opened, in nanoseconds since 1970.
    pub(super) opened: i64,
    /// Whether it stood still.
    pub(super) settled: bool,
}

impl Facts {
    /// The stamp to remember: none if it may have changed meanwhile, or if a change from now on could look the same.
    pub(super) fn stamp(&self) -> Stamp {
        if self.settled { self.stat.stamp_read_at(self.opened) } else { Stamp::NONE }
    }
}

impl Reading<'_> {
    /// Finds out whether a file has the content of the base, by reading it.
    pub(super) fn resolve(&mut self, at: usize) -> Result<(), TakeError> {
        let Some((_, old)) = self.old(at) else {
            self.fates[at] = Fate::Changed;
            return Ok(());
        };
        let read = if self.is_large(at) { self.digest_large(at)? } else { self.digest_small(at)? };
        match read {
            None if self.fates[at] == Fate::Unsure => self.fates[at] = Fate::Gone,
            None => {}
            Some((Facts { settled: false, .. }, _)) => {
                self.carry_forward(at);
            }
            Some((facts, digest)) if digest == old.sha256 && facts.stat.mode == self.entries[at].mode => {
                self.keep(at, Content { unsettled: false, ..old }, facts.stat.stamp.mtime, facts.stamp());
            }
            Some(_) => self.fates[at] = Fate::Changed,
        }
        Ok(())
    }

    fn digest_small(&mut self, at: usize) -> Result<Option<(Facts, Digest)>, TakeError> {
        let facts = self.read_small(at)?;
        Ok(facts.map(|facts| (facts, Digest::of(&self.buffer[..facts.length as usize]))))
    }

    fn digest_large(&mut self, at: usize) -> Result<Option<(Facts, Digest)>, TakeError> {
        let mut read = None;
        for _ in 0..LARGE_LOOKS {
            let mut hasher = Hasher::new();
            let facts = self.read_large(at, &mut |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
            read = facts.map(|facts| (facts, hasher.finish()));
            if facts.is_none_or(|facts| facts.settled) {
                break;
            }
        }
        Ok(read)
    }

    /// Reads a small file into the buffer. `None` if it is gone, or has become large, which it is from now on.
    pub(super) fn read_small(&mut self, at: usize) -> Result<Option<Facts>, TakeError> {
        let job = self.job;
        job.check()?;
        let expected = self.old(at).is_some_and(|(_, old)| old.size > 0);
        let path = &self.entries[at].path;
        let (directory, name) = split_name(path);
        let read = unless_gone(self.places.directory(directory)).and_then(|directory| match directory {
            Some(directory) => {
                settle::read_small(directory, name, job.blob_from(), expected, &mut self.buffer)
            }
            None => Ok(Small::Gone),
        });
        match read.map_err(|errno| job.wrong(path, errno))? {
            Small::Gone => Ok(None),
            Small::Large => {
                self.fates[at] = Fate::Changed;
                if let Kind::File(content) = &mut self.entries[at].kind {
                    content.size = job.blob_from();
                }
                Ok(None)
            }
            Small::Read(facts) => {
                job.progress.add(facts.length, 1);
                Ok(Some(facts))
            }
        }
    }

    /// Reads a file of any size once, and hands every part to `each`. `None` if it is gone.
    pub(super) fn read_large(
        &mut self,
        at: usize,
        each: &mut dyn FnMut(&[u8]) -> Result<(), TakeError>,
    ) -> Result<Option<Facts>, TakeError> {
        let Reading { job, places, entries, buffer, .. } = self;
        let path = &entries[at].path;
        let wrong = |errno| job.wrong(path, errno);
        let (directory, name) = split_name(path);
        let Some(directory) = unless_gone(places.directory(directory)).map_err(wrong)? else {
            return Ok(None);
        };
        let Some(mut file) = Steady::open(directory, name).map_err(wrong)? else { return Ok(None) };
        buffer.resize(buffer.len().max(CHUNK), 0);
        loop {
            job.check()?;
            match file.next(&mut buffer[..CHUNK]).map_err(wrong)? {
                0 => break,
                count => {
                    each(&buffer[..count])?;
                    job.progress.add(count as u64, 0);
                }
            }
        }
        job.progress.add(0, 1);
        file.facts().map(Some).map_err(wrong)
    }

    /// Gives a file that never stands still the content it has in the base; whether there is one.
    pub(super) fn carry_forward(&mut self, at: usize) -> bool {
        let Some((entry, old)) = self.old(at) else { return false };
        self.keep(at, Content { unsettled: true, ..old }, entry.mtime, Stamp::NONE);
        true
    }

    fn keep(&mut self, at: usize, content: Content, mtime: i64, stamp: Stamp) {
        self.entries[at].kind = Kind::File(content);
        self.entries[at].mtime = mtime;
        self.stamps[at] = stamp;
        self.fates[at] = Fate::Kept;
    }
}
