//! A strict little reader of event streams, as a client sees them.

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// One event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// `id:`, if it had one.
    pub id: Option<String>,
    /// `event:`, `""` if it had none.
    pub event: String,
    /// `data:` lines, joined by newlines.
    pub data: String,
    /// `retry:` in milliseconds, if it had one.
    pub retry: Option<u64>,
}

impl Event {
    /// The data as JSON; `None` for a priming event.
    pub fn message(&self) -> Option<Value> {
        serde_json::from_str(&self.data).ok()
    }
}

/// An open event stream.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    unread: BytesMut,
    current: Event,
    started: bool,
    comments: u64,
    last_id: Option<String>,
    broken: Option<String>,
}

impl Events {
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            unread: BytesMut::new(),
            current: Event::default(),
            started: false,
            comments: 0,
            last_id: None,
            broken: None,
        }
    }

    /// The next event; `None` when the stream has ended or broken (see [`Events::broken`]). Cancel safe.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            while let Some(line) = self.line() {
                if let Some(event) = self.take(&line) {
                    return Some(event);
                }
            }
            match self.body.frame().await? {
                Ok(frame) => self.unread.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return None;
                }
            }
        }
    }

    /// The next event that carries a message, as JSON; priming events are passed over. Cancel safe.
    pub async fn next_message(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.next_event().await?.message() {
                return Some(message);
            }
        }
    }

    /// Comment lines seen so far: keep-alives.
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// The last event id seen, for `Last-Event-ID`.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Why the stream broke, if it did not simply end.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn line(&mut self) -> Option<String> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let line = self.unread.split_to(end + 1);
        let line = String::from_utf8_lossy(&line).into_owned();
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            return std::mem::take(&mut self.started).then(|| std::mem::take(&mut self.current));
        }
        if line.starts_with(':') {
            self.comments += 1;
            return None;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if self.current.data.is_empty() => self.current.data = value.into(),
            "data" => self.current.data = format!("{}\n{value}", self.current.data),
            "event" => self.current.event = value.into(),
            "id" => {
                self.current.id = Some(value.into());
                self.last_id = Some(value.into());
            }
            "retry" => self.current.retry = value.parse().ok(),
            other => panic!("an event stream has no field `{other}`: {line:?}"),
        }
        self.started = true;
        None
    }
}
