//! Uploads in parts: begun, added to, and then completed or aborted.

use std::collections::BTreeMap;

use super::{
    answer::{Answer, Refusal, escaped},
    asked::Asked,
    bucket::{Done, etag},
    listing::LAST_MODIFIED,
    state::Manner,
};

/// Parts have numbers from 1 to this.
const MOST_PARTS: u16 = 10_000;

/// The uploads that are under way, by key and id.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    begun: u64,
    open: BTreeMap<(String, String), BTreeMap<u16, Vec<u8>>>,
}

impl Uploads {
    pub(super) fn open(&self) -> Vec<(String, String)> {
        self.open.keys().cloned().collect()
    }

    pub(super) fn begin(&mut self, asked: &Asked) -> (Answer, bool) {
        self.begun += 1;
        let id = format!("upload-{:06}", self.begun);
        self.open.insert((asked.key.clone(), id.clone()), BTreeMap::new());
        let answer = format!(
            "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
             </InitiateMultipartUploadResult>",
            escaped(&asked.bucket),
            escaped(&asked.key)
        );
        (Answer::xml(200, &answer), true)
    }

    pub(super) fn part(&mut self, asked: &Asked, body: &[u8]) -> Done {
        let parts = self.open.get_mut(&name(asked)).ok_or((404, "NoSuchUpload"))?;
        let number = asked.asks("partNumber").and_then(|number| number.parse::<u16>().ok());
        let number =
            number.filter(|number| (1..=MOST_PARTS).contains(number)).ok_or((400, "InvalidArgument"))?;
        parts.insert(number, body.to_vec());
        Ok((Answer::empty(200).with("etag", format!("\"{}\"", etag(body))), true))
    }

    pub(super) fn abort(&mut self, asked: &Asked) -> Done {
        self.open.remove(&name(asked)).ok_or((404, "NoSuchUpload"))?;
        Ok((Answer::empty(204), true))
    }

    /// What the parts named in `body` make together, and its ETag.
    pub(super) fn whole(
        &self,
        asked: &Asked,
        body: &[u8],
        manner: Manner,
    ) -> Result<(Vec<u8>, String), Refusal> {
        let parts = self.open.get(&name(asked)).ok_or((404, "NoSuchUpload"))?;
        let text = std::str::from_utf8(body).map_err(|_| (400, "MalformedXML"))?;
        let mut named = Vec::new();
        for part in text.split("<Part>").skip(1) {
            let field = |name: &str| {
                let (_, rest) = part.split_once(&format!("<{name}>"))?;
                Some(rest.split_once('<')?.0.replace("&quot;", "\""))
            };
            let number = field("PartNumber").and_then(|number| number.parse::<u16>().ok());
            named.push((number.ok_or((400, "MalformedXML"))?, field("ETag").ok_or((400, "MalformedXML"))?));
        }
        if named.is_empty() {
            return Err((400, "MalformedXML"));
        }
        if !named.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err((400, "InvalidPartOrder"));
        }
        let mut found = Vec::new();
        for (number, tag) in &named {
            let part = parts.get(number).filter(|part| etag(part) == tag.trim_matches('"'));
            found.push(part.ok_or((400, "InvalidPart"))?);
        }
        let [before @ .., last] = &found[..] else { return Err((400, "MalformedXML")) };
        if before.iter().any(|part| part.len() < manner.smallest_part) {
            return Err((400, "EntityTooSmall"));
        }
        let uneven = before.iter().any(|part| part.len() != before[0].len() || part.len() < last.len());
        if manner.equal_parts && uneven {
            return Err((400, "InvalidPart"));
        }
        let whole = found.into_iter().flatten().copied().collect::<Vec<_>>();
        let tag = format!("{}-{}", etag(&whole), named.len());
        Ok((whole, tag))
    }

    /// `ListMultipartUploads`, in pages.
    pub(super) fn list(&self, asked: &Asked, manner: Manner) -> Answer {
        let asks = |name| asked.asks(name).unwrap_or_default().to_owned();
        let (prefix, after) = (asks("prefix"), (asks("key-marker"), asks("upload-id-marker")));
        // A marker without an id continues after all uploads of that key.
        let is_after = |upload: &(String, String)| match after.1.is_empty() {
            true => upload.0 > after.0,
            false => *upload > after,
        };
        let found: Vec<_> =
            self.open.keys().filter(|upload| upload.0.starts_with(&prefix) && is_after(upload)).collect();
        let (page, rest) = found.split_at(found.len().min(manner.page));
        let uploads: String = page
            .iter()
            .map(|(key, id)| {
                let key = escaped(key);
                format!(
                    "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{LAST_MODIFIED}</Initiated></Upload>"
                )
            })
            .collect();
        let next = page.last().filter(|_| !rest.is_empty()).map_or_else(String::new, |(key, id)| {
            let key = escaped(key);
            format!("<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>")
        });
        Answer::xml(
            200,
            &format!(
                "<ListMultipartUploadsResult><Bucket>{}</Bucket><Prefix>{}</Prefix><MaxUploads>{}</MaxUploads>\
                 <IsTruncated>{}</IsTruncated>{next}{uploads}</ListMultipartUploadsResult>",
                escaped(&asked.bucket),
                escaped(&prefix),
                manner.page,
                !rest.is_empty()
            ),
        )
    }
}

fn name(asked: &Asked) -> (String, String) {
    (asked.key.clone(), asked.asks("uploadId").unwrap_or_default().to_owned())
}
