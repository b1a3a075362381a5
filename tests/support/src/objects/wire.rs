//! HTTP/1.1 by hand, because no library sends half an answer: reads requests, writes as much of an answer as it is told.

use std::{collections::BTreeMap, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{answer::Answer, asked::Asked};

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// One connection.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

/// How much of an answer is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Extent {
    All,
    /// Half of its body, or of its head if there is no body.
    Half,
    /// All, and then more.
    More,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Wire {
        Wire { stream, buffer: Vec::new() }
    }

    /// The head of the next request; `None` if the client is done.
    pub(super) async fn head(&mut self) -> io::Result<Option<Asked>> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > LONGEST_HEAD || self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = std::str::from_utf8(&head).map_err(io::Error::other)?;
        let mut lines = head.trim_end().split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Some(Asked::new(method, target, headers)))
    }

    /// The body of a request; `None` if its length is not said beforehand, as S3 wants it.
    pub(super) async fn body(&mut self, asked: &Asked) -> io::Result<Option<Vec<u8>>> {
        if asked.header("transfer-encoding").is_some() {
            return Ok(None);
        }
        let length: usize = match asked.header("content-length") {
            Some(length) => length.parse().map_err(io::Error::other)?,
            None => 0,
        };
        if asked.header("expect").is_some_and(|expects| expects.eq_ignore_ascii_case("100-continue")) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        while self.buffer.len() < length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Some(self.buffer.drain(..length).collect()))
    }

    pub(super) async fn say(&mut self, asked: &Asked, answer: &Answer, extent: Extent) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !matches!(answer.status, 204 | 304) {
            head += &format!("content-length: {}\r\n", answer.body.len());
        }
        head += &format!("x-amz-request-id: {:016X}\r\nserver: oracle\r\n\r\n", asked.serial);
        let body = if asked.method == "HEAD" { &[] } else { &answer.body[..] };
        let (head, body) = match extent {
            Extent::Half if body.is_empty() => (&head[..head.len() / 2], body),
            Extent::Half => (&head[..], &body[..body.len() / 2]),
            Extent::All | Extent::More => (&head[..], body),
        };
        let mut bytes = [head.as_bytes(), body].concat();
        if extent == Extent::More {
            bytes.extend_from_slice(b"and more than was promised");
        }
        self.stream.write_all(&bytes).await
    }
}

fn reason(status: u16) -> &'static str {
    let status = http::StatusCode::from_u16(status).expect("faults have a status of HTTP");
    status.canonical_reason().unwrap_or("Unknown")
}
