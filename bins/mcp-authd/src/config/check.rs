//! What parsing alone cannot see: settings that contradict each other or cannot work.

use mcp_daemon::addr::Listen;
use mcp_daemon::config::ConfigProblem;

use super::Config;

/// Refuses settings that cannot work, by key. Files that the settings name are read by whoever needs them.
pub fn check(config: &Config) -> Result<(), ConfigProblem> {
    let refuse = |key: &str, what: &str| Err(ConfigProblem::key(key, what));
    if !config.path.starts_with('/') {
        return refuse("path", "must start with `/`, like /mcp");
    }
    super::jwt::check(&config.jwt)?;
    super::tls::check(config.tls.as_ref())?;
    told_apart(config)?;
    super::policy::check(config)?;
    if config.limits.bodies < config.limits.body {
        return refuse(
            "limits.bodies",
            "must not be less than limits.body, or no body of that size could come",
        );
    }
    config.listeners().iter().try_for_each(|listen| in_the_clear(config, listen))
}

/// Refuses two who name people by themselves and could give two people one name. Static tokens are not among them: what
/// they are called is known, and refused to others where it comes up ([`crate::credentials::names`]).
fn told_apart(config: &Config) -> Result<(), ConfigProblem> {
    let client = config.tls.as_ref().and_then(|tls| tls.client.as_ref()).filter(|client| client.identify);
    let client = client.map(|client| ("tls.client".to_owned(), &*client.subject_prefix, client.shares_names));
    let issuers = config.jwt.iter().enumerate();
    let issuers =
        issuers.map(|(at, issuer)| (format!("jwt[{at}]"), &*issuer.subject_prefix, issuer.shares_names));
    let all: Vec<_> = client.into_iter().chain(issuers).collect();
    for (at, (key, prefix, shares)) in all.iter().enumerate() {
        let same = all[..at].iter().find(|(_, other, shared)| {
            !shares && !shared && (prefix.starts_with(other) || other.starts_with(prefix))
        });
        if let Some((other, ..)) = same {
            let what = format!(
                "people of {key} and of {other} could have the same name; give each a subject_prefix that is not the beginning of the other's, such as `a:` and `b:`, or say shares_names = true where the same name is the same person"
            );
            return Err(ConfigProblem::key(format!("{key}.subject_prefix"), what));
        }
    }
    Ok(())
}

/// Refuses an address at which others would send tokens in the clear.
pub fn in_the_clear(config: &Config, listen: &Listen) -> Result<(), ConfigProblem> {
    match listen {
        Listen::Tcp(address)
            if config.tls.is_none() && !config.allow_plaintext && !address.ip().is_loopback() =>
        {
            let what = format!(
                "others can reach {address}, and tokens would be sent in the clear; set [tls] certificate and key, or allow_plaintext = true behind a proxy that speaks TLS"
            );
            Err(ConfigProblem::key("listen", what))
        }
        Listen::Tcp(_) | Listen::Unix(_) | Listen::Inherited(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(issuers: &[&str], tables: &str) -> String {
        let mut text = String::new();
        for (at, more) in issuers.iter().enumerate() {
            text += &format!(
                "[[jwt]]\nissuer = 'i{at}'\naudience = ['a']\nalgorithms = ['RS256']\nkeys = 'k'\n{more}\n"
            );
        }
        let config = mcp_daemon::config::parse("x.toml".as_ref(), &format!("{text}{tables}")).unwrap();
        check(&config).map_or_else(|problem| problem.to_string(), |()| String::new())
    }

    #[test]
    fn two_who_could_give_two_people_one_name_are_refused() {
        const CLIENT: &str = "[tls]\ncertificate = 'c'\nkey = 'k'\n[tls.client]\nauthorities = 'a'\n";
        let identify = format!("{CLIENT}identify = true\n");
        let (a, b, ab) = ("subject_prefix = 'a:'", "subject_prefix = 'b:'", "subject_prefix = 'a:b:'");
        let prefixed = format!("{identify}subject_prefix = 'c:'\n");
        for (issuers, tables) in [
            (&[""][..], ""),
            (&[a, b], ""),
            (&["", "shares_names = true"], ""),
            (&[""], CLIENT),
            (&[], &identify),
            (&["shares_names = true"], &identify),
            (&[a, b], &prefixed),
        ] {
            assert_eq!(checked(issuers, tables), "", "{issuers:?} {tables}");
        }
        for (issuers, tables, key) in [
            (&["", ""][..], "", "jwt[1]"),
            (&[a, a], "", "jwt[1]"),
            (&["", b], "", "jwt[1]"),
            (&[ab, b, a], "", "jwt[2]"),
            (&[""], &identify, "jwt[0]"),
            (&[a], &identify, "jwt[0]"),
            (&["", "shares_names = true", ""], "", "jwt[2]"),
        ] {
            let problem = checked(issuers, tables);
            assert!(
                problem.starts_with(&format!("{key}.subject_prefix: ")),
                "{issuers:?} {tables}: {problem}"
            );
        }
    }

    #[test]
    fn what_a_certificate_is_worth_is_checked() {
        let with = |more: &str| {
            checked(
                &[],
                &format!("[tls]\ncertificate = 'c'\nkey = 'k'\n[tls.client]\nauthorities = 'a'\n{more}"),
            )
        };
        assert_eq!(with("scopes = ['a', 'b:c']\ndisabled = ['carol']"), "");
        assert!(with("scopes = ['a b']").starts_with("tls.client.scopes: "));
        assert!(with("subject_prefix = 'a b'").starts_with("tls.client.subject_prefix: "));
    }
}
