//! Client certificates as credentials.

use std::fs;
use std::time::Duration;

use http_body_util::BodyExt;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use support::Authd;
use tokio::time::timeout;

use crate::authority::{Authority, open_session, post, says_hello, show};
use crate::place::{BOB, ECHO, Place};
use crate::wire::{Dialer, SOON};

fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
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
