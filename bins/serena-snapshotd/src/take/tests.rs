//! Whole readings of real directories; what was delivered is unpacked here by hand.

mod living;
mod storing;
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::layout::{Id, PACKS};
use crate::manifest::{About, Content, Kind, count, tree_digest};

/// A home, and a store that only remembers.
struct World {
    home: TempDir,
    _beside: TempDir,
    spool: PathBuf,
    objects: BTreeMap<String, Vec<u8>>,
    blob_from: u64,
    seal: Option<Seal>,
    cancelled: AtomicBool,
}

impl World {
    fn new() -> Self {
        let beside = tempfile::tempdir().unwrap();
        World {
            home: tempfile::tempdir().unwrap(),
            spool: beside.path().join("spool"),
            _beside: beside,
            objects: BTreeMap::new(),
            blob_from: MAX_SMALL,
            seal: None,
            cancelled: AtomicBool::new(false),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn roots(path: &Path) -> [Root; 1] {
        let rules = Arc::new(Rules::new(Profile::Everything, &[], &[]).unwrap());
        [Root { name: "home".to_owned(), path: path.to_owned(), rules }]
    }

    fn take(&mut self, base: Option<&Manifest>, seen: Option<&Seen>) -> Result<Taken, TakeError> {
        let roots = World::roots(self.home.path());
        let objects = &mut self.objects;
        let job = Job {
            roots: &roots,
            base,
            seen,
            spool: &self.spool,
            seal: self.seal.as_ref(),
            blob_from: self.blob_from,
            progress: &Progress::default(),
            cancelled: &self.cancelled,
        };
        take(&job, &mut |made| {
            let bytes = bytes_of(&made);
            assert_eq!((bytes.len() as u64, Digest::of(&bytes)), (made.size, made.sha256));
            assert!(made.key.contains(&made.sha256.to_string()), "{}", made.key);
            assert!(objects.insert(made.key, bytes).is_none(), "two objects have one name");
            Ok(())
        })
    }

    /// Takes a snapshot that must find something new.
    fn new_snapshot(&mut self, base: Option<&Manifest>) -> (Manifest, Seen) {
        match self.take(base, None).unwrap() {
            Taken::New(draft) => manifest(draft),
            Taken::Same(_) => panic!("nothing new"),
        }
    }

    fn is_same(&mut self, base: &Manifest, seen: Option<&Seen>) -> bool {
        matches!(self.take(Some(base), seen).unwrap(), Taken::Same(_))
    }

    /// What is stored for a file.
    fn stored(&self, manifest: &Manifest, path: &str) -> Vec<u8> {
        let Kind::File(content) = &manifest.find(path.as_bytes()).unwrap().kind else {
            panic!("no file: {path}")
        };
        let key = &manifest.about.objects[content.object as usize].key;
        let bytes = zstd::decode_all(&self.objects[key][..]).unwrap();
        let bytes = if key.starts_with(PACKS) { unpack(&bytes)[path.as_bytes()].clone() } else { bytes };
        assert_eq!((bytes.len() as u64, Digest::of(&bytes)), (content.size, content.sha256));
        bytes
    }

    fn packs(manifest: &Manifest) -> Vec<&str> {
        let keys = manifest.about.objects.iter().map(|object| &*object.key);
        keys.filter(|key| key.starts_with(PACKS)).collect()
    }
}

fn content<'a>(manifest: &'a Manifest, path: &str) -> &'a Content {
    match &manifest.find(path.as_bytes()).unwrap().kind {
        Kind::File(content) => content,
        Kind::Directory | Kind::Link(_) => panic!("no file: {path}"),
    }
}

fn bytes_of(made: &Made) -> Vec<u8> {
    match &made.bytes {
        MadeBytes::Memory(bytes) => bytes.to_vec(),
        MadeBytes::Spooled(file) => {
            let mut bytes = vec![0; made.size as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(file.metadata().unwrap().len(), made.size);
            bytes
        }
    }
}

/// The regular files of a tar archive.
fn unpack(bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(files.insert(entry.path_bytes().into_owned(), bytes).is_none());
        }
    }
    files
}

/// A draft as the manifest that it becomes; that it may be read again is part of every test.
fn manifest(draft: Draft) -> (Manifest, Seen) {
    let Draft { entries, objects, seen, .. } = draft;
    let (files, bytes, unsettled) = count(&entries);
    let about = About {
        id: Id::new(1, 1),
        created: Timestamp::UNIX_EPOCH,
        writer: "host/1".to_owned(),
        reason: "asked".to_owned(),
        tree: tree_digest(&entries),
        files,
        bytes,
        unsettled,
        projects: None,
        objects,
        ancestors: Vec::new(),
    };
    let manifest = Manifest { about, entries };
    let mut written = Vec::new();
    manifest.write(&mut written).unwrap();
    assert_eq!(Manifest::read(&written[..]).unwrap(), manifest);
    (manifest, seen)
}
