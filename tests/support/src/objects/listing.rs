//! `ListObjectsV2`, in pages.

use super::{
    answer::{Answer, Refusal, escaped},
    asked::{Asked, decoded, encoded},
    bucket::Bucket,
    state::Manner,
};

/// The time of everything, as listings write it.
pub(super) const LAST_MODIFIED: &str = "1970-01-01T00:00:00.000Z";
/// Before what a continuation token continues after.
const TOKEN: &str = "after:";

/// One page of the listing that is asked for, without what the last `lag` writes stored.
pub(super) fn objects(bucket: &Bucket, asked: &Asked, manner: Manner, lag: usize) -> Result<Answer, Refusal> {
    let asks = |name| asked.asks(name).unwrap_or_default();
    let url = asked.asks("encoding-type") == Some("url");
    let spelt = |text: &str| if url { encoded(text, true) } else { escaped(text) };
    let (prefix, delimiter) = (asks("prefix"), asks("delimiter"));
    let after = match asked.asks("continuation-token") {
        Some(token) => decoded(token.strip_prefix(TOKEN).ok_or((400, "InvalidArgument"))?),
        None => asks("start-after").to_owned(),
    };
    let most = asked.asks("max-keys").map_or(Ok(1000), str::parse).map_err(|_| (400, "InvalidArgument"))?;
    let most = manner.page.min(most);

    let visible = bucket.writes.saturating_sub(lag);
    let (mut last, mut count, mut truncated) = (after.clone(), 0, false);
    let (mut contents, mut folders) = (String::new(), String::new());
    for (key, stored) in bucket.objects.iter().filter(|(_, stored)| stored.write <= visible) {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        let folder = rest.find(delimiter).filter(|_| !delimiter.is_empty());
        let name = folder.map_or(key.as_str(), |at| &key[..prefix.len() + at + delimiter.len()]);
        if *name <= *last {
            continue;
        }
        if count == most {
            truncated = true;
            break;
        }
        count += 1;
        last = name.to_owned();
        if folder.is_some() {
            folders += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", spelt(name));
        } else {
            contents += &format!(
                "<Contents><Key>{}</Key><LastModified>{LAST_MODIFIED}</LastModified><ETag>&quot;{}&quot;</ETag>\
                 <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                spelt(name),
                stored.etag,
                stored.bytes.len()
            );
        }
    }
    let next = match truncated {
        true => format!("<NextContinuationToken>{TOKEN}{}</NextContinuationToken>", encoded(&last, false)),
        false => String::new(),
    };
    let encoding = if url { "<EncodingType>url</EncodingType>" } else { "" };
    Ok(Answer::xml(
        200,
        &format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{}</Name><Prefix>{}</Prefix>\
             <KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{truncated}</IsTruncated>\
             {encoding}{next}{contents}{folders}</ListBucketResult>",
            escaped(&asked.bucket),
            spelt(prefix)
        ),
    ))
}
