//! The lock that makes a directory ours: a file whose lock the system lets go when its holder ends, however that is.
//!
//! Whoever waits does so for a dead holder alone: its last child keeps the lock alive from its fork to its exec.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Looks at a lock that is free in a moment, before it counts as held all the same.
const LOOKS: u32 = 200;
/// Pause between two of them.
const LOOK: Duration = Duration::from_millis(5);

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
    #[error("{}: {cause}{}", path.display(), wanted(path, cause))]
    System {
        /// The lock file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// What would mend it: the lock of a directory is made beside it, which not everybody expects.
fn wanted(path: &Path, cause: &io::Error) -> String {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};

    match (cause.kind(), path.parent()) {
        (NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem, Some(parent)) => {
            format!("; {} must be a directory that this user may write", parent.display())
        }
        _ => String::new(),
    }
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
    /// Blocks for at most a second, where the holder is dying: for the start, when nothing is served yet.
    pub fn take(path: &Path) -> Result<Lock, LockError> {
        let mut file = open(path)?;
        for _ in 0..LOOKS {
            file = match attempt(file, path)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Soon(file) => file,
            };
            #[allow(clippy::disallowed_methods, reason = "at the start, and seldom: nothing is served yet")]
            std::thread::sleep(LOOK);
        }
        Err(held(file, path))
    }

    /// The same inside a runtime, which goes on meanwhile.
    pub async fn take_meanwhile(path: &Path) -> Result<Lock, LockError> {
        let mut file = open(path)?;
        for _ in 0..LOOKS {
            file = match attempt(file, path)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Soon(file) => file,
            };
            tokio::time::sleep(LOOK).await;
        }
        Err(held(file, path))
    }

    /// What [`Lock::take`] would say, but the lock stays whose it is, and a file that is not there is not made. The answer is
    /// as old as it is: for words to a person, and never for a decision that the lock itself has to make.
    pub fn is_free(path: &Path) -> Result<(), LockError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|cause| system(path, cause))?,
        };
        // Shared, so that those who ask at once do not see each other.
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_free) => Ok(()),
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let holder = holder(&mut file);
                if is_dead(holder) { Ok(()) } else { Err(LockError::Held { path: path.to_owned(), holder }) }
            }
            Err((_, errno)) => Err(system(path, errno.into())),
        }
    }
}

enum Attempt {
    Taken(Lock),
    /// Free in a moment.
    Soon(File),
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // its content is the holder's
        .mode(0o600)
        .open(path)
        .map_err(|cause| system(path, cause))
}

fn attempt(file: File, path: &Path) -> Result<Attempt, LockError> {
    let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((mut file, Errno::EWOULDBLOCK)) => {
            if is_dead(holder(&mut file)) {
                return Ok(Attempt::Soon(file));
            }
            // Whoever only asks keeps nobody from it.
            return match Flock::lock(file, FlockArg::LockSharedNonblock) {
                Ok(asked) => {
                    asked.unlock().map(Attempt::Soon).map_err(|(_, errno)| system(path, errno.into()))
                }
                Err((file, _)) => Err(held(file, path)),
            };
        }
        Err((_, errno)) => return Err(system(path, errno.into())),
    };
    // Who holds it is good to know; on a full disk it is held all the same.
    let _ =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Attempt::Taken(Lock { _file: file }))
}

fn system(path: &Path, cause: io::Error) -> LockError {
    LockError::System { path: path.to_owned(), cause }
}

fn held(mut file: File, path: &Path) -> LockError {
    LockError::Held { path: path.to_owned(), holder: holder(&mut file) }
}

/// Whose number is in the file.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    text.trim().parse().ok()
}

fn is_dead(holder: Option<u32>) -> bool {
    holder.is_some_and(|pid| kill(Pid::from_raw(pid as i32), None) == Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A lock that a child of a dead holder has not let go: as between its fork and its exec, until it is let go on.
    fn dying(path: &Path) -> Child {
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        fs::write(path, format!("{}\n", dead.id())).unwrap();
        let script = "exec 9<>\"$1\"; flock 9; echo held; read -r line";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        child
    }

    #[test]
    fn a_lock_that_is_held_names_its_holder_and_is_free_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        let text = format!("{}: in use by process {}", path.display(), std::process::id());
        assert_eq!(Lock::take(&path).unwrap_err().to_string(), text);
        assert_eq!(Lock::is_free(&path).unwrap_err().to_string(), text);
        drop(lock);
        Lock::is_free(&path).unwrap();
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_lock_that_cannot_be_made_says_what_must_be_writable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/home.lock");
        let error = Lock::take(&path).unwrap_err().to_string();
        let parent = directory.path().join("missing");
        let wanted = format!("; {} must be a directory that this user may write", parent.display());
        assert!(error.starts_with(&path.display().to_string()) && error.ends_with(&wanted), "{error}");
    }

    #[test]
    fn whoever_only_asks_leaves_the_lock_as_it_is_and_keeps_nobody_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        Lock::is_free(&path).unwrap();
        assert!(!path.exists());
        // One who is just asking, for longer than anybody does; the number is that of somebody who lives.
        fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        let asked = Flock::lock(File::open(&path).unwrap(), FlockArg::LockSharedNonblock).unwrap();
        Lock::is_free(&path).unwrap();
        let Attempt::Soon(file) = attempt(open(&path).unwrap(), &path).unwrap() else { panic!("taken") };
        drop(asked);
        assert!(matches!(attempt(file, &path).unwrap(), Attempt::Taken(_)));
    }

    #[test]
    fn a_lock_that_a_dead_holders_child_has_not_let_go_yet_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut child = dying(&path);
        Lock::is_free(&path).unwrap();
        assert!(matches!(attempt(open(&path).unwrap(), &path), Ok(Attempt::Soon(_))));
        drop(child.stdin.take());
        Lock::take(&path).unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn and_others_are_served_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let mut child = dying(&path);
        // Only the other one lets it go: it would never be taken by one who blocks.
        let (taken, ()) = tokio::join!(Lock::take_meanwhile(&path), async { drop(child.stdin.take()) });
        taken.unwrap();
        child.wait().unwrap();
    }
}
