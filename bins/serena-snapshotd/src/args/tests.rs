use super::*;

fn read(line: &str) -> Result<Command, String> {
    let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
    parse(&words).map_err(|early| match early {
        Early::Help(text) => format!("HELP {text}"),
        Early::Usage(line) => line,
    })
}

#[test]
fn every_command_takes_the_same_flags() {
    let common = "--config /c --store s3://bucket/p --endpoint https://e --region auto --partition a --home /h \
                  --root web=/srv/web/.serena --root api=/srv/api/.serena --strict --state-dir /s --control /k";
    for command in [
        "adopt --local",
        "cat 1 home/x",
        "check",
        "diff 1 2",
        "import",
        "list",
        "pin 1",
        "prune",
        "restore",
        "run",
        "show 1",
        "snapshot",
        "status",
        "unpin 1",
        "verify",
    ] {
        let read =
            read(&format!("p {command} {common}")).unwrap_or_else(|error| panic!("{command}: {error}"));
        let flags = match read {
            Command::Adopt(one) => one.flags(),
            Command::Cat(one) => one.flags(),
            Command::Check(one) => one.flags(),
            Command::Diff(one) => one.flags(),
            Command::Import(one) => one.flags(),
            Command::List(one) => one.flags(),
            Command::Pin(one) => one.flags(),
            Command::Prune(one) => one.flags(),
            Command::Restore(one) => one.flags(),
            Command::Run(one) => one.flags(),
            Command::Show(one) => one.flags(),
            Command::Snapshot(one) => one.flags(),
            Command::Status(one) => one.flags(),
            Command::Unpin(one) => one.flags(),
            Command::Verify(one) => one.flags(),
        };
        assert_eq!(flags.store.unwrap().to_string(), "s3://bucket/p", "{command}");
        assert_eq!(flags.partition.unwrap().as_str(), "a", "{command}");
        assert_eq!(flags.root[1].name.as_str(), "api", "{command}");
        assert!(flags.strict, "{command}");
    }
}

#[test]
fn what_cannot_be_meant_is_one_line() {
    for (line, expected) in [
        ("p list --store /srv/x", "s3://bucket/prefix"),
        ("p list --partition a/b", "`a/b` is not a partition"),
        ("p show", "id"),
        ("p show x", "`x` is not the id of a snapshot"),
        ("p run --interval 30", "`30` is not an interval; write 30s, 3m, 1h or off"),
        ("p run --root web", "`web` is not a root; write NAME=PATH, such as web=/srv/web/.serena"),
        ("p list --secret-key x", "--secret-key"),
        ("p --version list extra", "extra"),
        ("p backup", "backup"),
    ] {
        let error = read(line).unwrap_err();
        assert!(
            error.contains(expected) && !error.contains('\n') && !error.starts_with("HELP"),
            "{line}: {error}"
        );
    }
}

#[test]
fn somebody_who_types_nothing_sees_what_to_type() {
    assert_eq!(read("p").unwrap_err(), format!("HELP {EXAMPLES}"));
    assert!(read("p --version").unwrap_err().starts_with("HELP serena-snapshotd 0."));
    let help = read("p restore --help").unwrap_err();
    assert!(help.contains("--replace") && help.contains("--partition"), "{help}");
}
