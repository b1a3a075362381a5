//! Crashes and failures at every step of both ways to exchange old and new.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::step::{Then, after, exchanges, never};
use super::*;

/// How the old home is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Old {
    Missing,
    Empty,
    Full,
    /// With one from an earlier restore still kept.
    FullAndKept,
}

const OLDS: [Old; 4] = [Old::Missing, Old::Empty, Old::Full, Old::FullAndKept];

fn fresh(old: Old, inside: bool) -> Ground {
    let ground = Ground::new();
    let home = ground.home();
    if old == Old::Missing {
        return ground;
    }
    fs::create_dir(&home).unwrap();
    if old == Old::Empty {
        return ground;
    }
    fs::create_dir(home.join("same")).unwrap();
    for path in ["same/x", "only-old"] {
        fs::write(home.join(path), "old").unwrap();
        fs::File::open(home.join(path)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    fs::create_dir(home.join("closed")).unwrap();
    fs::set_permissions(home.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    if old == Old::FullAndKept {
        let kept = if inside {
            home.join(journal::INSIDE).join("before")
        } else {
            ground.home().with_extension("before-restore")
        };
        fs::create_dir_all(kept.join("older")).unwrap();
    }
    ground
}

/// Needs no bytes: empty files, directories and links.
fn new_one() -> Arc<Manifest> {
    manifest(
        vec![
            Entry { mode: 0o700, ..directory("home") },
            Entry { mode: 0o555, ..directory("home/closed") },
            file("home/closed/file", b"", 0),
            link("home/link", "same"),
            directory("home/same"),
            file("home/same/x", b"", 0),
        ],
        Vec::new(),
    )
}

fn targets(ground: &Ground) -> Vec<Target> {
    vec![Target { name: HOME.to_owned(), path: ground.home(), ours: None }]
}

/// The whole of a restore but for bytes, on this thread.
fn put_back(ground: &Ground, inside: bool) -> Result<Vec<PathBuf>, RestoreError> {
    let manifest = new_one();
    let stage = Stage::prepare(&manifest, &targets(ground), &ground.journal(), inside)?;
    stage.finish(&manifest, &ground.journal()).map_err(|(error, _)| error)
}

/// Both ways, with and without the exchange, from every old home; what the trees are like before and after.
fn every_way(mut test: impl FnMut(Old, bool, &BTreeMap<Vec<u8>, String>, &BTreeMap<Vec<u8>, String>)) {
    for (inside, can) in [(false, true), (false, false), (true, true)] {
        exchanges(can);
        for old in OLDS {
            let ground = fresh(old, inside);
            let before = tree(&ground.home());
            put_back(&ground, inside).unwrap();
            let after = tree(&ground.home());
            assert_eq!(after.len(), 6, "{after:?}");
            test(old, inside, &before, &after);
        }
    }
    exchanges(true);
}

fn assert_whole(
    ground: &Ground,
    before: &BTreeMap<Vec<u8>, String>,
    new: &BTreeMap<Vec<u8>, String>,
    what: &str,
) {
    let now = tree(&ground.home());
    assert!(now == *before || now == *new, "{what}: {now:#?}");
    assert!(!ground.journal().exists(), "{what}");
    ground.assert_clean(&["home.before-restore"]);
}

/// What was there before must be somewhere, unless it is there now.
fn assert_kept(ground: &Ground, before: &BTreeMap<Vec<u8>, String>, what: &str) {
    let home = ground.home();
    if tree(&home) == *before || before.len() < 2 {
        return;
    }
    let places = [home.with_extension("before-restore"), home.join(journal::INSIDE).join("before")];
    let kept =
        places.iter().any(|place| fs::read_to_string(place.join("only-old")).is_ok_and(|text| text == "old"));
    assert!(kept, "{what}: the old one is lost");
}

#[test]
fn after_a_crash_at_any_step_and_another_at_any_step_of_the_repair_a_home_is_whole() {
    let mut crashes = 0;
    every_way(|old, inside, before, new| {
        for first in 0.. {
            let mut is_over = false;
            for second in 0.. {
                let ground = fresh(old, inside);
                after(first, Then::Crash);
                is_over = catch_unwind(AssertUnwindSafe(|| put_back(&ground, inside))).is_ok();
                never();
                after(second, Then::Crash);
                let is_mended = catch_unwind(AssertUnwindSafe(|| resume(&ground.journal()).unwrap())).is_ok();
                never();
                resume(&ground.journal()).unwrap();
                let what = format!("{old:?} inside {inside} at {first}, {second}");
                assert_whole(&ground, before, new, &what);
                assert_kept(&ground, before, &what);
                crashes += 1;
                if is_mended {
                    break;
                }
            }
            if is_over {
                break;
            }
        }
    });
    assert!(crashes > 100, "{crashes}");
}

#[test]
fn after_a_failure_at_any_step_a_home_is_as_it_was_or_new_and_the_answer_says_which() {
    every_way(|old, inside, before, new| {
        for step in 0.. {
            let ground = fresh(old, inside);
            after(step, Then::Error);
            let ended = put_back(&ground, inside);
            let is_over = never();
            let what = format!("{old:?} inside {inside} at {step}: {ended:?}");
            // What fails once the new one is in place leaves old things about, and no more.
            let now = tree(&ground.home());
            assert_eq!(&now, if ended.is_ok() { new } else { before }, "{what}");
            if ended.is_err() {
                assert_whole(&ground, before, new, &what);
            }
            assert_kept_anywhere(&ground, before, &what);
            if is_over {
                break;
            }
        }
    });
}

fn assert_kept_anywhere(ground: &Ground, before: &BTreeMap<Vec<u8>, String>, what: &str) {
    if before.len() < 2 {
        return;
    }
    let output = std::process::Command::new("find")
        .arg(ground.directory.path())
        .args(["-name", "only-old"])
        .output()
        .unwrap();
    assert!(!output.stdout.is_empty(), "{what}: the old one is lost");
}

#[test]
fn what_was_only_staged_is_thrown_away() {
    for inside in [false, true] {
        let ground = fresh(Old::Full, inside);
        let before = tree(&ground.home());
        drop(Stage::prepare(&new_one(), &targets(&ground), &ground.journal(), inside).unwrap());
        assert!(resume(&ground.journal()).unwrap());
        assert!(!resume(&ground.journal()).unwrap());
        assert_eq!(tree(&ground.home()), before);
        ground.assert_clean(&[]);
        assert!(!ground.home().join(journal::INSIDE).exists());
    }
}

#[test]
fn of_two_homes_none_is_exchanged_if_one_cannot_be() {
    let both = |ground: &Ground| {
        let paths = [("a", ground.home()), ("b", ground.home().with_file_name("other"))];
        paths.map(|(name, path)| Target { name: name.to_owned(), path, ours: None })
    };
    let manifest = manifest(
        vec![directory("a"), file("a/new", b"", 0), directory("b"), file("b/new", b"", 0)],
        Vec::new(),
    );
    for can in [true, false] {
        exchanges(can);
        for step in 0.. {
            let ground = fresh(Old::Full, false);
            let other = ground.home().with_file_name("other");
            fs::create_dir(&other).unwrap();
            fs::write(other.join("x"), "old").unwrap();
            let before = (tree(&ground.home()), tree(&other));
            let stage = Stage::prepare(&manifest, &both(&ground), &ground.journal(), false).unwrap();
            after(step, Then::Error);
            let ended = stage.finish(&manifest, &ground.journal());
            let is_over = never();
            if ended.is_err() {
                assert_eq!((tree(&ground.home()), tree(&other)), before, "{step}");
                ground.assert_clean(&["other"]);
            } else {
                assert!(ground.home().join("new").exists() && other.join("new").exists());
            }
            if is_over {
                break;
            }
        }
    }
    exchanges(true);
}

#[test]
fn a_journal_that_nobody_wrote_is_an_error_that_names_it() {
    let ground = fresh(Old::Full, false);
    let before = tree(&ground.home());
    for text in ["", "{}", r#"{"version":9,"phase":"staging","nonce":"0123456789abcdef","places":[]}"#] {
        fs::write(ground.journal(), text).unwrap();
        let error = resume(&ground.journal()).unwrap_err().to_string();
        assert!(error.starts_with(&ground.journal().display().to_string()), "{error}");
        assert!(error.contains("look at the home, then remove it"), "{error}");
    }
    assert_eq!(tree(&ground.home()), before);
}

#[test]
fn a_home_whose_staged_successor_is_gone_stays_as_it_is() {
    for inside in [false, true] {
        let ground = fresh(Old::Full, inside);
        let before = tree(&ground.home());
        let manifest = new_one();
        let stage = Stage::prepare(&manifest, &targets(&ground), &ground.journal(), inside).unwrap();
        after(0, Then::Crash);
        catch_unwind(AssertUnwindSafe(|| stage.finish(&manifest, &ground.journal()).is_ok())).unwrap_err();
        let left = journal::Journal::read(&ground.journal()).unwrap().unwrap();
        clear::remove(&left.staged(&left.places[0])).unwrap();
        assert!(resume(&ground.journal()).unwrap());
        assert_eq!(tree(&ground.home()), before, "{inside}");
    }
}
