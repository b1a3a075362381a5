//! One request as the store saw it: what tests read, and what faults are matched with.

use std::collections::BTreeMap;

/// One request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// Its number, from 1, by the arrival of its head.
    pub number: usize,
    /// What it asks for.
    pub operation: Operation,
    /// The method.
    pub method: String,
    /// The bucket, decoded.
    pub bucket: String,
    /// The key below the bucket, decoded; empty where there is none.
    pub key: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Length of its body in bytes, once that has come whole.
    pub size: usize,
    /// The status that was answered, whether or not the answer arrived; 0 if there was none.
    pub status: u16,
    /// Whether it changed anything.
    pub effect: bool,
    pub(super) serial: u64,
    pub(super) path: String,
    pub(super) raw_query: String,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// `AbortMultipartUpload`.
    Abort,
    /// `CreateMultipartUpload`.
    Begin,
    /// `CompleteMultipartUpload`.
    Complete,
    /// `DeleteObject`.
    Delete,
    /// `GetObject`.
    Get,
    /// `HeadObject`.
    Head,
    /// `HeadBucket`.
    HeadBucket,
    /// `ListObjectsV2`.
    List,
    /// Anything else, which is refused.
    Other,
    /// `UploadPart`.
    Part,
    /// `PutObject`.
    Put,
    /// `ListMultipartUploads`.
    Uploads,
}

impl Operation {
    /// Whether it can change anything.
    pub fn writes(self) -> bool {
        use Operation::*;
        matches!(self, Abort | Begin | Complete | Delete | Part | Put)
    }

    fn of(method: &str, key: &str, query: &BTreeMap<String, String>) -> Operation {
        let has = |name: &str| query.contains_key(name);
        match (method, key.is_empty()) {
            ("HEAD", true) => Operation::HeadBucket,
            ("GET", true) if query.get("list-type").is_some_and(|kind| kind == "2") => Operation::List,
            ("GET", true) if has("uploads") => Operation::Uploads,
            ("HEAD", false) => Operation::Head,
            ("GET", false) if !has("uploadId") => Operation::Get,
            ("PUT", false) if has("uploadId") && has("partNumber") => Operation::Part,
            ("PUT", false) if !has("uploadId") => Operation::Put,
            ("DELETE", false) if has("uploadId") => Operation::Abort,
            ("DELETE", false) => Operation::Delete,
            ("POST", false) if has("uploads") => Operation::Begin,
            ("POST", false) if has("uploadId") => Operation::Complete,
            _ => Operation::Other,
        }
    }
}

impl Asked {
    /// From the head of a request; `target` is what stands between the method and the version.
    pub(super) fn new(method: &str, target: &str, headers: BTreeMap<String, String>) -> Asked {
        let (path, raw_query) = target.split_once('?').unwrap_or((target, ""));
        let (bucket, key) = path
            .strip_prefix('/')
            .unwrap_or(path)
            .split_once('/')
            .unwrap_or_else(|| (path.strip_prefix('/').unwrap_or(path), ""));
        let query: BTreeMap<_, _> = raw_query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let key = decoded(key);
        Asked {
            number: 0,
            operation: Operation::of(method, &key, &query),
            method: method.into(),
            bucket: decoded(bucket),
            key,
            query,
            headers,
            size: 0,
            status: 0,
            effect: false,
            serial: 0,
            path: path.into(),
            raw_query: raw_query.into(),
        }
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it is this operation on a key that ends so.
    pub fn is(&self, operation: Operation, key_end: &str) -> bool {
        self.operation == operation && self.key.ends_with(key_end)
    }

    pub(super) fn asks(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

/// Without its percent signs; what is no UTF-8 then is no name of ours.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]).1,
            None => (bytes.push(*first), rest = after).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As signatures and listings spell it.
pub(super) fn encoded(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slashes && byte == b'/');
        if plain { out.push(byte.into()) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}
