use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use age::secrecy::ExposeSecret;
use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir};

use super::*;

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn pair() -> (NamedTempFile, String) {
    let identity = x25519::Identity::generate();
    let public = identity.to_public().to_string();
    (
        file(&format!(
            "# created: today\n# public key: {public}\n{}\n",
            identity.to_string().expose_secret()
        )),
        public,
    )
}

fn by_pair(pair: &(NamedTempFile, String)) -> Seal {
    Seal::from_files(&[], Some(pair.0.path()), None).unwrap()
}

fn by_words(words: &str) -> Seal {
    Seal::from_files(&[], None, Some(file(words).path())).unwrap()
}

fn write(seal: &Seal, bytes: &[u8]) -> Vec<u8> {
    let mut writer = seal.writer(Vec::new()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn read(seal: &Seal, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    seal.reader(bytes)?.read_to_end(&mut text)?;
    Ok(text)
}

fn refused(seal: &Seal, bytes: &[u8]) -> String {
    read(seal, bytes).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_by_everybody_it_was_written_for_and_by_nobody_else() {
    let (one, two, three) = (pair(), pair(), pair());
    let both = Seal::from_files(&[two.1.clone(), one.1.clone()], Some(one.0.path()), None).unwrap();
    let stored = write(&both, b"words");
    assert!(
        stored.starts_with(b"age-encryption.org/v1\n") && !stored.windows(5).any(|part| part == b"words")
    );
    for reader in [&both, &by_pair(&one), &by_pair(&two)] {
        assert_eq!(read(reader, &stored).unwrap(), b"words");
    }
    assert!(
        refused(&by_pair(&three), &stored)
            .starts_with("encrypted to other keys than those in the identity file")
    );
    assert_eq!(
        refused(&by_words("correct horse battery"), &stored),
        "encrypted to a key pair, whose identity file was not given"
    );
}

#[test]
fn an_old_identity_still_reads_after_a_new_one_was_put_before_it() {
    let (old, new) = (pair(), pair());
    let stored = write(&by_pair(&old), b"old");
    let rotated = file(&[new.0.path(), old.0.path()].map(|path| fs::read_to_string(path).unwrap()).concat());
    let rotated = Seal::from_files(&[], Some(rotated.path()), None).unwrap();
    assert_eq!(read(&rotated, &stored).unwrap(), b"old");
    let stored = write(&rotated, b"new");
    assert_eq!(read(&by_pair(&new), &stored).unwrap(), b"new");
    read(&by_pair(&old), &stored).unwrap_err();
}

#[test]
fn a_passphrase_reads_what_it_wrote_and_another_is_told_so() {
    let stored = write(&by_words("correct horse battery\n"), b"words");
    assert_eq!(read(&by_words("correct horse battery"), &stored).unwrap(), b"words");
    assert_eq!(refused(&by_words("incorrect horse battery"), &stored), "encrypted by another passphrase");
    assert_eq!(refused(&by_pair(&pair()), &stored), "encrypted by a passphrase, which was not given");
    // Somebody asks for more memory than there is.
    let greedy = String::from_utf8_lossy(&stored[..80]).replacen(" 8\n", " 30\n", 1).into_bytes();
    let greedy = [&greedy[..], &stored[80..]].concat();
    let error = refused(&by_words("correct horse battery"), &greedy);
    assert_eq!(error, "encrypted by a passphrase with more work than is sensible");
}

#[test]
fn wrong_keys_are_refused_with_the_file_and_never_with_what_is_in_it() {
    let (good, other) = (pair(), pair());
    let open = |recipients: &[&str], identity: Option<&Path>, passphrase: Option<&Path>| {
        let recipients = recipients.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Seal::from_files(&recipients, identity, passphrase).unwrap_err().to_string()
    };
    let broken = file("AGE-SECRET-KEY-1SECRET\n");
    let (empty, words) = (file("# nothing\n"), file("a"));
    for (error, why, named) in [
        (open(&[], None, None), "without an identity", None),
        (open(&[&good.1], None, None), "without an identity", None),
        (open(&[], Some(good.0.path()), Some(words.path())), "not both", None),
        (open(&[&good.1], None, Some(words.path())), "with a passphrase there are none", None),
        (open(&[], None, Some(words.path())), "shorter than 16 bytes", Some(words.path())),
        (
            open(&[], Some(broken.path()), None),
            "no age identity; expected AGE-SECRET-KEY-1",
            Some(broken.path()),
        ),
        (open(&[], Some(empty.path()), None), "`age-keygen -o` makes one", Some(empty.path())),
        (
            open(&[], Some(Path::new("/nonexistent/key")), None),
            "No such file",
            Some(Path::new("/nonexistent/key")),
        ),
        (open(&["age1x"], Some(good.0.path()), None), "`age1x` is not an age recipient", None),
        (open(&[&other.1], Some(good.0.path()), None), &good.1, None),
    ] {
        assert!(error.contains(why) && !error.contains("1SECRET") && !error.contains('\n'), "{error}");
        assert!(named.is_none_or(|path| error.starts_with(path.to_str().unwrap())), "{error}");
    }
    fs::set_permissions(good.0.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open(&[], Some(good.0.path()), None).contains("chmod 600"));
}

#[test]
fn the_name_of_an_object_says_whether_a_key_is_needed() {
    let seal = by_pair(&pair());
    let stored = write(&seal, b"words");
    let read = |key: &str, seal: Option<&Seal>, bytes: &[u8]| {
        let mut text = String::new();
        open(key, seal, bytes).and_then(|mut from| from.read_to_string(&mut text)).map(|_| text)
    };
    assert_eq!(read("packs/1.tar.zst.age", Some(&seal), &stored).unwrap(), "words");
    // From before encryption was switched on.
    assert_eq!(read("packs/1.tar.zst", Some(&seal), b"words").unwrap(), "words");
    assert_eq!(read("packs/1.tar.zst", None, b"words").unwrap(), "words");
    let error = read("packs/1.tar.zst.age", None, &stored).unwrap_err().to_string();
    assert_eq!(error, "encrypted, and no key was given; set the identity or passphrase file");
    let error = read("packs/1.tar.zst.age", Some(&seal), b"words").unwrap_err().to_string();
    assert_eq!(error, "not an age file, or cut off");
}

#[test]
fn keys_are_never_shown() {
    let pair = pair();
    let secret = fs::read_to_string(pair.0.path()).unwrap();
    let secret = secret.lines().last().unwrap();
    let shown = format!("{0:?} {0} {1:?} {1}", by_pair(&pair), by_words("correct horse battery"));
    assert_eq!(shown, "Seal(age, 1 recipients) age, 1 recipients Seal(age, passphrase) age, passphrase");
    assert!(!shown.contains(secret));
}

#[test]
fn age_itself_reads_what_we_write_and_we_read_what_it_writes() {
    if Command::new("age").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: age itself because it is not on PATH (Debian: apt install age)");
        return;
    }
    let (pair, dir) = (pair(), TempDir::new().unwrap());
    let (plain, ours, theirs) =
        (dir.path().join("plain"), dir.path().join("ours"), dir.path().join("theirs"));
    let text = vec![7; 300_000];
    fs::write(&plain, &text).unwrap();
    fs::write(&ours, write(&by_pair(&pair), &text)).unwrap();
    let read_by_age = Command::new("age").args(["-d", "-i"]).arg(pair.0.path()).arg(&ours).output().unwrap();
    assert_eq!(read_by_age.stdout, text);
    let wrote = Command::new("age").args(["-r", &pair.1, "-o"]).arg(&theirs).arg(&plain).status().unwrap();
    assert!(wrote.success());
    assert_eq!(read(&by_pair(&pair), &fs::read(&theirs).unwrap()).unwrap(), text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_length_comes_back_and_any_change_or_cut_is_noticed(
        length in prop_oneof![0..200_usize, 65_000..66_500_usize, 131_000..131_200_usize],
        at: proptest::sample::Index,
        bit in 0..8_u8,
    ) {
        let seal = by_pair(&pair());
        let text = (0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>();
        let stored = write(&seal, &text);
        prop_assert_eq!(read(&seal, &stored).unwrap(), text);
        let at = at.index(stored.len());
        let mut changed = stored.clone();
        changed[at] ^= 1 << bit;
        prop_assert!(read(&seal, &changed).is_err());
        prop_assert!(read(&seal, &stored[..at]).is_err());
    }
}
