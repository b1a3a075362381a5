//! What the store says, before a fault changes how much of it arrives.

use super::asked::Asked;

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// A refusal of real S3: status and code.
pub(super) type Refusal = (u16, &'static str);

impl Answer {
    pub(super) fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn xml(status: u16, body: &str) -> Answer {
        let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}");
        Answer::empty(status).with("content-type", "application/xml").saying(body.into_bytes())
    }

    /// As a captive portal or a reverse proxy would say it.
    pub(super) fn html(status: u16) -> Answer {
        let body =
            format!("<html><head><title>{status}</title></head><body><h1>{status}</h1>nginx</body></html>\n");
        Answer::empty(status).with("content-type", "text/html").saying(body.into_bytes())
    }

    /// As real S3 says no; the answer to a HEAD has no body, and so no code.
    pub(super) fn refusal(asked: &Asked, (status, code): Refusal) -> Answer {
        let resource = escaped(&asked.path);
        let text = message(code);
        Answer::xml(
            status,
            &format!(
                "<Error><Code>{code}</Code><Message>{text}</Message><Resource>{resource}</Resource>\
             <RequestId>{:016X}</RequestId><HostId>oracle</HostId></Error>",
                asked.serial
            ),
        )
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn saying(mut self, body: Vec<u8>) -> Answer {
        self.body = body;
        self
    }
}

/// Text as XML has it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            char => out.push(char),
        }
    }
    out
}

fn message(code: &str) -> &'static str {
    match code {
        "AccessDenied" => "Access Denied",
        "EntityTooSmall" => "Your proposed upload is smaller than the minimum allowed size",
        "InternalError" => "We encountered an internal error. Please try again.",
        "InvalidAccessKeyId" => "The AWS Access Key Id you provided does not exist in our records.",
        "InvalidPart" => "One or more of the specified parts could not be found.",
        "InvalidRange" => "The requested range is not satisfiable",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "NoSuchBucket" => "The specified bucket does not exist",
        "NoSuchKey" => "The specified key does not exist.",
        "NoSuchUpload" => "The specified multipart upload does not exist.",
        "NotImplemented" => "A header you provided implies functionality that is not implemented",
        "PreconditionFailed" => "At least one of the pre-conditions you specified did not hold",
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        "SlowDown" => "Please reduce your request rate.",
        "XAmzContentSHA256Mismatch" => {
            "The provided 'x-amz-content-sha256' header does not match what was computed."
        }
        _ => "See the code.",
    }
}
