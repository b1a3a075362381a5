//! Listing a bucket: everything, or an error. What a listing leaves out would be taken for deleted.

use std::collections::HashSet;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;

use super::S3;
use crate::layout::Partition;
use crate::store::{Listed, StoreError, Trouble};

/// Most pages of one listing, of 1,000 objects each: a server that never ends is not waited for.
const MAX_PAGES: usize = 10_000;

impl S3 {
    pub(in crate::store) async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let what = self.what("list", prefix);
        let base = &self.0.base;
        let mut found = Vec::new();
        for page in self.pages(&what, &format!("{base}{prefix}"), None).await? {
            for object in page.contents.unwrap_or_default() {
                let key = object.key.as_deref().and_then(|key| key.strip_prefix(base.as_str()));
                let size = object.size.and_then(|size| u64::try_from(size).ok());
                match (key, size) {
                    (Some(key), Some(size)) if key.starts_with(prefix) => {
                        found.push(Listed { key: key.to_owned(), size });
                    }
                    _ => {
                        return Err(not_whole(
                            &what,
                            "an object without a key that was asked for, or without a length",
                        ));
                    }
                }
            }
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        found.dedup_by(|one, other| one.key == other.key);
        Ok(found)
    }

    pub(in crate::store) async fn partitions(&self) -> Result<Vec<String>, StoreError> {
        let above = &self.0.above;
        let what = format!("list the partitions of s3://{}/{}", self.0.bucket, above.trim_end_matches('/'));
        let pages = self.pages(&what, above, Some("/")).await?;
        let prefixes = pages.into_iter().flat_map(|page| page.common_prefixes.unwrap_or_default());
        let name = |prefix: &str| Some(prefix.strip_prefix(above.as_str())?.strip_suffix('/')?.to_owned());
        let mut names: Vec<String> = prefixes
            .filter_map(|prefix| prefix.prefix.as_deref().and_then(name))
            .filter(|name| name.parse::<Partition>().is_ok())
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn pages(
        &self,
        what: &str,
        prefix: &str,
        delimiter: Option<&str>,
    ) -> Result<Vec<ListObjectsV2Output>, StoreError> {
        let mut pages = Vec::new();
        let mut tokens = HashSet::new();
        let mut token = None;
        while pages.len() < MAX_PAGES {
            let request = self.0.client.list_objects_v2().bucket(&self.0.bucket).prefix(prefix);
            let request = request.set_delimiter(delimiter.map(str::to_owned)).set_continuation_token(token);
            let page = request.customize().interceptor(Whole("ListBucketResult")).send().await;
            let page = page.map_err(|error| self.trouble(what.to_owned(), &error))?;
            token = next_token(&page).map_err(|why| not_whole(what, why))?;
            pages.push(page);
            match &token {
                None => return Ok(pages),
                Some(token) if !tokens.insert(token.clone()) => {
                    return Err(not_whole(what, "the same page twice"));
                }
                Some(_) => {}
            }
        }
        Err(not_whole(what, "no end"))
    }
}

/// Where the next page begins; `None` at the end.
fn next_token(page: &ListObjectsV2Output) -> Result<Option<String>, &'static str> {
    // Some servers count the prefixes, others do not.
    let (keys, prefixes) = (page.contents().len(), page.common_prefixes().len());
    let promised = page.key_count().and_then(|count| usize::try_from(count).ok());
    if promised.is_some_and(|promised| promised != keys && promised != keys + prefixes) {
        return Err("a page with another number of objects than it says");
    }
    match (page.is_truncated(), page.next_continuation_token()) {
        (Some(false), _) => Ok(None),
        (Some(true), Some(token)) if !token.is_empty() => Ok(Some(token.to_owned())),
        (Some(true), _) => Err("a page that says there are more, and not where"),
        (None, _) => Err("a page that does not say whether there are more"),
    }
}

fn not_whole(what: &str, why: &str) -> StoreError {
    StoreError::new(what, Trouble::Damaged, format!("the listing is not whole: it has {why}"))
}

/// Makes sure that a body ends with the end of its root element: the SDK's parser takes a text that was cut off for one
/// that has ended.
#[derive(Debug)]
pub(super) struct Whole(pub(super) &'static str);

#[dyn_dispatch_hint]
impl Intercept for Whole {
    fn name(&self) -> &'static str {
        "an answer in XML is whole"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let body = response.body().bytes().unwrap_or_default();
        if response.status().is_success() && !ends_with_element(body, self.0) {
            return Err(format!("it does not end with </{}>", self.0).into());
        }
        Ok(())
    }
}

fn ends_with_element(body: &[u8], name: &str) -> bool {
    let end = body.trim_ascii_end().strip_suffix(b">").map(<[u8]>::trim_ascii_end);
    let Some(rest) = end.and_then(|end| end.strip_suffix(name.as_bytes())) else { return false };
    // A name space may stand before the name.
    let colon = rest.strip_suffix(b":").map(|rest| {
        let begin = rest.iter().rposition(|byte| !byte.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
        &rest[..begin]
    });
    colon.unwrap_or(rest).ends_with(b"</")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_must_say_whether_and_where_it_goes_on() {
        let page = ListObjectsV2Output::builder;
        assert_eq!(next_token(&page().is_truncated(false).build()), Ok(None));
        assert_eq!(
            next_token(&page().is_truncated(true).next_continuation_token("a").build()),
            Ok(Some("a".into()))
        );
        assert!(next_token(&page().build()).is_err());
        assert!(next_token(&page().is_truncated(true).build()).is_err());
        assert!(next_token(&page().is_truncated(false).key_count(1).build()).is_err());
    }

    #[test]
    fn a_text_that_was_cut_off_has_not_ended() {
        for whole in ["<a:List>1</a:List>", "<List>1</List>", "<List></List >\r\n"] {
            assert!(ends_with_element(whole.as_bytes(), "List"), "{whole}");
        }
        for cut in ["", "<List>1</List", "<List>1", "<List>1</Contents>", "<List><List>", "xList>", "a:List>"]
        {
            assert!(!ends_with_element(cut.as_bytes(), "List"), "{cut}");
        }
    }
}
