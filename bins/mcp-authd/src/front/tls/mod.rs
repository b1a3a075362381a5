//! TLS: what we show, what we want to see, and the files behind both.
//!
//! A [`Face`] is one reading of the files that `[tls]` names. It is replaced as a whole (see [`crate::reload`]) and never by
//! half; connections keep the one they began with.

pub mod certificate;
pub mod shake;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::secret::Secret;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, server::WebPkiClientVerifier};

use self::certificate::{Complaint, Names, Term};
use crate::config::tls::Tls;
use crate::credentials::certificates::Authorities;
use crate::credentials::now;

/// The protocols we offer (ALPN), the better one first.
const OFFERED: [&[u8]; 2] = [H2, b"http/1.1"];
/// HTTP/2, as ALPN calls it.
pub const H2: &[u8] = b"h2";
/// Largest file of certificates in bytes; a larger one is surely the wrong file.
const MAX_FILE: u64 = 1024 * 1024;

/// One reading of the files.
#[derive(Debug)]
pub struct Face {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// For whom the certificate is.
    pub names: Names,
    /// From when until when it is good.
    pub term: Term,
    /// Who signs client certificates.
    pub authorities: Option<Authorities>,
}

/// The newest reading; none while `[tls]` is not set.
pub type CurrentFace = ArcSwapOption<Face>;

impl Face {
    /// Reads all files that the settings name.
    pub fn load(tls: &Tls) -> Result<Self, ConfigProblem> {
        let chain =
            certificates(&tls.certificate).map_err(|what| refuse("certificate", &tls.certificate, &what))?;
        let (names, term) =
            certificate::read(&chain[0]).map_err(|what| refuse("certificate", &tls.certificate, &what))?;
        let secret = Secret::read(&tls.key).map_err(|error| ConfigProblem::key("tls.key", error))?;
        let key = PrivateKeyDer::from_pem_slice(secret.expose().as_bytes()).map_err(|_| {
            refuse("key", &tls.key, "no private key in PEM form (`-----BEGIN PRIVATE KEY-----`)")
        })?;
        let authorities = authorities(tls)?;
        let verifier = match &authorities {
            Some(authorities) => authorities.verifier(),
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    let what = format!("is not the key of the certificate in {}", tls.certificate.display());
                    refuse("key", &tls.key, &what)
                }
                other => refuse("key", &tls.key, &format!("cannot be used: {other}")),
            })?;
        config.alpn_protocols = OFFERED.map(<[u8]>::to_vec).to_vec();
        Ok(Self { config: Arc::new(config), names, term, authorities })
    }

    /// What is wrong with the certificate now, though it can be used.
    pub fn complaints(&self) -> Vec<Complaint> {
        certificate::complaints(&self.names, self.term, i64::try_from(now()).unwrap_or(i64::MAX))
    }
}

/// Who signs client certificates, if the settings name somebody.
pub fn authorities(tls: &Tls) -> Result<Option<Authorities>, ConfigProblem> {
    let Some(client) = &tls.client else { return Ok(None) };
    let revoked = match &client.crl {
        None => Vec::new(),
        Some(path) => revoked(path).map_err(|what| refuse("client.crl", path, &what))?,
    };
    let path = &client.authorities;
    let listed = certificates(path).and_then(|listed| Authorities::new(listed, revoked, client.required));
    listed.map(Some).map_err(|what| refuse("client.authorities", path, &what))
}

fn refuse(key: &str, path: &Path, what: &str) -> ConfigProblem {
    ConfigProblem::key(format!("tls.{key}"), format!("{}: {what}", path.display()))
}

/// The certificates of a PEM file, at least one; the error is for people.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let listed = pem(path)?;
    if listed.is_empty() {
        return Err("no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)".into());
    }
    Ok(listed)
}

/// The revocation lists of a PEM file, at least one; the error is for people.
fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let listed: Vec<CertificateRevocationListDer<'static>> = pem(path)?;
    if listed.is_empty() {
        return Err("no revocation list in PEM form (`-----BEGIN X509 CRL-----`)".into());
    }
    Ok(listed)
}

/// Everything of one kind in a PEM file.
fn pem<T: PemObject>(path: &Path) -> Result<Vec<T>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("more than {MAX_FILE} bytes, surely not certificates"));
    }
    T::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| format!("not PEM: {error}"))
}

#[cfg(test)]
mod tests;
