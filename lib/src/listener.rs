//! Sockets to serve on: bound by us or inherited, TCP or Unix, and how far their peers are trusted.
//!
//! Binding needs no runtime, so a daemon can report a port in use before it starts anything.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::addr::Listen;
use crate::fds;

/// Connections the kernel keeps for us before we accept them; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// How to bind.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// Permissions of the socket file of a Unix listener.
    pub mode: u32,
    /// Whether identity headers of peers are believed; never true for TCP, whatever stands here.
    pub trusted: bool,
    /// User ids that are trusted on a trusted listener; empty means everybody who can open the socket file.
    pub allow_uids: Vec<u32>,
}

impl Default for BindOptions {
    fn default() -> Self {
        BindOptions { mode: 0o660, trusted: false, allow_uids: Vec::new() }
    }
}

/// Why an address could not be listened on: one line that names the address and the cause.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process (or this one) listens there.
    #[error("{0}: address already in use; stop whatever listens there or choose another address")]
    InUse(Listen),
    /// Something that is not a socket has the name; it is never replaced.
    #[error("{0}: exists and is not a socket; remove it or choose another path")]
    NotASocket(Listen),
    /// An inherited descriptor that is no stream socket that listens.
    #[error("{0}: the inherited descriptor is not a listening stream socket")]
    NotListening(Listen),
    /// Anything else the system said.
    #[error("{listen}: {cause}")]
    System {
        /// Where.
        listen: Listen,
        /// Why.
        cause: io::Error,
    },
}

/// How far the peers of a listener are trusted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    trusted: bool,
    allow_uids: Vec<u32>,
}

impl Trust {
    /// Whether a peer of a Unix socket with this user id (`None`: unknown) is trusted.
    pub fn allows(&self, uid: Option<u32>) -> bool {
        self.trusted && (self.allow_uids.is_empty() || uid.is_some_and(|uid| self.allow_uids.contains(&uid)))
    }

    /// Whether anybody at all can be trusted here.
    pub(crate) fn is_some(&self) -> bool {
        self.trusted
    }
}

/// A socket that listens; a socket file we made is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: Bound,
    pub(crate) trust: Trust,
    pub(crate) local: Listen,
    pub(crate) file: Option<Arc<SocketFile>>,
}

#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Binds an address: one listener, or for `fd:name` as many as were inherited under the name.
    pub fn bind(listen: &Listen, options: BindOptions) -> Result<Vec<Listener>, BindError> {
        match listen {
            Listen::Tcp(address) => {
                bind_tcp(*address).map(|listener| vec![listener]).map_err(|cause| explain(listen, cause))
            }
            Listen::Unix(path) => bind_unix(listen, path, options).map(|listener| vec![listener]),
            Listen::Inherited(name) => fds::take_named(name)
                .map_err(|cause| explain(listen, cause))?
                .into_iter()
                .map(|fd| adopt(listen, fd, &options))
                .collect(),
        }
    }

    /// The same socket once more, for the next one who serves it: until the last of them is dropped it is open, whoever
    /// connects waits, and its file stays.
    pub fn again(&self) -> io::Result<Listener> {
        let socket = match &self.socket {
            Bound::Tcp(socket) => Bound::Tcp(socket.try_clone()?),
            Bound::Unix(socket) => Bound::Unix(socket.try_clone()?),
        };
        Ok(Listener { socket, trust: self.trust.clone(), local: self.local.clone(), file: self.file.clone() })
    }

    /// Where it really listens: with the port that the kernel chose for 0, and the real socket of `fd:name`.
    pub fn local(&self) -> Listen {
        self.local.clone()
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of our predecessor that still linger must not keep a restart from its port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let socket: std::net::TcpListener = socket.into();
    let local = Listen::Tcp(socket.local_addr()?);
    Ok(Listener { socket: Bound::Tcp(socket), trust: Trust::default(), local, file: None })
}

fn bind_unix(listen: &Listen, path: &Path, options: BindOptions) -> Result<Listener, BindError> {
    remove_stale(listen, path)?;
    let system = |cause| explain(listen, cause);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(system)?;
    socket.bind(&SockAddr::unix(path).map_err(system)?).map_err(system)?;
    let file = SocketFile::new(path).map_err(system)?;
    // Nobody can connect before `listen`, so nobody slips in between the default mode and ours.
    fs::set_permissions(path, fs::Permissions::from_mode(options.mode)).map_err(system)?;
    socket.listen(BACKLOG).map_err(system)?;
    // Another process that started in the same instant may have taken our file for a stale one.
    if !file.is_still_ours() {
        return Err(BindError::InUse(listen.clone()));
    }
    socket.set_nonblocking(true).map_err(system)?;
    Ok(Listener {
        socket: Bound::Unix(socket.into()),
        trust: Trust { trusted: options.trusted, allow_uids: options.allow_uids },
        local: listen.clone(),
        file: Some(Arc::new(file)),
    })
}

/// Removes a socket file that nobody listens on; leaves everything else alone and says what it is.
fn remove_stale(listen: &Listen, path: &Path) -> Result<(), BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain(listen, error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(listen.clone()));
    }
    match probe(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|cause| explain(listen, cause))
        }
        // A full backlog (EAGAIN) is somebody who listens, too.
        Ok(_) => Err(BindError::InUse(listen.clone())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse(listen.clone())),
        Err(error) => Err(explain(listen, error)),
    }
}

/// Connects without waiting: a listener whose backlog is full would block us.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn adopt(listen: &Listen, fd: OwnedFd, options: &BindOptions) -> Result<Listener, BindError> {
    let system = |cause| explain(listen, cause);
    let socket = Socket::from(fd);
    let listens = socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    #[cfg(target_os = "linux")]
    let listens = listens && socket.is_listener().unwrap_or(false);
    if !listens {
        return Err(BindError::NotListening(listen.clone()));
    }
    socket.set_nonblocking(true).map_err(system)?;
    let address = socket.local_addr().map_err(system)?;
    if let Some(address) = address.as_socket() {
        let socket = Bound::Tcp(socket.into());
        return Ok(Listener { socket, trust: Trust::default(), local: Listen::Tcp(address), file: None });
    }
    let local = address.as_pathname().map_or_else(|| listen.clone(), |path| Listen::Unix(path.to_owned()));
    let trust = Trust { trusted: options.trusted, allow_uids: options.allow_uids.clone() };
    // Its file belongs to whoever made it.
    Ok(Listener { socket: Bound::Unix(socket.into()), trust, local, file: None })
}

fn explain(listen: &Listen, cause: io::Error) -> BindError {
    match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(listen.clone()),
        _ => BindError::System { listen: listen.clone(), cause },
    }
}

/// A socket file of ours, removed when dropped unless somebody else has put another one in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(SocketFile { path: path.to_owned(), identity: identity(path)? })
    }

    fn is_still_ours(&self) -> bool {
        identity(&self.path).is_ok_and(|now| now == self.identity)
    }
}

/// Device and inode: what a file is, whatever its name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_still_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(listen: &Listen) -> Result<Listener, BindError> {
        Listener::bind(listen, BindOptions::default()).map(|mut all| all.remove(0))
    }

    #[test]
    fn port_0_is_reported_as_the_real_port_and_a_port_in_use_as_such() {
        let listener = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let local = listener.local();
        assert!(matches!(local, Listen::Tcp(address) if address.port() != 0));
        let error = bind(&local).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{local}: address already in use; ")), "{error}");
    }

    #[test]
    fn a_socket_file_has_its_mode_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let listen = Listen::Unix(path.clone());
        let options = BindOptions { mode: 0o600, ..BindOptions::default() };
        let listener = Listener::bind(&listen, options).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(matches!(bind(&listen), Err(BindError::InUse(_))));
        probe(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_goes_with_the_last_of_those_who_have_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let first = bind(&Listen::Unix(path.clone())).unwrap();
        let next = first.again().unwrap();
        drop(first);
        probe(&path).unwrap();
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = bind(&Listen::Unix(path.clone())).unwrap();
        probe(&path).unwrap();
    }

    #[test]
    fn what_is_not_a_socket_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let error = bind(&Listen::Unix(path.clone())).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "unix:{}: exists and is not a socket; remove it or choose another path",
                    path.display()
                )
            );
        }
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_listener_does_not_remove_the_file_of_its_successor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let old = bind(&Listen::Unix(path.clone())).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        let _new = bind(&Listen::Unix(path.clone())).unwrap();
        drop(old);
        probe(&path).unwrap();
    }

    #[test]
    fn only_listed_users_are_trusted_and_nobody_where_trust_is_off() {
        let trust = |trusted, uids: &[u32]| Trust { trusted, allow_uids: uids.to_vec() };
        assert!(!trust(false, &[]).allows(Some(0)) && !trust(false, &[7]).allows(Some(7)));
        assert!(trust(true, &[]).allows(None));
        assert!(
            trust(true, &[7]).allows(Some(7))
                && !trust(true, &[7]).allows(Some(0))
                && !trust(true, &[7]).allows(None)
        );
    }
}
