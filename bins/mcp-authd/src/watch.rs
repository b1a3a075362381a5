//! Notices that files have changed, by looking at them once a second: works on every file system, and for files that are
//! links into a directory which is swapped as a whole (Kubernetes secrets).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A file that is just being written is looked at again after this, until it stays the same.
const SETTLE: Duration = Duration::from_millis(200);
/// Longest wait for a file to stay the same.
const PATIENCE: u32 = 4;

/// What files look like from outside; two that are equal hold the same, but for a change within one tick of the file
/// system's clock that keeps the size.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Look(Vec<Option<Seen>>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    /// Looks at files, and at those in a directory.
    pub fn at(paths: &[PathBuf]) -> Self {
        let mut seen = Vec::new();
        for path in paths {
            seen.push(Seen::of(path));
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let mut inside: Vec<_> = entries.map(|entry| entry.path()).collect();
            inside.sort();
            seen.extend(inside.iter().map(|path| Seen::of(path)));
        }
        Self(seen)
    }
}

impl Seen {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Ends when the files look different from `before` and have stayed so for a moment; how they look now.
pub async fn changed(paths: &Arc<[PathBuf]>, before: &Look) -> Look {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut now = look(paths).await;
        if now == *before {
            continue;
        }
        for _ in 0..PATIENCE {
            tokio::time::sleep(SETTLE).await;
            let again = look(paths).await;
            if again == now {
                break;
            }
            now = again;
        }
        return now;
    }
}

async fn look(paths: &Arc<[PathBuf]>) -> Look {
    let paths = paths.clone();
    aside(move || Look::at(&paths)).await
}

/// Does on a thread of its own what takes long: a directory may have thousands of files, and nobody should wait for it.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_directories_and_swapped_links_are_seen_to_change() {
        let directory = tempfile::tempdir().unwrap();
        let [file, inside, link] = ["file", "inside", "link"].map(|name| directory.path().join(name));
        fs::create_dir(&inside).unwrap();
        fs::write(&file, "1").unwrap();
        for target in ["one", "two"] {
            fs::write(directory.path().join(target), target).unwrap();
        }
        std::os::unix::fs::symlink("one", &link).unwrap();
        let paths = [file.clone(), inside.clone(), link.clone()];
        let mut before = Look::at(&paths);
        assert_eq!(before, Look::at(&paths));
        let mut differs = |what: &str| {
            let now = Look::at(&paths);
            assert_ne!(before, now, "{what}");
            before = now;
        };
        fs::write(&file, "12").unwrap();
        differs("a longer file");
        fs::write(inside.join("new"), "").unwrap();
        differs("a new file in a directory");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("two", &link).unwrap();
        differs("a link that leads elsewhere");
        fs::remove_file(&file).unwrap();
        differs("a file that is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_not_taken_half() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "whole").unwrap();
        let paths = Arc::from([file.clone()]);
        let before = Look::at(&paths);
        fs::write(&file, "").unwrap();
        let writer = async {
            tokio::time::sleep(LOOK + SETTLE / 2).await;
            fs::write(&file, "whole again").unwrap();
        };
        let (look, ()) = tokio::join!(changed(&paths, &before), writer);
        assert_eq!(look, Look::at(&paths));
    }
}
