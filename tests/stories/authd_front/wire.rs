//! Bytes on sockets, plain and by TLS, for what no honest client does or shows.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::Authd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What takes so long hangs.
pub const SOON: Duration = Duration::from_secs(30);

/// Connects from an address of loopback.
pub async fn connect_from(last: u8, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 1, last).into(), 0)).unwrap();
    let stream = timeout(SOON, socket.connect(to.parse().unwrap())).await.expect("it accepts").unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes and reads until the other side has nothing more to say.
pub async fn exchange(to: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(stream).await
}

pub async fn read_to_end(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it answers and closes, or closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What a TLS client trusts, shows and offers.
#[derive(Clone)]
pub struct Dialer(Arc<ClientConfig>);

impl Dialer {
    /// Trusts one authority, PEM; shows a certificate and key, PEM, if there are some.
    pub fn new(trusted: &str, shown: Option<(&str, &str)>, alpn: &[&str]) -> Dialer {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Every connection proves that it can shake hands.
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        Dialer(Arc::new(config))
    }

    pub async fn connect(&self, authd: &Authd, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let address = authd.url().split('/').nth(2).unwrap().to_owned();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        timeout(SOON, TlsConnector::from(self.0.clone()).connect(name, stream))
            .await
            .expect("it shakes hands")
    }

    /// Connects and speaks what was agreed on.
    pub async fn talk(&self, authd: &Authd, name: &str) -> std::io::Result<Line> {
        let stream = self.connect(authd, name).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        Ok(if is_h2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(65_535)
                .initial_connection_window_size(65_535)
                .handshake(io)
                .await
                .map_err(std::io::Error::other)?;
            Line::H2(sender, tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(std::io::Error::other)?;
            tokio::spawn(connection);
            Line::H1(sender)
        })
    }
}

/// A connection by TLS.
pub enum Line {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>, tokio::task::JoinHandle<()>),
}

impl Line {
    /// Sends a request and returns the answer, its body unread. The URI's authority is the host.
    pub async fn open(&mut self, mut request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Line::H1(sender) => {
                let host = request.uri().authority().unwrap().as_str().parse().unwrap();
                request.headers_mut().insert("host", host);
                *request.uri_mut() = request.uri().path().parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
            Line::H2(sender, _) => {
                *request.version_mut() = Version::HTTP_2;
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and reads the answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Bytes>> {
        let answer = timeout(SOON, self.open(request)).await.expect("it answers")?;
        let (head, body) = answer.into_parts();
        let body = timeout(SOON, body.collect()).await.expect("its answer ends")?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    pub fn is_h2(&self) -> bool {
        matches!(self, Line::H2(..))
    }
}
