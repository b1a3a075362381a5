//! Fetches key sets in the background, and keeps them on disk, so that a start while the key server is down goes well.
//!
//! The bound of a key that its issuer has withdrawn: it is refused from the next fetch on that goes well, here and after
//! every later start. While the key server cannot be reached it goes on for as long as this process does, and after a start
//! only if the set was fetched within [`REMEMBERED`]; the age of its file says so, and what cannot be kept is removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use mcp_daemon::body::BodyError;
use mcp_daemon::client::{Client, ClientOptions, SendError};
use mcp_daemon::exit::chain;
use mcp_daemon::files;
use mcp_daemon::life::Life;
use mcp_daemon::secret::sha256_hex;
use tokio::time::{Instant, sleep_until, timeout};

use super::keys::KeySet;
use super::read::{self, MAX_BYTES, NoKeys};
use super::remote::Remote;
use crate::config::DAEMON;
use crate::credentials::Current;

/// From the start of a connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A set that was fetched longer ago is no longer taken up at a start.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a request waits for keys that it needs.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Why a set could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the answer broke off: {0}")]
    Broken(BodyError),
    #[error(transparent)]
    Keys(#[from] NoKeys),
    #[error(transparent)]
    NoAnswer(#[from] SendError),
    #[error("no whole answer within {} s", PATIENCE.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the answer is {0}, expected 200")]
    Status(StatusCode),
}

struct Fetcher {
    current: Arc<Current>,
    state_dir: Option<PathBuf>,
    client: Client,
    life: Life,
}

/// Takes up what an earlier process fetched, at once, and fetches all sets of the newest credentials until the drain.
/// `state_dir` is what the settings say of the state directory; where there is none, nothing outlives the process.
pub fn keep_fresh(current: Arc<Current>, state_dir: Option<PathBuf>, life: &Life) {
    let client = Client::new(ClientOptions::default());
    let fetcher = Arc::new(Fetcher { current, state_dir, client, life: life.clone() });
    fetcher.recall();
    life.spawn(fetcher.run());
}

/// Fetches an issuer's keys because a token names one that is not among them; whether that was done, and asking again may
/// help. At most once a minute, for all requests together, and within 5 s.
pub async fn at_once(current: &Current, issuer: &str) -> bool {
    let Some(remote) = current.load().issuers().remote(issuer) else { return false };
    let Some(mut ended) = remote.ask(Instant::now()) else { return false };
    current.wake_fetcher();
    matches!(timeout(REQUEST_PATIENCE, ended.changed()).await, Ok(Ok(())))
}

impl Fetcher {
    async fn run(self: Arc<Self>) {
        let mut changes = self.current.changes();
        loop {
            let remotes = self.current.load().issuers().remotes();
            let now = Instant::now();
            for remote in &remotes {
                if remote.begin(now) {
                    self.life.spawn(self.clone().fetch(remote.clone()));
                }
            }
            let next = remotes.iter().filter_map(|remote| remote.due()).min();
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.life.draining() => return,
                () = changes.next() => self.recall(),
                () = self.current.fetcher_woken() => {}
                () = due => {}
            }
        }
    }

    async fn fetch(self: Arc<Self>, remote: Arc<Remote>) {
        let issuer = remote.issuer.as_str();
        let fetched = match self.answer(&remote).await {
            Ok((keys, json)) => {
                let count = keys.len();
                let is_new = remote.replace(keys);
                self.remember(&remote, &json);
                if is_new {
                    log::info!(issuer, keys = count; "an issuer's keys are new");
                    if count == 0 {
                        log::warn!(issuer; "an issuer has withdrawn all its keys, its tokens are refused");
                    }
                    self.current.changed();
                }
                true
            }
            Err(error) => {
                let known = remote.keys().len();
                log::warn!(issuer, url:% = remote.url, keys = known, error:% = chain(&error); "an issuer's keys could not be fetched, the old ones stay");
                false
            }
        };
        remote.end(Instant::now(), fetched);
        self.current.wake_fetcher();
    }

    async fn answer(&self, remote: &Remote) -> Result<(KeySet, Bytes), FetchError> {
        let json = timeout(PATIENCE, self.get(remote)).await??;
        Ok((read::jwks(&json)?, json))
    }

    async fn get(&self, remote: &Remote) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Bytes::new());
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.client.send_on_new_connection(remote.url.endpoint(), request).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let mut body = answer.into_body();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(FetchError::Broken)?.into_data() else { continue };
            if all.len() + piece.len() > MAX_BYTES {
                return Err(NoKeys::TooMuch.into());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Reads what is on disk of the sets of which nothing is known yet, unless it is too old.
    fn recall(&self) {
        for remote in self.current.load().issuers().remotes() {
            if remote.is_known() {
                continue;
            }
            let Some(path) = self.path_of(&remote) else { return };
            if is_too_old(&path) {
                log::warn!(issuer = remote.issuer.as_str(), file:% = path.display(); "an issuer's keys from before are too old to be believed, they are fetched first");
                continue;
            }
            match read::file(&path) {
                Ok(keys) => {
                    log::info!(issuer = remote.issuer.as_str(), keys = keys.len(); "an issuer's keys are known from before");
                    remote.recall(keys);
                }
                Err(NoKeys::File(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    log::warn!(file:% = path.display(), error:%; "keys from before cannot be read");
                }
            }
        }
    }

    fn remember(&self, remote: &Remote, json: &[u8]) {
        let Some(path) = self.path_of(remote) else { return };
        if let Err(error) = files::write_atomic(&path, json) {
            // What lies there is not what the issuer says now.
            let removed = std::fs::remove_file(&path).is_ok();
            log::warn!(file:% = path.display(), error:%, removed; "keys cannot be kept for the next start");
        }
    }

    /// One file an issuer and URL: a set is never taken for another's. The directory is made when it is first needed.
    fn path_of(&self, remote: &Remote) -> Option<PathBuf> {
        match files::state_dir(self.state_dir.as_deref(), DAEMON) {
            Ok(directory) => {
                let name = sha256_hex(format!("{}\n{}", remote.issuer, remote.url).as_bytes());
                Some(directory.join(format!("jwks-{}.json", &name[..32])))
            }
            Err(error) => {
                log::warn!(error:%; "there is no state directory, keys are not kept for the next start");
                None
            }
        }
    }
}

/// Whether a set was written longer ago than [`REMEMBERED`], or in the future, as far as the clock can be believed.
fn is_too_old(path: &Path) -> bool {
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    // What cannot be looked at cannot be read either, and that is said.
    written.is_ok_and(|written| written.elapsed().map_or(true, |age| age > REMEMBERED))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_was_fetched_more_than_a_day_ago_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("set");
        assert!(!is_too_old(&path), "there is none");
        let file = File::create(&path).unwrap();
        for (age, expected) in [(Duration::ZERO, false), (REMEMBERED / 2, false), (REMEMBERED * 2, true)] {
            file.set_modified(SystemTime::now() - age).unwrap();
            assert_eq!(is_too_old(&path), expected, "{age:?}");
        }
        file.set_modified(SystemTime::now() + REMEMBERED).unwrap();
        assert!(is_too_old(&path), "a clock was wrong, who knows which");
    }
}
