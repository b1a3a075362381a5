//! Every step of an exchange, for tests that end the process, or the disk, at any of them. Otherwise nothing.

#[cfg(not(test))]
pub(super) use self::real::{can_exchange, step};
#[cfg(test)]
pub(super) use self::tried::{Then, after, can_exchange, exchanges, never, step};

#[cfg(not(test))]
mod real {
    use std::io;

    pub(in super::super) fn can_exchange() -> bool {
        true
    }

    pub(in super::super) fn step() -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tried {
    use std::cell::Cell;
    use std::io;

    /// What happens at a step.
    #[derive(Clone, Copy)]
    pub(in super::super) enum Then {
        Crash,
        Error,
    }

    thread_local! {
        static LEFT: Cell<Option<(usize, Then)>> = const { Cell::new(None) };
        static EXCHANGES: Cell<bool> = const { Cell::new(true) };
    }

    /// After so many steps of this thread, once.
    pub(in super::super) fn after(steps: usize, then: Then) {
        LEFT.set(Some((steps, then)));
    }

    /// Never again; whether it was still to come.
    pub(in super::super) fn never() -> bool {
        LEFT.take().is_some()
    }

    pub(in super::super) fn exchanges(can: bool) {
        EXCHANGES.set(can);
    }

    pub(in super::super) fn can_exchange() -> bool {
        EXCHANGES.get()
    }

    pub(in super::super) fn step() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some((0, then)) => {
                LEFT.set(None);
                match then {
                    Then::Crash => std::panic::panic_any("crash"),
                    Then::Error => Err(io::Error::from(io::ErrorKind::StorageFull)),
                }
            }
            Some((left, then)) => {
                LEFT.set(Some((left - 1, then)));
                Ok(())
            }
        }
    }
}
