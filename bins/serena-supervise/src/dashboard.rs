//! How Serena's language server is doing: from Serena's own log lines, or from its dashboard.
//!
//! Serena serves MCP seconds to minutes before its language server can answer, and also if that never starts. It says
//! so in its log: `init_project_services` is the task that starts the language servers of a project, at start and at
//! each `activate_project`. The dashboard, where it is not switched off, remembers the last task only: once a client has
//! called a tool it cannot tell any more how that one ended. So a line of the log is worth more than an answer.
//!
//! The dashboard's port is in a line of the log, and nowhere else: it is 24282 or one of the next, whichever was free.
//! It need not be true: two Serenas that start at once find the same port free, both write it, and one serves there.
//! So the caller asks only a port on which the child's own process tree listens.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Limited};
use mcp_daemon::addr::Upstream;
use mcp_daemon::client::{Client, ClientOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

/// The task that starts a project's language servers; its name has a number before it.
const TASK: &str = ":init_project_services";
/// How long the dashboard may take for one answer; it shares an interpreter with whatever Serena does.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Longest answer in bytes; one task has 130.
const MAX_ANSWER: usize = 64 * 1024;
/// Serena takes a task off its queue a moment before it is the one that runs.
const BETWEEN_QUEUE_AND_RUN: Duration = Duration::from_millis(20);
/// Characters of the reason that are repeated to a person.
const MAX_REASON: usize = 200;

/// How the language server is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Level {
    /// It did not start, for this reason; everything but the tools for symbols works.
    Failed(String),
    /// Calls of all tools are answered.
    Ready,
    /// Calls wait for it.
    Starting,
    /// Nobody tells: no project, no dashboard, or a tool has been called since. Counts as ready.
    Unknown,
}

/// What a line of Serena's log says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// The port where the dashboard is, if it is Serena's.
    Dashboard(u16),
    /// From now on the language server is in this state.
    Level(Level),
}

/// Reads one line of Serena's log, without its end.
///
/// A line counts only with the head that Serena's own logging gives it, so that a file or an answer that is shown in
/// the log and holds such words means nothing.
pub fn told_by(line: &str) -> Option<Told> {
    // LEVEL DATE TIME [THREAD] MODULE:FUNCTION:LINE - MESSAGE
    let (level, rest) = line.split_once(' ')?;
    let (head, message) = rest.split_once(" - ")?;
    let (thread, place) = head.split_once(" [")?.1.rsplit_once("] ")?;
    let module = place.split(':').next()?;
    match (level, module) {
        ("INFO", "serena.agent") if message.starts_with("Serena web dashboard started at ") => {
            port(message).map(Told::Dashboard)
        }
        ("INFO", "serena.task_executor") => {
            let task = message.strip_prefix("Scheduling ");
            if task.is_some_and(is_task) {
                return Some(Told::Level(Level::Starting));
            }
            let (task, _) = message.split_once(" completed in ")?;
            (is_task(task) && thread == task).then_some(Told::Level(Level::Ready))
        }
        // Before the task fails it is said which language server did, and that line is the one with the reason.
        ("ERROR", "serena.ls_manager") => {
            let why = message.strip_prefix("Error starting language server ")?;
            Some(failed(why.strip_prefix("for language ").unwrap_or(why)))
        }
        ("ERROR", "serena.task_executor") => {
            let (task, why) = message.strip_prefix("Error during execution of ")?.split_once(": ")?;
            (is_task(task) && !why.starts_with("Failed to start ")).then(|| failed(why))
        }
        _ => None,
    }
}

fn failed(why: &str) -> Told {
    // What follows such a colon is on the next line.
    let why = why.trim_end_matches(':').chars().map(|c| if c.is_control() { ' ' } else { c });
    Told::Level(Level::Failed(why.take(MAX_REASON).collect()))
}

/// The port of the dashboard, if this is the line that tells it.
pub fn port_in(line: &str) -> Option<u16> {
    match told_by(line)? {
        Told::Dashboard(port) => Some(port),
        Told::Level(_) => None,
    }
}

/// Asks the dashboard at `port` of 127.0.0.1, which the caller has found to belong to Serena.
pub async fn language_server(port: u16) -> Level {
    for last_try in [false, true] {
        // In this order: a task that ends in between is the last one then.
        let Some(queue) = get::<Queue>(port, "/queued_task_executions").await else { return Level::Unknown };
        if queue.queued_executions.iter().any(|task| is_task(&task.name)) {
            return Level::Starting;
        }
        let Some(last) = get::<Last>(port, "/last_execution").await else { return Level::Unknown };
        match last.last_execution {
            Some(task) if is_task(&task.name) && task.finished_successfully => return Level::Ready,
            Some(task) if is_task(&task.name) => {
                return Level::Failed(format!("{} failed; Serena's log has the reason", task.name));
            }
            Some(_) => return Level::Unknown,
            None if last_try => return Level::Unknown,
            None => sleep(BETWEEN_QUEUE_AND_RUN).await,
        }
    }
    Level::Unknown
}

/// `/queued_task_executions`: the task that runs and those that wait.
#[derive(Deserialize)]
struct Queue {
    queued_executions: Vec<Task>,
}

/// `/last_execution`: the task that ended last.
#[derive(Deserialize)]
struct Last {
    last_execution: Option<Task>,
}

#[derive(Deserialize)]
struct Task {
    name: String,
    finished_successfully: bool,
}

fn is_task(name: &str) -> bool {
    let number = name.strip_suffix(TASK).and_then(|rest| rest.strip_prefix("Task-"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// `... http://HOST:PORT/dashboard/index.html`, with whatever host Serena was told.
fn port(message: &str) -> Option<u16> {
    let url = message.rsplit_once(" http://")?.1;
    let authority = url.strip_suffix("/dashboard/index.html")?;
    authority.rsplit_once(':')?.1.parse().ok().filter(|port| *port != 0)
}

async fn get<T: DeserializeOwned>(port: u16, path: &str) -> Option<T> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let to = format!("http://{target}{path}").parse::<Upstream>().ok()?.endpoint(None).ok()?;
    let mut request = Request::new(Bytes::new());
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let client = Client::new(ClientOptions { max_idle: 0, ..ClientOptions::default() });
    let asked = async {
        let answer = client.send_on_new_connection(&to, request).await.ok()?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    };
    timeout(ANSWER_LIMIT, asked).await.ok()?
}

#[cfg(test)]
mod tests;
