//! Which signals mean what: SIGTERM and SIGINT drain, a second one exits at once, SIGHUP reloads.
//!
//! The second one must work in a process that is stuck, so the handler itself exits; what has to be done before that
//! ([`before_exit`]) cannot be done in a handler, and gets a thread that waits for signals alone.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use signal_hook::{SigId, flag};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop, and what the second one exits with.
const STOPS: [(i32, i32); 2] = [(SIGTERM, 143), (SIGINT, 130)];

/// What exits in the handler, until a thread does.
static EXITS: Mutex<Vec<SigId>> = Mutex::new(Vec::new());

/// Has `last` called before the second signal ends the process; for processes that took their [`Signals`], once.
pub(crate) fn before_exit(last: fn()) -> io::Result<()> {
    let mut exits = exits();
    if exits.is_empty() {
        return Ok(());
    }
    // Each of them: two that come at once must not be taken for one.
    let mut heard = SignalsInfo::<WithRawSiginfo>::new(STOPS.map(|(number, _)| number))?;
    std::thread::Builder::new().name("second signal".into()).spawn(move || {
        if let Some(second) = heard.forever().nth(1) {
            last();
            let code = STOPS.iter().find(|(stop, _)| *stop == second.si_signo).map_or(1, |(_, code)| *code);
            std::process::exit(code);
        }
    })?;
    for exit in exits.drain(..) {
        signal_hook::low_level::unregister(exit);
    }
    Ok(())
}

fn exits() -> MutexGuard<'static, Vec<SigId>> {
    EXITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a signal asks for.
pub(crate) enum Asked {
    /// Reread the configuration.
    Reload,
    /// Begin the drain; the name of the signal.
    Stop(&'static str),
}

/// The signals of this process, as events; must be made inside a runtime.
pub(crate) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over. From the second SIGTERM or SIGINT on the handler itself exits the process, with 143
    /// or 130, so that a stuck runtime can be stopped too.
    pub(crate) fn take() -> io::Result<Self> {
        let seen = Arc::new(AtomicBool::new(false));
        // Order matters: for the first signal the exit must find the flag still unset.
        let mut exits = exits();
        for (number, code) in STOPS {
            exits.push(flag::register_conditional_shutdown(number, code, Arc::clone(&seen))?);
            flag::register(number, Arc::clone(&seen))?;
        }
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
        }
    }
}
