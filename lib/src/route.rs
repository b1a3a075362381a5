//! The name a subject is sent to. It becomes a path component and part of a host name, so its alphabet is the rule
//! that keeps it inside its directory.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::addr::AddrError;

/// Longest route in bytes, as long as one label of a host name.
pub const MAX_ROUTE: usize = 63;

/// A checked route name: `[a-z0-9][a-z0-9._-]{0,62}` without `..`; a clone is one reference count.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Route(Arc<str>);

impl Route {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Route {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        check(text).map(|()| Route(text.into()))
    }
}

/// The same without a copy, for a name that is held elsewhere too.
impl TryFrom<Arc<str>> for Route {
    type Error = AddrError;

    fn try_from(text: Arc<str>) -> Result<Self, AddrError> {
        check(&text).map(|()| Route(text))
    }
}

fn check(text: &str) -> Result<(), AddrError> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if first && rest && text.len() <= MAX_ROUTE && !text.contains("..") {
        Ok(())
    } else {
        // Bounded: the text may come from a header.
        Err(AddrError::Route(text.chars().take(MAX_ROUTE + 1).flat_map(char::escape_default).collect()))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_route_can_never_leave_its_directory() {
        for bad in ["", ".", "..", "a/b", "a..b", "-a", "_a", "A", "a b", "ä", "a\0", &"a".repeat(64)] {
            assert!(matches!(bad.parse::<Route>(), Err(AddrError::Route(_))), "{bad:?}");
        }
        for good in ["a", "0", "team-1", "a.b_c", &"a".repeat(63)] {
            assert_eq!(good.parse::<Route>().unwrap().as_str(), good);
        }
    }

    proptest! {
        #[test]
        fn a_route_is_one_plain_path_component(text in "[ -~]{0,70}") {
            if let Ok(route) = text.parse::<Route>() {
                let path = std::path::Path::new("/run").join(route.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/run")));
                prop_assert_eq!(path.components().count(), 3);
                prop_assert_eq!(route.to_string().parse::<Route>().unwrap(), route);
            }
        }
    }
}
