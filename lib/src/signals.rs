//! Which signals mean what: SIGTERM and SIGINT drain, a second one exits at once, SIGHUP reloads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
        for (number, code) in [(SIGTERM, 143), (SIGINT, 130)] {
            flag::register_conditional_shutdown(number, code, Arc::clone(&seen))?;
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
