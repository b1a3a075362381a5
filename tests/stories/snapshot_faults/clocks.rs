//! Clocks that are wrong: a machine whose clock is behind must not take its newest snapshot for its oldest.

use std::collections::HashMap;

use snapshotd::{digest::Digest, head::Head, manifest::Manifest, settings::Keep};

use crate::world::{World, tree};

/// Puts the time of every snapshot so far off by so many seconds, as if another clock had made them.
fn shift(world: &World, seconds: i64) {
    let mut digests = HashMap::new();
    let manifests = world.objects.snapshot().into_iter().filter(|(key, _)| key.contains("/manifests/"));
    // In the order of their keys each comes after its ancestors.
    for (key, bytes) in manifests {
        let mut manifest = Manifest::read(&bytes[..]).unwrap();
        let shifted =
            |created: jiff::Timestamp| jiff::Timestamp::from_second(created.as_second() + seconds).unwrap();
        manifest.about.created = shifted(manifest.about.created);
        for ancestor in &mut manifest.about.ancestors {
            ancestor.created = shifted(ancestor.created);
            if let Some(digest) = digests.get(&ancestor.pointer.id) {
                ancestor.pointer.manifest_sha256 = *digest;
            }
        }
        let mut bytes = Vec::new();
        manifest.write(&mut bytes).unwrap();
        digests.insert(manifest.about.id.clone(), Digest::of(&bytes));
        world.objects.put(&key, bytes);
    }
    let key = "state/laptop/HEAD";
    let mut head = Head::parse(&world.objects.get(key).unwrap()).unwrap();
    head.newest.manifest_sha256 = digests[&head.newest.id];
    world.objects.put(key, head.to_bytes());
}

#[tokio::test]
async fn a_clock_that_is_behind_or_ahead_deletes_nothing_that_is_new() {
    const CENTURY: i64 = 100 * 365 * 86_400;
    for (seconds, keep) in [
        (CENTURY, Keep { last: 2, within: 0, daily: 0, weekly: 0, monthly: 0 }),
        (CENTURY, Keep { last: 2, within: 86_400, daily: 3, weekly: 2, monthly: 2 }),
        (-CENTURY / 2, Keep { last: 2, within: 0, daily: 0, weekly: 0, monthly: 0 }),
        (-CENTURY / 2, Keep { last: 2, within: 86_400, daily: 3, weekly: 2, monthly: 2 }),
    ] {
        let mut world = World::new().await;
        world.keep = keep;
        world.lose("one");
        for version in 1..=3 {
            world.write("one", version);
            world.publish("one").await;
        }
        shift(&world, seconds);
        let first = tree(&world.home("one"));
        assert!(world.found().await == Some(first), "{seconds}: not readable any more");
        world.lose("two");
        world.restore("two", false).await.unwrap();
        for version in 4..=8 {
            world.write("two", version);
            world.publish("two").await;
            let now = tree(&world.home("two"));
            assert!(world.found().await == Some(now), "{seconds} s, {keep:?}, version {version}");
            let manifests =
                world.objects.snapshot().into_keys().filter(|key| key.contains("/manifests/")).count();
            assert!(manifests >= 2, "the one before it is gone");
        }
    }
}
