//! A cgroup of version 2 for one tree, below our own: nobody leaves it by forking, and one write kills all of it.
//!
//! Used where it was delegated to us, which shows in that we can make one; it adds to the walk of /proc and never
//! replaces it. Controllers are left as they are: while we sit in the parent we could not enable any.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "what is not there is not used"))]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpid};
use tokio::time::{Instant, sleep};

use super::FIRST_LOOK;
use super::tag::owner_digest;
use crate::secret::random_id;

/// What the names of our cgroups begin with.
const PREFIX: &str = "mcp-tree-";
/// Longest part of a name that is the caller's, in bytes.
const MAX_NAME: usize = 64;
/// How long the last process of a cgroup may take from its death until the system counts it no more.
const REMOVE_LIMIT: Duration = Duration::from_secs(1);

/// The cgroups of this process that are in use, so that a sweep spares them.
static LIVING: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// An empty cgroup for a [`super::Launch`], or the one of a running tree; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// Makes one below our own, if we may. `owner` is the one of the launch, `name` is for people who look.
    pub fn create(owner: &str, name: &str) -> Option<Cgroup> {
        let parent = our_own()?;
        let name: String = name
            .chars()
            .filter(|char| char.is_ascii_alphanumeric() || ".-_".contains(*char))
            .take(MAX_NAME)
            .collect();
        let last = format!("{}.{}", getpid(), &random_id()[..8]);
        let directory = parent.join(format!("{PREFIX}{}-{name}-{last}", owner_digest(owner)));
        // What a tree that was dropped could not remove, because it was still dying, and what was killed with us above it.
        Leftovers::of(&owner_digest(owner)).remove();
        Leftovers::of_the_dead(&parent).remove();
        // A process may be moved by who may write here and there.
        File::options().write(true).open(parent.join("cgroup.procs")).ok()?;
        // Before it exists: a sweep must not come in between.
        living().insert(directory.clone());
        let cgroup = Cgroup { directory };
        fs::create_dir(&cgroup.directory).ok()?;
        cgroup.entrance().ok()?;
        Some(cgroup)
    }

    /// The directory, for people.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Whoever writes `0` to it is in.
    pub(super) fn entrance(&self) -> io::Result<File> {
        File::options().write(true).open(self.directory.join("cgroup.procs"))
    }

    /// Whether a process is in it or below, dead or alive.
    pub(super) fn holds(&self, pid: u32) -> bool {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        Path::new(path).iter().any(|name| Some(name) == self.directory.file_name())
    }

    /// The processes in it and below, without those that have ended.
    pub(super) fn members(&self) -> Vec<i32> {
        members(&self.directory)
    }

    /// Removes the directory, once nobody is in it; whoever has just died may still be for a moment.
    pub(super) async fn remove(&self) {
        wait_until_removed(slice::from_ref(&self.directory)).await;
    }

    /// Kills all of it at once, where the system can (Linux 5.14).
    pub(super) fn kill(&self) {
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
    }

    /// Bytes in use, the page cache of its files included; `None` without the memory controller.
    pub(super) fn memory(&self) -> Option<u64> {
        fs::read_to_string(self.directory.join("memory.current")).ok()?.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory) {
            log::debug!(cgroup:% = self.directory.display(), error:%; "cgroup not removed, the next start does");
        }
        living().remove(&self.directory);
    }
}

/// Kills whoever is in a cgroup of this process that is in use, at once where the system can.
pub(super) fn kill_living() {
    for directory in &*living() {
        let _ = fs::write(directory.join("cgroup.kill"), "1");
    }
}

/// The processes in the cgroups of this process that are in use.
pub(super) fn living_members() -> Vec<i32> {
    living().iter().flat_map(|directory| members(directory)).collect()
}

/// Removes the cgroups of this process, for one that ends; whether all are gone.
pub(super) fn remove_living() -> bool {
    remove_all(living().iter())
}

/// The cgroups that a dead process of this owner left below ours.
pub(super) struct Leftovers(Vec<PathBuf>);

impl Leftovers {
    pub(super) fn of(owner_digest: &str) -> Self {
        let prefix = format!("{PREFIX}{owner_digest}-");
        let living = living();
        let found =
            our_own().map_or_else(Vec::new, |parent| children(&parent)).into_iter().filter(|directory| {
                let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with(&prefix) && !living.contains(directory)
            });
        Leftovers(found.collect())
    }

    /// Empty ones of any owner whose maker is dead. Removed by whoever comes by: their owner may never start again.
    fn of_the_dead(parent: &Path) -> Self {
        let is_dead = |directory: &PathBuf| {
            let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-')?.1.split_once('.'));
            let maker = maker.and_then(|(pid, _)| pid.parse().ok());
            maker.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
        };
        let is_empty = |directory: &PathBuf| {
            let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == "populated 0")
        };
        Leftovers(children(parent).into_iter().filter(is_dead).filter(is_empty).collect())
    }

    pub(super) fn members(&self) -> Vec<i32> {
        self.0.iter().flat_map(|directory| members(directory)).collect()
    }

    /// Removes those that are empty.
    pub(super) fn remove(&self) {
        remove_all(&self.0);
    }

    /// Removes all of them, once nobody is in them.
    pub(super) async fn removed(&self) {
        wait_until_removed(&self.0).await;
    }
}

fn living() -> MutexGuard<'static, HashSet<PathBuf>> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directory of the cgroup that we are in.
fn our_own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    locate(&mounts, &groups)
}

/// Finds a cgroup by the line `0::<path>` below the mount that shows it.
fn locate(mounts: &str, groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = left.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        // A mount may show a part of the hierarchy only.
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(&mount_point.replace("\\040", " ")).join(below))
    })
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn members(directory: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process that is not in our pid namespace.
    let mut members: Vec<i32> =
        procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for child in children(directory) {
        members.extend(self::members(&child));
    }
    members
}

async fn wait_until_removed(directories: &[PathBuf]) {
    let deadline = Instant::now() + REMOVE_LIMIT;
    while !remove_all(directories) && Instant::now() < deadline {
        sleep(FIRST_LOOK).await;
    }
}

/// Removes those that can be removed; whether all are gone.
fn remove_all<'a>(directories: impl IntoIterator<Item = &'a PathBuf>) -> bool {
    // One that cannot be removed keeps no other from it.
    directories.into_iter().filter(|directory| remove(directory).is_err()).count() == 0
}

/// Removes an empty cgroup with all below it; one that is gone is no error.
fn remove(directory: &Path) -> io::Result<()> {
    // Without one of those below it it cannot be removed itself, and the system says so.
    remove_all(&children(directory));
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_removed_keeps_no_other_from_it() {
        // Any directory is removed as a cgroup is, if it is empty.
        let parent = tempfile::tempdir().unwrap();
        let [busy, free] = ["busy", "free"].map(|name| parent.path().join(name));
        fs::create_dir_all(busy.join("free below")).unwrap();
        fs::create_dir_all(free.join("free below")).unwrap();
        fs::write(busy.join("somebody"), "").unwrap();
        let all = [busy.clone(), free.clone()];
        assert!(!remove_all(&all));
        assert!(!free.exists() && busy.exists() && !busy.join("free below").exists());
        fs::remove_file(busy.join("somebody")).unwrap();
        assert!(remove_all(&all) && remove_all(&all), "one that is gone is no error");
    }

    #[test]
    fn our_cgroup_is_found_on_pure_hybrid_and_partly_shown_systems() {
        let pure = "25 20 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let part = "9 1 0:22 /docker/x /sys/fs/my\\040cgroup ro - cgroup2 cgroup2 rw\n";
        let is = |mounts, groups, expected: &str| {
            assert_eq!(locate(mounts, groups).as_deref(), Some(Path::new(expected)));
        };
        is(pure, "0::/user.slice/a\n", "/sys/fs/cgroup/user.slice/a");
        is(hybrid, "1:cpu:/x\n0::/\n", "/sys/fs/cgroup/unified/");
        is(part, "0::/docker/x/y\n", "/sys/fs/my cgroup/y");
        assert_eq!(locate(part, "0::/other\n"), None);
        assert_eq!(locate(pure, "1:cpu:/x\n"), None);
    }
}
