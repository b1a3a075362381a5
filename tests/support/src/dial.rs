//! Connecting to an MCP address and sending HTTP/1.1 over it, with reuse of idle connections.

use std::{io, path::PathBuf, str::FromStr, sync::Mutex};

use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// The sending half of one connection.
pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Where to: `http://127.0.0.1:PORT/path` or `unix:/run/x.sock[:/path]`.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    place: Place,
    /// What `Host` says unless the request says otherwise.
    host: String,
    /// Path of the URL, `/mcp` where it has none.
    pub(crate) path: String,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(String),
    Unix(PathBuf),
}

/// A target and its idle connections.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) target: Target,
    idle: Mutex<Vec<Sender>>,
}

impl Dial {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, idle: Mutex::default() }
    }

    /// Sends on an idle connection or a new one; give the sender back with [`Dial::keep`] after the body.
    ///
    /// A request is written a second time only if nothing of it left the first time.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> io::Result<(Response<Incoming>, Sender)> {
        let mut request = self.target.complete(request).map(Full::new);
        while let Some(mut sender) = self.take_idle() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(io::Error::other(failed.into_error())),
                },
            }
        }
        let mut sender = self.target.connect().await?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok((response, sender))
    }

    /// Takes a connection back whose last body was read to its end.
    pub(crate) fn keep(&self, sender: Sender) {
        self.idle.lock().expect("not poisoned").push(sender);
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().expect("not poisoned");
        idle.retain(|sender| !sender.is_closed());
        let at = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }
}

impl Target {
    fn complete(&self, mut request: Request<Bytes>) -> Request<Bytes> {
        let uri = request.uri().path_and_query().map(ToString::to_string);
        let path =
            uri.filter(|uri| uri != "/" || request.uri().authority().is_some()).unwrap_or(self.path.clone());
        *request.uri_mut() = path.parse().expect("a path is a URI");
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.host.parse().expect("a host is a header value"));
        }
        request
    }

    async fn connect(&self) -> io::Result<Sender> {
        match &self.place {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                talk(stream).await
            }
            Place::Unix(path) => talk(UnixStream::connect(path).await?).await,
        }
    }
}

impl FromStr for Target {
    type Err = io::Error;

    fn from_str(url: &str) -> io::Result<Self> {
        if let Some(rest) = url.strip_prefix("unix:") {
            let (path, http_path) = rest.split_once(':').unwrap_or((rest, "/mcp"));
            return Ok(Self {
                place: Place::Unix(path.into()),
                host: "127.0.0.1:9121".into(),
                path: http_path.into(),
            });
        }
        let uri: Uri = url.parse().map_err(io::Error::other)?;
        let authority =
            uri.authority().ok_or_else(|| io::Error::other(format!("{url} names no host")))?.to_string();
        let path = if uri.path() == "/" { "/mcp" } else { uri.path() };
        Ok(Self { place: Place::Tcp(authority.clone()), host: authority, path: path.into() })
    }
}

async fn talk<S>(stream: S) -> io::Result<Sender>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its errors also reach the request or body that suffers from them.
    tokio::spawn(connection);
    Ok(sender)
}
