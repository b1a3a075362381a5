//! TLS for the servers that speak it and for their client: one certificate for 127.0.0.1, made anew in every run.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

/// What a server is given, as PEM.
pub struct Face {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What the client trusts.
static TRUSTED: OnceLock<TlsConnector> = OnceLock::new();

impl Face {
    /// A new one, which the client trusts from now on; to be called once.
    pub fn new() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let connector = connector(made.cert.der().clone())?;
        TRUSTED.set(connector).map_err(|_| io::Error::other("a run has one certificate"))?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }
}

fn connector(trusted: CertificateDer<'static>) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

/// A connection, with or without TLS.
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Secure(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects with `TCP_NODELAY`.
    pub async fn open(address: SocketAddr, is_secure: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !is_secure {
            return Ok(Self::Plain(stream));
        }
        let connector = TRUSTED.get().ok_or_else(|| io::Error::other("there is no certificate to trust"))?;
        let name = ServerName::IpAddress(address.ip().into());
        Ok(Self::Secure(Box::new(connector.connect(name, stream).await?)))
    }

    /// Reads some bytes; 0 at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Secure(stream) => stream.read(buffer).await,
        }
    }

    /// Writes all bytes.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Secure(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}
