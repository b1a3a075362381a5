//! Asking `GET /ready` over and over: one question at a time for each address, however many routes lead there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{Request, StatusCode};
use mcp_daemon::addr::Endpoint;
use mcp_daemon::client::Client;
use mcp_daemon::exit::chain;
use mcp_daemon::life::Life;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::route::Health;

/// The path that is asked, whatever the address says.
pub const PATH: &str = "/ready";

/// What is known of one address; asked as long as somebody holds it.
#[derive(Debug)]
pub struct Probe {
    endpoint: Endpoint,
    /// Failures in a row.
    failures: AtomicU32,
    /// How many of them it takes.
    limit: u32,
}

/// All probes that somebody holds.
pub struct Probes {
    client: Client,
    life: Life,
    known: HashMap<Endpoint, Known>,
}

struct Known {
    probe: Weak<Probe>,
    /// Who asks.
    asking: JoinHandle<()>,
}

impl Probe {
    /// Whether it answers well; until it was asked it is believed to.
    pub fn is_well(&self) -> bool {
        self.failures.load(Relaxed) < self.limit
    }

    fn heard(&self, outcome: Result<(), String>) {
        let before = self.is_well();
        match outcome {
            Ok(()) => {
                self.failures.store(0, Relaxed);
                if !before {
                    log::info!(ready:% = self.endpoint; "an upstream is ready again");
                }
            }
            Err(why) => {
                // Only this task writes.
                self.failures.store(self.failures.load(Relaxed).saturating_add(1), Relaxed);
                if before && !self.is_well() {
                    log::warn!(ready:% = self.endpoint, error = why; "an upstream is not ready");
                }
            }
        }
    }
}

impl Probes {
    /// None yet.
    pub fn new(client: Client, life: Life) -> Self {
        Self { client, life, known: HashMap::new() }
    }

    /// The probe of an address; the first to want it has it begin.
    pub fn of(&mut self, endpoint: &Endpoint, health: &Health) -> Arc<Probe> {
        if let Some(probe) = self.known.get(endpoint).and_then(|known| known.probe.upgrade()) {
            return probe;
        }
        self.begin(endpoint, health, 0)
    }

    /// Asks anew by other settings: whoever wants a probe from now on gets a new one, which knows what the old one knew.
    /// Streams may hold the old ones for long yet, but nobody asks for those any more.
    pub fn renew(&mut self, health: &Health) -> Vec<Arc<Probe>> {
        let ended = self.known.drain().filter_map(|(_, known)| {
            known.asking.abort();
            known.probe.upgrade()
        });
        let old: Vec<_> = ended.collect();
        old.iter().map(|probe| self.begin(&probe.endpoint, health, probe.failures.load(Relaxed))).collect()
    }

    fn begin(&mut self, endpoint: &Endpoint, health: &Health, failures: u32) -> Arc<Probe> {
        self.known.retain(|_, known| known.probe.strong_count() > 0);
        let limit = health.failures.get();
        let probe = Arc::new(Probe { endpoint: endpoint.clone(), failures: AtomicU32::new(failures), limit });
        let (client, life) = (self.client.clone(), self.life.clone());
        let asking = self.life.spawn(ask(Arc::downgrade(&probe), client, *health, life));
        self.known.insert(endpoint.clone(), Known { probe: Arc::downgrade(&probe), asking });
        probe
    }
}

/// Asks until nobody wants to know any more, or the drain begins.
async fn ask(probe: Weak<Probe>, client: Client, health: Health, life: Life) {
    while let Some(probe) = probe.upgrade() {
        let outcome = tokio::select! {
            outcome = timeout(health.timeout.duration(), question(&client, &probe.endpoint)) => outcome,
            () = life.draining() => return,
        };
        let late = |_| Err(format!("no answer within {}", health.timeout));
        probe.heard(outcome.unwrap_or_else(late));
        drop(probe);
        tokio::select! {
            () = sleep(health.interval.duration()) => {}
            () = life.draining() => return,
        }
    }
}

async fn question(client: &Client, endpoint: &Endpoint) -> Result<(), String> {
    // A connection of its own: whether the daemon still accepts any is a part of the question.
    let answer = client.send_on_new_connection(endpoint, Request::new(Bytes::new())).await;
    match answer.map_err(|error| chain(&error))?.status() {
        StatusCode::OK => Ok(()),
        other => Err(format!("answered {other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mcp_daemon::addr::Upstream;
    use mcp_daemon::client::ClientOptions;
    use mcp_daemon::config::Span;

    use super::*;

    #[tokio::test]
    async fn an_old_probe_asks_no_more_however_long_it_is_held() {
        let life = Life::new(Duration::from_secs(10));
        let mut probes = Probes::new(Client::new(ClientOptions::default()), life.clone());
        let endpoint = "127.0.0.1:1".parse::<Upstream>().unwrap().endpoint(None).unwrap();
        // So seldom that it does not end by itself.
        let health = Health { interval: Span::seconds(3_600), ..Health::default() };
        let held = probes.of(&endpoint, &health);
        held.heard(Err("no".into()));
        let renewed = probes.renew(&health);
        let newest = probes.of(&endpoint, &health);
        assert!(Arc::ptr_eq(&renewed[0], &newest) && !Arc::ptr_eq(&held, &newest));
        assert_eq!(newest.failures.load(Relaxed), 1, "it knows what the old one knew");
        drop(renewed);
        let asking = async |tasks| {
            let left = async {
                while life.running() > tasks {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), left).await.expect("the others end at once");
        };
        asking(1).await;
        // Without settings that want it the last one ends as well.
        drop(newest);
        probes.renew(&health);
        asking(0).await;
        drop(held);
    }
}
