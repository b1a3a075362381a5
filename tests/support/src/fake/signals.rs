//! Signals to a fake backend: written down, then obeyed as Serena does, or not.

use std::{io, sync::Arc, time::Duration};

use nix::libc;
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::sleep,
};

use super::{FakeBackend, end, journal::Writer, running};
use crate::server::Server;

/// How often a graceful end looks whether all is done.
const GLANCE: Duration = Duration::from_millis(10);

/// Listens from now on; whoever serves later sends its server.
pub(crate) fn listen(fake: &FakeBackend, journal: &Arc<Writer>) -> io::Result<watch::Sender<Option<Server>>> {
    let (told, server) = watch::channel(None);
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (ignore_term, ignore_int) = (fake.faults.ignore_term, fake.faults.ignore_int);
    tokio::spawn(on_terminate(terminate, ignore_term, fake.graceful, server, journal.clone()));
    tokio::spawn(on_interrupt(interrupt, ignore_int, journal.clone()));
    Ok(told)
}

async fn on_terminate(
    mut signal: Signal,
    ignored: bool,
    graceful: bool,
    server: watch::Receiver<Option<Server>>,
    journal: Arc<Writer>,
) {
    while signal.recv().await.is_some() {
        journal.write("signal", json!({ "signal": "TERM" }));
        if ignored {
            continue;
        }
        while graceful && server.borrow().as_ref().is_some_and(|it| running(it) > 0 || it.streams() > 0) {
            sleep(GLANCE).await;
        }
        journal.write("exit", json!({ "signal": "TERM" }));
        // Serena ends by the signal, even after a graceful stop.
        let _ = signal_hook::low_level::emulate_default_handler(libc::SIGTERM);
    }
}

async fn on_interrupt(mut signal: Signal, ignored: bool, journal: Arc<Writer>) {
    while signal.recv().await.is_some() {
        journal.write("signal", json!({ "signal": "INT" }));
        if !ignored {
            end(&journal, 1);
        }
    }
}
