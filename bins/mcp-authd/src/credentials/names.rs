//! Whose a name is: what one source of credentials calls somebody is not for another source to give out.
//!
//! By its subject a person is counted, told to servers and found in the audit, and at the end of a route somebody's work
//! lies. Static tokens and `route` keys are written by the operator, who may give two the same name. An issuer of JWTs or an
//! authority gives out names by itself; it gets the free ones, unless the settings say that its names are the others' too.
//! That two of those who give out names cannot give out the same is seen to in [`crate::config::check`].

use std::collections::HashSet;

use mcp_daemon::addr::Route;

use super::tokens::Tokens;
use crate::config::Config;
use crate::identity::{Identity, Subject};

/// The names that the operator gave out: of every static token, a disabled one's included, and of every `route` key.
#[derive(Default)]
pub struct Names {
    subjects: HashSet<Subject>,
    routes: HashSet<Route>,
}

/// What a source that gives out names by itself may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Naming {
    /// `shares_names`: its names are the others' too.
    pub shares: bool,
    /// Its routes are made of its subjects: no key says where they lead.
    pub makes_routes: bool,
}

impl Names {
    /// All that the settings and the tokens say.
    pub fn of(tokens: &Tokens, config: &Config) -> Self {
        let mut names = Self::default();
        for entry in tokens.entries() {
            names.subjects.insert(entry.identity.subject.clone());
            names.routes.insert(entry.identity.route.clone());
        }
        let client = config.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let said = config.jwt.iter().map(|issuer| &issuer.route).chain(client.map(|client| &client.route));
        names.routes.extend(said.flatten().cloned());
        names
    }

    /// Whether a source that names people by itself has taken a name that the operator gave somebody else.
    pub fn is_anothers(&self, identity: &Identity, naming: Naming) -> bool {
        !naming.shares
            && (self.subjects.contains(&identity.subject)
                || naming.makes_routes && self.routes.contains(&identity.route))
    }
}

/// Whether a text looks like a route that is made of something else: `t-` and 12 hexadecimal digits (a token), `c-` and 12
/// (a certificate), `j-` and 32 (a subject that can be no route). Who may choose a name could choose another's route.
pub fn is_made(name: &str) -> bool {
    let Some((kind, digits)) = name.split_once('-') else { return false };
    matches!((kind, digits.len()), ("t" | "c", 12) | ("j", 32))
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::credentials::{Credentials, Refused, jwt};
    use crate::identity::Scopes;

    const NOW: u64 = 1_800_000_000;
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn write(directory: &Path, name: &str, text: &str) -> String {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    /// Credentials with static tokens and one issuer.
    fn load(directory: &Path, tokens: &str, issuer: &str) -> Credentials {
        let secret = write(directory, "secret", SECRET);
        let tokens = write(directory, "tokens.toml", tokens);
        let settings = format!(
            "environment_tokens = false\ntokens = '{tokens}'\n[[jwt]]\nissuer = 'i'\naudience = ['us']\nalgorithms = ['HS256']\nsecret_file = '{secret}'\n{issuer}\n"
        );
        let config: Config = mcp_daemon::config::parse("x.toml".as_ref(), &settings).unwrap();
        Credentials::load(&config).unwrap()
    }

    fn token(subject: &str) -> String {
        let claims =
            serde_json::json!({"iss": "i", "aud": "us", "exp": NOW + 60, "sub": subject, "team": "red"});
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }

    fn route(credentials: &Credentials, subject: &str) -> Result<String, Refused> {
        let token = token(subject);
        let first = credentials.identify(&super::super::Presented::Bearer(&token), NOW);
        let again = credentials.identify(&super::super::Presented::Bearer(&token), NOW);
        assert_eq!(first.as_ref().map(|it| &it.route).ok(), again.as_ref().map(|it| &it.route).ok());
        first.map(|identity| {
            assert!(credentials.still(&identity, None, NOW));
            identity.route.as_str().to_owned()
        })
    }

    const TOKENS: &str = "[token.alice]\ntoken = 'alice-has-a-long-token'\n[token.bob]\ntoken = 'bob-has-another-long-token'\nroute = 'red'\ndisabled = true\n";

    #[test]
    fn nobody_comes_to_a_static_tokens_name_or_route_by_choosing_it_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let refused = Err(Refused::Jwt(jwt::Invalid::Taken));
        let plain = load(directory.path(), TOKENS, "");
        for taken in ["alice", "bob", "red"] {
            assert_eq!(route(&plain, taken), refused, "{taken}");
        }
        assert_eq!(route(&plain, "carol").as_deref(), Ok("carol"));
        for made in ["t-0123456789ab", "c-0123456789ab", &format!("j-{}", "0".repeat(32))] {
            let route = route(&plain, made).unwrap();
            assert!(route.starts_with("j-") && route != made, "{route}");
        }
        let apart = load(directory.path(), TOKENS, "subject_prefix = 'corp-'");
        assert_eq!(route(&apart, "alice").as_deref(), Ok("corp-alice"));
    }

    #[test]
    fn what_the_operator_says_may_be_shared() {
        let directory = tempfile::tempdir().unwrap();
        let shared = load(directory.path(), TOKENS, "shares_names = true");
        assert_eq!(route(&shared, "alice").as_deref(), Ok("alice"));
        for said in ["route_claim = 'team'", "route = 'red'"] {
            let mapped = load(directory.path(), TOKENS, said);
            assert_eq!(route(&mapped, "carol").as_deref(), Ok("red"));
            assert_eq!(
                route(&mapped, "alice"),
                Err(Refused::Jwt(jwt::Invalid::Taken)),
                "who it is was not said"
            );
        }
    }

    #[test]
    fn a_name_that_is_given_out_later_ends_what_another_had_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let before = load(directory.path(), "", "");
        let token = token("alice");
        let identity = before.identify(&super::super::Presented::Bearer(&token), NOW).unwrap();
        assert!(before.still(&identity, None, NOW) && identity.scopes != Scopes::All);
        let after = load(directory.path(), TOKENS, "");
        assert!(!after.still(&identity, None, NOW));
    }

    #[test]
    fn only_what_could_be_made_looks_made() {
        assert!(
            is_made("t-0123456789ab")
                && is_made("c-aaaaaaaaaaaa")
                && is_made(&format!("j-{}", "f".repeat(32)))
        );
        for plain in
            ["t-shirt-sales", "t-0123456789a", "j-0123456789ab", "x-0123456789ab", "alice", "t-0123456789aB"]
        {
            assert!(!is_made(plain), "{plain}");
        }
    }
}
