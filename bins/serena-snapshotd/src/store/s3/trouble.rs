//! What an error of the SDK means, in one line, with what to do about it.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3;
use crate::store::{StoreError, Trouble};

/// Longest text of a server that is repeated, in characters.
const SAID: usize = 200;

/// The status of the answer; none without an answer.
pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The code in the body of the answer, such as `NoSuchKey`. `NotFound` is the SDK's own word for an empty one.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
        .filter(|code| !code.is_empty() && *code != "NotFound")
}

impl S3 {
    /// What an error means.
    pub(super) fn trouble<E>(&self, what: String, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (trouble, detail) = match error {
            SdkError::ConstructionFailure(_) => {
                (Trouble::NoStore, format!("no such request: {}", innermost(error)))
            }
            SdkError::TimeoutError(_) => {
                (Trouble::Busy, format!("no answer within {:?}, {}", self.0.settings.timeout, self.tried()))
            }
            SdkError::DispatchFailure(failure) => (Trouble::Unreachable, {
                let to = self.0.settings.endpoint.as_deref().unwrap_or("AWS");
                let why =
                    if failure.is_timeout() { "no connection in time".to_owned() } else { innermost(error) };
                format!("cannot reach {to}: {why}, {}", self.tried())
            }),
            SdkError::ResponseError(_)
                if status(error).is_some_and(|status| (200..300).contains(&status)) =>
            {
                (Trouble::Damaged, format!("the answer is not whole: {}", innermost(error)))
            }
            SdkError::ResponseError(_) => {
                (Trouble::Unreachable, format!("the answer broke off: {}", innermost(error)))
            }
            SdkError::ServiceError(_) => {
                self.said(status(error).unwrap_or_default(), code(error), message(error))
            }
            _ => (Trouble::Busy, innermost(error)),
        };
        StoreError::new(what, trouble, self.0.settings.without_keys(detail))
    }

    /// What a server's answer means.
    fn said(&self, status: u16, code: Option<&str>, message: Option<&str>) -> (Trouble, String) {
        let (trouble, advice) = meaning(status, code);
        let words = match (code, message) {
            (Some(code), Some(message)) => format!("{code} ({status}): {}", one_line(message)),
            (Some(code), None) => format!("{} ({status})", one_line(code)),
            (None, _) => format!("{status}, not in the words of an S3 server"),
        };
        let tried = if trouble == Trouble::Busy { format!(", {}", self.tried()) } else { String::new() };
        (trouble, format!("the store says {}{advice}{tried}", words.trim_end_matches('.')))
    }

    fn tried(&self) -> String {
        match self.0.settings.attempts {
            0 | 1 => "tried once".to_owned(),
            times => format!("tried {times} times"),
        }
    }
}

/// The kind of an answer, and advice to be added to its text.
fn meaning(status: u16, code: Option<&str>) -> (Trouble, &'static str) {
    const REGION: &str = "; set --region to the bucket's, and --endpoint if it is not on AWS";
    match (status, code) {
        (_, Some("NoSuchBucket")) => (Trouble::NoStore, "; make the bucket, or correct --store"),
        (_, Some("InvalidBucketName" | "MethodNotAllowed" | "NotImplemented")) => {
            (Trouble::NoStore, "; correct --store and --endpoint")
        }
        (
            _,
            Some(
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
            ),
        ) => (Trouble::NoStore, REGION),
        (_, Some("InvalidAccessKeyId")) => (Trouble::Denied, "; check AWS_ACCESS_KEY_ID"),
        (_, Some("SignatureDoesNotMatch")) => {
            (Trouble::Denied, "; check AWS_SECRET_ACCESS_KEY, and whether a proxy changes requests")
        }
        (_, Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired")) => {
            (Trouble::Denied, "; get new temporary keys")
        }
        (_, Some("RequestTimeTooSkewed" | "RequestExpired")) => {
            (Trouble::Denied, "; set the clock of this machine")
        }
        (_, Some("QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "StorageFull"))
        | (507, _) => (Trouble::Full, "; make room in the store"),
        (_, Some("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody")) => {
            (Trouble::Damaged, "; something on the way changes what is sent")
        }
        (_, Some("RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict" | "SlowDown")) => {
            (Trouble::Busy, "")
        }
        (401 | 403, Some(_)) => {
            (Trouble::Denied, "; allow this key to get, put, delete and list objects in this bucket")
        }
        (401 | 403, None) => (Trouble::Denied, "; check the keys, and --endpoint"),
        (300..400, _) => (Trouble::NoStore, REGION),
        (408 | 409 | 425 | 429, _) => (Trouble::Busy, ""),
        (501, _) => (Trouble::NoStore, "; it lacks what snapshots need"),
        (500.., _) => (Trouble::Busy, ""),
        (200..300, _) => (Trouble::Damaged, "; is something in between?"),
        (404, None) => (Trouble::Unreachable, "; correct --endpoint, or see what is in between"),
        (400.., None) => (Trouble::Unreachable, "; correct --endpoint, http and https are not the same"),
        _ => (Trouble::NoStore, ""),
    }
}

fn message<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::message).filter(|message| !message.is_empty())
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    one_line(&cause.to_string())
}

fn one_line(text: &str) -> String {
    let text: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(SAID).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_means_what_happens_next() {
        for (status, code, trouble) in [
            (301, Some("PermanentRedirect"), Trouble::NoStore),
            (307, None, Trouble::NoStore),
            (400, Some("AuthorizationHeaderMalformed"), Trouble::NoStore),
            (400, Some("ExpiredToken"), Trouble::Denied),
            (400, None, Trouble::Unreachable),
            (403, Some("AccessDenied"), Trouble::Denied),
            (403, Some("RequestTimeTooSkewed"), Trouble::Denied),
            (403, Some("QuotaExceeded"), Trouble::Full),
            (403, None, Trouble::Denied),
            (404, Some("NoSuchBucket"), Trouble::NoStore),
            (404, None, Trouble::Unreachable),
            (409, Some("OperationAborted"), Trouble::Busy),
            (429, None, Trouble::Busy),
            (500, Some("InternalError"), Trouble::Busy),
            (503, Some("SlowDown"), Trouble::Busy),
            (507, None, Trouble::Full),
            (200, None, Trouble::Damaged),
        ] {
            assert_eq!(meaning(status, code).0, trouble, "{status} {code:?}");
        }
    }

    #[test]
    fn what_a_server_says_becomes_one_short_line() {
        assert_eq!(one_line("a\r\n b\0c\u{1b}[31m"), "a b c [31m");
        assert_eq!(one_line(&"x".repeat(9999)).len(), SAID);
    }
}
