//! Reads tar archives that may be hostile: names and sizes are bounded before memory is taken for them, and what can be
//! read in two ways is refused. Knows ustar, GNU long names and PAX; sparse files are refused, since their size lies.

use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Longest name or target in bytes: the system's own bound, and the zero that ends it.
const MAX_NAME: u64 = 4097;
/// Largest PAX header in bytes.
const MAX_PAX: u64 = 256 * 1024;
/// Most headers about one entry.
const MAX_HEADERS: usize = 8;
/// Most zeros after the end in bytes; tar fills up to 10 KiB, and nobody more than this.
const MAX_FILLING: u64 = 1024 * 1024;
const NANOS: i64 = 1_000_000_000;

/// An archive that is being read. While it is between two items, [`Read`] gives the content of the first of them.
pub(crate) struct Tarball<R> {
    from: R,
    /// What is left of the content of the item.
    left: u64,
    /// What fills its last block.
    filling: u64,
    /// Content that may still be passed over.
    may_skip: u64,
    ended: bool,
}

/// One thing in an archive, as it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: ItemKind,
    /// Of its content in bytes; 0 for all but files.
    pub(crate) size: u64,
    pub(crate) mode: u32,
    /// In nanoseconds since 1970.
    pub(crate) mtime: i64,
}

/// What it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ItemKind {
    Directory,
    File,
    /// Another name of an earlier file.
    HardLink(Vec<u8>),
    Link(Vec<u8>),
    /// A device, pipe or the like.
    Other(&'static str),
}

/// What comes before an item, about it.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
}

impl<R: Read> Tarball<R> {
    /// Reads an archive; passes over at most so many bytes of content that nobody reads.
    pub(crate) fn new(from: R, may_skip: u64) -> Self {
        Tarball { from, left: 0, filling: 0, may_skip, ended: false }
    }

    /// The next thing; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Item>> {
        let mut extra = Extra::default();
        for at in 0..=MAX_HEADERS {
            self.skip()?;
            let Some(header) = self.header()? else {
                return if at == 0 { Ok(None) } else { Err(bad("ends within an entry")) };
            };
            let size = header.entry_size().map_err(|_| bad("an entry whose size is no number"))?;
            match header.entry_type() {
                EntryType::GNULongName => extra.path = Some(self.name(size)?),
                EntryType::GNULongLink => extra.link = Some(self.name(size)?),
                EntryType::XHeader => self.pax(size, &mut extra)?,
                // Of all entries, such as a comment of git's.
                EntryType::XGlobalHeader => drop(self.whole(size, MAX_PAX)?),
                _ => return self.item(&header, size, extra).map(Some),
            }
        }
        Err(bad("too many headers for one entry"))
    }

    /// After the last item: there must be nothing but some zeros. Gives back what is read from.
    pub(crate) fn finish(mut self) -> io::Result<R> {
        let mut buffer = [0; 8192];
        let mut filled = 0;
        loop {
            let count = self.from.read(&mut buffer)?;
            if count == 0 {
                return Ok(self.from);
            }
            filled += count as u64;
            if filled > MAX_FILLING || buffer[..count].iter().any(|byte| *byte != 0) {
                return Err(bad("more data after its end"));
            }
        }
    }

    fn item(&mut self, header: &Header, size: u64, extra: Extra) -> io::Result<Item> {
        let path = extra.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || extra.link.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let target = || link().filter(|link| !link.is_empty()).ok_or_else(|| bad("a link to nothing"));
        let kind = match header.entry_type() {
            // So wrote the oldest tar its directories.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => ItemKind::Directory,
            EntryType::Regular | EntryType::Continuous => ItemKind::File,
            EntryType::Directory => ItemKind::Directory,
            EntryType::Link => ItemKind::HardLink(target()?),
            EntryType::Symlink => ItemKind::Link(target()?),
            EntryType::Char | EntryType::Block => ItemKind::Other("a device"),
            EntryType::Fifo => ItemKind::Other("a pipe"),
            EntryType::GNUSparse => ItemKind::Other("a sparse file"),
            _ => ItemKind::Other("of unknown kind"),
        };
        let size = extra.size.unwrap_or(size);
        match kind {
            ItemKind::File | ItemKind::Other(_) => self.expect(size),
            // Some would read what follows as content, and some as the next entry.
            _ if size != 0 => return Err(bad(format!("`{}`, which is no file, with content", shown(&path)))),
            _ => {}
        }
        let seconds = || header.mtime().map_or(0, |seconds| i64::try_from(seconds).unwrap_or(0));
        let mtime = extra.mtime.unwrap_or_else(|| seconds().saturating_mul(NANOS));
        Ok(Item { path, kind, size, mode: header.mode().unwrap_or(0), mtime })
    }

    /// The next header; `None` for the empty block at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        self.from.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => bad("ends too early"),
            _ => error,
        })?;
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        // The sum is that of the block with its own field blank.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(bad("an entry whose sum is wrong"));
        }
        Ok(Some(header))
    }

    fn pax(&mut self, size: u64, extra: &mut Extra) -> io::Result<()> {
        let bytes = self.whole(size, MAX_PAX)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (key, value);
            (key, value, rest) = record(rest).ok_or_else(|| bad("a PAX header that is none"))?;
            let text = || std::str::from_utf8(value).ok();
            match key {
                b"path" => extra.path = Some(bounded(value)?),
                b"linkpath" => extra.link = Some(bounded(value)?),
                b"size" => {
                    let size = text().and_then(|text| text.parse().ok());
                    extra.size = Some(size.ok_or_else(|| bad("an entry whose size is no number"))?);
                }
                b"mtime" => extra.mtime = text().and_then(nanos),
                key if key.starts_with(b"GNU.sparse") => return Err(bad("a sparse file")),
                _ => {}
            }
        }
        Ok(())
    }

    fn name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.whole(size, MAX_NAME)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// All of a small content.
    fn whole(&mut self, size: u64, limit: u64) -> io::Result<Vec<u8>> {
        if size > limit {
            return Err(bad("an entry whose name is endless"));
        }
        self.expect(size);
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.filling = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Passes over what is left of the last item.
    fn skip(&mut self) -> io::Result<()> {
        self.may_skip =
            self.may_skip.checked_sub(self.left).ok_or_else(|| bad("far more in it than it should have"))?;
        let mut left = self.left.saturating_add(self.filling);
        let mut buffer = [0; 8192];
        while left > 0 {
            let count = left.min(buffer.len() as u64) as usize;
            self.from.read_exact(&mut buffer[..count])?;
            left -= count as u64;
        }
        (self.left, self.filling) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for Tarball<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let count = self.from.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(bad("ends too early"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A path for people.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(300)]).escape_debug().to_string()
}

pub(crate) fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn bounded(value: &[u8]) -> io::Result<Vec<u8>> {
    if value.len() as u64 > MAX_NAME {
        Err(bad("an entry whose name is endless"))
    } else {
        Ok(value.to_vec())
    }
}

/// The first `<length> <key>=<value>\n` of a PAX header, and what follows; the value may have any bytes.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let line = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = line.iter().position(|byte| *byte == b'=')?;
    Some((&line[..equals], &line[equals + 1..], &bytes[length..]))
}

/// `1700000000.25` in nanoseconds; digits beyond are cut off.
fn nanos(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let fraction: i64 = digits.parse().ok()?;
    seconds.checked_mul(NANOS)?.checked_add(if is_negative { -fraction } else { fraction })
}
