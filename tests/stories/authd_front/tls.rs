//! TLS: certificates that change under load, HTTP/2, and those who come without.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use nix::sys::signal::Signal;
use rcgen::date_time_ymd;
use serde_json::{Value, json};
use support::Authd;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::authority::{Authority, open_session, over_tls, post, says_hello, show};
use crate::place::{ALICE, ECHO, Place};
use crate::wire::{Dialer, Line, SOON, exchange};

fn dialers(trusted: &str) -> [Dialer; 2] {
    [&["h2", "http/1.1"][..], &["http/1.1"]].map(|alpn| Dialer::new(trusted, None, alpn))
}

#[tokio::test]
async fn calls_pass_by_http_1_and_by_http_2_and_browsers_are_told_to_stay_with_tls() {
    let authority = Authority::new("ours");
    let place = over_tls(&authority, "", "").await;
    for (dialer, is_h2) in dialers(&authority.pem).into_iter().zip([true, false]) {
        let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
        assert_eq!(line.is_h2(), is_h2);
        let session = open_session(&mut line, Some(ALICE)).await;
        let answer = line.send(post("localhost", Some(ALICE), &session, ECHO)).await.unwrap();
        assert!(says_hello(&answer), "{answer:?}");
        assert!(!answer.headers().contains_key("strict-transport-security"), "it is about loopback");
        // A name that nothing but the certificate allows.
        let answer = line.send(post("mcp.example", Some(ALICE), &session, ECHO)).await.unwrap();
        assert!(says_hello(&answer), "{answer:?}");
        assert!(answer.headers().contains_key("strict-transport-security"));
        let answer = line.send(post("evil.example", Some(ALICE), &session, ECHO)).await.unwrap();
        assert_eq!(answer.status(), 421);
        assert_eq!(line.send(post("localhost", None, &session, ECHO)).await.unwrap().status(), 401);
    }
    let seen = place.server.requests();
    assert!(seen.iter().all(|request| request.headers["mcp-auth-subject"] == "alice"));
    let (_, status) = place.authd.control("GET", "/status").await;
    assert_eq!(status["certificate"]["names"], json!(["localhost", "mcp.example"]));
    let (_, metrics) = place.authd.control("GET", "/metrics").await;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("mcp_authd_certificate_expires_timestamp_seconds "), "{metrics}");
}

#[tokio::test]
async fn many_calls_at_once_share_one_http_2_connection_and_a_drain_lets_them_end() {
    let authority = Authority::new("ours");
    let mut place = over_tls(&authority, "", "[limits]\nstreams = 16").await;
    let [dialer, _] = dialers(&authority.pem);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    let session = open_session(&mut line, Some(ALICE)).await;
    let Line::H2(sender, connection) = line else { panic!("no HTTP/2") };
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let (mut sender, request) = (sender.clone(), post("localhost", Some(ALICE), &session, ECHO));
        calls.spawn(async move {
            sender.ready().await.unwrap();
            let answer = sender.send_request(request).await.unwrap();
            answer.into_body().collect().await.unwrap().to_bytes()
        });
    }
    while let Some(answer) = timeout(SOON, calls.join_next()).await.unwrap() {
        assert!(String::from_utf8_lossy(&answer.unwrap()).contains("hello"));
    }
    let slow = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"big","arguments":{"sleep_ms":600,"bytes":10}}}"#;
    let mut late = sender.clone();
    let request = post("localhost", Some(ALICE), &session, slow);
    let late = tokio::spawn(async move {
        late.ready().await.unwrap();
        late.send_request(request).await.unwrap().status()
    });
    place.server.until(|server| server.started("big") == 1).await;
    place.authd.signal(Signal::SIGTERM);
    assert_eq!(timeout(SOON, late).await.unwrap().unwrap(), 200);
    timeout(SOON, connection).await.expect("the connection ends at the drain").unwrap();
    assert!(place.authd.end().await.success());
}

#[tokio::test]
async fn a_client_by_http_2_that_does_not_read_its_answer_is_cut() {
    let authority = Authority::new("ours");
    let place = over_tls(&authority, "", "[limits]\nanswer_timeout = '1s'").await;
    let [dialer, _] = dialers(&authority.pem);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    let session = open_session(&mut line, Some(ALICE)).await;
    let text = "x".repeat(1 << 20);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": text}}});
    let answer = line.open(post("localhost", Some(ALICE), &session, &call.to_string())).await.unwrap();
    assert_eq!(answer.status(), 200);
    // Others that move do not save it.
    let Line::H2(mut sender, connection) = line else { panic!("no HTTP/2") };
    let others = tokio::spawn(async move {
        while sender.ready().await.is_ok() {
            if sender.send_request(post("localhost", Some(ALICE), &session, ECHO)).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    timeout(SOON, connection).await.expect("the connection is cut").unwrap();
    place.authd.until_logged("does not read an answer").await;
    timeout(SOON, others).await.unwrap().unwrap();
    drop(answer);
}

#[tokio::test]
async fn a_certificate_is_replaced_under_load_and_no_request_fails() {
    let authority = Authority::new("ours");
    let place = Arc::new(over_tls(&authority, "", "").await);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut loads = JoinSet::new();
    for (n, dialer) in dialers(&authority.pem).into_iter().cycle().take(4).enumerate() {
        let (place, stop, served) = (place.clone(), stop.clone(), served.clone());
        loads.spawn(async move {
            let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
            let session = open_session(&mut line, Some(ALICE)).await;
            while !stop.load(Ordering::Relaxed) {
                if n >= 2 {
                    // These shake hands for every call, the others go on with the connection that they have.
                    line = dialer.talk(&place.authd, "localhost").await.unwrap();
                }
                let answer = line.send(post("localhost", Some(ALICE), &session, ECHO)).await.unwrap();
                assert!(says_hello(&answer), "{answer:?}");
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let [dialer, _] = dialers(&authority.pem);
    for _ in 0..3 {
        let pair = authority.sign(&["localhost"], |_| {});
        show(place.authd.directory(), &pair);
        until_shown(&dialer, &place, &pair.0).await;
    }
    let before = served.load(Ordering::Relaxed);
    timeout(SOON, async {
        while served.load(Ordering::Relaxed) < before + 20 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the load goes on");
    stop.store(true, Ordering::Relaxed);
    while let Some(load) = loads.join_next().await {
        load.unwrap();
    }
    println!("{} calls while three certificates came", served.load(Ordering::Relaxed));
}

/// Waits until new connections see this certificate.
async fn until_shown(dialer: &Dialer, place: &Place, certificate: &str) {
    timeout(SOON, async {
        loop {
            let stream = dialer.connect(&place.authd, "localhost").await.unwrap();
            let seen = pem(&stream.get_ref().1.peer_certificates().unwrap()[0]);
            if seen == certificate.split_whitespace().collect::<String>() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the new certificate is shown");
}

/// DER as PEM without white space, to be compared.
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGINCERTIFICATE-----");
    for three in der.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
        text.push_str(&"="[..].repeat(3 - three.len()));
    }
    text + "-----ENDCERTIFICATE-----"
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_changes_nothing_and_is_said() {
    let authority = Authority::new("ours");
    let place = over_tls(&authority, "", "").await;
    let directory = place.authd.directory();
    let old = fs::read_to_string(directory.join("cert.pem")).unwrap();
    let [dialer, _] = dialers(&authority.pem);
    let foreign = authority.sign(&["localhost"], |_| {});
    Authd::secret_file(directory, "key.pem", &foreign.1);
    let said = place.authd.until_logged("the certificate has changed but cannot be used").await;
    assert!(said.contains("key.pem") && said.contains("is not the key of the certificate"), "{said}");
    until_shown(&dialer, &place, &old).await;
    // A reload is refused as a whole, with the same words.
    let settings = fs::read_to_string(place.authd.settings_file()).unwrap();
    let (status, answer) = place.authd.reload(&settings).await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("tls.key"), "{answer}");
    until_shown(&dialer, &place, &old).await;
    Authd::secret_file(directory, "cert.pem", &foreign.0);
    until_shown(&dialer, &place, &foreign.0).await;
    let expired = authority.sign(&["localhost"], |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    show(directory, &expired);
    let said = place.authd.until_logged("clients may not trust our certificate").await;
    assert!(said.contains("2021-01-01"), "{said}");
}

#[tokio::test]
async fn check_refuses_an_expired_certificate_and_warns_of_one_without_a_name() {
    let authority = Authority::new("ours");
    let place = Place::new("", "").await;
    let directory = place.authd.directory();
    let check = async |pair: &(String, String)| {
        let settings = directory.join("check.toml");
        let tls = show(directory, pair);
        fs::write(&settings, format!("upstream = 'http://127.0.0.1:1/mcp'\n{tls}\n")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authd"));
        let output = command.args(["check", "--config"]).arg(settings).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = check(&authority.sign(&["localhost"], |_| {})).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let expired = authority.sign(&["localhost"], |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let (code, said) = check(&expired).await;
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("tls.certificate") && said.contains("2021-01-01") && said.lines().count() == 1,
        "{said}"
    );
    let (code, said) = check(&authority.sign(&[], |_| {})).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("names no host"), "{said}");
}

#[tokio::test]
async fn plain_http_on_a_port_with_tls_gets_a_clear_word_and_silence_gets_none() {
    let authority = Authority::new("ours");
    let place = over_tls(&authority, "", "[limits]\nhead_timeout = '1s'").await;
    let answer = exchange(&place.address(), b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    // Half a handshake, none at all, and nonsense: closed in time.
    for said in [&b"\x16\x03\x01\x02\x00"[..], b"", b"\x00\x00\x00"] {
        let answer = exchange(&place.address(), said).await;
        assert!(!answer.contains("HTTP"), "{answer}");
    }
}

#[tokio::test]
async fn curl_speaks_http_2_with_us() {
    let authority = Authority::new("ours");
    let place = over_tls(&authority, "", "").await;
    let version = Command::new("curl").arg("--version").output().await;
    if !version.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("HTTP2")) {
        println!("skipped: no curl with HTTP/2 here");
        return;
    }
    let trusted = place.authd.directory().join("trusted.pem");
    fs::write(&trusted, &authority.pem).unwrap();
    let url = place.authd.url().replace("http://127.0.0.1", "https://localhost").replace("/mcp", "/health");
    let mut command = Command::new("curl");
    command.args(["-s", "--http2", "-o", "-", "-w", " %{http_version} %{http_code}", "--cacert"]);
    let output = command.arg(trusted).arg(url).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (body, end) =
        said.rsplit_once('}').unwrap_or_else(|| panic!("{said} {output:?}", output = output.stderr));
    assert_eq!(end.trim(), "2 200", "{said}");
    assert!(serde_json::from_str::<Value>(&format!("{body}}}")).is_ok(), "{said}");
}
