//! A dashboard like Serena's: its port is only in the log, and it tells how far the language server is.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use super::{
    FakeBackend,
    journal::Writer,
    plain::{Page, listen},
};

/// The name of Serena's first task, whose end means that the language server is ready.
const TASK: &str = "Task-1:init_project_services";

/// Serves it on a port of its own, and logs where in Serena's words.
pub(crate) async fn serve(fake: &FakeBackend, journal: Arc<Writer>) -> io::Result<()> {
    let words = fake.dashboard.clone();
    // Either question alone goes through the words, and asking both is one step.
    let (lasts, queues) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let said = move |poll: usize| words[poll.min(words.len() - 1)].clone();
    let port = listen(0, move |method, path| {
        journal.write("dashboard", json!({ "http": method, "path": path }));
        let (mine, other, of): (_, _, fn(&str) -> Value) = match path {
            "/last_execution" => (&lasts, &queues, last),
            "/queued_task_executions" => (&queues, &lasts, queued),
            "/heartbeat" => return Page::json(json!({ "status": "alive" })),
            _ => return Page::missing(),
        };
        let asked = mine.fetch_add(1, Ordering::Relaxed) + 1;
        answer(&said(asked.max(other.load(Ordering::Relaxed)) - 1), of)
    })
    .await?;
    let port = fake.dashboard_says.unwrap_or(port);
    eprintln!(
        "INFO  2026-11-21 12:03:15,875 [MainThread] serena.agent:__init__:744 - Serena web dashboard started at \
         http://127.0.0.1:{port}/dashboard/index.html"
    );
    Ok(())
}

fn answer(word: &str, of: impl Fn(&str) -> Value) -> Page {
    match word {
        "garbage" => Page { status: 200, kind: "text/html", body: "<html>not what you asked</html>".into() },
        "hang" => Page::silence(),
        _ => Page::json(of(word)),
    }
}

fn last(word: &str) -> Value {
    let task = match word {
        "ready" => task(false, true),
        "failed" => task(false, false),
        // Starting, or stuck for good: nothing has been executed yet.
        _ => Value::Null,
    };
    json!({ "last_execution": task, "status": "success" })
}

fn queued(word: &str) -> Value {
    let queued = if matches!(word, "ready" | "failed") { vec![] } else { vec![task(true, false)] };
    json!({ "queued_executions": queued, "status": "success" })
}

fn task(is_running: bool, finished_successfully: bool) -> Value {
    json!({
        "task_id": 140_355_068_232_080_u64, "is_running": is_running, "name": TASK,
        "finished_successfully": finished_successfully, "logged": true,
    })
}
