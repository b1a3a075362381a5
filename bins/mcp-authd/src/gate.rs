//! The path of a request, from its head to the end of its answer.
//!
//! paths that need no credential -> who -> how often -> what (body, policy) -> where (route) -> the answer, on a leash.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::config::Size;
use mcp_daemon::life::Life;

use crate::address;
use crate::answer;
use crate::audit::{Audit, Entry};
use crate::config::Config;
use crate::credentials::{Current, Presented, Refused, bearer, jwt, now};
use crate::front::health::Health;
use crate::front::manners::{Manners, preflight};
use crate::front::tls::CurrentFace;
use crate::front::{self, Connection, metadata};
use crate::identity::{Identity, Standing};
use crate::leash::Leash;
use crate::limits::bodies::Taken;
use crate::limits::strangers::{Good, TooMany};
use crate::limits::{Limits, Place};
use crate::metrics::{Metrics, Reason};
use crate::policy::{self, headers::HEADER_MISMATCH};
use crate::prepared::Prepared;
use crate::refusal::{self, Awaited, challenge, insufficient, too_many};
use crate::route::{Forwarded, Router};

/// When somebody may come again who has too many connections.
const SOON: Duration = Duration::from_secs(1);
/// The largest body that is read of a request which is not served, for the id of its answer.
const SHORT: Size = Size(64 << 10);

/// Everything that a request passes.
pub struct Gate {
    config: ArcSwap<Config>,
    /// What credentials are good.
    pub credentials: Arc<Current>,
    /// Where routes lead.
    pub router: Arc<Router>,
    /// What is taken down.
    pub audit: Arc<Audit>,
    /// What we show where TLS is spoken.
    pub face: CurrentFace,
    /// Who has had enough for now.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Metrics,
    health: Health,
    /// The daemon's life.
    pub life: Life,
}

/// A request that was let in.
struct Admitted {
    identity: Arc<Identity>,
    head: request::Parts,
    body: Bytes,
    /// The room of the body.
    taken: Taken,
}

impl Gate {
    /// Opens the gate.
    pub fn new(prepared: Prepared, audit: Arc<Audit>, life: Life) -> Arc<Self> {
        let Prepared { config, credentials, table, face } = prepared;
        Arc::new(Self {
            face: CurrentFace::from_pointee(face),
            limits: Limits::new(&config.rate),
            config: ArcSwap::new(config),
            credentials: Current::new(credentials),
            router: Router::new(table, life.clone()),
            audit,
            metrics: Metrics::default(),
            health: Health::default(),
            life,
        })
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Replaces all that was read; requests under way end as they began, but for those of credentials that are gone.
    pub fn replace(&self, prepared: Prepared) {
        let Prepared { config, credentials, table, face } = prepared;
        self.limits.reconfigure(&config.rate);
        self.config.store(config);
        self.router.replace(table);
        self.face.store(face.map(Arc::new));
        self.report();
        // Last: this is how others hear of it.
        self.credentials.replace(credentials);
    }

    /// Tells the log what is wrong with our certificate, though it can be used.
    pub fn report(&self) {
        for complaint in self.face.load().iter().flat_map(|face| face.complaints()) {
            let level = if complaint.is_fatal() { log::Level::Error } else { log::Level::Warn };
            log::log!(level, complaint:% = complaint; "clients may not trust our certificate");
        }
    }

    /// Makes strangers of connections whose credential was taken back, until the drain.
    pub async fn ask_again(self: Arc<Self>) {
        let mut changes = self.credentials.changes();
        loop {
            tokio::select! {
                () = changes.next() => {}
                () = self.life.draining() => return,
            }
            let credentials = self.credentials.load();
            let is_still_good =
                |good: &Good| credentials.still(&good.identity, good.secure.as_deref(), good.since);
            self.limits.strangers.ask_again(is_still_good);
        }
    }

    /// Answers one request.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<Body> {
        let config = self.config();
        let (head, body) = request.into_parts();
        let mut entry = Entry::new(&self.audit, &head.method);
        let manners = Manners::of(&config, &head, &connection);
        let mut answer = match self.admit(&config, head, body, &connection, &mut entry).await {
            Ok(admitted) => self.serve(&config, admitted, &connection, entry).await,
            Err(refusal) => entry.ends_with(refusal),
        };
        manners.put(answer.headers_mut());
        self.metrics.answered(answer.status());
        answer
    }

    /// Lets a request in, or says why not.
    async fn admit(
        &self,
        config: &Config,
        head: request::Parts,
        body: Incoming,
        connection: &Connection,
        entry: &mut Entry,
    ) -> Result<Admitted, Response<Body>> {
        let from = address::of(connection.address, &head.headers, &config.trusted_proxies);
        entry.comes_from(from);
        let named = if connection.is_tcp { front::hosts::check(config, &head, connection) } else { Ok(()) };
        if let Err(refusal) = named.and_then(|()| front::hosts::check_once(&head)) {
            self.count_stranger(from)?;
            return Err(refusal);
        }
        if let Some(answer) = preflight(&head) {
            self.count_stranger(from)?;
            return Err(answer);
        }
        if head.uri.path() != config.path {
            self.count_stranger(from)?;
            return Err(self.beside(config, &head).await);
        }
        let identity = self.identify(config, &head, connection, from, entry).await?;
        entry.is_from(&identity);
        let mut taken = self.limits.bodies.begin();
        // Before anything is read that somebody may send too much of.
        let good = || Good { identity: identity.clone(), secure: connection.secure.clone(), since: now() };
        let counted = match connection.stranger.welcome(good) {
            Ok(()) => self.limits.subject(&identity.subject).map_err(|wait| (wait, "requests")),
            Err(TooMany) => Err((SOON, "connections")),
        };
        if let Err((wait, what)) = counted {
            entry.because(format_args!("too many {what} of this subject"));
            self.metrics.unserved(Reason::Rate);
            let awaited = Self::awaited(config, &head, body, &mut taken, entry).await;
            return Err(too_many(&awaited, wait));
        }
        let body = match head.method {
            Method::POST => {
                let read =
                    front::body::read(config, &head.headers, body, config.limits.body, &mut taken).await;
                read.map_err(|not_taken| {
                    entry.because(&not_taken);
                    not_taken.answer()
                })?
            }
            _ => Bytes::new(),
        };
        Ok(Admitted { identity, head, body, taken })
    }

    /// What is awaited by the sender of a request that is not served: for that a short one is read.
    async fn awaited(
        config: &Config,
        head: &request::Parts,
        body: Incoming,
        taken: &mut Taken,
        entry: &mut Entry,
    ) -> Awaited {
        if head.method != Method::POST {
            return Awaited::Status;
        }
        let most = SHORT.min(config.limits.body);
        let Ok(body) = front::body::read(config, &head.headers, body, most, taken).await else {
            return Awaited::Status;
        };
        let Ok(read) = policy::read(&body, false) else { return Awaited::Status };
        entry.asks(&read.messages);
        Awaited::of(&read)
    }

    /// Paths other than MCP's.
    async fn beside(&self, config: &Config, head: &request::Parts) -> Response<Body> {
        match (&head.method, head.uri.path()) {
            (_, path) if metadata::is_at(config, path) => metadata::answer(config, head),
            (&Method::GET | &Method::HEAD, "/health") => {
                self.health.answer(config, &self.router, self.life.is_draining()).await
            }
            _ => answer::text(
                StatusCode::NOT_FOUND,
                format!(
                    "MCP is served at {} (Streamable HTTP); put this path into your client's URL.\n",
                    config.path
                ),
            ),
        }
    }

    /// Who a request is from. What follows from a good credential, and from a wrong one, is in [`crate::limits`].
    async fn identify(
        &self,
        config: &Config,
        head: &request::Parts,
        connection: &Connection,
        from: Option<IpAddr>,
        entry: &mut Entry,
    ) -> Result<Arc<Identity>, Response<Body>> {
        let secure = connection.secure.as_deref();
        let value = bearer::value(&head.headers, config.limits.credential.bytes());
        if let Ok(value) = &value {
            let is_still_good = |identity: &Identity| self.credentials.load().again(identity, secure, now());
            if let Some(identity) = connection.recent.recall(value.as_bytes(), is_still_good) {
                return Ok(identity);
            }
        }
        let token = value.clone().and_then(bearer::token_of);
        let shown = secure.and_then(|secure| secure.shown.as_ref());
        let identify = || {
            let presented = match (&token, shown) {
                (Ok(token), _) => Presented::Bearer(token),
                (Err(Refused::Missing), Some(shown)) => Presented::Certificate(shown),
                (Err(refused), _) => return Err(refused.clone()),
            };
            let (credentials, now) = (self.credentials.load(), now());
            credentials.admit(secure, now)?;
            credentials.identify(&presented, now)
        };
        let mut identified = identify();
        if let Err(Refused::UnknownKey(issuer)) = &identified
            // Boxed: it is rare, and every request would have to carry the room for it.
            && Box::pin(jwt::fetch::at_once(&self.credentials, issuer)).await
        {
            identified = identify();
        }
        let refused = match identified {
            Ok(identity) => {
                if matches!(identity.standing, Standing::Certificate(_)) {
                    front::hosts::check_ambient(config, head)?;
                }
                if let Ok(value) = value {
                    connection.recent.keep(value.as_bytes(), &identity);
                }
                return Ok(identity);
            }
            Err(refused) => refused,
        };
        entry.because(&refused);
        if let Ok(token) = token {
            entry.brought(bearer::fingerprint(token));
        }
        self.count_stranger(from)?;
        if refused.is_guess() {
            let held = self.limits.wrong.hold(&config.wrong, Place::of(from), &self.life).await;
            held.map_err(|more| too_many(&Awaited::Status, more.0))?;
        }
        Err(challenge(config, head, &refused))
    }

    /// Counts a request without a good credential.
    fn count_stranger(&self, from: Option<IpAddr>) -> Result<(), Response<Body>> {
        self.limits.place(Place::of(from)).map_err(|wait| too_many(&Awaited::Status, wait))
    }

    /// Does what a request that was let in asks for.
    async fn serve(
        &self,
        config: &Config,
        admitted: Admitted,
        connection: &Connection,
        mut entry: Entry,
    ) -> Response<Body> {
        let (awaited, is_listening) = match self.permit(config, &admitted, &mut entry) {
            Ok(permitted) => permitted,
            Err(answered_here) => return entry.ends_with(answered_here),
        };
        let Admitted { identity, head, body, taken } = admitted;
        let secure = connection.secure.clone();
        let is_still_good = || self.credentials.load().still(&identity, secure.as_deref(), now());
        let (credentials, life) = (self.credentials.clone(), self.life.clone());
        let (reading, since) = (credentials.reading(), now());
        let leash = Leash {
            identity: identity.clone(),
            secure: secure.clone(),
            credentials,
            life,
            is_listening,
            since,
            reading,
        };
        let forwarded = tokio::select! {
            // In this order nobody is asked whose answer is there at once.
            biased;
            forwarded = self.router.forward(&identity, Request::from_parts(head, body), is_still_good) => forwarded,
            () = leash.taken_back() => {
                entry.because("the credential was taken back while the request was under way");
                self.metrics.unserved(Reason::NoLongerGood);
                return entry.ends_with(refusal::taken_back(&awaited));
            }
        };
        drop(taken);
        match forwarded {
            Ok(Forwarded { answer, held }) => leash.hold(answer, held, entry),
            Err(unserved) => {
                entry.because(&unserved);
                self.metrics.unserved(unserved.reason());
                entry.ends_with(refusal::unserved(&awaited, &unserved))
            }
        }
    }

    /// What is awaited by the sender of a request that may go on to its route, and whether it listens without an end; or
    /// what it is answered here.
    fn permit(
        &self,
        config: &Config,
        admitted: &Admitted,
        entry: &mut Entry,
    ) -> Result<(Awaited, bool), Response<Body>> {
        let Admitted { identity, head, body, .. } = admitted;
        let lacking = |asked: &[policy::Asked<'_>]| {
            policy::lacking(&config.require, identity.route.as_str(), asked, &identity.scopes)
        };
        let mut awaited = Awaited::Status;
        let mut is_acknowledged = false;
        let mut is_listening = head.method == Method::GET;
        let needed = if head.method == Method::POST {
            let read = policy::read(body, !config.require.is_empty()).map_err(|malformed| {
                entry.because(&malformed);
                let said = malformed.to_string();
                answer::refused(StatusCode::BAD_REQUEST, "null", malformed.code(), &said)
            })?;
            awaited = Awaited::of(&read);
            is_listening = read.messages.iter().any(|asked| asked.method == policy::LISTEN);
            entry.asks(&read.messages);
            if let Some(header) = policy::headers::contradiction(&head.headers, &read) {
                let said = format!("Header mismatch: {header} does not say what the body says");
                entry.because(&said);
                return Err(answer::refused(StatusCode::BAD_REQUEST, awaited.id(), HEADER_MISMATCH, &said));
            }
            is_acknowledged = read.is_initialized() && self.acknowledges(identity);
            lacking(&read.messages)
        } else {
            lacking(&[policy::Asked::default()])
        };
        match needed {
            Some(needed) => {
                entry.because(format_args!("needs the scopes {}", needed.join(" ")));
                Err(insufficient(config, head, awaited.id(), &needed))
            }
            None if is_acknowledged => Err(answer::accepted()),
            None => Ok((awaited, is_listening)),
        }
    }

    /// Whether `notifications/initialized` is answered here: some upstreams choke on it.
    fn acknowledges(&self, identity: &Identity) -> bool {
        let table = self.router.table();
        table.settings(&identity.route).is_some_and(|settings| settings.acknowledge_initialized)
    }
}
