//! What one server remembers: sessions, the process's own state, and what tests ask about.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    fs::File,
    io::Write as _,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    flavour::Flavour,
    mishap::{Kind, Mishap},
    switches::Switches,
    tools,
};

/// Requests remembered for [`crate::Server::requests`]; older ones are dropped.
const RECORDED: usize = 10_000;

/// Where messages of one stream go; dropped when the stream should end.
pub(crate) type Outlet = mpsc::UnboundedSender<Value>;

/// One request as it arrived, before anything was decided about it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The JSON-RPC method, or `""` for GET, DELETE and POSTed responses.
    pub method: String,
    /// The HTTP method.
    pub http_method: http::Method,
    /// The `mcp-session-id` it came with.
    pub session: Option<String>,
    /// All its headers.
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: Bytes,
}

/// Everything a server is; shared by its connections and its handle.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) flavour: Flavour,
    state: Mutex<State>,
    switches: watch::Sender<Switches>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) sessions: HashMap<String, Session>,
    pub(crate) project: Option<String>,
    pub(crate) setting: Option<Value>,
    pub(crate) count: u64,
    pub(crate) started: HashMap<String, u64>,
    pub(crate) executed: HashMap<String, u64>,
    pub(crate) initializes: u64,
    pub(crate) deletes: u64,
    pub(crate) streams_opened: u64,
    pub(crate) requests: VecDeque<Recorded>,
    pub(crate) tools: Vec<Value>,
    pub(crate) answers: Vec<Value>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) mishaps: VecDeque<Mishap>,
    pub(crate) log: Option<File>,
    pub(crate) ear: Option<Ear>,
    minted: u64,
}

/// Hears of every request as it arrives, before it is served.
pub(crate) struct Ear(Box<dyn Fn(&Recorded) + Send>);

impl Ear {
    pub(crate) fn new(hear: impl Fn(&Recorded) + Send + 'static) -> Self {
        Self(Box::new(hear))
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ear")
    }
}

/// A legacy session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) initialized: bool,
    pub(crate) version: String,
    pub(crate) log_level: Option<String>,
    pub(crate) subscriptions: BTreeSet<String>,
    pub(crate) get_streams: Vec<Outlet>,
    pub(crate) waiting: HashMap<u64, oneshot::Sender<Value>>,
    pub(crate) asked: u64,
}

/// An open `subscriptions/listen`.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) subscription: Value,
    pub(crate) outlet: Outlet,
}

impl World {
    pub(crate) fn new(flavour: Flavour, switches: Switches) -> Self {
        let state = State { tools: tools::defaults(), ..State::default() };
        Self {
            flavour,
            state: Mutex::new(state),
            switches: watch::Sender::new(switches),
            changes: watch::Sender::new(0),
        }
    }

    /// Looks at the state; use [`World::change`] to alter it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }

    /// Alters the state and wakes whoever waits for a fact.
    pub(crate) fn change<T>(&self, alter: impl FnOnce(&mut State) -> T) -> T {
        let result = alter(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn switches(&self) -> Switches {
        self.switches.borrow().clone()
    }

    pub(crate) fn switch(&self, alter: impl FnOnce(&mut Switches)) {
        self.switches.send_modify(alter);
    }

    /// Waits while everything hangs.
    pub(crate) async fn not_hanging(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.switches.subscribe().wait_for(|switches| !switches.hang).await;
    }

    /// The first queued mishap for `what`, taken.
    pub(crate) fn mishap(&self, what: &str) -> Option<Kind> {
        let mut state = self.state();
        let at =
            state.mishaps.iter().position(|it| it.method.as_deref().is_none_or(|method| method == what))?;
        state.mishaps.remove(at).map(|mishap| mishap.kind)
    }
}

impl State {
    /// All that a process forgets when it dies; what it did, and what tests counted, stays.
    pub(crate) fn forget(&mut self) {
        self.sessions.clear();
        self.listeners.clear();
        self.project = None;
    }

    /// A session id nobody had before: 32 hex digits, like the SDKs'.
    pub(crate) fn mint(&mut self) -> String {
        self.minted += 1;
        let hash = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), self.minted);
        format!("{hash:016x}{:016x}", self.minted)
    }

    pub(crate) fn record(&mut self, request: Recorded) {
        if let Some(ear) = &self.ear {
            (ear.0)(&request);
        }
        if self.requests.len() == RECORDED {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
    }

    pub(crate) fn start(&mut self, tool: &str) {
        *self.started.entry(tool.into()).or_default() += 1;
    }

    pub(crate) fn execute(&mut self, tool: &str) {
        *self.executed.entry(tool.into()).or_default() += 1;
        if let Some(log) = &mut self.log {
            writeln!(log, "{tool}").expect("the log of executed calls can be written");
        }
    }
}
