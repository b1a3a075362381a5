//! A client of any S3-compatible store that signs its requests: for what a test wants to say to one by hand.

use std::{collections::BTreeMap, io, net::SocketAddr};

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    asked::Asked,
    signature::{sha256, sign},
};

/// Signs with one key; each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct SignedClient {
    address: SocketAddr,
    key: String,
    secret: String,
    region: String,
}

/// What a store answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What came of the body.
    pub body: Vec<u8>,
}

impl SignedClient {
    /// A client of the store at this address.
    pub fn new(address: SocketAddr, key: &str, secret: &str, region: &str) -> SignedClient {
        SignedClient { address, key: key.into(), secret: secret.into(), region: region.into() }
    }

    /// Asks for `target`, such as `/bucket/key?uploads`, in the spelling of URLs.
    pub async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(&self.signed(method, target, headers, body)).await?;
        let mut came = Vec::new();
        let cut = stream.read_to_end(&mut came).await.err();
        match Reply::parse(&came) {
            Some(reply) => Ok(reply),
            None => Err(cut.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The request as it goes over the wire.
    pub fn signed(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let own = [
            ("host", self.address.to_string()),
            ("x-amz-content-sha256", sha256(body)),
            ("x-amz-date", now.clone()),
        ];
        let mut all: BTreeMap<_, _> = own.map(|(name, value)| (name.to_owned(), value)).into();
        all.extend(headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())));
        let asked = Asked::new(method, target, all);
        let names = asked.headers.keys().map(String::as_str).collect::<Vec<_>>().join(";");
        let signature = sign(&asked, &names, (&now[..8], &self.region), &self.secret);
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in &asked.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!(
            "authorization: AWS4-HMAC-SHA256 Credential={}/{}/{}/s3/aws4_request, SignedHeaders={names}, \
             Signature={signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.key,
            &now[..8],
            self.region,
            body.len()
        );
        [head.as_bytes(), body].concat()
    }
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of an error, or the text of any other element.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0.to_owned())
    }

    fn parse(bytes: &[u8]) -> Option<Reply> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Reply { status, headers, body: bytes[end + 4..].to_vec() })
    }
}
