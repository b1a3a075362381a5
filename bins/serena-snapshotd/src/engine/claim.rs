//! How a daemon becomes the one who publishes: it raises the epoch in `HEAD`, and every older writer finds that at its next
//! attempt. No clock and no lock object: whoever claims last wins, and a clock that is behind changes nothing.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use mcp_daemon::exit::chain;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Engine, EngineError, Standing};
use crate::head::{Head, Pointer};
use crate::layout::HEAD;
use crate::settings::Takeover;
use crate::store::{Conditions, Etag, Replaced};

/// How often a holder renews `HEAD` where newcomers wait.
pub const RENEW: Duration = Duration::from_secs(60);
/// So many renewals must be missing before a newcomer takes over.
const MISSED: u32 = 3;
/// Attempts to replace a `HEAD` that others replace at the same time.
const ATTEMPTS: u32 = 10;

impl Engine {
    /// For a daemon, at its start: makes sure of the store's conditions, gives up leftovers of our own, and raises the epoch, so
    /// that every older writer is fenced. With `takeover = "wait"` this waits for the holder. A home that may not be published
    /// claims nothing: it would only stop who may.
    pub async fn claim(&mut self) -> Result<(), EngineError> {
        self.is_daemon = true;
        self.look().await?;
        self.sweep().await;
        if self.compare(super::is_empty(super::home(&self.settings))).await? == Standing::Diverged {
            return Ok(());
        }
        if self.conditions().await? == Conditions::Ignored {
            self.epoch = Some(self.known.as_ref().map_or(0, super::Known::epoch) + 1);
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            self.wait_for_holder().await?;
            let known = self.known.as_ref().ok_or_else(super::cannot_tell)?;
            let epoch = known.epoch() + 1;
            let Some((head, etag)) = known.head.clone() else {
                // Nothing to fence yet: whoever publishes first makes the first HEAD, and only one can.
                self.epoch = Some(epoch);
                return Ok(());
            };
            if self.replace_head(epoch, head.newest, false, Some(&etag)).await? {
                self.said_alive = Instant::now();
                self.epoch = Some(epoch);
                self.is_fenced = false;
                self.marker.write()?;
                log::info!(epoch, store:% = self.store; "took over as the writer");
                return Ok(());
            }
        }
        Err(EngineError::Refused(
            "others keep replacing HEAD; is there more than one daemon for this partition?".to_owned(),
        ))
    }

    /// For a daemon with `takeover = "wait"`, every [`RENEW`]: shows newcomers that it is alive. Whether it still is the
    /// writer.
    pub async fn renew(&mut self) -> Result<bool, EngineError> {
        self.say_alive(false).await
    }

    /// For a daemon with `takeover = "wait"`, at its end: the next one need not wait.
    pub async fn release(&mut self) -> Result<(), EngineError> {
        self.say_alive(true).await.map(|_still_ours| ())
    }

    /// Whether it has become the writer since it was opened; others may have taken over since.
    pub fn has_claimed(&self) -> bool {
        self.epoch.is_some()
    }

    async fn say_alive(&mut self, released: bool) -> Result<bool, EngineError> {
        if self.settings.takeover == Takeover::Now || self.is_fenced {
            return Ok(!self.is_fenced);
        }
        self.said_alive = Instant::now();
        let Some(epoch) = self.epoch else { return Ok(true) };
        let Some((head, etag)) = self.known.as_ref().and_then(|known| known.head.clone()) else {
            return Ok(true);
        };
        if self.replace_head(epoch, head.newest, released, Some(&etag)).await? {
            self.marker.write()?;
            return Ok(true);
        }
        let is_empty = false; // only who wrote HEAD is asked here
        self.compare(is_empty).await?;
        Ok(!self.is_fenced)
    }

    /// Waits for a work that may take long. Where newcomers wait, they hear meanwhile that we are alive: what somebody else has
    /// published in between is known afterwards, so whoever replaces `HEAD` next must compare first.
    pub(super) async fn alive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let due = self.said_alive + RENEW;
            let must_say =
                self.settings.takeover == Takeover::Wait && self.epoch.is_some() && !self.is_fenced;
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep_until(due), if must_say => {}
            }
            let mut ended = None;
            let renewed = {
                let mut renewing = pin!(self.renew());
                loop {
                    tokio::select! {
                        renewed = &mut renewing => break renewed,
                        done = &mut work, if ended.is_none() => ended = Some(done),
                    }
                }
            };
            if let Err(error) = renewed {
                log::warn!(error = chain(&error); "HEAD was not renewed; a newcomer may take over");
            }
            if let Some(done) = ended {
                return done;
            }
        }
    }

    /// Replaces `HEAD` if it still is what was expected; whether it did. What the store says is known afterwards.
    pub(super) async fn replace_head(
        &mut self,
        epoch: u64,
        newest: Pointer,
        released: bool,
        expected: Option<&Etag>,
    ) -> Result<bool, EngineError> {
        let mut head = Head::new(epoch, &self.settings.writer, newest);
        head.released = released;
        let nonce = head.nonce.clone();
        let answer = self.store.replace(HEAD, head.to_bytes().into(), expected).await;
        if let Ok(Replaced::Done(etag)) = answer {
            let newest = Some(head.newest.clone());
            self.known = Some(super::Known { newest, head: Some((head, etag)) });
            self.marker.marker.head_nonce = Some(nonce);
            return Ok(true);
        }
        // Refused, or nobody knows: what is there now says whose it is.
        let looked = self.look().await;
        let is_ours = |known: &super::Known| known.head.as_ref().is_some_and(|(head, _)| head.nonce == nonce);
        if looked.is_ok() && self.known.as_ref().is_some_and(is_ours) {
            self.marker.marker.head_nonce = Some(nonce);
            return Ok(true);
        }
        answer?;
        looked.map(|()| false)
    }

    /// With `takeover = "wait"`: until `HEAD` has not been renewed for [`MISSED`] times [`RENEW`], or is ours or released.
    async fn wait_for_holder(&mut self) -> Result<(), EngineError> {
        if self.settings.takeover == Takeover::Now {
            return Ok(());
        }
        let mut silent = 0;
        let mut before: Option<String> = None;
        loop {
            let head = self.known.as_ref().and_then(|known| known.head.as_ref());
            let Some((head, _)) = head else { return Ok(()) };
            if head.released || self.marker.marker.head_nonce.as_ref() == Some(&head.nonce) {
                return Ok(());
            }
            silent = if before.as_ref() == Some(&head.nonce) { silent + 1 } else { 0 };
            if silent == MISSED {
                log::info!(holder = head.writer.as_str(); "the writer has been silent, taking over");
                return Ok(());
            }
            if before.is_none() {
                log::info!(holder = head.writer.as_str(), seconds = (RENEW * MISSED).as_secs(); "waiting until the writer stops");
            }
            before = Some(head.nonce.clone());
            sleep(RENEW).await;
            self.look().await?;
        }
    }

    /// Gives up uploads that a crash of ours left half done. It only saves room, so a failure is for the log.
    async fn sweep(&mut self) {
        let marker = &self.marker.marker;
        let keys: Vec<String> =
            marker.intents.iter().flat_map(|intent| &intent.keys).chain(&marker.leftovers).cloned().collect();
        match self.store.sweep(&keys).await {
            Ok(0) => {}
            Ok(uploads) => log::info!(uploads; "gave up uploads that were left half done"),
            Err(error) => {
                log::warn!(error:% = error; "uploads that were left half done could not be given up")
            }
        }
    }
}
