//! Unpacks one archive of somebody else's.
//!
//! Refused as a whole, with the entry's name: absolute paths, `..`, names in two spellings or twice, files below what is no
//! directory, links in place of directories, hard links to what is not in the archive, and more than the limits. Left out
//! and told: what is no file (devices, pipes), and links that lead out of the directory. Links are made last, so that
//! nothing is written through one; set-user-id and its like are dropped.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::ImportError;
use crate::manifest::{MODE_MASK, check_path};
use crate::restore::tarball::{Item, ItemKind, Tarball, shown};
use crate::restore::tree::{Tree, stamp};

/// Read and written at once.
const BUFFER: usize = 256 * 1024;
/// Entries that were left out and are told one by one.
const MAX_LEFT_OUT: usize = 100;
/// Permissions that everything gets, so that a snapshot can be taken of it.
const READABLE: (u32, u32) = (0o600, 0o700);
/// Deepest path in directories.
const MAX_DEPTH: usize = 128;

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Most entries.
    pub entries: u64,
    /// Most bytes in files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 1_000_000, bytes: 64 << 30 }
    }
}

/// What an archive held.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unpacked {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out, and why; at most 100 of them.
    pub left_out: Vec<(String, String)>,
}

/// What an archive has at a path so far.
#[derive(Clone, Copy, PartialEq)]
enum Already {
    File,
    Link,
    /// It has things in it, but no entry of its own yet.
    ImpliedDirectory,
    Directory,
    LeftOut,
}

struct Extraction {
    tree: Tree,
    limits: Limits,
    entries: u64,
    seen: HashMap<Vec<u8>, Already>,
    links: Vec<(Vec<u8>, Vec<u8>, i64)>,
    directories: Vec<(Vec<u8>, u32, i64)>,
    buffer: Box<[u8]>,
    unpacked: Unpacked,
}

/// Unpacks a gzip-compressed tar into a directory that is empty or is made; after an error what is in it is to be thrown
/// away. Blocks.
pub fn unpack(archive: impl Read, into: &Path, limits: Limits) -> Result<Unpacked, ImportError> {
    let system = |cause| ImportError::System { path: into.display().to_string(), cause };
    match std::fs::DirBuilder::new().mode(0o700).create(into) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::read_dir(into).map_err(system)?.next().is_some() {
                return Err(system(io::ErrorKind::DirectoryNotEmpty.into()));
            }
        }
        made => made.map_err(system)?,
    }
    let tree = Tree::open(into).map_err(system)?;
    let mut extraction = Extraction {
        tree,
        limits,
        entries: 0,
        seen: HashMap::new(),
        links: Vec::new(),
        directories: Vec::new(),
        buffer: vec![0; BUFFER].into(),
        unpacked: Unpacked::default(),
    };
    let archive = io::BufReader::with_capacity(BUFFER, archive);
    let mut tarball = Tarball::new(MultiGzDecoder::new(archive), limits.bytes);
    while let Some(item) = tarball.next().map_err(unreadable)? {
        extraction.entry(item, &mut tarball)?;
    }
    tarball.finish().map_err(unreadable)?;
    extraction.finish()
}

impl Extraction {
    fn entry<R: Read>(&mut self, item: Item, tarball: &mut Tarball<R>) -> Result<(), ImportError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(refused(
                &item.path,
                format!("more than {} entries; raise the limit if that is right", self.limits.entries),
            ));
        }
        let Some(path) = plain(&item.path).map_err(|why| refused(&item.path, why))? else {
            // The home itself, `./`: whose directory is there already.
            return if item.kind == ItemKind::Directory {
                Ok(())
            } else {
                Err(refused(&item.path, "a root that is no directory"))
            };
        };
        self.parents(&path).map_err(|why| refused(&item.path, why))?;
        let seen = match &item.kind {
            ItemKind::Directory => Already::Directory,
            ItemKind::File | ItemKind::HardLink(_) => Already::File,
            ItemKind::Link(_) => Already::Link,
            ItemKind::Other(_) => Already::LeftOut,
        };
        match (self.seen.get(&path), seen) {
            (None, _) | (Some(Already::ImpliedDirectory), Already::Directory) => {}
            (Some(_), _) => return Err(refused(&item.path, "twice in the archive")),
        }
        let is_new = self.seen.insert(path.clone(), seen).is_none();
        match item.kind {
            ItemKind::Directory => {
                if is_new {
                    self.tree.make_directory(&path).map_err(|error| failed(&item.path, error))?;
                }
                self.directories.push((path, item.mode & MODE_MASK | READABLE.1, item.mtime));
            }
            ItemKind::File => self.file(&path, &item, tarball)?,
            ItemKind::HardLink(target) => self.hard_link(&path, item.mode, item.mtime, &target)?,
            ItemKind::Link(target) if leads_out(&path, &target) => {
                self.leave_out(&path, format!("a link that leads out of the home, to `{}`", shown(&target)));
            }
            ItemKind::Link(target) => self.links.push((path, target, item.mtime)),
            ItemKind::Other(what) => self.leave_out(&path, what.to_owned()),
        }
        Ok(())
    }

    /// Makes sure that every directory above is one: of this archive, and no link.
    fn parents(&mut self, path: &[u8]) -> Result<(), String> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for (depth, end) in slashes.enumerate() {
            if depth > MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} directories deep"));
            }
            let above = &path[..end];
            match self.seen.get(above) {
                Some(Already::Directory | Already::ImpliedDirectory) => {}
                Some(Already::Link) => return Err(format!("below `{}`, which is a link", shown(above))),
                Some(_) => return Err(format!("below `{}`, which is no directory", shown(above))),
                None => {
                    self.tree.make_directory(above).map_err(|error| error.to_string())?;
                    self.seen.insert(above.to_vec(), Already::ImpliedDirectory);
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], item: &Item, from: &mut impl Read) -> Result<(), ImportError> {
        self.count(path, item.size)?;
        let mut file = self.tree.create(path).map_err(|error| failed(path, error))?;
        let mut left = item.size;
        while left > 0 {
            let most = left.min(BUFFER as u64) as usize;
            let count = from.read(&mut self.buffer[..most]).map_err(unreadable)?;
            if count == 0 {
                return Err(refused(path, "ends too early"));
            }
            file.write_all(&self.buffer[..count]).map_err(|error| failed(path, error))?;
            left -= count as u64;
        }
        let mode = item.mode & MODE_MASK | READABLE.0;
        stamp(file.as_fd(), mode, item.mtime, None).map_err(|error| failed(path, error))
    }

    /// A file of its own with the same bytes: what was one file with two names in the container.
    fn hard_link(&mut self, path: &[u8], mode: u32, mtime: i64, target: &[u8]) -> Result<(), ImportError> {
        let of = plain(target)
            .ok()
            .flatten()
            .filter(|of| self.seen.get(of) == Some(&Already::File) && **of != *path);
        let Some(of) = of else {
            return Err(refused(
                path,
                format!("a hard link to `{}`, which is no file of this archive", shown(target)),
            ));
        };
        let mut from = self.tree.read(&of).map_err(|error| failed(path, error))?;
        self.count(path, from.metadata().map_err(|error| failed(path, error))?.len())?;
        let mut file = self.tree.create(path).map_err(|error| failed(path, error))?;
        io::copy(&mut from, &mut file).map_err(|error| failed(path, error))?;
        stamp(file.as_fd(), mode & MODE_MASK | READABLE.0, mtime, None).map_err(|error| failed(path, error))
    }

    fn count(&mut self, path: &[u8], bytes: u64) -> Result<(), ImportError> {
        self.unpacked.files += 1;
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(bytes);
        if self.unpacked.bytes > self.limits.bytes {
            return Err(refused(
                path,
                format!("more than {} bytes; raise the limit if that is right", self.limits.bytes),
            ));
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8], why: String) {
        if self.unpacked.left_out.len() < MAX_LEFT_OUT {
            self.unpacked.left_out.push((shown(path), why));
        }
    }

    /// Makes the links, and gives directories their permissions and times, the deepest first.
    fn finish(mut self) -> Result<Unpacked, ImportError> {
        for (path, target, mtime) in std::mem::take(&mut self.links) {
            self.tree.link(&path, &target, mtime, None).map_err(|error| failed(&path, error))?;
        }
        self.directories.sort_unstable_by(|one, other| other.0.cmp(&one.0));
        for (path, mode, mtime) in std::mem::take(&mut self.directories) {
            self.tree.finish(&path, mode, mtime, None).map_err(|error| failed(&path, error))?;
        }
        Ok(self.unpacked)
    }
}

/// The path below the home in one spelling: `./a/b/` is `a/b`, and the home itself is nothing.
fn plain(path: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut rest = path;
    while let Some(after) = rest.strip_prefix(b"./") {
        rest = after;
    }
    let rest = rest.strip_suffix(b"/").unwrap_or(rest);
    if matches!(rest, b"" | b".") && !path.is_empty() && !path.starts_with(b"/") {
        return Ok(None);
    }
    check_path(rest).map_err(|error| error.to_string())?;
    Ok(Some(rest.to_vec()))
}

/// Whether a link's target is, or may be, outside of the directory.
fn leads_out(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") || target.contains(&0) {
        return true;
    }
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let ups = parts.by_ref().take_while(|part| *part == b"..").count();
    // `a/..` depends on what `a` is, perhaps a link: only what goes up first, and then down, means what it says.
    ups > depth || parts.any(|part| part == b"..")
}

fn refused(path: &[u8], why: impl std::fmt::Display) -> ImportError {
    ImportError::Refused { archive: String::new(), why: format!("`{}`: {why}", shown(path)) }
}

fn unreadable(error: io::Error) -> ImportError {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "ends too early".to_owned(),
        _ => error.to_string(),
    };
    ImportError::Refused { archive: String::new(), why }
}

/// Something could not be made. That something is there already although the archive has it once: the file system takes two
/// names for one, such as one that knows no upper case.
fn failed(path: &[u8], cause: io::Error) -> ImportError {
    if cause.kind() == io::ErrorKind::AlreadyExists {
        return refused(path, "the file system takes it for another entry with nearly the same name");
    }
    ImportError::System { path: shown(path), cause }
}
