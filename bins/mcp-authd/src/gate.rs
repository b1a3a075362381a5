//! The path of a request, from its head to the end of its answer.
//!
//! paths that need no credential -> who -> how often -> what (body, policy) -> where (route) -> the answer, on a leash.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::life::Life;

use crate::answer;
use crate::audit::{Audit, Entry};
use crate::config::Config;
use crate::credentials::{Credentials, Current, Presented, Refused, bearer, jwt, now};
use crate::front::health::Health;
use crate::front::manners::{Manners, preflight};
use crate::front::tls::{CurrentFace, Face};
use crate::front::{self, Connection, metadata};
use crate::identity::Identity;
use crate::leash::Leash;
use crate::limits::{Limits, Place};
use crate::metrics::{Metrics, Reason};
use crate::policy::{self, headers::HEADER_MISMATCH};
use crate::refusal::{self, Awaited, challenge, insufficient, too_many};
use crate::route::{Forwarded, Router, Table};
use crate::{address, config};

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
            Ok(admitted) => self.serve(&config, admitted, entry).await,
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
        let body = match head.method {
            Method::POST => front::body::read(config, &head.headers, body).await?,
            _ => Bytes::new(),
        };
        Ok(Admitted { identity, head, body })
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
        let value = bearer::value(&head.headers, config.limits.credential.bytes());
        if let Ok(value) = &value {
            let is_still_good = |identity: &Identity| self.credentials.load().again(identity, now());
            if let Some(identity) = connection.recent.recall(value.as_bytes(), is_still_good) {
                return Ok(identity);
            }
        }
        let token = value.clone().and_then(bearer::token_of);
        let shown = connection.secure.as_ref().and_then(|secure| secure.shown.as_ref());
        let identify = || {
            let presented = match (&token, shown) {
                (Ok(token), _) => Presented::Bearer(token),
                (Err(Refused::Missing), Some(shown)) => Presented::Certificate(shown),
                (Err(refused), _) => return Err(refused.clone()),
            };
            self.credentials.load().identify(&presented, now())
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
                connection.stranger.welcome();
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
    async fn serve(&self, config: &Config, admitted: Admitted, mut entry: Entry) -> Response<Body> {
        let (awaited, is_listening) = match self.permit(config, &admitted, &mut entry) {
            Ok(permitted) => permitted,
            Err(answered_here) => return entry.ends_with(answered_here),
        };
        let Admitted { identity, head, body } = admitted;
        if let Err(wait) = self.limits.subject(&identity.subject) {
            entry.because("too many requests of this subject");
            self.metrics.unserved(Reason::Rate);
            return entry.ends_with(too_many(&awaited, wait));
        }
        let is_still_good = || self.credentials.load().still(&identity, now());
        match self.router.forward(&identity, Request::from_parts(head, body), is_still_good).await {
            Ok(Forwarded { answer, held }) => {
                let credentials = self.credentials.clone();
                let leash = Leash { identity, credentials, life: self.life.clone(), is_listening };
                leash.hold(answer, held, entry)
            }
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
        let Admitted { identity, head, body } = admitted;
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
            is_listening = read.messages.iter().any(|asked| asked.method == "subscriptions/listen");
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

/// Reads and checks everything that a change of the settings needs, before anything is replaced.
pub struct Prepared {
    /// The settings.
    pub config: Arc<Config>,
    /// The credentials they name.
    pub credentials: Credentials,
    /// The routes they describe.
    pub table: Table,
    /// The certificate they name.
    pub face: Option<Face>,
}

impl Prepared {
    /// All or nothing: the first thing that is wrong is the answer.
    pub fn new(config: Config) -> Result<Self, ConfigProblem> {
        config::check::check(&config)?;
        let config = Arc::new(config);
        let credentials = Credentials::load(&config)?;
        let table = Table::load(&config)?;
        let face = config.tls.as_ref().map(Face::load).transpose()?;
        Ok(Self { config, credentials, table, face })
    }

    /// A token whose route leads nowhere: it is let in and then served nothing. Not a mistake to stop for, since routes and
    /// tokens come and go one after the other.
    pub fn leads_nowhere(&self) -> Option<ConfigProblem> {
        let entry =
            self.credentials.tokens().entries().find(|entry| !self.table.leads(&entry.identity.route))?;
        let (route, name) = (&entry.identity.route, &entry.name);
        let what = format!(
            "route {route} of token {name} has no upstream; set upstream, or [route.{route}] with one"
        );
        Some(ConfigProblem::key("upstream", what))
    }
}
