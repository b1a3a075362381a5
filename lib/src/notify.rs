//! What we tell whoever started us: systemd's notification socket and the descriptor of `--ready-fd`.
//! Without a `$NOTIFY_SOCKET` everything here does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::fds;

/// Says that we are ready: `READY=1` and the status text, then a newline on the descriptor, which is closed after.
pub(crate) fn ready(status: &str, ready_fd: Option<i32>) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    if let Some(fd) = ready_fd
        && let Err(error) = fds::write_line_and_close(fd)
    {
        log::warn!(fd, error:% = error; "nobody could be told on --ready-fd that we are ready");
    }
}

/// Says that starting goes on, and may take this much longer.
pub(crate) fn still_starting(status: &str, longer: Duration) {
    let micros = u32::try_from(longer.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Says that we stop on purpose.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that our event loop still turns.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is due: half of what the service manager tolerates, if it watches us.
pub(crate) fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|period| !period.is_zero())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!(error:% = error; "the service manager could not be notified");
    }
}
