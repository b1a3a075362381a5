//! Requests without a session id, of gateways that treat each POST as new: all of one subject and route share one session.
//!
//! Whoever starts anew with each POST also counts anew, so equal ids are under way at once. Each id and progress token is
//! exchanged for one of ours on the way in and put back on the way out; everything else stays byte for byte. How such a
//! session is made is in `open`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body as HttpBody, Frame};
use mcp_daemon::body::{Body, BodyError};
use memchr::memmem::Finder;

use super::call::{self, Call};
use super::engine::Engine;
use super::headers::Letterhead;
use super::{Session, messages, reply};
use crate::mcp::Envelope;
use crate::names::{self, Names};

/// Carries a request to its answer under an id of ours.
pub async fn call(
    engine: &Arc<Engine>,
    session: Arc<Session>,
    envelope: &Envelope<'_>,
    body: &Bytes,
    letterhead: Letterhead,
    takes_stream: bool,
) -> Response<Body> {
    let named = Names::read(envelope.params);
    let theirs = envelope.id.map_or("null", |id| id.get());
    let secret = mcp_daemon::secret::random_id();
    let (id, token) = (format!("\"{secret}-id\""), format!("\"{secret}-token\""));
    let body = names::exchange(body, &[(envelope.id, &id), (named.token(), &token)]);
    let mut words = vec![Word::new(&id, theirs)];
    words.extend(named.token().map(|theirs| Word::new(&token, theirs.get())));
    session.lock().streams().exchanged.insert(id.as_str().into(), theirs.into());
    let exchange = Exchange { session: session.clone(), id: id.as_str().into(), words };
    let call =
        Call { session, id: id.into(), method: envelope.method().into(), body, letterhead, takes_stream };
    exchange.put_back(call::run(engine, Arc::new(call)).await)
}

/// A client gives a request up. Only where that can be one request and no other: another's must not end by it.
pub async fn cancel(
    engine: &Arc<Engine>,
    session: &Arc<Session>,
    envelope: &Envelope<'_>,
    body: &Bytes,
    letterhead: &Letterhead,
) -> Response<Body> {
    let theirs = Names::read(envelope.params).request;
    let body = theirs
        .and_then(|theirs| session.exchanged_for(theirs.get()))
        .map(|ours| names::exchange(body, &[(theirs, &ours)]));
    match body.as_ref().map(|body| (Envelope::parse(body), body)) {
        Some((Ok(envelope), body)) => {
            messages::notify(engine, session, &envelope, body.clone(), letterhead).await
        }
        _ => {
            log::debug!(session = session.key.short(); "cancellation dropped, it names no request under way, or several");
            reply::accepted()
        }
    }
}

impl Session {
    /// Our id for the one request under way that its client calls `theirs` (raw JSON).
    fn exchanged_for(&self, theirs: &str) -> Option<Box<str>> {
        let inner = self.lock();
        let mut found = inner.streams.as_deref()?.exchanged.iter().filter(|(_, known)| ***known == *theirs);
        let (only, none) = (found.next()?, found.next());
        none.is_none().then(|| only.0.clone())
    }
}

/// What was exchanged of one request; under way until it is dropped.
struct Exchange {
    session: Arc<Session>,
    id: Box<str>,
    words: Vec<Word>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(streams) = &mut self.session.lock().streams {
            streams.exchanged.remove(&self.id);
        }
    }
}

impl Exchange {
    /// `answer` in its client's own words.
    fn put_back(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| match body {
            Body::Full(None) => Body::empty(),
            Body::Full(Some(whole)) => self.whole(whole),
            Body::Chunks(pieces) => self.whole(pieces.iter().flatten().copied().collect()),
            body @ (Body::Incoming(_) | Body::Leased(_) | Body::Stream(_)) => {
                Body::stream(Answer { body, back: PutBack::new(&self.words), _exchange: self })
            }
        })
    }

    fn whole(&self, whole: Bytes) -> Body {
        let mut back = PutBack::new(&self.words);
        let said = back.take(whole);
        if back.held.is_empty() { said.into() } else { Bytes::from([said, back.rest()].concat()).into() }
    }
}

/// A word of ours, and its client's; both raw JSON.
#[derive(Clone)]
struct Word {
    ours: Finder<'static>,
    theirs: Bytes,
}

impl Word {
    fn new(ours: &str, theirs: &str) -> Self {
        Self { ours: Finder::new(ours).into_owned(), theirs: Bytes::copy_from_slice(theirs.as_bytes()) }
    }
}

/// Replaces words of ours in bytes that come piece by piece.
///
/// They are looked for as bytes: no JSON text holds them, quotes included, but as the value that we gave.
struct PutBack {
    words: Vec<Word>,
    /// The end of what came, if it may be the beginning of a word.
    held: BytesMut,
}

impl PutBack {
    fn new(words: &[Word]) -> Self {
        Self { words: words.to_vec(), held: BytesMut::new() }
    }

    /// What can be said once `piece` has come.
    fn take(&mut self, piece: Bytes) -> Bytes {
        let piece = if self.held.is_empty() {
            piece
        } else {
            self.held.extend_from_slice(&piece);
            std::mem::take(&mut self.held).freeze()
        };
        let mut out = BytesMut::new();
        let mut from = 0;
        while let Some((at, word)) = self.next_word(&piece[from..]) {
            out.extend_from_slice(&piece[from..from + at]);
            out.extend_from_slice(&word.theirs);
            from += at + word.ours.needle().len();
        }
        let end = piece.len() - self.begun(&piece[from..]);
        self.held.extend_from_slice(&piece[end..]);
        if from == 0 {
            return piece.slice(..end);
        }
        out.extend_from_slice(&piece[from..end]);
        out.freeze()
    }

    /// What was held back, after the last piece.
    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.held).freeze()
    }

    fn next_word(&self, bytes: &[u8]) -> Option<(usize, &Word)> {
        let found = self.words.iter().filter_map(|word| Some((word.ours.find(bytes)?, word)));
        found.min_by_key(|(at, _)| *at)
    }

    /// How many bytes at the end of `bytes` may be the beginning of a word.
    fn begun(&self, bytes: &[u8]) -> usize {
        let of = |word: &Word| {
            let needle = word.ours.needle();
            (1..needle.len()).rev().find(|length| bytes.ends_with(&needle[..*length])).unwrap_or_default()
        };
        self.words.iter().map(of).max().unwrap_or_default()
    }
}

/// An answer that is put back into its client's words while it is sent.
struct Answer {
    body: Body,
    back: PutBack,
    /// Under way until the answer is out.
    _exchange: Exchange,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let said = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.back.take(piece),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if self.back.held.is_empty() => return Poll::Ready(None),
                None => self.back.rest(),
            };
            if !said.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(said))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.back.held.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(pieces: &[&[u8]]) -> Vec<u8> {
        let mut back = PutBack::new(&[Word::new("\"ab-id\"", "1"), Word::new("\"ab-token\"", "\"t\"")]);
        let mut out: Vec<u8> = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&back.take(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&back.rest());
        out
    }

    #[test]
    fn words_of_ours_are_put_back_and_text_that_quotes_them_is_not() {
        let text =
            br#"{"id":"ab-id","params":{"progressToken":"ab-token"},"text":"\"ab-id\" ab-id","x":"ab"}"#;
        let back = br#"{"id":1,"params":{"progressToken":"t"},"text":"\"ab-id\" ab-id","x":"ab"}"#;
        assert_eq!(said(&[text]), back);
    }

    #[test]
    fn what_may_be_the_beginning_of_a_word_waits_for_the_rest_and_nothing_else_does() {
        let mut back = PutBack::new(&[Word::new("\"ab-id\"", "1")]);
        assert_eq!(back.take(Bytes::from_static(b"data: {\"id\":\"ab")), "data: {\"id\":");
        assert_eq!(back.take(Bytes::from_static(b"-id\"}\n\n")), "1}\n\n");
        assert!(back.held.is_empty());
        assert_eq!(back.take(Bytes::from_static(b"\"a")), "");
        assert_eq!(back.rest(), "\"a");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in r#"("ab-id"|"ab-token"|"ab|-id"|"|a|[^a"]){0,20}"#, cuts in proptest::collection::vec(0usize..120, 0..8)) {
            let text = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(said(&pieces), said(&[text]));
        }
    }
}
