//! The engine on a store in a directory: what happens to snapshots when homes and writers come, go and meet.

mod lineage;
mod locked;
mod trouble;
mod writers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::progress::Progress;
use crate::settings::{Keep, Root, Takeover, Verify};
use crate::store::{Location, S3Settings};
use crate::take::{Profile, Rules};

/// A store, and room for homes.
struct Ground {
    directory: tempfile::TempDir,
    keep: Keep,
}

impl Ground {
    fn new() -> Self {
        Ground { directory: tempfile::tempdir().unwrap(), keep: Keep::default() }
    }

    /// A home with one file that says whose it is.
    fn home(&self, name: &str) -> PathBuf {
        let home = self.directory.path().join(name);
        fs::create_dir_all(home.join("memories")).unwrap();
        fs::write(home.join("memories/whose.md"), name).unwrap();
        home
    }

    /// The place of a home that is not there yet.
    fn new_home(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> Store {
        let location = Location::Directory(self.directory.path().join("store"));
        Store::at(&location, &"here".parse().unwrap(), &S3Settings::default()).unwrap()
    }

    fn engine(&self, home: &Path) -> Engine {
        Engine::open(self.settings(home), self.store()).unwrap()
    }

    fn settings(&self, home: &Path) -> Settings {
        let rules = Arc::new(Rules::new(Profile::Everything, &[], &[]).unwrap());
        Settings {
            partition: "here".parse().unwrap(),
            roots: vec![Root { name: crate::manifest::HOME.to_owned(), path: home.to_owned(), rules }],
            spool: self.directory.path().to_owned(),
            seal: None,
            verify: Verify::Read,
            keep: self.keep,
            single_writer: false,
            takeover: Takeover::Now,
            writer: format!("test/{}", home.display()),
            blob_from: 64 * 1024,
        }
    }

    /// Keys of the store that begin so.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let partition = self.directory.path().join("store/here");
        let found = fs::read_dir(partition.join(prefix)).map(|found| found.flatten().collect::<Vec<_>>());
        found.unwrap_or_default().iter().map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

async fn snap(engine: &mut Engine) -> Outcome {
    let progress = Arc::new(Progress::default());
    engine.snapshot("asked", &progress, &Arc::new(AtomicBool::new(false))).await.unwrap()
}

async fn publish(engine: &mut Engine) -> Id {
    match snap(engine).await {
        Outcome::Published(summary) => summary.id,
        other => panic!("{other:?}"),
    }
}

async fn restore(engine: &mut Engine, which: Option<Selector>, replace: bool) -> RestoreOutcome {
    engine.restore(&RestoreRequest { which, replace }, &Arc::default()).await.unwrap()
}

/// Every file below a directory, and what is in it; what is ours is left out.
fn content(home: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(home).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            all.extend(content(&path).into_iter().map(|(below, text)| (format!("{name}/{below}"), text)));
        } else if name != crate::take::DESCENT {
            all.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    all
}
