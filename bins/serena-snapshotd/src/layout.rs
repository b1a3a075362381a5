//! Where everything is in a store, below `<prefix>/<partition>/`. Names say what an object is; its bytes need nothing of
//! ours to be read: `zstd -dc`, `tar --zstd -x`, and `age -d` before those where it is encrypted.
//!
//! ```text
//! HEAD                                        which snapshot is the newest; the only object that is ever replaced
//! manifests/<seq>-<epoch>-<nonce>.json.zst    one snapshot each: every path, and where its bytes are
//! packs/<sha256>.tar.zst                      the small files of a snapshot
//! blobs/<sha256>.zst                          one large file each
//! pins/<seq>                                  what `prune` must keep
//! forks/<seq>-<epoch>-<nonce>.json.zst        a manifest of a writer that may not publish any more
//! ```
//!
//! The digest in a name is that of the stored bytes. Every pack and blob ends with a skippable frame of random bytes, so
//! that no two uploads have one name: who deletes what he knows can never delete what somebody else has just stored.

use std::fmt;
use std::str::FromStr;

use mcp_daemon::secret::random_id;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::Digest;

/// The newest snapshot.
pub const HEAD: &str = "HEAD";
/// Below it are the manifests of the snapshots.
pub const MANIFESTS: &str = "manifests/";
/// Below it are the manifests of forks.
pub const FORKS: &str = "forks/";
/// Below it are the packs.
pub const PACKS: &str = "packs/";
/// Below it are the blobs.
pub const BLOBS: &str = "blobs/";
/// Below it are the pins.
pub const PINS: &str = "pins/";
/// Below it is what shows whether the store honours conditions; removed at once.
pub const PROBES: &str = "probes/";
/// Longest name of a partition in bytes.
pub const MAX_PARTITION: usize = 128;
/// Added to the name of an object that is encrypted.
const SEALED: &str = ".age";

/// The name of one home in a store: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}` without `..`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Partition(String);

impl Partition {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no name in a store.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// Not a snapshot.
    #[error(
        "`{0}` is not the id of a snapshot; write its number, such as 12, or <seq>-<epoch>-<nonce> as `list` shows it"
    )]
    Id(String),
    /// Not a partition.
    #[error(
        "`{0}` is not a partition; write letters, digits, `.`, `-` and `_`, at most 128, the first a letter or digit"
    )]
    Partition(String),
}

impl FromStr for Partition {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let right = text.len() <= MAX_PARTITION
            && text.starts_with(|char: char| char.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !text.contains("..");
        if right {
            Ok(Partition(text.to_owned()))
        } else {
            Err(NameError::Partition(text.escape_default().to_string()))
        }
    }
}

impl<'de> Deserialize<'de> for Partition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One snapshot, unmistakably: `<seq>-<epoch>-<nonce>`. The number counts along the lineage, the epoch counts the writers
/// that took over, and the nonce is random, because two writers may choose one number.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Id {
    /// Its number in its lineage, from 1.
    pub seq: u64,
    /// The epoch of who wrote it, from 1.
    pub epoch: u64,
    /// 16 random hexadecimal digits.
    pub nonce: String,
}

impl Id {
    /// The id of a snapshot that is about to be made.
    pub fn new(seq: u64, epoch: u64) -> Self {
        Id { seq, epoch, nonce: nonce() }
    }

    /// Where its manifest is.
    pub fn manifest(&self, sealed: bool) -> String {
        format!("{MANIFESTS}{self}.json.zst{}", suffix(sealed))
    }

    /// Where its manifest is if it is a fork.
    pub fn fork(&self, sealed: bool) -> String {
        format!("{FORKS}{self}.json.zst{}", suffix(sealed))
    }

    /// The id in the key of a manifest, be it of a fork; `None` for any other key.
    pub fn of_key(key: &str) -> Option<Self> {
        let name = key.strip_prefix(MANIFESTS).or_else(|| key.strip_prefix(FORKS))?;
        let name = name.strip_suffix(SEALED).unwrap_or(name);
        name.strip_suffix(".json.zst")?.parse().ok()
    }
}

/// Whether what is at this key is encrypted.
pub fn is_sealed(key: &str) -> bool {
    key.ends_with(SEALED)
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{:06}-{}", self.seq, self.epoch, self.nonce)
    }
}

impl FromStr for Id {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Id(text.chars().take(80).flat_map(char::escape_default).collect());
        let number = |part: Option<&str>| {
            let part =
                part.filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(wrong)?;
            part.parse().map_err(|_| wrong())
        };
        let mut parts = text.splitn(3, '-');
        let (seq, epoch) = (number(parts.next())?, number(parts.next())?);
        let nonce = parts.next().filter(|nonce| is_nonce(nonce)).ok_or_else(wrong)?;
        let id = Id { seq, epoch, nonce: nonce.to_owned() };
        // One spelling for one snapshot.
        if id.to_string() == text { Ok(id) } else { Err(wrong()) }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// 16 random hexadecimal digits.
pub fn nonce() -> String {
    random_id()[..16].to_owned()
}

fn is_nonce(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Where a pack is.
pub fn pack(stored: &Digest, sealed: bool) -> String {
    format!("{PACKS}{stored}.tar.zst{}", suffix(sealed))
}

/// Where a blob is.
pub fn blob(stored: &Digest, sealed: bool) -> String {
    format!("{BLOBS}{stored}.zst{}", suffix(sealed))
}

/// Where the pin of a snapshot is.
pub fn pin(id: &Id) -> String {
    format!("{PINS}{:010}", id.seq)
}

/// Where it is if that place is taken by another snapshot of the same number.
pub fn other_pin(id: &Id) -> String {
    format!("{PINS}{:010}-{}", id.seq, id.nonce)
}

fn suffix(sealed: bool) -> &'static str {
    if sealed { SEALED } else { "" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_parses_back_and_so_does_its_key(seq: u64, epoch: u64, sealed: bool) {
            let id = Id::new(seq, epoch);
            prop_assert_eq!(id.to_string().parse::<Id>(), Ok(id.clone()));
            prop_assert_eq!(Id::of_key(&id.manifest(sealed)), Some(id.clone()));
            prop_assert_eq!(Id::of_key(&id.fork(sealed)), Some(id));
        }

        #[test]
        fn no_text_is_an_id_in_two_spellings(text in "[0-9]{1,12}-[0-9]{1,8}-[0-9a-fA-F]{15,17}") {
            if let Ok(id) = text.parse::<Id>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn a_partition_cannot_leave_its_prefix() {
        for right in ["a", "laptop", "0a.b-C_d", &"f".repeat(128)] {
            assert_eq!(right.parse::<Partition>().unwrap().as_str(), right);
        }
        for wrong in ["", ".", "..", "a..b", "a/b", "-a", "a b", "\u{e4}", &"f".repeat(129)] {
            wrong.parse::<Partition>().unwrap_err();
        }
    }
}
