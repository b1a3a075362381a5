//! What a careful server checks before it looks at the message: Host, Origin, Accept.

use http::{
    HeaderMap, Method,
    header::{ACCEPT, HOST, ORIGIN},
};

use crate::switches::Switches;

/// The status and sentence of a refusal for `Host` or `Origin`; `port` is where the request came in (none: a Unix socket).
pub(crate) fn foreign(
    switches: &Switches,
    headers: &HeaderMap,
    port: Option<u16>,
) -> Option<(u16, &'static str)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if switches.strict_host && !host_allowed(text(HOST), port) {
        return Some((421, "Invalid Host header"));
    }
    if switches.strict_origin && !origin_allowed(text(ORIGIN), port) {
        return Some((403, "Invalid Origin header"));
    }
    None
}

/// Whether `Accept` names what the answer may be.
pub(crate) fn acceptable(switches: &Switches, http: &Method, headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (json, events) = (accept.contains("application/json"), accept.contains("text/event-stream"));
    match *http {
        _ if !switches.strict_accept => true,
        Method::POST => json && events,
        Method::GET => events,
        _ => true,
    }
}

fn host_allowed(host: Option<&str>, port: Option<u16>) -> bool {
    let Some((name, digits)) = host.and_then(|host| host.rsplit_once(':')) else { return false };
    let Ok(given) = digits.parse::<u16>() else { return false };
    matches!(name, "127.0.0.1" | "localhost") && port.is_none_or(|port| port == given)
}

fn origin_allowed(origin: Option<&str>, port: Option<u16>) -> bool {
    let Some(origin) = origin else { return true };
    origin.strip_prefix("http://").is_some_and(|host| host_allowed(Some(host), port))
}
