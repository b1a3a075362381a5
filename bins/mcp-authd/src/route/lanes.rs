//! The routes in use. Routes come from credentials and most lead to the same template, so nothing is kept of one that
//! nobody used for a while, and there is a bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_daemon::addr::Route;
use serde_json::Value;
use tokio::time::Instant;

use super::lane::Lane;
use super::probe::Probes;
use super::table::Table;
use super::{Readiness, Unserved};

/// Routes in use at once; some KiB each.
const MOST: usize = 10_000;
/// A route that nobody used between two looks, so far apart, is forgotten.
const LOOK: Duration = Duration::from_secs(600);

/// All routes in use, and the settings that they follow.
pub(super) struct Lanes {
    table: Arc<Table>,
    probes: Probes,
    by_route: HashMap<Route, Kept>,
    looked: Instant,
}

struct Kept {
    lane: Arc<Lane>,
    /// Since the last look.
    used: bool,
}

impl Lanes {
    /// None yet.
    pub fn new(table: Table, probes: Probes) -> Self {
        Self { table: Arc::new(table), probes, by_route: HashMap::new(), looked: Instant::now() }
    }

    /// The settings.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// A route, which is in use from now on.
    pub fn of(&mut self, route: &Route) -> Result<Arc<Lane>, Unserved> {
        if let Some(kept) = self.by_route.get_mut(route) {
            kept.used = true;
            return Ok(kept.lane.clone());
        }
        self.make_room(route)?;
        let lane = Lane::new(route, &self.table, &mut self.probes, None)
            .ok_or_else(|| Unserved::NoUpstream(route.clone()))?;
        let lane = Arc::new(lane);
        self.by_route.insert(route.clone(), Kept { lane: lane.clone(), used: true });
        Ok(lane)
    }

    /// Follows other settings. What is the same upstream under the same name keeps its state.
    pub fn replace(&mut self, table: Table) {
        self.table = Arc::new(table);
        // Held until each lane has taken what it still needs.
        let _renewed = self.probes.renew(self.table.health());
        let (table, probes) = (&self.table, &mut self.probes);
        self.by_route.retain(|route, kept| match Lane::new(route, table, probes, Some(&kept.lane)) {
            Some(lane) => {
                kept.lane = Arc::new(lane);
                true
            }
            None => false,
        });
    }

    /// How many upstreams of the routes in use are ready, and how many there are.
    pub fn readiness(&self) -> Readiness {
        let now = Instant::now();
        let mut readiness = Readiness { ready: 0, of: 0 };
        for member in self.by_route.values().flat_map(|kept| &kept.lane.members) {
            readiness.of += 1;
            readiness.ready += usize::from(member.is_ready(now));
        }
        readiness
    }

    /// For the control socket, in the order of names.
    pub fn report(&self) -> Vec<Value> {
        let mut all: Vec<_> = self.by_route.iter().collect();
        all.sort_by_key(|(route, _)| *route);
        all.into_iter().map(|(route, kept)| kept.lane.report(route)).collect()
    }

    /// Forgets routes that nobody uses, now and then, and where there is no more room all that are not busy.
    fn make_room(&mut self, route: &Route) -> Result<(), Unserved> {
        let now = Instant::now();
        if now - self.looked >= LOOK {
            self.looked = now;
            self.by_route.retain(|_, kept| std::mem::take(&mut kept.used) || kept.lane.is_busy());
        }
        if self.by_route.len() >= MOST {
            self.by_route.retain(|_, kept| kept.lane.is_busy());
        }
        if self.by_route.len() >= MOST { Err(Unserved::Busy(route.clone())) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use mcp_daemon::client::{Client, ClientOptions};
    use mcp_daemon::life::Life;

    use super::*;
    use crate::route::member::Errand;

    fn table(settings: &str) -> Table {
        let config = mcp_daemon::config::parse(Path::new("x.toml"), settings).unwrap();
        Table::load(&Arc::new(config)).unwrap()
    }

    /// Of these settings, none of them in use.
    pub fn lanes(settings: &str) -> Lanes {
        let client = Client::new(ClientOptions::default());
        Lanes::new(table(settings), Probes::new(client, Life::new(Duration::ZERO)))
    }

    fn route(number: usize) -> Route {
        format!("r{number}").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_nobody_uses_is_forgotten_unless_something_is_under_way() {
        let mut lanes = lanes("upstream = 'unix:/run/{route}.sock'");
        let busy = Errand::begin(lanes.of(&route(0)).unwrap().members[0].clone());
        lanes.of(&route(1)).unwrap();
        for look in 2..4 {
            tokio::time::advance(LOOK).await;
            lanes.of(&route(look)).unwrap();
        }
        assert!(lanes.by_route.contains_key(&route(0)) && !lanes.by_route.contains_key(&route(1)));
        drop(busy);
        for look in 4..6 {
            tokio::time::advance(LOOK).await;
            lanes.of(&route(look)).unwrap();
        }
        assert!(!lanes.by_route.contains_key(&route(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_bound_and_what_is_not_busy_makes_room() {
        let mut lanes = lanes("upstream = 'unix:/run/{route}.sock'");
        for number in 0..MOST {
            lanes.of(&route(number)).unwrap();
        }
        let busy = Errand::begin(lanes.of(&route(7)).unwrap().members[0].clone());
        lanes.of(&route(MOST)).unwrap();
        assert_eq!(lanes.by_route.len(), 2);
        let all: Vec<_> = (0..MOST - 2)
            .map(|number| Errand::begin(lanes.of(&route(MOST + 1 + number)).unwrap().members[0].clone()))
            .collect();
        let last = Errand::begin(lanes.of(&route(MOST)).unwrap().members[0].clone());
        assert!(matches!(lanes.of(&route(8)), Err(Unserved::Busy(_))));
        drop((busy, all, last));
        lanes.of(&route(8)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_keeps_what_is_known_of_an_upstream_that_stays() {
        let two = "upstream = [{name = 'a', address = '127.0.0.1:1'}, {name = 'b', address = '127.0.0.1:2'}]";
        let mut lanes = lanes(two);
        let lane = lanes.of(&route(0)).unwrap();
        for member in &lane.members {
            for _ in 0..3 {
                Errand::begin(member.clone()).failed("no", false, false);
            }
        }
        lanes.replace(table(&two.replace("127.0.0.1:2", "127.0.0.1:3")));
        let lane = lanes.of(&route(0)).unwrap();
        let admits: Vec<_> = lane.members.iter().map(|member| member.admits(Instant::now())).collect();
        assert_eq!(admits, [false, true], "the second one is another one now");
        lanes.replace(table(""));
        assert!(matches!(lanes.of(&route(0)), Err(Unserved::NoUpstream(_))));
    }
}
