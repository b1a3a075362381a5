//! A handshake, and a word to those who come without one.

use std::io;
use std::sync::Arc;

use mcp_daemon::exit::chain;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Face;
use crate::credentials::certificates::Shown;

/// What a client hears that speaks plain HTTP to us.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 52\r\nconnection: close\r\n\r\nThis port speaks TLS; write https:// in your client\n";

/// What is known of a connection over TLS.
#[derive(Debug)]
pub struct Secure {
    /// What we showed.
    pub face: Arc<Face>,
    /// The client's certificate, if it showed one; its signature and chain have been checked.
    pub shown: Option<Shown>,
}

/// Why there is no TLS on a connection.
#[derive(Debug, thiserror::Error)]
pub enum NotSecure {
    /// The client speaks plain HTTP, and was told so.
    #[error("a client speaks plain HTTP to a port with TLS")]
    Plain,
    /// The handshake failed.
    #[error("no TLS handshake: {0}")]
    Tls(String),
}

/// Shakes hands with whoever connected.
pub async fn hands(
    mut stream: TcpStream,
    face: Arc<Face>,
) -> Result<(TlsStream<TcpStream>, Secure), NotSecure> {
    let failed = |error: io::Error| NotSecure::Tls(chain(&error));
    let mut first = [0];
    stream.peek(&mut first).await.map_err(failed)?;
    // TLS begins with a control character, HTTP with the name of a method.
    if first[0].is_ascii_uppercase() {
        stream.write_all(PLAIN).await.map_err(failed)?;
        stream.shutdown().await.map_err(failed)?;
        // Read to its end: closing a socket with bytes unread would take the answer away from the client.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map_err(failed)?;
        return Err(NotSecure::Plain);
    }
    let stream = TlsAcceptor::from(face.config.clone()).accept(stream).await.map_err(failed)?;
    let shown = match (stream.get_ref().1.peer_certificates(), &face.authorities) {
        (Some(chain), Some(authorities)) => Some(Shown::new(chain, authorities).map_err(NotSecure::Tls)?),
        _ => None,
    };
    Ok((stream, Secure { face, shown }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_to_plain_clients_is_as_long_as_it_says() {
        let text = str::from_utf8(PLAIN).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
