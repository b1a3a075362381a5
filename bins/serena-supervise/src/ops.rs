//! What the control socket answers about the fleet.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode, Uri};
use mcp_daemon::control::{Acting, Controlled, at_once};
use mcp_daemon::exit::chain;
use mcp_daemon::life::Life;
use mcp_daemon::metrics::{self, Counter, EncodeLabelSet, Family, Gauge, Registry};
use mcp_daemon::tree;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::instance::Instance;
use crate::instance::state::{Event, Rest};

/// The fleet, as the control socket sees it.
pub struct Ops {
    /// Whom it speaks for.
    pub fleet: Arc<Fleet>,
    /// For how long.
    pub started: Instant,
    /// Whether it drains.
    pub life: Life,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Named {
    instance: String,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct InState {
    instance: String,
    state: String,
}

impl Controlled for Ops {
    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "draining": self.life.is_draining(),
            "kills_by": tree::mechanism().to_string(),
            "instances": self.reports(),
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let complaints = self.fleet.complaints();
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }

    fn metrics(&self) -> String {
        encode(&self.reports())
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async {
            // A task: whoever asked may go away half-way, and half a reload is none.
            let fleet = self.fleet.clone();
            let task = self.life.spawn(async move { fleet.reload().await });
            let done = match task.await {
                Ok(done) => done.map_err(|error| chain(&error)),
                Err(error) => Err(error.to_string()),
            };
            match &done {
                Ok(changed) => log::info!(changed; "settings reloaded"),
                Err(error) => log::error!(error; "settings not reloaded, nothing has changed"),
            }
            done
        })
    }

    fn act(&self, method: &Method, uri: &Uri) -> Option<Acting<'_>> {
        let (status, value) = self.answer(method, uri.path())?;
        Some(at_once(status, value))
    }
}

impl Ops {
    fn answer(&self, method: &Method, path: &str) -> Option<(StatusCode, Value)> {
        let rest = path.strip_prefix("/instances")?;
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET" | "HEAD", []) => Some((StatusCode::OK, Value::Array(self.reports()))),
            ("GET" | "HEAD", [name]) => Some(self.with(name, |one| (StatusCode::OK, one.report()))),
            ("GET" | "HEAD", [name, "lines", after]) => {
                let after = after.parse().ok()?;
                Some(self.with(name, |one| (StatusCode::OK, lines(one, after))))
            }
            ("POST", [name, verb]) => {
                let event = match *verb {
                    "restart" => Event::Renew,
                    "sleep" => Event::Rest(Rest::Asleep),
                    "stop" => Event::Rest(Rest::Asked),
                    "wake" => Event::Wake,
                    _ => return None,
                };
                Some(self.with(name, |one| {
                    log::info!(instance = one.name.as_str(), verb; "asked at the control socket");
                    one.tell(event);
                    (StatusCode::ACCEPTED, one.report())
                }))
            }
            _ => None,
        }
    }

    fn reports(&self) -> Vec<Value> {
        self.fleet.all().iter().map(|instance| instance.report()).collect()
    }

    fn with(
        &self,
        name: &str,
        answer: impl FnOnce(&Arc<Instance>) -> (StatusCode, Value),
    ) -> (StatusCode, Value) {
        match self.fleet.find(name) {
            Some(instance) => answer(&instance),
            None => {
                let names: Vec<String> = self.fleet.all().iter().map(|one| one.name.to_string()).collect();
                let error = format!("there is no instance `{name}`; there are: {}", names.join(", "));
                (StatusCode::NOT_FOUND, json!({ "error": error }))
            }
        }
    }
}

/// What was printed after line number `after`, and the number to ask for next.
fn lines(instance: &Instance, after: u64) -> Value {
    let (next, lines) = instance.output.since(after);
    json!({ "next": next, "lines": lines })
}

fn encode(reports: &[Value]) -> String {
    let mut registry = Registry::with_prefix("serena_supervise");
    let state = Family::<InState, Gauge>::default();
    registry.register("instance_state", "1 for the state an instance is in", state.clone());
    let mut gauges = Vec::new();
    let mut counters = Vec::new();
    for (name, help, field) in [
        ("starts", "Processes started", "starts"),
        ("failures", "Failures to start, unexpected exits and hangs", "failures"),
    ] {
        let family = Family::<Named, Counter>::default();
        registry.register(name, help, family.clone());
        counters.push((family, field));
    }
    for (name, help, field) in [
        ("connections", "Open connections", "connections"),
        ("held_connections", "Connections that wait for the server", "held"),
        ("memory_bytes", "Memory of the process tree when last measured", "memory_bytes"),
        ("processes", "Processes of the tree when last measured", "processes"),
    ] {
        let family = Family::<Named, Gauge>::default();
        registry.register(name, help, family.clone());
        gauges.push((family, field));
    }
    for report in reports {
        let instance = report["name"].as_str().unwrap_or_default().to_owned();
        let state_now = report["state"].as_str().unwrap_or_default().to_owned();
        state.get_or_create(&InState { instance: instance.clone(), state: state_now }).set(1);
        for (family, field) in &counters {
            let value = report[*field].as_u64().unwrap_or(0);
            family.get_or_create(&Named { instance: instance.clone() }).inc_by(value);
        }
        for (family, field) in &gauges {
            let value = report[*field].as_i64().unwrap_or(0);
            family.get_or_create(&Named { instance: instance.clone() }).set(value);
        }
    }
    metrics::encode(&registry)
}
