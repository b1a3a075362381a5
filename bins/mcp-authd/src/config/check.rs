//! What parsing alone cannot see: settings that contradict each other or cannot work.

use mcp_daemon::addr::Listen;
use mcp_daemon::config::ConfigProblem;

use super::Config;

/// Refuses settings that cannot work, by key. Files that the settings name are read by whoever needs them.
pub fn check(config: &Config) -> Result<(), ConfigProblem> {
    let refuse = |key: &str, what: &str| Err(ConfigProblem::key(key, what));
    if !config.path.starts_with('/') {
        return refuse("path", "must start with `/`, like /mcp");
    }
    super::jwt::check(&config.jwt)?;
    super::policy::check(config)?;
    config.listeners().iter().try_for_each(|listen| in_the_clear(config, listen))
}

/// Refuses an address at which others would send tokens in the clear.
pub fn in_the_clear(config: &Config, listen: &Listen) -> Result<(), ConfigProblem> {
    match listen {
        Listen::Tcp(address)
            if config.tls.is_none() && !config.allow_plaintext && !address.ip().is_loopback() =>
        {
            let what = format!(
                "others can reach {address}, and tokens would be sent in the clear; set [tls] certificate and key, or allow_plaintext = true behind a proxy that speaks TLS"
            );
            Err(ConfigProblem::key("listen", what))
        }
        Listen::Tcp(_) | Listen::Unix(_) | Listen::Inherited(_) => Ok(()),
    }
}
