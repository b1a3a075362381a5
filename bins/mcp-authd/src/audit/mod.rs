//! One JSON line per decision: who did what, from where, and how it ended. Never a token, never a body.
//!
//! A request carries an [`Entry`] along, which becomes a line when the last byte of its answer is sent, or when the client
//! goes away. [`sink`] writes lines in batches, [`read`] shows them to people.

pub mod line;
pub mod read;
pub mod sink;
mod write;

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use http_body::Body as _;
use mcp_daemon::body::Body;
use tokio::time::Instant;

use self::line::Line;
pub use self::sink::Audit;
use crate::answer::Said;
use crate::identity::{Fingerprint, Identity};
use crate::policy::Asked;

/// Longest `method` or `name` in a line, in bytes: clients choose them.
const MAX_TEXT: usize = 256;

/// nginx's number for a client that went away before it was answered.
const CLIENT_GONE: u16 = 499;

/// What is known of a request so far; dropped, it becomes a line.
pub struct Entry {
    audit: Arc<Audit>,
    began: Instant,
    address: Option<IpAddr>,
    http: Method,
    identity: Option<Arc<Identity>>,
    fingerprint: Option<String>,
    method: String,
    name: String,
    reason: Option<String>,
    status: u16,
    bytes: u64,
    complete: bool,
}

impl Entry {
    /// Begins with what every request has.
    pub fn new(audit: &Arc<Audit>, http: &Method) -> Self {
        Self {
            audit: audit.clone(),
            began: Instant::now(),
            address: None,
            http: http.clone(),
            identity: None,
            fingerprint: None,
            method: String::new(),
            name: String::new(),
            reason: None,
            status: CLIENT_GONE,
            bytes: 0,
            complete: false,
        }
    }

    /// From where it comes.
    pub fn comes_from(&mut self, address: Option<IpAddr>) {
        self.address = address;
    }

    /// Who it is from.
    pub fn is_from(&mut self, identity: &Arc<Identity>) {
        self.identity = Some(identity.clone());
    }

    /// The first digits of the SHA-256 of a credential that was refused.
    pub fn brought(&mut self, fingerprint: String) {
        self.fingerprint = Some(fingerprint);
    }

    /// What it asks for; of a batch, each method and name once.
    pub fn asks(&mut self, messages: &[Asked<'_>]) {
        for asked in messages {
            add(&mut self.method, &asked.method);
            add(&mut self.name, &asked.name);
        }
    }

    /// Why it is not served as asked, for the operator.
    pub fn because(&mut self, reason: impl ToString) {
        let mut reason = reason.to_string();
        reason.truncate(reason.floor_char_boundary(MAX_TEXT));
        self.reason = Some(reason);
    }

    /// It is answered, and all of the answer is here. Where it is refused and nothing better is known, what the client is told
    /// is the reason.
    pub fn ends_with(mut self, answer: Response<Body>) -> Response<Body> {
        self.begins_with(answer.status());
        if self.reason.is_none()
            && let Some(Said(said)) = answer.extensions().get()
        {
            self.because(said);
        }
        self.goes_on(answer.body().size_hint().lower() as usize, true);
        answer
    }

    /// It is answered; the answer's body will come.
    pub fn begins_with(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// So much more of the answer is there, and maybe that was all.
    pub fn goes_on(&mut self, bytes: usize, is_all: bool) {
        self.bytes += bytes as u64;
        self.complete = is_all;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.audit.is_off() {
            return;
        }
        let identity = self.identity.as_deref();
        let mut room = [0; Fingerprint::LONGEST];
        let own = identity.map(|identity| identity.fingerprint.spell(&mut room));
        let fingerprint = own.or(self.fingerprint.as_deref());
        self.audit.write(&Line {
            time: line::now(),
            subject: identity.map(|identity| identity.subject.as_str().into()),
            token: fingerprint.map(Into::into),
            address: self.address,
            route: identity.map(|identity| identity.route.as_str().into()),
            http: name_of(&self.http).into(),
            method: (&*self.method).into(),
            name: (&*self.name).into(),
            status: self.status,
            bytes: self.bytes,
            ms: (self.began.elapsed().as_micros() as f64) / 1000.0,
            reason: self.reason.as_deref().map(Into::into),
            cut: !self.complete,
        });
    }
}

/// Clients may make up methods of HTTP, as long as they like.
fn name_of(method: &Method) -> &str {
    match method.as_str() {
        known @ ("DELETE" | "GET" | "HEAD" | "OPTIONS" | "PATCH" | "POST" | "PUT") => known,
        _ => "OTHER",
    }
}

/// Adds a word to a list of different words, within bounds.
fn add(list: &mut String, word: &str) {
    if word.is_empty() || list.len() + word.len() >= MAX_TEXT {
        return;
    }
    if list.is_empty() {
        *list = word.to_owned();
    } else if list.split(',').all(|known| known != word) {
        list.push(',');
        list.push_str(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_names_each_method_once_and_stays_short() {
        let mut list = String::new();
        for word in ["tools/call", "", "ping", "tools/call", &"x".repeat(300)] {
            add(&mut list, word);
        }
        assert_eq!(list, "tools/call,ping");
    }
}
