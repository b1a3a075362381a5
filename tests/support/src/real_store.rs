//! A real object store as a process, with a bucket of its own in a temporary directory.

use std::net::{Ipv4Addr, SocketAddr};

use tempfile::TempDir;

use crate::{
    objects::{ACCESS_KEY, SECRET_KEY, SignedClient},
    real::quiet_port,
    real_server::RealServer,
};

/// The bucket that is made at the start.
const BUCKET: &str = "snapshots";

/// A store of `tests/real/store`; dropped, it is killed, and what it said printed if the test is failing.
#[derive(Debug)]
pub struct RealStore {
    kind: Kind,
    server: RealServer,
    address: SocketAddr,
    _root: TempDir,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Moto,
    S3rver,
    S3sFs,
}

impl RealStore {
    /// Every store there is, as `.cache/have` and [`RealStore::start`] name it; see [`crate::have`].
    pub const ALL: [&str; 3] = ["moto", "s3s-fs", "s3rver"];

    /// Starts this one on a free loopback port, waits until it listens, and makes its bucket.
    pub async fn start(name: &str) -> RealStore {
        let kind = match name {
            "moto" => Kind::Moto,
            "s3rver" => Kind::S3rver,
            "s3s-fs" => Kind::S3sFs,
            _ => panic!("{name} is none of {:?}", RealStore::ALL),
        };
        let root = tempfile::tempdir().expect("a temporary directory");
        let port = quiet_port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listening = match kind {
            Kind::Moto => format!("Running on http://{address}"),
            Kind::S3rver => format!("listening on {address}"),
            Kind::S3sFs => format!("server is running at http://{address}"),
        };
        let folder = root.path().to_str().expect("temporary paths are UTF-8");
        let args = [name, "--root", folder].map(str::to_owned).to_vec();
        let env = vec![("STORE_SECRET".to_owned(), SECRET_KEY.to_owned())];
        let server = RealServer::launch("store", args, env, listening, port).await;
        let store = RealStore { kind, server, address, _root: root };
        let made = store.client().ask("PUT", &format!("/{BUCKET}"), &[], b"").await;
        let made = made.unwrap_or_else(|error| panic!("{name} makes no bucket: {error}"));
        assert_eq!(made.status, 200, "{name} makes no bucket: {}", made.text());
        store
    }

    /// What `--endpoint` takes.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        BUCKET
    }

    /// The key that requests are signed with.
    pub fn access_key(&self) -> &str {
        if self.kind == Kind::S3rver { "S3RVER" } else { ACCESS_KEY }
    }

    /// Its secret.
    pub fn secret_key(&self) -> &str {
        if self.kind == Kind::S3rver { "S3RVER" } else { SECRET_KEY }
    }

    /// Whether a conditional write whose condition does not hold is refused.
    pub fn honours_conditions(&self) -> bool {
        self.kind != Kind::S3rver
    }

    /// Whether a wrong key or signature is refused.
    pub fn checks_signatures(&self) -> bool {
        self.kind == Kind::S3sFs
    }

    /// A client with the right key.
    pub fn client(&self) -> SignedClient {
        SignedClient::new(self.address, self.access_key(), self.secret_key(), "us-east-1")
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill9(&mut self) {
        self.server.kill9().await;
    }
}
