use std::path::Path;

use supervise::config::Config;

use super::run::name_of;
use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(Into::into).collect()
}

fn read(line: &str) -> Result<(Command, Option<Vec<String>>), String> {
    let (own, command) = args::split(words(line).into_iter());
    let command: Option<Vec<String>> =
        command.map(|words| words.into_iter().map(|word| word.into_string().unwrap()).collect());
    match parse(&own, command.is_some()) {
        Ok(read) => Ok((read, command)),
        Err(Early::Usage(line)) => Err(line),
        Err(Early::Help(text)) => Err(format!("HELP {text}")),
    }
}

fn run(line: &str) -> Result<Config, String> {
    let (Command::Run(run), command) = read(line)? else { panic!("{line}") };
    run.settings(command.as_deref()).map_err(|error| match error {
        RunError::Config(problem) => problem.to_string(),
        RunError::Usage(line) => line,
    })
}

#[test]
fn one_server_is_made_of_flags_and_a_command() {
    let config =
        run("p run --socket unix:/run/x --home /srv/x --sleep-after never -- /bin/sh {port} -- --home y")
            .unwrap();
    let settings = &config.instance["sh"];
    assert_eq!(settings.command, ["/bin/sh", "{port}", "--", "--home", "y"]);
    assert_eq!(settings.home.as_deref(), Some(Path::new("/srv/x")));
    assert_eq!(settings.sleep_after, SleepAfter::Never);
    let config = run("p run --name a --probe tcp --observe 127.0.0.1:0 -- sh {port}").unwrap();
    assert_eq!(config.instance["a"].probe, Probe::Tcp);
    assert!(config.observe.is_some());
    assert_eq!(name_of("/opt/My.Server").to_string(), "my-server");
    assert_eq!(name_of("/usr/bin/..").to_string(), "server");
}

#[test]
fn every_mistake_is_one_line() {
    for (line, expected) in [
        ("p run", "what to run is missing; write -- COMMAND, or --config FILE"),
        ("p run --", "a command must follow `--`"),
        ("p run --config /nonexistent/x.toml", "/nonexistent/x.toml: No such file"),
        ("p run --config /dev/null", "/dev/null: instance: there is none"),
        ("p run --config /dev/null -- x", "--config and a command after `--`; give one of the two"),
        ("p run --config /dev/null --home /srv", "--home is for a command after `--`"),
        (
            "p run -- ./missing {port}",
            "instance.missing.command: `./missing` is not found; install it, or write the path",
        ),
        ("p run -- sh", "instance.sh.command: the probe `mcp` would not know where to ask; add {port}"),
        ("p run --name A -- x", "Error parsing option '--name' with value 'A': `A` is not a route"),
        ("p run --probe udp -- x", "Error parsing option '--probe' with value 'udp': `udp` is not a probe"),
        (
            "p run --socket /run/x -- x",
            "Error parsing option '--socket' with value '/run/x': `/run/x` is not an address",
        ),
        ("p status -- x", "nothing can follow `--` here"),
        (
            "p wait a --for asleep",
            "Error parsing option '--for' with value 'asleep': `asleep` is not a state",
        ),
        ("p wake", "Required positional arguments not provided: name"),
        ("p frobnicate", "Unrecognized argument: frobnicate"),
        ("p -- x", "what to do is missing"),
    ] {
        let found = read(line).map(|_| ()).err().unwrap_or_else(|| run(line).unwrap_err());
        assert!(found.starts_with(expected) && !found.contains('\n'), "{line}: {found}");
    }
}

#[test]
fn no_words_get_examples_and_the_flags_are_explained() {
    assert!(read("p").unwrap_err().contains("serena-supervise up  "));
    assert!(read("p --help").unwrap_err().contains("--port {port}"));
    assert!(
        read("p run --help").unwrap_err().contains("{port}, {home}, {name}, {socket} and {fd} are replaced")
    );
    assert!(read("p --version").unwrap_err().starts_with("HELP serena-supervise "));
}

#[test]
fn what_is_asked_of_a_running_supervisor_has_a_name_and_a_socket() {
    let Ok((Command::Wait(wait), None)) = read("p wait a --for stopped --timeout 5s --control /run/c") else {
        panic!("not a wait")
    };
    assert_eq!((wait.name.as_str(), wait.goal, wait.timeout), ("a", Goal::Stopped, Span::seconds(5)));
    assert_eq!(wait.control.as_deref(), Some(Path::new("/run/c")));
    assert!(matches!(
        read("p logs -f -n 5"),
        Ok((Command::Logs(Logs { follow: true, lines: 5, name: None, .. }), _))
    ));
}
