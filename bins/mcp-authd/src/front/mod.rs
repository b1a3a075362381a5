//! Connections, and what of a request is about HTTP alone.

pub mod body;
pub mod h2;
pub mod headers;
pub mod health;
pub mod hosts;
pub mod manners;
pub mod metadata;
pub mod tls;

use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use mcp_daemon::accept::{Place as Room, Stream, accept_loop};
use mcp_daemon::body::Body;
use mcp_daemon::serve::{self, Listener, Peer, Quiet, ServeLimits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::tls::shake::{self, Secure};
use self::tls::{Face, H2};
use crate::config::Config;
use crate::credentials::recent::Recent;
use crate::gate::Gate;
use crate::limits::Place;
use crate::limits::strangers::{Bounds, Stranger};

/// What is known of a connection, for as long as it lasts.
pub struct Connection {
    /// The peer's address, where it has one.
    pub address: Option<IpAddr>,
    /// Whether it came over TCP, where `Host` and `Origin` have to be checked.
    pub is_tcp: bool,
    /// What is known by TLS, where it is spoken.
    pub secure: Option<Arc<Secure>>,
    /// Whether it has shown a good credential.
    pub stranger: Arc<Stranger>,
    /// The good credential that it showed last.
    pub recent: Recent,
    _room: Room,
}

/// Serves one listener until the drain.
pub async fn run(gate: Arc<Gate>, listener: Listener) {
    let (most, life) = (gate.config().limits.connections.get(), gate.life.clone());
    let handle = |stream, peer: Peer, room, ()| {
        let config = gate.config();
        let stranger = Arc::new(enter(&gate, &config, &peer));
        let connection = Connection {
            address: peer.address,
            is_tcp: peer.tcp,
            secure: None,
            stranger,
            recent: Recent::default(),
            _room: room,
        };
        let gate = gate.clone();
        // Each kind has code of its own, so that no read or write asks which it is.
        match (stream, gate.face.load_full()) {
            (Stream::Unix(stream), _) => life.spawn(plain(gate, config, stream, connection)),
            (Stream::Tcp(stream), None) => life.spawn(plain(gate, config, stream, connection)),
            (Stream::Tcp(stream), Some(face)) => life.spawn(secure(gate, config, stream, face, connection)),
        };
    };
    accept_loop(listener, most, &life, || Ok(()), handle).await;
}

/// Everybody is a stranger at first. Behind a trusted proxy, and on a Unix socket, is more than one.
fn enter(gate: &Gate, config: &Config, peer: &Peer) -> Stranger {
    let limits = &config.limits;
    let is_one = |address: &IpAddr| !config.trusted_proxies.iter().any(|network| network.contains(*address));
    let bounds = Bounds {
        of_place: peer.address.filter(is_one).map(|_| limits.strangers_per_address.get()),
        of_all: limits.connections.get().div_ceil(2),
        of_subject: limits.connections_per_subject.get(),
    };
    gate.limits.strangers.enter(Place::of(peer.address), bounds)
}

async fn plain<I>(gate: Arc<Gate>, config: Arc<Config>, stream: I, connection: Connection)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stranger = connection.stranger.clone();
    let (limits, life) = (serve_limits(&config), gate.life.clone());
    drop(config);
    stranger.serve(serve::connection(stream, limits, life, service(gate, connection))).await;
}

async fn secure(
    gate: Arc<Gate>,
    config: Arc<Config>,
    stream: TcpStream,
    face: Arc<Face>,
    mut connection: Connection,
) {
    let stranger = connection.stranger.clone();
    let (limits, streams) = (serve_limits(&config), config.limits.streams.get());
    drop(config);
    let (address, life) = (connection.address, gate.life.clone());
    let served = async {
        // Boxed: it is large, and soon over.
        let shaken = tokio::select! {
            shaken = timeout(limits.header_timeout, Box::pin(shake::hands(stream, face))) => shaken,
            () = life.draining() => return,
        };
        let (stream, secure) = match shaken {
            Ok(Ok(both)) => both,
            Ok(Err(why)) => {
                log::debug!(address:? = address, error:% = why; "no connection");
                return;
            }
            Err(_elapsed) => {
                log::debug!(address:? = address; "no connection, the handshake took too long");
                return;
            }
        };
        connection.secure = Some(Arc::new(secure));
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        let service = service(gate, connection);
        if is_h2 {
            Box::pin(h2::connection(stream, limits, streams, life, service)).await;
        } else {
            serve::connection(stream, limits, life, service).await;
        }
    };
    stranger.serve(served).await;
}

/// What answers the requests of a connection, and holds what is known of it.
fn service(
    gate: Arc<Gate>,
    connection: Connection,
) -> impl Fn(Request<Incoming>) -> Answering + Send + 'static {
    let connection = Arc::new(connection);
    move |request| Box::pin(gate.clone().answer(request, connection.clone()))
}

/// Boxed as a whole: a connection keeps room for what its service returns for as long as it is open.
type Answering = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

fn serve_limits(config: &Config) -> ServeLimits {
    let limits = &config.limits;
    let quiet = Quiet { idle: limits.idle.duration(), stall: limits.answer_timeout.duration() };
    ServeLimits {
        connections: limits.connections.get(),
        header_timeout: limits.head_timeout.duration(),
        max_header_bytes: limits.head.bytes(),
        quiet: Some(quiet),
    }
}
