//! The command line.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use argh::FromArgs;
use mcp_daemon::addr::Listen;
use mcp_daemon::args::{self, Early};
use snapshotd::config::{Flags, Interval, NamedRoot};
use snapshotd::engine::Selector;
use snapshotd::layout::{Id, Partition};
use snapshotd::store::Location;

/// What to type, for somebody who typed nothing.
const EXAMPLES: &str = "\
serena-snapshotd keeps SERENA_HOME safe: snapshots to a directory or S3, restored where the home is empty.

  serena-snapshotd run --partition laptop --store s3://bucket/serena   restores an empty home, then a snapshot every 3 minutes
  serena-snapshotd restore --partition laptop                          the newest snapshot into an empty home
  serena-snapshotd snapshot                                            now
  serena-snapshotd list                                                what is there?
  serena-snapshotd status                                              is all well?

  serena-snapshotd show 12 | diff 11 12 | cat 12 home/serena_config.yml
  serena-snapshotd verify --read-data | prune --dry-run | pin 12 | import | adopt --local
  serena-snapshotd check --config serena-snapshotd.toml                are these settings right?

Where a daemon runs, commands ask it. All flags: serena-snapshotd --help, serena-snapshotd run --help
";

/// Keeps SERENA_HOME safe: snapshots to a local directory or S3 that cannot lose the last good copy, and a restore that
/// changes everything or nothing.
#[derive(FromArgs, Debug)]
#[argh(
    example = "serena-snapshotd run --partition laptop --store s3://bucket/serena --endpoint https://s3.example.org",
    example = "serena-snapshotd restore --partition laptop && serena start-mcp-server",
    note = "Stores: s3://bucket/prefix, file:///dir (default: a directory of this user). The partition is the name of this home in the store; one name for each home.",
    note = "Keys of a bucket: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or files that the settings name; never flags. Snapshots: 12, latest, or an id of `list`.",
    note = "All settings and variables: docs/serena-snapshotd.toml.",
    error_code(64, "wrong command line"),
    error_code(69, "no such snapshot, no daemon, or the store cannot be reached"),
    error_code(
        75,
        "try again: the store is busy, a disk is full, or nobody can tell whether there is a snapshot"
    ),
    error_code(78, "wrong settings or keys")
)]
pub struct Args {
    /// print the version
    #[argh(switch)]
    pub version: bool,
    #[argh(subcommand)]
    /// what to do
    pub command: Option<Command>,
}

/// What to do.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    Adopt(Adopt),
    Cat(Cat),
    Check(Check),
    Diff(Diff),
    Import(Import),
    List(List),
    Pin(Pin),
    Prune(Prune),
    Restore(Restore),
    Run(Run),
    Show(Show),
    Snapshot(Snapshot),
    Status(Status),
    Unpin(Unpin),
    Verify(Verify),
}

/// A command with flags of its own and those that all commands have.
macro_rules! command {
    ($(#[$about:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ident $(<$of:ident>)?,)* }) => {
        #[derive(FromArgs, Debug)]
        $(#[$about])*
        pub struct $name {
            $($(#[$meta])* pub $field: $type $(<$of>)?,)*
            /// settings, a TOML file
            #[argh(option, arg_name = "file")]
            pub config: Option<PathBuf>,
            /// where snapshots are kept: s3://bucket/prefix or file:///dir (default: a directory of this user)
            #[argh(option, arg_name = "store")]
            pub store: Option<Location>,
            /// the name of this home in the store; needed, here or in the settings
            #[argh(option, arg_name = "name")]
            pub partition: Option<Partition>,
            /// what is kept safe (default: $SERENA_HOME, else ~/.serena)
            #[argh(option, arg_name = "dir")]
            pub home: Option<PathBuf>,
            /// one more directory, as name=path, such as web=/srv/web/.serena; repeat for several
            #[argh(option, arg_name = "name=path")]
            pub root: Vec<NamedRoot>,
            /// URL of the S3 service (default: that of AWS)
            #[argh(option, arg_name = "url")]
            pub endpoint: Option<String>,
            /// region of the bucket (default: us-east-1, on Cloudflare R2 auto)
            #[argh(option, arg_name = "region")]
            pub region: Option<String>,
            /// do not start while nobody can tell whether there is a snapshot
            #[argh(switch)]
            pub strict: bool,
            /// where the default store is, and what waits for its upload
            #[argh(option, arg_name = "dir")]
            pub state_dir: Option<PathBuf>,
            /// control socket of the daemon (default: that of this user's daemon; a command works alone where none is there)
            #[argh(option, arg_name = "socket")]
            pub control: Option<PathBuf>,
        }

        impl $name {
            /// The flags that all commands have.
            pub fn flags(&self) -> Flags {
                Flags {
                    config: self.config.clone(),
                    store: self.store.clone(),
                    endpoint: self.endpoint.clone(),
                    region: self.region.clone(),
                    partition: self.partition.clone(),
                    home: self.home.clone(),
                    root: self.root.clone(),
                    strict: self.strict,
                    state_dir: self.state_dir.clone(),
                    control: self.control.clone(),
                    interval: None,
                    observe: None,
                }
            }
        }
    };
}

command! {
    /// Settle which side wins after this home and the newest snapshot went different ways.
    #[argh(
        subcommand,
        name = "adopt",
        note = "--local: this home is published next, and follows the newest snapshot. --remote: the newest snapshot replaces this home, which is kept beside itself and as a fork."
    )]
    Adopt {
        /// this home wins
        #[argh(switch)]
        local: bool,
        /// the newest snapshot wins
        #[argh(switch)]
        remote: bool,
    }
}

command! {
    /// Print one file of a snapshot.
    #[argh(subcommand, name = "cat")]
    Cat {
        /// which: 12, latest or an id
        #[argh(positional)]
        id: Selector,
        /// the file, as `show` has it: home/serena_config.yml
        #[argh(positional)]
        path: String,
    }
}

command! {
    /// Say whether settings are right, without asking a store or reading a key.
    #[argh(subcommand, name = "check")]
    Check {
    }
}

command! {
    /// Say what differs between two snapshots.
    #[argh(subcommand, name = "diff")]
    Diff {
        /// the first: 11, latest or an id
        #[argh(positional)]
        one: Selector,
        /// the second
        #[argh(positional)]
        other: Selector,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Take over the newest archive of the Cloudflare wrapper, as the first snapshot of a partition.
    #[argh(
        subcommand,
        name = "import",
        note = "Without --from it is looked for where the wrapper keeps it: LATEST and snapshots/ in the store, below the partition. The home itself is not touched: `restore` follows."
    )]
    Import {
        /// a tar.gz archive, a directory with LATEST and snapshots/, or s3://bucket/prefix below which those are
        #[argh(option, arg_name = "place")]
        from: Option<String>,
        /// this archive instead of the one that LATEST names
        #[argh(option, arg_name = "name")]
        archive: Option<String>,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Show all snapshots, the newest first.
    #[argh(subcommand, name = "list")]
    List {
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Keep a snapshot from `prune`.
    #[argh(subcommand, name = "pin")]
    Pin {
        /// which: 12, latest or an id
        #[argh(positional)]
        id: Selector,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Delete the snapshots that the settings do not keep. The newest, the one before it and pinned ones always stay.
    #[argh(
        subcommand,
        name = "prune",
        note = "Forks stay until somebody names them: --fork with the id that `list` shows deletes that one, and nothing else."
    )]
    Prune {
        /// only this fork: the id of one that `list` shows as a fork
        #[argh(option, arg_name = "id")]
        fork: Option<Id>,
        /// only say what would go
        #[argh(switch)]
        dry_run: bool,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Put a snapshot back: the newest, or the one named. A home that is not empty is left alone.
    #[argh(
        subcommand,
        name = "restore",
        note = "Exit code 0: restored, or there is nothing, or the home is not empty; what it was is said. 75 if it is strict: nobody can tell whether there is a snapshot."
    )]
    Restore {
        /// which: 12, latest or an id (default: the newest that is whole)
        #[argh(positional)]
        id: Option<Selector>,
        /// also if the home is not empty: what was there is kept once, beside it
        #[argh(switch)]
        replace: bool,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Run the daemon: restore an empty home, say ready, then take a snapshot now and then, on SIGUSR1, and at the stop.
    #[argh(subcommand, name = "run")]
    Run {
        /// time from the end of a snapshot to the next, or off (default: 3m)
        #[argh(option, arg_name = "span")]
        interval: Option<Interval>,
        /// address for GET /ready and GET /metrics alone
        #[argh(option, arg_name = "address")]
        observe: Option<Listen>,
        /// file descriptor to write a newline to once ready
        #[argh(option, arg_name = "fd")]
        ready_fd: Option<i32>,
    }
}

command! {
    /// Show what is in a snapshot.
    #[argh(subcommand, name = "show")]
    Show {
        /// which: 12, latest or an id
        #[argh(positional)]
        id: Selector,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Take a snapshot now.
    #[argh(subcommand, name = "snapshot")]
    Snapshot {
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Ask the daemon whether all is well.
    #[argh(subcommand, name = "status")]
    Status {
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Let `prune` delete a snapshot again.
    #[argh(subcommand, name = "unpin")]
    Unpin {
        /// which: 12 or an id
        #[argh(positional)]
        id: Selector,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

command! {
    /// Check that everything a snapshot needs is in the store; all snapshots unless one is named.
    #[argh(subcommand, name = "verify")]
    Verify {
        /// which: 12, latest or an id
        #[argh(positional)]
        id: Option<Selector>,
        /// also read every byte, and check it
        #[argh(switch)]
        read_data: bool,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

/// Reads the command line.
pub fn parse(words: &[OsString]) -> Result<Command, Early> {
    if words.len() < 2 {
        return Err(Early::Help(EXAMPLES.into()));
    }
    let args: Args = args::parse("serena-snapshotd", words)?;
    if args.version {
        return Err(Early::Help(format!("serena-snapshotd {}\n", env!("CARGO_PKG_VERSION"))));
    }
    args.command.ok_or_else(|| {
        Early::Usage(
            "what to do is missing; write run, restore, snapshot, list or another; see serena-snapshotd --help".to_owned(),
        )
    })
}
