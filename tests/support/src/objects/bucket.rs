//! The bucket: what is stored, and what each operation does to it. No I/O.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};

use super::{
    answer::{Answer, Refusal},
    asked::{Asked, Operation},
    listing,
    signature::hex,
    state::Manner,
    uploads::Uploads,
};

/// The time of everything: whoever depends on a store's clock is wrong at once.
const LAST_MODIFIED: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

/// What an operation says, and whether it changed anything.
pub(super) type Done = Result<(Answer, bool), Refusal>;

#[derive(Debug)]
pub(super) struct Bucket {
    name: String,
    pub(super) objects: BTreeMap<String, Stored>,
    pub(super) uploads: Uploads,
    /// Writes so far.
    pub(super) writes: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    pub(super) etag: String,
    /// Which write stored it, from 1.
    pub(super) write: usize,
}

impl Bucket {
    pub(super) fn new(name: &str) -> Bucket {
        Bucket { name: name.into(), objects: BTreeMap::new(), uploads: Uploads::default(), writes: 0 }
    }

    pub(super) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects.iter().map(|(key, stored)| (key.clone(), stored.bytes.clone())).collect()
    }

    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.objects.get(key).map(|stored| stored.bytes.clone())
    }

    pub(super) fn set(&mut self, key: &str, bytes: Vec<u8>) {
        let etag = etag(&bytes);
        self.store(key, bytes, etag);
    }

    pub(super) fn remove(&mut self, key: &str) -> bool {
        self.objects.remove(key).is_some()
    }

    pub(super) fn replace_all(&mut self, contents: &BTreeMap<String, Vec<u8>>) {
        self.objects.clear();
        self.uploads = Uploads::default();
        for (key, bytes) in contents {
            self.set(key, bytes.clone());
        }
    }

    /// Does what is asked; a listing leaves out what the last `lag` writes stored.
    pub(super) fn perform(&mut self, asked: &Asked, body: &[u8], manner: Manner, lag: usize) -> Done {
        if asked.bucket != self.name {
            return Err((404, "NoSuchBucket"));
        }
        match asked.operation {
            Operation::Abort => self.uploads.abort(asked),
            Operation::Begin => Ok(self.uploads.begin(asked)),
            Operation::Complete => {
                let (bytes, etag) = self.uploads.whole(asked, body, manner)?;
                self.check(asked, manner)?;
                self.uploads.abort(asked)?;
                self.store(&asked.key, bytes, etag.clone());
                let answer = format!(
                    "<CompleteMultipartUploadResult><Bucket>{}</Bucket><ETag>&quot;{etag}&quot;</ETag>\
                     </CompleteMultipartUploadResult>",
                    self.name
                );
                Ok((Answer::xml(200, &answer), true))
            }
            Operation::Delete => {
                let was_there = self.remove(&asked.key);
                Ok((Answer::empty(204), was_there))
            }
            Operation::Get | Operation::Head => Ok((self.read(asked)?, false)),
            Operation::HeadBucket => Ok((Answer::empty(200), false)),
            Operation::List => Ok((listing::objects(self, asked, manner, lag)?, false)),
            Operation::Other => Err((501, "NotImplemented")),
            Operation::Part => self.uploads.part(asked, body),
            Operation::Put => {
                self.check(asked, manner)?;
                let etag = etag(body);
                self.store(&asked.key, body.to_vec(), etag.clone());
                Ok((Answer::empty(200).with("etag", format!("\"{etag}\"")), true))
            }
            Operation::Uploads => Ok((self.uploads.list(asked, manner), false)),
        }
    }

    fn store(&mut self, key: &str, bytes: Vec<u8>, etag: String) {
        self.writes += 1;
        self.objects.insert(key.into(), Stored { bytes, etag, write: self.writes });
    }

    /// The conditions of a write, as real S3 has them.
    fn check(&self, asked: &Asked, manner: Manner) -> Result<(), Refusal> {
        if manner.ignores_conditions {
            return Ok(());
        }
        let stored = self.objects.get(&asked.key);
        match (asked.header("if-match"), asked.header("if-none-match")) {
            (None, None) => Ok(()),
            (None, Some("*")) if stored.is_none() => Ok(()),
            (None, Some("*")) => Err((412, "PreconditionFailed")),
            (Some(wanted), None) => match stored {
                Some(stored) if wanted.trim_matches('"') == stored.etag => Ok(()),
                Some(_) => Err((412, "PreconditionFailed")),
                None => Err((404, "NoSuchKey")),
            },
            _ => Err((501, "NotImplemented")),
        }
    }

    fn read(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let stored = self.objects.get(&asked.key).ok_or((404, "NoSuchKey"))?;
        let named = |header| asked.header(header).map(|value| value.trim_matches('"') == stored.etag);
        if named("if-match") == Some(false) {
            return Err((412, "PreconditionFailed"));
        }
        if named("if-none-match") == Some(true) {
            return Ok(Answer::empty(304).with("etag", format!("\"{}\"", stored.etag)));
        }
        let length = stored.bytes.len();
        let answer = match asked.header("range").map(|range| range_of(range, length)) {
            None => Answer::empty(200).saying(stored.bytes.clone()),
            Some(None) => return Err((416, "InvalidRange")),
            Some(Some((from, to))) => Answer::empty(206)
                .with("content-range", format!("bytes {from}-{}/{length}", to - 1))
                .saying(stored.bytes[from..to].to_vec()),
        };
        let answer = answer.with("etag", format!("\"{}\"", stored.etag)).with("last-modified", LAST_MODIFIED);
        Ok(answer.with("accept-ranges", "bytes").with("content-type", "application/octet-stream"))
    }
}

/// `bytes=2-5`, `bytes=2-` or `bytes=-5` of so many, with an exclusive end.
fn range_of(range: &str, length: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from.parse::<usize>().ok(), to.parse::<usize>().ok()) {
        (Some(from), Some(to)) => (from, to.saturating_add(1).min(length)),
        (Some(from), None) => (from, length),
        (None, last) => (length.saturating_sub(last?), length),
    };
    (from < to).then_some((from, to))
}

/// Opaque to clients, but like real ones it depends on the bytes alone.
pub(super) fn etag(bytes: &[u8]) -> String {
    hex(&digest(&SHA256, bytes).as_ref()[..16])
}
