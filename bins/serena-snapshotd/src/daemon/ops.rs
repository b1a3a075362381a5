//! What the control socket answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, StatusCode, Uri};
use mcp_daemon::control::{Acting, Controlled};
use mcp_daemon::exit::{Exit, Failure, chain};
use mcp_daemon::life::Life;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Source;
use super::jobs::{Answer, Asked, Job};
use super::metrics::Metrics;
use super::query::{QueryError, Wanted, wanted};
use super::state::State;
use crate::config::Plan;
use crate::engine::Reader;
use crate::report;

/// The daemon, as the control socket sees it.
pub struct Ops {
    /// What the actor says of itself.
    pub state: Arc<State>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Where it is asked.
    pub jobs: mpsc::Sender<Asked>,
    /// For what only reads.
    pub reader: Reader,
    /// What it was started with.
    pub plan: Arc<Plan>,
    /// The same again, at a reload.
    pub source: Source,
    /// Since when it runs.
    pub started: Instant,
    /// Whether it drains.
    pub life: Life,
}

impl Controlled for Ops {
    fn status(&self) -> Value {
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "draining": self.life.is_draining(),
            "enabled": true,
        });
        let mut add = |values: Value| {
            if let (Some(status), Value::Object(values)) = (status.as_object_mut(), values) {
                status.extend(values);
            }
        };
        add(self.plan.to_json());
        add(self.state.to_json());
        status["complaints"] = self.state.complaints().into();
        status
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let complaints = self.state.complaints();
        if complaints.is_empty() { Ok(()) } else { Err(complaints) }
    }

    fn metrics(&self) -> String {
        self.metrics.encode(self.state.now())
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async {
            let done = self.apply().await;
            match &done {
                Ok(changed) => log::info!(changed; "settings reloaded"),
                Err(error) => log::error!(error; "settings not reloaded, nothing has changed"),
            }
            done
        })
    }

    fn act(&self, method: &Method, uri: &Uri) -> Option<Acting<'_>> {
        let wanted = wanted(method, uri)?;
        Some(Box::pin(async move {
            match wanted {
                Ok(Wanted::List) => self.list().await,
                Ok(Wanted::Done(job)) => answer(self.ask(job).await),
                Err(QueryError(line)) => {
                    (StatusCode::BAD_REQUEST, said(&Failure { line, exit: Exit::Usage }))
                }
            }
        }))
    }
}

impl Ops {
    async fn list(&self) -> (StatusCode, Value) {
        let listed = self.reader.list().await;
        answer(listed.map(|rows| report::rows(&rows)).map_err(|error| Failure::from(&error)))
    }

    async fn ask(&self, job: Job) -> Answer {
        let refused = |line: &str| Failure { line: line.to_owned(), exit: Exit::TryAgain };
        let (send, receive) = oneshot::channel();
        match self.jobs.try_send(Asked { job, answer: send }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(refused("too many requests wait already")),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(refused("the daemon is stopping")),
        }
        receive.await.unwrap_or_else(|_| Err(refused("the daemon stopped before this was done")))
    }

    /// Puts in force what can change while we run, and names the rest.
    async fn apply(&self) -> Result<String, String> {
        let plan = (self.source)().map_err(|error| chain(&error))?;
        self.ask(Job::Apply(plan.interval, plan.settings.keep)).await.map_err(|failure| failure.line)?;
        let restart = self.plan.needs_restart(&plan);
        let now = format!("interval {}", plan.interval);
        if restart.is_empty() {
            Ok(now)
        } else {
            Ok(format!("{now}; needs a restart: {}", restart.join(", ")))
        }
    }
}

fn answer(answer: Answer) -> (StatusCode, Value) {
    match answer {
        Ok(value) => (StatusCode::OK, value),
        Err(failure) => {
            let status = match failure.exit {
                Exit::Bug => StatusCode::INTERNAL_SERVER_ERROR,
                Exit::Config | Exit::Usage => StatusCode::UNPROCESSABLE_ENTITY,
                Exit::TryAgain => StatusCode::SERVICE_UNAVAILABLE,
                Exit::Unavailable => StatusCode::CONFLICT,
            };
            (status, said(&failure))
        }
    }
}

/// A failure, as whoever asks reads it.
fn said(failure: &Failure) -> Value {
    json!({ "error": failure.line, "exit": failure.exit as u8 })
}

/// What the control socket answers while snapshots are off.
pub struct Off {
    /// Why they are.
    pub why: String,
    /// Whether it drains.
    pub life: Life,
}

impl Controlled for Off {
    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "draining": self.life.is_draining(),
            "enabled": false, "why": self.why,
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        Ok(())
    }

    fn metrics(&self) -> String {
        Metrics::new().encode(super::metrics::Now::default())
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send + '_>> {
        Box::pin(async { Err("snapshots are off; turning them on needs a restart".to_owned()) })
    }
}
