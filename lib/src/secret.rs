//! Secrets, and the randomness and digests around them. All cryptography of the workspace is aws-lc-rs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::{digest, rand};

/// Longest secret in bytes that a file may hold; a larger file is surely the wrong one.
pub const MAX_SECRET: u64 = 64 * 1024;

/// A text that must not be shown: it has no `Display`, and its `Debug` says only that it is there.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret that came from somewhere else, such as the environment.
    pub fn new(text: String) -> Self {
        Secret(text)
    }

    /// Reads a secret from a file that others cannot read; trailing line ends are dropped.
    pub fn read(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let invalid =
            |text: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text}", path.display()));
        let file = File::open(path).map_err(named)?;
        let mode = file.metadata().map_err(named)?.permissions().mode();
        if mode & 0o004 != 0 {
            return Err(invalid(&format!(
                "everybody can read this secret (mode {:04o}); run chmod 600 on it",
                mode & 0o7777
            )));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(named)?;
        if bytes.len() as u64 > MAX_SECRET {
            return Err(invalid("longer than 64 KiB, expected one secret"));
        }
        let mut text =
            String::from_utf8(bytes).map_err(|_| invalid("not UTF-8 text, expected one secret"))?;
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        if text.is_empty() {
            return Err(invalid("empty, expected a secret"));
        }
        Ok(Secret(text))
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A fresh unguessable id: 128 random bits as 32 hexadecimal digits.
pub fn random_id() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the system's random source cannot fail once seeded");
    hex(&bytes)
}

/// A random number from 0 to 1, both included: so that what failed together is not tried again together.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    rand::fill(&mut bytes).expect("the system's random source cannot fail once seeded");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// SHA-256 as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Lower-case hexadecimal digits, two a byte.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_secret_is_read_without_its_line_end_and_never_shown() {
        let secret = Secret::read(file(" s3cret\r\n", 0o640).path()).unwrap();
        assert_eq!(secret.expose(), " s3cret");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_refused_by_name() {
        let file = file("s3cret", 0o644);
        let error = Secret::read(file.path()).unwrap_err().to_string();
        assert!(error.starts_with(&file.path().display().to_string()), "{error}");
        assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn missing_empty_and_binary_files_are_refused_by_name() {
        for (path, words) in [
            (Path::new("/nonexistent/token").to_path_buf(), "No such file"),
            (file("\n", 0o600).into_temp_path().keep().unwrap(), "empty"),
        ] {
            let error = Secret::read(&path).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(path.to_str().unwrap()), "{error}");
            fs::remove_file(&path).ok();
        }
    }

    #[test]
    fn digests_match_the_published_vector_and_ids_differ() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let (one, two) = (random_id(), random_id());
        assert_ne!(one, two);
        assert!(one.len() == 32 && one.bytes().all(|b| b.is_ascii_hexdigit()));
        let chances: Vec<f64> = std::iter::repeat_with(chance).take(1000).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(chances.iter().any(|chance| *chance < 0.5) && chances.iter().any(|chance| *chance > 0.5));
    }
}
