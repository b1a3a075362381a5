//! `mcp-sessiond doctor`: plays a stale client against an upstream, through sessiond itself, and says what it finds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use mcp_daemon::body::Body;
use mcp_daemon::client::SendError;
use mcp_daemon::life::Life;

use crate::back::Back;
use crate::config::Config;
use crate::mcp;
use crate::session::collect::collect;
use crate::session::engine::{Caller, Engine, OwnHeaders};
use crate::session::headers::ACCEPT_BOTH;
use crate::session::store::{Found, Store};
use crate::session::{Live, reply};
use crate::verdict::{self, Verdict};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How one check ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, but a person should know.
    Note,
    /// Does not work.
    Bad,
}

/// One line of the report.
#[derive(Debug)]
pub struct Finding {
    /// How it ended.
    pub grade: Grade,
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Good => "ok  ",
            Grade::Note => "note",
            Grade::Bad => "FAIL",
        };
        write!(out, "{grade}  {:<13} {}", self.what, self.found)
    }
}

/// Examines an upstream; the first `Bad` finding ends it. `report` gets each finding as it is made.
pub async fn examine(
    config: Config,
    own_headers: OwnHeaders,
    back: Back,
    life: Life,
    mut report: impl FnMut(&Finding),
) -> bool {
    let engine = Engine::new(config, own_headers, back, Store::in_memory(), Found::default(), life);
    let mut tell = |grade, what, found: String| {
        report(&Finding { grade, what, found });
        grade != Grade::Bad
    };
    let stale = ask(&engine, PING, &[(mcp::SESSION_HEADER, "0000000000000000doctor0000000000")]).await;
    let answer = match stale {
        Ok(answer) => answer,
        Err(error) => {
            return tell(
                Grade::Bad,
                "reachability",
                format!("{error}; is the server up, and is this its address?"),
            );
        }
    };
    if answer.status == StatusCode::MISDIRECTED_REQUEST {
        let found = "421: the server does not know itself under this Host; use the address it was told, or --header \"Host: …\"";
        return tell(Grade::Bad, "Host", found.into());
    }
    tell(Grade::Good, "reachability", "the server answers".into());
    let flavour = match verdict::judge(answer.status, &answer.headers, &answer.body) {
        Verdict::Claimed(_) => (
            Grade::Good,
            "the server is asked before the session is healed, and only a call that does no harm is sent again",
        ),
        Verdict::Lost(_) => (Grade::Good, "this is healed at once"),
        Verdict::Doubtful(_) => {
            (Grade::Good, "does not name the session, so the server is asked before the session is healed")
        }
        Verdict::Answer if answer.status.is_success() => {
            (Grade::Good, "the server does not mind: it is stateless, nothing can get lost")
        }
        Verdict::Answer | Verdict::NotForwarded => {
            (Grade::Note, "sessiond takes this for an answer and passes it on")
        }
    };
    tell(flavour.0, "stale session", format!("{}; {}", answer.line(), flavour.1));
    if let Ok(answer) = ask(
        &engine,
        DISCOVER,
        &[(mcp::VERSION_HEADER, mcp::FIRST_MODERN_VERSION), ("mcp-method", "server/discover")],
    )
    .await
    {
        let modern = answer.status == StatusCode::OK && answer.text().contains("supportedVersions");
        let found = if modern {
            "also speaks the stateless era (2026-07-28)"
        } else {
            "sessions only (up to 2025-11-25)"
        };
        tell(Grade::Good, "eras", found.into());
    }
    heals(&engine, &mut tell).await
}

const PING: &str = r#"{"jsonrpc":"2.0","id":"doctor","method":"ping"}"#;
const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":"doctor","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"mcp-sessiond-doctor","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"mcp-sessiond-doctor","version":"1"}}}"#;

/// What a server lets in from strangers, and what it wants clients to say; asked on a living session, because servers look
/// at the session first.
async fn manners(
    engine: &Arc<Engine>,
    live: &Live,
    tell: &mut impl FnMut(Grade, &'static str, String) -> bool,
) {
    let on_session = |name: &'static str, value: &'static str| {
        let mut request = post(PING, None);
        live.mark(request.headers_mut());
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        send(engine, request)
    };
    let mut say = |what, lets_in: bool, good: &str, note: &str| {
        let (grade, found) = if lets_in { (Grade::Note, note) } else { (Grade::Good, good) };
        tell(grade, what, found.into());
    };
    if let Ok(answer) = on_session("origin", "http://evil.example").await {
        let good = "the server refuses a foreign Origin, and so does sessiond";
        let note = "the server lets a foreign Origin in (DNS rebinding); through sessiond it is refused";
        say("Origin", answer.status.is_success(), good, note);
    }
    if let Ok(answer) = on_session("host", "evil.example").await {
        let good = "the server refuses a foreign Host; sessiond sends the one of its address";
        let note = "the server lets a foreign Host in (DNS rebinding); through sessiond it is refused";
        say("Host", answer.status.is_success(), good, note);
    }
    if let Ok(answer) = on_session("accept", "application/json").await {
        let narrow = answer.status == StatusCode::NOT_ACCEPTABLE;
        let found = if narrow {
            "the server refuses a narrow Accept; sessiond widens it"
        } else {
            "a narrow Accept is taken"
        };
        tell(Grade::Good, "Accept", found.into());
    }
}

/// A session through sessiond, lost on purpose, used again.
async fn heals(engine: &Arc<Engine>, tell: &mut impl FnMut(Grade, &'static str, String) -> bool) -> bool {
    let opened = through(engine, INITIALIZE, None).await;
    let Some(id) = opened.headers.get(mcp::SESSION_HEADER).and_then(|id| id.to_str().ok()).map(str::to_owned)
    else {
        return tell(Grade::Bad, "initialize", format!("no session: {}", opened.line()));
    };
    through(engine, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Some(&id)).await;
    let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
    let before = through(engine, list, Some(&id)).await;
    let tools = before.text().matches("\"inputSchema\"").count();
    tell(Grade::Good, "session", format!("opened; tools/list: {} with {tools} tools", before.status));
    let Some(session) = engine.find("", &id) else {
        return tell(Grade::Bad, "session", "gone at once".into());
    };
    let lost = session.live();
    // A command has no `Host` and no `Origin`.
    if let Some(live) = lost.as_ref().filter(|_| !engine.back.is_private()) {
        manners(engine, live, tell).await;
    }
    session.play_stale();
    let began = tokio::time::Instant::now();
    let after = through(engine, list, Some(&id)).await;
    let whole = session.live().is_some()
        && after.status == StatusCode::OK
        && after.text().contains("\"result\"") == before.text().contains("\"result\"");
    let took = began.elapsed().as_millis();
    // Ours is the new one; only we know that the other is not lost.
    if let Some(lost) = lost.filter(|lost| session.live().is_none_or(|live| live.id != lost.id)) {
        engine.close_upstream(&session, &lost);
    }
    engine.end(&session, crate::session::state::Death::Deleted).wait().await;
    if whole {
        tell(Grade::Good, "healing", format!("a stale call was healed and answered in {took} ms"))
    } else {
        tell(Grade::Bad, "healing", format!("a stale call was not healed: {}", after.line()))
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn read(answer: Response<Body>) -> Self {
        let (head, body) = answer.into_parts();
        let body = collect(body, 16 << 20).await.ok().and_then(|body| body.joined()).unwrap_or_default();
        Self { status: head.status, headers: head.headers, body }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn line(&self) -> String {
        let text: String =
            self.text().chars().map(|char| if char.is_control() { ' ' } else { char }).take(160).collect();
        format!("{} {}", self.status, text.trim())
    }
}

/// Asks the server itself.
async fn ask(
    engine: &Arc<Engine>,
    body: &'static str,
    headers: &[(&'static str, &'static str)],
) -> Result<Answer, SendError> {
    let mut request = post(body, None);
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    send(engine, request).await
}

async fn send(engine: &Arc<Engine>, mut request: Request<Bytes>) -> Result<Answer, SendError> {
    engine.add_own_headers(request.headers_mut());
    let sent = engine.back.send_on_new_connection(None, request);
    match tokio::time::timeout(PATIENCE, sent).await {
        Ok(answer) => Ok(Answer::read(answer?).await),
        Err(_elapsed) => Err(SendError::Broken(format!("no answer within {} s", PATIENCE.as_secs()).into())),
    }
}

/// Asks through sessiond.
async fn through(engine: &Arc<Engine>, body: &'static str, session: Option<&str>) -> Answer {
    let caller = Caller { subject: Arc::default(), route: None };
    let (head, body) = post(body, session).into_parts();
    let asked = engine.handle(caller, head.method, head.headers, body);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => Answer::read(answer).await,
        Err(_elapsed) => Answer::read(reply::failed("null", "no answer in time")).await,
    }
}

fn post(body: &'static str, session: Option<&str>) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from_static(body.as_bytes()));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, ACCEPT_BOTH);
    if let Some(session) = session.and_then(|session| HeaderValue::from_str(session).ok()) {
        headers.insert(mcp::SESSION_HEADER, session);
    }
    request
}
