//! Readiness by descriptor: the server writes a newline to a pipe, as s6 and our own `--ready-fd` have it.

use std::io::{self, pipe};
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::ProbeError;

/// The reading end; the server has the other one.
pub struct ReadyFd(Receiver);

impl ReadyFd {
    /// A pipe, and its writing end for the server. Whoever starts the server must not keep that end: only then is it
    /// seen that the server closed it, or died, without a word.
    pub fn open() -> io::Result<(ReadyFd, OwnedFd)> {
        let (reader, writer) = pipe()?;
        Ok((ReadyFd(Receiver::from_owned_fd(reader.into())?), writer.into()))
    }

    /// Waits for the newline; what comes before it is thrown away. Cancel safe.
    pub async fn told(&mut self) -> Result<(), ProbeError> {
        let mut bytes = [0; 64];
        loop {
            match self.0.read(&mut bytes).await {
                Ok(0) => return Err(said("it closed its descriptor without saying that it is ready")),
                Ok(length) if bytes[..length].contains(&b'\n') => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(said(&format!("its descriptor cannot be read: {error}"))),
            }
        }
    }
}

fn said(text: &str) -> ProbeError {
    ProbeError::Told(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newline_counts_and_nothing_before_it() {
        let (mut ready, writer) = ReadyFd::open().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(&[b'x'; 1000]).unwrap();
        assert!(timeout(Duration::from_secs(60), ready.told()).await.is_err());
        writer.write_all(b"soon\n").unwrap();
        assert_eq!(ready.told().await, Ok(()));
    }

    #[tokio::test]
    async fn a_descriptor_that_is_closed_without_a_word_ends_the_wait() {
        let (mut ready, writer) = ReadyFd::open().unwrap();
        drop(writer);
        let error = ready.told().await.unwrap_err().to_string();
        assert_eq!(error, "it closed its descriptor without saying that it is ready");
    }
}
