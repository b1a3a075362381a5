//! mcp-authd as it is measured: many tokens loaded, an audit written, and limits that no bench reaches.

use std::fmt::Write;
use std::io;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::process::Program;
use crate::tls::Face;

/// What clients bring.
pub const TOKEN: &str = "bench-token-number-07777-of-them";
/// Another one.
pub const OTHER_TOKEN: &str = "bench-token-number-07778-of-them";
/// Tokens loaded.
const TOKENS: usize = 10_000;
/// Of the issuer of JWTs.
const SECRET: &str = "a secret of the bench, and of nobody else";
/// In seconds since 1970: the year 2200.
const FAR_AWAY: u64 = 7_258_118_400;

/// The program `mcp-authd` with its settings and tokens.
pub fn program() -> Program {
    let mut tokens = String::new();
    for number in 0..TOKENS {
        // Each as long as the one that is used, which is one of them.
        let _infallible =
            write!(tokens, "[token.t{number}]\ntoken = \"bench-token-number-{number:05}-of-them\"\n");
    }
    Program {
        files: vec![("authd.toml", SETTINGS.to_owned()), ("tokens.toml", tokens)],
        token: Some(TOKEN),
        ..Program::new("authd", "{bin}/mcp-authd serve --config {dir}/authd.toml".to_owned())
    }
}

/// The same with TLS.
pub fn secure(face: &Face) -> Program {
    let mut program = program();
    program.name = "authd+tls";
    program.is_secure = true;
    program.files[0].1.push_str(TLS);
    program.files.push(("certificate.pem", face.certificate.clone()));
    program.files.push(("key.pem", face.key.clone()));
    program
}

/// The same, which answers `notifications/initialized` itself and takes the JWTs of [`jwt`], too.
pub fn answering() -> Program {
    let mut program = program();
    program.files[0].1.push_str(ANSWERING);
    program.files.push(("secret", SECRET.to_owned()));
    program
}

/// A JWT that no other number has.
pub fn jwt(number: usize) -> io::Result<String> {
    let claims = json!({"iss": "bench", "aud": "bench", "sub": "somebody", "exp": FAR_AWAY, "jti": number.to_string()});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(io::Error::other)
}

const SETTINGS: &str = "
listen = ['{listen}']
tokens = '{dir}/tokens.toml'
upstream = 'http://{upstream}/mcp'
audit = { file = '{dir}/audit.jsonl' }
limits = { connections = 100000, strangers_per_address = 100000, connections_per_subject = 100000 }
rate = { subject_per_second = 100000000, subject_burst = 100000000, address_per_second = 100000000, address_burst = 100000000 }
";
const TLS: &str = "
tls = { certificate = '{dir}/certificate.pem', key = '{dir}/key.pem' }
";
const ANSWERING: &str = "
jwt = [{ issuer = 'bench', audience = ['bench'], algorithms = ['HS256'], secret_file = '{dir}/secret', route = 'jwt' }]
[route.t7777]
acknowledge_initialized = true
[route.t7778]
acknowledge_initialized = true
[route.jwt]
acknowledge_initialized = true
";
