//! What one token is worth, from what is written about it.

use std::collections::HashSet;
use std::sync::Arc;

use mcp_daemon::addr::Route;
use mcp_daemon::config::ConfigError;
use mcp_daemon::tokens::{Item, Value, of_token};

use crate::credentials::keyed::keyed;
use crate::credentials::last_use::Used;
use crate::credentials::moment;
use crate::identity::{Fingerprint, Identity, NotASubject, Scopes, Standing, Subject};

/// What may be said of a token.
const KEYS: [&str; 9] =
    ["disabled", "expires", "hash", "not_before", "note", "route", "scopes", "subject", "token"];
/// `Bearer ` before a token counts against `limits.credential` too.
const SCHEME: usize = "Bearer ".len();

/// One token's worth. There may be tens of thousands: nothing is kept that can be worked out.
pub struct Entry {
    /// What people call it: its name, else `t-` and 12 hexadecimal digits of its SHA-256.
    pub name: Arc<str>,
    /// Who it makes of whoever brings it.
    pub identity: Arc<Identity>,
    /// Seconds since 1970 before which it is worth nothing.
    pub not_before: Option<u64>,
    /// Switched off by hand.
    pub disabled: bool,
    /// What a person wrote beside it.
    pub note: Option<Box<str>>,
    /// When it was last good for something.
    pub used: Used,
}

/// Whether a token is good at a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Switched off by hand.
    Disabled,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// Good.
    Ok,
}

impl State {
    /// The word that people and scripts see.
    pub fn word(self) -> &'static str {
        match self {
            State::Disabled => "disabled",
            State::Expired => "expired",
            State::NotYet => "not yet",
            State::Ok => "ok",
        }
    }
}

/// Names that tokens have in common with each other or among themselves, each held once.
#[derive(Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    fn one(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.0.insert(new.clone());
        new
    }
}

impl Entry {
    /// Reads what is said of a token; `longest` is the bound of a whole `Authorization` header in bytes.
    pub fn read(item: &Item, longest: usize, names: &mut Names) -> Result<Self, ConfigError> {
        if let Some(field) = item.fields().iter().find(|field| !KEYS.contains(&field.key.as_str())) {
            let what = format!("unknown key, expected one of {}", KEYS.join(", "));
            return Err(item.refuse_unknown(field, &what));
        }
        let digest = item.digest()?;
        if item.text("token")?.is_some_and(|token| token.len() + SCHEME > longest) {
            return Err(
                item.refuse("token", "longer than limits.credential allows, so that nobody could use it")
            );
        }
        let name = match item.name() {
            Some(name) => names.one(name),
            None => names.one(&of_token(&digest)),
        };
        if Subject::try_from(name.clone()).is_err() {
            return Err(item.refuse("", "its name is not 1 to 128 visible ASCII characters"));
        }
        let subject = item.text("subject")?.map_or_else(|| name.clone(), |subject| names.one(subject));
        let subject = Subject::try_from(subject);
        let subject = subject.map_err(|error: NotASubject| item.refuse("subject", &format!("{error}")))?;
        let route = Route::try_from(names.one(item.route()?.as_str())).expect("it is one, held once");
        let (expires, not_before) = (moment_of(item, "expires")?, moment_of(item, "not_before")?);
        if expires.zip(not_before).is_some_and(|(expires, not_before)| expires <= not_before) {
            return Err(item.refuse("expires", "not after not_before, so that it would never be good"));
        }
        let identity = Arc::new(Identity {
            subject,
            route,
            scopes: scopes(item)?,
            expires,
            fingerprint: Fingerprint::of_token(&digest),
            standing: Standing::Token(keyed(&digest)),
        });
        let disabled = match item.value("disabled") {
            None => false,
            Some(Value::Flag(disabled)) => *disabled,
            Some(_) => return Err(item.refuse("disabled", "expected true or false")),
        };
        let note = item.text("note")?.map(Box::from);
        Ok(Self { name, identity, not_before, disabled, note, used: Used::default() })
    }

    /// A keyed digest of the token, under which it is looked up.
    pub(super) fn key(&self) -> &[u8; 32] {
        match &self.identity.standing {
            Standing::Token(key) => key,
            Standing::Certificate(_) | Standing::Jwt(_) => unreachable!("it was read as a static token"),
        }
    }

    /// Whether it is good at `now`, seconds since 1970.
    pub fn state(&self, now: u64) -> State {
        if self.disabled {
            State::Disabled
        } else if self.identity.expires.is_some_and(|expires| now >= expires) {
            State::Expired
        } else if self.not_before.is_some_and(|not_before| now < not_before) {
            State::NotYet
        } else {
            State::Ok
        }
    }
}

fn moment_of(item: &Item, key: &str) -> Result<Option<u64>, ConfigError> {
    let text = match item.value(key) {
        None => return Ok(None),
        Some(Value::Text(text) | Value::Time(text)) => text,
        Some(_) => "",
    };
    moment::parse(text).map(Some).ok_or_else(|| item.refuse(key, moment::EXPECTED))
}

fn scopes(item: &Item) -> Result<Scopes, ConfigError> {
    let is_scope = |scope: &String| {
        // RFC 6749, 3.3: visible ASCII without quotes and backslashes.
        !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
    };
    match item.value("scopes") {
        None => Ok(Scopes::All),
        Some(Value::Texts(scopes)) if scopes.iter().all(is_scope) => {
            Ok(Scopes::Only(Arc::new(scopes.iter().cloned().collect())))
        }
        Some(_) => Err(item.refuse("scopes", "expected a list of words, such as [\"tools\"]")),
    }
}
