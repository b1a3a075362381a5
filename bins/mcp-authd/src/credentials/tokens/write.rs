//! Changes files of tokens: adds one, switches one off. Everything else in them stays as it is, and what is written is read
//! back before it is put in place: whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcp_daemon::addr::Route;
use mcp_daemon::config::{self, ConfigError};
use mcp_daemon::files;
use mcp_daemon::secret::{hex, sha256};
use mcp_daemon::tokens::{self, HASH, Item, of_token};
use nix::fcntl::{Flock, FlockArg};

use super::{Tokens, json, toml};
use crate::credentials::keyed::keyed;
use crate::identity::Subject;

/// What every token of ours begins with, so that scanners of leaked secrets know it.
const PREFIX: &str = "mcp_";
/// Stands at the top of a file of ours.
const ABOUT: &str = "# Tokens of mcp-authd, one table each; only their hashes are kept. `mcp-authd token --help` tells more.\n";

/// What is to be known of a new token.
#[derive(Clone, Debug)]
pub struct New {
    /// What people call it; unique.
    pub name: String,
    /// Who brings it; the name unless given.
    pub subject: Option<Subject>,
    /// Where it leads.
    pub route: Option<Route>,
    /// What it is good for; everything if empty.
    pub scopes: Vec<String>,
    /// Seconds since 1970 at which it ends.
    pub expires: Option<u64>,
    /// A word for people.
    pub note: Option<String>,
}

/// What became of a new token.
#[derive(Debug)]
pub struct Added {
    /// The file that has its hash.
    pub file: PathBuf,
    /// Whom it belongs to.
    pub subject: Subject,
    /// Where it leads.
    pub route: Route,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is one of this name.
    #[error(
        "{place} has a token of this name already; choose another, or revoke that one and take its table out"
    )]
    Exists {
        /// The file, and the line where it has several.
        place: String,
    },
    /// What stands there cannot be used, or could not after the change.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// The name cannot be that of a file.
    #[error("`{0}` cannot be the name of a file of a token; take out `/`, a leading dot or the ending .toml")]
    NoFileName(String),
    /// The file has a form that is not changed here.
    #[error("{}: {what}", path.display())]
    NotChanged {
        /// The file.
        path: PathBuf,
        /// What to do by hand.
        what: &'static str,
    },
    /// The system says no.
    #[error("{}: {cause}", path.display())]
    System {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is none of this name.
    #[error("{}: no token is called `{name}`; `mcp-authd token list` shows what there is", path.display())]
    Unknown {
        /// The file or directory.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// A token that nobody can guess: `mcp_` and 256 random bits as 43 characters.
pub fn mint() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source cannot fail once seeded");
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// How a token's hash is written.
pub(super) fn hash_of(digest: &[u8; 32]) -> String {
    format!("{HASH}{}", hex(digest))
}

/// Keeps the hash of `token` in a file, which is made if need be, or in a directory as `NAME.toml`.
pub fn add(path: &Path, new: &New, token: &str) -> Result<Added, WriteError> {
    let _alone = alone(path)?;
    let digest = sha256(token.as_bytes());
    let (file, text, items) =
        if path.is_dir() { beside(path, new, &digest) } else { within(path, new, &digest) }?;
    let tokens = Tokens::of(&items, usize::MAX)?;
    let identity = &tokens.entry(&keyed(&digest)).expect("it has just been added").identity;
    put(&file, &text)?;
    Ok(Added { file, subject: identity.subject.clone(), route: identity.route.clone() })
}

/// A file, what will stand in it, and all tokens there are then.
type Change = (PathBuf, String, Vec<Item>);

/// In a directory: a new file.
fn beside(directory: &Path, new: &New, digest: &[u8; 32]) -> Result<Change, WriteError> {
    let name = &new.name;
    if name.contains('/') || name.starts_with('.') || name.ends_with(".toml") {
        return Err(WriteError::NoFileName(name.clone()));
    }
    let file = directory.join(format!("{name}.toml"));
    let mut items = tokens::read(directory)?;
    refuse_existing(&items, name)?;
    let text = toml::alone(new, digest);
    items.push(tokens::parse_one(&file, name, &text)?);
    Ok((file, text, items))
}

/// In a file: one more.
fn within(file: &Path, new: &New, digest: &[u8; 32]) -> Result<Change, WriteError> {
    let text = match fs::exists(file) {
        Ok(true) => config::read(file)?,
        Ok(false) => ABOUT.to_owned(),
        Err(cause) => return Err(WriteError::System { path: file.to_owned(), cause }),
    };
    let items = tokens::parse(file, &text)?;
    refuse_existing(&items, &new.name)?;
    let text = if tokens::is_json(&text) {
        Ok(json::with(&text, &items, new, digest))
    } else {
        toml::with(&text, new, digest)
    };
    let text = text.map_err(|what| WriteError::NotChanged { path: file.to_owned(), what })?;
    let items = tokens::parse(file, &text)?;
    Ok((file.to_owned(), text, items))
}

/// Switches a token off for good: `disabled = true`. Whether it was on before.
pub fn disable(path: &Path, name: &str) -> Result<bool, WriteError> {
    let _alone = alone(path)?;
    let items = tokens::read(path)?;
    let is_it = |item: &&Item| match item.name() {
        Some(own) => own == name,
        None => item.digest().is_ok_and(|digest| of_token(&digest) == name),
    };
    let mut those = items.iter().filter(is_it);
    let Some(item) = those.next() else {
        return Err(WriteError::Unknown { path: path.to_owned(), name: name.to_owned() });
    };
    if those.next().is_some() {
        let what = "several tokens have this name; take all but one out";
        return Err(WriteError::NotChanged { path: path.to_owned(), what });
    }
    if item.value("disabled") == Some(&tokens::Value::Flag(true)) {
        return Ok(false);
    }
    let file = item.path();
    if path.is_dir() && file.extension().is_none_or(|extension| extension != "toml") {
        return disable_plain(file, name, &item.digest()?).map(|()| true);
    }
    let text = config::read(file)?;
    let changed = if path.is_dir() {
        toml::disabled_alone(&text)
    } else if tokens::is_json(&text) {
        Ok(json::disabled(&text, item, &item.digest()?))
    } else {
        let index = items.iter().position(|other| std::ptr::eq(other, item)).unwrap_or_default();
        toml::disabled(&text, name, index, &item.digest()?)
    };
    let changed = changed.map_err(|what| WriteError::NotChanged { path: file.to_owned(), what })?;
    put(file, &changed)?;
    Ok(true)
}

/// One line has no room for `disabled`: a table takes its place, hidden until it is one. At no moment are there two.
fn disable_plain(file: &Path, name: &str, digest: &[u8; 32]) -> Result<(), WriteError> {
    let system = |cause| WriteError::System { path: file.to_owned(), cause };
    let hidden = file.with_file_name(format!(".{name}.revoked"));
    fs::rename(file, &hidden).map_err(system)?;
    put(&hidden, &toml::revoked(digest))?;
    fs::rename(hidden, file.with_file_name(format!("{name}.toml"))).map_err(system)
}

fn refuse_existing(items: &[Item], name: &str) -> Result<(), WriteError> {
    match items.iter().find(|item| item.name() == Some(name)) {
        Some(item) => Err(WriteError::Exists { place: item.place() }),
        None => Ok(()),
    }
}

fn put(path: &Path, text: &str) -> Result<(), WriteError> {
    files::replace(path, text.as_bytes()).map_err(|cause| WriteError::System { path: path.to_owned(), cause })
}

/// Two that change the same file one after the other, however they are started; leaves no file behind.
fn alone(path: &Path) -> Result<Flock<File>, WriteError> {
    let directory = match path.parent() {
        _ if path.is_dir() => path,
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let system = |cause| WriteError::System { path: directory.to_owned(), cause };
    let directory = File::open(directory).map_err(system)?;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| system(errno.into()))
}
