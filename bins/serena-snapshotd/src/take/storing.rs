//! Makes objects of what has changed: one pack of the small files, a blob of each large one.

use super::content::{Facts, LARGE_LOOKS};
use super::pack::Pack;
use super::reading::{Fate, Reading};
use super::sink::Object;
use super::{Made, TakeError};
use crate::digest::{Digest, Hasher};
use crate::layout;
use crate::manifest::{Content, Kind, StoredObject};
use crate::progress::Step;
use crate::store::StoreError;

/// Who stores what was made.
type Deliver<'a> = &'a mut dyn FnMut(Made) -> Result<(), StoreError>;

impl Reading<'_> {
    /// Packs every small file that has changed, with all directories and links, so that unpacking it gives a tree.
    pub(super) fn pack(&mut self, deliver: Deliver<'_>) -> Result<(), TakeError> {
        self.begin_step(Step::Packing, |reading, at| reading.fates[at] == Fate::Changed);
        let is_packed =
            |reading: &Self, at: usize| reading.fates[at] == Fate::Changed && !reading.is_large(at);
        let packed = (0..self.entries.len()).filter(|at| is_packed(self, *at));
        let (files, bytes) = packed.fold((0, 0), |(files, bytes), at| (files + 1, bytes + self.size(at)));
        if files == 0 {
            return Ok(());
        }
        let mut pack = Pack::begin(self.job, bytes)?;
        let mut stored = false;
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            match &entry.kind {
                Kind::Directory => pack.directory(&entry.path, entry.mode, entry.mtime)?,
                Kind::Link(target) => pack.link(&entry.path, target, entry.mode, entry.mtime)?,
                Kind::File(_) if is_packed(self, at) => stored |= self.pack_file(at, &mut pack)?,
                Kind::File(_) => {}
            }
        }
        if stored { self.deliver(pack.finish()?, deliver) } else { Ok(()) }
    }

    /// Whether it is in the pack now.
    fn pack_file(&mut self, at: usize, pack: &mut Pack<'_>) -> Result<bool, TakeError> {
        let Some(facts) = self.read_small(at)? else {
            if !self.is_large(at) {
                self.fates[at] = Fate::Gone;
            }
            return Ok(false);
        };
        if !facts.settled && self.carry_forward(at) {
            return Ok(false);
        }
        let bytes = &self.buffer[..facts.length as usize];
        pack.file(&self.entries[at].path, &facts.stat, bytes)?;
        self.store(at, &facts, Digest::of(bytes));
        Ok(true)
    }

    /// Makes a blob of every large file that has changed.
    pub(super) fn blobs(&mut self, deliver: Deliver<'_>) -> Result<(), TakeError> {
        for at in 0..self.entries.len() {
            if self.fates[at] == Fate::Changed
                && let Some(made) = self.blob(at)?
            {
                self.deliver(made, deliver)?;
            }
        }
        Ok(())
    }

    fn blob(&mut self, at: usize) -> Result<Option<Made>, TakeError> {
        for look in 1..=LARGE_LOOKS {
            let mut hasher = Hasher::new();
            let mut object = Object::begin(self.job, self.size(at))?;
            let facts = self.read_large(at, &mut |bytes| {
                hasher.update(bytes);
                object.write(bytes)
            })?;
            match facts {
                None => {
                    self.fates[at] = Fate::Gone;
                    return Ok(None);
                }
                Some(facts) if facts.settled => {}
                Some(_) if look < LARGE_LOOKS => continue,
                Some(_) if self.carry_forward(at) => return Ok(None),
                Some(_) => {}
            }
            let made = object.finish(layout::blob)?;
            if let Some(facts) = facts {
                self.store(at, &facts, hasher.finish());
            }
            return Ok(Some(made));
        }
        Ok(None)
    }

    /// The content of a file is in the next object that is delivered.
    fn store(&mut self, at: usize, facts: &Facts, sha256: Digest) {
        let old = self.base.map_or(0, |base| base.about.objects.len());
        let object = (old + self.made.len()) as u32;
        let entry = &mut self.entries[at];
        entry.mode = facts.stat.mode;
        entry.mtime = facts.stat.stamp.mtime;
        entry.kind = Kind::File(Content { size: facts.length, sha256, object, unsettled: !facts.settled });
        self.stamps[at] = facts.stamp();
        self.fates[at] = Fate::Stored;
    }

    fn deliver(&mut self, made: Made, deliver: Deliver<'_>) -> Result<(), TakeError> {
        self.job.check()?;
        self.made.push(StoredObject { key: made.key.clone(), size: made.size });
        Ok(deliver(made)?)
    }
}
