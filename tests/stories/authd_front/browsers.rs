//! Web pages: which hosts and origins are ours, and what browsers are told.

use http::Method;

use crate::place::{ALICE, Place, altered, error, send};

#[tokio::test]
async fn a_foreign_host_or_origin_is_refused_before_anything_else() {
    let place =
        Place::new("allowed_hosts = ['mcp.example']\nallowed_origins = ['https://ide.example']", "").await;
    let client = place.client(ALICE).await.unwrap();
    place.server.clear();
    for host in
        ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "0.0.0.0", "[::1].evil"]
    {
        let answer = send(&client, Method::POST, &[("host", host)]).await;
        assert_eq!(answer.status(), 421, "{host}");
        assert!(error(&answer)["message"].as_str().unwrap().contains("allowed_hosts"), "{host}");
    }
    for origin in
        ["https://evil.example", "http://localhost.evil.example", "null", "https://ide.example.evil"]
    {
        let answer = send(&client, Method::POST, &[("origin", origin)]).await;
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    let mut twice = altered(&client, Method::POST, &[("host", "localhost")]);
    twice.headers_mut().append("host", "localhost".parse().unwrap());
    assert_eq!(client.raw(twice).await.unwrap().status(), 400);
    assert_eq!(place.server.requests().len(), 0);
    for (name, value) in [
        ("host", "localhost"),
        ("host", "mcp.example:443"),
        ("host", "MCP.example"),
        ("origin", "https://ide.example"),
    ] {
        assert_eq!(send(&client, Method::POST, &[(name, value)]).await.status(), 200, "{name}: {value}");
    }
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_is_told_that_it_may_without_a_credential() {
    let place = Place::new("allowed_origins = ['https://ide.example']", "").await;
    let browser = place.stranger(None);
    let asks = [
        ("origin", "https://ide.example"),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type,mcp-protocol-version,mcp-param-region",
        ),
    ];
    let answer = send(&browser, Method::OPTIONS, &asks).await;
    assert_eq!(answer.status(), 204);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "https://ide.example");
    assert!(header("access-control-allow-methods").contains("DELETE"));
    for name in ["authorization", "mcp-session-id", "last-event-id", "mcp-param-region"] {
        assert!(header("access-control-allow-headers").contains(name), "{name}");
    }
    assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    let foreign = send(&browser, Method::OPTIONS, &[("origin", "https://evil.example"), asks[1]]).await;
    assert_eq!(foreign.status(), 403);
    // What is no preflight needs a credential like everything else.
    assert_eq!(send(&browser, Method::OPTIONS, &[]).await.status(), 401);
    assert_eq!(place.server.requests().len(), 0);

    let client = place.client(ALICE).await.unwrap();
    let answer = send(&client, Method::POST, &[("origin", "https://ide.example")]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://ide.example");
    assert!(answer.headers()["vary"].to_str().unwrap().contains("Origin"));
    let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("Mcp-Session-Id") && exposed.contains("WWW-Authenticate"), "{exposed}");
}

#[tokio::test]
async fn every_answer_says_that_nobody_is_to_keep_or_reinterpret_it() {
    let place = Place::new("", "").await;
    let client = place.client(ALICE).await.unwrap();
    let stranger = place.stranger(None);
    let mut lost = stranger.prepared(Method::GET, bytes::Bytes::new());
    *lost.uri_mut() = "/elsewhere".parse().unwrap();
    for (status, answer) in [
        (200, send(&client, Method::POST, &[]).await),
        (401, send(&stranger, Method::POST, &[]).await),
        (404, stranger.raw(lost).await.unwrap()),
        (403, send(&client, Method::POST, &[("origin", "https://evil.example")]).await),
    ] {
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{status}");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("no-"), "{status}");
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer", "{status}");
        // Without TLS it would mean nothing.
        assert!(!answer.headers().contains_key("strict-transport-security"), "{status}");
    }
}
