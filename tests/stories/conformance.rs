//! The public conformance suite finds no difference between a server and the same server behind mcp-sessiond, not even
//! when that server is killed with -9 between any two scenarios.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

use std::{ffi::OsStr, path::Path};

use nix::{sys::stat::Mode, unistd::mkfifo};
use support::{RealServer, Sessiond, have, real_script};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe::OpenOptions,
    process::Command,
};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

/// What the suite says about `url`, one line a scenario, without anything that differs from run to run.
async fn summary(url: &str, revision: &str, folder: &Path, more: &[&OsStr]) -> Vec<String> {
    let mut suite = Command::new(real_script("conformance"));
    suite.args([url, revision]).arg(folder).args(more).kill_on_drop(true);
    let done = suite.output().await.unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}\n{said}{}", done.status, String::from_utf8_lossy(&done.stderr));
    said.lines().map(str::to_owned).collect()
}

/// The same, while `server` is killed with -9 and started again before every scenario but the first. The suite does not
/// wait for the start: its first requests meet a server that is down.
async fn summary_with_restarts(
    url: &str,
    revision: &str,
    folder: &Path,
    server: &mut RealServer,
) -> Vec<String> {
    let pipes = TempDir::new().unwrap();
    let (ask, told) = (pipes.path().join("ask"), pipes.path().join("told"));
    for pipe in [&ask, &told] {
        mkfifo(pipe, Mode::S_IRWXU).unwrap();
    }
    let restart = format!("echo >{} && read -r _ <{}", ask.display(), told.display());
    let between = [OsStr::new("--between"), OsStr::new(&restart)];
    // Open both ways, so that neither ever sees the end.
    let mut ask = OpenOptions::new().read_write(true).open_receiver(&ask).unwrap();
    let mut told = OpenOptions::new().read_write(true).open_sender(&told).unwrap();
    let mut restarts = 0;
    let running = summary(url, revision, folder, &between);
    tokio::pin!(running);
    let lines = loop {
        tokio::select! {
            lines = &mut running => break lines,
            asked = ask.read_u8() => asked.unwrap(),
        };
        server.kill9().await;
        told.write_all(b"\n").await.unwrap();
        tokio::select! {
            biased;
            () = server.start_again() => restarts += 1,
            // It would have asked for the next restart first.
            lines = &mut running => break lines,
        }
    };
    assert!(restarts >= lines.len() - 2, "{restarts} restarts for {} scenarios", lines.len());
    lines
}

async fn is_the_same_through_sessiond(revision: &str, scenarios: usize) {
    if !have(&["conformance", "node", "everything", "python-2.3"]) {
        return;
    }
    let mut server = RealServer::start("everything").await;
    let sessiond =
        Sessiond::start_with(BINARY, &["--upstream", &server.url()], &[("RUST_LOG", "info")]).await;
    let folder = TempDir::new().unwrap();
    let folder = |name| folder.path().join(name);

    let direct = summary(&server.url(), revision, &folder("direct"), &[]).await;
    assert_eq!(direct.len(), scenarios, "{direct:#?}");
    let through = summary(&sessiond.url(), revision, &folder("through"), &[]).await;
    let restarted = summary_with_restarts(&sessiond.url(), revision, &folder("restarted"), &mut server).await;
    // Both at once, so that a failure tells whether the restarts have to do with it.
    let differing = (differing(&direct, &through), differing(&direct, &restarted));
    assert_eq!(differing, (Vec::new(), Vec::new()), "through sessiond, and with restarts");
}

/// What differs, as `direct -> through` lines.
fn differing(direct: &[String], through: &[String]) -> Vec<String> {
    assert_eq!(direct.len(), through.len(), "{through:#?}");
    let pairs = direct.iter().zip(through).filter(|(direct, through)| direct != through);
    pairs.map(|(direct, through)| format!("{direct} -> {through}")).collect()
}

#[tokio::test]
async fn legacy_2025_11_25_is_the_same_through_sessiond() {
    is_the_same_through_sessiond("2025-11-25", 33).await;
}

#[tokio::test]
async fn modern_2026_07_28_is_the_same_through_sessiond() {
    is_the_same_through_sessiond("2026-07-28", 50).await;
}
