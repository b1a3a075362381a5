//! What is tried again besides what the SDK tries again on its own (500, 502, 503, 504, timeouts, lost connections).

use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

/// The SDK's word stands but for the cases here.
#[derive(Debug)]
pub(super) struct OurRetries;

impl ClassifyRetry for OurRetries {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else { return RetryAction::NoActionIndicated };
        // A listing that is not whole.
        if error.is_interceptor_error() {
            return RetryAction::transient_error();
        }
        match context.response().map(|response| response.status().as_u16()) {
            Some(429) => RetryAction::throttling_error(),
            // Too slow, too early, and what proxies and Cloudflare say about a server that they cannot reach.
            Some(408 | 425 | 520..=530) => RetryAction::transient_error(),
            // A success that is none: an error in its body, or the page of a proxy.
            Some(200..=299) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "what S3-compatible stores and proxies say besides"
    }
}
