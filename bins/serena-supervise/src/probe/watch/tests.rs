use std::net::SocketAddr;
use std::num::NonZeroU32;

use mcp_daemon::config::Span;
use proptest::prelude::*;
use tokio::net::TcpListener;

use super::*;
use crate::config::Probe;
use crate::probe::Surroundings;

const WORKS: Sign = Sign::Working("it computes");

fn silent() -> ProbeError {
    ProbeError::Silent(Duration::from_secs(5))
}

fn gone() -> ProbeError {
    ProbeError::Gone("refused".into())
}

/// How many of these failures in a row, 10 s apart, it takes until death; `None` if 1000 are not enough.
fn deadly(failures: u32, error: &ProbeError, sign: Sign) -> Option<(usize, String)> {
    let began = Instant::now();
    let mut count = Count::new(failures, began);
    (1..=1000).find_map(|number| {
        let now = began + Duration::from_secs(10) * number;
        count.failed(error, sign, now).map(|dead| (number as usize, dead.text))
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_seen_decides_how_long_silence_is_suffered() {
    let text = "3 probes in a row failed: no answer within 5s; it is stopped by a signal";
    assert_eq!(deadly(3, &silent(), Sign::Stopped), Some((3, text.into())));
    assert_eq!(
        deadly(3, &gone(), Sign::Quiet),
        Some((3, "3 probes in a row failed: no answer: refused".into()))
    );
    // A closed port is no sign of work.
    assert_eq!(deadly(3, &gone(), WORKS).unwrap().0, 3);
    assert_eq!(deadly(3, &silent(), Sign::Quiet).unwrap().0, 12);
    assert_eq!(deadly(1, &silent(), Sign::Stopped).unwrap().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_works_lives_until_it_is_an_endless_loop() {
    let text = "no answer for 600 s, although it computes";
    assert_eq!(deadly(3, &silent(), WORKS), Some((60, text.into())));
}

#[tokio::test(start_paused = true)]
async fn work_and_answers_forgive_what_was_before() {
    let now = Instant::now();
    let mut count = Count::new(3, now);
    for _ in 0..10 {
        assert_eq!(count.failed(&silent(), Sign::Stopped, now), None);
        assert_eq!(count.failed(&gone(), Sign::Quiet, now), None);
        assert_eq!(count.failed(&silent(), WORKS, now), None);
    }
    let later = now + BUSY_LIMIT * 2;
    count.answered(later);
    assert_eq!(count.failed(&silent(), WORKS, later), None);
}

#[test]
fn time_in_which_nobody_watched_does_not_count() {
    let seconds = Duration::from_secs;
    let planned = seconds(10);
    assert!(!lost_time(seconds(10), Some(seconds(10)), planned));
    assert!(!lost_time(seconds(10), None, planned));
    // Behind by rounding, or by a little work of ours.
    assert!(!lost_time(seconds(12), Some(seconds(12)), planned));
    assert!(lost_time(seconds(10), Some(seconds(3600)), planned), "a suspend");
    assert!(lost_time(seconds(25), Some(seconds(25)), planned), "a tick that came late");
    assert!(lost_time(seconds(2), None, Duration::from_millis(300)));
}

fn liveness() -> Liveness {
    Liveness {
        interval: Span::milliseconds(20),
        timeout: Span::milliseconds(60),
        failures: NonZeroU32::new(2).unwrap(),
    }
}

fn prober(target: SocketAddr) -> Prober {
    Prober::new(&Probe::Mcp("/mcp".into()), target, Surroundings::default()).unwrap()
}

#[tokio::test]
async fn a_server_whose_port_is_closed_is_dead_after_so_many_failures() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let dead = watch(&prober(target), &liveness(), std::process::id()).await;
    assert!(dead.text.starts_with("2 probes in a row failed: no answer: "), "{}", dead.text);
}

#[tokio::test]
async fn a_server_that_takes_connections_and_is_stopped_is_found() {
    // The kernel takes them; the process that is looked at is another one, and stopped.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stopped = std::process::Command::new("sh").args(["-c", "kill -STOP $$"]).spawn().unwrap();
    let dead = watch(&prober(listener.local_addr().unwrap()), &liveness(), stopped.id()).await;
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    assert!(dead.text.ends_with("no answer within 60ms; it is stopped by a signal"), "{}", dead.text);
}

proptest! {
    #[test]
    fn nobody_dies_of_fewer_failures_than_allowed(failures in 1u32..6, signs in proptest::collection::vec(0..4u8, 0..40)) {
        let now = Instant::now();
        let mut count = Count::new(failures, now);
        let mut in_a_row = 0;
        for sign in signs {
            let dead = match sign {
                0 => {
                    count.answered(now);
                    in_a_row = 0;
                    None
                }
                1 => count.failed(&silent(), WORKS, now),
                2 => count.failed(&silent(), Sign::Quiet, now),
                _ => count.failed(&gone(), Sign::Quiet, now),
            };
            in_a_row += u32::from(sign != 0);
            if dead.is_some() {
                prop_assert!(in_a_row >= failures);
                break;
            }
        }
    }
}
