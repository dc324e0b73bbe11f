//! Where chance comes from: a generator for each proposal, so that nothing depends on how many numbers the one before took.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator of a sweep's proposal of that number.
pub(super) fn dice(seed: u64, number: u64) -> ChaCha8Rng {
    generator(seed, &[b"proposal", number.to_le_bytes().as_slice()].concat())
}

/// A generator that all proposals of a sweep have in common, of that purpose.
pub(super) fn stream(seed: u64, purpose: &str) -> ChaCha8Rng {
    generator(seed, purpose.as_bytes())
}

fn generator(seed: u64, name: &[u8]) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("earshot search v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name);
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}
