//! Real sockets of both kinds, before a server that is a socket in the test.

mod copying;
mod descriptors;
mod holding;
mod refusing;

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcp_daemon::addr::Listen;
use mcp_daemon::config::Span;
use mcp_daemon::listener::BindOptions;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::*;

/// A gate that the test opens.
struct Fake {
    /// Where the server is; none while it is not ready.
    target: watch::Sender<Option<SocketAddr>>,
    /// Said instead of a lease.
    refusal: Mutex<Option<Refusal>>,
    /// Targets of the next leases, before `target` counts.
    stale: Mutex<Vec<SocketAddr>>,
    leases: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// One more as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate for Fake {
    fn lease(&self) -> Leasing<'_> {
        Box::pin(async {
            self.leases.fetch_add(1, Ordering::Relaxed);
            let _waiting = Counted::new(&self.waiting);
            if let Some(refusal) = self.refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            let stale = self.stale.lock().unwrap().pop();
            let target = match stale {
                Some(target) => target,
                None => self.target.subscribe().wait_for(Option::is_some).await.unwrap().unwrap(),
            };
            Ok(Lease { target, guard: Box::new(Counted::new(&self.open)) })
        })
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Tcp,
    Unix,
}

const KINDS: [Kind; 2] = [Kind::Tcp, Kind::Unix];

/// The wake listener with a server behind it that is not ready yet.
struct World {
    gate: Arc<Fake>,
    door: Arc<Door>,
    life: Life,
    listen: Listen,
    server: TcpListener,
    _directory: TempDir,
}

impl World {
    async fn asleep(kind: Kind, places: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = match kind {
            Kind::Tcp => "127.0.0.1:0".parse().unwrap(),
            Kind::Unix => Listen::Unix(directory.path().join("mcp.sock")),
        };
        let listener = Listener::bind(&listen, BindOptions::default()).unwrap().remove(0);
        let listen = listener.local();
        let life = Life::new(Duration::from_secs(3600));
        let hold = Hold {
            connections: NonZeroUsize::new(places).unwrap(),
            open: NonZeroUsize::new(1000).unwrap(),
            timeout: Span::seconds(60),
        };
        let gate = Arc::new(Fake {
            target: watch::Sender::new(None),
            refusal: Mutex::default(),
            stale: Mutex::default(),
            leases: Arc::default(),
            waiting: Arc::default(),
            open: Arc::default(),
        });
        let door = Arc::new(Door::new(gate.clone(), &hold, life.clone()));
        let (serving, until) = (Arc::clone(&door), life.clone());
        life.spawn(async move { serve_at(listener, serving, hold.open.get(), &until).await });
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        World { gate, door, life, listen, server, _directory: directory }
    }

    async fn awake(kind: Kind) -> Self {
        let world = World::asleep(kind, 1000).await;
        world.wake();
        world
    }

    fn wake(&self) {
        self.gate.target.send_replace(Some(self.server.local_addr().unwrap()));
    }

    async fn connect(&self) -> Stream {
        match &self.listen {
            Listen::Tcp(address) => Stream::Tcp(TcpStream::connect(address).await.unwrap()),
            Listen::Unix(path) => Stream::Unix(UnixStream::connect(path).await.unwrap()),
            Listen::Inherited(_) => unreachable!(),
        }
    }

    /// A client and the server's end of its connection.
    async fn pair(&self) -> (Stream, TcpStream) {
        let client = self.connect().await;
        (client, self.server.accept().await.unwrap().0)
    }

    /// A client that has sent these words and is held.
    async fn held(&self, words: &str) -> Stream {
        let waiting = self.gate.waiting.load(Ordering::Relaxed);
        let mut client = self.connect().await;
        client.write_all(words.as_bytes()).await.unwrap();
        until(|| self.gate.waiting.load(Ordering::Relaxed) > waiting).await;
        client
    }

    fn open(&self) -> usize {
        self.gate.open.load(Ordering::Relaxed)
    }
}

/// Lets everybody else go on until it is so.
async fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::task::yield_now().await;
    }
}

async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin), words: &str) {
    let mut bytes = vec![0; words.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), words);
}

/// Bytes that differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}
