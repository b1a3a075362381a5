//! The journal of a fake backend: one JSON line per event, each with the process it happened to; and its reader.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::kill,
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// How long a test waits for an event.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const GLANCE: Duration = Duration::from_millis(10);

/// The writing side; processes share the file, every line is one append.
#[derive(Debug)]
pub(crate) struct Writer(File);

impl Writer {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Adds an event; a full disk loses it, which is better than a server that dies of its journal.
    pub(crate) fn write(&self, event: &str, mut facts: Value) {
        facts["event"] = event.into();
        facts["pid"] = std::process::id().into();
        // The one clock that processes share.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        facts["at_ms"] = (since.as_secs_f64() * 1e3).into();
        let _ = (&self.0).write_all(format!("{facts}\n").as_bytes());
    }

    /// The first event of a process: what it was given.
    pub(crate) fn started(&self, number: usize, port: u16) {
        let variable = |name: &str| std::env::var(name).ok();
        self.write(
            "start",
            json!({
                "number": number, "port": port,
                "parent": nix::unistd::getppid().as_raw(),
                "home": variable("SERENA_HOME"), "notify_socket": variable("NOTIFY_SOCKET"),
                "greeting": variable("GREETING"), "secret": variable("AWS_SECRET_ACCESS_KEY"), "listen_fds": variable("LISTEN_FDS"),
                "directory": std::env::current_dir().ok(),
                "arguments": std::env::args().collect::<Vec<_>>(),
                "open_files": open_files(),
            }),
        );
    }
}

/// Claims to be the only root process with this journal, until it ends; writes down `overlap` if it is not.
pub(crate) fn alone(path: &Path, journal: &Writer) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path.with_extension("lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // Kept open for the process's life.
        Ok(lock) => std::mem::forget(lock),
        Err(_) => journal.write("overlap", json!({})),
    }
    Ok(())
}

/// How often backends with this journal were started.
pub(crate) fn starts(path: &Path) -> usize {
    read(path).iter().filter(|event| event["event"] == "start").count()
}

/// `RLIMIT_NOFILE`, the soft one.
fn open_files() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // A last line without its end is being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The reading side: what happened to the backends of one instance, over all their lives.
#[derive(Clone, Debug)]
pub struct Journal(PathBuf);

impl Journal {
    /// The journal in this file, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// All events so far, oldest first.
    pub fn events(&self) -> Vec<Value> {
        read(&self.0)
    }

    /// The events of this name.
    pub fn all(&self, event: &str) -> Vec<Value> {
        self.events().into_iter().filter(|it| it["event"] == event).collect()
    }

    /// How many events of this name there are.
    pub fn count(&self, event: &str) -> usize {
        self.all(event).len()
    }

    /// How many requests had this JSON-RPC method.
    pub fn requests(&self, method: &str) -> usize {
        self.all("request").iter().filter(|it| it["method"] == method).count()
    }

    /// The signals that arrived, oldest first.
    pub fn signals(&self) -> Vec<String> {
        let signals = self.all("signal");
        signals.iter().filter_map(|it| it["signal"].as_str().map(str::to_owned)).collect()
    }

    /// The tools whose effect has happened, oldest first.
    pub fn executed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.with_extension("executed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The processes named in it that are still there: roots and children, zombies included.
    pub fn living(&self) -> Vec<i32> {
        let mut pids: Vec<i32> =
            self.events().iter().filter_map(|it| Some(it["pid"].as_i64()? as i32)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| kill(Pid::from_raw(*pid), None) != Err(Errno::ESRCH) && ours(*pid));
        pids
    }

    /// Waits until `fact` holds; fails the test after 60 s.
    pub async fn until(&self, fact: impl Fn(&Journal) -> bool) {
        let held = timeout(PATIENCE, async {
            while !fact(self) {
                sleep(GLANCE).await;
            }
        });
        if held.await.is_err() {
            let events = self.events();
            let last: Vec<_> = events.iter().rev().take(20).rev().map(Value::to_string).collect();
            panic!("the awaited fact never came true; the last events:\n{}", last.join("\n"));
        }
    }
}

/// Whether a process is a fake backend, and no stranger who got its number later.
fn ours(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end() == "fake-backend"
}
