//! Bad input at the start: flags, files, addresses, directories. One clear line, the exit code a supervisor needs, nothing else disturbed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::json;
use support::{Client, Flavour, Server, Sessiond};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mcp-sessiond");
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;
/// Nobody listens there, and nobody has to: these daemons do not get as far as asking.
const NOBODY: &str = "http://127.0.0.1:9/mcp";

/// Directories for daemons that are not meant to start.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs the daemon until it ends by itself.
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(args).env_clear().env("RUST_LOG", "error");
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        timeout(Duration::from_secs(60), command.output()).await.expect("it ends by itself").unwrap()
    }

    /// Runs it and checks that it says exactly one line, with all `words`, and ends with `code`.
    async fn refuses(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = self.run(args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with("mcp-sessiond: ") && said.ends_with('\n'), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{args:?}: no `{word}` in: {said}");
        }
        assert!(output.stdout.is_empty(), "{args:?}: {:?}", output.stdout.escape_ascii());
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_one_line_that_names_the_word() {
    let bench = Bench::new();
    for (args, words) in [
        (&["--lisen", "127.0.0.1:0"][..], &["--lisen", "--help"][..]),
        (&["--listen", "nonsense", "--upstream", NOBODY], &["nonsense", "127.0.0.1:9121"]),
        (&["--listen"], &["--listen"]),
        (&["--upstream", "ftp://x/"], &["ftp://x/", "http://127.0.0.1:8080/mcp"]),
        (&["frobnicate"], &["frobnicate"]),
        (&["check", "--listen", "nonsense"], &["nonsense", "127.0.0.1:9121"]),
        (&["check", "--upstream", NOBODY, "--"], &["--"]),
        (&["--upstream", NOBODY, "--ready-fd", "seven"], &["seven"]),
        (&["--upstream", NOBODY, "--"], &["--"]),
        (&["status", "--", "serena"], &["--"]),
        (&["sessions", "--jsn"], &["--jsn"]),
    ] {
        bench.refuses(args, USAGE, words).await;
    }
}

#[tokio::test]
async fn no_arguments_give_help_with_the_lines_to_type() {
    let bench = Bench::new();
    let output = bench.run(&[]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "mcp-sessiond --listen 127.0.0.1:9121 --upstream http://127.0.0.1:8080/mcp",
        "mcp-sessiond --listen 127.0.0.1:9121 -- serena start-mcp-server",
        "mcp-sessiond stdio --upstream https://host/mcp --token-file f",
        "mcp-sessiond doctor",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let help = bench.run(&["--help"]).await;
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("--upstream"));
    let version = bench.run(&["--version"]).await;
    assert!(version.status.success() && version.stdout.starts_with(b"mcp-sessiond "));
}

#[tokio::test]
async fn a_wrong_settings_file_is_one_line_with_file_line_and_key() {
    let bench = Bench::new();
    for (content, words) in [
        ("upstream = 'http://127.0.0.1:9/mcp'\nparked_tim = '5s'\n", &[":2", "parked_tim"][..]),
        (
            "upstream = 'http://127.0.0.1:9/mcp'\n[limits]\nparked_tim = '5s'\n",
            &[":3", "limits.parked_tim", "one of `parked_time`, ", " others"],
        ),
        ("upstream = 'http://127.0.0.1:9/mcp\n", &[":1"]),
        ("[[listener]\n", &[":1"]),
        ("upstream = 5\n", &[":1", "upstream"]),
        (
            "upstream = 'http://127.0.0.1:9/mcp'\n[limits]\nbody = 'large'\n",
            &[":3", "limits.body", "large", "4MiB"],
        ),
        ("upstream = 'http://127.0.0.1:9/mcp'\n[limits]\nsessions = 0\n", &[":3", "limits.sessions"]),
        ("upstream = 'http://127.0.0.1:9/mcp'\n[hang]\nsilence = '0s'\n", &[":3", "hang.silence"]),
        (
            "upstream = 'http://127.0.0.1:9/mcp'\nunknown_ids = 'maybe'\n",
            &[":2", "unknown_ids", "maybe", "adopt"],
        ),
        ("", &["upstream", "--upstream http://127.0.0.1:8080/mcp"]),
        ("upstream = 'http://127.0.0.1:9/mcp'\npath = 'mcp'\n", &["path", "/mcp"]),
        (
            "upstream = 'http://127.0.0.1:9/mcp'\nheaders = ['X-Key secret-value']\n",
            &["headers", "Name: value"],
        ),
        (
            "upstream = 'http://127.0.0.1:9/mcp'\n[[listener]]\naddress = '127.0.0.1:0'\ntrusted = true\n",
            &["listener.trusted"],
        ),
        ("upstream = 'unix:/run/{route}/mcp.sock'\n", &["upstream", "{route}", "trusted"]),
        ("upstream = 'http://127.0.0.1:9/mcp'\nexec = ['serena']\n", &["exec", "upstream"]),
    ] {
        let file = bench.write("x.toml", content);
        let words = [words, &["x.toml"]].concat();
        bench.refuses(&["check", "--config", &file], CONFIG, &words).await;
        bench.refuses(&["--config", &file], CONFIG, &words).await;
    }
    let output =
        bench.run(&["check", "--config", &bench.write("x.toml", "headers = ['X-Key secret-value']\n")]).await;
    assert!(!String::from_utf8(output.stderr).unwrap().contains("secret-value"));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let bench = Bench::new();
    let missing = bench.path("missing.toml").to_str().unwrap().to_owned();
    let directory = bench.0.path().to_str().unwrap();
    let binary = bench.path("binary.toml");
    std::fs::write(&binary, b"\xff\xfe\x00").unwrap();
    for file in [&missing, directory, binary.to_str().unwrap()] {
        bench.refuses(&["check", "--config", file], CONFIG, &[file]).await;
        bench.refuses(&["--config", file], CONFIG, &[file]).await;
    }
}

#[tokio::test]
async fn a_good_file_is_called_right_and_nothing_is_started() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = bench
        .write("x.toml", &format!("upstream = '{NOBODY}'\nlisten = ['{}']\n", taken.local_addr().unwrap()));
    let output = bench.run(&["check", "--config", &file]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("x.toml"));
    assert!(output.stderr.is_empty());
    assert!(!bench.path("state").exists() && !bench.path("run").exists(), "nothing was made");
}

#[tokio::test]
async fn flags_are_checked_as_they_are_for_serving() {
    let bench = Bench::new();
    let missing = bench.path("missing").to_str().unwrap().to_owned();
    let file = bench.write("x.toml", "exec = ['serena']\n");
    for (flags, words) in [
        (&[][..], &["upstream: missing", "--upstream"][..]),
        (&["--upstream", NOBODY, "--", "serena"], &["exec: given beside `upstream`"]),
        (&["--config", &file, "--upstream", NOBODY], &["exec: given beside `upstream`"]),
        (&["--upstream", "unix:/run/{route}/mcp.sock"], &["upstream: has {route}"]),
        (&["--upstream", NOBODY, "--header", "x"], &["headers: ", "Name: value"]),
        (&["--upstream", NOBODY, "--token-file", &missing], &["token_file: ", &missing]),
    ] {
        bench.refuses(&[&["check"], flags].concat(), CONFIG, words).await;
        if !flags.is_empty() {
            bench.refuses(flags, CONFIG, words).await;
        }
    }
    for flags in [
        &[
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            NOBODY,
            "--state-dir",
            &missing,
            "--observe",
            "127.0.0.1:0",
        ][..],
        &["--", "serena", "start-mcp-server"],
        &["--config", &file, "--header", "X-Key: 1"],
    ] {
        let output = bench.run(&[&["check"], flags].concat()).await;
        assert!(output.status.success() && output.stdout.ends_with(b"right\n"), "{flags:?}: {output:?}");
    }
    assert!(!bench.path("missing").exists() && !bench.path("state").exists(), "nothing was made");
}

#[tokio::test]
async fn a_token_file_that_is_missing_empty_or_open_to_everybody_is_refused_without_its_content() {
    let bench = Bench::new();
    let missing = bench.path("missing").to_str().unwrap().to_owned();
    let open = bench.write("open", "s3cret\n");
    let empty = bench.write("empty", "\n");
    let strange = bench.write("strange", "s3c\nret\n");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    for file in [&empty, &strange] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    for (file, word) in
        [(&missing, "No such file"), (&open, "chmod 600"), (&empty, "empty"), (&strange, "token")]
    {
        for first in [&[][..], &["stdio"]] {
            let args = [first, &["--upstream", NOBODY, "--token-file", file]].concat();
            bench.refuses(&args, CONFIG, &[file, word, "token_file"]).await;
            let said = bench.run(&args).await.stderr;
            assert!(!String::from_utf8(said).unwrap().contains("s3c"));
        }
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_and_its_owner_not_disturbed() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = Sessiond::start(BINARY, &["--upstream", &server.url()]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let taken = sessiond.url().replace("http://", "").replace("/mcp", "");
    let bench = Bench::new();
    bench.refuses(&["--listen", &taken, "--upstream", &server.url()], UNAVAILABLE, &[&taken, "in use"]).await;
    bench
        .refuses(
            &["--listen", "127.0.0.1:0", "--observe", &taken, "--upstream", NOBODY],
            UNAVAILABLE,
            &[&taken, "in use"],
        )
        .await;
    client.call("echo", json!({})).await.unwrap();
    assert_eq!(server.initializes(), 1);
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced_and_anything_else_left_alone() {
    let server = Server::start(Flavour::Python2).await;
    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let address = format!("unix:{}", stale.display());
    let sessiond = Sessiond::start(BINARY, &["--listen", &address, "--upstream", &server.url()]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let bench = Bench::new();
    bench.refuses(&["--listen", &address, "--upstream", NOBODY], UNAVAILABLE, &[&address, "in use"]).await;
    client.call("echo", json!({})).await.expect("a socket that is listened on is not stale");
    let precious = bench.write("precious", "data");
    let link = bench.path("link");
    std::os::unix::fs::symlink(&precious, &link).unwrap();
    for path in [Path::new(&precious), &link, bench.0.path()] {
        let address = format!("unix:{}", path.display());
        bench
            .refuses(&["--listen", &address, "--upstream", NOBODY], UNAVAILABLE, &[&address, "not a socket"])
            .await;
    }
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "data");
    let control = bench.path("run/mcp-sessiond");
    std::fs::create_dir_all(&control).unwrap();
    std::fs::set_permissions(&control, std::fs::Permissions::from_mode(0o700)).unwrap();
    let control = control.join("control.sock");
    std::fs::write(&control, "data").unwrap();
    let words = [control.to_str().unwrap(), "not a socket"];
    bench.refuses(&["--listen", "127.0.0.1:0", "--upstream", NOBODY], UNAVAILABLE, &words).await;
    assert_eq!(std::fs::read_to_string(control).unwrap(), "data");
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_names_the_first() {
    let server = Server::start(Flavour::Python2).await;
    let sessiond = Sessiond::start(BINARY, &["--upstream", &server.url()]).await;
    let client = Client::connect(&sessiond.url()).await.unwrap();
    let state = sessiond.state_dir();
    let bench = Bench::new();
    let args = ["--listen", "127.0.0.1:0", "--upstream", NOBODY, "--state-dir", state.to_str().unwrap()];
    bench.refuses(&args, UNAVAILABLE, &[state.to_str().unwrap(), &sessiond.pid().to_string()]).await;
    client.call("echo", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_named() {
    let bench = Bench::new();
    let file = bench.write("file", "");
    for state in [format!("{file}/state"), "/proc/mcp-sessiond".to_owned()] {
        let args = ["--listen", "127.0.0.1:0", "--upstream", NOBODY, "--state-dir", &state];
        bench.refuses(&args, CONFIG, &[&state]).await;
    }
}

#[tokio::test]
async fn a_user_or_a_command_that_is_not_there_is_named() {
    let bench = Bench::new();
    let socket = bench.path("x.sock");
    let listener = format!(
        "[[listener]]\naddress = 'unix:{}'\ntrusted = true\nusers = ['no-such-user']\n",
        socket.display()
    );
    let file = bench.write("x.toml", &format!("upstream = '{NOBODY}'\n{listener}"));
    bench.refuses(&["--config", &file], CONFIG, &["no-such-user"]).await;
}

#[tokio::test]
async fn a_damaged_session_file_is_set_aside_and_the_others_work() {
    let server = Server::start(Flavour::Python2).await;
    let mut sessiond = Sessiond::start(BINARY, &["--upstream", &server.url()]).await;
    let clients =
        [Client::connect(&sessiond.url()).await.unwrap(), Client::connect(&sessiond.url()).await.unwrap()];
    clients[0].request("logging/setLevel", json!({"level": "error"})).await.unwrap();
    sessiond.kill9().await;
    let (whole, damaged): (Vec<_>, Vec<_>) = session_files(&sessiond.state_dir())
        .into_iter()
        .partition(|path| std::fs::read_to_string(path).unwrap().contains("\"error\""));
    assert_eq!((whole.len(), damaged.len()), (1, 1));
    let broken = &std::fs::read(&damaged[0]).unwrap()[..20];
    std::fs::write(&damaged[0], broken).unwrap();
    let replay = sessiond.state_dir().join("replay-.json");
    std::fs::write(&replay, "[[[").unwrap();
    sessiond.start_again().await;
    sessiond.until_logged("set aside").await;
    let kept = std::fs::read(damaged[0].with_extension("damaged")).expect("nothing is thrown away");
    assert_eq!(kept, broken);
    let seen = clients[0].call_text("whoami", json!({})).await.unwrap();
    assert!(seen.contains("\"log_level\":\"error\""), "{seen}");
    clients[1].call("echo", json!({})).await.expect("its client goes on as one that nobody knows");
}

fn session_files(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}
