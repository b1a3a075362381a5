//! `status`: what the running daemon is doing.

use authd::config::DAEMON;
use mcp_daemon::control;

use super::Done;
use crate::args::Status;
use crate::render;

/// Asks its control socket.
pub fn run(args: Status) -> Done {
    let socket = control::socket(args.control, DAEMON)?;
    let status = control::ask_json(&socket, "GET", "/status")?;
    if args.json {
        println!("{status}");
    } else {
        print!("{}", render::status(&status));
    }
    Ok(())
}
