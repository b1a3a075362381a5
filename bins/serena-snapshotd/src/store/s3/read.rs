//! Reading an object. A body that breaks off is taken up again where it broke, as long as it is still the same object.

use std::time::Duration;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use mcp_daemon::secret::chance;
use tokio::time::{sleep, timeout};

use super::{S3, etag, no_words, trouble};
use crate::store::{Etag, StoreError, Trouble};

/// Most bytes of a piece.
const PIECE: usize = 256 << 10;

/// The rest of an object's bytes.
pub(crate) struct BodyChunks {
    store: S3,
    key: String,
    etag: Etag,
    size: u64,
    body: ByteStream,
    /// Received and not yet given away.
    piece: Bytes,
    /// Where the bytes after `piece` are.
    at: u64,
    /// How often it may break off before the next byte comes.
    left: u32,
}

impl S3 {
    /// Begins to read an object: its bytes, their number and its ETag; `None` if the store says, in its own words, that
    /// there is none.
    pub(super) async fn begin(&self, key: &str) -> Result<Option<(BodyChunks, u64, Etag)>, StoreError> {
        let what = self.what("read", key);
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(self.key(&what, key)?);
        let found = match request.send().await {
            Ok(found) => found,
            Err(error) if is_no_such_key(&error) => return Ok(None),
            Err(error) => return Err(self.trouble(what, &error)),
        };
        let (Some(size), Some(tag)) = (length(&found), found.e_tag().map(etag)) else {
            return Err(no_words(&what, "a length and an ETag"));
        };
        let chunks = BodyChunks {
            store: self.clone(),
            key: key.to_owned(),
            etag: tag.clone(),
            size,
            body: found.body,
            piece: Bytes::new(),
            at: 0,
            left: self.0.settings.attempts.max(1) - 1,
        };
        Ok(Some((chunks, size, tag)))
    }
}

impl BodyChunks {
    pub(in crate::store) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.piece.is_empty() {
            if self.at == self.size {
                return Ok(None);
            }
            let time = self.store.0.settings.timeout;
            let why = match timeout(time, self.body.next()).await {
                Ok(Some(Ok(bytes))) => {
                    self.take(bytes)?;
                    continue;
                }
                Ok(Some(Err(error))) => mcp_daemon::exit::chain(&error),
                Ok(None) => "the answer ends too early".to_owned(),
                Err(_) => format!("nothing came for {time:?}"),
            };
            self.take_up(&why).await?;
        }
        Ok(Some(self.piece.split_to(PIECE.min(self.piece.len()))))
    }

    /// Everything that is left; for small objects.
    pub(super) async fn all(mut self) -> Result<Bytes, StoreError> {
        let mut bytes = Vec::with_capacity(self.size as usize);
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.at += bytes.len() as u64;
        if self.at > self.size {
            let detail = format!("more came than the {} bytes that were promised", self.size);
            return Err(StoreError::new(self.what(), Trouble::Damaged, detail));
        }
        if !bytes.is_empty() {
            self.left = self.store.0.settings.attempts.max(1) - 1;
        }
        self.piece = bytes;
        Ok(())
    }

    /// Asks for the rest.
    async fn take_up(&mut self, why: &str) -> Result<(), StoreError> {
        let broken = |chunks: &Self, trouble, detail: &str| {
            let (at, size) = (chunks.at, chunks.size);
            let detail = format!("broke off after {at} of {size} bytes: {detail}");
            StoreError::new(chunks.what(), trouble, chunks.store.0.settings.without_keys(detail))
        };
        let Some(left) = self.left.checked_sub(1) else {
            return Err(broken(self, Trouble::Unreachable, why));
        };
        self.left = left;
        sleep(pause(self.store.0.settings.backoff, self.store.0.settings.attempts - left)).await;
        let what = self.what();
        let inner = &self.store.0;
        let request = inner.client.get_object().bucket(&inner.bucket).key(self.store.key(&what, &self.key)?);
        let request = request.range(format!("bytes={}-", self.at)).if_match(format!("\"{}\"", self.etag.0));
        let found = match request.send().await {
            Ok(found) => found,
            Err(error) if is_no_such_key(&error) || trouble::status(&error) == Some(412) => {
                return Err(broken(self, Trouble::Damaged, "and it is not the same any more"));
            }
            Err(error) => return Err(self.store.trouble(what, &error)),
        };
        let range = format!("bytes {}-{}/{}", self.at, self.size - 1, self.size);
        if found.content_range() != Some(&range) || found.e_tag().map(etag).as_ref() != Some(&self.etag) {
            return Err(broken(self, Trouble::Damaged, "and the store does not give the rest of it alone"));
        }
        self.body = found.body;
        Ok(())
    }

    fn what(&self) -> String {
        self.store.what("read", &self.key)
    }
}

/// Only this is "there is none": a 404 whose body says so.
pub(super) fn is_no_such_key(error: &SdkError<GetObjectError>) -> bool {
    trouble::status(error) == Some(404) && trouble::code(error) == Some("NoSuchKey")
}

/// The pause before an attempt, from the second on: it doubles, and is cut at random.
pub(super) fn pause(first: Duration, attempt: u32) -> Duration {
    let longest = first.saturating_mul(1 << attempt.saturating_sub(2).min(6));
    longest.mul_f64(chance())
}

fn length(found: &GetObjectOutput) -> Option<u64> {
    found.content_length().and_then(|length| u64::try_from(length).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stay_below_their_bound() {
        let first = Duration::from_millis(100);
        for attempt in 2..40 {
            let longest = first * (1 << (attempt - 2).min(6));
            assert!((0..50).all(|_| pause(first, attempt) <= longest), "{attempt}");
        }
    }
}
