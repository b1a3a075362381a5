//! The search for an upstream that can be reached: the session's own first and as long as there is hope, then any other.

use std::time::Duration;

use tokio::time::Instant;

use super::balance::Tried;
use super::forward::Letter;
use super::lane::Lane;

/// The first pause before upstreams that could not be reached are tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The search for an upstream that can be reached.
pub(super) struct Search {
    tried: Tried,
    /// Whether the session's own upstream was given up.
    left_home: bool,
    /// Since when nobody can be reached.
    since: Option<Instant>,
    pauses: u32,
    /// The last error.
    pub why: String,
}

/// What to do next in a search.
pub(super) enum Step {
    /// Nobody can be reached in time.
    GiveUp,
    /// Wait, then go on.
    Pause(Duration),
    /// Send it to the upstream at this place.
    Send(usize),
}

impl Search {
    /// Nothing tried yet.
    pub fn new() -> Self {
        let why = String::from("all its upstreams drain");
        Self { tried: Tried::default(), left_home: false, since: None, pauses: 0, why }
    }

    /// What to do next with a letter on a lane.
    pub fn next(&mut self, lane: &Lane, letter: &Letter<'_>, now: Instant) -> Step {
        let session = letter.session();
        let home = session.filter(|_| lane.has_several() && !self.left_home);
        let home = home.and_then(|session| lane.home(session).0);
        if let Some(home) = home {
            let member = &lane.members[home];
            let may_come_back = member.may_come_back();
            if !self.tried.has(home) && (may_come_back || member.admits(now)) {
                return Step::Send(home);
            }
            // What lives there is lost to it anywhere else, so it stays as long as there is hope.
            if may_come_back {
                return self.pause(lane, now);
            }
            self.left_home = true;
            member.is_left();
        }
        match lane.choose(session.is_some(), self.tried, || letter.draw(), now) {
            Some(at) => Step::Send(at),
            None => self.pause(lane, now),
        }
    }

    /// The upstream at a place could not be reached.
    pub fn failed(&mut self, at: usize, why: String) {
        self.tried.add(at);
        self.why = why;
    }

    fn pause(&mut self, lane: &Lane, now: Instant) -> Step {
        let until = *self.since.get_or_insert(now) + lane.patience;
        if now >= until {
            return Step::GiveUp;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(LONGEST_PAUSE);
        self.pauses += 1;
        self.tried = Tried::default();
        // The last try of all comes at the very end of the patience.
        Step::Pause(pause.min(until - now))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use mcp_daemon::mcp;

    use super::*;
    use crate::identity::{Fingerprint, Identity, Scopes, Standing};
    use crate::route::lanes::{Lanes, tests::lanes};
    use crate::route::member::Errand;

    const TWO: &str =
        "upstream = [{name = 'a', address = '127.0.0.1:1'}, {name = 'b', address = '127.0.0.1:2'}]";
    const SOME_TIME: Duration = Duration::from_secs(60);

    fn identity() -> Identity {
        Identity {
            subject: "alice".parse().unwrap(),
            route: "r".parse().unwrap(),
            scopes: Scopes::All,
            expires: None,
            fingerprint: Fingerprint::of_token(&[0; 32]),
            standing: Standing::Token([0; 32]),
        }
    }

    /// A letter of the session `x` on `a`.
    fn letter(identity: &Identity) -> Letter<'_> {
        Letter::new(identity, Request::builder().header(mcp::SESSION, "a.x").body(Bytes::new()).unwrap())
    }

    fn lane(lanes: &mut Lanes) -> std::sync::Arc<Lane> {
        lanes.of(&"r".parse().unwrap()).unwrap()
    }

    /// Sends to `a` in vain.
    fn fail(lane: &Lane) {
        Errand::begin(lane.members[0].clone()).failed("no", false, false);
    }

    /// Where the letter ends up while `a` cannot be reached, and how long it waited.
    async fn goes(lane: &Lane, letter: &Letter<'_>) -> (Option<usize>, Duration) {
        let (began, mut search) = (Instant::now(), Search::new());
        loop {
            match search.next(lane, letter, Instant::now()) {
                Step::Send(0) => {
                    fail(lane);
                    search.failed(0, "no".into());
                }
                Step::Send(at) => return (Some(at), began.elapsed()),
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::GiveUp => return (None, began.elapsed()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_long_ago_takes_no_session_from_its_upstream() {
        let (mut lanes, identity) = (lanes(TWO), identity());
        let (lane, letter) = (lane(&mut lanes), letter(&identity));
        fail(&lane);
        tokio::time::advance(SOME_TIME).await;
        let (at, waited) = goes(&lane, &letter).await;
        assert_eq!(at, Some(1));
        assert!(waited >= lane.patience, "it goes elsewhere after {waited:?}");
        // And nobody waits for the same outage again, however old it is.
        tokio::time::advance(10 * SOME_TIME).await;
        assert_eq!(goes(&lane, &letter).await, (Some(1), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_put_an_upstream_out_take_no_session_from_it_before_its_patience_is_over() {
        let settings = format!("{TWO}\n[health]\nejection = '60s'");
        let (mut lanes, identity) = (lanes(&settings), identity());
        let (lane, letter) = (lane(&mut lanes), letter(&identity));
        for _ in 0..3 {
            fail(&lane);
        }
        tokio::time::advance(lane.patience).await;
        assert!(!lane.members[0].admits(Instant::now()));
        let step = Search::new().next(&lane, &letter, Instant::now());
        assert!(matches!(step, Step::Send(0)), "nobody has seen that it is still away");
    }

    #[tokio::test(start_paused = true)]
    async fn while_somebody_tries_an_upstream_its_sessions_come_along() {
        let (mut lanes, identity) = (lanes(TWO), identity());
        let (lane, letter) = (lane(&mut lanes), letter(&identity));
        goes(&lane, &letter).await;
        tokio::time::advance(SOME_TIME).await;
        let mut trial = Errand::begin(lane.members[0].clone());
        assert!(matches!(Search::new().next(&lane, &letter, Instant::now()), Step::Send(0)));
        trial.failed("no", false, false);
        assert!(matches!(Search::new().next(&lane, &letter, Instant::now()), Step::Send(1)));
    }
}
