//! Optional encryption of packs, blobs and manifests in the age format, so that they can be read without us:
//!
//! ```text
//! age -d -i identity.txt packs/<sha256>.tar.zst.age | tar --zstd -x
//! age -d manifests/<id>.json.zst.age | zstd -dc | jq      # encrypted by a passphrase: age asks for it
//! ```
//!
//! A key pair costs nothing. A passphrase costs some 0.1 s and 32 MiB for every object that is written or read, because age
//! has a salt in each: fine for a home, slow for hundreds of blobs. `age-keygen -o identity.txt` makes a key pair.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::iter;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, EncryptError, Encryptor, scrypt, x25519};
use mcp_daemon::secret::Secret;

use crate::layout;

/// Shortest passphrase in bytes: whoever copies the store can try as many as he likes.
pub const MIN_PASSPHRASE: usize = 16;
/// Most recipients; each makes every object 100 bytes longer.
pub const MAX_RECIPIENTS: usize = 64;
/// 2^15 rounds of scrypt: 32 MiB for a moment. More memory would buy a long passphrase nothing.
const WORK_FACTOR: u8 = if cfg!(test) { 8 } else { 15 };
/// What we are willing to do for a file that somebody else wrote: 128 MiB.
const MAX_WORK_FACTOR: u8 = 17;
/// Longest header of an object in bytes.
const MAX_HEADER: u64 = 16 * 1024;

/// The keys by which objects are written and read. Nothing shows them: `Debug` says only of what kind they are.
pub struct Seal {
    keys: Keys,
}

enum Keys {
    Pairs { identities: Vec<x25519::Identity>, recipients: Vec<x25519::Recipient> },
    Passphrase { identity: Box<scrypt::Identity>, recipient: Box<scrypt::Recipient> },
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// One or the other.
    #[error("encryption takes a passphrase or an identity, not both")]
    Both,
    /// We could write snapshots, and never read them.
    #[error(
        "no recipient is the identity's own `{own}`: what is written could not be restored; add it to the recipients"
    )]
    Foreign {
        /// The public key of the first identity.
        own: String,
    },
    /// A file with identities.
    #[error("{}: {why}", path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what is right.
        why: &'static str,
    },
    /// A passphrase is for whoever knows it.
    #[error("recipients go with an identity file; with a passphrase there are none")]
    Needless,
    /// Neither is given.
    #[error(
        "write either identity_file = \"/path\" or passphrase_file = \"/path\"; without an identity, no snapshot that is there could be read"
    )]
    NoIdentity,
    /// A file that cannot be used.
    #[error(transparent)]
    Read(io::Error),
    /// Not a public key.
    #[error("`{0}` is not an age recipient; write the public key that `age-keygen -y` shows, age1...")]
    Recipient(String),
    /// It could be guessed.
    #[error("{}: shorter than {MIN_PASSPHRASE} bytes, which can be guessed; `openssl rand -base64 24` makes a good one", .0.display())]
    Short(PathBuf),
    /// More than there can be.
    #[error("more than {MAX_RECIPIENTS} recipients")]
    TooMany,
}

impl Seal {
    /// Reads the keys: an identity file (as of `age-keygen`; the first one writes where `recipients` is empty, all of them
    /// read), or a file with a passphrase.
    pub fn from_files(
        recipients: &[String],
        identity: Option<&Path>,
        passphrase: Option<&Path>,
    ) -> Result<Seal, SealError> {
        Seal::check(recipients, identity, passphrase)?;
        let keys = match (identity, passphrase) {
            (Some(identity), _) => pairs(recipients, identity)?,
            (None, Some(passphrase)) => by_passphrase(passphrase)?,
            (None, None) => return Err(SealError::NoIdentity),
        };
        Ok(Seal { keys })
    }

    /// Finds what cannot work, without reading a file.
    pub fn check(
        recipients: &[String],
        identity: Option<&Path>,
        passphrase: Option<&Path>,
    ) -> Result<(), SealError> {
        match (identity, passphrase) {
            (None, None) => Err(SealError::NoIdentity),
            (Some(_), Some(_)) => Err(SealError::Both),
            (None, Some(_)) if !recipients.is_empty() => Err(SealError::Needless),
            (Some(_), None) | (None, Some(_)) => parse_recipients(recipients).map(drop),
        }
    }

    /// Encrypts what is written; nothing of it can be read before its `finish`.
    pub fn writer<W: Write>(&self, to: W) -> io::Result<StreamWriter<W>> {
        let encryptor = match &self.keys {
            Keys::Pairs { recipients, .. } => {
                Encryptor::with_recipients(recipients.iter().map(|key| key as _))
            }
            Keys::Passphrase { recipient, .. } => Encryptor::with_recipients(iter::once(&**recipient as _)),
        };
        encryptor.map_err(not_encrypted)?.wrap_output(to)
    }

    /// Decrypts what is read. What was changed or cut off is an error at that place, after what is whole.
    pub fn reader<R: Read>(&self, mut from: R) -> io::Result<impl Read + use<R>> {
        // The header is read line by line, however many there are.
        let mut header = Vec::new();
        from.by_ref().take(MAX_HEADER).read_to_end(&mut header)?;
        if !header.windows(5).any(|end| end == b"\n--- ") {
            return Err(invalid("not an age file, or cut off"));
        }
        let decryptor = Decryptor::new_buffered(BufReader::new(io::Cursor::new(header).chain(from)))
            .map_err(|error| self.not_decrypted(error, false))?;
        let is_passphrase = decryptor.is_scrypt();
        let decrypted = match &self.keys {
            Keys::Pairs { identities, .. } => decryptor.decrypt(identities.iter().map(|key| key as _)),
            Keys::Passphrase { identity, .. } => decryptor.decrypt(iter::once(&**identity as _)),
        };
        decrypted.map_err(|error| self.not_decrypted(error, is_passphrase))
    }

    /// `is_passphrase`: whether the object was encrypted by one.
    fn not_decrypted(&self, error: DecryptError, is_passphrase: bool) -> io::Error {
        let ours = matches!(self.keys, Keys::Passphrase { .. });
        match error {
            DecryptError::Io(error) => error,
            DecryptError::NoMatchingKeys
            | DecryptError::KeyDecryptionFailed
            | DecryptError::DecryptionFailed => locked(match (is_passphrase, ours) {
                (true, true) => "encrypted by another passphrase",
                (true, false) => "encrypted by a passphrase, which was not given",
                (false, true) => "encrypted to a key pair, whose identity file was not given",
                (false, false) => {
                    "encrypted to other keys than those in the identity file; add the one it was written with"
                }
            }),
            DecryptError::ExcessiveWork { .. } => {
                locked("encrypted by a passphrase with more work than is sensible")
            }
            DecryptError::InvalidHeader | DecryptError::InvalidMac => {
                invalid("encrypted, but damaged at its beginning")
            }
            DecryptError::UnknownFormat => {
                locked("encrypted in a later format of age; update serena-snapshotd")
            }
        }
    }
}

/// Reads what is stored at `key`: decrypted, if its name says that it is encrypted. An object from before encryption was
/// switched on stays readable.
pub fn open<'a, R: Read + Send + 'a>(
    key: &str,
    seal: Option<&Seal>,
    from: R,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    match (layout::is_sealed(key), seal) {
        (false, _) => Ok(Box::new(from)),
        (true, Some(seal)) => Ok(Box::new(seal.reader(from)?)),
        (true, None) => Err(locked("encrypted, and no key was given; set the identity or passphrase file")),
    }
}

fn pairs(recipients: &[String], path: &Path) -> Result<Keys, SealError> {
    let wrong = |why| SealError::Identity { path: path.to_owned(), why };
    let text = Secret::read(path).map_err(SealError::Read)?;
    let mut identities = Vec::new();
    for line in text.expose().lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        // What is wrong in it must not be shown.
        let identity = line.parse::<x25519::Identity>();
        identities
            .push(identity.map_err(|_| wrong("a line is no age identity; expected AGE-SECRET-KEY-1..."))?);
    }
    let own = identities
        .first()
        .ok_or_else(|| wrong("no age identity in it; `age-keygen -o` makes one"))?
        .to_public();
    let mut recipients = parse_recipients(recipients)?;
    if recipients.is_empty() {
        recipients.push(own);
    } else if !identities.iter().any(|identity| recipients.contains(&identity.to_public())) {
        return Err(SealError::Foreign { own: own.to_string() });
    }
    Ok(Keys::Pairs { identities, recipients })
}

fn parse_recipients(recipients: &[String]) -> Result<Vec<x25519::Recipient>, SealError> {
    if recipients.len() > MAX_RECIPIENTS {
        return Err(SealError::TooMany);
    }
    let parsed = recipients.iter().map(|text| {
        text.trim()
            .parse::<x25519::Recipient>()
            .map_err(|_| SealError::Recipient(text.escape_debug().take(80).collect()))
    });
    parsed.collect()
}

fn by_passphrase(path: &Path) -> Result<Keys, SealError> {
    let text = Secret::read(path).map_err(SealError::Read)?;
    if text.expose().len() < MIN_PASSPHRASE {
        return Err(SealError::Short(path.to_owned()));
    }
    let passphrase = SecretString::from(text.expose());
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(WORK_FACTOR);
    let mut identity = scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    Ok(Keys::Passphrase { identity: Box::new(identity), recipient: Box::new(recipient) })
}

fn not_encrypted(error: EncryptError) -> io::Error {
    match error {
        EncryptError::Io(error) => error,
        // Checked when the keys were read.
        _ => io::Error::other("these keys cannot encrypt"),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// What may be whole, but is not for whoever has our keys. Never taken for damage, so that nothing older is put in its place.
fn locked(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keys {
            Keys::Pairs { recipients, .. } => write!(f, "age, {} recipients", recipients.len()),
            Keys::Passphrase { .. } => f.write_str("age, passphrase"),
        }
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({self})")
    }
}
