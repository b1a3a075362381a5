//! Files that must survive a crash, the lock that makes a state directory ours, and where such directories are.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::{Pid, getuid};

use crate::secret::random_id;

/// Looks at a lock whose holder is dead, before it counts as held all the same.
const DYING_LOOKS: u32 = 200;
/// Pause between two of them.
const DYING_LOOK: Duration = Duration::from_millis(5);

/// Replaces a file by other bytes, whole or not at all, even if the power fails; owner-only (0600).
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_mode(path, bytes, 0o600)
}

/// The same with other permissions.
pub fn write_atomic_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
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

/// Why a lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{}: in use by {}", path.display(), holder_text(*.holder))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process id written in it, where one is readable.
        holder: Option<u32>,
    },
    /// The file cannot be made or written.
    #[error("{}: {cause}", path.display())]
    System {
        /// The lock file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A lock that is ours until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock or says who holds it; the file stays, because removing it would let two processes lock two files.
    pub fn take(path: &Path) -> Result<Lock, LockError> {
        let system = |cause| LockError::System { path: path.to_owned(), cause };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // its content is the holder's
            .mode(0o600)
            .open(path)
            .map_err(system)?;
        let mut file = lock(file, path)?;
        // Who holds it is good to know; on a full disk it is held all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }
}

/// Any text as the name of a file: what is no letter, digit, `.` or `-` becomes `_`.
pub fn name_of(text: &str) -> String {
    text.replace(|char: char| !char.is_ascii_alphanumeric() && !".-".contains(char), "_")
}

/// Locks the file. A dead holder's last child keeps the lock alive from its fork to its exec: that is waited for.
fn lock(mut file: File, path: &Path) -> Result<Flock<File>, LockError> {
    for _ in 0..DYING_LOOKS {
        let (mut held, errno) = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => return Ok(file),
            Err(refused) => refused,
        };
        if errno != Errno::EWOULDBLOCK {
            return Err(LockError::System { path: path.to_owned(), cause: errno.into() });
        }
        let holder = holder(&mut held);
        let is_dead = holder.is_some_and(|pid| kill(Pid::from_raw(pid as i32), None) == Err(Errno::ESRCH));
        if !is_dead {
            return Err(LockError::Held { path: path.to_owned(), holder });
        }
        file = held;
        #[allow(clippy::disallowed_methods, reason = "at the start, and seldom: nothing is served yet")]
        std::thread::sleep(DYING_LOOK);
    }
    Err(LockError::Held { path: path.to_owned(), holder: holder(&mut file) })
}

/// Whose number is in the file.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    text.trim().parse().ok()
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
    fn a_write_that_fails_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::create_dir(&path).unwrap();
        write_atomic(&path, b"x").unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_that_is_held_names_its_holder_and_is_free_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{}: in use by process {}", path.display(), std::process::id()));
        drop(lock);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_lock_that_a_dead_holders_child_has_not_let_go_yet_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        fs::write(&path, format!("{}\n", dead.id())).unwrap();
        // Holds the lock as a child does between its fork and its exec.
        let script = "exec 9<>\"$1\"; flock 9; echo held; exec sleep 0.2";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Lock::take(&path).unwrap();
        child.wait().unwrap();
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
