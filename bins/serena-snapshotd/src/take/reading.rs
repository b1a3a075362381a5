//! The state of one reading: every path, and what is known about its content so far.

use super::below::Places;
use super::scan::{Scan, scan};
use super::stamp::{Seen, Stamp};
use super::{Draft, Job, TakeError};
use crate::layout::is_sealed;
use crate::manifest::{Content, Entry, Kind, Manifest, StoredObject, tree_digest};
use crate::progress::Step;

/// Stands for a path that is not in the base.
const NOWHERE: u32 = u32::MAX;

/// What is known about the content of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// Not that of the base, or to be stored anew all the same.
    Changed,
    /// There is no such file any more.
    Gone,
    /// That of the base.
    Kept,
    /// Not a file.
    Other,
    /// In an object that was made now.
    Stored,
    /// As long as in the base, but touched: nobody knows yet.
    Unsure,
}

/// The state of a reading.
pub(super) struct Reading<'a> {
    pub(super) job: &'a Job<'a>,
    /// `None` if nothing of it may be used.
    pub(super) base: Option<&'a Manifest>,
    pub(super) places: Places,
    /// Every path. Contents count the objects of the base first, then those that were made.
    pub(super) entries: Vec<Entry>,
    pub(super) stamps: Vec<Stamp>,
    pub(super) fates: Vec<Fate>,
    /// Where each path is in the base.
    before: Vec<u32>,
    /// Whether there is nothing more, nothing less and nothing else than in the base, but perhaps for contents.
    alike: bool,
    pub(super) made: Vec<StoredObject>,
    skipped: Vec<(String, String)>,
    /// The last small file that was read, or a part of a large one.
    pub(super) buffer: Vec<u8>,
}

impl<'a> Reading<'a> {
    /// Looks at every path, at no content.
    pub(super) fn begin(job: &'a Job<'a>) -> Result<Self, TakeError> {
        let paths = job.base.map_or(0, |base| base.entries.len() as u64);
        job.progress.begin(Step::Looking, 0, paths);
        let mut places = Places::open(job.roots)?;
        let Scan { entries, stamps, skipped } = scan(job, &mut places)?;
        // Nobody who has switched encryption on, or off, wants to keep what was stored before.
        let is_as_now = |base: &&Manifest| {
            base.about.objects.iter().all(|object| is_sealed(&object.key) == job.seal.is_some())
        };
        let base = job.base.filter(is_as_now);
        let count = entries.len();
        let mut reading = Reading {
            job,
            base,
            places,
            entries,
            stamps,
            fates: Vec::with_capacity(count),
            before: Vec::with_capacity(count),
            alike: base.is_some_and(|base| base.entries.len() == count),
            made: Vec::new(),
            skipped,
            buffer: Vec::new(),
        };
        reading.compare();
        Ok(reading)
    }

    /// Pairs every path with that of the base; both are in the same order.
    fn compare(&mut self) {
        let old = self.base.map_or(&[][..], |base| &base.entries);
        let seen = self.job.seen.filter(|seen| {
            self.base.is_some_and(|base| base.about.tree == seen.tree && old.len() == seen.stamps.len())
        });
        let mut at = 0;
        for (entry, stamp) in self.entries.iter_mut().zip(&self.stamps) {
            while old.get(at).is_some_and(|old| old.path < entry.path) {
                at += 1;
            }
            let before = old.get(at).filter(|old| old.path == entry.path);
            self.before.push(before.map_or(NOWHERE, |_| at as u32));
            let mut alike = before.is_some_and(|before| before.mode == entry.mode);
            let fate = match (&mut entry.kind, before.map(|before| &before.kind)) {
                (Kind::File(content), Some(Kind::File(old))) if content.size == old.size => {
                    let seen = seen.and_then(|seen| seen.stamps.get(at));
                    if seen.is_some_and(|seen| seen.vouches_for(stamp)) {
                        *content = *old;
                        Fate::Kept
                    } else {
                        Fate::Unsure
                    }
                }
                (Kind::File(_), _) => {
                    alike = false;
                    Fate::Changed
                }
                (kind, before) => {
                    alike &= before == Some(kind);
                    Fate::Other
                }
            };
            self.alike &= alike;
            self.fates.push(fate);
        }
    }

    /// Whether everything is as in the base, but perhaps for times; reads what was touched, until the first difference.
    pub(super) fn is_unchanged(&mut self) -> Result<bool, TakeError> {
        if !self.alike {
            return Ok(false);
        }
        self.begin_step(Step::Looking, |reading, at| reading.fates[at] == Fate::Unsure);
        for at in 0..self.entries.len() {
            if self.fates[at] == Fate::Unsure {
                self.resolve(at)?;
                if self.fates[at] != Fate::Kept {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// For the next reading, if this one found nothing else than the base.
    pub(super) fn into_seen(self) -> Seen {
        let tree = self.base.map_or_else(|| tree_digest(&self.entries), |base| base.about.tree);
        Seen { tree, stamps: self.stamps }
    }

    /// What was found, with the objects that are needed for it.
    pub(super) fn into_draft(self) -> Draft {
        let Reading { base, mut entries, mut stamps, fates, made, skipped, .. } = self;
        let is_there = |at: &mut usize| {
            *at += 1;
            fates[*at - 1] != Fate::Gone
        };
        let (mut entry, mut stamp) = (0, 0);
        entries.retain(|_| is_there(&mut entry));
        stamps.retain(|_| is_there(&mut stamp));
        let old = base.map_or(&[][..], |base| &base.about.objects);
        let mut places: Vec<Option<u32>> = vec![None; old.len() + made.len()];
        for content in contents(&mut entries) {
            places[content.object as usize] = Some(0);
        }
        let mut objects = Vec::new();
        for (place, object) in places.iter_mut().zip(old.iter().cloned().chain(made)) {
            if let Some(place) = place {
                *place = objects.len() as u32;
                objects.push(object);
            }
        }
        for content in contents(&mut entries) {
            content.object = places[content.object as usize].expect("it was marked above");
        }
        let seen = Seen { tree: tree_digest(&entries), stamps };
        Draft { entries, objects, seen, skipped }
    }

    /// Tells what is about to be read.
    pub(super) fn begin_step(&self, step: Step, is_read: impl Fn(&Self, usize) -> bool) {
        let all = (0..self.entries.len()).filter(|at| is_read(self, *at));
        let (bytes, files) = all.fold((0, 0), |(bytes, files), at| (bytes + self.size(at), files + 1));
        self.job.progress.begin(step, bytes, files);
    }

    /// The length of a file in bytes, as far as it is known.
    pub(super) fn size(&self, at: usize) -> u64 {
        self.content(at).map_or(0, |content| content.size)
    }

    /// Whether it is a file that is stored alone.
    pub(super) fn is_large(&self, at: usize) -> bool {
        self.size(at) >= self.job.blob_from()
    }

    pub(super) fn content(&self, at: usize) -> Option<&Content> {
        match &self.entries[at].kind {
            Kind::File(content) => Some(content),
            Kind::Directory | Kind::Link(_) => None,
        }
    }

    /// The entry of a path in the base, and its content, if it was a file.
    pub(super) fn old(&self, at: usize) -> Option<(&'a Entry, Content)> {
        let entry = self.base?.entries.get(*self.before.get(at)? as usize)?;
        match entry.kind {
            Kind::File(content) => Some((entry, content)),
            Kind::Directory | Kind::Link(_) => None,
        }
    }
}

fn contents(entries: &mut [Entry]) -> impl Iterator<Item = &mut Content> {
    entries.iter_mut().filter_map(|entry| match &mut entry.kind {
        Kind::File(content) => Some(content),
        Kind::Directory | Kind::Link(_) => None,
    })
}
