use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::secrets::access_key;
use super::*;
use crate::settings::Keep;

/// What a container of the Cloudflare wrapper has.
const WRAPPER: &str = "SERENA_HOME=/app/.serena SERENA_R2_STATE_ENABLED=1 R2_BUCKET_NAME=serena-mcp-state-prod \
    R2_ACCOUNT_ID=0123456789abcdef0123456789abcdef AWS_ACCESS_KEY_ID=id AWS_SECRET_ACCESS_KEY=hunter2 \
    SERENA_R2_STATE_PARTITION_MODE=durable-object CLOUDFLARE_DURABLE_OBJECT_ID=do/7 HOME=/root";

fn env(text: &str) -> Result<Env, String> {
    let variables: HashMap<String, OsString> = text
        .split_whitespace()
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    Env::read(|name| variables.get(name).cloned()).map_err(|problem| problem.to_string())
}

fn config(text: &str) -> Config {
    mcp_daemon::config::parse(Path::new("x.toml"), text).unwrap_or_else(|error| panic!("{error}"))
}

fn plan(toml: &str, flags: &Flags, variables: &str) -> Result<Plan, String> {
    config(toml).plan(flags, &env(variables)?).map_err(|problem| problem.to_string())
}

fn of_env(variables: &str) -> Result<Plan, String> {
    plan("", &Flags::default(), variables)
}

#[test]
fn the_wrappers_settings_work_unchanged() {
    let plan = of_env(WRAPPER).unwrap();
    assert_eq!(
        plan.location.to_string(),
        "s3://serena-mcp-state-prod/serena-mcp/default/serena-home-snapshots-v1"
    );
    // Spelled as the wrapper spells it.
    assert_eq!(plan.settings.partition.as_str(), "do_7");
    assert_eq!(plan.home(), Path::new("/app/.serena"));
    assert_eq!((plan.interval, plan.strict), (Interval::Every(Span::seconds(180)), false));
    assert_eq!(plan.settings.keep, Keep::default());
    let env = env(WRAPPER).unwrap();
    let endpoint = "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com";
    assert_eq!(env.endpoint, Some(("R2_ACCOUNT_ID", endpoint.to_owned())));
    assert_eq!(env.region, Some(("R2_ACCOUNT_ID", "auto".to_owned())));
    let more = "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS=60 SERENA_R2_SNAPSHOT_RETENTION_COUNT=9 SERENA_R2_STATE_STRICT=1 \
                SERENA_R2_STATE_PREFIX=/a/b/";
    let plan = of_env(&format!("{WRAPPER} {more}")).unwrap();
    assert_eq!((plan.interval, plan.strict), (Interval::Every(Span::seconds(60)), true));
    assert_eq!(plan.settings.keep.last, 9);
    assert_eq!(plan.location.to_string(), "s3://serena-mcp-state-prod/a/b");
    // In the wrapper 0 means off, and keep all.
    let zero = "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS=0 SERENA_R2_SNAPSHOT_RETENTION_COUNT=0";
    let plan = of_env(&format!("{WRAPPER} {zero}")).unwrap();
    assert_eq!((plan.interval, plan.settings.keep.last), (Interval::Off, u32::MAX));
}

#[test]
fn no_container_gets_a_shared_state_without_asking_for_it() {
    let without_id = WRAPPER.replace("CLOUDFLARE_DURABLE_OBJECT_ID=do/7", "");
    let error = of_env(&without_id).map(drop).unwrap_err();
    assert!(error.contains("durable-object, but CLOUDFLARE_DURABLE_OBJECT_ID is not set"), "{error}");
    let none = WRAPPER.replace("=durable-object", "=none");
    let error = of_env(&none).map(drop).unwrap_err();
    assert!(error.starts_with("--partition: ") && error.contains("shares one state"), "{error}");
    let named = format!("{none} SERENA_SNAPSHOTD_PARTITION=only-one");
    assert_eq!(of_env(&named).unwrap().settings.partition.as_str(), "only-one");
    let unknown = WRAPPER.replace("=durable-object", "=per-user");
    let error = of_env(&unknown).map(drop).unwrap_err();
    assert_eq!(
        error,
        "SERENA_R2_STATE_PARTITION_MODE: `per-user` is not a mode; write durable-object or none"
    );
    // Where the mode is not said, the container's name is taken.
    let unsaid = WRAPPER.replace("SERENA_R2_STATE_PARTITION_MODE=durable-object", "");
    assert_eq!(of_env(&unsaid).unwrap().settings.partition.as_str(), "do_7");
}

#[test]
fn the_environment_turns_snapshots_off_but_not_for_a_store_named_on_purpose() {
    let off = env(&WRAPPER.replace("ENABLED=1", "ENABLED=0")).unwrap();
    let named = Flags { store: Some("file:///s".parse().unwrap()), ..Flags::default() };
    assert_eq!(config("").off(&Flags::default(), &off).as_deref(), Some("SERENA_R2_STATE_ENABLED is off"));
    assert_eq!(config("").off(&named, &off), None);
    assert_eq!(config("store = 's3://abc/p'").off(&Flags::default(), &off), None);
    assert_eq!(config("enabled = true").off(&Flags::default(), &off), None);
    let on = env(WRAPPER).unwrap();
    assert_eq!(config("").off(&Flags::default(), &on), None);
    assert_eq!(config("enabled = false").off(&Flags::default(), &on).as_deref(), Some("enabled is false"));
}

#[test]
fn a_flag_wins_over_the_file_and_that_over_the_environment() {
    let file = "partition = 'file'\nhome = '/file'\nstore = 's3://file/p'\ninterval = '1h'\nstrict = false\n\
                [keep]\nlast = 3\n[s3]\nendpoint = 'https://file'";
    let variables = format!("{WRAPPER} SERENA_R2_STATE_STRICT=1 SERENA_R2_SNAPSHOT_RETENTION_COUNT=9");
    let found = plan(file, &Flags::default(), &variables).unwrap();
    assert_eq!(found.settings.partition.as_str(), "file");
    assert_eq!((found.home(), found.location.to_string().as_str()), (Path::new("/file"), "s3://file/p"));
    assert_eq!(
        (found.interval.to_string().as_str(), found.strict, found.settings.keep.last),
        ("1h", false, 3)
    );
    let flags = Flags {
        partition: Some("flag".parse().unwrap()),
        home: Some("/flag".into()),
        store: Some("file:///flagged".parse().unwrap()),
        interval: Some(Interval::Off),
        strict: true,
        root: vec!["web=/srv/web/.serena".parse().unwrap()],
        ..Flags::default()
    };
    let found = plan(file, &flags, &variables).unwrap();
    assert_eq!(found.settings.partition.as_str(), "flag");
    assert_eq!((found.home(), found.location.to_string().as_str()), (Path::new("/flag"), "file:///flagged"));
    assert_eq!((found.interval, found.strict), (Interval::Off, true));
    assert_eq!(found.settings.roots[1].path, Path::new("/srv/web/.serena"));
}

#[test]
fn without_settings_it_is_the_home_of_this_user_and_a_directory_of_this_user() {
    let flags = Flags { partition: Some("a".parse().unwrap()), ..Flags::default() };
    let found = plan("", &flags, "HOME=/home/me").unwrap();
    assert_eq!(found.home(), Path::new("/home/me/.serena"));
    assert_eq!(found.location.to_string(), "file:///home/me/.local/state/serena-snapshotd/store");
    let found = plan("", &flags, "HOME=/home/me STATE_DIRECTORY=/var/lib/a:/var/lib/b").unwrap();
    assert_eq!(found.location.to_string(), "file:///var/lib/a/store");
    let error = plan("", &Flags::default(), "HOME=/home/me").map(drop).unwrap_err();
    assert_eq!(
        error,
        "--partition: the name of this home in the store is missing; say --partition NAME, such as --partition laptop (or \
         partition in the file, or SERENA_SNAPSHOTD_PARTITION); take the name of the instance, and never one name for two homes"
    );
}

#[test]
fn what_cannot_work_names_the_key() {
    let flags = Flags { config: Some("x.toml".into()), ..Flags::default() };
    for (toml, expected) in [
        ("home = 'relative'", "x.toml: home: `relative` is not an absolute path"),
        ("store = 'file:///home/me/.serena/store'", "x.toml: store: "),
        ("state_dir = '/home/me/.serena/x'", "x.toml: state_dir: "),
        ("[root.home]\npath = '/srv/x'", "x.toml: root.home: `home` is the name of the home itself"),
        ("[root.web]\npath = '/home/me/.serena/web'", "x.toml: root.web: "),
        ("[root.web]\npath = 'web'", "x.toml: root.web.path: `web` is not an absolute path"),
        ("exclude = ['[']", "x.toml: include or exclude: glob `[`"),
        ("blob_from = '1KiB'", "x.toml: blob_from: `1KiB` is too small"),
        ("[s3]\nendpoint = 's3.example.org'", "x.toml: s3.endpoint: `s3.example.org` is not an endpoint"),
        ("[s3]\nregion = 'eu west'", "x.toml: s3.region: `eu west` is not a region"),
        ("[s3]\nattempts = 0", "x.toml: s3.attempts: `0`"),
        ("[encryption]\nrecipients = ['age1x']", "x.toml: encryption: write either identity_file"),
        (
            "[encryption]\nidentity_file = '/nonexistent'\nrecipients = ['age1x']",
            "x.toml: encryption: `age1x` is not an age recipient",
        ),
        (
            "[encryption]\npassphrase_file = '/nonexistent'\nrecipients = ['age1x']",
            "x.toml: encryption: recipients go with an identity file",
        ),
    ] {
        let error = plan(&format!("partition = 'a'\n{toml}"), &flags, "HOME=/home/me").map(drop).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{toml}: {error}");
    }
    // What stands in a flag does not stand in the file, though there is one.
    let text = "partition = 'a'\nhome = '/srv/a'\n[root.web]\npath = '/srv/web'";
    let bare = || flags.clone();
    for (flags, expected) in [
        (Flags { endpoint: Some("s3.example.org".into()), ..bare() }, "--endpoint: `s3.example.org` is not"),
        (Flags { region: Some("eu west".into()), ..bare() }, "--region: `eu west` is not"),
        (
            Flags { store: Some("file:///srv/a/store".parse().unwrap()), ..bare() },
            "--store: /srv/a/store and",
        ),
        (Flags { state_dir: Some("/srv/a/state".into()), ..bare() }, "--state-dir: /srv/a/state and"),
        (Flags { root: vec!["home=/srv/b".parse().unwrap()], ..bare() }, "--root: `home` is the name"),
        (Flags { root: vec!["sub=/srv/web/sub".parse().unwrap()], ..bare() }, "--root: /srv/web and"),
        (Flags { home: Some("/srv/web".into()), ..bare() }, "x.toml: root.web: /srv/web and /srv/web are"),
    ] {
        let error = plan(text, &flags, "HOME=/home/me").map(drop).unwrap_err();
        assert!(error.starts_with(expected), "{flags:?}: {error}");
    }
    for (variables, expected) in [
        (
            "SERENA_SNAPSHOTD_PARTITION=a AWS_ENDPOINT_URL=x.org",
            "AWS_ENDPOINT_URL: `x.org` is not an endpoint",
        ),
        ("SERENA_SNAPSHOTD_PARTITION=a AWS_DEFAULT_REGION=a/b", "AWS_DEFAULT_REGION: `a/b` is not a region"),
        (
            "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS=18446744073709551615",
            "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS: `18446744073709551615` seconds are too many",
        ),
        (
            "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS=3m",
            "SERENA_R2_SNAPSHOT_INTERVAL_SECONDS: `3m` is not a whole number",
        ),
        ("R2_ACCOUNT_ID=a/b", "R2_ACCOUNT_ID: "),
        ("R2_BUCKET_NAME=a_b!", "R2_BUCKET_NAME: "),
        ("SERENA_R2_STATE_ENABLED=1 SERENA_SNAPSHOTD_PARTITION=a", "R2_BUCKET_NAME: is not set"),
        ("SERENA_SNAPSHOTD_PARTITION=a/b", "SERENA_SNAPSHOTD_PARTITION: `a/b` is not a partition"),
    ] {
        let error = of_env(&format!("HOME=/home/me {variables}")).map(drop).unwrap_err();
        assert!(error.starts_with(expected), "{variables}: {error}");
    }
    let error =
        mcp_daemon::config::parse::<Config>(Path::new("x.toml"), "\npartiton = 'a'").unwrap_err().to_string();
    assert!(error.starts_with("x.toml:2: partiton: unknown field"), "{error}");
}

#[test]
fn a_key_in_an_endpoint_is_not_repeated() {
    for endpoint in
        ["https://id:hunter2@host", "id:hunter2@host:9000", "https://host/b?X-Amz-Signature=hunter2"]
    {
        let flags = Flags { endpoint: Some(endpoint.into()), ..Flags::default() };
        let error = plan("partition = 'a'", &flags, "HOME=/home/me").map(drop).unwrap_err();
        assert!(error.starts_with("--endpoint: `") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_wrappers_bucket_alone_turns_nothing_on() {
    let off = |toml: &str, flags: &Flags, variables: &str| config(toml).off(flags, &env(variables).unwrap());
    let flags = Flags::default();
    let unset = WRAPPER.replace("SERENA_R2_STATE_ENABLED=1", "");
    let why = off("", &flags, &unset).unwrap();
    assert!(why.starts_with("R2_BUCKET_NAME is set, but SERENA_R2_STATE_ENABLED is not"), "{why}");
    assert_eq!(off("", &flags, WRAPPER), None);
    // Where there is nothing of the wrapper, there is nothing to turn on; and whoever says it means it.
    assert_eq!(off("", &flags, "HOME=/home/me"), None);
    assert_eq!(off("enabled = true", &flags, &unset), None);
    assert_eq!(off("store = 's3://abc/p'", &flags, &unset), None);
    let named = Flags { store: Some("s3://abc/p".parse().unwrap()), ..Flags::default() };
    assert_eq!(off("", &named, &unset), None);
    assert_eq!(
        off("", &flags, &WRAPPER.replace("=1", "=0")).as_deref(),
        Some("SERENA_R2_STATE_ENABLED is off")
    );
}

#[test]
fn the_wrapper_without_a_key_goes_on_without_snapshots_unless_it_is_strict() {
    let without = WRAPPER.replace("AWS_SECRET_ACCESS_KEY=hunter2", "");
    let lacks =
        |toml: &str, flags: &Flags, variables: &str| config(toml).lacks_key(flags, &env(variables).unwrap());
    let flags = Flags::default();
    let why = "SERENA_R2_STATE_ENABLED is on, but AWS_SECRET_ACCESS_KEY is not set";
    assert_eq!(lacks("", &flags, &without).as_deref(), Some(why));
    assert_eq!(lacks("", &flags, WRAPPER), None);
    assert_eq!(lacks("", &flags, &format!("{without} SERENA_R2_STATE_STRICT=1")), None);
    assert_eq!(lacks("", &Flags { strict: true, ..flags.clone() }, &without), None);
    // Whoever names a store or files with the key means it.
    assert_eq!(lacks("store = 's3://abc/p'", &flags, &without), None);
    assert_eq!(lacks("[s3]\naccess_key_file = '/id'", &flags, &without), None);
    assert_eq!(lacks("", &flags, "HOME=/home/me"), None);
}

#[test]
fn keys_come_from_one_place_and_are_never_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let variables = "AWS_ACCESS_KEY_ID=env AWS_SECRET_ACCESS_KEY=s AWS_SESSION_TOKEN=t";
    let found = access_key(&Bucket::default(), &env(variables).unwrap()).unwrap();
    assert_eq!((found.id.as_str(), found.secret.expose(), found.token.unwrap().expose()), ("env", "s", "t"));
    file("aws_access_key_id", "credential");
    file("aws_secret_access_key", "c");
    let managed = format!("{variables} CREDENTIALS_DIRECTORY={}", directory.path().display());
    let found = access_key(&Bucket::default(), &env(&managed).unwrap()).unwrap();
    assert_eq!((found.id.as_str(), found.secret.expose(), found.token), ("credential", "c", None));
    let bucket = Bucket {
        access_key_file: Some(file("id", "filed")),
        secret_key_file: Some(file("secret", "f")),
        ..Bucket::default()
    };
    assert_eq!(access_key(&bucket, &env(&managed).unwrap()).unwrap().id, "filed");
    let half = Bucket { secret_key_file: None, ..bucket };
    let token_alone = Bucket { session_token_file: Some(file("token", "t")), ..Bucket::default() };
    for (bucket, missing) in [(half, "s3.secret_key_file"), (token_alone, "s3.access_key_file")] {
        let error = access_key(&bucket, &env(&managed).unwrap()).map(drop).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{missing}: is missing; ")), "{error}");
    }
    let error = access_key(&Bucket::default(), &env("AWS_ACCESS_KEY_ID=x").unwrap())
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("AWS_SECRET_ACCESS_KEY: is not set"), "{error}");
}

#[test]
fn a_reload_names_what_needs_a_restart() {
    let flags = Flags { partition: Some("a".parse().unwrap()), ..Flags::default() };
    let plan = |toml: &str| plan(toml, &flags, "HOME=/home/me").unwrap();
    let before = plan("");
    assert_eq!(before.needs_restart(&plan("interval = '1m'\n[keep]\nlast = 2")), Vec::<&str>::new());
    let after = plan(
        "home = '/srv/a'\nstore = 's3://abc/x'\ninclude = ['x']\nobserve = '127.0.0.1:1'\nverify = 'read'",
    );
    let named = ["store", "home or roots", "profile, include or exclude", "verify", "observe"];
    assert_eq!(before.needs_restart(&after), named);
    assert_eq!(before.needs_restart(&plan("enabled = false\nstrict = true")), ["enabled", "strict"]);
    assert_eq!(before.needs_restart(&plan("enabled = true")), Vec::<&str>::new());
}

#[test]
fn the_documented_settings_are_right_and_complete() {
    let text = include_str!("../../../../docs/serena-snapshotd.toml");
    let documented: Config =
        mcp_daemon::config::parse(Path::new("docs/serena-snapshotd.toml"), text).unwrap();
    let flags = Flags::default();
    let found = documented.plan(&flags, &env("HOME=/home/me").unwrap()).unwrap();
    // What is not commented out is the default.
    let bare = config("partition = 'laptop'").plan(&flags, &env("HOME=/home/me").unwrap()).unwrap();
    assert_eq!(found.settings.keep, bare.settings.keep);
    assert_eq!(found.settings.blob_from, bare.settings.blob_from);
    assert_eq!((found.interval, found.shutdown_deadline), (bare.interval, bare.shutdown_deadline));
    // And what is commented out is a key that exists.
    let mut whole = String::new();
    for line in text.lines() {
        let open = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|char: char| char == '[' || char.is_ascii_lowercase()));
        whole += open.unwrap_or(line);
        whole.push('\n');
    }
    mcp_daemon::config::parse::<Config>(Path::new("docs/serena-snapshotd.toml"), &whole).unwrap();
}
