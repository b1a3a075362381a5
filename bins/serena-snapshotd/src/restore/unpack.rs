//! One stored object, unpacked: the manifest says which files it must give, and how long each of them is.

use std::io::{self, Read};
use std::sync::Arc;

use super::RestoreError;
use super::tarball::{ItemKind, Tarball, bad, shown};
use crate::layout::BLOBS;
use crate::manifest::{Content, Entry, Kind, Manifest};
use crate::seal::{self, Seal};

/// Largest window of a stream as a power of two, and so the memory that unpacking takes: 16 MiB. We write 2 MiB.
const WINDOW_LOG: u32 = 24;
/// Content of a pack that nobody wants, such as files that were deleted since: so much in any case ...
const MAY_SKIP: u64 = 16 << 30;
/// ... and so much for each byte that is stored.
const MAY_SKIP_RATIO: u64 = 64;

/// The files that one object must give.
pub(crate) struct Wants {
    pub(crate) manifest: Arc<Manifest>,
    /// Its place among [`crate::manifest::About::objects`].
    pub(crate) object: u32,
    /// Places among [`Manifest::entries`], ascending, and so by path; for a blob exactly one.
    pub(crate) files: Vec<u32>,
}

/// Takes files as they come out of an object.
pub(crate) trait Sink {
    /// A file of [`Wants::files`], and its bytes: exactly as many as the manifest says, all of which must be read.
    fn file(&mut self, at: u32, content: &mut dyn Read) -> Result<(), Flaw>;
}

/// Why an object was not unpacked to its end.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// What is stored is not what it should be; in words that follow the object's key.
    Damaged(String),
    /// It may be whole, but not for whoever has our keys.
    Locked(String),
    /// The one who takes the files needs no more, or can take no more, and knows why.
    Stopped,
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Flaw::Damaged(error.to_string())
    }
}

impl Wants {
    /// The object's key, below the partition.
    pub(crate) fn key(&self) -> &str {
        &self.stored().key
    }

    /// The object's length in bytes, as stored.
    pub(crate) fn size(&self) -> u64 {
        self.stored().size
    }

    fn stored(&self) -> &crate::manifest::StoredObject {
        &self.manifest.about.objects[self.object as usize]
    }

    fn entry(&self, at: u32) -> (&Entry, &Content) {
        let entry = &self.manifest.entries[at as usize];
        match &entry.kind {
            Kind::File(content) => (entry, content),
            Kind::Directory | Kind::Link(_) => unreachable!("only files are wanted"),
        }
    }

    fn may_skip(&self) -> u64 {
        MAY_SKIP.saturating_add(self.size().saturating_mul(MAY_SKIP_RATIO))
    }
}

/// What each object must give so that all files that `takes` names are there. Empty files need no object.
pub(crate) fn wants(
    manifest: &Arc<Manifest>,
    takes: impl Fn(&Entry) -> bool,
) -> Result<Vec<Wants>, RestoreError> {
    let about = &manifest.about;
    let mut files: Vec<Vec<u32>> = vec![Vec::new(); about.objects.len()];
    for (at, entry) in manifest.entries.iter().enumerate() {
        if let Kind::File(content) = &entry.kind
            && takes(entry)
        {
            if content.size == 0 {
                if content.sha256 != crate::digest::Digest::of(b"") {
                    let path = shown(&entry.path);
                    return Err(RestoreError::Damaged(format!(
                        "the manifest has `{path}` empty, with the digest of something"
                    )));
                }
                continue;
            }
            files[content.object as usize].push(u32::try_from(at).expect("a manifest has fewer entries"));
        }
    }
    let mut all = Vec::new();
    for (object, files) in (0..).zip(files) {
        let is_blob = about.objects[object as usize].key.starts_with(BLOBS);
        let parts = if is_blob { files.into_iter().map(|at| vec![at]).collect() } else { vec![files] };
        let parts = parts.into_iter().filter(|files| !files.is_empty());
        all.extend(parts.map(|files| Wants { manifest: manifest.clone(), object, files }));
    }
    Ok(all)
}

/// Unpacks an object to its end.
pub(crate) fn unpack(
    wants: &Wants,
    stored: &mut (impl Read + Send),
    seal: Option<&Seal>,
    sink: &mut impl Sink,
) -> Result<(), Flaw> {
    let plain = seal::open(wants.key(), seal, stored).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Flaw::Locked(error.to_string()),
        _ => error.into(),
    })?;
    let mut unpacked = zstd::Decoder::new(plain)?;
    unpacked.window_log_max(WINDOW_LOG)?;
    if wants.key().starts_with(BLOBS) { blob(wants, unpacked, sink) } else { pack(wants, unpacked, sink) }
}

fn blob(wants: &Wants, mut from: impl Read, sink: &mut impl Sink) -> Result<(), Flaw> {
    for at in &wants.files {
        let (entry, content) = wants.entry(*at);
        give(sink, *at, &mut Exact { from: &mut from, left: content.size }, entry)?;
    }
    let more = from.read(&mut [0; 1])?;
    if more == 0 { Ok(()) } else { Err(Flaw::Damaged("more data than its file has".to_owned())) }
}

fn pack(wants: &Wants, from: impl Read, sink: &mut impl Sink) -> Result<(), Flaw> {
    let mut seen = vec![false; wants.files.len()];
    let mut tarball = Tarball::new(from, wants.may_skip());
    while let Some(item) = tarball.next()? {
        let found = wants.files.binary_search_by(|at| wants.entry(*at).0.path[..].cmp(&item.path));
        // What nobody wants any more, or directories and links for those who unpack by hand.
        let Ok(found) = found else { continue };
        let (entry, content) = wants.entry(wants.files[found]);
        let wrong = |why: &str| Err(Flaw::Damaged(format!("`{}` {why}", shown(&entry.path))));
        if std::mem::replace(&mut seen[found], true) {
            return wrong("is in it twice");
        }
        if item.kind != ItemKind::File {
            return wrong("is no file in it");
        }
        if item.size != content.size {
            return wrong(&format!("has {} bytes in it, expected {}", item.size, content.size));
        }
        give(sink, wants.files[found], &mut tarball, entry)?;
    }
    tarball.finish()?;
    match seen.iter().position(|seen| !seen) {
        None => Ok(()),
        Some(at) => {
            let path = shown(&wants.entry(wants.files[at]).0.path);
            Err(Flaw::Damaged(format!("`{path}` is not in it")))
        }
    }
}

fn give(sink: &mut impl Sink, at: u32, content: &mut dyn Read, entry: &Entry) -> Result<(), Flaw> {
    sink.file(at, content).map_err(|flaw| match flaw {
        Flaw::Damaged(why) => Flaw::Damaged(format!("`{}`: {why}", shown(&entry.path))),
        other @ (Flaw::Locked(_) | Flaw::Stopped) => other,
    })
}

/// So many bytes, and an error if there are fewer.
struct Exact<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let count = self.from.read(&mut buffer[..most])?;
        self.left -= count as u64;
        if count == 0 { Err(bad("ends too early")) } else { Ok(count) }
    }
}
