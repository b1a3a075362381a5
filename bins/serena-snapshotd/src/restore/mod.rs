//! Puts a snapshot back: into a staging directory, every digest checked, then in one step to its place.
//!
//! The manifest decides everything; what is stored only gives bytes. `feed` fetches and unpacks, `pour` writes below a
//! directory handle, `stage` says where, `swap` exchanges old and new, and `journal` remembers how far it was.

mod clear;
pub(crate) mod feed;
mod journal;
mod mounts;
mod pour;
mod stage;
mod step;
mod swap;
pub(crate) mod tarball;
#[cfg(test)]
mod tests;
pub(crate) mod tree;
pub(crate) mod unpack;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcp_daemon::exit::Exit;

use self::feed::read_object;
use self::pour::Pour;
use self::stage::Stage;
use self::unpack::wants;
use crate::manifest::{Kind, Manifest};
use crate::progress::{Progress, Step};
use crate::seal::Seal;
use crate::store::{Store, StoreError};
use crate::threads::blocking;

/// Where a root goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in the snapshot.
    pub name: String,
    /// Its place; its parent must exist.
    pub path: PathBuf,
    /// A file of our own that comes into it besides, as its name and bytes.
    pub ours: Option<(&'static str, Vec<u8>)>,
}

/// What is to be put back.
pub struct Restoration<'a> {
    /// The snapshot.
    pub manifest: &'a Arc<Manifest>,
    /// Where its bytes are.
    pub store: &'a Store,
    /// Decrypts them.
    pub seal: Option<&'a Arc<Seal>>,
    /// Where the roots go; roots of the snapshot without a target are left out, and so are targets without a root.
    pub targets: &'a [Target],
    /// Told how far it is.
    pub progress: &'a Arc<Progress>,
}

/// What was put back.
#[derive(Debug)]
pub struct Restored {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was there before, kept once: the places of the old roots.
    pub kept: Vec<PathBuf>,
}

/// Why a snapshot was not put back; nothing has changed then, or the journal says how to go on.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bytes in the store are not those of the snapshot.
    #[error("{0}")]
    Damaged(String),
    /// Bytes that may be whole, but are encrypted to other keys than ours: no damage, so nothing older is put in their place.
    #[error("{0}")]
    Locked(String),
    /// The store did not deliver.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something of the system failed.
    #[error("{path}: {cause}")]
    System {
        /// Where.
        path: String,
        /// Why.
        cause: io::Error,
    },
}

impl RestoreError {
    /// How a command ends that failed for this reason.
    pub fn exit(&self) -> Exit {
        match self {
            RestoreError::Damaged(_) => Exit::TryAgain,
            RestoreError::Locked(_) => Exit::Config,
            RestoreError::Store(error) => error.exit(),
            RestoreError::System { cause, .. } => Exit::of_system(cause),
        }
    }

    /// Something of the system failed at this path.
    fn system(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> RestoreError {
        move |cause| RestoreError::System { path: path.as_ref().display().to_string(), cause }
    }
}

/// Stages, checks and swaps. `journal` is a file beside the home that says, after a crash, what was under way; a call that
/// is given up half way is such a crash.
pub async fn restore(plan: &Restoration<'_>, journal: &Path) -> Result<Restored, RestoreError> {
    let before = journal.to_owned();
    blocking(move || resume(&before)).await?;
    match attempt(plan, journal, false).await {
        // What cannot be renamed can perhaps be filled: a mount point that does not look like one, or a lower layer.
        Err(Failed { is_swap: true, error }) => {
            log::warn!(error = error.to_string().as_str(); "the home cannot be exchanged; putting it back entry by entry");
            attempt(plan, journal, true).await.map_err(|failed| failed.error)
        }
        ended => ended.map_err(|failed| failed.error),
    }
}

/// Ends what a crash left half done; whether there was anything. Blocks.
pub fn resume(journal: &Path) -> Result<bool, RestoreError> {
    let Some(left) = journal::Journal::read(journal)? else { return Ok(false) };
    left.end(journal)?;
    Ok(true)
}

/// An attempt that failed; the home is as it was.
struct Failed {
    error: RestoreError,
    /// Only a name could not be changed: entry by entry it may work.
    is_swap: bool,
}

impl From<RestoreError> for Failed {
    fn from(error: RestoreError) -> Self {
        Failed { error, is_swap: false }
    }
}

async fn attempt(plan: &Restoration<'_>, journal: &Path, inside: bool) -> Result<Restored, Failed> {
    let (manifest, targets, path) = (plan.manifest.clone(), plan.targets.to_vec(), journal.to_owned());
    let stage = blocking(move || Stage::prepare(&manifest, &targets, &path, inside)).await?;
    let stage = Arc::new(stage);
    let filled = fill(plan, &stage).await;
    let (manifest, path, progress) = (plan.manifest.clone(), journal.to_owned(), plan.progress.clone());
    blocking(move || {
        let (files, bytes) = match filled {
            Ok(counts) => counts,
            Err(error) => {
                stage.give_up(&path);
                return Err(error.into());
            }
        };
        progress.begin(Step::Syncing, 0, 0);
        let kept = stage.finish(&manifest, &path).map_err(|(error, is_swap)| Failed { error, is_swap })?;
        Ok(Restored { files, bytes, kept })
    })
    .await
}

/// Fetches, checks and writes every file that has a place; how many, and their bytes.
async fn fill(plan: &Restoration<'_>, stage: &Arc<Stage>) -> Result<(u64, u64), RestoreError> {
    let manifest = plan.manifest;
    let (mut files, mut bytes) = (0, 0);
    for entry in &manifest.entries {
        if let (Kind::File(content), true) = (&entry.kind, stage.takes(&entry.path)) {
            files += 1;
            bytes += content.size;
        }
    }
    plan.progress.begin(Step::Fetching, bytes, files);
    let mut pour = Pour::start(manifest, stage, plan.progress);
    let mut ended = Ok(());
    for wants in wants(manifest, |entry| stage.takes(&entry.path))? {
        (pour, ended) = read_object(plan.store, plan.seal, wants, pour).await;
        if ended.is_err() {
            break;
        }
    }
    // Who writes knows best why nobody takes bytes any more.
    pour.end().await?;
    ended.map(|()| (files, bytes))
}
