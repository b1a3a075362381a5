//! The log: one line per event on stderr, a lower-case sentence and then its facts as `key=value`.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Target};
use log::kv::{Key, Value, VisitSource};
use log::{Level, Record};

/// Starts logging for the process; `RUST_LOG` chooses what is shown, by default `info`. Under the journal lines carry
/// a priority instead of time and level. `daemon` is named in the line that reports a second start.
pub fn init(daemon: &'static str) {
    start(daemon, "info", Target::Stderr);
}

/// The same with another default, such as `warn`, and through `sink`, which leads to stderr in a way of its own.
pub fn init_through(daemon: &'static str, default: &str, sink: Box<dyn Write + Send>) {
    start(daemon, default, Target::Pipe(sink));
}

fn start(daemon: &'static str, default: &str, target: Target) {
    let journal = goes_to_journal();
    let started = Builder::from_env(Env::default().default_filter_or(default))
        .target(target)
        .format(move |out, record| if journal { journal_line(out, record) } else { plain_line(out, record) })
        .try_init();
    if started.is_err() {
        log::warn!(daemon; "logging was started already");
    }
}

fn plain_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let time = out.timestamp_millis();
    writeln!(out, "{time} {} {}", record.level(), event(record))
}

fn journal_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    writeln!(out, "<{priority}>{}", event(record))
}

/// The sentence and its facts, without a line end in it.
fn event(record: &Record<'_>) -> String {
    let mut line = Line(String::new());
    push_escaped(&mut line.0, &record.args().to_string());
    record.key_values().visit(&mut line).expect("writing to a String cannot fail");
    line.0
}

struct Line(String);

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push(' ');
        self.0.push_str(key.as_str());
        self.0.push('=');
        let text = value.to_string();
        if text.is_empty() || text.contains([' ', '"', '=']) {
            self.0.push('"');
            push_escaped(&mut self.0, &text.replace('\\', "\\\\").replace('"', "\\\""));
            self.0.push('"');
        } else {
            push_escaped(&mut self.0, &text);
        }
        Ok(())
    }
}

/// Values may come from peers: no control character may end or colour a line.
fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
}

/// Whether stderr is the journal itself: a shell started by a service inherits `JOURNAL_STREAM` without the stream.
fn goes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: &[(&str, &str)], sentence: &str) -> String {
        event(&Record::builder().args(format_args!("{sentence}")).key_values(&pairs).build())
    }

    #[test]
    fn facts_follow_the_sentence_and_are_quoted_where_they_must_be() {
        assert_eq!(
            shown(&[("attempts", "3"), ("upstream", "unix:/x")], "session healed"),
            "session healed attempts=3 upstream=unix:/x"
        );
        assert_eq!(
            shown(&[("error", r#"a "b" c\d"#), ("none", "")], "x"),
            r#"x error="a \"b\" c\\d" none="""#
        );
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        let line = shown(&[("name", "a\nERROR all is lost"), ("colour", "\x1b[31m")], "one\ntwo");
        assert_eq!(line, r#"one\ntwo name="a\nERROR all is lost" colour=\u{1b}[31m"#);
    }
}
