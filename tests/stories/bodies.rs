//! What a server answers reaches the client byte for byte, but for the `id:` and `retry:` lines of event streams.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its tasks end with its runtime"
)]

use bytes::Bytes;
use http::{Method, Response, header};
use serde_json::{Value, json};
use support::{Answers, Client, Flavour, Server, Sessiond};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");

async fn in_front_of(server: &Server) -> Sessiond {
    Sessiond::start(BINARY, &["--upstream", &server.url()]).await
}

#[tokio::test]
async fn event_streams_are_byte_identical_but_for_id_and_retry() {
    for flavour in [Flavour::Python1_12, Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp, Flavour::Go1_4]
    {
        let server = Server::start(flavour).await;
        let sessiond = in_front_of(&server).await;
        compare(&server, &sessiond.url(), flavour).await;
    }
}

#[tokio::test]
async fn where_the_chunks_of_an_event_stream_are_cut_makes_no_difference() {
    for flavour in [Flavour::Python2, Flavour::TypeScript, Flavour::Rmcp] {
        // `Host` carries the port of the relay in between.
        let server =
            Server::builder(flavour).set(|switches| switches.strict_host = false).start().await.unwrap();
        let relay = chopping::relay(server.port()).await;
        let sessiond =
            Sessiond::start(BINARY, &["--upstream", &format!("http://127.0.0.1:{relay}/mcp")]).await;
        compare(&server, &sessiond.url(), flavour).await;
    }
}

#[tokio::test]
async fn json_answers_are_byte_identical() {
    for flavour in [Flavour::Python2, Flavour::TypeScript] {
        let server =
            Server::builder(flavour).set(|switches| switches.answers = Answers::Json).start().await.unwrap();
        let sessiond = in_front_of(&server).await;
        compare(&server, &sessiond.url(), flavour).await;
    }
}

/// Sends the same messages directly and through, and compares the answers.
async fn compare(server: &Server, through: &str, flavour: Flavour) {
    let direct = Client::builder(&server.url()).lenient().connect().await.unwrap();
    let through = Client::connect(through).await.unwrap();
    let awkward = "id: 1\nretry: 5\r\n\r\ndata: \u{2028}\u{1f980}\\\"\u{0}";
    let mut messages = vec![
        json!({"jsonrpc": "2.0", "id": "\u{e9}", "method": "tools/list"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "no/such"}),
        json!({"jsonrpc": "2.0", "id": 3, "method": "resources/list"}),
        call(4, "echo", &json!({"text": awkward})),
        call(5, "no such tool", &json!({})),
        call(6, "progress", &json!({"n": 7})),
    ];
    messages.extend(
        [0, 1, 4_095, 4_096, 16_384, 65_536, 300_000]
            .map(|bytes| call(bytes, "big", &json!({"bytes": bytes}))),
    );
    for message in messages {
        let (plain, healed) = (answer(&direct, &message).await, answer(&through, &message).await);
        assert_eq!(plain.status(), healed.status(), "{flavour}: {message}");
        assert_eq!(
            plain.headers()[header::CONTENT_TYPE],
            healed.headers()[header::CONTENT_TYPE],
            "{flavour}: {message}"
        );
        let stream = plain.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/event-stream");
        let (plain, healed) = (plain.into_body(), healed.into_body());
        let same = if stream { without_ids(&plain) == without_ids(&healed) } else { plain == healed };
        assert!(same, "{flavour}: {message}\n{}\n{}", plain.escape_ascii(), healed.escape_ascii());
    }
}

fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

async fn answer(client: &Client, message: &Value) -> Response<Bytes> {
    client.raw(client.prepared(Method::POST, message.to_string().into())).await.unwrap()
}

/// An event stream without its `id:` and `retry:` lines; every other byte as it is.
fn without_ids(stream: &[u8]) -> Vec<u8> {
    let lines = stream.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.starts_with(b"id:") && !line.starts_with(b"retry:"))
        .flatten()
        .copied()
        .collect()
}

mod chopping {
    //! A relay that passes what the server says in small pieces.

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Listens on an ephemeral port in front of `port` and returns it.
    pub(super) async fn relay(port: u16) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(chop(client, port));
            }
        });
        own
    }

    async fn chop(client: TcpStream, port: u16) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let server = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut buffer = vec![0; 16_384];
        // Bytes one by one where events begin and end, larger pieces once a body proves long.
        let mut passed = 0_usize;
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            for piece in buffer[..read].chunks(if read < 4_096 { 1 } else { 1 + passed % 1_009 }) {
                to_client.write_all(piece).await?;
                tokio::task::yield_now().await;
            }
            passed += read;
        }
    }
}
