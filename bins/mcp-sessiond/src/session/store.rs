//! Sessions on disk: `<state dir>/<listener>/<hash>.json`, owner-only, one writer thread so that the newest write wins.
//!
//! A file that cannot be read is set aside with a warning, never deleted: it is somebody's session.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use mcp_daemon::files::{self, Lock, LockError};
use tokio::sync::oneshot;

use super::Key;
use super::memory::{Memory, Replay};

/// Where sessions are kept; in memory only for the stdio front.
#[derive(Debug)]
pub struct Store {
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    writes: mpsc::Sender<Write>,
    _lock: Lock,
}

#[derive(Debug)]
struct Write {
    file: Option<File>,
    done: oneshot::Sender<io::Result<()>>,
}

/// A file and what is to be in it; none: it is to be gone.
#[derive(Debug)]
struct File {
    name: String,
    content: Option<Vec<u8>>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory.
    #[error("{path}: {source}")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error(transparent)]
    Locked(#[from] LockError),
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Found {
    /// The sessions, with the time of their last write.
    pub sessions: Vec<(Key, Memory, std::time::SystemTime)>,
    /// Keys of sessions that were deleted, oldest first.
    pub deleted: Vec<Key>,
    /// Calls to replay, by route (`""` for none).
    pub replays: Vec<(String, Replay)>,
}

/// A promise that a write has reached the disk.
#[derive(Debug)]
pub struct Saved(Option<oneshot::Receiver<io::Result<()>>>);

impl Saved {
    /// There was nothing to write.
    pub fn already() -> Self {
        Self(None)
    }

    /// Waits for it; a failed write is logged and does not stop the session, which is then lost at our next restart only.
    pub async fn wait(self) {
        let Some(done) = self.0 else { return };
        if let Ok(Err(error)) = done.await {
            log::error!(error:% = error; "session not saved, it would not survive a restart of mcp-sessiond");
        }
    }
}

impl Store {
    /// Keeps nothing.
    pub fn in_memory() -> Self {
        Self { disk: None }
    }

    /// Opens `directory` for this process alone and reads what is there.
    pub fn open(directory: &Path) -> Result<(Self, Found), StoreError> {
        let wrong = |source| StoreError::Directory { path: directory.to_owned(), source };
        create_private(directory).map_err(wrong)?;
        let lock = Lock::take(&directory.join("lock"))?;
        let found = read(directory).map_err(wrong)?;
        let (writes, queue) = mpsc::channel::<Write>();
        let target = directory.to_owned();
        std::thread::Builder::new()
            .name("store".into())
            .stack_size(128 << 10)
            .spawn(move || {
                for write in queue {
                    let file = write.file.as_ref();
                    let result = file.map_or(Ok(()), |file| apply(&target, file));
                    let _ = write.done.send(result);
                }
            })
            .map_err(wrong)?;
        Ok((Self { disk: Some(Disk { writes, _lock: lock }) }, found))
    }

    /// Writes a session; call it under the session's lock, so that the order of writes is the order of changes.
    pub fn save(&self, key: &Key, memory: &Memory) -> Saved {
        self.write(format!("{key}.json"), || serde_json::to_vec(memory).ok())
    }

    /// Writes the calls to replay of a route.
    pub fn save_replay(&self, route: &str, replay: &Replay) -> Saved {
        self.write(format!("replay-{route}.json"), || serde_json::to_vec(replay).ok())
    }

    /// Forgets a session, and remembers that it was deleted if `deleted`.
    pub fn remove(&self, key: &Key, deleted: bool) -> Saved {
        let removed = self.write(format!("{key}.json"), || None);
        if deleted { self.write(format!("{key}.deleted"), || Some(Vec::new())) } else { removed }
    }

    /// Forgets that a session was deleted.
    pub fn forget_deleted(&self, key: &Key) {
        let _later = self.write(format!("{key}.deleted"), || None);
    }

    /// All that was written so far, also what nobody waits for: a process that ends before is ended with its last writes.
    pub fn settled(&self) -> Saved {
        self.queue(|| None)
    }

    fn write(&self, name: String, content: impl FnOnce() -> Option<Vec<u8>>) -> Saved {
        self.queue(|| Some(File { name, content: content() }))
    }

    fn queue(&self, file: impl FnOnce() -> Option<File>) -> Saved {
        let Some(disk) = &self.disk else { return Saved(None) };
        let (done, saved) = oneshot::channel();
        let sent = disk.writes.send(Write { file: file(), done });
        Saved(sent.is_ok().then_some(saved))
    }
}

fn create_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn apply(directory: &Path, file: &File) -> io::Result<()> {
    let path = directory.join(&file.name);
    match &file.content {
        Some(content) => files::write_atomic(&path, content),
        None => match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

fn read(directory: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut deleted = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let written = entry.metadata()?.modified()?;
        if let Some(key) = name.strip_suffix(".deleted").and_then(|key| key.parse().ok()) {
            deleted.push((written, key));
        } else if let Some(route) = name.strip_prefix("replay-").and_then(|name| name.strip_suffix(".json")) {
            match parse::<Replay>(&path) {
                Ok(replay) => found.replays.push((route.to_owned(), replay)),
                Err(error) => set_aside(&path, &error)?,
            }
        } else if let Some(key) = name.strip_suffix(".json").and_then(|key| key.parse().ok()) {
            match parse::<Memory>(&path) {
                Ok(memory) if Key::new(&memory.subject, &memory.id) == key => {
                    found.sessions.push((key, memory, written))
                }
                Ok(_) => set_aside(&path, "it is named after another session")?,
                Err(error) => set_aside(&path, &error)?,
            }
        }
    }
    deleted.sort_unstable_by_key(|(written, _)| *written);
    found.deleted = deleted.into_iter().map(|(_, key)| key).collect();
    // Deleted is for ever, whatever else an earlier life has left of it.
    let over: HashSet<Key> = found.deleted.iter().copied().collect();
    for (key, ..) in found.sessions.extract_if(.., |(key, ..)| over.contains(key)) {
        std::fs::remove_file(directory.join(format!("{key}.json")))?;
    }
    Ok(found)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let content = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&content).map_err(|error| error.to_string())
}

fn set_aside(path: &Path, why: &str) -> io::Result<()> {
    log::warn!(file:% = path.display(), error = why; "session file set aside, it cannot be read");
    std::fs::rename(path, path.with_extension("damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory::anonymous_params;

    fn memory(id: &str) -> Memory {
        Memory {
            id: id.into(),
            subject: "".into(),
            route: None,
            version: "2025-11-25".into(),
            params: anonymous_params("2025-11-25"),
            upstream: Some("up".into()),
            generation: 3,
            level: None,
            subscriptions: ["file:///a".into()].into(),
            told_of_changes: true,
            tools: None,
            replay: Replay::new(),
        }
    }

    #[tokio::test]
    async fn what_was_saved_is_found_again_and_only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let (store, found) = Store::open(&path).unwrap();
        assert!(found.sessions.is_empty());
        let (kept, gone) = (Key::new("", "kept"), Key::new("", "gone"));
        store.save(&kept, &memory("kept")).wait().await;
        store.save(&gone, &memory("gone")).wait().await;
        store.remove(&gone, true).wait().await;
        drop(store);
        assert_eq!(
            std::fs::metadata(path.join(format!("{kept}.json"))).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let (_store, found) = Store::open(&path).unwrap();
        assert_eq!(found.sessions.len(), 1);
        assert_eq!((found.sessions[0].0, &*found.sessions[0].1.id), (kept, "kept"));
        assert_eq!(found.deleted, [gone]);
    }

    #[tokio::test]
    async fn what_was_deleted_stays_deleted_whatever_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let key = Key::new("", "gone");
        store.remove(&key, true).wait().await;
        store.save(&key, &memory("gone")).wait().await;
        drop(store);
        let (_store, found) = Store::open(directory.path()).unwrap();
        assert_eq!((found.sessions.len(), found.deleted), (0, vec![key]));
        assert!(!directory.path().join(format!("{key}.json")).exists());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_too() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let keys: Vec<Key> = (0..100).map(|number| Key::new("", &number.to_string())).collect();
        for key in &keys {
            let _written_later = store.remove(key, true);
        }
        store.settled().wait().await;
        assert!(keys.iter().all(|key| directory.path().join(format!("{key}.deleted")).exists()));
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside_and_the_others_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let key = Key::new("", "kept");
        store.save(&key, &memory("kept")).wait().await;
        drop(store);
        let damaged = Key::new("", "damaged");
        std::fs::write(directory.path().join(format!("{damaged}.json")), b"{\"id\":").unwrap();
        let (_store, found) = Store::open(directory.path()).unwrap();
        assert_eq!(found.sessions.len(), 1);
        assert!(directory.path().join(format!("{damaged}.damaged")).exists());
    }

    #[test]
    fn two_processes_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        assert!(
            Store::open(directory.path()).unwrap_err().to_string().contains(&std::process::id().to_string())
        );
    }
}
