//! Client certificates as credentials: who signs them, and what one is worth.

use std::collections::HashSet;
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
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use super::Refused;
use super::names::{Naming, is_made};
use crate::config::tls::{ClientCertificates, Tls};
use crate::front::tls::{self, certificate};
use crate::identity::{Fingerprint, Identity, Scopes, Standing, Subject};

/// Who signs client certificates.
#[derive(Clone)]
pub struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
    /// SHA-256 of their certificates and of what they have revoked.
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
    settings: ClientCertificates,
    scopes: Scopes,
    /// Of the settings that make an identity.
    standing: Standing,
    /// SHA-256 of those that are worth nothing.
    disabled: HashSet<[u8; 32]>,
}

impl Authorities {
    /// Those that are listed, and what they have revoked; the error is for people.
    pub fn new(
        listed: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        required: bool,
    ) -> Result<Self, String> {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut roots = RootCertStore::empty();
        for certificate in listed {
            context.update(&certificate);
            roots.add(certificate).map_err(|error| format!("not an authority's certificate: {error}"))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        revoked.iter().for_each(|list| context.update(list));
        let builder = builder.with_crls(revoked).only_check_end_entity_revocation();
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
    /// `None` where nobody is asked for a certificate.
    pub fn load(tls: Option<&Tls>) -> Result<Option<Self>, ConfigProblem> {
        let Some((tls, settings)) = tls.and_then(|tls| Some((tls, tls.client.as_ref()?))) else {
            return Ok(None);
        };
        let authorities = tls::authorities(tls)?.expect("the settings name them");
        let ClientCertificates { subject_prefix, route, scopes, identify, .. } = settings;
        // `Debug` quotes every text, so no two of them read alike.
        let told = format!("{:?}", (subject_prefix, route, scopes, identify));
        let standing = digest::digest(&digest::SHA256, told.as_bytes());
        let scopes = match scopes {
            None => Scopes::All,
            Some(scopes) => Scopes::Only(Arc::new(scopes.iter().cloned().collect())),
        };
        Ok(Some(Self {
            authorities,
            scopes,
            standing: Standing::Certificate(standing.as_ref().try_into().expect("SHA-256 has 32 bytes")),
            disabled: settings.disabled.iter().filter_map(|text| fingerprint(text)).collect(),
            settings: settings.clone(),
        }))
    }

    /// What a certificate is worth at `now`, seconds since 1970.
    pub fn identify(&self, shown: &Shown, now: u64) -> Result<Arc<Identity>, Refused> {
        if !self.settings.identify {
            return Err(Refused::Missing);
        }
        self.check(shown, now)?;
        let name = shown.common_name.as_deref().ok_or_else(|| refuse(shown, "it has no common name"))?;
        let subject = format!("{}{name}", self.settings.subject_prefix);
        let subject: Subject = subject.parse().map_err(|_| refuse(shown, "its common name is no subject"))?;
        let own = || match subject.as_str().parse() {
            Ok(route) if !is_made(subject.as_str()) => route,
            _ => numbered(&shown.digest),
        };
        Ok(Arc::new(Identity {
            route: self.settings.route.clone().unwrap_or_else(own),
            subject,
            scopes: self.scopes.clone(),
            expires: Some(shown.expires),
            fingerprint: Fingerprint::of_certificate(&shown.digest),
            standing: self.standing.clone(),
        }))
    }

    /// Whether a connection may be used that showed this: any where no certificate is required.
    pub fn admit(&self, shown: Option<&Shown>, now: u64) -> Result<(), Refused> {
        match shown {
            _ if !self.settings.required => Ok(()),
            Some(shown) => self.check(shown, now),
            None => Err(Refused::Certificate("is required, and none was shown".into())),
        }
    }

    /// How certificates name people.
    pub fn naming(&self) -> Naming {
        Naming { shares: self.settings.shares_names, makes_routes: self.settings.route.is_none() }
    }

    /// Why one is refused whose name is another's.
    pub fn taken(&self, identity: &Identity) -> Refused {
        let what = "its name or route was given to somebody else; set tls.client.subject_prefix, or shares_names where they are the same";
        Refused::Certificate(format!("{}: {what}", identity.fingerprint))
    }

    /// See [`Credentials::still`](super::Credentials::still).
    pub fn still(&self, rules: &[u8; 32], shown: &Shown, now: u64) -> bool {
        self.standing == Standing::Certificate(*rules) && self.check(shown, now).is_ok()
    }

    fn check(&self, shown: &Shown, now: u64) -> Result<(), Refused> {
        let is_disabled = self.disabled.contains(&shown.digest)
            || shown.common_name.as_ref().is_some_and(|name| self.settings.disabled.contains(name));
        if is_disabled {
            Err(refuse(shown, "it is disabled"))
        } else if now >= shown.expires {
            Err(refuse(shown, "it has expired"))
        } else if !shown.is_vouched_by(&self.authorities, now) {
            Err(refuse(shown, "its authority has revoked it or is not trusted any more"))
        } else {
            Ok(())
        }
    }
}

fn refuse(shown: &Shown, what: &str) -> Refused {
    Refused::Certificate(format!("{}: {what}", hex(&shown.digest[..4])))
}

/// SHA-256 as people write it, with colons or without; anything else is a name.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let is_one = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate().take_while(|_| is_one) {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    is_one.then_some(digest)
}

/// The route of a certificate whose name can be none: `c-` and 12 hexadecimal digits.
fn numbered(digest: &[u8; 32]) -> Route {
    format!("c-{}", hex(&digest[..6])).parse().expect("letters and digits are a route")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_may_be_written_as_openssl_does() {
        let digest = [0xab; 32];
        assert_eq!(fingerprint(&"ab".repeat(32)), Some(digest));
        assert_eq!(fingerprint(&vec!["AB"; 32].join(":")), Some(digest));
        for name in ["carol", "", &"ab".repeat(31), &"xy".repeat(32)] {
            assert_eq!(fingerprint(name), None, "{name}");
        }
    }
}
