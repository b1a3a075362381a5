//! `HEAD` of a store: what is read is written so that it reads back the same, stays small, and names its own manifest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use snapshotd::head::{Head, MAX_HEAD};
use snapshotd::layout::{FORKS, Id, MANIFESTS, is_sealed};

fuzz_target!(|input: &[u8]| {
    let head = match Head::parse(input) {
        Ok(head) => head,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    assert!(input.len() as u64 <= MAX_HEAD);
    let Id { seq, epoch, .. } = head.newest.id;
    assert_eq!(head.newest.id.to_string().parse::<Id>(), Ok(head.newest.id.clone()));
    let sealed = is_sealed(&head.newest.manifest);
    let keys = [head.newest.id.manifest(sealed), head.newest.id.fork(sealed)];
    assert!(keys.contains(&head.newest.manifest), "{} is not where {seq}-{epoch} is", head.newest.manifest);
    assert!([MANIFESTS, FORKS].iter().any(|below| head.newest.manifest.starts_with(below)));
    // What we write is longer where somebody else wrote it without spaces.
    let written = head.to_bytes();
    if written.len() as u64 <= MAX_HEAD {
        assert_eq!(Head::parse(&written).expect("what is written can be read"), head);
    }
});
