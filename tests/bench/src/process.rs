//! The processes that are measured: started from a command template, timed until they listen, read through /proc.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::load::Target;

/// How long a program may take to listen or to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often, and for how long at most, memory is read until it stands still.
const SETTLE: (Duration, u32) = (Duration::from_millis(100), 30);

/// Something that can stand in front of the echo server.
#[derive(Clone)]
pub struct Program {
    /// Name in the tables.
    pub name: &'static str,
    /// Words split at blanks, then `{listen}` and `{upstream}` (host:port), `{dir}` (a fresh directory, also
    /// `XDG_RUNTIME_DIR`) and `{bin}` (the directory of this program) are filled in.
    pub command: String,
    /// Files for `{dir}`: their names and texts, filled in the same way. Nobody else can read them.
    pub files: Vec<(&'static str, String)>,
    /// What its clients bring, needed or not.
    pub token: Option<&'static str>,
    /// Whether it speaks TLS to its clients.
    pub is_secure: bool,
    /// What stands between it and the server behind: the nearest to that one first.
    pub behind: Vec<Program>,
}

/// A program that listens; stopped when dropped.
pub struct Running {
    name: &'static str,
    child: Child,
    pid: u32,
    /// Where it listens.
    pub address: SocketAddr,
    token: Option<&'static str>,
    is_secure: bool,
    /// What stands behind it, the nearest to the server first.
    behind: Vec<Running>,
    /// From the fork to the first accepted connection.
    pub listening_after: Duration,
    /// Kept for as long as the program may use it.
    _directory: TempDir,
}

impl Program {
    /// The program in this very executable that plays `role`, with the rest of its command line.
    pub fn own(name: &'static str, role: &str) -> Self {
        Self::new(name, format!("{{bin}}/bench {role}"))
    }

    /// A program that needs nothing but its command.
    pub fn new(name: &'static str, command: String) -> Self {
        Self { name, command, files: Vec::new(), token: None, is_secure: false, behind: Vec::new() }
    }

    /// Starts the program in front of `upstream` on a free port and waits until it listens.
    pub async fn start(&self, upstream: SocketAddr) -> io::Result<Running> {
        let (mut behind, mut upstream) = (Vec::new(), upstream);
        for program in &self.behind {
            let running = Box::pin(program.start(upstream)).await?;
            upstream = running.address;
            behind.push(running);
        }
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
        let fill = |text: &str| -> io::Result<String> {
            Ok(text
                .replace("{listen}", &address.to_string())
                .replace("{upstream}", &upstream.to_string())
                .replace("{dir}", &directory.path().to_string_lossy())
                .replace("{bin}", &own_directory()?.to_string_lossy()))
        };
        for (name, text) in &self.files {
            let mut options = fs::File::options();
            let mut file =
                options.write(true).create_new(true).mode(0o600).open(directory.path().join(name))?;
            file.write_all(fill(text)?.as_bytes())?;
        }
        let words = self.command.split_whitespace().map(fill).collect::<io::Result<Vec<_>>>()?;
        let (program, arguments) =
            words.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let log = directory.path().join("stderr");
        let began = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .env("XDG_RUNTIME_DIR", directory.path())
            .env_remove("RUNTIME_DIRECTORY")
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::other(format!("{program}: {error}")))?;
        // No pause between attempts: a refused connection costs microseconds, a timer's tick a millisecond.
        while TcpStream::connect(address).await.is_err() {
            let exited = child.try_wait()?;
            if exited.is_some() || began.elapsed() > PATIENCE {
                let said = fs::read_to_string(&log)?;
                let fate = exited.map_or("does not listen".to_owned(), |status| status.to_string());
                return Err(io::Error::other(format!("{}: {fate}: {}", words.join(" "), said.trim())));
            }
            yield_now().await;
        }
        let pid = child.id().ok_or_else(|| io::Error::other(format!("{program} exited at once")))?;
        Ok(Running {
            name: self.name,
            child,
            pid,
            address,
            token: self.token,
            is_secure: self.is_secure,
            behind,
            listening_after: began.elapsed(),
            _directory: directory,
        })
    }
}

impl Running {
    /// Where its clients call, and with what.
    pub fn target(&self) -> Target {
        Target { address: self.address, token: self.token, is_secure: self.is_secure }
    }

    /// CPU time used so far by all threads, and by what stands behind it.
    pub fn cpu(&self) -> io::Result<Duration> {
        self.behind.iter().try_fold(self.own_cpu()?, |sum, running| Ok(sum + running.cpu()?))
    }

    fn own_cpu(&self) -> io::Result<Duration> {
        // Nanoseconds where the kernel counts them for every thread, as long as no thread has ended.
        let counted = self.scheduled()?;
        let ticked = self.ticked()?;
        // The ticks also hold the threads that ended; within their resolution the finer number is right.
        Ok(if ticked > counted + Duration::from_millis(50) + counted / 20 { ticked } else { counted })
    }

    fn scheduled(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // A thread may end between being listed and being read.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    fn ticked(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name in parentheses may hold blanks; utime and stime are the 12th and 13th field after it.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().skip(11).take(2));
        let ticks: u64 = fields.into_iter().flatten().filter_map(|field| field.parse::<u64>().ok()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.ok_or_else(|| io::Error::other("no CLK_TCK"))?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Resident memory, in bytes, once it stands still.
    pub async fn resident(&self) -> io::Result<u64> {
        let (pause, attempts) = SETTLE;
        let mut last = 0;
        for _ in 0..attempts {
            let now = self.resident_now()?;
            if now == last {
                break;
            }
            last = now;
            sleep(pause).await;
        }
        Ok(last)
    }

    fn resident_now(&self) -> io::Result<u64> {
        // Counted page by page; /proc/PID/statm may lag by some hundred KiB.
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let text = fs::read_to_string(&path)?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .ok_or_else(|| io::Error::other(format!("{path} has no Rss")))?;
        Ok(kib * 1024)
    }

    /// The error with the name of the program that was being measured.
    pub fn blame(&self, error: &io::Error) -> io::Error {
        io::Error::other(format!("{}: {error}", self.name))
    }

    /// Asks the program to stop and waits until it has.
    pub async fn stop(mut self) -> io::Result<()> {
        // It may have stopped by itself; waiting tells.
        let _gone = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGTERM);
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        // From the front, so that nobody is asked what can no longer be answered.
        while let Some(running) = self.behind.pop() {
            Box::pin(running.stop()).await?;
        }
        Ok(())
    }
}

fn own_directory() -> io::Result<PathBuf> {
    let mut path = env::current_exe()?;
    path.pop();
    Ok(path)
}
