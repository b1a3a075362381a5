//! Clients of the stateless era.

use super::*;

/// A modern server: echoes the id it was asked by, so that the exchange can be seen.
const MODERN: &str = r#"
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%[,\}]*}
  case "$line" in *'"hang"'*) ;; *'"cancelled"'* | *notifications/*) echo "$line" >&2;; *)
    echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"pid\":$$}}";;
  esac
done
"#;

fn modern(id: &str, method: &str) -> String {
    let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{meta}}}}}"#)
}

#[tokio::test]
async fn clients_of_the_stateless_era_share_one_process_and_keep_their_ids() {
    let world = World::new(options(MODERN));
    let (one, two) = (modern("1", "tools/list"), modern("1", "tools/call"));
    let (one, two) = tokio::join!(world.send("POST", None, &one), world.send("POST", None, &two));
    let (one, two) = (read(one.unwrap()).await, read(two.unwrap()).await);
    assert_eq!(one, two);
    assert!(one.1.contains(r#""id":1,"#), "{}", one.1);
    assert_eq!(world.processes().len(), 1);
    let hang = modern("2", "hang");
    tokio::select! {
        biased;
        _ = world.send("POST", None, &hang) => panic!("nobody answers"),
        () = async { while world.back.status()["processes"][0]["in_flight"] != 1 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(world.back.status()["processes"][0]["in_flight"], 0, "the client that left cancelled");
}

#[tokio::test]
async fn a_legacy_server_is_asked_for_its_era_once() {
    for script in [SERVER, "exit 1"] {
        let world = World::new(options(script));
        for _ in 0..2 {
            let response = world.send("POST", None, &modern("\"d\"", "server/discover")).await.unwrap();
            let (status, text) = read(response).await;
            assert_eq!(status, 404);
            assert!(text.contains(r#""id":"d""#) && text.contains("-32601"), "{text}");
        }
        while !world.processes().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
