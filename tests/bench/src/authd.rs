//! mcp-authd as it is measured: many tokens loaded, an audit written, and limits that no bench reaches.

use std::fmt::Write;

use crate::process::Program;

/// What clients bring.
pub const TOKEN: &str = "bench-token-number-07777-of-them";
/// Tokens loaded.
const TOKENS: usize = 10_000;

/// The program `mcp-authd` with its settings and tokens.
pub fn program() -> Program {
    let mut tokens = String::new();
    for number in 0..TOKENS {
        // Each as long as the one that is used, which is one of them.
        let _infallible =
            write!(tokens, "[token.t{number}]\ntoken = \"bench-token-number-{number:05}-of-them\"\n");
    }
    Program {
        name: "authd",
        command: "{bin}/mcp-authd serve --config {dir}/authd.toml".to_owned(),
        files: vec![("authd.toml", SETTINGS.to_owned()), ("tokens.toml", tokens)],
        token: Some(TOKEN),
    }
}

const SETTINGS: &str = "
listen = ['{listen}']
tokens = '{dir}/tokens.toml'
upstream = 'http://{upstream}/mcp'
audit = { file = '{dir}/audit.jsonl' }
limits = { connections = 100000, strangers_per_address = 100000, connections_per_subject = 100000 }
rate = { subject_per_second = 100000000, subject_burst = 100000000, address_per_second = 100000000, address_burst = 100000000 }
";
