//! An upstream that is reached over TLS: calls pass and sessions heal, and what is wrong with TLS is said, never waited
//! out in silence, and forgotten once it is right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and its tasks end with its runtime")]

use std::{fs, path::PathBuf, time::Duration};

use rcgen::date_time_ymd;
use serde_json::{Value, json};
use support::{Authority, Client, Face, Flavour, RpcFailure, Server, Sessiond, TlsFront};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
const HOST: &str = "127.0.0.1";
/// Some retries of `mcp-sessiond`, which come up to a second apart.
const PARKED: Duration = Duration::from_secs(2);
/// What `mcp-sessiond` gives a connection, its handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// Far more than both, far less than a client's patience: what takes so long hangs.
const SOON: Duration = Duration::from_secs(20);

/// A server behind TLS, the authority that `mcp-sessiond` trusts, and it alone.
struct Place {
    authority: Authority,
    server: Server,
    front: TlsFront,
    directory: TempDir,
}

impl Place {
    async fn new() -> Place {
        let authority = Authority::new("trusted");
        // Its own port is not the one that clients know.
        let server = Server::builder(Flavour::Python2).set(|switches| switches.strict_host = false);
        let server = server.start().await.unwrap();
        let front = TlsFront::start(&server, authority.face(HOST)).await;
        let place = Place { authority, server, front, directory: tempfile::tempdir().unwrap() };
        place.trust();
        place
    }

    fn trust(&self) {
        fs::write(self.trusted(), &self.authority.pem).unwrap();
    }

    /// The file that [`Place::sessiond`] names as `SSL_CERT_FILE`.
    fn trusted(&self) -> PathBuf {
        self.directory.path().join("trusted.pem")
    }

    /// A server that forgot all, behind a TLS end that shows another face.
    async fn restart(&self, face: Face) {
        self.front.stop().await;
        self.server.forget_sessions();
        self.front.start_again(face);
    }

    async fn good(&self) {
        self.restart(self.authority.face(HOST)).await;
    }

    /// It logs what operators see by default.
    async fn sessiond(&self, host: &str) -> Sessiond {
        let settings = self.directory.path().join("settings.toml");
        let limits = format!("[limits]\nparked_time = '{}ms'", PARKED.as_millis());
        fs::write(&settings, format!("listen = ['127.0.0.1:0']\n{limits}\n")).unwrap();
        let args = ["--config", settings.to_str().unwrap(), "--upstream", &self.front.url(host)];
        // Whatever the machine trusts does not count.
        let trusted = self.trusted();
        let env = [("SSL_CERT_FILE", trusted.to_str().unwrap()), ("SSL_CERT_DIR", ""), ("RUST_LOG", "info")];
        Sessiond::start_with(BINARY, &args, &env).await
    }
}

/// Fails unless the client was told in one line, in time, that it may try again.
fn assert_told(failure: &RpcFailure, began: Instant, case: &str) {
    let message = failure.message();
    // The client has checked that the error carries the id of its request.
    assert_eq!((failure.status, failure.code()), (Some(200), Some(-32603)), "{case}: {failure}");
    assert!(message.contains("limits.parked_time") && !message.contains('\n'), "{case}: {message}");
    assert!(message.ends_with("try again"), "{case}: {message}");
    assert!(began.elapsed() < SOON, "{case}: it took {:?}", began.elapsed());
}

/// The story of a server that comes back with something wrong: `reason` is told and logged, and the right thing heals.
async fn is_told_and_heals(case: &'static str, wrong: impl FnOnce(&Place) -> Face, reason: &'static str) {
    let place = Place::new().await;
    let sessiond = place.sessiond(HOST).await;
    let url = sessiond.url();
    let client = Client::builder(&url).patience(2 * SOON).connect().await.unwrap();
    let newcomer = Client::builder(&url).patience(2 * SOON);
    let handshakes = place.front.handshakes();
    place.restart(wrong(&place)).await;

    let began = Instant::now();
    let (called, refused) = tokio::join!(client.call("count", json!({})), newcomer.clone().connect());
    assert_told(&called.unwrap_err(), began, case);
    let refused = refused.unwrap_err();
    assert_told(&refused, began, case);
    assert!(refused.message().contains(reason), "{case}: {refused}");
    sessiond.until_logged(reason).await;
    assert_eq!(place.front.handshakes(), handshakes, "{case}: not one connection was taken for good");

    place.good().await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1", "{case}: only this one ran");
    newcomer.connect().await.unwrap_or_else(|failure| panic!("{case}: {failure}"));
    assert_eq!((place.server.executed("count"), place.server.sessions()), (1, 2), "{case}");
}

#[tokio::test]
async fn calls_streams_and_large_bodies_pass_over_tls_on_connections_that_are_kept() {
    let place = Place::new().await;
    for host in [HOST, "localhost"] {
        place.front.restart(place.authority.face(host)).await;
        place.server.clear();
        let sessiond = place.sessiond(host).await;
        let client = Client::connect(&sessiond.url()).await.unwrap();
        let handshakes = place.front.handshakes();
        assert!(handshakes > 0, "{host}");
        for n in 0..20 {
            let text = format!("call {n}");
            assert_eq!(client.call_text("echo", json!({"text": text})).await.unwrap(), text);
        }
        assert!(place.front.handshakes() <= handshakes + 1, "{host}: a handshake for every call");
        let large = "0123456789abcdef".repeat(1 << 15);
        assert_eq!(client.call_text("echo", json!({"text": large})).await.unwrap(), large, "{host}");
        assert_eq!(client.call_text("progress", json!({"n": 3})).await.unwrap(), "3 steps", "{host}");
        let mut events = client.open_get().await.unwrap();
        place.server.until(|server| server.streams() == 1).await;
        place.server.notify(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
        let heard: Value = events.next_message().await.unwrap();
        assert_eq!(heard["method"], "notifications/tools/list_changed", "{host}");
        let named = format!("{host}:{}", place.front.port());
        assert!(place.server.requests().iter().all(|request| request.headers["host"] == named), "{host}");
        client.delete().await.unwrap();
        place.server.until(|server| server.sessions() == 0 && server.streams() == 0).await;
    }
}

#[tokio::test]
async fn a_session_heals_when_the_tls_end_was_restarted_with_or_without_the_server() {
    let place = Place::new().await;
    let sessiond = place.sessiond(HOST).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "1");
    // A new certificate of the same authority, as after a renewal; the session is still there.
    place.front.restart(place.authority.face(HOST)).await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "2");
    assert_eq!(place.server.initializes(), 1);
    place.good().await;
    assert_eq!(client.call_text("count", json!({})).await.unwrap(), "3");
    assert_eq!(place.server.initializes(), 2);
    // Away while the call is made, and back while it waits.
    place.front.stop().await;
    place.server.forget_sessions();
    let (called, ()) = tokio::join!(client.call_text("count", json!({})), async {
        sessiond.until_status(|status| status["parked"] == 1).await;
        place.front.start_again(place.authority.face(HOST));
    });
    assert_eq!(called.unwrap(), "4");
    assert_eq!((place.server.initializes(), place.server.executed("count")), (3, 4));
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_named_and_a_good_one_heals_without_a_restart() {
    let mut cases = JoinSet::new();
    cases.spawn(is_told_and_heals(
        "not trusted",
        |_| Authority::new("nobody knows it").face(HOST),
        "UnknownIssuer",
    ));
    let other_name = |place: &Place| place.authority.face("other.example");
    cases.spawn(is_told_and_heals("another name", other_name, "certificate not valid for name"));
    let expired = |place: &Place| {
        place.authority.face_with(HOST, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        })
    };
    cases.spawn(is_told_and_heals("expired", expired, "certificate expired"));
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_speaks_plain_http_on_an_https_address_is_told_of() {
    is_told_and_heals("plain HTTP", |_| Face::Plain, "does not speak TLS").await;
}

#[tokio::test]
async fn a_handshake_that_hangs_is_given_up_in_time() {
    let began = Instant::now();
    is_told_and_heals("mute", |_| Face::Mute, "no connection within 5000 ms").await;
    assert!(began.elapsed() >= CONNECT, "it waited for the handshake");
}

#[tokio::test]
async fn a_file_of_trusted_certificates_that_is_not_there_yet_is_told_of_and_read_once_it_is() {
    let place = Place::new().await;
    fs::remove_file(place.trusted()).unwrap();
    let sessiond = place.sessiond(HOST).await;
    let began = Instant::now();
    let failure = Client::builder(&sessiond.url()).patience(2 * SOON).connect().await.unwrap_err();
    assert_told(&failure, began, "no file");
    assert!(failure.message().contains("No CA certificates were loaded"), "{failure}");
    // This line names the file.
    sessiond.until_logged(place.trusted().to_str().unwrap()).await;
    place.trust();
    Client::connect(&sessiond.url()).await.unwrap().call("echo", json!({})).await.unwrap();
}
