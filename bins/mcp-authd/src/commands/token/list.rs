//! `token list`: what tokens there are.

use authd::config::DAEMON;
use authd::credentials::last_use::{self, Times};
use authd::credentials::tokens::Tokens;
use authd::credentials::tokens::entry::Entry;
use authd::credentials::{moment, now};
use authd::identity::Scopes;
use mcp_daemon::files;
use serde_json::{Value, json};

use super::{Done, settings, wrong};
use crate::args::List;
use crate::render;

/// Reads them as the daemon does, the environment too.
pub fn run(args: List) -> Done {
    let mut config = settings(args.config.as_deref(), args.tokens)?;
    config.state_dir = args.state_dir.or(config.state_dir);
    let tokens = Tokens::load(&config).map_err(wrong)?;
    let directory = files::state_dir(config.state_dir.as_deref(), DAEMON);
    let times = directory.and_then(|directory| last_use::read_in(&directory)).unwrap_or_else(|error| {
        eprintln!("{DAEMON}: the last use is not known: {error}");
        Times::default()
    });
    tokens.recall(&times);
    let mut entries: Vec<&Entry> = tokens.entries().collect();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let now = now();
    let list: Vec<Value> = entries.into_iter().map(|entry| value(entry, now)).collect();
    if args.json {
        println!("{:#}", Value::from(list));
    } else {
        print!("{}", render::tokens(&list, now));
    }
    Ok(())
}

fn value(entry: &Entry, now: u64) -> Value {
    let moment = |at: Option<u64>| at.map(moment::spell);
    let scopes = match &entry.identity.scopes {
        Scopes::All => Value::Null,
        Scopes::Only(scopes) => json!(**scopes),
    };
    json!({
        "name": &*entry.name,
        "subject": entry.identity.subject.as_str(),
        "route": entry.identity.route,
        "state": entry.state(now).word(),
        "scopes": scopes,
        "not_before": moment(entry.not_before),
        "expires": moment(entry.identity.expires),
        "last_use": moment(entry.used.at()),
        "fingerprint": entry.identity.fingerprint.to_string(),
        "note": entry.note,
    })
}
