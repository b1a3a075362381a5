use super::*;

const EXAMPLE: &str = include_str!("../../../../docs/serena-supervise.toml");

fn load(toml: &str) -> Result<Config, ConfigProblem> {
    Ok(mcp_daemon::config::parse(Path::new("x.toml"), toml)?)
}

/// The one line that says what is wrong.
fn refusal(toml: &str) -> String {
    let error = load(toml).and_then(|config| config.check()).expect_err(toml);
    let line = error.within(Some(Path::new("x.toml"))).to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

fn instance(lines: &str) -> String {
    format!("[instance.a]\ncommand = ['server', '--port', '{{port}}']\n{lines}")
}

fn template(lines: &str) -> String {
    format!("[template]\ncommand = ['server', '--port', '{{port}}']\n{lines}")
}

#[test]
fn a_command_that_cannot_work_is_refused_by_its_key() {
    for (toml, expected) in [
        ("", "x.toml: instance: there is none; write [instance.NAME]"),
        ("[instance.a]", "x.toml: instance.a.command: missing; write [\"program\""),
        ("[instance.a]\ncommand = ['']", "x.toml: instance.a.command: the program is empty"),
        ("[instance.A]\ncommand = ['x']", "x.toml: instance: `A` is not a name; write 1-63 of"),
        (
            "[instance.a]\ncommand = ['x', '{prot}']",
            "x.toml: instance.a.command: unknown placeholder `{prot}`",
        ),
        (
            "[instance.a]\ncommand = ['x']",
            "x.toml: instance.a.command: the probe `mcp` would not know where to ask; add {port} to the command",
        ),
        (
            "[instance.a]\ncommand = ['x']\nprobe = 'none'\nsocket = 'unix:/run/x'",
            "x.toml: instance.a.command: nobody would know where `socket` leads to; add {port}",
        ),
        (
            "[instance.a]\ncommand = ['x']\nprobe = 'fd'",
            "x.toml: instance.a.probe: \"fd\" needs a server that is told the descriptor; add {fd}",
        ),
    ] {
        let line = refusal(toml);
        assert!(line.starts_with(expected), "{toml}: {line}");
    }
    for lines in ["env = { PORT = '{port}' }", "port = 8080", "probe = 'none'"] {
        let toml = format!("[instance.a]\ncommand = ['x']\n{lines}");
        load(&toml).unwrap().check().unwrap();
    }
    load("[instance.a]\ncommand = ['x']\nprobe = 'fd'\nenv = { READY = '{fd}' }").unwrap().check().unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_by_their_key() {
    for (lines, expected) in [
        ("home = 'here'", "home: `here` is not an absolute path; write one like /var/lib/serena"),
        ("home = '/srv/../etc'", "home: `/srv/../etc` has `..` or a zero byte in it"),
        ("home = '/'", "home: `/` cannot be a home"),
        ("directory = \"/srv\\u0000\"", "directory: `/srv\\0` has `..` or a zero byte in it"),
        ("env = { X = \"a\\u0000\" }", "env.X: has a zero byte"),
        ("home = '/{home}'", "home: `{home}` has no value here: `home` is not set"),
        ("directory = '/{port}'", "directory: `{port}` cannot stand here, only {name} and {home}"),
        ("socket = 'unix:{home}/x.sock'", "socket: `{home}` has no value here: `home` is not set"),
        ("socket = 'unix:{name}/x.sock'", "socket: `a/x.sock` is not an absolute path"),
        ("env = { X = '{home}' }", "env.X: `{home}` has no value: `home` is not set"),
        ("env = { X = '{socket}' }", "env.X: `{socket}` has no value"),
        ("env = { X = '{fd}' }", "env.X: `{fd}` has no value: write probe = \"fd\" too"),
        ("env = { 'A=B' = '' }", "env: `A=B` cannot be the name of a variable"),
        ("probe = { exec = [] }", "probe.exec: missing"),
        ("probe = { exec = ['x', '{y}'] }", "probe.exec: unknown placeholder `{y}`"),
        ("hooks.after_stop = { command = [] }", "hooks.after_stop.command: missing"),
        ("hooks.before_start = { command = ['{fd}'] }", "hooks.before_start.command: `{fd}` is the server's"),
        ("stop.http = 'shutdown'", "stop.http: `shutdown` is not a path"),
        (
            "limits = { memory_soft = '2GiB', memory_hard = '2GiB' }",
            "limits.memory_soft: `2GiB` is not less than memory_hard, `2GiB`",
        ),
        ("backoff.first = '2m'", "backoff.first: `2m` is more than longest, `1m`"),
    ] {
        let line = refusal(&instance(lines));
        let expected = format!("x.toml: instance.a.{expected}");
        assert!(line.starts_with(&expected), "{lines}: {line}");
    }
}

#[test]
fn a_socket_path_is_measured_as_it_will_be() {
    let longest = "n".repeat(63);
    let toml =
        template(&format!("names = ['{longest}']\nsocket = 'unix:/{}/{{name}}/mcp.sock'", "d".repeat(33)));
    load(&toml).unwrap().check().unwrap();
    let line = refusal(&toml.replace("/{name}", "d/{name}"));
    let expected =
        format!("`/{}/{longest}/mcp.sock` has 108 bytes, a Unix socket path at most 107", "d".repeat(34));
    assert_eq!(line, format!("x.toml: template.socket: {expected}; use a shorter directory"));
}

#[test]
fn what_only_one_can_have_is_refused_to_the_second() {
    let two =
        |lines: &str| format!("{}\n[instance.b]\ncommand = ['x', '{{port}}']\n{lines}", instance(lines));
    for (lines, expected) in [
        ("socket = 'unix:/run/x'", "instance.b.socket: `unix:/run/x` is also that of the instance `a`"),
        ("home = '/srv//x/'", "instance.b.home: `/srv/x` is also that of the instance `a`"),
        ("port = 8080", "instance.b.port: `8080` is also that of the instance `a`"),
    ] {
        assert!(refusal(&two(lines)).contains(expected), "{}", refusal(&two(lines)));
    }
    load(&two("socket = '127.0.0.1:0'\nhome = '/srv/{name}'")).unwrap().check().unwrap();
    let both = format!("{}\n{}", instance(""), template("names = ['b', 'a']"));
    assert!(
        refusal(&both).starts_with("x.toml: template: has the name `a`, which is also that of [instance.a]")
    );
}

#[test]
fn instances_that_need_each_other_or_nobody_are_refused() {
    let chain = |a: &str, b: &str| {
        refusal(&format!(
            "{}\n[instance.b]\ncommand = ['x', '{{port}}']\nafter = [{b}]",
            instance(&format!("after = [{a}]"))
        ))
    };
    assert_eq!(chain("'c'", ""), "x.toml: instance.a.after: there is no instance `c`");
    assert_eq!(chain("'a'", ""), "x.toml: instance.a.after: `a` after `a` need each other; remove one");
    assert_eq!(
        chain("'b'", "'a'"),
        "x.toml: instance.a.after: `a` after `b` after `a` need each other; remove one"
    );
    let toml = format!("{}\n{}", instance(""), template("names = ['b', 'c']\nafter = ['a']"));
    load(&toml).unwrap().check().unwrap();
}

#[test]
fn a_template_gives_each_name_its_own_paths() {
    let toml = template(
        "names = ['bob', 'alice']\nhome = '/srv/{name}'\ndirectory = '{home}/work'\nsocket = 'unix:{home}/mcp.sock'",
    );
    let instances = load(&toml).unwrap().instances().unwrap();
    let (name, alice) = &instances[0];
    assert_eq!((name.as_str(), instances[1].0.as_str()), ("alice", "bob"));
    assert_eq!(alice.home.as_deref(), Some(Path::new("/srv/alice")));
    assert_eq!(alice.directory.as_deref(), Some(Path::new("/srv/alice/work")));
    assert_eq!(alice.socket.as_ref().unwrap().to_string(), "unix:/srv/alice/mcp.sock");
    assert_eq!(alice.command, ["server", "--port", "{port}"], "known at each start only");
}

#[test]
fn what_a_template_would_share_is_refused() {
    for (lines, expected) in [
        ("", "template.names: missing"),
        ("names = ['../x']", "template.names: `../x` is not a name"),
        ("names = ['a']\nport = 8080", "template.port: 8080 cannot be that of every instance"),
        ("names = ['a']\nhome = '/srv'", "template.home: `/srv` would be shared; add {name}"),
        ("names = ['a']\nsocket = 'unix:/run/x'", "template.socket: `unix:/run/x` would be shared"),
        (
            "names = ['a']\nhom = '/srv/{name}'",
            "x.toml:4: template.hom: unknown field `hom`, expected one of",
        ),
        (
            "names = ['a']\nliveness.interval = 5",
            "x.toml:4: template.liveness.interval: `5` is not a duration",
        ),
        ("names = 'a'", "x.toml:3: template.names: invalid type"),
        ("names_from = '/nonexistent/x'", "template.names_from: /nonexistent/x: No such file"),
    ] {
        let line = refusal(&template(lines));
        assert!(line.contains(expected), "{lines}: {line}");
    }
}

#[test]
fn names_come_from_the_file_of_tokens_too_and_a_token_never_into_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"bob\": \"s3cret\", \"carol\": \"s3cret\"}").unwrap();
    let toml = template(&format!("names = ['alice', 'bob']\nnames_from = '{}'", file.path().display()));
    let config = load(&toml).unwrap();
    let names: Vec<String> = config.instances().unwrap().iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["alice", "bob", "carol"]);
    std::fs::write(file.path(), "{\"bob\": {\"route\": \"../S3CRET\"}}").unwrap();
    let line = refusal(&toml);
    assert!(line.contains(":1: bob.route: expected 1-63 of a-z") && !line.contains("S3CRET"), "{line}");
}

#[test]
fn without_a_socket_nothing_is_put_to_sleep() {
    let sleeps = |lines: &str| load(&instance(lines)).unwrap().instances().unwrap()[0].1.sleep_after;
    assert_eq!(sleeps("sleep_after = '1m'"), SleepAfter::Never);
    assert_eq!(sleeps("socket = 'unix:/run/x'"), SleepAfter::Idle(Span::seconds(900)));
}

/// Lines of the documentation with its examples in force: `#key` is a key without a default, `# word` is prose.
fn documented() -> Vec<&'static str> {
    let is_key = |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '[');
    EXAMPLE.lines().map(|line| line.strip_prefix('#').filter(is_key).unwrap_or(line)).collect()
}

#[test]
fn the_documented_settings_are_the_defaults() {
    let mut documented = load(EXAMPLE).unwrap();
    documented.check().unwrap();
    let mut example = documented.instance.remove("example").unwrap();
    example.command.clear();
    assert_eq!(example, Settings::default());
    assert_eq!(documented, Config::default());
}

#[test]
fn every_key_is_documented_and_those_without_a_default_have_an_example_that_loads() {
    let all = documented();
    let loaded = load(&all.join("\n")).unwrap();
    assert!(loaded.instance["example"].hooks.before_start.is_some() && loaded.template.is_some());
    for header in [
        "",
        "[instance.example]",
        "[instance.example.hold]",
        "[instance.example.liveness]",
        "[instance.example.stop]",
        "[instance.example.limits]",
        "[instance.example.backoff]",
        "[instance.example.hooks]",
        "[instance.example.hooks.before_start]",
    ] {
        // serde answers an unknown key with all that are known.
        let refusal = toml::from_str::<Config>(&format!("{header}\nno_such_key = 1")).unwrap_err();
        let known = refusal.message().split_once("expected").unwrap().1.split('`').skip(1).step_by(2);
        let mut section = "";
        let mut found = std::collections::HashSet::new();
        for line in &all {
            if line.starts_with('[') {
                section = line;
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| section == header) {
                found.insert(key);
            }
        }
        // The tables document themselves.
        let is_table = |key: &&str| {
            let table = format!("{}.{key}", header.trim_matches(['[', ']']));
            all.iter().any(|line| line.starts_with('[') && line.contains(table.trim_start_matches('.')))
        };
        let missing: Vec<&str> = known.filter(|key| !found.contains(key) && !is_table(key)).collect();
        assert!(missing.is_empty(), "{header} {missing:?}");
    }
}
