//! Where roots are built before they are in their place, and how they get there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mcp_daemon::files::write_atomic_mode;
use nix::unistd::geteuid;

use super::journal::{INSIDE, Journal, Phase, Place, TopMode, Way, bytes_of, identity, parent};
use super::swap::{self, is_about_renaming};
use super::tree::{Owner, Tree, can_own, stamp};
use super::{RestoreError, Target, clear, mounts};
use crate::layout::nonce;
use crate::manifest::{Kind, Manifest};

/// All that is needed to take a directory's name away, or to look into it.
const OWNER_ALL: u32 = 0o700;

/// Roots in the making.
pub(super) struct Stage {
    journal: Mutex<Journal>,
    roots: Vec<Root>,
}

struct Root {
    ours: Option<(&'static str, Vec<u8>)>,
    name: Vec<u8>,
    path: PathBuf,
    owner: Option<Owner>,
    tree: Tree,
}

impl Stage {
    /// Decides how each root gets to its place, writes the journal, and makes the directories of the snapshot. `inside`:
    /// entry by entry also where nothing speaks against a rename.
    pub(super) fn prepare(
        manifest: &Manifest,
        targets: &[Target],
        journal_path: &Path,
        inside: bool,
    ) -> Result<Stage, RestoreError> {
        let is_root = |target: &&Target| manifest.find(target.name.as_bytes()).is_some();
        let wanted: Vec<&Target> = targets.iter().filter(is_root).collect();
        let mut places = Vec::new();
        for target in &wanted {
            let path = real(&target.path).map_err(RestoreError::system(&target.path))?;
            let is_there = identity(&path).map_err(RestoreError::system(&path))?.is_some();
            let way = if is_there && (inside || mounts::is_one(&path) || !mounts::within(&path).is_empty()) {
                Way::InsideOut
            } else {
                Way::Beside
            };
            places.push(Place {
                path: bytes_of(&path),
                way,
                was_there: is_there,
                tree: (0, 0),
                modes: Vec::new(),
            });
        }
        let mut journal = Journal::new(nonce(), places);
        journal.write(journal_path)?;
        let built = (0..wanted.len()).map(|at| build(&mut journal, at, wanted[at], manifest)).collect();
        match built {
            Ok(roots) => Ok(Stage { journal: Mutex::new(journal), roots }),
            Err(error) => {
                abandon(&journal, journal_path);
                Err(error)
            }
        }
    }

    /// Whether an entry has a place.
    pub(super) fn takes(&self, path: &[u8]) -> bool {
        self.place(path).is_some()
    }

    /// Which root an entry is in, and where below it.
    pub(super) fn place<'a>(&self, path: &'a [u8]) -> Option<(usize, &'a [u8])> {
        let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
        let at = self.roots.iter().position(|root| root.name == path[..end])?;
        Some((at, path.get(end + 1..).unwrap_or_default()))
    }

    /// Handles of the roots in the making.
    pub(super) fn trees(&self) -> Result<Vec<Tree>, RestoreError> {
        self.roots.iter().map(|root| root.tree.again().map_err(RestoreError::system(&root.path))).collect()
    }

    /// Who everything in a root shall belong to.
    pub(super) fn owner(&self, place: usize) -> Option<Owner> {
        self.roots[place].owner
    }

    /// Where an entry will be.
    pub(super) fn shown(&self, place: usize, below: &[u8]) -> PathBuf {
        self.roots[place].path.join(std::ffi::OsStr::from_bytes(below))
    }

    /// Throws everything away.
    pub(super) fn give_up(&self, journal_path: &Path) {
        abandon(&self.journal.lock().expect("nobody panics while it is locked"), journal_path);
    }

    /// Makes what has no bytes, gives directories their permissions, waits for the disk, and swaps; the places of the old
    /// roots. After an error everything is as before, and with `true` it was only names that could not be changed.
    pub(super) fn finish(
        &self,
        manifest: &Manifest,
        journal_path: &Path,
    ) -> Result<Vec<PathBuf>, (RestoreError, bool)> {
        let mut journal = self.journal.lock().expect("nobody panics while it is locked");
        let prepared = self.complete(manifest, &mut journal).and_then(|()| {
            journal.phase = Phase::Swapping;
            journal.write(journal_path)
        });
        if let Err(error) = prepared {
            abandon(&journal, journal_path);
            return Err((error, false));
        }
        if let Err(error) = swap::swap(&mut journal, journal_path) {
            let is_swap = matches!(&error, RestoreError::System { cause, .. } if is_about_renaming(cause));
            if let Err(cause) = swap::undo(&mut journal, journal_path) {
                // The journal stays, and says how to go on.
                let text =
                    format!("{error}; nor can it be taken back: {cause}; the next start goes on from here");
                return Err((RestoreError::system(journal_path)(io::Error::other(text)), false));
            }
            abandon(&journal, journal_path);
            return Err((error, is_swap));
        }
        // From here on the snapshot is in place, whatever happens.
        let kept = swap::retire(&journal);
        if let Err(error) = Journal::remove(journal_path) {
            log::warn!(error = error.to_string().as_str(); "the journal of a restore that is done stays");
        }
        Ok(kept)
    }

    fn complete(&self, manifest: &Manifest, journal: &mut Journal) -> Result<(), RestoreError> {
        let mut trees = self.trees()?;
        for entry in &manifest.entries {
            let Some((place, below)) = self.place(&entry.path) else { continue };
            let (tree, owner) = (&mut trees[place], self.roots[place].owner);
            let made = match &entry.kind {
                Kind::File(content) if content.size == 0 => {
                    tree.create(below).and_then(|file| stamp(file.as_fd(), entry.mode, entry.mtime, owner))
                }
                Kind::Link(target) => tree.link(below, target, entry.mtime, owner),
                Kind::Directory | Kind::File(_) => Ok(()),
            };
            made.map_err(RestoreError::system(self.shown(place, below)))?;
        }
        for (at, root) in self.roots.iter().enumerate() {
            let Some((name, bytes)) = &root.ours else { continue };
            // Whatever the snapshot has under this name.
            let path = journal.staged(&journal.places[at]).join(name);
            let written = write_atomic_mode(&path, bytes, 0o644).and_then(|()| match root.owner {
                Some(Owner { uid, gid }) => std::os::unix::fs::lchown(&path, Some(uid), Some(gid)),
                None => Ok(()),
            });
            written.map_err(RestoreError::system(root.path.join(name)))?;
        }
        // What is in a directory comes after it: backwards, nothing is closed before all in it is done.
        for entry in manifest.entries.iter().rev().filter(|entry| entry.kind == Kind::Directory) {
            let Some((place, below)) = self.place(&entry.path) else { continue };
            let top_mode = &mut journal.places[place];
            let must_move = top_mode.way != Way::Beside && !below.is_empty() && !below.contains(&b'/');
            let mode = if must_move && entry.mode & OWNER_ALL != OWNER_ALL {
                top_mode.modes.push(TopMode { name: below.to_vec(), mode: entry.mode });
                entry.mode | OWNER_ALL
            } else if below.is_empty() && top_mode.way != Way::Beside {
                // Names are taken out of it; the home gets its permissions later.
                entry.mode | OWNER_ALL
            } else {
                entry.mode
            };
            let finished = trees[place].finish(below, mode, entry.mtime, self.roots[place].owner);
            finished.map_err(RestoreError::system(self.shown(place, below)))?;
        }
        for root in &self.roots {
            root.tree.sync().map_err(RestoreError::system(&root.path))?;
        }
        Ok(())
    }
}

/// Makes a root's staging directory, and all directories in it.
fn build(
    journal: &mut Journal,
    at: usize,
    target: &Target,
    manifest: &Manifest,
) -> Result<Root, RestoreError> {
    let path = journal.places[at].path();
    let is_there = identity(&path).map_err(RestoreError::system(&path))?.is_some();
    let mut staged = journal.staged(&journal.places[at]);
    if journal.places[at].way == Way::Beside
        && let Err(error) = make_private(&staged)
    {
        if !is_there || !is_about_renaming(&error) {
            return Err(RestoreError::system(&staged)(error));
        }
        // Nothing can be made beside it: then in it.
        journal.places[at].way = Way::InsideOut;
        staged = journal.staged(&journal.places[at]);
    }
    if journal.places[at].way != Way::Beside {
        let all = path.join(INSIDE);
        let made = match make_private(&all) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => clear::remove(&staged),
            made => made,
        };
        made.and_then(|()| make_private(&staged)).map_err(RestoreError::system(&all))?;
    }
    let system = |error| RestoreError::system(&staged)(error);
    let owner = owner_of(if is_there { &path } else { parent(&path) }, &staged).map_err(system)?;
    journal.places[at].tree = identity(&staged).map_err(system)?.expect("it was just made");
    let mut tree = Tree::open(&staged).map_err(system)?;
    let prefix = format!("{}/", target.name).into_bytes();
    for entry in manifest.entries.iter().filter(|entry| entry.kind == Kind::Directory) {
        if let Some(below) = entry.path.strip_prefix(&prefix[..]) {
            let shown = path.join(std::ffi::OsStr::from_bytes(below));
            tree.make_directory(below).map_err(RestoreError::system(shown))?;
        }
    }
    Ok(Root { ours: target.ours.clone(), name: target.name.clone().into_bytes(), path, owner, tree })
}

/// Removes everything that was staged, and then the journal; what does not work is tried again at the next start.
fn abandon(journal: &Journal, path: &Path) {
    if let Err(error) = journal.clear().and_then(|()| Journal::remove(path)) {
        log::warn!(error = error.to_string().as_str(); "what was staged could not be removed");
    }
}

/// Where a target really is: a link to a directory stays, and leads to the new one.
fn real(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(_) => {
            let real = fs::canonicalize(path)?;
            if !real.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(real)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(fs::canonicalize(parent(path))?.join(name))
        }
        Err(error) => Err(error),
    }
}

/// Everything shall belong to whom the home belonged to, where we are root or have the capabilities. For others there is
/// no choice.
fn owner_of(like: &Path, staged: &Path) -> io::Result<Option<Owner>> {
    let found = fs::metadata(like)?;
    let owner = Owner { uid: found.uid(), gid: found.gid() };
    let is_root = geteuid().is_root();
    // What users make is theirs, and the group is the kernel's business.
    if !is_root && found.uid() == geteuid().as_raw() {
        return Ok(None);
    }
    if can_own(staged, owner) {
        return Ok(Some(owner));
    }
    if !is_root {
        return Ok(None);
    }
    log::warn!(home = like.display().to_string().as_str(); "what is restored cannot be given to the owner of the home");
    Ok(None)
}

fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}
