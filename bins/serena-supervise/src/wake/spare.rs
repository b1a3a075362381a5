//! The second descriptor of a connection, taken before the connection is accepted: else held connections could use up
//! all descriptors, and none of them could ever go on to the server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpSocket, TcpStream};

/// Descriptors that connections leave to everything else: the pipes of a server that is started, probes, the control
/// socket, hooks. Of a small limit it is a third at most.
const HEADROOM: u64 = 24;

/// A socket to connect to the server with.
pub(super) struct Spare(TcpSocket);

impl Spare {
    /// Makes a spare for each connection while there are descriptors enough.
    pub(super) fn source() -> impl FnMut() -> io::Result<Spare> + Send {
        let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let usable = soft - HEADROOM.min(soft / 3);
        move || Spare::below(usable)
    }

    /// The kernel gives the lowest free number, so the number says how many descriptors are in use.
    fn below(usable: u64) -> io::Result<Spare> {
        let socket = TcpSocket::new_v4()?;
        if u64::try_from(socket.as_raw_fd()).is_ok_and(|number| number >= usable) {
            return Err(Errno::EMFILE.into());
        }
        Ok(Spare(socket))
    }

    /// Connects to `target`.
    pub(super) async fn connect(self, target: SocketAddr) -> io::Result<TcpStream> {
        let socket = if target.is_ipv4() {
            self.0
        } else {
            drop(self);
            TcpSocket::new_v6()?
        };
        let stream = socket.connect(target).await?;
        // Without it a request written in two pieces waits 40 ms for the server's acknowledgement.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// A spare for another attempt.
    pub(super) fn again() -> io::Result<Spare> {
        TcpSocket::new_v4().map(Spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_beyond_the_usable_ones_is_too_many_open_files() {
        let taken = Spare::below(u64::MAX).unwrap();
        let number = u64::try_from(taken.0.as_raw_fd()).unwrap();
        assert!(Spare::below(number).is_err_and(|error| error.raw_os_error() == Some(Errno::EMFILE as i32)));
    }
}
