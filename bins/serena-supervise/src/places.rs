//! Places for the template's instances: at most so many run at once; the one idle longest makes room for the next.

use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::instance::Instance;
use crate::instance::state::{Phase, Rest};

/// All places; whoever finds none free waits in a queue.
pub struct Places {
    free: Arc<Semaphore>,
    max: usize,
    members: Mutex<Vec<Weak<Instance>>>,
    /// Rings when an instance may have become idle.
    quiet: Arc<Notify>,
}

/// A place; dropped, it is free again.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// `max` free places.
    pub fn new(max: usize) -> Arc<Self> {
        let max = max.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(max)),
            max,
            members: Mutex::default(),
            quiet: Arc::new(Notify::new()),
        })
    }

    /// How many there are.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Rung by instances that nobody uses any more.
    pub fn quiet(&self) -> Arc<Notify> {
        self.quiet.clone()
    }

    /// Takes part in making room.
    pub fn enter(&self, instance: &Arc<Instance>) {
        let mut members = self.members.lock().expect("no panic while locked");
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(instance));
    }

    /// Waits for a place, first come first served; meanwhile whoever is idle longest is put to sleep.
    pub async fn take(&self) -> Place {
        let mut turn = pin!(self.free.clone().acquire_owned());
        loop {
            tokio::select! {
                biased;
                permit = &mut turn => return Place { _permit: permit.expect("it is never closed") },
                () = self.make_room() => {}
            }
        }
    }

    /// Ends when somebody went to sleep for us; one for each that waits, so no more sleep than are needed.
    async fn make_room(&self) {
        loop {
            let mut quiet = pin!(self.quiet.notified());
            quiet.as_mut().enable();
            if let Some(idle) = self.idle_longest()
                && idle.sleep_if_idle(Rest::Asleep)
            {
                log::info!(instance = idle.name.as_str(); "put to sleep, its place is needed");
                idle.until_state(|state| state.phase() == Phase::Stopped || state.serves()).await;
                return;
            }
            quiet.await;
        }
    }

    fn idle_longest(&self) -> Option<Arc<Instance>> {
        let members = self.members.lock().expect("no panic while locked");
        let idle = members.iter().filter_map(Weak::upgrade).filter_map(|one| Some((one.idle_for()?, one)));
        idle.max_by_key(|(idle_for, _)| *idle_for).map(|(_, one)| one)
    }
}
