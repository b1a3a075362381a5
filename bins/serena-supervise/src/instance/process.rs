//! One process of an instance: how it is started, how it tells that it is ready, and what it printed last.

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mcp_daemon::life::Life;
use mcp_daemon::tree::{Cgroup, Holder, Launch, Tree};
use nix::errno::Errno;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Instance;
use super::said::Said;
use crate::config::{Probe, Settings};
use crate::dashboard::{self, Level};
use crate::hooks::Surroundings as Surrounded;
use crate::placeholders::{UnknownPlaceholder, Values};
use crate::ports;
use crate::probe::fd::ReadyFd;
use crate::probe::notify::Notify;
use crate::probe::{self, ProbeError, Prober, Surroundings};

/// The descriptor that `{fd}` stands for.
const READY_FD: i32 = 3;
/// What a process printed last gets this long to arrive after its exit, and its exit to follow what it said by closing a
/// descriptor.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long one question about readiness may take.
const ASK: Duration = Duration::from_secs(5);

/// A process tree and everything that belongs to it.
pub(super) struct Process {
    pub(super) tree: Tree,
    pub(super) target: SocketAddr,
    pub(super) settings: Arc<Settings>,
    pub(super) born: Instant,
    pub(super) readiness: Readiness,
    /// Asks whether it still is; `None` where there is no port to ask at.
    pub(super) liveness: Option<Arc<Prober>>,
    pumps: Vec<JoinHandle<()>>,
    /// The number of its first line.
    first_line: u64,
}

/// Why there is no process, for a person.
pub(super) enum StartError {
    /// What was to be run cannot be.
    Command(String),
    /// The machine has nothing to give just now.
    Machine(String),
}

impl From<String> for StartError {
    fn from(text: String) -> Self {
        StartError::Command(text)
    }
}

/// How it is known that it is ready.
pub(super) enum Readiness {
    /// We ask.
    Asked(Prober),
    /// It writes to a descriptor.
    Fd(ReadyFd),
    /// It writes to a socket.
    Notify(Notify),
}

impl Process {
    /// Starts the command of `settings` on a free port; the error is for a person.
    pub(super) async fn start(
        instance: &Arc<Instance>,
        settings: Arc<Settings>,
        life: &Life,
    ) -> Result<Self, StartError> {
        let port = match settings.port {
            Some(port) => port.get(),
            None => ports::free_port().map_err(|error| format!("no free port: {error}"))?,
        };
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let values = Values {
            name: instance.name.to_string(),
            port,
            home: settings.home.clone(),
            socket: settings.socket.clone(),
            fd: (settings.probe == Probe::Fd).then_some(READY_FD),
        };
        let unfilled = |error| format!("command: {error}");
        let mut launch = Launch::new(settings.command_line(&values).map_err(unfilled)?);
        launch.env = settings.environment(&values).map_err(unfilled)?;
        launch.withhold = settings.withhold.iter().map(Into::into).collect();
        let withheld: Vec<&str> = settings.withheld().collect();
        if !withheld.is_empty() {
            let (instance, variables) = (instance.name.as_str(), withheld.join(", "));
            log::info!(instance, variables; "not given to the server; `withhold` says which are not");
        }
        launch.directory.clone_from(&settings.directory);
        launch.owner = Some(instance.roots.owner.clone());
        launch.cgroup = Cgroup::create(&instance.roots.owner, instance.name.as_str());
        launch.open_files = settings.limits.open_files.map(|files| u64::from(files.get()));
        let probe = filled(&settings.probe, &values).map_err(unfilled)?;
        let readiness = match &probe {
            Probe::Fd => {
                let (reader, writer) = ReadyFd::open().map_err(|error| format!("a pipe: {error}"))?;
                launch.pass.push((writer, READY_FD));
                Readiness::Fd(reader)
            }
            Probe::Notify => {
                let notify = Notify::open_in(&instance.roots.runtime)
                    .map_err(|error| format!("a notification socket: {error}"))?;
                launch.env.push(("NOTIFY_SOCKET".into(), notify.path().into()));
                Readiness::Notify(notify)
            }
            asked => {
                let surroundings = Surroundings {
                    env: launch.env.clone(),
                    directory: launch.directory.clone(),
                    owner: launch.owner.clone(),
                };
                Readiness::Asked(Prober::new(asked, target, surroundings).map_err(|error| error.to_string())?)
            }
        };
        // What was said of the last process is not true of this one.
        *instance.said.lock().expect("no panic while locked") = Said::default();
        let has_port = settings.has_port();
        let liveness = Prober::for_liveness(&probe, has_port.then_some(target))
            .map_err(|error| error.to_string())?
            .map(Arc::new);
        let asked = match &readiness {
            Readiness::Asked(prober) => prober.echo(),
            Readiness::Fd(_) | Readiness::Notify(_) => None,
        };
        let echoes = asked.into_iter().chain(liveness.as_ref().and_then(|prober| prober.echo()));
        instance.output.leave_out(echoes.collect());
        let program = launch.command.first().map(|program| program.to_string_lossy().into_owned());
        let (tree, pipes) = Tree::spawn(launch).await.map_err(|error| {
            let program = program.unwrap_or_default();
            let text = match error.kind() {
                std::io::ErrorKind::NotFound => format!("command `{program}` is not found"),
                _ => format!("command `{program}` cannot be run: {error}"),
            };
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
                    StartError::Machine(text)
                }
                _ => StartError::Command(text),
            }
        })?;
        // What was said before is not its word.
        let (first_line, _) = instance.output.since(u64::MAX);
        let pumps = vec![
            life.spawn(instance.output.clone().pump(pipes.stdout, "stdout")),
            life.spawn(instance.output.clone().pump(pipes.stderr, "stderr")),
        ];
        Ok(Self { tree, target, settings, born: Instant::now(), readiness, liveness, pumps, first_line })
    }

    /// How its language server is doing: by its log, else by its dashboard where that is really its own.
    pub(super) async fn language_server(&mut self, instance: &Instance) -> Level {
        let (level, port) = {
            let said = instance.said.lock().expect("no panic while locked");
            (said.level.clone(), said.dashboard)
        };
        if let Some(level) = level {
            return level;
        }
        match port {
            Some(port) if self.tree.listener_on(port) == Holder::Ours => {
                dashboard::language_server(port).await
            }
            _ => Level::Unknown,
        }
    }

    /// Ends, with the reason, when it answers no more; never where it has no port to ask at.
    pub(super) async fn hung(liveness: Option<Arc<Prober>>, settings: Arc<Settings>, root: u32) -> String {
        match liveness {
            Some(prober) => probe::watch(&prober, &settings.liveness, root).await.text,
            None => pending().await,
        }
    }

    /// The last thing it said.
    pub(super) async fn last_line(&mut self, instance: &Instance) -> String {
        self.last_words().await;
        instance.output.since(self.first_line).1.pop().unwrap_or_default()
    }

    /// What it printed last has arrived, unless somebody else holds its pipes.
    async fn last_words(&mut self) {
        let all = async {
            // Each is forgotten as it ends: none may be waited for twice.
            while let Some(pump) = self.pumps.first_mut() {
                let _ = pump.await;
                self.pumps.remove(0);
            }
        };
        let _ = timeout(LAST_WORDS, all).await;
    }

    /// Nothing of the tree is left: ends what listened to it.
    pub(super) async fn forget(mut self) -> Option<ExitStatus> {
        self.last_words().await;
        for pump in &self.pumps {
            pump.abort();
        }
        self.tree.exited().await.ok()
    }
}

impl Instance {
    /// What a hook may know; a port is chosen only when the server starts.
    pub(super) fn surroundings(&self, settings: &Settings) -> Result<Surrounded, UnknownPlaceholder> {
        let values = Values {
            name: self.name.to_string(),
            port: settings.port.map_or(0, |port| port.get()),
            home: settings.home.clone(),
            socket: settings.socket.clone(),
            fd: None,
        };
        let env = settings.environment(&values)?;
        let owner = Some(self.roots.owner.clone());
        Ok(Surrounded { values, env, directory: settings.directory.clone(), owner })
    }
}

impl Readiness {
    /// Ends when it is ready, or when it said that it never will be; `last` is the latest other answer. A server that
    /// says how long it will take (`EXTEND_TIMEOUT_USEC`) moves `patience`.
    pub(super) async fn until_ready(
        &mut self,
        last: &mut Option<ProbeError>,
        patience: &Mutex<Instant>,
    ) -> Result<(), ProbeError> {
        match self {
            Readiness::Asked(prober) => {
                prober.until_ready(ASK, |error| *last = Some(error.clone())).await;
                Ok(())
            }
            Readiness::Fd(fd) => fd.told().await,
            Readiness::Notify(notify) => loop {
                let unreadable =
                    |error| ProbeError::Told(format!("its notifications cannot be read: {error}"));
                let message = notify.next().await.map_err(unreadable)?;
                if let Some(status) = message.status {
                    *last = Some(ProbeError::Told(status));
                }
                if let Some(longer) = message.extend {
                    let mut patience = patience.lock().expect("no panic while locked");
                    *patience = (*patience).max(Instant::now() + longer);
                }
                if message.ready {
                    return Ok(());
                }
            },
        }
    }
}

fn filled(probe: &Probe, values: &Values) -> Result<Probe, UnknownPlaceholder> {
    Ok(match probe {
        Probe::Exec(command) => {
            Probe::Exec(command.iter().map(|argument| values.fill(argument)).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

/// How a process ended, for a person.
pub fn ended(exit: ExitStatus) -> String {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended in an unknown way".into(),
    }
}
