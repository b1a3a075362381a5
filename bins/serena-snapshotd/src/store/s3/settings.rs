//! How a bucket is reached, and what of it can be checked without asking the store.

use std::fmt;
use std::time::Duration;

use http::Uri;
use mcp_daemon::secret::Secret;

/// Shortest text in bytes that is taken for a key: a shorter one, as in tests, is part of other words.
const KEY: usize = 8;
/// The region where an endpoint has none of its own.
const DEFAULT_REGION: &str = "us-east-1";
/// The region that Cloudflare R2 wants.
const R2_REGION: &str = "auto";

/// How a bucket is reached.
#[derive(Clone)]
pub struct S3Settings {
    /// `https://host` or `http://host:port`, with a path where the store has one; none is AWS.
    pub endpoint: Option<String>,
    /// The region; without one `us-east-1`, on Cloudflare R2 `auto`.
    pub region: Option<String>,
    /// Whether the bucket is in the path and not in the host's name; without a word yes if there is an endpoint.
    pub path_style: Option<bool>,
    /// Which key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Secret,
    /// What temporary keys have besides.
    pub session_token: Option<Secret>,
    /// How often one request is tried; at least 1.
    pub attempts: u32,
    /// How long one attempt may take, besides a time for the bytes it carries, and how long a read may stand still.
    pub timeout: Duration,
    /// Longest pause before the second attempt; it doubles from one to the next, and is cut at random.
    pub backoff: Duration,
    /// Files from this size on are uploaded in parts; in bytes.
    pub multipart_from: u64,
    /// Size of a part in bytes, larger where there would be more than 10,000. Most stores take none below 5 MiB.
    pub part_size: u64,
}

impl Default for S3Settings {
    fn default() -> Self {
        S3Settings {
            endpoint: None,
            region: None,
            path_style: None,
            access_key_id: String::new(),
            secret_access_key: Secret::new(String::new()),
            session_token: None,
            attempts: 5,
            timeout: Duration::from_secs(60),
            backoff: Duration::from_millis(250),
            multipart_from: 16 << 20,
            part_size: 8 << 20,
        }
    }
}

impl fmt::Debug for S3Settings {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.as_deref().map(shown);
        f.debug_struct("S3Settings")
            .field("endpoint", &endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// What is wrong with the settings.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum S3Problem {
    /// The endpoint is none; it is shown unless there may be a key in it.
    #[error("`{0}` is not an endpoint; write https://host or http://host:port")]
    Endpoint(String),
    /// One half of the key is missing, or both.
    #[error("there is no {0}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the files with the keys")]
    Key(&'static str),
    /// The region cannot be one.
    #[error("`{0}` is not a region; write one such as eu-central-1, or auto")]
    Region(String),
}

impl S3Settings {
    /// Finds what cannot work, without asking the store.
    pub fn check(&self) -> Result<(), S3Problem> {
        self.check_place()?;
        match (self.key_id().is_empty(), self.secret().is_empty()) {
            (true, _) => Err(S3Problem::Key("access key")),
            (_, true) => Err(S3Problem::Key("secret key")),
            _ => Ok(()),
        }
    }

    /// The same but for the keys, which need not be known for it.
    pub fn check_place(&self) -> Result<(), S3Problem> {
        if let Some(endpoint) = self.endpoint.as_deref().filter(|endpoint| !is_endpoint(endpoint)) {
            return Err(S3Problem::Endpoint(shown(endpoint)));
        }
        let region = self.region();
        if region.is_empty()
            || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        {
            return Err(S3Problem::Region(region.escape_debug().take(80).collect()));
        }
        Ok(())
    }

    /// Which key, without the blanks and line ends that files and variables have around it; so are the other two.
    pub(super) fn key_id(&self) -> &str {
        self.access_key_id.trim()
    }

    pub(super) fn secret(&self) -> &str {
        self.secret_access_key.expose().trim()
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.session_token.as_ref().map(|token| token.expose().trim()).filter(|token| !token.is_empty())
    }

    /// The region that requests are signed for.
    pub(super) fn region(&self) -> &str {
        let is_r2 =
            self.endpoint.as_deref().is_some_and(|endpoint| endpoint.contains(".r2.cloudflarestorage.com"));
        self.region.as_deref().unwrap_or(if is_r2 { R2_REGION } else { DEFAULT_REGION })
    }

    /// Takes the keys out of a text that somebody else wrote.
    pub(super) fn without_keys(&self, mut text: String) -> String {
        for key in [self.secret(), self.token().unwrap_or_default(), self.key_id()] {
            if key.len() >= KEY {
                text = text.replace(key, "..");
            }
        }
        text
    }
}

/// An endpoint without what may be a key in it: names and passwords before an `@`, and what follows a `?`.
fn shown(endpoint: &str) -> String {
    if endpoint.contains('@') {
        return "..".to_owned();
    }
    let (place, query) = endpoint.split_once('?').map_or((endpoint, ""), |(place, _)| (place, "?.."));
    place.escape_debug().take(80).chain(query.chars()).collect()
}

fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !host.is_empty()
        && uri.authority().is_none_or(|authority| !authority.as_str().contains('@'))
        && uri.query().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: &str) -> S3Settings {
        S3Settings {
            endpoint: Some(endpoint.into()),
            access_key_id: "AKIAEXAMPLE".into(),
            secret_access_key: Secret::new("hunter2hunter2".into()),
            session_token: Some(Secret::new("t0ken-t0ken".into())),
            ..S3Settings::default()
        }
    }

    #[test]
    fn an_endpoint_has_a_scheme_and_a_host_and_no_key() {
        for right in
            ["http://127.0.0.1:9000", "https://a.r2.cloudflarestorage.com", "http://[::1]:1/s3", "https://h/"]
        {
            assert_eq!(settings(right).check(), Ok(()), "{right}");
        }
        for wrong in
            ["", "localhost:9000", "ftp://host", "https://", "https://host/?x=1", "127.0.0.1", "https://a b"]
        {
            let problem = settings(wrong).check().unwrap_err().to_string();
            assert!(problem.contains("https://host"), "{wrong}: {problem}");
        }
        for secret in
            ["https://AKIA:hunter2@host", "AKIA:hunter2@host:9000", "https://host/b?X-Amz-Signature=hunter2"]
        {
            let wrong = settings(secret);
            let shown = format!("{} {wrong:?}", wrong.check_place().unwrap_err());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        let no_id = S3Settings { access_key_id: String::new(), ..settings("http://h") };
        let no_secret = S3Settings { secret_access_key: Secret::new(String::new()), ..settings("http://h") };
        assert_eq!(no_id.check(), Err(S3Problem::Key("access key")));
        assert_eq!(no_secret.check(), Err(S3Problem::Key("secret key")));
    }

    #[test]
    fn the_region_is_that_of_the_endpoint_unless_it_is_given() {
        assert_eq!(S3Settings::default().region(), "us-east-1");
        assert_eq!(settings("https://0123.r2.cloudflarestorage.com").region(), "auto");
        let given = S3Settings {
            region: Some("eu-west-3".into()),
            ..settings("https://0123.r2.cloudflarestorage.com")
        };
        assert_eq!(given.region(), "eu-west-3");
        let wrong = S3Settings { region: Some("eu west".into()), ..given };
        assert!(matches!(wrong.check(), Err(S3Problem::Region(_))));
    }

    #[test]
    fn no_key_is_shown() {
        let mut settings = settings("https://AKIAEXAMPLE:hunter2@host");
        // As a file or a variable may have it.
        settings.access_key_id.push('\n');
        settings.secret_access_key = Secret::new(" hunter2hunter2 ".into());
        settings.session_token = Some(Secret::new("t0ken-t0ken\r\n".into()));
        let shown = format!("{settings:?}");
        let scrubbed = settings.without_keys("the key AKIAEXAMPLE, hunter2hunter2 and t0ken-t0ken".into());
        for key in ["AKIAEXAMPLE", "hunter2", "t0ken"] {
            assert!(!shown.contains(key) && !scrubbed.contains(key), "{shown} {scrubbed}");
        }
    }
}
