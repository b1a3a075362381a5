//! A bucket, and the machines that keep their homes in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use mcp_daemon::secret::Secret;
use snapshotd::{
    engine::{Engine, EngineError, Outcome, RestoreOutcome, RestoreRequest},
    manifest::{HOME, Manifest},
    progress::Progress,
    settings::{Keep, Root, Settings, Takeover, Verify},
    store::{Location, S3Settings, Store},
    take::{DESCENT, Profile, Rules},
};
use support::objects::Objects;
use tempfile::TempDir;

/// Files from this size on are blobs, in bytes.
const BLOB_FROM: u64 = 32 * 1024;

/// What a home is, bit for bit: mode, and bytes or target, by path.
pub type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// A bucket and its machines.
pub struct World {
    pub objects: Objects,
    ground: TempDir,
    /// How often a request is tried.
    pub attempts: u32,
    pub keep: Keep,
    pub multipart_from: u64,
    /// What the bucket held is in a directory now, and machines use that.
    ashore: bool,
}

/// All of a world at one moment.
pub struct Moment {
    bucket: BTreeMap<String, Vec<u8>>,
    copy: TempDir,
}

impl World {
    pub async fn new() -> World {
        World {
            objects: Objects::start().await,
            ground: ground(),
            attempts: 1,
            keep: Keep { last: 2, within: 0, daily: 0, weekly: 0, monthly: 0 },
            multipart_from: 1 << 30,
            ashore: false,
        }
    }

    /// The home of a machine; what is kept beside it is in the same directory.
    pub fn home(&self, machine: &str) -> PathBuf {
        self.ground.path().join(machine).join("home")
    }

    /// Takes the machine's disk away.
    pub fn lose(&self, machine: &str) {
        let disk = self.ground.path().join(machine);
        if disk.exists() {
            fs::remove_dir_all(&disk).unwrap();
        }
        fs::create_dir_all(disk).unwrap();
    }

    /// Gives a machine a home of this version.
    pub fn write(&self, machine: &str, version: u32) {
        let home = self.home(machine);
        fs::create_dir_all(home.join("memories/global/empty")).unwrap();
        fs::write(home.join("serena_config.yml"), format!("version: {version}\nprojects:\n- /one\n"))
            .unwrap();
        fs::set_permissions(home.join("serena_config.yml"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(home.join("memories/global/same.md"), "the same in all versions").unwrap();
        fs::write(home.join("memories/zero.md"), "").unwrap();
        fs::write(home.join(format!("memories/of-{version}.md")), "only in this version and later").unwrap();
        // One blob that stays, and one that changes.
        fs::write(home.join("same.bin"), noise(BLOB_FROM as usize, 1)).unwrap();
        fs::write(home.join("other.bin"), noise(BLOB_FROM as usize + 1, u64::from(version) + 2)).unwrap();
        let link = home.join("memories/link.md");
        if !link.exists() {
            symlink("global/same.md", link).unwrap();
        }
    }

    /// The bucket is right again. From here on, if so, a directory is the store, with what the bucket holds: the layout is the
    /// same, and what follows a fault is told much sooner.
    pub fn heal(&mut self, ashore: bool) {
        self.objects.heal();
        if !ashore {
            return;
        }
        for (key, bytes) in self.objects.snapshot() {
            let path = self.ground.path().join("ashore").join(key.strip_prefix("state/").unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::create_dir_all(self.ground.path().join("ashore")).unwrap();
        self.ashore = true;
    }

    /// All objects of the partition.
    fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        if !self.ashore {
            let objects = self.objects.snapshot().into_iter();
            return objects
                .map(|(key, bytes)| (key.strip_prefix("state/laptop/").unwrap().into(), bytes))
                .collect();
        }
        let below = tree(&self.ground.path().join("ashore/laptop"));
        let files = below.into_iter().filter(|(_, (mode, _))| mode & 0o170_000 == 0o100_000);
        files.map(|(path, (_, bytes))| (path.into_os_string().into_string().unwrap(), bytes)).collect()
    }

    pub fn store(&self) -> Store {
        if self.ashore {
            let location = Location::Directory(self.ground.path().join("ashore"));
            return Store::at(&location, &"laptop".parse().unwrap(), &S3Settings::default()).unwrap();
        }
        let settings = S3Settings {
            endpoint: Some(self.objects.endpoint()),
            access_key_id: self.objects.access_key().into(),
            secret_access_key: Secret::new(self.objects.secret_key().into()),
            attempts: self.attempts,
            timeout: Duration::from_secs(20),
            backoff: Duration::from_millis(1),
            multipart_from: self.multipart_from,
            part_size: 5 << 20,
            ..S3Settings::default()
        };
        let location = Location::S3 { bucket: self.objects.bucket().into(), prefix: "state".into() };
        Store::at(&location, &"laptop".parse().unwrap(), &settings).unwrap()
    }

    pub fn open(&self, machine: &str) -> Result<Engine, EngineError> {
        let rules = Arc::new(Rules::new(Profile::Everything, &[], &[]).unwrap());
        let home = self.home(machine);
        let settings = Settings {
            partition: "laptop".parse().unwrap(),
            roots: vec![Root { name: HOME.to_owned(), path: home.clone(), rules }],
            spool: home.parent().unwrap().to_owned(),
            seal: None,
            verify: Verify::Stat,
            keep: self.keep,
            single_writer: false,
            takeover: Takeover::Now,
            writer: machine.to_owned(),
            blob_from: BLOB_FROM,
        };
        Engine::open(settings, self.store())
    }

    /// One command `snapshot` of a machine.
    pub async fn snapshot(&self, machine: &str) -> Result<Outcome, EngineError> {
        snapshot(&mut self.open(machine)?).await
    }

    /// The same, which must publish.
    pub async fn publish(&self, machine: &str) {
        let outcome = self.snapshot(machine).await;
        assert!(matches!(outcome, Ok(Outcome::Published(_))), "{outcome:?}");
    }

    /// One command `restore` of a machine.
    pub async fn restore(&self, machine: &str, replace: bool) -> Result<RestoreOutcome, EngineError> {
        let request = RestoreRequest { which: None, replace };
        self.open(machine)?.restore(&request, &Arc::new(Progress::default())).await
    }

    /// What a new machine gets; `None`: there is nothing.
    pub async fn found(&self) -> Option<Tree> {
        self.lose("new");
        match self.restore("new", false).await {
            Ok(RestoreOutcome::Restored { passed_over, .. }) => {
                assert!(passed_over.is_empty(), "damaged: {passed_over:?}");
                Some(tree(&self.home("new")))
            }
            Ok(RestoreOutcome::Nothing) => None,
            other => panic!("{other:?}"),
        }
    }

    /// What a manifest points to in vain, and every pack and blob that none points to. A probe that could not be deleted is
    /// in nobody's way.
    pub fn litter(&self) -> Vec<String> {
        let stored = self.stored();
        let below = |folder: &'static str| stored.iter().filter(move |(key, _)| key.starts_with(folder));
        let mut needed = BTreeSet::new();
        for (_, bytes) in below("manifests/").chain(below("forks/")) {
            let manifest = Manifest::read(&bytes[..]).unwrap();
            needed.extend(manifest.about.objects.into_iter().map(|object| object.key));
        }
        let there: BTreeSet<_> = below("packs/").chain(below("blobs/")).map(|(key, _)| key.clone()).collect();
        let missing = needed.difference(&there).map(|key| format!("missing: {key}"));
        missing.chain(there.difference(&needed).map(|key| format!("needless: {key}"))).collect()
    }

    /// Whether everything that the bucket held at this moment is there as it was.
    pub fn still_holds(&self, moment: &Moment) -> bool {
        let now = self.objects.snapshot();
        moment.bucket.iter().all(|(key, bytes)| now.get(key) == Some(bytes))
    }

    pub fn moment(&self) -> Moment {
        let copy = ground();
        copy_all(self.ground.path(), copy.path());
        Moment { bucket: self.objects.snapshot(), copy }
    }

    /// Puts everything back as it was, and forgets the requests since.
    pub fn go_back(&mut self, moment: &Moment) {
        self.ashore = false;
        self.objects.heal();
        self.objects.reset_to(&moment.bucket);
        self.objects.forget();
        for entry in fs::read_dir(self.ground.path()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        copy_all(moment.copy.path(), self.ground.path());
    }
}

/// One snapshot of an engine that is open.
pub async fn snapshot(engine: &mut Engine) -> Result<Outcome, EngineError> {
    engine.snapshot("asked", &Arc::new(Progress::default()), &Arc::new(AtomicBool::new(false))).await
}

/// All that is below a directory, but what is ours.
pub fn tree(directory: &Path) -> Tree {
    let mut found = Tree::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == DESCENT {
                continue;
            }
            let stat = path.symlink_metadata().unwrap();
            let bytes = if stat.is_dir() {
                left.push(path.clone());
                b"directory".to_vec()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(directory).unwrap().to_owned(), (stat.mode(), bytes));
        }
    }
    found
}

/// Bytes that cannot be compressed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(length / 8 + 1).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// In memory where there is room for it: thousands of homes are written and synced.
fn ground() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        let stat = path.symlink_metadata().unwrap();
        if stat.is_dir() {
            fs::create_dir(&to).unwrap();
            fs::set_permissions(&to, stat.permissions()).unwrap();
            copy_all(&path, &to);
        } else if stat.is_symlink() {
            symlink(fs::read_link(&path).unwrap(), to).unwrap();
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}
