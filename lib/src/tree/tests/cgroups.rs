//! Trees in a cgroup, where this machine lets us make one.

use super::*;

fn cgroup(owner: &str) -> Option<Cgroup> {
    let cgroup = Cgroup::create(owner, "a name/of mine");
    if cgroup.is_none() {
        println!("skipped: trees in a cgroup because none can be made here");
    }
    cgroup
}

/// An owner that no other run of the tests has.
fn owner() -> String {
    random_id()
}

#[tokio::test]
async fn nobody_leaves_a_cgroup_and_it_is_gone_with_the_tree() {
    let Some(cgroup) = cgroup(&owner()) else { return };
    let directory = cgroup.path().to_owned();
    assert!(directory.file_name().unwrap().to_str().unwrap().contains("-anameofmine-"));
    // Twice forked, own session, no environment, and unknown before its parents end: found by nothing else.
    let mut launch = shell(
        r#"(env -i setsid sh -c 'trap "" TERM; (setsid sh -c "trap \"\" TERM; echo \$\$; exec sleep 1000" &)' &); read wait"#,
    );
    launch.cgroup = Some(cgroup);
    let (mut tree, stdin, mut lines) = start_as(launch).await;
    let (mut other, _in, _lines) = start("cat").await;
    let orphan = pid(&mut lines).await;
    drop(stdin);
    tree.exited().await.unwrap();
    // Those between them and it end in a moment.
    while tree.members() != [orphan] {
        tokio::task::yield_now().await;
    }
    assert!(tree.usage().processes == 1 && tree.usage().memory > 0);
    let ended = tree.stop(Duration::from_millis(20)).await;
    assert!(ended.left.is_empty() && !is_alive(orphan), "{ended:?}");
    assert!(!directory.exists());
    other.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn what_a_tree_makes_of_its_cgroup_is_removed_with_it() {
    let Some(cgroup) = cgroup(&owner()) else { return };
    let directory = cgroup.path().to_owned();
    let mut launch = shell(
        r#"mkdir -p "$DIRECTORY/in/ner" && echo $$ > "$DIRECTORY/in/ner/cgroup.procs"; echo $$; sleep 1000 & wait"#,
    );
    launch.env = vec![("DIRECTORY".into(), directory.clone().into())];
    launch.cgroup = Some(cgroup);
    let (mut tree, _stdin, mut lines) = start_as(launch).await;
    pid(&mut lines).await;
    assert!(directory.join("in/ner").is_dir());
    let ended = tree.stop(Duration::ZERO).await;
    assert!(ended.left.is_empty() && !directory.exists(), "{ended:?} {:?}", std::fs::remove_dir(&directory));
}

#[tokio::test]
async fn a_cgroup_that_nobody_used_is_removed() {
    let Some(cgroup) = cgroup(&owner()) else { return };
    let directory = cgroup.path().to_owned();
    assert!(directory.exists());
    drop(cgroup);
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_sweep_empties_the_cgroups_of_the_dead_and_spares_those_of_the_living() {
    let owner = owner();
    let (Some(living), Some(other)) = (cgroup(&owner), cgroup(&random_id())) else { return };
    // As a dead process would have left it, with somebody in it whom nothing else gives away.
    let name = living.path().file_name().unwrap().to_str().unwrap();
    let left = living.path().with_file_name(format!("{}-left", &name[..name.rfind('-').unwrap()]));
    std::fs::create_dir(&left).unwrap();
    let mut process = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    let pid = process.id().unwrap() as i32;
    std::fs::write(left.join("cgroup.procs"), pid.to_string()).unwrap();
    assert_eq!(sweep(&[owner.to_owned()], Duration::from_secs(20)).await.ended, [pid]);
    assert!(!process.wait().await.unwrap().success());
    assert!(!left.exists() && living.path().exists() && other.path().exists());
}

#[tokio::test]
async fn empty_cgroups_of_the_dead_go_with_the_next_start_of_anybody() {
    let Some(ours) = cgroup(&owner()) else { return };
    let mut gone = tokio::process::Command::new("true").spawn().unwrap();
    let pid = gone.id().unwrap();
    gone.wait().await.unwrap();
    let made_by = |pid: u32, what: &str| {
        let directory =
            ours.path().with_file_name(format!("mcp-tree-{}-a.name-{pid}.{what}", &owner()[..16]));
        std::fs::create_dir(&directory).unwrap();
        directory
    };
    let (empty, living) = (made_by(pid, "empty"), made_by(std::process::id(), "living"));
    let used = made_by(pid, "used");
    for inner in [empty.join("in/ner"), used.join("inner")] {
        std::fs::create_dir_all(inner).unwrap();
    }
    let mut process = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
    std::fs::write(used.join("cgroup.procs"), process.id().unwrap().to_string()).unwrap();
    let other = cgroup(&owner());
    assert!(other.is_some() && !empty.exists(), "{empty:?}");
    assert!(living.exists() && used.join("inner").exists());
    process.kill().await.unwrap();
    for directory in [living, used.join("inner"), used] {
        std::fs::remove_dir(directory).unwrap();
    }
}

#[test]
fn the_mechanism_is_the_strongest_that_works() {
    let expected = if cgroup(&owner()).is_some() { Mechanism::Cgroup } else { Mechanism::Subreaper };
    assert_eq!(mechanism(), expected);
    assert_eq!(Mechanism::Group.to_string(), "process group");
}
