//! What the connections of one store share: one mutex around everything that is remembered.

use std::{
    fmt,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::watch;

use super::{
    answer::Answer,
    asked::Asked,
    bucket::Bucket,
    fault::{Fault, What},
    signature,
};

/// How a store behaves apart from its faults.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Manner {
    /// Every conditional write is answered with success and done, as by Garage and s3rver.
    pub ignores_conditions: bool,
    /// Most entries on one page of a listing, whatever is asked for; small, so that there are several.
    pub page: usize,
    /// All parts of an upload but the last must have one length, as R2 wants it.
    pub equal_parts: bool,
    /// Smallest part but the last, in bytes; real S3 wants 5 MiB.
    pub smallest_part: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Manner { ignores_conditions: false, page: 5, equal_parts: true, smallest_part: 0 }
    }
}

pub(super) type Hook = Box<dyn FnMut(&Asked) + Send>;

pub(super) struct Shared {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
    changes: watch::Sender<u64>,
    released: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) bucket: Bucket,
    pub(super) manner: Manner,
    pub(super) faults: Vec<Fault>,
    pub(super) requests: Vec<Asked>,
    serial: u64,
}

impl Shared {
    pub(super) fn new(bucket: &str, manner: Manner) -> Shared {
        let (faults, requests) = (Vec::new(), Vec::new());
        let state = State { bucket: Bucket::new(bucket), manner, faults, requests, serial: 0 };
        Shared {
            state: Mutex::new(state),
            hook: Mutex::default(),
            changes: watch::Sender::new(0),
            released: watch::Sender::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Numbers a request, and says what it is to meet.
    pub(super) fn arrived(&self, asked: &mut Asked) -> Option<What> {
        let mut state = self.state();
        state.serial += 1;
        asked.serial = state.serial;
        asked.number = state.requests.len() + 1;
        state.requests.push(asked.clone());
        state.faults.iter_mut().find_map(|fault| fault.meets(asked))
    }

    /// Does what is asked, as far as it is signed and right.
    pub(super) fn perform(&self, asked: &mut Asked, body: &[u8], lag: usize) -> Answer {
        let mut state = self.state();
        let manner = state.manner;
        let done =
            signature::check(asked, body).and_then(|()| state.bucket.perform(asked, body, manner, lag));
        let (answer, effect) = done.unwrap_or_else(|refusal| (Answer::refusal(asked, refusal), false));
        asked.effect = effect;
        answer
    }

    /// Tells the hook about a request that has come whole.
    pub(super) fn tell(&self, asked: &Asked) {
        if let Some(hook) = &mut *self.hook.lock().expect("not poisoned") {
            hook(asked);
        }
        self.note(asked);
    }

    /// Remembers how far a request is.
    pub(super) fn note(&self, asked: &Asked) {
        let mut state = self.state();
        if let Some(noted) = state.requests.iter_mut().rev().find(|noted| noted.serial == asked.serial) {
            *noted = asked.clone();
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn hook(&self, hook: Option<Hook>) {
        *self.hook.lock().expect("not poisoned") = hook;
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// Changes at the next release.
    pub(super) fn releases(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}
