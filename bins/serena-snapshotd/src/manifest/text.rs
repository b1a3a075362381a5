//! The manifest as text: one JSON object, its entries one a line, in a zstd frame.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufReader, Read, Write};

use mcp_daemon::secret::hex;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{About, Content, Entry, Kind, MAX_ENTRIES, Manifest};
use crate::digest::{Digest, unhex};

/// Largest manifest in bytes as it is stored, with some 2 million entries.
pub const MAX_STORED: u64 = 128 * 1024 * 1024;
/// Largest manifest in bytes once unpacked.
const MAX_TEXT: u64 = 1024 * 1024 * 1024;
/// Largest window that is unpacked, as a power of two: 16 MiB, where ours have 2.
const MAX_WINDOW: u32 = 24;
/// The only version there is.
const VERSION: u32 = 1;
/// The version stands within so many bytes.
const OPENING: u64 = 64;
/// zstd's own default.
const LEVEL: i32 = 3;

/// Why a manifest is none.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It does not fit together.
    #[error("manifest with {0}")]
    Contradiction(&'static str),
    /// One entry is wrong.
    #[error("manifest with `{path}`: {why}")]
    Entry {
        /// Its path.
        path: String,
        /// Why.
        why: String,
    },
    /// It is not what we write.
    #[error("manifest is not readable")]
    Json(#[from] serde_json::Error),
    /// It cannot be unpacked.
    #[error("manifest cannot be unpacked")]
    Zstd(#[from] io::Error),
    /// Written by a later version of this program.
    #[error(
        "manifest was written by a newer serena-snapshotd (version {0}, expected {VERSION}); update this one"
    )]
    Version(u32),
}

#[derive(Deserialize)]
struct Text {
    version: u32,
    #[serde(flatten)]
    about: About,
    #[serde(deserialize_with = "entries")]
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Opening<'a> {
    version: u32,
    #[serde(flatten)]
    about: &'a About,
}

/// One entry; what does not apply is left out.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    /// Instead of `path` where that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: Cow<'a, str>,
    /// Octal, as `chmod` takes it.
    mode: String,
    mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Digest>,
    /// Which of `objects` has the bytes.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    object: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unsettled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_hex: Option<String>,
}

impl Manifest {
    /// Writes it as it is stored, before any encryption.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let mut to = zstd::Encoder::new(to, LEVEL)?;
        to.include_checksum(true)?;
        let opening = serde_json::to_string_pretty(&Opening { version: VERSION, about: &self.about })?;
        let opening = opening.strip_suffix("\n}").expect("a pretty object ends so");
        write!(to, "{opening},\n  \"entries\": [")?;
        for (at, entry) in self.entries.iter().enumerate() {
            to.write_all(if at == 0 { b"\n    " } else { b",\n    " })?;
            serde_json::to_writer(&mut to, &line(entry))?;
        }
        to.write_all(b"\n  ]\n}\n")?;
        to.finish()?.flush()
    }

    /// Reads what [`Manifest::write`] wrote, and refuses everything that does not fit together.
    pub fn read(from: impl Read) -> Result<Self, ManifestError> {
        let mut text = zstd::Decoder::new(from)?;
        text.window_log_max(MAX_WINDOW)?;
        let mut text = text.take(MAX_TEXT);
        let mut opening = Vec::new();
        text.by_ref().take(OPENING).read_to_end(&mut opening)?;
        // Before the rest, which may look otherwise in a later version.
        match version_in(&opening) {
            Some(VERSION) | None => {}
            Some(other) => return Err(ManifestError::Version(other)),
        }
        let text = BufReader::new(opening.chain(text));
        let Text { version, about, entries } = serde_json::from_reader(text)?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        Manifest { about, entries }.check()
    }
}

/// The version that a manifest begins with; it is the first member in every version.
fn version_in(opening: &[u8]) -> Option<u32> {
    let rest = opening.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"version\"")?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

fn line(entry: &Entry) -> Line<'_> {
    let (path, path_hex) = text_or_hex(&entry.path);
    let shared =
        Line { path, path_hex, mode: format!("{:04o}", entry.mode), mtime: entry.mtime, ..Line::default() };
    match &entry.kind {
        Kind::Directory => Line { kind: "directory".into(), ..shared },
        Kind::File(content) => Line {
            kind: "file".into(),
            size: Some(content.size),
            sha256: Some(content.sha256),
            object: Some(content.object),
            unsettled: content.unsettled,
            ..shared
        },
        Kind::Link(target) => {
            let (link, link_hex) = text_or_hex(target);
            Line { kind: "link".into(), link, link_hex, ..shared }
        }
    }
}

fn text_or_hex(bytes: &[u8]) -> (Option<Cow<'_, str>>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(hex(bytes))),
    }
}

/// Takes the lines one by one, so that a large manifest is not in memory twice.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    struct Lines;
    impl<'de> Visitor<'de> for Lines {
        type Value = Vec<Entry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut lines: A) -> Result<Vec<Entry>, A::Error> {
            let mut entries = Vec::new();
            while let Some(line) = lines.next_element::<Line<'static>>()? {
                if entries.len() == MAX_ENTRIES {
                    return Err(de::Error::custom("more entries than a snapshot has"));
                }
                entries.push(entry(line).map_err(de::Error::custom)?);
            }
            entries.shrink_to_fit();
            Ok(entries)
        }
    }
    deserializer.deserialize_seq(Lines)
}

fn entry(line: Line<'_>) -> Result<Entry, &'static str> {
    let path = one_of(line.path, line.path_hex).ok_or("an entry without a path, or with two")?;
    let mode = u32::from_str_radix(&line.mode, 8).map_err(|_| "an entry whose mode is not octal")?;
    let kind = match (&*line.kind, line.size, line.sha256, line.object) {
        ("directory", None, None, None) => Kind::Directory,
        ("file", Some(size), Some(sha256), Some(object)) => {
            Kind::File(Content { size, sha256, object, unsettled: line.unsettled })
        }
        ("link", None, None, None) => {
            Kind::Link(one_of(line.link, line.link_hex).ok_or("a link without a target, or with two")?)
        }
        _ => return Err("an entry of unknown kind, or with members of another"),
    };
    Ok(Entry { path, mode, mtime: line.mtime, kind })
}

fn one_of(text: Option<Cow<'_, str>>, digits: Option<String>) -> Option<Box<[u8]>> {
    match (text, digits) {
        (Some(text), None) => Some(text.as_bytes().into()),
        (None, Some(digits)) => unhex(&digits).map(Vec::into_boxed_slice),
        _ => None,
    }
}
