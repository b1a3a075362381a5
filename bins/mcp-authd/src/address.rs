//! From where a request really comes: the peer, or what a trusted reverse proxy says.

use std::net::IpAddr;

use http::HeaderMap;

use crate::config::network::Network;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The nearest address that is not a trusted proxy's, read from `X-Forwarded-For` from its end; the peer itself if it is
/// no trusted proxy, or if what it says cannot be read.
pub fn of(peer: Option<IpAddr>, headers: &HeaderMap, proxies: &[Network]) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
    let mut nearest = peer?;
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    for hop in lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(',')) {
        if !is_proxy(nearest) {
            break;
        }
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        nearest = address.to_canonical();
    }
    Some(nearest)
}
