//! Exchanges old and new. Every step can be done again: whoever comes after a crash sees from what is where how far it was.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::journal::{INSIDE, Journal, Place, Way, identity, parent, sync_directory};
use super::step::{can_exchange, step};
use super::tree::Tree;
use super::{RestoreError, clear, mounts};

/// Puts every root of the journal into its place, as far as that has not been done; the old ones stay near.
pub(super) fn swap(journal: &mut Journal, path: &Path) -> Result<(), RestoreError> {
    for at in 0..journal.places.len() {
        let place = journal.places[at].clone();
        match place.way {
            Way::Beside => beside(journal, &place).map_err(RestoreError::system(place.path()))?,
            Way::InsideOut | Way::InsideIn | Way::InsideDone => inside(journal, at, path)?,
        }
    }
    Ok(())
}

/// After [`swap`]: keeps each old root as the only one that is kept; where they are. The snapshot is in place by now, so
/// nothing here is an error: an old root that cannot be moved stays where it is.
pub(super) fn retire(journal: &Journal) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for place in &journal.places {
        match retire_one(journal, place) {
            Ok(kept) => all.extend(kept),
            Err(error) => {
                let (error, old) = (error.to_string(), journal.staged(place));
                log::warn!(error = error.as_str(), old = old.display().to_string().as_str(); "what was there before stays where it is");
                all.push(old);
            }
        }
    }
    all
}

/// Takes back whatever [`swap`] did.
pub(super) fn undo(journal: &mut Journal, path: &Path) -> Result<(), RestoreError> {
    for at in (0..journal.places.len()).rev() {
        let place = journal.places[at].clone();
        let system = RestoreError::system(place.path());
        match place.way {
            Way::Beside => undo_beside(journal, &place).map_err(system)?,
            Way::InsideOut => undo_out(&place).map_err(system)?,
            Way::InsideIn | Way::InsideDone => {
                undo_in(&place).map_err(system)?;
                // Whoever comes now must not take old ones for new ones.
                journal.places[at].way = Way::InsideOut;
                journal.write(path)?;
                undo_out(&place).map_err(RestoreError::system(place.path()))?;
            }
        }
    }
    Ok(())
}

fn beside(journal: &Journal, place: &Place) -> io::Result<()> {
    let (path, staged, aside) = (place.path(), journal.staged(place), journal.aside(place));
    let new = Some(place.tree);
    if identity(&path)? == new {
        return Ok(());
    }
    if identity(&staged)? != new {
        // Somebody has been here since. What is there is whole, and it is theirs.
        if identity(&path)?.is_none() && identity(&aside)?.is_some() {
            fs::rename(&aside, &path)?;
        }
        warn_gone(&path);
        return Ok(());
    }
    step()?;
    if identity(&path)?.is_none() {
        rename(&staged, &path)?;
    } else if !exchange(&staged, &path)? {
        // An empty directory can be replaced in one step, too.
        if is_empty(&path)? {
            rename(&staged, &path)?;
        } else {
            rename(&path, &aside)?;
            step()?;
            rename(&staged, &path)?;
        }
    }
    step()?;
    sync_directory(parent(&path))
}

fn warn_gone(home: &Path) {
    let home = home.display().to_string();
    log::warn!(home = home.as_str(); "what an interrupted restore had staged is gone; the home stays as it is");
}

fn undo_beside(journal: &Journal, place: &Place) -> io::Result<()> {
    let (path, staged, aside) = (place.path(), journal.staged(place), journal.aside(place));
    let is_new = identity(&path)? == Some(place.tree);
    if identity(&aside)?.is_some() {
        if is_new {
            rename(&path, &staged)?;
        }
        return rename(&aside, &path);
    }
    if !is_new {
        return Ok(());
    }
    if identity(&staged)?.is_some() {
        // It came here by an exchange, and goes by one.
        return exchange(&staged, &path).map(drop);
    }
    rename(&path, &staged)?;
    // There was nothing, or an empty directory.
    if place.was_there { fs::create_dir(&path) } else { Ok(()) }
}

fn retire_one(journal: &Journal, place: &Place) -> io::Result<Option<PathBuf>> {
    let kept = place.kept();
    if place.way != Way::Beside
        && let Ok(staged) = fs::symlink_metadata(place.inside("new"))
    {
        // Not before everything is in its place; and a mounted directory may be somebody else's.
        let _ = fs::set_permissions(place.path(), Permissions::from_mode(staged.mode() & 0o777));
    }
    let olds = match place.way {
        Way::Beside => [journal.staged(place), journal.aside(place)],
        Way::InsideOut | Way::InsideIn | Way::InsideDone => [place.inside("old"), place.inside("new")],
    };
    let mut is_kept = false;
    for old in olds {
        // What is still staged because its place was somebody else's by then is no old one.
        if identity(&old)?.is_none() || identity(&old)? == Some(place.tree) {
            clear::remove(&old)?;
            continue;
        }
        step()?;
        if is_empty(&old)? {
            fs::remove_dir(&old)?;
            continue;
        }
        clear::remove(&kept)?;
        step()?;
        relocate(&old, &kept)?;
        is_kept = true;
    }
    if place.way != Way::Beside {
        // Only if nothing is kept in it.
        let _ = fs::remove_dir(place.path().join(INSIDE));
    }
    step()?;
    let home = place.path();
    sync_directory(if place.way == Way::Beside { parent(&home) } else { &home })?;
    Ok(is_kept.then_some(kept))
}

/// One directory that must stay itself: everything old out of it, then everything new into it.
fn inside(journal: &mut Journal, at: usize, path: &Path) -> Result<(), RestoreError> {
    let place = journal.places[at].clone();
    let (home, old, new) = (place.path(), place.inside("old"), place.inside("new"));
    let system = |error| RestoreError::system(&home)(error);
    if place.way != Way::InsideDone && identity(&new).map_err(system)?.is_none() {
        warn_gone(&home);
        return if place.way == Way::InsideOut { undo_out(&place).map_err(system) } else { Ok(()) };
    }
    if place.way == Way::InsideOut {
        make_directory(&old).map_err(system)?;
        for name in names(&home).map_err(system)? {
            step().map_err(system)?;
            relocate(&home.join(&name), &free(&old, &name).map_err(system)?).map_err(system)?;
        }
        // None may still be there, whatever happens, once the journal says that they are out.
        sync(&home).map_err(system)?;
        journal.places[at].way = Way::InsideIn;
        journal.write(path)?;
    }
    if journal.places[at].way == Way::InsideIn {
        for name in names(&new).map_err(system)? {
            step().map_err(system)?;
            let to = home.join(&name);
            if identity(&to).map_err(system)?.is_some() {
                // Somebody was quicker.
                relocate(&to, &free(&old, &name).map_err(system)?).map_err(system)?;
            }
            relocate(&new.join(&name), &to).map_err(system)?;
        }
        step().map_err(system)?;
        for top in &place.modes {
            let path = home.join(OsString::from_vec(top.name.clone()));
            fs::set_permissions(path, Permissions::from_mode(top.mode)).map_err(system)?;
        }
        sync(&home).map_err(system)?;
        journal.places[at].way = Way::InsideDone;
        journal.write(path)?;
    }
    step().map_err(system)
}

fn undo_in(place: &Place) -> io::Result<()> {
    let (home, new) = (place.path(), place.inside("new"));
    for name in names(&home)? {
        relocate(&home.join(&name), &free(&new, &name)?)?;
    }
    sync(&home)
}

fn undo_out(place: &Place) -> io::Result<()> {
    let (home, old) = (place.path(), place.inside("old"));
    if identity(&old)?.is_some() {
        for name in names(&old)? {
            relocate(&old.join(&name), &home.join(&name))?;
        }
        fs::remove_dir(&old)?;
    }
    sync(&home)
}

/// A name in this directory that nothing has: this one, or one with a number.
fn free(directory: &Path, name: &OsStr) -> io::Result<PathBuf> {
    let mut path = directory.join(name);
    for number in 1_u32.. {
        if identity(&path)?.is_none() {
            break;
        }
        let mut name = name.to_owned();
        name.push(format!(".{number}"));
        path = directory.join(name);
    }
    Ok(path)
}

/// Everything in a directory but what is ours, and what is mounted there: that stays.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let all = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names: Vec<_> = all.collect::<Result<_, _>>()?;
    let mounted = mounts::within(&fs::canonicalize(directory)?);
    let is_mounted = |name: &OsString| mounted.iter().any(|point| *point == directory.join(name));
    names.retain(|name| name.as_bytes() != INSIDE.as_bytes() && !is_mounted(name));
    Ok(names)
}

/// Renames into another directory, for which a directory must be writable itself.
fn relocate(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let found = fs::symlink_metadata(from)?;
            if !found.is_dir() || found.mode() & 0o200 != 0 {
                return Err(error);
            }
            fs::set_permissions(from, Permissions::from_mode(found.mode() & 0o777 | 0o700))?;
            rename(from, to)?;
            fs::set_permissions(to, Permissions::from_mode(found.mode() & 0o7777))
        }
        ended => ended,
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        ended => ended,
    }
}

fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets two names change places in one step; `false` where the system cannot.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

    if !can_exchange() {
        return Ok(false);
    }
    match renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(false),
        // A lower layer of an overlay: not to be renamed, but perhaps empty.
        Err(Errno::EXDEV) if is_empty(other)? => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_one: &Path, _other: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Waits until everything on the file system of this directory is on disk.
fn sync(directory: &Path) -> io::Result<()> {
    Tree::open(directory)?.sync()
}

/// Whether it may work entry by entry where this was refused.
pub(super) fn is_about_renaming(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EACCES | Errno::EBUSY | Errno::EPERM | Errno::EROFS | Errno::EXDEV))
}
