//! A deletion that nobody has done: a server says "done" to it without a word, and what comes with a page, or with an error
//! inside, is the answer of a proxy or a portal in between.

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;

/// Makes sure that a success has no body.
#[derive(Debug)]
pub(super) struct NoPage;

#[dyn_dispatch_hint]
impl Intercept for NoPage {
    fn name(&self) -> &'static str {
        "a deletion is answered without a page"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // A body that was not even read is one that should not be there.
        let is_empty = response.body().bytes().is_some_and(<[u8]>::is_empty);
        if response.status().is_success() && !is_empty {
            return Err("a success with a page, which no S3 server sends; is something in between?".into());
        }
        Ok(())
    }
}
