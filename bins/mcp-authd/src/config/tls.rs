//! `[tls]`: our certificate, and what we want to see of the client's.

use std::path::PathBuf;

use mcp_daemon::addr::Route;
use serde::Deserialize;

/// `[tls]`. All files are read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM; nobody else may be able to read it.
    pub key: PathBuf,
    /// Client certificates.
    pub client: Option<ClientCertificates>,
}

/// `[tls.client]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// Who signs them, PEM.
    pub authorities: PathBuf,
    /// Take no connection without one.
    #[serde(default)]
    pub required: bool,
    /// A certificate is a credential, used where a request brings no other: its subject is the certificate's common name,
    /// and so is its route where it can be one, else `c-` and 12 hexadecimal digits of its SHA-256.
    #[serde(default)]
    pub identify: bool,
    /// The route of all of them, instead.
    pub route: Option<Route>,
}
