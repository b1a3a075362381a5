//! The path of a request, from its head to the end of its answer.
//!
//! paths that need no credential -> who -> how often -> what (body, policy) -> where (route) -> the answer, on a leash.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use mcp_daemon::body::Body;
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::life::Life;
use mcp_daemon::mcp;

use crate::answer;
use crate::audit::{Audit, Entry};
use crate::config::Config;
use crate::credentials::{Credentials, Current, Presented, Refused, bearer, jwt, now};
use crate::front::health::Health;
use crate::front::{self, Connection, metadata};
use crate::identity::Identity;
use crate::leash::Leash;
use crate::metrics::Metrics;
use crate::policy::{self, headers::HEADER_MISMATCH};
use crate::route::{Router, Table, Unserved};
use crate::{address, config};

/// What a client may try again after.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Everything that a request passes.
pub struct Gate {
    config: ArcSwap<Config>,
    /// What credentials are good.
    pub credentials: Arc<Current>,
    /// Where routes lead.
    pub router: Arc<Router>,
    /// What is taken down.
    pub audit: Arc<Audit>,
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
        let Prepared { config, credentials, table } = prepared;
        Arc::new(Self {
            config: ArcSwap::new(config),
            credentials: Current::new(credentials),
            router: Router::new(table),
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
        let Prepared { config, credentials, table } = prepared;
        self.config.store(config);
        self.router.replace(table);
        self.credentials.replace(credentials);
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
        let answer = match self.admit(&config, head, body, &connection, &mut entry).await {
            Ok(admitted) => self.serve(&config, admitted, &mut entry).await,
            Err(refusal) => refusal,
        };
        let status = answer.status();
        self.metrics.answered(status);
        answer.map(|body| entry.watch(status, body))
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
        if connection.is_tcp {
            front::hosts::check(config, &head)?;
        }
        if head.uri.path() != config.path {
            return Err(self.beside(config, &head).await);
        }
        let identity = self.identify(config, &head, from, entry).await?;
        entry.is_from(&identity);
        let body = match head.method {
            Method::POST => front::body::read(config, body).await?,
            _ => Bytes::new(),
        };
        Ok(Admitted { identity, head, body })
    }

    /// Paths other than MCP's.
    async fn beside(&self, config: &Config, head: &request::Parts) -> Response<Body> {
        match (&head.method, head.uri.path()) {
            (_, path) if metadata::is_at(config, path) => metadata::answer(config, head),
            (&Method::GET | &Method::HEAD, "/health") => {
                self.health.answer(config, self.life.is_draining()).await
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

    /// Who a request is from.
    async fn identify(
        &self,
        config: &Config,
        head: &request::Parts,
        _from: Option<IpAddr>,
        entry: &mut Entry,
    ) -> Result<Arc<Identity>, Response<Body>> {
        let token = bearer::token(&head.headers, config.limits.credential.bytes());
        let identify = || {
            let token = token.clone()?;
            self.credentials.load().identify(&Presented::Bearer(token), now())
        };
        let mut identified = identify();
        if let Err(Refused::UnknownKey(issuer)) = &identified
            // Boxed: it is rare, and every request would have to carry the room for it.
            && Box::pin(jwt::fetch::at_once(&self.credentials, issuer)).await
        {
            identified = identify();
        }
        identified.map(Arc::new).map_err(|refused| {
            entry.because(&refused);
            if let Ok(token) = token {
                entry.brought(bearer::fingerprint(token));
            }
            challenge(config, head, &refused)
        })
    }

    /// Does what a request that was let in asks for.
    async fn serve(&self, config: &Config, admitted: Admitted, entry: &mut Entry) -> Response<Body> {
        let id = match self.permit(config, &admitted, entry) {
            Ok(id) => id,
            Err(answered_here) => return answered_here,
        };
        let Admitted { identity, head, body } = admitted;
        let request = outbound(head, body, &identity);
        match self.router.forward(&identity.route, request).await {
            Ok(answer) => {
                let leash =
                    Leash { identity, credentials: self.credentials.clone(), life: self.life.clone() };
                answer.map(|body| Body::stream(leash.hold(body)))
            }
            Err(unserved) => {
                entry.because(&unserved);
                unserved_answer(&id, &unserved)
            }
        }
    }

    /// The raw id of a request that may go on to its route, `null` where it has none; or what it is answered here.
    fn permit(
        &self,
        config: &Config,
        admitted: &Admitted,
        entry: &mut Entry,
    ) -> Result<String, Response<Body>> {
        let Admitted { identity, head, body } = admitted;
        let lacking = |asked: &[policy::Asked<'_>]| {
            policy::lacking(&config.require, identity.route.as_str(), asked, &identity.scopes)
        };
        let mut id = String::from("null");
        let mut is_acknowledged = false;
        let needed = if head.method == Method::POST {
            let read = policy::read(body, !config.require.is_empty()).map_err(|malformed| {
                entry.because(&malformed);
                let said = malformed.to_string();
                answer::refused(StatusCode::BAD_REQUEST, "null", malformed.code(), &said)
            })?;
            if let Some(raw) = read.id {
                raw.get().clone_into(&mut id);
            }
            entry.asks(&read.messages);
            if let Some(header) = policy::headers::contradiction(&head.headers, &read) {
                let said = format!("Header mismatch: {header} does not say what the body says");
                entry.because(&said);
                return Err(answer::refused(StatusCode::BAD_REQUEST, &id, HEADER_MISMATCH, &said));
            }
            is_acknowledged = read.is_initialized() && self.acknowledges(identity);
            lacking(&read.messages)
        } else {
            lacking(&[policy::Asked::default()])
        };
        match needed {
            Some(needed) => {
                entry.because(format_args!("needs the scopes {}", needed.join(" ")));
                Err(insufficient(config, head, &id, &needed))
            }
            None if is_acknowledged => Err(answer::accepted()),
            None => Ok(id),
        }
    }

    /// Whether `notifications/initialized` is answered here: some upstreams choke on it.
    fn acknowledges(&self, identity: &Identity) -> bool {
        let table = self.router.table();
        table.settings(&identity.route).is_some_and(|settings| settings.acknowledge_initialized)
    }
}

/// The request as it goes upstream: without the credential and what belongs to the connection, with the identity.
fn outbound(mut head: request::Parts, body: Bytes, identity: &Identity) -> Request<Bytes> {
    front::headers::inward(&mut head.headers);
    let text = |text: &str| HeaderValue::from_str(text).expect("subjects and routes are visible ASCII");
    head.headers.insert(mcp::SUBJECT_HEADER, text(identity.subject.as_str()));
    head.headers.insert(mcp::ROUTE_HEADER, text(identity.route.as_str()));
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.headers_mut() = head.headers;
    request
}

/// 401, and how to do better.
fn challenge(config: &Config, head: &request::Parts, refused: &Refused) -> Response<Body> {
    let mut answer =
        answer::refused(StatusCode::UNAUTHORIZED, "null", mcp::INVALID_REQUEST, refused.sentence());
    let error = refused.is_wrong().then_some("invalid_token");
    let challenge = metadata::challenge(config, head, error, &metadata::basic_scopes(config));
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

/// 403, and which scopes would do.
fn insufficient(config: &Config, head: &request::Parts, id: &str, needed: &[&str]) -> Response<Body> {
    let said = "this token is not allowed to do that";
    let mut answer = answer::refused(StatusCode::FORBIDDEN, id, mcp::INVALID_REQUEST, said);
    let challenge = metadata::challenge(config, head, Some("insufficient_scope"), needed);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    answer
}

/// A request with an id gets 200 with an error: the only answer that every client measured survives.
fn unserved_answer(id: &str, unserved: &Unserved) -> Response<Body> {
    let (status, message) = match unserved {
        Unserved::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way, try again"),
        Unserved::Down { .. } => (StatusCode::SERVICE_UNAVAILABLE, "the server cannot be reached, try again"),
        Unserved::Lost { .. } => {
            (StatusCode::BAD_GATEWAY, "the server was lost while this ran; its effect is unknown")
        }
        Unserved::NoUpstream(_) => (StatusCode::NOT_FOUND, "no server is set up for this token"),
    };
    log::warn!(error:% = unserved; "a request was not served");
    let status = if id == "null" { status } else { StatusCode::OK };
    answer::later(status, id, TRY_AGAIN, message)
}

/// Reads and checks everything that a change of the settings needs, before anything is replaced.
pub struct Prepared {
    /// The settings.
    pub config: Arc<Config>,
    /// The credentials they name.
    pub credentials: Credentials,
    /// The routes they describe.
    pub table: Table,
}

impl Prepared {
    /// All or nothing: the first thing that is wrong is the answer.
    pub fn new(config: Config) -> Result<Self, ConfigProblem> {
        config::check::check(&config)?;
        let config = Arc::new(config);
        let credentials = Credentials::load(&config)?;
        let table = Table::load(&config)?;
        Ok(Self { config, credentials, table })
    }
}
