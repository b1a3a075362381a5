//! What a child process says on stderr: a bounded ring that is printed when the test fails.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    sync::watch,
    time::timeout,
};

/// Lines kept; older ones are dropped.
const LINES: usize = 2_000;
/// How long a test waits for a line.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the last lines of a dead child may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The last lines of one child, over all its lives.
#[derive(Clone, Default)]
pub(crate) struct ChildLog {
    lines: Arc<Mutex<VecDeque<String>>>,
    changes: watch::Sender<u64>,
    ended: watch::Sender<bool>,
}

impl ChildLog {
    /// Reads `from` until it ends.
    pub(crate) fn follow(&self, from: impl AsyncRead + Unpin + Send + 'static) {
        let log = self.clone();
        log.ended.send_replace(false);
        tokio::spawn(async move {
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                log.push(line);
            }
            log.ended.send_replace(true);
        });
    }

    /// The lines so far, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("not poisoned").iter().cloned().collect()
    }

    /// Waits until all is read that a dead child said; not for long, because its own children may hold the pipe open.
    pub(crate) async fn end(&self) {
        let _ = timeout(LAST_WORDS, self.ended.subscribe().wait_for(|ended| *ended)).await;
    }

    /// Waits until a line contains `text`, and returns it; fails the test after 60 s.
    pub(crate) async fn until(&self, text: &str) -> String {
        let mut changes = self.changes.subscribe();
        let found = timeout(PATIENCE, async {
            loop {
                if let Some(line) = self.lines().into_iter().find(|line| line.contains(text)) {
                    return line;
                }
                changes.changed().await.expect("the sender lives in self");
            }
        });
        found.await.unwrap_or_else(|_| panic!("the log never said {text:?}"))
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().expect("not poisoned");
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.changes.send_modify(|count| *count += 1);
    }
}

impl fmt::Debug for ChildLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} lines", self.lines().len())
    }
}
