//! What a home says of itself, in a file of its own: the snapshot that it descends from. It stands in the home and not beside
//! it, so that it goes and comes with what it speaks of: a home that was lost and made anew says nothing, one from an old
//! disk says what was true then, and one that was moved or copied says what it said.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mcp_daemon::files::write_atomic_mode;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::EngineError;
use super::marker::Intent;
use crate::head::{Pointer, Versioned};
use crate::layout::Id;
use crate::take::DESCENT;

/// The only version there is.
const VERSION: u32 = 1;
/// Largest statement in bytes that is read; ours are below 1 KiB.
const MAX_DESCENT: u64 = 16 * 1024;
/// There is no secret in it, and whoever copies the home must be able to read it.
const MODE: u32 = 0o644;

/// What a home says of itself; nothing, unless somebody has written it there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Descent {
    /// The first attempt to publish a home that descends from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Id>,
    /// The snapshot that it descends from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Pointer>,
    /// The fork that it has at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Pointer>,
}

impl Descent {
    /// What a home says that holds this snapshot.
    pub fn from(base: Pointer) -> Self {
        Descent { attempt: None, base: Some(base), fork: None }
    }

    /// Reads what a home says. What is not readable says nothing: then the home is a stranger, and a person chooses.
    pub fn read(home: &Path) -> Result<Self, EngineError> {
        let path = home.join(DESCENT);
        let system = |cause| EngineError::Home { path: path.display().to_string(), cause };
        // Whoever writes the home may have put anything there: no link is followed, and no pipe is waited for.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Descent::default());
            }
            Err(cause) => return Err(system(cause)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_DESCENT).read_to_end(&mut bytes).map_err(system)?;
        match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version }) if version != VERSION => {
                let why = format!(
                    "written by a newer serena-snapshotd (version {version}, expected {VERSION}); update this one"
                );
                Err(system(io::Error::new(io::ErrorKind::InvalidData, why)))
            }
            read => {
                let said =
                    read.and_then(|_| serde_json::from_slice(&bytes)).map_err(|error| error.to_string());
                Ok(said.and_then(Descent::checked).unwrap_or_else(|why| {
                    log::warn!(file:% = path.display(), why; "not readable: the home does not say what it descends from");
                    Descent::default()
                }))
            }
        }
    }

    /// Refuses what names a place in the store that is not the one of its snapshot.
    fn checked(self) -> Result<Self, String> {
        for one in self.base.iter().chain(&self.fork) {
            if Id::of_key(&one.manifest).as_ref() != Some(&one.id) {
                return Err(format!("{} is not the manifest of {}", one.manifest, one.id));
            }
        }
        Ok(self)
    }

    /// As it stands in the home.
    pub fn to_bytes(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Stored<'a> {
            version: u32,
            #[serde(flatten)]
            descent: &'a Descent,
        }
        let stored = Stored { version: VERSION, descent: self };
        let mut bytes = serde_json::to_vec_pretty(&stored).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Lets the home say it; on disk once this returns.
    pub fn write(&self, home: &Path) -> Result<(), EngineError> {
        let path = home.join(DESCENT);
        let written = match write_atomic_mode(&path, &self.to_bytes(), MODE) {
            // Nothing can be made in the home, but what is there can be written. Half written, it says nothing.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                overwrite(&path, &self.to_bytes()).map_err(|_| error)
            }
            written => written,
        };
        written.map_err(|cause| EngineError::Home { path: path.display().to_string(), cause })
    }

    /// Lets the home say nothing any more; on disk once this returns.
    pub fn forget(home: &Path) -> Result<(), EngineError> {
        let path = home.join(DESCENT);
        match fs::remove_file(&path) {
            Ok(()) => File::open(home).and_then(|home| home.sync_all()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
        .map_err(|cause| EngineError::Home { path: path.display().to_string(), cause })
    }

    /// By what the home that says this is known again: the snapshot that it descends from, or its first attempt.
    pub fn known_by(&self) -> Option<&Id> {
        self.base.as_ref().map(|base| &base.id).or(self.attempt.as_ref())
    }

    /// Whether an attempt was made with the home that says this, as it still is, or is what it says already.
    pub fn made(&self, intent: &Intent) -> bool {
        self.known_by().is_some_and(|known| intent.after.as_ref() == Some(known) || *known == intent.id)
    }
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = OpenOptions::new().write(true).truncate(true).custom_flags(flags.bits()).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;
    use crate::digest::Digest;

    fn pointer(id: &Id) -> Pointer {
        let manifest = id.manifest(false);
        Pointer { id: id.clone(), manifest, manifest_sha256: Digest::of(b""), tree: Digest::of(b"") }
    }

    #[test]
    fn a_home_says_what_was_written_there_and_nothing_once_it_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        assert_eq!(Descent::read(&home).unwrap(), Descent::default());
        fs::create_dir(&home).unwrap();
        let says = Descent::from(pointer(&Id::new(7, 1)));
        says.write(&home).unwrap();
        assert_eq!(Descent::read(&home).unwrap(), says);
        let moved = directory.path().join("moved");
        fs::rename(&home, &moved).unwrap();
        fs::create_dir(&home).unwrap();
        assert_eq!(
            (Descent::read(&moved).unwrap(), Descent::read(&home).unwrap()),
            (says, Descent::default())
        );
        Descent::forget(&moved).unwrap();
        Descent::forget(&moved).unwrap();
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 0);
    }

    #[test]
    fn whatever_else_is_in_its_place_says_nothing_or_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (home, path) = (directory.path(), directory.path().join(DESCENT));
        for text in ["", "{", "{}", r#"{"version": 1, "base": "none"}"#] {
            fs::write(&path, text).unwrap();
            assert_eq!(Descent::read(home).unwrap(), Descent::default(), "{text}");
        }
        fs::write(&path, r#"{"version": 2, "descends_from": "something new"}"#).unwrap();
        let error = Descent::read(home).unwrap_err().to_string();
        assert!(error.contains("a newer serena-snapshotd (version 2, expected 1)"), "{error}");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert_eq!(Descent::read(home).unwrap(), Descent::default());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        Descent::read(home).unwrap_err();
    }

    #[test]
    fn an_attempt_is_that_of_the_home_that_it_followed() {
        let [one, two, other] = [Id::new(1, 1), Id::new(2, 1), Id::new(1, 1)];
        let intent = |after: Option<&Id>| Intent { id: two.clone(), after: after.cloned(), keys: Vec::new() };
        let says = |base: &Id| Descent::from(pointer(base));
        let first = Descent { attempt: Some(two.clone()), ..Descent::default() };
        for (says, intent, expected) in [
            (says(&one), intent(Some(&one)), true),
            // It was published, and only the marker has not heard of it.
            (says(&two), intent(Some(&one)), true),
            (first, intent(Some(&two)), true),
            (says(&other), intent(Some(&one)), false),
            (Descent::default(), intent(Some(&one)), false),
            (Descent::default(), intent(None), false),
        ] {
            assert_eq!(says.made(&intent), expected, "{says:?} {intent:?}");
        }
    }
}
