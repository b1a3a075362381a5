mod ends;
mod modern;

use http_body_util::BodyExt;

use super::*;
use crate::sse::{self, Splitter};

/// A server on stdio in plain `sh`: answers by the words in a line.
const SERVER: &str = r#"
answer() { echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$1}"; }
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%[,\}]*}
  case "$line" in
    *'"initialize"'*) answer "{\"argument\":\"$1\",\"pid\":$$}";;
    *'"server/discover"'*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"no\"}}";;
    *'"crash"'*) exit 7;;
    *'"hang"'*) ;;
    *'"noise"'*) echo 'this is no JSON'; echo 'on stderr' >&2; answer 1;;
    *'"progress"'*) echo '{"method":"notifications/progress","params":{"progressToken":"p"}}'; answer '"done"';;
    *'"events"'*) echo '{"method":"notifications/message","params":{}}'; answer 1;;
    *'"ask"'*) asked=$id; echo '{"jsonrpc":"2.0","id":"q","method":"roots/list"}';;
    *'"id":"q"'*) id=$asked; answer '"thanks"';;
    *'"method"'*'"id"'* | *'"id"'*'"method"'*) answer "$$";;
  esac
done
"#;

fn options(script: &str) -> ExecOptions {
    let argv = ["sh", "-c", script, "server", "for-{route}"];
    let route_less = argv[..if script.contains("$1") { 5 } else { 4 }].iter().map(OsString::from);
    ExecOptions { stop_grace: Duration::from_millis(500), ..ExecOptions::new(route_less.collect()) }
}

struct World {
    back: ExecBack,
    life: Life,
    route: Route,
}

impl World {
    fn new(options: ExecOptions) -> Self {
        let life = Life::new(Duration::from_secs(5));
        World { back: ExecBack::new(options, life.clone()), life, route: "r1".parse().unwrap() }
    }

    async fn send(
        &self,
        method: &str,
        session: Option<&str>,
        body: &str,
    ) -> Result<Response<Body>, SendError> {
        let mut request = Request::builder().method(method);
        if let Some(session) = session {
            request = request.header(SESSION_HEADER, session);
        }
        let request = request.body(Bytes::from(body.to_owned())).unwrap();
        self.back.send(Some(&self.route), request).await
    }

    async fn post(&self, session: &str, body: &str) -> (StatusCode, String) {
        read(self.send("POST", Some(session), body).await.unwrap()).await
    }

    async fn initialize(&self) -> String {
        let response = self.send("POST", None, INITIALIZE).await.unwrap();
        assert_eq!(response.status(), 200);
        response.headers()[SESSION_HEADER].to_str().unwrap().to_owned()
    }

    fn processes(&self) -> Vec<i32> {
        let status = self.back.status();
        let processes = status["processes"].as_array().unwrap().clone();
        processes.iter().map(|process| process["pid"].as_i64().unwrap() as i32).collect()
    }
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;

fn request(id: u32, word: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{word}"}}"#)
}

async fn read(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The data of the next event; `None` at a clean end.
async fn event(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.unwrap().into_data().unwrap();
    let mut splitter = Splitter::default();
    splitter.push(frame).unwrap();
    let data = sse::data(&splitter.next_block().unwrap()).unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

#[tokio::test]
async fn a_session_has_a_process_and_an_id_of_its_own() {
    let world = World::new(options(SERVER));
    let first = world.send("POST", None, INITIALIZE).await.unwrap();
    let one = first.headers()[SESSION_HEADER].to_str().unwrap().to_owned();
    let (_, text) = read(first).await;
    assert!(text.contains(r#""argument":"for-r1""#), "{text}");
    let two = world.initialize().await;
    let (status, answer) = world.post(&one, "{\n \"id\":\"x\",\r\n \"method\":\"pid\"}").await;
    assert_eq!((status.as_u16(), answer.contains(r#""id":"x""#)), (200, true));
    let (_, other) = world.post(&two, &request(1, "pid")).await;
    assert_eq!(world.processes().len(), 2);
    assert_ne!(answer.split("result").last(), other.split("result").last());
    let (status, _) = world.post(&one, r#"{"method":"notifications/initialized"}"#).await;
    assert_eq!(status, 202);
    world.back.shut_down().await;
    assert!(world.processes().is_empty());
}

#[tokio::test]
async fn who_has_no_session_is_told_as_a_server_would() {
    let world = World::new(options(SERVER));
    let (status, text) = world.post("unknown", &request(1, "pid")).await;
    assert_eq!(status, 404);
    assert_eq!(text, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#);
    for (method, session, body, expected) in [
        ("POST", None, request(1, "pid"), 400),
        ("POST", None, "nonsense".into(), 400),
        ("GET", None, String::new(), 405),
        ("GET", Some("unknown"), String::new(), 404),
        ("DELETE", Some("unknown"), String::new(), 404),
        ("DELETE", None, String::new(), 400),
    ] {
        assert_eq!(
            world.send(method, session, &body).await.unwrap().status(),
            expected,
            "{method} {session:?}"
        );
    }
    let session = world.initialize().await;
    let request = Request::get("/").header(SESSION_HEADER, &session).body(Bytes::new()).unwrap();
    let other: Route = "r2".parse().unwrap();
    assert_eq!(
        world.back.send(Some(&other), request).await.unwrap().status(),
        404,
        "another route's session"
    );
    assert_eq!(world.processes().len(), 1);
}

#[tokio::test]
async fn what_the_server_says_first_comes_as_events_before_the_answer() {
    let world = World::new(options(SERVER));
    let session = world.initialize().await;
    let call = r#"{"id":1,"method":"progress","params":{"_meta":{"progressToken":"p"}}}"#;
    let response = world.send("POST", Some(&session), call).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    assert!(event(&mut body).await.unwrap().contains("notifications/progress"));
    assert!(event(&mut body).await.unwrap().contains(r#""result":"done""#));
    assert_eq!(event(&mut body).await, None);
}

#[tokio::test]
async fn the_get_stream_carries_what_belongs_to_no_request_and_the_server_gets_its_answers() {
    let world = World::new(options(SERVER));
    let session = world.initialize().await;
    let mut stream = world.send("GET", Some(&session), "").await.unwrap().into_body();
    let (_, text) = world.post(&session, &request(1, "events")).await;
    assert!(text.starts_with("{"), "the answer is JSON, the message went to the stream: {text}");
    assert!(event(&mut stream).await.unwrap().contains("notifications/message"));

    let asking = request(2, "ask");
    let asked = async {
        assert!(event(&mut stream).await.unwrap().contains("roots/list"));
        world.post(&session, r#"{"jsonrpc":"2.0","id":"q","result":{}}"#).await
    };
    let ((_, thanks), (status, _)) = tokio::join!(world.post(&session, &asking), asked);
    assert!(thanks.contains(r#""id":2"#) && thanks.contains("thanks"), "{thanks}");
    assert_eq!(status, 202);

    let mut second = world.send("GET", Some(&session), "").await.unwrap().into_body();
    assert_eq!(event(&mut stream).await, None, "a new stream ends the old one");
    world.life.drain();
    assert_eq!(event(&mut second).await, None, "streams end at drain");
}

#[tokio::test]
async fn noise_on_stdout_is_skipped() {
    let world = World::new(options(SERVER));
    let session = world.initialize().await;
    assert!(world.post(&session, &request(1, "noise")).await.1.contains(r#""result":1"#));
}

#[tokio::test]
async fn a_missing_command_was_not_sent_and_is_named() {
    let world = World::new(ExecOptions::new(vec!["/nonexistent/mcp-server".into()]));
    match world.send("POST", None, INITIALIZE).await {
        Err(SendError::NotSent(why)) => assert!(why.to_string().contains("/nonexistent/mcp-server"), "{why}"),
        _ => panic!("expected NotSent"),
    }
}

#[tokio::test]
async fn failures_in_a_row_pause_the_start_and_a_success_resets_them() {
    let directory = tempfile::tempdir().unwrap();
    let works = directory.path().join("works");
    let script = format!("test -e '{}' || exit 1; {SERVER}", works.display());
    let world = World::new(ExecOptions { failure_threshold: 3, ..options(&script) });
    for round in 0..2 {
        for _ in 0..2 {
            // Broken or NotSent: it may die before or after the message is in its pipe.
            assert!(world.send("POST", None, INITIALIZE).await.is_err(), "{round}");
        }
        std::fs::write(&works, "").unwrap();
        world.initialize().await;
        std::fs::remove_file(&works).unwrap();
    }
    for _ in 0..3 {
        assert!(world.send("POST", None, INITIALIZE).await.is_err());
    }
    let paused = world.send("POST", None, INITIALIZE).await.unwrap();
    assert_eq!(
        (paused.status().as_u16(), &paused.headers()["mcp-not-forwarded"]),
        (503, &"1".parse().unwrap())
    );
    assert_eq!(paused.headers()[header::RETRY_AFTER], "1");
    assert!(read(paused).await.1.contains(r#""id":0,"error""#));
}

#[tokio::test]
async fn a_full_house_ends_the_longest_idle_and_never_a_busy_one() {
    let world = World::new(ExecOptions { max_processes: 2, ..options(SERVER) });
    let (one, two) = (world.initialize().await, world.initialize().await);
    assert_eq!(world.post(&one, &request(1, "pid")).await.0, 200);
    let three = world.initialize().await;
    assert_eq!(world.post(&two, &request(1, "pid")).await.0, 404, "idle for longest");
    assert_eq!(world.post(&one, &request(2, "pid")).await.0, 200);

    let (hang_one, hang_three) = (request(3, "hang"), request(4, "hang"));
    let busy = async {
        tokio::join!(world.send("POST", Some(&one), &hang_one), world.send("POST", Some(&three), &hang_three))
    };
    tokio::select! {
        biased;
        _ = busy => panic!("nobody answers these"),
        full = world.send("POST", None, INITIALIZE) => {
            let full = full.unwrap();
            assert_eq!(full.status(), 503);
            assert!(full.headers().contains_key("mcp-not-forwarded") && full.headers().contains_key("retry-after"));
        }
    }
    assert_eq!(world.processes().len(), 2);
    world.back.shut_down().await;
}

#[tokio::test]
async fn a_cancelled_request_ends_though_the_server_says_nothing() {
    let world = World::new(options(SERVER));
    let session = world.initialize().await;
    let hang = request(1, "hang");
    let cancel = async {
        let body = r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#;
        assert_eq!(world.post(&session, body).await.0, 202);
        // Drain cuts the grace of the cancelled call short.
        world.life.drain();
    };
    let ((status, text), ()) = tokio::join!(world.post(&session, &hang), cancel);
    assert_eq!(status, 200);
    assert!(text.contains("Request cancelled") && text.contains(r#""id":1"#), "{text}");
}
