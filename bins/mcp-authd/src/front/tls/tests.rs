use std::path::PathBuf;

use mcp_daemon::files::write_atomic;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

struct Files {
    directory: TempDir,
    tls: Tls,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
        let files = Self { directory, tls: Tls { certificate, key, client: None } };
        files.write(&["localhost", "*.example.org", "127.0.0.1", "::1"], |_| {});
        files
    }

    fn write(&self, names: &[&str], alter: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        alter(&mut params);
        write_atomic(&self.tls.certificate, params.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
        write_atomic(&self.tls.key, key.serialize_pem().as_bytes()).unwrap();
    }

    fn problem(&self) -> String {
        Face::load(&self.tls).unwrap_err().to_string()
    }

    fn complaints(&self) -> String {
        let face = Face::load(&self.tls).unwrap();
        let complaints: Vec<String> = face.complaints().iter().map(ToString::to_string).collect();
        complaints.join("; ")
    }
}

#[test]
fn names_and_term_are_read_from_the_certificate() {
    let files = Files::new();
    let face = Face::load(&files.tls).unwrap();
    for host in ["localhost", "LOCALHOST.", "a.example.org", "127.0.0.1", "[::1]"] {
        assert!(face.names.cover(host), "{host}");
    }
    for host in ["example.org", "a.b.example.org", ".example.org", "127.0.0.2", "", "[::2]", "evil"] {
        assert!(!face.names.cover(host), "{host}");
    }
    assert_eq!(face.complaints(), []);
}

#[test]
fn what_is_wrong_with_a_date_or_a_name_is_said_with_the_date() {
    let files = Files::new();
    files.write(&["a"], |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    assert_eq!(files.complaints(), "the certificate has expired on 2021-01-01T00:00:00Z; renew it");
    files.write(&["a"], |params| params.not_before = date_time_ymd(3000, 1, 1));
    assert!(files.complaints().contains("not valid before 3000-01-01T00:00:00Z"), "{}", files.complaints());
    files.write(&[], |_| {});
    assert!(files.complaints().contains("names no host"), "{}", files.complaints());
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_unless_it_never_lives_long() {
    let names = Names { dns: vec!["a".into()], addresses: Vec::new() };
    let day = 86_400;
    let found = |days: i64, left: i64| {
        certificate::complaints(&names, Term { from: 0, until: days * day }, (days - left) * day)
    };
    assert!(matches!(found(90, 13)[..], [Complaint::ExpiresSoon(_)]));
    assert_eq!((found(90, 15), found(7, 6)), (vec![], vec![]));
    assert!(found(90, -1)[0].is_fatal() && !found(90, 13)[0].is_fatal());
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_key_and_what_is_wrong() {
    let files = Files::new();
    let (certificate, key) = (&files.tls.certificate, &files.tls.key);
    let at = |key: &str, path: &PathBuf| format!("tls.{key}: {}: ", path.display());
    let other = KeyPair::generate().unwrap().serialize_pem();
    write_atomic(key, other.as_bytes()).unwrap();
    assert!(files.problem().starts_with(&at("key", key)), "{}", files.problem());
    assert!(files.problem().contains("is not the key of the certificate"), "{}", files.problem());
    write_atomic(key, b"nothing").unwrap();
    assert!(files.problem().contains("no private key in PEM form"), "{}", files.problem());
    mcp_daemon::files::write_atomic_mode(key, other.as_bytes(), 0o644).unwrap();
    assert!(files.problem().contains("chmod 600"), "{}", files.problem());
    write_atomic(certificate, b"nothing").unwrap();
    assert!(files.problem().starts_with(&at("certificate", certificate)), "{}", files.problem());
    assert!(files.problem().contains("no certificate in PEM form"), "{}", files.problem());
    std::fs::remove_file(certificate).unwrap();
    assert!(files.problem().contains("No such file"), "{}", files.problem());
    assert!(files.directory.path().exists());
}
