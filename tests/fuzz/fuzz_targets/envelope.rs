//! The envelope of a message: nothing makes its reader panic, and a message whose id is replaced is otherwise the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use sessiond::mcp::{Envelope, INTERNAL_ERROR, Kind, error_body, glance, is_modern, splice_id};

fuzz_target!(|body: &[u8]| {
    let seen = glance(body);
    let _ = is_modern(str::from_utf8(body).ok(), None);
    let Ok(envelope) = Envelope::parse(body) else { return };

    let kind = envelope.kind().expect("what is read is some kind of message");
    assert_eq!(kind == Kind::Response, envelope.method.is_none());
    assert!(seen.is_some(), "a message that tells nothing at a glance was read");
    let _ = envelope.tool();
    let _ = is_modern(None, Some(&envelope));

    if let Some(id) = envelope.id {
        splice(body, &envelope, id);
        let refusal = error_body(id.get(), INTERNAL_ERROR, &String::from_utf8_lossy(body));
        let refusal = Envelope::parse(refusal.as_bytes()).expect("our own answer is a message");
        assert_eq!(refusal.kind(), Some(Kind::Response));
        assert_eq!(refusal.id.map(RawValue::get), Some(id.get()), "the answer is for another request");
    }
});

/// Another id and back again: only the id changes, and nothing is left of the change.
fn splice(body: &[u8], envelope: &Envelope<'_>, id: &RawValue) {
    let ours = r#""ours-7""#;
    let spliced = splice_id(body, id, ours);
    let other = Envelope::parse(&spliced).expect("a spliced message is a message");
    assert_eq!(other.id.map(RawValue::get), Some(ours));
    assert_eq!(other.method, envelope.method);
    let raw = |envelope: &Envelope<'_>| {
        [envelope.params, envelope.result, envelope.error].map(|part| part.map(|part| part.get().to_owned()))
    };
    assert_eq!(raw(&other), raw(envelope));
    assert_eq!(is_modern(None, Some(&other)), is_modern(None, Some(envelope)));
    assert_eq!(splice_id(&spliced, other.id.expect("it was just read"), id.get()), body);
}
