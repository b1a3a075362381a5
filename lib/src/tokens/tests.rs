use std::fs;

use proptest::prelude::*;

use super::*;
use crate::secret::sha256_hex;

const A: &str = "s3cret-s3cret-s3cret-a";
const B: &str = "s3cret-s3cret-s3cret-b";

fn read_text(text: &str) -> Result<Vec<Item>, String> {
    parse(Path::new("F"), text).map_err(|error| error.to_string())
}

/// Name, route and digest of each.
fn found(items: &[Item]) -> Vec<(String, String, [u8; 32])> {
    let one = |item: &Item| {
        let name = item.name().unwrap_or_default().to_owned();
        (name, item.route().unwrap().to_string(), item.digest().unwrap())
    };
    let mut found: Vec<_> = items.iter().map(one).collect();
    found.sort();
    found
}

/// The first mistake that somebody who wants routes and digests hears of.
fn mistake(text: &str) -> String {
    let items = match read_text(text) {
        Ok(items) => items,
        Err(error) => return error,
    };
    let first = items.iter().find_map(|item| item.route().err().or(item.digest().err()));
    first.expect("a mistake").to_string()
}

#[test]
fn every_form_says_the_same() {
    let hash = format!("sha256:{}", sha256_hex(B.as_bytes()));
    let expected = [
        ("a".to_owned(), "a".to_owned(), sha256(A.as_bytes())),
        ("b".into(), "r-b".into(), sha256(B.as_bytes())),
    ];
    for text in [
        format!("[token.a]\ntoken = '{A}'\n[token.b]\nroute = 'r-b'\nhash = '{hash}'"),
        format!("# note\ntoken.a.token = '{A}'\ntoken.b = {{ subject = 'r-b', token = '{B}' }}"),
        format!("\u{feff}[token]\na = '{A}'\n[token.b]\nroute = 'r-b'\ntoken = '{B}'"),
        format!("[[token]]\nname = 'a'\ntoken = '{A}'\n[[token]]\nname = 'b'\nroute = 'r-b'\ntoken = '{B}'"),
        format!("{{\"a\": \"{A}\", \"b\": {{\"route\": \"r-b\", \"hash\": \"{hash}\"}}}}"),
        format!(
            "\u{feff}\n[{{\"token\": \"{A}\", \"name\": \"a\"}}, {{\"name\": \"b\", \"route\": \"r-b\", \"token\": \"{B}\"}}]"
        ),
        format!(
            "{{\"token\": {{\"a\": {{\"token\": \"{A}\"}}, \"b\": {{\"route\": \"r-b\", \"hash\": \"{hash}\"}}}}}}"
        ),
    ] {
        assert_eq!(found(&read_text(&text).unwrap()), expected, "{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("a", &format!("{A}\r\n"));
    write("b.toml", &format!("route = 'r-b'\nhash = '{hash}'"));
    write(".b.toml.1234.tmp", "half a f");
    assert_eq!(found(&read(directory.path()).unwrap()), expected);
    write("a", &format!("sha256:{}", sha256_hex(A.as_bytes())));
    assert_eq!(found(&read(directory.path()).unwrap()), expected);
}

#[test]
fn a_token_without_a_name_that_can_be_a_route_gets_a_stable_one() {
    let route = format!("t-{}", &sha256_hex(A.as_bytes())[..12]);
    let hash = format!("sha256:{}", sha256_hex(A.as_bytes()));
    for text in [
        format!("[\"{A}\"]"),
        format!("[\"{hash}\"]"),
        format!("[{{\"token\": \"{A}\"}}]"),
        format!("[token.\"alice@example.org\"]\ntoken = '{A}'"),
        format!("[token.alice]\nsubject = 'Alice'\nhash = '{hash}'"),
        format!("{{\"Terminal A\": \"{A}\"}}"),
    ] {
        assert_eq!(read_text(&text).unwrap()[0].route().unwrap().as_str(), route, "{text}");
    }
}

#[test]
fn an_empty_text_has_no_tokens_and_is_no_mistake() {
    for text in ["", "# nobody yet\n", "[token]", "{}", " []", "{\"token\": {}}"] {
        assert!(read_text(text).unwrap().is_empty(), "{text:?}");
    }
    assert!(read(tempfile::tempdir().unwrap().path()).unwrap().is_empty());
}

#[test]
fn a_single_token_under_the_name_token_is_one() {
    assert_eq!(found(&read_text(&format!("{{\"token\": \"{A}\"}}")).unwrap())[0].1, "token");
    assert_eq!(found(&read_text(&format!("{{\"token\": {{\"token\": \"{A}\"}}}}")).unwrap())[0].1, "token");
}

#[test]
fn a_mistake_names_the_file_the_line_and_the_key_and_never_a_token() {
    for (text, expected) in [
        ("[token.a]\ntoken = 'S3CRET'", "F:2: token.a.token: shorter than 16 characters"),
        ("{\n\"a\":\n\"S3CRET\"}", "F:3: a.token: shorter than 16 characters"),
        ("[\"S3CRET\"]", "F:1: [0].token: shorter than 16 characters"),
        ("[token.a]\ntoken = 'S3CRET S3CRET S3CRET'", "F:2: token.a.token: a token is visible ASCII"),
        ("[token.a]\n\nhash = 'sha256:S3CRET'", "F:3: token.a.hash: expected `sha256:` and 64 hex"),
        ("[token.a]\nhash = 7", "F:2: token.a.hash: expected a text"),
        ("\n[token.a]\nroute = 'x'", "F:2: token.a: has neither `token` nor `hash`"),
        ("{\"a\": {\"token\": \"S3CRET\", \"hash\": \"S3CRET\"}}", "F:1: a: has both `token` and `hash`"),
        ("[token.a]\nroute = '../S3CRET'", "F:2: token.a.route: expected 1-63 of a-z"),
        ("[token.a]\nroute = S3CRET", "F:2: not valid TOML"),
        ("[token.a]\n[token.a]", "F:2: not valid TOML"),
        ("\ntoken = 'S3CRET'", "F:2: token: expected [token.NAME]"),
        ("listen = 'S3CRET'", "F:1: listen: expected [token.NAME]"),
        ("S3CRET-S3CRET-S3CRET = 'a'", "F:1: expected [token.NAME]"),
        ("[token]\na = ['S3CRET']", "F:2: token.a: expected [token.NAME]"),
        ("{\n\"a\": \"S3CRET\"", "F:2: not valid JSON"),
        ("{\n\"a\": [\"S3CRET\"]}", "F:2: a: expected [token.NAME]"),
        ("{\"a\": {\"token\": \"S3CRET\",\n\"token\": \"S3CRET\"}}", "F:1: a: one of its keys stands twice"),
        ("[[\"S3CRET-S3CRET-S3CRET\"]]", "F:1: expected [token.NAME]"),
        ("[token]\nS3CRET-S3CRET-S3CRET = 7", "F:2: expected [token.NAME]"),
        ("[{\"name\": 7, \"token\": \"S3CRET\"}]", "F:1: [0].name: expected a text"),
        // Name and token the wrong way round.
        ("{\"S3CRET-S3CRET-S3CRET\": \"alice\"}", "F:1: token: shorter than 16 characters"),
        ("{\"S3CRET-S3CRET-S3CRET\": 7}", "F:1: expected [token.NAME]"),
    ] {
        let error = mistake(text);
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("S3CRET") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_mistake_in_a_directory_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    for (name, text, expected) in [
        ("a", "", "1: token: shorter than 16 characters"),
        ("a", "S3CRET\nS3CRET\n", "1: expected one line"),
        ("a.toml", "\nhash = 'S3CRET'", "2: hash: expected `sha256:`"),
        ("a.toml", "hash = S3CRET", "1: not valid TOML"),
    ] {
        fs::write(path(name), text).unwrap();
        let items = read(directory.path()).map(|items| items[0].digest().map(|_| ()));
        let error = items.and_then(|inner| inner).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:{expected}", path(name))), "{error}");
        assert!(!error.contains("S3CRET"), "{error}");
        fs::remove_file(path(name)).unwrap();
    }
    fs::create_dir(path("a")).unwrap();
    assert!(read(directory.path()).err().unwrap().to_string().starts_with(&path("a")));
}

#[test]
fn values_stand_where_their_spans_say() {
    let text = format!("{{\"a\": \"{A}\",\n \"b\": {{\"token\": \"{B}\", \"disabled\": false}}}}");
    let items = read_text(&text).unwrap();
    assert_eq!(&text[items[0].span()], format!("\"{A}\""));
    assert_eq!(&text[items[1].fields()[1].span.clone()], "false");
}

proptest! {
    #[test]
    fn what_is_written_in_either_form_is_read_alike(
        tokens in prop::collection::btree_map("[ -~]{1,20}", ("[!-~]{16,60}", prop::option::of("[a-z0-9]{1,9}")), 0..6),
    ) {
        let table = |(token, route): &(String, Option<String>)| match route {
            Some(route) => serde_json::json!({"token": token, "route": route}),
            None => serde_json::json!({"token": token}),
        };
        let keyed: serde_json::Map<_, _> = tokens.iter().map(|(name, token)| (name.clone(), table(token))).collect();
        let json = serde_json::Value::from(keyed.clone()).to_string();
        // JSON's strings are TOML's basic strings.
        let toml: String = keyed.iter().map(|(name, token)| {
            let route = token.get("route").map(|route| format!("route = {route}\n")).unwrap_or_default();
            format!("[token.{}]\ntoken = {}\n{route}", serde_json::json!(name), token["token"])
        }).collect();
        prop_assume!(keyed.len() != 1 || !keyed.contains_key("token"));
        prop_assert_eq!(found(&read_text(&json).unwrap()), found(&read_text(&toml).unwrap()));
    }

    #[test]
    fn no_text_breaks_the_reader(text in "[\\[\\]{}\"'=a-c.,: \n]{0,60}") {
        match read_text(&text) {
            Ok(items) => for item in items {
                let _ = (item.route().map(|_| ()), item.digest().map(|_| ()), item.label());
                prop_assert!(text.get(item.span()).is_some());
            },
            Err(error) => prop_assert!(!error.contains('\n'), "{}", error),
        }
    }
}
