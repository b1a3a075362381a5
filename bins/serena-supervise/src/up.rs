//! `serena-supervise up`: the whole stack for one project on one machine, without a configuration.
//!
//! Instances of one fleet, each started after the one before and stopped before it: serena-snapshotd, where it is installed,
//! which restores an empty home; `serena` behind its wake socket; and mcp-sessiond in front of that on a TCP port. [`plan`] finds what is needed and starts nothing; [`Plan::claim`] makes
//! the project ours, or says where somebody else serves it already; [`Plan::config`] is what the fleet then runs.

mod claim;
mod serena;
mod welcome;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use mcp_daemon::addr::{AddrError, Listen, unix_path};
use mcp_daemon::config::Span;
use mcp_daemon::files::{self, Lock, LockError, real, snapshots_lock};
use mcp_daemon::program;
use mcp_daemon::secret::sha256_hex;
use mcp_daemon::tree;

pub use self::claim::{Claim, Claimed};
use crate::config::{Config, Probe, Settings, SleepAfter, Start, Stop};
use crate::fleet::lock_path;

/// The name of the instance that is Serena.
pub const SERENA: &str = "serena";
/// The name of the instance in front of it.
pub const FRONT: &str = "mcp-sessiond";
/// The name of the instance that keeps the home safe.
pub const SNAPSHOTS: &str = "serena-snapshotd";
/// The partition of the usual home; any other home has one of its own.
const PARTITION: &str = "default";
/// Where clients look for Serena unless told otherwise.
const PORT: u16 = 9121;
/// Path of MCP on both servers.
const MCP: &str = "/mcp";
/// Digits of the hash that stands for a project in file names: enough for all projects of a person, short enough for a
/// socket path.
const DIGITS: usize = 12;

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The project's directory; the working directory unless given.
    pub project: Option<PathBuf>,
    /// Where to serve; the usual port or one near it unless given.
    pub listen: Option<Listen>,
    /// Serena's home; `$SERENA_HOME`, else `~/.serena`, unless given.
    pub home: Option<PathBuf>,
    /// More arguments for Serena.
    pub more: Vec<String>,
}

/// What is around us, read once so that a plan depends on nothing else but files.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `$PATH`.
    pub path: Option<OsString>,
    /// `$SERENA_HOME`.
    pub serena_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// The working directory.
    pub directory: PathBuf,
    /// Our own executable.
    pub executable: Option<PathBuf>,
    /// Where sockets and locks go.
    pub runtime: PathBuf,
    /// Where sessions are kept.
    pub state: PathBuf,
}

impl Surroundings {
    /// Those of this process, with the directories of `daemon`, which are made if missing.
    pub fn of_process(daemon: &str) -> std::io::Result<Self> {
        let absolute =
            |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(Self {
            path: std::env::var_os("PATH"),
            serena_home: absolute("SERENA_HOME"),
            home: absolute("HOME"),
            directory: std::env::current_dir()?,
            executable: std::env::current_exe().ok(),
            runtime: files::runtime_dir(daemon)?,
            state: files::state_dir(None, daemon)?,
        })
    }
}

/// Why there is nothing to run, as one line.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The address that was asked for is taken.
    #[error(
        "--listen: {address}: {cause}; stop whatever listens there, or leave --listen out to get a free port"
    )]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why it cannot be had.
        cause: std::io::Error,
    },
    /// Another `up` of this project is on its way and does not serve yet.
    #[error("another serena-supervise{} is just starting for {}; wait for it, or stop it",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), project.display())]
    Busy {
        /// The project.
        project: PathBuf,
        /// The other's process id.
        holder: Option<u32>,
    },
    /// Another supervisor has the home.
    #[error("another serena-supervise{} has Serena's home, {}, and two servers on one home lose entries of it; give this project another one: --home DIR, or stop the other",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default(), home.display())]
    Home {
        /// The home.
        home: PathBuf,
        /// The other's process id.
        holder: Option<u32>,
    },
    /// Not an address with a URL.
    #[error("--listen: `{0}` has no URL for clients; write 127.0.0.1:9121")]
    Listen(Listen),
    /// Its lock cannot be had.
    #[error(transparent)]
    Lock(LockError),
    /// mcp-sessiond is not installed.
    #[error(
        "mcp-sessiond is neither beside serena-supervise nor on PATH; install it: cargo install --locked --path bins/mcp-sessiond"
    )]
    NoFront,
    /// Nobody says where Serena keeps what it has.
    #[error("neither SERENA_HOME nor HOME is an absolute path; say --home DIR")]
    NoHome,
    /// All ports that clients would guess are taken.
    #[error("none of the ports {PORT} to {0} is free on 127.0.0.1; say --listen 127.0.0.1:PORT")]
    NoPort(u16),
    /// Serena is not installed.
    #[error(
        "neither `serena` nor `uvx` is on PATH; install uv (https://docs.astral.sh/uv/), which brings uvx, or Serena itself: uv tool install {}",
        serena::TESTED
    )]
    NoSerena,
    /// The project is no directory.
    #[error("--project: {}: {cause}", path.display())]
    Project {
        /// What was given.
        path: PathBuf,
        /// Why it is none.
        cause: std::io::Error,
    },
    /// The runtime directory is too deep for a socket.
    #[error("{0} (set XDG_RUNTIME_DIR or TMPDIR)")]
    Socket(AddrError),
}

/// Everything that was found; nothing is started, bound or locked yet.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The project, its path as the system spells it.
    pub project: PathBuf,
    /// Serena's home.
    pub home: PathBuf,
    /// Serena's command line.
    serena: Vec<String>,
    /// The executable of mcp-sessiond.
    front: PathBuf,
    /// How the home is kept safe, where serena-snapshotd is installed.
    snapshots: Option<Snapshots>,
    /// Serena's wake socket.
    socket: PathBuf,
    /// Where mcp-sessiond keeps this project's sessions, so that clients keep theirs over the next `up`.
    state: PathBuf,
    /// Where locks are, and the URL for whoever comes second.
    runtime: PathBuf,
    /// Stands for the project in file names.
    tag: String,
    /// Where to serve, if that was said.
    listen: Option<SocketAddr>,
}

/// How serena-snapshotd is run.
#[derive(Clone, Debug)]
struct Snapshots {
    /// Its executable.
    program: PathBuf,
    /// The name of Serena's home in its store.
    partition: String,
    /// A directory that is this `up`'s alone; by the lock beside it what a killed one left is found.
    own: PathBuf,
}

/// Finds what `up` needs: the project, Serena, mcp-sessiond, a home and a socket path that is short enough.
pub fn plan(wanted: &Wanted, around: &Surroundings) -> Result<Plan, UpError> {
    let listen = match &wanted.listen {
        None => None,
        Some(Listen::Tcp(address)) => Some(*address),
        Some(other) => return Err(UpError::Listen(other.clone())),
    };
    let given = wanted.project.as_deref().unwrap_or(Path::new(""));
    let project = project(&around.directory.join(given))?;
    let path = around.path.as_deref();
    let serena = serena::command(path, &project, &wanted.more).ok_or(UpError::NoSerena)?;
    let daemon = |name: &str| {
        let beside = around.executable.as_ref().map(|executable| executable.with_file_name(name));
        let beside = beside.and_then(|file| program::find(&file.display().to_string(), None));
        beside.or_else(|| program::find(name, path))
    };
    let front = daemon(FRONT).ok_or(UpError::NoFront)?;
    let given = wanted.home.as_ref().map(|home| around.directory.join(home));
    let usual = around.home.as_ref().map(|home| home.join(".serena"));
    let home = given.or_else(|| around.serena_home.clone()).or_else(|| usual.clone());
    // By whichever way it is named it is one home, with one lock and one partition.
    let home = real(&home.ok_or(UpError::NoHome)?);
    let partition = match usual.as_deref().map(real) {
        Some(usual) if usual == home => PARTITION.to_owned(),
        _ => format!("home-{}", &sha256_hex(home.as_os_str().as_encoded_bytes())[..DIGITS]),
    };
    let tag = sha256_hex(project.as_os_str().as_encoded_bytes())[..DIGITS].to_owned();
    let own = around.state.join(format!("up-{tag}-snapshots"));
    let snapshots = daemon(SNAPSHOTS).map(|program| Snapshots { program, partition, own });
    let socket = around.runtime.join(format!("up-{tag}.sock"));
    let socket = unix_path(&socket.display().to_string()).map_err(UpError::Socket)?;
    let state = around.state.join(format!("up-{tag}"));
    let runtime = around.runtime.clone();
    Ok(Plan { project, home, serena, front, snapshots, socket, state, runtime, tag, listen })
}

/// Two spellings of one directory are one project.
fn project(path: &Path) -> Result<PathBuf, UpError> {
    let wrong = |cause| UpError::Project { path: path.to_owned(), cause };
    let real = path.canonicalize().map_err(wrong)?;
    if real.to_str().is_none() {
        return Err(wrong(std::io::Error::other("its path is not UTF-8")));
    }
    if real.is_dir() { Ok(real) } else { Err(wrong(std::io::ErrorKind::NotADirectory.into())) }
}

impl Plan {
    /// Leaves the snapshots to the daemon that takes them of this home already; which process that is. One that a killed `up`
    /// of this project has left will be ended, so it does not count. Whoever asks has claimed the project.
    pub fn leave_snapshots(&mut self) -> Option<u32> {
        let settings = self.snapshots.as_ref()?.settings(&self.home);
        let holder = match Lock::is_free(&snapshots_lock(&self.home)) {
            Err(LockError::Held { holder, .. }) => holder,
            // Whatever else is wrong with it, serena-snapshotd says itself.
            Ok(()) | Err(LockError::System { .. }) => return None,
        };
        let name = SNAPSHOTS.parse().expect("a name is a route");
        let owner = lock_path(&self.runtime, &name, &settings).display().to_string();
        let left = tree::left_by(&owner);
        let holder = holder.filter(|holder| !left.iter().any(|pid| u32::try_from(*pid) == Ok(*holder)))?;
        self.snapshots = None;
        Some(holder)
    }

    /// What the fleet runs, with mcp-sessiond on `address`.
    pub fn config(&self, address: SocketAddr) -> Config {
        let serena = Settings {
            command: self.serena.clone(),
            home: Some(literal(&self.home).into()),
            socket: Some(Listen::Unix(literal(&self.socket).into())),
            start: Start::Boot,
            sleep_after: SleepAfter::Idle(Span::seconds(15 * 60)),
            // uvx downloads it the first time.
            start_timeout: Span::seconds(10 * 60),
            probe: Probe::Mcp(MCP.into()),
            language_server: true,
            after: self.snapshots.iter().map(|_| SNAPSHOTS.into()).collect(),
            ..Settings::default()
        };
        let front = [
            literal(&self.front),
            "--listen".into(),
            address.to_string(),
            "--upstream".into(),
            format!("unix:{}:{MCP}", literal(&self.socket)),
            "--state-dir".into(),
            "{home}".into(),
            "--ready-fd".into(),
            "{fd}".into(),
        ];
        let front = Settings {
            command: front.into(),
            home: Some(literal(&self.state).into()),
            after: vec![SERENA.into()],
            // Told, so that it is looked at and shown; one on another address cannot be reached at this one.
            port: NonZeroU16::new(address.port())
                .filter(|_| address.ip() == Ipv4Addr::LOCALHOST || address.ip() == Ipv4Addr::UNSPECIFIED),
            sleep_after: SleepAfter::Never,
            probe: Probe::Fd,
            // Longer than the 10 s that it gives its clients.
            stop: Stop { term: Span::seconds(15), ..Stop::default() },
            ..Settings::default()
        };
        let mut instance = BTreeMap::from([(SERENA.into(), serena), (FRONT.into(), front)]);
        if let Some(snapshots) = &self.snapshots {
            instance.insert(SNAPSHOTS.into(), snapshots.settings(&self.home));
        }
        Config { instance, ..Config::default() }
    }

    /// What a person needs to connect clients, once it serves; `complaint` is what is wrong with [`SNAPSHOTS`].
    pub fn welcome(&self, address: SocketAddr, complaint: Option<&str>) -> String {
        let snapshots = self.snapshots.as_ref().map(|snapshots| match complaint {
            Some(complaint) => welcome::Snapshots::None { complaint },
            None => welcome::Snapshots::Taken { partition: &snapshots.partition },
        });
        welcome::text(&url(address), &self.front, snapshots)
    }
}

impl Snapshots {
    fn settings(&self, home: &Path) -> Settings {
        let command = [
            literal(&self.program),
            "run".into(),
            "--home".into(),
            literal(home),
            "--partition".into(),
            self.partition.clone(),
            "--ready-fd".into(),
            "{fd}".into(),
        ];
        Settings {
            command: command.into(),
            home: Some(literal(&self.own).into()),
            start: Start::Boot,
            sleep_after: SleepAfter::Never,
            // The keys to its store are among them.
            withhold: Vec::new(),
            // It is ready once an empty home has been restored.
            start_timeout: Span::seconds(10 * 60),
            probe: Probe::Fd,
            // Longer than the 25 s that it has for a last snapshot.
            stop: Stop { term: Span::seconds(30), ..Stop::default() },
            ..Settings::default()
        }
    }
}

/// Where clients find it.
pub fn url(address: SocketAddr) -> String {
    // Every address of the machine is also this one.
    let ip = if address.ip().is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
    format!("http://{}{MCP}", SocketAddr::new(ip, address.port()))
}

/// A path in which no brace is taken for a placeholder.
fn literal(path: &Path) -> String {
    path.display().to_string().replace('{', "{{")
}

#[cfg(test)]
mod tests;
