use super::*;

const REQUEST: &[u8] = b"POST /mcp HTTP/1.1\r\nhost: x\r\n\r\n";

async fn refused(client: &mut Stream, reason: &str) {
    let answer = String::from_utf8(read_to_end(client).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: "), "{answer}");
    assert!(answer.contains("\r\nMcp-Not-Forwarded: 1\r\n"), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\n{reason}\n")), "{answer}");
}

fn refusal() -> Refusal {
    Refusal { retry_after: Duration::from_secs(7), text: "it is broken".to_owned() }
}

#[tokio::test]
async fn the_503_reaches_a_client_that_sends_a_large_body_first() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        *world.gate.refusal.lock().unwrap() = Some(refusal());
        let mut client = world.connect().await;
        client.write_all(REQUEST).await.unwrap();
        client.write_all(&noise(1024 * 1024)).await.unwrap();
        refused(&mut client, "it is broken").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_and_a_client_that_says_nothing_get_the_503_too() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        *world.gate.refusal.lock().unwrap() = Some(refusal());
        let mut client = world.connect().await;
        client.write_all(&REQUEST[..9]).await.unwrap();
        refused(&mut client, "it is broken").await;
        refused(&mut world.connect().await, "it is broken").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_sends_for_ever_is_closed_in_the_end() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        *world.gate.refusal.lock().unwrap() = Some(refusal());
        let mut client = world.connect().await;
        while client.write_all(&[b'x'; 10_000]).await.is_ok() {}
        // Nobody else is left but who accepts.
        until(|| world.life.running() == 1).await;
        // One that says nothing and never closes as well.
        let client = world.connect().await;
        until(|| world.life.running() == 2).await;
        while world.life.running() > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        drop(client);
    }
}

#[tokio::test]
async fn one_client_more_than_there_are_places_is_refused_and_not_when_the_server_is_ready() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        let _held = world.held("request").await;
        let mut client = world.connect().await;
        client.write_all(REQUEST).await.unwrap();
        refused(&mut client, "too many connections wait for the server to start").await;
        world.wake();
        let (_first, _second, _third) = (world.pair().await, world.pair().await, world.pair().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_held_too_long_is_refused() {
    for kind in KINDS {
        let world = World::asleep(kind, 1).await;
        let began = tokio::time::Instant::now();
        let mut client = world.connect().await;
        client.write_all(REQUEST).await.unwrap();
        refused(&mut client, "the server did not become ready in time").await;
        assert_eq!(began.elapsed().as_secs(), 60);
        assert_eq!(world.door.free_places(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_ready_and_takes_no_connection_is_not_tried_for_ever() {
    let world = World::asleep(Kind::Unix, 1).await;
    world.gate.target.send_replace(Some(holding::nobody().await));
    let mut client = world.connect().await;
    client.write_all(REQUEST).await.unwrap();
    refused(&mut client, "the server is ready but does not take the connection").await;
    assert_eq!((world.gate.leases.load(Ordering::Relaxed), world.open()), (3, 0));
}

#[tokio::test]
async fn held_clients_are_refused_when_the_drain_begins() {
    for kind in KINDS {
        let world = World::asleep(kind, 9).await;
        let request = std::str::from_utf8(REQUEST).unwrap();
        let mut clients = [world.held(request).await, world.held(request).await];
        world.life.drain();
        for client in &mut clients {
            refused(client, "the supervisor stops").await;
        }
        drop(clients);
        assert_eq!(world.life.finish().await, 0);
    }
}
