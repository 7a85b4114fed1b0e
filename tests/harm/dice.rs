//! Randomness that depends on the seed and on what it is for, and on nothing else.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How often each of several things happens, as whole numbers.
#[derive(Clone, Copy, Debug)]
pub struct Weights<const N: usize>(pub [u32; N]);

/// Dice for one purpose.
#[derive(Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Dice for a purpose of one account (or of the directory): the same for every policy.
    pub fn new(seed: u64, directory: &str, account: u32, purpose: u8) -> Self {
        let mut key = [0_u8; 32];
        let parts = seed.to_le_bytes().into_iter().chain(account.to_le_bytes()).chain([purpose]);
        for (to, from) in key.iter_mut().zip(parts.chain(directory.bytes())) {
            *to = from;
        }
        Self(ChaCha8Rng::from_seed(key))
    }
    /// Between both, the upper one excluded.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        if low < high { self.0.random_range(low..high) } else { low }
    }
    /// True in so many of a hundred.
    pub fn percent(&mut self, chance: u32) -> bool {
        self.0.random_range(0..100) < chance
    }
    /// True in so many of a thousand.
    pub fn per_mille(&mut self, chance: u32) -> bool {
        self.0.random_range(0..1_000) < chance
    }
    /// True in so many of ten thousand.
    pub fn per_myriad(&mut self, chance: u32) -> bool {
        self.0.random_range(0..10_000) < chance
    }
    /// Which one happens.
    pub fn pick<const N: usize>(&mut self, weights: Weights<N>) -> usize {
        let mut at = self.0.random_range(0..weights.0.iter().sum());
        for (place, weight) in weights.0.into_iter().enumerate() {
            if at < weight {
                return place;
            }
            at -= weight;
        }
        N - 1
    }
    /// One and as often one more, up to a bound.
    pub fn repeated(&mut self, again: u32, most: i64) -> i64 {
        let mut times = 1;
        while times < most && self.percent(again) {
            times += 1;
        }
        times
    }
    /// Exponential with this mean, in the mean's unit.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.0.random::<f64>()).ln()
    }
}
