//! What each subcommand does.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use mcp_daemon::control;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::files;
use mcp_daemon::life::{self, Life};
use mcp_daemon::serve::{BindOptions, Listener, ServeLimits, serve};
use mcp_daemon::tree::{self, Swept};
use sessiond::back::exec::{ExecBack, ExecOptions};
use sessiond::back::{Back, http::HttpBack};
use sessiond::config::{Config, Flags};
use sessiond::doctor;
use sessiond::front;
use sessiond::ops::Ops;
use sessiond::serena;
use sessiond::session::engine::{Caller, Engine, OwnHeaders};
use sessiond::session::store::{Found, Store, StoreError};
use tokio::time::Instant;

use crate::args::{Args, Command, Doctor, Serena, Stdio};
use crate::render;

const DAEMON: &str = "mcp-sessiond";
/// Longest wait for what was left behind, between SIGTERM and SIGKILL: it was told to end when its parent died, and
/// clients wait for us to serve.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(1);

type Done = Result<(), Failure>;

/// Does what the command line says.
pub fn run(args: Args, command: Option<Vec<OsString>>) -> Done {
    if command.is_some() && matches!(args.command, Some(Command::Sessions(_) | Command::Status(_))) {
        return Err(Failure::usage("nothing can follow `--` here"));
    }
    let command = command.map(texts).transpose()?;
    match args.command {
        None => serve_http(Serving {
            config_file: args.config,
            flags: Flags {
                listen: args.listen,
                upstream: args.upstream,
                exec: command,
                state_dir: args.state_dir,
                observe: args.observe,
                token_file: args.token_file,
                headers: args.header,
            },
            ready_fd: args.ready_fd,
            welcome: None,
        }),
        Some(Command::Check(check)) => {
            let flags = Flags {
                listen: check.listen,
                upstream: check.upstream,
                exec: command,
                state_dir: check.state_dir,
                observe: check.observe,
                token_file: check.token_file,
                headers: check.header,
            };
            if check.without_files {
                let alone = flags.settings_alone(check.config.as_deref());
                alone.map_err(|problem| Failure::new(Exit::Config, &problem))?;
            } else {
                settings(&flags, check.config.as_deref())?;
            }
            match &check.config {
                Some(file) => println!("{}: right", file.display()),
                None => println!("right"),
            }
            Ok(())
        }
        Some(Command::Doctor(doctor)) => examine(doctor, command),
        Some(Command::Serena(args)) => serve_serena(args, command.unwrap_or_default()),
        Some(Command::Sessions(sessions)) => {
            let control = control::socket(sessions.control, DAEMON)?;
            match sessions.delete {
                Some(name) => {
                    let deleted = control::ask_json(&control, "DELETE", &format!("/sessions/{name}"))?;
                    render::show(&deleted, sessions.json, render::deleted);
                }
                None => render::show(
                    &control::ask_json(&control, "GET", "/sessions")?,
                    sessions.json,
                    render::sessions,
                ),
            }
            Ok(())
        }
        Some(Command::Status(status)) => {
            render::show(
                &control::ask_json(&control::socket(status.control, DAEMON)?, "GET", "/status")?,
                status.json,
                render::status,
            );
            Ok(())
        }
        Some(Command::Stdio(args)) => serve_stdio(args, command),
    }
}

fn texts(command: Vec<OsString>) -> Result<Vec<String>, Failure> {
    if command.is_empty() {
        return Err(Failure::usage("a command must follow `--`, like: -- serena start-mcp-server"));
    }
    mcp_daemon::args::texts(command)
}

fn settings(flags: &Flags, file: Option<&Path>) -> Result<(Config, OwnHeaders), Failure> {
    flags.settings(file).map_err(|problem| Failure::new(Exit::Config, &problem))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))
}

/// What the plain command and `serena` have in common.
struct Serving {
    config_file: Option<PathBuf>,
    flags: Flags,
    ready_fd: Option<i32>,
    /// Printed once it serves, with the URL.
    welcome: Option<fn(&str) -> String>,
}

fn serve_serena(args: Serena, more: Vec<String>) -> Done {
    let project = match &args.project {
        Some(project) => std::path::absolute(project),
        None => std::env::current_dir(),
    };
    let project = project.map_err(|error| Failure::new(Exit::Usage, &error))?;
    if !project.is_dir() {
        return Err(Failure::usage(format!("--project: {} is not a directory", project.display())));
    }
    let command = serena::command(std::env::var_os("PATH").as_deref(), &project, &more)
        .map_err(|error| Failure::new(Exit::Unavailable, &error))?;
    serve_http(Serving {
        config_file: None,
        flags: Flags {
            listen: args.listen.into_iter().collect(),
            exec: Some(command),
            state_dir: args.state_dir,
            ..Flags::default()
        },
        ready_fd: args.ready_fd,
        welcome: Some(serena::welcome),
    })
}

fn serve_http(serving: Serving) -> Done {
    let Serving { config_file, flags, ready_fd, welcome } = serving;
    mcp_daemon::log::init(DAEMON);
    let (config, own_headers) = settings(&flags, config_file.as_deref())?;
    let (store, found, owner) = open_store(&config)?;
    runtime()?.block_on(async move {
        let life = Life::with_signals(config.grace.duration()).map_err(|error| Failure::new(Exit::Bug, &error))?;
        // Whoever holds the store's lock is its only owner: what still runs in its name was left by one that was killed.
        let Swept { ended, left } =
            tree::sweep(std::slice::from_ref(&owner), config.process.stop_grace.duration().min(LEFTOVERS_GRACE)).await;
        if !ended.is_empty() {
            log::warn!(pids:? = ended; "ended the server processes that an earlier mcp-sessiond left behind");
        }
        if !left.is_empty() {
            log::error!(pids:? = left; "server processes that an earlier mcp-sessiond left behind outlive SIGKILL");
        }
        let mut listeners = Vec::new();
        for listener in config.listeners() {
            let allow_uids = uids(&listener.users)?;
            let options = BindOptions { trusted: listener.trusted, allow_uids, ..BindOptions::default() };
            listeners.extend(Listener::bind(&listener.address, options).map_err(|error| Failure::new(Exit::Unavailable, &error))?);
        }
        let back = back(&config, &life, Some(owner))?;
        let limits = ServeLimits {
            connections: config.limits.connections.get(),
            header_timeout: config.limits.head_timeout.duration(),
            max_header_bytes: config.limits.head.bytes(),
            // A client may take its session for lost when it finds its connection closed.
            quiet: None,
        };
        let observe = config.observe.clone();
        let engine = Engine::new(config, own_headers, back, store, found, life.clone());
        let names: Vec<String> = listeners.iter().map(|listener| listener.local().to_string()).collect();
        let ops = Arc::new(Ops { engine: engine.clone(), listeners: names.clone(), config_file, flags, started: Instant::now() });
        let first = names.first().map(String::as_str).unwrap_or_default();
        let control = control::spawn_named(DAEMON, first, ops.clone(), life.clone()).map_err(|error| Failure::unavailable(&error))?;
        if let Some(observe) = observe {
            control::spawn_observe(&observe, ops.clone(), life.clone()).map_err(|error| Failure::new(Exit::Unavailable, &error))?;
        }
        for listener in listeners {
            let engine = engine.clone();
            life.spawn(serve(listener, limits, life.clone(), move |request, peer| front::http::answer(engine.clone(), request, peer)));
        }
        life.spawn(engine.clone().sweep());
        life.spawn(control::reload_on_signal(ops, life.clone()));
        log::info!(listen = names.join(" "), server = engine.back.to_string(), control:% = control.display(); "serving");
        if let Some(welcome) = welcome {
            let url = names.first().map(|name| format!("http://{name}{}", engine.config().path)).unwrap_or_default();
            // A closed stdout is no reason not to serve.
            let _ = std::io::stdout().write_all(welcome(&url).as_bytes());
        }
        life.ready(&format!("serving on {}", names.join(" ")), ready_fd);
        life.draining().await;
        log::info!(requests = engine.parking.requests(); "draining");
        let cut = life.finish().await;
        if let Back::Exec(back) = &engine.back {
            back.shut_down().await;
        }
        engine.store.settled().wait().await;
        log::info!(cut; "stopped");
        Ok(())
    })
}

/// `owner`: who ends at its next start what a sudden death of ours leaves behind.
fn back(config: &Config, life: &Life, owner: Option<String>) -> Result<Back, Failure> {
    match &config.upstream {
        Some(upstream) => {
            let back = HttpBack::new(upstream.clone())
                .map_err(|error| Failure::config(format!("upstream: {error}")))?;
            Ok(Back::Http(Box::new(back)))
        }
        None => {
            let process = &config.process;
            let mut options = ExecOptions::new(config.exec.iter().map(OsString::from).collect());
            options.idle_timeout = process.idle.duration();
            options.max_processes = process.max.get();
            options.failure_threshold = process.failures.get();
            options.start_timeout = process.start_timeout.duration();
            options.stop_grace = process.stop_grace.duration();
            options.owner = owner;
            Ok(Back::Exec(ExecBack::new(options, life.clone())))
        }
    }
}

/// The directory that was asked for; otherwise one for each first listener, so that two daemons of one user do not meet.
/// Its path, the same at every start, comes along as the owner of what we run.
fn open_store(config: &Config) -> Result<(Store, Found, String), Failure> {
    let mut directory = files::state_dir(config.state_dir.as_deref(), DAEMON)
        .map_err(|error| Failure::new(Exit::Config, &error))?;
    if config.state_dir.is_none() {
        let first = config.listeners().first().map(|listener| listener.address.to_string());
        directory.push(files::name_of(first.as_deref().unwrap_or_default()));
    }
    let (store, found) = Store::open(&directory).map_err(|error| {
        let exit = if matches!(error, StoreError::Locked(_)) { Exit::Unavailable } else { Exit::Config };
        Failure::new(exit, &error)
    })?;
    let owner = directory.canonicalize().unwrap_or(directory);
    Ok((store, found, owner.to_string_lossy().into_owned()))
}

fn uids(users: &[String]) -> Result<Vec<u32>, Failure> {
    let uid = |name: &String| match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(Failure::config(format!("listener.users: there is no user `{name}`"))),
    };
    users.iter().map(uid).collect()
}

fn serve_stdio(args: Stdio, command: Option<Vec<String>>) -> Done {
    mcp_daemon::log::init(DAEMON);
    let flags = Flags {
        upstream: args.upstream,
        exec: command,
        token_file: args.token_file,
        headers: args.header,
        ..Flags::default()
    };
    let (mut config, own_headers) = settings(&flags, args.config.as_deref())?;
    config.grace = args.grace.unwrap_or(config.grace);
    let runtime = runtime()?;
    let done = runtime.block_on(async move {
        let life =
            Life::with_signals(config.grace.duration()).map_err(|error| Failure::new(Exit::Bug, &error))?;
        let back = back(&config, &life, None)?;
        let grace = config.grace.duration();
        let engine =
            Engine::new(config, own_headers, back, Store::in_memory(), Found::default(), life.clone());
        let caller = Caller { subject: Arc::default(), route: None };
        let handler = engine.clone();
        let call = move |request: Request<Bytes>| {
            let (engine, caller) = (handler.clone(), caller.clone());
            let (head, body) = request.into_parts();
            async move { engine.handle(caller, head.method, head.headers, body).await }
        };
        front::stdio::run(tokio::io::stdin(), tokio::io::stdout(), life.clone(), grace, call).await;
        life.drain();
        life.finish().await;
        if let Back::Exec(back) = &engine.back {
            back.shut_down().await;
        }
        Ok(())
    });
    // tokio reads stdin on a thread that cannot be interrupted: do not wait for one more line.
    runtime.shutdown_background();
    done
}

fn examine(args: Doctor, command: Option<Vec<String>>) -> Done {
    let flags = Flags {
        upstream: args.upstream,
        exec: command,
        token_file: args.token_file,
        headers: args.header,
        ..Flags::default()
    };
    // There is no file: what is wrong stands on the command line.
    let (config, own_headers) =
        flags.settings(None).map_err(|problem| Failure::new(Exit::Usage, &problem))?;
    let healed = runtime()?.block_on(async move {
        let life = Life::new(config.grace.duration());
        let back = back(&config, &life, None)?;
        let healed = doctor::examine(config, own_headers, back, life.clone(), |finding| {
            println!("{finding}");
        })
        .await;
        life.drain();
        life.finish().await;
        Ok::<bool, Failure>(healed)
    })?;
    if healed {
        Ok(())
    } else {
        Err(Failure {
            line: "not healed, see the line that begins with FAIL".into(),
            exit: Exit::Unavailable,
        })
    }
}
