//! The ground of a supervisor's story: its directory, the settings it is started with, and who lives there.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::fake::journal::Journal;

/// Marks every process of a story in its environment; the supervisor under test knows nothing of it.
const TAG: &str = "SUPPORT_STORY";
/// Deadlines that let a story be over soon; what a story is about it sets itself.
const HASTE: [(&str, &str); 12] = [
    ("backoff.first", "'20ms'"),
    ("backoff.longest", "'100ms'"),
    ("backoff.stable", "'1s'"),
    ("limits.interval", "'100ms'"),
    ("liveness.interval", "'200ms'"),
    ("liveness.timeout", "'2s'"),
    ("start_timeout", "'30s'"),
    ("stop.drain", "'200ms'"),
    ("stop.http_wait", "'1s'"),
    ("stop.int", "'300ms'"),
    ("stop.term", "'1s'"),
    ("stop.tree", "'300ms'"),
];

/// The `fake-backend` binary beside the running test; `cargo build -p support` makes it.
pub fn fake_backend() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its own path");
    let profile = test.ancestors().nth(2).expect("tests run from target/PROFILE/deps");
    let binary = profile.join("fake-backend");
    assert!(binary.exists(), "{} is not there; run `cargo build -p support`", binary.display());
    binary
}

/// A temporary directory, and the processes that belong to it; dropped, they are killed.
#[derive(Debug)]
pub struct Ground {
    directory: TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sv-").tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("run")).expect("a new directory is writable");
        Self { directory }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it, as text.
    pub fn file(&self, name: &str) -> String {
        self.path().join(name).to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// The socket of an instance.
    pub fn socket(&self, instance: &str) -> PathBuf {
        self.path().join(format!("{instance}.sock"))
    }

    /// What happened to the fake backends of an instance.
    pub fn journal(&self, instance: &str) -> Journal {
        Journal::new(self.path().join(format!("{instance}.log")))
    }

    /// The arguments that run a fake backend for an instance; `{port}` and so on are for the supervisor.
    pub fn command(&self, instance: &str, arguments: &[&str]) -> Vec<String> {
        let binary = fake_backend().to_str().expect("the target directory is UTF-8").to_owned();
        let log = self.file(&format!("{instance}.log"));
        let own = [binary, "--port".into(), "{port}".into(), "--log".into(), log];
        own.into_iter().chain(arguments.iter().map(ToString::to_string)).collect()
    }

    /// `[instance.NAME]`: a fake backend with these arguments, a socket, these settings, and haste in all the others.
    pub fn instance(&self, name: &str, settings: &str, arguments: &[&str]) -> String {
        let command = self.command(name, arguments);
        let socket = format!("socket = 'unix:{}'", self.socket(name).display());
        let command = array(&command);
        self.table(&format!("instance.{name}"), &format!("command = {command}\n{socket}\n{settings}"))
    }

    /// `[HEADER]` with these settings, and haste in all the others.
    pub fn table(&self, header: &str, settings: &str) -> String {
        let mut text = format!("[{header}]\n{settings}\n");
        for (key, value) in HASTE {
            if !settings.lines().any(|line| line.trim_start().starts_with(key)) {
                writeln!(text, "{key} = {value}").expect("a string takes all");
            }
        }
        text
    }

    /// The processes of this story but for `besides` that are alive: not zombies, and found without anybody's help.
    pub fn living(&self, besides: Option<u32>) -> Vec<i32> {
        let tag = format!("{TAG}={}", self.path().display());
        let mut living: Vec<i32> = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == tag.as_bytes()) {
                living.push(pid);
            }
        }
        for log in fs::read_dir(self.path()).into_iter().flatten().flatten() {
            if log.path().extension().is_some_and(|extension| extension == "log") {
                living.extend(Journal::new(log.path()).living());
            }
        }
        living.sort_unstable();
        living.dedup();
        living.retain(|pid| !is_zombie(*pid) && besides != Some(*pid as u32));
        living
    }

    /// The environment that every process of the story gets.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![(TAG, self.file("").trim_end_matches('/').to_owned()), ("XDG_RUNTIME_DIR", self.file("run"))]
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        use nix::{
            sys::signal::{Signal, kill},
            unistd::Pid,
        };
        // Those of a story that failed; some may be starting others right now.
        for _ in 0..200 {
            let living = self.living(Some(std::process::id()));
            if living.is_empty() {
                return;
            }
            for pid in living {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// An array of TOML, in literal strings.
pub(crate) fn array(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("'''{word}'''")).collect();
    format!("[{}]", words.join(", "))
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
}
