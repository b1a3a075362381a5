//! What the command line says about settings; the same flags for every command that uses a store.

use std::path::PathBuf;
use std::str::FromStr;

use mcp_daemon::addr::{Listen, Route};

use super::Interval;
use crate::layout::Partition;
use crate::store::Location;

/// The flags; what is not given is `None`, empty or false.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--store`.
    pub store: Option<Location>,
    /// `--endpoint`.
    pub endpoint: Option<String>,
    /// `--region`.
    pub region: Option<String>,
    /// `--partition`.
    pub partition: Option<Partition>,
    /// `--home`.
    pub home: Option<PathBuf>,
    /// `--root`, each.
    pub root: Vec<NamedRoot>,
    /// `--strict`.
    pub strict: bool,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--control`.
    pub control: Option<PathBuf>,
    /// `--interval`.
    pub interval: Option<Interval>,
    /// `--observe`.
    pub observe: Option<Listen>,
}

/// One more directory of a snapshot: `name=path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedRoot {
    /// Its name in the snapshot.
    pub name: Route,
    /// Where it is.
    pub path: PathBuf,
}

impl FromStr for NamedRoot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a root; write NAME=PATH, such as web=/srv/web/.serena");
        let (name, path) = text.split_once('=').ok_or_else(wrong)?;
        let name = name.parse().map_err(|_| wrong())?;
        if path.is_empty() { Err(wrong()) } else { Ok(NamedRoot { name, path: path.into() }) }
    }
}
