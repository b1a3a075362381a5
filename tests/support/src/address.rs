//! Where a misbehaving server listens, and how it keeps its place while it is down.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use tokio::net::{TcpSocket, UnixListener};

use crate::connection::Listening;

/// A place to listen.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// A loopback port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// Reserves a loopback address: connections are refused until somebody listens.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the life before may still be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens on `address`, on the socket that reserved it if there is one; replaces the file of an earlier life.
pub(crate) fn open(reserved: Option<TcpSocket>, address: &Address) -> io::Result<Listening> {
    match address {
        Address::Tcp(address) => {
            let socket = reserved.map_or_else(|| bind(*address), Ok)?;
            socket.listen(1024).map(Listening::Tcp)
        }
        Address::Unix(path) => {
            if path.exists() {
                fs::remove_file(path)?;
            }
            UnixListener::bind(path).map(Listening::Unix)
        }
    }
}
