//! When each static token was last good for something: in memory while a request is served, in `last-use.json` of the state
//! directory every now and then and at the end.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcp_daemon::config;
use mcp_daemon::files::{self, Lock};
use mcp_daemon::life::Life;

use super::{Current, moment};
use crate::config::{Config, DAEMON};

/// The file in the state directory.
const FILE: &str = "last-use.json";
/// Held by the daemon that writes it.
const LOCK: &str = "last-use.lock";
/// A token's last use is at most so much newer than the file says.
const PAUSE: Duration = Duration::from_secs(30);

/// Seconds since 1970 by a token's fingerprint.
pub type Times = BTreeMap<String, u64>;

/// The last use of one token; all readings that know the token share it.
#[derive(Clone, Default)]
pub struct Used(Arc<AtomicU64>);

impl Used {
    /// Notes a use; costs a load and, once a second, a store.
    pub fn note(&self, now: u64) {
        if self.0.load(Ordering::Relaxed) < now {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// Seconds since 1970, if it ever was.
    pub fn at(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }
}

/// The file, and the right to write it.
pub struct LastUse {
    path: PathBuf,
    /// What it holds.
    written: Mutex<Times>,
    _lock: Lock,
}

impl LastUse {
    /// Takes the file of the state directory and recalls what it says of the tokens. Without one mcp-authd lets in whom it
    /// would let in anyway, so whatever is wrong is a warning.
    pub fn open(config: &Config, credentials: &Current) -> Option<Arc<Self>> {
        let opened = files::state_dir(config.state_dir.as_deref(), DAEMON).and_then(|directory| {
            let lock = Lock::take(&directory.join(LOCK)).map_err(io::Error::other)?;
            Ok((directory.join(FILE), lock))
        });
        let (path, lock) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log::warn!(error:% = error; "the last use of tokens is not kept");
                return None;
            }
        };
        let written = read(&path).unwrap_or_else(|error| {
            log::warn!(error:% = error; "what is known of the last use of tokens cannot be read, it starts anew");
            Times::default()
        });
        credentials.load().tokens().recall(&written);
        Some(Arc::new(Self { path, written: Mutex::new(written), _lock: lock }))
    }

    /// Writes it every now and then where there is something new, until the drain.
    pub async fn run(self: Arc<Self>, credentials: Arc<Current>, life: Life) {
        let mut failed = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = life.draining() => return,
            }
            let (this, credentials) = (self.clone(), credentials.clone());
            // A disk may take its time.
            let saved = tokio::task::spawn_blocking(move || this.save(&credentials)).await;
            match saved.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Err(error) if !failed => {
                    log::warn!(error:% = error, file:% = self.path.display(); "the last use of tokens cannot be written");
                    failed = true;
                }
                Err(_) => {}
                Ok(()) => failed = false,
            }
        }
    }

    /// Writes it if there is something new.
    pub fn save(&self, credentials: &Current) -> io::Result<()> {
        let times = credentials.load().tokens().times();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written != times {
            let spelt: BTreeMap<_, _> = times.iter().map(|(token, at)| (token, moment::spell(*at))).collect();
            files::write_atomic(&self.path, serde_json::to_string_pretty(&spelt)?.as_bytes())?;
            *written = times;
        }
        Ok(())
    }
}

/// What a daemon that keeps its state there wrote last; nothing if none ever did.
pub fn read_in(state_dir: &Path) -> io::Result<Times> {
    read(&state_dir.join(FILE))
}

fn read(path: &Path) -> io::Result<Times> {
    let text = match config::read(path) {
        Ok(text) => text,
        Err(config::ConfigError::Unreadable { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(Times::default());
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    let wrong = |error: serde_json::Error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let spelt: BTreeMap<String, String> = serde_json::from_str(&text).map_err(wrong)?;
    Ok(spelt.into_iter().filter_map(|(token, at)| Some((token, moment::parse(&at)?))).collect())
}
