//! The transport's checks: Host, Origin, Accept, size, methods.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request,
    header::{ACCEPT, HOST, ORIGIN},
};
use support::{Client, Flavour, Server};

use crate::{connect, ping};

#[tokio::test]
async fn foreign_or_portless_hosts_get_421() {
    let server = Server::start(Flavour::Python2).await;
    let client = connect(&server).await;
    let port = server.port();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("localhost".into(), 421),
        ("127.0.0.1:1".into(), 421),
        (format!("evil.example:{port}"), 421),
    ] {
        let mut request = post(&client);
        request.headers_mut().insert(HOST, host.parse().unwrap());
        assert_eq!(status_of(&client, request).await, status, "{host}");
    }
    server.set(|switches| switches.strict_host = false);
    let mut request = post(&client);
    request.headers_mut().insert(HOST, HeaderValue::from_static("evil.example"));
    assert_eq!(status_of(&client, request).await, 200);
}

#[tokio::test]
async fn origins_accepts_sizes_and_methods_are_checked() {
    let server = Server::start(Flavour::Python2).await;
    let client = connect(&server).await;

    let mut request = post(&client);
    request.headers_mut().insert(ORIGIN, HeaderValue::from_static("http://evil.example"));
    assert_eq!(status_of(&client, request).await, 403);

    let mut request = post(&client);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    assert_eq!(status_of(&client, request).await, 406);

    server.set(|switches| switches.body_limit = 10);
    assert_eq!(status_of(&client, post(&client)).await, 413);
    server.set(|switches| switches.body_limit = 1000);
    assert_eq!(status_of(&client, post(&client)).await, 200);

    server.set(|switches| switches.get = false);
    assert_eq!(client.open_get().await.unwrap_err().status, Some(405));
    assert_eq!(status_of(&client, client.prepared(Method::PUT, Bytes::new())).await, 405);

    let mut request = post(&client);
    *request.uri_mut() = "http://x/sse".parse().unwrap();
    assert_eq!(status_of(&client, request).await, 404);
}

#[tokio::test]
async fn an_unknown_version_in_the_header_gets_400() {
    let server = Server::start(Flavour::Everything).await;
    let client = connect(&server).await;
    let mut request = post(&client);
    request.headers_mut().insert("mcp-protocol-version", HeaderValue::from_static("1999-01-01"));
    assert_eq!(status_of(&client, request).await, 400);
}

#[tokio::test]
async fn on_a_unix_socket_any_loopback_port_is_a_host() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.sock");
    let server = Server::builder(Flavour::Python1_30).unix(&path).start().await.unwrap();
    let client = connect(&server).await;
    assert_eq!(server.url(), format!("unix:{}:/mcp", path.display()));
    assert_eq!(crate::count(&client).await.unwrap(), "1");

    server.stop().await;
    assert!(path.exists(), "a killed server leaves its socket file");
    assert!(Client::connect(&server.url()).await.unwrap_err().text.contains("refused"));
    server.remove_socket();
    assert!(Client::connect(&server.url()).await.unwrap_err().text.contains("No such file"));
    server.start_again().await;
    assert_eq!(crate::count(&client).await.unwrap_err().status, Some(404));
}

fn post(client: &Client) -> Request<Bytes> {
    client.prepared(Method::POST, ping().to_string().into())
}

async fn status_of(client: &Client, request: Request<Bytes>) -> u16 {
    client.raw(request).await.unwrap().status().as_u16()
}
