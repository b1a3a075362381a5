//! A tree as large as is promised: 20,000 files, and a sparse one of some gigabytes, there and back.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
};

use support::Snapshotd;

const BINARY: &str = env!("CARGO_BIN_EXE_serena-snapshotd");
const FOLDERS: usize = 200;
const IN_EACH: usize = 100;
/// Length of the sparse file in bytes.
const LENGTH: u64 = 2 << 30;
/// What stands in it at the beginning, in the middle and at the end.
const ISLAND: &[u8] = b"an island in a sea of nothing";
const ISLANDS: [u64; 3] = [0, LENGTH / 2 + 7, LENGTH - ISLAND.len() as u64];

fn text(folder: usize, file: usize) -> String {
    format!("memory {file} of folder {folder}\n").repeat(file % 7)
}

/// Reads it to the end: the islands, and nothing else.
fn assert_sparse(path: &Path) {
    const PIECE: usize = 1 << 20;
    let file = File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), LENGTH);
    let mut piece = vec![0_u8; PIECE];
    for begin in (0..LENGTH).step_by(PIECE) {
        file.read_exact_at(&mut piece, begin).unwrap();
        let mut expected = vec![0_u8; PIECE];
        for island in ISLANDS.iter().filter(|island| (begin..begin + PIECE as u64).contains(island)) {
            let at = (island - begin) as usize;
            expected[at..at + ISLAND.len()].copy_from_slice(ISLAND);
        }
        assert!(piece == expected, "the piece at {begin}");
    }
}

#[tokio::test]
async fn twenty_thousand_files_and_a_sparse_one_of_two_gigabytes_come_back_as_they_were() {
    let machine = Snapshotd::new(BINARY);
    for folder in 0..FOLDERS {
        let path = machine.home().join(format!("memories/{folder}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..IN_EACH {
            fs::write(path.join(format!("{file}.md")), text(folder, file)).unwrap();
        }
    }
    let sparse = File::create(machine.home().join("sparse.bin")).unwrap();
    sparse.set_len(LENGTH).unwrap();
    for at in ISLANDS {
        sparse.write_all_at(ISLAND, at).unwrap();
    }
    let made = machine.json(&["snapshot"]).await;
    assert_eq!(made["files"], FOLDERS * IN_EACH + 1, "{made}");
    assert_eq!(machine.json(&["snapshot"]).await["outcome"], "unchanged");
    machine.lose_home();
    machine.succeed(&["restore"]).await;
    for folder in 0..FOLDERS {
        let path = machine.home().join(format!("memories/{folder}"));
        assert_eq!(fs::read_dir(&path).unwrap().count(), IN_EACH, "{folder}");
        for file in 0..IN_EACH {
            let read = fs::read_to_string(path.join(format!("{file}.md"))).unwrap();
            assert!(read == text(folder, file), "{folder}/{file}");
        }
    }
    assert_sparse(&machine.home().join("sparse.bin"));
}
