//! Replacing an object only if it is still what was expected, and finding out whether the store keeps to that.

use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::time::sleep;

use super::read::pause;
use super::{S3, etag, no_words, trouble};
use crate::layout::{PROBES, nonce};
use crate::store::{Conditions, Etag, Replaced, StoreError, Trouble};

/// Looks like an ETag and is none: nothing has this MD5.
const NO_ETAG: &str = "00000000000000000000000000000000";

/// How one attempt ended.
enum Attempt {
    Done(Etag),
    /// The store refused it: the condition does not hold.
    Refused,
    /// Another write was under way: it says nothing about ours.
    Conflict(StoreError),
    /// The store knows no conditions.
    Unknown,
    /// Refused for the clock of this machine.
    Skewed(StoreError),
    /// Something else; it may or may not be done.
    Failed(StoreError),
}

impl S3 {
    pub(in crate::store) async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        expected: Option<&Etag>,
    ) -> Result<Replaced, StoreError> {
        self.replace_if(key, bytes, expected).await?.ok_or_else(|| {
            let detail = "the store knows no conditions (If-Match, If-None-Match)";
            StoreError::new(self.what("replace", key), Trouble::NoStore, detail)
        })
    }

    /// `None` if the store says that it knows no conditions.
    ///
    /// The attempts are counted here and not by the SDK: after one whose answer was lost, "the condition does not hold" may
    /// mean that it was done. Then the object is read; `bytes` must be such that nobody else writes them.
    async fn replace_if(
        &self,
        key: &str,
        bytes: Bytes,
        expected: Option<&Etag>,
    ) -> Result<Option<Replaced>, StoreError> {
        let mut attempt = 1;
        let mut may_be_done = false;
        loop {
            let is_last = attempt >= self.0.settings.attempts;
            let mut is_skewed = false;
            let error = match self.try_replace(key, bytes.clone(), expected).await {
                Attempt::Done(etag) => return Ok(Some(Replaced::Done(etag))),
                Attempt::Refused if !may_be_done => return Ok(Some(Replaced::Moved)),
                Attempt::Refused => return self.look_again(key, &bytes).await.map(Some),
                Attempt::Conflict(_) if is_last => return self.look_again(key, &bytes).await.map(Some),
                Attempt::Unknown => return Ok(None),
                Attempt::Conflict(error) | Attempt::Failed(error) => error,
                Attempt::Skewed(error) => {
                    // By the first such answer the SDK has learned what time it is there.
                    is_skewed = attempt == 1;
                    error
                }
            };
            let is_passing = matches!(error.trouble, Trouble::Busy | Trouble::Unreachable);
            if is_last || !(is_passing || is_skewed) {
                return Err(error);
            }
            may_be_done |= is_passing;
            attempt += 1;
            sleep(pause(self.0.settings.backoff, attempt)).await;
        }
    }

    /// Whether it was we who moved it.
    async fn look_again(&self, key: &str, bytes: &Bytes) -> Result<Replaced, StoreError> {
        let Some((chunks, size, etag)) = self.begin(key).await? else { return Ok(Replaced::Moved) };
        let is_ours = size == bytes.len() as u64 && chunks.all().await? == *bytes;
        Ok(if is_ours { Replaced::Done(etag) } else { Replaced::Moved })
    }

    async fn try_replace(&self, key: &str, bytes: Bytes, expected: Option<&Etag>) -> Attempt {
        let what = self.what("replace", key);
        let whole = match self.key(&what, key) {
            Ok(whole) => whole,
            Err(error) => return Attempt::Failed(error),
        };
        let size = bytes.len() as u64;
        let request = self.0.client.put_object().bucket(&self.0.bucket).key(whole);
        let request = request.content_length(bytes.len() as i64).body(ByteStream::from(bytes));
        let request = match expected {
            Some(expected) => request.if_match(format!("\"{}\"", expected.0)),
            None => request.if_none_match("*"),
        };
        let once = self.time_for(size).retry_config(RetryConfig::disabled());
        let error = match request.customize().config_override(once).send().await {
            Ok(sent) => {
                let tag = sent.e_tag().map(etag);
                return tag.map_or_else(|| Attempt::Failed(no_words(&what, "an ETag")), Attempt::Done);
            }
            Err(error) => error,
        };
        match (trouble::status(&error), trouble::code(&error)) {
            (Some(412), _) | (Some(404), Some("NoSuchKey")) => Attempt::Refused,
            (Some(409), _) => Attempt::Conflict(self.trouble(what, &error)),
            (Some(501), _) | (_, Some("NotImplemented")) => Attempt::Unknown,
            (_, Some("RequestTimeTooSkewed")) => Attempt::Skewed(self.trouble(what, &error)),
            _ => Attempt::Failed(self.trouble(what, &error)),
        }
    }

    pub(in crate::store) async fn conditions(&self) -> Result<Conditions, StoreError> {
        let key = format!("{PROBES}{}", nonce());
        let found = self.probe(&key).await;
        // Also after an error: what was begun may be there.
        if let Err(error) = self.delete(&key).await {
            // It is in nobody's way, and says nothing about conditions.
            log::warn!(error:% = error; "what tried the store's conditions could not be deleted, and stays there");
        }
        found
    }

    /// Creates an object, tries to replace it in the two ways that must be refused, and in the one that must not.
    async fn probe(&self, key: &str) -> Result<Conditions, StoreError> {
        let [first, wrong, second] =
            ["first", "wrong", "second"].map(|word| Bytes::from(format!("{word} {}\n", nonce())));
        let Some(Replaced::Done(etag)) = self.replace_if(key, first, None).await? else {
            return Ok(Conditions::Ignored);
        };
        let none = Etag(NO_ETAG.to_owned());
        for expected in [None, Some(&none)] {
            if self.replace_if(key, wrong.clone(), expected).await? != Some(Replaced::Moved) {
                return Ok(Conditions::Ignored);
            }
        }
        let replaced = self.replace_if(key, second.clone(), Some(&etag)).await?;
        let is_there = matches!(self.look_again(key, &second).await?, Replaced::Done(_));
        let is_honest = matches!(replaced, Some(Replaced::Done(_))) && is_there;
        Ok(if is_honest { Conditions::Honest } else { Conditions::Ignored })
    }
}
