//! The oracle of object stores keeps its own word: what is proved with it would else be worth nothing.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use support::objects::{Fault, Manner, Objects, Operation, Reply, SignedClient, What};
use tokio::time::timeout;

/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(50);

async fn ask(objects: &Objects, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    objects.client().ask(method, &format!("/snapshots/{target}"), headers, body).await.unwrap()
}

fn said(reply: &Reply) -> (u16, Option<String>) {
    (reply.status, reply.element("Code"))
}

fn code(status: u16, code: &str) -> (u16, Option<String>) {
    (status, Some(code.to_owned()))
}

#[tokio::test]
async fn what_was_put_is_read_listed_and_deleted() {
    let objects = Objects::start().await;
    for name in ["a", "b%20%C3%A4", "d/1", "d/2", "e", "f", "g"] {
        let put = ask(&objects, "PUT", name, &[], name.as_bytes()).await;
        assert_eq!(put.status, 200, "{}", put.text());
    }
    assert_eq!(objects.get("b ä").unwrap(), b"b%20%C3%A4");
    let got = ask(&objects, "GET", "d/1", &[], b"").await;
    let head = ask(&objects, "HEAD", "d/1", &[], b"").await;
    assert_eq!((got.body, &head.headers["content-length"]), (b"d/1".to_vec(), &"3".to_owned()));
    assert_eq!(got.headers["etag"], head.headers["etag"]);
    let part = ask(&objects, "GET", "d/1", &[("range", "bytes=1-")], b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"/1"[..]));
    assert_eq!(said(&ask(&objects, "GET", "d", &[], b"").await), code(404, "NoSuchKey"));

    let (mut found, mut target) = (Vec::new(), "?list-type=2&delimiter=%2F".to_owned());
    loop {
        let page = ask(&objects, "GET", &target, &[], b"").await;
        let text = page.text();
        found.extend(text.split("<Key>").skip(1).map(|rest| rest.split_once('<').unwrap().0.to_owned()));
        found.extend(text.split("<CommonPrefixes>").skip(1).map(|_| "folder".to_owned()));
        let Some(token) = page.element("NextContinuationToken") else { break };
        let token = token.replace('%', "%25").replace(':', "%3A");
        target = format!("?list-type=2&delimiter=%2F&continuation-token={token}");
    }
    assert_eq!(found, ["a", "b ä", "e", "f", "folder", "g"]);

    assert_eq!(ask(&objects, "DELETE", "a", &[], b"").await.status, 204);
    assert_eq!(ask(&objects, "DELETE", "a", &[], b"").await.status, 204);
    assert_eq!(objects.get("a"), None);
    let effects: Vec<_> = objects
        .requests()
        .into_iter()
        .filter(|asked| asked.operation == Operation::Delete)
        .map(|asked| (asked.key, asked.status, asked.effect))
        .collect();
    assert_eq!(effects, [("a".to_owned(), 204, true), ("a".to_owned(), 204, false)]);
}

#[tokio::test]
async fn conditions_are_those_of_real_s3() {
    let objects = Objects::start().await;
    let put = async |headers: &[(&str, &str)], body: &str| {
        ask(&objects, "PUT", "HEAD", headers, body.as_bytes()).await
    };
    assert_eq!(said(&put(&[("if-match", "\"x\"")], "0").await), code(404, "NoSuchKey"));
    let first = put(&[("if-none-match", "*")], "1").await;
    assert_eq!(first.status, 200);
    assert_eq!(said(&put(&[("if-none-match", "*")], "2").await), code(412, "PreconditionFailed"));
    assert_eq!(put(&[("if-match", &first.headers["etag"])], "3").await.status, 200);
    assert_eq!(
        said(&put(&[("if-match", &first.headers["etag"])], "4").await),
        code(412, "PreconditionFailed")
    );
    assert_eq!(said(&put(&[("if-none-match", "\"x\"")], "5").await), code(501, "NotImplemented"));
    assert_eq!(objects.get("HEAD").unwrap(), b"3");
    objects.behave(|manner| manner.ignores_conditions = true);
    assert_eq!(put(&[("if-match", "\"x\"")], "6").await.status, 200);
    assert_eq!(objects.get("HEAD").unwrap(), b"6");
}

#[tokio::test]
async fn of_many_that_race_for_one_object_one_wins() {
    let objects = Arc::new(Objects::start().await);
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..24 {
        let objects = objects.clone();
        racers.spawn(async move {
            ask(&objects, "PUT", "HEAD", &[("if-none-match", "*")], &[racer]).await.status
        });
    }
    let statuses = racers.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[tokio::test]
async fn a_request_that_is_not_signed_exactly_so_is_refused() {
    let objects = Objects::start().await;
    let with = |key, secret| SignedClient::new(objects.address, key, secret, "auto");
    let (key, secret) = (objects.access_key(), objects.secret_key());
    let put = async |client: SignedClient, headers: &[(&str, &str)]| {
        said(&client.ask("PUT", "/snapshots/k", headers, b"body").await.unwrap())
    };
    assert_eq!(put(with(key, secret), &[]).await, (200, None));
    assert_eq!(put(with("somebody", secret), &[]).await, code(403, "InvalidAccessKeyId"));
    assert_eq!(put(with(key, "wrong"), &[]).await, code(403, "SignatureDoesNotMatch"));
    for (hash, refusal) in [
        ("UNSIGNED-PAYLOAD", "InvalidRequest"),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "InvalidRequest"),
        (&"0".repeat(64), "XAmzContentSHA256Mismatch"),
    ] {
        assert_eq!(put(with(key, secret), &[("x-amz-content-sha256", hash)]).await, code(400, refusal));
    }
    let other = with(key, secret).ask("GET", "/elsewhere/k", &[], b"").await.unwrap();
    assert_eq!(said(&other), code(404, "NoSuchBucket"));
    // A header that is changed on the way.
    let request = with(key, secret).signed("PUT", "/snapshots/k", &[("if-match", "\"x\"")], b"body");
    let request = String::from_utf8(request).unwrap().replace("if-match: \"x\"", "if-match: \"y\"");
    assert!(raw(&objects, request.as_bytes()).await.contains("SignatureDoesNotMatch"));
    assert!(
        raw(&objects, b"GET /snapshots/k HTTP/1.1\r\nconnection: close\r\n\r\n")
            .await
            .contains("AccessDenied")
    );
}

async fn raw(objects: &Objects, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(objects.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test]
async fn parts_become_an_object_when_they_are_even_and_all_there() {
    let objects = Objects::start().await;
    let begin = async |key: &str| {
        let begun = ask(&objects, "POST", &format!("{key}?uploads"), &[], b"").await;
        begun.element("UploadId").unwrap()
    };
    let part = async |id: &str, number: u32, body: &[u8]| {
        let target = format!("big?partNumber={number}&uploadId={id}");
        let tag = ask(&objects, "PUT", &target, &[], body).await.headers["etag"].clone();
        format!("<Part><ETag>{}</ETag><PartNumber>{number}</PartNumber></Part>", tag.replace('"', "&quot;"))
    };
    let complete = async |id: &str, parts: &str| {
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        ask(&objects, "POST", &format!("big?uploadId={id}"), &[], body.as_bytes()).await
    };
    let id = begin("big").await;
    let (one, two) = (part(&id, 1, b"aaaa").await, part(&id, 2, b"bb").await);
    assert_eq!(said(&complete(&id, &(two.clone() + &one)).await), code(400, "InvalidPartOrder"));
    let short = part(&id, 3, b"cccc").await;
    assert_eq!(said(&complete(&id, &(one.clone() + &two + &short)).await), code(400, "InvalidPart"));
    assert_eq!(objects.get("big"), None);
    assert_eq!(complete(&id, &(one + &two)).await.status, 200);
    assert_eq!(objects.get("big").unwrap(), b"aaaabb");
    assert_eq!(said(&complete(&id, &two).await), code(404, "NoSuchUpload"));

    for _ in 0..7 {
        begin("left").await;
    }
    let page = ask(&objects, "GET", "?uploads", &[], b"").await;
    let (key, id) = (page.element("NextKeyMarker").unwrap(), page.element("NextUploadIdMarker").unwrap());
    let rest =
        ask(&objects, "GET", &format!("?uploads&key-marker={key}&upload-id-marker={id}"), &[], b"").await;
    assert_eq!((page.text().matches("<Upload>").count(), rest.text().matches("<Upload>").count()), (5, 2));
    for (key, id) in objects.uploads() {
        assert_eq!(ask(&objects, "DELETE", &format!("{key}?uploadId={id}"), &[], b"").await.status, 204);
    }
    assert_eq!(objects.uploads(), []);
}

#[tokio::test]
async fn every_fault_does_what_it_says() {
    let objects = Objects::start_with(Manner { page: 1000, ..Manner::default() }).await;
    for what in What::ALL {
        for method in ["PUT", "GET", "DELETE"] {
            objects.heal();
            objects.put("k", "the bytes of before");
            objects.forget();
            objects.plan([Fault::at(1, what)]);
            let client = objects.client();
            let reply = client.ask(method, "/snapshots/k", &[], b"other bytes").await;
            let asked = &objects.requests()[0];
            let done = match method {
                "PUT" => objects.get("k").unwrap() == b"other bytes",
                "DELETE" => objects.get("k").is_none(),
                _ => false,
            };
            assert_eq!(asked.effect, done, "{what:?} of {method}");
            let undone = matches!(
                what,
                What::Error(..) | What::ErrorInside | What::CutUnread | What::CutBefore | What::Html(_)
            );
            assert_eq!(done, !undone && method != "GET", "{what:?} of {method}");
            let reply = reply.ok();
            let body = reply.as_ref().map(|reply| reply.body.len());
            let length = reply.as_ref().and_then(|reply| reply.headers.get("content-length")?.parse().ok());
            let status = reply.as_ref().map(|reply| reply.status);
            match (what, method) {
                (What::Error(code, _) | What::ErrorAfter(code, _) | What::Html(code), _) => {
                    assert_eq!(status, Some(code));
                }
                (What::ErrorInside, _) => assert_eq!(said(&reply.unwrap()), code(200, "InternalError")),
                (What::CutUnread | What::CutBefore | What::CutAfter, _) => assert_eq!(reply, None),
                (What::CutInside | What::EndInside, "GET") => assert!(body < length, "{what:?}"),
                (What::CutInside | What::EndInside, _) => assert_eq!(reply, None),
                (What::Overlong, _) => assert!(body > length || length.is_none(), "{what:?}"),
                (What::Padded, "GET") => assert!(body > Some(19) && body == length, "{what:?}"),
                (What::Flipped, "GET") => {
                    assert!(body == length && reply.unwrap().body != b"the bytes of before");
                }
                _ => assert!(status.is_some_and(|status| status < 300), "{what:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_is_held_is_done_when_it_is_released() {
    let objects = Objects::start().await;
    for (what, at_once) in [(What::Late, false), (What::Mute, true)] {
        objects.put("k", "before");
        objects.forget();
        objects.plan([Fault::when(|asked| asked.is(Operation::Put, "k"), what).times(1)]);
        let held = ask(&objects, "PUT", "k", &[], b"after");
        tokio::pin!(held);
        tokio::select! {
            _ = &mut held => panic!("{what:?} was answered"),
            () = objects.until(|asked| asked.first().is_some_and(|asked| asked.size == 5 || asked.effect)) => {}
        }
        assert!(timeout(MOMENT, &mut held).await.is_err());
        assert_eq!(objects.get("k").unwrap() == b"after", at_once, "{what:?}");
        objects.release();
        assert_eq!(held.await.status, 200);
        assert_eq!(objects.get("k").unwrap(), b"after");
    }
}

#[tokio::test]
async fn a_listing_can_lag_and_the_hook_sees_every_request_first() {
    let objects = Objects::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    objects.on_request(move |asked| noted.lock().unwrap().push((asked.number, asked.effect)));
    for name in ["a", "b", "c"] {
        ask(&objects, "PUT", name, &[], b"").await;
    }
    objects.plan([Fault::from(4, What::ListWithout(2))]);
    let listed = ask(&objects, "GET", "?list-type=2", &[], b"").await;
    assert_eq!(listed.element("KeyCount").unwrap(), "1");
    assert_eq!(*seen.lock().unwrap(), [(1, false), (2, false), (3, false), (4, false)]);
}

#[tokio::test]
async fn it_is_stopped_and_started_again_with_all_that_it_holds() {
    let objects = Objects::start().await;
    ask(&objects, "PUT", "k", &[], b"kept").await;
    for _ in 0..3 {
        objects.stop().await;
        let refused = objects.client().ask("GET", "/snapshots/k", &[], b"").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        objects.start_again().await;
        assert_eq!(ask(&objects, "GET", "k", &[], b"").await.body, b"kept");
    }
}
