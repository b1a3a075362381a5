//! Digests under a random key of this process: nobody outside can work out what is looked up under which of them.

use std::sync::LazyLock;

use aws_lc_rs::{hmac, rand};

static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system's random source cannot fail once seeded");
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
});

/// HMAC-SHA-256 of `bytes`; it means nothing in another process.
pub fn keyed(bytes: &[u8]) -> [u8; 32] {
    hmac::sign(&KEY, bytes).as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}
