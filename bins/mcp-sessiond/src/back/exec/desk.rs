//! Who waits for what of one child: pure bookkeeping between lines of its stdout and HTTP answers.
//!
//! A private desk serves one session: ids pass as they are, and a server message without an addressee goes to whoever
//! of that session listens. A shared desk serves strangers: ids are exchanged, and nothing is delivered by guess.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::outlet::{End, Intake, Outlet, queue};
use crate::mcp::{self, Envelope, Kind};
use crate::names::{self, Names};

/// Most server messages kept for a GET stream that is not open yet.
const MAX_HELD: usize = 256;
/// Most bytes of server messages kept for a GET stream that is not open yet.
const MAX_HELD_BYTES: usize = 4 << 20;

/// The desk of one child.
pub(super) struct Desk {
    is_shared: bool,
    waiting: HashMap<String, Waiting>,
    listener: Option<Outlet>,
    held: VecDeque<Bytes>,
    held_bytes: usize,
    entered: u64,
    answered: bool,
    ended: bool,
    last_used: Instant,
}

/// A request whose response has not come.
struct Waiting {
    outlet: Outlet,
    number: u64,
    takes_messages: bool,
    /// Raw JSON as the client wrote it.
    id: String,
    /// Raw JSON as the client wrote it.
    token: Option<String>,
}

/// A request that may now be written.
pub(super) struct Entered {
    /// What to write.
    pub(super) message: Bytes,
    /// Under which name its response will come.
    pub(super) key: String,
    /// Where its response will come.
    pub(super) intake: Intake,
}

/// Why a request may not be written.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// Another request with this id has not been answered.
    Duplicate,
    /// The process has ended.
    Ended,
}

/// What came of a line.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Heard {
    /// Passed on.
    Delivered,
    /// Nobody there for it: a late answer, or a message that may be lost.
    Dropped,
    /// Not a message.
    Junk,
    /// Nobody there for it, but the server waits: write this back.
    Reply(Bytes),
}

impl Desk {
    /// The desk of a new child.
    pub(super) fn new(is_shared: bool) -> Self {
        Desk {
            is_shared,
            waiting: HashMap::new(),
            listener: None,
            held: VecDeque::new(),
            held_bytes: 0,
            entered: 0,
            answered: false,
            ended: false,
            last_used: Instant::now(),
        }
    }

    /// Enters a request; `takes_messages` if its answer may be a stream that carries other messages first.
    pub(super) fn enter(
        &mut self,
        envelope: &Envelope<'_>,
        body: &Bytes,
        takes_messages: bool,
    ) -> Result<Entered, Refused> {
        if self.ended {
            return Err(Refused::Ended);
        }
        let id = envelope.id.map_or("null", |id| id.get());
        let named = Names::read(envelope.params);
        let token = named.token().map(|token| token.get().to_owned());
        self.entered += 1;
        let (key, message) = if self.is_shared {
            let ours = format!("\"s-{}\"", self.entered);
            let message = names::exchange(body, &[(envelope.id, &ours), (named.token(), &ours)]);
            (ours, message)
        } else {
            (names::key(id), body.clone())
        };
        // Also when the other's client went away: its late answer would pass for the answer to this one.
        if self.waiting.contains_key(&key) {
            return Err(Refused::Duplicate);
        }
        let (outlet, intake) = queue();
        let id = id.to_owned();
        self.waiting.insert(key.clone(), Waiting { outlet, number: self.entered, takes_messages, id, token });
        self.last_used = Instant::now();
        Ok(Entered { message, key, intake })
    }

    /// The client of a request went away. On a shared desk that is how it cancels; what to write then is returned.
    pub(super) fn leave(&mut self, key: &str) -> Option<Bytes> {
        if !self.is_shared {
            return None;
        }
        self.waiting.remove(key)?;
        let cancelled = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{key}}}}}"#
        );
        Some(cancelled.into())
    }

    /// Answers a cancelled request in the place of a server that does not.
    pub(super) fn give_up(&mut self, key: &str) {
        if let Some(waiting) = self.waiting.remove(key) {
            waiting.outlet.answer(mcp::error_body(&waiting.id, 0, "Request cancelled").into());
        }
    }

    /// A new stream for server messages; an earlier one ends.
    pub(super) fn listen(&mut self) -> Intake {
        let (outlet, intake) = queue();
        if self.ended {
            outlet.end(End::Broken);
            return intake;
        }
        for message in self.held.drain(..) {
            outlet.message(message);
        }
        self.held_bytes = 0;
        self.last_used = Instant::now();
        if let Some(earlier) = self.listener.replace(outlet) {
            earlier.end(End::Finished);
        }
        intake
    }

    /// Takes a line of the child.
    pub(super) fn hear(&mut self, line: &Bytes) -> Heard {
        self.last_used = Instant::now();
        let Ok(envelope) = Envelope::parse(line) else { return self.unreadable(line) };
        match envelope.kind() {
            Some(Kind::Response) => self.answer(line, &envelope),
            Some(Kind::Notification | Kind::Request) => self.message(line, &envelope),
            None => Heard::Junk,
        }
    }

    /// Takes a line that was cut or is no message: if it was to be a response, its request must not wait for ever.
    pub(super) fn unreadable(&mut self, line: &[u8]) -> Heard {
        let Some(id) = names::early_id(line) else { return Heard::Junk };
        let Some(waiting) = self.waiting.remove(&names::key(&id)) else { return Heard::Junk };
        let error = "the server's answer is too large or too deep to be passed on";
        waiting.outlet.answer(mcp::error_body(&waiting.id, mcp::INTERNAL_ERROR, error).into());
        Heard::Delivered
    }

    fn answer(&mut self, line: &Bytes, envelope: &Envelope<'_>) -> Heard {
        let key = envelope.id.map(|id| names::key(id.get())).unwrap_or_default();
        let Some(waiting) = self.waiting.remove(&key) else { return Heard::Dropped };
        self.answered = true;
        let answer = if self.is_shared {
            let named = Names::read(envelope.result);
            names::exchange(line, &[(envelope.id, &waiting.id), (named.subscription(), &waiting.id)])
        } else {
            line.clone()
        };
        waiting.outlet.answer(answer);
        Heard::Delivered
    }

    fn message(&mut self, line: &Bytes, envelope: &Envelope<'_>) -> Heard {
        let named = Names::read(envelope.params);
        let delivered = if self.is_shared {
            self.deliver_by_name(line, &named)
        } else {
            self.deliver_to_session(line, &named)
        };
        match envelope.id {
            _ if delivered => Heard::Delivered,
            Some(id) => Heard::Reply(nobody_listens(id.get())),
            None => Heard::Dropped,
        }
    }

    /// To the request that the message names, with that client's own words for it; never to anybody else.
    fn deliver_by_name(&self, line: &Bytes, named: &Names<'_>) -> bool {
        let Some(name) = named.progress.or(named.subscription()) else { return false };
        let Some(waiting) = self.waiting.get(name.get()) else { return false };
        let token = waiting.token.as_deref().unwrap_or("null");
        let message = names::exchange(line, &[(named.progress, token), (named.subscription(), &waiting.id)]);
        waiting.takes_messages && waiting.outlet.message(message)
    }

    /// To the request whose progress it is, else the GET stream, else (no progress) the newest open request, else kept.
    fn deliver_to_session(&mut self, line: &Bytes, named: &Names<'_>) -> bool {
        let token = named.progress.map(|token| token.get());
        let open = || self.waiting.values().filter(|waiting| waiting.takes_messages);
        let owner = open().find(|waiting| token.is_some() && waiting.token.as_deref() == token);
        if owner.is_some_and(|owner| owner.outlet.message(line.clone()))
            || self.listener.as_ref().is_some_and(|listener| listener.message(line.clone()))
        {
            return true;
        }
        if token.is_some() {
            // Somebody's progress is nobody else's.
            return self.hold(line);
        }
        let mut others: Vec<&Waiting> = open().collect();
        others.sort_by_key(|waiting| std::cmp::Reverse(waiting.number));
        others.iter().any(|waiting| waiting.outlet.message(line.clone())) || self.hold(line)
    }

    fn hold(&mut self, line: &Bytes) -> bool {
        if self.held.len() >= MAX_HELD || self.held_bytes + line.len() > MAX_HELD_BYTES {
            return false;
        }
        self.held_bytes += line.len();
        self.held.push_back(line.clone());
        true
    }

    /// Ends everybody's wait and returns how many requests had no answer.
    pub(super) fn end(&mut self, end: End) -> usize {
        self.ended = true;
        let unanswered = self.waiting.len();
        for (_, waiting) in self.waiting.drain() {
            // A request without its answer is broken even when the end was asked for.
            waiting.outlet.end(End::Broken);
        }
        if let Some(listener) = self.listener.take() {
            listener.end(end);
        }
        self.held.clear();
        unanswered
    }

    /// Ends if nothing is in flight, so that no request can slip in between; whether it did.
    pub(super) fn end_if_idle(&mut self) -> bool {
        let is_idle = self.waiting.is_empty() && !self.ended;
        if is_idle {
            self.end(End::Finished);
        }
        is_idle
    }

    /// Whether no request is taken any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the child has answered anything yet.
    pub(super) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Requests without an answer, also those whose client went away: the child works on them.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Whether anybody still waits for an answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.values().any(|waiting| waiting.outlet.is_read())
    }

    /// When something last came from either side.
    pub(super) fn last_used(&self) -> Instant {
        self.last_used
    }

    /// Notes that something came from the client.
    pub(super) fn used(&mut self) {
        self.last_used = Instant::now();
    }
}

fn nobody_listens(id: &str) -> Bytes {
    mcp::error_body(id, mcp::INTERNAL_ERROR, "no client listens for requests of the server").into()
}

#[cfg(test)]
mod tests;
