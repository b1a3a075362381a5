//! What a look-up costs, and that the time to refuse a token tells nothing about those that are good.
//!
//! Two kinds of wrong tokens are looked up by turns, in an order that is tossed for, and it is counted how often the second
//! kind took longer. Where the kind does not matter that is a coin: 1,000 rounds end within 0.4 and 0.6 but for one run in
//! some billions, however busy the machine is, because what disturbs a round disturbs either half of it alike. The same
//! count has to see a leak of one digest that is planted for it. Tokens are hardly ever used twice: to which place of the map
//! a keyed digest falls takes its own time, which tells nothing, but a few tokens over and over would measure it.

use std::collections::HashSet;

use tokio::time::Instant;

use super::*;
use crate::credentials::tokens::write::mint;

const ROUNDS: usize = 1_000;
/// Look-ups in half a round.
const BATCH: usize = 16;
const NOW: u64 = 1_800_000_000;

struct Ground {
    tokens: Tokens,
    good: Vec<String>,
}

impl Ground {
    fn new(count: usize) -> Self {
        let good: Vec<String> = (0..count).map(|_| mint()).collect();
        let text = serde_json::to_string(&good).unwrap();
        let items = mcp_daemon::tokens::parse("F".as_ref(), &text).unwrap();
        Self { tokens: Tokens::of(&items, 1 << 14).unwrap(), good }
    }

    /// A wrong token that begins as a good one does, for so many bytes.
    fn near(&self, victim: usize, same: usize) -> String {
        loop {
            let wrong = format!("{}{}", &self.good[victim][..same], &mint()[same..]);
            if wrong != self.good[victim] {
                return wrong;
            }
        }
    }

    fn any(&self) -> usize {
        toss() % self.good.len()
    }
}

fn toss() -> usize {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    u32::from_ne_bytes(bytes) as usize
}

/// How often tokens of the second kind take longer.
fn slower(identify: impl Fn(&str), one: impl Fn() -> String, other: impl Fn() -> String) -> f64 {
    let time = |tokens: &[String]| {
        let begun = Instant::now();
        tokens.iter().for_each(|token| identify(token));
        begun.elapsed()
    };
    let mut count = 0.0;
    for _ in 0..ROUNDS {
        // Made by turns, so that neither lies nearer in the caches.
        let (mut kinds, mut others) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            kinds.push(one());
            others.push(other());
        }
        let (first, second) = if toss().is_multiple_of(2) {
            let first = time(&kinds);
            (first, time(&others))
        } else {
            let second = time(&others);
            (time(&kinds), second)
        };
        count += match second.cmp(&first) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Greater => 1.0,
        };
    }
    count / ROUNDS as f64
}

#[test]
fn the_time_to_refuse_does_not_tell_which_token_or_how_much_of_it_matched() {
    let ground = Ground::new(500);
    let identify = |token: &str| assert!(ground.tokens.identify(token, NOW).is_err());
    let last = ground.good.len() - 1;
    let length = ground.good[0].len();
    let stranger = || ground.near(0, 4);
    for (what, share) in [
        ("all but its last byte", slower(identify, stranger, || ground.near(ground.any(), length - 1))),
        ("half of it", slower(identify, stranger, || ground.near(ground.any(), length / 2))),
        ("the last instead of the first", {
            slower(identify, || ground.near(0, length / 2), || ground.near(last, length / 2))
        }),
    ] {
        println!("{what}: {share:.3}");
        assert!((0.4..0.6).contains(&share), "{what} can be told from the time: {share}");
    }
}

#[test]
fn a_leak_of_one_digest_would_be_seen() {
    let ground = Ground::new(500);
    let begins: HashSet<&str> = ground.good.iter().map(|token| &token[..12]).collect();
    let identify = |token: &str| {
        assert!(ground.tokens.identify(token, NOW).is_err());
        if begins.contains(&token[..12]) {
            std::hint::black_box(sha256(token.as_bytes()));
        }
    };
    let share = slower(identify, || ground.near(0, 4), || ground.near(ground.any(), 12));
    println!("a leak: {share:.3}");
    assert!(share > 0.6, "a leak is not seen: {share}");
}

#[test]
fn among_ten_thousand_tokens_a_look_up_takes_microseconds() {
    let ground = Ground::new(10_000);
    let batch = |tokens: &[String], is_good: bool| {
        let begun = Instant::now();
        for token in tokens {
            assert_eq!(ground.tokens.identify(token, NOW).is_ok(), is_good);
        }
        begun.elapsed() / tokens.len() as u32
    };
    let median = |mut times: Vec<std::time::Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let wrong: Vec<String> = (0..10_000).map(|_| mint()).collect();
    let good = median(ground.good.chunks(50).map(|tokens| batch(tokens, true)).collect());
    let wrong = median(wrong.chunks(50).map(|tokens| batch(tokens, false)).collect());
    println!("good {good:?}, wrong {wrong:?}");
    // The whole of authentication may take 20 µs.
    assert!(good.max(wrong) < std::time::Duration::from_micros(20), "good {good:?}, wrong {wrong:?}");
}
