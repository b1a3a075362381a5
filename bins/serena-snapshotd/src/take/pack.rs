//! A pack: a tar archive as GNU tar writes and reads it, with names of any length and any bytes.

use tar::{EntryType, Header};

use super::sink::Object;
use super::stamp::Stat;
use super::{Job, Made, TakeError};
use crate::layout;

/// What GNU tar calls an entry that holds a long name of the next one.
const LONG: &[u8] = b"././@LongLink";
/// Everything in an archive is a multiple of this, in bytes.
const BLOCK: usize = 512;

/// A pack in the making.
pub(super) struct Pack<'a>(Object<'a>);

impl<'a> Pack<'a> {
    pub(super) fn begin(job: &'a Job<'a>, expected: u64) -> Result<Self, TakeError> {
        Object::begin(job, expected).map(Pack)
    }

    pub(super) fn directory(&mut self, path: &[u8], mode: u32, mtime: i64) -> Result<(), TakeError> {
        self.head(EntryType::Directory, &[path, b"/"].concat(), b"", mode, mtime, 0)
    }

    pub(super) fn link(
        &mut self,
        path: &[u8],
        target: &[u8],
        mode: u32,
        mtime: i64,
    ) -> Result<(), TakeError> {
        self.head(EntryType::Symlink, path, target, mode, mtime, 0)
    }

    pub(super) fn file(&mut self, path: &[u8], stat: &Stat, bytes: &[u8]) -> Result<(), TakeError> {
        self.head(EntryType::Regular, path, b"", stat.mode, stat.stamp.mtime, bytes.len() as u64)?;
        self.bytes(bytes)
    }

    pub(super) fn finish(mut self) -> Result<Made, TakeError> {
        self.0.write(&[0; 2 * BLOCK])?;
        self.0.finish(layout::pack)
    }

    fn head(
        &mut self,
        kind: EntryType,
        path: &[u8],
        target: &[u8],
        mode: u32,
        mtime: i64,
        size: u64,
    ) -> Result<(), TakeError> {
        let mut head = Header::new_gnu();
        let gnu = head.as_gnu_mut().expect("it was made so");
        let name_fits = put(&mut gnu.name, path);
        let target_fits = put(&mut gnu.linkname, target);
        if !target_fits {
            self.long(EntryType::GNULongLink, target)?;
        }
        if !name_fits {
            self.long(EntryType::GNULongName, path)?;
        }
        head.set_entry_type(kind);
        head.set_mode(mode);
        // The manifest has all of it; an archive has whole seconds from 1970 on.
        self.plain(head, size, u64::try_from(mtime.div_euclid(1_000_000_000)).unwrap_or(0))
    }

    /// The name or target of the next entry.
    fn long(&mut self, kind: EntryType, text: &[u8]) -> Result<(), TakeError> {
        let mut head = Header::new_gnu();
        put(&mut head.as_gnu_mut().expect("it was made so").name, LONG);
        head.set_entry_type(kind);
        head.set_mode(0o644);
        self.plain(head, text.len() as u64 + 1, 0)?;
        self.bytes(&[text, b"\0"].concat())
    }

    fn plain(&mut self, mut head: Header, size: u64, mtime: u64) -> Result<(), TakeError> {
        head.set_size(size);
        head.set_mtime(mtime);
        head.set_uid(0);
        head.set_gid(0);
        head.set_cksum();
        self.0.write(head.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), TakeError> {
        self.0.write(bytes)?;
        self.0.write(&[0; BLOCK][..bytes.len().next_multiple_of(BLOCK) - bytes.len()])
    }
}

/// Writes a text with a zero after it, as much as fits; whether all of it did.
fn put(field: &mut [u8; 100], text: &[u8]) -> bool {
    let length = text.len().min(field.len() - 1);
    field[..length].copy_from_slice(&text[..length]);
    length == text.len()
}
