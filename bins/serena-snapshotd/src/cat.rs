//! One file of a snapshot, its bytes alone.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use mcp_daemon::exit::Exit;
use tokio::sync::mpsc;

use crate::digest::Hasher;
use crate::manifest::{HOME, Kind, Manifest};
use crate::restore::RestoreError;
use crate::restore::feed::read_object;
use crate::restore::tarball::shown;
use crate::restore::unpack::{Flaw, Sink, Wants};
use crate::seal::Seal;
use crate::store::Store;

/// Bytes that are handed over at once.
const PIECE: usize = 128 * 1024;
/// Pieces that wait.
const WAITING: usize = 8;

/// Why there is no file, or only a part of it.
#[derive(Debug, thiserror::Error)]
pub enum CatError {
    /// It is no file.
    #[error("`{path}` is {what} in this snapshot, not a file")]
    NotAFile {
        /// Which.
        path: String,
        /// `a directory`, `a link to x`.
        what: String,
    },
    /// It is not in the snapshot.
    #[error(
        "`{0}` is not in this snapshot; `serena-snapshotd show` lists what is, such as `home/serena_config.yml`"
    )]
    NoSuchPath(String),
    /// It could not be read, or is damaged: what was written until then is not the file.
    #[error(transparent)]
    Read(#[from] RestoreError),
    /// It could not be written.
    #[error("cannot write: {0}")]
    Write(#[source] io::Error),
}

impl CatError {
    /// How a command ends that failed for this reason.
    pub fn exit(&self) -> Exit {
        match self {
            CatError::NoSuchPath(_) | CatError::NotAFile { .. } => Exit::Unavailable,
            CatError::Read(error) => error.exit(),
            CatError::Write(_) => Exit::TryAgain,
        }
    }
}

/// Writes a file of a snapshot to `out`; `path` as [`Manifest`] has it, or below the home. The bytes are checked as they
/// pass: only `Ok` says that they were right.
pub async fn cat(
    store: &Store,
    manifest: &Arc<Manifest>,
    seal: Option<&Arc<Seal>>,
    path: &[u8],
    out: &mut dyn Write,
) -> Result<(), CatError> {
    let below_home = || [HOME.as_bytes(), b"/", path].concat();
    let entry = manifest.find(path).or_else(|| manifest.find(&below_home()));
    let entry = entry.ok_or_else(|| CatError::NoSuchPath(shown(path)))?;
    let not_a_file = |what: String| Err(CatError::NotAFile { path: shown(&entry.path), what });
    let content = match &entry.kind {
        Kind::Directory => return not_a_file("a directory".to_owned()),
        Kind::Link(target) => return not_a_file(format!("a link to `{}`", shown(target))),
        Kind::File(content) => *content,
    };
    if content.size > 0 {
        let at = manifest.entries.partition_point(|other| other.path < entry.path);
        let at = u32::try_from(at).expect("a manifest has fewer entries");
        let wants = Wants { manifest: manifest.clone(), object: content.object, files: vec![at] };
        let (to, from) = mpsc::channel::<Bytes>(WAITING);
        let writing = async {
            // Gone as soon as nothing can be written: who reads must not wait for it.
            let (mut from, mut hasher) = (from, Hasher::new());
            while let Some(bytes) = from.recv().await {
                hasher.update(&bytes);
                out.write_all(&bytes).map_err(CatError::Write)?;
            }
            Ok::<_, CatError>(hasher)
        };
        let reading = async {
            // The sink goes with its end of the channel, and so the writing ends.
            let (_, ended) = read_object(store, seal, wants, Pieces { to }).await;
            ended
        };
        let (written, read) = tokio::join!(writing, reading);
        let hasher = written?;
        read?;
        if hasher.finish() != content.sha256 {
            let key = &manifest.about.objects[content.object as usize].key;
            let text =
                format!("{key}: `{}` is not what the manifest says: its digest differs", shown(&entry.path));
            return Err(RestoreError::Damaged(text).into());
        }
    }
    out.flush().map_err(CatError::Write)
}

/// Hands bytes over.
struct Pieces {
    to: mpsc::Sender<Bytes>,
}

impl Sink for Pieces {
    fn file(&mut self, _at: u32, content: &mut dyn Read) -> Result<(), Flaw> {
        loop {
            let mut piece = vec![0; PIECE];
            let count = content.read(&mut piece)?;
            if count == 0 {
                // The rest of the object is nobody's business.
                return Err(Flaw::Stopped);
            }
            piece.truncate(count);
            self.to.blocking_send(piece.into()).map_err(|_| Flaw::Stopped)?;
        }
    }
}
