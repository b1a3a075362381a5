//! Credential to identity: static tokens, JWTs, client certificates.
//!
//! [`Credentials`] is one immutable reading of everything the settings name; [`Current`] is the newest of them, replaced
//! as a whole. Nothing here knows HTTP but the form of `Authorization`.

pub mod bearer;
pub mod certificates;
pub mod jwt;
mod keyed;
pub mod last_use;
pub mod moment;
pub mod names;
pub mod recent;
pub mod tokens;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use mcp_daemon::config::ConfigProblem;
use tokio::sync::{Notify, watch};

use self::certificates::{Certificates, Shown};
use self::jwt::Issuers;
use self::names::Names;
use self::tokens::Tokens;
use crate::config::Config;
use crate::front::tls::shake::Secure;
use crate::identity::{Identity, Standing};

/// One reading of all credentials.
pub struct Credentials {
    tokens: Tokens,
    certificates: Option<Certificates>,
    issuers: Issuers,
    names: Names,
}

/// What a request brought to show who it is from.
pub enum Presented<'a> {
    /// The token of `Authorization: Bearer`.
    Bearer(&'a str),
    /// The certificate of its connection.
    Certificate(&'a Shown),
}

/// Why a credential is worth nothing. The client hears one of a few fixed sentences ([`Refused::sentence`]), the log and
/// the audit hear which.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// A client certificate that is worth nothing here.
    #[error("client certificate {0}")]
    Certificate(String),
    /// Switched off by hand.
    #[error("the token of {0} is disabled")]
    Disabled(String),
    /// Its time is over.
    #[error("the token of {0} has expired")]
    Expired(String),
    /// A JWT that is worth nothing.
    #[error("a JWT was refused: {0}")]
    Jwt(#[from] jwt::Invalid),
    /// Not in the form `Bearer TOKEN`, or too long.
    #[error("the Authorization header is not `Bearer TOKEN`")]
    Malformed,
    /// There is none.
    #[error("no credential")]
    Missing,
    /// Its time has not come.
    #[error("the token of {0} is not valid yet")]
    NotYet(String),
    /// Nobody knows it.
    #[error("nobody knows this token")]
    Unknown,
    /// A JWT of this issuer, by a key that was not in its set when that was last fetched (see [`jwt::fetch::at_once`]).
    #[error("a JWT of {0} was made by none of the keys known")]
    UnknownKey(Box<str>),
}

impl Refused {
    /// What the client is told: which mistake it made, never what is known.
    pub fn sentence(&self) -> &'static str {
        match self {
            Refused::Certificate(_) => "this client certificate is not valid here",
            Refused::Missing => "a bearer token is needed here",
            Refused::Malformed => "the Authorization header must be `Bearer TOKEN`",
            Refused::Disabled(_)
            | Refused::Expired(_)
            | Refused::Jwt(_)
            | Refused::NotYet(_)
            | Refused::Unknown
            | Refused::UnknownKey(_) => "this token is not valid here",
        }
    }

    /// Whether there is a credential that is worth nothing.
    pub fn is_wrong(&self) -> bool {
        !matches!(self, Refused::Missing)
    }

    /// Whether somebody may be guessing: then the answer takes its time. Who shows what was made for somebody does not
    /// guess: OAuth clients find out like this that their token has expired, every few minutes and many of them from one
    /// address.
    pub fn is_guess(&self) -> bool {
        match self {
            Refused::Disabled(_) | Refused::Expired(_) | Refused::Missing | Refused::NotYet(_) => false,
            Refused::Jwt(invalid) => !invalid.is_signed(),
            Refused::Certificate(_) | Refused::Malformed | Refused::Unknown | Refused::UnknownKey(_) => true,
        }
    }
}

impl Credentials {
    /// Reads everything that the settings name.
    pub fn load(config: &Config) -> Result<Self, ConfigProblem> {
        let certificates = Certificates::load(config.tls.as_ref())?;
        let tokens = Tokens::load(config)?;
        let names = Names::of(&tokens, config);
        Ok(Self { tokens, certificates, issuers: Issuers::load(config)?, names })
    }

    /// What a credential is worth at `now`, seconds since 1970.
    pub fn identify(&self, presented: &Presented<'_>, now: u64) -> Result<Arc<Identity>, Refused> {
        match presented {
            Presented::Bearer(token) => match self.tokens.identify(token, now) {
                Err(Refused::Unknown) if !self.issuers.is_empty() && jwt::is_token(token) => {
                    let identity = self.issuers.identify(token, now)?;
                    if self.is_anothers(&identity) { Err(jwt::Invalid::Taken.into()) } else { Ok(identity) }
                }
                identified => identified,
            },
            Presented::Certificate(shown) => {
                let Some(certificates) = &self.certificates else { return Err(Refused::Missing) };
                let identity = certificates.identify(shown, now)?;
                if self.is_anothers(&identity) { Err(certificates.taken(&identity)) } else { Ok(identity) }
            }
        }
    }

    /// Whether a connection by TLS may be used at all: where a client certificate is required, it has to go on being good.
    pub fn admit(&self, secure: Option<&Secure>, now: u64) -> Result<(), Refused> {
        match (&self.certificates, secure) {
            (Some(certificates), Some(secure)) => certificates.admit(secure.shown.as_ref(), now),
            _ => Ok(()),
        }
    }

    /// Whether somebody has by now a name that the operator gave somebody else.
    fn is_anothers(&self, identity: &Identity) -> bool {
        let naming = match &identity.standing {
            Standing::Token(_) => return false,
            Standing::Certificate(_) => self.certificates.as_ref().map(Certificates::naming),
            Standing::Jwt(standing) => self.issuers.naming(standing),
        };
        naming.is_none_or(|naming| self.names.is_anothers(identity, naming))
    }

    /// The issuers of JWTs.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The static tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The same as [`Credentials::still`], for a credential that was brought again: notes that it was used.
    pub fn again(&self, identity: &Identity, secure: Option<&Secure>, now: u64) -> bool {
        match &identity.standing {
            Standing::Token(_) => self.tokens.again(identity, now) && self.admit(secure, now).is_ok(),
            Standing::Certificate(_) | Standing::Jwt(_) => self.still(identity, secure, now),
        }
    }

    /// Whether an identity that was given out earlier is still good: same credential, same subject, route and scopes; and
    /// so is the connection that it came by, where that is one by TLS.
    pub fn still(&self, identity: &Identity, secure: Option<&Secure>, now: u64) -> bool {
        let in_time = identity.expires.is_none_or(|expires| now < expires);
        let shown = || secure.and_then(|secure| secure.shown.as_ref());
        in_time
            && match &identity.standing {
                Standing::Token(_) => self.tokens.still(identity, now),
                Standing::Certificate(rules) => self.certificates.as_ref().is_some_and(|certificates| {
                    shown().is_some_and(|shown| certificates.still(rules, shown, now))
                }),
                Standing::Jwt(standing) => self.issuers.still(standing),
            }
            && !self.is_anothers(identity)
            && self.admit(secure, now).is_ok()
    }

    /// Whether somebody who was let in at `since` would be let in now, be it for something else or somewhere else: what is
    /// under way ends as it began.
    pub fn lets_in(&self, identity: &Identity, secure: Option<&Secure>, since: u64) -> bool {
        match &identity.standing {
            Standing::Token(key) => self.tokens.lets_in(key, since) && self.admit(secure, since).is_ok(),
            Standing::Certificate(_) | Standing::Jwt(_) => self.still(identity, secure, since),
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The newest reading.
pub struct Current {
    credentials: ArcSwap<Credentials>,
    epoch: watch::Sender<u64>,
    fetcher: Notify,
}

/// Tells of each newer reading.
pub struct Changes(watch::Receiver<u64>);

impl Current {
    /// Begins with a first reading.
    pub fn new(credentials: Credentials) -> Arc<Self> {
        Arc::new(Self {
            credentials: ArcSwap::from_pointee(credentials),
            epoch: watch::Sender::new(0),
            fetcher: Notify::new(),
        })
    }

    /// The newest reading, for a moment.
    pub fn load(&self) -> Guard<Arc<Credentials>> {
        self.credentials.load()
    }

    /// Replaces it; whoever waits for [`Changes`] hears of it.
    pub fn replace(&self, mut credentials: Credentials) {
        let older = self.load();
        credentials.issuers.inherit(&older.issuers);
        credentials.tokens.inherit(&older.tokens);
        self.credentials.store(Arc::new(credentials));
        self.changed();
    }

    /// Tells whoever waits for [`Changes`] that the newest reading is worth another look: an issuer's keys are others.
    pub fn changed(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// The number of the newest reading; it also changes where an issuer's keys are others.
    pub fn reading(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Has [`jwt::fetch`] look at once what is due.
    pub fn wake_fetcher(&self) {
        self.fetcher.notify_one();
    }

    /// Ends at the next [`Current::wake_fetcher`], or at once after one that nobody heard.
    pub async fn fetcher_woken(&self) {
        self.fetcher.notified().await;
    }

    /// Tells of each replacement from now on.
    pub fn changes(&self) -> Changes {
        Changes(self.epoch.subscribe())
    }
}

impl Changes {
    /// Ends at the next replacement.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The daemon ends.
            std::future::pending().await
        }
    }
}
