//! Trees in trees, and what is found of one whose supervisor was killed.

use super::*;

/// Says to the test below what it is to be.
const ROLE: &str = "TREE_TEST_SUPERVISOR";

/// A line for each process that a supervisor started, from its root.
const SERVER: &str = r#"trap "" TERM; echo $$; setsid sh -c 'trap "" TERM; echo $$; exec sleep 1000' & env -i setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' & while :; do wait; done"#;

/// This program as another process, for a role and its owner, as a command of a shell script that begins with
/// [`KEEP_INPUT`].
fn supervisor(role: &str, owner: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "{ROLE}={role}/{owner} '{}' --exact tree::tests::owners::a_supervisor_in_a_process_of_its_own --ignored --nocapture <&3",
        program.display()
    )
}

/// A shell's children in the background would have none.
const KEEP_INPUT: &str = "exec 3<&0";

/// A shell that is not in a tree of ours, so that nothing of what it starts is known; its input ends with this value.
fn stranger(script: &str, tag: Option<&str>) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let piped = std::process::Stdio::piped;
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", script]).stdin(piped()).stdout(piped()).kill_on_drop(true);
    if let Some(tag) = tag {
        shell.env("MCP_DAEMON_TREE", tag);
    }
    let mut shell = shell.spawn().unwrap();
    let (stdin, stdout) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
    (shell, stdin, BufReader::new(stdout).lines())
}

fn owned(owner: &str) -> Launch {
    Launch { owner: Some(owner.into()), ..shell(SERVER) }
}

/// What the roles say, one a line, after what the test harness says first.
async fn word(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> String {
    loop {
        let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no {name}"));
        if let Some((_, word)) = line.split_once(&format!("{name}=")) {
            return word.to_owned();
        }
    }
}

async fn numbers(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> Vec<i32> {
    word(lines, name).await.split(',').map(|number| number.parse().unwrap()).collect()
}

fn kill9(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn joined(pids: &[i32]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[tokio::test]
#[ignore = "other tests run it, in a process of its own"]
async fn a_supervisor_in_a_process_of_its_own() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (kind, owner) = role.split_once('/').unwrap();
    if kind == "blind" {
        return end_blindly().await;
    }
    let (tree, _stdin, mut lines) = start_as(owned(owner)).await;
    let mut server = Vec::new();
    while server.len() < 3 {
        server.push(pid(&mut lines).await);
    }
    println!("us={}", std::process::id());
    println!("server={}", joined(&server));
    let procfs::Environment::Read(environment) = procfs::environment(tree.pid() as i32) else {
        panic!("the server has just written a line");
    };
    println!("tags={}", tag::tags_in(&environment).collect::<Vec<_>>().join(","));
    if kind == "sweeps" {
        println!("swept={}", joined(&sweep(&[outer(owner)], Duration::from_millis(20)).await.ended));
        println!("spared={}", server.iter().all(|pid| is_alive(*pid)));
    }
    // Until the test is over, however it ends.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// The owner of the tree that a supervisor for `owner` is in.
fn outer(owner: &str) -> String {
    format!("{owner}-outer")
}

/// The first process of a pid namespace that it has no /proc of.
async fn end_blindly() {
    let exists = |pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
    println!(
        "blind={}",
        std::process::id() == 1 && !procfs::is_ours() && mechanism() != Mechanism::Subreaper
    );
    let (mut tree, _stdin, mut lines) =
        start("trap '' TERM; sh -c 'echo $$; while :; do sleep 1; done' & wait; sleep 1000").await;
    let child = pid(&mut lines).await;
    let held =
        exists(child) && tree.members() == [tree.pid() as i32] && tree.listener_on(1) == Holder::Unknown;
    println!("held={held}");
    println!("swept={}", sweep(&["x".to_owned()], Duration::from_millis(10)).await.ended.len());
    let ended = tree.stop(Duration::from_millis(10)).await;
    println!("ended={}", ended.left.is_empty() && ended.status.is_some() && !exists(child));
}

#[tokio::test]
async fn without_a_proc_of_its_own_pid_namespace_a_tree_is_the_group_of_its_root() {
    let tried = std::process::Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("left out: no pid namespace can be made here");
        return;
    }
    let supervisor = supervisor("blind", "x").replacen('\'', "unshare --pid --fork --kill-child '", 1);
    let (mut tree, _stdin, mut lines) = start(&format!("{KEEP_INPUT}; {supervisor}")).await;
    for (name, expected) in [("blind", "true"), ("held", "true"), ("swept", "0"), ("ended", "true")] {
        assert_eq!(word(&mut lines, name).await, expected, "{name}");
    }
    tree.stop(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn what_a_killed_supervisor_left_is_found_by_its_owner_and_nothing_else_is() {
    let (one, two) = (random_id(), random_id());
    let mut left = Vec::new();
    let mut shells = Vec::new();
    for owner in [&one, &two] {
        // Each with an output of its own, or the lines of the two would mix.
        let script = format!("{KEEP_INPUT}; {} & wait", supervisor("waits", owner));
        let (shell, stdin, mut lines) = stranger(&script, None);
        shells.push((shell, stdin));
        let us = numbers(&mut lines, "us").await[0];
        let server = numbers(&mut lines, "server").await;
        let tags = word(&mut lines, "tags").await;
        kill9(us);
        assert!(tag::is_of(&tags, &tag::owner_digest(owner)), "{tags}");
        left.push(server);
    }
    let [ones, twos] = &left[..] else { panic!("two supervisors") };
    let (mut living, _in, mut living_lines) = start_as(owned(&one)).await;
    let living_root = pid(&mut living_lines).await;
    assert!(ones.iter().chain(twos).all(|pid| is_alive(*pid)));
    // Without time to end them, nobody is said to be gone.
    let given_up = sweep::sweep(&[one.to_owned()], Duration::ZERO, Duration::ZERO).await;
    assert!(given_up.ended.is_empty() && ones.iter().all(|pid| given_up.left.contains(pid)), "{given_up:?}");
    let swept = sweep(&[one.to_owned()], Duration::from_millis(50)).await;
    assert_eq!(swept.left, [0; 0]);
    let swept = swept.ended;
    for one in ones {
        assert!(swept.contains(one) && !is_alive(*one), "{one} of {ones:?}, swept {swept:?}");
    }
    assert!(!swept.iter().any(|pid| twos.contains(pid)) && twos.iter().all(|pid| is_alive(*pid)));
    assert!(is_alive(living_root), "a living tree is spared, whoever its owner is");
    assert_eq!(sweep(&[one.to_owned()], Duration::from_millis(50)).await, Swept::default());
    sweep(&[two.to_owned()], Duration::ZERO).await;
    assert!(!twos.iter().any(|pid| is_alive(*pid)));
    living.stop(Duration::ZERO).await;
    for (mut shell, _stdin) in shells {
        shell.wait().await.unwrap();
    }
}

#[tokio::test]
async fn in_the_tree_of_another_supervisor_children_are_tagged_as_ours_first_and_a_sweep_spares_us() {
    let inner = random_id();
    // Tagged as what a dead owner left: an orphan, a shell, and below the shell the supervisor that sweeps.
    let of_the_dead = format!("{}:of-the-dead", tag::owner_digest(&outer(&inner)));
    let script =
        format!("{KEEP_INPUT}; (setsid sleep 1000 & echo orphan=$!); {}; true", supervisor("sweeps", &inner));
    let (mut shell, _stdin, mut lines) = stranger(&script, Some(&of_the_dead));
    let orphan = numbers(&mut lines, "orphan").await;
    let us = numbers(&mut lines, "us").await[0];
    let server = numbers(&mut lines, "server").await;
    let tags = word(&mut lines, "tags").await;
    let (own, around) = tags.split_once(',').unwrap();
    assert!(tag::is_of(own, &tag::owner_digest(&inner)), "{tags}");
    assert_eq!(around, of_the_dead);
    assert_eq!(numbers(&mut lines, "swept").await, orphan);
    assert_eq!(word(&mut lines, "spared").await, "true");
    assert!(is_alive(us) && is_alive(shell.id().unwrap() as i32) && !is_alive(orphan[0]));
    kill9(us);
    sweep(&[inner.to_owned()], Duration::ZERO).await;
    assert!(!server.into_iter().any(is_alive));
    shell.wait().await.unwrap();
}

#[tokio::test]
async fn what_a_supervisor_in_our_tree_left_when_it_was_killed_is_ours() {
    let (mut tree, _stdin, mut lines) =
        start(&format!("{KEEP_INPUT}; exec env {}", supervisor("waits", &random_id()))).await;
    // Not the only tree, so that an orphan has to be known by its tags.
    let (mut neighbour, _in, _lines) = start("cat").await;
    let server = numbers(&mut lines, "server").await;
    kill9(tree.pid() as i32);
    tree.exited().await.unwrap();
    assert!(server.iter().all(|pid| is_alive(*pid)));
    let ended = tree.stop(Duration::from_millis(20)).await;
    assert!(ended.left.is_empty() && !server.into_iter().any(is_alive), "{ended:?}");
    assert!(is_alive(neighbour.pid() as i32));
    neighbour.stop(Duration::ZERO).await;
}
