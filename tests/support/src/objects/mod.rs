//! An S3-compatible store in the test's own process: the oracle for everything that is promised about a bucket.
//!
//! All of it is behind one mutex, so its conditions are right by construction; every signature is checked; and a plan of
//! [`Fault`]s makes it misbehave at exactly the request the test names. It speaks plain HTTP on a loopback port, so real
//! binaries can use it too, and it runs on a thread of its own, so a test that blocks does not stop it.

mod answer;
mod asked;
mod bucket;
mod client;
mod connection;
mod fault;
mod listing;
mod signature;
mod state;
mod uploads;
mod wire;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    net::TcpSocket,
    sync::{oneshot, watch},
    time::timeout,
};

pub(crate) use self::signature::{ACCESS_KEY, SECRET_KEY};
pub use self::{
    asked::{Asked, Operation},
    client::{Reply, SignedClient},
    fault::{Fault, What},
    state::Manner,
};
use self::{connection::serve, state::Shared};
use crate::address::bind;

/// The only bucket there is.
const BUCKET: &str = "snapshots";
/// How long [`Objects::until`] waits for its fact before it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running (or stopped) store; dropped, it cuts its connections and is gone.
#[derive(Debug)]
pub struct Objects {
    /// Where it listens, stopped or not.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
    /// Bound while nobody listens: connections are refused, and nobody else gets the port.
    reserved: Mutex<Option<TcpSocket>>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<TcpSocket>,
}

impl Objects {
    /// An honest, empty store on an ephemeral loopback port.
    pub async fn start() -> Objects {
        Objects::start_with(Manner::default()).await
    }

    /// An empty store of this manner.
    pub async fn start_with(manner: Manner) -> Objects {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("an ephemeral loopback port is free");
        let address = socket.local_addr().expect("a bound socket has an address");
        let objects = Objects {
            address,
            shared: Arc::new(Shared::new(BUCKET, manner)),
            running: Mutex::default(),
            reserved: Mutex::new(Some(socket)),
        };
        objects.start_again().await;
        objects
    }

    /// What `--endpoint` takes.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The name of its only bucket.
    pub fn bucket(&self) -> &str {
        BUCKET
    }

    /// The key that requests must be signed with.
    pub fn access_key(&self) -> &str {
        ACCESS_KEY
    }

    /// Its secret.
    pub fn secret_key(&self) -> &str {
        SECRET_KEY
    }

    /// A client with the right key.
    pub fn client(&self) -> SignedClient {
        SignedClient::new(self.address, self.access_key(), self.secret_key(), "us-east-1")
    }

    /// All objects, by key.
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        self.shared.state().bucket.contents()
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.shared.state().bucket.get(key)
    }

    /// Stores an object behind the back of whoever uses the store.
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.shared.state().bucket.set(key, bytes.into());
    }

    /// Deletes one; whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        self.shared.state().bucket.remove(key)
    }

    /// Changes the bytes of an object, which must be there.
    pub fn tamper(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.get(key).unwrap_or_else(|| panic!("there is no object {key}"));
        change(&mut bytes);
        self.put(key, bytes);
    }

    /// Replaces everything by what [`Objects::snapshot`] said before.
    pub fn reset_to(&self, contents: &BTreeMap<String, Vec<u8>>) {
        self.shared.state().bucket.replace_all(contents);
    }

    /// The uploads in parts that were begun and neither completed nor aborted: key and id.
    pub fn uploads(&self) -> Vec<(String, String)> {
        self.shared.state().bucket.uploads.open()
    }

    /// How it behaves from the next request on.
    pub fn behave(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.shared.state().manner);
    }

    /// Every request since the start or [`Objects::forget`], in the order of their heads.
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.state().requests.clone()
    }

    /// Forgets the requests, so that the next one is number 1 again.
    pub fn forget(&self) {
        self.shared.state().requests.clear();
    }

    /// Faults from now on, instead of those planned before; the first one that fits a request decides.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.state().faults = faults.into_iter().collect();
    }

    /// Calls this for every request: once it has come whole (or its head, if it is cut off unread), before anything is done.
    ///
    /// It runs on the store's own thread, which does nothing else meanwhile: what it kills has seen no answer.
    pub fn on_request(&self, hook: impl FnMut(&Asked) + Send + 'static) {
        self.shared.hook(Some(Box::new(hook)));
    }

    /// Honest again: no plan and no hook.
    pub fn heal(&self) {
        self.plan([]);
        self.shared.hook(None);
    }

    /// Lets go of everything that [`What::Late`] and [`What::Mute`] hold.
    pub fn release(&self) {
        self.shared.release();
    }

    /// Waits until `fact` holds of the requests; fails the test after 60 s.
    pub async fn until(&self, fact: impl Fn(&[Asked]) -> bool) {
        let mut changes = self.shared.changes();
        let held = timeout(PATIENCE, async {
            while !fact(&self.requests()) {
                changes.changed().await.expect("the sender lives in self");
            }
        });
        let held = held.await;
        assert!(held.is_ok(), "the awaited fact never came true: {:#?}", self.requests());
    }

    /// Refuses connections from now on, and resets those there are; what is stored stays.
    pub async fn stop(&self) {
        let running = self.running.lock().expect("not poisoned").take();
        if let Some(Running { stop, thread }) = running {
            stop.send_replace(true);
            let reserved = tokio::task::spawn_blocking(|| thread.join().expect("serving does not panic"));
            let reserved = reserved.await.expect("joining does not panic");
            *self.reserved.lock().expect("not poisoned") = Some(reserved);
        }
    }

    /// Listens on the same address again; returns when it does.
    pub async fn start_again(&self) {
        let socket = self.reserved.lock().expect("not poisoned").take().expect("it was stopped");
        let (stop, stopped) = watch::channel(false);
        let (listening, ready) = oneshot::channel();
        let (shared, address) = (self.shared.clone(), self.address);
        let thread = std::thread::Builder::new().name("objects".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime of our own").block_on(serve(socket, shared, stopped, listening));
            bind(address).expect("a port just closed can be bound again")
        });
        let thread = thread.expect("a thread of our own");
        ready.await.expect("its own address can be listened on");
        *self.running.lock().expect("not poisoned") = Some(Running { stop, thread });
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.lock().expect("not poisoned").take() {
            stop.send_replace(true);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "serving does not panic");
        }
    }
}
