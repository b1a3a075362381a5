//! From settings to instances: each name gets its own paths, and no two may share what only one can have.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use mcp_daemon::addr::{AddrError, Listen, Route};

use super::check::check;
use super::order;
use super::settings::Settings;
use super::sleep::SleepAfter;
use super::template::Template;
use super::{Config, ConfigProblem};
use crate::placeholders::{Key, Values, keys};

impl Config {
    /// Refuses what parsing alone cannot see.
    pub fn check(&self) -> Result<(), ConfigProblem> {
        self.instances().map(drop)
    }

    /// All instances, in the order of their names, each with its own home, directory and socket; `command`, `env` and
    /// hooks are filled in at each start. Reads `names_from`.
    pub fn instances(&self) -> Result<Vec<(Route, Settings)>, ConfigProblem> {
        let mut all: BTreeMap<Route, (String, Settings)> = BTreeMap::new();
        for (name, settings) in &self.instance {
            let key = format!("instance.{name}");
            let route: Route = name.parse().map_err(|error| not_a_name("instance", error))?;
            all.insert(route.clone(), (key.clone(), expand(&key, &route, settings)?));
        }
        if let Some(template) = &self.template {
            for (route, settings) in of_template(template)? {
                let taken = all.insert(route.clone(), ("template".into(), settings));
                if let Some((key, _)) = taken {
                    return Err(ConfigProblem::key(
                        "template",
                        format!(
                            "has the name `{route}`, which is also that of [{key}]; rename one of the two"
                        ),
                    ));
                }
            }
        } else if all.is_empty() {
            return Err(ConfigProblem::key(
                "instance",
                "there is none; write [instance.NAME] or [template] with a command, or say: run -- COMMAND",
            ));
        }
        refuse_shared(&all)?;
        order::check(&all)?;
        Ok(all.into_iter().map(|(route, (_, settings))| (route, settings)).collect())
    }
}

fn not_a_name(key: &str, error: AddrError) -> ConfigProblem {
    // The rule is that of routes, because requests are sent by this name.
    ConfigProblem::key(key, error.to_string().replace("is not a route", "is not a name"))
}

fn of_template(template: &Template) -> Result<Vec<(Route, Settings)>, ConfigProblem> {
    if template.names.is_empty() && template.names_from.is_none() {
        return Err(ConfigProblem::key(
            "template.names",
            "missing; write names = [\"alice\", \"bob\"] or names_from",
        ));
    }
    refuse_one_for_all(&template.settings)?;
    // Checked even while there are no names yet.
    let example: Route = "a".parse().map_err(|error| not_a_name("template.names", error))?;
    expand("template", &example, &template.settings)?;
    let names = template.all_names().map_err(|error| ConfigProblem::key("template.names_from", error))?;
    let instance = |name: &String| {
        let route: Route = name.parse().map_err(|error| not_a_name("template.names", error))?;
        Ok((route.clone(), expand("template", &route, &template.settings)?))
    };
    names.iter().map(instance).collect()
}

/// What would be the same for every name of a template, and must not be.
fn refuse_one_for_all(settings: &Settings) -> Result<(), ConfigProblem> {
    let has_name = |text: &str| keys(text).is_ok_and(|keys| keys.contains(&Key::Name));
    if let Some(port) = settings.port {
        return Err(ConfigProblem::key(
            "template.port",
            format!(
                "{port} cannot be that of every instance; leave it out, each gets a free one as {{port}}"
            ),
        ));
    }
    let home = settings.home.as_ref().map(|home| home.display().to_string());
    if let Some(home) = home.as_ref().filter(|home| !has_name(home)) {
        return Err(ConfigProblem::key("template.home", format!("`{home}` would be shared; add {{name}}")));
    }
    let socket = settings.socket.as_ref().map(Listen::to_string);
    let own = |socket: &String| has_name(socket) || home.is_some() && socket.contains("{home}");
    if let Some(socket) = socket.filter(|socket| !own(socket)) {
        return Err(ConfigProblem::key(
            "template.socket",
            format!("`{socket}` would be shared; write unix:/run/serena/{{name}}/mcp.sock"),
        ));
    }
    Ok(())
}

/// The settings of one name, with its own paths, checked.
fn expand(key: &str, name: &Route, settings: &Settings) -> Result<Settings, ConfigProblem> {
    let mut own = settings.clone();
    let values = Values { name: name.to_string(), port: 0, home: None, socket: None, fd: None };
    let mut fill = Fill { key, values };
    own.home = settings.home.as_ref().map(|home| fill.path("home", home)).transpose()?;
    if own.home.as_deref() == Some(Path::new("/")) {
        return Err(fill.problem("home", "`/` cannot be a home: its lock stands beside it"));
    }
    fill.values.home.clone_from(&own.home);
    own.directory = settings.directory.as_ref().map(|path| fill.path("directory", path)).transpose()?;
    own.socket = settings.socket.as_ref().map(|socket| fill.socket(socket)).transpose()?;
    if own.socket.is_none() {
        own.sleep_after = SleepAfter::Never;
    }
    check(key, &own)?;
    Ok(own)
}

/// Fills in what is known before any start: the name and the home.
struct Fill<'a> {
    key: &'a str,
    values: Values,
}

impl Fill<'_> {
    fn problem(&self, field: &str, what: impl ToString) -> ConfigProblem {
        ConfigProblem::key(format!("{}.{field}", self.key), what)
    }

    fn text(&self, field: &str, text: &str) -> Result<String, ConfigProblem> {
        let found = keys(text).map_err(|error| self.problem(field, error))?;
        // A port or a descriptor is known only once the server starts.
        if let Some(key) = found.into_iter().find(|key| matches!(key, Key::Fd | Key::Port | Key::Socket)) {
            return Err(self.problem(field, format!("`{key}` cannot stand here, only {{name}} and {{home}}")));
        }
        self.values.fill(text).map_err(|error| self.problem(field, format!("{error}: `home` is not set")))
    }

    fn path(&self, field: &str, path: &Path) -> Result<PathBuf, ConfigProblem> {
        let filled = self.text(field, &path.display().to_string())?;
        if !filled.starts_with('/') {
            let what = format!("`{filled}` is not an absolute path; write one like /var/lib/serena");
            return Err(self.problem(field, what));
        }
        if filled.contains('\0') || Path::new(&filled).components().any(|part| part == Component::ParentDir) {
            let what =
                format!("`{}` has `..` or a zero byte in it; write the path without", filled.escape_debug());
            return Err(self.problem(field, what));
        }
        // Two spellings of one path must look the same, or two instances could share it.
        Ok(Path::new(&filled).components().collect())
    }

    fn socket(&self, socket: &Listen) -> Result<Listen, ConfigProblem> {
        let filled = self.text("socket", &socket.to_string())?;
        let listen = filled.parse().map_err(|error: AddrError| self.problem("socket", error))?;
        Ok(match listen {
            Listen::Unix(path) => Listen::Unix(path.components().collect()),
            Listen::Inherited(_) | Listen::Tcp(_) => listen,
        })
    }
}

fn refuse_shared(all: &BTreeMap<Route, (String, Settings)>) -> Result<(), ConfigProblem> {
    let mut taken: BTreeMap<(&str, String), &Route> = BTreeMap::new();
    for (route, (key, settings)) in all {
        let socket = settings.socket.as_ref().filter(|socket| !is_any_port(socket)).map(Listen::to_string);
        let home = settings.home.as_ref().map(|home| home.display().to_string());
        let port = settings.port.map(|port| port.to_string());
        for (field, value) in [("socket", socket), ("home", home), ("port", port)] {
            let Some(value) = value else { continue };
            if let Some(other) = taken.insert((field, value.clone()), route) {
                return Err(ConfigProblem::key(
                    format!("{key}.{field}"),
                    format!("`{value}` is also that of the instance `{other}`; each needs its own"),
                ));
            }
        }
    }
    Ok(())
}

/// Port 0 is a different port for everybody.
fn is_any_port(socket: &Listen) -> bool {
    matches!(socket, Listen::Tcp(address) if address.port() == 0)
}
