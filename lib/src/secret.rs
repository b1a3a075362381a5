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

/// A fresh random key, straight from the system. aws-lc first convinces itself that it has a good source, which takes some
/// 30 ms of processor time; a daemon that needs one key to begin with does not have to wait for that.
pub fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut key));
    if read.is_err() {
        rand::fill(&mut key).expect("the system's random source cannot fail once seeded");
    }
    key
}

/// A fresh unguessable number, any of 64 bits.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the system's random source cannot fail once seeded");
    u64::from_ne_bytes(bytes)
}

/// A fresh random fraction, 0 and 1 included: what spreads pauses over their length, so that what failed together is not
/// tried again together.
pub fn random_fraction() -> f64 {
    random_u64() as f64 / u64::MAX as f64
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// SHA-256 as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
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

/// The bytes of hexadecimal digits, upper or lower case, if there are exactly as many as asked for.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
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
    fn hexadecimal_digits_are_read_as_they_are_written() {
        assert_eq!(unhex("00fF7a"), Some([0, 255, 0x7a]));
        assert_eq!(unhex(&hex(&[1, 254])), Some([1, 254]));
        for bad in ["", "0", "00", "00ff7", "00ff7a0", "00ff7a00", "00fg7a", "+0ff7a", "äää"] {
            assert_eq!(unhex::<3>(bad), None, "{bad}");
        }
    }

    #[test]
    fn digests_match_the_published_vector_and_what_is_random_differs() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let (one, two) = (random_id(), random_id());
        assert_ne!(one, two);
        assert!(one.len() == 32 && one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(random_u64(), random_u64());
        let fractions: Vec<f64> = (0..100).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|fraction| (0.0..=1.0).contains(fraction)), "{fractions:?}");
        // Less than one in 10^30 to see neither half.
        assert!(fractions.iter().any(|it| *it < 0.5) && fractions.iter().any(|it| *it > 0.5));
    }
}
