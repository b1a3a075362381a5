//! A server, mcp-authd in front of it, and who may use it.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::Value;
use support::{Authd, Client, Flavour, RpcFailure, Server};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-authd");
pub const ALICE: &str = "alice-has-a-long-token";
pub const BOB: &str = "bob-has-another-long-token";
pub const ECHO: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#;

pub struct Place {
    pub server: Server,
    pub authd: Authd,
    _sockets: tempfile::TempDir,
}

impl Place {
    /// `settings` come before any table, `tables` after.
    pub async fn new(settings: &str, tables: &str) -> Place {
        Place::with(|_| (settings.to_owned(), tables.to_owned())).await
    }

    /// The same, with the log that operators have: a line for each request of thousands costs more than the request.
    pub async fn busy(tables: &str) -> Place {
        Place::start(|_| (String::new(), tables.to_owned()), "info").await
    }

    /// The same as [`Place::new`], written with mcp-authd's directory known.
    pub async fn with(write: impl FnOnce(&Path) -> (String, String)) -> Place {
        Place::start(write, "debug").await
    }

    async fn start(write: impl FnOnce(&Path) -> (String, String), log: &str) -> Place {
        // On a Unix socket, where the server is told who calls.
        let sockets = tempfile::tempdir().unwrap();
        let server = Server::builder(Flavour::Python2).set(|switches| switches.strict_host = false);
        let server = server.unix(sockets.path().join("server.sock")).start().await.unwrap();
        let settings = |directory: &Path| {
            let tokens = format!(
                "[token.alice]\ntoken = '{ALICE}'\nroute = 'r'\n[token.bob]\ntoken = '{BOB}'\nroute = 'r'\n"
            );
            let tokens = Authd::secret_file(directory, "tokens.toml", &tokens);
            let (settings, tables) = write(directory);
            format!("tokens = '{}'\nupstream = '{}'\n{settings}\n{tables}\n", tokens.display(), server.url())
        };
        let authd = Authd::start_with(BINARY, settings, &[], &[("RUST_LOG", log)]).await;
        Place { server, authd, _sockets: sockets }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.authd.url().split('/').nth(2).unwrap().to_owned()
    }

    pub async fn client(&self, token: &str) -> Result<Client, RpcFailure> {
        Client::builder(&self.authd.url())
            .header("authorization", &format!("Bearer {token}"))
            .lenient()
            .connect()
            .await
    }

    /// A client that has said nothing yet, with this token or none.
    pub fn stranger(&self, token: Option<&str>) -> Client {
        let builder = Client::builder(&self.authd.url()).lenient();
        let builder = match token {
            Some(token) => builder.header("authorization", &format!("Bearer {token}")),
            None => builder,
        };
        builder.unconnected()
    }
}

/// A request that the client would send, with these headers over its own; an empty value removes one.
pub fn altered(client: &Client, method: Method, headers: &[(&'static str, &str)]) -> Request<Bytes> {
    let body = if method == Method::POST { ECHO } else { "" };
    let mut request = client.prepared(method, Bytes::from(body));
    for (name, value) in headers {
        match *value {
            "" => drop(request.headers_mut().remove(*name)),
            value => drop(request.headers_mut().insert(*name, value.parse().unwrap())),
        }
    }
    request
}

pub async fn send(client: &Client, method: Method, headers: &[(&'static str, &str)]) -> Response<Bytes> {
    client.raw(altered(client, method, headers)).await.unwrap()
}

/// The error of a JSON-RPC answer.
pub fn error(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice::<Value>(answer.body()).expect("a JSON-RPC error")["error"].take()
}
