//! A store in an S3-compatible bucket: `<prefix>/<partition>/<key>`.
//!
//! Whatever a server does not say in the words of S3 is not believed: a 404 counts as "there is none" only with the code
//! `NoSuchKey` in its body, a listing only if it is whole, a write only with an ETag. Conditions are in [`condition`],
//! large files in [`upload`], the meaning of errors in [`trouble`].

mod client;
mod condition;
mod listing;
mod page;
mod read;
mod retry;
mod settings;
mod trouble;
mod upload;

use std::fmt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder as ConfigBuilder;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use self::page::NoPage;
pub(crate) use self::read::BodyChunks;
pub use self::settings::{S3Problem, S3Settings};
use super::{Chunks, Etag, Object, Reading, Source, StoreError, Stored, Trouble, is_key};
use crate::layout::Partition;
use crate::threads::blocking;

/// The slowest line that is waited for, in bytes a second: an attempt may take the timeout and this besides.
const SLOWEST: u64 = 64 << 10;

/// A store in an S3-compatible bucket; a clone is one reference count.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    client: Client,
    settings: S3Settings,
    bucket: String,
    /// `prefix/`, or nothing.
    above: String,
    /// `prefix/partition/`.
    base: String,
}

impl S3 {
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        partition: &Partition,
        settings: &S3Settings,
    ) -> Result<Self, StoreError> {
        let above = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        settings.check().map_err(|problem| {
            let trouble = match problem {
                S3Problem::Key(_) => Trouble::Denied,
                S3Problem::Endpoint(_) | S3Problem::Region(_) => Trouble::NoStore,
            };
            StoreError::new(format!("open s3://{bucket}/{above}{partition}"), trouble, problem.to_string())
        })?;
        Ok(S3(Arc::new(Inner {
            client: client::make(settings),
            settings: settings.clone(),
            bucket: bucket.to_owned(),
            base: format!("{above}{partition}/"),
            above,
        })))
    }

    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<Option<Object>, StoreError> {
        let Some((chunks, size, etag)) = self.begin(key).await? else { return Ok(None) };
        if size > limit {
            let detail = format!("{size} bytes long, expected at most {limit}");
            return Err(StoreError::new(self.what("read", key), Trouble::Damaged, detail));
        }
        Ok(Some(Object { bytes: chunks.all().await?, etag }))
    }

    pub(super) async fn open(&self, key: &str) -> Result<Option<Reading>, StoreError> {
        let begun = self.begin(key).await?;
        Ok(begun.map(|(chunks, size, _)| Reading { size, chunks: Chunks::S3(Box::new(chunks)) }))
    }

    pub(super) async fn put(&self, key: &str, source: Source<'_>) -> Result<Stored, StoreError> {
        let what = self.what("write", key);
        let bytes = match source {
            Source::Bytes(bytes) => bytes,
            Source::File { file, size, .. } if size >= self.0.settings.multipart_from => {
                return self.upload(key, file, size).await;
            }
            Source::File { file, size, .. } => read_part(&what, file, 0, size).await?,
        };
        let size = bytes.len() as u64;
        let request = self.0.client.put_object().bucket(&self.0.bucket).key(self.key(&what, key)?);
        let request = request.content_length(bytes.len() as i64).body(ByteStream::from(bytes));
        let sent = request.customize().config_override(self.time_for(size)).send().await;
        let sent = sent.map_err(|error| self.trouble(what.clone(), &error))?;
        // A server that says "OK" to everything says no ETag.
        let etag = sent.e_tag().map(etag).ok_or_else(|| no_words(&what, "an ETag"))?;
        Ok(Stored { size, etag })
    }

    pub(super) async fn stat(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let what = self.what("look at", key);
        let request = self.0.client.head_object().bucket(&self.0.bucket).key(self.key(&what, key)?);
        let found = match request.send().await {
            Ok(found) => found,
            // The answer to HEAD has no body that could say whether it is the key or the bucket that is not there.
            Err(error)
                if trouble::status(&error)
                    .is_some_and(|status| (300..500).contains(&status) && status != 429) =>
            {
                let begun = self.begin(key).await?;
                return Ok(begun.map(|(_, size, etag)| Stored { size, etag }));
            }
            Err(error) => return Err(self.trouble(what, &error)),
        };
        let size = found.content_length().and_then(|length| u64::try_from(length).ok());
        match (size, found.e_tag()) {
            (Some(size), Some(tag)) => Ok(Some(Stored { size, etag: etag(tag) })),
            _ => Err(no_words(&what, "a length and an ETag")),
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let what = self.what("delete", key);
        let request = self.0.client.delete_object().bucket(&self.0.bucket).key(self.key(&what, key)?);
        match request.customize().interceptor(NoPage).send().await {
            Ok(_) => Ok(()),
            Err(error) if trouble::code(&error) == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(self.trouble(what, &error)),
        }
    }

    /// The whole key of an object.
    fn key(&self, what: &str, key: &str) -> Result<String, StoreError> {
        if is_key(key) {
            Ok(format!("{}{key}", self.0.base))
        } else {
            Err(StoreError::new(what, Trouble::Damaged, "not the key of an object"))
        }
    }

    fn what(&self, verb: &str, key: &str) -> String {
        format!("{verb} {self}/{}", key.escape_debug())
    }

    /// The time for one attempt that carries so many bytes.
    fn time_for(&self, bytes: u64) -> ConfigBuilder {
        let time = self.0.settings.timeout + Duration::from_secs(bytes / SLOWEST);
        aws_sdk_s3::Config::builder()
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(time).build())
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.0.bucket, self.0.base.trim_end_matches('/'))
    }
}

impl fmt::Debug for S3 {
    /// Where it is, without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {:?}", self.0.settings)
    }
}

/// An ETag without what servers write around it differently.
fn etag(text: &str) -> Etag {
    Etag(text.trim_start_matches("W/").trim_matches('"').to_owned())
}

/// An answer of success that lacks what an S3 server says with it.
fn no_words(what: &str, missing: &str) -> StoreError {
    let detail =
        format!("the answer is a success without {missing}; is this an S3 server, or something in between?");
    StoreError::new(what, Trouble::Damaged, detail)
}

/// Reads a piece of a file, where that does not hold up the one thread that everybody shares.
async fn read_part(what: &str, file: &std::fs::File, at: u64, size: u64) -> Result<Bytes, StoreError> {
    let failed = |error: std::io::Error| {
        StoreError::new(what, Trouble::Damaged, format!("the file that is sent cannot be read: {error}"))
    };
    let file = file.try_clone().map_err(failed)?;
    let reading = blocking(move || {
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes))
    });
    reading.await.map_err(failed)
}
