//! Files that must survive a crash, the [`Lock`] that makes a directory ours, and where such directories are.

mod lock;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::getuid;

pub use self::lock::{Lock, LockError};
use crate::secret::random_id;

/// Replaces a file by other bytes, whole or not at all, even if the power fails; owner-only (0600).
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_mode(path, bytes, 0o600)
}

/// The same with other permissions.
pub fn write_atomic_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, mode, |_| Ok(()))
}

/// The same, but mode and owner stay those of the file that is replaced, and a link goes on leading to it: somebody else
/// may have to read it. Where there is none yet it is owner-only.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let before = match fs::metadata(path) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return write_atomic(path, bytes),
        Err(error) => return Err(error),
    };
    put(&fs::canonicalize(path)?, bytes, 0o600, |file| {
        let fresh = file.metadata()?;
        if (fresh.uid(), fresh.gid()) != (before.uid(), before.gid()) {
            std::os::unix::fs::fchown(file, Some(before.uid()), Some(before.gid()))?;
        }
        // Last: it may open the file to the group that it has only now.
        file.set_permissions(before.permissions())
    })
}

fn put(path: &Path, bytes: &[u8], mode: u32, prepare: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut temporary_name = OsString::from(".");
    temporary_name.push(name);
    // Random, so that two writers never share one; the one that renames last wins.
    temporary_name.push(format!(".{}.tmp", &random_id()[..8]));
    let temporary = directory.join(temporary_name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        prepare(&file)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself is durable only with its directory.
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Any text as the name of a file: what is no letter, digit, `.` or `-` becomes `_`.
pub fn name_of(text: &str) -> String {
    text.replace(|char: char| !char.is_ascii_alphanumeric() && !".-".contains(char), "_")
}

/// A path as the system spells it, for one that is still to be made as far as it is there: two spellings of one directory
/// are one.
pub fn real(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|known| {
        let (real, rest) = (known.canonicalize().ok()?, path.strip_prefix(known).ok()?);
        // Joined to nothing it would end in a slash.
        Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    });
    known.unwrap_or_else(|| path.to_owned())
}

/// What is kept beside a home and belongs to it, such as its lock: never in the home, which is swapped in whole when it is
/// restored.
pub fn beside(home: &Path, suffix: &str) -> PathBuf {
    let mut path = home.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

/// The lock of the daemon that takes snapshots of a home, which must be as [`real`] gives it. In one place, because others
/// ask whether there is one.
pub fn snapshots_lock(home: &Path) -> PathBuf {
    beside(home, "snapshotd.lock")
}

/// The state directory: the flag, else `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/<daemon>`, else
/// `~/.local/state/<daemon>`; made owner-only where it is missing.
pub fn state_dir(flag: Option<&Path>, daemon: &str) -> io::Result<PathBuf> {
    let directory = match flag {
        Some(directory) => directory.to_owned(),
        None => usual_state_dir(|name| std::env::var_os(name), daemon).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no state directory: set --state-dir, STATE_DIRECTORY or HOME",
            )
        })?,
    };
    make_private(&directory)?;
    Ok(directory)
}

/// The same without a flag, and without making it: where an environment has it, if that says anything.
pub fn usual_state_dir(variable: impl Fn(&str) -> Option<OsString>, daemon: &str) -> Option<PathBuf> {
    let below = |name, rest: &str| Some(absolute(variable(name))?.join(rest).join(daemon));
    first_of_list(variable("STATE_DIRECTORY"))
        .or_else(|| below("XDG_STATE_HOME", ""))
        .or_else(|| below("HOME", ".local/state"))
}

/// The directory for sockets: `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/<daemon>`, else `<daemon>-<uid>` in
/// `$TMPDIR` or `/tmp`; made owner-only where it is missing, refused where it is somebody else's.
pub fn runtime_dir(daemon: &str) -> io::Result<PathBuf> {
    let variable = |name| std::env::var_os(name);
    if let Some(directory) = first_of_list(variable("RUNTIME_DIRECTORY")) {
        make_private(&directory)?;
        return Ok(directory);
    }
    let directory = match absolute(variable("XDG_RUNTIME_DIR")) {
        Some(home) => home.join(daemon),
        None => absolute(variable("TMPDIR"))
            .unwrap_or_else(|| "/tmp".into())
            .join(format!("{daemon}-{}", getuid())),
    };
    make_private(&directory)?;
    refuse_foreign(&directory)?;
    Ok(directory)
}

/// In a directory where everybody may write, somebody else may have made ours first.
fn refuse_foreign(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let refuse = |text: String| {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: {text}", directory.display())))
    };
    if !found.is_dir() {
        return refuse("not a directory of its own; remove it".to_owned());
    }
    if found.uid() != getuid().as_raw() {
        return refuse(format!("belongs to user id {}, expected {}; remove it", found.uid(), getuid()));
    }
    if found.mode() & 0o077 != 0 {
        return refuse(format!("mode {:04o} lets others in; run chmod 700 on it", found.mode() & 0o7777));
    }
    Ok(())
}

fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

/// systemd joins several directories with colons; ours is the first.
fn first_of_list(value: Option<OsString>) -> Option<PathBuf> {
    std::env::split_paths(&value?).next().filter(|path| path.is_absolute())
}

/// The XDG specification: relative paths are to be ignored.
fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_whole_owner_only_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o600));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode_and_a_link_leads_to_it_still() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        replace(&path, b"one").unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        replace(&link, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_owner() {
        if !getuid().is_root() {
            println!("skipped: the owner of a replaced file because only root can give files away");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        std::os::unix::fs::chown(&path, Some(4321), Some(1234)).unwrap();
        replace(&path, b"two").unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid(), fs::read(&path).unwrap()), (4321, 1234, b"two".to_vec()));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::create_dir(&path).unwrap();
        write_atomic(&path, b"x").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_spellings_of_one_directory_are_one_before_and_after_it_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().canonicalize().unwrap().join(name);
        fs::create_dir(path("there")).unwrap();
        symlink(path("there"), path("link")).unwrap();
        for (spelled, expected) in [
            ("there", "there"),
            ("link", "there"),
            ("link/.", "there"),
            ("there/../link/new", "there/new"),
            ("link/new/home", "there/new/home"),
        ] {
            let (expected, real) = (path(expected), real(&path(spelled)));
            // To the letter: a hash of it may be the name of something.
            assert_eq!(real.as_os_str(), expected.as_os_str(), "{spelled}");
        }
        fs::create_dir_all(path("link/new/home")).unwrap();
        assert_eq!(real(&path("link/new/home")), path("there/new/home"));
        assert_eq!(real(Path::new("/nonexistent/../x")), Path::new("/nonexistent/../x"));
    }

    #[test]
    fn a_state_directory_is_made_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        assert_eq!(state_dir(Some(&path), "mcp-test").unwrap(), path);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn the_usual_state_directory_is_the_first_absolute_one() {
        for (state, xdg, home, expected) in [
            ("/var/lib/a:/var/lib/b", "/x", "/home/me", Some("/var/lib/a")),
            ("", "/x", "/home/me", Some("/x/mcp-test")),
            ("relative", "relative", "/home/me", Some("/home/me/.local/state/mcp-test")),
            ("", "", "", None),
        ] {
            let variable = |name: &str| match name {
                "STATE_DIRECTORY" => Some(state.into()),
                "XDG_STATE_HOME" => Some(xdg.into()),
                _ => Some(home.into()),
            };
            assert_eq!(usual_state_dir(variable, "mcp-test"), expected.map(PathBuf::from));
        }
    }

    #[test]
    fn a_directory_that_is_not_ours_alone_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (open, link) = (directory.path().join("open"), directory.path().join("link"));
        fs::create_dir(&open).unwrap();
        symlink(&open, &link).unwrap();
        refuse_foreign(&link).unwrap_err();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o770)).unwrap();
        let error = refuse_foreign(&open).unwrap_err().to_string();
        assert!(error.contains("mode 0770 lets others in"), "{error}");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
        refuse_foreign(&open).unwrap();
    }
}
