use proptest::prelude::*;

use super::*;

const EVENTS: [Event; 22] = [
    Event::Connection,
    Event::Wake,
    Event::Rest(Rest::Asked),
    Event::Rest(Rest::Asleep),
    Event::Rest(Rest::Limit),
    Event::Renew,
    Event::RenewNow,
    Event::Prepared,
    Event::NotPrepared,
    Event::CalledOff,
    Event::Started,
    Event::Answers,
    Event::Worse,
    Event::Better,
    Event::Broke,
    Event::PortTaken,
    Event::Drained,
    Event::KillBegan,
    Event::Empty,
    Event::Finished,
    Event::TooMany,
    Event::PauseOver,
];

fn after(events: &[Event]) -> State {
    events.iter().fold(State::default(), |state, event| state.on(*event).0)
}

const READY: [Event; 4] = [Event::Connection, Event::Prepared, Event::Started, Event::Answers];

fn after_ready(events: &[Event]) -> State {
    events.iter().fold(after(&READY), |state, event| state.on(*event).0)
}

/// What ends well whatever is being done.
fn done(state: State) -> Option<Event> {
    match state.phase() {
        Phase::Preparing => Some(Event::Prepared),
        Phase::Starting => Some(Event::Started),
        Phase::Probing => Some(Event::Answers),
        Phase::Draining => Some(Event::Drained),
        Phase::Stopping | Phase::Killing => Some(Event::Empty),
        Phase::Finishing => Some(Event::Finished),
        Phase::Backoff | Phase::Failed => Some(Event::PauseOver),
        Phase::Stopped | Phase::Ready | Phase::Degraded => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_order_of_events_comes_to_rest_where_it_was_last_told_to(
        events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..40),
    ) {
        let mut state = after(&events);
        let asked = state.rest();
        let mut steps = 0;
        while let Some(event) = done(state) {
            state = state.on(event).0;
            steps += 1;
            prop_assert!(steps < 12, "{state:?} does not come to rest");
        }
        match asked {
            Some(rest) => prop_assert_eq!((state.phase(), state.rest()), (Phase::Stopped, Some(rest))),
            None => prop_assert!(state.serves(), "{:?}", state),
        }
    }

    #[test]
    fn no_process_is_made_before_the_last_one_is_gone(
        events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..60),
    ) {
        let (mut state, mut running) = (State::default(), false);
        for event in events {
            // The shell says `Empty` only when it is.
            if event == Event::Empty && matches!(state.phase(), Phase::Stopping | Phase::Killing) {
                running = false;
            }
            let (next, action) = state.on(event);
            match action {
                Some(Action::Spawn) => {
                    prop_assert!(!running, "{:?} spawns beside a living process", state);
                    running = true;
                }
                Some(Action::Finish | Action::Nothing | Action::Pause | Action::PauseLong | Action::Prepare) => {
                    prop_assert!(!running, "{:?} on {:?} forgets a process", state, event);
                }
                _ => {}
            }
            prop_assert_eq!(running, next.has_process(), "{:?} on {:?}", state, event);
            state = next;
        }
    }

    #[test]
    fn whoever_asked_for_a_stop_is_not_overruled_by_a_connection(
        before in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..20),
    ) {
        let state = after(&before).on(Event::Rest(Rest::Asked)).0;
        prop_assert_eq!(state.on(Event::Connection), (state, None));
    }
}

#[test]
fn a_connection_that_comes_while_it_drains_to_sleep_keeps_the_process() {
    let (state, action) = after_ready(&[Event::Rest(Rest::Asleep)]).on(Event::Connection);
    assert_eq!((state.phase(), action), (Phase::Ready, Some(Action::Watch)));
}

#[test]
fn a_connection_that_comes_while_it_is_being_stopped_gets_a_fresh_process() {
    let stopping = [Event::Rest(Rest::Asleep), Event::Drained, Event::Connection, Event::Empty];
    let (state, action) = after_ready(&stopping).on(Event::Finished);
    assert_eq!((state.phase(), action), (Phase::Preparing, Some(Action::Prepare)));
}

#[test]
fn a_stop_while_the_process_is_being_made_is_done_as_soon_as_it_is() {
    let starting = after(&[Event::Connection, Event::Prepared, Event::Rest(Rest::Asked)]);
    assert_eq!(starting.phase(), Phase::Starting);
    let (state, action) = starting.on(Event::Started);
    assert_eq!((state.phase(), action), (Phase::Stopping, Some(Action::Stop)));
}

#[test]
fn a_taken_port_is_tried_again_at_once_and_a_failure_after_a_pause() {
    let (state, action) = after_ready(&[Event::PortTaken]).on(Event::Empty);
    assert_eq!((state.phase(), action), (Phase::Starting, Some(Action::Spawn)));
    let (state, action) = after_ready(&[Event::Broke]).on(Event::Empty);
    assert_eq!((state.phase(), action), (Phase::Backoff, Some(Action::Pause)));
}

#[test]
fn the_one_try_of_a_failed_instance_ends_in_failed_or_clears_its_name() {
    let failed = after_ready(&[Event::Broke, Event::Empty, Event::TooMany]);
    assert_eq!(failed.phase(), Phase::Failed);
    let tried = [Event::PauseOver, Event::Prepared, Event::Started, Event::Broke];
    let (state, action) = tried.iter().fold(failed, |state, event| state.on(*event).0).on(Event::Empty);
    assert_eq!((state.phase(), action), (Phase::Failed, Some(Action::PauseLong)));
}

#[test]
fn one_that_needs_too_much_before_it_is_ready_is_renewed_but_for_the_one_try_of_a_failed_one() {
    let (state, action) = after(&READY[..3]).on(Event::RenewNow);
    assert_eq!((state.phase(), action), (Phase::Stopping, Some(Action::Stop)));
    let tried =
        [Event::Broke, Event::Empty, Event::TooMany, Event::PauseOver, Event::Prepared, Event::Started];
    let (state, action) = after_ready(&tried).on(Event::RenewNow).0.on(Event::Empty);
    assert_eq!((state.phase(), action), (Phase::Failed, Some(Action::PauseLong)));
}

#[test]
fn what_ran_before_a_failure_still_gets_its_hook_when_it_is_to_rest() {
    let (state, action) = after_ready(&[Event::Broke, Event::Empty]).on(Event::Rest(Rest::Asked));
    assert_eq!((state.phase(), action), (Phase::Finishing, Some(Action::Finish)));
    let never_ran = after(&[Event::Connection, Event::NotPrepared]).on(Event::Rest(Rest::Asked)).0;
    assert_eq!(never_ran.phase(), Phase::Stopped);
}

#[test]
fn a_stop_during_the_hook_waits_for_it_and_a_wake_in_between_begins_again() {
    let stopping = after(&[Event::Wake, Event::Rest(Rest::Asked)]);
    assert_eq!(stopping.phase(), Phase::Preparing);
    assert_eq!(stopping.on(Event::CalledOff).0.phase(), Phase::Stopped);
    let (state, action) = stopping.on(Event::Wake).0.on(Event::CalledOff);
    assert_eq!((state.phase(), action), (Phase::Preparing, Some(Action::Prepare)));
}

#[test]
fn who_came_back_from_failed_is_as_good_as_any_other() {
    let back = [Event::Broke, Event::Empty, Event::TooMany, Event::PauseOver, Event::Prepared];
    let ready = [Event::Started, Event::Answers, Event::Broke];
    let broken = ready.iter().fold(after_ready(&back), |state, event| state.on(*event).0);
    assert_eq!(broken.on(Event::Empty).0.phase(), Phase::Backoff);
}

#[test]
fn a_language_server_that_comes_and_goes_does_not_begin_the_watch_again() {
    let (worse, action) = after(&READY).on(Event::Worse);
    assert_eq!((worse.phase(), action), (Phase::Degraded, None));
    let (better, action) = worse.on(Event::Better);
    assert_eq!((better.phase(), action), (Phase::Ready, None));
}

#[test]
fn a_crash_on_the_way_to_rest_is_no_failure() {
    let (state, action) = after_ready(&[Event::Rest(Rest::Asked), Event::Broke]).on(Event::Empty);
    assert_eq!((state.phase(), action), (Phase::Finishing, Some(Action::Finish)));
}
