//! TLS in front of a misbehaving server, as a reverse proxy would speak it, with a certificate of the test's choice.
//!
//! It reads nothing of what passes. What the server does wrong is decided at the server, what TLS does wrong here.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};

use crate::{address::bind, server::Server};

/// What a [`TlsFront`] shows to whoever connects.
#[derive(Clone, Debug)]
pub enum Face {
    /// Nothing: the connection is accepted, and a handshake on it hangs.
    Mute,
    /// No TLS: what comes goes to the server as it is, which answers in plain HTTP.
    Plain,
    /// TLS 1.2 and 1.3; made by [`Face::tls`].
    Tls(Arc<ServerConfig>),
}

impl Face {
    /// TLS with this certificate and its key, in DER and PKCS #8.
    pub fn tls(certificate: &[u8], key: &[u8]) -> Face {
        let chain = vec![CertificateDer::from(certificate.to_vec())];
        let key = PrivatePkcs8KeyDer::from(key.to_vec()).into();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("tests use a key that belongs to its certificate");
        // With a list of its own it refuses clients that offer others only.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Face::Tls(Arc::new(config))
    }
}

/// A running (or stopped) front; dropped, it cuts its connections and is gone.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    server: SocketAddr,
    handshakes: Arc<AtomicUsize>,
    running: Mutex<Option<Running>>,
    /// Bound while nobody listens: connections are refused, and nobody else gets the port.
    reserved: Mutex<Option<TcpSocket>>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl TlsFront {
    /// Listens on an ephemeral loopback port; `server` must not be strict about `Host`, which names this port.
    pub async fn start(server: &Server, face: Face) -> TlsFront {
        TlsFront::before((Ipv4Addr::LOCALHOST, server.port()).into(), face)
    }

    /// The same in front of whatever listens there.
    pub fn before(server: SocketAddr, face: Face) -> TlsFront {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("an ephemeral loopback port is free");
        let front = TlsFront {
            address: socket.local_addr().expect("it is bound"),
            server,
            handshakes: Arc::default(),
            running: Mutex::default(),
            reserved: Mutex::new(Some(socket)),
        };
        front.start_again(face);
        front
    }

    /// Where clients connect: `https://HOST:PORT/mcp`; `host` is a name or address of loopback.
    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/mcp", self.address.port())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many handshakes went well, over all its lives.
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Cuts every connection, and returns when new ones are refused; the server behind it notices no more than that.
    pub async fn stop(&self) {
        let running = self.running.lock().expect("not poisoned").take();
        let Running { stop, task } = running.expect("stop() on a front that runs");
        stop.send_replace(true);
        task.await.expect("serving does not panic");
        let reserved = bind(self.address).expect("a port just closed can be bound again");
        *self.reserved.lock().expect("not poisoned") = Some(reserved);
    }

    /// Listens on the same port again, with this face.
    pub fn start_again(&self, face: Face) {
        let socket = self.reserved.lock().expect("not poisoned").take();
        let socket = socket.expect("start_again() on a front that does not run");
        let listener = socket.listen(1024).expect("a port of ours can be listened on");
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, face, self.server, self.handshakes.clone(), stopped));
        *self.running.lock().expect("not poisoned") = Some(Running { stop, task });
    }

    /// Stops and starts again with another face, like a server that is restarted to take a new certificate.
    pub async fn restart(&self, face: Face) {
        self.stop().await;
        self.start_again(face);
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().ok().and_then(Option::take) {
            running.task.abort();
        }
    }
}

/// Accepts until `stop`; returns when the last connection is closed.
async fn serve(
    listener: TcpListener,
    face: Face,
    server: SocketAddr,
    handshakes: Arc<AtomicUsize>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            // A client that is gone again is no reason to stop.
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(stream, face.clone(), server, handshakes.clone()));
            },
        }
    }
    // A child of the test that is between fork and exec has a copy of the descriptor, so closing ours ends nothing yet.
    let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
    connections.shutdown().await;
}

/// Ends, like a broken connection does, without a word.
async fn connection(stream: TcpStream, face: Face, server: SocketAddr, handshakes: Arc<AtomicUsize>) {
    let _ = match face {
        Face::Mute => silence(stream).await,
        Face::Plain => pass(stream, server).await,
        Face::Tls(config) => match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => {
                handshakes.fetch_add(1, Ordering::Relaxed);
                pass(stream, server).await
            }
            // The client does not like the certificate.
            Err(error) => Err(error),
        },
    };
}

/// Holds the connection until the client gives up.
async fn silence(mut stream: TcpStream) -> io::Result<()> {
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop)
}

async fn pass(mut stream: impl AsyncRead + AsyncWrite + Unpin, server: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut stream, &mut server).await.map(drop)
}
