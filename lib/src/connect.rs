//! How the client reaches an endpoint: TCP, TLS over TCP, or a Unix socket, all under one deadline.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{self, ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};

use crate::gather::poll_write_all_in_one;
use crate::keepalive;
use crate::upstream::socket_of;

/// Opens connections for the client.
#[derive(Clone)]
pub(crate) struct Connector {
    timeout: Duration,
    /// Made at the first https connection: reading the system's certificates costs some 10 ms and 1 MB.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Connector {
    pub(crate) fn new(timeout: Duration) -> Self {
        Connector { timeout, tls: Arc::default() }
    }

    /// Opens a connection within the deadline.
    pub(crate) async fn open(&self, uri: &Uri) -> io::Result<Stream> {
        tokio::time::timeout(self.timeout, self.connect(uri)).await.unwrap_or_else(|_elapsed| {
            let text = format!("no connection within {} ms", self.timeout.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }

    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        if let Some(path) = socket_of(uri) {
            return UnixStream::connect(path).await.map(Stream::Unix);
        }
        let https = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = uri.host().ok_or_else(|| invalid("no host"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let stream = tcp(host, port).await?;
        // Without it a request written in two pieces waits 40 ms for the peer's acknowledgement.
        stream.set_nodelay(true)?;
        keepalive::ask(&stream);
        if !https {
            return Ok(Stream::Tcp(stream));
        }
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| invalid("not a host name TLS can check"))?;
        let stream = TlsConnector::from(self.tls()?).connect(name, stream).await.map_err(explain)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls_config().map_err(io::Error::other)?);
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }
}

/// The usual mistake in plain words.
fn explain(error: io::Error) -> io::Error {
    use rustls::InvalidMessage::InvalidContentType;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidMessage(InvalidContentType)) => {
            io::Error::new(error.kind(), "the server does not speak TLS; is its address http://?")
        }
        _ => error,
    }
}

/// TLS 1.2 and 1.3, checked against the certificates that the system trusts.
fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier::new(Arc::clone(&provider))?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous() // the name of the method; the verifier is the platform's
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return TcpStream::connect((ip, port)).await;
    }
    if host.eq_ignore_ascii_case("localhost") {
        // Needs no resolver, which would start a thread.
        let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return TcpStream::connect(&both.map(|ip| SocketAddr::new(ip, port))[..]).await;
    }
    TcpStream::connect((host, port)).await
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// An open connection.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// The socket by its number, unless what lies on it is TLS's own affair.
    pub(crate) fn plain_socket(&self) -> Option<RawFd> {
        match self {
            Stream::Tcp(stream) => Some(stream.as_raw_fd()),
            Stream::Tls(_) => None,
            Stream::Unix(stream) => Some(stream.as_raw_fd()),
        }
    }
}

/// Does the same to whichever stream it is.
macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Tls($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => poll_write_all_in_one(Pin::new(stream), cx, slices),
            // Gathers them itself.
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => poll_write_all_in_one(Pin::new(stream), cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
