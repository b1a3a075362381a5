//! A JSON object from outside, read without room for two opinions: a member that stands there twice is an error. What a
//! token claims and what a body asks for are read like this.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of an object, each unread, in the order of their names.
pub struct Object<'a>(Vec<(Text<'a>, &'a RawValue)>);

/// A text, borrowed unless it has escapes.
#[derive(Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> Object<'a> {
    /// Reads an object; `None` if it is none, or says something twice.
    pub fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// A member, unread.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.binary_search_by(|(own, _)| (*own.0).cmp(name)).ok()?;
        Some(self.0[at].1)
    }

    /// Whether a member is called like one of these but for upper and lower case: some readers take it for the same.
    pub fn has_look_alike(&self, names: &[&str]) -> bool {
        let is_like = |own: &Text<'_>, name: &str| {
            own.0 != name && own.0.chars().map(folded).eq(name.chars().map(folded))
        };
        self.0.iter().any(|(own, _)| names.iter().any(|name| is_like(own, name)))
    }

    /// A member by its name, or, where there is none of exactly that name, by a path with dots into objects.
    pub fn find(&self, path: &str) -> Option<&'a RawValue> {
        if let Some(value) = self.get(path) {
            return Some(value);
        }
        let (name, rest) = path.split_once('.')?;
        Object::read(self.get(name)?.get())?.find(rest)
    }
}

/// A character in lower case. Four that are not ASCII become ASCII letters where somebody folds case by Unicode: Go and
/// .NET the first two, Java the others as well.
fn folded(char: char) -> char {
    match char {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        _ => char.to_ascii_lowercase(),
    }
}

/// A value that is a text.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// A value that is a text, or a list of nothing but texts.
pub fn texts(value: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    if let Some(one) = text(value) {
        return Some(vec![one]);
    }
    let list: Vec<Text<'_>> = serde_json::from_str(value.get()).ok()?;
    Some(list.into_iter().map(|text| text.0).collect())
}

/// Seconds since 1970; a fraction is dropped (RFC 7519, 2: NumericDate).
pub fn seconds(value: &RawValue) -> Option<u64> {
    let number: serde_json::Number = serde_json::from_str(value.get()).ok()?;
    let whole = || number.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64);
    number.as_u64().or_else(whole)
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members: Vec<(Text<'de>, &RawValue)> = Vec::with_capacity(4);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                if members.windows(2).any(|two| two[0].0 == two[1].0) {
                    return Err(de::Error::custom("a member stands there twice"));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_there_twice_is_an_error_however_it_is_written() {
        assert!(Object::read(r#"{"a":1,"b":2}"#).is_some());
        for bad in [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":1}"#, "[]", "1", "", "{} {}", r#"{"a":}"#] {
            assert!(Object::read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_look_alike_differs_in_case_alone() {
        let look_alike = |json: &str| Object::read(json).unwrap().has_look_alike(&["method", "id"]);
        assert!(look_alike(r#"{"method":1,"Method":2}"#) && look_alike(r#"{"\u0049d":2}"#));
        assert!(!look_alike(r#"{"method":1,"id":2,"methods":3}"#));
        let folds = |json: &str| Object::read(json).unwrap().has_look_alike(&["params", "key", "id"]);
        for json in [r#"{"param\u017f":1}"#, r#"{"\u212aey":1}"#, r#"{"\u0130d":1}"#, r#"{"\u0131D":1}"#] {
            assert!(folds(json), "{json}");
        }
        assert!(!folds(r#"{"p\u00e4rams":1}"#));
    }

    #[test]
    fn a_dot_leads_into_an_object_unless_it_is_part_of_a_name() {
        let object = Object::read(
            r#"{"https://a.b/c":1,"realm":{"user":{"name":2},"user.id":3},"twice":{"x":1,"x":2},"list":[4]}"#,
        );
        let object = object.unwrap();
        let found = |path: &str| object.find(path).map(RawValue::get);
        assert_eq!(found("https://a.b/c"), Some("1"));
        assert_eq!((found("realm.user.name"), found("realm.user.id")), (Some("2"), Some("3")));
        for missing in ["", ".", "realm.", "realm.user.name.x", "twice.x", "list.0", "user"] {
            assert_eq!(found(missing), None, "{missing}");
        }
    }

    #[test]
    fn values_are_what_they_look_like_or_nothing() {
        let raw = |json: &str| RawValue::from_string(json.into()).unwrap();
        assert_eq!(text(&raw(r#""a\u0062""#)).as_deref(), Some("ab"));
        assert_eq!((text(&raw("1")), text(&raw("null"))), (None, None));
        assert_eq!(texts(&raw(r#"["a","b"]"#)).unwrap().len(), 2);
        assert_eq!((texts(&raw(r#"["a",1]"#)), texts(&raw("{}"))), (None, None));
        for (json, expected) in [
            ("1700000000", Some(1_700_000_000)),
            ("1.9", Some(1)),
            ("1e3", Some(1_000)),
            ("1e300", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("-1", None),
            ("-0.5", None),
            ("\"1\"", None),
            ("null", None),
            ("true", None),
        ] {
            assert_eq!(seconds(&raw(json)), expected, "{json}");
        }
    }
}
