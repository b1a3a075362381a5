//! What makes one instance's settings impossible, beyond what their types already refuse.

use std::collections::BTreeSet;

use super::ConfigProblem;
use super::probe::{Probe, is_path};
use super::settings::{Hook, Settings};
use crate::placeholders::{Key, keys};

/// Checks settings whose paths are filled in; `at` is their key, such as `instance.a`.
pub(super) fn check(at: &str, settings: &Settings) -> Result<(), ConfigProblem> {
    let check = Check { at, settings };
    check.command()?;
    let used = check.placeholders()?;
    check.port(&used)?;
    check.probe(&used)?;
    check.amounts()
}

struct Check<'a> {
    at: &'a str,
    settings: &'a Settings,
}

impl Check<'_> {
    fn refuse<T>(&self, field: &str, what: impl ToString) -> Result<T, ConfigProblem> {
        Err(ConfigProblem::key(format!("{}.{field}", self.at), what))
    }

    fn command(&self) -> Result<(), ConfigProblem> {
        let program = |field: &str, command: &[String]| match command.first() {
            None => self.refuse(field, "missing; write [\"program\", \"argument\"]"),
            Some(program) if program.trim().is_empty() => {
                self.refuse(field, "the program is empty; write [\"program\", \"argument\"]")
            }
            Some(_) => Ok(()),
        };
        program("command", &self.settings.command)?;
        if let Probe::Exec(command) = &self.settings.probe {
            program("probe.exec", command)?;
        }
        for (field, hook) in self.hooks() {
            program(&field, &hook.command)?;
        }
        let named = self.settings.env.keys().map(|name| ("env", name));
        for (field, name) in named.chain(self.settings.withhold.iter().map(|name| ("withhold", name))) {
            if name.is_empty() || name.contains(['=', '\0']) {
                return self
                    .refuse(field, format!("`{}` cannot be the name of a variable", name.escape_debug()));
            }
        }
        Ok(())
    }

    fn hooks(&self) -> impl Iterator<Item = (String, &Hook)> {
        let hooks = &self.settings.hooks;
        let all = [("before_start", &hooks.before_start), ("after_stop", &hooks.after_stop)];
        all.into_iter().filter_map(|(name, hook)| Some((format!("hooks.{name}.command"), hook.as_ref()?)))
    }

    /// The placeholders that the server itself is told, all of them known and with a value.
    fn placeholders(&self) -> Result<BTreeSet<Told>, ConfigProblem> {
        let mut told = BTreeSet::new();
        for text in &self.settings.command {
            told.extend(self.known("command", text, true)?);
        }
        for (name, value) in &self.settings.env {
            told.extend(self.known(&format!("env.{name}"), value, true)?);
        }
        if let Probe::Exec(command) = &self.settings.probe {
            for text in command {
                self.known("probe.exec", text, false)?;
            }
        }
        for (field, hook) in self.hooks() {
            for text in &hook.command {
                self.known(&field, text, false)?;
            }
        }
        Ok(told)
    }

    fn known(&self, field: &str, text: &str, is_server: bool) -> Result<Vec<Told>, ConfigProblem> {
        if text.contains('\0') {
            return self.refuse(field, "has a zero byte, which no process can be given");
        }
        let found = match keys(text) {
            Ok(found) => found,
            // The value of a variable may be a secret.
            Err(_) if field.starts_with("env.") => {
                return self
                    .refuse(field, "has a placeholder in braces that there is not; write {{ for a brace");
            }
            Err(error) => return self.refuse(field, error),
        };
        let mut told = Vec::new();
        for key in found {
            match key {
                Key::Fd if !is_server => {
                    return self
                        .refuse(field, "`{fd}` is the server's; it can stand in `command` and `env` only");
                }
                Key::Fd if self.settings.probe != Probe::Fd => {
                    return self.refuse(field, "`{fd}` has no value: write probe = \"fd\" too");
                }
                Key::Fd => told.push(Told::Fd),
                Key::Home if self.settings.home.is_none() => {
                    return self.refuse(field, "`{home}` has no value: `home` is not set");
                }
                Key::Socket if self.settings.socket.is_none() => {
                    return self.refuse(field, "`{socket}` has no value: `socket` is not set");
                }
                Key::Home | Key::Name | Key::Socket => {}
                Key::Port => told.push(Told::Port),
            }
        }
        Ok(told)
    }

    fn port(&self, told: &BTreeSet<Told>) -> Result<(), ConfigProblem> {
        if self.settings.port.is_some() || told.contains(&Told::Port) {
            return Ok(());
        }
        let advice = "add {port} to the command, as in --port {port}, or set `port` to the one it listens on";
        if self.settings.socket.is_some() {
            return self.refuse("command", format!("nobody would know where `socket` leads to; {advice}"));
        }
        if self.settings.probe.asks_port() {
            let probe = &self.settings.probe;
            return self
                .refuse("command", format!("the probe `{probe}` would not know where to ask; {advice}"));
        }
        Ok(())
    }

    fn probe(&self, told: &BTreeSet<Told>) -> Result<(), ConfigProblem> {
        if self.settings.probe == Probe::Fd && !told.contains(&Told::Fd) {
            return self.refuse(
                "probe",
                "\"fd\" needs a server that is told the descriptor; add {fd} to the command, as in --ready-fd {fd}",
            );
        }
        match &self.settings.stop.http {
            Some(path) if !is_path(path) => {
                self.refuse("stop.http", format!("`{path}` is not a path; write /shutdown"))
            }
            _ => Ok(()),
        }
    }

    fn amounts(&self) -> Result<(), ConfigProblem> {
        let (limits, backoff) = (&self.settings.limits, &self.settings.backoff);
        if let (Some(soft), Some(hard)) = (limits.memory_soft, limits.memory_hard)
            && soft >= hard
        {
            return self
                .refuse("limits.memory_soft", format!("`{soft}` is not less than memory_hard, `{hard}`"));
        }
        if backoff.first > backoff.longest {
            let (first, longest) = (backoff.first, backoff.longest);
            return self.refuse("backoff.first", format!("`{first}` is more than longest, `{longest}`"));
        }
        Ok(())
    }
}

/// What a server learns by a placeholder that the supervisor depends on.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Told {
    Fd,
    Port,
}
