//! The two ways in which a server says by itself that it is ready.

use std::{fs::OpenOptions, io, io::Write as _, os::unix::net::UnixDatagram};

/// `READY=1` to `$NOTIFY_SOCKET`.
pub(crate) fn notify() -> io::Result<()> {
    let socket = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    UnixDatagram::unbound()?.send_to(b"STATUS=serving\nREADY=1\n", socket).map(drop)
}

/// A newline to an inherited descriptor, which is closed then.
pub(crate) fn newline(descriptor: i32) -> io::Result<()> {
    // Opened by its name: adopting a number would need unsafe code.
    let mut pipe = OpenOptions::new().write(true).open(format!("/proc/self/fd/{descriptor}"))?;
    pipe.write_all(b"\n")?;
    Ok(nix::unistd::close(descriptor)?)
}
