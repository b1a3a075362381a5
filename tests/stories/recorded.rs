//! What real servers said, word for word (`tests/recorded`), and what the table of verdicts makes of it.
#![allow(
    clippy::unwrap_used,
    reason = "what the tests here call is test code as well, which clippy does not see"
)]

use std::{fs, path::Path};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use sessiond::{
    sse::{self, Splitter},
    verdict::{Verdict, judge},
};

/// What a session is used for; the ends of the names of cases.
const USES: [&str; 7] = ["request", "list", "ping", "notification", "response", "get", "delete"];

/// One recorded answer.
struct Recorded {
    /// Server and case, as in `python-2.3 stale-get`.
    name: String,
    case: String,
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Recorded {
    fn read(server: &str, case: &Value) -> Recorded {
        let name = case["case"].as_str().unwrap();
        let mut headers = HeaderMap::new();
        for (header, value) in case["headers"].as_object().unwrap() {
            if let Some(value) = value.as_str() {
                headers.insert(header.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
            }
        }
        Recorded {
            name: format!("{server} {name}"),
            case: name.into(),
            status: StatusCode::from_u16(case["status"].as_u64().unwrap().try_into().unwrap()).unwrap(),
            headers,
            body: case["body"].as_str().unwrap().into(),
        }
    }

    /// The verdict on it, given what the daemon gives: the body, or the data of the first event that has any.
    fn verdict(&self) -> Verdict {
        let kind = self.headers.get(header::CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap());
        let body = Bytes::from(self.body.clone());
        if !kind.starts_with("text/event-stream") {
            return judge(self.status, &self.headers, &body);
        }
        let mut splitter = Splitter::default();
        splitter.push(body).unwrap();
        let data = std::iter::from_fn(|| splitter.next_block())
            .filter_map(|block| sse::data(&block))
            .find(|data| !data.is_empty());
        judge(self.status, &self.headers, &data.unwrap_or_else(|| panic!("{}: no event", self.name)))
    }

    /// Whether it is an answer to a `kind` of session id in one of its normal uses.
    fn is_use_of(&self, kind: &str) -> bool {
        self.case.strip_prefix(kind).is_some_and(|end| USES.contains(&end))
    }
}

fn recorded() -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/recorded");
    let mut answers = Vec::new();
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        let server = file.file_stem().unwrap().to_str().unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        answers.extend(cases.iter().map(|case| Recorded::read(server, case)));
    }
    answers
}

/// The answers that `wanted` picks; there must be at least `least` of them, or this would test nothing.
fn picked(least: usize, wanted: impl Fn(&Recorded) -> bool) -> Vec<Recorded> {
    let answers: Vec<_> = recorded().into_iter().filter(|answer| wanted(answer)).collect();
    assert!(answers.len() >= least, "{} recordings; tests/real/record makes them", answers.len());
    answers
}

#[test]
fn every_answer_to_a_dead_session_is_lost_or_at_least_doubtful() {
    let dead = |answer: &Recorded| ["stale-", "closed-", "fresh-"].iter().any(|kind| answer.is_use_of(kind));
    for answer in picked(7 * 13, dead) {
        let said = answer.body.to_ascii_lowercase();
        let is_named = said.contains("session") || said.contains("initialized");
        match answer.verdict() {
            Verdict::Claimed(_) | Verdict::Lost(_) => {}
            Verdict::Doubtful(_) if !is_named => {}
            verdict => panic!("{}: {verdict:?}: {} {}", answer.name, answer.status, answer.body),
        }
    }
}

#[test]
fn no_answer_on_a_living_session_is_taken_for_a_loss() {
    // A session that has not seen `notifications/initialized` lives as well. PUT is not among what sessiond sends.
    let living = |answer: &Recorded| {
        ["live-", "early-"].iter().any(|kind| answer.case.starts_with(kind)) && answer.case != "live-put"
    };
    for answer in picked(7 * 18, living) {
        let verdict = answer.verdict();
        assert!(
            matches!(verdict, Verdict::Answer | Verdict::Doubtful(_)),
            "{}: {verdict:?}: {} {}",
            answer.name,
            answer.status,
            answer.body
        );
    }
}

#[test]
fn a_good_answer_on_a_living_session_is_beyond_doubt() {
    let good = ["live-ping", "live-initialized", "live-unknown-method", "live-unknown-tool", "live-delete"];
    // mcp 1.x says -32602 to an unknown method, which is also what 1.12.3 says to a session that it has half forgotten.
    let plain = |answer: &Recorded| {
        good.contains(&answer.case.as_str())
            && !(answer.name.starts_with("python-1.") && answer.case == "live-unknown-method")
    };
    for answer in picked(7 * 5 - 2, plain) {
        assert_eq!(answer.verdict(), Verdict::Answer, "{}: {}", answer.name, answer.body);
    }
}

#[test]
fn a_modern_servers_refusals_are_no_loss() {
    let modern = |answer: &Recorded| {
        ["python-2.3 modern-", "serena modern-"].iter().any(|start| answer.name.starts_with(start))
    };
    for answer in picked(2 * 6, modern) {
        let verdict = answer.verdict();
        // 400 with -32602 for a missing `_meta` is the one refusal that a legacy server words alike.
        let expected = answer.case != "modern-no-meta";
        assert_eq!(verdict == Verdict::Answer, expected, "{}: {verdict:?}: {}", answer.name, answer.body);
        assert!(matches!(verdict, Verdict::Answer | Verdict::Doubtful(_)), "{}: {verdict:?}", answer.name);
    }
}
