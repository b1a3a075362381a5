//! Checks that everything a snapshot needs is in the store, and if asked that every byte of it is right. Reads only.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use crate::digest::Hasher;
use crate::manifest::{Kind, Manifest};
use crate::progress::{Progress, Step};
use crate::restore::RestoreError;
use crate::restore::feed::read_object;
use crate::restore::tarball::shown;
use crate::restore::unpack::{Flaw, Sink, wants};
use crate::seal::Seal;
use crate::store::{Store, StoreError, Trouble};

/// Read at once of a file.
const BUFFER: usize = 256 * 1024;
/// Most problems that are told one by one.
const MAX_PROBLEMS: usize = 1000;

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    /// Packs and blobs that were looked at.
    pub objects: u64,
    /// Their bytes, as stored.
    pub stored: u64,
    /// Files whose bytes were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, one line each, at most 1000 of them; empty if nothing is.
    pub problems: Vec<String>,
}

/// Looks at every object of a snapshot, and with `read_data` at every byte of it. An error means that the store did not
/// answer; what it answered wrongly is a problem.
pub async fn verify(
    store: &Store,
    manifest: &Arc<Manifest>,
    seal: Option<&Arc<Seal>>,
    read_data: bool,
    progress: &Arc<Progress>,
) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let mut missing = BTreeSet::new();
    for (at, object) in (0_u32..).zip(&manifest.about.objects) {
        let problem = match store.stat(&object.key).await {
            Ok(Some(stored)) if stored.size == object.size => None,
            Ok(Some(stored)) => {
                Some(format!("{}: has {} bytes, expected {}", object.key, stored.size, object.size))
            }
            Ok(None) => {
                Some(format!("{}: not in the store any more, though the snapshot needs it", object.key))
            }
            Err(error) if error.trouble == Trouble::Damaged => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        verified.objects += 1;
        verified.stored += object.size;
        if let Some(problem) = problem {
            missing.insert(at);
            verified.problem(problem);
        }
    }
    if !read_data {
        return Ok(verified);
    }
    let all = match wants(manifest, |_| true) {
        Ok(all) => all,
        Err(error) => {
            verified.problem(error.to_string());
            return Ok(verified);
        }
    };
    progress.begin(Step::Checking, manifest.about.bytes, manifest.about.files);
    for wants in all {
        if missing.contains(&wants.object) {
            continue;
        }
        let check = Check {
            manifest: manifest.clone(),
            key: wants.key().to_owned(),
            progress: progress.clone(),
            buffer: vec![0; BUFFER].into(),
            verified,
        };
        let (check, ended) = read_object(store, seal, wants, check).await;
        verified = check.verified;
        match ended {
            Ok(()) => {}
            Err(RestoreError::Store(error)) if error.trouble != Trouble::Damaged => return Err(error),
            Err(error) => verified.problem(error.to_string()),
        }
    }
    Ok(verified)
}

impl Verified {
    fn problem(&mut self, text: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(text);
        }
    }
}

/// Hashes files and throws them away.
struct Check {
    manifest: Arc<Manifest>,
    key: String,
    progress: Arc<Progress>,
    buffer: Box<[u8]>,
    verified: Verified,
}

impl Sink for Check {
    fn file(&mut self, at: u32, content: &mut dyn Read) -> Result<(), Flaw> {
        let mut hasher = Hasher::new();
        loop {
            let count = content.read(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&self.buffer[..count]);
            self.progress.add(count as u64, 0);
        }
        let entry = &self.manifest.entries[at as usize];
        let Kind::File(expected) = &entry.kind else { unreachable!("only files are wanted") };
        if hasher.finish() != expected.sha256 {
            let text = format!(
                "{}: `{}` is not what the manifest says: its digest differs",
                self.key,
                shown(&entry.path)
            );
            self.verified.problem(text);
        }
        self.progress.add(0, 1);
        self.verified.files += 1;
        self.verified.bytes += expected.size;
        Ok(())
    }
}
