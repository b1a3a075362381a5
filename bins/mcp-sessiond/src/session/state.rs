//! The life of one session, as a pure function: no socket, clock or lock. The shell around it is `session::Session`.
//!
//! ```text
//! New --opened--> Live(n) --lost(n)--> Healing --healed--> Live(n+1)      Healing --kept--> Live(n)
//!                   |  ^ cut(n)           ^  |
//!                   v                     |  v out of attempts
//!                 Dormant ----wanted------+--Dormant                      anything --deleted, expired, refused--> Dead
//! ```

/// Counts the upstream sessions that one session has had; 0 stands for none yet.
pub type Generation = u64;

/// Where a session stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Over; it will never reach the upstream again.
    Dead(Death),
    /// Whole as far as the client knows, but the upstream session is in doubt or gone. Nothing happens until a request comes.
    Dormant(Generation),
    /// The upstream session of this generation was lost; somebody is making a new one.
    Healing(Generation),
    /// The upstream session of this generation is believed to be alive.
    Live(Generation),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Death {
    /// The client, or the operator, deleted it.
    Deleted,
    /// Nobody used it for too long, or others needed its place.
    Expired,
    /// The upstream does not speak the version that was agreed with the client any more.
    Refused,
}

/// What can happen to a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A stream of this generation was cut while nobody waits for anything.
    Cut(Generation),
    /// See [`Death`].
    Died(Death),
    /// Out of attempts.
    GaveUp,
    /// A new upstream session is complete, state replayed.
    Healed,
    /// The upstream still knows the old session after all.
    Kept,
    /// A request saw that the upstream session of this generation is gone, or its server.
    Lost(Generation),
    /// A request wants to go upstream.
    Wanted,
}

/// What the shell has to do about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Tell the parked requests that it failed.
    FailParked,
    /// Start to heal: exactly one task.
    Heal,
    /// Let the parked requests go on.
    ReleaseParked,
    /// Close what is left: streams, and the upstream session if one is believed to live.
    TearDown {
        /// Whether a DELETE has somebody to reach.
        upstream_lives: bool,
    },
}

impl State {
    /// The next state, and what to do.
    pub fn on(self, event: Event) -> (Self, Option<Action>) {
        use State::*;
        match (self, event) {
            // Dead is for ever, whoever still knocks.
            (Dead(_), _) => (self, None),
            (Live(_), Event::Died(death)) => (Dead(death), Some(Action::TearDown { upstream_lives: true })),
            (Dormant(_) | Healing(_), Event::Died(death)) => {
                (Dead(death), Some(Action::TearDown { upstream_lives: false }))
            }

            (Live(current), Event::Lost(lost)) if current == lost => (Healing(current), Some(Action::Heal)),
            (Live(current), Event::Cut(cut)) if current == cut => (Dormant(current), None),
            // Several requests can see the same loss; only the first one starts to heal.
            (Live(_) | Healing(_) | Dormant(_), Event::Lost(_) | Event::Cut(_)) => (self, None),

            (Dormant(current), Event::Wanted) => (Healing(current), Some(Action::Heal)),
            (Live(_) | Healing(_), Event::Wanted) => (self, None),

            (Healing(lost), Event::Healed) => (Live(lost + 1), Some(Action::ReleaseParked)),
            (Healing(lost), Event::Kept) => (Live(lost), Some(Action::ReleaseParked)),
            (Healing(lost), Event::GaveUp) => (Dormant(lost), Some(Action::FailParked)),
            // Only the one task that heals reports these, and it does so once.
            (Live(_) | Dormant(_), Event::Healed | Event::Kept | Event::GaveUp) => (self, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_loss_of_the_same_session_does_not_heal_twice() {
        let (state, action) = State::Live(4).on(Event::Lost(4));
        assert_eq!((state, action), (State::Healing(4), Some(Action::Heal)));
        assert_eq!(state.on(Event::Lost(4)), (state, None));
        let (state, _) = state.on(Event::Healed);
        assert_eq!(state.on(Event::Lost(4)), (State::Live(5), None));
    }

    #[test]
    fn a_cut_stream_alone_does_not_heal() {
        let (state, action) = State::Live(1).on(Event::Cut(1));
        assert_eq!((state, action), (State::Dormant(1), None));
        assert_eq!(state.on(Event::Wanted), (State::Healing(1), Some(Action::Heal)));
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (0u64..4).prop_map(Event::Cut),
            (0u64..4).prop_map(Event::Lost),
            Just(Event::GaveUp),
            Just(Event::Healed),
            Just(Event::Kept),
            Just(Event::Wanted),
            prop_oneof![Just(Death::Deleted), Just(Death::Expired), Just(Death::Refused)]
                .prop_map(Event::Died),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn in_every_order_of_events(events in events()) {
            let mut state = State::Live(1);
            let mut healers = 0;
            let mut newest = 1;
            for event in events {
                let before = state;
                let (after, action) = state.on(event);
                state = after;
                match action {
                    Some(Action::Heal) => healers += 1,
                    Some(Action::ReleaseParked | Action::FailParked) => healers -= 1,
                    Some(Action::TearDown { upstream_lives }) => {
                        prop_assert_eq!(upstream_lives, matches!(before, State::Live(_)));
                        healers = 0;
                    }
                    None => {}
                }
                // Exactly one healer while healing, none otherwise: so nobody parks without an end.
                prop_assert_eq!(healers, i32::from(matches!(state, State::Healing(_))));
                // Generations only grow, and only by healing.
                if let State::Live(generation) = state {
                    prop_assert!(generation == newest || (generation == newest + 1 && event == Event::Healed));
                    newest = generation;
                }
                // Death is final.
                if let State::Dead(_) = before {
                    prop_assert_eq!(before, after);
                }
            }
        }
    }
}
