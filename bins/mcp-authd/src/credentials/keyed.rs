//! Digests under a random key of this process: nobody outside can work out what is looked up under which of them.

use std::hash::Hasher;
use std::sync::LazyLock;

use aws_lc_rs::hmac;
use mcp_daemon::secret::random_key;

static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, &random_key()));

/// HMAC-SHA-256 of `bytes`; it means nothing in another process.
pub fn keyed(bytes: &[u8]) -> [u8; 32] {
    hmac::sign(&KEY, bytes).as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// For maps whose keys are such digests: their first bytes are as good as any hash of them.
#[derive(Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, digest: &[u8]) {
        if let Some(first) = digest.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// How long they are: all are the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
