//! Small deterministic randomness of our own: generators from elsewhere may change their streams between versions, and a
//! seed has to mean the same directory for ever.

use aws_lc_rs::digest;

/// SplitMix64 (Steele, Lea, Flood 2014), started from a seed and an index.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one index; streams of different indexes do not overlap in practice.
    pub fn new(seed: u64, index: u64) -> Self {
        Self(mix(mix(seed) ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The dice of a text.
    pub fn of_text(text: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, text.to_lowercase().as_bytes());
        Self(digest.as_ref().iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// A number below `bound` (0 when the bound is 0).
    pub fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound.max(1)).unwrap_or(0)
    }

    /// A number in `low..high` (`low` when the range is empty).
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = u64::try_from(high - low).unwrap_or(0);
        low + i64::try_from(self.next() % width.max(1)).unwrap_or(0)
    }

    /// True for this many in a thousand.
    pub fn share(&mut self, per_mille: u16) -> bool {
        self.next() % 1000 < u64::from(per_mille)
    }

    /// One of several.
    pub fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from.get(self.below(from.len() as u64)).copied().unwrap_or("")
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A permutation of 32-bit numbers (four Feistel rounds): ids look random and still give their index back.
pub fn scramble(seed: u64, value: u32) -> u32 {
    (0..4).fold(value, |v, round| {
        let (left, right) = (v >> 16, v & 0xffff);
        (right << 16) | (left ^ round_of(seed, round, right))
    })
}

/// Undoes [`scramble`].
pub fn unscramble(seed: u64, value: u32) -> u32 {
    (0..4).rev().fold(value, |v, round| {
        let (right, left) = (v >> 16, v & 0xffff);
        ((left ^ round_of(seed, round, right)) << 16) | right
    })
}

fn round_of(seed: u64, round: u64, half: u32) -> u32 {
    (mix(seed ^ (round << 56) ^ u64::from(half)) & 0xffff) as u32
}

/// Characters that make encoders earn their money; no colon, comma or blank, which split lines of leaked lists.
const PASSWORD: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789!#$%&*+-=?@^_~\"\\/";

/// The password of one index: 16 characters, always with all four classes.
pub fn password(seed: u64, index: u64) -> String {
    let mut material = seed.to_be_bytes().to_vec();
    material.extend_from_slice(&index.to_be_bytes());
    material.extend_from_slice(b"password");
    let digest = digest::digest(&digest::SHA256, &material);
    let random = digest.as_ref().iter().map(|byte| {
        let at = usize::from(*byte) % PASSWORD.len();
        char::from(PASSWORD.get(at).copied().unwrap_or(b'x'))
    });
    let classes = ["K", "w", "7", "!"];
    random.take(12).chain(classes.iter().flat_map(|c| c.chars())).collect()
}
