//! Asking over TCP whether the peer still lives, while nobody has anything to say.
//!
//! A machine that is switched off, or a NAT that forgot a connection, says nothing: without this a stream to it stays open
//! for ever, and a request to a server that is gone waits for ever.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence before the first question. Also what keeps a connection known to NATs and balancers, the strictest of which
/// forget one after some minutes.
const SILENCE: Duration = Duration::from_secs(60);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(60);
/// Questions without an answer that end a connection: some minutes, so that neither a network that is away for a moment nor a
/// laptop that is carried from one room to another costs a stream.
const QUESTIONS: u32 = 5;

/// From now on the kernel asks. A socket that does not know how is used as it is.
pub(crate) fn ask(stream: &TcpStream) {
    let how = TcpKeepalive::new().with_time(SILENCE).with_interval(PAUSE).with_retries(QUESTIONS);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&how) {
        log::debug!(error:% = error; "no keepalive");
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::accept::{Stream as Accepted, accept_loop};
    use crate::addr::Listen;
    use crate::connect::{Connector, Stream as Connected};
    use crate::life::Life;
    use crate::listener::{BindOptions, Listener};

    #[tokio::test]
    async fn the_kernel_asks_both_clients_and_servers_whether_they_still_live() {
        let listen: Listen = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&listen, BindOptions::default()).unwrap().remove(0);
        let uri = format!("http://{}/mcp", listener.local()).parse().unwrap();
        let (life, (told, mut accepted)) = (Life::new(Duration::from_secs(10)), mpsc::unbounded_channel());
        let until = life.clone();
        life.spawn(async move {
            let handle = |stream, _, _, ()| told.send(stream).unwrap();
            accept_loop(listener, 9, &until, || Ok(()), handle).await;
        });
        let connected = Connector::new(Duration::from_secs(10)).open(&uri).await.unwrap();
        let (Connected::Tcp(ours), Some(Accepted::Tcp(theirs))) = (connected, accepted.recv().await) else {
            panic!("not TCP")
        };
        for stream in [ours, theirs] {
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            assert_eq!(
                (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()),
                (SILENCE, PAUSE)
            );
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
        }
    }
}
