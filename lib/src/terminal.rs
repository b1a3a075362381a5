//! What a person reads at a terminal: how long, how much, foreign text that cannot do harm, tables, and the line that says how
//! far a long work is.

mod progress;

pub use self::progress::Progress;

/// Longest explanation in characters that [`clean`] leaves; the rest is in `--json` and the log.
const MAX_CLEAN: usize = 300;

/// In one line, bounded, without anything that a terminal would obey: it may come from a server's output.
pub fn clean(text: &str) -> String {
    let mut clean: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MAX_CLEAN).collect();
    if text.chars().nth(MAX_CLEAN).is_some() {
        clean.push('…');
    }
    clean.trim().to_owned()
}

/// A duration at a glance: `5 s`, `3 min`, `47 h`, `9 days`.
pub fn spell(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The lines of a table, the headings first, each column as wide as what stands in it; those named in `right` are numbers
/// and stand right.
pub fn table<const N: usize>(headings: [&str; N], right: &[usize], rows: &[[String; N]]) -> Vec<String> {
    let headings = headings.map(str::to_owned);
    let all = || std::iter::once(&headings).chain(rows);
    let widths: Vec<usize> = (0..N)
        .map(|column| all().map(|cells| cells[column].chars().count()).max().unwrap_or_default())
        .collect();
    let line = |cells: &[String; N]| {
        let cell = |(column, cell): (usize, &String)| {
            let width = widths[column];
            if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        let cells: Vec<String> = cells.iter().enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned()
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_bounded_line() {
        assert_eq!(clean(" a\x1b[2J\nb\t"), "a [2J b");
        assert_eq!(clean(&"x".repeat(MAX_CLEAN + 1)), format!("{}…", "x".repeat(MAX_CLEAN)));
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(spell(seconds), text);
        }
    }

    #[test]
    fn a_column_is_as_wide_as_what_stands_in_it() {
        let rows = [["a-long-name", "7"], ["b", "12345"]].map(|row| row.map(str::to_owned));
        let lines = table(["NAME", "PID"], &[1], &rows);
        assert_eq!(lines, ["NAME           PID", "a-long-name      7", "b            12345"]);
    }
}
