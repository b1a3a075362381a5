//! An authority for certificates, and calls by TLS.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};
use serde_json::json;
use support::Authd;

use crate::place::Place;
use crate::wire::Line;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, PEM.
    pub fn sign(&self, names: &[&str], alter: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        alter(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

impl Authority {
    /// Its list of the certificates that it has revoked, by their serial numbers, PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2026, 2, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// Writes certificate and key, each whole, and returns the settings that name them.
pub fn show(directory: &Path, pair: &(String, String)) -> String {
    for (name, text) in [("cert.pem", &pair.0), ("key.pem", &pair.1)] {
        let new = Authd::secret_file(directory, "new.pem", text);
        fs::rename(new, directory.join(name)).unwrap();
    }
    let file = |name: &str| directory.join(name).display().to_string();
    format!("[tls]\ncertificate = '{}'\nkey = '{}'", file("cert.pem"), file("key.pem"))
}

pub async fn over_tls(authority: &Authority, settings: &str, tables: &str) -> Place {
    let pair = authority.sign(&["localhost", "mcp.example"], |_| {});
    Place::with(|directory| (settings.to_owned(), format!("{tables}\n{}", show(directory, &pair)))).await
}

/// A POST by TLS, with or without a token and a session.
pub fn post(host: &str, token: Option<&str>, session: &str, body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("https://{host}/mcp"))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json");
    if !session.is_empty() {
        request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

/// `initialize`, and the session that comes of it.
pub async fn open_session(line: &mut Line, token: Option<&str>) -> String {
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let answer = line.send(post("localhost", token, "", &hello.to_string())).await.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let session = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let answer = line.send(post("localhost", token, &session, told)).await.unwrap();
    assert_eq!(answer.status(), 202);
    session
}

pub fn says_hello(answer: &Response<Bytes>) -> bool {
    answer.status() == 200 && String::from_utf8_lossy(answer.body()).contains("hello")
}
