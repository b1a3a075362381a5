//! Command lines: ours up to `--`, that of a server after it. Every mistake is one line.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use argh::TopLevelCommand;

use crate::exit::{Exit, Failure};

/// Why nothing is run.
#[derive(Debug)]
pub enum Early {
    /// Somebody asked for words.
    Help(String),
    /// One line about what is wrong.
    Usage(String),
}

impl Early {
    /// Says it: help on stdout is a success, a mistake goes to stderr under the program's name.
    pub fn tell(self, program: &str) -> ExitCode {
        match self {
            Early::Help(text) => {
                // Whoever pipes it into `head` has read enough.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Early::Usage(line) => {
                eprintln!("{program}: {line}");
                Exit::Usage.into()
            }
        }
    }
}

/// Cuts the command line at `--`: what follows is the server's command line.
pub fn split(args: impl Iterator<Item = OsString>) -> (Vec<OsString>, Option<Vec<OsString>>) {
    let mut own: Vec<OsString> = args.collect();
    let Some(at) = own.iter().position(|arg| arg == "--") else { return (own, None) };
    let command = own.split_off(at);
    (own, Some(command[1..].to_vec()))
}

/// A server's command line as text, which settings are.
pub fn texts(command: Vec<OsString>) -> Result<Vec<String>, Failure> {
    let text = |arg: OsString| {
        arg.into_string().map_err(|arg| Failure::usage(format!("`{}` is not UTF-8", arg.to_string_lossy())))
    };
    command.into_iter().map(text).collect()
}

/// Reads our own part of the command line, whose first word is the program.
pub fn parse<T: TopLevelCommand>(program: &str, own: &[OsString]) -> Result<T, Early> {
    let mut words = Vec::with_capacity(own.len());
    for arg in own.iter().skip(1) {
        let word =
            arg.to_str().ok_or_else(|| Early::Usage(format!("`{}` is not UTF-8", arg.to_string_lossy())))?;
        words.push(word);
    }
    T::from_args(&[program], &words).map_err(|early| match early.status {
        Ok(()) => Early::Help(format!("{}\n", early.output.trim_end())),
        // argh says it in several lines; the first says what is wrong, `--help` tells the rest.
        Err(()) => {
            Early::Usage(format!("{}; see {program} --help", one_line(&early.output).trim_end_matches('.')))
        }
    })
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Run "))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test.
    #[derive(argh::FromArgs, Debug)]
    struct Args {
        /// a number
        #[argh(option)]
        number: Option<u32>,
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn what_follows_the_dashes_is_the_servers() {
        let (own, command) = split(words("p --number 1 -- serena --help -- x").into_iter());
        assert_eq!(parse::<Args>("p", &own).unwrap().number, Some(1));
        assert_eq!(command.unwrap(), words("serena --help -- x"));
        assert_eq!(split(words("p --number 1").into_iter()).1, None);
    }

    #[test]
    fn a_mistake_is_one_line_that_says_where_help_is() {
        for line in ["p --numbre 1", "p --number one", "p x"] {
            let Err(Early::Usage(text)) = parse::<Args>("p", &words(line)) else { panic!("{line}") };
            assert!(!text.contains('\n') && text.ends_with("; see p --help"), "{text}");
        }
        assert!(
            matches!(parse::<Args>("p", &words("p --help")), Err(Early::Help(text)) if text.contains("a number"))
        );
    }
}
