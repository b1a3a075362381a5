//! Starts the root of a tree, from a thread that lives as long as the process.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, so a root that a worker thread starts dies with that
//! thread. What happens in the child is in `child`.

use std::io;
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::census::{self, Census};
use super::child::{self, Inherited};
use super::mark::Mark;
use super::tag::Tag;
use super::{Cgroup, Launch, Pipes, Stdin, Tree};
use crate::signals;

/// Meant for this process by its service manager; a child that used them would speak in our name.
const OURS: [&str; 6] =
    ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

struct Job {
    command: Command,
    inherited: Inherited,
    tag: Tag,
    mark: Option<Mark>,
    cgroup: Option<Cgroup>,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<(Tree, Pipes)>>,
}

/// Starts a root with its own session, tag, pipes and parent-death signal.
pub(super) async fn spawn(launch: Launch) -> io::Result<(Tree, Pipes)> {
    let (program, arguments) = launch
        .command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty command"))?;
    let tag = Tag::new(launch.owner.as_deref());
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(match launch.stdin {
        Stdin::Null => Stdio::null(),
        Stdin::Piped => Stdio::piped(),
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(directory) = &launch.directory {
        // The system's answer would not tell a missing directory from a missing command.
        if !directory.is_dir() {
            let text = format!("{}: not a directory", directory.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
        command.current_dir(directory);
    }
    for name in OURS {
        command.env_remove(name);
    }
    for name in &launch.withhold {
        command.env_remove(name);
    }
    let (name, value) = tag.variable();
    command.envs(launch.env).env(name, value);
    let inherited = Inherited::new(launch.pass)?;
    let (reply, answer) = oneshot::channel();
    let entrance = launch.cgroup.as_ref().map(Cgroup::entrance).transpose()?;
    let mark = Mark::new();
    let limit = mark.as_ref().map(Mark::limit);
    child::prepare(&mut command, entrance, &inherited, launch.open_files, limit);
    spawner()?
        .send(Job { command, inherited, tag, mark, cgroup: launch.cgroup, runtime: Handle::current(), reply })
        .map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
    answer.await.map_err(|_| io::Error::other("the thread that starts processes has panicked"))?
}

/// The thread, started on first use.
fn spawner() -> io::Result<Sender<Job>> {
    static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*spawner {
        return Ok(sender.clone());
    }
    census::adopt_orphans()?;
    // From now on a process that must exit at once has something to take with it.
    signals::before_exit(super::kill_all)?;
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new().name("spawner".into()).spawn(move || {
        // Never ends: the static above keeps a sender.
        for Job { command, inherited, tag, mark, cgroup, runtime, reply } in jobs {
            let tree = start(command, &inherited, (tag, mark), cgroup, &runtime);
            // Nobody waits any more: the tree is dropped, which kills it.
            let _ = reply.send(tree);
        }
    })?;
    *spawner = Some(sender.clone());
    Ok(sender)
}

fn start(
    mut command: Command,
    inherited: &Inherited,
    (tag, mark): (Tag, Option<Mark>),
    cgroup: Option<Cgroup>,
    runtime: &Handle,
) -> io::Result<(Tree, Pipes)> {
    let _inside = runtime.enter();
    let places = inherited.occupy_places()?;
    let (mut root, census) = Census::open(tag.own, mark, || command.spawn())?;
    drop(places);
    let (Some(stdout), Some(stderr)) = (root.stdout.take(), root.stderr.take()) else {
        return Err(io::Error::other("a pipe to the child is missing"));
    };
    let pipes = Pipes { stdin: root.stdin.take(), stdout, stderr };
    let pid = root.id().unwrap_or_default();
    // Told once here: between fork and exec nobody can say it.
    let cgroup = cgroup.filter(|cgroup| {
        let holds = cgroup.holds(pid);
        if !holds {
            log::warn!(pid, cgroup:% = cgroup.path().display(); "process not moved into its cgroup, it is watched without");
        }
        holds
    });
    Ok((Tree::new(root, census, cgroup), pipes))
}
