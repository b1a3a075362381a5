use std::pin::Pin;

use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, Lines as TestLines, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;

use super::*;

/// For requests under way when the client closes its end.
const GRACE: Duration = Duration::from_secs(7);

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// An engine that remembers what it was asked and answers by the words in a body.
#[derive(Clone, Default)]
struct Engine {
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
    go: Arc<Notify>,
    asked: Arc<Notify>,
}

impl Engine {
    fn call(&self, request: Request<Bytes>) -> Answering {
        let head = (request.method().clone(), String::from_utf8(request.body().to_vec()).unwrap());
        self.seen.lock().unwrap().push(request);
        self.asked.notify_one();
        let go = Arc::clone(&self.go);
        Box::pin(async move {
            let (method, body) = head;
            let id = Envelope::parse(body.as_bytes())
                .ok()
                .and_then(|envelope| Some(envelope.id?.get().to_owned()));
            let result = |result: &str| {
                format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.unwrap_or_default())
            };
            match method {
                Method::GET => {
                    return events(
                        "id: 7\ndata: {\"method\":\n\ndata: \n\nid: e1\ndata: {\"method\":\"n/get\"}\n\n",
                    );
                }
                Method::DELETE => return Response::new(Body::empty()),
                _ => {}
            }
            if body.contains("\"slow\"") {
                go.notified().await;
            }
            if body.contains("\"initialize\"") {
                let mut response = Response::new(Body::from(result(r#"{"protocolVersion":"2025-06-18"}"#)));
                response.headers_mut().insert(SESSION_HEADER, "the-session".parse().unwrap());
                response
            } else if body.contains("\"events\"") {
                let text = format!("data: {{\"method\":\"n/one\"}}\r\n\r\ndata: {}\n\n", result("2"));
                events(&text)
            } else if body.contains("\"cut\"") {
                events("data: {\"method\":\"n/one\"}\n\ndata: {\"id\":1,")
            } else if body.contains("\"refused\"") {
                let mut response =
                    Response::new(Body::from(mcp::error_body("null", -32001, "Session not found")));
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            } else if body.contains("\"gateway\"") {
                let mut response = Response::new(Body::from("<html>"));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            } else if body.contains("\"id\"") && body.contains("\"method\"") {
                Response::new(Body::from(format!("{{\n{}\n", &result("1")[1..])))
            } else {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::ACCEPTED;
                response
            }
        })
    }

    /// Method, session and body of everything asked so far.
    fn log(&self) -> Vec<(String, Option<String>, String)> {
        let seen = self.seen.lock().unwrap();
        let text = |request: &Request<Bytes>| String::from_utf8(request.body().to_vec()).unwrap();
        seen.iter().map(|one| (one.method().to_string(), header(one, SESSION_HEADER), text(one))).collect()
    }

    async fn wait_for(&self, what: impl Fn(&[Request<Bytes>]) -> bool) {
        while !what(&self.seen.lock().unwrap()) {
            self.asked.notified().await;
        }
    }
}

fn header(request: &Request<Bytes>, name: &str) -> Option<String> {
    request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

fn events(text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    response.headers_mut().insert(header::CONTENT_TYPE, "text/event-stream".parse().unwrap());
    response
}

struct Client {
    engine: Engine,
    life: Life,
    input: WriteHalf<DuplexStream>,
    output: TestLines<BufReader<ReadHalf<DuplexStream>>>,
    running: tokio::task::JoinHandle<()>,
}

impl Client {
    fn new() -> Self {
        let (engine, life) = (Engine::default(), Life::new(Duration::from_secs(1)));
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (reader, writer) = split(theirs);
        let called = engine.clone();
        let front = run(reader, writer, life.clone(), GRACE, move |request| called.call(request));
        let running = life.spawn(front);
        let (output, input) = split(ours);
        Client { engine, life, input, output: BufReader::new(output).lines(), running }
    }

    async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        self.output.next_line().await.unwrap().expect("a line")
    }

    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await
    }

    async fn end(mut self) -> Vec<String> {
        self.input.shutdown().await.unwrap();
        let mut rest = Vec::new();
        while let Some(line) = self.output.next_line().await.unwrap() {
            rest.push(line);
        }
        self.running.await.unwrap();
        rest
    }
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

#[tokio::test]
async fn the_session_of_initialize_is_used_and_ended() {
    let mut client = Client::new();
    assert!(client.ask(INITIALIZE).await.contains("2025-06-18"));
    assert_eq!(
        client.ask(r#"{"id":"a","method":"ping"}"#).await,
        r#"{ "jsonrpc":"2.0","id":"a","result":1}"#
    );
    let engine = client.engine.clone();
    assert_eq!(client.end().await, [""; 0]);
    let session = Some("the-session".to_owned());
    let log = engine.log();
    assert_eq!(log[0], ("POST".into(), None, INITIALIZE.into()));
    assert_eq!((&log[1].1, &log[2].0, &log[2].1), (&session, &"DELETE".into(), &session));
    let seen = engine.seen.lock().unwrap();
    assert_eq!(header(&seen[0], VERSION_HEADER), None);
    assert_eq!(header(&seen[1], VERSION_HEADER).unwrap(), "2025-06-18");
    assert_eq!(header(&seen[1], "accept").unwrap(), "application/json, text/event-stream");
}

#[tokio::test]
async fn initialize_comes_before_everything_and_requests_do_not_wait_for_each_other() {
    let mut client = Client::new();
    client.say(&INITIALIZE.replace("}", r#","params":"slow"}"#)).await;
    client.say(r#"{"id":1,"method":"slow"}"#).await;
    client.say(r#"{"id":2,"method":"fast"}"#).await;
    client.engine.wait_for(|seen| seen.len() == 1).await;
    client.engine.go.notify_one();
    assert!(client.hear().await.contains(r#""id":0"#));
    assert!(client.hear().await.contains(r#""id":2"#));
    assert!(client.engine.log()[1..].iter().all(|(_, session, _)| session.is_some()));
    client.engine.go.notify_one();
    assert!(client.hear().await.contains(r#""id":1"#));
}

#[tokio::test]
async fn events_become_lines_and_answers_to_the_server_are_posted() {
    let mut client = Client::new();
    assert_eq!(client.ask(r#"{"id":1,"method":"events"}"#).await, r#"{"method":"n/one"}"#);
    assert!(client.hear().await.contains(r#""result":2"#));
    client.say(r#"{"id":"q","result":{}}"#).await;
    client.engine.wait_for(|seen| seen.len() == 2).await;
    assert!(client.engine.log()[1].2.contains(r#""id":"q""#));
    assert_eq!(client.end().await, [""; 0], "202 is not a line, and there is no session to end");
}

#[tokio::test]
async fn failures_become_errors_with_the_id_of_their_request() {
    let mut client = Client::new();
    let refused = client.ask(r#"{"id":"x","method":"refused"}"#).await;
    assert_eq!(
        refused,
        r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32001,"message":"Session not found"}}"#
    );
    assert!(client.ask(r#"{"id":2,"method":"gateway"}"#).await.contains("HTTP 502"));
    assert_eq!(client.ask(r#"{"id":1,"method":"cut"}"#).await, r#"{"method":"n/one"}"#);
    let cut = client.hear().await;
    assert!(cut.contains(r#""id":1,"error""#) && cut.contains("unknown"), "{cut}");
}

#[tokio::test]
async fn a_malformed_line_is_answered_and_the_next_one_works() {
    let mut client = Client::new();
    assert!(client.ask("nonsense").await.contains(r#""id":null,"error":{"code":-32700"#));
    assert!(client.ask("[1]").await.contains("batch"));
    assert!(client.ask(r#"{"id":1,"method":"ping"}"#).await.contains(r#""id":1"#));
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_the_server_is_opened_after_initialized_and_again_with_its_last_event() {
    let mut client = Client::new();
    client.ask(INITIALIZE).await;
    client.say(INITIALIZED).await;
    assert_eq!(client.hear().await, r#"{"method":"n/get"}"#);
    client.engine.wait_for(|seen| seen.iter().filter(|one| one.method() == Method::GET).count() == 2).await;
    let seen = std::mem::take(&mut *client.engine.seen.lock().unwrap());
    assert_eq!(seen[1].method(), Method::POST);
    assert_eq!((seen[2].method(), header(&seen[2], "last-event-id")), (&Method::GET, None));
    assert_eq!(header(&seen[2], SESSION_HEADER).unwrap(), "the-session");
    assert_eq!(header(&seen[3], "last-event-id").unwrap(), "e1");
}

#[tokio::test]
async fn answers_that_come_after_the_end_of_input_are_still_written() {
    let mut client = Client::new();
    client.say(r#"{"id":1,"method":"slow"}"#).await;
    client.engine.wait_for(|seen| seen.len() == 1).await;
    let go = Arc::clone(&client.engine.go);
    let ((), rest) = tokio::join!(async move { go.notify_one() }, client.end());
    assert_eq!(rest.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_ever_at_the_end() {
    let mut client = Client::new();
    client.ask(INITIALIZE).await;
    client.say(r#"{"id":1,"method":"slow"}"#).await;
    let engine = client.engine.clone();
    let began = Instant::now();
    assert_eq!(client.end().await, [""; 0]);
    assert_eq!(began.elapsed().as_secs(), GRACE.as_secs());
    assert_eq!(engine.log().last().unwrap().0, "DELETE");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_input_is_seen_while_initialize_and_what_follows_it_wait() {
    let mut client = Client::new();
    client.say(&INITIALIZE.replace("}", r#","params":"slow"}"#)).await;
    client.say(INITIALIZED).await;
    client.say(r#"{"id":1,"method":"ping"}"#).await;
    client.engine.wait_for(|seen| seen.len() == 1).await;
    let (engine, began) = (client.engine.clone(), Instant::now());
    assert_eq!(client.end().await, [""; 0]);
    assert_eq!(began.elapsed().as_secs(), GRACE.as_secs());
    assert_eq!(engine.log().len(), 1, "nothing goes before the session it belongs to");
}

#[tokio::test(start_paused = true)]
async fn what_was_said_behind_initialize_is_still_done_after_the_end_of_the_input() {
    let mut client = Client::new();
    client.say(&INITIALIZE.replace("}", r#","params":"slow"}"#)).await;
    client.say(INITIALIZED).await;
    client.say(r#"{"id":1,"method":"ping"}"#).await;
    client.engine.wait_for(|seen| seen.len() == 1).await;
    let engine = client.engine.clone();
    let late = async {
        sleep(GRACE - Duration::from_secs(1)).await;
        engine.go.notify_one();
    };
    let ((), rest) = tokio::join!(late, client.end());
    assert!(rest[0].contains(r#""id":0"#) && rest.iter().any(|line| line.contains(r#""id":1"#)), "{rest:?}");
    let log = engine.log();
    assert_eq!((log[1].2.as_str(), &log[1].1), (INITIALIZED, &Some("the-session".to_owned())));
}

#[tokio::test]
async fn a_client_that_does_not_read_any_more_ends_it() {
    let mut client = Client::new();
    client.ask(INITIALIZE).await;
    client.say(r#"{"id":1,"method":"ping"}"#).await;
    let Client { engine, input, output, running, .. } = client;
    drop((input, output));
    running.await.unwrap();
    assert_eq!(engine.log().last().unwrap().0, "DELETE");
}

#[tokio::test]
async fn drain_ends_it() {
    let mut client = Client::new();
    client.ask(INITIALIZE).await;
    client.life.drain();
    assert_eq!(client.output.next_line().await.unwrap(), None);
    assert_eq!(client.life.finish().await, 0);
    assert_eq!(client.engine.log().last().unwrap().0, "DELETE");
}

#[tokio::test]
async fn the_stateless_era_has_headers_instead_of_a_session_and_is_cancelled_by_ending_it() {
    let mut client = Client::new();
    client.ask(INITIALIZE).await;
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    client.say(&format!(r#"{{"id":1,"method":"tools/call","params":{{"name":"slow",{meta}}}}}"#)).await;
    client.engine.wait_for(|seen| seen.len() == 2).await;
    client.say(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    assert!(client.ask(r#"{"id":2,"method":"ping"}"#).await.contains(r#""id":2"#));
    let seen = std::mem::take(&mut *client.engine.seen.lock().unwrap());
    assert_eq!(seen.len(), 3, "the cancellation was not posted");
    let headers: Vec<_> =
        [VERSION_HEADER, "mcp-method", "mcp-name"].map(|name| header(&seen[1], name)).into();
    assert_eq!(headers, [Some("2026-07-28".into()), Some("tools/call".into()), Some("slow".into())]);
    assert_eq!(header(&seen[1], SESSION_HEADER), None);
    assert_eq!(client.end().await, [""; 0], "a cancelled request is not answered");
}

#[tokio::test]
async fn a_legacy_cancellation_is_passed_on_after_what_it_cancels() {
    let mut client = Client::new();
    client.ask(INITIALIZE).await;
    client.say(r#"{"id":1,"method":"slow"}"#).await;
    client.say(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    client.engine.wait_for(|seen| seen.len() == 3).await;
    assert!(client.engine.log()[1].2.contains("slow") && client.engine.log()[2].2.contains("cancelled"));
    client.engine.go.notify_one();
    assert!(client.hear().await.contains(r#""id":1"#));
}
