use std::env;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use super::*;

/// Where the child listens, and where the server is.
const LISTEN: &str = "WAKE_TEST_LISTEN";
const TARGET: &str = "WAKE_TEST_TARGET";
const CLIENTS: usize = 200;

#[tokio::test]
async fn forty_descriptors_serve_two_hundred_clients() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcp.sock");
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let child = "wake::tests::descriptors::a_wake_listener_in_a_process_of_its_own";
    let _child = Command::new("sh")
        .args(["-c", r#"ulimit -n 40 && exec "$0" "$@""#])
        .arg(env::current_exe().unwrap())
        .args(["--exact", child, "--ignored"])
        .env(LISTEN, &path)
        .env(TARGET, server.local_addr().unwrap().to_string())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    while UnixStream::connect(&path).await.is_err() {
        tokio::task::yield_now().await;
    }
    let life = Life::new(Duration::ZERO);
    // It answers only who has been seen to its end, so that all who get in hold on to their descriptors.
    life.spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut word = [0; 5];
            if stream.read_exact(&mut word).await.is_ok() {
                stream.write_all(&word).await.unwrap();
            }
        }
    });
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(read_to_end(&mut client).await, b"hello");
    }
}

#[tokio::test]
#[ignore = "started by the test above"]
async fn a_wake_listener_in_a_process_of_its_own() {
    let (listen, target) = (env::var_os(LISTEN).unwrap(), env::var(TARGET).unwrap());
    let listener =
        Listener::bind(&Listen::Unix(PathBuf::from(listen)), BindOptions::default()).unwrap().remove(0);
    let gate = Arc::new(Fixed(target.parse().unwrap()));
    let hold = Hold {
        connections: NonZeroUsize::new(1000).unwrap(),
        open: NonZeroUsize::new(1000).unwrap(),
        timeout: Span::seconds(60),
    };
    serve(listener, gate, &hold, Life::new(Duration::ZERO)).await;
}

struct Fixed(SocketAddr);

impl Gate for Fixed {
    fn lease(&self) -> Leasing<'_> {
        Box::pin(async { Ok(Lease { target: self.0, guard: Box::new(()) }) })
    }
}
