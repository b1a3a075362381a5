//! `[tls]`: our certificate, and what we want to see of the client's.

use std::path::PathBuf;

use mcp_daemon::addr::Route;
use mcp_daemon::config::ConfigProblem;
use serde::Deserialize;

use super::{jwt, policy};

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
    /// What those who sign them have revoked, PEM: a list of each authority that signs clients. One whose time is over goes
    /// on being believed, because nobody is to be shut out for want of a file; a certificate without a list is refused.
    pub crl: Option<PathBuf>,
    /// Certificates that are worth nothing, by the 64 hexadecimal digits of their SHA-256 or by common name.
    #[serde(default)]
    pub disabled: Vec<String>,
    /// Take no connection without one. It is looked at again at every request.
    #[serde(default)]
    pub required: bool,
    /// A certificate is a credential, used where a request brings no other: its subject is the certificate's common name,
    /// and so is its route where it can be one, else `c-` and 12 hexadecimal digits of its SHA-256.
    #[serde(default)]
    pub identify: bool,
    /// Put before the common name, as in [`Issuer::subject_prefix`](jwt::Issuer::subject_prefix).
    #[serde(default)]
    pub subject_prefix: String,
    /// As [`Issuer::shares_names`](jwt::Issuer::shares_names).
    #[serde(default)]
    pub shares_names: bool,
    /// The route of all of them, instead.
    pub route: Option<Route>,
    /// What they are good for; default everything.
    pub scopes: Option<Vec<String>>,
}

/// Refuses what cannot work, by key.
pub fn check(tls: Option<&Tls>) -> Result<(), ConfigProblem> {
    let Some(client) = tls.and_then(|tls| tls.client.as_ref()) else { return Ok(()) };
    if !jwt::is_prefix(&client.subject_prefix) {
        return Err(ConfigProblem::key("tls.client.subject_prefix", jwt::NO_PREFIX));
    }
    if !client.scopes.iter().flatten().all(|scope| policy::is_scope(scope)) {
        let what = "expected scopes without spaces, `\"` and `\\`";
        return Err(ConfigProblem::key("tls.client.scopes", what));
    }
    Ok(())
}
