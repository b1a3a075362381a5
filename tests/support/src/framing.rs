//! How each flavour writes an event stream.

use bytes::Bytes;
use serde_json::Value;

use crate::flavour::Flavour;

/// Writes the events of one stream; counts them, because some flavours number theirs.
#[derive(Debug)]
pub(crate) struct Framing {
    flavour: Flavour,
    stream: u64,
    written: u64,
}

impl Framing {
    /// Framing for the `stream`th event stream of a server.
    pub(crate) fn new(flavour: Flavour, stream: u64) -> Self {
        Self { flavour, stream, written: 0 }
    }

    /// What comes before the first message: a priming event, or nothing.
    pub(crate) fn opening(&mut self) -> Option<Bytes> {
        let opening = match self.flavour {
            Flavour::TypeScript | Flavour::Everything => format!("id: {}\ndata: \n\n", self.id()),
            Flavour::Rmcp => "data: \nid: 0\nretry: 3000\n\n".to_owned(),
            _ => return None,
        };
        self.written += 1;
        Some(opening.into())
    }

    /// One message as one event.
    pub(crate) fn event(&mut self, message: &Value) -> Bytes {
        self.event_of_text(&message.to_string())
    }

    /// One message, already in JSON, as one event.
    pub(crate) fn event_of_text(&mut self, message: &str) -> Bytes {
        let event = match self.flavour {
            Flavour::Python1_12 | Flavour::Python1_30 | Flavour::Python2 => {
                format!("event: message\r\ndata: {message}\r\n\r\n")
            }
            Flavour::TypeScript | Flavour::Everything => {
                format!("event: message\nid: {}\ndata: {message}\n\n", self.id())
            }
            Flavour::Rmcp => format!("data: {message}\nid: {}\n\n", self.written),
            _ => format!("event: message\ndata: {message}\n\n"),
        };
        self.written += 1;
        event.into()
    }

    fn id(&self) -> String {
        format!("{}_{}", self.stream, self.written)
    }
}
