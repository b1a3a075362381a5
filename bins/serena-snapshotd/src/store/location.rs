//! Where a store is, in the one spelling that flags, settings, logs and status use.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Longest prefix in bytes: with a partition and the longest of our names a key stays below S3's 1024.
const MAX_PREFIX: usize = 512;
/// Longest name of a bucket in bytes.
const MAX_BUCKET: usize = 63;
/// How much of a wrong text an error shows, in characters.
const SHOWN: usize = 80;

/// Where a store is, as flags and settings say it: `s3://bucket/prefix` or `file:///dir`; `Display` parses back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// A directory, absolute.
    Directory(PathBuf),
    /// A bucket and a prefix, which may be empty.
    S3 {
        /// The bucket.
        bucket: String,
        /// Without slashes at its ends.
        prefix: String,
    },
}

/// Why a text is no location.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LocationError {
    /// Not a bucket's name.
    #[error(
        "`{0}` is not the name of a bucket; write s3://bucket/prefix, the bucket with 3 to 63 letters, digits, `.` and `-`"
    )]
    Bucket(String),
    /// Not a directory in its one spelling.
    #[error(
        "`{0}` is not a store; write file:///dir, an absolute path without `..`, `//` and a slash at its end"
    )]
    Directory(String),
    /// Neither of the two forms.
    #[error("`{0}` is not a store; write s3://bucket/prefix or file:///dir")]
    Form(String),
    /// Not a prefix in its one spelling.
    #[error(
        "`{0}` is not a prefix; write s3://bucket/prefix, without `..`, `//` and a slash at its end, at most {MAX_PREFIX} letters, \
         digits and !-_.*'()=@+,:"
    )]
    Prefix(String),
    /// Somebody put a key into the address; it is not repeated here.
    #[error(
        "a store's address has no user name or key in it; write s3://bucket/prefix, and give the keys in files or the environment"
    )]
    Secret,
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if let Some(path) = text.strip_prefix("file://") {
            return if is_plain_path(path) {
                Ok(Location::Directory(path.into()))
            } else {
                Err(LocationError::Directory(shown(text)))
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(if text.contains('@') {
                LocationError::Secret
            } else {
                LocationError::Form(shown(text))
            });
        };
        let (bucket, prefix) =
            rest.split_once('/').map_or((rest, None), |(bucket, prefix)| (bucket, Some(prefix)));
        if bucket.contains(['@', ':']) {
            return Err(LocationError::Secret);
        }
        if !is_bucket(bucket) {
            return Err(LocationError::Bucket(shown(bucket)));
        }
        if !prefix.is_none_or(is_prefix) {
            return Err(LocationError::Prefix(shown(prefix.unwrap_or_default())));
        }
        Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.unwrap_or_default().to_owned() })
    }
}

fn is_plain_path(path: &str) -> bool {
    // A path that `components` puts together again from names alone has no `.`, `..`, `//` or slash at its end.
    let names: PathBuf = Path::new(path).components().filter(|part| *part != Component::ParentDir).collect();
    path.starts_with('/')
        && path.len() > 1
        && names.to_str() == Some(path)
        && !path.contains(char::is_control)
}

fn is_bucket(text: &str) -> bool {
    (3..=MAX_BUCKET).contains(&text.len())
        && text.starts_with(|char: char| char.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !text.contains("..")
}

fn is_prefix(text: &str) -> bool {
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..")
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!-_.*'()=@+,:".contains(&byte))
    };
    text.len() <= MAX_PREFIX && text.split('/').all(is_name)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => write!(f, "file://{}", path.display()),
            Location::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_location_parses_back(
            bucket in "[a-z0-9][a-z0-9-]{2,62}",
            prefix in "([a-zA-Z0-9_=.!-]{0,5}[a-z](/[a-zA-Z0-9_-]{1,9}){0,3})?",
            path in "(/[a-zA-Z0-9 _%äé-]{1,9}){1,4}",
        ) {
            for location in [Location::S3 { bucket, prefix }, Location::Directory(path.into())] {
                prop_assert_eq!(location.to_string().parse::<Location>(), Ok(location));
            }
        }

        #[test]
        fn what_parses_is_written_as_it_was_given(text in "(s3://|file://|)[a-z0-9./@:% -]{0,24}") {
            if let Ok(location) = text.parse::<Location>() {
                prop_assert_eq!(location.to_string(), text);
            }
        }

        #[test]
        fn no_text_is_too_strange_to_be_refused_in_one_line(text in any::<String>()) {
            if let Err(error) = text.parse::<Location>() {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }

    #[test]
    fn a_wrong_location_is_refused_with_the_right_form() {
        for (text, words) in [
            ("", "write s3://bucket/prefix or file:///dir"),
            ("/var/backup", "write s3://bucket/prefix or file:///dir"),
            ("https://bucket.s3.amazonaws.com", "write s3://bucket/prefix or file:///dir"),
            ("file://backup", "an absolute path"),
            ("file:///", "an absolute path"),
            ("file:///a/../b", "without `..`"),
            ("file:///a/./b", "without `..`"),
            ("file:///a//b", "without `..`"),
            ("file:///a/", "a slash at its end"),
            ("s3://", "not the name of a bucket"),
            ("s3://ab", "3 to 63"),
            ("s3://b cket", "not the name of a bucket"),
            ("s3:///prefix", "not the name of a bucket"),
            ("s3://bucket/", "a slash at its end"),
            ("s3://bucket/a/../b", "without `..`"),
            ("s3://bucket/a//b", "without `..`"),
            ("s3://bucket/a?b", "not a prefix"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_in_an_address_is_not_repeated() {
        for text in ["s3://AKIA:hunter2@bucket/prefix", "https://AKIA:hunter2@host/bucket"] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains("AKIA"), "{error}");
        }
    }
}
