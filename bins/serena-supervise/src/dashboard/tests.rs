use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const RUNS: &str = r#"{"queued_executions":[{"finished_successfully":false,"is_running":true,"logged":true,"name":"Task-1:init_project_services","task_id":140355351224656}],"status":"success"}"#;
const IDLE: &str = r#"{"queued_executions":[],"status":"success"}"#;
const NEVER: &str = r#"{"last_execution":null,"status":"success"}"#;
const DONE: &str = r#"{"last_execution":{"finished_successfully":true,"is_running":false,"logged":true,"name":"Task-1:init_project_services","task_id":139829263087120},"status":"success"}"#;
const FAILED: &str = r#"{"last_execution":{"finished_successfully":false,"is_running":false,"logged":true,"name":"Task-1:init_project_services","task_id":139735946013968},"status":"success"}"#;
const OTHER: &str = r#"{"last_execution":{"finished_successfully":true,"is_running":false,"logged":true,"name":"Task-2:FindSymbolTool","task_id":1},"status":"success"}"#;

/// What Serena 2.1.0 and 1.7.0 wrote, started with and without a language server that works.
const LOG: &[(&str, Option<Told>)] = &[
    (
        "INFO  2026-11-21 12:03:47,620 [MainThread] serena.task_executor:issue_task:219 - Scheduling Task-1:init_project_services",
        Some(Told::Level(Level::Starting)),
    ),
    (
        "INFO  2026-11-21 12:03:47,635 [MainThread] serena.agent:__init__:744 - Serena web dashboard started at http://127.0.0.1:24282/dashboard/index.html",
        Some(Told::Dashboard(24282)),
    ),
    (
        "INFO  2026-11-21 12:05:04,919 [MainThread] serena.agent:__init__:717 - Serena web dashboard started at http://127.0.0.1:24283/dashboard/index.html",
        Some(Told::Dashboard(24283)),
    ),
    (
        "INFO  2026-11-21 12:03:47,634 [MainThread] serena.dashboard:run_in_thread:868 - Starting dashboard (listen_address=127.0.0.1, port=24282)",
        None,
    ),
    (
        "INFO  2026-11-21 12:03:47,641 [SerenaAgentTaskExecutor] serena.task_executor:_process_task_queue:141 - Starting execution of Task-1:init_project_services",
        None,
    ),
    (
        "INFO  2026-11-21 12:03:47,642 [Task-1:init_project_services] serena.task_executor:start:329 - Task-1:init_project_services starting ...",
        None,
    ),
    (
        "INFO  2026-11-21 12:03:48,711 [Task-1:init_project_services] serena.lsp.lsp_backend:stop:336 - Language server initialization completed in 1.069 seconds",
        None,
    ),
    (
        "INFO  2026-11-21 12:03:48,711 [Task-1:init_project_services] serena.task_executor:stop:336 - Task-1:init_project_services completed in 1.069 seconds",
        Some(Told::Level(Level::Ready)),
    ),
    (
        "INFO  2026-11-21 12:05:06,162 [Task-1:init_project_services] serena.task_executor:stop:336 - Task-1:init_project_services completed in 1.250 seconds",
        Some(Told::Level(Level::Ready)),
    ),
    (
        "INFO  2026-11-21 12:05:30,999 [Task-2:FindSymbolTool] serena.task_executor:stop:336 - Task-2:FindSymbolTool completed in 0.992 seconds",
        None,
    ),
    (
        "ERROR 2026-11-21 12:10:08,670 [StartLS:python] sensai.util.logging:__exit__:342 - Language server startup (ls_id=python) failed after 0.159 seconds",
        None,
    ),
    (
        "ERROR 2026-11-21 12:10:08,690 [Task-1:init_project_services] serena.task_executor:__exit__:342 - Task-1:init_project_services failed after 0.179 seconds",
        None,
    ),
    (
        "ERROR 2026-11-21 12:10:08,690 [Task-1:init_project_services] serena.task_executor:run_task:70 - Error during execution of Task-1:init_project_services: Failed to start 1 language server(s):",
        None,
    ),
    ("python: Request timed out (timeout=235)", None),
    (
        "serena.ls_manager.LanguageServerManagerInitialisationError: Failed to start 1 language server(s):",
        None,
    ),
    ("INFO:     127.0.0.1:37418 - \"POST /mcp HTTP/1.1\" 404 Not Found", None),
    ("", None),
];

#[test]
fn what_serena_wrote_is_understood() {
    for (line, told) in LOG {
        assert_eq!(told_by(line), *told, "{line}");
    }
    assert_eq!(port_in(LOG[1].0), Some(24282));
    assert_eq!(port_in(LOG[0].0), None);
}

#[test]
fn a_failure_is_told_with_its_reason() {
    for (line, reason) in [
        (
            "ERROR 2026-11-21 12:10:08,670 [StartLS:python] serena.ls_manager:_start_language_server:133 - Error starting language server python: Error processing request initialize with params:",
            "python: Error processing request initialize with params",
        ),
        (
            "ERROR 2026-11-21 12:14:06,207 [StartLS:python] serena.ls_manager:_start_language_server:126 - Error starting language server for language python: Request timed out (timeout=235)",
            "python: Request timed out (timeout=235)",
        ),
        (
            "ERROR 2026-11-21 12:10:08,690 [Task-3:init_project_services] serena.task_executor:run_task:70 - Error during execution of Task-3:init_project_services: no such folder",
            "no such folder",
        ),
    ] {
        assert_eq!(told_by(line), Some(Told::Level(Level::Failed(reason.into()))));
    }
}

#[test]
fn words_that_are_only_quoted_mean_nothing() {
    for line in [
        "Serena web dashboard started at http://127.0.0.1:80/dashboard/index.html",
        "INFO  2026-11-21 12:05:30,996 [Task-2:ReadFileTool] serena.tools.tools_base:task:410 - Result: Serena web dashboard started at http://127.0.0.1:80/dashboard/index.html",
        "INFO  2026-11-21 12:05:30,996 [Task-2:X] serena.tools.tools_base:task:410 - Result: a - Task-1:init_project_services completed in 1 seconds",
        "INFO  2026-11-21 12:05:30,996 [MainThread] serena.agent:__init__:1 - Serena web dashboard started at http://127.0.0.1:99999/dashboard/index.html",
        "INFO  2026-11-21 12:05:30,996 [MainThread] serena.agent:__init__:1 - Serena web dashboard started at http://127.0.0.1:0/dashboard/index.html",
        "INFO  2026-11-21 12:05:30,996 [MainThread] serena.agent:__init__:1 - Serena web dashboard started at http://127.0.0.1:80/other",
    ] {
        assert_eq!(told_by(line), None, "{line}");
    }
}

/// A dashboard: answers each path with its text, and counts the questions.
struct Dashboard {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Dashboard {
    #[allow(clippy::disallowed_methods, reason = "a test has no life; the task ends with its dashboard")]
    async fn start(queue: &'static str, last: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut last = last.iter().cycle();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 1024];
                let length = stream.read(&mut bytes).await.unwrap();
                let line = String::from_utf8_lossy(&bytes[..length]).lines().next().unwrap().to_owned();
                let body = match line.as_str() {
                    "GET /queued_task_executions HTTP/1.1" => queue,
                    "GET /last_execution HTTP/1.1" => last.next().unwrap(),
                    other => panic!("asked {other}"),
                };
                kept.lock().unwrap().push(line);
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        Dashboard { port, asked, task }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn what_serena_answers_is_understood() {
    let failed = Level::Failed("Task-1:init_project_services failed; Serena's log has the reason".into());
    for (queue, last, level, questions) in [
        (RUNS, &[NEVER][..], Level::Starting, 1),
        (IDLE, &[DONE], Level::Ready, 2),
        (IDLE, &[FAILED], failed, 2),
        (IDLE, &[OTHER], Level::Unknown, 2),
        // Between the queue and its start a task is in neither.
        (IDLE, &[NEVER, DONE], Level::Ready, 4),
        (IDLE, &[NEVER], Level::Unknown, 4),
        ("<html>", &[DONE], Level::Unknown, 1),
        (r#"{"status":"error","message":"no"}"#, &[DONE], Level::Unknown, 1),
    ] {
        let dashboard = Dashboard::start(queue, last).await;
        assert_eq!(language_server(dashboard.port).await, level, "{queue} {last:?}");
        assert_eq!(dashboard.asked(), questions, "{queue} {last:?}");
    }
}

#[tokio::test]
async fn no_dashboard_is_no_failure() {
    let port = crate::ports::free_port().unwrap();
    assert_eq!(language_server(port).await, Level::Unknown);
}
