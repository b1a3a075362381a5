//! The accept loop that `echo` and `hop` share: HTTP/1.1, `TCP_NODELAY`, one task per connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet};

/// Serves `listen` until the process is stopped, answering every request with `answer(state, request)`.
pub async fn serve<S, F, A, B>(listen: SocketAddr, state: Rc<S>, answer: F) -> io::Result<()>
where
    S: 'static,
    F: Fn(Rc<S>, Request<Incoming>) -> A + Copy + 'static,
    A: Future<Output = Response<B>> + 'static,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    raise_open_files()?;
    let listener = TcpListener::bind(listen).await?;
    LocalSet::new()
        .run_until(async {
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted?.0,
                    // Finished connections are let go at once, or their results would pile up.
                    Some(_) = connections.join_next() => continue,
                };
                stream.set_nodelay(true)?;
                let state = Rc::clone(&state);
                let service = service_fn(move |request| {
                    let answer = answer(Rc::clone(&state), request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections
                    .spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        })
        .await
}

/// Raises the soft limit of open files to the hard one (inherited by children) and returns it, in descriptors.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}
