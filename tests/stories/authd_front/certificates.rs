//! Client certificates as credentials.

use std::fs;
use std::time::Duration;

use http_body_util::BodyExt;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use support::Authd;
use tokio::time::timeout;

use crate::authority::{Authority, open_session, post, says_hello, show};
use crate::place::{BOB, ECHO, Place};
use crate::wire::{Dialer, Line, SOON};

fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
}

/// Other settings in place of those that are there.
async fn reload(place: &Place, from: &str, to: &str) {
    let settings = fs::read_to_string(place.authd.settings_file()).unwrap();
    assert!(settings.contains(from), "{settings}");
    let (status, said) = place.authd.reload(&settings.replace(from, to)).await;
    assert_eq!(status, 200, "{said}");
}

/// The status of a call, by a certificate alone unless there is a token.
async fn status(line: &mut Line, token: Option<&str>, origin: Option<&str>) -> u16 {
    let mut request = post("localhost", token, "", ECHO);
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    line.send(request).await.unwrap().status().as_u16()
}

async fn place(server: &Authority, clients: &Authority, more: &str) -> Place {
    let pair = server.sign(&["localhost"], |_| {});
    Place::with(|directory| {
        let authorities = directory.join("clients.pem");
        fs::write(&authorities, &clients.pem).unwrap();
        let tls = show(directory, &pair);
        let client = format!("[tls.client]\nauthorities = '{}'\n{more}", authorities.display());
        (String::new(), format!("{tls}\n{client}"))
    })
    .await
}

#[tokio::test]
async fn a_certificate_names_its_subject_where_no_token_comes() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "identify = true").await;
    let dialer = |name: &str, alpn: &str| {
        let (certificate, key) = clients.sign(&[], named(name));
        Dialer::new(&server.pem, Some((&certificate, &key)), &[alpn])
    };
    for (name, route, alpn) in [("carol", "carol", "h2"), ("Carol@Example", "c-", "http/1.1")] {
        let mut line = dialer(name, alpn).talk(&place.authd, "localhost").await.unwrap();
        place.server.clear();
        open_session(&mut line, None).await;
        let seen = place.server.requests();
        assert_eq!(seen[0].headers["mcp-auth-subject"], name);
        assert!(seen[0].headers["mcp-route"].to_str().unwrap().starts_with(route), "{seen:?}");
        // A token is the better word, also a wrong one.
        open_session(&mut line, Some(BOB)).await;
        assert_eq!(place.server.requests().last().unwrap().headers["mcp-auth-subject"], "bob");
        let wrong = line.send(post("localhost", Some("nobody-has-this-token"), "", ECHO)).await.unwrap();
        assert_eq!(wrong.status(), 401);
    }
    // Names that are no subjects are worth nothing.
    let mut line = dialer("two words", "h2").talk(&place.authd, "localhost").await.unwrap();
    assert_eq!(line.send(post("localhost", None, "", ECHO)).await.unwrap().status(), 401);
    // Without a certificate one needs a token, and with one from elsewhere there is no connection.
    let mut bare = Dialer::new(&server.pem, None, &["h2"]).talk(&place.authd, "localhost").await.unwrap();
    assert_eq!(bare.send(post("localhost", None, "", ECHO)).await.unwrap().status(), 401);
    open_session(&mut bare, Some(BOB)).await;
    let (certificate, key) = Authority::new("elsewhere").sign(&[], named("carol"));
    let foreign = Dialer::new(&server.pem, Some((&certificate, &key)), &["http/1.1"]);
    // In TLS 1.3 a client hears of it with its first answer.
    if let Ok(mut line) = foreign.talk(&place.authd, "localhost").await {
        line.send(post("localhost", Some(BOB), "", ECHO)).await.unwrap_err();
    }
}

#[tokio::test]
async fn where_a_certificate_is_required_there_is_no_connection_without_and_it_is_no_credential_by_itself() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "required = true").await;
    if let Ok(mut line) = Dialer::new(&server.pem, None, &["http/1.1"]).talk(&place.authd, "localhost").await
    {
        line.send(post("localhost", Some(BOB), "", ECHO)).await.unwrap_err();
    }
    let (certificate, key) = clients.sign(&[], named("carol"));
    let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["http/1.1"]);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    assert_eq!(line.send(post("localhost", None, "", ECHO)).await.unwrap().status(), 401);
    let session = open_session(&mut line, Some(BOB)).await;
    assert!(says_hello(&line.send(post("localhost", Some(BOB), &session, ECHO)).await.unwrap()));
}

#[tokio::test]
async fn an_authority_that_is_taken_away_cuts_streams_and_a_second_one_breaks_nothing() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "identify = true\nroute = 'all'").await;
    let (certificate, key) = clients.sign(&[], named("carol"));
    let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["h2"]);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    let session = open_session(&mut line, None).await;
    let other = Authority::new("the next one");
    let replace = |text: &str| {
        let new = Authd::secret_file(place.authd.directory(), "clients.new", text);
        fs::rename(new, place.authd.directory().join("clients.pem")).unwrap();
    };
    replace(&format!("{}{}", clients.pem, other.pem));
    place.authd.until_logged("credentials have changed and were read anew").await;
    assert!(says_hello(&line.send(post("localhost", None, &session, ECHO)).await.unwrap()));
    let mut stream = post("localhost", None, &session, "");
    *stream.method_mut() = http::Method::GET;
    let stream = line.open(stream).await.unwrap();
    assert_eq!(stream.status(), 200);
    replace(&other.pem);
    // A change is noticed within 2 s; the rest is for a machine that is busy.
    let end =
        timeout(Duration::from_secs(10), stream.into_body().collect()).await.expect("the stream is cut");
    end.expect("it ends as streams do");
    let refused = timeout(SOON, line.send(post("localhost", None, &session, ECHO))).await.unwrap().unwrap();
    assert_eq!(refused.status(), 401);
}

#[tokio::test]
async fn a_page_cannot_use_the_certificate_of_the_browser_that_shows_it_unless_it_is_named() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "identify = true").await;
    reload(&place, "tokens =", "allowed_origins = ['https://ide.example', '*']\ntokens =").await;
    let (certificate, key) = clients.sign(&[], named("carol"));
    let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["h2"]);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    for page in ["http://localhost:3000", "https://evil.example", "null"] {
        assert_eq!(status(&mut line, None, Some(page)).await, 403, "{page}");
    }
    assert_eq!(place.server.requests().len(), 0);
    assert_ne!(status(&mut line, None, Some("https://ide.example")).await, 403);
    assert_ne!(status(&mut line, None, None).await, 403);
    // Whoever has a token is not a page that was merely opened.
    assert_ne!(status(&mut line, Some(BOB), Some("http://localhost:3000")).await, 403);
}

#[tokio::test]
async fn a_certificate_that_is_disabled_or_revoked_is_worth_nothing_from_then_on_and_others_notice_nothing() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "disabled = ['nobody']\nidentify = true\n#crl").await;
    let crl = |serials: &[u64]| {
        let new = Authd::secret_file(place.authd.directory(), "crl.new", &clients.revoke(serials));
        fs::rename(new, place.authd.directory().join("crl.pem")).unwrap();
    };
    crl(&[]);
    let mut lines = Vec::new();
    for (serial, name) in [(1u64, "carol"), (2, "dave"), (3, "erin")] {
        let (certificate, key) = clients.sign(&[], |params| {
            named(name)(params);
            params.serial_number = Some(serial.into());
        });
        let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["h2"]);
        let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
        let session = open_session(&mut line, None).await;
        let mut stream = post("localhost", None, &session, "");
        *stream.method_mut() = http::Method::GET;
        let stream = line.open(stream).await.unwrap();
        assert_eq!(stream.status(), 200);
        lines.push((line, stream.into_body()));
    }
    let [(carol, carols), (dave, daves), (erin, erins)] = &mut lines[..] else { panic!() };
    reload(&place, "'nobody'", "'carol'").await;
    timeout(SOON, carols.collect()).await.expect("the stream is cut").unwrap();
    assert_eq!(status(carol, None, None).await, 401);
    assert_ne!(status(dave, None, None).await, 401);
    let named_list = format!("crl = '{}'", place.authd.directory().join("crl.pem").display());
    reload(&place, "#crl", &named_list).await;
    assert_ne!(status(dave, None, None).await, 401);
    crl(&[2]);
    timeout(SOON, daves.collect()).await.expect("the stream is cut").unwrap();
    assert_eq!(status(dave, None, None).await, 401);
    assert_ne!(status(erin, None, None).await, 401);
    let still = timeout(Duration::from_millis(50), erins.frame()).await;
    assert!(still.is_err(), "erin's stream goes on: {still:?}");
}

#[tokio::test]
async fn what_certificates_are_good_for_can_be_said() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let more = "identify = true\nscopes = ['read']\n[[require]]\nmethod = 'tools/call'\nscopes = ['tools']";
    let place = place(&server, &clients, more).await;
    let (certificate, key) = clients.sign(&[], named("carol"));
    let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["h2"]);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    assert_eq!(status(&mut line, None, None).await, 403);
    reload(&place, "'read'", "'read', 'tools'").await;
    assert_ne!(status(&mut line, None, None).await, 403);
}

#[tokio::test]
async fn a_required_certificate_has_to_go_on_being_good_beside_a_token_too() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "disabled = ['nobody']\nrequired = true").await;
    let (certificate, key) = clients.sign(&[], named("carol"));
    let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["h2"]);
    let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
    let session = open_session(&mut line, Some(BOB)).await;
    let mut stream = post("localhost", Some(BOB), &session, "");
    *stream.method_mut() = http::Method::GET;
    let stream = line.open(stream).await.unwrap();
    reload(&place, "'nobody'", "'carol'").await;
    timeout(SOON, stream.into_body().collect()).await.expect("the stream is cut").unwrap();
    assert_eq!(status(&mut line, Some(BOB), None).await, 401);
}

#[tokio::test]
async fn a_certificate_cannot_take_a_static_tokens_name() {
    let (server, clients) = (Authority::new("ours"), Authority::new("clients"));
    let place = place(&server, &clients, "identify = true").await;
    for (name, expected) in [("alice", 401), ("r", 401), ("carol", 200)] {
        let (certificate, key) = clients.sign(&[], named(name));
        let dialer = Dialer::new(&server.pem, Some((&certificate, &key)), &["h2"]);
        let mut line = dialer.talk(&place.authd, "localhost").await.unwrap();
        let found = status(&mut line, None, None).await;
        assert_eq!(found == 401, expected == 401, "{name}: {found}");
    }
}
