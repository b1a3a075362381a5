//! Signature Version 4 of the header form, recomputed from what came: an unsigned or differently signed byte is refused.

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};

use super::{
    answer::Refusal,
    asked::{Asked, decoded, encoded},
};

pub(crate) const ACCESS_KEY: &str = "ORACLEACCESSKEY00001";
pub(crate) const SECRET_KEY: &str = "oracle/secret+key/never/in/a/log/0000001";

/// Whether the request is signed with the only key there is, and its body is the one that was signed.
pub(super) fn check(asked: &Asked, body: &[u8]) -> Result<(), Refusal> {
    let header = |name: &str| asked.header(name).unwrap_or_default();
    let stated = asked.header("authorization").ok_or((403, "AccessDenied"))?;
    let stated = stated.strip_prefix("AWS4-HMAC-SHA256 ").ok_or((400, "InvalidRequest"))?;
    let field = |name: &str| {
        let found = stated.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        found.ok_or((400, "AuthorizationHeaderMalformed"))
    };
    let (credential, signed, signature) =
        (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let (key, scope) = credential.split_once('/').ok_or((400, "AuthorizationHeaderMalformed"))?;
    if key != ACCESS_KEY {
        return Err((403, "InvalidAccessKeyId"));
    }
    let &[day, region, "s3", "aws4_request"] = &scope.split('/').collect::<Vec<_>>()[..] else {
        return Err((400, "AuthorizationHeaderMalformed"));
    };
    let signs = |name: &str| signed.split(';').any(|signed| signed == name);
    let unsigned = asked.headers.keys().find(|name| name.starts_with("x-amz-") && !signs(name));
    if unsigned.is_some() || !signs("host") || !header("x-amz-date").starts_with(day) {
        return Err((403, "AccessDenied"));
    }
    let stated_hash = header("x-amz-content-sha256");
    if stated_hash.len() != 64 || header("content-encoding").contains("aws-chunked") {
        // `UNSIGNED-PAYLOAD` and the streaming forms: real S3 takes them, we promised not to send them.
        return Err((400, "InvalidRequest"));
    }
    if stated_hash != sha256(body) {
        return Err((400, "XAmzContentSHA256Mismatch"));
    }
    let expected = sign(asked, signed, (day, region), SECRET_KEY);
    if expected == signature { Ok(()) } else { Err((403, "SignatureDoesNotMatch")) }
}

/// The signature of a request over the headers named in `signed`, made on that day for that region.
pub(super) fn sign(asked: &Asked, signed: &str, (day, region): (&str, &str), secret: &str) -> String {
    let header = |name: &str| asked.header(name).unwrap_or_default();
    let canonical = canonical(asked, signed, header("x-amz-content-sha256"));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{day}/{region}/s3/aws4_request\n{}",
        header("x-amz-date"),
        sha256(canonical.as_bytes())
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [day, region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    hex(&mac(&key, &to_sign))
}

fn canonical(asked: &Asked, signed: &str, body_hash: &str) -> String {
    let mut query: Vec<_> = asked
        .raw_query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(&decoded(name), false), encoded(&decoded(value), false)))
        .collect();
    query.sort();
    let query: Vec<_> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let headers: String = signed
        .split(';')
        .map(|name| {
            let value = asked.header(name).unwrap_or_default();
            format!("{name}:{}\n", value.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect();
    format!(
        "{}\n{}\n{}\n{headers}\n{signed}\n{body_hash}",
        asked.method,
        encoded(&decoded(&asked.path), true),
        query.join("&")
    )
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
