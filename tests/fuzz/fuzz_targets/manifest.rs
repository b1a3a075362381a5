//! A manifest that somebody else wrote: nothing makes its reader panic, and what is read stays where it is put.
//!
//! An input is a manifest as text, one as it is stored (it begins as zstd does), or else a list of entries, one a line, from
//! which a manifest is made whose digest and counts are right: `d755 home`, `f644 home/a 5 0`, `l777 home/l target`, with
//! tabs between the fields.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use snapshotd::digest::Digest;
use snapshotd::manifest::{
    About, Content, Entry, Kind, MODE_MASK, Manifest, ManifestError, check_path, count, tree_digest,
};

/// The first bytes of a zstd frame.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fuzz_target!(|input: &[u8]| {
    let read = if input.starts_with(b"{") {
        Manifest::read(&zstd::encode_all(input, 1).expect("memory takes everything")[..])
    } else if input.starts_with(ZSTD) {
        Manifest::read(input)
    } else {
        made(input)
    };
    match read {
        Ok(manifest) => {
            stays_inside(&manifest);
            assert_eq!(through_text(&manifest).expect("what is written can be read"), manifest);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// What can be relied on without another look.
fn stays_inside(manifest: &Manifest) {
    let about = &manifest.about;
    let objects = about
        .objects
        .iter()
        .map(|object| object.key.strip_prefix("packs/").or(object.key.strip_prefix("blobs/")));
    for name in objects {
        let name = name.expect("bytes are in packs and blobs");
        assert!(!name.is_empty() && !name.contains('/') && !name.contains(".."), "{name}");
    }
    let mut kinds: HashMap<&[u8], &Kind> = HashMap::new();
    let mut last: &[u8] = b"";
    for entry in &manifest.entries {
        assert_eq!(check_path(&entry.path), Ok(()));
        assert!(last < &entry.path[..], "out of order");
        last = &entry.path;
        assert_eq!(entry.mode & !MODE_MASK, 0);
        if let Some(slash) = entry.path.iter().rposition(|byte| *byte == b'/') {
            assert_eq!(
                kinds.get(&entry.path[..slash]),
                Some(&&Kind::Directory),
                "below what is no directory"
            );
        } else {
            assert_eq!(entry.kind, Kind::Directory, "a root that is none");
        }
        match &entry.kind {
            Kind::Directory => {}
            Kind::File(content) => assert!((content.object as usize) < about.objects.len()),
            Kind::Link(target) => assert!(!target.is_empty() && !target.contains(&0)),
        }
        kinds.insert(&entry.path, &entry.kind);
    }
    assert_eq!(tree_digest(&manifest.entries), about.tree);
    assert_eq!(count(&manifest.entries), (about.files, about.bytes, about.unsettled));
}

fn through_text(manifest: &Manifest) -> Result<Manifest, ManifestError> {
    let mut stored = Vec::new();
    manifest.write(&mut stored).expect("memory takes everything");
    Manifest::read(&stored[..])
}

/// The manifest of a list of entries, written and read.
fn made(input: &[u8]) -> Result<Manifest, ManifestError> {
    let entries: Vec<Entry> = input.split(|byte| *byte == b'\n').filter_map(entry).collect();
    let sizes = entries.iter().map(|entry| match &entry.kind {
        Kind::File(content) => u128::from(content.size),
        Kind::Directory | Kind::Link(_) => 0,
    });
    if sizes.sum::<u128>() > u128::from(u64::MAX) {
        // Its own numbers cannot be right; that the reader says so is shown below.
        let manifest = Manifest { about: about(&entries, (0, 0, 0)), entries };
        let read = through_text(&manifest);
        assert!(read.is_err(), "more bytes than there are numbers");
        return read;
    }
    let manifest = Manifest { about: about(&entries, count(&entries)), entries };
    let read = through_text(&manifest);
    if let Ok(read) = &read {
        assert_eq!(*read, manifest);
    }
    read
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b'\t');
    let (kind, mode) = fields.next()?.split_first()?;
    let path: Box<[u8]> = fields.next()?.into();
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse::<u64>().ok();
    let kind = match kind {
        b'd' => Kind::Directory,
        b'l' => Kind::Link(fields.next()?.into()),
        b'f' => {
            let size = number(fields.next())?;
            let object = u32::try_from(number(fields.next())?).ok()?;
            Kind::File(Content {
                size,
                sha256: Digest::of(&path),
                object,
                unsettled: fields.next().is_some(),
            })
        }
        _ => return None,
    };
    let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
    Some(Entry { path, mode, mtime: i64::from(mode) - 0o400, kind })
}

fn about(entries: &[Entry], (files, bytes, unsettled): (u64, u64, u64)) -> About {
    let (zeros, tree) = ("0".repeat(64), tree_digest(entries));
    let text = format!(
        r#"{{"id": "0000000002-000001-0123456789abcdef", "created": "2026-01-01T00:00:00Z", "writer": "w", "reason": "asked",
            "tree": "{tree}", "files": {files}, "bytes": {bytes}, "unsettled": {unsettled}, "ancestors": [],
            "objects": [{{"key": "packs/{zeros}.tar.zst", "size": 7}}, {{"key": "blobs/{zeros}.zst.age", "size": 8}}]}}"#
    );
    serde_json::from_str(&text).expect("it is written as one")
}
