//! Client certificates as credentials: who signs them, and what one is worth.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use mcp_daemon::addr::Route;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::secret::hex;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use super::Refused;
use crate::config::tls::{ClientCertificates, Tls};
use crate::front::tls::{self, certificate};
use crate::identity::{Fingerprint, Identity, Scopes, Standing, Subject};

/// Who signs client certificates.
#[derive(Clone)]
pub struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    /// SHA-256 of their certificates.
    digest: [u8; 32],
}

/// A certificate that a client showed, its chain with it.
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    digest: [u8; 32],
    common_name: Option<String>,
    expires: u64,
    /// The authorities that have last been found to vouch for it: the first 8 bytes of their digest.
    vouched: AtomicU64,
}

/// What certificates are worth.
pub struct Certificates {
    authorities: Authorities,
    route: Option<Route>,
    /// Of both.
    standing: Standing,
}

impl Authorities {
    /// The error is for people.
    pub fn new(listed: Vec<CertificateDer<'static>>, required: bool) -> Result<Self, String> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut roots = RootCertStore::empty();
        for certificate in listed {
            context.update(&certificate);
            roots.add(certificate).map_err(|error| format!("not an authority's certificate: {error}"))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder.build().map_err(|error| error.to_string())?;
        let digest = context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Ok(Self { verifier, digest })
    }

    /// For handshakes.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    fn mark(&self) -> u64 {
        u64::from_le_bytes(self.digest[..8].try_into().expect("8 of 32 bytes"))
    }
}

/// The digest alone: two are the same if the same certificates are in them.
impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Authorities({})", hex(&self.digest[..4]))
    }
}

impl Shown {
    /// A certificate that `authorities` have been found to vouch for; the error is for the log.
    pub fn new(chain: &[CertificateDer<'_>], authorities: &Authorities) -> Result<Self, String> {
        let (common_name, expires) = certificate::common_name(&chain[0])?;
        let digest = digest::digest(&digest::SHA256, &chain[0]);
        Ok(Self {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            digest: digest.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            common_name,
            expires: u64::try_from(expires).unwrap_or_default(),
            vouched: AtomicU64::new(authorities.mark()),
        })
    }

    /// Whether `authorities` vouch for it, which has to be found out anew only when they are others than before.
    fn is_vouched_by(&self, authorities: &Authorities, now: u64) -> bool {
        let mark = authorities.mark();
        if self.vouched.load(Ordering::Relaxed) == mark {
            return true;
        }
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let is_vouched =
            authorities.verifier.verify_client_cert(&self.chain[0], &self.chain[1..], now).is_ok();
        if is_vouched {
            self.vouched.store(mark, Ordering::Relaxed);
        }
        is_vouched
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Shown({})", hex(&self.digest[..4]))
    }
}

impl Certificates {
    /// `None` where certificates are no credentials.
    pub fn load(tls: Option<&Tls>) -> Result<Option<Self>, ConfigProblem> {
        let Some((tls, client)) = tls.and_then(|tls| Some((tls, tls.client.as_ref()?))) else {
            return Ok(None);
        };
        let ClientCertificates { identify: true, route, .. } = client else { return Ok(None) };
        let authorities = tls::authorities(tls)?.expect("the settings name them");
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&authorities.digest);
        context.update(route.as_ref().map_or("", Route::as_str).as_bytes());
        let standing = context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Ok(Some(Self { authorities, route: route.clone(), standing: Standing::Certificate(standing) }))
    }

    /// What a certificate is worth at `now`, seconds since 1970.
    pub fn identify(&self, shown: &Shown, now: u64) -> Result<Arc<Identity>, Refused> {
        let refuse = |what: &str| Refused::Certificate(format!("{}: {what}", hex(&shown.digest[..4])));
        if now >= shown.expires {
            return Err(refuse("it has expired"));
        }
        if !shown.is_vouched_by(&self.authorities, now) {
            return Err(refuse("its authority is not trusted any more"));
        }
        let name = shown.common_name.as_deref().ok_or_else(|| refuse("it has no common name"))?;
        let subject: Subject = name.parse().map_err(|_| refuse("its common name is no subject"))?;
        let own = || name.parse().unwrap_or_else(|_| numbered(&shown.digest));
        Ok(Arc::new(Identity {
            subject,
            route: self.route.clone().unwrap_or_else(own),
            scopes: Scopes::All,
            expires: Some(shown.expires),
            fingerprint: Fingerprint::of_certificate(&shown.digest),
            standing: self.standing.clone(),
        }))
    }

    /// See [`Credentials::still`](super::Credentials::still).
    pub fn still(&self, identity: &Identity) -> bool {
        identity.standing == self.standing
    }
}

/// The route of a certificate whose name can be none: `c-` and 12 hexadecimal digits.
fn numbered(digest: &[u8; 32]) -> Route {
    format!("c-{}", hex(&digest[..6])).parse().expect("letters and digits are a route")
}
