//! Fetches an object while it is unpacked, and checks what is stored against its name: its digest, and its length.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::RestoreError;
use super::tarball::bad;
use super::unpack::{Flaw, Sink, Wants, unpack};
use crate::digest::{Digest, Hasher};
use crate::layout::{BLOBS, PACKS};
use crate::seal::Seal;
use crate::store::{Reading, Store, StoreError};
use crate::threads::blocking;

/// Pieces of some 256 KiB that are fetched ahead.
const AHEAD: usize = 16;

/// What the fetching side says.
enum Fetched {
    Bytes(Bytes),
    /// That was all.
    End,
}

/// Fetches and unpacks an object; gives the sink back in any case.
pub(crate) async fn read_object<S: Sink + Send + 'static>(
    store: &Store,
    seal: Option<&Arc<Seal>>,
    wants: Wants,
    mut sink: S,
) -> (S, Result<(), RestoreError>) {
    let key = wants.key().to_owned();
    let damaged = |why: String| Err(RestoreError::Damaged(format!("{key}: {why}")));
    let reading = match store.open(&key).await {
        Ok(Some(reading)) => reading,
        Ok(None) => {
            return (sink, damaged("not in the store any more, though the snapshot needs it".to_owned()));
        }
        Err(error) => return (sink, Err(error.into())),
    };
    if reading.size != wants.size() {
        return (sink, damaged(format!("has {} bytes, expected {}", reading.size, wants.size())));
    }
    let seal = seal.cloned();
    let (to, from) = mpsc::channel(AHEAD);
    let unpacking = blocking(move || {
        let unpacked = match Stored::new(from, &wants) {
            None => Err(Flaw::Damaged("its name is not that of an object".to_owned())),
            Some(mut stored) => {
                unpack(&wants, &mut stored, seal.as_deref(), &mut sink).and_then(|()| stored.finish())
            }
        };
        (sink, unpacked)
    });
    let (fetched, (sink, unpacked)) = tokio::join!(fetch(reading, to), unpacking);
    let ended = match (unpacked, fetched) {
        // What could not be fetched could not be unpacked either.
        (Err(_), Err(error)) => Err(error.into()),
        (Err(Flaw::Damaged(why)), Ok(())) => damaged(why),
        (Err(Flaw::Locked(why)), Ok(())) => Err(RestoreError::Locked(format!("{key}: {why}"))),
        (Err(Flaw::Stopped) | Ok(()), _) => Ok(()),
    };
    (sink, ended)
}

async fn fetch(mut reading: Reading, to: mpsc::Sender<Fetched>) -> Result<(), StoreError> {
    while let Some(bytes) = reading.next().await? {
        if to.send(Fetched::Bytes(bytes)).await.is_err() {
            // Whoever unpacks has ended, and says why.
            return Ok(());
        }
    }
    let _ = to.send(Fetched::End).await;
    Ok(())
}

/// The bytes of an object as they arrive.
struct Stored {
    from: mpsc::Receiver<Fetched>,
    bytes: Bytes,
    hasher: Option<Hasher>,
    expected: Digest,
    left: u64,
}

impl Stored {
    fn new(from: mpsc::Receiver<Fetched>, wants: &Wants) -> Option<Self> {
        let expected = digest_of_key(wants.key())?;
        Some(Stored { from, bytes: Bytes::new(), hasher: Some(Hasher::new()), expected, left: wants.size() })
    }

    /// Reads what is left, which nobody needed, for its digest.
    fn finish(&mut self) -> Result<(), Flaw> {
        loop {
            self.bytes.clear();
            if self.read(&mut [0; 1])? == 0 {
                return Ok(());
            }
        }
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.bytes.is_empty() {
            let Some(hasher) = &mut self.hasher else { return Ok(0) };
            match self.from.blocking_recv() {
                Some(Fetched::Bytes(bytes)) => {
                    self.left = self
                        .left
                        .checked_sub(bytes.len() as u64)
                        .ok_or_else(|| bad("longer than it should be"))?;
                    hasher.update(&bytes);
                    self.bytes = bytes;
                }
                Some(Fetched::End) => {
                    if self.left > 0 {
                        return Err(bad("shorter than it should be"));
                    }
                    let hasher = self.hasher.take().expect("it was there above");
                    if hasher.finish() != self.expected {
                        return Err(bad("its bytes are not those that its name says"));
                    }
                }
                None => return Err(bad("cut off")),
            }
        }
        let count = self.bytes.len().min(buffer.len());
        self.bytes.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// The digest in the key of a pack or blob.
fn digest_of_key(key: &str) -> Option<Digest> {
    let name = key.strip_prefix(PACKS).or_else(|| key.strip_prefix(BLOBS))?;
    name.get(..64)?.parse().ok()
}
