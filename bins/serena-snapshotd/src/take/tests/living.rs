//! Homes that change while they are read.

use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::take::settle::hook;

/// Lets something happen whenever a file of that name was read, and before it is looked at again; counts it.
fn while_reading(name: &'static [u8], mut act: impl FnMut(usize) + 'static) -> impl Fn() -> usize {
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = std::rc::Rc::clone(&count);
    hook::set(move |read| {
        if read == name {
            act(counter.get());
            counter.set(counter.get() + 1);
        }
    });
    move || count.get()
}

fn append(path: PathBuf) -> impl FnMut(usize) {
    move |_| File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap()
}

#[test]
fn a_file_that_never_stands_still_keeps_the_content_it_had() {
    let mut world = World::new();
    world.write("log", "first");
    world.write("a", "1");
    let (first, _) = world.new_snapshot(None);
    world.write("log", "first, second");
    world.write("a", "2");
    let looks = while_reading(b"log", append(world.path("log")));
    let (second, seen) = world.new_snapshot(Some(&first));
    assert_eq!(looks(), 5);
    hook::clear();
    assert!(content(&second, "home/log").unsettled && second.about.unsettled == 1);
    assert_eq!(
        (world.stored(&second, "home/log"), world.stored(&second, "home/a")),
        (b"first".into(), b"2".into())
    );
    assert_eq!(second.find(b"home/log").unwrap().mtime, first.find(b"home/log").unwrap().mtime);
    // Once it stands still it is taken.
    let Taken::New(draft) = world.take(Some(&second), Some(&seen)).unwrap() else { panic!("not seen") };
    let (third, _) = manifest(draft);
    assert_eq!(world.stored(&third, "home/log"), fs::read(world.path("log")).unwrap());
    assert_eq!(third.about.unsettled, 0);
}

#[test]
fn a_file_that_stands_still_at_last_is_taken_as_it_is() {
    let mut world = World::new();
    world.write("log", "first");
    let mut more = append(world.path("log"));
    let looks = while_reading(b"log", move |count| {
        if count < 4 {
            more(count)
        }
    });
    let (first, _) = world.new_snapshot(None);
    hook::clear();
    assert_eq!((looks(), first.about.unsettled), (5, 0));
    assert_eq!(world.stored(&first, "home/log"), b"firstmoremoremoremore");
}

#[test]
fn a_file_that_never_stood_still_is_kept_as_it_was_read() {
    for (blob_from, looks_expected) in [(1000, 5), (1, 2)] {
        let mut world = World { blob_from, ..World::new() };
        world.write("log", "first");
        let looks = while_reading(b"log", append(world.path("log")));
        let (first, seen) = world.new_snapshot(None);
        hook::clear();
        assert_eq!(looks(), looks_expected);
        assert_eq!(first.about.unsettled, 1);
        let expected = "first".to_owned() + &"more".repeat(looks_expected - 1);
        assert_eq!(world.stored(&first, "home/log"), expected.as_bytes());
        assert!(!world.is_same(&first, Some(&seen)));
    }
}

#[test]
fn a_large_file_is_not_read_for_ever() {
    let mut world = World { blob_from: 4, ..World::new() };
    world.write("cache", "first");
    let (first, _) = world.new_snapshot(None);
    // As long as before: it is compared before anything is stored.
    world.write("cache", "other");
    let path = world.path("cache");
    let looks = while_reading(b"cache", move |count| {
        fs::write(&path, ["later", "again"][count]).unwrap();
        // The clock of the file system may not have moved since.
        File::open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(count as u64)).unwrap();
    });
    assert!(world.is_same(&first, None));
    assert_eq!(looks(), 2);
    let looks = while_reading(b"cache", append(world.path("cache")));
    world.write("cache", "longer");
    let (second, _) = world.new_snapshot(Some(&first));
    hook::clear();
    assert_eq!(looks(), 2);
    assert!(content(&second, "home/cache").unsettled);
    assert_eq!(second.about.objects, first.about.objects);
    assert_eq!(world.stored(&second, "home/cache"), b"first");
}

#[test]
fn a_file_that_grows_large_while_others_are_read_is_a_blob() {
    let mut world = World { blob_from: 1000, ..World::new() };
    world.write("a", "small");
    world.write("b", "small");
    let path = world.path("b");
    let _ = while_reading(b"a", move |_| fs::write(&path, [7; 2000]).unwrap());
    let (first, _) = world.new_snapshot(None);
    hook::clear();
    assert_eq!(world.stored(&first, "home/b"), [7; 2000]);
    assert_eq!(World::packs(&first).len(), 1);
    assert_eq!(first.about.objects.len(), 2);
}

#[test]
fn what_is_gone_before_it_is_read_is_not_in_the_snapshot() {
    for blob_from in [1000, 1] {
        let mut world = World { blob_from, ..World::new() };
        for name in ["a", "b", "d/e", "z"] {
            world.write(name, "text");
        }
        let home = world.home.path().to_owned();
        let _ = while_reading(b"a", move |_| {
            let _ = fs::remove_file(home.join("b"));
            let _ = fs::rename(home.join("d"), home.join("moved"));
        });
        let (first, _) = world.new_snapshot(None);
        hook::clear();
        let paths: Vec<&[u8]> = first.entries.iter().map(|entry| &*entry.path).collect();
        assert_eq!(paths, [&b"home"[..], b"home/a", b"home/d", b"home/z"]);
        assert_eq!(world.stored(&first, "home/z"), b"text");
    }
}

#[test]
fn a_file_that_is_truncated_and_written_is_not_caught_empty() {
    let mut world = World::new();
    world.write("memory.md", "first");
    let (first, _) = world.new_snapshot(None);
    world.write("memory.md", "");
    let path = world.path("memory.md");
    // The name of a pause is empty.
    let pauses = while_reading(b"", move |_| fs::write(&path, "second").unwrap());
    let (second, _) = world.new_snapshot(Some(&first));
    assert_eq!((pauses(), world.stored(&second, "home/memory.md")), (1, b"second".into()));
    // One that stays empty is empty.
    world.write("memory.md", "");
    let pauses = while_reading(b"", |_| {});
    let (third, _) = world.new_snapshot(Some(&second));
    hook::clear();
    assert_eq!((pauses(), world.stored(&third, "home/memory.md")), (1, vec![]));
}

#[test]
fn a_log_that_grows_all_the_time_fails_no_snapshot() {
    let mut world = World::new();
    world.write("log", "0");
    world.write("a", "text");
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (world.path("log"), Arc::clone(&stop));
    let writer = thread::spawn(move || {
        let mut file = File::options().append(true).open(path).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            file.write_all(b"0").unwrap();
        }
    });
    let (mut base, mut seen) = world.new_snapshot(None);
    for round in 0..5 {
        world.write("a", format!("text {round}"));
        if let Taken::New(draft) = world.take(Some(&base), Some(&seen)).unwrap() {
            (base, seen) = manifest(draft);
        }
        assert_eq!(world.stored(&base, "home/a"), format!("text {round}").as_bytes());
        assert!(world.stored(&base, "home/log").iter().all(|byte| *byte == b'0'));
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}
