//! Archives as the wrapper makes them, and as somebody makes them who wants to write elsewhere.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::store::{Location, S3Settings, Source};

const NAME: &str = "serena-home-20260101T000000Z-1.tar.gz";

/// One entry with any name, also one that no honest tar writes.
fn entry(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &[u8], link: &[u8], bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_mtime(1_600_000_000);
    header.set_size(bytes.len() as u64);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path);
    old.linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

fn archive(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (kind, path, link, bytes) in entries {
        entry(&mut tar, *kind, path.as_bytes(), link.as_bytes(), bytes);
    }
    gz(&tar.into_inner().unwrap())
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

/// Unpacks into a directory beside a canary, which must live.
fn tried(archive: &[u8], limits: Limits) -> (tempfile::TempDir, Result<Unpacked, ImportError>) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("canary"), "alive").unwrap();
    let unpacked = unpack(archive, &directory.path().join("into"), limits);
    assert_eq!(fs::read_to_string(directory.path().join("canary")).unwrap(), "alive");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    (directory, unpacked)
}

#[test]
fn an_archive_of_the_wrapper_is_unpacked() {
    let long = format!("./memories/{}.md", "n".repeat(150));
    let mut tar = Builder::new(Vec::new());
    entry(&mut tar, DIR, b"./", b"", b"");
    entry(&mut tar, FILE, b"./serena_config.yml", b"", b"projects: []\n");
    entry(&mut tar, DIR, b"./memories/", b"", b"");
    let mut header = Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o400);
    tar.append_data(&mut header, &long, &b"long"[..]).unwrap();
    entry(&mut tar, HARD, b"./memories/again.md", b"./serena_config.yml", b"");
    entry(&mut tar, LINK, b"./memories/l", b"../serena_config.yml", b"");
    entry(&mut tar, LINK, b"./out", b"/etc", b"");
    entry(&mut tar, EntryType::Fifo, b"./pipe", b"", b"");
    let (directory, unpacked) = tried(&gz(&tar.into_inner().unwrap()), Limits::default());
    let left_out = [("out", "a link that leads out of the home, to `/etc`"), ("pipe", "a pipe")];
    let left_out = left_out.map(|(path, why)| (path.to_owned(), why.to_owned())).to_vec();
    assert_eq!(unpacked.unwrap(), Unpacked { files: 3, bytes: 30, left_out });
    let into = directory.path().join("into");
    let config = fs::metadata(into.join("serena_config.yml")).unwrap();
    assert_eq!((config.mode() & 0o7777, config.mtime(), config.nlink()), (0o755, 1_600_000_000, 1));
    assert_eq!(fs::read(into.join("memories/again.md")).unwrap(), b"projects: []\n");
    assert_eq!(fs::read(into.join("memories/l")).unwrap(), b"projects: []\n");
    assert_eq!(fs::metadata(into.join(&long)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(into.join("memories")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn what_gnu_tar_makes_of_a_home_is_unpacked() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    fs::create_dir_all(home.join("memories")).unwrap();
    fs::write(home.join(format!("memories/{}\n.md", "\u{e4}".repeat(80))), "x").unwrap();
    for format in ["gnu", "pax"] {
        let made = std::process::Command::new("tar")
            .arg("-C")
            .arg(&home)
            .args(["--format", format, "-czf", "-", "."])
            .output();
        let Ok(made) = made else { return eprintln!("skipped: archives of GNU tar because there is none") };
        let (into, unpacked) = tried(&made.stdout, Limits::default());
        assert_eq!(unpacked.unwrap().files, 1);
        let name =
            fs::read_dir(into.path().join("into/memories")).unwrap().next().unwrap().unwrap().file_name();
        assert_eq!(name.to_str().unwrap(), format!("{}\n.md", "\u{e4}".repeat(80)));
    }
}

#[test]
fn a_hostile_archive_is_refused_with_the_name_of_the_entry() {
    let canary = "../canary";
    for (entries, why) in [
        (vec![(FILE, "/canary", "", &b"x"[..])], "`/canary`: an absolute path"),
        (vec![(FILE, canary, "", b"x")], "`../canary`: a path with `.`, `..`"),
        (vec![(FILE, "./a/../../canary", "", b"x")], "`./a/../../canary`: a path with `.`, `..`"),
        (vec![(FILE, "a//b", "", b"x")], "`a//b`: a path with `.`, `..`"),
        (vec![(DIR, "..", "", b"")], "`..`: a path with `.`, `..`"),
        (vec![(FILE, "", "", b"x")], "an empty or endless path"),
        (vec![(FILE, ".", "", b"x")], "`.`: a root that is no directory"),
        (vec![(LINK, "./", "/etc", b"")], "`./`: a root that is no directory"),
        (
            vec![(LINK, "l", "..", b""), (FILE, "l/canary", "", b"x")],
            "`l/canary`: below `l`, which is a link",
        ),
        (vec![(LINK, "l", "d", b""), (FILE, "l/canary", "", b"x")], "`l/canary`: below `l`, which is a link"),
        (vec![(FILE, "l", "", b"x"), (FILE, "l/x", "", b"x")], "`l/x`: below `l`, which is no directory"),
        (vec![(LINK, "l", "d", b""), (FILE, "l", "", b"x")], "`l`: twice in the archive"),
        (vec![(FILE, "l", "", b"x"), (LINK, "./l", "../canary", b"")], "`./l`: twice in the archive"),
        (vec![(DIR, "d", "", b""), (LINK, "d", "..", b"")], "`d`: twice in the archive"),
        (vec![(FILE, "d/x", "", b"x"), (LINK, "d", "..", b"")], "`d`: twice in the archive"),
        (vec![(DIR, "d/", "", b""), (DIR, "d", "", b"")], "`d`: twice in the archive"),
        (
            vec![(HARD, "h", "../canary", b"")],
            "`h`: a hard link to `../canary`, which is no file of this archive",
        ),
        (vec![(HARD, "h", "/etc/passwd", b"")], "`h`: a hard link to `/etc/passwd`, which is no file"),
        (vec![(HARD, "h", "h", b"")], "`h`: a hard link to `h`, which is no file"),
        (vec![(LINK, "l", "d", b""), (HARD, "h", "l", b"")], "`h`: a hard link to `l`, which is no file"),
        (vec![(LINK, "l", "d", b"content")], "`l`, which is no file, with content"),
        (vec![(LINK, "l", "", b"")], "a link to nothing"),
    ] {
        let (_directory, unpacked) = tried(&archive(&entries), Limits::default());
        let error = unpacked.unwrap_err().of("x.tar.gz").to_string();
        assert!(error.starts_with("x.tar.gz: ") && error.contains(why), "{error}, expected {why}");
    }
}

#[test]
fn links_that_lead_out_and_what_is_no_file_are_left_out() {
    for (target, is_out) in [
        ("/etc", true),
        ("..", false),
        ("../..", true),
        ("../../x", true),
        ("../x", false),
        ("x/../../..", true),
        ("x/..", true),
        ("./x", false),
        (".././/x/", false),
    ] {
        let (directory, unpacked) = tried(&archive(&[(LINK, "d/l", target, b"")]), Limits::default());
        assert_eq!(unpacked.unwrap().left_out.len(), usize::from(is_out), "{target}");
        assert_eq!(fs::symlink_metadata(directory.path().join("into/d/l")).is_err(), is_out, "{target}");
    }
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::new(b'Z')] {
        let (directory, unpacked) = tried(&archive(&[(kind, "n", "", b"")]), Limits::default());
        assert_eq!(unpacked.unwrap().left_out.len(), 1);
        assert_eq!(fs::read_dir(directory.path().join("into")).unwrap().count(), 0);
    }
}

#[test]
fn bombs_are_refused() {
    let small = Limits { entries: 3, bytes: 1000 };
    let refused = |archive: &[u8], why: &str| {
        let error = tried(archive, small).1.unwrap_err().to_string();
        assert!(error.contains(why), "{error}, expected {why}");
    };
    let many: Vec<_> = (0..4).map(|at| (FILE, ["a", "b", "c", "d"][at], "", &b"x"[..])).collect();
    refused(&archive(&many), "`d`: more than 3 entries");
    refused(&archive(&[(FILE, "a", "", &[0; 600]), (FILE, "b", "", &[0; 600])]), "`b`: more than 1000 bytes");
    let half = [0; 600];
    refused(&archive(&[(FILE, "a", "", &half), (HARD, "b", "a", b"")]), "`b`: more than 1000 bytes");
    refused(&archive(&[(EntryType::Fifo, "a", "", &[0; 2000])]), "far more in it than it should have");
    refused(&archive(&[(EntryType::GNULongName, "n", "", &[b'a'; 5000])]), "whose name is endless");
    refused(&archive(&[(EntryType::GNULongName, "n", "", &b"a"[..]); 12]), "too many headers");
    let sparse = b"22 GNU.sparse.major=1\n";
    refused(&archive(&[(EntryType::XHeader, "x", "", sparse), (FILE, "a", "", b"")]), "a sparse file");
    refused(
        &archive(&[(EntryType::XHeader, "x", "", b"99 path=a\n"), (FILE, "a", "", b"")]),
        "a PAX header that is none",
    );
    let mut huge = Header::new_gnu();
    huge.set_path("a").unwrap();
    huge.set_size(u64::MAX);
    huge.set_cksum();
    refused(&gz(huge.as_bytes()), "more than 1000 bytes");
}

#[test]
fn an_archive_that_is_cut_off_or_followed_by_more_is_refused() {
    let whole = archive(&[(FILE, "a", "", &[7; 3000])]);
    for length in 0..whole.len() {
        tried(&whole[..length], Limits::default()).1.unwrap_err();
    }
    tried(&[&whole[..], b"more"].concat(), Limits::default()).1.unwrap_err();
    tried(&[&whole[..], &whole].concat(), Limits::default()).1.unwrap_err();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("there"), "").unwrap();
    let error = unpack(&whole[..], directory.path(), Limits::default()).unwrap_err().to_string();
    assert_eq!(error, format!("{}: directory not empty", directory.path().display()));
}

fn store(directory: &Path) -> Store {
    Store::at(&Location::Directory(directory.to_owned()), &"wrapper".parse().unwrap(), &S3Settings::default())
        .unwrap()
}

#[test]
fn latest_in_a_store_or_directory_names_the_archive() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = store(directory.path());
    let put = |key: &str, bytes: Vec<u8>| {
        runtime.block_on(store.put(key, Source::Bytes(bytes.into()))).map(drop).unwrap()
    };
    let newest = || runtime.block_on(newest(&store)).map_err(|error| error.to_string());
    put("other", Vec::new());
    assert_eq!(newest(), Ok(None));
    let key = format!("{ARCHIVES}{NAME}");
    put(&key, archive(&[(FILE, "./a", "", b"one")]));
    let error = newest().unwrap_err();
    assert_eq!(error, format!("there is no LATEST; there are 1 archives, such as {NAME}: name one"));
    put(LATEST, format!("{NAME}\n").into_bytes());
    assert_eq!(newest(), Ok(Some(key.clone())));
    let into = directory.path().join("into");
    let unpacked = runtime.block_on(fetch(&store, &key, &into, Limits::default())).unwrap();
    assert_eq!((unpacked.files, fs::read(into.join("a")).unwrap()), (1, b"one".to_vec()));
    let root = directory.path().join("wrapper");
    assert_eq!(local(&root).unwrap(), root.join(&key));
    assert_eq!(
        open(&local(&root.join(&key)).unwrap(), &directory.path().join("again"), Limits::default()).unwrap(),
        unpacked
    );
    for (text, why) in [
        ("serena-home-gone.tar.gz\n", "names `serena-home-gone.tar.gz`, which is not there"),
        ("../../etc/passwd", "expected the name of an archive"),
        ("", "expected the name of an archive"),
        ("a/b.tar.gz", "expected the name of an archive"),
    ] {
        fs::write(root.join(LATEST), text).unwrap();
        for error in [newest().unwrap_err(), local(&root).unwrap_err().to_string()] {
            assert!(error.contains(why), "{error}, expected {why}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_write_elsewhere_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), at: prop::sample::Index, byte: u8) {
        let _ = tried(&gz(&bytes), Limits::default());
        let mut tar = Builder::new(Vec::new());
        entry(&mut tar, FILE, b"./a", b"", b"one");
        entry(&mut tar, LINK, b"./d/l", b"../a", b"");
        entry(&mut tar, HARD, b"./h", b"./a", b"");
        let mut tar = tar.into_inner().unwrap();
        let at = at.index(tar.len());
        tar[at] = byte;
        let _ = tried(&gz(&tar), Limits { entries: 100, bytes: 1 << 20 });
    }
}
