//! `token jwt`: signs a JWT with the secret that an HMAC issuer of the settings has.

use authd::credentials::now;
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::secret::{Secret, random_id};
use serde::Serialize;

use super::{Done, print};
use crate::args::Jwt;

/// Shortest secret in bytes: as long as the shortest digest that it signs with (RFC 7518, 3.2).
const MIN_SECRET: usize = 32;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    aud: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
}

/// The JWT goes to standard output.
pub fn run(args: &Jwt) -> Done {
    if args.alg.family() != AlgorithmFamily::Hmac {
        return Err(Failure::usage("--alg: expected HS256, HS384 or HS512; other keys sign elsewhere"));
    }
    let secret = Secret::read(&args.secret_file)
        .map_err(|error| Failure { line: format!("--secret-file: {error}"), exit: Exit::Config })?;
    let secret = secret.expose().as_bytes();
    if secret.len() < MIN_SECRET {
        return Err(Failure::config(format!(
            "{}: {} bytes, expected at least {MIN_SECRET}; `openssl rand -base64 48` makes them",
            args.secret_file.display(),
            secret.len()
        )));
    }
    let now = now();
    let claims = Claims {
        sub: args.subject.as_str(),
        iat: now,
        exp: now.saturating_add(args.expires.duration().as_secs()),
        jti: random_id(),
        iss: args.issuer.as_deref(),
        aud: &args.audience,
        route: args.route.as_ref().map(|route| route.as_str()),
        scope: args.scope.join(" "),
    };
    let token = jsonwebtoken::encode(&Header::new(args.alg), &claims, &EncodingKey::from_secret(secret))
        .map_err(|error| Failure::new(Exit::Bug, &error))?;
    print(&token)
}
