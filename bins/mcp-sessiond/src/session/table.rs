//! The table of all sessions: found by subject and id, bounded, and ended in one place.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tokio::time::Instant;

use super::engine::Engine;
use super::open::can_be_adopted;
use super::state::{Action, Death, Event};
use super::store::Saved;
use super::{Key, Live, Session};

#[derive(Default)]
pub(super) struct Sessions {
    /// Subject, then id.
    table: HashMap<Arc<str>, HashMap<Box<str>, Arc<Session>>>,
    count: usize,
    pub(super) deleted: HashSet<Key>,
    deleted_order: VecDeque<Key>,
}

impl Engine {
    /// A subject's session of that id.
    pub fn find(&self, subject: &str, id: &str) -> Option<Arc<Session>> {
        self.sessions.read().expect("no panic while locked").table.get(subject)?.get(id).cloned()
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.read().expect("no panic while locked").all().cloned().collect()
    }

    /// Whether some session's upstream id is `id`.
    pub fn is_upstream_id(&self, id: &str) -> bool {
        self.sessions().iter().any(|session| session.lock().memory.upstream.as_deref() == Some(id))
    }

    /// Adds a session, unless there is one of that key already: then that one. The one idle longest makes room; one at work
    /// only if all are.
    pub fn insert(self: &Arc<Self>, session: Arc<Session>) -> Arc<Session> {
        let config = self.config();
        let id: Box<str> = session.lock().memory.id.clone();
        let mut sessions = self.sessions.write().expect("no panic while locked");
        let of_subject = sessions.table.entry(session.subject.clone()).or_default();
        if let Some(known) = of_subject.get(&id) {
            return known.clone();
        }
        of_subject.insert(id, session.clone());
        let of_subject = of_subject.len();
        sessions.count += 1;
        let evicted = if of_subject > config.limits.sessions_per_subject.get() {
            let others = sessions.table.get(&session.subject).into_iter().flat_map(HashMap::values);
            idle_longest(others.filter(|candidate| candidate.key != session.key))
        } else if sessions.count > config.limits.sessions.get() {
            idle_longest(sessions.all().filter(|candidate| candidate.key != session.key))
        } else {
            None
        };
        drop(sessions);
        if let Some(evicted) = evicted {
            log::debug!(session = evicted.key.short(); "session evicted, it was idle longest");
            let _written_later = self.end(&evicted, Death::Expired);
        }
        session
    }

    /// Ends a session: at the client's wish, the operator's, or for want of use. The end itself does not wait for the disk.
    pub fn end(self: &Arc<Self>, session: &Arc<Session>, death: Death) -> Saved {
        let upstream = session.live();
        let Some(Action::TearDown { upstream_lives }) = session.on(Event::Died(death)) else {
            return Saved::already();
        };
        let id: Box<str> = session.lock().memory.id.clone();
        {
            let mut sessions = self.sessions.write().expect("no panic while locked");
            if let Some(of_subject) = sessions.table.get_mut(&session.subject) {
                let removed = of_subject.remove(&id).is_some();
                if of_subject.is_empty() {
                    sessions.table.remove(&session.subject);
                }
                sessions.count -= usize::from(removed);
            }
        }
        // A session that cannot go on with this server is over as well: adopted, its id would lead to the same refusal. A
        // hidden one has no such id, and is made anew with its next request.
        let is_over = death != Death::Expired && can_be_adopted(&id);
        if is_over {
            self.remember_deleted(session.key);
        }
        let saved = self.store.remove(&session.key, is_over);
        session.end_streams();
        if let Some(live) = upstream.filter(|_| upstream_lives) {
            self.close_upstream(session, &live);
        }
        saved
    }

    /// Sends a DELETE for an upstream session that nobody needs any more, and does not wait for the answer.
    pub fn close_upstream(self: &Arc<Self>, session: &Arc<Session>, live: &Live) {
        if live.id.is_none() {
            return;
        }
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::DELETE;
        *request.headers_mut() = session.lock().letterhead().bare();
        live.mark(request.headers_mut());
        log::debug!(session = session.key.short(); "session closed upstream");
        let (engine, session) = (self.clone(), session.clone());
        self.life.spawn(async move {
            let sent = engine.back.send(session.upstream.route.as_ref(), request);
            let _answer = tokio::time::timeout(Duration::from_secs(5), sent).await;
        });
    }

    pub(super) fn remember_deleted(&self, key: Key) {
        let bound = self.config().limits.deleted_ids.get();
        let mut sessions = self.sessions.write().expect("no panic while locked");
        if sessions.deleted.insert(key) {
            sessions.deleted_order.push_back(key);
        }
        while sessions.deleted_order.len() > bound {
            if let Some(oldest) = sessions.deleted_order.pop_front() {
                sessions.deleted.remove(&oldest);
                self.store.forget_deleted(&oldest);
            }
        }
    }

    /// Ends the sessions that nobody used for too long, and forgets answers that nobody came back for; runs until drain.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            let idle = self.config().limits.session_idle.duration();
            let soonest = (idle / 10).min(self.config().stream.keep_answer.duration());
            let pause = soonest.clamp(Duration::from_millis(100), Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.life.draining() => return,
            }
            self.trim_answers();
            for session in self.sessions() {
                // The table's and this loop's.
                let in_use = session.is_listening() || is_at_work(&session, 2);
                let mut inner = session.lock();
                if inner.used.saturating_duration_since(inner.saved) > idle / 10 {
                    // A file's time is all that a restart knows of its use.
                    inner.saved = Instant::now();
                    let _written_later = inner.save(&self.store, &session.key);
                }
                let expired = !in_use && inner.used.elapsed() > idle;
                drop(inner);
                if expired {
                    log::debug!(session = session.key.short(); "session expired");
                    let _written_later = self.end(&session, Death::Expired);
                }
            }
        }
    }
}

impl Sessions {
    fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.table.values().flat_map(HashMap::values)
    }
}

/// Spares sessions at work, and prefers those whose client does not even listen.
fn idle_longest<'a>(candidates: impl Iterator<Item = &'a Arc<Session>>) -> Option<Arc<Session>> {
    let key = |session: &&Arc<Session>| (is_at_work(session, 1), session.is_listening(), session.lock().used);
    candidates.min_by_key(key).cloned()
}

/// Whether a call or a heal of the session is under way: each holds it, besides `idle` others and the reader of its stream.
fn is_at_work(session: &Arc<Session>, idle: usize) -> bool {
    let reader = session.lock().streams.as_ref().is_some_and(|streams| streams.listener.is_running());
    Arc::strong_count(session) > idle + usize::from(reader)
}

impl Session {
    fn is_listening(&self) -> bool {
        let inner = self.lock();
        inner
            .streams
            .as_ref()
            .is_some_and(|streams| streams.unasked.as_ref().is_some_and(|ring| ring.is_read()))
    }

    fn end_streams(&self) {
        if let Some(streams) = &self.lock().streams {
            streams.unasked.iter().chain(&streams.answers).for_each(|ring| ring.end());
        }
    }
}
