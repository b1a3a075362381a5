//! What the settings say about routes: checked, with the tokens of upstreams read. Nothing here knows what goes on.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use http::HeaderValue;
use mcp_daemon::addr::{Route, Upstream};
use mcp_daemon::config::{ConfigProblem, Span};
use mcp_daemon::secret::Secret;

use super::affinity::{MAX_NAME, is_name};
use super::balance::{self, MAX_UPSTREAMS};
use super::probe;
use super::queue::Bounds;
use crate::config::Config;
use crate::config::route::{Health, RouteSettings, UpstreamSettings, Upstreams};

/// The file name of the socket behind which serena-supervise wakes an instance, by default.
const WAKE_SOCKET: &str = "/mcp.sock";

/// One reading of the settings.
pub struct Table {
    config: Arc<Config>,
    common: Arc<[Goal]>,
    own: HashMap<Route, Arc<[Goal]>>,
}

/// One upstream as the settings describe it.
pub(super) struct Goal {
    /// Empty for the only upstream of a route, where it was given none.
    pub name: Box<str>,
    /// The name, for the choice among several.
    pub key: u64,
    pub address: Upstream,
    pub weight: u16,
    pub ready: Option<Upstream>,
    pub drains: bool,
    /// Its own credential.
    pub authorization: Option<HeaderValue>,
    /// Told who is asking over TCP too.
    pub identity_headers: bool,
}

impl Table {
    /// Reads the settings of all routes, with the tokens of upstreams.
    pub fn load(config: &Arc<Config>) -> Result<Self, ConfigProblem> {
        let health = &config.health;
        if health.longest_ejection < health.ejection {
            let what = format!(
                "must not be shorter than health.ejection ({} < {})",
                health.longest_ejection, health.ejection
            );
            return Err(ConfigProblem::key("health.longest_ejection", what));
        }
        check_queue("", config.concurrency, config.queue, config.queue_timeout)?;
        let common = goals("upstream", &config.upstream)?;
        let mut own = HashMap::new();
        for (route, settings) in &config.route {
            let bounded = settings.concurrency.or(config.concurrency);
            check_queue(&format!("route.{route}."), bounded, settings.queue, settings.queue_timeout)?;
            if !settings.upstream.0.is_empty() {
                own.insert(route.clone(), goals(&format!("route.{route}.upstream"), &settings.upstream)?);
            } else if common.is_empty() {
                let what =
                    "leads nowhere; set it, or a common `upstream`, like unix:/run/serena/{route}/mcp.sock";
                return Err(ConfigProblem::key(format!("route.{route}.upstream"), what));
            }
        }
        Ok(Self { config: config.clone(), common, own })
    }

    /// What a route is told to do.
    pub fn settings(&self, route: &Route) -> Option<&RouteSettings> {
        self.config.route.get(route)
    }

    /// Whether a route has an upstream.
    pub fn leads(&self, route: &Route) -> bool {
        !self.goals(route).is_empty()
    }

    /// The upstreams of a route, its own or the common ones.
    pub(super) fn goals(&self, route: &Route) -> &Arc<[Goal]> {
        self.own.get(route).unwrap_or(&self.common)
    }

    /// How many requests of a route may be under way.
    pub(super) fn bounds(&self, route: &Route) -> Option<Bounds> {
        Bounds::of(self.settings(route), &self.config)
    }

    pub(super) fn health(&self) -> &Health {
        &self.config.health
    }
}

impl Goal {
    fn read(key: &str, settings: &UpstreamSettings, is_only: bool) -> Result<Self, ConfigProblem> {
        let refuse =
            |part: &str, what: &str| Err(ConfigProblem::key(format!("{key}.{part}"), what.to_owned()));
        let name = match &settings.name {
            Some(name) if is_name(name) => name.as_str(),
            Some(name) => {
                let what = format!("`{}` is no name; write 1-{MAX_NAME} of a-z 0-9 -", name.escape_default());
                return refuse("name", &what);
            }
            None if is_only => "",
            None => return refuse("name", "one of several upstreams needs a name, such as `name = \"a\"`"),
        };
        if let Some(ready) = &settings.ready {
            let wakes = ready.socket().is_some_and(|it| it.contains("{route}") && it.ends_with(WAKE_SOCKET));
            if wakes || ready.is_beside(&settings.address) {
                let what = format!(
                    "`{ready}` is where sessions go, and asking there would wake an instance; name the daemon's control socket or --observe address"
                );
                return refuse("ready", &what);
            }
        }
        Ok(Self {
            name: name.into(),
            key: balance::key(name),
            address: settings.address.clone(),
            weight: settings.weight.get(),
            ready: settings.ready.as_ref().map(|ready| ready.with_path(probe::PATH)),
            drains: settings.drain,
            authorization: authorization(&format!("{key}.token_file"), settings)?,
            identity_headers: settings.identity_headers,
        })
    }
}

fn goals(key: &str, upstreams: &Upstreams) -> Result<Arc<[Goal]>, ConfigProblem> {
    let upstreams = &upstreams.0;
    if upstreams.len() > MAX_UPSTREAMS {
        let what = format!("{} upstreams, a route has at most {MAX_UPSTREAMS}", upstreams.len());
        return Err(ConfigProblem::key(key, what));
    }
    let mut names = HashSet::new();
    let mut goals = Vec::with_capacity(upstreams.len());
    for (at, settings) in upstreams.iter().enumerate() {
        let key = format!("{key}[{at}]");
        let goal = Goal::read(&key, settings, upstreams.len() == 1)?;
        if !names.insert(goal.name.clone()) {
            let what = format!("two upstreams of one route are called `{}`", goal.name);
            return Err(ConfigProblem::key(format!("{key}.name"), what));
        }
        goals.push(goal);
    }
    Ok(goals.into())
}

fn authorization(key: &str, settings: &UpstreamSettings) -> Result<Option<HeaderValue>, ConfigProblem> {
    let Some(path) = &settings.token_file else { return Ok(None) };
    let secret = Secret::read(path).map_err(|error| ConfigProblem::key(key, error))?;
    let is_token = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(format!("Bearer {}", secret.expose())));
    match value {
        Ok(mut value) if is_token => {
            // Kept out of whatever shows headers.
            value.set_sensitive(true);
            Ok(Some(value))
        }
        _ => {
            let what = format!("{}: expected one token of visible ASCII characters", path.display());
            Err(ConfigProblem::key(key, what))
        }
    }
}

/// `under` is where these keys stand, with a dot after it.
fn check_queue(
    under: &str,
    concurrency: Option<NonZeroUsize>,
    queue: Option<usize>,
    timeout: Option<Span>,
) -> Result<(), ConfigProblem> {
    let idle = [("queue", queue.is_some()), ("queue_timeout", timeout.is_some())];
    match idle.iter().find(|(_, is_set)| *is_set && concurrency.is_none()) {
        Some((key, _)) => Err(ConfigProblem::key(
            format!("{under}{key}"),
            "nothing waits without a bound; set `concurrency` too",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn load(text: &str) -> Result<Table, String> {
        let config: Config = mcp_daemon::config::parse(Path::new("x.toml"), text).unwrap();
        Table::load(&Arc::new(config)).map_err(|problem| problem.to_string())
    }

    fn refused(text: &str) -> String {
        load(text).err().expect("these settings are refused")
    }

    #[test]
    fn a_route_has_its_own_upstreams_or_the_common_ones() {
        let table = load("upstream = 'unix:/run/{route}/x.sock'\n[route.a]\nupstream = '127.0.0.1:1'\n[route.b]\nconcurrency = 2").unwrap();
        let address = |route: &str| table.goals(&route.parse().unwrap())[0].address.to_string();
        assert_eq!(address("a"), "http://127.0.0.1:1/mcp");
        assert_eq!(address("b"), "unix:/run/{route}/x.sock:/mcp");
        assert_eq!(address("c"), address("b"));
        let bounds = table.bounds(&"b".parse().unwrap()).unwrap();
        assert_eq!((bounds.concurrency, bounds.waiting), (2, WAITING_BY_DEFAULT));
        assert!(table.bounds(&"a".parse().unwrap()).is_none());
        assert!(!load("").unwrap().leads(&"a".parse().unwrap()));
    }

    const WAITING_BY_DEFAULT: usize = 128;

    #[test]
    fn a_route_has_the_common_bounds_unless_it_has_its_own() {
        let table = load("upstream = 'unix:/run/{route}/x.sock'\nconcurrency = 4\nqueue = 1\n[route.a]\nconcurrency = 2\n[route.b]\nqueue = 7\nqueue_timeout = '3s'").unwrap();
        let bounds = |route: &str| {
            let bounds = table.bounds(&route.parse().unwrap()).unwrap();
            (bounds.concurrency, bounds.waiting, bounds.timeout.as_secs())
        };
        assert_eq!((bounds("a"), bounds("b"), bounds("anybody")), ((2, 1, 30), (4, 7, 3), (4, 1, 30)));
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        for (text, key, words) in [
            ("[route.a]\nconcurrency = 1", "route.a.upstream", "leads nowhere"),
            (
                "upstream = [{address = '127.0.0.1:1'}, {address = '127.0.0.1:2'}]",
                "upstream[0].name",
                "needs a name",
            ),
            ("upstream = [{name = 'A', address = '127.0.0.1:1'}]", "upstream[0].name", "1-32 of a-z 0-9 -"),
            (
                "[route.r]\nupstream = [{name = 'a', address = '127.0.0.1:1'}, {name = 'a', address = '127.0.0.1:2'}]",
                "route.r.upstream[1].name",
                "called `a`",
            ),
            (
                "upstream = [{address = 'unix:/run/a/mcp.sock', ready = 'unix:/run/a/mcp.sock:/ready'}]",
                "upstream[0].ready",
                "would wake",
            ),
            (
                "upstream = [{address = '127.0.0.1:1', ready = 'unix:/run/{route}/mcp.sock'}]",
                "upstream[0].ready",
                "control socket",
            ),
            ("upstream = '127.0.0.1:1'\n[route.a]\nqueue = 3", "route.a.queue", "concurrency"),
            ("upstream = '127.0.0.1:1'\nqueue_timeout = '3s'", "queue_timeout", "concurrency"),
            ("[health]\nejection = '10m'", "health.longest_ejection", "not be shorter"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(&format!("{key}: ")) && error.contains(words), "{error}");
        }
        let many: String = (0..65)
            .map(|n| format!("[[upstream]]\nname = 'n{n}'\naddress = '127.0.0.1:{}'\n", n + 1))
            .collect();
        assert!(refused(&many).contains("at most 64"));
        assert!(
            load("upstream = [{address = 'unix:/run/{route}/mcp.sock', ready = 'unix:/run/control.sock'}]")
                .is_ok()
        );
    }

    #[test]
    fn the_token_of_an_upstream_is_read_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let text =
            format!("upstream = [{{address = 'https://host/mcp', token_file = '{}'}}]", path.display());
        assert!(refused(&text).starts_with("upstream[0].token_file: "), "there is none");
        for (token, mode, right) in
            [("s3cret\n", 0o600, true), ("s3cret", 0o644, false), ("s3 cret", 0o600, false)]
        {
            fs::write(&path, token).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match load(&text) {
                Ok(table) => {
                    let value = table.common[0].authorization.clone().unwrap();
                    assert_eq!(value, "Bearer s3cret");
                    assert!(right && !format!("{value:?}").contains("s3cret"));
                }
                Err(error) => assert!(!right && !error.contains("s3"), "{error}"),
            }
        }
    }
}
