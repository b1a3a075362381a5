//! What a server's log lines said of its language server since its start.

use crate::dashboard::{Level, Told};

/// The latest of each.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Where the dashboard may be; whoever asks there looks first whose port it is.
    pub(super) dashboard: Option<u16>,
    /// How the language server is doing.
    pub(super) level: Option<Level>,
}

impl Said {
    pub(super) fn take(&mut self, told: Told) {
        match told {
            Told::Dashboard(port) => self.dashboard = Some(port),
            Told::Level(level) => self.level = Some(level),
        }
    }
}
