use std::path::Path;

use mcp_daemon::config::ConfigError;

use super::*;

fn refusal(toml: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    std::fs::write(&path, toml).unwrap();
    let problem = Flags::default().settings(Some(&path)).unwrap_err();
    problem.to_string().replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn a_refusal_is_one_line_that_names_the_key() {
    for (toml, expected) in [
        ("upsteam = 'x'", "x.toml:1"),
        ("listen = ['127.0.0.1:9121']", "x.toml: upstream: missing"),
        ("upstream = 'http://127.0.0.1:1/mcp'\nexec = ['serena']", "exec: given beside"),
        (
            "upstream = 'http://127.0.0.1:1/mcp'\n[[listener]]\naddress = '127.0.0.1:1'\ntrusted = true",
            "listener.trusted",
        ),
        ("upstream = 'unix:/run/{route}/mcp.sock'\nlisten = ['127.0.0.1:1']", "upstream: has {route}"),
        ("upstream = 'http://127.0.0.1:1/mcp'\nheaders = ['x']", "headers: a header without a colon"),
        ("[limits]\nparked_time = 'soon'", "limits.parked_time"),
        ("upstream = 'http://127.0.0.1:1/mcp'\npath = 'mcp'", "path: must start with"),
        ("upstream = 'http://127.0.0.1:1/mcp'\npath = '/a b'", "path: no request"),
        ("upstream = 'http://127.0.0.1:1/mcp'\npath = '/a?x'", "path: no request"),
        ("upstream = 'http://127.0.0.1:1/mcp'\npath = '/a#x'", "path: no request"),
    ] {
        let line = refusal(toml);
        assert!(line.contains(expected), "{toml}: {line}");
        assert!(!line.trim_end().contains('\n'), "{line}");
    }
}

#[test]
fn flags_go_over_the_file_which_is_then_not_blamed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        &file,
        "listen = ['127.0.0.1:1']\nupstream = 'http://127.0.0.1:2/mcp'\nheaders = ['a: 1']",
    )
    .unwrap();
    let (plain, _) = Flags::default().settings(Some(file.path())).unwrap();
    assert_eq!((plain.listen[0].to_string(), plain.path.as_str()), ("127.0.0.1:1".into(), "/mcp"));
    let flags = Flags {
        listen: vec!["127.0.0.1:3".parse().unwrap()],
        upstream: Some("http://127.0.0.1:4/mcp".parse().unwrap()),
        headers: vec!["b: 2".into()],
        ..Flags::default()
    };
    let (config, headers) = flags.settings(Some(file.path())).unwrap();
    assert_eq!(config.listen, flags.listen);
    assert_eq!(config.upstream, flags.upstream);
    assert_eq!(headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let flags = Flags { exec: Some(vec!["serena".into()]), ..Flags::default() };
    let problem = flags.settings(Some(file.path())).unwrap_err().to_string();
    assert!(problem.starts_with("exec: given beside `upstream`"), "{problem}");
}

#[test]
fn settings_can_be_checked_where_the_files_that_they_name_are_not() {
    let flags = Flags {
        upstream: Some("http://127.0.0.1:4/mcp".parse().unwrap()),
        token_file: Some("/nonexistent/token".into()),
        ..Flags::default()
    };
    let problem = flags.settings(None).unwrap_err().to_string();
    assert!(problem.starts_with("token_file: /nonexistent/token: "), "{problem}");
    flags.settings_alone(None).unwrap();
    Flags::default().settings_alone(None).unwrap_err();
}

const EXAMPLE: &str = include_str!("../../../../docs/mcp-sessiond.toml");

fn load(toml: &str) -> Result<Config, ConfigError> {
    mcp_daemon::config::parse(Path::new("x.toml"), toml)
}

#[test]
fn the_documented_settings_are_the_defaults() {
    let documented = load(EXAMPLE).unwrap();
    assert_eq!(format!("{documented:#?}"), format!("{:#?}", Config::default()));
}

#[test]
fn every_key_is_documented_and_those_without_a_default_have_an_example_that_loads() {
    // `#key` is a key without a default, `# word` is prose.
    let is_key = |rest: &&str| rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '[');
    let all: Vec<&str> =
        EXAMPLE.lines().map(|line| line.strip_prefix('#').filter(is_key).unwrap_or(line)).collect();
    let loaded = load(&all.join("\n")).unwrap();
    assert!(loaded.upstream.is_some() && !loaded.exec.is_empty() && loaded.listener[0].trusted);
    for header in ["", "[limits]", "[hang]", "[heal]", "[stream]", "[process]", "[[listener]]"] {
        // serde answers an unknown key with all that are known.
        let refusal = toml::from_str::<Config>(&format!("{header}\nno_such_key = 1")).unwrap_err();
        let known = refusal.message().split_once("expected").unwrap().1.split('`').skip(1).step_by(2);
        let mut section = "";
        let mut documented = std::collections::HashSet::new();
        for line in &all {
            if line.starts_with('[') {
                section = line;
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| section == header) {
                documented.insert(key);
            }
        }
        // The tables document themselves.
        let is_table = |key: &&str| all.iter().any(|line| line.trim_matches(['[', ']']) == *key);
        let missing: Vec<&str> = known.filter(|key| !documented.contains(key) && !is_table(key)).collect();
        assert!(missing.is_empty(), "{header} {missing:?}");
        assert!(header == "[[listener]]" || !documented.is_empty());
    }
}
