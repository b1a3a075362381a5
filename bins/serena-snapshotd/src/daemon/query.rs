//! What a request on the control socket asks for: a path and what follows the question mark. A word that is not known is
//! refused: a mistyped `which` must not mean the newest, nor a mistyped `dry_run` that something is deleted.

use std::collections::BTreeMap;

use http::{Method, Uri};

use super::jobs::Job;
use crate::engine::{RestoreRequest, Selector, Side};
use crate::layout::NameError;

/// What is asked for.
#[derive(Debug)]
pub enum Wanted {
    /// Something that the actor does.
    Done(Job),
    /// All snapshots.
    List,
}

/// What is wrong with a query, and what is right; one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(pub String);

/// Reads a request; `None` for a path or method that is not ours.
pub fn wanted(method: &Method, uri: &Uri) -> Option<Result<Wanted, QueryError>> {
    let query = uri.query().unwrap_or_default();
    Some(match (method.as_str(), uri.path()) {
        ("GET" | "HEAD", "/snapshots") => Query::of(query, &[]).map(|_| Wanted::List),
        ("POST", path) => match path {
            "/adopt" => Query::of(query, &["side"]).and_then(|query| query.side()).map(Job::Adopt),
            "/pin" => Query::of(query, &["which"]).and_then(|query| query.which()).map(Job::Pin),
            "/prune" => Query::of(query, &["dry_run", "fork"]).and_then(|query| query.prune()),
            "/restore" => Query::of(query, &["replace", "which"]).and_then(|query| query.restore()),
            "/snapshot" => Query::of(query, &[]).map(|_| Job::Snapshot),
            "/unpin" => Query::of(query, &["which"]).and_then(|query| query.which()).map(Job::Unpin),
            _ => return None,
        }
        .map(Wanted::Done),
        _ => return None,
    })
}

/// What follows the question mark: `which=12&replace=true`. Ids and words only, so nothing is escaped.
struct Query<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Query<'a> {
    /// Takes it apart; a key that is not among `known`, or comes twice, is an error. A key alone is `true`.
    fn of(text: &'a str, known: &[&str]) -> Result<Self, QueryError> {
        let mut pairs = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            if !known.contains(&key) {
                return Err(QueryError(match known {
                    [] => format!("`{key}` means nothing here; nothing follows the question mark"),
                    _ => format!("`{key}` means nothing here; write {}", known.join(" or ")),
                }));
            }
            if pairs.insert(key, value).is_some() {
                return Err(QueryError(format!("`{key}` is given twice")));
            }
        }
        Ok(Query(pairs))
    }

    fn is(&self, key: &str) -> Result<bool, QueryError> {
        match self.0.get(key) {
            None | Some(&"false") => Ok(false),
            Some(&"true") => Ok(true),
            Some(other) => Err(QueryError(format!("{key}: `{other}` is neither `true` nor `false`"))),
        }
    }

    fn which(&self) -> Result<Selector, QueryError> {
        let which = self.0.get("which");
        let which =
            which.ok_or_else(|| QueryError("which snapshot is missing; write ?which=12".to_owned()))?;
        which.parse().map_err(|error: NameError| QueryError(format!("which: {error}")))
    }

    fn restore(&self) -> Result<Job, QueryError> {
        let which = self.0.contains_key("which").then(|| self.which()).transpose()?;
        Ok(Job::Restore(RestoreRequest { which, replace: self.is("replace")? }))
    }

    fn prune(&self) -> Result<Job, QueryError> {
        let fork = self.0.get("fork").map(|id| id.parse()).transpose();
        let fork = fork.map_err(|error: NameError| QueryError(format!("fork: {error}")))?;
        Ok(Job::Prune { fork, dry_run: self.is("dry_run")? })
    }

    fn side(&self) -> Result<Side, QueryError> {
        match self.0.get("side") {
            Some(&"local") => Ok(Side::Local),
            Some(&"remote") => Ok(Side::Remote),
            Some(other) => Err(QueryError(format!("side: `{other}` is neither `local` nor `remote`"))),
            None => Err(QueryError("which side is missing; write ?side=local or ?side=remote".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str) -> Option<Result<Wanted, String>> {
        let wanted = wanted(&method.parse().unwrap(), &uri.parse().unwrap());
        wanted.map(|wanted| wanted.map_err(|error| error.to_string()))
    }

    fn job(uri: &str) -> Job {
        match asked("POST", uri) {
            Some(Ok(Wanted::Done(job))) => job,
            other => panic!("{uri}: {other:?}"),
        }
    }

    #[test]
    fn what_is_written_right_is_done() {
        assert!(matches!(asked("GET", "/snapshots"), Some(Ok(Wanted::List))));
        assert!(matches!(job("/snapshot"), Job::Snapshot));
        assert!(matches!(job("/prune"), Job::Prune { fork: None, dry_run: false }));
        assert!(matches!(job("/prune?dry_run"), Job::Prune { fork: None, dry_run: true }));
        let fork = "0000000002-000001-2a874e6d235d185d";
        let Job::Prune { fork: Some(id), .. } = job(&format!("/prune?fork={fork}")) else { panic!() };
        assert_eq!(id.to_string(), fork);
        assert!(matches!(job("/adopt?side=remote"), Job::Adopt(Side::Remote)));
        assert!(matches!(job("/unpin?which=latest"), Job::Unpin(Selector::Latest)));
        let Job::Restore(RestoreRequest { which, replace }) = job("/restore?which=12&replace=true") else {
            panic!()
        };
        assert_eq!((which, replace), (Some(Selector::Seq(12)), true));
        let Job::Restore(RestoreRequest { which, replace }) = job("/restore?replace=false") else { panic!() };
        assert_eq!((which, replace), (None, false));
        for (method, uri) in [("GET", "/snapshot"), ("POST", "/snapshots"), ("DELETE", "/pin?which=1")] {
            assert!(asked(method, uri).is_none(), "{method} {uri}");
        }
    }

    #[test]
    fn what_is_mistyped_is_named_and_nothing_is_done() {
        for (uri, named) in [
            ("/restore?wich=12&replace=true", "`wich` means nothing here; write replace or which"),
            ("/restore?which=12&replace=yes", "replace: `yes` is neither"),
            ("/restore?which=12&which=13", "`which` is given twice"),
            ("/restore?which=newest", "which: `newest` is not the id of a snapshot"),
            ("/restore?which", "which: `true` is not the id of a snapshot"),
            ("/prune?dryrun=true", "`dryrun` means nothing here; write dry_run or fork"),
            ("/prune?fork=2", "fork: `2` is not the id of a snapshot"),
            ("/prune?dry_run=1", "dry_run: `1` is neither"),
            ("/snapshot?now", "`now` means nothing here; nothing follows"),
            ("/pin", "which snapshot is missing"),
            ("/adopt?side=both", "side: `both` is neither"),
            ("/adopt", "which side is missing"),
        ] {
            match asked("POST", uri) {
                Some(Err(line)) => assert!(line.starts_with(named), "{uri}: {line}"),
                other => panic!("{uri}: {other:?}"),
            }
        }
    }
}
