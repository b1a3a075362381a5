use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::ports::free_port;

const LIMIT: Duration = Duration::from_secs(20);
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 54\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600}}    ";

/// A server that answers the n-th connection with the n-th text, the last one again and again, and keeps what it read.
struct Server {
    target: SocketAddr,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(answers: &'static [&'static str]) -> Self {
        Server::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answers)
    }

    #[allow(clippy::disallowed_methods, reason = "a test has no life; the task ends with its server")]
    fn on(listener: TcpListener, answers: &'static [&'static str]) -> Self {
        let target = listener.local_addr().unwrap();
        let requests = Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let mut bytes = [0; 1024];
                while !complete(&request) {
                    let length = stream.read(&mut bytes).await.unwrap();
                    assert!(length > 0, "half a request: {}", String::from_utf8_lossy(&request));
                    request.extend_from_slice(&bytes[..length]);
                }
                kept.lock().unwrap().push(String::from_utf8(request).unwrap());
                let answer = answers[number.min(answers.len() - 1)];
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Server { target, requests, task }
    }

    fn prober(&self, probe: &str) -> Prober {
        Prober::new(&probe.parse().unwrap(), self.target, Surroundings::default()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    text.split_once("\r\n\r\n")
        .is_some_and(|(head, body)| head.starts_with("GET") || body.len() >= PING.len())
}

#[tokio::test]
async fn an_mcp_probe_asks_in_a_session_that_no_server_gave() {
    let server = Server::start(&[NOT_FOUND]).await;
    assert_eq!(server.prober("mcp").ask(LIMIT).await, Ok(()));
    let request = server.requests.lock().unwrap().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    for line in [
        "POST /mcp HTTP/1.1",
        "accept: application/json, text/event-stream",
        "content-type: application/json",
        "mcp-session-id: serena-supervise-probe-0-session",
        &format!("host: {}", server.target),
    ] {
        assert!(head.lines().any(|one| one.eq_ignore_ascii_case(line)), "no {line} in\n{head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }));
    assert!(SESSION.len() == 32 && SESSION.bytes().all(|byte| byte.is_ascii_graphic()));
}

#[tokio::test]
async fn a_good_answer_without_an_end_is_not_waited_for() {
    let server = Server::start(&["HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: still"]).await;
    assert_eq!(server.prober("mcp").ask(LIMIT).await, Ok(()));
}

#[tokio::test]
async fn a_foreign_server_is_not_taken_for_mcp_however_much_it_says() {
    let server = Server::start(&["HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\n\r\n<html>"]).await;
    let error = server.prober("mcp").ask(LIMIT).await.unwrap_err().to_string();
    assert_eq!(error, "wrong answer: 404 Not Found with text/html; MCP is not at this path");
}

#[tokio::test]
async fn an_http_probe_wants_2xx_at_its_path() {
    let server =
        Server::start(&["HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"]).await;
    let prober = server.prober("http:/ready?deep=1");
    let error = prober.ask(LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "wrong answer: 503 Service Unavailable");
    assert_eq!(prober.ask(LIMIT).await, Ok(()));
    assert!(server.requests.lock().unwrap()[1].starts_with("GET /ready?deep=1 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn nobody_there_and_nothing_said_are_told_apart() {
    let target = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    for probe in ["tcp", "mcp"] {
        let prober = Prober::new(&probe.parse().unwrap(), target, Surroundings::default()).unwrap();
        assert!(matches!(prober.ask(LIMIT).await, Err(ProbeError::Gone(_))));
    }
    // The kernel takes the connection, nobody ever accepts it: as with a server that is stopped.
    let listener = std::net::TcpListener::bind(target).unwrap();
    let ask = |probe: &str| {
        let prober = Prober::new(&probe.parse().unwrap(), target, Surroundings::default()).unwrap();
        async move { prober.ask(Duration::from_millis(50)).await }
    };
    assert_eq!(ask("tcp").await, Ok(()));
    let error = ask("mcp").await.unwrap_err();
    assert_eq!(error.to_string(), "no answer within 50ms");
    drop(listener);
}

#[tokio::test]
async fn the_first_question_after_it_is_ready_is_answered_with_yes_and_comes_within_25_ms() {
    let port = free_port().unwrap();
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let prober = Prober::new(&Probe::Mcp("/mcp".into()), target, Surroundings::default()).unwrap();
    let heard = AtomicUsize::new(0);
    let mut waiting = std::pin::pin!(prober.until_ready(LIMIT, |error| {
        assert!(matches!(error, ProbeError::Gone(_)), "{error}");
        heard.fetch_add(1, Ordering::Relaxed);
    }));
    // So often that the pauses are as long as they get.
    let asked_often = async {
        while heard.load(Ordering::Relaxed) < 12 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = &mut waiting => panic!("ready without a server"),
        () = asked_often => {}
    }
    let server = Server::on(TcpListener::bind(target).await.unwrap(), &[NOT_FOUND]);
    let before = heard.load(Ordering::Relaxed);
    waiting.await;
    // So what passed is one pause and one question.
    assert_eq!(heard.load(Ordering::Relaxed), before);
    assert!(pauses(LAST_PAUSE).take(1000).all(|pause| pause <= Duration::from_millis(25)));
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[test]
fn a_command_is_run_less_often_than_a_port_is_asked() {
    let in_a_minute = |longest| {
        let mut passed = Duration::ZERO;
        pauses(longest)
            .take_while(|pause| {
                passed += *pause;
                passed <= Duration::from_secs(60)
            })
            .count()
    };
    assert!((2300..2410).contains(&in_a_minute(LAST_PAUSE)), "{}", in_a_minute(LAST_PAUSE));
    assert!((140..170).contains(&in_a_minute(LAST_EXEC_PAUSE)), "{}", in_a_minute(LAST_EXEC_PAUSE));
}

#[tokio::test]
async fn servers_that_tell_by_themselves_are_alive_while_their_port_is() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    for probe in ["fd", "notify", "none"] {
        let probe = probe.parse().unwrap();
        let prober = Prober::new(&probe, target, Surroundings::default()).unwrap();
        assert_eq!(prober.ask(LIMIT).await, Ok(()));
        assert!(Prober::for_liveness(&probe, None).unwrap().is_none());
        let prober = Prober::for_liveness(&probe, Some(target)).unwrap().unwrap();
        assert_eq!(prober.ask(LIMIT).await, Ok(()));
        assert!(prober.echo().is_none());
    }
    drop(listener);
    let prober = Prober::for_liveness(&Probe::Notify, Some(target)).unwrap().unwrap();
    assert!(prober.ask(LIMIT).await.is_err());
}

proptest! {
    #[test]
    fn every_path_of_the_configuration_can_be_asked_or_is_refused(path in "/[ -~]{0,30}") {
        let target = SocketAddr::from(([127, 0, 0, 1], 1));
        let made = Prober::new(&Probe::Http(path.clone()), target, Surroundings::default());
        if path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._?=&".contains(&byte)) {
            prop_assert!(made.is_ok());
        }
        if let Err(error) = made {
            prop_assert!(error.to_string().contains("nothing can be asked at"), "{error}");
        }
    }
}
