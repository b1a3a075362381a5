//! What a root is started with, and what can be seen of it then.

use std::io::Write;
use std::net::TcpListener;

use super::*;

async fn said(launch: Launch) -> String {
    let (mut tree, mut pipes) = Tree::spawn(launch).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut pipes.stdout, &mut text).await.unwrap();
    drop(pipes);
    tree.stop(Duration::from_secs(20)).await;
    text
}

#[tokio::test]
async fn environment_directory_and_limit_of_open_files_are_as_told() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().canonicalize().unwrap();
    let mut launch = shell("echo $ONE $NOTIFY_SOCKET; pwd; ulimit -Sn; ulimit -Hn; cat");
    launch.env = vec![("ONE".into(), "1".into()), ("NOTIFY_SOCKET".into(), "@its".into())];
    launch.directory = Some(directory.clone());
    launch.stdin = Stdin::Null;
    launch.open_files = Some(40);
    assert_eq!(said(launch).await, format!("1 @its\n{}\n40\n40\n", directory.display()));
}

#[tokio::test]
async fn more_open_files_than_we_may_have_are_no_error() {
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let mut launch = shell("ulimit -n");
    launch.open_files = Some(u64::MAX);
    assert_eq!(
        said(launch).await.trim(),
        if most == u64::MAX { "unlimited".into() } else { most.to_string() }
    );
}

#[tokio::test]
async fn a_missing_directory_is_not_taken_for_a_missing_command() {
    let mut launch = shell("true");
    launch.directory = Some("/nonexistent".into());
    let error = Tree::spawn(launch).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (io::ErrorKind::NotADirectory, "/nonexistent: not a directory")
    );
}

/// Pipes with their number in them, each to be found at its place.
fn numbered(places: impl Iterator<Item = i32>) -> Vec<(OwnedFd, i32)> {
    let pipe = |place| {
        let (reader, mut writer) = io::pipe().unwrap();
        writeln!(writer, "{place}").unwrap();
        (reader.into(), place)
    };
    places.map(pipe).collect()
}

#[tokio::test]
async fn descriptors_arrive_in_their_places_whatever_numbers_they_had_here() {
    let mut launch = shell(
        "for place in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do cat /proc/self/fd/$place; done",
    );
    // In reverse, so that the places are taken by one another here.
    launch.pass = numbered((3..=20).rev());
    let expected: String = (3..=20).map(|place| format!("{place}\n")).collect();
    assert_eq!(said(launch).await, expected);
}

#[tokio::test]
async fn a_missing_command_is_told_with_descriptors_to_pass_too() {
    let mut launch = Launch::new(vec!["/nonexistent/command".into()]);
    // One of them would be the number of the pipe that tells it.
    launch.pass = numbered(3..=40);
    assert_eq!(Tree::spawn(launch).await.err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn two_descriptors_for_one_place_or_one_for_a_standard_stream_are_refused() {
    for places in [vec![5, 5], vec![2]] {
        let mut launch = shell("true");
        launch.pass = numbered(places.into_iter());
        assert_eq!(Tree::spawn(launch).await.err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn who_listens_is_told_apart() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
        let Ok(listener) = TcpListener::bind(address) else {
            println!("{address}: left out, it cannot be bound here");
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        let (mut other, _in1, _lines1) = start("cat").await;
        let us = std::process::id() as i32;
        assert_eq!(other.listener_on(port), Holder::Foreign(Some(us)), "{address}");
        let mut launch = shell("(setsid sh -c 'echo $$; exec sleep 1000' &); read wait");
        launch.pass = vec![(listener.into(), 9)];
        let (mut tree, _in2, mut lines) = start_as(launch).await;
        let grandchild = pid(&mut lines).await;
        for _ in 0..2 {
            assert_eq!(tree.listener_on(port), Holder::Ours, "{address}");
        }
        let Holder::Foreign(Some(holder)) = other.listener_on(port) else { panic!("{address}") };
        assert!(holder == grandchild || holder == tree.pid() as i32, "{address}: {holder}");
        tree.stop(Duration::ZERO).await;
        assert_eq!(tree.listener_on(port), Holder::Nobody, "{address}");
        assert_eq!(other.listener_on(port), Holder::Nobody, "{address}");
        other.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_port_that_members_share_with_others_is_not_ours() {
    let shared = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket
    };
    let any = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port)).into();
    let (one, two) = (shared(), shared());
    one.bind(&any(0)).unwrap();
    one.listen(1).unwrap();
    let port = one.local_addr().unwrap().as_socket().unwrap().port();
    two.bind(&any(port)).unwrap();
    two.listen(1).unwrap();
    let mut launch = shell("cat");
    launch.pass = vec![(one.into(), 3)];
    let (mut tree, _stdin, _lines) = start_as(launch).await;
    assert_eq!(tree.listener_on(port), Holder::Foreign(Some(std::process::id() as i32)));
    drop(two);
    assert_eq!(tree.listener_on(port), Holder::Ours);
    tree.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn use_is_that_of_all_members() {
    let (mut tree, _stdin, mut lines) = start("setsid sh -c 'echo $$; exec sleep 1000' & wait").await;
    let child = pid(&mut lines).await;
    let usage = tree.usage();
    assert_eq!(usage.processes, 2);
    // Two small programs: some hundred KiB to some MiB each.
    assert!((200 << 10..64 << 20).contains(&usage.memory), "{usage:?}");
    assert_eq!(tree.members().len(), 2);
    assert!(tree.members().contains(&child));
    tree.stop(Duration::ZERO).await;
    assert_eq!(tree.usage(), Usage::default());
}
