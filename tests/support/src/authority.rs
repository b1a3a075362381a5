//! An authority whose certificates only those trust who have its own.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::tls_front::Face;

/// Signs certificates, as long as the test lives.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, as `SSL_CERT_FILE` takes it.
    pub pem: String,
}

impl Authority {
    /// A new one of this name, with a new key.
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).expect("it can sign itself").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A server with a certificate for `host`, good in every way.
    pub fn face(&self, host: &str) -> Face {
        self.face_with(host, |_| {})
    }

    /// The same with a certificate that is altered first.
    pub fn face_with(&self, host: &str, alter: impl FnOnce(&mut CertificateParams)) -> Face {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([host.to_owned()]).expect("a host of the test");
        alter(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        Face::tls(certificate.der(), key.serialized_der())
    }
}
