//! Which files are stored anew.

use super::TakeError;
use super::plan::{ONE_PACK, OldPack, given_up};
use super::reading::{Fate, Reading};
use crate::layout::PACKS;
use crate::manifest::{Kind, StoredObject};
use crate::progress::Step;

impl Reading<'_> {
    /// Marks as changed what is stored anew; nobody is unsure about anything after this.
    pub(super) fn choose(&mut self) -> Result<(), TakeError> {
        let everything = 0..self.entries.len();
        let small: u64 = everything.clone().filter(|at| !self.is_large(*at)).map(|at| self.size(at)).sum();
        // A small file that is packed anyway need not be read twice.
        let is_asked = |reading: &Self, at: usize| {
            reading.fates[at] == Fate::Unsure && (small > ONE_PACK || reading.is_large(at))
        };
        self.begin_step(Step::Looking, is_asked);
        for at in everything.clone() {
            if is_asked(self, at) {
                self.resolve(at)?;
            }
        }
        let is_packed =
            |at: usize| matches!(self.fates[at], Fate::Changed | Fate::Unsure) && !self.is_large(at);
        let given_up = given_up(small, everything.clone().any(is_packed), &self.old_packs());
        for at in everything {
            let moves = match self.fates[at] {
                Fate::Unsure => true,
                Fate::Kept => self
                    .object(at)
                    .is_some_and(|(object, is_pack)| given_up[object] && (is_pack || !self.is_large(at))),
                Fate::Changed | Fate::Gone | Fate::Other | Fate::Stored => false,
            };
            if moves {
                self.fates[at] = Fate::Changed;
            }
        }
        Ok(())
    }

    /// The objects of the base. A blob counts as a pack that nobody uses.
    fn old_packs(&self) -> Vec<OldPack> {
        let Some(base) = self.base else { return Vec::new() };
        let pack = |object: &StoredObject| OldPack { alive: 0, held: object.size, used: false };
        let mut packs: Vec<OldPack> = base.about.objects.iter().map(pack).collect();
        let mut held = vec![0; packs.len()];
        for entry in &base.entries {
            if let Kind::File(content) = &entry.kind {
                held[content.object as usize] += content.size;
            }
        }
        for (pack, held) in packs.iter_mut().zip(held) {
            pack.held = pack.held.max(held);
        }
        for at in 0..self.entries.len() {
            if let (Fate::Kept, Some((object, true))) = (self.fates[at], self.object(at)) {
                packs[object].alive += self.size(at);
                packs[object].used = true;
            }
        }
        packs
    }

    /// Which object of the base the content of a kept file is in, and whether that is a pack.
    fn object(&self, at: usize) -> Option<(usize, bool)> {
        let object = self.content(at)?.object as usize;
        Some((object, self.base?.about.objects.get(object)?.key.starts_with(PACKS)))
    }
}
