use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

/// A machine with these programs, a project `p`, and a home.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn with(programs: &[&str]) -> Self {
        let machine = Machine { root: tempfile::tempdir().unwrap() };
        for directory in ["bin", "p", "runtime", "state", "home"] {
            fs::create_dir(machine.path(directory)).unwrap();
        }
        for program in programs {
            machine.program(&format!("bin/{program}"));
        }
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn program(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn around(&self) -> Surroundings {
        Surroundings {
            path: Some(self.path("bin").into()),
            serena_home: None,
            home: Some(self.path("home")),
            directory: self.path("p"),
            executable: None,
            runtime: self.path("runtime"),
            state: self.path("state"),
        }
    }

    fn plan(&self) -> Plan {
        plan(&Wanted::default(), &self.around()).unwrap()
    }

    fn refusal(&self, wanted: &Wanted, around: &Surroundings) -> String {
        plan(wanted, around).unwrap_err().to_string()
    }
}

fn address() -> SocketAddr {
    "127.0.0.1:9121".parse().unwrap()
}

fn ours(plan: &Plan) -> Claimed {
    match plan.claim().unwrap() {
        Claim::Ours(claimed) => claimed,
        Claim::Served(url) => panic!("served at {url}"),
    }
}

#[test]
fn serena_and_mcp_sessiond_are_run_as_they_are_meant_to_be() {
    let machine = Machine::with(&["serena", "uvx", "mcp-sessiond"]);
    let wanted = Wanted { more: vec!["--context".into(), "{ide}".into()], ..Wanted::default() };
    let plan = plan(&wanted, &machine.around()).unwrap();
    let config = plan.config(address());
    let instances = config.instances().unwrap();
    let names: Vec<&str> = instances.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [FRONT, SERENA]);
    let (front, serena) = (&instances[0].1, &instances[1].1);
    let project = plan.project.display().to_string();
    assert_eq!(
        serena.command.join(" "),
        format!(
            "serena start-mcp-server --transport streamable-http --host 127.0.0.1 --port {{port}} --project {project} \
             --open-web-dashboard false --context {{{{ide}}"
        )
    );
    assert_eq!(serena.home, Some(machine.path("home/.serena")));
    assert!(serena.starts_at_boot() && serena.language_server);
    assert_eq!((&serena.probe, serena.sleep_after), (&Probe::Mcp("/mcp".into()), "15m".parse().unwrap()));
    let Some(Listen::Unix(socket)) = &serena.socket else { panic!("no socket") };
    let upstream = format!("unix:{}:/mcp", socket.display());
    assert!(upstream.parse::<mcp_daemon::addr::Upstream>().is_ok());
    assert_eq!(
        front.command[..5],
        [
            &machine.path("bin/mcp-sessiond").display().to_string(),
            "--listen",
            "127.0.0.1:9121",
            "--upstream",
            &upstream
        ]
    );
    assert_eq!(
        (&front.probe, front.sleep_after, &front.after[..]),
        (&Probe::Fd, SleepAfter::Never, &[SERENA.to_owned()][..])
    );
}

#[test]
fn a_home_is_restored_before_serena_starts_and_snapshotted_after_it_has_ended() {
    let machine = Machine::with(&["serena", "mcp-sessiond", "serena-snapshotd"]);
    let mut plan = machine.plan();
    let instances = plan.config(address()).instances().unwrap();
    let named = |name: &str| &instances.iter().find(|(found, _)| found.as_str() == name).unwrap().1;
    assert_eq!(named(SERENA).after, [SNAPSHOTS]);
    let home = machine.path("home/.serena").display().to_string();
    let program = machine.path("bin/serena-snapshotd").display().to_string();
    assert_eq!(
        named(SNAPSHOTS).command,
        [&program, "run", "--home", &home, "--partition", "default", "--ready-fd", "{fd}"]
    );
    assert!(plan.welcome(address(), None).contains("serena-snapshotd list --partition default\n"));
    let text = plan.welcome(address(), Some("serena-snapshotd has failed: no bucket"));
    assert!(text.contains("is NOT snapshotted: serena-snapshotd has failed: no bucket\n"), "{text}");
    assert!(!text.contains("--partition"), "{text}");
    // Another home is another partition.
    let wanted = Wanted { home: Some(machine.path("other")), ..Wanted::default() };
    let Snapshots { partition, .. } = super::plan(&wanted, &machine.around()).unwrap().snapshots.unwrap();
    assert!(partition.starts_with("home-"), "{partition}");
    // A daemon that takes snapshots of it already goes on.
    let lock = files::Lock::take(&machine.path("home/.serena.snapshotd.lock")).unwrap();
    assert_eq!(plan.leave_snapshots(), Some(std::process::id()));
    let instances = plan.config(address()).instances().unwrap();
    assert!(instances.iter().all(
        |(name, settings)| name.as_str() != SNAPSHOTS && !settings.after.contains(&SNAPSHOTS.to_owned())
    ));
    drop(lock);
}

#[test]
fn one_home_has_one_partition_and_one_lock_however_it_is_spelled() {
    let machine = Machine::with(&["serena", "mcp-sessiond", "serena-snapshotd"]);
    symlink(machine.path("home"), machine.path("link")).unwrap();
    let _other = Lock::take(&machine.path("home/.serena.supervise.lock")).unwrap();
    let given = |home: &str| Wanted { home: Some(home.into()), ..Wanted::default() };
    let link = machine.path("link/.serena");
    let by_variable = Surroundings { serena_home: Some(link.clone()), ..machine.around() };
    let by_link = Surroundings { home: Some(machine.path("link")), ..machine.around() };
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(&link).unwrap();
        }
        for (wanted, around) in [
            (Wanted::default(), machine.around()),
            (Wanted::default(), by_variable.clone()),
            (Wanted::default(), by_link.clone()),
            (given("../home/.serena"), by_link.clone()),
            (given("../link/.serena/"), machine.around()),
        ] {
            let plan = plan(&wanted, &around).unwrap();
            assert_eq!(plan.home, machine.path("home/.serena"), "{wanted:?}");
            assert_eq!(plan.snapshots.as_ref().unwrap().partition, PARTITION, "{wanted:?}");
            assert!(matches!(plan.claim(), Err(UpError::Home { .. })), "{wanted:?}");
        }
    }
}

#[test]
fn mcp_sessiond_is_looked_at_where_it_can_be_reached() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let port = |address: &str| machine.plan().config(address.parse().unwrap()).instance[FRONT].port;
    assert_eq!([port("127.0.0.1:9121"), port("0.0.0.0:9121")], [NonZeroU16::new(9121); 2]);
    assert_eq!([port("192.0.2.1:9121"), port("[::1]:9121")], [None; 2]);
}

#[test]
fn the_release_of_serena_is_the_one_mcp_sessiond_takes() {
    let theirs = include_str!("../../../mcp-sessiond/src/serena.rs");
    assert!(theirs.contains(&format!("\"{}\"", serena::TESTED)));
    let machine = Machine::with(&["uvx", "mcp-sessiond"]);
    assert_eq!(machine.plan().serena[..4], ["uvx", "--from", serena::TESTED, "serena"]);
}

#[test]
fn braces_in_paths_are_no_placeholders() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let odd = machine.path("a{b}");
    fs::create_dir_all(odd.join("{port}")).unwrap();
    let wanted = Wanted { project: Some(odd.join("{port}")), ..Wanted::default() };
    let around = Surroundings { serena_home: Some(odd.clone()), runtime: odd.clone(), ..machine.around() };
    let instances = plan(&wanted, &around).unwrap().config(address()).instances().unwrap();
    let serena = &instances[1].1;
    assert_eq!(serena.home.as_ref(), Some(&odd));
    let values = crate::placeholders::Values {
        name: SERENA.into(),
        port: 4711,
        home: serena.home.clone(),
        socket: serena.socket.clone(),
        fd: Some(3),
    };
    let filled = serena.command_line(&values).unwrap();
    assert!(filled.contains(&odd.join("{port}").canonicalize().unwrap().into_os_string()), "{filled:?}");
    assert!(filled.contains(&"4711".into()));
    let upstream = instances[0].1.command_line(&values).unwrap()[4].clone();
    let Some(Listen::Unix(socket)) = &serena.socket else { panic!("no socket") };
    assert_eq!(upstream, *format!("unix:{}:/mcp", socket.display()));
    assert!(socket.starts_with(&odd));
}

#[test]
fn the_mcp_sessiond_beside_us_is_preferred() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    machine.program("home/mcp-sessiond");
    let around = Surroundings { executable: Some(machine.path("home/serena-supervise")), ..machine.around() };
    assert_eq!(plan(&Wanted::default(), &around).unwrap().front, machine.path("home/mcp-sessiond"));
    assert_eq!(machine.plan().front, machine.path("bin/mcp-sessiond"));
}

#[test]
fn what_is_missing_is_said_in_one_line_that_helps() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let (wanted, around) = (Wanted::default(), machine.around());
    let elsewhere = |project: &str| Wanted { project: Some(project.into()), ..wanted.clone() };
    let deep = machine.path(&"d".repeat(107));
    let too_long = format!("`{}/up-", deep.display());
    for (line, expected) in [
        (
            Machine::with(&["mcp-sessiond"]).refusal_here(),
            "neither `serena` nor `uvx` is on PATH; install uv",
        ),
        (
            Machine::with(&["serena"]).refusal_here(),
            "mcp-sessiond is neither beside serena-supervise nor on PATH",
        ),
        (machine.refusal(&elsewhere("none"), &around), "--project: "),
        (machine.refusal(&elsewhere("../bin/serena"), &around), "--project: "),
        (
            machine
                .refusal(&Wanted { listen: Some("unix:/run/x".parse().unwrap()), ..wanted.clone() }, &around),
            "--listen: `unix:/run/x` has no URL for clients; write 127.0.0.1:9121",
        ),
        (
            machine.refusal(&wanted, &Surroundings { home: None, ..around.clone() }),
            "neither SERENA_HOME nor HOME",
        ),
        (machine.refusal(&wanted, &Surroundings { runtime: deep, ..around.clone() }), too_long.as_str()),
    ] {
        assert!(line.starts_with(expected) && !line.contains('\n'), "{line}");
    }
}

impl Machine {
    fn refusal_here(&self) -> String {
        self.refusal(&Wanted::default(), &self.around())
    }
}

#[test]
fn whoever_comes_second_is_told_where_it_is_served() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let first = machine.plan();
    let claimed = ours(&first);
    // The same project by another name.
    symlink(machine.path("p"), machine.path("link")).unwrap();
    let wanted = Wanted { project: Some(machine.path("link")), ..Wanted::default() };
    let second = plan(&wanted, &machine.around()).unwrap();
    let busy = second.claim().unwrap_err().to_string();
    assert!(busy.contains(&format!("(process {})", std::process::id())), "{busy}");
    claimed.announce().unwrap();
    match second.claim().unwrap() {
        Claim::Served(url) => assert_eq!(url, super::url(claimed.address)),
        Claim::Ours(_) => panic!("two of one project"),
    }
    drop(claimed);
    ours(&second);
}

#[test]
fn what_a_killed_predecessor_announced_is_not_believed() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let plan = machine.plan();
    fs::write(machine.path(&format!("runtime/up-{}.url", plan.tag)), "http://127.0.0.1:1/mcp").unwrap();
    let _claimed = ours(&plan);
    assert!(matches!(plan.claim(), Err(UpError::Busy { .. })));
}

#[test]
fn two_projects_get_two_ports_and_a_taken_one_is_passed_over() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let other = Wanted { project: Some(machine.path("home")), ..Wanted::default() };
    let (one, two) = (machine.plan(), plan(&other, &machine.around()).unwrap());
    // Neither listens yet, nor is its home locked yet: the second knows by the lock of the port alone.
    let (first, second) = (ours(&one), ours(&two));
    assert_ne!(first.address.port(), second.address.port());
    drop(first);
    drop(second);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Plan { listen: Some(listener.local_addr().unwrap()), ..one };
    let line = taken.claim().unwrap_err().to_string();
    assert!(line.starts_with("--listen: 127.0.0.1:") && line.contains("in use"), "{line}");
    let free = Plan { listen: Some("127.0.0.1:0".parse().unwrap()), ..taken };
    assert_ne!(ours(&free).address.port(), 0);
}

#[test]
fn a_home_that_another_supervisor_has_is_refused_with_advice() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let _other = mcp_daemon::files::Lock::take(&machine.path("home/.serena.supervise.lock")).unwrap();
    let line = machine.plan().claim().unwrap_err().to_string();
    let (process, home) = (std::process::id(), machine.path("home/.serena"));
    let expected =
        format!("another serena-supervise (process {process}) has Serena's home, {},", home.display());
    assert!(line.starts_with(&expected) && line.contains("--home DIR"), "{line}");
    // As it is told, by whichever way the directory is named.
    for home in [machine.path("other"), "../other".into()] {
        let wanted = Wanted { home: Some(home), ..Wanted::default() };
        let plan = plan(&wanted, &machine.around()).unwrap();
        assert_eq!(plan.config(address()).instances().unwrap()[1].1.home, Some(machine.path("other")));
        ours(&plan);
    }
}

#[test]
fn the_welcome_can_be_pasted() {
    let machine = Machine::with(&["serena", "mcp-sessiond"]);
    let text = machine.plan().welcome("0.0.0.0:9122".parse().unwrap(), None);
    assert!(text.starts_with("Serena is served at http://127.0.0.1:9122/mcp\n"));
    let json: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
    assert_eq!(json[0]["mcpServers"]["serena"]["url"], "http://127.0.0.1:9122/mcp");
    assert_eq!(json[1]["servers"]["serena"]["type"], "http");
    let front = machine.path("bin/mcp-sessiond").display().to_string();
    assert_eq!(json[2]["mcpServers"]["serena"]["command"], front);
    assert_eq!(json[2]["mcpServers"]["serena"]["args"][2], "http://127.0.0.1:9122/mcp");
}
