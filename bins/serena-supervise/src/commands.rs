//! What each subcommand does.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mcp_daemon::control;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::files;
use mcp_daemon::life;
use mcp_daemon::terminal::Progress;
use serde_json::Value;
use supervise::config::{Config, ConfigProblem};
use supervise::doctor;
use supervise::fleet::Source;
use supervise::instance::Instance;
use supervise::up::{self, Claim, Surroundings, UpError, Wanted};
use tokio::time::{Instant, sleep};

use crate::args::{Command, Goal, Logs, Run, RunError, Up, Wait};
use crate::render;
use crate::serving::{self, DAEMON, Serving, Told};

/// How often `wait` and `logs --follow` look.
const LOOK: Duration = Duration::from_millis(200);

/// What a subcommand comes to.
pub type Done = Result<ExitCode, Failure>;

/// Does what the command line says.
pub fn run(command: Command, rest: Option<Vec<OsString>>) -> Done {
    let rest = rest.map(mcp_daemon::args::texts).transpose()?;
    match command {
        Command::Check(check) => {
            let config = Config::load(Some(&check.config)).map_err(|problem| wrong(&problem))?;
            config.check().map_err(|problem| wrong(&problem.within(Some(&check.config))))?;
            say(&format!("{}: right", check.config.display()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(doctor) => examine(doctor.config, doctor.control),
        Command::Logs(logs) => show_logs(&logs),
        Command::Restart(one) => verb(one.control, one.name.as_str(), "restart"),
        Command::Run(run) => serve_run(run, rest),
        Command::Sleep(one) => verb(one.control, one.name.as_str(), "sleep"),
        Command::Status(status) => {
            let answer = control::ask_json(&control::socket(status.control, DAEMON)?, "GET", "/status")?;
            if status.json {
                say(&format!("{answer:#}"));
            } else {
                say(render::status(&answer).trim_end());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Stop(one) => verb(one.control, one.name.as_str(), "stop"),
        Command::Up(up) => serve_up(up, rest.unwrap_or_default()),
        Command::Wait(wait) => wait_for(&wait),
        Command::Wake(one) => verb(one.control, one.name.as_str(), "wake"),
    }
}

fn wrong(problem: &ConfigProblem) -> Failure {
    Failure::new(Exit::Config, problem)
}

fn serve_run(run: Run, command: Option<Vec<String>>) -> Done {
    let ready_fd = run.ready_fd;
    let settings = move || run.settings(command.as_deref());
    let config = settings().map_err(|error| match error {
        RunError::Config(problem) => wrong(&problem),
        RunError::Usage(line) => Failure::usage(line),
    })?;
    let source: Source = Box::new(move || {
        settings().map_err(|error| match error {
            RunError::Config(problem) => problem,
            // It was right at the start and has not changed since.
            RunError::Usage(line) => {
                ConfigProblem::Key { file: None, key: "command line".into(), what: line }
            }
        })
    });
    serving::serve(Serving { config, source, name: None, ready_fd, told: None })
}

/// The whole stack, for somebody at a terminal.
fn serve_up(args: Up, more: Vec<String>) -> Done {
    let failed = |error: &UpError| Failure::new(exit_of(error), error);
    let around = Surroundings::of_process(DAEMON).map_err(|error| Failure::new(Exit::Config, &error))?;
    let wanted = Wanted { project: args.project, listen: args.listen, home: args.home, more };
    let mut plan = up::plan(&wanted, &around).map_err(|error| failed(&error))?;
    let claimed = match plan.claim().map_err(|error| failed(&error))? {
        Claim::Ours(claimed) => claimed,
        Claim::Served(url) => {
            say(&format!("{} is served already at {url}", plan.project.display()));
            return Ok(ExitCode::SUCCESS);
        }
    };
    if let Some(holder) = plan.leave_snapshots() {
        say(&format!("snapshots of {} are taken by process {holder} already", plan.home.display()));
    }
    let address = claimed.address;
    let config = plan.config(address);
    let source: Source = {
        let config = config.clone();
        Box::new(move || Ok(config.clone()))
    };
    let began = Instant::now();
    let progress = Mutex::new(Progress::stderr());
    let shown = move |instance: Option<&Instance>| {
        let mut progress = progress.lock().expect("no panic while locked");
        match instance.map(Instance::report) {
            Some(report) => {
                progress.show(&render::step(&report), |_| render::waiting(&report, began.elapsed()));
            }
            None => progress.clear(),
        }
    };
    let shown = Arc::new(shown);
    let told = Told {
        progress: Box::new({
            let shown = shown.clone();
            move |instance| shown(Some(instance))
        }),
        // Without snapshots Serena serves as well, and it is said.
        needed: &[up::SERENA, up::FRONT],
        up: Box::new(move |fleet| {
            shown(None);
            if let Err(error) = claimed.announce() {
                log::warn!(error:% = error; "whoever starts this project again will not be told the URL");
            }
            let complaint = fleet.find(up::SNAPSHOTS).and_then(|snapshots| snapshots.complaint());
            // A closed stdout is no reason not to serve.
            let _ = std::io::stdout().write_all(plan.welcome(address, complaint.as_deref()).as_bytes());
        }),
    };
    // Of the instances' names all of them would take the same.
    let name = Some(address.to_string());
    serving::serve(Serving { config, source, name, ready_fd: args.ready_fd, told: Some(told) })
}

fn exit_of(error: &UpError) -> Exit {
    match error {
        UpError::Listen(_) | UpError::Project { .. } => Exit::Usage,
        UpError::NoHome | UpError::Socket(_) => Exit::Config,
        UpError::Busy { .. } => Exit::TryAgain,
        UpError::Address { .. }
        | UpError::Home { .. }
        | UpError::Lock(_)
        | UpError::NoFront
        | UpError::NoPort(_)
        | UpError::NoSerena => Exit::Unavailable,
    }
}

fn verb(control: Option<PathBuf>, name: &str, verb: &str) -> Done {
    let answer =
        control::ask_json(&control::socket(control, DAEMON)?, "POST", &format!("/instances/{name}/{verb}"))?;
    say(&format!("{name}: {}", answer["state"].as_str().unwrap_or_default()));
    Ok(ExitCode::SUCCESS)
}

/// Looks until the instance is where it should be; says on a terminal what it waits for.
fn wait_for(wait: &Wait) -> Done {
    let control = control::socket(wait.control.clone(), DAEMON)?;
    let path = format!("/instances/{}", wait.name);
    let began = Instant::now();
    let mut progress = Progress::stderr();
    loop {
        let answer = control::ask_json(&control, "GET", &path)?;
        let state = answer["state"].as_str().unwrap_or_default();
        let there = match wait.goal {
            Goal::Ready => matches!(state, "ready" | "degraded"),
            Goal::Stopped => state == "stopped",
        };
        if there {
            progress.clear();
            return Ok(ExitCode::SUCCESS);
        }
        progress.show(&render::step(&answer), |_| render::waiting(&answer, began.elapsed()));
        if began.elapsed() >= wait.timeout.duration() {
            progress.clear();
            let line = format!(
                "{} is not {} within {}: {}",
                wait.name,
                wait.goal,
                wait.timeout,
                render::step(&answer)
            );
            return Err(Failure { line, exit: Exit::TryAgain });
        }
        pause()?;
    }
}

/// Waits a moment between two looks.
fn pause() -> Result<(), Failure> {
    let runtime = life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?;
    runtime.block_on(async { sleep(LOOK).await });
    Ok(())
}

fn show_logs(logs: &Logs) -> Done {
    let control = control::socket(logs.control.clone(), DAEMON)?;
    let names: Vec<String> = match &logs.name {
        Some(name) => vec![name.to_string()],
        None => {
            let all = control::ask_json(&control, "GET", "/instances")?;
            all.as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one["name"].as_str().map(str::to_owned))
                .collect()
        }
    };
    // Whoever asks for one needs no names.
    let tagged = names.len() > 1;
    let mut next: Vec<u64> = vec![0; names.len()];
    let mut first = true;
    loop {
        for (name, next) in names.iter().zip(&mut next) {
            let answer = control::ask_json(&control, "GET", &format!("/instances/{name}/lines/{next}"))?;
            let after = *next;
            *next = answer["next"].as_u64().unwrap_or(after);
            let lines: Vec<&str> =
                answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let old = if first { lines.len().saturating_sub(logs.lines) } else { 0 };
            let wanted = if first { next.saturating_sub(logs.lines as u64) } else { after };
            let missed = next.saturating_sub(lines.len() as u64).saturating_sub(wanted);
            if missed > 0 {
                eprintln!("{DAEMON}: {missed} older lines of {name} are kept no more");
            }
            for line in &lines[old..] {
                let printed = if tagged { say(&format!("[{name}] {line}")) } else { say(line) };
                if !printed {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
        if !logs.follow {
            return Ok(ExitCode::SUCCESS);
        }
        first = false;
        pause()?;
    }
}

/// Prints a line; `false` if nobody reads any more.
fn say(line: &str) -> bool {
    writeln!(std::io::stdout(), "{line}").is_ok()
}

fn examine(file: Option<PathBuf>, control: Option<PathBuf>) -> Done {
    let control = control::socket(control, DAEMON)?;
    let config = Config::load(file.as_deref()).map_err(|problem| wrong(&problem))?;
    let runtime_dir = files::runtime_dir(DAEMON).map_err(|error| Failure::new(Exit::Config, &error))?;
    let running = control::ask_json(&control, "GET", "/status").ok();
    let well = doctor::examine(&config, running.as_ref(), &runtime_dir, |finding| {
        say(&finding);
    })
    .map_err(|problem| wrong(&problem))?;
    if well {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure {
        line: "not everything is well, see the lines that begin with FAIL".into(),
        exit: Exit::Unavailable,
    })
}
