//! `serve`: the daemon.

use std::sync::Arc;
use std::time::Duration;

use authd::audit::Audit;
use authd::config::{Config, DAEMON, check};
use authd::credentials::jwt;
use authd::credentials::last_use::LastUse;
use authd::front;
use authd::gate::Gate;
use authd::ops::Ops;
use authd::prepared::Prepared;
use authd::reload::{Looks, Reload};
use mcp_daemon::config::ConfigProblem;
use mcp_daemon::control;
use mcp_daemon::exit::{Exit, Failure};
use mcp_daemon::heap;
use mcp_daemon::life::{self, Life};
use mcp_daemon::serve::{BindOptions, Listener};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Done;
use crate::args::{Flags, Serve};

/// Longest wait for the last lines of the audit to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Serves until it is told to stop.
pub fn run(args: Serve) -> Done {
    mcp_daemon::log::init(DAEMON);
    mcp_daemon::fds::raise_limit();
    let (config_file, ready_fd) = (args.config.clone(), args.ready_fd);
    let flags = Flags::from(&args);
    let wrong = |problem: ConfigProblem| Failure::new(Exit::Config, &problem);
    let config = flags.over(Config::load(config_file.as_deref()).map_err(wrong)?);
    let looks = Looks::at(&config);
    let prepared = Prepared::new(config).map_err(|problem| wrong(problem.within(config_file.as_deref())))?;
    let audit = Audit::open(&prepared.config.audit)
        .map_err(|problem| wrong(problem.within(config_file.as_deref())))?;
    let runtime = life::runtime().map_err(|error| Failure::new(Exit::Bug, &error))?;
    let served = runtime.block_on(async move {
        let config = prepared.config.clone();
        let life =
            Life::with_signals(config.grace.duration()).map_err(|error| Failure::new(Exit::Bug, &error))?;
        let mut listeners = Vec::new();
        for listen in config.listeners() {
            let bound = Listener::bind(&listen, BindOptions::default());
            listeners.extend(bound.map_err(|error| Failure::unavailable(&error))?);
        }
        for listener in &listeners {
            // A socket that was passed on shows only now what it is.
            check::in_the_clear(&config, &listener.local()).map_err(wrong)?;
        }
        let names: Vec<String> = listeners.iter().map(|listener| listener.local().to_string()).collect();
        let gate = Gate::new(prepared, audit.clone(), life.clone());
        jwt::fetch::keep_fresh(gate.credentials.clone(), config.state_dir.clone(), &life);
        let reload = Arc::new(Reload {
            gate: gate.clone(),
            config_file,
            first: config.clone(),
            flags: Box::new(move |config| flags.over(config)),
            turn: Mutex::default(),
        });
        let ops = Arc::new(Ops {
            gate: gate.clone(),
            listeners: names.clone(),
            reload: reload.clone(),
            started: Instant::now(),
        });
        let first = names.first().map(String::as_str).unwrap_or_default();
        let control = control::spawn_named(DAEMON, first, ops.clone(), life.clone())
            .map_err(|error| Failure::unavailable(&error))?;
        if let Some(observe) = &config.observe {
            control::spawn_observe(observe, ops.clone(), life.clone())
                .map_err(|error| Failure::unavailable(&error))?;
        }
        for listener in listeners {
            life.spawn(front::run(gate.clone(), listener));
        }
        gate.report();
        life.spawn(gate.clone().ask_again());
        // What is done during the drain is taken down as well.
        life.last().spawn(audit.clone().run(life.last()));
        let last_use = LastUse::open(&config, &gate.credentials);
        if let Some(last_use) = last_use.clone() {
            life.spawn(last_use.run(gate.credentials.clone(), life.clone()));
        }
        life.spawn(reload.clone().follow_credentials(looks.clone()));
        life.spawn(reload.clone().follow_certificates(looks.clone()));
        life.spawn(reload.follow_upstreams(looks));
        life.spawn(control::reload_on_signal(ops, life.clone()));
        log::info!(listen = names.join(" "), control:% = control.display(); "serving");
        life.ready(&format!("serving on {}", names.join(" ")), ready_fd);
        // Many tokens leave a heap ten times as large as what is kept of them, and code that is not needed again.
        heap::give_back();
        life.draining().await;
        log::info!("draining");
        let cut = life.finish().await;
        if let Some(Err(error)) = last_use.map(|last_use| last_use.save(&gate.credentials)) {
            log::warn!(error:% = error; "the last use of tokens is lost");
        }
        match timeout(LAST_LINES, audit.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!(error:% = error; "the last lines of the audit are lost"),
            Err(_elapsed) => log::error!("the last lines of the audit are lost, nobody takes them"),
        }
        log::info!(cut; "stopped");
        Ok(())
    });
    // A write that nobody takes would keep us for ever.
    runtime.shutdown_background();
    served
}
