//! Addresses from flags and files, routes from headers: what is read is shown so that it reads back the same.

#![no_main]

use std::fmt::{Debug, Display};
use std::path::{Component, Path};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use mcp_daemon::addr::{AddrError, Listen, Route, Upstream};
use mcp_daemon::upstream::socket_of;

fuzz_target!(|input: &[u8]| {
    // The first line is an address, the second a route.
    let Ok(text) = str::from_utf8(input) else { return };
    let (address, route) = text.split_once('\n').unwrap_or((text, "r"));
    read_back::<Listen>(address);
    read_back::<Route>(address);
    let route = read_back::<Route>(route);
    if let Some(route) = &route {
        stays_inside(route);
    }
    if let Some(upstream) = read_back::<Upstream>(address) {
        reach(&upstream, route.as_ref());
    }
});

/// The value that `text` spells, after a check that its own spelling means the same.
fn read_back<T: FromStr<Err = AddrError> + Display + Debug + PartialEq>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert_eq!(shown.parse::<T>().as_ref(), Ok(&value), "{text:?} is shown as {shown:?}");
            Some(value)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// A route is one component below whatever directory it is used in.
fn stays_inside(route: &Route) {
    let components = Path::new(route.as_str()).components().collect::<Vec<_>>();
    assert!(matches!(components[..], [Component::Normal(_)]), "{route} leaves its directory");
}

/// Every upstream that is accepted can be reached, but for a path that its route makes too long.
fn reach(upstream: &Upstream, route: Option<&Route>) {
    match upstream.endpoint(None) {
        Ok(endpoint) => {
            assert!(!upstream.needs_route());
            assert_eq!(socket_of(endpoint.uri()).as_deref(), endpoint.socket(), "{upstream}");
            read_back::<Upstream>(&endpoint.to_string()).expect("an endpoint is an upstream without a route");
        }
        Err(error) => assert!(matches!(error, AddrError::NoRoute(_)) && upstream.needs_route(), "{error}"),
    }
    let Some(route) = route else { return };
    match upstream.endpoint(Some(route)) {
        Ok(endpoint) => assert_eq!(socket_of(endpoint.uri()).as_deref(), endpoint.socket(), "{upstream}"),
        Err(error) => assert!(upstream.needs_route(), "{upstream} for {route}: {error}"),
    }
}
