use super::*;

#[tokio::test]
async fn twenty_held_connections_are_released_together_with_all_they_sent() {
    for kind in KINDS {
        let world = World::asleep(kind, 20).await;
        let mut clients = Vec::new();
        for number in 10..30 {
            clients.push(world.held(&format!("client {number}")).await);
        }
        assert_eq!((world.door.free_places(), world.open()), (0, 0));
        world.wake();
        let mut heard = Vec::new();
        for _ in &clients {
            let (mut server, _) = world.server.accept().await.unwrap();
            let mut words = [0; 9];
            server.read_exact(&mut words).await.unwrap();
            server.write_all(&words).await.unwrap();
            heard.push(words);
        }
        for (client, number) in clients.iter_mut().zip(10..) {
            read(client, &format!("client {number}")).await;
        }
        heard.sort_unstable();
        heard.dedup();
        assert_eq!((heard.len(), world.door.free_places()), (20, 20), "{kind:?}");
    }
}

#[tokio::test]
async fn a_client_that_closes_or_resets_while_held_frees_its_place_at_once() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        for (words, reset) in [("request", false), ("", false), ("request", true)] {
            let client = world.held(words).await;
            assert_eq!(world.door.free_places(), 0);
            if let Stream::Tcp(client) = &client
                && reset
            {
                client.set_zero_linger().unwrap();
            }
            drop(client);
            until(|| world.door.free_places() == 1).await;
        }
        // Over TCP one that sent something and closed may as well wait for its answer.
        let may_still_wait = if kind == Kind::Tcp { 1 } else { 0 };
        assert_eq!(world.gate.waiting.load(Ordering::Relaxed), may_still_wait);
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_while_held_is_served() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        let mut client = world.held("request").await;
        client.shutdown().await.unwrap();
        until(|| world.door.free_places() == 1).await;
        world.wake();
        let (mut server, _) = world.server.accept().await.unwrap();
        assert_eq!(read_to_end(&mut server).await, b"request");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(read_to_end(&mut client).await, b"answer", "{kind:?}");
    }
}

#[tokio::test]
async fn nothing_is_forwarded_for_a_client_that_ended_its_side_and_then_closed() {
    let world = World::asleep(Kind::Unix, 1).await;
    let mut gone = world.held("request").await;
    gone.shutdown().await.unwrap();
    until(|| world.door.free_places() == 1).await;
    drop(gone);
    let mut client = world.held("hello").await;
    world.wake();
    let (mut server, _) = world.server.accept().await.unwrap();
    read(&mut server, "hello").await;
    server.write_all(b"answer").await.unwrap();
    read(&mut client, "answer").await;
    until(|| world.gate.waiting.load(Ordering::Relaxed) == 0).await;
    assert_eq!(world.open(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_died_a_moment_ago_costs_another_lease_and_no_request() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        *world.gate.stale.lock().unwrap() = vec![nobody().await; 2];
        let mut client = world.connect().await;
        client.write_all(b"request").await.unwrap();
        let (mut server, _) = world.server.accept().await.unwrap();
        read(&mut server, "request").await;
        assert_eq!((world.gate.leases.load(Ordering::Relaxed), world.open()), (3, 1));
    }
}

/// An address where nothing listens.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn open_connections_outlive_the_drain_until_the_server_ends_them() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        let (mut client, mut server) = world.pair().await;
        world.life.drain();
        if let Listen::Unix(path) = &world.listen {
            until(|| !path.exists()).await;
        }
        client.write_all(b"question").await.unwrap();
        read(&mut server, "question").await;
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(read_to_end(&mut client).await, b"answer");
        drop(client);
        assert_eq!(world.life.finish().await, 0);
    }
}
