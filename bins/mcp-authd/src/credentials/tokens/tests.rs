use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mcp_daemon::tokens;
use proptest::prelude::*;

use super::write::{self, New, WriteError};
use super::*;
use crate::identity::Scopes;

const A: &str = "s3cret-s3cret-s3cret-a";
const B: &str = "s3cret-s3cret-s3cret-b";
const NOW: u64 = 1_800_000_000;

fn read(text: &str) -> Result<Tokens, String> {
    let items = tokens::parse(Path::new("F"), text).map_err(|error| error.to_string())?;
    Tokens::of(&items, 1 << 14).map_err(|error| error.to_string())
}

/// A file of the owner's alone.
fn secret(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn config(tokens: Option<&Path>) -> Config {
    Config { tokens: tokens.map(Path::to_owned), ..Config::default() }
}

fn named(name: &str) -> New {
    New { name: name.into(), subject: None, route: None, scopes: Vec::new(), expires: None, note: None }
}

/// Subject and route of a token, as text.
fn worth(tokens: &Tokens, token: &str) -> Result<String, Refused> {
    tokens.identify(token, NOW).map(|identity| format!("{} {}", identity.subject, identity.route))
}

#[test]
fn a_token_is_worth_what_is_written_beside_it() {
    let tokens = read(&format!(
        "[token.alice]\ntoken = '{A}'\nsubject = 'Alice@example.org'\nroute = 'r'\nscopes = ['tools', 'x']\nexpires = 2027-01-31\nnote = 'hers'\n[token.bob]\ntoken = '{B}'"
    ))
    .unwrap();
    let alice = tokens.identify(A, NOW).unwrap();
    assert_eq!((alice.subject.as_str(), alice.route.as_str()), ("Alice@example.org", "r"));
    assert!(alice.scopes.has("tools") && !alice.scopes.has("y"));
    assert_eq!(alice.expires, Some(1_801_353_600));
    assert_eq!(alice.fingerprint.to_string(), crate::credentials::bearer::fingerprint(A));
    let bob = tokens.identify(B, NOW).unwrap();
    assert_eq!((bob.subject.as_str(), bob.route.as_str(), bob.scopes.clone()), ("bob", "bob", Scopes::All));
    assert_eq!(tokens.identify("s3cret-s3cret-s3cret-c", NOW).unwrap_err(), Refused::Unknown);
}

#[test]
fn a_token_is_good_from_not_before_until_expires_unless_disabled() {
    let tokens = read(&format!(
        "[token.a]\ntoken = '{A}'\nnot_before = 2027-01-01T00:00:00Z\nexpires = '2027-01-02'\n[token.b]\ntoken = '{B}'\ndisabled = true"
    ))
    .unwrap();
    let (begin, end) = (1_798_761_600, 1_798_848_000);
    assert_eq!(tokens.identify(A, begin - 1).unwrap_err(), Refused::NotYet("a".into()));
    let identity = tokens.identify(A, begin).unwrap();
    assert!(tokens.still(&identity, end - 1) && !tokens.still(&identity, end));
    assert_eq!(tokens.identify(A, end).unwrap_err(), Refused::Expired("a".into()));
    assert_eq!(tokens.identify(B, begin).unwrap_err(), Refused::Disabled("b".into()));
}

#[test]
fn what_cannot_be_is_refused_with_its_place_and_never_with_a_token() {
    for (text, expected) in [
        (
            format!("[token.a]\ntoken = '{A}'\n[token.b]\ntoken = '{A}'"),
            "F:3: token.b: the same token as that of `a` (F:1)",
        ),
        (format!("{{\"a\": \"{A}\",\n\"b\": \"{A}\"}}"), "F:2: b: the same token as that of `a` (F:1)"),
        (format!("[\"{A}\", \"{A}\"]"), "F:1: [1]: the same token as that of F:1"),
        (format!("{{\"a\": \"{A}\",\n\"a\": \"{B}\"}}"), "F:2: a: the same name as that of `a` (F:1)"),
        (
            format!("[token.a]\ntoken = '{A}'\nexpirs = 1"),
            "F:3: token.a.expirs: unknown key, expected one of disabled, exp",
        ),
        (format!("[token.a]\ntoken = '{A}'\n{A}x = 1"), "F:3: token.a: unknown key, expected one of"),
        (
            format!("[token.a]\ntoken = '{A}'\nexpires = 'soon'"),
            "F:3: token.a.expires: expected a date such as",
        ),
        (format!("[token.a]\ntoken = '{A}'\nexpires = 7"), "F:3: token.a.expires: expected a date such as"),
        (
            format!("[token.a]\ntoken = '{A}'\nnot_before = 2027-01-31T00:00:00"),
            "F:3: token.a.not_before: expected a date",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nnot_before = 2027-01-31\nexpires = 2027-01-31"),
            "F:4: token.a.expires: not after",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nscopes = 'tools'"),
            "F:3: token.a.scopes: expected a list of words",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nscopes = ['a b']"),
            "F:3: token.a.scopes: expected a list of words",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\ndisabled = 'yes'"),
            "F:3: token.a.disabled: expected true or false",
        ),
        (
            format!("[token.a]\ntoken = '{A}'\nsubject = 'a b'"),
            "F:3: token.a.subject: a subject is 1 to 128 visible",
        ),
        (format!("[token.\"a b\"]\ntoken = '{A}'"), "F:1: token.a b: its name is not 1 to 128 visible ASCII"),
        (
            format!("[token.a]\ntoken = '{}'", "x".repeat(1 << 14)),
            "F:2: token.a.token: longer than limits.credential",
        ),
    ] {
        let Err(error) = read(&text) else { panic!("{text}") };
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("s3cret") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn the_environment_gives_tokens_as_the_wrapper_did() {
    let read = |shared: Option<&str>, each: Option<&str>| {
        let environment = |variable: &str| match variable {
            "API_TOKEN" => shared.map(OsString::from),
            "API_TOKENS_JSON" => each.map(OsString::from),
            _ => None,
        };
        let items = source::read(&config(None), environment).map_err(|problem| problem.to_string())?;
        Tokens::of(&items, 1 << 14).map_err(|error| error.to_string())
    };
    assert_eq!(worth(&read(Some(&format!("{A}\n")), None).unwrap(), A).unwrap(), "default default");
    let both = read(Some(A), Some(&format!("{{\"terminal-b\": \"{B}\"}}"))).unwrap();
    assert_eq!(worth(&both, A).unwrap(), "default default");
    assert_eq!(worth(&both, B).unwrap(), "terminal-b terminal-b");
    let stable = tokens::of_token(&sha256(A.as_bytes()));
    assert_eq!(
        worth(&read(None, Some(&format!("[\"{A}\"]"))).unwrap(), A).unwrap(),
        format!("{stable} {stable}")
    );
    assert_eq!(read(Some(""), Some(" ")).unwrap().entries().count(), 0);
    for (shared, each, expected) in [
        (Some("S3CRET"), None, "API_TOKEN:1: token: shorter than 16 characters"),
        (None, Some("S3CRET"), "API_TOKENS_JSON: expected {\"name\": \"token\"} or [\"token\"]"),
        (None, Some("{\"a\": \"S3CRET\"}"), "API_TOKENS_JSON:1: a.token: shorter than 16"),
        (
            Some(A),
            Some(&*format!("[\"{A}\"]")),
            "API_TOKENS_JSON:1: [0]: the same token as that of API_TOKEN:1",
        ),
    ] {
        let error = read(shared, each).err().unwrap();
        assert!(error.starts_with(expected) && !error.contains("S3CRET"), "{error}");
    }
    let off = Config { environment_tokens: false, ..Config::default() };
    assert!(source::read(&off, |_| Some(A.into())).unwrap().is_empty());
}

#[test]
fn files_that_everybody_can_read_or_write_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let file = secret(&tokens, "a", A);
    let load = |path: &Path| {
        let read = source::read(&config(Some(path)), |_| None);
        read.map(|items| items.len()).map_err(|problem| problem.to_string())
    };
    for (path, mode, expected) in [
        (&file, 0o644, "everybody can read these tokens (mode 0644); run chmod 600 on it"),
        (&file, 0o602, "everybody can write tokens here (mode 0602); run chmod 600 on it"),
        (&tokens, 0o703, "everybody can write tokens here (mode 0703); run chmod go-w on it"),
    ] {
        let before = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let error = load(&tokens).unwrap_err();
        assert_eq!(error, format!("{}: {expected}", path.display()));
        fs::set_permissions(path, before).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(load(&tokens), Ok(1));
}

#[test]
fn a_new_reading_goes_on_with_the_last_use_of_the_old() {
    let text = format!("[token.a]\ntoken = '{A}'\n");
    let (old, mut new) = (read(&text).unwrap(), read(&format!("{text}[token.b]\ntoken = '{B}'")).unwrap());
    old.identify(A, NOW).unwrap();
    new.inherit(&old);
    let fingerprint = crate::credentials::bearer::fingerprint(A);
    assert_eq!(new.times(), Times::from([(fingerprint.clone(), NOW)]));
    // A request that still holds the old reading.
    old.identify(A, NOW + 1).unwrap();
    assert_eq!(new.times(), Times::from([(fingerprint.clone(), NOW + 1)]));
    new.recall(&Times::from([(fingerprint.clone(), NOW - 1), ("00000000".into(), NOW)]));
    assert_eq!(new.times(), Times::from([(fingerprint, NOW + 1)]), "never back in time");
    new.identify("s3cret-s3cret-s3cret-x", NOW).unwrap_err();
    assert_eq!(new.times().len(), 1);
}

/// Adds and revokes in every kind of place, and returns what the file looks like after that.
fn new_and_revoke(path: &Path, existing: &str) -> Tokens {
    let load = || {
        let items = source::read(&config(Some(path)), |_| None).unwrap();
        Tokens::of(&items, 1 << 14).unwrap()
    };
    let new = New {
        subject: Some("Carol@example.org".parse().unwrap()),
        route: Some("r-c".parse().unwrap()),
        scopes: vec!["tools".into()],
        expires: Some(NOW + 1),
        note: Some("it's \"hers\"".into()),
        ..named("carol")
    };
    let token = write::mint();
    write::add(path, &new, &token).unwrap();
    let after = load();
    assert_eq!(worth(&after, &token).unwrap(), "Carol@example.org r-c");
    assert_eq!(after.identify(&token, NOW + 1).unwrap_err(), Refused::Expired("carol".into()));
    assert_eq!(worth(&after, existing).unwrap(), "alice alice");
    let error = write::add(path, &named("carol"), &write::mint()).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    for (name, token) in [("carol", &*token), ("alice", existing)] {
        assert!(write::disable(path, name).unwrap());
        assert!(!write::disable(path, name).unwrap(), "it was off before");
        assert_eq!(load().identify(token, NOW).unwrap_err(), Refused::Disabled(name.into()));
    }
    assert!(matches!(write::disable(path, "nobody"), Err(WriteError::Unknown { .. })));
    load()
}

#[test]
fn tokens_are_added_and_revoked_in_every_form_of_file() {
    for text in [
        format!("# ours\n[token.alice]\ntoken = '{A}' # hers\n"),
        format!("[token]\nalice = '{A}'\n"),
        format!("token.alice.token = '{A}'\n"),
        format!("{{\"alice\": \"{A}\"}}"),
        format!("{{\n  \"alice\": {{\"token\": \"{A}\", \"disabled\": false}}\n}}\n"),
        format!("[{{\"name\": \"alice\", \"token\": \"{A}\"}}]"),
        format!("{{\"token\": {{\"alice\": {{\"token\": \"{A}\"}}}}}}"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = secret(directory.path(), "tokens", &text);
        new_and_revoke(&path, A);
        let left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["tokens"], "no file is left behind");
    }
    for (name, text) in [("alice", format!("{A}\n")), ("alice.toml", format!("token = '{A}' # hers\n"))] {
        let directory = tempfile::tempdir().unwrap();
        secret(directory.path(), name, &text);
        new_and_revoke(directory.path(), A);
    }
}

#[test]
fn everything_else_in_a_file_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let toml = format!(
        "# Ours.\n\n[token.bob]   # the lazy one\n  token = '{B}'\n  disabled = false # for now\n\n[token.alice]\nhash = \"sha256:{}\"\n",
        mcp_daemon::secret::sha256_hex(A.as_bytes())
    );
    let path = secret(directory.path(), "tokens.toml", &toml);
    write::disable(&path, "bob").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), toml.replace("disabled = false", "disabled = true"));
    let token = write::mint();
    write::add(&path, &named("carol"), &token).unwrap();
    let after = fs::read_to_string(&path).unwrap();
    let added =
        after.strip_prefix(&toml.replace("disabled = false", "disabled = true")).expect("only added to");
    assert_eq!(
        added,
        format!("\n[token.carol]\nhash = \"sha256:{}\"\n", mcp_daemon::secret::sha256_hex(token.as_bytes()))
    );
    let json = format!("{{ \"bob\":\t\"{B}\",\n\n  \"alice\" : \"{A}\" }}\n");
    let path = secret(directory.path(), "tokens.json", &json);
    write::disable(&path, "bob").unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.ends_with(&format!(",\n\n  \"alice\" : \"{A}\" }}\n")) && !after.contains(B), "{after}");
}

#[test]
fn tokens_of_lists_are_revoked_by_what_list_calls_them() {
    let directory = tempfile::tempdir().unwrap();
    for text in
        [format!("[\"{B}\", \"{A}\"]"), format!("[[token]]\ntoken = '{B}'\n[[token]]\ntoken = '{A}'\n")]
    {
        let path = secret(directory.path(), "tokens", &text);
        let name = tokens::of_token(&sha256(A.as_bytes()));
        assert!(write::disable(&path, &name).unwrap());
        let items = source::read(&config(Some(&path)), |_| None).unwrap();
        let after = Tokens::of(&items, 1 << 14).unwrap();
        assert_eq!(after.identify(A, NOW).unwrap_err(), Refused::Disabled(name));
        after.identify(B, NOW).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_used_is_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    for text in [
        "token = { a = '0123456789abcdef' }\n",
        "[token.a\n",
        "[token.a]\nexpires = 'x'\n",
        "token = ['0123456789abcdef']\n",
    ] {
        let path = secret(directory.path(), "tokens", text);
        write::add(&path, &named("new"), &write::mint()).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let tokens = directory.path().join("tokens.d");
    fs::create_dir(&tokens).unwrap();
    for name in ["../x", ".x", "x.toml"] {
        let error = write::add(&tokens, &named(name), &write::mint()).unwrap_err();
        assert!(matches!(error, WriteError::NoFileName(_)), "{error}");
    }
    assert_eq!(fs::read_dir(&tokens).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_made_is_the_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.toml");
    let token = write::mint();
    assert!(token.len() == 47 && token.starts_with("mcp_"), "{token}");
    assert_eq!(write::add(&path, &named("alice"), &token).unwrap().file, path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("# Tokens of mcp-authd") && !text.contains(&token), "{text}");
}

proptest! {
    #[test]
    fn only_the_tokens_themselves_are_good(
        tokens in prop::collection::btree_set("[!-~]{16,40}", 1..6),
        wrong in "[!-~]{0,48}",
    ) {
        let file = serde_json::json!(tokens).to_string();
        let read = read(&file).unwrap();
        for token in &tokens {
            prop_assert!(read.identify(token, NOW).is_ok());
            for near in [&token[1..], &token[..token.len() - 1], &format!("{token} "), &token.to_ascii_uppercase()] {
                prop_assert_eq!(read.identify(near, NOW).is_ok(), tokens.contains(near));
            }
        }
        prop_assert_eq!(read.identify(&wrong, NOW).is_ok(), tokens.contains(&wrong));
    }

}

proptest! {
    // Each case writes to a disk.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_added_is_read_back_and_nothing_else_changes(
        names in prop::collection::btree_set("[a-zA-Z0-9@+-][a-zA-Z0-9._@+\"'\\\\-]{0,20}", 1..5),
        is_json: bool,
        note in prop::option::of("[ -~äß\n\t]{0,20}"),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = secret(directory.path(), "tokens", if is_json { "{}" } else { "# ours\n" });
        let mut minted = Vec::new();
        for name in &names {
            let token = write::mint();
            write::add(&path, &New { note: note.clone(), ..named(name) }, &token).unwrap();
            minted.push((name, token));
            let items = source::read(&config(Some(&path)), |_| None).unwrap();
            let read = Tokens::of(&items, 1 << 14).unwrap();
            prop_assert_eq!(read.entries().count(), minted.len());
            for (name, token) in &minted {
                let identity = read.identify(token, NOW).unwrap();
                prop_assert_eq!(identity.subject.as_str(), name.as_str());
            }
            prop_assert!(read.entries().all(|entry| entry.note.as_deref() == note.as_deref()));
        }
    }
}
