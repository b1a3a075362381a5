//! A route in use: its upstreams, and the queue before them.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use mcp_daemon::addr::{Endpoint, Route};
use mcp_daemon::life::Life;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::affinity;
use super::balance::{Tried, choose};
use super::health::Rules;
use super::member::Member;
use super::probe::Probes;
use super::queue::{NoPlace, Place, Queue};
use super::table::Table;

/// A route that somebody used, in one reading of the settings.
pub(super) struct Lane {
    /// Its name, as a header.
    pub name: HeaderValue,
    pub members: Vec<Arc<Member>>,
    pub patience: Duration,
    queue: Option<Arc<Queue>>,
}

impl Lane {
    /// What a table says of a route, in the state that `before` had where they agree; `None` if it leads nowhere.
    pub fn new(route: &Route, table: &Table, probes: &mut Probes, before: Option<&Lane>) -> Option<Self> {
        let (goals, health) = (table.goals(route), table.health());
        let rules = Rules::of(health);
        let mut members = Vec::with_capacity(goals.len());
        for (at, goal) in goals.iter().enumerate() {
            let endpoint = match goal.address.endpoint(Some(route)) {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    log::warn!(route:% = route, error:% = error; "a route has an upstream that cannot be");
                    continue;
                }
            };
            let known = before.and_then(|before| {
                before.members.iter().find(|old| old.goal().name == goal.name && old.endpoint == endpoint)
            });
            // One that cannot be asked counts as well, as one without `ready` does; the address itself was checked.
            let ready: Option<Endpoint> =
                goal.ready.as_ref().and_then(|ready| ready.endpoint(Some(route)).ok());
            let probe = ready.map(|ready| probes.of(&ready, health));
            let known = known.map(|known| &**known);
            members.push(Arc::new(Member::new(route, goals, at, endpoint, rules, probe, known)));
        }
        if members.is_empty() {
            return None;
        }
        let bounds = table.bounds(route);
        let kept = before.and_then(|before| before.queue.clone());
        // Other bounds begin with all places free: what was under way is not counted in them.
        let queue = bounds.map(|bounds| match kept {
            Some(queue) if queue.bounds() == bounds => queue,
            _ => Arc::new(Queue::new(bounds)),
        });
        let name = HeaderValue::from_str(route.as_str()).expect("a route is visible ASCII");
        Some(Self { name, members, patience: health.patience.duration(), queue })
    }

    /// Takes a place among the requests under way, where those are bounded.
    pub async fn enter(&self, life: &Life) -> Result<Option<Place>, NoPlace> {
        match &self.queue {
            Some(queue) => queue.enter(life).await.map(Some),
            None => Ok(None),
        }
    }

    /// Where a client's session lives, and the id by which it is known there. Only one of several upstreams puts its name
    /// before an id; one that was one of several still knows its own.
    pub fn home<'s>(&self, session: &'s str) -> (Option<usize>, &'s str) {
        let of = |name: &str| self.members.iter().position(|member| *member.goal().name == *name);
        match affinity::split(session) {
            Some((name, id)) if self.has_several() || of(name).is_some() => (of(name), id),
            _ => (None, session),
        }
    }

    /// Whether ids have to say where they belong.
    pub fn has_several(&self) -> bool {
        self.members.len() > 1
    }

    /// See [`choose`].
    pub fn choose(
        &self,
        in_session: bool,
        tried: Tried,
        draw: impl FnOnce() -> u64,
        now: Instant,
    ) -> Option<usize> {
        if let [_only] = &*self.members
            && !self.members[0].goal().drains
        {
            return (!tried.has(0)).then_some(0);
        }
        choose(self.members.iter().map(|member| member.candidate(now)), in_session, tried, draw())
    }

    /// Whether no upstream but the one at this place takes new sessions.
    pub fn is_last(&self, at: usize, now: Instant) -> bool {
        let mut others = self.members.iter().enumerate().filter(|(other, _)| *other != at);
        !others.any(|(_, other)| !other.goal().drains && other.admits(now))
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.members.iter().any(|member| member.is_busy())
            || self.queue.as_ref().is_some_and(|queue| queue.running() + queue.waiting() > 0)
    }

    /// For the control socket.
    pub fn report(&self, route: &Route) -> Value {
        let queue = self.queue.as_deref();
        json!({
            "route": route,
            "concurrency": queue.map(|queue| queue.bounds().concurrency),
            "running": queue.map(Queue::running),
            "waiting": queue.map(Queue::waiting),
            "upstreams": self.members.iter().map(|member| member.report()).collect::<Vec<_>>(),
        })
    }
}
