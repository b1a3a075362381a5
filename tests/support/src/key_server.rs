//! A server of JWK sets: says what it is told to, counts who asks, and can be down.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex},
};

use nix::sys::socket::{Shutdown, shutdown};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::address::bind;

/// Longest head of a request.
const MAX_HEAD: usize = 8 * 1024;

/// A running (or stopped) key server on a loopback port of its own; dropped, it is gone.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    world: Arc<World>,
    running: Mutex<Option<Running>>,
    /// Bound while nobody listens: connections are refused, and nobody else gets the port.
    reserved: Mutex<Option<TcpSocket>>,
}

#[derive(Debug)]
struct World {
    /// The whole answer, head and body.
    answer: Mutex<String>,
    asked: watch::Sender<usize>,
    /// While it is on, who asks waits.
    held: watch::Sender<bool>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl KeyServer {
    /// Serves this set.
    pub async fn start(set: &Value) -> KeyServer {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("an ephemeral loopback port is free");
        let world =
            World { answer: Mutex::default(), asked: watch::Sender::new(0), held: watch::Sender::new(false) };
        let server = KeyServer {
            address: socket.local_addr().expect("it is bound"),
            world: Arc::new(world),
            running: Mutex::default(),
            reserved: Mutex::new(Some(socket)),
        };
        server.serve(set);
        server.start_again();
        server
    }

    /// Where the set is.
    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// Serves another set from now on.
    pub fn serve(&self, set: &Value) {
        self.say("200 OK", "", &set.to_string());
    }

    /// Answers with this status, further header lines (each with its line end) and body from now on.
    pub fn say(&self, status: &str, headers: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
        *self.world.answer.lock().expect("not poisoned") = format!("{head}{headers}\r\n{body}");
    }

    /// How often it was asked, over all its lives.
    pub fn asked(&self) -> usize {
        *self.world.asked.borrow()
    }

    /// Waits until it was asked so often.
    pub async fn until_asked(&self, times: usize) {
        let mut asked = self.world.asked.subscribe();
        asked.wait_for(|asked| *asked >= times).await.expect("the sender lives in self");
    }

    /// While it is on, who asks waits for the answer.
    pub fn hold(&self, on: bool) {
        self.world.held.send_replace(on);
    }

    /// Cuts every connection, and returns when new ones are refused.
    pub async fn stop(&self) {
        let running = self.running.lock().expect("not poisoned").take();
        let Running { stop, task } = running.expect("stop() on a key server that runs");
        stop.send_replace(true);
        task.await.expect("serving does not panic");
        let reserved = bind(self.address).expect("a port just closed can be bound again");
        *self.reserved.lock().expect("not poisoned") = Some(reserved);
    }

    /// Listens on the same port again.
    pub fn start_again(&self) {
        let socket = self.reserved.lock().expect("not poisoned").take();
        let socket = socket.expect("start_again() on a key server that does not run");
        let listener = socket.listen(1024).expect("a port of ours can be listened on");
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, self.world.clone(), stopped));
        *self.running.lock().expect("not poisoned") = Some(Running { stop, task });
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().ok().and_then(Option::take) {
            running.task.abort();
        }
    }
}

/// Accepts until `stop`; returns when the last connection is closed.
async fn accept(listener: TcpListener, world: Arc<World>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(answer(stream, world.clone()));
            },
        }
    }
    // A child of the test that is between fork and exec has a copy of the descriptor, so closing ours ends nothing yet.
    let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
    connections.shutdown().await;
}

/// One request, one answer; a client that breaks off gets none.
async fn answer(mut stream: TcpStream, world: Arc<World>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD || !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    world.asked.send_modify(|asked| *asked += 1);
    let mut held = world.held.subscribe();
    if held.wait_for(|held| !held).await.is_err() {
        return;
    }
    let answer = world.answer.lock().expect("not poisoned").clone();
    let _ = stream.write_all(answer.as_bytes()).await;
}
