//! What a misspelt key was probably meant to be. All that a daemon knows fill a line several times over, and the one that
//! was meant is then hard to find.

/// How many keys are named; where there is one more, that is named as well.
const NAMED: usize = 3;

/// serde's sentence about an unknown key with the nearest of those that are known; any other sentence as it is.
pub(super) fn shortened(message: &str) -> String {
    let parts =
        message.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected one of "));
    let Some((found, known)) = parts else { return message.to_owned() };
    let mut known: Vec<&str> = known.split(", ").collect();
    if known.len() <= NAMED + 1 {
        return message.to_owned();
    }
    known.sort_by_key(|name| distance(found, name.trim_matches('`')));
    let others = known.len() - NAMED;
    format!("unknown field `{found}`, expected one of {} or {others} others", known[..NAMED].join(", "))
}

/// How many characters have to be put in, left out or replaced, or swapped with their neighbour, to make `one` of `other`.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Rows of the usual table: row `i`, column `j` is the distance of the first `i` characters from the first `j`.
    let (mut before, mut above): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=other.len()).collect());
    for i in 0..one.len() {
        let mut row = vec![i + 1];
        for j in 0..other.len() {
            let replaced = above[j] + usize::from(one[i] != other[j]);
            let mut least = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && one[i] == other[j - 1] && one[i - 1] == other[j] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_of_many_come_first_and_the_others_are_counted() {
        let said = |found| {
            format!(
                "unknown field `{found}`, expected one of `listen`, `grace`, `body`, `upstream`, `path`, `hold`"
            )
        };
        for (found, expected) in [
            ("upsteam", "expected one of `upstream`, "),
            ("gcare", "expected one of `grace`, "),
            ("bodies", "expected one of `body`, "),
            ("a`, expected one of b", "expected one of "),
        ] {
            let line = shortened(&said(found));
            assert!(line.starts_with(&format!("unknown field `{found}`, {expected}")), "{line}");
            assert!(line.ends_with(" or 3 others"), "{line}");
        }
    }

    #[test]
    fn a_few_are_all_named_and_other_sentences_stay() {
        for line in [
            "unknown field `x`, expected one of `a`, `b`, `c`, `d`",
            "unknown field `x`, expected `a` or `b`",
            "unknown field `x`, there are no fields",
            "missing field `url`",
        ] {
            assert_eq!(shortened(line), line);
        }
    }

    #[test]
    fn one_slip_of_the_finger_is_one() {
        for (one, other, far) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abd", "abc", 1),
            ("ab", "abc", 1),
            ("bac", "abc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(one, other), distance(other, one)), (far, far), "{one} {other}");
        }
    }
}
