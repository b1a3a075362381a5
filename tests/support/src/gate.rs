//! A gate that fake backends ask before they listen: the test decides when, and what has happened meanwhile.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

/// How long a test waits for a backend to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where they ask (`fake-backend --gate PATH`).
#[derive(Debug)]
pub struct Gate {
    path: PathBuf,
    listener: UnixListener,
}

/// A backend that waits to be let through; dropped, the backend exits with 1.
#[derive(Debug)]
pub struct Waiting {
    /// Its process.
    pub pid: i32,
    /// The port it was given.
    pub port: u16,
    stream: BufReader<UnixStream>,
}

impl Gate {
    /// A gate at this path, shut.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let listener = UnixListener::bind(&path).expect("a new socket in a temporary directory");
        Self { path, listener }
    }

    /// What `--gate` takes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next backend that asks; fails the test after 60 s.
    pub async fn next(&self) -> Waiting {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("a backend asks within 60 s")
            .expect("our own socket accepts");
        let (mut stream, mut line) = (BufReader::new(stream), String::new());
        stream.read_line(&mut line).await.expect("a backend says who it is");
        let mut words = line.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).expect("`PID PORT`");
        Waiting { pid: number() as i32, port: number() as u16, stream }
    }

    /// Whether a backend asks within this time; it exits with 1 then.
    pub async fn is_asked_within(&self, span: Duration) -> bool {
        timeout(span, self.listener.accept()).await.is_ok()
    }
}

impl Waiting {
    /// Lets it through.
    pub async fn go(mut self) {
        // One that was killed meanwhile needs nothing any more.
        let _ = self.stream.get_mut().write_all(b"go\n").await;
    }

    /// Waits until its process is gone (or at least this connection of it).
    pub async fn gone(mut self) {
        let gone = timeout(PATIENCE, self.stream.read_line(&mut String::new())).await;
        let _ = gone.expect("the waiting backend is ended within 60 s");
    }
}
