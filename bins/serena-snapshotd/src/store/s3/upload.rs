//! Large files go up in parts of equal size, two at a time, so that memory does not grow with the file.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::listing::Whole;
use super::{S3, etag, no_words, read_part, trouble};
use crate::layout::{BLOBS, PACKS};
use crate::store::{Etag, StoreError, Stored, Trouble};

/// Most parts that S3 puts together.
const MAX_PARTS: u64 = 10_000;
/// Parts that are larger than the settings say are a multiple of this, in bytes.
const STEP: u64 = 1 << 20;
/// Most pages of begun uploads that are looked at; what is beyond waits for the next start.
const MAX_PAGES: usize = 100;

impl S3 {
    /// Uploads a file in parts; after an error nothing of it stays, if the store can still be asked.
    pub(super) async fn upload(&self, key: &str, file: &File, size: u64) -> Result<Stored, StoreError> {
        let what = self.what("write", key);
        let whole = self.key(&what, key)?;
        let request = self.0.client.create_multipart_upload().bucket(&self.0.bucket).key(&whole);
        let begun = request.send().await.map_err(|error| self.trouble(what.clone(), &error))?;
        let id = begun
            .upload_id()
            .filter(|id| !id.is_empty())
            .ok_or_else(|| no_words(&what, "the id of an upload"))?;
        let upload = Upload { store: self, what: &what, key: &whole, id, file, size, part: self.part(size) };
        let error = match upload.run().await {
            Ok(etag) => return Ok(Stored { size, etag }),
            Err(error) => error,
        };
        // The answer to the last request may be what was lost; nobody else writes under this key.
        if let Ok(Some(stored)) = self.stat(key).await
            && stored.size == size
        {
            return Ok(stored);
        }
        if let Err(left) = self.abort(&whole, id).await {
            log::debug!(error = left.to_string(); "an upload stays half done until the next start");
        }
        Err(error)
    }

    /// Gives up uploads that were begun for these keys and never ended; how many.
    pub(in crate::store) async fn sweep(&self, keys: &[String]) -> Result<usize, StoreError> {
        let mut given_up = 0;
        for below in [PACKS, BLOBS] {
            if keys.iter().any(|key| key.starts_with(below)) {
                given_up += self.sweep_below(below, keys).await?;
            }
        }
        Ok(given_up)
    }

    async fn sweep_below(&self, below: &str, keys: &[String]) -> Result<usize, StoreError> {
        let what = self.what("list begun uploads of", below);
        let mut given_up = 0;
        let (mut key_marker, mut id_marker) = (None, None);
        for _ in 0..MAX_PAGES {
            let request = self.0.client.list_multipart_uploads().bucket(&self.0.bucket);
            let request = request.prefix(format!("{}{below}", self.0.base));
            let request = request.set_key_marker(key_marker.clone()).set_upload_id_marker(id_marker.clone());
            let page = match request.customize().interceptor(Whole("ListMultipartUploadsResult")).send().await
            {
                Ok(page) => page,
                // Not every store can list them; then it gives them up itself, or keeps them.
                Err(error) if matches!(trouble::status(&error), Some(405 | 501)) => return Ok(given_up),
                Err(error) => return Err(self.trouble(what, &error)),
            };
            for upload in page.uploads() {
                let (Some(whole), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                let is_ours = whole
                    .strip_prefix(self.0.base.as_str())
                    .is_some_and(|key| keys.iter().any(|ours| ours == key));
                if is_ours {
                    self.abort(whole, id).await?;
                    given_up += 1;
                }
            }
            let next =
                (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
            if page.is_truncated() != Some(true) || next == (key_marker, id_marker) {
                break;
            }
            (key_marker, id_marker) = next;
        }
        Ok(given_up)
    }

    async fn abort(&self, whole: &str, id: &str) -> Result<(), StoreError> {
        let request = self.0.client.abort_multipart_upload().bucket(&self.0.bucket).key(whole).upload_id(id);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if trouble::code(&error) == Some("NoSuchUpload") => Ok(()),
            Err(error) => {
                Err(self.trouble(format!("give up the upload of s3://{}/{whole}", self.0.bucket), &error))
            }
        }
    }

    fn part(&self, size: u64) -> u64 {
        part_size(size, self.0.settings.part_size)
    }
}

/// The size of all parts but the last.
fn part_size(size: u64, wanted: u64) -> u64 {
    let needed = size.div_ceil(MAX_PARTS).max(1);
    if wanted >= needed { wanted } else { needed.next_multiple_of(STEP) }
}

/// One upload under way.
struct Upload<'a> {
    store: &'a S3,
    what: &'a str,
    key: &'a str,
    id: &'a str,
    file: &'a File,
    size: u64,
    part: u64,
}

impl Upload<'_> {
    async fn run(&self) -> Result<Etag, StoreError> {
        let next = AtomicU32::new(0);
        let (mut parts, others) = tokio::try_join!(self.send_parts(&next), self.send_parts(&next))?;
        parts.extend(others);
        parts.sort_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let inner = &self.store.0;
        let request = inner.client.complete_multipart_upload().bucket(&inner.bucket).key(self.key);
        let request = request.upload_id(self.id).multipart_upload(parts).customize();
        // Putting the parts together takes a store its time.
        let done = request.config_override(self.store.time_for(self.size)).send().await;
        let done = done.map_err(|error| self.store.trouble(self.what.to_owned(), &error))?;
        done.e_tag().map(etag).ok_or_else(|| no_words(self.what, "an ETag"))
    }

    /// Sends one part after the other until there is none left.
    async fn send_parts(&self, next: &AtomicU32) -> Result<Vec<CompletedPart>, StoreError> {
        let mut sent = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let at = u64::from(index) * self.part;
            if at >= self.size {
                return Ok(sent);
            }
            sent.push(self.send_part(index as i32 + 1, at, self.part.min(self.size - at)).await?);
        }
    }

    async fn send_part(&self, number: i32, at: u64, size: u64) -> Result<CompletedPart, StoreError> {
        let bytes = read_part(self.what, self.file, at, size).await?;
        let inner = &self.store.0;
        let request = inner.client.upload_part().bucket(&inner.bucket).key(self.key).upload_id(self.id);
        let request = request.part_number(number).content_length(size as i64).body(ByteStream::from(bytes));
        let sent = request.customize().config_override(self.store.time_for(size)).send().await;
        let sent = sent.map_err(|error| self.store.trouble(self.what.to_owned(), &error))?;
        // Sent back as it came.
        let tag = sent.e_tag().filter(|tag| !tag.is_empty());
        let tag = tag.ok_or_else(|| {
            StoreError::new(self.what, Trouble::Damaged, "a part was taken without an ETag")
        })?;
        Ok(CompletedPart::builder().part_number(number).e_tag(tag).build())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_file_has_too_many_parts(size in 1..(5_u64 << 40), wanted in 0..(64_u64 << 20)) {
            let part = part_size(size, wanted);
            prop_assert!(part >= wanted);
            prop_assert!(size.div_ceil(part) <= MAX_PARTS);
        }
    }

    #[test]
    fn a_part_is_what_the_settings_say_unless_there_would_be_too_many() {
        assert_eq!(part_size(100 << 20, 8 << 20), 8 << 20);
        assert_eq!(part_size(100 << 20, 64 << 10), 64 << 10);
        assert_eq!(part_size(80_000 << 20, 8 << 20), 8 << 20);
        assert_eq!(part_size(90_000 << 20, 8 << 20), 9 << 20);
    }
}
