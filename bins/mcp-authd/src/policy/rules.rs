//! Which scopes requests need.
//!
//! Rules only ever ask for more, so what cannot be compared with them ([`super::uri`]) falls under all of them.

use crate::config::policy::Rule;
use crate::identity::Scopes;

use super::uri::is_normal;
use super::{Asked, LISTEN};

/// All scopes that these messages need on a route, in the order of the rules and each once, if any of them is missing.
///
/// All, not the missing ones alone: clients of MCP 2025-11-25 ask for the very scopes that they are told, and would lose
/// what they had.
pub fn lacking<'r>(
    rules: &'r [Rule],
    route: &str,
    messages: &[Asked<'_>],
    scopes: &Scopes,
) -> Option<Vec<&'r str>> {
    let mut needed: Vec<&str> = Vec::new();
    for rule in rules.iter().filter(|rule| matches(&rule.route, route)) {
        if messages.iter().any(|asked| is_about(rule, asked)) {
            for scope in &rule.scopes {
                if !needed.contains(&scope.as_str()) {
                    needed.push(scope);
                }
            }
        }
    }
    needed.iter().any(|scope| !scopes.has(scope)).then_some(needed)
}

/// Whether a rule is about a message. Listening to resources is subscribing to each of them in a newer way.
fn is_about(rule: &Rule, asked: &Asked<'_>) -> bool {
    let is_about = |method: &str| matches(&rule.method, method);
    let is_resource = |uri: &str| !is_normal(uri) || matches(&rule.name, uri);
    match &*asked.method {
        method @ ("resources/read" | "resources/subscribe" | "resources/unsubscribe") => {
            is_about(method) && is_resource(&asked.name)
        }
        LISTEN => {
            is_about(LISTEN) && matches(&rule.name, "")
                || (is_about(LISTEN) || is_about("resources/subscribe"))
                    && asked.uris.iter().any(|uri| is_resource(uri))
        }
        method => is_about(method) && matches(&rule.name, &asked.name),
    }
}

/// Whether `*` in a pattern can stand for what is missing to the text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn rule(route: &str, method: &str, name: &str, scopes: &str) -> Rule {
        let [route, method, name] = [route, method, name].map(str::to_owned);
        Rule { route, method, name, scopes: scopes.split(' ').map(str::to_owned).collect() }
    }

    fn asked(method: &'static str, name: &'static str) -> Asked<'static> {
        Asked { method: method.into(), name: name.into(), ..Asked::default() }
    }

    fn only(scopes: &str) -> Scopes {
        Scopes::Only(Arc::new(scopes.split(' ').map(str::to_owned).collect::<BTreeSet<_>>()))
    }

    fn rules() -> Vec<Rule> {
        vec![
            rule("*", "*", "*", "mcp"),
            rule("*", "tools/call", "*", "tools mcp"),
            rule("prod-*", "tools/call", "execute_*", "shell"),
        ]
    }

    #[test]
    fn every_rule_that_matches_counts_and_all_it_needs_is_told() {
        let (rules, shell) = (rules(), [asked("tools/call", "execute_shell_command")]);
        let lacking = |route: &str, messages: &[Asked<'_>], scopes: &str| {
            super::lacking(&rules, route, messages, &only(scopes)).map(|scopes| scopes.join(" "))
        };
        assert_eq!(lacking("prod-1", &shell, "mcp").as_deref(), Some("mcp tools shell"));
        assert_eq!(lacking("prod-1", &shell, "mcp tools shell more"), None);
        assert_eq!(lacking("dev", &shell, "mcp tools"), None);
        assert_eq!(lacking("dev", &[asked("tools/list", "")], "mcp"), None);
        assert_eq!(lacking("dev", &[asked("tools/list", "")], "tools").as_deref(), Some("mcp"));
        assert_eq!(super::lacking(&rules, "prod-1", &shell, &Scopes::All), None);
    }

    #[test]
    fn one_message_of_a_batch_is_enough_to_need_a_scope() {
        let batch = [asked("ping", ""), asked("", ""), asked("tools/call", "execute_it")];
        let rules = rules();
        assert_eq!(lacking(&rules, "prod-1", &batch, &only("mcp tools")).unwrap(), ["mcp", "tools", "shell"]);
    }

    #[test]
    fn what_has_no_method_falls_under_rules_for_any() {
        let (rules, get) = (rules(), [Asked::default()]);
        assert_eq!(lacking(&rules, "dev", &get, &only("")).unwrap(), ["mcp"]);
        assert_eq!(lacking(&rules[1..], "dev", &get, &only("")), None);
    }

    #[test]
    fn a_resource_that_a_server_might_find_under_another_name_falls_under_every_rule() {
        let rules =
            [rule("*", "resources/*", "file:///secret*", "secret"), rule("*", "tools/call", "x", "tools")];
        let lacks = |asked: Asked<'_>| super::lacking(&rules, "r", &[asked], &only("")).is_some();
        for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
            assert!(!lacks(asked(method, "file:///public")));
            for uri in [
                "file:///secret/a",
                "FILE:///secret",
                "file:///a/../secret",
                "file:///%73ecret",
                "file:///sec\tret",
            ] {
                assert!(lacks(asked(method, uri)), "{method} {uri}");
            }
        }
        assert!(!lacks(asked("resources/list", "")) && !lacks(asked("prompts/get", "X:")));
        let listen = |uris: &[&'static str]| Asked {
            uris: uris.iter().map(|uri| (*uri).into()).collect(),
            ..asked(LISTEN, "")
        };
        assert!(!lacks(listen(&[])) && !lacks(listen(&["file:///public"])));
        assert!(lacks(listen(&["file:///public", "file:///secret/a"])) && lacks(listen(&["FILE:///secret"])));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*a", "a", false),
            ("abc", "abcd", false),
            ("a**", "a", true),
            ("*ab", "aab", true),
            ("*a*b", "ab-ab-a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    proptest! {
        /// The same question asked in the plainest way: try every length for every star.
        #[test]
        fn stars_match_as_a_plain_search_says(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            fn plain(pattern: &[u8], text: &[u8]) -> bool {
                match pattern {
                    [] => text.is_empty(),
                    [b'*', rest @ ..] => (0..=text.len()).any(|skip| plain(rest, &text[skip..])),
                    [first, rest @ ..] => text.first() == Some(first) && plain(rest, &text[1..]),
                }
            }
            prop_assert_eq!(matches(&pattern, &text), plain(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
