//! Lines for people: filtered, one row each, and as they come if asked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mcp_daemon::terminal::clean;

use super::line::Line;

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Which lines to show.
#[derive(Debug, Default)]
pub struct Filter {
    /// Only of this subject.
    pub subject: Option<String>,
    /// Only of this route.
    pub route: Option<String>,
    /// Only what was refused or failed.
    pub refused: bool,
}

impl Filter {
    /// Whether a line is to be shown.
    pub fn takes(&self, line: &Line<'_>) -> bool {
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        fits(&self.subject, line.subject.as_deref())
            && fits(&self.route, line.route.as_deref())
            && (!self.refused || line.status >= 400 || line.reason.is_some())
    }
}

/// A line as a row: time, who, what, how it ended.
pub fn row(line: &Line<'_>) -> String {
    let who = match (&line.subject, &line.token) {
        (Some(subject), _) => subject.to_string(),
        (None, Some(token)) => format!("token {token}"),
        (None, None) => "-".to_owned(),
    };
    let what = match (&*line.method, &*line.name) {
        ("", _) => line.http.to_string(),
        (method, "") => method.to_owned(),
        (method, name) => format!("{method} {name}"),
    };
    let from = line.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let mut row = format!(
        "{}  {who:<20}  {from:<15}  {:>3}  {:>9.1} ms  {:>9} B  {what}",
        line.time, line.status, line.ms, line.bytes
    );
    if line.cut {
        row.push_str("  (cut)");
    }
    if let Some(reason) = &line.reason {
        row.push_str(&format!("  {reason}"));
    }
    clean(&row)
}

/// Shows what `source` has; text that is no line of an audit is passed over, since a journal holds other things too.
pub fn show(source: impl Read, filter: &Filter, json: bool, out: &mut impl Write) -> io::Result<()> {
    let mut source = BufReader::new(source);
    let mut text = Vec::new();
    while source.read_until(b'\n', &mut text)? > 0 {
        show_line(&text, filter, json, out)?;
        text.clear();
    }
    out.flush()
}

fn show_line(text: &[u8], filter: &Filter, json: bool, out: &mut impl Write) -> io::Result<()> {
    let Ok(line) = serde_json::from_slice::<Line<'_>>(text) else { return Ok(()) };
    if !filter.takes(&line) {
        return Ok(());
    }
    if json {
        return out.write_all(text.trim_ascii_end()).and_then(|()| out.write_all(b"\n"));
    }
    writeln!(out, "{}", row(&line))
}

/// The same for a file and what is added to it, for ever; goes on with the new file when the old one was moved away.
pub async fn follow(path: &Path, filter: &Filter, json: bool, out: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut rest = Vec::new();
    loop {
        file.read_to_end(&mut rest)?;
        // A line that is still being written waits for its end.
        if let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') {
            for text in rest[..end].split(|byte| *byte == b'\n') {
                show_line(text, filter, json, out)?;
            }
            rest.drain(..=end);
            out.flush()?;
        }
        tokio::time::sleep(LOOK).await;
        let (ours, at) = (file.metadata()?, file.stream_position()?);
        if ours.len() < at {
            // Emptied in place.
            file.seek(SeekFrom::Start(0))?;
            rest.clear();
        } else if ours.len() == at && std::fs::metadata(path).is_ok_and(|new| new.ino() != ours.ino()) {
            file = File::open(path)?;
            rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"time":"2026-01-02T03:04:05.678Z","subject":"alice","token":"0123abcd","address":"192.0.2.7","route":"a","http":"POST","method":"tools/call","name":"find_symbol","status":200,"bytes":17,"ms":1.25}
INFO some other text
{"time":"2026-01-02T03:04:06Z","token":"ffff0000","http":"POST","status":401,"bytes":92,"ms":250.5,"reason":"nobody knows this token"}
"#;

    fn shown(filter: &Filter) -> String {
        let mut out = Vec::new();
        show(LINES.as_bytes(), filter, false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_become_rows_and_other_text_is_passed_over() {
        let all = shown(&Filter::default());
        assert_eq!(all.lines().count(), 2);
        assert!(all.contains("alice") && all.contains("tools/call find_symbol") && all.contains("200"));
        assert!(all.contains("token ffff0000") && all.contains("nobody knows this token"));
    }

    #[test]
    fn a_filter_takes_what_fits_all_of_it() {
        let alice = Filter { subject: Some("alice".into()), ..Filter::default() };
        assert_eq!(shown(&alice).lines().count(), 1);
        assert_eq!(shown(&Filter { refused: true, ..Filter::default() }).lines().count(), 1);
        assert_eq!(shown(&Filter { refused: true, ..alice }), "");
    }

    #[test]
    fn control_characters_of_a_client_do_not_reach_the_terminal() {
        let evil = r#"{"time":"2026-01-02T03:04:06Z","http":"POST","method":"a\u001b[2J","status":200,"bytes":0,"ms":0.0}"#;
        let mut out = Vec::new();
        show(evil.as_bytes(), &Filter::default(), false, &mut out).unwrap();
        assert!(!out.contains(&0x1b));
    }
}
