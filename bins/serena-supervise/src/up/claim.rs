//! One `up` for each project: a lock that its process holds, and beside it the URL, for whoever comes second. A port is
//! locked too while it is ours, so that two projects that start at once do not choose the same.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use mcp_daemon::files::{self, Lock, LockError};

use super::{PORT, Plan, SERENA, UpError};
use crate::config::Settings;
use crate::fleet::lock_path;
use crate::ports;

/// Ports that are tried, one after another.
const PORTS: u16 = 100;
/// Longest URL that is read back, in bytes; anything longer was not written by us.
const MAX_URL: usize = 256;

/// Whose the project is.
#[derive(Debug)]
pub enum Claim {
    /// Ours.
    Ours(Claimed),
    /// Somebody else serves it, at this URL.
    Served(String),
}

/// A project and an address that are ours until this is dropped or the process ends.
#[derive(Debug)]
pub struct Claimed {
    /// Where mcp-sessiond is to listen.
    pub address: SocketAddr,
    url_file: PathBuf,
    _project: Lock,
    _port: Option<Lock>,
}

impl Claimed {
    /// Tells whoever comes second where it is served; from now on they are not sent away.
    pub fn announce(&self) -> std::io::Result<()> {
        files::write_atomic(&self.url_file, super::url(self.address).as_bytes())
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // Before the lock is let go, or it could be the next one's.
        let _ = fs::remove_file(&self.url_file);
    }
}

impl Plan {
    /// Makes the project and an address ours, or says where it is served already.
    pub fn claim(&self) -> Result<Claim, UpError> {
        let url_file = self.runtime.join(format!("up-{}.url", self.tag));
        let project = match Lock::take(&self.runtime.join(format!("up-{}.lock", self.tag))) {
            Ok(lock) => lock,
            Err(LockError::Held { holder, .. }) => {
                let url = announced(&url_file);
                return url.map(Claim::Served).ok_or(UpError::Busy { project: self.project.clone(), holder });
            }
            Err(error) => return Err(UpError::Lock(error)),
        };
        // What a killed predecessor left would send others to a port where nobody is.
        let _ = fs::remove_file(&url_file);
        self.refuse_shared_home()?;
        let (address, port) = match self.listen {
            Some(address) => (free(address).map_err(|cause| UpError::Address { address, cause })?, None),
            None => self.usual_port()?,
        };
        Ok(Claim::Ours(Claimed { address, url_file, _project: project, _port: port }))
    }

    /// Another project's `up` usually has the same home. The fleet locks it for good, this is for the better words.
    fn refuse_shared_home(&self) -> Result<(), UpError> {
        let name = SERENA.parse().expect("a literal name");
        let settings = Settings { home: Some(self.home.clone()), ..Settings::default() };
        match Lock::is_free(&lock_path(&self.runtime, &name, &settings)) {
            Err(LockError::Held { holder, .. }) => Err(UpError::Home { home: self.home.clone(), holder }),
            Ok(()) | Err(LockError::System { .. }) => Ok(()),
        }
    }

    /// The first port from [`PORT`] on that is neither taken nor claimed by another `up` of this user.
    fn usual_port(&self) -> Result<(SocketAddr, Option<Lock>), UpError> {
        let last = PORT + PORTS - 1;
        for port in PORT..=last {
            let Ok(lock) = Lock::take(&self.runtime.join(format!("up-port-{port}.lock"))) else { continue };
            if let Ok(address) = free(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)) {
                return Ok((address, Some(lock)));
            }
        }
        Err(UpError::NoPort(last))
    }
}

/// The address itself if it can be listened on now, with a free port for 0.
fn free(address: SocketAddr) -> std::io::Result<SocketAddr> {
    if address.port() == 0 && address.ip() == Ipv4Addr::LOCALHOST {
        // mcp-sessiond takes it in a moment, and no connection shall meanwhile.
        return Ok(SocketAddr::new(address.ip(), ports::free_port()?));
    }
    TcpListener::bind(address)?.local_addr()
}

fn announced(url_file: &Path) -> Option<String> {
    let url = fs::read_to_string(url_file).ok()?;
    Some(url.trim().to_owned()).filter(|url| url.starts_with("http://") && url.len() <= MAX_URL)
}
