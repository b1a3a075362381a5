//! `explain`: what a request would be and where it would go, step by step as [`authd::gate`] takes them.

use std::sync::Arc;

use authd::config::Config;
use authd::credentials::{Presented, bearer, moment, now};
use authd::identity::{Identity, Scopes};
use authd::policy::{self, Asked};
use authd::prepared::Prepared;
use http::{HeaderMap, HeaderValue, header};
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::secret::Secret;

use super::Done;
use crate::args::{Explain, Flags};

/// Why a step goes no further.
type Step<T> = Result<T, String>;

/// Prints a line for each step; ends well where the request would be sent on.
pub fn run(args: &Explain) -> Done {
    let file = args.config.as_deref();
    let wrong = |problem: ConfigProblem| Failure::new(Exit::Config, &problem.within(file));
    let config = Flags::from(args).over(Config::load(file).map_err(wrong)?);
    let prepared = Prepared::new(config).map_err(wrong)?;
    let token = args.token_file.as_deref().map(Secret::read).transpose();
    let token =
        token.map_err(|error| Failure { line: format!("--token-file: {error}"), exit: Exit::Config })?;
    walk(args, &prepared, token.as_ref()).map_err(|(step, why)| {
        say("FAIL", step, &why);
        Failure { line: "refused, see the line that begins with FAIL".into(), exit: Exit::Unavailable }
    })
}

fn walk(args: &Explain, prepared: &Prepared, token: Option<&Secret>) -> Result<(), (&'static str, String)> {
    let step = |step: &'static str, found: Step<String>| match found {
        Ok(found) => {
            say("ok", step, &found);
            Ok(())
        }
        Err(why) => Err((step, why)),
    };
    step("path", path(&prepared.config, args.path.as_deref()))?;
    let identity = identify(prepared, token);
    step("credential", identity.as_deref().map(credential).map_err(Clone::clone))?;
    let identity = identity.map_err(|why| ("credential", why))?;
    step("subject", Ok(identity.subject.to_string()))?;
    step("route", Ok(identity.route.to_string()))?;
    step("scopes", scopes(args, &prepared.config, &identity))?;
    step("upstream", upstreams(&prepared.config, &identity))
}

fn say(grade: &str, step: &str, found: &str) {
    println!("{grade:<4}  {step:<10}  {found}");
}

fn path(config: &Config, asked: Option<&str>) -> Step<String> {
    match asked {
        Some(path) if path != config.path => {
            Err(format!("404: MCP is served at {}, nothing of anybody's is at {path}", config.path))
        }
        _ => Ok(format!("MCP is served at {}", config.path)),
    }
}

fn identify(prepared: &Prepared, token: Option<&Secret>) -> Step<Arc<Identity>> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        headers.insert(header::AUTHORIZATION, value.map_err(|_| "no header can hold this token")?);
    }
    bearer::token(&headers, prepared.config.limits.credential.bytes())
        .and_then(|token| prepared.credentials.identify(&Presented::Bearer(token), now()))
        .map_err(|refused| format!("401: {refused}"))
}

fn credential(identity: &Identity) -> String {
    let until =
        identity.expires.map_or_else(|| "never ends".to_owned(), |at| format!("ends {}", moment::spell(at)));
    format!("good, {until}; the audit calls it {}", identity.fingerprint)
}

fn scopes(args: &Explain, config: &Config, identity: &Identity) -> Step<String> {
    let asked = Asked {
        method: args.method.as_deref().unwrap_or_default().into(),
        name: args.name.as_deref().unwrap_or_default().into(),
        ..Asked::default()
    };
    let needed = policy::lacking(&config.require, identity.route.as_str(), &[asked], &identity.scopes);
    if let Some(needed) = needed {
        return Err(format!("403: needs {}", needed.join(" ")));
    }
    let has = match &identity.scopes {
        Scopes::All => "good for everything".to_owned(),
        Scopes::Only(scopes) if scopes.is_empty() => "good for what needs no scope".to_owned(),
        Scopes::Only(scopes) => {
            format!("good for {}", scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
        }
    };
    Ok(match &args.method {
        None if !config.require.is_empty() => format!("{has}; say --method to see which [[require]] matters"),
        _ => has,
    })
}

fn upstreams(config: &Config, identity: &Identity) -> Step<String> {
    let own = config.route.get(&identity.route).map(|own| &own.upstream.0).filter(|own| !own.is_empty());
    let all = own.unwrap_or(&config.upstream.0);
    if all.is_empty() {
        return Err(format!("404: route {} has no upstream; set `upstream` or [route.{0}]", identity.route));
    }
    let mut found = Vec::new();
    for one in all {
        let endpoint = one.address.endpoint(Some(&identity.route)).map_err(|error| error.to_string())?;
        let drains = if one.drain { " (no new sessions)" } else { "" };
        let absent = endpoint.socket().is_some_and(|socket| !socket.exists());
        let absent = if absent { " (no such socket now)" } else { "" };
        found.push(format!("{endpoint}{drains}{absent}"));
    }
    Ok(found.join(", "))
}
