//! What people want to know of our certificate: for whom, from when, until when.

use std::net::IpAddr;

use jiff::Timestamp;
use mcp_daemon::terminal;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// From how many seconds before the end on somebody should see to it: 14 days.
const SOON: i64 = 14 * 86_400;

/// For whom a certificate is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// Names, possibly with `*` as their first label.
    pub(super) dns: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// From when until when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Term {
    /// Its first second.
    pub from: i64,
    /// Its last one.
    pub until: i64,
}

/// What is wrong with a certificate that can be shown all the same.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Complaint {
    /// Every client refuses it.
    #[error("the certificate has expired on {0}; renew it")]
    Expired(Timestamp),
    /// Every client will refuse it.
    #[error("the certificate expires on {0}; renew it")]
    ExpiresSoon(Timestamp),
    /// Clients look at nothing else.
    #[error("the certificate names no host (subjectAltName); clients will refuse it")]
    Nameless,
    /// Every client refuses it still.
    #[error("the certificate is not valid before {0}; is the clock right?")]
    NotYet(Timestamp),
}

/// Reads names and term; the error is for people.
pub fn read(certificate: &CertificateDer<'_>) -> Result<(Names, Term), String> {
    let certificate = parse(certificate)?;
    let term = Term {
        from: certificate.validity().not_before.timestamp(),
        until: certificate.validity().not_after.timestamp(),
    };
    let mut names = Names::default();
    let alternatives = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.dns.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                names.addresses.extend(address.ok());
            }
            _ => {}
        }
    }
    Ok((names, term))
}

/// The first common name of the subject, and the last second of a certificate.
pub fn common_name(certificate: &CertificateDer<'_>) -> Result<(Option<String>, i64), String> {
    let certificate = parse(certificate)?;
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok((name.map(str::to_owned), certificate.validity().not_after.timestamp()))
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, String> {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => Ok(certificate),
        Err(error) => Err(format!("not a certificate: {}", terminal::clean(&error.to_string()))),
    }
}

impl Names {
    /// Whether a host, without its port, is one of them.
    pub fn cover(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let host = host.trim_end_matches('.');
        self.dns.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
            None => name.eq_ignore_ascii_case(host),
        })
    }

    /// All of them, for people.
    pub fn list(&self) -> Vec<String> {
        self.dns.iter().cloned().chain(self.addresses.iter().map(IpAddr::to_string)).collect()
    }
}

impl Term {
    /// Its last second, for people.
    pub fn end(&self) -> Timestamp {
        date(self.until)
    }
}

fn date(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

impl Complaint {
    /// Whether `check` refuses it; the others are warnings.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Complaint::Expired(_))
    }
}

/// What is wrong at `now`, in seconds since 1970.
pub fn complaints(names: &Names, term: Term, now: i64) -> Vec<Complaint> {
    let mut found = Vec::new();
    if now > term.until {
        found.push(Complaint::Expired(date(term.until)));
    } else if now > term.until - SOON && term.until - term.from > 2 * SOON {
        // One that lives for days only is renewed by a machine.
        found.push(Complaint::ExpiresSoon(date(term.until)));
    }
    if now < term.from {
        found.push(Complaint::NotYet(date(term.from)));
    }
    if names.list().is_empty() {
        found.push(Complaint::Nameless);
    }
    found
}
