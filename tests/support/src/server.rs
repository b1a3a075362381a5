//! The handle of a misbehaving server that runs in the test's own process.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    net::TcpSocket,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    address::{Address, bind, open},
    builder::Builder,
    connection,
    flavour::Flavour,
    mishap::Mishap,
    modern,
    switches::Switches,
    world::{Recorded, World},
};

/// How long [`Server::until`] waits for its fact before it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often [`Server::until`] looks when nothing seems to happen.
const GLANCE: Duration = Duration::from_millis(20);

/// A running (or stopped) server; dropped, it cuts its connections and is gone.
#[derive(Debug)]
pub struct Server {
    world: Arc<World>,
    address: Address,
    running: Mutex<Option<Running>>,
    /// Bound while nobody listens: connections are refused, and nobody else gets the port.
    reserved: Mutex<Option<TcpSocket>>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server of this flavour on an ephemeral loopback port, well-behaved but for its flavour.
    pub async fn start(flavour: Flavour) -> Server {
        Server::builder(flavour).start().await.expect("an ephemeral loopback port is free")
    }

    /// Choices to make before a start.
    pub fn builder(flavour: Flavour) -> Builder {
        Builder::new(flavour)
    }

    pub(crate) fn of(world: Arc<World>, address: Address, reserved: Option<TcpSocket>) -> Server {
        Server { world, address, running: Mutex::default(), reserved: Mutex::new(reserved) }
    }

    /// Where clients connect: `http://127.0.0.1:PORT/mcp` or `unix:PATH:/mcp`.
    pub fn url(&self) -> String {
        match &self.address {
            Address::Tcp(address) => format!("http://{address}/mcp"),
            Address::Unix(path) => format!("unix:{}:/mcp", path.display()),
        }
    }

    /// The TCP port; 0 on a Unix socket.
    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) => 0,
        }
    }

    /// Forgets all sessions, their streams and the active project, as after a restart; connections stay.
    pub fn forget_sessions(&self) {
        self.world.change(|state| state.forget());
    }

    /// Like `kill -9`: resets every connection, closes the listener, forgets the sessions.
    ///
    /// What calls were doing still happens. Returns when connections are refused.
    pub async fn stop(&self) {
        let running = self.running.lock().expect("not poisoned").take();
        if let Some(running) = running {
            running.stop.send_replace(true);
            running.task.await.expect("serving does not panic");
        }
        if let Address::Tcp(address) = self.address {
            let mut reserved = self.reserved.lock().expect("not poisoned");
            if reserved.is_none() {
                *reserved = Some(bind(address).expect("a port just closed can be bound again"));
            }
        }
        self.forget_sessions();
    }

    /// Listens on the same address again; returns when it does (with a slow start: at once).
    pub async fn start_again(&self) {
        let (stop, stopped) = watch::channel(false);
        let slow = self.world.switches().slow_start;
        let (listening, ready) = oneshot::channel();
        let socket = self.reserved.lock().expect("not poisoned").take();
        let (world, address) = (self.world.clone(), self.address.clone());
        let task = tokio::spawn(async move {
            let mut stop = stopped.clone();
            let stopped_early = timeout(slow, stop.wait_for(|stop| *stop)).await.is_ok();
            if stopped_early {
                return;
            }
            let listener = open(socket, &address).expect("the server's own address can be listened on");
            let _ = listening.send(());
            connection::serve(listener, world, stopped).await;
        });
        let before = self.running.lock().expect("not poisoned").replace(Running { stop, task });
        assert!(before.is_none(), "start_again() on a server that runs");
        if slow == Duration::ZERO {
            ready.await.expect("the server's own address can be listened on");
        }
    }

    /// Removes the socket file of a stopped server on a Unix socket ("no such socket" instead of "refused").
    pub fn remove_socket(&self) {
        if let Address::Unix(path) = &self.address {
            fs::remove_file(path).expect("the socket file is there");
        }
    }

    /// Alters the switches; requests see it from their arrival on.
    pub fn set(&self, alter: impl FnOnce(&mut Switches)) {
        self.world.switch(alter);
    }

    /// The next `times` requests that `mishap` applies to have it; queued behind earlier ones.
    ///
    /// A proxy sends requests of its own (pings, GET, `initialize`): name the method with [`Mishap::on`].
    pub fn next(&self, times: usize, mishap: Mishap) {
        self.world.change(|state| state.mishaps.extend(std::iter::repeat_n(mishap, times)));
    }

    /// The next `times` requests are never answered.
    pub fn hang_next(&self, times: usize) {
        self.next(times, Mishap::hang());
    }

    /// Mishaps that no request had yet.
    pub fn mishaps_left(&self) -> usize {
        self.world.state().mishaps.len()
    }

    /// Replaces what `tools/list` says; tells nobody (see [`Server::notify`]).
    pub fn set_tools(&self, tools: Vec<Value>) {
        self.world.change(|state| state.tools = tools);
    }

    /// What `tools/list` says now.
    pub fn tools(&self) -> Vec<Value> {
        self.world.state().tools.clone()
    }

    /// Pushes a message on every open GET stream and `subscriptions/listen`; returns how many that were.
    pub fn notify(&self, message: &Value) -> usize {
        self.world.change(|state| {
            let mut reached = 0;
            for session in state.sessions.values_mut() {
                session.get_streams.retain(|stream| stream.send(message.clone()).is_ok());
                reached += session.get_streams.len();
            }
            state.listeners.retain(|it| it.outlet.send(modern::tagged(message, &it.subscription)).is_ok());
            reached + state.listeners.len()
        })
    }

    /// Sends a request to the client on every open GET stream; what comes back is in [`Server::answers`].
    ///
    /// The id is the test's own choice: `message["id"]`.
    pub fn request_client(&self, message: &Value) -> usize {
        self.notify(message)
    }

    /// Every response a client posted, oldest first, also those to requests of an earlier life.
    pub fn answers(&self) -> Vec<Value> {
        self.world.state().answers.clone()
    }

    /// How many GET and `subscriptions/listen` streams are open.
    pub fn streams(&self) -> usize {
        let state = self.world.state();
        let get = state.sessions.values().flat_map(|session| &session.get_streams);
        let listen = state.listeners.iter().map(|it| &it.outlet);
        get.chain(listen).filter(|outlet| !outlet.is_closed()).count()
    }

    /// How many calls of `tool` have begun, over all lives of this server.
    pub fn started(&self, tool: &str) -> u64 {
        self.world.state().started.get(tool).copied().unwrap_or_default()
    }

    /// How many calls of `tool` have had their effect, over all lives of this server.
    pub fn executed(&self, tool: &str) -> u64 {
        self.world.state().executed.get(tool).copied().unwrap_or_default()
    }

    /// How many `initialize` made a session, over all lives of this server.
    pub fn initializes(&self) -> u64 {
        self.world.state().initializes
    }

    /// How many DELETE ended a session, over all lives of this server.
    pub fn deletes(&self) -> u64 {
        self.world.state().deletes
    }

    /// How many sessions there are now.
    pub fn sessions(&self) -> usize {
        self.world.state().sessions.len()
    }

    /// The ids of the sessions there are now.
    pub fn session_ids(&self) -> Vec<String> {
        self.world.state().sessions.keys().cloned().collect()
    }

    /// The last 10,000 requests as they arrived, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.world.state().requests.iter().cloned().collect()
    }

    /// How many of the recorded requests had this JSON-RPC method.
    pub fn received(&self, method: &str) -> usize {
        self.world.state().requests.iter().filter(|request| request.method == method).count()
    }

    /// Forgets the recorded requests and answers; counters stay.
    pub fn clear(&self) {
        self.world.change(|state| {
            state.requests.clear();
            state.answers.clear();
        });
    }

    /// Waits until `fact` holds; fails the test after 60 s.
    pub async fn until(&self, fact: impl Fn(&Server) -> bool) {
        let mut changes = self.world.changes();
        let held = timeout(PATIENCE, async {
            while !fact(self) {
                // A client that closes its stream changes no state: look again now and then.
                let _ = timeout(GLANCE, changes.changed()).await;
            }
        });
        held.await.expect("the awaited fact came true");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().ok().and_then(Option::take) {
            running.stop.send_replace(true);
            running.task.abort();
        }
        if let Address::Unix(path) = &self.address {
            // Gone already if the test removed it.
            let _ = fs::remove_file(path);
        }
    }
}
