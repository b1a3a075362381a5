//! Readiness by datagram: the server sends `READY=1` to `$NOTIFY_SOCKET`, as services of systemd do.
//!
//! Who sends is not asked of the kernel. The socket has a new name for each start, in a directory that only this user
//! can enter, and only the tree that was started gets to know it; whoever can send all the same runs as this user and
//! could as well end the server. Credentials would also be wrong for the usual helper `systemd-notify`, whose process
//! is gone before it could be looked up.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcp_daemon::files::runtime_dir;
use mcp_daemon::secret::random_id;
use tokio::net::UnixDatagram;

use super::ProbeError;

/// Bytes of the kernel's `sun_path`, less the final zero.
const MAX_PATH: usize = 107;
/// Longest message in bytes; systemd's own limit is 4096.
const MAX_MESSAGE: usize = 4096;
/// What the name of each socket begins with.
const PREFIX: &str = "notify-";

/// A socket that a server tells its state to; removed when dropped.
pub struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

/// One datagram, which may say several things.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Message {
    /// `EXTEND_TIMEOUT_USEC`: from now on it may take this long until the next message.
    pub extend: Option<Duration>,
    /// `READY=1`.
    pub ready: bool,
    /// `STATUS`, one line for people.
    pub status: Option<String>,
    /// `STOPPING=1`.
    pub stopping: bool,
}

impl Notify {
    /// A socket for one start of a server, in the directory for sockets of this user.
    pub fn open() -> io::Result<Self> {
        Notify::open_in(&runtime_dir("serena-supervise")?)
    }

    /// The same in a directory that nobody else can enter. Sockets that a killed supervisor left there are removed.
    pub fn open_in(directory: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(directory)?.flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            // Connecting to a file that is no socket fails in the same way.
            let socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            if ours && socket && is_left_over(&entry.path()) {
                // What cannot be removed is in nobody's way: the new name is another one.
                let _ = fs::remove_file(entry.path());
            }
        }
        let path = directory.join(format!("{PREFIX}{}", &random_id()[..8]));
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            let text =
                format!("{} has {length} bytes, a socket's path has at most {MAX_PATH}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let socket = UnixDatagram::bind(&path)?;
        Ok(Notify { socket, path })
    }

    /// The value of `$NOTIFY_SOCKET` for the server.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next message; what is not understood is skipped. Cancel safe.
    pub async fn next(&self) -> io::Result<Message> {
        let mut bytes = vec![0; MAX_MESSAGE];
        loop {
            let length = self.socket.recv(&mut bytes).await?;
            let message = Message::read(&bytes[..length]);
            if message != Message::default() {
                return Ok(message);
            }
        }
    }

    /// Waits for `READY=1`; what is said before that is lost, see [`Notify::next`]. Cancel safe.
    pub async fn told(&self) -> Result<(), ProbeError> {
        loop {
            match self.next().await {
                Ok(message) if message.ready => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    return Err(ProbeError::Told(format!("its notifications cannot be read: {error}")));
                }
            }
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether nobody reads from the socket of this name any more.
fn is_left_over(path: &Path) -> bool {
    let tried = net::UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Message {
    /// Reads `NAME=value` lines; other names, and values that mean nothing, are skipped.
    fn read(bytes: &[u8]) -> Self {
        let mut message = Message::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            match line.split_once('=') {
                Some(("EXTEND_TIMEOUT_USEC", microseconds)) => {
                    message.extend = microseconds.parse().ok().map(Duration::from_micros);
                }
                Some(("READY", "1")) => message.ready = true,
                Some(("STATUS", text)) => {
                    // It is shown on terminals.
                    message.status =
                        Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect());
                }
                Some(("STOPPING", "1")) => message.stopping = true,
                _ => {}
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn send(to: &Notify, text: &str) {
        net::UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), to.path()).unwrap();
    }

    #[tokio::test]
    async fn what_is_said_is_heard_in_order_and_the_rest_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let notify = Notify::open_in(folder.path()).unwrap();
        for text in [
            "",
            "READY=0",
            "MAINPID=1",
            "STATUS=loading\x1b[1m\nEXTEND_TIMEOUT_USEC=30000000",
            "READY=1\nSTATUS=up",
        ] {
            send(&notify, text);
        }
        let status = Some("loading [1m".into());
        let first = Message { extend: Some(Duration::from_secs(30)), status, ..Message::default() };
        let second = Message { ready: true, status: Some("up".into()), ..Message::default() };
        assert_eq!(notify.next().await.unwrap(), first);
        assert_eq!(notify.next().await.unwrap(), second);
        send(&notify, "STOPPING=1");
        assert!(notify.next().await.unwrap().stopping);
    }

    #[tokio::test(start_paused = true)]
    async fn only_ready_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let notify = Notify::open_in(folder.path()).unwrap();
        send(&notify, "STATUS=READY=1");
        assert!(timeout(Duration::from_secs(3600), notify.told()).await.is_err());
        send(&notify, "READY=1");
        assert_eq!(notify.told().await, Ok(()));
    }

    #[tokio::test]
    async fn what_a_killed_supervisor_left_is_removed_and_what_is_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let in_use = Notify::open_in(folder.path()).unwrap();
        let left = folder.path().join("notify-00000000");
        drop(net::UnixDatagram::bind(&left).unwrap());
        let file = folder.path().join("notify-a-file");
        fs::write(&file, "not ours").unwrap();
        let new = Notify::open_in(folder.path()).unwrap();
        assert!(!left.exists() && in_use.path().exists() && new.path() != in_use.path());
        drop((in_use, new));
        let names: Vec<PathBuf> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names, [file]);
    }

    #[tokio::test]
    async fn a_path_that_the_kernel_cannot_hold_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let error = Notify::open_in(&deep).err().unwrap().to_string();
        assert!(error.contains("at most 107") && error.contains(&deep.display().to_string()), "{error}");
    }
}
