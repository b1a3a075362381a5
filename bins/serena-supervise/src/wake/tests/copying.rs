use super::*;

/// More than every buffer on the way together.
const MUCH: usize = 32 * 1024 * 1024;

#[tokio::test]
async fn bytes_arrive_unchanged_both_ways_and_each_side_may_end_first() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        for client_first in [true, false] {
            let (client, server) = world.pair().await;
            let (question, answer) = (noise(300_001), noise(700_003));
            let (mut first, mut second): (Box<dyn Both>, Box<dyn Both>) = if client_first {
                (Box::new(client), Box::new(server))
            } else {
                (Box::new(server), Box::new(client))
            };
            let (said, heard) = tokio::join!(
                async {
                    first.write_all(&question).await.unwrap();
                    first.shutdown().await.unwrap();
                    read_to_end(&mut first).await
                },
                async {
                    let heard = read_to_end(&mut second).await;
                    second.write_all(&answer).await.unwrap();
                    second.shutdown().await.unwrap();
                    heard
                }
            );
            assert!(heard == question && said == answer, "{kind:?}");
            until(|| world.open() == 0).await;
        }
    }
}

trait Both: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Both for T {}

#[tokio::test]
async fn a_conversation_of_many_turns_passes() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        let (mut client, mut server) = world.pair().await;
        for turn in 0..100 {
            let words = format!("turn {turn}");
            client.write_all(words.as_bytes()).await.unwrap();
            read(&mut server, &words).await;
            server.write_all(words.as_bytes()).await.unwrap();
            read(&mut client, &words).await;
        }
        assert_eq!(world.open(), 1);
        drop(client);
        assert_eq!(read_to_end(&mut server).await, b"");
        drop(server);
        until(|| world.open() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_stops_who_writes_and_gets_everything_later() {
    let bytes = noise(MUCH);
    for kind in KINDS {
        let world = World::awake(kind).await;
        for client_reads in [true, false] {
            let (client, server) = world.pair().await;
            let (mut reader, mut writer): (Box<dyn Both>, Box<dyn Both>) = if client_reads {
                (Box::new(client), Box::new(server))
            } else {
                (Box::new(server), Box::new(client))
            };
            let mut sent = 0;
            // The clock moves only when nothing else does.
            while let Ok(written) =
                tokio::time::timeout(Duration::from_secs(1), writer.write(&bytes[sent..])).await
            {
                sent += written.unwrap();
            }
            assert!(sent < MUCH / 2, "{kind:?}: {sent} bytes went somewhere");
            let (found, ()) = tokio::join!(read_to_end(&mut reader), async {
                writer.write_all(&bytes[sent..]).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            assert!(found == bytes, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_reaches_a_client_that_still_sends_when_the_server_closes() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        let (mut client, mut server) = world.pair().await;
        // All of it fits on the way: what is not sent yet when the server closes it throws away itself.
        let answer = noise(30_000);
        client.write_all(b"POST").await.unwrap();
        read(&mut server, "POST").await;
        // Unread bytes make a reset of the server's close.
        client.write_all(&noise(100_000)).await.unwrap();
        server.readable().await.unwrap();
        server.write_all(&answer).await.unwrap();
        drop(server);
        client.write_all(&noise(2_000_000)).await.unwrap();
        assert!(read_to_end(&mut client).await == answer, "{kind:?}");
        until(|| world.open() == 0).await;
    }
}

#[tokio::test]
async fn a_reset_on_one_side_ends_the_other_after_what_was_said() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        let (mut client, mut server) = world.pair().await;
        server.write_all(b"half an ans").await.unwrap();
        read(&mut client, "half").await;
        server.set_zero_linger().unwrap();
        drop(server);
        assert_eq!(read_to_end(&mut client).await, b" an ans");
        until(|| world.open() == 0).await;

        let (mut client, mut server) = world.pair().await;
        client.write_all(b"a whole question").await.unwrap();
        read(&mut server, "a").await;
        if let Stream::Tcp(client) = &client {
            client.set_zero_linger().unwrap();
        }
        drop(client);
        assert_eq!(read_to_end(&mut server).await, b" whole question");
        if kind == Kind::Unix {
            // Closed and half-closed look alike to the server until it writes.
            drop(server);
        }
        until(|| world.open() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_stops_a_server_that_streams() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        let (client, mut server) = world.pair().await;
        server.write_all(b"data: 1\n\n").await.unwrap();
        drop(client);
        while server.write_all(&[b'x'; 1000]).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.open(), 0, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_some_time_after_the_server_and_one_that_sends_is_not() {
    for kind in KINDS {
        let world = World::awake(kind).await;
        let (_client, server) = world.pair().await;
        drop(server);
        until_at_rest(|| world.open() == 0).await;

        let (mut client, mut server) = world.pair().await;
        server.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut client).await, b"");
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            client.write_all(b"still here").await.unwrap();
            read(&mut server, "still here").await;
        }
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut server).await, b"");
        until(|| world.open() == 0).await;
    }
}

/// The same as `until` for what takes time: a paused clock goes on only while everybody waits.
async fn until_at_rest(mut so: impl FnMut() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
